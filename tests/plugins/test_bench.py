"""`bench` and `find-batch`: what they measure, with which strategies, and what they leave behind."""

from __future__ import annotations

import pytest

from framework import testing
from framework.commands.cli import main
from framework.config.compose import compose
from framework.config.sizes import bytes_of, in_words
from framework.errors import ConfigError
from framework_bench import batch_size, bench, others, timing
from framework_bench.bench import BARE, CHUNKED, DATA, EVALUATION, SINGLE

TINY = [*testing.TINY, "data.examples=96", "train.steps=12"]


@pytest.mark.parametrize(
    ("overrides", "batch"),
    [
        (["strategy=jit"], 16),
        (["strategy=pmap", "train.steps_per_call=1"], 16),
        (["strategy=sharded"], 16),
        (["strategy=vmapped", "strategy.members=3"], 48),
        (["strategy=jit", "train.resident_mib=0", "train.steps_per_call=4"], 16),
        (["strategy=eager", "train.steps_per_call=2"], 16),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_every_mode_is_measured_under_every_strategy_and_nothing_is_left(tmp_path, monkeypatch, overrides, batch):
    monkeypatch.chdir(tmp_path)
    report = bench.bench(compose([*TINY, *overrides]), seconds=0.01)
    rows = {row.mode: row for row in report.rows}
    compiled = "strategy=eager" not in overrides
    steps = [SINGLE, CHUNKED] if compiled else [SINGLE]
    assert list(rows) == [*steps, BARE, DATA, EVALUATION]
    for mode in (*steps, BARE, DATA):
        assert rows[mode].examples_per_second == pytest.approx(batch / rows[mode].ms * 1000)
    for mode in steps:
        assert rows[mode].of_limit == pytest.approx(rows[BARE].ms / rows[mode].ms)
    assert report.chosen == (SINGLE if "train.steps_per_call=1" in overrides or not compiled else CHUNKED)
    assert all(seconds >= 0 for seconds in report.start.values())
    assert ("a compiled step, with its state and batch" in report.memory) == compiled
    assert report.bottleneck in bench.text(report)
    assert not list(tmp_path.iterdir())


UNWEIGHTED = """
import jax
import numpy as np


class Ones:
    spec = {"inputs": jax.ShapeDtypeStruct((4, 6), np.float32), "targets": jax.ShapeDtypeStruct((4,), np.int32)}
    steps_per_epoch, splits, source = 1, ("test",), "ones"

    def train(self, seed, start=0):
        while True:
            yield {"inputs": np.ones([4, 6], np.float32), "targets": np.ones([4], np.int32)}

    def eval(self, split):
        yield next(self.train(0))


def ones():
    return Ones()
"""


def test_batches_without_weights_are_measured(install):
    install("acme", {"framework.data": {"ones": "acme_data:ones"}}, {"acme_data.py": UNWEIGHTED})
    config = compose(["data=ones", "model=mlp", "model.hidden=[8]", "train.steps=2", "train.steps_per_call=1"])
    rows = {row.mode: row for row in bench.bench(config, seconds=0.01).rows}
    assert rows[EVALUATION].examples_per_second == pytest.approx(4 / rows[EVALUATION].ms * 1000)


@pytest.mark.parametrize(
    ("milliseconds", "chosen", "says"),
    [
        ({SINGLE: 10, CHUNKED: 5, BARE: 9, DATA: 1}, SINGLE, "train.steps_per_call=50 is 2.00 times as fast"),
        ({SINGLE: 5, CHUNKED: 50, BARE: 5, DATA: 1}, CHUNKED, "train.steps_per_call=1 is 10.00 times as fast"),
        ({SINGLE: 10, CHUNKED: 10, BARE: 10, DATA: 1}, CHUNKED, "the compiled step"),
        ({SINGLE: 10, BARE: 10, DATA: 1}, SINGLE, "the compiled step"),
        ({SINGLE: 10, CHUNKED: 10, BARE: 2, DATA: 9}, CHUNKED, "the data; the pipeline takes 9 ms"),
        ({SINGLE: 10, CHUNKED: 10, BARE: 4, DATA: 1}, SINGLE, "the host, which takes 60% of a step's time"),
    ],
)
def test_the_bottleneck_is_what_would_help_most(milliseconds, chosen, says):
    assert says in bench.bottleneck({mode: each / 1000 for mode, each in milliseconds.items()}, chosen)


@pytest.mark.parametrize(
    ("processors", "says"), [(1.9, "other programs took 1.9 of 2 processors meanwhile"), (0.1, ""), (None, "")]
)
def test_other_programs_are_told_of_where_they_matter(processors, says):
    line = others.warning(processors, 2)
    assert says in line and bool(line) == bool(says)


def test_the_processors_that_others_take_are_known_or_not():
    found = others.Others().processors()
    assert found is None or found >= 0


def test_what_goes_on_is_told(monkeypatch):
    said = []
    config = compose([*TINY, "train.steps=2"])
    bench.bench(config, seconds=0.01, say=said.append)
    assert said[0] == "building the experiment" and f"{BARE}: compiling, first calls" in said
    assert said[-1] == f"timing: round {timing.ROUNDS} of {timing.ROUNDS}"


def test_a_verb_says_what_it_does_and_prints_a_table(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(["find-batch", *TINY, "--seconds", "0.01", "--memory", "1GiB"])
    out, err = capsys.readouterr()
    assert "largest batch: data.batch_size=96, limited by training ex" in out
    assert err.splitlines()[:1] == ["building the experiment"] and "timing batches of 96" in err.splitlines()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("width", [40, 80, 120])
def test_reports_are_no_wider_than_the_terminal(width):
    rows = tuple(bench.Row(mode, 1.666, 176818.0, 0.87) for mode in (SINGLE, CHUNKED, BARE, DATA, EVALUATION))
    start = {"first call: data to devices, trace, compile or load, run": 12.5, "data": 0.02}
    sizes = {"a compiled step, with its state and batch": 2**23}
    device = "jit on 1 of 1 × cpu, batches of 128"
    report = bench.Report("mnist", device, CHUNKED, "the data; " + "it is slow, " * 9, rows, start, sizes, 1.5)
    found = batch_size.Found(
        "mnist", device, 1408, 2**28, "as given", "training examples", (batch_size.Row(1408, 2**24, 13.57, 103774.0),)
    )
    for text in (bench.text(report, width), batch_size.text(found, width)):
        assert max(map(len, text.splitlines())) <= width, text


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["bench", "--jsno", "x"], "bench: no such option '--jsno'. Did you mean '--json'?"),
        (
            ["bench", "--seconds", "long"],
            "bench: --seconds: expected seconds, more than 0 and up to 3600, found 'long'",
        ),
        (["find-batch", "--memory", "much"], "--memory: expected a size such as 2GiB or 500MB, found 'much'."),
        (["find-batch", *TINY, "--memory", "1KiB"], "--memory: not even a batch of 1 fits into 1 KiB (as given);"),
        (["find-batch", *TINY, "strategy=eager"], "strategy: its steps are not compiled,"),
        (["bench", "--seconds", "0"], "bench: --seconds: expected seconds, more than 0 and up to 3600, found '0';"),
    ],
)
def test_a_refusal_is_one_line(capsys, words, text):
    with pytest.raises(SystemExit):
        main(words)
    err = capsys.readouterr().err
    assert err.splitlines()[-1].startswith(f"error[config]: {text}")


@pytest.mark.parametrize(
    "strategy", ["jit", *(pytest.param(name, marks=pytest.mark.slow) for name in ("pmap", "sharded", "vmapped"))]
)
def test_the_largest_batch_fits_and_the_next_larger_ones_do_not(strategy):
    config = compose([*TINY, "data.examples=100000", f"strategy={strategy}"])
    most = 4 * 2**20
    found = batch_size.find(config, budget=most, seconds=0.01)
    assert found.limited_by == "training examples" or found.rows[-1].bytes > most / 1.2
    assert all(row.bytes <= most for row in found.rows)
    assert found.batch_size == found.rows[-1].batch_size
    assert found.batch_size % found_devices(strategy) == 0


def found_devices(strategy):
    return 2 if strategy in ("pmap", "sharded") else 1


@pytest.mark.parametrize("unit", [1, 6])
@pytest.mark.parametrize("first", [1, 16, 1000])
@pytest.mark.parametrize("fitting", [0, 5, 6, 7, 64, 999, 1000, 1001, 60_000, 10**9])
def test_the_search_ends_close_below_what_fits(fitting, first, unit):
    most, tried = 60_000 // unit * unit, []

    def fits(size):
        tried.append(size)
        assert 0 < size <= most and size % unit == 0
        return size <= fitting

    largest = batch_size.search(fits, first, unit, most)
    exact = min(fitting, most) // unit * unit
    assert (largest or 0) <= exact
    if exact:
        assert largest is not None
        assert exact - largest <= max(0.05 * exact, 0)
    assert len(tried) <= 32


def test_larger_batches_are_worth_it_while_they_are_faster():
    rows = tuple(batch_size.Row(2**k, 0, 1.0, speed) for k, speed in enumerate([10, 18, 30, 31, 60]))
    assert batch_size.worthwhile(rows) == 4
    assert batch_size.worthwhile(rows[:3]) == 4
    assert batch_size.worthwhile(rows[:1]) == 1


@pytest.mark.parametrize(
    ("text", "size"),
    [("4096", 4096), (4096, 4096), ("1KiB", 1024), ("1kb", 1000), ("1.5GiB", 3 * 2**29), ("2 G", 2**31), ("0", 0)],
)
def test_sizes_are_read_as_people_write_them(text, size):
    assert bytes_of(text, "key") == size


@pytest.mark.parametrize("text", ["", "GiB", "-1", "1 XiB", "1,5GB", "true"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ConfigError, match=r"^key: expected a size"):
        bytes_of(text, "key")


@pytest.mark.parametrize(("size", "words"), [(0, "0 B"), (1536, "1.5 KiB"), (2**31, "2 GiB"), (2**42, "4 TiB")])
def test_sizes_in_words(size, words):
    assert in_words(size) == words
