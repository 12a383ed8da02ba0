"""Other data for a trained model: their inputs are to be prepared as those were that it was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from framework.config.compose import Config
from framework.experiment import Experiment
from framework.records.logs import LOGGER
from framework.records.record import data_facts
from framework.registry.entry_points import discover
from framework.registry.signatures import schema_of


def as_trained(config: Config, facts: Mapping[str, Any]) -> Config:
    """Let data take over what those of a trained model had learnt from their examples, such as its characters.

    Args:
      config: of the data, perhaps of other ones. An option that it sets stays.
      facts: of the model's data. "learnt" names those that are options of the data as well.
    """
    data, learnt = config.values.get("data"), facts.get("learnt", ())
    if not learnt or not isinstance(data, Mapping) or not isinstance(data.get("name"), str):
        return config
    factory = discover().find("data", data["name"], "data.name").load("data")
    known = {option.name for option in schema_of(factory).options}
    found = {f"data.{name}": facts[name] for name in learnt if name in known and data.get(name) is None}
    return config.with_values(found) if found else config


def warn_of_others(experiment: Experiment, facts: Mapping[str, Any]) -> None:
    """Warn of data whose inputs are prepared in another way than those of a trained model, with what differs."""
    was, found = facts.get("preprocess"), data_facts(experiment).get("preprocess")
    if not isinstance(was, Mapping) or not isinstance(found, Mapping) or dict(found) == dict(was):
        return
    names = [name for name in {**was, **found} if was.get(name) != found.get(name)]
    differ = "; ".join(f"{name} is {found.get(name)!r:.40}, was {was.get(name)!r:.40}" for name in names)
    LOGGER.warning(f"data: inputs are prepared otherwise than those that the model was trained on: {differ}.")
