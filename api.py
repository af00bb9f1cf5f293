"""Python API: the commands `run` and `predict` as functions, which `chxbench` exports."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from .benchmark.commands.predict.predict import PredictConfig, predict_images
from .benchmark.commands.run.run import RunConfig
from .benchmark.commands.run.run import run as run_config
from .benchmark.records.schema import Record

PathLike = str | Path


def run(  # noqa: PLR0913 - the flags of `chxbench run`
    method: str,
    dataset: str = "phantom",
    recipe: str | None = None,
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    data_dir: PathLike | None = None,
    results: PathLike = "results",
    fresh: bool = False,
    plugins: Sequence[PathLike] = (),
) -> Record:
    """Train and evaluate a method, publish its record and regenerate the leaderboard, as `chxbench run` does.

    An interrupted run is resumed; a completed run is not trained again.

    Args:
        method: name of a registered method.
        dataset: name of a registered dataset.
        recipe: name or TOML file of a recipe; None to use the dataset's default.
        seed: random seed of initialization, data order and augmentation.
        options: options of the method to change, as `{"pool": "lse"}`.
        settings: recipe settings and dataset options to change, as `{"train.epochs": 3, "dataset.images": 500}`.
        data_dir: folder of the dataset's files, if it needs any.
        results: folder of published records; `runs/` and `leaderboard.md` are next to it.
        fresh: whether to start over, even if the run is completed or was interrupted.
        plugins: files to import first, which register methods or datasets.

    Returns:
        The record, with the keys of run.json as attributes.

    Raises:
        UserError: if the request or a file is invalid.
        RuntimeError: in a process other than the main one of several.
    """
    config = RunConfig(
        method=method,
        dataset=dataset,
        recipe=recipe,
        seed=seed,
        options=options or {},
        settings=settings or {},
        data_dir=_path(data_dir),
        results=Path(results),
        fresh=fresh,
        plugins=tuple(map(Path, plugins)),
    )
    published = run_config(config)
    if published is None:  # only the main one of several processes has the record
        raise RuntimeError("chxbench.run works in one process: start several with torchrun -m chxbench run")
    return published[0]


def predict(  # noqa: PLR0913 - the flags of `chxbench predict`
    images: PathLike | Sequence[PathLike],
    run: PathLike,
    out: PathLike = "predictions",
    leading: int = 3,
    pictures: bool = True,
    data_dir: PathLike | None = None,
    options: Mapping[str, Any] | None = None,
    plugins: Sequence[PathLike] = (),
) -> pd.DataFrame:
    """Run inference on images with a trained run, as `chxbench predict` does.

    Args:
        images: PNG, JPEG or DICOM files, folders of them, or image ids of the run's dataset.
        run: folder of the trained run, in `runs/` or `results/`.
        out: folder for predictions.csv, one JSON file per image, and pictures.
        leading: number of most likely findings whose heatmaps are drawn.
        pictures: whether to draw one picture per image.
        data_dir: folder of the run's dataset, whose labels and boxes are added to images that belong to it.
        options: options of the method to change; only those that change no score, as `{"heatmap": "cam"}`.
        plugins: files to import first, which register methods or datasets.

    Returns:
        The table in predictions.csv: columns `image`, `path`, and one of probabilities per finding; one row per image.

    Raises:
        UserError: if the request or a file is invalid; unreadable images raise it after all others were predicted.
    """
    names = [images] if isinstance(images, str | Path) else images
    config = PredictConfig(
        images=list(map(str, names)),
        run=Path(run),
        out=Path(out),
        leading=leading,
        pictures=pictures,
        data_dir=_path(data_dir),
        options=options or {},
        plugins=tuple(map(Path, plugins)),
    )
    predict_images(config)
    table = config.out / "predictions.csv"  # an image may be called 0012 or NA
    return pd.read_csv(table, dtype={"image": str, "path": str}, keep_default_na=False)


def _path(path: PathLike | None) -> Path | None:
    return None if path is None else Path(path)
