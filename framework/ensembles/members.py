"""The values in which the members of a run differ: in the config, in the tasks, and in the run record."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from framework.api import Batch, Members, PyTree, Strategy, Task, TrainState, quick_jit
from framework.config.resolve import changed, resolved
from framework.console.tables import text_table
from framework.contracts.components import updates
from framework.ensembles.evolution import evolved_values
from framework.errors import ConfigError, FrameworkError
from framework.registry.sections import Sections, names_of
from framework.steps.rng import root_key

Row = Mapping[str, Any]


def members_of(strategy: Strategy, seed: int, sections: Sections) -> Members | None:
    """Return the members that a strategy trains, with the seed of each, or None for a single run.

    Args:
      strategy: of the run.
      seed: of the run.
      sections: that the task is built from; numbers in them, and options of the task, can differ between members.

    Raises: ConfigError for a key that cannot differ, or a seed out of range.
    """
    if (members := strategy.members) is None:
        return None
    names = [*names_of(sections), "task"]
    for key in members.values:
        if key != "seed" and not key.startswith(tuple(f"{name}." for name in names)):
            text = f"expected seed, or a number of {', '.join(names)}."
            raise ConfigError(text, key=f"strategy.members.{key}")
    is_counted = not members.values or members.evolution is not None
    counted = range(seed, seed + members.size) if is_counted else (seed,) * members.size
    seeds = members.values.get("seed", tuple(counted))
    for each in seeds:
        if not float(each).is_integer() or not 0 <= each < 2**32:
            raise ConfigError(f"expected integers from 0 to {2**32 - 1}, found {each}.", key="strategy.members.seed")
    others = {key: column for key, column in members.values.items() if key != "seed"}
    return members._replace(values={"seed": tuple(map(int, seeds)), **others})


def values_of(members: Members, member: int) -> dict[str, float]:
    """Return the values of one member by config key, without its seed."""
    return {key: column[member] for key, column in members.values.items() if key != "seed"}


def with_values(source: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the resolved config with some keys set, and with what interpolates them."""
    for key, value in values.items():
        try:
            source = changed(source, {key: value})
        except Exception as error:  # OmegaConf raises many types for a path through a value
            raise ConfigError("the config has no place for it.", key=f"strategy.members.{key}") from error
    return resolved(source)


def template(source: Mapping[str, Any], keys: Iterable[str]) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """Make a function from values to the resolved config that has them; unlike in `with_values`, they may be traced.

    OmegaConf cannot hold a traced number, so a text stands for each while OmegaConf interpolates.
    """
    marked = with_values(source, {key: _mark(key) for key in keys})

    def fill(values: Mapping[str, Any]) -> dict[str, Any]:
        by_mark = {_mark(key): value for key, value in values.items()}
        return _map_texts(marked, lambda text: by_mark.get(text, text))

    return fill


def recordable(source: Mapping[str, Any], first: Mapping[str, float]) -> dict[str, Any]:
    """Return the resolved config with the first member's values, which other values still interpolate.

    So the run record holds the config of every member, and the run can be resumed.
    """

    def interpolated(text: str) -> str:
        for key in first:
            text = text.replace(_mark(key), f"${{{key}}}")
        return text

    marked = with_values(source, {key: _mark(key) for key in first})
    return changed(_map_texts(marked, interpolated), first)


def _mark(key: str) -> str:
    return f"<strategy.members.{key}>"


def _map_texts(node: Any, change: Callable[[str], Any]) -> Any:
    if isinstance(node, dict):
        return {key: _map_texts(item, change) for key, item in node.items()}
    if isinstance(node, list):
        return [_map_texts(item, change) for item in node]
    return change(node) if isinstance(node, str) else node


def check_traceable(make: Callable[[Mapping[str, Any]], Task], first: Mapping[str, float], batch: Batch) -> None:
    """Trace the task of one member with one value after the other unknown.

    Raises: ConfigError naming the key whose value a shape or a branch of Python depends on, or on which nothing does.
    """
    for key, value in first.items():

        def run(value: Any, batch: Batch, key: str = key) -> Any:
            task = make({**first, key: value})
            state = task.init(root_key(0), batch)
            return task.train_step(state, batch), task.eval_step(state, batch)

        try:
            jaxpr = jax.make_jaxpr(run)(jax.ShapeDtypeStruct((), jnp.float32), batch).jaxpr
        except Exception as error:
            reason = f" ({error})" if isinstance(error, FrameworkError) and "<" not in str(error) else ""
            text = "it cannot differ in one program, since a shape or a branch depends on it, or it is no real number"
            text += f"{reason}; run one after the other: -m {key}={value:g},…"
            raise ConfigError(text, key=f"strategy.members.{key}") from error
        if not any(variable is jaxpr.invars[0] for equation in jaxpr.eqns for variable in equation.invars):
            text = "nothing depends on it; is it set elsewhere, or unused?"
            raise ConfigError(text, key=f"strategy.members.{key}")


def rows(members: Members, state: TrainState | None = None) -> list[dict[str, Any]]:
    """Return one row for each member with its values, for the run record.

    Args:
      state: of all members, for the values that it holds where they evolve; None for those that the run begins with.
    """
    columns = {**members.values, **({} if state is None else evolved_values(state))}.items()
    return [{"member": k, "values": {key: column[k] for key, column in columns}} for k in range(members.size)]


def recorded(config: Mapping[str, Any], row: Row) -> dict[str, Any]:
    """Return the config of one member from the run record."""
    values = {key: value for key, value in row["values"].items() if key != "seed"}
    return {**with_values(config, values), "seed": row["values"]["seed"]}


def part_of(tree: PyTree, member: int) -> PyTree:
    """Select one member of a stacked tree, by one program rather than one for each shape."""
    return quick_jit(lambda tree: jax.tree.map(lambda leaf: leaf[member], tree))(tree)


def outcome(
    members: Members, state: TrainState, metrics: Mapping[str, float], ended: Mapping[int, str]
) -> list[dict[str, Any]]:
    """Return the rows with the last value of every tag.

    A row has the step that froze the member, or None, and the step and the reason of its early end, or None.

    Args:
      members: of the run.
      state: of all members.
      metrics: the last value of every tag.
      ended: the members that a callback has ended, with the reason.
    """
    steps, last = np.asarray(jax.device_get(state.step)), updates(state)

    def scalars(member: int) -> dict[str, float]:
        own = {tag.removesuffix(f"/{member}"): value for tag, value in metrics.items() if tag.endswith(f"/{member}")}
        return {tag: value for tag, value in own.items() if tag in metrics}

    def facts(member: int) -> dict[str, Any]:
        step = int(steps[member])
        early = {"step": step, "reason": ended[member]} if member in ended else None
        frozen = None if early or step == last else step + 1
        return {"frozen_at_step": frozen, "ended": early, "metrics": scalars(member)}

    return [{**row, **facts(k)} for k, row in enumerate(rows(members, state))]


def table(rows: Sequence[Row]) -> list[str]:
    """Format outcomes as the lines of a table."""
    found = dict.fromkeys(tag for row in rows for tag in row["metrics"])
    tags = [tag for tag in found if tag.count("/") == 1 and tag != "train/learning_rate"]

    def cells(row: Row) -> list[str]:
        values = [f"{value:g}" for value in row["values"].values()]
        note = f"frozen at step {step}: its loss was not finite" if (step := row["frozen_at_step"]) else ""
        if early := row.get("ended"):
            note = f"ended at step {early['step']}: {early['reason']}"
        return [str(row["member"]), *values, *(f"{row['metrics'].get(tag, math.nan):.4g}" for tag in tags), note]

    lines = [["member", *rows[0]["values"], *tags, ""], *map(cells, rows)]
    return text_table(lines, right=range(len(lines[0]) - 1)).splitlines()
