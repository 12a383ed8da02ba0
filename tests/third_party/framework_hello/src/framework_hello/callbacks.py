"""A callback that leaves a file in the run folder."""

from __future__ import annotations

from framework.api import Callback, Run, Summary


def hello(metric: str = "eval/loss", greeting: str = "hello") -> Callback:
    """Writes the final value of a metric into the run folder's `hello.txt`.

    Args:
      metric: its tag, such as `eval/loss`.
      greeting: the first word of the file.
    """
    return Hello(metric, greeting)


class Hello(Callback):
    """Notes the run folder at the start, and writes at the end."""

    def __init__(self, metric: str, greeting: str) -> None:
        self.metric, self.greeting = metric, greeting

    def on_start(self, run: Run) -> None:
        """Keep where to write."""
        self.path = run.directory / "hello.txt"

    def on_end(self, summary: Summary) -> None:
        """Write, also when the run failed; it may have no such value then."""
        value = summary.scalars.get(self.metric, float("nan"))
        self.path.write_text(f"{self.greeting}: {self.metric} is {value:.4f} after {summary.step} steps\n")
