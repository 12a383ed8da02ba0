"""`python -m framework`."""

from __future__ import annotations

from framework.garbage import seldom_collected
from framework.signals import leave_when_asked


def main() -> None:
    """The command line; signals are heeded from here on, since the imports that follow take a second."""
    leave_when_asked()
    with seldom_collected():
        from framework import cli

        cli.main()


if __name__ == "__main__":
    main()
