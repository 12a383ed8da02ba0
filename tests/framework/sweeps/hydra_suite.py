"""Hydra's own tests of its launchers, for a process where our search path and sources are registered with Hydra.

Those that apply are the ones of `LauncherTestSuite`. `IntegrationTestSuite` starts scripts of its own that do not know
of us, and `BatchedSweeperTestSuite` is for sweepers.
"""

from __future__ import annotations

from importlib.util import find_spec

import pytest
from hydra.test_utils.launcher_common_tests import LauncherTestSuite

from framework.config import search_path

pytestmark = pytest.mark.filterwarnings("ignore")  # those of Hydra and of launchers


def needs(module):
    is_missing = find_spec("hydra_plugins") is None or find_spec(f"hydra_plugins.{module}") is None
    return pytest.mark.skipif(is_missing, reason=f"{module} is not installed")


@pytest.fixture(autouse=True)
def registered(hydra_restore_singletons):
    with search_path.session({}):
        pass


@pytest.mark.parametrize(("launcher_name", "overrides"), [("basic", [])])
class TestBasic(LauncherTestSuite):
    pass


@needs("hydra_joblib_launcher")
@pytest.mark.parametrize(("launcher_name", "overrides"), [("joblib", ["hydra.launcher.n_jobs=2"])])
class TestJoblib(LauncherTestSuite):
    pass


@needs("hydra_submitit_launcher")
@pytest.mark.parametrize(("launcher_name", "overrides"), [("submitit_local", ["hydra.launcher.timeout_min=5"])])
class TestSubmitit(LauncherTestSuite):
    pass
