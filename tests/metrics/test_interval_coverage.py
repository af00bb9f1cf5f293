"""Do 95 % intervals hold the truth in 95 % of the studies, and do tests at 5 % err in 5 %? By simulation.

In a study, patients have 1 to 5 images each. A finding is on all images of a patient, which score d higher; half of the
variance of a score belongs to the patient. Each pair of a positive and a negative image is then of two patients, and
their difference is normal with mean d and variance 2: the true AUC is Phi(d / sqrt 2). A run of a method trains with a
seed, which moves its d, so that its AUC differs from that of its next seed.

The truth of average precision and of the Brier score, which depend on the number of images and on the prevalence of the
study, is their mean over all studies. Each test has a short form and one of 2,000 studies (`pytest -m long`).
"""

from itertools import combinations

import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import norm

from chxbench.benchmark.metrics import auc as auc_metrics
from chxbench.benchmark.metrics import calibration, operating_point
from chxbench.benchmark.metrics.intervals import (
    MIN_PATIENTS,
    MIN_PATIENTS_IN_MEAN,
    average_findings,
    compare_means,
    interval,
    mean_statistic,
    pool_seed_variance,
    spread,
    subtract,
)
from chxbench.benchmark.metrics.localization import Boxes, BoxMatches, evaluate_means
from chxbench.benchmark.metrics.paired import compare, holm

FORMS = [pytest.param(250, 0.025, id="short"), pytest.param(2000, 0, id="long", marks=pytest.mark.long)]
RESAMPLES = 200
SEED_SD = 0.05  # standard deviation of d between seeds; the mean AUC of 4 findings moves by about 0.01


def patients_of(rng, patients):
    return np.repeat(np.arange(patients), rng.integers(1, 6, patients))


def labels_of(rng, of_image, positives):
    """Labels (N, C): of each finding, this many random patients have it."""
    chosen = [rng.permutation(of_image.max() + 1) < count for count in positives]
    return np.stack(chosen, axis=1)[of_image].astype(float)


def random_labels_of(rng, of_image, positives):
    """Labels (N, C): of each finding, this many patients have it on average, but no fewer than a mean needs."""
    patients = of_image.max() + 1
    return labels_of(
        rng, of_image, [max(rng.binomial(patients, n / patients), MIN_PATIENTS_IN_MEAN) for n in positives]
    )


def scores_of(rng, labels, of_image, shift):
    noise = rng.standard_normal((of_image.max() + 1, labels.shape[1]))[of_image] + rng.standard_normal(labels.shape)
    return shift * labels + np.sqrt(0.5) * noise


def true_auc(shift):
    return norm.cdf(shift / np.sqrt(2))


def share_of(intervals, truth):
    """Share of the intervals that hold the truth; those without ends are left out."""
    shown = [one for one in intervals if one.low is not None]
    assert len(shown) > 0.5 * len(intervals)
    return np.mean([one.low <= truth <= one.high for one in shown])


def check(share, slack):
    assert 0.93 - slack <= share <= 0.97 + slack, share


@pytest.mark.parametrize(("studies", "slack"), FORMS)
@pytest.mark.parametrize("auc", [0.7, 0.85, 0.95])
def test_the_auc_of_a_finding_from_its_smallest_number_of_patients_on(auc, studies, slack):
    rng, shift, found = np.random.default_rng(1), norm.ppf(auc) * np.sqrt(2), []
    for study in range(studies):
        of_image = patients_of(rng, 200)
        labels = labels_of(rng, of_image, [MIN_PATIENTS])
        scores = scores_of(rng, labels, of_image, shift)
        found.append(interval(*auc_metrics.evaluate(scores, labels, of_image, RESAMPLES, study)))
    check(share_of(found, auc), slack)


def calibrated(scores, positives, patients, shift):
    odds = np.array(positives) / (patients - np.array(positives))
    return expit(shift * scores - shift**2 / 2 + np.log(odds))


def study_of_means(rng, patients, positives, study, shift=0.8):
    """Mean AUC, average precision and Brier score of findings that so many patients have on average."""
    of_image = patients_of(rng, patients)
    labels = random_labels_of(rng, of_image, positives)
    scores = scores_of(rng, labels, of_image, shift)
    probabilities = calibrated(scores, positives, patients, shift)
    each = {
        "auc": auc_metrics.evaluate(scores, labels, of_image, RESAMPLES, study),
        "precision": auc_metrics.evaluate(scores, labels, of_image, RESAMPLES, study, auc_metrics.measure_precision),
        "brier": calibration.evaluate_brier(probabilities, labels, of_image, RESAMPLES, study),
    }
    return {name: average_findings(findings, patients) for name, findings in each.items()}


@pytest.mark.parametrize(("studies", "slack"), FORMS)
@pytest.mark.parametrize(
    ("patients", "positives"),
    [
        pytest.param(134, [13] * 6 + [20, 40], id="few positives"),
        pytest.param(206, [24] * 6 + [36, 69], id="as the phantom"),
        pytest.param(600, [20, 30, 60, 60, 90, 120], id="more patients"),
        pytest.param(MIN_PATIENTS, [12] * 4, id="the smallest subgroup"),
    ],
)
def test_means_over_findings(patients, positives, studies, slack):
    rng = np.random.default_rng(2)
    found = [study_of_means(rng, patients, positives, study) for study in range(studies)]
    for name in ("auc", "precision", "brier"):
        of_metric = [study[name] for study in found]
        truth = true_auc(0.8) if name == "auc" else np.mean([one.value for one in of_metric])
        check(share_of([interval(one) for one in of_metric], truth), slack)


@pytest.mark.parametrize(("studies", "slack"), FORMS)
@pytest.mark.parametrize(
    ("patients", "positives"),
    [
        pytest.param(134, [29, 10, 29, 52, 17, 12, 93, 12, 19, 32, 7, 9, 14, 3], id="as the trial"),
        pytest.param(134, [3] * 14, id="3 patients per finding"),
        pytest.param(200, [MIN_PATIENTS], id="the smallest number of patients with a finding"),
    ],
)
def test_the_brier_score_of_findings_that_few_patients_have(patients, positives, studies, slack):
    """Whether it is shown depends on the patients with any finding, here about 32 or more."""
    rng, found = np.random.default_rng(8), []
    for study in range(studies):
        of_image = patients_of(rng, patients)
        labels = labels_of(rng, of_image, rng.binomial(patients, np.array(positives) / patients))
        probabilities = calibrated(scores_of(rng, labels, of_image, 0.8), positives, patients, 0.8)
        each = calibration.evaluate_brier(probabilities, labels, of_image, RESAMPLES, study)
        found.append(average_findings(each, patients))
    check(share_of([interval(one) for one in found], np.mean([one.value for one in found])), slack)


@pytest.mark.parametrize(("studies", "slack"), FORMS)
def test_sensitivity_and_specificity(studies, slack):
    rng, found = np.random.default_rng(3), []
    for study in range(studies):
        of_image = patients_of(rng, 200)
        labels = labels_of(rng, of_image, [40])
        scores = scores_of(rng, labels, of_image, 1)
        found += operating_point.evaluate(scores, labels, of_image, [0.8], RESAMPLES, study)
    check(share_of([one.sensitivity for one in found], norm.sf(0.8 - 1)), slack)
    check(share_of([one.specificity for one in found], norm.cdf(0.8)), slack)


@pytest.mark.parametrize(("studies", "slack"), FORMS)
def test_pointing_game_and_box_accuracy(studies, slack):
    """Findings with the smallest number of patients with boxes, 1 to 3 boxes a patient, hits that patients share."""
    rng, found = np.random.default_rng(4), []
    rates, counts = np.array([0.2, 0.4, 0.6, 0.5]), [MIN_PATIENTS_IN_MEAN, 15, 30, 60]
    for study in range(studies):
        finding, image = [], []
        for c, count in enumerate(counts):
            repeats = rng.integers(1, 4, count)
            finding += [c] * repeats.sum()
            image += np.repeat(np.arange(count), repeats).tolist()
        image, finding = np.array(image), np.array(finding)
        boxes = Boxes(np.arange(len(image)), finding, np.zeros((len(image), 4)), image)
        skill = rng.standard_normal((100, 4))[image, finding] + rng.standard_normal(len(image))
        pointed = norm.cdf(skill / np.sqrt(2)) < rates[finding]
        matches = BoxMatches(np.repeat(pointed[:, None], 12, axis=1), np.zeros((4, 12), int), pointed)
        found.append([interval(one) for one in evaluate_means(matches, boxes, RESAMPLES, study)[:2]])
    for of_metric in zip(*found, strict=True):
        check(share_of(of_metric, rates.mean()), slack)


def runs_of(rng, labels, of_image, shift, seeds, study, seed_sd=SEED_SD):
    """Mean AUC of each seed of a method; runs share half of the noise of an image, as networks do."""
    common = rng.standard_normal(labels.shape)
    runs = []
    for _ in range(seeds):
        own = scores_of(rng, labels, of_image, shift + seed_sd * rng.standard_normal())
        each = auc_metrics.evaluate(own + common, labels, of_image, RESAMPLES, study)
        runs.append(average_findings(each, of_image.max() + 1))
    return runs


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


# Studies of boards take longer.
BOARDS = [pytest.param(100, 0.04, id="short"), pytest.param(2000, 0, id="long", marks=pytest.mark.long)]


@pytest.mark.parametrize(("studies", "slack"), BOARDS)
@pytest.mark.parametrize(("seeds", "rows"), [(2, 2), (3, 7), (5, 2)])
def test_boards_without_an_effect_claim_one_in_twenty_times_and_their_rows_hold_the_truth(seeds, rows, studies, slack):
    truth = norm.cdf(1 / np.sqrt(4 + SEED_SD**2))
    claimed, intervals = [], []
    for board in simulate_boards(studies, seeds, rows):
        claimed.append(claims(board)[0])
        intervals.append(interval(mean_statistic(board[0]), 1 / seeds, pool_seed_variance(board)))
    assert np.mean(claimed) <= 0.07 + slack
    check(share_of(intervals, truth), slack)


@pytest.mark.parametrize(("studies", "slack"), BOARDS)
def test_ranks_of_equal_methods_are_told_apart_on_one_board_of_twenty(studies, slack):
    claimed = []
    for board in simulate_boards(studies, 3, 4):
        variance = pool_seed_variance(board)
        found = [compare_means(one, two, variance) for one, two in combinations(board, 2)]
        claimed.append(min(holm([error.p_value(difference.value) for difference, error in found])) < 0.05)
    assert np.mean(claimed) <= 0.07 + slack


@pytest.mark.parametrize(("studies", "slack"), BOARDS)
def test_a_method_differs_from_a_floor_as_good_in_one_study_of_twenty(studies, slack):
    """The floor is a single run without a seed; methods are compared with it over their seeds."""
    rng, claimed = np.random.default_rng(9), []
    for study in range(studies):
        of_image = patients_of(rng, 160)
        labels = labels_of(rng, of_image, [40] * 4)
        board = [runs_of(rng, labels, of_image, 1, 3, study) for _ in range(3)]
        (floor,) = runs_of(rng, labels, of_image, 2 / np.sqrt(4 + SEED_SD**2), 1, study, seed_sd=0)
        found = subtract(mean_statistic(board[0]), floor)
        claimed.append(spread(found, 1 / 3, pool_seed_variance(board)).p_value(found.value) < 0.05)
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


@pytest.mark.parametrize(("studies", "slack"), [pytest.param(50, 0.1, id="short"), BOARDS[1]])
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
@pytest.mark.parametrize("seeds", [2, 3])
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


def test_percentiles_with_few_positive_patients_miss_the_truth():
    """Why no interval is one of percentiles: from 5 positive patients, fewer than 90 % hold the truth."""
    rng, held = np.random.default_rng(7), []
    for study in range(250):
        of_image = patients_of(rng, 200)
        labels = labels_of(rng, of_image, [5])
        (found,) = auc_metrics.evaluate(scores_of(rng, labels, of_image, 1), labels, of_image, RESAMPLES, study)
        low, high = np.quantile(found.replicates, [0.025, 0.975])
        held.append(low <= true_auc(1) <= high)
    assert np.mean(held) < 0.9
