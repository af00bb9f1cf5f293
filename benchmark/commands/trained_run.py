"""A finished run, ready to be used again: its record, its method, and the network with the weights that were scored."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ..engine.device import Device
from ..engine.weights import weights_sha256
from ..method import Method
from ..recipe import Pixels
from ..records import record as records
from ..records.schema import Record
from ..registry import METHODS
from ..utils.errors import UserError, first_few
from ..utils.options import build
from ..utils.progress import say
from ..utils.workspace import Workspace

WEIGHTS = "weights.safetensors"


class TrainedRun(NamedTuple):
    """Attributes: record; method with the recorded options; its trained network on `device`; how it sees pixels."""

    record: Record
    method: Method
    network: nn.Module
    device: Device
    pixels: Pixels


def load_trained_run(place: Path, options: Mapping[str, Any]) -> TrainedRun:
    """A run by its folder under `runs/` or `results/`.

    Args:
        place: the folder that holds `run.json`.
        options: options of the method to change: those that change no score, such as which heatmap to show.

    Raises:
        UserError: no record there, its method not registered, an option that was trained, weights absent or not those
            that the record names.
    """
    records.require_record(place, _finished_runs(place))
    record = records.read(place)
    if record.method.name not in METHODS and not record.method.built_in:
        raise UserError(f"the run's method {record.method.name!r} is a plugin: name its file with --plugin FILE.py")
    if METHODS.get(record.method.name).source_sha256 != record.method.source_sha256:
        say(f"method {record.method.name} is not defined as it was when the run was made: its answers may differ")
    method = build(METHODS.get(record.method.name).cls, {**record.method.options, **options}, "")
    fixed = sorted(set(options) - set(method.display_options) & set(record.method.options))
    if fixed:
        may = ", ".join(method.display_options) or "none"
        raise UserError(f"option {fixed[0]} is part of what was trained and scored; what may be changed here: {may}")
    weights = _weights(place, record)
    network = method.build(list(record.auc), "none")
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(
            f"the weights in {place} do not fit {record.method.name} with these options: {error}"
        ) from error
    device = Device(record.recipe.compute.precision)
    return TrainedRun(record, method, device.place(network), device, record.recipe.pixels)


def _finished_runs(place: Path) -> str:
    """What there is instead, in words."""
    if (place / "stage1").is_dir():
        return "it was interrupted; the command that began it goes on"
    runs = sorted(path.parent.name for path in Workspace().runs.glob("*/run.json"))
    return f"runs/ has {first_few(runs)}" if runs else "give the folder below runs/ that `chxbench run` named"


def _weights(place: Path, record: Record) -> dict[str, Tensor]:
    """The weights that were scored: beside the record of a run, or in the `runs/` beside `results/`."""
    places = [place / WEIGHTS, Workspace.of_record(place).run_folder(record.run_id) / WEIGHTS]
    there = next((path for path in places if path.is_file()), None)
    if there is None:
        raise UserError(f"the weights of this run are not here ({' or '.join(map(str, places))}): run {record.command}")
    try:
        weights = load_file(there)
    except (SafetensorError, OSError) as error:
        raise UserError(f"weights {there} cannot be read ({error}): run again with --fresh") from error
    if weights_sha256(weights) != record.weights.final_sha256:
        raise UserError(f"weights {there} are not those that the record was made with: run again with --fresh")
    return weights
