"""The operation and the source line that made the first number which is not finite."""

from __future__ import annotations

import linecache
import os
import re
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import jax
import numpy
import optax

import framework
from framework.observing import Seen, observing
from framework_replay.case import Case

BIRTHS = {
    "log", "log1p", "exp", "exp2", "div", "pow", "integer_pow", "rsqrt", "square", "reduce_sum", "dot_general",
    "conv_general_dilated", "lgamma", "digamma", "tan", "erf_inv",
}  # fmt: skip
"""Operations that make an infinity of finite numbers. Others pass one on that may be meant, such as one that masks."""

LIBRARIES = tuple(str(Path(str(module.__file__)).parent) for module in (jax, numpy, optax))
OURS = str(Path(str(framework.__file__)).parent)
STANDARD = sysconfig.get_path("stdlib")


class Operation(NamedTuple):
    """The operation that made the first number that is not finite.

    Attributes:
      primitive: of JAX, such as "log".
      line: the innermost line outside of JAX and of the framework's core, such as "loss.py:12 in loss".
      code: the text of that line.
      kind: "nan" or "inf".
      functions: names of all functions on the way to it, the innermost last.
      error: as JAX raised it, for a debugger.
    """

    primitive: str
    line: str
    code: str
    kind: str
    functions: tuple[str, ...]
    error: BaseException


def find_operation(case: Case, after: int, kind: str, is_backward: bool) -> Operation | None:
    """Run a step op by op, with JAX's check of each operation, and catch the first that makes such a number.

    A NaN may come of an infinity that an operation made just before; that one is told then.

    Args:
      case: the step.
      after: number of values that are known to be sound; the check begins there.
      kind: "nan" or "inf".
      is_backward: look for the line whose gradient is taken, rather than for the one that takes it.

    Returns: None where no operation is caught, such as within a compiled kernel.
    """
    found = _caught(case, after, kind, is_backward)
    if kind == "nan":
        earlier = _caught(case, after, "inf", is_backward)
        if earlier is not None and earlier.kind == "inf" and earlier.primitive in BIRTHS:
            return earlier
    return found


def _caught(case: Case, after: int, kind: str, is_backward: bool) -> Operation | None:
    try:
        with _checking(after, kind) as observe, observing(observe):
            case.step(case.state, case.batch)
            jax.effects_barrier()
    except FloatingPointError as error:
        told = re.search(r"\((\w+)\) encountered in ([\w.-]+)", str(error))
        frames = _frames(error, is_backward)
        own = [each for each in frames if _is_own(each.filename)] or frames
        last = own[-1] if own else traceback.FrameSummary("unknown", 0, "unknown")
        code = linecache.getline(last.filename, last.lineno or 0).strip()
        line = f"{last.filename}:{last.lineno} in {last.name}"
        names = tuple(each.name for each in frames)
        return Operation(told[2] if told else "unknown", line, code, told[1] if told else kind, names, error)
    return None


@contextmanager
def _checking(after: int, kind: str) -> Iterator[Callable[[Seen], None]]:
    """Yield an observer that turns on JAX's check of each operation once so many values were seen."""
    flags = ("jax_debug_nans", "jax_debug_infs") if kind == "inf" else ("jax_debug_nans",)
    former = {flag: getattr(jax.config, flag) for flag in flags}
    count = 0

    def arm() -> None:
        for flag in flags:
            jax.config.update(flag, True)
        # A thread that once had a check switched off by a context, as JAX itself does, no longer heeds the global one.
        armed.enter_context(jax.debug_nans(True))
        if kind == "inf":
            armed.enter_context(jax.debug_infs(True))
        jax.clear_caches()  # an operation that was called before goes unchecked otherwise

    def observe(_: Seen) -> None:
        nonlocal count
        count += 1
        if count == after:
            arm()

    try:
        with ExitStack() as armed:
            if after == 0:
                arm()
            yield observe
    finally:
        for flag, value in former.items():
            jax.config.update(flag, value)


def _frames(error: BaseException, is_backward: bool) -> list[traceback.FrameSummary]:
    """Return the frames on the way to an error; of a gradient, those of the operation that is differentiated."""
    each: BaseException | None = error
    chain = []
    while each is not None:
        chain.append(list(traceback.extract_tb(each.__traceback__)))
        each = each.__cause__ or each.__context__
    before = [frames for frames in chain[1:] if frames and frames[-1].name != "<module>"]
    if is_backward:
        own = [frames for frames in before if any(_is_own(frame.filename) for frame in frames)]
        if own and not _in_rule(chain[0]):
            return own[0]
    return [frame for frame in chain[0] if not frame.filename.startswith("<")]


def _in_rule(frames: list[traceback.FrameSummary]) -> bool:
    """Tell whether the innermost line of all is a user's own, as in the backward rule of a `custom_vjp`."""
    outside = [frame for frame in frames if _is_own(frame.filename)]
    return bool(outside) and not outside[-1].filename.startswith(str(Path(__file__).parent))


def _is_own(file: str) -> bool:
    """Tell whether a file is neither a library's nor the core's."""
    others = (*LIBRARIES, OURS, str(Path(__file__).parent))
    is_standard = file.startswith(f"{STANDARD}{os.sep}") and "-packages" not in file  # those of pip lie in there
    return not is_standard and not file.startswith(tuple(f"{each}{os.sep}" for each in others)) and Path(file).is_file()


def innermost_own(trace: TracebackType | None) -> TracebackType | None:
    """Cut a traceback behind its innermost line outside of libraries, where a debugger opens then."""
    each, last = trace, None
    while each is not None:
        last, each = each if _is_own(each.tb_frame.f_code.co_filename) else last, each.tb_next
    if last is not None:
        last.tb_next = None
    return trace
