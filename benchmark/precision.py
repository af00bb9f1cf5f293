"""Which precision is faster on this device: measured, not guessed, and measured once."""

import json
import time
from pathlib import Path

import torch
from filelock import FileLock
from torch import Tensor, nn

from .environment import cache_folder, processor

WORTH_IT = 1.1  # bfloat16 rounds more, so it has to be this much faster
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
    return "bfloat16" if known[key] >= WORTH_IT else "float32", known[key]


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
            taken.append(_step(network, images, bfloat16))
    return min(times[False]) / min(times[True])


def _step(network: nn.Module, images: Tensor, bfloat16: bool) -> float:
    begun = time.perf_counter()
    with torch.autocast(images.device.type, torch.bfloat16, enabled=bfloat16):
        output = network(images)
    output.float().mean().backward()
    if images.device.type == "cuda":  # pragma: no cover (needs a GPU)
        torch.cuda.synchronize(images.device)
    return time.perf_counter() - begun
