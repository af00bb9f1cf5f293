"""Run the predictions about phantom's dials, and write the table of docs/phantom-predictions.md.

Each prediction says what a dial does to the difference between two methods. Completed runs are not trained again, so
that the same command resumes, and a table of the runs that exist is written with --runs 0::

    python docs/phantom_predictions.py --out ~/predictions
"""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import product
from pathlib import Path
from typing import Literal, NamedTuple

import click
import numpy as np

from chxbench.benchmark.evaluation.artifacts import load_scores
from chxbench.benchmark.evaluation.scores import split_scores
from chxbench.benchmark.metrics import auc
from chxbench.benchmark.metrics.intervals import (
    MIN_PATIENTS_IN_MEAN,
    SeedVariance,
    Spread,
    Statistic,
    average_findings,
    mean_statistic,
    pool_seed_variance,
    spread,
    subtract,
)
from chxbench.datasets.phantom import Phantom

RESAMPLES = 1000
Effect = Literal["more", "less", "none"]


class Arm(NamedTuple):
    """A method with options, key=value each."""

    method: str
    options: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"`{self.method}`" + "".join(f" {option}" for option in self.options)


class Prediction(NamedTuple):
    """How the lead of one method over another changes when a dial is turned.

    Attributes:
        dial, setting: option of phantom, and the value to which it is turned.
        first, second: the methods.
        effect: whether the lead grows, shrinks or stays.
        hard: whether only positives of the hard subtype count, in both cases.
    """

    dial: str
    setting: float
    first: Arm
    second: Arm
    effect: Effect
    hard: bool = False


BSL, FAM, SAM, AVERAGED = Arm("bsl"), Arm("fam"), Arm("sam"), Arm("sam", ("pool=mean_logit",))
HARD, RANDOM = Arm("ma", ("hard=worst_half",)), Arm("ma_random", ("hard=worst_half",))
HARD_SHARE = 0.4  # of the positives: with fewer, the test split has too few hard ones of a finding for an interval
PREDICTIONS = (
    Prediction("mimics", 0.5, SAM, FAM, "more"),
    Prediction("mimics", 0.5, AVERAGED, FAM, "none"),
    Prediction("views", 1.0, FAM, BSL, "more"),
    Prediction("hard_subtypes", HARD_SHARE, HARD, RANDOM, "more", hard=True),
    Prediction("wrong_labels", 0.05, HARD, RANDOM, "less"),
    Prediction("wrong_labels", 0.1, HARD, RANDOM, "less"),
    Prediction("shift", 1.0, SAM, BSL, "none"),
)
NULLS = ((FAM, BSL), (SAM, FAM), (AVERAGED, FAM), (HARD, RANDOM))  # no lead is predicted where no dial is turned


class Run(NamedTuple):
    """One training: a method, a turned dial (empty for none), and a seed."""

    arm: Arm
    dial: str
    setting: float
    seed: int

    def folder(self, out: Path) -> Path:
        """Return the folder of published records, one for each arm: none waits for another's leaderboard."""
        arm = "-".join([self.arm.method, *self.arm.options])
        return out / f"{self.dial or 'plain'}-{self.setting:g}" / arm / "results"

    def train(self, out: Path, sets: Sequence[str]) -> int:
        """Train in a process of its own, and return its exit status; its output is written beside the records."""
        settings = [*sets, *([f"dataset.{self.dial}={self.setting}"] if self.dial else [])]
        words = [word for setting in settings for word in ("--set", setting)]
        words += [word for option in self.arm.options for word in ("--option", option)]
        results = self.folder(out)
        results.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "chxbench", "run", "--method", self.arm.method, "--results", str(results)]
        with (results.parent / f"seed{self.seed}.txt").open("w") as output:
            return subprocess.call([*command, "--seed", str(self.seed), *words], stdout=output, stderr=output)


def needed_runs(seeds: Sequence[int]) -> list[Run]:
    """List all runs, seed by seed, so that stopped early they have fewer seeds but answer every question."""
    arms = [(arm, "", 0.0) for pair in NULLS for arm in pair]
    for one in PREDICTIONS:
        arms += [(arm, dial, one.setting * bool(dial)) for dial in ("", one.dial) for arm in (one.first, one.second)]
    return [Run(*arm, seed) for seed, arm in product(seeds, dict.fromkeys(arms))]


def mean_auc(run: Run, out: Path, hard: bool) -> Iterator[Statistic]:
    """Yield the mean test AUC of a run, once if its record exists."""
    for path in run.folder(out).glob(f"phantom/{run.arm.method}/*-seed{run.seed}-*/scores.parquet"):
        test = split_scores(load_scores(path))
        labels = test.labels.copy()
        if hard:
            # The same images count without the dial, where the subtype does not differ from the others.
            phantom = Phantom(hard_subtypes=HARD_SHARE)
            rows = (phantom.index(None).images["split"] == "test").to_numpy()
            labels[(labels == 1) & ~phantom.hard()[rows]] = np.nan
        each = auc.evaluate(test.scores, labels, test.patients, RESAMPLES)
        enough = [one for one in each if one.patients >= MIN_PATIENTS_IN_MEAN]
        yield average_findings(enough, len(np.unique(test.patients)))


class Lead(NamedTuple):
    """Difference of two methods' mean AUC, averaged over the seeds of both.

    Attributes:
        runs: mean AUC of each run, by method.
        statistic: the difference.
        weight: sum of the squared weights of the runs.
    """

    runs: list[list[Statistic]]
    statistic: Statistic
    weight: float


def lead(pair: tuple[Arm, Arm], dial: str, setting: float, seeds: Sequence[int], out: Path, hard: bool) -> Lead | None:
    """Compute the lead of the first method over the second; None before both have two runs."""
    runs = [[one for seed in seeds for one in mean_auc(Run(arm, dial, setting, seed), out, hard)] for arm in pair]
    if min(map(len, runs)) < 2:
        return None
    difference = subtract(mean_statistic(runs[0]), mean_statistic(runs[1]))
    return Lead(runs, difference, sum(1 / len(each) for each in runs))


def describe(statistic: Statistic, found: Spread | None) -> str:
    """Write a difference with its 95 % interval."""
    if found is None:
        return f"{statistic.value:+.3f}"
    low, high = statistic.value - found.margin, statistic.value + found.margin
    return f"{statistic.value:+.3f} [{low:+.3f}, {high:+.3f}]"


def outcome(effect: Effect, value: float, found: Spread | None) -> str:
    """Say whether the prediction came true: "not found" if the interval holds 0, which does not exclude an effect."""
    if found is None:
        return "not testable: too few patients"
    if abs(value) <= found.margin:
        return "as predicted: no difference found" if effect == "none" else "not found"
    return "as predicted" if (effect == "more") == (value > 0) and effect != "none" else "**against the prediction**"


def table(seeds: Sequence[int], out: Path) -> list[str]:
    """Return the lines of both Markdown tables, of the runs that exist."""
    lines = [
        "| dial | difference in mean AUC | predicted | dial off | dial on | change | came out |",
        "|---|" + "---|" * 6,
    ]
    for one in PREDICTIONS:
        pair = one.first, one.second
        leads = [lead(pair, *where, seeds, out, one.hard) for where in (("", 0.0), (one.dial, one.setting))]
        off, on = leads
        if off is None or on is None:
            continue
        pooled = pool_seed_variance([*off.runs, *on.runs])
        change = subtract(on.statistic, off.statistic)
        of_change = spread(change, off.weight + on.weight, pooled)
        what = f"{one.first} - {one.second}" + (", hard positives" if one.hard else "")
        cells = [f"`{one.dial}={one.setting:g}`", what, one.effect, *(_lead_cell(each, pooled) for each in (off, on))]
        cells += [describe(change, of_change), outcome(one.effect, change.value, of_change)]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "| all dials off: difference in mean AUC | predicted | difference | came out |", "|---|---|---|---|"]
    found = [(pair, lead(pair, "", 0.0, seeds, out, hard=False)) for pair in NULLS]
    pooled = pool_seed_variance([runs for _, one in found if one for runs in one.runs])
    for (first, second), one in found:
        if one is not None:
            said = outcome("none", one.statistic.value, spread(one.statistic, one.weight, pooled))
            lines.append(f"| {first} - {second} | none | {_lead_cell(one, pooled)} | {said} |")
    return lines


def _lead_cell(one: Lead, pooled: SeedVariance | None) -> str:
    return describe(one.statistic, spread(one.statistic, one.weight, pooled))


@click.command(help=__doc__)
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder of all runs.")
@click.option("--seeds", default=5, show_default=True, help="Number of seeds.")
@click.option("--jobs", default=1, show_default=True, help="Runs at a time.")
@click.option("--runs", type=int, help="Train at most so many runs.")
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="Change a recipe setting of all runs.")
def main(out: Path, seeds: int, jobs: int, runs: int | None, sets: tuple[str, ...]) -> None:
    """Train the missing runs, then write `predictions.md` into the folder."""
    needed = needed_runs(range(seeds))[:runs]
    with ThreadPoolExecutor(jobs) as pool:
        trained = {pool.submit(run.train, out, sets): run for run in needed}
        for done, future in enumerate(as_completed(trained), 1):
            run, status = trained[future], future.result()
            said = "done" if status == 0 else f"failed: see {run.folder(out).parent / f'seed{run.seed}.txt'}"
            click.echo(f"{done} of {len(needed)}: {run.arm} {run.dial}={run.setting:g} seed {run.seed} {said}")
    lines = table(range(seeds), out)
    (out / "predictions.md").write_text("\n".join(lines) + "\n")
    click.echo("\n".join(lines))


if __name__ == "__main__":
    main()
