"""`python -m framework plugins` lists whole plugins and broken ones."""

from __future__ import annotations

import json
import re
import shlex

import pytest

from framework.commands.plugins import as_json, show
from framework.config.compose import compose
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
    r"""A :class:`~acme.Wide` one, of layers.

    It computes :math:`\\alpha_t \\leftarrow \\hat{m}_{t-1}` of ``rate``.

    .. math::
        x^{2y} \\cdot \\beta

    Args:
      hidden: how wide,
        in units.
      rate (float): see `the paper <http://example.org>`_.

    Returns:
      A layer.
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
    "    how wide, in units.",
    "rate: float = 0.5",
    "    see the paper (http://example.org).",
    "shape: tuple[int, ...] = [1, 2]",
    "name: str or null = null",
    "padding: one of 'same', 'valid' = same",
    "key: any = null",
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
    assert row.split(maxsplit=3) == ["wide", "acme_jax", "0.3", "A acme.Wide one, of layers."]
    (row,) = rows(text, "bare")
    assert row.split() == ["bare", "acme_jax", "0.3"]
    (row,) = rows(text, "mlp")
    assert row.split()[1] == "framework"
    assert not any(line.strip() == "rate: float = 0.5" for line in text.splitlines())


def test_one_plugin_is_shown_with_an_example_its_options_and_its_text(acme):
    assert show(["layers", "wide"]).splitlines() == [
        "framework model=serial 'model.layers=[{wide: {hidden: 8}}]'",
        "",
        "layer 'wide', from acme_jax 0.3 (acme_m:wide)",
        "",
        "A acme.Wide one, of layers.",
        "",
        "options:",
        *(f"  {option}" for option in OPTIONS),
        "",
        "It computes α_t ← m̂_(t-1) of `rate`.",
        "",
        "    x^(2y) · β",
        "",
        "Returns:",
        "  A layer.",
    ]


EXAMPLES = {
    ("losses", "huber"): "framework +experiment=mnist loss=huber loss.delta=1.0",
    ("metrics", "accuracy"): "framework +experiment=mnist metrics+=accuracy",
    ("callbacks", "early_stopping"): "framework +experiment=mnist callbacks+=early_stopping "
    "callbacks.early_stopping.metric=eval/loss",
    ("transforms", "random_shift"): "framework +experiment=mnist 'data.transform=[{random_shift: {pixels: ",
    ("data", "digits"): "framework data=digits data.batch_size=128",
    ("layers", "stax.Relu"): "framework model=serial 'model.layers=[stax.Relu]'",
    ("optimizers", "sgd"): "framework +experiment=mnist optimizer=sgd optimizer.learning_rate=0.1",
    ("tasks", "vae"): "framework task=vae",
    ("stores", "files"): "framework data=digits callbacks.checkpoint.store=files",
    ("commands", "bench"): "framework bench --help",
    (
        "searches",
        "random",
    ): "framework -m +experiment=mnist 'optimizer.learning_rate=interval(1e-4,1e-1)' search=random",
}


@pytest.mark.parametrize("named", EXAMPLES, ids=":".join)
def test_examples_can_be_copied(named):
    first = show(named).splitlines()[0]
    assert first.startswith(EXAMPLES[named])
    if named[0] not in ("commands", "tasks", "searches"):
        compose(shlex.split(first)[1:])  # its words are ones that a run takes


@pytest.mark.parametrize(
    ("word", "found", "without"),
    [
        ("conv", ["layers:", "  Conv ", "models:", "  cnn "], ["losses:", "  mlp ", "  Dense "]),
        ("CONV", ["layers:", "  Conv "], ["losses:"]),
        ("whitened", [], []),
    ],
)
def test_a_word_is_searched_for_in_names_and_first_lines(word, found, without):
    if not found:
        with pytest.raises(ConfigError, match="no plugin kind is named 'whitened'"):
            show([word])
        return
    text = show([word])
    assert all(each in text for each in found) and not any(each in text for each in without)
    assert {each["name"] for each in as_json([word])} >= {"Conv", "cnn"}


def test_json_tells_options_and_what_is_broken(acme):
    told = json.loads(command("plugins", "layer", "wide", "--json").out)
    (wide,) = told
    assert (wide["kind"], wide["name"], wide["help"]) == ("layers", "wide", "A acme.Wide one, of layers.")
    hidden = {"name": "hidden", "type": "int", "required": True, "default": None, "about": "how wide, in units."}
    assert wide["options"][0] == hidden and wide["options"][1]["default"] == "0.5"
    broken = [each for each in as_json(["callbacks"]) if each["error"]]
    assert [each["name"] for each in broken] == ["broken"]


@pytest.mark.parametrize(
    ("kind", "name", "tail"),
    [
        ("layer", "bare", "(no documentation)\n\noptions:\n  none"),
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


@pytest.mark.parametrize(("group", "kind"), [*GROUPS.items(), *((kind.noun, name) for name, kind in KINDS.items())])
def test_a_kind_may_be_named_in_the_singular_and_as_the_config_names_it(group, kind):
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
        (
            ["modles"],
            ConfigError,
            "no plugin kind is named 'modles', and no name or first line has that word. Did you mean 'models'? Known: ",
        ),
        (["layers", "wode"], ConfigError, "plugins: no layer is named 'wode'. Did you mean 'wide'? Known: "),
        (["callbacks", "broken"], PluginError, "callback 'broken' (acme_jax 0.3, acme_m:nothing) cannot be imported: "),
    ],
)
def test_what_cannot_be_shown_is_one_line(acme, words, error, text):
    with pytest.raises(error) as raised:
        show(words)
    assert str(raised.value).startswith(text)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("width", [40, 80, 120])
def test_in_a_terminal_each_plugin_is_one_line_and_no_line_is_wrapped(acme, width):
    for words in ([], ["callbacks"], ["layers", "wide"], ["optimizers", "adamw"]):
        lines = show(words, width=width).splitlines()
        prose = lines[2:] if len(words) == 2 else lines  # the example is whole, so that it can be copied
        # Code and formulas keep their lines.
        kept = [line for line in prose if re.match(r" *(>>>|\.\.\. |Objective)", line) or "←" in line]
        kept += [line for line in prose if line.startswith("optimizer 'adamw'") or "http" in line or "_t" in line]
        assert max(len(line) for line in prose if line not in kept) <= width
    assert "  watch           Watches. (acme_jax 0.3)" in show(["callbacks"], width=80).splitlines()
    assert "\n  watch\n    Watches. (acme_jax 0.3)" in show(["callbacks"], width=40)


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
