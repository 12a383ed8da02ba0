"""The section `sweep` of a config: its settings, beside the dimensions that an experiment may declare there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from framework.errors import ConfigError
from framework.registry.signatures import bind, schema_of
from framework.sweeps.folder import LedgerKind


class SweepSettings(NamedTuple):
    """Settings of a sweep. All other keys of the section are dimensions."""

    root: str = "sweeps"
    dir: str | None = None  # this very folder instead of root/<experiment>/<time>-<id>
    new: bool = False  # begin another folder, where the same command would go on with its last one
    retries: int = (
        1  # times that a point which failed is begun again, unless the mistake is in its config, data or numbers
    )
    stop_on_failure: bool = False  # begin no further point once one has failed
    timeout: float | None = None  # seconds after which an attempt has failed
    ledger: LedgerKind = "auto"  # auto: a journal on a disk that machines may share
    metric: str | Sequence[str] = "eval/loss"  # tags to improve; the first decides the best point
    mode: Literal["auto", "min", "max"] = "auto"  # auto: as the metric declares
    search_seed: int = 0  # of the search; `seed` is a dimension, that of the runs


SETTINGS = SweepSettings._fields


def read_settings(section: Mapping[str, Any]) -> SweepSettings:
    """Check the settings in the section `sweep`, and leave its dimensions alone.

    Raises: ConfigError.
    """
    given = {name: value for name, value in section.items() if name in SETTINGS}
    settings = SweepSettings(**bind(schema_of(SweepSettings), given, "sweep", "section 'sweep'", {}))
    if settings.retries < 0:
        raise ConfigError(f"expected at least 0, found {settings.retries}.", key="sweep.retries")
    if settings.timeout is not None and settings.timeout <= 0:
        raise ConfigError(f"expected more than 0 seconds, found {settings.timeout}.", key="sweep.timeout")
    if not settings.metric:
        raise ConfigError("expected a tag such as eval/loss.", key="sweep.metric")
    return settings


def metrics_of(settings: SweepSettings) -> tuple[str, ...]:
    """Return the tags to improve, the main one first."""
    return (settings.metric,) if isinstance(settings.metric, str) else tuple(settings.metric)
