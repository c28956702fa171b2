"""Intervals keep their promise while somebody looks all the time: simulated experiments, of which the truth is known."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from scipy.special import ndtri
from scipy.stats import binom

from crossfade.domain.experiments import srm
from crossfade.domain.experiments.estimates import compare
from crossfade.domain.experiments.intervals import Rule, groups
from crossfade.domain.experiments.moments import changes
from crossfade.domain.experiments.plan import Metric, MetricKind
from crossfade.domain.experiments.units import Coded, Counted, Events, Population
from tests.domain.experiments.trials import Array, Draw, simulate

Treated = npt.NDArray[np.bool_]
EXPERIMENTS = 400
CONVERSION, MEAN, COUNT = MetricKind.CONVERSION, MetricKind.MEAN, MetricKind.COUNT


def conversions(base: float, treated: float, alike: float = 0.0) -> Draw:
    """``alike``: how much of whether a unit converts is also in whether it did before."""

    def draw(chance: np.random.Generator, mine: Treated) -> tuple[Array, Array]:
        if not alike:
            return (chance.random(mine.shape) < np.where(mine, treated, base)).astype(float), np.zeros(mine.shape)
        before = chance.normal(size=mine.shape)
        now = alike * before + math.sqrt(1 - alike**2) * chance.normal(size=mine.shape)
        line = np.where(mine, ndtri(treated), ndtri(base))
        return (now < line).astype(float), (before < ndtri(base)).astype(float)

    return draw


def lognormal(times: float, spread: float, alike: float = 0.0) -> Draw:
    def draw(chance: np.random.Generator, mine: Treated) -> tuple[Array, Array]:
        before = chance.normal(size=mine.shape)
        now = alike * before + math.sqrt(1 - alike**2) * chance.normal(size=mine.shape)
        value = np.exp(spread * now - spread**2 / 2) * np.where(mine, times, 1.0)
        return value, np.exp(spread * before - spread**2 / 2)

    return draw


def counts(base: float, treated: float) -> Draw:
    def draw(chance: np.random.Generator, mine: Treated) -> tuple[Array, Array]:
        eager = chance.gamma(2.0, 0.5, mine.shape)
        now = chance.poisson(eager * np.where(mine, treated, base)).astype(float)
        return now, chance.poisson(eager * base).astype(float)

    return draw


SCENES = {
    "conversion, alike": (CONVERSION, conversions(0.1, 0.1), 0.0, 0.0, False),
    "conversion, better": (CONVERSION, conversions(0.1, 0.13), 0.03, 0.3, False),
    "conversion, alike, CUPED": (CONVERSION, conversions(0.2, 0.2, 0.8), 0.0, 0.0, True),
    "conversion, better, CUPED": (CONVERSION, conversions(0.2, 0.24, 0.8), 0.04, 0.2, True),
    "conversion, rare": (CONVERSION, conversions(0.005, 0.005), 0.0, 0.0, False),
    "conversion, broken": (CONVERSION, conversions(0.2, 0.0), -0.2, -1.0, False),
    "mean, alike": (MEAN, lognormal(1.0, 1.0), 0.0, 0.0, False),
    "mean, better": (MEAN, lognormal(1.1, 1.0), 0.1, 0.1, False),
    "mean, alike, CUPED": (MEAN, lognormal(1.0, 1.0, 0.8), 0.0, 0.0, True),
    "mean, better, CUPED": (MEAN, lognormal(1.1, 1.0, 0.8), 0.1, 0.1, True),
    "count, alike": (COUNT, counts(0.5, 0.5), 0.0, 0.0, False),
    "count, worse": (COUNT, counts(0.5, 0.4), -0.1, -0.2, False),
    "count, alike, CUPED": (COUNT, counts(2.0, 2.0), 0.0, 0.0, True),
    "count, worse, CUPED": (COUNT, counts(2.0, 1.8), -0.2, -0.1, True),
}


def allowed(alpha: float, experiments: int = EXPERIMENTS) -> float:
    """The share that chance alone exceeds once in a thousand times, if it is ``alpha`` on average."""
    return float(binom.ppf(0.999, experiments, alpha)) / experiments


@pytest.mark.parametrize("scene", SCENES.values(), ids=SCENES.keys())
def test_of_a_hundred_experiments_looked_at_all_the_time_at_most_five_ever_leave_out_the_truth(
    scene: tuple[MetricKind, Draw, float, float, bool],
) -> None:
    kind, draw, truth, relative, cuped = scene
    found = simulate(kind, draw, truth, relative, cuped=cuped, experiments=EXPERIMENTS)
    assert found.missed <= allowed(0.05)
    assert found.missed_relative <= allowed(0.05)


def test_a_small_share_for_the_treatment_keeps_the_promise_too() -> None:
    for kind, draw in ((CONVERSION, conversions(0.1, 0.1)), (MEAN, lognormal(1, 1))):
        assert simulate(kind, draw, 0.0, 0.0, share=0.1, planned=10_000).missed <= allowed(0.05)


def test_looking_at_a_plain_test_each_time_would_not_keep_it() -> None:
    """What the width is for: the interval of one look, taken at all of them, is wrong several times as often."""
    chance = np.random.default_rng(1)
    treated = chance.random((EXPERIMENTS, 4000)) < 0.5
    y = lognormal(1.0, 1.0)(chance, treated)[0]
    at = np.unique(np.geomspace(200, 4000, 60).astype(int)) - 1
    sums = [np.cumsum(np.stack([mine, y * mine, y**2 * mine]), axis=-1)[..., at] for mine in (treated, ~treated)]
    mean, variance = zip(*((s / n, (q / n - (s / n) ** 2) / n) for n, s, q in sums), strict=True)
    z = (mean[0] - mean[1]) / np.sqrt(variance[0] + variance[1])
    assert (np.abs(z) > 1.96).any(axis=1).mean() > 0.2


def test_a_difference_is_found_when_there_are_enough_units_for_it() -> None:
    found = simulate(CONVERSION, conversions(0.1, 0.15), 0.05, 0.5, units=6000, planned=6000)
    assert found.decided > 0.9
    plain = simulate(MEAN, lognormal(1.1, 1.0, 0.8), 0.1, 0.1, units=6000, planned=6000)
    adjusted = simulate(MEAN, lognormal(1.1, 1.0, 0.8), 0.1, 0.1, cuped=True, units=6000, planned=6000)
    assert adjusted.decided > plain.decided + 0.3


@pytest.mark.parametrize("kind", [CONVERSION, MEAN, COUNT])
@pytest.mark.parametrize("window", [None, 0.3], ids=["no window", "window"])
def test_outcomes_that_come_late_do_not_break_the_promise(kind: MetricKind, window: float | None) -> None:
    """Units come over time, and each goes on doing things: between two looks old units change and new ones come."""
    chance = np.random.default_rng(3)
    metric = Metric("m", kind, "e", window=window)
    looks, units, missed = np.linspace(0.02, 1.0, 60), 800, 0
    for _ in range(EXPERIMENTS):
        at, arm = np.sort(chance.random(units)), (chance.random(units) < 0.5).astype(int)
        n = chance.poisson(1.0, units)
        unit = np.repeat(np.arange(units), n)
        when = at[unit] + chance.exponential(0.2, len(unit))
        value = chance.lognormal(0, 1, len(unit))
        come = Population(arm, at, Coded((), arm), {}, {"e": Events(unit, when, value)}, Counted())
        sums = changes(come, metric, 1.0, 1.0).tally(arm, 2, looks)
        lift = compare(groups(sums, kind, cuped=False), Rule(0.05, units)).lift
        missed += bool(((lift.low > 0) | (lift.high < 0)).any())
    assert missed / EXPERIMENTS <= allowed(0.05)


# --- the split


def ever(shares: list[float], real: list[float], experiments: int, units: int) -> float:
    """The share of experiments in which a mismatch is ever said, looked at after every unit."""
    chance, found = np.random.default_rng(2), 0
    at = np.arange(units, dtype=float)
    for _ in range(experiments):
        arm = chance.choice(len(real), units, p=real)
        found += srm.log_evidence(arm, at, np.array(shares)) >= -math.log(srm.ALPHA)
    return found / experiments


@pytest.mark.parametrize("shares", [[0.5, 0.5], [0.9, 0.1], [0.4, 0.3, 0.2, 0.1]])
def test_a_split_that_is_right_is_hardly_ever_called_wrong_after_any_unit(shares: list[float]) -> None:
    assert ever(shares, shares, 400, 3000) <= allowed(srm.ALPHA)


def test_a_split_that_is_wrong_is_found() -> None:
    assert ever([0.5, 0.5], [0.53, 0.47], 100, 10_000) >= 0.95
    assert ever([0.9, 0.1], [0.94, 0.06], 100, 5000) >= 0.95
