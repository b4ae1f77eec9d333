import contextlib
import html.parser
import json
import math
import os
import re
import struct
import subprocess
import sys
import time

import numpy as np
import pytest

from jaxmodels import report
from jaxmodels.errors import UserError
from jaxmodels.metric import Metric, Published
from jaxmodels.report.charts import Line, chart
from jaxmodels.report.confusion import confusion
from jaxmodels.report.curves import _line, _panels
from jaxmodels.report.filters import as_images
from jaxmodels.report.images import displayable
from jaxmodels.report.progress import Bar, StepRate, duration


def test_importing_the_package_is_cheap():
    heavy = "jax matplotlib PIL rich tensorboardX sklearn"
    code = (
        f"import sys, jaxmodels.report; print([m for m in '{heavy}'.split() if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# The log.


def test_what_is_written_can_be_read(tmp_path):
    with report.Log(tmp_path, 10) as log:
        log.write(0, {"test/error": 0.9})
        log.write(5, {"train/loss": np.float32(0.1), "train/bad": math.inf})
        log.write(5, {"test/error": 0.25})
    metrics = report.read_metrics(tmp_path)
    assert set(metrics) == {"time", "train/loss", "train/bad", "test/error"}
    np.testing.assert_array_equal(metrics["test/error"][0], [0, 5])
    np.testing.assert_array_equal(metrics["test/error"][1], [0.9, 0.25])
    assert metrics["train/loss"][1] == np.float32(0.1)
    assert np.isnan(metrics["train/bad"][1]).all()
    assert abs(metrics["time"][1][-1] - time.time()) < 60
    assert len(metrics["time"][0]) == 3


def test_every_line_is_strict_json(tmp_path):
    with report.Log(tmp_path, 1) as log:
        log.write(1, {"loss": math.nan})
    text = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(text, parse_constant=pytest.fail)["loss"] is None


def test_resume_forgets_later_lines_and_half_lines(tmp_path):
    with report.Log(tmp_path, 10) as log:
        for step in range(5):
            log.write(step, {"loss": step})
    path = tmp_path / "metrics.jsonl"
    with path.open("a") as file:
        file.write('{"step": 5, "ti')
    np.testing.assert_array_equal(report.read_metrics(tmp_path)["loss"][0], [0, 1, 2, 3, 4])
    with report.Log(tmp_path, 10) as log:
        log.resume(2)
        log.write(3, {"loss": 30})
    steps, values = report.read_metrics(tmp_path)["loss"]
    np.testing.assert_array_equal(steps, [0, 1, 2, 3])
    np.testing.assert_array_equal(values, [0, 1, 2, 30])


def test_a_step_written_twice_counts_once(tmp_path):
    with report.Log(tmp_path, 10) as log:
        log.write(3, {"loss": 1})
        log.write(3, {"loss": 2})
    steps, values = report.read_metrics(tmp_path)["loss"]
    assert steps.tolist() == [3]
    assert values.tolist() == [2]


def test_a_broken_line_is_named(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\nnonsense\n{"step": 2}\n')
    with pytest.raises(ValueError, match="line 2: expected a JSON object"):
        report.read_metrics(tmp_path)


def events(folder):
    """The events of all files, read as the TFRecord format has them."""
    from tensorboardX.proto import event_pb2

    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            yield event_pb2.Event.FromString(data[12 : 12 + length])  # pyright: ignore
            data = data[16 + length :]


def test_tensorboard_events(tmp_path):
    with report.Log(tmp_path, 10) as log:
        log.resume(0)
        log.write(3, {"train/loss": 0.5})
    with report.Log(tmp_path, 10) as log:
        log.resume(2)
        log.write(3, {"train/loss": 0.25})
    found = [event for event in events(tmp_path / "tensorboard") if not event.file_version]
    assert [event.step for event in found] == [3, 3, 3]
    assert found[1].session_log.status == 1  # START: what was written from its step on is hidden
    value = found[2].summary.value[0]
    assert (value.tag, value.simple_value) == ("train/loss", 0.25)


def test_event_files_are_as_tensorboardx_writes_them(tmp_path):
    from tensorboardX.record_writer import RecordWriter

    with report.Log(tmp_path, 10) as log:
        log.write(3, {"train/loss": 0.5})
    (written,) = (tmp_path / "tensorboard").iterdir()
    writer = RecordWriter(str(tmp_path / "other"))
    for event in events(tmp_path / "tensorboard"):
        writer.write(event.SerializeToString())
    writer.close()
    assert written.read_bytes() == (tmp_path / "other").read_bytes()


# Progress.


def test_a_log_file_gets_a_line_now_and_then(tmp_path, capsys):
    with report.Log(tmp_path, 1000, per_step=32, every=0.05) as log:
        for step in range(1, 1001):
            time.sleep(0.0003)
            log.progress(step, {"train/loss": 0.5, "train/error": 0.25, "lr": 1})
        log.message("saved")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "step 1/1,000  loss 0.5000  error 25.00 %"
    pattern = r"step \d+/1,000  0:0\d left  loss 0.5000  error 25.00 %  [\d,]+ examples/s"
    assert re.fullmatch(pattern, lines[1])
    assert lines[-2].startswith("step 1,000/1,000  loss")
    assert lines[-1] == "saved"
    assert len(lines) < 100


def test_progress_is_cheap_when_not_due(tmp_path):
    scalars = {"loss": 0.5}
    with report.Log(tmp_path, 10**9, every=3600.0) as log:
        log.progress(1, scalars)
        log._due = math.inf
        times = []
        for step in range(1000):
            start = time.perf_counter_ns()
            log.progress(step, scalars)
            times.append(time.perf_counter_ns() - start)
    assert np.median(times) < 10_000


def everything(master: int) -> str:
    """What a pseudo-terminal was sent, read to its end: one read may give a part of it."""
    parts = []
    # Linux tells the end by an error, others by an empty part.
    with contextlib.suppress(OSError):
        while part := os.read(master, 100_000):
            parts.append(part)
    os.close(master)
    return b"".join(parts).decode()


def test_a_terminal_gets_a_bar(monkeypatch):
    pty = pytest.importorskip("pty", reason="needs pseudo-terminals")
    master, slave = pty.openpty()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with os.fdopen(slave, "w") as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        bar = Bar(100, "examples", 8, None)
        bar.show(10, 1.0, {"loss": 0.5})
        bar.show(20, 2.0, {"loss": 0.25})
        bar.message("a [bold]word[/bold]")
        bar.close()
        monkeypatch.undo()
    drawn = everything(master)
    assert "0/100  compiling" in drawn
    assert "20/100  0:08 left  loss 0.2500  80 examples/s" in drawn
    assert "a [bold]word[/bold]" in drawn


def test_pace_forgets():
    pace = StepRate(calls=3)
    assert pace(1, 0.0) is None
    assert pace(2, 10.0) == pytest.approx(0.1)
    pace(3, 11.0)
    assert pace(4, 12.0) == pytest.approx(1.0)


def test_duration():
    assert [duration(s) for s in (0.0, 42.0, 61.4, 3725.0)] == ["0:00", "0:42", "1:01", "1:02:05"]


# The verdict.

TYPES = {
    "test/error": Metric("%", higher_is_better=False, of_examples=True),
    "test/top5": Metric("%", higher_is_better=True, of_examples=True),
    "test/cross_entropy": Metric("nats", higher_is_better=False),
    "test/map": Metric(higher_is_better=True),
}


def results(measured, published=None, dataset="mnist", **other):
    """Results of a run on mnist, beside values published on `dataset`."""
    published = None if published is None else Published(published, dataset)
    parts = {"types": TYPES, "datasets": {"test": "mnist"}, **other}
    return report.Results(metrics=measured, published=published, **parts)


def test_a_verdict_follows_the_direction_that_the_metric_has():
    """No list of names can know the direction of every metric, such as mAP."""
    assert results({"test/map": 0.31}, {"test/map": 0.30}).verdict("test/map") == "reached"
    assert results({"test/map": 0.29}, {"test/map": 0.30}).verdict("test/map") == "not reached"
    unknown = results({"test/sparkle": 1.0}, {"test/sparkle": 1.1})
    assert (unknown.verdict("test/sparkle"), unknown.reached("test/sparkle")) == ("", None)


def test_there_is_no_verdict_on_another_dataset():
    found = results({"test/error": 0.001}, {"test/error": 0.0095}, dataset="cifar10")
    assert found.reached("test/error") is None
    for text in report.comparison(found).html, report.summary(found, "runs/a"):
        assert "values are for cifar10; this run read mnist" in text
        assert not re.search(r"better than|\breached\b|reaches", text)


def test_changed_hyperparameters_stand_beside_the_verdict():
    measured, published = {"test/error": 0.001}, {"test/error": 0.0095}
    found = results(measured, published, changed={"steps": (2260, 500), "widths": ((8, 8), (4,))})
    for text in report.comparison(found).html, report.summary(found, "runs/a"):
        assert "steps=500 instead of 2260" in text
        assert "widths=4 instead of 8 8" in text
    assert found.verdict("test/error") == "reached"


def test_own_targets_are_not_called_published():
    own = Published({"test/error": 0.0095}, "mnist", label="target")
    found = report.Results(metrics={"test/error": 0.02}, types=TYPES, published=own)
    for text in report.comparison(found).html, report.summary(found, "runs/a"):
        assert "target" in text
        assert "published" not in text


def test_summary():
    measured = {"test/error": 0.0111, "test/confusion": np.eye(2), "test/cross_entropy": 0.05}
    found = results(measured, {"test/error": 0.0095, "test/top5": 0.9})
    text = report.summary(found, "runs/a", "runs/a/report.html", "uv run x.py")
    assert re.search(r"test/error +1.11 % +0.95 % +not reached", text)
    assert re.search(r"test/top5 +- +90.00 %", text)
    assert "confusion" not in text
    assert text.splitlines()[-1] == "resume    uv run x.py"


# The page.


class Checker(html.parser.HTMLParser):
    """Every element is closed, and nothing is fetched."""

    void = frozenset({"meta", "img", "br"})

    def __init__(self):
        super().__init__()
        self.open = []

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name in ("src", "href"):
                assert value.startswith(("#", "data:")), (tag, name, value[:80])
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def check(text):
    checker = Checker()
    checker.feed(text)
    checker.close()
    assert checker.open == []
    assert "url(http" not in text
    assert "@import" not in text


def metrics(length=300):
    steps = np.arange(1, length + 1)
    noise = np.random.default_rng(0).uniform(0.5, 1.5, length)
    return {
        "time": (steps, 1e9 + steps * 0.1),
        "train/loss": (steps, noise / steps),
        "train/accuracy": (steps, 1 - noise / steps / 2),
        "train/learning_rate": (steps, np.linspace(1e-3, 0, length)),
        "test/cross_entropy": (steps[::100], 1 / steps[::100]),
        "test/error": (steps[::100], 0.5 / steps[::100]),
    }


def all_sections():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 40)
    probabilities = rng.dirichlet(np.ones(3), 40)
    images = rng.integers(0, 256, (40, 9, 9, 1)).astype(np.uint8)
    measured = {"test/error": 0.1, "test/confusion": np.eye(3) * 30, "other": 1.0}
    return [
        report.comparison(results(measured, {"test/error": 0.2, "test/mse": 1.0})),
        report.curves(metrics(), TYPES),
        report.confusion(rng.integers(0, 5, (3, 3)), ("<a>", "b", "c")),
        report.predictions(images, labels, probabilities, ("<a>", "b", "c")),
        report.filters(rng.normal(size=(3, 3, 3, 20))),
        report.parameters([("dense/kernel", (9, 3), np.dtype("float32"), 27, "P('fsdp',)")]),
        report.throughput(*metrics()["time"], per_step=8, first_step=3.2, compilation=1.1),
        report.settings({"name": "x", "arguments": {"lr": 1e-3, "a": {"b": None}}}),
    ]


def test_the_page_is_well_formed_and_self_contained(tmp_path):
    path = report.write_page(tmp_path / "run" / "report.html", "A <title>", "sub", all_sections())
    text = path.read_text()
    check(text)
    assert "A &lt;title&gt;" in text
    assert "<a>" not in text
    assert "prefers-color-scheme: dark" in text
    assert len(text) < 300_000
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]


def test_a_page_is_replaced(tmp_path):
    report.write_page(tmp_path / "a.html", "one", "", [])
    report.write_page(tmp_path / "a.html", "two", "", [])
    assert "<h1>two</h1>" in (tmp_path / "a.html").read_text()


def test_sections_have_files_beside_the_page(tmp_path):
    sound = report.Section("Sound", '<audio src="report_files/a.wav">', {"a.wav": b"one"})
    path = report.write_page(tmp_path / "report.html", "t", "", [sound])
    assert (tmp_path / "report_files" / "a.wav").read_bytes() == b"one"
    assert 'src="report_files/a.wav"' in path.read_text()
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.wav", "report.html", "report_files"]


@pytest.mark.parametrize("name", ["", ".", "../a", "a/b", "a\\b", "/etc/a", ".a", "a\n", "-a"])
def test_a_file_stays_in_its_folder(name):
    with pytest.raises(ValueError, match="'S' has a file named"):
        report.Section("S", "", {name: b""})


def test_two_sections_with_one_file_do_not_cost_the_page(tmp_path):
    """Raised while the page is written, the error would have ended a run that had succeeded."""
    pair = [report.Section("One", "1", {"a.png": b"1"}), report.Section("Two", "2", {"A.png": b""})]
    text = report.write_page(tmp_path / "report.html", "t", "", pair).read_text()
    assert (tmp_path / "report_files" / "a.png").read_bytes() == b"1"
    assert "ValueError: the page has several files named a.png" in text


def test_a_section_that_fails_says_so(tmp_path):
    def fail():
        raise KeyError("<label>")

    def half():
        yield report.Section("Half", "made")
        raise UserError("no more")

    good = report.Section("Good", "fine")
    parts = [("First", fail), ("Second", lambda: [good]), ("Third", half)]
    found = report.sections(parts)
    assert [section.title for section in found] == ["First", "Good", "Third"]
    assert "KeyError: &#x27;&lt;label&gt;&#x27;" in found[0].html
    assert "raise KeyError(&quot;&lt;label&gt;&quot;)" in found[0].html
    assert "UserError: no more" in found[2].html
    check(report.write_page(tmp_path / "a.html", "t", "", found).read_text())


def test_charts_take_the_colours_of_the_page():
    text = report.curves(metrics()).html
    assert "var(--series-2)" in text
    assert not re.search(r"#[0-9a-f]{6}", text)


def test_curves_share_panels():
    panels = _panels(
        {
            "train": {"loss": (np.arange(2), np.ones(2)), "grad_norm": (np.arange(2), np.ones(2))},
            "test": {"cross_entropy": (np.arange(2), np.ones(2))},
        }
    )
    assert {name: set(series) for name, series in panels.items()} == {
        "cross-entropy": {"train", "test"},
        "grad_norm": {"train"},
    }


def test_smoothing_keeps_the_level_and_the_raw_values():
    steps = np.arange(3000)
    values = 2 + np.random.default_rng(0).normal(size=3000)
    values[7] = np.nan
    line = _line("train", steps, values)
    assert np.abs(line.y - 2).max() < 0.6
    assert line.behind is not None
    assert line.behind[1].shape[0] <= 801
    assert np.nanmax(line.behind[1]) == np.nanmax(values)


@pytest.mark.parametrize(
    "values", [[], [1.0], [math.nan], [0.0, 0.0], [1.0, math.inf], [-1.0, 50.0], [1e-9, 1e3]]
)
def test_curves_of_any_values(values):
    values = np.array(values)
    section = report.curves({"train/loss": (np.arange(len(values)), values)})
    assert "<svg" in section.html


def test_comparison_says_what_was_not_reached():
    section = report.comparison(results({"test/error": 0.02}, {"test/error": 0.01}))
    assert "does not reach the published 1.00 %" in section.html
    assert "badge bad" in section.html
    assert "+1.00 %" in section.html


def test_shares_of_examples_have_a_standard_error():
    measured = {"test/error": 0.1, "test/cross_entropy": 0.1}
    section = report.comparison(results(measured, examples={"test": 100}))
    assert section.html.count("± 3.00") == section.html.count('class="quiet">±') == 1
    assert "±" not in report.comparison(results(measured)).html


def test_many_classes_become_a_picture():
    matrix = np.eye(50, dtype=int) * 9
    matrix[3, 4] = 2
    section = confusion(matrix, [f"class {n}" for n in range(50)])
    assert "data:image/png" in section.html
    assert "class 4" in section.html


def test_predictions_show_the_worst_mistakes_first():
    probabilities = np.array([[0.6, 0.4], [0.9, 0.1], [0.2, 0.8]])
    images = np.zeros((3, 4, 4, 3), np.float32)
    text = report.predictions(images, np.array([1, 1, 1]), probabilities, None).html
    assert re.findall('title="example (.)"', text) == ["1", "0", "2"]
    assert "2.3 nats" in text


def test_predictions_without_mistakes():
    probabilities = np.array([[0.6, 0.4]])
    text = report.predictions(np.zeros((1, 4, 4, 1), np.uint8), np.array([0]), probabilities, None)
    assert "None." in text.html


def test_images_become_displayable():
    assert displayable(np.zeros((2, 224, 224, 3), np.uint8)).shape == (2, 75, 75, 3)
    assert displayable(np.array([0.0, 16.0]).reshape(2, 1, 1, 1)).ravel().tolist() == [0, 255]


def test_filters_of_dense_kernels():
    assert as_images(np.zeros((784, 5))).shape == (28, 28, 1, 5)
    assert as_images(np.zeros((3072, 5))).shape == (32, 32, 3, 5)
    with pytest.raises(ValueError, match="shape \\(7, 5\\)"):
        report.filters(np.zeros((7, 5)))


def test_evaluations_do_not_slow_the_throughput_down():
    steps = np.array([10, 20, 20, 30])
    times = np.array([1.0, 2.0, 60.0, 61.0])
    assert "<dd>100 ms</dd>" in report.throughput(steps, times).html


def test_throughput_of_a_run_of_one_line():
    assert "<svg" not in report.throughput(np.array([1]), np.array([5.0]), first_step=2.0).html


def test_a_dollar_in_a_name_is_no_formula():
    drawn = chart([Line("a$b_{$x", np.arange(3), np.arange(3.0))], "price in $, or $_")
    assert "a$b_{$x" in drawn
    assert "price in $, or $_" in drawn


def test_without_published_values_there_are_no_columns_for_them():
    found = results({"test/error": 0.1})
    for text in (report.comparison(found).html, report.summary(found, "runs/a")):
        assert "published" not in text
        assert "difference" not in text
