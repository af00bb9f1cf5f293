"""Device, precision, memory layout and processes, the same for every method.

Devices and processes are accelerate's: one process, unless several were started by `torchrun` or `accelerate launch`.
Only the main process (rank 0) prints and writes files.
"""

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar, cast

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import broadcast_object_list, gather_object
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn

from ..data.loader import Shard
from ..method import ContractError, Output
from ..utils.environment import cache_folder, cores, processor
from ..utils.errors import UserError, first_few
from ..utils.files import hold_lock, write_atomic
from ..utils.paths import regular
from ..utils.progress import say
from .memory import keep_freed_memory

# Statistics of ImageNet's images: red, green, blue, as fractions of full brightness.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
TIMEOUT = timedelta(hours=6)  # the main process may decode images or compute heatmaps while the others wait
MIN_SPEEDUP = 1.1  # bfloat16 rounds more, so it has to be this much faster
TIMING_ROUNDS = 10  # steps timed in each precision
SPEEDUPS = "precision.json"  # in the cache folder
BatchNorm = Literal["auto", "own", "frozen"]
T = TypeVar("T")

FALSE, TRUE = ("0", "false", "no", "off", "n", "f"), ("1", "true", "yes", "on", "y", "t")
OTHER_STRATEGY = "chxbench trains copies of the network, one per process"
STRICT_FLOAT = "or choose --set compute.precision=bfloat16"
# Environment variables that change what is computed, with their neutral values in lower case and what to do instead.
# Some are set by `accelerate launch` always. Others only change rounding (threads, kernels).
CHANGES_RESULTS: dict[str, tuple[tuple[str, ...], str]] = {
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": (("1",), "and accumulate gradients with --set train.micro_batch"),
    "ACCELERATE_MIXED_PRECISION": (("no",), "and choose --set compute.precision"),
    "ACCELERATE_DYNAMO_BACKEND": (("no",), "and compile with --set compute.compile=true"),
    "ACCELERATE_TORCH_DEVICE": ((), "and choose GPUs with CUDA_VISIBLE_DEVICES"),
    "ACCELERATE_USE_CPU": (FALSE + TRUE, "or set it to true or false"),
    "ACCELERATE_USE_DEEPSPEED": (FALSE, OTHER_STRATEGY),
    "ACCELERATE_USE_FSDP": (FALSE, OTHER_STRATEGY),
    "ACCELERATE_USE_MEGATRON_LM": (FALSE, OTHER_STRATEGY),
    "ACCELERATE_USE_PARALLELISM_CONFIG": (FALSE, OTHER_STRATEGY),
    "ACCELERATE_USE_SAGEMAKER": (FALSE, OTHER_STRATEGY),
    "NVIDIA_TF32_OVERRIDE": (("0",), STRICT_FLOAT),
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": (("0",), STRICT_FLOAT),
    "ONEDNN_DEFAULT_FPMATH_MODE": (("strict",), STRICT_FLOAT),
    "DNNL_DEFAULT_FPMATH_MODE": (("strict",), STRICT_FLOAT),
    "TIMM_USE_NAFLEXVIT": (FALSE, "and choose timm's name of the network that it stands for"),
    "TIMM_USE_NAFLEX": (FALSE, "and choose timm's name of the network that it stands for"),
}
# What torchrun and `accelerate launch` set for each of several processes; and what a scheduler sets for one alone.
PROCESS_GROUP = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
ALONE = {"WORLD_SIZE": "1", "PMI_SIZE": "1", "OMPI_COMM_WORLD_SIZE": "1", "MV2_COMM_WORLD_SIZE": "1"}
ALONE |= {"RANK": "0", "LOCAL_RANK": "-1"}


def init_distributed(on_cpu: bool = False) -> PartialState:
    """Join the processes that were started together; a single process is the main process.

    Raises:
        UserError: the environment contains variables that would change the training, see `check_environment`.
    """
    check_environment(os.environ)
    on_cpu = on_cpu or os.environ.get("ACCELERATE_USE_CPU", "").lower() in TRUE  # of `accelerate launch --cpu`
    return PartialState(cpu=on_cpu or not torch.accelerator.is_available(), timeout=TIMEOUT)


def check_environment(variables: Mapping[str, str]) -> None:
    """Check the environment variables with which launchers and libraries would change what is computed.

    None of them is part of the run id, so that two different experiments would have the same one.

    Raises:
        UserError: a variable is neither unset nor neutral, or says that there are other processes without saying where.
    """
    for name, (neutral, advice) in CHANGES_RESULTS.items():
        value = variables.get(name)
        if value is not None and value.strip().lower() not in neutral:
            raise UserError(f"the environment variable {name}={value} would change the training: unset it, {advice}")
    missing = [name for name in PROCESS_GROUP if not variables.get(name)]
    # A single process may have a size and a rank, too.
    expected = ALONE if missing else {name: None for name in PROCESS_GROUP if name != "MASTER_ADDR"}
    wrong = [
        f"{name}={variables[name]}"
        for name, alone in expected.items()
        if name in variables and not (variables[name].isdecimal() if alone is None else variables[name] == alone)
    ]
    if wrong:
        without = f", without {first_few(missing)}" if missing else ""
        raise UserError(
            f"the environment describes a group of processes ({first_few(wrong)}{without}) that cannot be joined: "
            "unset it for a single process, or start the processes with torchrun"
        )


def destroy_process_group() -> None:
    """Close the connections between the processes; call this last in every process."""
    PartialState().destroy_process_group()


class Device:
    """The device that accelerate found, and how networks run on it.

    Args:
        precision: "bfloat16" (autocast), "float32", or "auto": the faster one, measured once on this machine.
        kind: "cpu", "cuda", or "auto": a GPU if there is one.
        cache: folder where the measurement is saved; None for the user's cache folder.

    Attributes:
        torch_device: device of this process.
        precision: "bfloat16" or "float32".
        bfloat16_speedup: measured ratio on which "auto" is based; None without a measurement.
        layout: memory layout of images and weights.
        shard: rank of this process, and the number of processes.
        is_main: whether this is the main process.

    Raises:
        UserError: the device is not available, or environment variables would change the training.
    """

    layout = "channels_last"

    def __init__(self, precision: str = "auto", kind: str = "auto", cache: Path | None = None) -> None:
        if kind not in ("auto", "cpu") and not (kind == "cuda" and torch.cuda.is_available()):
            raise UserError(f"device {kind!r} is not available on this machine: use cpu or auto")
        state = init_distributed(on_cpu=kind == "cpu")
        # accelerate's autocast is off: runs in one process may differ in precision, and methods may opt out of it.
        self.accelerator = Accelerator(mixed_precision="no", cpu=state._cpu)
        self.torch_device: torch.device = self.accelerator.device
        self.shard = Shard(self.accelerator.process_index, self.accelerator.num_processes)
        self.is_main: bool = self.accelerator.is_main_process
        keep_freed_memory()
        torch.backends.cudnn.benchmark = (
            True  # all crops have the same size: the search for the fastest kernels pays off
        )
        torch.backends.cudnn.allow_tf32 = False  # TF32 is not the float32 that the record would name
        self.precision, self.bfloat16_speedup = precision, cast("float | None", None)
        if precision == "auto":
            # Every process measures, but all must use the precision of the main one.
            self.precision, self.bfloat16_speedup = self.broadcast(fastest_precision(self.torch_device, cache))
        torch.backends.cudnn.allow_tf32 = self.precision != "float32"
        scale = 255 * torch.tensor(IMAGENET_STD, device=self.torch_device).view(1, 3, 1, 1)
        self._scale = 1 / scale
        self._shift = -255 * torch.tensor(IMAGENET_MEAN, device=self.torch_device).view(1, 3, 1, 1) / scale

    @property
    def on_gpu(self) -> bool:
        """Whether networks run on a CUDA GPU."""
        return self.torch_device.type == "cuda"

    def place(self, network: nn.Module) -> nn.Module:
        """Move a network to the device, in its layout."""
        return _place(network, self.torch_device)

    def images(self, gray: Tensor) -> Tensor:
        """Convert gray bytes to network input.

        Args:
            gray: uint8 (B, h, w), on any device.

        Returns:
            float32 (B, 3, h, w) on the device: three equal channels, normalized as ImageNet.
        """
        gray = gray.to(self.torch_device, non_blocking=True)[:, None].float()
        return torch.addcmul(self._shift, gray, self._scale).contiguous(memory_format=torch.channels_last)

    def forward(self, network: nn.Module, gray: Tensor) -> Output:
        """Run one forward pass in the run's precision.

        Args:
            network: placed on the device.
            gray: uint8 (B, h, w), on any device.

        Returns:
            Logits (B, C) and maps (B, C, h', w') or None, both float32.

        Raises:
            ContractError: the network does not return an Output of these shapes.
        """
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
                f"the network's maps are {tuple(maps.shape)} for logits {tuple(output.logits.shape)}: they must be "
                "(B, C, h, w), or None"
            )
        return Output(output.logits.float(), None if maps is None else maps.float())

    @contextmanager
    def autocast(self) -> Iterator[None]:
        """Run the block in the run's precision."""
        with torch.autocast(self.torch_device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            yield

    def wrap_for_training(
        self, network: nn.Module, batch_norm: BatchNorm = "auto", compiled: bool = False
    ) -> nn.Module:
        """Wrap a placed network for training: it shares the weights, and sums gradients over the processes."""
        if self.batch_norm(batch_norm) == "synchronized":
            network = convert_sync_batchnorm(network)
        if self.shard.world_size > 1:
            self.accelerator.free_memory()  # hooks of the previous stage are still on the same weights
            network = self.accelerator.prepare_model(network)
        return cast("nn.Module", torch.compile(network)) if compiled else network

    def batch_norm(self, setting: BatchNorm) -> str:
        """Return the images over which BatchNorm's statistics are computed.

        Returns:
            "frozen", "own" (each process's images) or "synchronized" (the images of all processes).
        """
        if setting == "auto":
            return "synchronized" if self.shard.world_size > 1 and self.on_gpu else "own"
        return setting

    def backward(self, loss: Tensor, network: nn.Module, last: bool) -> None:
        """Add the gradients of a part of a step; those of the `last` part are then summed over the processes."""
        # One all-reduce per step, not one per part.
        without_sync = nullcontext() if last else self.accelerator.no_sync(network)
        with without_sync:
            # accelerate averages over processes; the losses of the parts are terms of one sum.
            self.accelerator.backward(loss * self.shard.world_size)

    def all_reduce_sum(self, value: Tensor) -> Tensor:
        """Sum a tensor over the processes; every process must call this and gets the sum."""
        return cast("Tensor", self.accelerator.reduce(value, "sum"))

    def all_gather(self, items: list[T]) -> list[T]:
        """Concatenate the lists of all processes; every process must call this and gets the result."""
        return cast("list[T]", gather_object(items))

    def broadcast(self, value: T) -> T:
        """Return the main process's value in every process; also a barrier."""
        return cast("T", broadcast_object_list([value])[0])

    def describe(self) -> dict[str, str | int | float]:
        """Return the record's fields on device, precision and layout."""
        measured = {"bfloat16_speedup": round(self.bfloat16_speedup, 2)} if self.bfloat16_speedup else {}
        return {
            "device": _device_name(self.torch_device),
            "kind": self.torch_device.type,
            "cores": cores(),
            "threads": torch.get_num_threads(),
            "processes": self.shard.world_size,
            "precision": self.precision,
            "layout": self.layout,
            **measured,
        }


def fastest_precision(device: torch.device, cache: Path | None = None) -> tuple[str, float]:
    """Choose the faster precision for training.

    It is measured once per device and version of torch, because results depend on the choice: two runs on the same
    machine must not differ by the noise of a timing.

    Args:
        device: device to measure.
        cache: folder where the measurement is saved; None for the user's cache folder, which is also used if another
            user's folder may only be read.

    Returns:
        "bfloat16" or "float32", and how many times as fast bfloat16 autocast trains.

    Raises:
        UserError: the measurement cannot be saved.
    """
    folder = cache or cache_folder()
    key = f"{_device_name(device)}, torch {torch.__version__}"
    speedup = _read_speedups(folder / SPEEDUPS).get(key)
    if speedup is None:
        writable = os.access(folder, os.W_OK) or not folder.is_dir()
        speedup = _measure_once(device, key, folder if writable else cache_folder())
    return "bfloat16" if speedup >= MIN_SPEEDUP else "float32", speedup


def _measure_once(device: torch.device, key: str, folder: Path) -> float:
    with hold_lock(folder / "precision.lock", "the choice of the precision"):
        speedups = _read_speedups(folder / SPEEDUPS, say)
        if key not in speedups:
            speedups[key] = round(bfloat16_speedup(device), 3)
            write_atomic(folder / SPEEDUPS, (json.dumps(speedups, indent=1) + "\n").encode())
    return speedups[key]


def _read_speedups(file: Path, report: Callable[[str], None] = lambda text: None) -> dict[str, float]:
    """Read the measured ratios by device and version of torch; damaged ones are reported and left out."""
    try:
        content = json.loads(regular(file).read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError):
        content = None
    entries = content if isinstance(content, dict) else {}
    speedups = {key: value for key, value in entries.items() if isinstance(value, float) and 0 < value < math.inf}
    if entries is not content or len(speedups) < len(entries):
        report(f"{file} is damaged: the precision is measured again")
    return speedups


def bfloat16_speedup(device: torch.device) -> float:
    """Measure the time of a training step in float32 over its time in bfloat16 autocast, on layers like a ResNet's.

    The shortest of several alternating steps counts, because load from other programs lengthens only some steps.
    """
    step = time_layers(device)
    times: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(TIMING_ROUNDS):
        for bfloat16, seconds in times.items():
            seconds.append(step(bfloat16))
    return min(times[False]) / min(times[True])


def time_layers(device: torch.device) -> Callable[[bool], float]:
    """Return a function that runs one training step on layers like a ResNet's, in bfloat16 or not, and times it."""
    layers: list[nn.Module] = []
    for _ in range(3):
        layers += [nn.Conv2d(64, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    network = _place(nn.Sequential(*layers), device)
    images = torch.zeros(16, 64, 28, 28, device=device).contiguous(memory_format=torch.channels_last)
    return partial(_time_step, network, images)


def _time_step(network: nn.Module, images: Tensor, bfloat16: bool) -> float:
    start = time.perf_counter()
    with torch.autocast(images.device.type, torch.bfloat16, enabled=bfloat16):
        output = network(images)
    output.float().mean().backward()
    if images.device.type == "cuda":  # pragma: no cover (needs a GPU)
        torch.cuda.synchronize(images.device)
    return time.perf_counter() - start


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else processor()


def _place(network: nn.Module, device: torch.device) -> nn.Module:
    # torch's stub of `to` has no overload for both arguments; two calls would copy the weights twice.
    return cast("nn.Module", network.to(device, memory_format=torch.channels_last))  # type: ignore[call-overload]
