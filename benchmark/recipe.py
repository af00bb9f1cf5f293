"""What a run is asked to do, apart from method and dataset: pixels, training, evaluation.

A recipe is a TOML file with the sections below; it states everything, or begins with `extends = "paper"` and states
what differs. `recipes/` holds the ones that come with the package; `--set section.key=value` changes one setting.
"""

import hashlib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from .utils.errors import UserError, did_you_mean, first_few
from .utils.options import build, field_names, to_dict

RECIPES = Path(__file__).parent / "recipes"


# Settings that came after the first records, and the values at which they change nothing: a recipe without them is the
# same recipe, and its runs keep their ids.
ADDITIONS = {"train.micro_batch": 0, "train.batch_norm": "auto", "compute.compile": False}


@dataclass(frozen=True)
class Pixels:
    """How an image reaches the network; sides in pixels.

    Attributes:
        size: the side of the square that each image is shrunk to, once, by box averaging.
        crop: the side of the square that the network sees; the centre one in evaluation.
        max_shift: in training the crop lies up to so many pixels off the centre, in both directions.
    """

    size: Annotated[int, Field(ge=8, le=4096)]
    crop: Annotated[int, Field(ge=8, le=4096)]
    max_shift: NonNegativeInt

    def __post_init__(self) -> None:
        if self.crop + 2 * self.max_shift > self.size:
            raise ValueError(
                f"pixels.crop {self.crop} shifted by up to {self.max_shift} does not fit into pixels.size {self.size}: "
                "crop + 2 * max_shift may be size at most"
            )


@dataclass(frozen=True)
class Model:
    """What networks begin with and look like, whatever the method.

    Attributes:
        weights: "imagenet", "none" (random), or the path of a .safetensors file.
        output_stride: pixels of the image per place of the maps; it reaches the methods that have an option of this
            name, unless the user gives that option.
    """

    weights: str
    output_stride: Literal[8, 16, 32] = 32


@dataclass(frozen=True)
class Train:
    """One stage of training; every stage of a method is trained alike.

    Attributes:
        epochs: passes over the stage's examples.
        batch_size: images a step, over all processes.
        micro_batch: images computed at a time; their gradients add up to those of the step, so that the same batch fits
            a smaller device. 0 computes the batch whole. BatchNorm then takes its statistics from so many images, which
            is another training, unless it is frozen.
        batch_norm: whose statistics BatchNorm uses in training: "auto" those of the batch, synchronised over several
            GPUs; "own" those of each process's part; "frozen" the ones that the network began with.
        optimizer: "sgd" (with momentum) or "adamw".
        lr, momentum, weight_decay: as the optimiser names them; momentum is used by sgd alone.
        schedule: "step" multiplies the rate by `drop_factor` after each epoch number in `drop_after`; "one_cycle" rises
            to `lr` over the first three tenths of the steps and falls to nothing (Smith and Topin 2018).
        select: which epoch's weights are kept: "best_validation_auc" or "last".
        shuffle_labels: a control, not a training: the labels of train and validation are dealt anew among the
            patients, so that a harness without leaks must score at chance.
    """

    epochs: PositiveInt
    batch_size: Annotated[int, Field(ge=2)]
    optimizer: Literal["sgd", "adamw"]
    lr: PositiveFloat
    momentum: Annotated[float, Field(ge=0, lt=1)]
    weight_decay: NonNegativeFloat
    schedule: Literal["step", "one_cycle"]
    drop_after: tuple[PositiveInt, ...]
    drop_factor: Annotated[float, Field(gt=0, le=1)]
    select: Literal["best_validation_auc", "last"]
    shuffle_labels: bool = False
    micro_batch: NonNegativeInt = 0
    batch_norm: Literal["auto", "own", "frozen"] = "auto"


@dataclass(frozen=True)
class Evaluate:
    """Attributes: batch_size: images a forward pass; resamples: draws of patients for the 95 % intervals."""

    batch_size: PositiveInt
    resamples: Annotated[int, Field(ge=100, le=100_000)] = 1000


@dataclass(frozen=True)
class Compute:
    """With what, rather than what.

    Attributes:
        precision: "auto" takes bfloat16 autocast where the device trains faster so, which is measured once.
        compile: train through `torch.compile`: minutes at first, faster steps afterwards on a GPU.
    """

    precision: Literal["auto", "bfloat16", "float32"] = "auto"
    compile: bool = False


@dataclass(frozen=True)
class Recipe:
    """The whole recipe as run: its name, what `--set` changed in it, and its sections."""

    name: str
    changed: dict[str, Any]
    pixels: Pixels
    model: Model
    train: Train
    evaluate: Evaluate
    compute: Compute


SECTIONS = {field.name: field.type for field in fields(Recipe) if field.name not in ("name", "changed")}


def load_recipe(name: str, settings: Mapping[str, Any]) -> Recipe:
    """The recipe of that name (or file), with settings (`{"train.epochs": 3}`) laid over it.

    Raises UserError: no such recipe, a file that is not TOML, an unknown or missing key, a value that does not fit.
    """
    tables = _tables(name)
    for key, value in settings.items():
        section, _, field = key.partition(".")
        if key not in setting_keys():
            raise UserError(f"unknown setting {key!r}: {did_you_mean(key, setting_keys())}")
        tables[section] = {**tables.get(section, {}), field: value}
    lacking = [section for section in SECTIONS if section not in tables]
    if lacking:
        raise UserError(
            f'recipe {name} has no section {first_few(lacking, 9)}: add it, or begin with extends = "quick"'
        )
    sections = {section: build(cls, tables[section], f"{section}.") for section, cls in SECTIONS.items()}
    changed = {key: to_dict(sections[key.split(".")[0]])[key.split(".")[1]] for key in sorted(settings)}
    return Recipe(name, changed, **sections)


def setting_keys() -> list[str]:
    """Every key that `--set` takes, but for the dataset's own."""
    return [key for section, cls in SECTIONS.items() for key in field_names(cls, f"{section}.")]


def recipe_names() -> list[str]:
    """The recipes that come with the package."""
    return sorted(path.stem for path in RECIPES.glob("*.toml"))


def recipe_summary(name: str) -> str:
    """Return the comment line that a recipe of the package begins with; empty without one."""
    first = (RECIPES / f"{name}.toml").read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("#").strip().removesuffix(".") if first.startswith("#") else ""


def recipe_table(recipe: Recipe) -> dict[str, Any]:
    """The recipe as the record holds it."""
    sections = {section: to_dict(getattr(recipe, section)) for section in SECTIONS}
    return {"name": recipe.name, "changed": recipe.changed, **sections}


def recipe_identity(table: Mapping[str, Any]) -> str:
    """SHA-256 of a recorded recipe's sections: equal when two runs were asked for the same, whatever it was called."""
    sections = {section: _without_additions(section, table[section]) for section in SECTIONS}
    return hashlib.sha256(json.dumps(sections, sort_keys=True).encode()).hexdigest()


def _without_additions(section: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if ADDITIONS.get(f"{section}.{key}", ...) != value}


def _tables(name: str, within: tuple[Path, ...] = ()) -> dict[str, dict[str, Any]]:
    """The sections of a recipe, laid over those that it extends; a file named there lies beside it."""
    own_file = name.endswith(".toml")
    path = (within[-1].parent if within else Path()) / name if own_file else RECIPES / f"{name}.toml"
    if path in within:
        raise UserError(f"recipe {path} extends itself: name another one behind extends")
    if not own_file and name not in recipe_names():
        raise UserError(f"unknown recipe {name!r}: {did_you_mean(name, recipe_names())} (a file's name ends in .toml)")
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"recipe {path} cannot be read: {error}") from error
    base = _tables(str(tables.pop("extends")), (*within, path)) if "extends" in tables else {}
    for section, table in tables.items():
        if section not in SECTIONS or not isinstance(table, dict):
            raise UserError(
                f"recipe {path} has an unknown section {section!r}: {did_you_mean(section, [*SECTIONS, 'extends'])}"
            )
        base[section] = {**base.get(section, {}), **table}
    return base
