"""Each tab of the default MNIST run in a real browser, which alone runs the code of the tabs."""

from __future__ import annotations

import pytest

from framework import testing
from tests import browser

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with a short run of the experiment as it is shipped."""
    pytest.importorskip("playwright", reason="the tabs are NOT TESTED: playwright is not installed")
    if browser.CHROMIUM is None:
        pytest.skip("the tabs are NOT TESTED: there is no Chromium")
    root = tmp_path_factory.mktemp("runs")
    words = ["train.steps=200", "train.eval_every=50", "callbacks.views.every=100", "probes.histograms.every=100"]
    done = testing.command("+experiment=mnist", *words, f"run.dir={root}/run")
    assert done.code == 0, done.err
    return root


def test_no_tab_of_the_default_run_is_empty(runs):
    with browser.board(runs) as address, browser.page() as opened:
        for tab in browser.TABS:
            browser.show(opened, address, tab)
        browser.show(opened, address, "timeseries")
        assert opened.locator(browser.OPEN_GROUP).all_inner_texts() == ["eval", "train"]
