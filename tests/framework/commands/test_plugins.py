"""`python -m framework plugins` lists whole plugins and broken ones."""

from __future__ import annotations

import pytest

from framework.commands.plugins import show
from framework.errors import ConfigError, PluginError
from framework.registry.kinds import GROUPS, KINDS
from framework.testing import command

WIDE = '''
from __future__ import annotations
from collections.abc import Mapping
from typing import Literal


def wide(
    hidden: int,
    rate: float = 0.5,
    shape: tuple[int, ...] = (1, 2),
    name: str | None = None,
    padding: Literal["same", "valid"] = "same",
    key=None,
    norm: type = dict,
    measure=len,
):
    """A wide one, of layers.

    Args:
      hidden: how wide.
    """


def bare():
    pass


def loose(*values, scale: float = 1.0, **options):
    """Takes what it is given."""


class Watch:
    """Watches."""

    def __init__(self, every: int = 3) -> None:
        """Not this text."""
'''

OPTIONS = [
    "hidden: int  (required)",
    "rate: float = 0.5",
    "shape: tuple[int, ...] = (1, 2)",
    "name: str or null = None",
    "padding: one of 'same', 'valid' = 'same'",
    "key: any = None",
    "norm: type = dict",
    "measure: any = len",
]


@pytest.fixture
def acme(install):
    names = {name: f"acme_m:{target}" for name, target in {"wide": "wide", "bare": "bare", "loose": "loose"}.items()}
    groups = {
        "framework.layers": names,
        "framework.callbacks": {"watch": "acme_m:Watch", "broken": "acme_m:nothing"},
        "framework.losses.catalogue": {"all": "acme_m:nothing"},
    }
    install("acme_jax", groups, {"acme_m.py": WIDE}, version="0.3")


def rows(text, name):
    return [line for line in text.splitlines() if line.split()[:1] == [name]]


def test_everything_is_listed_by_kind_with_distribution_version_and_first_line(acme):
    text = show([])
    heads = [line for line in text.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert heads == [f"{kind}:" for kind in KINDS]
    (row,) = rows(text, "wide")
    assert row.split(maxsplit=3) == ["wide", "acme_jax", "0.3", "A wide one, of layers."]
    (row,) = rows(text, "bare")
    assert row.split() == ["bare", "acme_jax", "0.3"]
    (row,) = rows(text, "mlp")
    assert row.split()[1] == "framework"
    assert not any(line.strip() == "rate: float = 0.5" for line in text.splitlines())


def test_a_kind_is_listed_with_types_and_defaults(acme):
    lines = show(["layers"]).splitlines()
    assert lines[0] == "layers:"
    assert not any(line.split()[:1] == ["mlp"] for line in lines)
    at = next(index for index, line in enumerate(lines) if line.split()[:1] == ["wide"])
    assert [line.strip() for line in lines[at + 1 : at + 1 + len(OPTIONS)]] == OPTIONS


def test_one_plugin_is_shown_with_its_text_types_and_defaults(acme):
    text = show(["layers", "wide"])
    assert text.startswith("layer 'wide', from acme_jax 0.3 (acme_m:wide)\n\nA wide one, of layers.\n\nArgs:\n")
    assert text.endswith("\n\noptions:\n" + "\n".join(f"  {option}" for option in OPTIONS))


@pytest.mark.parametrize(
    ("kind", "name", "tail"),
    [
        ("layers", "bare", "(no documentation)\n\noptions:\n  none"),
        ("layers", "acme-jax:bare", "(no documentation)\n\noptions:\n  none"),
        (
            "layers",
            "loose",
            "Takes what it is given.\n\n"
            "options:\n  scale: float = 1.0\n  values of any number, in order\n  options of any name",
        ),
        ("callbacks", "watch", "Watches.\n\noptions:\n  every: int = 3"),
    ],
)
def test_options_of_every_form_are_shown(acme, kind, name, tail):
    assert show([kind, name]).endswith(f"\n\n{tail}")


@pytest.mark.parametrize(("group", "kind"), GROUPS.items())
def test_a_kind_may_be_named_as_the_config_names_it(group, kind):
    assert show([group]) == show([kind])


@pytest.mark.parametrize("words", [[], ["callbacks"]])
def test_a_broken_plugin_is_listed_with_its_reason(acme, words):
    (row,) = rows(show(words), "broken")
    assert "BROKEN" in row
    assert "AttributeError: module 'acme_m' has no attribute 'nothing'" in row


@pytest.mark.parametrize("words", [[], ["losses"]])
def test_a_broken_catalogue_is_listed_with_its_reason(acme, words):
    (row,) = rows(show(words), "BROKEN")
    assert "loss 'all catalogue' (acme_jax 0.3, acme_m:nothing) cannot be imported: AttributeError" in row


def test_a_damaged_distribution_is_listed_with_its_reason(install):
    install("damaged", "[framework.models]\nwide\n")
    (row,) = rows(show([]), "BROKEN")
    assert "damaged-1.0.dist-info cannot be read" in row


@pytest.mark.parametrize(
    ("words", "error", "text"),
    [
        (["modles"], ConfigError, "no plugin kind is named 'modles'. Did you mean 'models'? Known: "),
        (["layers", "wode"], ConfigError, "plugins: no layer is named 'wode'. Did you mean 'wide'? Known: "),
        (["callbacks", "broken"], PluginError, "callback 'broken' (acme_jax 0.3, acme_m:nothing) cannot be imported: "),
    ],
)
def test_what_cannot_be_shown_is_one_line(acme, words, error, text):
    with pytest.raises(error) as raised:
        show(words)
    assert str(raised.value).startswith(text)
    assert "\n" not in str(raised.value)


def test_in_a_terminal_the_listing_is_wrapped_below_what_it_says(acme):
    wrapped = show(["callbacks"], width=60)
    assert max(map(len, wrapped.splitlines())) <= 60
    joined = " ".join(wrapped.split())
    assert "watch acme_jax 0.3 Watches. every: int = 3" in joined


@pytest.mark.parametrize("kind", KINDS)
def test_everything_we_ship_is_whole_and_says_what_it_is(kind):
    for row in show([kind]).splitlines():
        words = row.split()
        if len(words) > 2 and words[1] == "framework":
            assert "BROKEN" not in row
            assert len(words) > 3, f"no documentation: {row}"


def test_a_terminal_obeys_nothing_in_the_help_of_a_verb(install):
    source = (
        "from framework.command import Command\n"
        "from framework.commands.arguments import Arguments\n\n"
        "def verb():\n"
        "    return Command('shout', 'shout \\x1b[2J', Arguments('shout', 'A \\x1b[2J', 'b').read)\n"
    )
    install("acme", {"framework.commands": {"shout": "acme_shout:verb"}}, {"acme_shout.py": source})
    for words in (["help"], ["shout", "--help"]):
        told = command(*words).out
        assert "\x1b" not in told and r"\x1b[2J" in told
