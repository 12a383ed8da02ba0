"""Run folders are listed, shown, compared and reported as they are, in any state, without JAX."""

from __future__ import annotations

import fcntl
import importlib.metadata
import json
import math
import os
import platform
import re
import shlex
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from scipy import stats

from framework import testing
from framework.errors import ConfigError, StorageError
from framework_runs import layout, listing, showing
from framework_runs.comparing import compare, text
from framework_runs.evidence import difference, sentence
from framework_runs.naming import label, points
from framework_runs.palette import PALETTE, colours
from framework_runs.query import check_keys, condition, ordered
from framework_runs.reading import Run, find, read

RATE = "optimizer.learning_rate"


def write(folder, values=(0.5, 0.9), rate=0.001, seed=0, **more):
    """Write a run folder as a run leaves it, with one evaluation for each value of the accuracy."""
    folder.mkdir(parents=True)
    rows = [
        {"step": 10 * k, "train/loss": 1 / k, "eval/accuracy": value, "perf/examples_per_second": 9.0, "time": 1e9 + k}
        for k, value in enumerate(values, 1)
    ]
    text = "".join(json.dumps({k: json.dumps(v) if v != v else v for k, v in row.items()}) + "\n" for row in rows)
    (folder / "metrics.jsonl").write_text(text)
    record = {
        "config": {"seed": seed, "optimizer": {"name": "adam", "learning_rate": rate}, "run": {"root": str(folder)}},
        "name": "digits",
        "overrides": {"experiment": "digits", "seed": str(seed), RATE: str(rate), "run.root": "x"},
        "started": f"2026-01-01T12:00:{len(list(folder.parent.iterdir())):02}+0000",
        "status": "done",
        "total_steps": 10 * len(values),
        "total_seconds": 3723.4,
        "metrics": {tag: v for tag, v in rows[-1].items() if tag not in ("step", "time")} if rows else {},
        "directions": {"eval/accuracy": True, "train/loss": False},
        "versions": {"jax": "0.10.2"},
        "starts": [{"host": platform.node(), "typed": "framework +experiment=digits", "git": {"commit": "a" * 40}}],
        **more,
    }
    (folder / "run.json").write_text(json.dumps(record))
    return folder


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    """Two points of three seeds each; the second is better by 0.05 in every pair, though seeds differ by more."""
    root = tmp_path_factory.mktemp("family")
    for rate, gain in ((0.001, 0.0), (0.003, 0.05)):
        for seed, base in enumerate((0.5, 0.7, 0.9)):
            write(root / f"{rate}-{seed}", (0.1, base + gain + 0.001 * seed * (rate > 0.002)), rate, seed)
    return root


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    words = ["train.steps=12", "train.log_every=2", "train.eval_every=4", "callbacks+=[views]", "data.shape=[8,8,1]"]
    return testing.train(tmp_path_factory.mktemp("real"), *words, "strategy=vmapped", "strategy.members=2").directory


def test_every_run_is_found_once_and_what_cannot_be_read_is_told(tmp_path):
    for name in ("b/2", "b/1", "a"):
        write(tmp_path / name)
    write(tmp_path / "a" / "inside")  # what lies in a run folder is the run's own
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "run.json").write_text("{")
    runs, broken = find([tmp_path, tmp_path / "a"])
    assert sorted(str(run.folder.relative_to(tmp_path)) for run in runs) == ["a", "b/1", "b/2"]
    assert [testing.message(type("Caught", (), {"value": error})) for error in broken]
    done = testing.command("runs", str(tmp_path))
    assert done.code == 0 and len(done.out.splitlines()) == 4 and "broken is not a run folder" in done.err
    with pytest.raises(StorageError, match="nowhere is not a folder of runs"):
        find([tmp_path / "nowhere"])


def test_the_runs_of_a_sweep_are_its_points_and_not_its_programs(tmp_path):
    for name in ("runs/001-seed=0", "runs/002-seed=1", "groups/1a2b"):
        write(tmp_path / name)
    (tmp_path / "ledger.sqlite").touch()
    assert [run.folder.parent.name for run in find([tmp_path])[0]] == ["runs", "runs"]
    assert len(find([tmp_path / "groups"])[0]) == 1


@pytest.mark.parametrize(
    ("more", "held", "expected"),
    [
        ({}, False, "done"),
        ({"status": "failed"}, False, "failed"),
        ({"status": "running"}, True, "running"),
        ({"status": "running"}, False, "killed"),
        ({"status": "ending"}, False, "killed"),
        ({"status": "running", "starts": [{"host": "elsewhere"}]}, False, "running"),
        ({"status": "running", "starts": []}, False, "running"),
        ({"status": None}, False, "unknown"),
    ],
)
def test_a_run_that_nobody_runs_was_killed(tmp_path, more, held, expected):
    run = read(write(tmp_path / "run", **more))
    with (run.folder / "lock").open("w") as file:
        if held:
            fcntl.flock(file, fcntl.LOCK_EX)
        assert run.status == expected


CONDITIONS = {
    "eval/accuracy>0.75": ["0.001-2", "0.003-1", "0.003-2"],
    "eval/accuracy >= 0.9": ["0.001-2", "0.003-2"],
    "optimizer.learning_rate=0.003": ["0.003-0", "0.003-1", "0.003-2"],
    "optimizer=adam": ["0.001-0", "0.001-1", "0.001-2", "0.003-0", "0.003-1", "0.003-2"],
    "optimizer!=adam": [],
    "seed==2": ["0.001-2", "0.003-2"],
    "status=failed": [],
    "step<20": [],
    "test/loss<1": [],
    "test/loss!=1": ["0.001-0", "0.001-1", "0.001-2", "0.003-0", "0.003-1", "0.003-2"],
    "test/loss=null": ["0.001-0", "0.001-1", "0.001-2", "0.003-0", "0.003-1", "0.003-2"],
    "eval/accuracy!=null": ["0.001-0", "0.001-1", "0.001-2", "0.003-0", "0.003-1", "0.003-2"],
}


@pytest.mark.parametrize("text", CONDITIONS)
def test_conditions(family, text):
    runs, _ = find([family])
    assert [run.folder.name for run in runs if condition(text).holds(run)] == CONDITIONS[text]


def test_orders_and_keys_that_are_not_known(family, tmp_path):
    runs, _ = find([family])
    lost = read(write(tmp_path / "lost", (0.5, math.nan)))
    best = [run.folder.name for run in ordered([lost, *runs], "eval/accuracy", False)]
    assert (best[0], best[-2:]) == ("0.003-2", ["0.001-0", "lost"])
    assert ordered([lost, *runs], "eval/accuracy", True)[-1].folder.name == "lost"
    assert ordered(runs, RATE, True)[0].folder.name.startswith("0.003")
    with pytest.raises(ConfigError, match=r"no run has 'eval/acuracy'.*Did you mean 'eval/accuracy'"):
        check_keys(["eval/acuracy"], runs)
    for wrong in ("eval/accuracy", "eval/accuracy=>0.4", "eval/accuracy>>0.4"):
        with pytest.raises(ConfigError, match="expected a comparison such as"):
            condition(wrong)
    with pytest.raises(ConfigError, match=r"expected a number after 'seed<', found '2 and step>1'.* further --where"):
        condition("seed<2 and step>1").holds(runs[0])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("flag=true", True),
        ("flag=True", True),
        ("flag=false", False),
        ("flag!=false", True),
        ("sizes=[8,16]", True),
        ("sizes = [8, 16]", True),
        ("sizes=[8]", False),
        ("names=[a,b]", True),
        ("rate=null", True),
        ("rate!=null", False),
        ("steps=auto", False),
        ("steps!=null", True),
    ],
)
def test_values_are_compared_as_they_are_typed(tmp_path, text, expected):
    config = {"flag": True, "sizes": [8, 16], "names": ["a", "b"], "rate": None, "steps": 50}
    assert condition(text).holds(Run(tmp_path, {"config": config})) is expected


def test_a_run_that_debug_cut_short_is_a_point_of_its_own(tmp_path):
    config = {"optimizer": {"name": "adam"}, "train": {"steps": 20}}
    for seed, (word, debug) in enumerate([("nans", {"nans": True}), ("off", None), ("overfit", {"overfit": 20})]):
        own = {"seed": seed, **config, **({"debug": {"nans": False, "overfit": None} | debug} if debug else {})}
        write(tmp_path / str(seed), seed=seed, config=own, overrides={"debug": word, "debug.checks": "true"})
    assert [(p.label, p.seeds) for p in points(find([tmp_path])[0])] == [
        ("digits", [0, 1]),
        ("digits debug=overfit", [2]),
    ]


def test_a_run_that_debug_cut_short_is_marked_and_never_the_best(tmp_path):
    config = {"optimizer": {"name": "adam"}}
    for name, accuracy, debug in (
        ("a", 0.8, {"nans": True, "limit": None}),
        ("b", 0.9, {}),
        ("c", 1.0, {"overfit": 9}),
    ):
        write(tmp_path / name, (0.5, accuracy), config={**config, "debug": debug})
    lines = testing.command("runs", str(tmp_path), "--sort", "eval/accuracy").out.splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [["b", "done"], ["a", "done"], ["c", "done"]]
    assert ["(overfit)" in line for line in lines[1:]] == [False, False, True]
    assert "done (overfit) in " in testing.command("show", str(tmp_path / "c")).out
    whole = json.loads(testing.command("runs", str(tmp_path), "--where", "debug=null", "--json").out)["runs"]
    assert [Path(run["folder"]).name for run in whole] == ["a", "b"]
    (cut,) = json.loads(testing.command("runs", str(tmp_path), "--where", "debug=overfit", "--json").out)["runs"]
    assert (cut["debug"], cut["status"]) == ("overfit", "done")


def test_points_are_runs_that_differ_in_their_seed(tmp_path):
    write(tmp_path / "a0"), write(tmp_path / "a1", seed=1), write(tmp_path / "b0", rate=0.01)
    assert [(p.label, p.seeds) for p in points(find([tmp_path])[0])] == [
        ("digits lr=0.001", [0, 1]),
        ("digits lr=0.01", [0]),
    ]
    changed = [{"host": "h", "git": {"commit": "b" * 40}}]
    write(tmp_path / "a2", starts=changed), write(tmp_path / "a3", seed=1, starts=changed)
    found = points(find([tmp_path])[0])
    assert [[run.folder.name for run in p.runs] for p in found] == [["a0", "a1"], ["b0"], ["a2", "a3"]]
    assert [p.label for p in found] == ["digits lr=0.001 #1", "digits lr=0.01", "digits lr=0.001 #2"]
    assert label(read(tmp_path / "a1")) == "digits seed=1 lr=0.001"


@pytest.mark.parametrize("count", [3, 5, 10])
def test_the_interval_holds_the_truth_as_often_as_students(count):
    random = np.random.default_rng(count)
    hits, widths, reference = 0, [], []
    for _ in range(200):
        left, right = random.normal(size=(2, count))
        found = difference(dict(enumerate(left)), dict(enumerate(right)))
        hits += found.low <= 0 <= found.high
        widths.append(found.high - found.low)
        low, high = stats.ttest_rel(right, left).confidence_interval()
        reference.append(high - low)
    assert 0.88 <= hits / 200 <= 0.995
    assert np.median(widths) == pytest.approx(np.median(reference), rel=0.15)


def test_seeds_that_are_paired_tell_more():
    left, right = {0: 0.5, 1: 0.7, 2: 0.9}, {0: 0.551, 1: 0.749, 2: 0.952}
    paired, apart = difference(left, right), difference(left, {seed + 3: value for seed, value in right.items()})
    assert paired.is_paired and paired.is_told and paired.low < 0.05 < paired.high and paired.needed is None
    assert not apart.is_paired and not apart.is_told and apart.mean == pytest.approx(paired.mean)


@pytest.mark.parametrize(
    ("left", "right", "is_high", "said"),
    [
        ((1.0, 1.1, 0.9), (2.0, 2.1, 1.9), True, "better"),
        ((1.0, 1.1, 0.9), (2.0, 2.1, 1.9), False, "worse"),
        ((1.0, 1.1, 0.9), (2.0, 2.1, 1.9), None, "higher"),
        ((1.0, 1.2, 0.8), (1.2, 1.15, 1.3), True, r"3 seeds cannot tell; about \d+ would"),
        ((1.0, 2.0, 3.0), (2.0, 3.0, 1.0), True, "3 seeds cannot tell, nor would 100"),
        ((1.0,), (2.0,), True, "1 seed cannot tell"),
        ((1.0, math.nan), (2.0, 1.0), True, "1 seed cannot tell"),
    ],
)
def test_verdicts(left, right, is_high, said):
    found = difference(dict(enumerate(left)), dict(enumerate(right)))
    assert re.fullmatch(said, sentence(found, is_high))
    if found.needed is not None and math.isfinite(found.needed):
        spread = np.subtract(right, left).std(ddof=1)
        size = int(found.needed)
        assert stats.t.ppf(0.975, size - 1) * spread / size**0.5 < abs(found.mean)
        assert stats.t.ppf(0.975, size - 2) * spread / (size - 1) ** 0.5 >= abs(found.mean)


def test_nothing_finite_is_no_difference():
    assert difference({0: math.nan}, {0: 1.0}) is None


@pytest.mark.parametrize(
    ("values", "drawn"),
    [
        ([0, 1, 2, 3, 4, 5, 6, 7], "▁▂▃▄▅▆▇█"),
        ([1, 1, 1], "▄▄▄"),
        ([0, math.nan, 1], "▁ █"),
        ([], ""),
        ([math.nan], ""),
        (range(800), "▁▂▃▄▅▆▇█"),
    ],
)
def test_sparklines(values, drawn):
    assert layout.sparkline(list(enumerate(values)), 8) == drawn


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(None, ""), (math.nan, ""), (0, "0:00"), (32.4, "0:32"), (3723, "1:02:03"), (2e5, "2 d 07:33")],
)
def test_durations(seconds, shown):
    assert layout.duration(seconds) == shown


@pytest.mark.parametrize("width", [40, 80, 120, None])
def test_no_line_is_longer_than_the_terminal(family, real, width):
    runs = [*find([family])[0], read(real)]
    shown = [listing.table(runs, family, listing.columns(runs, []), width), text(compare(runs), width)]
    shown += [showing.text(run, width) for run in (runs[0], runs[-1])]
    lines = [line for each in shown for line in each.splitlines()]
    # A folder is whole where it is to be copied; before and after it a command is broken.
    folders = [line for line in lines if line.startswith("  ") and (str(family) in line or str(real) in line)]
    assert len(folders) >= 5
    if width is not None:
        assert max(len(line) for line in lines if line not in folders) <= width
        broken = [re.fullmatch(r"    /\S+( \\)?|  framework .*", line) for line in folders if len(line) > width]
        assert all(broken)
    for name in ("0.001-0", "0.003-2", "done", "eval/accuracy"):
        assert any(name in line for line in shown[0].splitlines()), name


def test_what_is_equal_is_hidden_and_pairs_are_told(family):
    done = testing.command("compare", str(family))
    assert done.code == 0 and done.err == ""
    assert re.search(r"optimizer.learning_rate +0.001 +0.003\n", done.out)
    assert "optimizer.name" not in done.out and "jax" not in done.out
    assert re.search(r"eval/accuracy: B − A is \+0.051 \(95 % of pairs: .*\): better", done.out)
    rows = testing.command("compare", str(family), "--markdown").out
    assert "| `optimizer.learning_rate` | 0.001 | 0.003 |" in rows and "better |" in rows


def test_code_that_differs_is_told(tmp_path):
    write(tmp_path / "a"), write(tmp_path / "b", versions={"jax": "0.12.0"}, starts=[{"git": {"commit": "b" * 40}}])
    out = testing.command("compare", str(tmp_path / "a"), str(tmp_path / "b")).out
    assert re.search(r"git.commit +a{12} +b{12}\n", out) and re.search(r"jax +0.10.2 +0.12.0\n", out)
    write(tmp_path / "c"), write(tmp_path / "d")
    assert "config and code are equal" in testing.command("compare", str(tmp_path / "c"), str(tmp_path / "d")).out


def test_an_option_that_is_not_recorded_has_the_default_of_its_plugin(tmp_path):
    """An optimizer's and a callback's; not that of a plugin of another version."""
    version = importlib.metadata.version("framework")
    own = {"distribution": "framework", "version": version}
    plugins = {
        "optimizer": {"kind": "optimizers", "name": "sgd", **own},
        "callbacks.checkpoint": {"kind": "callbacks", "name": "checkpoint", **own},
        "schedule": {"kind": "schedules", "name": "cosine", **own, "version": "0.0.0"},
    }
    short = {"optimizer": {"name": "sgd"}, "callbacks": {"checkpoint": {"every": 0}}, "schedule": {"name": "cosine"}}
    long = {
        "optimizer": {"name": "sgd", "momentum": None, "nesterov": True},
        "callbacks": {"checkpoint": {"every": 0, "keep": 2}, "progress": {"seconds": 5.0}},
        "schedule": {"name": "cosine", "final": 0.5},
    }
    write(tmp_path / "a", config=short, plugins=plugins), write(tmp_path / "b", config=long, plugins=plugins)
    found = compare(find([tmp_path])[0])
    assert found.config == {
        "callbacks": ["checkpoint", "checkpoint progress"],
        "callbacks.checkpoint.keep": ["3", "2"],
        "optimizer.nesterov": ["False", "True"],
        "schedule.final": ["–", "0.5"],
    }


def test_packages_that_are_equal_are_hidden(tmp_path):
    packages = {f"package-{k}": "1.0" for k in range(50)}
    write(tmp_path / "a", packages=packages), write(tmp_path / "b", packages={**packages, "package-7": "2.0"})
    assert compare(find([tmp_path])[0]).code == {"package-7": ["1.0", "2.0"]}


RUN_KEYS = {
    "folder",
    "name",
    "label",
    "seed",
    "status",
    "debug",
    "step",
    "total_steps",
    "started",
    "seconds",
    "overrides",
    "metrics",
}
SHAPES = {
    "runs": {"runs", "unreadable"},
    "show": RUN_KEYS | {"reason", "best", "members", "starts", "warnings", "config", "next"},
    "compare": {"points", "config", "code", "metrics", "differences", "equal"},
    "report": {"file", "bytes", "runs"},
}


@pytest.mark.parametrize("verb", SHAPES)
def test_json_has_the_documented_shape(family, tmp_path, verb):
    write(tmp_path / "lost", (0.5, math.nan))

    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    folder = str(tmp_path / "lost") if verb == "show" else str(family)
    options = ["--out", str(tmp_path / "r.html")] if verb == "report" else []
    found = json.loads(testing.command(verb, folder, *options, "--json").out, parse_constant=refuse)
    assert set(found) == SHAPES[verb]
    documented = (Path(__file__).parents[2] / "docs" / "json.md").read_text()
    assert all(f"`{key}`" in documented for key in SHAPES[verb])
    if verb == "runs":
        assert len(found["runs"]) == 6 and set(found["runs"][0]) == RUN_KEYS
    if verb == "show":
        assert found["metrics"]["eval/accuracy"] == "NaN" and found["best"]["eval/accuracy"] == {
            "step": 10,
            "value": 0.5,
        }
    if verb == "compare":
        assert [point["seeds"] for point in found["points"]] == [[0, 1, 2]] * 2
        assert found["differences"][0]["seeds"] == 3 and found["differences"][0]["verdict"] == "better"


class Page(HTMLParser):
    """A page whose tags are balanced, and what it would fetch."""

    def __init__(self, content):
        super().__init__()
        self.open, self.fetched, self.words = [], [], []
        self.feed(content)

    def handle_starttag(self, tag, attrs):
        self.fetched += [
            v for k, v in attrs if k in ("src", "href", "srcset", "data") and not str(v).startswith("data:")
        ]
        if tag not in ("meta", "img", "path", "rect", "polyline", "polygon", "circle", "html"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        if tag != "html":
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def test_a_report_holds_curves_tables_and_media_and_fetches_nothing(real, tmp_path):
    done = testing.command("report", str(real))
    assert done.code == 0 and str(real / "report.html") in done.out
    content = (real / "report.html").read_text()
    page = Page(content)
    assert page.open == [] and page.fetched == [] and "http" not in content.replace("http://www.w3.org/2000/svg", "")
    assert content.count("data:image/png;base64,") >= 3 and content.count("<polyline data-name=") >= 4
    assert {"loss", "accuracy", "confusion/matrix, step 12"} <= set(page.words)
    several = tmp_path / "r.html"
    assert testing.command("report", str(real.parent), "--out", str(several)).code == 0
    assert Page(several.read_text()).open == []


def test_a_report_of_many_runs_is_small_and_shows_names_as_they_are(tmp_path):
    blob = np.random.default_rng(0).bytes(150_000)
    for seed in range(80):
        folder = write(tmp_path / f"{seed:02}", tuple(np.linspace(0, 1, 400)), seed=seed, name="<script>x</script>")
        for k in range(3):
            (folder / "media" / f"t{k}").mkdir(parents=True)
            (folder / "media" / f"t{k}" / "00000010.png").write_bytes(blob)
    assert testing.command("report", str(tmp_path)).code == 0
    content = (tmp_path / "report.html").read_text()
    assert len(content.encode()) < 2_000_000
    assert "<script>x" not in content and "media are left out" in content and "20 older runs" in content


@pytest.mark.parametrize("ending", ["svg", "png"])
def test_plots(family, tmp_path, ending):
    if ending == "png":
        pytest.importorskip("matplotlib")
    path = tmp_path / f"curves.{ending}"
    assert testing.command("compare", str(family), "--plot", str(path)).code == 0
    if ending == "png":
        assert path.read_bytes().startswith(b"\x89PNG")
    else:
        lines = [each for each in ElementTree.parse(path).iter() if each.tag.endswith("polyline")]
        own = colours([point.key for point in points(find([family])[0])])
        assert {each.get("stroke") for each in lines} == {each.value for each in own.values()}
    refused = testing.command("compare", str(family), "--plot", str(tmp_path / "curves.gif"))
    assert refused.code == 2 and "ends with .svg or .png" in refused.err


def test_a_point_keeps_its_colour_and_no_two_have_one():
    keys = [f"{k:012x}" for k in range(20)]
    own = colours(keys)
    assert len(set(own.values())) == 20
    assert own[keys[0]] == colours(keys[:1])[keys[0]] == colours(keys[:7])[keys[0]]


# Severity 1.0 of Machado, Oliveira and Fernandes (2009), for linear RGB.
BLIND = {
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
}


@pytest.mark.parametrize("kind", BLIND)
def test_the_palette_is_told_apart_by_colour_blind_people(kind):
    codes = np.array([[int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)] for colour in PALETTE])
    linear = np.where(codes <= 0.04045, codes / 12.92, ((codes + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.array(BLIND[kind]).T, 0, 1)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    x, y, z = np.cbrt(seen @ to_xyz.T / np.array([0.9505, 1.0, 1.089])).T
    lab = np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], 1)
    apart = np.linalg.norm(lab[:, None] - lab[None], axis=-1)[np.triu_indices(len(lab), 1)]
    assert apart.min() > 10  # 2.3 is just noticeable


def test_real_runs_are_shown_and_commands_fit_them(real):
    out = testing.command("show", str(real.parent)).out  # its newest run
    assert re.search(r"train/loss +[\d.]+ +[\d.]+ +\d+ +[▁▂▃▄▅▆▇█ ]+\n", out)
    assert re.search(r"member +seed +eval/accuracy +eval/loss\n +0 +0 ", out)
    assert f"framework resume {real} train.steps=24" in out and "MiB" in out


@pytest.mark.parametrize(
    ("more", "made", "commands"),
    [
        ({"status": "failed"}, ["nan"], ["replay", "report"]),
        ({"status": "failed"}, [], ["tail", "report"]),
        ({"status": "stopped"}, ["checkpoints/10"], ["resume", "evaluate", "report"]),
        ({"status": "running"}, ["checkpoints/10"], ["resume", "report"]),  # it was killed
        ({"status": "running", "starts": []}, [], ["tell", "tell", "report"]),
    ],
)
def test_advice_fits_the_state(tmp_path, more, made, commands):
    folder = write(tmp_path / "my run", **more)
    (folder / "lock").touch()
    for name in made:
        (folder / name).mkdir(parents=True)
    said = [shlex.split(command.removeprefix("framework ")) for command, _ in showing.advice(read(folder))]
    assert all(str(folder) in "/".join(words[1:2]) for words in said)  # one word, which a shell keeps as it is
    found = [words[0] for words in said]
    assert [each for each in found if each != "evaluate"] == [each for each in commands if each != "evaluate"]


def test_records_of_any_kind_are_shown(tmp_path):
    folder = tmp_path / "odd"
    folder.mkdir()
    (folder / "run.json").write_text('{"config": {}, "metrics": {"eval/loss": 1, "x": "y"}, "name": "a\\u001b[2Jb"}')
    (folder / "metrics.jsonl").write_bytes(b'{"step": 1, "eval/loss": 2}\n{"step": \xff\n[1]\n')
    run = read(folder)
    assert run.series == {"eval/loss": [(1, 2.0)]} and run.metrics == {"eval/loss": 1.0} and run.status == "unknown"
    (folder / "metrics.jsonl").unlink()
    os.mkfifo(folder / "metrics.jsonl")  # which nobody writes to
    assert read(folder).series == {}
    for verb in ("show", "runs"):
        done = testing.command(verb, str(folder))
        assert done.code == 0 and "\x1b" not in done.out and "a\\x1b[2Jb" in done.out


@pytest.mark.parametrize(
    ("field", "value"),
    [("name", 5), ("step", "x"), ("total_steps", "many"), ("seconds", "a"), ("overrides", [1]), ("starts", "me")],
)
def test_a_record_with_a_field_of_another_type_is_left_out_by_name(tmp_path, field, value):
    write(tmp_path / "sound"), write(tmp_path / "odd", **{field: value})
    done = testing.command("runs", str(tmp_path), "--json")
    found = json.loads(done.out)
    assert [Path(run["folder"]).name for run in found["runs"]] == ["sound"]
    assert f"odd is not a run folder: its run.json cannot be read (its '{field}' is '" in found["unreadable"][0]


def test_listing_needs_neither_jax_nor_the_logs_of_runs_that_ended(family, tmp_path):
    program = f"import sys\nfrom framework.commands.cli import main\nmain(['runs', {str(family)!r}])\n"
    done = subprocess.run(
        [sys.executable, "-c", f"{program}print('jax' in sys.modules)"], capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "False"
    folder = write(tmp_path / "run")
    (folder / "metrics.jsonl").unlink()
    run = Run(folder, json.loads((folder / "run.json").read_text()))
    assert run.metrics["eval/accuracy"] == 0.9


def test_no_runs_are_no_error(tmp_path, monkeypatch):
    assert testing.command("runs", str(tmp_path)).out == f"no runs in {tmp_path}\n"
    monkeypatch.chdir(tmp_path)
    assert "no folder 'runs' here" in testing.command("runs").err
    assert testing.command("compare", str(tmp_path)).code == 2
    assert testing.command("report", str(tmp_path)).code == 5
