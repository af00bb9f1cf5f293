"""Records of runs that never ran, with real scores and heatmaps: the input of tests of records and leaderboard.

Their dataset, `made`, is not a plugin: nothing is known of it besides what the records say.
"""

import json

import numpy as np
import pandas as pd

from chxbench.benchmark.dataset import FINDINGS, split_sha256
from chxbench.benchmark.evaluation.artifacts import HeatmapSet, heatmaps_sha256, label_column, score_column
from chxbench.benchmark.metrics.localization import Frame
from chxbench.benchmark.recipe import load_recipe
from chxbench.benchmark.records import record as records
from chxbench.benchmark.records.figures.overlays import Panel, draw_panels
from chxbench.benchmark.records.schema import RunDescription

HASH = "0" * 64


def score_table(skill, seed=0, without=()):
    """Scores of 60 validation and 240 test images; findings in `without` have no positives."""
    labels = (np.random.default_rng(0).random((300, 14)) < 0.3).astype(np.float32)
    rng = np.random.default_rng(seed)
    labels[:, [FINDINGS.index(finding) for finding in without]] = 0
    scores = (rng.standard_normal((300, 14)) + skill * labels).astype(np.float32)
    names = {"image_id": [f"{k:03}" for k in range(300)], "patient_id": [f"{k // 3}" for k in range(300)]}
    table = pd.DataFrame({**names, "split": ["val"] * 60 + ["test"] * 240})
    columns = {label_column(f): labels[:, c] for c, f in enumerate(FINDINGS)}
    return table.assign(**columns, **{score_column(f): scores[:, c] for c, f in enumerate(FINDINGS)})


def count(table, split):
    part = table[table["split"] == split]
    labels = part[[label_column(finding) for finding in FINDINGS]] == 1
    return {
        "images": len(part),
        "patients": part["patient_id"].nunique(),
        "positives": dict(zip(FINDINGS, labels.sum().tolist(), strict=True)),
        "with_finding": int(labels.any(axis=1).sum()),
        "absent": 0,
    }


def fields(table, run_id, title, seed=0, settings=None, split=HASH, absent=0, examples=10, version="1", **method):
    """Return the description of a run that never ran, as `RunDescription` takes it."""
    counts = {"images": 10, "patients": 5, "positives": {}, "with_finding": 4, "absent": absent}
    about = {"name": "bsl", "title": title, "paper": "", "reported": None, "options": {}, "changed": {}}
    about = {
        **about,
        "built_in": True,
        "source_sha256": HASH,
        "compared_with": [],
        "control": False,
        "floor": False,
        **method,
    }
    stage = {"name": "train", "start": "initial", "examples": examples, "hard_positives": None, "epochs": 1}
    stage |= {"best_epoch": 1, "validation_auc": [0.5], "loss": [0.7], "seconds": 1.0, "images_per_second": 10.0}
    return {
        "run_id": run_id,
        "experiment_sha256": HASH,
        "created": "2026-01-01T00:00:00+00:00",
        "command": f"chxbench run --method {about['name']} --seed {seed}\nrm -rf \x1b[31m",
        "seed": seed,
        "selection": "the last epoch",
        "method": about,
        "dataset": {
            "name": "made",
            "title": "Made up",
            "caveat": "nothing here is about patients",
            "options": {},
            "source_sha256": HASH,
            "findings": list(FINDINGS),
            "rare": ["Hernia"],
            "labels": {"file": "drawn", "sha256": HASH, "version": version},
            "split": {"name": "by patient", "sha256": split},
            "pixels": {"sha256": HASH, "sample": {}},
            "counts": {"train": counts, **{part: count(table, part) for part in ("val", "test")}},
            "skipped": [],
        },
        "recipe": load_recipe("quick", {"evaluate.resamples": 100, **(settings or {})}),
        "weights": {"init": "none", "file_sha256": None, "source": None, "not_loaded": None}
        | {"sha256": HASH, "final_sha256": HASH},
        "stages": [stage],
        "submission": None,
        "part_checks": [],
        "environment": {
            "versions": {"chxbench": "0.1.0"},
            "hardware": {"device": "a CPU", "cores": 2},
            "precision": "float32",
            "layout": "channels_last",
            "code": {"commit": None, "dirty": None},
        },
    }


def heatmaps(table, brightness, seed=0):
    """Return heatmaps of up to 120 test images, brighter by so much in the one box, of finding 0 or 1, on each."""
    test = table[table["split"] == "test"].iloc[:120]
    which = np.arange(len(test), dtype=np.int32)
    maps = np.random.default_rng(seed).random((len(test), 14, 4, 4))
    place = which // 3 % 4  # the three images of a patient have their boxes at the same place
    maps[which, which % 2, place, place] += brightness
    boxes = np.column_stack([place / 4, place / 4, np.full(len(test), 0.25), np.full(len(test), 0.25)])
    names = (test[column].to_numpy(str) for column in ("image_id", "patient_id"))
    return HeatmapSet("the method's maps", maps.astype(np.float16), *names, which, which % 2, boxes)


def publish(results, table, *about, maps=None, change=lambda fields: None, **changes):
    """Write a record with its artifacts into the results folder; return the folder and the record.

    `change` may alter its fields. Its heatmaps are drawn, which a leaderboard cannot do; the leaderboard draws the
    other figures.
    """
    filled = fields(table, *about, **changes)
    change(filled)
    folder = results / "made" / filled["method"]["name"] / filled["run_id"]
    folder.mkdir(parents=True)
    record = records.write(folder, RunDescription.model_validate(filled), table, maps)
    if maps is not None:
        panel = Panel("one", np.zeros((8, 8), np.uint8), maps.maps[0, 0], maps.boxes[:1])
        draw_panels([panel], Frame(72, 64), folder / "heatmaps.png", "one", columns=1, key=heatmaps_sha256(maps))
    return folder, record


def as_floor(fields):
    """Turn the fields of a run into those of a floor."""
    about = {"file": "f", "sha256": HASH, "image_column": "", "columns": "", "scale": "logit"}
    fields.update(seed=None, recipe=None, weights=None, stages=[], experiment_sha256=None, submission=about)
    fields["dataset"].update(pixels=None)
    fields["dataset"]["counts"].pop("train")
    fields["environment"].update(precision=None, layout=None)
    fields["method"]["floor"] = True


def split_of(table):
    """Return the hash of the test images, which a floor and a board have in common."""
    return split_sha256(table[table["split"] == "test"])


def edit(path, change):
    """Change the JSON in a file."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content, indent=1) + "\n")


def recheck(content):
    """Give a changed record the checksum of its new content."""
    content["checksum"] = records.checksum(content)
