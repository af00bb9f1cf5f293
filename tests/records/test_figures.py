"""Figures: each carries the hash of all that it shows, is written whole, and draws what is hard to draw."""

import numpy as np
import pytest
from matplotlib import rc_context
from PIL import Image
from record_factory import heatmaps, publish, score_table
from scipy.special import expit

from chxbench.benchmark.leaderboard.plots import AucLine, Dot, auc_sha256, dots_sha256, draw_auc, draw_speed
from chxbench.benchmark.metrics.calibration import reliability
from chxbench.benchmark.metrics.localization import Frame
from chxbench.benchmark.metrics.ratios import Quartiles
from chxbench.benchmark.records.figures import overlays
from chxbench.benchmark.records.figures.overlays import Panel, draw_panels, finding_panel
from chxbench.benchmark.records.figures.reliability import draw_reliability
from chxbench.benchmark.records.figures.roc import draw_roc
from chxbench.benchmark.records.figures.style import (
    COLORS,
    KEY,
    drawn_from,
    figure_title,
    fold,
    line_style,
    new_figure,
    save,
)
from chxbench.benchmark.utils.errors import UserError

pytestmark = pytest.mark.usefixtures("full_figures")

EVIL = "$x_{1$ _a_ <b>bold</b> \x1b[31m\u202e 漢字 \\frac " + "long " * 10
LINE = AucLine("MA", 0.8, 0.7, 0.9, [0.79, 0.81])


def auc_lines(count, name=""):
    """As many methods, each seventh without a mean, controls and reported values among them."""
    values = np.random.default_rng(0).uniform(0.6, 0.8, count).tolist()
    return [
        AucLine(
            f"{k} {name}", v if k % 7 != 6 else None, v - 0.02, v + 0.02, [v], k % 3 == 1, v if k % 5 == 0 else None
        )._replace(floor=k % 9 == 8)
        for k, v in enumerate(values)
    ]


def around(speed):
    return Quartiles(0.95 * float(speed), float(speed), 1.1 * float(speed))


def dots(count, name=""):
    rng = np.random.default_rng(0)
    return [
        Dot(f"{k} {name}", around(rng.uniform(9, 4000)), 0.7 + k / 1000, 0.6, 0.8, k % 3 == 0) for k in range(count)
    ]


HARD = {
    "auc of one": lambda path: draw_auc(auc_lines(1), "one", path),
    "auc of 60": lambda path: draw_auc(auc_lines(60, EVIL), f"{EVIL}\n{EVIL}", path),
    "nothing defined": lambda path: draw_auc([LINE._replace(auc=None, low=None, high=None, seeds=[np.nan])], "", path),
    "speed of one": lambda path: draw_speed(dots(1), "one", path),
    "speed of 60": lambda path: draw_speed(dots(60, EVIL), f"{EVIL}\n{EVIL}", path),
}


@pytest.mark.parametrize("draw", HARD.values(), ids=HARD)
def test_a_figure_stands_on_white_at_a_legible_width_and_a_modest_size(draw, tmp_path):
    draw(tmp_path / "figure.png")
    assert [path.name for path in tmp_path.iterdir()] == ["figure.png"]
    with Image.open(tmp_path / "figure.png") as image:
        assert (image.width, image.mode) == (1360, "P")
        assert set(image.info) <= {KEY, "dpi"}
        corners = [(x, y) for x in (0, image.width - 1) for y in (0, image.height - 1)]
        assert {image.convert("RGBA").getpixel(corner) for corner in corners} == {(255, 255, 255, 255)}
        bound = 120_000 * max(1, image.height / 1500)
    assert (tmp_path / "figure.png").stat().st_size < bound


def colours(path):
    with Image.open(path) as image:
        rgb = image.convert("RGB")
        return {color: number for number, color in rgb.getcolors(rgb.width * rgb.height)}


def rgb(colour):
    return tuple(bytes.fromhex(colour[1:]))


def test_colours_are_drawn_exactly_though_they_are_few(tmp_path):
    lines = [line._replace(reported=None) for line in auc_lines(60, EVIL)]
    draw_auc([*lines[:59], lines[59]._replace(reported=0.7)], EVIL, tmp_path / "figure.png")
    assert colours(tmp_path / "figure.png")[rgb(COLORS[1])] > 50  # the one diamond and its place in the legend


def test_fourteen_lines_differ():
    assert len({str(line_style(number)) for number in range(14)}) == 14


def test_roc_curves_carry_the_hash_of_the_scores_and_show_every_defined_finding(tmp_path):
    table = score_table(1, without=["Hernia"])
    folder, record = publish(tmp_path / "results", table, "a0", "ROC")
    evil = record.model_copy(update={"dataset": record.dataset.model_copy(update={"title": EVIL})})
    draw_roc(evil, table, folder / "roc.png")
    assert drawn_from(folder / "roc.png") == record.scores.sha256
    seen = colours(folder / "roc.png")
    assert all(seen[rgb(colour)] > 500 for colour in COLORS)
    nothing = table.assign(**{f"label {finding}": 0.0 for finding in record.auc})
    folder, record = publish(tmp_path / "results", nothing, "a1", "Nothing", name="ma")
    assert record.mean_auc.value is None
    draw_roc(record, nothing, folder / "roc.png")
    assert colours(folder / "roc.png").get(rgb(COLORS[0]), 0) == 0
    assert drawn_from(folder / "roc.png") == record.scores.sha256


def test_a_figure_carries_the_hash_of_what_it_shows(tmp_path):
    path = tmp_path / "figure.png"
    draw_auc([LINE], "t", path)
    assert drawn_from(path) == auc_sha256([LINE], "t")
    draw_speed(dots(2), "t", path)
    assert drawn_from(path) == dots_sha256(dots(2), "t")


@pytest.mark.parametrize(
    ("shown", "digest", "others"),
    [
        pytest.param(
            LINE,
            auc_sha256,
            {"name": "x", "auc": 0.5, "low": 0.5, "high": None, "seeds": [0.79], "control": True, "reported": 0.8}
            | {"floor": True},
            id="auc",
        ),
    ],
)
def test_the_hash_changes_with_all_that_a_figure_shows(shown, digest, others):
    assert set(others) == set(shown._fields)
    changed = [shown._replace(**{field: value}) for field, value in others.items()]
    hashes = [digest([one], "t") for one in (shown, *changed)]
    hashes += [digest([shown], "other"), digest([], "t"), digest([shown, shown], "t"), digest([*changed[:2]], "t")]
    hashes += [digest([*changed[1::-1]], "t")]
    assert len(set(hashes)) == len(hashes)


def test_the_hash_does_not_depend_on_how_numbers_are_held():
    held = LINE._replace(auc=np.float64(0.8), seeds=np.array([0.79, 0.81]), control=np.False_, reported=np.nan)
    assert auc_sha256([held], "t") == auc_sha256([LINE], "t")


def test_the_best_stands_on_top_and_what_is_undefined_below(tmp_path):
    best, worst = LINE._replace(name="a", seeds=[]), LINE._replace(name="b", auc=0.71, seeds=[], control=True)
    undefined = LINE._replace(name="c", auc=None, low=None, high=None, seeds=[], reported=0.75)
    pictures = []
    for number, order in enumerate(([best, worst, undefined], [undefined, worst, best])):
        draw_auc(order, "t", tmp_path / f"{number}.png")
        with Image.open(tmp_path / f"{number}.png") as image:
            pictures.append(np.asarray(image.convert("RGB")).astype(int))
    np.testing.assert_array_equal(*pictures)
    height = len(pictures[0])
    rows = [np.flatnonzero((pictures[0] == rgb(colour)).all(axis=2).any(axis=1)) for colour in ("#0072B2", "#D55E00")]
    assert rows[0].min() < height / 3 < rows[1].min()


@pytest.fixture
def axes_of(monkeypatch, tmp_path):
    """The first axes that a call draws, instead of a file."""

    def draw(function, *about):
        kept = []
        monkeypatch.setattr(f"{function.__module__}.save", lambda figure, *_: kept.append(figure))
        function(*about, tmp_path / "figure.png")
        return kept[0].axes[0]

    return draw


def drawn_at(axes):
    """Where marks and lines stand along the horizontal axis, without lines from end to end."""
    return sorted(x for line in axes.lines for x in line.get_xdata() if line.get_transform() == axes.transData)


def test_means_intervals_seeds_and_reported_values_stand_where_they_are(axes_of):
    line = LINE._replace(reported=0.85)
    assert drawn_at(axes_of(draw_auc, [line], "t")) == [0.7, 0.79, 0.8, 0.81, 0.85, 0.9]
    one_seed = line._replace(seeds=[0.8], reported=np.nan)
    assert drawn_at(axes_of(draw_auc, [one_seed], "t")) == [0.7, 0.8, 0.9]
    undefined = LINE._replace(auc=np.nan, seeds=[0.79, None])
    assert drawn_at(axes_of(draw_auc, [undefined], "t")) == [0.79]


def test_a_figure_names_only_what_it_shows(axes_of):
    """Without intervals none is announced, with one seed there is no mean over seeds."""
    bare = LINE._replace(low=None, high=np.nan, seeds=[0.8])
    shown = {name: axes_of(draw_auc, [line], "t") for name, line in (("whole", LINE), ("bare", bare))}
    labels = {name: axes.figure.legends[0].get_texts()[0].get_text() for name, axes in shown.items()}
    assert labels == {"whole": "mean over the seeds, 95 % interval", "bare": "mean over the findings"}
    assert {name: axes.get_xlabel() for name, axes in shown.items()} == {
        "whole": "Mean test AUC, 95 % interval",
        "bare": "Mean test AUC",
    }
    dot = Dot("MA", around(9), 0.8, None, None)
    assert axes_of(draw_speed, [dot], "t").get_ylabel() == "Mean test AUC"
    assert axes_of(draw_speed, [dot, *dots(1)], "t").get_ylabel() == "Mean test AUC, 95 % interval"


@pytest.mark.parametrize(
    ("doubtful", "told"),
    [
        pytest.param([False, False], None, id="none"),
        pytest.param([True, False], "not comparable (1 of 2 speeds): see the leaderboard", id="one"),
        pytest.param([True, True], "not comparable (all speeds): see the leaderboard", id="all"),
    ],
)
def test_a_figure_of_speeds_says_which_are_not_comparable(axes_of, doubtful, told):
    shown = [dot._replace(doubtful=doubt) for dot, doubt in zip(dots(2), doubtful, strict=True)]
    axes = axes_of(draw_speed, shown, "t")
    texts = [text.get_text() for legend in axes.figure.legends for text in legend.get_texts()]
    assert texts == ([told] if told else [])
    marks = [line for line in axes.lines if line.get_marker() == "o"]
    assert sorted(line.get_markerfacecolor() == "white" for line in marks) == sorted(doubtful)


def test_a_figure_of_speeds_shows_the_quartiles(axes_of):
    (dot,) = dots(1)
    bars = [list(line.get_xdata()) for line in axes_of(draw_speed, [dot], "t").lines if line.get_marker() != "o"]
    assert [dot.speed.low, dot.speed.high] in bars


@pytest.mark.parametrize(("floor", "told"), [(True, "Thumbnails\n"), (False, "Thumbnails, external predictions\n")])
def test_only_predictions_from_outside_are_called_external(tmp_path, floor, told):
    _, record = publish(tmp_path / "results", score_table(1), "a0", "Thumbnails")
    method = record.method.model_copy(update={"floor": floor})
    assert figure_title(record.model_copy(update={"recipe": None, "method": method})).startswith(told)


def test_a_reliability_diagram_shows_the_bins_that_hold_images(tmp_path, axes_of):
    table = score_table(1, without=["Hernia"])
    table["label Mass"] = np.nan
    _, record = publish(tmp_path / "results", table, "a0", "Calibrated")
    draw_reliability(record, table, tmp_path / "figure.png")
    assert drawn_from(tmp_path / "figure.png") == record.scores.sha256
    assert (tmp_path / "figure.png").stat().st_size < 120_000
    first = axes_of(draw_reliability, record, table)
    intervals, dots = first.collections
    test = table[table["split"] == "test"]
    probabilities = expit(test["score Atelectasis"].to_numpy(np.float64))
    labels = test["label Atelectasis"].to_numpy(np.float64)
    found = reliability(probabilities, labels, int(np.clip(labels.sum() // 8, 2, 15)))  # bins with enough positives
    np.testing.assert_array_equal(dots.get_offsets(), np.column_stack([found.predicted, found.observed]))
    ends = [segment[:, 1] for segment in intervals.get_segments()]
    np.testing.assert_array_equal(ends, np.column_stack([found.low, found.high]))
    assert first.get_xlim() == first.get_ylim()


def test_a_user_s_matplotlib_settings_change_nothing(tmp_path):
    draw_auc([LINE], "$t$", tmp_path / "one.png")
    with rc_context({"font.size": 20, "axes.facecolor": "red", "savefig.dpi": 30, "text.parse_math": True}):
        draw_auc([LINE], "$t$", tmp_path / "other.png")
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "other.png").read_bytes()


def test_a_figure_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "figure.png"
    path.write_bytes(b"what was there")
    monkeypatch.setattr("pathlib.Path.replace", lambda *_: (_ for _ in ()).throw(OSError("no space left")))
    with pytest.raises(UserError, match="no space left"):
        save(new_figure(1), path, "key")
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("figure.png", b"what was there")]


@pytest.mark.parametrize(
    ("text", "width", "lines"),
    [
        pytest.param("a b c", 3, "a b\nc", id="between words"),
        pytest.param("aaaaa", 3, "aaa\naa", id="within a word"),
        pytest.param("a\n\x1b[31m\u202eb", 20, "a [31m b", id="control characters"),
        pytest.param("漢 ü", 20, "? ü", id="not in the font"),
        pytest.param(" ", 20, "?", id="nothing"),
    ],
)
def test_text_is_folded_and_harmless(text, width, lines):
    assert fold(text, width) == lines


def peak(height):
    """A map (8, 8) with a peak of 2 x 2 places."""
    heat = np.zeros((8, 8), np.float32)
    heat[2:4, 2:4] = height
    return heat


GRAY_IMAGE = np.full((64, 64), 100, np.uint8)


@pytest.mark.parametrize(
    ("heat", "probability", "doubt"),
    [
        (peak(1), 0.5, ""),
        (peak(1), 0.14, "at its base rate"),
        (peak(1), 0.16, ""),
        (peak(1e-4) + 1, 0.5, "no contrast"),
        (peak(0), 0.5, "no contrast"),
        (None, 0.5, ""),
    ],
)
def test_a_score_at_its_base_rate_and_a_map_without_contrast_are_doubtful(heat, probability, doubt):
    panel = finding_panel("Pleural_Thickening", " (labeled)", GRAY_IMAGE, heat, np.empty((0, 4)), (probability, 0.1))
    assert panel.doubt == doubt
    assert panel.title == f"Pleural Thickening (labeled)\n{probability:.2f}, prevalence 0.10"


@pytest.fixture
def outlines(monkeypatch):
    """Outlines that are drawn: boxes, color, stroke."""
    drawn = []
    monkeypatch.setattr(
        overlays, "_outline", lambda axis, box, color, stroke, width: drawn.append((box, color, stroke))
    )
    return drawn


def test_the_boxes_of_both_thresholds_differ_and_one_around_the_whole_crop_is_not_drawn(outlines, tmp_path):
    wide = peak(1.0) + np.pad(np.ones((8, 6), np.float32), ((0, 0), (0, 2))) * 0.5
    for heat in (wide, peak(1.0) + 0.5 - 0.5 * (np.arange(64).reshape(8, 8) == 63)):
        draw_panels([Panel("", GRAY_IMAGE, heat, np.empty((0, 4)))], Frame(64, 64), tmp_path / "x.png", "", columns=1)
    assert [stroke for _, _, stroke in outlines] == [":", "--", "--"]
    assert outlines[0][0][2] > 2 * outlines[1][0][2]


def test_a_doubtful_heatmap_is_faint_and_without_predicted_boxes(outlines, tmp_path):
    colored = {}
    for doubt in ("", "at its base rate"):
        panel = Panel("", GRAY_IMAGE, peak(1.0), np.array([[0, 0, 0.5, 0.5]]), doubt)
        draw_panels([panel], Frame(64, 64), tmp_path / "x.png", "", columns=1)
        pixels = np.asarray(Image.open(tmp_path / "x.png").convert("RGB"), int)[60:240, 20:160]
        colored[doubt] = np.ptp(pixels, axis=2).max()
    assert colored["at its base rate"] < 0.5 * colored[""]
    assert [color for _, color, _ in outlines].count(overlays.PREDICTED) == 2  # those of the first figure
    assert [color for _, color, _ in outlines].count(overlays.TRUE) == 2


def test_published_heatmaps_are_small_and_keep_their_colors(tmp_path):
    rng = np.random.default_rng(0)
    gray = (np.add.outer(np.arange(72), np.arange(72)) + rng.integers(0, 9, (72, 72))).astype(np.uint8)
    maps = heatmaps(score_table(1), 1.0)
    panels = [Panel(f"{k}", gray, maps.maps[k, k], maps.boxes[k : k + 1]) for k in range(14)]
    for name, key in (("published", "key"), ("full", None)):
        draw_panels(panels, Frame(72, 64), tmp_path / f"{name}.png", "title", columns=5, key=key)
    assert drawn_from(tmp_path / "published.png") == "key"
    assert (tmp_path / "published.png").stat().st_size < 60_000
    images = (Image.open(tmp_path / f"{name}.png").convert("RGB") for name in ("published", "full"))
    small, full = (np.asarray(image, int) for image in images)
    assert small.shape == full.shape
    assert np.abs(small - full).mean() < 4  # of 255
