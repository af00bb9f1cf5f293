"""The commands: parse, call, print. Nothing heavy is imported before a command runs, so that `--help` is instant."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import click

from .. import __version__
from .utils.errors import UserError
from .utils.text import plain

FOLDER = click.Path(path_type=Path)
KEPT = {  # after an interrupt
    "speed": "what was measured is published and on the leaderboard",
    "score": "the same command publishes the record whole, or finds it",
    "compare": "nothing was written",
}


class _Refusal(click.ClickException):
    """A UserError as the user sees it: one sentence, exit status 2."""

    exit_code = 2


class _Commands(click.Group):
    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta["typed"] = tuple(args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context):
        try:
            return super().invoke(ctx)
        except UserError as error:
            raise _Refusal(plain(error)) from error
        except KeyboardInterrupt as stop:
            kept = KEPT.get(ctx.invoked_subcommand, "the same command goes on after what is finished")
            told = str(stop) or f"Interrupted: {kept}."
            if "--fresh" in ctx.meta["typed"]:
                told = told.replace("the same command", "the same command without --fresh")
            if os.environ.get("RANK", "0") == "0":  # of several processes one speaks
                click.echo(f"\n{told}", err=True)
            ctx.exit(getattr(stop, "status", 130))
        except OSError as error:
            if error.errno is None:
                raise
            raise _Refusal(
                plain(f"{error.filename or 'a file'}: {error.strerror}: mend that, or choose another place")
            ) from error


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="chxbench")
def main() -> None:
    """Benchmark attention methods on chest X-rays: train, score and compare on one protocol.

    \b
    Example, on the embedded data, in a few minutes on a laptop:
      chxbench run --method ma
    """


def _several(*options: Callable) -> Callable:
    """One decorator from several, in the order in which `--help` shall list them."""

    def decorate(command: Callable) -> Callable:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


plugin_option = click.option(
    "--plugin",
    "plugins",
    multiple=True,
    type=FOLDER,
    metavar="FILE.py",
    help="A file that registers methods or datasets. It runs as code, with your rights. Repeatable.",
)
results_option = click.option(
    "--results",
    type=FOLDER,
    default=Path("results"),
    show_default=True,
    metavar="DIR",
    help="Published records; leaderboard.md and the working folder runs/ lie beside it.",
)
source_options = _several(
    click.option("--dataset", default="phantom", show_default=True, metavar="NAME", help="See `chxbench list`."),
    click.option("--data-dir", type=FOLDER, metavar="DIR", help="Where the dataset's files lie."),
    click.option("--recipe", metavar="NAME|FILE.toml", help="How to train and evaluate.  [default: the dataset's own]"),
    click.option(
        "--set",
        "settings",
        multiple=True,
        metavar="KEY=VALUE",
        help="Change the recipe (train.epochs=3) or a dataset's option (dataset.allow_missing=true). Repeatable.",
    ),
    click.option(
        "--cache",
        type=FOLDER,
        metavar="DIR",
        help="Where decoded pixels are kept.  [default: $CHXBENCH_CACHE, or your cache folder]",
    ),
    plugin_option,
)


@main.command(short_help="Train and score a method; publish its record.")
@click.option("--method", required=True, metavar="NAME", help="See `chxbench list`.")
@click.option(
    "--option",
    "options",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change an option of the method (pool=lse). Repeatable.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of weights, order and shifts.")
@source_options
@results_option
@click.option(
    "--track",
    multiple=True,
    metavar="NAME",
    help="Show loss, rate, speed and AUC in tensorboard, mlflow or another tracker of accelerate's too. Repeatable.",
)
@click.option("--fresh", is_flag=True, help="Train anew, even if this run is finished or was interrupted.")
def run(settings: tuple[str, ...], options: tuple[str, ...], cache: Path | None, **asked) -> None:
    """Train and score a method, publish its record, regenerate the leaderboard.

    The same command continues an interrupted run, and finds a finished one instead of training again.

    \b
    Examples:
      chxbench run --method ma
      chxbench run --method ma --dataset chestxray14 --data-dir ~/nih --seed 1
      chxbench run --method sam --option pool=lse --set train.epochs=3
      chxbench run --method ma --track tensorboard    (then: tensorboard --logdir runs)
      torchrun --nproc-per-node 4 -m chxbench run --method ma    (four GPUs, each a share of every batch)
    """
    from .commands.run.report import report_run
    from .commands.run.run import run as run_order
    from .engine.device import destroy_process_group as leave_processes
    from .engine.experiment import RunConfig
    from .utils.environment import cache_folder
    from .utils.options import parse_pairs

    config = RunConfig(
        settings=parse_pairs(settings, "--set"),
        options=parse_pairs(options, "--option"),
        cache=cache or cache_folder(),
        typed=click.get_current_context().meta["typed"],
        **asked,
    )
    run_order(config, tell=lambda record, place: report_run(record, place, config.results))
    leave_processes()


@main.command(short_help="Measure how fast methods are on this machine.")
@click.option(
    "--method", "methods", required=True, multiple=True, metavar="NAME", help="See `chxbench list`. Repeatable."
)
@click.option(
    "--option",
    "options",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change an option of the methods (backbone=resnet50). Repeatable.",
)
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where to compute; auto takes a GPU if there is one.",
)
@click.option(
    "--precision",
    type=click.Choice(["auto", "bfloat16", "float32"]),
    help="Of the arithmetic.  [default: the recipe's]",
)
@click.option("--compile", is_flag=True, help="Measure once more with torch.compile; takes minutes.")
@click.option(
    "--batch-size",
    "batch_sizes",
    multiple=True,
    type=click.IntRange(min=1),
    metavar="N",
    help="Images a batch of inference. Repeatable.  [default: 1, 8, 32, 128; 512 too on a GPU]",
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0.01, max=3600),
    default=5,
    show_default=True,
    help="How long each measurement takes, about.",
)
@source_options
@results_option
def speed(
    settings: tuple[str, ...],
    options: tuple[str, ...],
    precision: str | None,
    compile: bool,
    cache: Path | None,
    **asked,
) -> None:
    """Measure how fast methods are on this machine: latency, throughput, training, memory.

    Networks have random weights and nothing is downloaded. Each method's record is published as soon as it is measured;
    the leaderboard shows it beside the runs of the same method, options and crop. Leave the machine alone meanwhile.

    \b
    Examples:
      chxbench speed --method bsl --method sam
      chxbench speed --method sam --recipe paper --device cuda --compile
      chxbench speed --method sam --option backbone=resnet50 --batch-size 1 --batch-size 64
    """
    from .commands.speed.report import report_speed
    from .commands.speed.speed import SpeedConfig, run_speed
    from .utils.environment import cache_folder
    from .utils.options import parse_pairs

    flags = {"compute.precision": precision, "compute.compile": compile or None}
    given = {key: value for key, value in flags.items() if value is not None}
    config = SpeedConfig(
        settings={**parse_pairs(settings, "--set"), **given},
        options=parse_pairs(options, "--option"),
        cache=cache or cache_folder(),
        **asked,
    )
    run_speed(config, tell=lambda records: report_speed(records, config.results))


@main.command(short_help="Decode and shrink a dataset's images once.")
@source_options
@click.option("--report", type=FOLDER, metavar="FILE.csv", help="Write which images cannot be used, and why.")
def prepare(settings: tuple[str, ...], cache: Path | None, report: Path | None, **asked) -> None:
    """Decode and shrink a dataset's images once, on all cores; `run` does the same where it was not done.

    It may be stopped at any time: the same command goes on where it stopped. Images that cannot be read are all told
    at the end; `--set dataset.skip_unreadable=true`, here and for `run`, goes on without them, on a board of its own.

    \b
    Examples:
      chxbench prepare --dataset chestxray14 --data-dir ~/nih
      chxbench prepare --dataset chestxray14 --data-dir ~/nih --report bad_images.csv
    """
    from .data.source import DataConfig as Source
    from .data.source import build_dataset as make_source
    from .data.unreadable import prepare_dataset as prepare_source
    from .utils.environment import cache_folder
    from .utils.options import parse_pairs
    from .utils.progress import say

    source = Source(settings=parse_pairs(settings, "--set"), cache=cache or cache_folder(), **asked)
    dataset, recipe = make_source(source)
    pixels, _ = prepare_source(source, dataset, recipe, report)
    say(f"{len(pixels):,} images of {recipe.pixels.size}x{recipe.pixels.size} pixels: {pixels.filename}")


@main.command(short_help="Ask a finished run about images.")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@click.option(
    "--run", type=FOLDER, required=True, metavar="RUN", help="A finished run: its folder in runs/ or results/."
)
@click.option(
    "--out", type=FOLDER, default=Path("predictions"), show_default=True, metavar="DIR", help="What to write to."
)
@click.option(
    "--leading", type=click.IntRange(1, 14), default=3, show_default=True, help="How many findings a picture shows."
)
@click.option("--pictures/--no-pictures", default=True, show_default=True, help="Draw one picture an image.")
@click.option(
    "--data-dir", type=FOLDER, metavar="DIR", help="The run's dataset: shows labels and boxes of images that it knows."
)
@click.option(
    "--option", "options", multiple=True, metavar="KEY=VALUE", help="Change an option of the method (heatmap=cam)."
)
@plugin_option
def predict(options: tuple[str, ...], **asked) -> None:
    """Ask a finished run about images: PNG, JPEG or DICOM files, folders of them, or image ids of its dataset.

    Writes predictions.csv, and for each image NAME.json and NAME.heatmaps.png: the X-ray, and the heatmaps of the
    leading findings over it. Research software: its answers are no diagnosis.

    \b
    Examples:
      chxbench predict 00000013_005.png --run runs/quick-seed0-1a2b3c4d5e
      chxbench predict ~/xrays --run runs/paper-seed0-1a2b3c4d5e --no-pictures
    """
    from .commands.predict.predict import PredictConfig as Question
    from .commands.predict.predict import predict_images
    from .commands.predict.report import report_predictions as report_answers
    from .utils.options import parse_pairs

    question = Question(options=parse_pairs(options, "--option"), **asked)
    report_answers(predict_images(question), question.out)


@main.command(short_help="Judge scores that were computed elsewhere.")
@click.argument("predictions", type=FOLDER, metavar="PREDICTIONS")
@click.option("--name", required=True, metavar="NAME", help="Of the method: a folder's name, and the row's.")
@click.option("--title", metavar="TEXT", help="The row's label on the leaderboard.  [default: the name]")
@click.option("--dataset", default="chestxray14", show_default=True, metavar="NAME", help="See `chxbench list`.")
@click.option("--data-dir", type=FOLDER, metavar="DIR", help="Where the dataset's labels and lists lie; no images.")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="dataset.KEY=VALUE",
    help="Change a dataset's option (dataset.labels=mine.csv). Repeatable.",
)
@click.option(
    "--split", metavar="NAME", help="Take all images of the file as a test split of this name, on a board of its own."
)
@click.option(
    "--scale",
    type=click.Choice(["auto", "probability", "logit"]),
    default="auto",
    show_default=True,
    help="What the scores are.",
)
@click.option("--columns", metavar="PATTERN", help="What the score columns are called, such as 'prob_{finding}'.")
@results_option
@plugin_option
def score(settings: tuple[str, ...], **asked) -> None:
    """Judge scores that were computed elsewhere, publish their record, regenerate the leaderboard.

    PREDICTIONS is a CSV or parquet file: one row an image; one column with the images' names (folders and extension do
    not matter); one column a finding, all named alike, in any order (prob_Atelectasis, Pleural Thickening_score). All
    test images of the dataset must be there. Others are left out, but for the validation images: where all are there,
    they fix the thresholds.

    \b
    Examples:
      chxbench score theirs.csv --name densenet121 --data-dir ~/nih
      chxbench score ours.parquet --name ours --columns 'p_{finding}' --data-dir ~/nih
      chxbench score ours.csv --name ours --split "our split" --data-dir ~/nih
    """
    from .commands.run.report import report_run
    from .commands.score.score import score as score_order
    from .commands.score.submission import ScoreConfig
    from .utils.options import parse_pairs

    config = ScoreConfig(settings=parse_pairs(settings, "--set"), **asked)
    score_order(config, tell=lambda record, place: report_run(record, place, config.results))


@main.command(short_help="Compare two runs on the same test images.")
@click.argument("first", type=FOLDER, metavar="RUN")
@click.argument("second", type=FOLDER, metavar="RUN")
@click.option(
    "--out", type=FOLDER, metavar="DIR", help="What to write to.  [default: comparisons/<method-run>-vs-<method-run>]"
)
@click.option(
    "--resamples",
    type=click.IntRange(min=100),
    default=2000,
    show_default=True,
    help="Draws of patients behind intervals and p-values.",
)
@click.option(
    "--results", type=FOLDER, default=Path("results"), show_default=True, metavar="DIR", help="Where speed records lie."
)
def compare(first: Path, second: Path, out: Path | None, resamples: int, results: Path) -> None:
    """Compare two runs that were scored on the same test images: do their AUCs differ, finding by finding?

    RUN is a folder with run.json and scores.parquet, below runs/ or results/. Differences are paired, on the same draws
    of patients; their p-values are corrected for the number of findings (Holm). Writes comparison.json, comparison.md
    and roc.png, the ROC curves of both over each other.

    \b
    Examples:
      chxbench compare results/phantom/ma/quick-seed0-cb211adf33 results/phantom/sam/quick-seed0-b7941865d0
      chxbench compare runs/paper-seed0-1a2b3c4d5e runs/paper-seed1-5e4d3c2b1a --resamples 10000 --out seeds
    """
    from .commands.compare.compare import compare_runs, default_folder, write_comparison
    from .commands.compare.report import report_comparison

    compared = compare_runs(first, second, resamples, results)
    folder = out or default_folder(compared)
    write_comparison(compared, folder)
    report_comparison(compared, folder)


@main.command(name="list", short_help="Show methods, datasets and recipes.")
@plugin_option
def list_(plugins: tuple[Path, ...]) -> None:
    """Show the methods, datasets and recipes there are, with their options and defaults.

    \b
    Example:
      chxbench list --plugin my_method.py
    """
    from .commands.list import report_plugins
    from .registry import load_plugins

    load_plugins(plugins)
    report_plugins()


@main.command(short_help="Regenerate, check or show the leaderboard.")
@results_option
@click.option("--check", is_flag=True, help="Change nothing; exit with 2 if a record or the leaderboard does not fit.")
@click.option("--show", is_flag=True, help="Change nothing; print the rankings.")
def leaderboard(results: Path, check: bool, show: bool) -> None:
    """Regenerate leaderboard.md from the records: every number is computed again from its scores.

    \b
    Examples:
      chxbench leaderboard
      chxbench leaderboard --check
      chxbench leaderboard --show
    """
    from .leaderboard.leaderboard import check_leaderboard, read_runs, write_leaderboard
    from .leaderboard.terminal import show_boards
    from .utils.progress import say
    from .utils.workspace import leaderboard_path

    if check and show:
        raise click.UsageError("--check and --show are two things: ask for one, then for the other")
    path = leaderboard_path(results)
    if show:
        show_boards(read_runs(results, path.parent))
    elif check:
        say(f"{check_leaderboard(results, path)} records and {path} agree with their scores")
    else:
        write_leaderboard(results, path)
        say(f"wrote {path}")


@main.command(short_help="Show how the runs stand, and how to go on.")
@results_option
def status(results: Path) -> None:
    """Show the runs beside the results folder: which go on, which were interrupted and where, which are finished.

    An interrupted run is shown with the command that goes on with it. The run that wrote last stands last.

    \b
    Examples:
      chxbench status
      chxbench status --results ~/trials/results
    """
    from .commands.status import read_statuses as read_standings
    from .commands.status import show_statuses as show_standings
    from .utils.workspace import runs_folder

    folder = runs_folder(results)
    show_standings(*read_standings(folder), folder)


@main.command(short_help="Compute everything in a record again.")
@click.argument("run", type=FOLDER, metavar="RUN")
@click.option("--data-dir", type=FOLDER, metavar="DIR", help="The dataset's files: labels and split are compared.")
@plugin_option
def verify(run: Path, data_dir: Path | None, plugins: tuple[Path, ...]) -> None:
    """Compute everything in a record again that can be, and say what holds; exit with 2 where something does not.

    RUN is a folder that holds run.json, in results/ or runs/.

    \b
    Examples:
      chxbench verify results/phantom/ma/quick-seed0-cb211adf33
      chxbench verify results/chestxray14/ma/quick-seed0-f125af2404 --data-dir ~/nih
    """
    from .commands.verify import report_verdict, verify_run

    verdict = verify_run(run, data_dir, plugins)
    report_verdict(verdict)
    if verdict.failed:
        failed = ", ".join(check.what for check in verdict.failed)
        raise UserError(f"{run} does not hold: {len(verdict.failed)} of {len(verdict.checks)} checks failed ({failed})")


if __name__ == "__main__":
    sys.exit(main())
