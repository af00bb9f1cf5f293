"""Where the arithmetic happens: device, precision and memory layout, the same for every method."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from .environment import cores, has_bfloat16_instructions, processor
from .method import MethodError, Output

# Of the images that ImageNet weights were trained on: red, green, blue, as fractions of full brightness.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Device:
    """The device that accelerate found, and how networks run on it.

    Attributes:
        accelerator: places networks and optimisers, runs backward.
        precision: "bfloat16" (autocast) or "float32".
        layout: the memory layout of images and weights.
    """

    layout = "channels_last"

    def __init__(self, precision: str) -> None:
        # Autocast is ours: the poolings choose their own precision, and two runs in one process may differ.
        self.accelerator = Accelerator(mixed_precision="no")
        self.torch_device = self.accelerator.device
        torch.backends.cudnn.allow_tf32 = precision != "float32"  # float32 is what the record then says
        self.precision = self._fastest() if precision == "auto" else precision
        scale = 255 * torch.tensor(IMAGENET_STD, device=self.torch_device).view(1, 3, 1, 1)
        self._scale = 1 / scale
        self._shift = -255 * torch.tensor(IMAGENET_MEAN, device=self.torch_device).view(1, 3, 1, 1) / scale

    def place(self, network: nn.Module) -> nn.Module:
        """The network on the device, in its layout."""
        return self.accelerator.prepare_model(network.to(memory_format=torch.channels_last))

    def images(self, gray: Tensor) -> Tensor:
        """Gray bytes (B, h, w) to the network's input (B, 3, h, w): three equal channels, normalised as ImageNet."""
        gray = gray.to(self.torch_device, non_blocking=True)[:, None].float()
        return torch.addcmul(self._shift, gray, self._scale).contiguous(memory_format=torch.channels_last)

    def forward(self, network: nn.Module, gray: Tensor) -> Output:
        """One forward pass on gray bytes (B, h, w), in the run's precision; logits and maps come back as float32."""
        images = self.images(gray)
        with self.autocast():
            output = network(images)
        if not isinstance(output, Output) or output.logits.ndim != 2 or len(output.logits) != len(gray):
            shape = tuple(output.logits.shape) if isinstance(output, Output) else type(output).__name__
            raise MethodError(
                f"the network must return Output(logits (B, C), maps), not {shape}: see benchmark/method.py"
            )
        maps = output.maps
        if maps is not None and (maps.ndim != 4 or maps.shape[:2] != output.logits.shape):
            raise MethodError(
                f"the network's maps are {tuple(maps.shape)} beside logits {tuple(output.logits.shape)}: they must be "
                "(B, C, h, w), or None"
            )
        return Output(output.logits.float(), None if maps is None else maps.float())

    @contextmanager
    def autocast(self) -> Iterator[None]:
        """The run's precision, for what happens inside."""
        with torch.autocast(self.torch_device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            yield

    def describe(self) -> dict[str, str | int]:
        """For the record: what computed, and how."""
        on_gpu = self.torch_device.type == "cuda"
        return {
            "device": torch.cuda.get_device_name() if on_gpu else processor(),
            "kind": self.torch_device.type,
            "cores": cores(),
            "precision": self.precision,
            "layout": self.layout,
        }

    def _fastest(self) -> str:
        kind = self.torch_device.type
        if kind == "cuda":
            fast = torch.cuda.is_bf16_supported(including_emulation=False)
        else:
            fast = kind == "cpu" and has_bfloat16_instructions()
        return "bfloat16" if fast else "float32"


def save_weights(weights: dict[str, Tensor], path: Path) -> None:
    """Write a network's weights as safetensors, whole or not at all."""
    from safetensors.torch import save_file

    part = path.with_suffix(".part")
    save_file(weights, part)
    part.replace(path)
