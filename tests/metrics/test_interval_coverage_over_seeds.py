"""Do 95 % intervals over test patients and training seeds hold the truth in 95 % of the studies? By simulation.

And do tests at 5 % err in 5 %? Each test has a short form and one of 2,000 studies (`pytest -m long`).
tests/helpers/interval_studies.py says what a study is. Seeds move mean AUC, average precision and Brier score of a
method about as much as on the board of the phantom, and hit rates more. Their variance is pooled over the methods of a
board, as there.
"""

from itertools import combinations
from typing import NamedTuple

import numpy as np
import pytest
from scipy.stats import norm

from chxbench.benchmark.metrics import auc as auc_metrics
from chxbench.benchmark.metrics import calibration
from chxbench.benchmark.metrics.intervals import (
    MIN_PATIENTS,
    SeedVariance,
    Statistic,
    average_findings,
    compare_means,
    interval,
    mean_statistic,
    pool_seed_variance,
    spread,
    subtract,
)
from chxbench.benchmark.metrics.localization import Boxes, evaluate_means
from chxbench.benchmark.metrics.paired import compare, holm
from tests.helpers.interval_studies import (
    calibrated,
    check,
    labels_of,
    matches_of,
    patients_of,
    random_labels_of,
    scores_of,
    share_of,
)

RESAMPLES = 200
SEED_SD = 0.05  # standard deviation of d between seeds: about 0.01 of the mean AUC and of the mean average precision
HIT_SEED_SD = 0.03  # of the hit rates of all findings; 0.015 on the board
BIAS, BIAS_SEED_SD = 0.3, 0.15  # of the log-odds, and its standard deviation: about 0.002 of the mean Brier score
PATIENTS = 206  # of the phantom's test split
POSITIVES = [36, 31, 41, 69, 33, 24, 26, 22, 23, 25, 20, 28, 25, 23]  # patients with each finding

BOARDS = [pytest.param(100, 0.04, id="short"), pytest.param(2000, 0, id="long", marks=pytest.mark.long)]
SLOW_BOARDS = [pytest.param(50, 0.1, id="short"), BOARDS[1]]  # of 14 findings


def scores_of_seeds(rng, labels, of_image, shift, seeds, seed_sd=SEED_SD):
    """Scores of each seed of a method, of variance 2; runs share half of the noise of an image, as networks do."""
    common = rng.standard_normal(labels.shape)
    for _ in range(seeds):
        yield scores_of(rng, labels, of_image, shift + seed_sd * rng.standard_normal()) + common


def runs_of(rng, labels, of_image, shift, seeds, study, seed_sd=SEED_SD):
    """Mean AUC of each seed of a method."""
    patients = of_image.max() + 1
    return [
        average_findings(auc_metrics.evaluate(scores, labels, of_image, RESAMPLES, study), patients)
        for scores in scores_of_seeds(rng, labels, of_image, shift, seeds, seed_sd)
    ]


def interval_of_first(board):
    """Interval of the first method, as on a board."""
    return interval(mean_statistic(board[0]), 1 / len(board[0]), pool_seed_variance(board))


def split_metrics(board):
    """For each metric, the board of its statistics; runs of `board` are lists of metrics."""
    metrics = range(len(board[0][0]))
    return [[[run[metric] for run in runs] for runs in board] for metric in metrics]


def simulate_boards(studies, seeds, rows, gain=0.0, findings=4):
    """Boards of methods of equal AUC, but for the first, which is better by about `gain`; 160 patients."""
    rng, shift = np.random.default_rng(5), 1.0
    slope = norm.pdf(shift / 2) / 2  # of the AUC, for a difference of variance 4
    for study in range(studies):
        of_image = patients_of(rng, 160)
        labels = labels_of(rng, of_image, [40] * findings)
        shifts = shift + np.array([gain / slope] + [0.0] * (rows - 1))
        yield [runs_of(rng, labels, of_image, one, seeds, study) for one in shifts]


def claims(board):
    """Whether the difference between the first two methods is significant, and in favor of the first."""
    found, error = compare_means(board[0], board[1], pool_seed_variance(board))
    return error.p_value(found.value) < 0.05, found.value > 0


@pytest.mark.parametrize(("studies", "slack"), BOARDS)
@pytest.mark.parametrize(("seeds", "rows"), [(2, 2), (3, 7), (5, 2)])
def test_boards_without_an_effect_claim_one_in_twenty_times_and_their_rows_hold_the_truth(seeds, rows, studies, slack):
    truth = norm.cdf(1 / np.sqrt(4 + SEED_SD**2))
    claimed, intervals = [], []
    for board in simulate_boards(studies, seeds, rows):
        claimed.append(claims(board)[0])
        intervals.append(interval_of_first(board))
    assert np.mean(claimed) <= 0.07 + slack
    check(share_of(intervals, truth), slack)


@pytest.mark.parametrize(("studies", "slack"), BOARDS)
@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_ranks_of_equal_methods_are_told_apart_on_one_board_of_twenty(seeds, studies, slack):
    claimed = []
    for board in simulate_boards(studies, seeds, 4):
        variance = pool_seed_variance(board)
        found = [compare_means(one, two, variance) for one, two in combinations(board, 2)]
        claimed.append(min(holm([error.p_value(difference.value) for difference, error in found])) < 0.05)
    assert np.mean(claimed) <= 0.07 + slack


@pytest.mark.parametrize(("studies", "slack"), BOARDS)
@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_a_method_differs_from_a_floor_as_good_in_one_study_of_twenty(seeds, studies, slack):
    """The floor is a single run without a seed; methods are compared with it over their seeds."""
    rng, claimed = np.random.default_rng(9), []
    for study in range(studies):
        of_image = patients_of(rng, 160)
        labels = labels_of(rng, of_image, [40] * 4)
        board = [runs_of(rng, labels, of_image, 1, seeds, study) for _ in range(3)]
        (floor,) = runs_of(rng, labels, of_image, 2 / np.sqrt(4 + SEED_SD**2), 1, study, seed_sd=0)
        found = subtract(mean_statistic(board[0]), floor)
        claimed.append(spread(found, 1 / seeds, pool_seed_variance(board)).p_value(found.value) < 0.05)
    assert np.mean(claimed) <= 0.07 + slack


@pytest.mark.parametrize(("studies", "slack"), BOARDS)
@pytest.mark.parametrize(("seeds", "rows"), [(3, 7), (2, 3)])
def test_runs_of_a_method_differ_in_3_to_4_pairs_of_100_by_the_variance_of_other_methods(seeds, rows, studies, slack):
    """The check without an effect of the leaderboard."""
    claimed = []
    for board in simulate_boards(studies, seeds, rows):
        for runs in board:
            variance = pool_seed_variance([other for other in board if other is not runs])
            found = [compare_means([one], [two], variance) for one, two in combinations(runs, 2)]
            claimed += [error.p_value(difference.value) < 0.05 for difference, error in found]
    assert 0.025 - slack / 2 <= np.mean(claimed) <= 0.045 + slack / 2


@pytest.mark.parametrize(("studies", "slack"), SLOW_BOARDS)
def test_a_planted_difference_of_three_points_is_found_from_five_seeds(studies, slack):
    """With 14 findings, as on a board: their mean varies less than that of 4."""
    found = [claims(board) for board in simulate_boards(studies, 5, 2, gain=0.03, findings=14)]
    assert np.mean([significant and better for significant, better in found]) >= 0.8 - slack
    assert not any(significant and not better for significant, better in found)


@pytest.mark.parametrize(("studies", "slack"), BOARDS)
def test_findings_of_single_runs_of_equal_auc_differ_in_one_study_of_twenty(studies, slack):
    rng, rejected, missed = np.random.default_rng(6), [], []
    for study in range(studies):
        of_image = patients_of(rng, 160)
        labels = labels_of(rng, of_image, [MIN_PATIENTS])
        common = rng.standard_normal(labels.shape)
        first, second = (scores_of(rng, labels, of_image, 1) + common for _ in range(2))
        one = compare([first], [second], labels, of_image, RESAMPLES, seed=study).each[0]
        rejected.append(one.p <= 0.05)
        missed.append(not one.low <= 0 <= one.high)
    assert rejected == missed and np.mean(rejected) <= 0.07 + slack


@pytest.mark.parametrize(("studies", "slack"), BOARDS)
@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_findings_of_methods_of_equal_auc_differ_in_one_study_of_twenty(seeds, studies, slack):
    """`chxbench compare` over seeds, whose variance is known from the two methods alone."""
    rng, rejected = np.random.default_rng(10), []
    for study in range(studies):
        of_image = patients_of(rng, 160)
        labels = labels_of(rng, of_image, [MIN_PATIENTS])
        common = rng.standard_normal(labels.shape)
        first, second = (
            [scores_of(rng, labels, of_image, 1 + SEED_SD * rng.standard_normal()) + common for _ in range(seeds)]
            for _ in range(2)
        )
        rejected.append(compare(first, second, labels, of_image, RESAMPLES, seed=study).each[0].p <= 0.05)
    assert np.mean(rejected) <= 0.07 + slack


def measure_run(rng, scores, labels, of_image, study):
    """Mean average precision and Brier score of a run, whose seed moves its log-odds as well."""
    bias = BIAS + BIAS_SEED_SD * rng.standard_normal()
    probabilities = calibrated(scores, POSITIVES, PATIENTS, 1, variance=2, bias=bias)
    precision = auc_metrics.evaluate(scores, labels, of_image, RESAMPLES, study, auc_metrics.measure_precision)
    brier = calibration.evaluate_brier(probabilities, labels, of_image, RESAMPLES, study)
    return [average_findings(each, PATIENTS) for each in (precision, brier)]


@pytest.mark.parametrize(("studies", "slack"), SLOW_BOARDS)
@pytest.mark.parametrize(("seeds", "rows"), [(2, 2), (3, 4), (5, 2)])
def test_average_precision_and_brier_score(seeds, rows, studies, slack):
    rng, found = np.random.default_rng(11), []
    for study in range(studies):
        of_image = patients_of(rng, PATIENTS)
        labels = random_labels_of(rng, of_image, POSITIVES)
        board = [
            [
                measure_run(rng, scores, labels, of_image, study)
                for scores in scores_of_seeds(rng, labels, of_image, 1, seeds)
            ]
            for _ in range(rows)
        ]
        found.append([interval_of_first(of_metric) for of_metric in split_metrics(board)])
    for intervals in zip(*found, strict=True):
        check(share_of(intervals, np.mean([one.value for one in intervals])), slack)


class Group(NamedTuple):
    """Test patients, of whom so many have each finding, and the share of their images that belongs to the group."""

    patients: int
    positives: list[int]
    share: float


@pytest.mark.parametrize(("studies", "slack"), SLOW_BOARDS)
@pytest.mark.parametrize(("seeds", "rows"), [(2, 2), (3, 4), (5, 2)])
@pytest.mark.parametrize(
    "group",
    [
        pytest.param(Group(PATIENTS, POSITIVES, 0.5), id="a view position"),
        pytest.param(Group(MIN_PATIENTS, [12] * 4, 1), id="the smallest"),
    ],
)
def test_the_mean_auc_of_a_subgroup(group, seeds, rows, studies, slack):
    """A patient may have images in the group and others, such as those of a view position."""
    rng, intervals = np.random.default_rng(12), []
    for study in range(studies):
        of_image = patients_of(rng, group.patients)
        labels = random_labels_of(rng, of_image, group.positives)
        belongs = rng.random(len(of_image)) < group.share
        part = np.unique(of_image[belongs], return_inverse=True)[1]
        board = [runs_of(rng, labels[belongs], part, 1, seeds, study) for _ in range(rows)]
        intervals.append(interval_of_first(board))
    check(share_of(intervals, norm.cdf(1 / np.sqrt(4 + SEED_SD**2))), slack)


def hits_of_seeds(rng, truth, rates, seeds):
    """Whether each box is hit by each seed of a method: patients and boxes are as hard for all of them."""
    patient, of_seed = truth.patients[truth.image], np.sqrt(1 / 3)
    common = rng.standard_normal((PATIENTS, len(rates)))[patient, truth.finding] + rng.standard_normal(len(patient))
    for _ in range(seeds):
        difficulty = norm.cdf(of_seed * (common + rng.standard_normal(len(patient))))
        yield difficulty < rates[truth.finding] + HIT_SEED_SD * rng.standard_normal()


def boxes_of(rng):
    """One or two boxes for each finding of an image."""
    of_image = patients_of(rng, PATIENTS)
    image, finding = np.nonzero(labels_of(rng, of_image, POSITIVES))
    repeats = rng.integers(1, 3, len(image))
    boxed, image = np.unique(np.repeat(image, repeats), return_inverse=True)
    return Boxes(image, np.repeat(finding, repeats), np.zeros((len(image), 4)), of_image[boxed])


@pytest.mark.parametrize(("studies", "slack"), SLOW_BOARDS)
@pytest.mark.parametrize(("seeds", "rows"), [(2, 2), (3, 7), (5, 2)])
def test_pointing_game_and_box_accuracy(seeds, rows, studies, slack):
    rng, found, rates = np.random.default_rng(13), [], np.linspace(0.1, 0.7, len(POSITIVES))
    for study in range(studies):
        truth = boxes_of(rng)
        board = [
            [
                evaluate_means(matches_of(hit, len(rates)), truth, RESAMPLES, study)[:2]
                for hit in hits_of_seeds(rng, truth, rates, seeds)
            ]
            for _ in range(rows)
        ]
        found.append([interval_of_first(of_metric) for of_metric in split_metrics(board)])
    for intervals in zip(*found, strict=True):
        check(share_of(intervals, rates.mean()), slack)


@pytest.mark.parametrize("freedom", [2, 8])
@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_any_share_of_the_seeds_in_the_variance(share, freedom):
    """4,000 normal values of variance 1 instead of studies; Satterthwaite's formula holds 92 % at (0.9, 2)."""
    rng, held = np.random.default_rng(14), []
    for _ in range(4000):
        sampling = (1 - share) * rng.chisquare(PATIENTS - 1) / (PATIENTS - 1)
        found = Statistic(rng.standard_normal(), np.sqrt(sampling / 2) * np.array([-1, 1]), PATIENTS)
        seeds = SeedVariance(share * rng.chisquare(freedom) / freedom, 0, freedom)
        held.append(abs(found.value) <= spread(found, 1, seeds).margin)
    check(np.mean(held), 0)


def test_a_method_that_varies_more_between_seeds_than_the_others_misses_the_truth():
    """The limit of pooling: of seven methods with three seeds, the first varies three times as much as the others."""
    rng, held = np.random.default_rng(15), []
    for _ in range(1000):
        of_patients, replicates = rng.standard_normal(), np.array([-1, 1]) / np.sqrt(2)
        values = of_patients + np.array([3, 1, 1, 1, 1, 1, 1])[:, None] * rng.standard_normal((7, 3))
        board = [[Statistic(value, value + replicates, PATIENTS) for value in runs] for runs in values]
        found = mean_statistic(board[0])
        held.append(abs(found.value) <= spread(found, 1 / 3, pool_seed_variance(board)).margin)
    assert np.mean(held) < 0.85
