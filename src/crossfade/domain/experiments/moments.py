"""What a metric is made of: for each arm and moment, how many units there are, and the sums of what they did.

Shapes: ``[U]`` units, ``[L]`` looks in time, ``[G]`` groups of units (arms, or arms within a segment), ``[..., 7]``
the sums n, Σy, Σy², Σ|y|, Σx, Σx², Σxy, where y is what a unit did after its exposure and x what it did before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from crossfade.domain.analysis.evidence import Array, Places
from crossfade.domain.experiments.plan import Metric, MetricKind
from crossfade.domain.experiments.units import Events, Population

N, Y, YY, AY, X, XX, XY = range(7)
WIDTH: Final = 7


@dataclass(frozen=True, slots=True)
class Changes:
    """When the sums change, and ``by`` how much, ``[C, 7]``: so that they are known at any moment in one pass."""

    unit: Places
    at: Array
    by: Array

    def tally(self, group: Places, groups: int, looks: Array) -> Array:
        """The sums ``[L, G, 7]`` at rising moments. ``group`` of each unit ``[U]``; a negative one is in none."""
        place = np.searchsorted(looks, self.at, side="left")
        into = group[self.unit]
        known = (place < len(looks)) & (into >= 0)
        cell = place[known] * groups + into[known]
        size = len(looks) * groups
        sums = np.stack([np.bincount(cell, self.by[known, i], size) for i in range(WIDTH)], axis=-1)
        return np.cumsum(sums.reshape(len(looks), groups, WIDTH), axis=0)


def changes(population: Population, metric: Metric, now: float, last: float) -> Changes:
    """How a metric's sums came about. ``last``: after it nothing counts that has no window of its own."""
    events = population.events[metric.event]
    since = events.at - population.at[events.unit]
    x = _before(population, metric, events, since)
    if metric.window is not None:
        return _matured(population, metric, events, since, x, now)
    after = (since >= 0) & (events.at <= last)
    unit, at, value = events.unit[after], events.at[after], events.value[after]
    order = np.lexsort((value, at, unit))
    unit, at, value = unit[order], at[order], _worth(metric, value[order])
    first = np.ones(len(unit), dtype=np.bool_)
    first[1:] = unit[1:] != unit[:-1]
    if metric.kind is MetricKind.CONVERSION:
        unit, at, value = unit[first], at[first], value[first]
        first = np.ones(len(unit), dtype=np.bool_)
    sofar = np.cumsum(value)
    # What a unit had before each of its events: the running sum, less all that was there before its first one.
    had = sofar - value
    begin = np.maximum.accumulate(np.where(first, np.arange(len(unit)), 0))
    had = had - had[begin] if len(unit) else had
    none = np.zeros(len(unit))
    grown = np.stack(
        [none, value, (2 * had + value) * value, np.abs(had + value) - np.abs(had), none, none, x[unit] * value],
        axis=-1,
    )
    come = np.zeros((len(population.at), WIDTH))
    come[:, N], come[:, X], come[:, XX] = 1.0, x, x**2
    units: Places = np.arange(len(population.at))
    return Changes(np.concatenate([units, unit]), np.concatenate([population.at, at]), np.concatenate([come, grown]))


def _matured(population: Population, metric: Metric, events: Events, since: Array, x: Array, now: float) -> Changes:
    """Each unit comes when its window is over, with all it did in it, and never changes again."""
    assert metric.window is not None
    over = population.at + metric.window
    within = (since >= 0) & (events.at <= over[events.unit])
    y = _per_unit(metric, events.unit[within], events.value[within], len(over))
    ready = np.flatnonzero(over <= now)
    y, x = y[ready], x[ready]
    return Changes(ready, over[ready], np.stack([np.ones(len(y)), y, y**2, np.abs(y), x, x**2, x * y], axis=-1))


def _before(population: Population, metric: Metric, events: Events, since: Array) -> Array:
    if not metric.cuped:
        return np.zeros(len(population.at))
    early = since < 0
    return _per_unit(metric, events.unit[early], events.value[early], len(population.at))


def _per_unit(metric: Metric, unit: Places, value: Array, units: int) -> Array:
    total = np.bincount(unit, _worth(metric, value), units).astype(np.float64)
    return np.minimum(total, 1.0) if metric.kind is MetricKind.CONVERSION else total


def _worth(metric: Metric, value: Array) -> Array:
    return value if metric.kind is MetricKind.MEAN else np.ones(len(value))
