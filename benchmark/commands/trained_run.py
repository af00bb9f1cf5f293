"""Load a completed run: its record, its method, and the network with the weights that were scored."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from torch import Tensor, nn

from ..dataset import Dataset
from ..engine.device import Device
from ..engine.weights import load_safetensors, weights_sha256
from ..method import Method
from ..recipe import Pixels, Recipe
from ..records import record as records
from ..records.schema import Record
from ..registry import DATASETS, METHODS
from ..utils.errors import UserError, first_few
from ..utils.options import build
from ..utils.progress import say
from ..utils.workspace import Workspace

WEIGHTS = "weights.safetensors"


class TrainedRun(NamedTuple):
    """Completed run, loaded for inference.

    Attributes:
        record: record of the run.
        recipe: recipe of the run.
        method: method with the recorded options, except for those that the user changed.
        dataset: dataset with the recorded options, which reads any image as those of the run.
        network: network with the weights that were scored, on `device`.
        device: where the network runs, in the recorded precision.
    """

    record: Record
    recipe: Recipe
    method: Method
    dataset: Dataset
    network: nn.Module
    device: Device

    @property
    def pixels(self) -> Pixels:
        """Size and crop of the network's input images."""
        return self.recipe.pixels


def load_trained_run(folder: Path, options: Mapping[str, Any]) -> TrainedRun:
    """Load a completed run.

    Args:
        folder: folder of the run under `runs/` or `results/`, which contains `run.json`.
        options: options of the method to change; only those that do not affect scores, such as which heatmap to show.

    Raises:
        UserError: the folder contains no record of a run, its method or dataset is not registered, an option was
            part of training, or the weights are missing, unreadable or differ from those in the record; a record of
            external predictions has none.
    """
    records.require_record(folder, _hint(folder))
    record = records.read(folder)
    if record.recipe is None or record.weights is None:
        raise UserError(f"{folder} is a record of external predictions: chxbench has no network for it")
    dataset = _build_dataset(record)
    method = _build_method(record, options)
    weights = load_weights(folder, record)
    network = method.build(list(record.auc), "none")
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(
            f"the weights in {folder} do not match {record.method.name} with these options: {error}"
        ) from error
    device = Device(record.recipe.compute.precision)
    return TrainedRun(record, record.recipe, method, dataset, device.place(network), device)


def _hint(folder: Path) -> str:
    """Suggest what to do about a folder that contains no record."""
    if (folder / "stage1").is_dir():
        return "the run was interrupted, rerun its command to resume it"
    runs = sorted(path.parent.name for path in Workspace().runs.glob("*/run.json"))
    return f"runs/ has {first_few(runs)}" if runs else "pass the folder under runs/ that `chxbench run` named"


def _build_method(record: Record, options: Mapping[str, Any]) -> Method:
    """Build the recorded method with some options changed."""
    name = record.method.name
    if name not in METHODS and not record.method.built_in:
        raise UserError(f"the run's method {name!r} is a plugin: pass its file with --plugin FILE.py")
    entry = METHODS.get(name)
    if entry.source_sha256 != record.method.source_sha256:
        say(f"method {name} has changed since the run: predictions may differ")
    method: Method = build(entry.cls, {**record.method.options, **options}, "")
    trained = sorted(set(options) - set(method.display_options) & set(record.method.options))
    if trained:
        changeable = ", ".join(method.display_options) or "none"
        raise UserError(f"option {trained[0]} cannot be changed after training; changeable options: {changeable}")
    return method


def _build_dataset(record: Record) -> Dataset:
    """Build the recorded dataset, whose `read` decides what the network sees of an image."""
    name = record.dataset.name
    if name not in DATASETS:
        raise UserError(
            f"the run's dataset {name!r} is a plugin, which reads the images: pass it with --plugin FILE.py"
        )
    entry = DATASETS.get(name)
    if entry.source_sha256 != record.dataset.source_sha256:
        say(f"dataset {name}, which reads the images, has changed since the run: predictions may differ")
    dataset: Dataset = build(entry.cls, record.dataset.options, "dataset.")
    return dataset


def load_weights(folder: Path, record: Record) -> dict[str, Tensor]:
    """Load the weights that were scored, from the run's folder: next to its record, or in the record's workspace.

    Raises:
        UserError: they are missing, unreadable or differ from those in the record.
    """
    paths = [folder / WEIGHTS, Workspace.of_record(folder).run_folder(record.run_id) / WEIGHTS]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise UserError(f"the weights of this run are missing ({' or '.join(map(str, paths))}): run {record.command}")
    try:
        weights = load_safetensors(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"weights {path} cannot be read ({error}): run again with --fresh") from error
    if record.weights is None or weights_sha256(weights) != record.weights.final_sha256:
        raise UserError(f"weights {path} do not match the record: run again with --fresh")
    return weights
