"""Docstrings as text for a terminal: reStructuredText becomes plain words, and "Args" a meaning for each option."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from typing import NamedTuple

ARGUMENTS = re.compile(r"(Args|Arguments|Parameters):\s*")
"""The heading of the section that says what options mean."""

PROSE = re.compile(r"(Returns?|Yields|Raises|References?|Warnings?|Notes?|See ?[Aa]lso|Attributes):\s*")
"""Headings of sections whose indented lines are sentences, and no code."""

ITEM = re.compile(r"[\w.]+: |\.\. \[")
"""Beginnings of lines in such a section that begin an item of their own."""

GREEK = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho sigmaf sigma tau upsilon "
    "phi chi psi omega"
)

SIGNS = {name: chr(0x3B1 + place) for place, name in enumerate(GREEK.split())}
SIGNS |= {"varepsilon": "ε", "leftarrow": "←", "rightarrow": "→", "cdot": "·", "times": "×", "sqrt": "√", "infty": "∞"}
SIGNS |= {"sum": "Σ", "prod": "Π", "nabla": "∇", "le": "≤", "leq": "≤", "ge": "≥", "geq": "≥", "neq": "≠", "in": "∈"}
SIGNS |= {"pm": "±", "approx": "≈", "odot": "⊙", "partial": "∂", "quad": " ", "ldots": "…", "dots": "…", "cdots": "…"}
"""Words of TeX that have a sign of their own."""

ACCENTS = {"hat": "\u0302", "bar": "\u0304", "tilde": "\u0303", "vec": "\u20d7", "dot": "\u0307"}


class Docstring(NamedTuple):
    """The parts of a docstring.

    Attributes:
      summary: its first sentence or paragraph, on one line.
      options: meaning of each parameter, by name, each on one line.
      rest: what else it says, with paragraphs wrapped.
    """

    summary: str
    options: dict[str, str]
    rest: str


def parsed(text: str, width: int) -> Docstring:
    """Read a docstring in Google's style, in which reStructuredText may stand.

    Args:
      text: as `inspect.getdoc` returns it.
      width: characters in a line of `rest`.
    """
    first, _, body = text.strip().partition("\n\n")
    options: dict[str, str] = {}
    kept: list[str] = []
    lines = body.splitlines()
    while lines:
        line = lines.pop(0)
        if ARGUMENTS.fullmatch(line) is None:
            kept.append(line)
            continue
        block: list[str] = []
        while lines and (not lines[0].strip() or lines[0].startswith(" ")):
            block.append(lines.pop(0))
        options |= _options(textwrap.dedent("\n".join(block)).splitlines())
    return Docstring(plain(" ".join(first.split())), options, _wrapped("\n".join(kept), width))


def plain(text: str) -> str:
    """Return a line of reStructuredText in plain words: roles are taken away, and formulas are spelt."""
    text = re.sub(r":math:`([^`]*)`", lambda found: formula(found[1]), text)
    text = re.sub(r":[\w:]+:`~?(?:[^`<]*<)?!?([^`>]*)>?`", lambda found: found[1], text)
    text = re.sub(r"`([^`<]*?)\s*<([^`>]*)>`_{1,2}", r"\1 (\2)", text)
    text = re.sub(r"``([^`]*)``|`([^`]*)`_", lambda found: f"`{found[1]}`" if found[1] else found[2], text)
    return re.sub(r"(?<!\w)\*\*([^*]+)\*\*(?!\w)", r"\1", text)


def formula(tex: str) -> str:
    """Spell a formula of TeX with Unicode, as far as that is readable."""
    tex = re.sub(r"\\(begin|end)\{[^}]*\}|\\(left|right|big|Big|mathbf|mathrm|text|,|;|!)(?![a-z])|&", "", tex)
    tex = re.sub(r"\\(\w+?)\{(\w|\\\w+)\}", lambda m: m[2] + ACCENTS[m[1]] if m[1] in ACCENTS else m[0], tex)
    tex = re.sub(r"\\[dt]?frac\{([^{}]*)\}\{([^{}]*)\}", r"(\1) / (\2)", tex)
    tex = re.sub(r"([_^])\{([^{}]{2,})\}", r"\1(\2)", tex)
    tex = re.sub(r"\\([A-Za-z]+)", lambda found: SIGNS.get(found[1], found[1]), tex)
    return re.sub(r"[{}]|\\\\", "", tex)


def _options(lines: Sequence[str]) -> dict[str, str]:
    """Read "name (type): meaning", with further lines that are indented."""
    found: dict[str, str] = {}
    names: list[str] = []
    for line in lines:
        head = re.match(r"\*{0,2}([\w, *]+?)\s*(?:\([^)]*\))?:(?:\s+(.*)|$)", line)
        if head and not line.startswith(" "):
            names = [name.strip(" *") for name in head[1].split(",")]
            found |= dict.fromkeys(names, head[2] or "")
        elif line.strip():
            found |= {name: f"{found[name]} {line.strip()}" for name in names}
    return {name: plain(meaning.strip()) for name, meaning in found.items()}


def _section(lines: Sequence[str], width: int) -> list[str]:
    """Wrap the sentences of a section, item by item, below its heading if that is among the lines."""
    heading = [line for line in lines[:1] if not line.startswith(" ")]
    items: list[str] = []
    for line in (line.strip() for line in lines[len(heading) :]):
        if items and not ITEM.match(line):
            items[-1] += f" {line}"
        else:
            items.append(line)
    wrapper = textwrap.TextWrapper(
        width, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False, break_long_words=False
    )
    return heading + [line for item in items for line in wrapper.wrap(plain(item))]


def _wrapped(text: str, width: int) -> str:
    """Wrap paragraphs, and leave indented lines, such as code and formulas, as they are."""
    blocks = []
    is_formula = is_prose = False
    for block in re.split(r"\n\s*\n", text.strip("\n")):
        lines = block.splitlines()
        directive = re.match(r"\s*\.\. (\w+)::\s*(.*)", lines[0]) if lines else None
        if directive:
            is_formula = directive[1] == "math"
            title = "" if is_formula or directive[1] in ("code", "doctest") else f"{directive[1].capitalize()}:"
            lines = [*filter(None, [f"{title} {directive[2]}".strip()]), *lines[1:]]
        if not lines:
            continue
        is_prose = bool(PROSE.fullmatch(lines[0])) or (is_prose and lines[0].startswith(" "))
        if is_prose and not any(line.lstrip().startswith(">>>") for line in lines):
            blocks.append("\n".join(_section(lines, width)))
        elif is_formula:
            spelt = (formula(line).rstrip() for line in textwrap.dedent("\n".join(lines)).splitlines())
            blocks.append("\n".join(f"    {line}" for line in spelt if line.strip()))
            is_formula = bool(directive) and len(lines) == 0
        elif any(line.startswith((" ", ">>>")) for line in lines[1:]) or lines[0].startswith((" ", ">>>")):
            blocks.append("\n".join(map(plain, lines)))
        else:
            blocks.append(textwrap.fill(plain(" ".join(lines)), width, break_on_hyphens=False, break_long_words=False))
    return "\n\n".join(block for block in blocks if block)
