"""The length of a run, its learning rate, and the parts of a task, by where they are set."""

from __future__ import annotations

import pytest
import yaml

from framework.commands.hydra_app import show
from framework.config.compose import compose
from framework.errors import ConfigError
from framework.testing import message

FILE = "# @package _global_\ntrain: {steps: 7, epochs: 5}\n"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], (7, 5)),  # where a file has both, steps decide
        (["train.steps=9"], (9, 5)),
        (["train.epochs=2"], (None, 2)),  # of the command line, in the place of the file's steps
        (["train.epochs=null", "train.steps=9"], (9, None)),
        (["train.epochs=null"], (7, None)),
        (["train.steps=null", "train.epochs=2"], (None, 2)),
        (["train.steps=null"], (None, 5)),
    ],
)
def test_a_length_is_that_of_the_nearest_place(tmp_path, words, expected):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(FILE)
    train = compose(["+experiment=mine", *words], tmp_path).settings.train
    assert (train.steps, train.epochs) == expected


@pytest.mark.parametrize("words", [["train.epochs=null"], ["train.epochs=null", "train.steps=null"]])
def test_a_run_without_a_length_is_refused(words):
    with pytest.raises(ConfigError) as raised:
        compose(words)
    text = "train.epochs: it is null, and so is train.steps; set one of the two. (set on the command line)"
    assert message(raised) == text


RATED = "# @package _global_\noptimizer: {learning_rate: 0.2}\n"


@pytest.mark.parametrize(
    ("words", "name", "by"),
    [
        (["schedule.value=0.1"], "constant", "schedule.value=0.1"),
        (["schedule=cosine", "schedule.init_value=0.1"], "cosine_decay", "schedule.init_value=0.1"),
        (["schedule=one_cycle", "schedule.peak_value=0.1"], "cosine_onecycle", "schedule.peak_value=0.1"),
        (["strategy=vmapped", "strategy.members={schedule.value: [0.1, 0.2]}"], "constant", ""),
    ],
)
def test_a_rate_that_the_schedule_does_not_take_is_refused(words, name, by):
    with pytest.raises(ConfigError) as raised:
        compose(["optimizer.learning_rate=0.5", *words])
    text = f"the schedule '{name}' sets the rate itself{by and f' by {by}'}, so that 0.5 has no effect; leave one out."
    assert message(raised) == f"optimizer.learning_rate: {text} (set on the command line)"


@pytest.mark.parametrize(
    "words",
    [
        ["schedule.value=0.1"],  # in the place of the file's rate
        ["schedule.value=0.1", "optimizer.learning_rate=0.1"],
        ["schedule.value=0.1", "optimizer.learning_rate=0.5", "optimizer.b1=${optimizer.learning_rate}"],
        ["schedule=cosine", "schedule.alpha=0.1", "optimizer.learning_rate=0.5"],
    ],
)
def test_a_rate_that_something_takes_or_a_word_replaces_is_accepted(tmp_path, words):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "rated.yaml").write_text(RATED)
    assert compose(["+experiment=rated", *words], tmp_path).values["schedule"]


@pytest.mark.parametrize(
    ("task", "section", "group", "name"),
    [
        ("autoencoder", "decoder", "model", "cnn"),
        ("vae", "encoder", "model", "cnn"),
        ("gan", "generator", "model", "mlp"),
        ("gan", "discriminator_optimizer", "optimizer", "sgd"),
        ("contrastive", "projector", "model", "mlp"),
    ],
)
def test_another_part_of_a_task_takes_nothing_over_from_the_first(task, section, group, name):
    found = compose([f"task={task}", f"{group}@{section}={name}"]).values
    assert found[section] == compose([f"{group}={name}"]).values[group]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["task=vae", "loss=huber"], "loss: task 'vae' takes no section 'loss'; it takes encoder, decoder, "),
        # A schedule of the rate of an optimizer that the task does not take leads nowhere.
        (["task=gan", "schedule=cosine"], "schedule: task 'gan' takes no section 'schedule'; it takes generator, "),
        (["task=ppo", "data.transform=[random_flip]"], "data.transform: task 'ppo' takes no section 'data.transform'"),
    ],
)
def test_a_section_that_the_task_does_not_take_is_refused(words, text):
    with pytest.raises(ConfigError) as raised:
        compose(words)
    assert message(raised).startswith(text)


WHOLE_LISTS = [
    (["callbacks=[progress]"], "callbacks", ["progress"]),
    (["callbacks=progress"], "callbacks", ["progress"]),
    (["callbacks=[progress]", "callbacks.views.every=5"], "callbacks", ["progress", "views"]),
    (["callbacks=[]", "callbacks=[checkpoint]"], "callbacks", ["checkpoint"]),
    (["probes=[]"], "probes", []),
    (["probes=[norms]"], "probes", ["norms"]),
    (["probes+=norms"], "probes", ["histograms", "norms"]),
    (["probes.histograms.every=3"], "probes", ["histograms"]),
]


@pytest.mark.parametrize(("words", "section", "names"), WHOLE_LISTS, ids=str)
def test_a_list_that_is_chosen_is_the_whole_list(words, section, names, capsys):
    assert list(compose(["+experiment=mnist", *words]).values[section]) == names
    if "+=" not in words[0]:
        show(["+experiment=mnist", *words], None, ["--cfg=job"])
        assert list(yaml.safe_load(capsys.readouterr().out)[section]) == names
