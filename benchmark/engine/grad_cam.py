"""Grad-CAM (Selvaraju et al. 2017): heatmaps for networks that return no maps."""

from collections.abc import Callable

import torch
from monai.visualize import GradCAM
from monai.visualize.class_activation_maps import ModelWithHooks
from torch import Tensor, nn

from .device import Device

GRAD_CAM_BATCH = 16  # images whose graph is in memory at a time


def grad_cam(device: Device, network: nn.Module, layer: str, gray: Tensor) -> Tensor:
    """Compute Grad-CAM of every finding, with its sign.

    Grad-CAM (Selvaraju et al. 2017, section 3) keeps only evidence for a finding, by a ReLU. Rare findings have
    negative log-odds nearly everywhere, so that their maps would be empty, while the maps that methods return are
    signed. Evidence for the finding minus evidence against it is the map without the ReLU.

    Args:
        device: where the network runs.
        network: network with C findings, in evaluation mode.
        layer: name of the module whose features are weighted.
        gray: uint8 (B, side, side).

    Returns:
        Heat (B, C, h, w), on the device, at the layer's resolution.
    """
    heat = []
    for images in gray.split(GRAD_CAM_BATCH):
        model = _GradCAMModel(network, layer, device.images(images))
        explain = GradCAM(model, layer)
        maps = [
            explain.compute_map(images, finding) - explain.compute_map(images, finding, against=True)
            for finding in range(model.logits.shape[1])
        ]
        heat.append(torch.cat(maps, dim=1).detach())
    return torch.cat(heat)


class _GradCAMModel(ModelWithHooks):
    """Activations and gradients for MONAI's Grad-CAM, from one float32 forward pass for all findings.

    MONAI's hooks run the network once per finding, stay registered, and fail if the network modifies the layer's output
    in place. Here the features are captured once, and the network continues with a copy.
    """

    def __init__(self, network: nn.Module, layer: str, images: Tensor) -> None:
        # Without super().__init__(), which registers MONAI's hooks.
        hook = network.get_submodule(layer).register_forward_hook(self._capture)
        try:
            with torch.enable_grad():
                self.logits = network(images).logits
        finally:
            hook.remove()

    def __call__(
        self, x: Tensor, class_idx: int, retain_graph: bool = True, against: bool = False
    ) -> tuple[Tensor, tuple[Tensor], tuple[Tensor]]:
        score = self.logits[:, class_idx].sum()
        (gradient,) = torch.autograd.grad(-score if against else score, self.features, retain_graph=True)
        return self.logits, (self.features,), (gradient.contiguous(),)

    def _capture(self, module: nn.Module, inputs: object, output: Tensor) -> Tensor:
        self.features = output.detach().contiguous().requires_grad_(True)
        return self.features.clone()


def last_spatial_layer(network: nn.Module, images: Tensor) -> str | None:
    """Return the name of the last module called that returns features (B, D, h, w) with h * w > 1; None without."""
    spatial: list[str] = []

    def make_hook(name: str) -> Callable[[nn.Module, object, object], None]:
        def hook(module: nn.Module, inputs: object, output: object) -> None:
            if isinstance(output, Tensor) and output.ndim == 4 and output.shape[2] * output.shape[3] > 1:
                spatial.append(name)

        return hook

    hooks = [module.register_forward_hook(make_hook(name)) for name, module in network.named_modules() if name]
    with torch.inference_mode():
        network(images)
    for hook in hooks:
        hook.remove()
    return spatial[-1] if spatial else None
