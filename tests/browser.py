"""The tabs of TensorBoard in headless Chromium: pictures for docs/, and what shows that a tab is not empty.

    python -m tests.browser RUNS docs/pictures

starts `framework board` on a folder of runs, and writes a picture of each tab. It needs Chromium and `playwright`.
"""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

WIDTH, HEIGHT = 1280, 800
"""Size of a picture, in pixels."""

PATIENCE = 90_000
"""Milliseconds after which a tab that shows nothing is taken for empty."""

TABS = {
    "timeseries": "scalar-card line-chart path",
    "scalars": "vz-line-chart2 path.line[d*=L]",
    "custom_scalars": "tf-custom-scalar-multi-line-chart-card path.line[d*=L]",
    "images": "tf-image-loader img",
    "graphs": "tf-graph-scene g.node",
    "distributions": "vz-distribution-chart path.area",
    "histograms": "vz-histogram-timeseries path.outline",
    "text": "tf-text-loader td",
    "pr_curves": "tf-pr-curve-card path.line[d*=L]",
    "hparams": "vaadin-grid-cell-content:has-text('mnist')",
    "projector": "text=/Points: [1-9]/",
}
"""For each tab a CSS selector of something that stands there only once its data are drawn."""

OPEN_GROUP = "metrics-card-group-toolbar:has(mat-icon[svgicon=expand_less_24px]) .group-title"
"""A CSS selector of the names of the groups in TIME SERIES that are open."""

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
"""The browser's program; None where there is none."""

# Software draws, since no machine of a test need have a graphics card; a sandbox needs rights that a container lacks.
OPTIONS = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--disable-dev-shm-usage"]


@contextmanager
def board(runs: Path) -> Iterator[str]:
    """Run `framework board`, and yield its address."""
    command = [sys.executable, "-m", "framework", "board", str(runs), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            said = server.stdout.readline()
            found = re.search(r"http://\S+", said)
            assert found is not None, said
            yield found[0]
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(60)


@contextmanager
def page() -> Iterator[Any]:
    """Yield an empty page of the browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS, timeout=PATIENCE)
        opened = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        opened.set_default_timeout(PATIENCE)
        yield opened
        browser.close()


def show(opened: Any, address: str, tab: str) -> None:
    """Open a tab, and wait until it shows data.

    Raises: playwright's TimeoutError if it stays empty.
    """
    opened.goto("about:blank")  # or the page would only change its fragment
    opened.goto(f"{address}#{tab}", wait_until="domcontentloaded")
    frame = opened.frame_locator("iframe").frame_locator("iframe") if tab == "projector" else opened
    frame.locator(TABS[tab]).first.wait_for(state="attached")


def show_costs(opened: Any) -> None:
    """Colour the layers of a graph by what they cost."""
    opened.locator("paper-item:has-text('MFlop')").first.dispatch_event("click")
    for button in ("paper-radio-button[name=profile]:not([disabled])", "paper-radio-button:has-text('Compute time')"):
        opened.locator(button).first.wait_for(state="attached")
        opened.locator(button).first.dispatch_event("click")
        opened.wait_for_timeout(3000)
    opened.locator("g.node:has-text('3_Conv')").first.click()


def main(runs: Path, pictures: Path) -> None:
    """Write a picture of each tab, with few colours, so that it is small."""
    from PIL import Image

    pictures.mkdir(parents=True, exist_ok=True)
    with board(runs) as address, page() as opened:
        for tab in TABS:
            show(opened, address, tab)
            if tab == "graphs":
                show_costs(opened)
            opened.wait_for_timeout(3000)  # what moves into place
            path = pictures / f"{tab}.png"
            opened.screenshot(path=path)
            with Image.open(path) as image:
                image.convert("RGB").quantize(64).save(path, optimize=True)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]))
