"""Print the seconds of computing that a look at all models takes, and the `dummy_…` modules imported meanwhile."""

from __future__ import annotations

import json
import sys
import time

from framework.commands.plugins import show
from framework.registry.entry_points import discover

if __name__ == "__main__":
    began = time.process_time()
    discover().named("models")
    seconds = time.process_time() - began
    show(["layers"])
    print(json.dumps([seconds, [name for name in sys.modules if name.startswith("dummy_")]]))
