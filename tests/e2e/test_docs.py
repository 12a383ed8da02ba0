"""The examples of the documentation: files install as one package, and blocks marked `run` run in order."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("experiments/*/README.md"))]

FILE = re.compile(r"^```\w+ file=(\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SHOWN = re.compile(r"^\[(\S+)\]\(\1\):\n\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)
RUN = re.compile(r"^```python run\n(.*?)^```$", re.MULTILINE | re.DOTALL)


SLOW = {"README.md"}  # it trains an epoch of MNIST


def page_of(path):
    name = str(path.relative_to(ROOT))
    return pytest.param(path, id=name, marks=[pytest.mark.slow] if name in SLOW else [])


@pytest.mark.parametrize("page", [page_of(path) for path in PAGES if RUN.search(path.read_text())])
def test_the_examples_of_a_page_work_as_written(page, install, tmp_path, monkeypatch):
    text = page.read_text()
    if files := dict(FILE.findall(text)):
        project = tomllib.loads(files.pop("pyproject.toml"))["project"]
        install(project["name"], project["entry-points"], files, project["version"])
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": page.stem}
    for block in RUN.finditer(text):
        lines_before = text.count("\n", 0, block.start(1))  # so that a traceback shows the page's line
        exec(compile("\n" * lines_before + block[1], str(page), "exec"), namespace)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_links_of_a_page_lead_to_files_and_headings(page):
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text()):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def anchors(page):
    """The anchors of a page's headings, as code hosts make them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_a_page_shows_its_scripts_as_they_are():
    shown = {page.parent / name: text for page in PAGES for name, text in SHOWN.findall(page.read_text())}
    assert ROOT / "docs" / "slurm.sh" in shown
    for path, text in shown.items():
        assert text == path.read_text(), path
