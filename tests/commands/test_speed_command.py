"""Speed: the numbers are consistent, records round-trip, the board shows what belongs to it, the command runs whole."""

import json
import re
import shutil
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
from torch import nn

from chxbench import METHODS, Method, Output, UserError
from chxbench.benchmark.commands.speed import measure as speed
from chxbench.benchmark.commands.speed.measure import MeasuredMethod
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
from chxbench.benchmark.recipe import load_recipe
from chxbench.benchmark.records import speed_record
from chxbench.benchmark.records.figures.style import drawn_from
from chxbench.benchmark.records.record import RecordError
from chxbench.benchmark.utils.options import build
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


def test_percentiles_are_ordered_and_left_out_where_they_mean_nothing():
    times = np.random.default_rng(0).random(100)
    found = speed.percentiles(times)
    assert list(found.values()) == pytest.approx([1e3 * np.quantile(times, q) for q in (0.5, 0.95, 0.99)])
    assert found["p50"] < found["p95"] < found["p99"]
    assert speed.percentiles(times[:99])["p99"] is None
    assert speed.percentiles(times[:20])["p95"] is not None
    assert speed.percentiles(times[:19])["p95"] is None


def test_calls_are_repeated_for_the_time_given_after_those_that_warm_up():
    calls = []
    taken = speed.repeat(lambda: calls.append(1), torch.device("cpu"), 0)
    assert (len(taken), len(calls)) == (speed.MIN_REPETITIONS, speed.MIN_REPETITIONS + speed.WARM_UP)
    assert len(speed.repeat(lambda: None, torch.device("cpu"), 60)) == speed.MAX_REPETITIONS
    assert (taken > 0).all()


def test_a_batch_is_halved_until_it_fits_the_memory(subject):
    found = speed.measure_inference(subject, limited(5), 32, 0)
    assert (found.requested, found.batch_size) == (32, 4)
    assert found.repetitions >= speed.MIN_REPETITIONS
    trained, _ = speed.measure_training(subject, limited(5))
    assert (trained.requested, trained.batch_size) == (8, 4)
    with pytest.raises(UserError, match="does not fit in device memory"):
        speed.measure_inference(subject, limited(0), 2, 0)
    with pytest.raises(UserError, match="a batch of 2 does not fit"):
        speed.measure_training(subject, limited(1))


def test_other_errors_of_a_network_are_not_taken_for_a_lack_of_memory(subject):
    network = limited(5)
    network.classify = nn.Linear(5, 14)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        speed.measure_inference(subject, network, 2, 0)


def test_a_batch_that_would_take_too_long_is_left_out(subject):
    found = speed.measure_inference(subject, limited(9), 10**6, 1.0)
    assert found == (10**6, None, None, 0, None)


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


# The record of a speed that never was measured.
def speed_fields(name="ma", crop=64, images_per_second=100.0, **changes):
    part = {"requested": 32, "batch_size": 32, "repetitions": 9, "peak_memory": 10**9}
    rates = [{**part, "images_per_second": images_per_second}, {**part, "batch_size": None, "images_per_second": None}]
    setup = {"device": "a CPU", "kind": "cpu", "cores": 2, "threads": 2, "processes": 1, "precision": "float32"}
    setup |= {"layout": "channels_last", "compiled": False, "torch": "2.8", "recipe": "quick", "size": 72, "crop": crop}
    setup |= {"max_shift": 4, "batch_size": 32, "micro_batch": 0, "batch_norm": "auto", "optimizer": "adamw"}
    setup |= {"dataset": "phantom", "images": 1000, "batch_sizes": [32, 999], **changes.pop("setup", {})}
    method = {"name": name, "built_in": True, "source_sha256": "0" * 64, "options": {}, **changes.pop("method", {})}
    content = {
        "created": "2026-01-01T00:00:00+00:00",
        "command": f"chxbench speed --method {name}",
        "method": method,
        "setup": setup,
        "seconds": 5.0,
        "network": {"parameters": 42_500_000, "flops": 1_270_000_000},
        "latency": {"p50": 12.3, "p95": 14.5, "p99": None, "repetitions": 50, "peak_memory": None},
        "inference": rates,
        "training": {**part, "images_per_second": 31.4},
        "loader": {"images_per_second": 50_000.0, "images": 10_000},
        "end_to_end": {"images_per_second": 30.1, "images": 640},
        "memory": "resident set of the process",
        "environment": {"versions": {"torch": "2.8"}, "code": {"commit": None, "dirty": None}, "load_average": 0.1},
        **changes,
    }
    return speed_record.SpeedDescription.model_validate(content)


def test_a_record_is_read_as_it_was_written_and_replaced_by_the_same_setup(tmp_path):
    record, path, replaced = speed_record.publish(speed_fields(), tmp_path)
    assert not replaced
    assert path.relative_to(tmp_path).parts[:2] == ("speed", "a-cpu")
    assert speed_record.read(path) == record
    assert record.best == record.inference[0]
    again, same, replaced = speed_record.publish(speed_fields(images_per_second=50.0), tmp_path)
    assert (same, replaced, again.best.images_per_second) == (path, True, 50.0)
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
        pytest.param(lambda c: c["latency"].update(p50=1.0), "was changed after it was written", id="a number"),
        pytest.param(lambda c: (c.update(schema=3), recheck(c)), "has schema 3, this version reads 2", id="schema"),
        pytest.param(lambda c: (c.pop("loader"), recheck(c)), "loader: Field required", id="a key less"),
        pytest.param(lambda c: (c.update(note=""), recheck(c)), "note: Extra inputs", id="a key more"),
        pytest.param(lambda c: (c["setup"].update(crop=32), recheck(c)), "move it there", id="another setup"),
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
    wanted = ["42.5", "1.27", "12.3", "14.5", "–", "100", "32", "1.00", "31.4", "50,000", "30.1", "32", "1.00"]
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


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        pytest.param({"load": 1.04}, "the machine was busy, load 1.0", id="busy"),
        pytest.param({"load": 1.0}, None, id="half of the cores"),
        pytest.param({"load": None}, None, id="unknown load"),
        pytest.param({"end_to_end": 31.5}, "end to end faster than its own steps", id="impossible"),
    ],
)
def test_speeds_that_cannot_be_compared_are_marked(results, changes, told):
    environment = {"versions": {"torch": "2.8"}, "code": {"commit": None, "dirty": None}, "load_average": 0.1}
    if "load" in changes:
        environment["load_average"] = changes["load"]
    flow = {"images_per_second": changes.get("end_to_end", 30.1), "images": 640}
    speed_record.publish(speed_fields(environment=environment, end_to_end=flow), results)
    text = board(results)
    assert (f"**Not comparable:** Strong ({told})." in text) == (told is not None)
    assert ("Not comparable" in text) == (told is not None)


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
    assert {len(row) for row in speed_rows(text)} == {15}
    write_leaderboard(Workspace(results))  # a figure's title is drawn as it stands


def the_figure(results):
    (path,) = (results / "made").glob("speed-*.png")
    return path


def test_the_figure_is_drawn_where_it_is_stale_alone(full_figures, results):
    place = the_figure(results)
    drawn, written = drawn_from(place), place.stat().st_mtime_ns
    write_leaderboard(Workspace(results))
    assert place.stat().st_mtime_ns == written
    speed_record.publish(speed_fields(images_per_second=50.0), results)
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
            lambda results: speed_record.publish(speed_fields(images_per_second=50.0), results), id="another speed"
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
    dot = Dot("MA", 100.0, 0.8, 0.7, 0.9)
    dots = [dot, *(dot._replace(**{key: "x" if key == "name" else 0.5}) for key in Dot._fields)]
    hashes = {dots_sha256(each, "title") for each in [[one] for one in dots]} | {dots_sha256([dot], "other")}
    assert len(hashes) == 1 + len(Dot._fields) + 1


SMALL = ["--set", "dataset.images=60", "--set", "dataset.size=64", "--set", "pixels.size=36", "--set", "pixels.crop=32"]
SMALL += ["--set", "pixels.max_shift=2", "--set", "train.batch_size=8", "--option", "backbone=test_resnet"]
SMALL += ["--seconds", "0.05", "--batch-size", "4", "--batch-size", "2", "--precision", "float32"]


@pytest.fixture(scope="module")
def measured(tmp_path_factory, cache):
    """`chxbench speed` of two methods, whole: what it printed, and the results folder."""
    results = tmp_path_factory.mktemp("speed") / "results"
    ran = invoke("speed", "--method", "bsl", "--method", "sam", *SMALL, "--results", results, "--cache", cache)
    assert ran.exit_code == 0, ran.output
    return ran.output, results


def test_the_command_measures_and_records_every_method(measured):
    _, results = measured
    records = {record.method.name: record for record in read_speeds(Workspace(results))}
    assert set(records) == {"bsl", "sam"}
    for record in records.values():
        assert [part.batch_size for part in record.inference] == [2, 4] == list(record.setup.batch_sizes)
        assert record.training.batch_size == 8
        assert (record.setup.crop, record.setup.precision, record.setup.compiled) == (32, "float32", False)
        assert record.method.options["output_stride"] == 16  # the recipe's
        assert record.latency.repetitions >= speed.MIN_REPETITIONS
        assert record.end_to_end.images % 8 == 0
    assert records["sam"].network.parameters > records["bsl"].network.parameters


def test_the_command_says_what_it_measures_and_shows_tables_that_fit_the_screen(measured):
    output, _ = measured
    for words in ("bsl: latency of one image", "sam: inference in batches of 4", "sam: training end to end: "):
        assert words in output
    table = [line for line in output.splitlines() if line[:1] in "┏┡│└┃"]
    assert len(table) > 10
    assert max(len(line) for line in table) <= 80
    assert not any("…" in line for line in table)


def test_the_recorded_command_measures_the_same_again(measured, cache):
    output, results = measured
    (command,) = [record.command for record in read_speeds(Workspace(results)) if record.method.name == "bsl"]
    words = tomllib.loads(f"words = {json.dumps(command.split())}")["words"]
    again = invoke(*words[1:], "--results", results, "--cache", cache)
    assert again.exit_code == 0, again.output
    assert "replaced the record" in again.output
    assert "replaced the record" not in output


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


def test_what_was_measured_before_a_failure_stands_on_the_leaderboard(tmp_path, cache):
    folder, plugin = tmp_path / "results", tmp_path / "plugin.py"
    plugin.write_text(PLUGIN.replace("{when}", "later"))
    words = ["--plugin", plugin, "--results", folder, "--cache", cache]
    ran = invoke("speed", "--method", "bsl", "--method", "no_output_later", *SMALL, *words)
    assert ran.exit_code == 2
    assert "the network must return Output" in ran.output.splitlines()[-1]
    assert [record.method.name for record in read_speeds(Workspace(folder))] == ["bsl"]
    assert check_leaderboard(Workspace(folder)) == 0


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
