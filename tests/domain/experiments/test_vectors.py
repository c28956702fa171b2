"""Figures that others have published, and formulas in another form than the code's."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.special import betaln
from scipy.stats import beta, norm

from crossfade.domain.experiments import bayes, srm
from crossfade.domain.experiments.bayes import Posterior
from crossfade.domain.experiments.estimates import compare
from crossfade.domain.experiments.intervals import Rule, groups
from crossfade.domain.experiments.plan import MetricKind


def test_the_mismatch_in_kohavis_book() -> None:
    """Kohavi, Tang & Xu, "Trustworthy Online Controlled Experiments" (2020), chapters 3 and 21: p = 1.8e-6."""
    _, p = srm.chi_square([821_588, 815_482], [0.5, 0.5])
    assert p == pytest.approx(1.8e-6, rel=0.03)


def test_pearsons_statistic_of_a_die() -> None:
    """Sixty throws 5, 8, 9, 8, 10, 20 of a fair die: χ² = 13.4 with five degrees of freedom, p = 0.0199."""
    chi, p = srm.chi_square([5, 8, 9, 8, 10, 20], [1 / 6] * 6)
    assert chi == pytest.approx(13.4)
    assert p == pytest.approx(0.0199, abs=1e-4)
    assert srm.chi_square([3, 2], [0.5, 0.5]) == (None, None)


def test_the_sequential_test_of_counts_of_lindon_and_malek() -> None:
    """Lindon & Malek, arXiv 2011.03567: 20 of 115 where one of twenty is expected, k = 100: p = 0.00139277, by beta functions."""
    arm = np.array([0] * 20 + [1] * 95)
    log_e = srm.log_evidence(arm, np.zeros(115), np.array([0.05, 0.95]), np.array([100.0]))
    assert math.exp(-log_e) == pytest.approx(0.00139277, rel=1e-5)
    closed = betaln(5 + 20, 95 + 95) - betaln(5, 95) - 20 * math.log(0.05) - 95 * math.log(0.95)
    assert log_e == pytest.approx(closed)


def test_the_most_evidence_there_ever_was_is_kept() -> None:
    arm, at = np.array([0] * 100 + [1] * 100), np.arange(200.0)
    halves = np.array([0.5, 0.5])
    assert srm.log_evidence(arm, at, halves) == pytest.approx(srm.log_evidence(arm[:100], at[:100], halves))
    assert srm.log_evidence(arm, np.zeros(200), halves) < 0


def better(a: int, b: int, c: int, d: int) -> float:
    """P(second rate > first), by Evan Miller, "Formulas for Bayesian A/B testing" (2014): a sum, for Beta(a, b), Beta(c, d)."""
    terms = (math.exp(betaln(a + i, b + d) - math.log(d + i) - betaln(1 + i, d) - betaln(a, b)) for i in range(c))
    return sum(terms)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 300), st.integers(0, 300), st.integers(0, 300), st.integers(0, 300))
def test_the_probability_of_being_better_is_evan_millers(x: int, miss: int, y: int, other: int) -> None:
    known = [Posterior.of_rate(x, x + miss), Posterior.of_rate(y, y + other)]
    first, second = bayes.believe(("off", "on"), known, 1.0, 0.05)
    wanted = better(x + 1, miss + 1, y + 1, other + 1)
    assert second.better == pytest.approx(wanted, abs=2e-4)
    assert (first.best, second.best) == pytest.approx((1 - wanted, wanted), abs=2e-4)
    downwards = bayes.believe(("off", "on"), known, -1.0, 0.05)[1]
    assert downwards.better == pytest.approx(1 - wanted, abs=2e-4)


def test_the_expected_loss_is_that_of_stucchio() -> None:
    """Chris Stucchio, "Bayesian A/B Testing at VWO" (2015), section 4: h(a, b, c, d) is P(second > first)."""
    a, b, c, d = 101, 901, 121, 881
    mean_first, mean_second = a / (a + b), c / (c + d)
    wanted = mean_first * (1 - better(a + 1, b, c, d)) - mean_second * (1 - better(a, b, c + 1, d))
    found = bayes.believe(("off", "on"), [Posterior.of_rate(100, 1000), Posterior.of_rate(120, 1000)], 1.0, 0.05)[1]
    assert found.loss == pytest.approx(wanted, rel=1e-3)


def test_of_three_normal_beliefs_the_best_is_the_integral_over_the_others() -> None:
    known = [Posterior(0.0, 1.0), Posterior(0.5, 0.5), Posterior(0.2, 5.0)]
    beliefs = bayes.believe(("off", "a", "b"), known, 1.0, 0.05)

    def density(x: float) -> float:
        return float(norm.pdf(x, 0.5, 0.5) * norm.cdf(x) * norm.cdf(x, 0.2, 5.0))

    assert beliefs[1].best == pytest.approx(quad(density, -5, 6)[0], abs=1e-4)
    assert sum(one.best for one in beliefs) == pytest.approx(1)
    # Of two normals all is known in closed form.
    spread, centre = math.sqrt(1.25), 0.5
    assert beliefs[1].better == pytest.approx(norm.cdf(centre / spread), abs=1e-4)
    assert beliefs[1].low == pytest.approx(centre - norm.ppf(0.975) * spread, abs=1e-3)
    loss = spread * norm.pdf(centre / spread) - centre * norm.cdf(-centre / spread)
    assert beliefs[1].loss == pytest.approx(loss, rel=1e-3)


def test_a_rates_posterior_is_a_beta() -> None:
    one, x = Posterior.of_rate(7, 50), np.linspace(0, 1, 21)
    assert one.density(x) == pytest.approx(beta.pdf(x, 8, 44))
    assert one.below(x) == pytest.approx(beta.cdf(x, 8, 44))
    assert (one.mean, one.deviation) == pytest.approx((beta.mean(8, 44), beta.std(8, 44)))


@pytest.mark.parametrize("n", [100, 1000, 50_000])
def test_the_width_is_equation_2_of_waudby_smith_and_others(n: int) -> None:
    rule = Rule(0.05, 10_000)
    rho2 = rule.best / rule.planned
    wanted = math.sqrt(2 * (n * rho2 + 1) / (n**2 * rho2) * math.log(math.sqrt(n * rho2 + 1) / 0.05))
    assert float(rule.reach(np.array(float(n)))) / math.sqrt(n) == pytest.approx(wanted)
    # Their approximation of the best rho (appendix B.2) is near the exact one.
    assert rho2 * 10_000 == pytest.approx(-2 * math.log(0.05) + math.log(-2 * math.log(0.05) + 1), rel=0.06)


GBSTATS = np.array(
    [[[4100, 10660, 65000, 10660, 8100, 40500, 47000], [4000, 10000, 61000, 10000, 8000, 40000, 45000]]], dtype=float
)
"""4,100 treated units of sum 10,660 and 4,000 others of sum 10,000, with what they did before."""


@pytest.mark.parametrize(
    ("cuped", "ends", "p", "chance", "credible", "risk"),
    [
        (False, (-0.1037666610, 0.3037666610), 1.0, 0.9326551577, (-0.0310257434, 0.2310257434), 0.0019777477),
        (True, (0.0197246804, 0.2315062558), 0.0086429941, 0.9998503139, (0.0575257270, 0.1937052092), 1.2737756e-6),
    ],
)
def test_the_figures_are_those_of_gbstats(
    cuped: bool,
    ends: tuple[float, float],
    p: float,
    chance: float,
    credible: tuple[float, float],
    risk: float,
) -> None:
    """GrowthBook's gbstats 0.8.0: SequentialTwoSidedTTest (tuning parameter 5000) and EffectBayesianABTest, absolute.

    It fits CUPED's θ to both arms as one, and the prior of the interval by an approximation, which is taken over here.
    """
    rho2 = (-2 * math.log(0.05) + math.log(-2 * math.log(0.05) + 1)) / 5000
    found = groups(GBSTATS, MetricKind.MEAN, cuped)
    lift = compare(found, Rule(0.05, Rule(0.05, 1).best / rho2)).lift
    assert (lift.low[0], lift.high[0]) == pytest.approx(ends, abs=1e-5)
    assert min(1.0, math.exp(-lift.log_e[0])) == pytest.approx(p, rel=1e-3)
    known = bayes.posteriors(found.only((1, 0)), cuped)
    assert known is not None
    believed = bayes.believe(("off", "on"), known, 1.0, 0.05)[1]
    assert believed.better == pytest.approx(chance, abs=1e-5)
    assert (believed.low, believed.high) == pytest.approx(credible, abs=1e-5)
    assert believed.loss == pytest.approx(risk, rel=1e-3)


def test_cuped_by_hand() -> None:
    """Deng, Xu, Kohavi & Walker (WSDM 2013), equations 2 to 4, on eight units an arm that fit on a sheet of paper.

    Before its exposure unit i did i, after it twice that and 1 or -1 in turn; each treated one 1 more before, 3 after.
    """
    x = np.arange(8.0)
    wave = np.array([1.0, -1] * 4)
    y = 2 * x + wave
    assert ((x - 3.5) ** 2).sum() == 42
    assert ((x - 3.5) * (y - y.mean())).sum() == 80
    assert ((y - y.mean()) ** 2).sum() == 160
    arms = [
        [8 * 100, *(100 * part.sum() for part in (z, z**2, np.abs(z), w, w**2, w * z))]
        for z, w in ((y + 3, x + 1), (y, x))
    ]
    found = groups(np.array([arms]), MetricKind.MEAN, cuped=True)
    assert found.theta[0] == pytest.approx(80 / 42)
    assert found.saved[0] == pytest.approx(80**2 / (42 * 160))
    # The treated ones had 1 more before: of the 3 that they are ahead, θ·1 was theirs anyway.
    assert found.mean[0, 0] - found.mean[0, 1] == pytest.approx(3 - 80 / 42)


def test_the_ratio_is_fiellers() -> None:
    """By the definition: the ends are where the interval of (treated - q·control) just holds 0."""
    found, rule = groups(GBSTATS, MetricKind.MEAN, cuped=False), Rule(0.05, 8000)
    _, low, high = compare(found, rule).relative
    reach = float(rule.reach(np.array(8100.0)))
    (top, base), (v, w) = found.mean[0], found.variance[0]
    for end in (low[0], high[0]):
        q = 1 + end
        assert abs(top - q * base) == pytest.approx(reach * math.sqrt(v + q**2 * w))


def test_the_exact_interval_of_a_rate_rejects_what_the_mixture_does() -> None:
    """Robbins' beta mixture: at its ends the evidence against a rate is exactly 1 to the risk."""
    found = groups(
        np.array([[[10, 0, 0, 0, 0, 0, 0], [40, 20, 20, 20, 0, 0, 0]]], dtype=float), MetricKind.CONVERSION, False
    )
    pair = compare(found, Rule(0.05, 10_000)).lift
    assert pair.exact[0]

    def end(hits: int, n: int, low: float, high: float) -> float:
        for _ in range(80):
            middle = (low + high) / 2
            log_e = betaln(hits + 0.5, n - hits + 0.5) - betaln(0.5, 0.5)
            log_e -= hits * math.log(middle) + (n - hits) * math.log1p(-middle)
            low, high = (low, middle) if log_e >= math.log(2 / (0.05 * 0.1)) else (middle, high)
        return low

    assert pair.high[0] == pytest.approx(end(0, 10, 1e-9, 1) - (1 - end(20, 40, 0.5, 1)), abs=1e-9)
    assert pair.low[0] == pytest.approx(0 - end(20, 40, 0.5, 1), abs=1e-9)
