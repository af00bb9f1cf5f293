"""Where the arithmetic happens: device, precision, memory layout and processes, the same for every method.

Devices and processes are accelerate's: one process unless the program was started several times together, by `torchrun`
or `accelerate launch`. The first of them, `main`, is the one that speaks and writes.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import broadcast_object_list, gather_object
from filelock import FileLock
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn

from ..data.loader import Shard
from ..method import ContractError, Output
from ..utils.environment import cache_folder, cores, processor
from ..utils.errors import UserError
from .memory import keep_freed_memory

# Of the images that ImageNet weights were trained on: red, green, blue, as fractions of full brightness.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
TIMEOUT = timedelta(hours=6)  # one process may read heatmaps or decode while the others wait
BatchNorm = Literal["auto", "own", "frozen"]


def init_distributed(on_cpu: bool = False) -> PartialState:
    """The processes that were started together, this one among them; alone, if it was."""
    return PartialState(cpu=on_cpu or not torch.accelerator.is_available(), timeout=TIMEOUT)


def destroy_process_group() -> None:
    """Part from the others, as the last thing that a process does: their connections end in order."""
    PartialState().destroy_process_group()


class Device:
    """The device that accelerate found, and how networks run on it.

    Args:
        precision: "bfloat16" (autocast), "float32", or "auto": the faster one, measured once on this machine.
        kind: "cpu", "cuda", or "auto": a GPU where there is one.
        cache: the folder where the measurement is kept.

    Attributes:
        torch_device: the device of this process.
        precision: "bfloat16" or "float32".
        layout: the memory layout of images and weights.
        shard: which of the processes this is.
        is_main: whether it is the one that speaks and writes.

    Raises:
        UserError: no such device here.
    """

    layout = "channels_last"

    def __init__(self, precision: str = "auto", kind: str = "auto", cache: Path | None = None) -> None:
        if kind not in ("auto", "cpu") and not (kind == "cuda" and torch.cuda.is_available()):
            raise UserError(f"there is no device {kind!r} here: take cpu, or leave it to the program with auto")
        # Autocast is ours: the poolings choose their own precision, and two runs in one process may differ.
        state = init_distributed(on_cpu=kind == "cpu")
        self.accelerator = Accelerator(mixed_precision="no", cpu=state._cpu)
        self.torch_device = self.accelerator.device
        self.shard = Shard(self.accelerator.process_index, self.accelerator.num_processes)
        self.is_main = self.accelerator.is_main_process
        keep_freed_memory()
        torch.backends.cudnn.benchmark = True  # crops have one size: the fastest kernels are looked for once
        torch.backends.cudnn.allow_tf32 = precision != "float32"  # float32 is what the record then says
        self.precision, self.bfloat16_speedup = precision, None
        if precision == "auto":
            self.precision, self.bfloat16_speedup = self.broadcast(fastest_precision(self.torch_device, cache))
        scale = 255 * torch.tensor(IMAGENET_STD, device=self.torch_device).view(1, 3, 1, 1)
        self._scale = 1 / scale
        self._shift = -255 * torch.tensor(IMAGENET_MEAN, device=self.torch_device).view(1, 3, 1, 1) / scale

    def place(self, network: nn.Module) -> nn.Module:
        """The network on the device, in its layout."""
        return network.to(self.torch_device, memory_format=torch.channels_last)

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
            raise ContractError(
                f"the network must return Output(logits (B, C), maps), not {shape}: see benchmark/method.py"
            )
        maps = output.maps
        if maps is not None and (maps.ndim != 4 or maps.shape[:2] != output.logits.shape):
            raise ContractError(
                f"the network's maps are {tuple(maps.shape)} beside logits {tuple(output.logits.shape)}: they must be "
                "(B, C, h, w), or None"
            )
        return Output(output.logits.float(), None if maps is None else maps.float())

    @contextmanager
    def autocast(self) -> Iterator[None]:
        """The run's precision, for what happens inside."""
        with torch.autocast(self.torch_device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            yield

    def wrap_for_training(
        self, network: nn.Module, batch_norm: BatchNorm = "auto", compiled: bool = False
    ) -> nn.Module:
        """The placed network as training calls it: it shares the weights, and adds up gradients over the processes."""
        if self.batch_norm(batch_norm) == "synchronised":
            network = convert_sync_batchnorm(network)
        if self.shard.world_size > 1:
            self.accelerator.free_memory()  # a stage before this one left its hooks on the same weights
            network = self.accelerator.prepare_model(network)
        return torch.compile(network) if compiled else network

    def batch_norm(self, asked: BatchNorm) -> str:
        """What BatchNorm's statistics are taken over: "frozen", "own" (this process's images) or "synchronised"."""
        if asked == "auto":
            return "synchronised" if self.shard.world_size > 1 and self.torch_device.type == "cuda" else "own"
        return asked

    def backward(self, loss: Tensor, network: nn.Module, last: bool) -> None:
        """Add a part's gradients to the parameters; with the `last` part of a step they are summed over processes."""
        held_back = nullcontext() if last else self.accelerator.no_sync(network)
        with held_back:
            self.accelerator.backward(loss * self.shard.world_size)  # accelerate averages, and losses of parts add up

    def all_reduce_sum(self, value: Tensor) -> Tensor:
        """The sum of a tensor over the processes, in each of them."""
        return self.accelerator.reduce(value, "sum")

    def all_gather(self, items: list[Any]) -> list[Any]:
        """The lists of all processes joined, in each of them."""
        return gather_object(items)

    def broadcast(self, value: Any) -> Any:
        """The main process's value, in every process; none goes on before it has come so far."""
        return broadcast_object_list([value])[0]

    def describe(self) -> dict[str, str | int | float]:
        """For the record: what computed, and how."""
        on_gpu = self.torch_device.type == "cuda"
        measured = {"bfloat16_speedup": round(self.bfloat16_speedup, 2)} if self.bfloat16_speedup else {}
        return {
            "device": torch.cuda.get_device_name() if on_gpu else processor(),
            "kind": self.torch_device.type,
            "cores": cores(),
            "processes": self.shard.world_size,
            "precision": self.precision,
            "layout": self.layout,
            **measured,
        }


MIN_SPEEDUP = 1.1  # bfloat16 rounds more, so it has to be this much faster
ROUNDS = 10


def fastest_precision(device: torch.device, cache: Path | None = None) -> tuple[str, float]:
    """ "bfloat16" or "float32", and how many times as fast bfloat16 autocast trains; kept in the folder `cache`.

    Kept, because the choice is part of a result: two runs on one machine must not differ by the noise of a timing.
    """
    folder = cache or cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "precision.json"
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    key = f"{name}, torch {torch.__version__}"
    with FileLock(folder / "precision.lock"):
        known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        if key not in known:
            known[key] = round(bfloat16_speedup(device), 3)
            part = file.with_suffix(".part")
            part.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
            part.replace(file)
    return "bfloat16" if known[key] >= MIN_SPEEDUP else "float32", known[key]


def bfloat16_speedup(device: torch.device) -> float:
    """Time of a training step in float32 over its time in bfloat16 autocast, on a few layers of a ResNet's kind.

    The shortest of several, in turns: a machine that is busy with something else lengthens some steps, not all.
    """
    layers = []
    for _ in range(3):
        layers += [nn.Conv2d(64, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    network = nn.Sequential(*layers).to(device, memory_format=torch.channels_last)
    images = torch.zeros(16, 64, 28, 28, device=device).contiguous(memory_format=torch.channels_last)
    times: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(ROUNDS):
        for bfloat16, taken in times.items():
            taken.append(_time_step(network, images, bfloat16))
    return min(times[False]) / min(times[True])


def _time_step(network: nn.Module, images: Tensor, bfloat16: bool) -> float:
    begun = time.perf_counter()
    with torch.autocast(images.device.type, torch.bfloat16, enabled=bfloat16):
        output = network(images)
    output.float().mean().backward()
    if images.device.type == "cuda":  # pragma: no cover (needs a GPU)
        torch.cuda.synchronize(images.device)
    return time.perf_counter() - begun
