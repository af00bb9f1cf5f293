"""`chxbench baselines`: publish the scores of floors, which need no network, for all boards of a dataset.

A method that is not above them has not shown that it sees anything in the images. Their records have scores like those
of external predictions, so that the leaderboard is recomputed from records alone.
"""

import hashlib
import shlex
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np

from ...data.pixel_cache import prepare_pixels
from ...data.source import DataConfig, build_dataset
from ...data.unreadable import load_readable_index
from ...dataset import SPLITS, DataError, Dataset, Index, split_sha256
from ...evaluation.artifacts import score_table
from ...leaderboard.leaderboard import publish
from ...records import record as records
from ...records.describe import describe_dataset, describe_software, now
from ...records.schema import EnvironmentPart, MethodPart, Record, RunDescription, SubmissionPart
from ...registry import FLOOR_PREFIX
from ...utils.progress import say
from ...utils.source_code import code_sha256
from ...utils.workspace import Workspace
from . import features

OnRecord = Callable[[Record, Path], None]


class Floor(NamedTuple):
    """Scores without a network.

    Attributes:
        name: name of the floor, for its folder in the results.
        title: title on the leaderboard.
        features: what the scores follow from, one row per image of the index, float (N, F).
    """

    name: str
    title: str
    features: np.ndarray


def publish_baselines(config: DataConfig, results: Path, on_record: OnRecord | None = None) -> None:
    """Fit all floors of a dataset on its training split, publish their records and regenerate the leaderboard.

    Args:
        config: the dataset, and the recipe that sets the size of the decoded images.
        results: folder of published records.
        on_record: called with each record and its published folder.

    Raises:
        UserError: the request or the data are invalid.
    """
    workspace = Workspace(results)
    workspace.check()
    dataset, recipe = build_dataset(config)
    index = load_readable_index(config, dataset, recipe)
    empty = [split for split in SPLITS if not len(index.rows(split))]
    if empty:
        raise DataError(f"the {empty[0]} split of {dataset.title} has no image: floors need all three splits")
    size = recipe.pixels.size
    if size < features.CELLS:
        raise DataError(f"pixels.size = {size}: floors need at least {features.CELLS}")
    pixels = prepare_pixels(dataset, index, size, config.cache).pixels
    for floor in _floors(index, pixels):
        say(f"fitting: {floor.title}")
        scores = features.fit_scores(floor.features, index)
        with TemporaryDirectory() as folder:
            record = _write(config, dataset, index, floor, scores, Path(folder))
            publish(workspace, record, Path(folder), on_record)


def _floors(index: Index, pixels: np.ndarray) -> Iterator[Floor]:
    yield Floor(f"{FLOOR_PREFIX}prevalence", "Prevalence in training", np.empty((len(index.images), 0)))
    traits = features.trait_features(index)
    if traits is None:
        say("no floor from traits: the dataset has none")
    else:
        yield Floor(f"{FLOOR_PREFIX}traits", f"Logistic regression: {', '.join(index.traits)}", traits)
    yield Floor(f"{FLOOR_PREFIX}thumbnail", "Logistic regression: 8x8 thumbnails", features.thumbnails(pixels))


def _write(
    config: DataConfig, dataset: Dataset, index: Index, floor: Floor, scores: np.ndarray, folder: Path
) -> Record:
    """Write record and scores of the validation and test images to a folder."""
    rows = np.concatenate([index.rows("val"), index.rows("test")])
    table = score_table(index, rows, scores[rows].astype(np.float32))
    images = index.images.iloc[rows].reset_index(drop=True)
    split = index.split._replace(sha256=split_sha256(images[images["split"] == "test"]))
    scored = replace(index, images=images, boxes=index.boxes.iloc[:0], split=split, absent={})
    return records.write(folder, _describe(config, dataset, scored, floor, scores[rows]), table, None)


def _describe(config: DataConfig, dataset: Dataset, scored: Index, floor: Floor, scores: np.ndarray) -> RunDescription:
    digest = hashlib.sha256(np.ascontiguousarray(scores).tobytes()).hexdigest()
    arguments = [
        "chxbench",
        "baselines",
        "--dataset",
        dataset.name,
        *(["--data-dir", "DIR"] if config.data_dir else []),
    ]
    return RunDescription(
        created=now(),
        command=shlex.join([*arguments, *config.changes({})]),
        run_id=f"{floor.name.removeprefix(FLOOR_PREFIX)}-{digest[:10]}",
        experiment_sha256=None,
        seed=None,
        selection="none: the regularization is chosen on the validation split",
        method=MethodPart(
            name=floor.name,
            title=floor.title,
            paper="",
            reported=None,
            built_in=True,
            source_sha256=code_sha256(Path(features.__file__)),
            options={},
            changed={},
            compared_with=[],
            control=False,
            floor=True,
        ),
        dataset=describe_dataset(dataset, scored, ["val", "test"], None),
        recipe=None,
        weights=None,
        stages=[],
        part_checks=[],
        submission=SubmissionPart(file=floor.name, sha256=digest, image_column="", columns="", scale="logit"),
        environment=EnvironmentPart(**dict(describe_software()), hardware={}, precision=None, layout=None),
    )
