"""Importance of each parameter of a sweep for a metric."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import rankdata


def importances(parameters: Sequence[Mapping[str, Any]], values: Sequence[float]) -> dict[str, float]:
    """Return, for each parameter, the share of a metric's variance in ranks that it explains alone.

    This is eta squared of the test of Kruskal and Wallis, (H - k + 1) / (n - k) for k groups of n points (Tomczak and
    Tomczak, 2014), at least 0. Ranks keep a point that diverged from deciding all. Numbers of many values are grouped
    by their quantiles. What parameters do together only is in none of the shares.

    Args:
      parameters: of each point; those with one value explain nothing and are left out.
      values: of the metric, one for each point, finite.

    Returns: shares from 0 to 1, the largest first; NaN for a parameter that has a value of its own at nearly every
      point, so that chance would explain as much.
    """
    ranks = rankdata(values)
    keys = dict.fromkeys(key for each in parameters for key in each)
    found = {key: _share(_groups([each.get(key) for each in parameters]), ranks) for key in keys}
    varied = {key: share for key, share in found.items() if share is not None}
    return dict(sorted(varied.items(), key=lambda item: (math.isnan(item[1]), -item[1])))


def _share(groups: Sequence[int], ranks: np.ndarray) -> float | None:
    places: dict[int, list[int]] = defaultdict(list)
    for place, group in enumerate(groups):
        places[group].append(place)
    n, k = len(ranks), len(places)
    if k < 2:
        return None
    total = float(((ranks - ranks.mean()) ** 2).sum())
    if 2 * k > n or total == 0:
        return math.nan
    between = sum(len(each) * (ranks[each].mean() - ranks.mean()) ** 2 for each in places.values())
    statistic = (n - 1) * float(between) / total
    return max(0.0, (statistic - k + 1) / (n - k))


def _groups(values: Sequence[Any]) -> list[int]:
    """Number the values of one parameter: each by itself, or, where numbers are many, by their quantile."""
    texts = [json.dumps(value, sort_keys=True) for value in values]
    distinct = {text: number for number, text in enumerate(dict.fromkeys(texts))}
    bins = max(2, math.isqrt(len(values)))
    is_number = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    if len(distinct) <= bins or not is_number or len(values) < 4:
        return [distinct[text] for text in texts]
    edges = np.quantile(np.asarray(values, float), np.linspace(0, 1, bins + 1)[1:-1])
    return [int(group) for group in np.searchsorted(edges, np.asarray(values, float), side="right")]
