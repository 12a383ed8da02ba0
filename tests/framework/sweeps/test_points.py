"""The hash of a point: it differs wherever the numbers of its run may, and nowhere else."""

from __future__ import annotations

import pytest

from framework import testing
from framework.config.compose import compose
from framework.sweeps import points
from framework.sweeps.points import content_of, differences, hash_of

WORDS = [*testing.TINY, "train.steps=1", "callbacks=[checkpoint]"]
PLUGINS = {
    "framework.layers": {"Mul": "acme_parts:Mul"},
    "framework.transforms": {"mul": "acme_parts:mul"},
    "framework.losses": {"off": "acme_parts:off"},
}
SOURCE = """
FACTOR = 1.0
def Mul():
    return (lambda key, shape: (shape, ())), (lambda params, inputs, **_: inputs * FACTOR)
def mul():
    return lambda inputs, key=None: inputs * FACTOR
def off():
    return lambda outputs, batch: ((outputs[..., 0] - batch["targets"]) * FACTOR) ** 2
"""
NESTED = {
    "a layer": ["model=serial", "~model.hidden", "model.layers=[Flatten, {Dense: 10}, Mul]"],
    "a layer in a stack": ["model=serial", "~model.hidden", "model.layers=[Flatten, {serial: [{Dense: 10}, Mul]}]"],
    "a transform": ["data.transform=[mul]"],
    "a loss as a metric": ["metrics=[off]"],
}


def content(*words):
    points._sources.cache_clear()  # as in another process
    return content_of(compose([*WORDS, *words]))


@pytest.mark.parametrize("words", NESTED.values(), ids=NESTED)
def test_code_that_is_named_deep_in_a_config_counts(install, words):
    folder = install("acme", PLUGINS, {"acme_parts.py": SOURCE})
    before = content(*words)
    assert hash_of(content(*words)) == hash_of(before)
    (folder / "acme_parts.py").write_text(SOURCE.replace("1.0", "5.0"))
    after = content(*words)
    assert hash_of(after) != hash_of(before)
    assert any(line.startswith("the code of ") and "acme" in line for line in differences(before, after))


@pytest.mark.parametrize(
    ("words", "is_same"),
    [
        (["debug=nans"], True),
        (["debug.profile=[1,2]"], True),
        (["debug=limit"], False),
        (["debug.overfit=3"], False),
        (["debug=fast"], False),
        (["debug=eager"], False),  # it rounds otherwise
        (["train.log_every=3"], True),
        (["precision=bfloat16"], False),
    ],
    ids=str,
)
def test_presets_count_and_switches_that_look_for_faults_do_not(words, is_same):
    assert (hash_of(content(*words)) == hash_of(content())) is is_same


@pytest.mark.parametrize("key", ["init_from", "model.run"])
def test_a_run_that_is_begun_with_counts_by_what_it_is(tmp_path, key):
    words = [f"{key}=first"] if key == "init_from" else ["model=trained", "~model.hidden", "model.run=first"]
    words = [word.replace("first", f"{tmp_path}/first") for word in words]

    def train(*more):
        testing.command("train", *WORDS, f"run.dir={tmp_path}/first", *more)
        return content(*words)

    before = train()
    assert hash_of(content(*words)) == hash_of(before)
    longer = content_after_resume(tmp_path, words)
    (tmp_path / "first").rename(tmp_path / "former")
    again = train("seed=1")
    for other in (longer, again):
        assert differences(before, other) == [f"what {key} names"]
        assert hash_of(other) != hash_of(before)


def content_after_resume(tmp_path, words):
    done = testing.command("resume", f"{tmp_path}/first", "train.steps=2")
    assert done.code == 0, done.err
    return content(*words)
