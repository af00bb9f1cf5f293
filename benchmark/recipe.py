"""Recipes: settings of training and evaluation, independent of method and dataset.

A recipe is a TOML file with the sections below. It either sets every key, or begins with `extends = "paper"` and sets
only the keys that differ. The built-in recipes are in `recipes/`; `--set section.key=value` changes one setting.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from .utils.errors import UserError, did_you_mean, first_few
from .utils.files import json_sha256
from .utils.options import build, field_names, to_dict

RECIPES = Path(__file__).parent / "recipes"


@dataclass(frozen=True)
class Pixels:
    """Sizes of images on their way to the network.

    Options:
        size: side of the square in pixels to which each image is resized, once, by box averaging.
        crop: side of the square in pixels that the network sees; the center crop in evaluation.
        max_shift: largest offset of the training crop from the center, in pixels, in both directions.
    """

    size: Annotated[int, Field(ge=8, le=4096)]
    crop: Annotated[int, Field(ge=8, le=4096)]
    max_shift: NonNegativeInt

    def __post_init__(self) -> None:
        if self.crop + 2 * self.max_shift > self.size:
            raise ValueError(
                f"pixels.crop {self.crop} shifted by up to {self.max_shift} does not fit into pixels.size {self.size}: "
                "crop + 2 * max_shift must be at most size"
            )


@dataclass(frozen=True)
class Model:
    """Initial weights, backbone and resolution of networks, independent of the method.

    Options:
        weights: initial weights: "imagenet", "none" (random), or the path of a file, .safetensors or torch's (.pt).
        backbone: backbone of methods that have an option of this name, unless the user sets that option; not set for
            each method's own backbone.
        width: number of channels of the backbone, as a fraction of its usual one; passed to methods that have an option
            of this name, unless the user sets that option or `backbone`.
        output_stride: pixels of the image per location of the maps; passed to methods that have an option of this
            name, unless the user sets that option.
    """

    weights: str
    backbone: str | None = None
    width: Annotated[float, Field(gt=0, le=1)] = 1.0
    output_stride: Literal[8, 16, 32] = 32


@dataclass(frozen=True)
class Train:
    """Training of a stage; all stages of a method are trained alike.

    Options:
        epochs: passes over the stage's examples.
        images: images per epoch of a method with one stage, at least the training split's: every image once, then
            random ones again; 0 for every image once. For comparisons at equal budget with methods that train longer:
            boards do not separate it, and show the images seen.
        batch_size: images per step, over all processes.
        optimizer: "sgd" (with momentum) or "adamw".
        lr: learning rate; with one_cycle the maximum.
        momentum: momentum of sgd; ignored by adamw.
        weight_decay: weight decay of the optimizer.
        schedule: "step" multiplies the rate by drop_factor after each epoch in drop_after; "one_cycle" raises it to lr
            over the first three tenths of the steps and lowers it to almost 0 (Smith and Topin 2018).
        drop_after: epoch numbers, from 1, ascending, after which "step" lowers the rate.
        drop_factor: factor by which "step" multiplies the rate.
        select: which epoch's weights to use, "best_validation_auc" or "last".
        shuffle_labels: label-permutation control: every training and validation patient gets the labels of a randomly
            chosen patient, so that without leaks the test AUC is at chance.
        micro_batch: images per forward and backward pass, with gradients accumulated over the batch to save memory; 0
            to compute the batch at once. BatchNorm then uses the statistics of each micro-batch, which changes the
            training unless it is frozen.
        batch_norm: which statistics BatchNorm uses in training, "auto" (of the batch, synchronized across GPUs), "own"
            (of each process's images) or "frozen" (those of the initial weights).
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
    images: NonNegativeInt = 0

    def __post_init__(self) -> None:
        if list(self.drop_after) != sorted(set(self.drop_after)):
            raise ValueError(f"train.drop_after {list(self.drop_after)} must be ascending, without repeated epochs")


@dataclass(frozen=True)
class Evaluate:
    """Evaluation of a trained network.

    Options:
        batch_size: images per forward pass.
        resamples: bootstrap replicates of the patients for the 95 % intervals.
    """

    batch_size: PositiveInt
    resamples: Annotated[int, Field(ge=100, le=100_000)] = 1000


@dataclass(frozen=True)
class Compute:
    """Numerical precision, compilation and threads.

    Options:
        precision: "float32", "bfloat16" (autocast), or "auto": bfloat16 if the device trains faster with it, which is
            measured once.
        compile: train through `torch.compile`, which takes minutes to start and makes steps on a GPU faster.
        threads: CPU threads of a run; 0 for the number that is fastest at its start, beside other busy programs.
    """

    precision: Literal["auto", "bfloat16", "float32"] = "auto"
    compile: bool = False
    threads: NonNegativeInt = 0


@dataclass(frozen=True)
class Recipe:
    """A complete recipe: its name, the settings that `--set` changed, and its sections."""

    name: str
    changed: dict[str, Any]
    pixels: Pixels
    model: Model
    train: Train
    evaluate: Evaluate
    compute: Compute


Section = Pixels | Model | Train | Evaluate | Compute
SECTIONS: dict[str, type[Section]] = {
    "pixels": Pixels,
    "model": Model,
    "train": Train,
    "evaluate": Evaluate,
    "compute": Compute,
}


def load_recipe(name: str, settings: Mapping[str, Any]) -> Recipe:
    """Load a recipe and change some of its settings.

    Args:
        name: name of a built-in recipe, or path of a .toml file.
        settings: changes by key, such as `{"train.epochs": 3}`.

    Raises:
        UserError: an unknown recipe, a file that is not TOML, an unknown or missing key, or an invalid value.
    """
    tables = _tables(name)
    for key, value in settings.items():
        section, _, field = key.partition(".")
        if key not in setting_keys():
            raise UserError(f"unknown setting {key!r}: {did_you_mean(key, setting_keys())}")
        tables[section] = {**tables.get(section, {}), field: value}
    missing = [section for section in SECTIONS if section not in tables]
    if missing:
        raise UserError(
            f'recipe {name} has no section {first_few(missing, 9)}: add it, or begin with extends = "quick"'
        )
    recipe = Recipe(
        name,
        {},
        pixels=build(Pixels, tables["pixels"], "pixels."),
        model=build(Model, tables["model"], "model."),
        train=build(Train, tables["train"], "train."),
        evaluate=build(Evaluate, tables["evaluate"], "evaluate."),
        compute=build(Compute, tables["compute"], "compute."),
    )
    table = recipe_table(recipe)
    changed = {key: table[section][field] for key in sorted(settings) for section, field in [key.split(".")]}
    return replace(recipe, changed=changed)


def without_effect(recipe: Recipe) -> dict[str, str]:
    """Find settings that cannot have an effect because of other settings, with the reason of each."""
    train, reasons = recipe.train, {}
    late = [epoch for epoch in train.drop_after if epoch >= train.epochs]
    if train.optimizer == "adamw" and train.momentum:
        reasons["train.momentum"] = "train.optimizer=adamw has no momentum"
    if train.schedule == "one_cycle" and train.drop_after:
        reasons["train.drop_after"] = "train.schedule=one_cycle has no drops"
    elif late:
        rate = "never drops" if len(late) == len(train.drop_after) else f"does not drop after epoch {late[0]}"
        reasons["train.drop_after"] = f"training ends after epoch {train.epochs}, so that the learning rate {rate}"
    elif train.drop_after and train.drop_factor == 1:
        reasons["train.drop_after"] = "train.drop_factor is 1"
    if train.drop_factor != 1 and (train.schedule == "one_cycle" or not train.drop_after):
        reasons["train.drop_factor"] = "the learning rate has no drops"
    if train.micro_batch >= train.batch_size:
        reasons["train.micro_batch"] = f"a batch has {train.batch_size} images"
    return reasons


def refuse_without_effect(recipe: Recipe, reasons: Mapping[str, str]) -> None:
    """Refuse settings that the user changed although they cannot have an effect.

    Args:
        recipe: recipe of the run.
        reasons: settings without effect, with the reason of each.

    Raises:
        UserError: one of them was set with `--set`.
    """
    for key in recipe.changed:
        if key in reasons:
            raise UserError(f"--set {key} has no effect: {reasons[key]}; leave it out")


def setting_keys() -> list[str]:
    """List every recipe key that `--set` accepts, `section.key`."""
    return [key for section, cls in SECTIONS.items() for key in field_names(cls, f"{section}.")]


def recipe_names() -> list[str]:
    """List the built-in recipes."""
    return sorted(path.stem for path in RECIPES.glob("*.toml"))


def recipe_summary(name: str) -> str:
    """Return the first line of a built-in recipe if it is a comment, as a summary; empty otherwise."""
    first = (RECIPES / f"{name}.toml").read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("#").strip().removesuffix(".") if first.startswith("#") else ""


def recipe_table(recipe: Recipe) -> dict[str, Any]:
    """Convert a recipe to the table stored in records."""
    sections = {section: to_dict(getattr(recipe, section)) for section in SECTIONS}
    return {"name": recipe.name, "changed": recipe.changed, **sections}


def recipe_identity(table: Mapping[str, Any]) -> str:
    """Hash the sections of a recorded recipe: equal for equal settings, whatever the recipe's name."""
    return json_sha256({section: table[section] for section in SECTIONS})


def _tables(name: str, within: tuple[Path, ...] = ()) -> dict[str, dict[str, Any]]:
    """Read the sections of a recipe over those of the recipe that it extends.

    Args:
        name: name of a built-in recipe, or path of a .toml file relative to the file that extends it.
        within: files that extend it, directly or not, the nearest last; none of them may be extended again.
    """
    is_file = name.endswith(".toml")
    path = (within[-1].parent if within else Path()) / name if is_file else RECIPES / f"{name}.toml"
    if path in within:
        raise UserError(f"recipe {path} extends itself: choose a different recipe to extend")
    if not is_file and name not in recipe_names():
        raise UserError(f"unknown recipe {name!r}: {did_you_mean(name, recipe_names())} (a file's name ends in .toml)")
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        hint = f"pass one of {', '.join(recipe_names())}, or an existing file"
        raise UserError(f"recipe {path} cannot be read ({error.strerror}): {hint}") from error
    except ValueError as error:  # of TOML, or bytes that are not UTF-8
        raise UserError(f"recipe {path} is not valid TOML ({error}): correct it") from error
    base = _tables(str(tables.pop("extends")), (*within, path)) if "extends" in tables else {}
    for section, table in tables.items():
        if section not in SECTIONS or not isinstance(table, dict):
            raise UserError(
                f"recipe {path} has an unknown section {section!r}: {did_you_mean(section, [*SECTIONS, 'extends'])}"
            )
        base[section] = {**base.get(section, {}), **table}
    return base
