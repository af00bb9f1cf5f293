"""The command line: parse, call a command, print errors. Heavy packages are imported only when a command runs."""

import errno
import io
import os
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from .utils.errors import UserError
from .utils.package import __version__
from .utils.paths import LOOP, is_loop
from .utils.text import plain

INTERRUPTED = {  # message after Ctrl-C, by command
    "speed": "speeds are published when all rounds are measured",
    "score": "rerun the same command to publish the record",
    "compare": "nothing was written",
}
RESUME = "rerun the same command to resume"
MAX_SEEDS = 100  # of one command
Command = Callable[..., Any]


class _CliError(click.ClickException):
    """A UserError as the command line prints it: one sentence, exit status 2."""

    exit_code = 2


class _Path(click.Path):
    """A path, of which links can be followed."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Convert to a path; fails for a link that leads back to itself."""
        path: Path = super().convert(value, param, ctx)  # type: ignore[assignment]
        if is_loop(path):
            self.fail(f"{path} {LOOP}")
        return path


PATH = _Path(path_type=Path)


class _Seeds(click.ParamType):
    """Seeds as a range, 0-4, or a list, 0,2,5."""

    name = "seeds"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> list[int]:
        """Parse a range or a list into distinct seeds."""
        if match := re.fullmatch(r"(\d{1,9})-(\d{1,9})", value):
            seeds = list(range(int(match[1]), min(int(match[2]), int(match[1]) + MAX_SEEDS) + 1))
        else:
            seeds = [int(part) for part in value.split(",")] if re.fullmatch(r"\d{1,19}(,\d{1,19})*", value) else []
        if not seeds or len(set(seeds)) < len(seeds) or len(seeds) > MAX_SEEDS:
            self.fail(f"{value!r} is neither a range (0-4) nor a list (0,2,5) of 1 to {MAX_SEEDS} different seeds")
        return seeds


class _Commands(click.Group):
    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Parse and run; output can be any terminal, file or pipe."""
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # a terminal without a character shows its number
                stream.reconfigure(errors="backslashreplace")
        try:
            return super().main(*args, **kwargs)
        except OSError as error:  # of --help, which is printed while parsing
            if error.filename is not None or not _output_fails():
                raise
            click.echo(f"Error: standard output: {error.strerror}: fix it or choose another location", err=True)
            sys.exit(2)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta["argv"] = tuple(args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except UserError as error:
            raise _CliError(plain(error)) from error
        except KeyboardInterrupt as interrupt:
            _report_interrupt(ctx, interrupt)
            ctx.exit(getattr(interrupt, "status", 130))
        except OSError as error:
            # Click ends the command after a broken pipe; without a number it is a bug, shown with its traceback.
            if error.errno in (None, errno.EPIPE):
                raise
            name = error.filename or ("standard output" if _output_fails() else "a file")
            raise _CliError(plain(f"{name}: {error.strerror}: fix it or choose another location")) from error
        except MemoryError as error:
            detail = f" ({error})" if str(error) else ""
            raise _CliError(plain(f"too little memory{detail}: stop other programs or choose smaller data")) from error
        except RecursionError as error:
            raise _CliError("an option or a file is nested too deeply: simplify it") from error
        except UnicodeError as error:
            raise _CliError(plain(f"a name or a file is not valid text ({error}): use UTF-8")) from error


def _output_fails() -> bool:
    """Return whether standard output cannot be written to, by an attempt: the error of a write names no file.

    What is left in its buffer is then discarded: Python would fail once more to write it when it exits.
    """
    try:
        click.echo()
    except OSError:
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False


def _report_interrupt(ctx: click.Context, interrupt: KeyboardInterrupt) -> None:
    """Print the state after an interrupt and how to resume; of several processes, only the main one prints."""
    message = str(interrupt) or f"Interrupted: {INTERRUPTED.get(ctx.invoked_subcommand or '', RESUME)}."
    if "--fresh" in ctx.meta["argv"]:
        message = message.replace("the same command", "the same command without --fresh")
    if os.environ.get("RANK", "0") == "0":
        click.echo(f"\n{message}", err=True)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="chxbench")
def main() -> None:
    """Benchmark attention methods on chest X-rays: train, evaluate and compare under one protocol.

    \b
    Example, on the built-in dataset, in a few minutes on a laptop:
      chxbench run --method ma
    """


def _options(*options: Command) -> Command:
    """Combine several options into one decorator, in the order in which `--help` lists them."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


plugin_option = click.option(
    "--plugin",
    "plugins",
    multiple=True,
    type=PATH,
    metavar="FILE.py",
    help="File that registers methods or datasets. It runs as code, with your permissions. Repeatable.",
)
results_option = click.option(
    "--results",
    type=PATH,
    default=Path("results"),
    show_default=True,
    metavar="DIR",
    help="Folder of published records; leaderboard.md and the working folder runs/ are next to it.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
source_options = _options(
    click.option("--dataset", default="phantom", show_default=True, metavar="NAME", help="See `chxbench list`."),
    click.option("--data-dir", type=PATH, metavar="DIR", help="Folder of the dataset's files."),
    click.option(
        "--recipe", metavar="NAME|FILE.toml", help="How to train and evaluate.  [default: the dataset's default recipe]"
    ),
    click.option(
        "--set",
        "settings",
        multiple=True,
        metavar="KEY=VALUE",
        help="Change a recipe setting (train.epochs=3) or a dataset option (dataset.allow_missing=true). Repeatable.",
    ),
    click.option(
        "--cache",
        type=PATH,
        metavar="DIR",
        help="Folder of decoded images.  [default: $CHXBENCH_CACHE, or the user's cache folder]",
    ),
    plugin_option,
)


def _source(settings: tuple[str, ...], cache: Path | None, **others: Any) -> dict[str, Any]:
    """Return the values of `source_options` and other options as the fields of a `DataConfig`."""
    from .utils.environment import cache_folder
    from .utils.options import parse_pairs

    return {"settings": parse_pairs(settings, "--set"), "cache": cache or cache_folder(), **others}


@main.command(short_help="Train and evaluate a method, publish its record.")
@click.option("--method", required=True, metavar="NAME", help="See `chxbench list`.")
@click.option(
    "--option",
    "options",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change an option of the method (pool=lse). Repeatable.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Random seed of initialization, data order and augmentation.",
)
@click.option(
    "--seeds",
    type=_Seeds(),
    metavar="N-N|N,N",
    help="Several seeds instead, one run after the other: 0-4, or 0,2,5. Conclusions about a method need at least two.",
)
@source_options
@results_option
@click.option(
    "--track",
    multiple=True,
    metavar="NAME",
    help="Also log to an experiment tracker supported by accelerate (tensorboard, mlflow, ...). Repeatable.",
)
@click.option("--fresh", is_flag=True, help="Start over, even if this run is completed or was interrupted.")
def run(options: tuple[str, ...], seeds: list[int] | None, results: Path, **source: Any) -> None:
    """Train and evaluate a method, publish its record, regenerate the leaderboard.

    The same command resumes an interrupted run; a completed run is not trained again.

    \b
    Examples:
      chxbench run --method ma
      chxbench run --method ma --seeds 0-4
      chxbench run --method ma --dataset chestxray14 --data-dir ~/nih --seed 1
      chxbench run --method sam --option pool=lse --set train.epochs=3
      chxbench run --method ma --track tensorboard    (then: tensorboard --logdir runs)
      torchrun --nproc-per-node 4 -m chxbench run --method ma    (each batch split across four GPUs)
    """
    from .commands.run.report import report_run
    from .commands.run.run import RunConfig, run_and_destroy_group
    from .utils.options import parse_pairs
    from .utils.workspace import Workspace

    context = click.get_current_context()
    if seeds and context.get_parameter_source("seed") is not click.core.ParameterSource.DEFAULT:
        raise UserError("--seed and --seeds exclude each other: pass one of them")
    config = RunConfig(
        options=parse_pairs(options, "--option"),
        argv=context.meta["argv"],
        results=results,
        **_source(**source),
    )
    configs = [replace(config, seed=seed) for seed in seeds] if seeds else [config]
    run_and_destroy_group(configs, lambda record, folder: report_run(record, folder, Workspace(results)))


@main.command(short_help="Measure how fast methods are on this machine.")
@click.option(
    "--method", "methods", required=True, multiple=True, metavar="NAME", help="See `chxbench list`. Repeatable."
)
@click.option(
    "--option",
    "options",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change an option of all methods (backbone=resnet50). Repeatable.",
)
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where to compute; auto uses a GPU if one is available.",
)
@click.option(
    "--precision",
    type=click.Choice(["auto", "bfloat16", "float32"]),
    help="Arithmetic precision.  [default: compute.precision of the recipe]",
)
@click.option("--compile", is_flag=True, help="Also measure with torch.compile; takes minutes.")
@click.option(
    "--batch-size",
    "batch_sizes",
    multiple=True,
    type=click.IntRange(min=1),
    metavar="N",
    help="Images per inference batch. Repeatable.  [default: 1, 8, 32, 128; on a GPU also 512]",
)
@click.option(
    "--rounds",
    type=click.IntRange(min=3, max=1000),
    default=8,
    show_default=True,
    help="Rounds; each measures every method once, in another order.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0.01, max=3600),
    default=1,
    show_default=True,
    help="Approximate duration of each measurement in a round.",
)
@source_options
@results_option
def speed(options: tuple[str, ...], precision: str | None, compile: bool, results: Path, **source: Any) -> None:
    """Measure how fast methods are on this machine: latency, throughput, training, memory.

    Methods are measured in turn, round by round, and methods with the same network once. Networks have random weights;
    nothing is downloaded. When all rounds are measured, the records are published; the leaderboard shows them with the
    runs of the same method, options and crop. Keep the machine otherwise idle: other processes make speeds doubtful.

    \b
    Examples:
      chxbench speed --method bsl --method sam
      chxbench speed --method sam --recipe paper --device cuda --compile
      chxbench speed --method sam --option backbone=resnet50 --batch-size 1 --batch-size 64
    """
    from .commands.speed.report import report_speed
    from .commands.speed.speed import SpeedConfig, run_speed
    from .utils.options import parse_pairs
    from .utils.workspace import Workspace

    fields = _source(**source)
    flags = {"compute.precision": precision, "compute.compile": compile or None}
    fields["settings"] |= {key: value for key, value in flags.items() if value is not None}
    config = SpeedConfig(options=parse_pairs(options, "--option"), results=results, **fields)
    run_speed(config, lambda records: report_speed(records, Workspace(results)))


@main.command(short_help="Decode and resize a dataset's images once.")
@source_options
@click.option("--report", type=PATH, metavar="FILE.csv", help="Write a table of unreadable images.")
def prepare(report: Path | None, **source: Any) -> None:
    """Decode and resize a dataset's images once, on all cores; otherwise `run` does so before training.

    It can be stopped at any time and resumed with the same command. Images that cannot be read are listed at the end.
    `--set dataset.skip_unreadable=true`, for this command and for `run`, skips them; results without them are on a
    separate board.

    \b
    Examples:
      chxbench prepare --dataset chestxray14 --data-dir ~/nih
      chxbench prepare --dataset chestxray14 --data-dir ~/nih --report bad_images.csv
    """
    from .commands.prepare import DataConfig
    from .commands.prepare import prepare as prepare_images

    prepare_images(DataConfig(**_source(**source)), report)


@main.command(short_help="Run inference on images with a trained run.")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@click.option("--run", type=PATH, required=True, metavar="RUN", help="Folder of the trained run, in runs/ or results/.")
@click.option("--out", type=PATH, default=Path("predictions"), show_default=True, metavar="DIR", help="Output folder.")
@click.option(
    "--leading",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="Number of most likely findings whose heatmaps are drawn.",
)
@click.option("--pictures/--no-pictures", default=True, show_default=True, help="Draw one picture per image.")
@click.option(
    "--data-dir",
    type=PATH,
    metavar="DIR",
    help="Folder of the run's dataset: adds labels and boxes to the images that belong to it.",
)
@click.option(
    "--option", "options", multiple=True, metavar="KEY=VALUE", help="Change an option of the method (heatmap=cam)."
)
@plugin_option
def predict(options: tuple[str, ...], **fields: Any) -> None:
    """Run inference on images with a trained run: PNG, JPEG or DICOM files, folders of them, or ids of its dataset.

    Writes predictions.csv, and for each image NAME.json and NAME.heatmaps.png: the X-ray, overlaid with the heatmaps
    of the most likely findings. Research software: its predictions are not a diagnosis.

    \b
    Examples:
      chxbench predict 00000013_005.png --run runs/quick-seed0-1a2b3c4d5e
      chxbench predict ~/xrays --run runs/paper-seed0-1a2b3c4d5e --no-pictures
    """
    from .commands.predict.predict import PredictConfig, predict_images
    from .commands.predict.report import report_predictions
    from .utils.options import parse_pairs

    config = PredictConfig(options=parse_pairs(options, "--option"), **fields)
    report_predictions(predict_images(config), config.out)


@main.command(short_help="Evaluate external predictions.")
@click.argument("predictions", type=PATH, metavar="PREDICTIONS")
@click.option("--name", required=True, metavar="NAME", help="Name of the method, for its folder in the results.")
@click.option("--title", metavar="TEXT", help="Title on the leaderboard.  [default: the name]")
@click.option("--dataset", default="chestxray14", show_default=True, metavar="NAME", help="See `chxbench list`.")
@click.option(
    "--data-dir", type=PATH, metavar="DIR", help="Folder of the dataset's labels and lists; images are not needed."
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="dataset.KEY=VALUE",
    help="Change a dataset option (dataset.labels=mine.csv). Repeatable.",
)
@click.option(
    "--split",
    metavar="NAME",
    help="Evaluate all images of the file as a custom test split of this name, on a separate board.",
)
@click.option(
    "--scale",
    type=click.Choice(["auto", "probability", "logit"]),
    default="auto",
    show_default=True,
    help="Scale of the scores.",
)
@click.option("--columns", metavar="PATTERN", help="Pattern of the score columns, such as 'prob_{finding}'.")
@results_option
@plugin_option
def score(settings: tuple[str, ...], **fields: Any) -> None:
    """Evaluate external predictions, publish their record, regenerate the leaderboard.

    PREDICTIONS is a CSV or parquet file with one row per image: one column of image names (folders and extension are
    ignored) and one column per finding, named by one pattern, in any order (prob_Atelectasis, Pleural
    Thickening_score). All test images of the dataset must be present. Validation images, if all of them are present,
    are used to choose the thresholds. Other images are ignored.

    \b
    Examples:
      chxbench score theirs.csv --name densenet121 --data-dir ~/nih
      chxbench score ours.parquet --name ours --columns 'p_{finding}' --data-dir ~/nih
      chxbench score ours.csv --name ours --split "our split" --data-dir ~/nih
    """
    from .commands.run.report import report_run
    from .commands.score.score import ScoreConfig
    from .commands.score.score import score as score_predictions
    from .utils.options import parse_pairs
    from .utils.workspace import Workspace

    config = ScoreConfig(settings=parse_pairs(settings, "--set"), **fields)
    score_predictions(config, lambda record, folder: report_run(record, folder, Workspace(config.results)))


@main.command(short_help="Compare two methods on the same test images.")
@click.argument("first", type=PATH, metavar="METHOD")
@click.argument("second", type=PATH, metavar="METHOD")
@click.option(
    "--out",
    type=PATH,
    metavar="DIR",
    help="Output folder.  [default: comparisons/<method>-vs-<method>]",
)
@click.option(
    "--resamples",
    type=click.IntRange(min=100),
    default=2000,
    show_default=True,
    help="Number of bootstrap resamples of patients, for intervals and p-values.",
)
@click.option(
    "--results",
    type=PATH,
    default=Path("results"),
    show_default=True,
    metavar="DIR",
    help="Folder of published records, whose speed records are included.",
)
def compare(first: Path, second: Path, out: Path | None, resamples: int, results: Path) -> None:
    """Compare the AUCs of two methods on the same test images, per finding and in the mean.

    METHOD is a folder of results/ with the runs of a method, which differ only in their seed, or the folder of one run.
    Differences are over test patients and training seeds; from single runs, nothing follows about methods. p-values are
    corrected for the number of findings (Holm). Writes comparison.json, comparison.md and roc.png, with the ROC curves
    of all runs.

    \b
    Examples:
      chxbench compare results/phantom/ma results/phantom/sam
      chxbench compare runs/paper-seed0-1a2b3c4d5e runs/paper-seed1-5e4d3c2b1a --resamples 10000 --out seeds
    """
    from .commands.compare.compare import compare_methods, default_folder, write_comparison
    from .commands.compare.report import report_comparison

    compared = compare_methods(first, second, resamples, results)
    folder = out or default_folder(compared)
    write_comparison(compared, folder)
    report_comparison(compared, folder)


@main.command(short_help="Publish scores that need no network, the floors of a dataset's boards.")
@source_options
@results_option
def baselines(results: Path, **source: Any) -> None:
    """Fit floors on a dataset's training split and publish their scores: what a method must exceed to show anything.

    Logistic regressions on thumbnails of the images, and on age, sex and view position if the dataset lists them, and
    the prevalence of each finding. They are shown on every board of the same test images.

    \b
    Examples:
      chxbench baselines
      chxbench baselines --dataset chestxray14 --data-dir ~/nih
    """
    from .commands.baselines.baselines import DataConfig, publish_baselines
    from .commands.run.report import report_run
    from .utils.workspace import Workspace

    config = DataConfig(**_source(**source))
    publish_baselines(config, results, lambda record, folder: report_run(record, folder, Workspace(results)))


@main.command(name="list", short_help="List methods, datasets and recipes.")
@json_option
@plugin_option
def list_(as_json: bool, plugins: tuple[Path, ...]) -> None:
    """List methods, datasets and recipes, one per line; `chxbench show NAME` describes one.

    \b
    Examples:
      chxbench list
      chxbench list --plugin my_method.py --json
    """
    from .commands.list import list_plugins

    list_plugins(plugins, as_json)


@main.command(short_help="Describe a method, dataset or recipe.")
@click.argument("name")
@json_option
@plugin_option
def show(name: str, as_json: bool, plugins: tuple[Path, ...]) -> None:
    """Describe a method, dataset or recipe: its source, every option with its default, and reported numbers.

    \b
    Examples:
      chxbench show ma
      chxbench show paper
      chxbench show my_method --plugin my_method.py --json
    """
    from .commands.show import show_plugin

    show_plugin(name, plugins, as_json)


@main.command(short_help="Regenerate, check or show the leaderboard.")
@results_option
@click.option("--check", is_flag=True, help="Only check: exit with status 2 if a record or the page does not match.")
@click.option("--show", is_flag=True, help="Only print the rankings.")
def leaderboard(results: Path, check: bool, show: bool) -> None:
    """Regenerate leaderboard.md from the records; every number is recomputed from the scores.

    \b
    Examples:
      chxbench leaderboard
      chxbench leaderboard --check
      chxbench leaderboard --show
    """
    from .commands import leaderboard as commands
    from .utils.workspace import Workspace

    if check and show:
        raise click.UsageError("--check and --show are mutually exclusive: choose one")
    command = commands.show if show else commands.check if check else commands.regenerate
    command(Workspace(results))


@main.command(short_help="Show the state of all runs, and how to resume them.")
@results_option
def status(results: Path) -> None:
    """Show the state and progress of the runs next to the results folder: running, finished, failed or interrupted.

    An interrupted run is shown with the command that resumes it. The most recently written run is last.

    \b
    Examples:
      chxbench status
      chxbench status --results ~/experiments/results
    """
    from .commands.status import status as show_status
    from .utils.workspace import Workspace

    show_status(Workspace(results))


@main.command(short_help="Verify a record against its artifacts.")
@click.argument("run", type=PATH, metavar="RUN")
@click.option("--data-dir", type=PATH, metavar="DIR", help="Folder of the dataset's files, to verify labels and split.")
@plugin_option
def verify(run: Path, data_dir: Path | None, plugins: tuple[Path, ...]) -> None:
    """Verify a record against its artifacts, its dataset and its figures; exit with status 2 if a check fails.

    RUN is the folder of a run, in results/ or runs/.

    \b
    Examples:
      chxbench verify results/phantom/ma/quick-seed0-bc7d823473
      chxbench verify results/chestxray14/ma/quick-seed0-174d5cf252 --data-dir ~/nih
    """
    from .commands.verify import verify as verify_record

    verify_record(run, data_dir, plugins)


if __name__ == "__main__":
    sys.exit(main())
