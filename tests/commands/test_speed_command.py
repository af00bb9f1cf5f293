"""Speed: the numbers are consistent, records round-trip, the board shows what belongs to it, the command runs whole."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from markdown_it import MarkdownIt
from PIL import Image
from record_factory import edit, publish, recheck, score_table
from small_runs import invoke
from speed_factory import rounds_of, speed_fields
from torch import nn

from chxbench import METHODS, Method, Output, UserError
from chxbench.benchmark.commands.speed import measure as speed
from chxbench.benchmark.commands.speed import rounds
from chxbench.benchmark.commands.speed.measure import MeasuredMethod, measure_turn
from chxbench.benchmark.commands.speed.results import find_baseline
from chxbench.benchmark.commands.speed.rounds import order_of_round
from chxbench.benchmark.commands.speed.same_network import network_signature
from chxbench.benchmark.commands.speed.speed import publish_all
from chxbench.benchmark.dataset import FINDINGS
from chxbench.benchmark.engine.device import Device
from chxbench.benchmark.engine.memory import PeakMemory, keep_freed_memory
from chxbench.benchmark.leaderboard.boards import make_boards
from chxbench.benchmark.leaderboard.leaderboard import (
    check_leaderboard,
    read_runs,
    read_speeds,
    render,
    write_leaderboard,
)
from chxbench.benchmark.leaderboard.plots import Dot, dots_sha256
from chxbench.benchmark.leaderboard.speed import speed_sections
from chxbench.benchmark.metrics.ratios import Quartiles
from chxbench.benchmark.recipe import load_recipe
from chxbench.benchmark.records import speed_record
from chxbench.benchmark.records.figures.style import drawn_from
from chxbench.benchmark.records.record import RecordError
from chxbench.benchmark.utils.cpu_time import STAT
from chxbench.benchmark.utils.options import build
from chxbench.benchmark.utils.signals import Interrupted
from chxbench.benchmark.utils.workspace import Workspace

SIDE = 16


class Tiny(nn.Module):
    """One convolution and one linear layer; runs out of memory above `most` images, as a GPU would say it."""

    def __init__(self, findings, most=10**9):
        super().__init__()
        self.most = most
        self.convolve = nn.Conv2d(3, 4, 3, padding=1)
        self.classify = nn.Linear(4, findings)

    def forward(self, images):
        if len(images) > self.most:
            raise torch.OutOfMemoryError(f"{len(images)} images are too many")
        return Output(self.classify(self.convolve(images).mean((2, 3))))


class TinyMethod(Method):
    title = "Tiny"
    name = "tiny"

    def build(self, findings, weights):
        assert weights == "none"
        return Tiny(len(findings))


@pytest.fixture
def subject():
    recipe = load_recipe("quick", {"pixels.crop": SIDE, "train.batch_size": 8})
    return MeasuredMethod(Device("float32", "cpu"), TinyMethod(), recipe, FINDINGS, seconds=0.01)


def limited(most):
    return Tiny(len(FINDINGS), most)


def test_parameters_and_operations_are_those_counted_by_hand(subject):
    network = subject.network()
    weights = 4 * 3 * 9 + 4 * len(FINDINGS)
    assert speed.count_parameters(network) == weights + 4 + len(FINDINGS)
    assert speed.count_operations(subject, network) == 2 * (SIDE * SIDE * 4 * 3 * 9 + 4 * len(FINDINGS))


@pytest.mark.parametrize("name", [entry.name for entry in METHODS])
def test_the_parameters_of_every_method_are_counted(name, subject):
    method = build(METHODS.get(name).cls, {"backbone": "resnet18"}, "")
    network = replace(subject, method=method).network()
    assert speed.count_parameters(network) == sum(parameter.numel() for parameter in network.parameters())
    assert speed.count_operations(replace(subject, method=method), network) > 2 * SIDE * SIDE


def test_percentiles_are_left_out_where_they_mean_nothing():
    times = np.random.default_rng(0).random(100)
    assert [*speed.percentiles(times).values()] == pytest.approx([1e3 * np.quantile(times, q) for q in (0.95, 0.99)])
    assert speed.percentiles(times[:99])["p99"] is None
    assert speed.percentiles(times[:20])["p95"] is not None
    assert speed.percentiles(times[:19])["p95"] is None


def test_calls_are_repeated_for_the_time_given_after_those_that_warm_up(subject):
    calls = []
    taken = speed.repeat(lambda: calls.append(1), replace(subject, seconds=0))
    assert (len(taken), len(calls)) == (speed.MIN_REPETITIONS, speed.MIN_REPETITIONS + speed.WARM_UP)
    assert len(speed.repeat(lambda: None, replace(subject, seconds=60))) == speed.MAX_REPETITIONS
    assert (taken > 0).all()
    assert len(speed.repeat(lambda: None, replace(subject, seconds=0), once=True)) == 1


def limited_method(subject, most):
    class Limited(TinyMethod):
        def build(self, findings, weights):
            return limited(most)

    return replace(subject, method=Limited())


def test_batches_are_halved_until_they_fit_the_memory(subject):
    plan = speed.plan_rounds(limited_method(subject, 5), [1, 2, 32])
    assert (plan.inference, plan.training) == ({1: 1, 2: 2, 32: 4}, 4)
    assert plan.measurements == 3 + 3
    with pytest.raises(UserError, match="a batch of 1 does not fit in device memory"):
        speed.plan_rounds(limited_method(subject, 0), [2])
    with pytest.raises(UserError, match="a batch of 2 does not fit"):
        speed.plan_rounds(limited_method(subject, 1), [1])


def test_memory_that_no_longer_suffices_is_an_error(subject):
    plan = speed.Plan(1, 1, {8: 8}, 8)
    with pytest.raises(UserError, match="a batch of 8 does not fit"):
        speed.measure_inference(limited_method(subject, 5), plan, lambda count: None)


def test_other_errors_of_a_network_are_not_taken_for_a_lack_of_memory(subject):
    network = limited(5)
    network.classify = nn.Linear(5, 14)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        list(speed.feasible_sizes(subject, network, [2]))


def test_a_batch_that_would_take_too_long_is_left_out(subject, monkeypatch):
    monkeypatch.setattr(speed, "TOO_LONG", 1e-9)
    assert list(speed.feasible_sizes(subject, limited(9), [10**6])) == [None]


def signature(subject, method):
    return network_signature(replace(subject, method=method))


class Pooled(Tiny):
    """As Tiny, with a pooling that no module shows."""

    def __init__(self, findings, pool):
        super().__init__(findings)
        self.pool = pool

    def forward(self, images):
        return Output(self.classify(self.pool(self.convolve(images))))


def pooled(change=lambda network: network, pool=lambda maps: maps.mean((2, 3)), loss=Method.loss):
    members = {"build": lambda self, findings, weights: change(Pooled(len(findings), pool)), "loss": loss}
    return type("Pooled", (Method,), {"title": "Pooled", "name": "pooled", **members})()


def with_changed(**changes):
    def change(network):
        for name, value in changes.items():
            setattr(network, name, value)
        return network

    return change


@pytest.mark.parametrize(
    "other",
    [
        pytest.param({"change": with_changed(convolve=nn.Conv2d(3, 4, 3, padding=1, bias=False))}, id="parameters"),
        pytest.param({"change": with_changed(convolve=nn.Conv2d(3, 4, 3, padding=2, dilation=2))}, id="settings"),
        pytest.param({"change": with_changed(repeats=3)}, id="attribute"),
        pytest.param(
            {"change": with_changed(convolve=nn.Conv2d(3, 4, 3, padding=1).requires_grad_(False))}, id="frozen"
        ),
        pytest.param({"pool": lambda maps: maps.amax((2, 3))}, id="function"),
        pytest.param({"loss": lambda *arguments: Method.loss(*arguments)}, id="loss"),
    ],
)
def test_networks_that_differ_are_measured_apart(subject, other):
    assert signature(subject, pooled()) == signature(subject, pooled())
    assert signature(subject, pooled()) != signature(subject, pooled(**other))


def test_methods_that_differ_in_training_alone_share_a_network(subject):
    options = {"backbone": "test_resnet"}
    found = {
        name: signature(subject, build(METHODS.get(name).cls, options, "")) for name in ("sam", "ma", "ma_again", "fam")
    }
    assert found["sam"] == found["ma"] == found["ma_again"] != found["fam"]
    cam = build(METHODS.get("sam").cls, {**options, "heatmap": "cam"}, "")
    assert signature(subject, cam) != found["sam"]


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7])
def test_every_order_has_each_network_once_and_a_steady_drift_cancels(size):
    orders = [order_of_round(size, number) for number in range(8)]
    assert all(sorted(order) == list(range(size)) for order in orders)
    for first, second in zip(orders[::2], orders[1::2], strict=True):
        assert {first.index(network) + second.index(network) for network in range(size)} == {size - 1}
    assert len({order[0] for order in orders[::2]}) == min(size, 4)


@pytest.mark.parametrize(
    ("names", "baseline"),
    [
        pytest.param(["ma", "wang2017", "fam", "bsl"], "bsl", id="what all extend"),
        pytest.param(["ma_random", "sam", "ma"], "sam", id="what the others extend"),
        pytest.param(["wang2017", "bsl"], "wang2017", id="the first"),
    ],
)
def test_the_baseline_is_what_the_others_extend(names, baseline):
    assert find_baseline([METHODS.get(name) for name in names]) == baseline


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells the peak of the resident set")
def test_the_peak_is_of_what_happened_since():
    def peak_of(megabytes):
        peak = PeakMemory(torch.device("cpu"))
        np.ones(megabytes << 20, np.uint8)
        return peak.bytes()

    keep_freed_memory()  # as every device does
    before, during, after = peak_of(1), peak_of(300), peak_of(1)
    assert during > before + (250 << 20)
    assert after < during - (250 << 20)


def test_a_record_is_read_as_it_was_written_and_replaced_by_the_same_setup(tmp_path):
    record, path, replaced = speed_record.publish(speed_fields(), tmp_path)
    assert not replaced
    assert path.relative_to(tmp_path).parts[:2] == ("speed", "a-cpu")
    assert speed_record.read(path) == record
    assert record.fastest == 0
    assert record.quartiles("inference") == pytest.approx((99, 100, 101))
    again, same, replaced = speed_record.publish(speed_fields(rounds=rounds_of(inference=50.0)), tmp_path)
    assert (same, replaced, again.quartiles("inference").median) == (path, True, 50.0)
    assert speed_record.find(tmp_path) == [path]


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"name": "sam"}, id="method"),
        pytest.param({"method": {"options": {"pool": "max"}}}, id="option"),
        pytest.param({"method": {"built_in": False}}, id="plugin"),
        pytest.param({"crop": 32}, id="crop"),
        *(
            pytest.param({"setup": {key: value}}, id=key)
            for key, value in {
                "device": "another",
                "cores": 4,
                "precision": "bfloat16",
                "compiled": True,
                "torch": "3",
            }.items()
        ),
        pytest.param({"setup": {"batch_sizes": [1]}}, id="batch sizes"),
    ],
)
def test_whatever_a_speed_depends_on_makes_another_record(tmp_path, changes):
    speed_record.publish(speed_fields(), tmp_path)
    assert not speed_record.publish(speed_fields(**changes), tmp_path)[2]
    assert len(speed_record.find(tmp_path)) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(lambda c: c["rounds"][0].update(latency=1.0), "was changed after it was written", id="a number"),
        pytest.param(lambda c: (c.update(schema=2), recheck(c)), "has schema 2, this version reads 3", id="schema"),
        pytest.param(lambda c: (c.pop("training"), recheck(c)), "training: Field required", id="a key less"),
        pytest.param(lambda c: (c.update(note=""), recheck(c)), "note: Extra inputs", id="a key more"),
        pytest.param(lambda c: (c["setup"].update(crop=32), recheck(c)), "move it there", id="another setup"),
        pytest.param(
            lambda c: (c["rounds"].append(c["rounds"][0]), recheck(c)),
            "baseline must have as many rounds",
            id="a round more",
        ),
        pytest.param(
            lambda c: (c["rounds"][1].update(inference=[1.0]), recheck(c)),
            "one number per batch size",
            id="a size less",
        ),
        pytest.param(lambda c: (c["rounds"][0].update(steps=0.0), recheck(c)), "greater than 0", id="no speed"),
        pytest.param(lambda c: (c.update(rounds=c["rounds"][:2]), recheck(c)), "at least 3 items", id="two rounds"),
    ],
)
def test_a_record_that_is_not_as_it_was_written_is_refused(tmp_path, change, message):
    _, path, _ = speed_record.publish(speed_fields(), tmp_path)
    edit(path, change)
    with pytest.raises(RecordError, match=message):
        speed_record.read(path)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A board of two methods, and the speed of one."""
    base = tmp_path_factory.mktemp("two")
    publish(base / "results", score_table(0.5), "a0", "Weak")
    publish(base / "results", score_table(1.5, 1), "b0", "Strong", name="ma")
    speed_record.publish(speed_fields(), base / "results")
    write_leaderboard(Workspace(base / "results"))
    return base


@pytest.fixture
def results(two, tmp_path):
    """A copy of it that a test may change."""
    shutil.copytree(two, tmp_path, dirs_exist_ok=True)
    return tmp_path / "results"


def board(results):
    return render(make_boards(read_runs(Workspace(results))), read_speeds(Workspace(results)))


def speed_rows(text):
    """The cells of the rows of all speed tables."""
    lines = text.splitlines()
    starts = [number for number, line in enumerate(lines) if line.startswith("| Method") and "GFLOPs" in line]
    tables = [lines[start + 2 : lines.index("", start)] for start in starts]
    return [[cell.strip() for cell in line.strip("|").split("|")] for table in tables for line in table]


def test_the_board_shows_the_speed_beside_the_auc(results):
    run = next(run for run in read_runs(Workspace(results)) if run.record.method.name == "ma")
    text = board(results)
    wanted = ["42.5", "1.27", "12.3 (12.2–12.4)", "14.5", "–", "100 (99.0–101)", "32", "1.00"]
    wanted += ["31.4 (31.1–31.7)", "50,000", "30.1 (29.8–30.4)", "32", "1.00"]
    wanted += ["1.00 [1.00, 1.00]", "0.91 [0.91, 0.91]", "1.00 [1.00, 1.00]", "1.0"]
    assert speed_rows(text) == [["Strong", f"{run.record.mean_auc.value:.3f}", *wanted]]
    assert "Speed on a CPU (2 cores), float32" in text
    assert "speed cannot be recomputed" in text


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"crop": 32}, id="crop"),
        pytest.param({"name": "sam"}, id="method"),
        pytest.param({"method": {"options": {"pool": "max"}}}, id="options"),
        pytest.param({"method": {"source_sha256": "1" * 64}}, id="other code of the same name"),
    ],
)
def test_a_speed_of_something_else_is_not_shown(results, changes):
    shown = board(results)
    speed_record.publish(speed_fields(**changes, setup={"device": "another"}), results)
    assert board(results) == shown


IMPOSSIBLE = "end to end 1.02 times as fast as its own steps, which is impossible"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        pytest.param({"others": 0.06}, ["other processes used 6 % of the cores"], id="busy"),
        pytest.param({"others": 0.049}, [], id="nearly idle"),
        pytest.param({"others": None}, [], id="unknown"),
        pytest.param({"end_to_end": 32.0}, [IMPOSSIBLE], id="impossible"),
        pytest.param({"end_to_end": [31.0, 32.5, 31.3]}, [], id="faster within the noise"),
        pytest.param(
            {"end_to_end": 32.0, "others": 0.06}, ["other processes used 6 % of the cores", IMPOSSIBLE], id="both"
        ),
    ],
)
def test_speeds_that_cannot_be_compared_are_marked(results, changes, told):
    speed_record.publish(speed_fields(rounds=rounds_of(**changes)), results)
    text = board(results)
    assert (f"**Not comparable:** Strong ({', '.join(told)})." in text) == bool(told)
    assert ("Not comparable" in text) == bool(told)


def test_doubts_about_the_baseline_are_those_of_the_row(results):
    baseline = {"method": "bsl", "rounds": rounds_of(others=0.3)}
    speed_record.publish(speed_fields(baseline=baseline), results)
    assert "Strong (the baseline: other processes used 30 % of the cores)." in board(results)


def test_the_figure_says_which_speeds_cannot_be_compared(results):
    def section():
        (only,) = speed_sections(*make_boards(read_runs(Workspace(results))), read_speeds(Workspace(results)))
        return only

    sure = section()
    assert [dot.doubtful for dot in sure.dots] == [False]
    speed_record.publish(speed_fields(rounds=rounds_of(others=0.3)), results)
    assert [dot.doubtful for dot in section().dots] == [True]
    assert section().sha256 != sure.sha256


def test_rows_that_share_a_measurement_say_so(results):
    publish(results, score_table(1.2, 2), "c0", "Same", name="sam")
    for name, other in (("ma", "sam"), ("sam", "ma")):
        speed_record.publish(speed_fields(name, shared_with=[other]), results)
    assert "Same network, measured once: Strong, Same." in board(results)
    speed_record.publish(speed_fields("sam", created="2026-01-02T00:00:00+00:00", shared_with=["ma"]), results)
    text = board(results)
    assert "Same network" not in text
    assert "Measured in 2 sessions" in text


@pytest.mark.parametrize(("source", "shown"), [("1" * 64, 2), ("2" * 64, 1)], ids=["same source", "other source"])
def test_a_plugin_is_known_by_its_source(results, source, shown):
    publish(results, score_table(1), "p0", "Mine", name="mine", built_in=False, source_sha256="1" * 64)
    speed_record.publish(speed_fields("mine", method={"built_in": False, "source_sha256": source}), results)
    assert len(speed_rows(board(results))) == shown


def test_each_setup_has_a_section_and_a_figure(results):
    speed_record.publish(speed_fields(setup={"compiled": True}), results)
    write_leaderboard(Workspace(results))
    text = (results.parent / "leaderboard.md").read_text()
    assert text.count("Speed on a CPU (2 cores), float32") == 2
    assert text.count("channels_last, compiled</summary>") == 1
    assert len(list((results / "made").glob("speed-*.png"))) == 2


def test_a_board_without_speeds_is_as_it_was(results):
    before, _, rest = board(results).partition("<details><summary>Speed")
    runs = rest[rest.index("<details><summary>Runs") :]
    assert render(make_boards(read_runs(Workspace(results)))) == before + runs


EVIL = "<script>x</script> | [a](b) ![c](d) `e` \x1b[31m\u202e**f**\n# g"


def test_texts_from_a_record_are_only_text(results):
    setup = {"device": EVIL, "torch": EVIL, "optimizer": EVIL, "layout": EVIL, "recipe": EVIL}
    speed_record.publish(speed_fields(memory=EVIL, setup=setup), results)
    text = board(results)
    assert not any(harm in text for harm in ("<script>", "\x1b", "\u202e", "\n# g"))
    assert r"\| \[a\](b) \!\[c\](d) \`e\`" in text  # in paragraphs and tables, where Markdown is parsed
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(text)
    assert not re.search(r"<script|href=.b|src=.d|<code>e</code>|<strong>f</strong>|<h1>g", html)
    (summary,) = re.findall(r"<summary>Speed on (&lt;.*)</summary>", html)
    assert "&lt;script&gt;x&lt;/script&gt; | [a](b) ![c](d)" in summary  # in an HTML block only HTML has a meaning
    assert "<" not in summary
    assert {len(row) for row in speed_rows(text)} == {19}
    write_leaderboard(Workspace(results))  # a figure's title is drawn as it stands


def the_figure(results):
    (path,) = (results / "made").glob("speed-*.png")
    return path


def test_the_figure_is_drawn_where_it_is_stale_alone(full_figures, results):
    place = the_figure(results)
    drawn, written = drawn_from(place), place.stat().st_mtime_ns
    write_leaderboard(Workspace(results))
    assert place.stat().st_mtime_ns == written
    speed_record.publish(speed_fields(rounds=rounds_of(inference=50.0)), results)
    write_leaderboard(Workspace(results))
    assert drawn_from(place) not in (drawn, None)
    assert check_leaderboard(Workspace(results)) == 2
    with Image.open(place) as image:
        assert image.width > 700


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda results: the_figure(results).unlink(), id="missing"),
        pytest.param(
            lambda results: shutil.copy(results / "made" / "ma" / "b0" / "roc.png", the_figure(results)),
            id="another",
        ),
        pytest.param(
            lambda results: speed_record.publish(speed_fields(rounds=rounds_of(inference=50.0)), results),
            id="another speed",
        ),
    ],
)
def test_a_figure_that_does_not_show_the_speeds_is_told(results, damage):
    assert check_leaderboard(Workspace(results)) == 2
    damage(results)
    with pytest.raises(RecordError, match=r"speed-\w+\.png does not show the current data"):
        check_leaderboard(Workspace(results))


def test_a_figure_of_no_board_is_told_and_removed(results):
    left_over = the_figure(results).with_name("speed-0123456789.png")
    shutil.copy(the_figure(results), left_over)
    with pytest.raises(RecordError, match=r"speed-0123456789\.png shows a board that no longer exists"):
        check_leaderboard(Workspace(results))
    write_leaderboard(Workspace(results))
    assert not left_over.exists()
    assert check_leaderboard(Workspace(results)) == 2


def test_the_hash_of_a_figure_changes_with_all_that_it_shows():
    dot = Dot("MA", Quartiles(90.0, 100.0, 110.0), 0.8, 0.7, 0.9)
    dots = [dot, *(dot._replace(**{key: "x" if key == "name" else 0.5}) for key in Dot._fields)]
    hashes = {dots_sha256(each, "title") for each in [[one] for one in dots]} | {dots_sha256([dot], "other")}
    assert len(hashes) == 1 + len(Dot._fields) + 1


SMALL = ["--set", "dataset.images=60", "--set", "dataset.size=64", "--set", "pixels.size=36", "--set", "pixels.crop=32"]
SMALL += ["--set", "pixels.max_shift=2", "--set", "train.batch_size=8", "--option", "backbone=test_resnet"]
SMALL += ["--rounds", "3", "--seconds", "0.05", "--batch-size", "4", "--batch-size", "2", "--precision", "float32"]


@pytest.fixture(scope="module")
def measured(tmp_path_factory, cache):
    """`chxbench speed` of three methods, two of one network, whole: what it printed, and the results folder."""
    results = tmp_path_factory.mktemp("speed") / "results"
    methods = ["--method", "sam", "--method", "bsl", "--method", "ma"]
    ran = invoke("speed", *methods, *SMALL, "--results", results, "--cache", cache)
    assert ran.exit_code == 0, ran.output
    return ran.output, results


def test_the_command_measures_and_records_every_method(measured):
    _, results = measured
    records = {record.method.name: record for record in read_speeds(Workspace(results))}
    assert set(records) == {"bsl", "sam", "ma"}
    for record in records.values():
        assert [part.batch_size for part in record.inference] == [2, 4] == list(record.setup.batch_sizes)
        assert record.training.batch_size == 8
        assert (record.setup.crop, record.setup.precision, record.setup.compiled) == (32, "float32", False)
        assert record.method.options["output_stride"] == 16  # the recipe's
        assert len(record.rounds) == 3
        assert record.latency.repetitions >= 3 * speed.MIN_REPETITIONS
        assert all(part.inference[0] > 0 for part in record.rounds)
    assert records["sam"].network.parameters > records["bsl"].network.parameters


def test_methods_are_measured_in_turn_and_compared_with_the_baseline_of_the_same_rounds(measured):
    _, results = measured
    records = {record.method.name: record for record in read_speeds(Workspace(results))}
    bsl, sam, ma = (records[name] for name in ("bsl", "sam", "ma"))
    assert sorted([[part.turn for part in record.rounds] for record in (bsl, sam)]) == [[1, 2, 2], [2, 1, 1]]
    assert sam.baseline.rounds == bsl.rounds
    assert bsl.baseline is None
    assert (sam.shared_with, ma.shared_with, bsl.shared_with) == (["ma"], ["sam"], [])
    assert sam.is_shared_with(ma) and ma.rounds == sam.rounds
    assert sam.is_of_session(bsl) and not sam.is_shared_with(bsl)


def test_the_command_shows_its_progress_and_tables_that_fit_the_screen(measured):
    output, _ = measured
    assert re.search(r"3 rounds: 36/36 measurements, .* took", output)
    assert "ma: the network is that of sam, measured once" in output
    table = [line for line in output.splitlines() if line[:1] in "┏┡│└┃"]
    assert len(table) > 10
    assert max(len(line) for line in table) <= 80
    assert not any("…" in line for line in table)


def test_the_recorded_command_measures_the_same_again(measured, cache):
    output, results = measured
    (command,) = {record.command for record in read_speeds(Workspace(results))}
    words = tomllib.loads(f"words = {json.dumps(command.split())}")["words"]
    again = invoke(*words[1:], "--results", results, "--cache", cache)
    assert again.exit_code == 0, again.output
    assert again.output.count("replaced the record") == 3
    assert "replaced the record" not in output


@pytest.mark.skipif(not STAT.exists(), reason="Linux counts CPU time")
def test_a_busy_machine_is_told_before_and_recorded(tmp_path, cache):
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        try:
            words = ["--method", "bsl", *SMALL, "--seconds", "0.3", "--results", tmp_path / "results", "--cache", cache]
            ran = invoke("speed", *words)
        finally:
            busy.kill()
    assert ran.exit_code == 0, ran.output
    (record,) = read_speeds(Workspace(tmp_path / "results"))
    assert record.others > speed_record.BUSY
    assert "bsl: not comparable, other processes used" in ran.output
    assert re.search(r"other processes use \d+ % of the cores: stop them", ran.output)


@pytest.mark.parametrize("failure", [KeyboardInterrupt, UserError("memory")], ids=["Ctrl-C", "error"])
def test_what_stops_in_a_round_publishes_nothing(tmp_path, cache, monkeypatch, failure):
    turns = []

    def stop_at_the_third(*arguments):
        turns.append(measure_turn(*arguments))
        if len(turns) == 3:
            raise failure
        return turns[-1]

    monkeypatch.setattr(rounds, "measure_turn", stop_at_the_third)
    folder = tmp_path / "results"
    ran = invoke("speed", "--method", "bsl", "--method", "sam", *SMALL, "--results", folder, "--cache", cache)
    assert ran.exit_code == (2 if isinstance(failure, UserError) else 130)
    assert ("published when all rounds are measured" in ran.output) == (failure is KeyboardInterrupt)
    assert not folder.exists() or not list(folder.glob("**/*.json"))


def test_a_signal_while_records_are_written_waits_for_the_last(tmp_path):
    def speeds():
        yield speed_fields()
        os.kill(os.getpid(), signal.SIGINT)
        yield speed_fields("sam")

    with pytest.raises(Interrupted, match="the speeds are published"):
        publish_all(speeds(), tmp_path)
    assert len(speed_record.find(tmp_path)) == 2


PLUGIN = """
from dataclasses import dataclass
from torch import nn
from chxbench import METHODS, Method, Output

class Network(nn.Linear):
    def forward(self, images):
        logits = super().forward(images.mean((2, 3)))
        return Output(logits) if len(images) < 4 else logits

@METHODS.register("no_output_{when}")
@dataclass(frozen=True)
class NoOutput(Method):
    title = "A network that returns no Output"
    backbone: str = ""

    def build(self, findings, weights):
        return Network(3, len(findings)) if "{when}" == "later" else nn.Flatten()
"""


def test_a_method_that_fails_in_larger_batches_is_told_and_nothing_is_published(tmp_path, cache):
    folder, plugin = tmp_path / "results", tmp_path / "plugin.py"
    plugin.write_text(PLUGIN.replace("{when}", "later"))
    words = ["--plugin", plugin, "--results", folder, "--cache", cache]
    ran = invoke("speed", "--method", "bsl", "--method", "no_output_later", *SMALL, *words)
    assert ran.exit_code == 2
    assert "the network must return Output" in ran.output.splitlines()[-1]
    assert not list(folder.glob("**/*.json"))


def test_a_method_that_fails_at_once_is_told_before_anything_is_measured(tmp_path, cache):
    folder, plugin = tmp_path / "results", tmp_path / "plugin.py"
    plugin.write_text(PLUGIN.replace("{when}", "at_once"))
    words = ["--plugin", plugin, "--results", folder, "--cache", cache]
    ran = invoke("speed", "--method", "bsl", "--method", "no_output_at_once", *SMALL, *words)
    assert ran.exit_code == 2
    assert ran.output.splitlines()[-1].startswith(f"Error: method no_output_at_once ({plugin}:")
    assert not list(folder.glob("**/*.json"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        pytest.param([], "Missing option '--method'", id="no method"),
        pytest.param(["--method", "mma"], "unknown method 'mma': did you mean ma?", id="method"),
        pytest.param(["--method", "ma", "--device", "tpu"], "'tpu' is not one of 'auto', 'cpu', 'cuda'", id="device"),
        pytest.param(["--method", "ma", "--rounds", "2"], "2 is not in the range 3<=x<=1000", id="rounds"),
        pytest.param(["--method", "ma", "--batch-size", "0"], "0 is not in the range x>=1", id="batch size"),
        pytest.param(["--method", "ma", "--option", "pool=mean"], "pool = 'mean' is invalid", id="option"),
        pytest.param(["--method", "ma", "--recipe", "papre"], "did you mean paper?", id="recipe"),
        pytest.param(
            ["--method", "ma", "--device", "cuda"],
            "device 'cuda' is not available",
            id="no GPU",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is one here"),
        ),
    ],
)
def test_a_mistake_is_one_sentence_and_status_2(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ran = invoke("speed", *words)
    assert (ran.exit_code, ran.exception.__class__) == (2, SystemExit)
    said = [line for line in ran.output.splitlines() if line.startswith("Error: ")]
    assert len(said) == 1
    assert message in said[0]
    assert ran.output.splitlines()[-1] == said[0]
    assert not any(tmp_path.iterdir())
