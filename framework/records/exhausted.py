"""The report of memory that ran out, in `RUN/memory.json` and in the log."""

from __future__ import annotations

import json
from typing import Any

from framework.distributed import processes
from framework.errors import FrameworkError
from framework.experiment import Experiment
from framework.records.logs import LOGGER
from framework.records.record import RunRecord, replace_file
from framework.training.exhaustion import examined, told

FILE = "memory.json"


def keep_exhausted(experiment: Experiment, record: RunRecord, error: Exception) -> str:
    """Log and write what is known of memory that ran out, in process 0.

    Returns: where it is written, as the end of a sentence; "" if it cannot be.
    """
    if processes.index() > 0:
        return ""
    path = record.directory / FILE
    try:
        report = examined(experiment, error)
        LOGGER.warning(told(report))
        replace_file(path, json.dumps(_plain(report), indent=2) + "\n")
    except (FrameworkError, OSError, RuntimeError, MemoryError) as failure:
        LOGGER.warning(f"no report of the memory can be made: {failure}")
        return ""
    return f"; {path} lists the largest buffers"


def _plain(value: Any) -> Any:
    """Return named tuples as mappings, all the way down."""
    if hasattr(value, "_asdict"):
        return {name: _plain(each) for name, each in value._asdict().items()}
    return [_plain(each) for each in value] if isinstance(value, list) else value
