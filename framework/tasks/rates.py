"""Learning rates of a whole run, looked at before it begins."""

from __future__ import annotations

from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from framework.api import Schedule, quick_jit
from framework.errors import ConfigError

SAMPLES = 200
"""Steps at which a schedule is looked at, spread evenly, the first and the last among them."""

ROUNDING = 1e-6
"""Share of the highest rate by which one may be below 0, as a decay to 0 may be in float32."""


def check_rates(schedule: Schedule, steps: int, title: str) -> None:
    """Check that the rates of a run are finite and not negative. Rates that are traced pass.

    Args:
      steps: of the run.
      title: of the schedule's plugin, for messages.

    Raises: ConfigError naming the first such step that was looked at.
    """
    chosen = np.unique(np.linspace(0, max(steps - 1, 0), SAMPLES).astype(np.int32))
    try:
        rates: Any = quick_jit(jax.vmap(schedule))(jnp.asarray(chosen))
    except Exception:  # tracing the step tells it, with its shapes
        return
    if isinstance(rates, jax.core.Tracer) or np.shape(rates) != chosen.shape:
        return
    rates = np.asarray(rates, np.float64)
    bad = ~(np.isfinite(rates) & (rates >= -ROUNDING * np.abs(rates).max(initial=0, where=np.isfinite(rates))))
    if bad.any():
        at = int(np.flatnonzero(bad)[0])
        text = (
            f"{title} gives the rate {rates[at]:g} at step {chosen[at] + 1} of {steps}, expected finite numbers from 0"
        )
        raise ConfigError(f"{text}; look at its options.", key="schedule")
