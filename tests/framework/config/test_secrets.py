"""Secrets: which names look like one, and that their values reach no file of a run."""

from __future__ import annotations

import pytest

import framework
from framework.config.secrets import check_unmasked, is_secret, masked, masked_words, secrets_of
from framework.errors import ConfigError

ACME = '''
from framework.api import Callback

class Web(Callback):
    def __init__(self, token): self.token = token
    def on_log(self, step, scalars): assert self.token == "hunter2hunter2"

def web(token: str = "", note: str = "") -> Callback:
    """Reports to a site."""
    import logging
    logging.getLogger("framework").info(f"reporting with {token}")
    return Web(token)
'''

TINY = ["data=digits", "data.size=8", "model.hidden=[4]", "train.steps=1", "callbacks=[web,tensorboard]"]


@pytest.mark.parametrize(
    "name", ["password", "api_key", "apiKey", "API-KEY", "secret", "db_passwd", "credentials", "token", "hf_token"]
)
def test_names_of_secrets(name):
    assert is_secret(name)


@pytest.mark.parametrize(
    "name",
    ["tokens", "max_tokens", "tokenizer", "eos_token", "pad_token", "key", "keys", "secretary", "passes", "name"],
)
def test_names_that_only_sound_like_it(name):
    assert not is_secret(name)


def test_values_are_masked_by_key_and_wherever_they_occur():
    config = {
        "a": {"token": "hunter2hunter2", "password": "x", "n": 1},
        "url": "http://u:hunter2hunter2@h",
        "l": ["ok"],
    }
    hidden = secrets_of(config)
    assert masked(config, hidden) == {
        "a": {"token": "***", "password": "***", "n": 1},
        "url": "http://u:***@h",
        "l": ["ok"],
    }
    assert masked_words(["f", "++a.password=x", "a.n=1"], hidden) == ["f", "++a.password=***", "a.n=1"]


def test_variables_of_the_environment_count_too(monkeypatch):
    monkeypatch.setenv("ACME_API_KEY", "swordfish-1")
    assert masked({"data": {"root": "/x/swordfish-1"}}, secrets_of({})) == {"data": {"root": "/x/***"}}


@pytest.mark.parametrize("name", ["PWD", "OLDPWD"])
def test_where_a_shell_stands_is_no_secret(name, monkeypatch):
    monkeypatch.setenv(name, "/home/me/work")
    config = {"run": {"dir": "/home/me/work/run"}}
    assert masked(config, secrets_of({})) == config


def test_what_was_masked_is_asked_for():
    with pytest.raises(
        ConfigError, match=r"callbacks\.web\.token: it held a secret, .* set it with callbacks\.web\.token="
    ):
        check_unmasked({"seed": 1, "callbacks": {"web": {"token": "***"}}})


@pytest.mark.parametrize("given", ["hunter2hunter2", "${oc.env:ACME_TOKEN}"])
def test_no_file_of_a_run_holds_a_secret_and_a_second_run_asks_for_it(install, tmp_path, monkeypatch, given):
    install("acme", {"framework.callbacks": {"web": "acme_web:web"}}, {"acme_web.py": ACME})
    monkeypatch.setenv("ACME_TOKEN", "hunter2hunter2")
    words = [
        *TINY,
        f"callbacks.web.token={given}",
        "callbacks.web.note='x hunter2hunter2'",
        f"run.root={tmp_path / 'runs'}",
    ]
    monkeypatch.setattr("sys.argv", ["framework", *words])
    directory = framework.run(words).directory
    texts = {path.name: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    assert {"config.yaml", "run.json", "run.log"} <= set(texts)
    assert not [name for name, text in texts.items() if b"hunter2" in text]
    with pytest.raises(ConfigError, match=r"callbacks\.web\.token: it held a secret"):
        framework.run(recorded=directory)
    again = ["callbacks.web.token=hunter2hunter2", "callbacks.web.note=''", f"run.root={tmp_path / 'again'}"]
    assert int(framework.run(again, recorded=directory).state.step) == 1


def test_a_secret_does_not_become_the_name_of_a_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("ACME_TOKEN", "hunter2hunter2")
    with pytest.raises(ConfigError, match=r"run\.root: it holds a secret"):
        framework.run(["data=digits", f"run.root={tmp_path}/hunter2hunter2"])
