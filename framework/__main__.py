"""`python -m framework`."""

from __future__ import annotations

from framework.console.output import open_closed
from framework.runs.signals import leave_when_asked
from framework.startup import leave_soon, seldom_collected


def main() -> None:
    """The command line; signals are heeded from here on, since the imports that follow take a second."""
    open_closed()
    leave_when_asked()
    with seldom_collected():
        from framework.commands import cli

        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
            raise
        finally:
            leave_soon(code)


if __name__ == "__main__":
    main()
