"""The two backbones of Wang et al. 2017 that timm lacks, from torchvision, without their classifiers.

Both have an output stride of 32; tensors keep torchvision's names, so that its weight files can be loaded.
"""

from torch import Tensor, nn
from torchvision.models import AlexNet, GoogLeNet, get_model_weights


class AlexNetTrunk(AlexNet):
    """Images (B, 3, H, W), sides of 63 pixels or more, to features (B, 256, h, w)."""

    num_features = 256

    def __init__(self) -> None:
        super().__init__()
        del self.avgpool, self.classifier

    def forward_features(self, images: Tensor) -> Tensor:
        features: Tensor = self.features(images)
        return features


class GoogLeNetTrunk(GoogLeNet):
    """Images (B, 3, H, W), normalized as ImageNet, to features (B, 1024, h, w).

    torchvision's weights expect a different normalization. torchvision's transformation to it is always applied, so
    that the network is the same function whatever the source of its weights.
    """

    num_features = 1024

    def __init__(self) -> None:
        super().__init__(aux_logits=False, init_weights=True, transform_input=True)
        del self.avgpool, self.dropout, self.fc, self.aux1, self.aux2

    def forward_features(self, images: Tensor) -> Tensor:
        images = self._transform_input(images)
        for stage in self.children():
            images = stage(images)
        return images


TRUNKS: dict[str, type[nn.Module]] = {"torchvision/alexnet": AlexNetTrunk, "torchvision/googlenet": GoogLeNetTrunk}


def imagenet_weights(name: str) -> tuple[dict[str, Tensor], str]:
    """Download torchvision's weights of a trunk once; returns them and the name that pins them."""
    weights = get_model_weights(name.removeprefix("torchvision/")).DEFAULT
    # weights_only: the download is a pickle, which torchvision would otherwise load without restrictions.
    return weights.get_state_dict(progress=True, check_hash=True, weights_only=True), f"torchvision/{weights}"
