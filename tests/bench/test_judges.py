"""The judges that ours is compared with do what their specifications say, and both benches of the judge are whole."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu, norm

from bench import peers_judges as peers
from bench.detection import FOUND, HARD, METHODS, SLOWER, WORSE, alarms, times, wilson
from bench.streams import EDGES, SECONDS, Scenario, Slower

ROOT = Path(__file__).parents[2]
points = st.lists(st.integers(0, 8).map(float), min_size=1, max_size=9)


def bench(name: str, out: Path) -> tuple[str, dict[str, Any]]:
    """A short run; what it printed, and its JSON."""
    done = subprocess.run(
        [sys.executable, "-m", f"bench.{name}", "--short", "--json", str(out)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])},
        stdin=subprocess.DEVNULL,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, json.loads(out.read_text())


def test_the_detection_bench_judges_every_scenario_by_every_method(tmp_path: Path) -> None:
    printed, data = bench("detection", tmp_path / "out.json")
    assert {row["errors of the candidate"] for row in data["rows"]} == set(METHODS)
    names = {"A/A", *(one.name for one in (*WORSE, *HARD, *FOUND)), *(one.name for one in SLOWER)}
    assert data["measured"].keys() == names
    for found in data["measured"].values():
        assert all(len(outcome["alarm_seconds"]) == 10 for outcome in found.values())
    assert printed.count("### ") == 4
    assert len(data["goals"]) == 10
    assert data["failures"] == 0


def test_the_judge_bench_times_every_part_of_a_look_and_a_replay(tmp_path: Path) -> None:
    printed, data = bench("judge", tmp_path / "out.json")
    assert "**judged: evidence and verdict**" in printed
    assert len(data["measured"]["judged_seconds"]) == len(data["measured"]["written_seconds"]) == 600
    assert len(data["measured"]["replay_seconds"]) == 1
    assert len(data["goals"]) == 3


# --- streams


def test_the_same_replica_is_the_same_traffic_and_another_one_is_not() -> None:
    one = Scenario("a")
    assert (one.draw(1) == one.draw(1)).all()
    assert (one.draw(1) != one.draw(2)).any()
    assert (one.draw(1) != Scenario("b").draw(1)).any()


def test_traffic_has_the_rates_split_and_clusters_that_were_asked_for() -> None:
    nb, xb, nc, xc = Scenario("c", bad=0.05, split=(0.05, 0.25), cluster=5.0).draw(0).T
    assert nb.sum() + nc.sum() == pytest.approx(1000 * SECONDS, rel=0.01)
    assert nc[:300].mean() == pytest.approx(50, rel=0.05)
    assert nc[300:].mean() == pytest.approx(250, rel=0.05)
    assert xc.sum() / nc.sum() == pytest.approx(0.05, rel=0.15)
    assert xb.sum() / nb.sum() == pytest.approx(0.001, rel=0.3)
    bursts = np.array([Scenario("d", cluster=5.0).draw(i)[:, 1] for i in range(20)])
    # A sum of geometric clusters of mean 5 has 2·5 - 1 times the variance of its mean.
    assert bursts.var() / bursts.mean() == pytest.approx(9, rel=0.2)


def test_latencies_are_counted_exactly_and_have_the_p99_that_was_asked_for() -> None:
    baseline, candidate, p99, worse = Slower("e", tail_times=2.0).draw(0)
    assert baseline.shape == candidate.shape == (SECONDS, len(EDGES) + 1)
    assert p99.mean() == pytest.approx(0.2, rel=0.02)
    assert worse.mean() == pytest.approx(0.4, rel=0.05)
    above = baseline.sum(axis=0)[np.searchsorted(EDGES, 200) + 1 :].sum() / baseline.sum()
    assert above == pytest.approx(0.0095, abs=0.002)
    history = Slower("e").history(0)
    assert history.histogram is not None
    assert history.histogram.edges == tuple(EDGES)
    assert sum(history.histogram.counts) == pytest.approx(600_000, rel=0.01)


# --- peers


def test_lindon_and_malek_reproduce_their_vector() -> None:
    log_e = peers.lindon_malek_log_e(np.array(20.0), np.array(95.0), 0.05)
    assert math.exp(-log_e) == pytest.approx(0.00139277, abs=1e-8)
    assert peers.lindon_malek_interval(20, 95, 0.05, 0.01) == pytest.approx((0.14239, 2.36842), abs=1e-5)


@given(points, points)
def test_kayentas_deviate_is_that_of_the_mann_whitney_test(x: list[float], y: list[float]) -> None:
    one, other = np.array(x), np.array(y)
    w = peers.deviate(0.0, one, other)
    if len({*x, *y}) == 1:
        assert w == 0
        return
    p = mannwhitneyu(one, other, method="asymptotic", use_continuity=True).pvalue
    assert min(1.0, 2 * norm.sf(abs(w))) == pytest.approx(p, abs=1e-9)


@given(points, points)
def test_kayentas_interval_is_where_the_test_does_not_reject(x: list[float], y: list[float]) -> None:
    one, other = np.array(x), np.array(y)
    low, estimate, high = peers.mann_whitney(one, other)
    left, right = min(x) - max(y), max(x) - min(y)
    assert left <= low <= estimate + 1e-3
    assert estimate - 1e-3 <= high <= right
    step = 1e-3
    # Just outside of it the deviate is beyond the line, where there is an outside.
    if low > left:
        assert peers.deviate(low - step, one, other) >= peers.CONFIDENCE_Z
    if high < right:
        assert peers.deviate(high + step, one, other) <= -peers.CONFIDENCE_Z


def test_kayenta_says_high_low_pass_and_no_data() -> None:
    low, high = np.arange(1.0, 7.0), np.arange(11.0, 17.0)
    assert peers.kayenta(high, low) is peers.Label.HIGH
    assert peers.kayenta(low, high) is peers.Label.LOW
    assert peers.kayenta(low, low[::-1]) is peers.Label.PASS
    assert peers.kayenta(np.full(4, 3.0), np.full(5, 3.0)) is peers.Label.PASS
    assert peers.kayenta(low, low + 0.01) is peers.Label.PASS
    assert peers.kayenta(np.array([]), low) is peers.Label.NO_DATA
    assert peers.kayenta_over_time(high, low, 5) == 300
    assert peers.kayenta_over_time(low, high, 5) == math.inf


def certain(candidate: float) -> Any:
    """One stream without chance: 0.1 % errors against ``candidate``."""
    return np.tile([950.0, 0.95, 50.0, 50 * candidate], (1, SECONDS, 1))


def test_rules_on_the_candidate_alone_alarm_beyond_their_limit_only() -> None:
    assert peers.threshold(certain(0.011))[0] == peers.SOONEST
    assert peers.threshold(certain(0.0099))[0] == math.inf
    assert peers.flagger(certain(0.011))[0] == 300
    assert peers.flagger(certain(0.0099))[0] == math.inf
    late = certain(0.001)
    late[0, 100:, 3] = 50 * 0.05
    # From 100 s on: 1 % of the last minute is reached when 12 of its 60 s were bad.
    assert 100 < peers.threshold(late)[0] < 115


def test_tests_of_both_arms_alarm_on_a_difference_and_not_on_an_incident() -> None:
    incident = np.tile([950.0, 47.5, 50.0, 2.5], (1, SECONDS, 1))
    for judge in (peers.naive, lambda streams: peers.lindon_malek(streams, 0.05)):
        assert judge(certain(0.05))[0] < 30
        assert judge(incident)[0] == math.inf


# --- how it is shown


def test_a_share_is_shown_with_its_interval_and_times_with_what_was_never_found() -> None:
    assert wilson(0, 400) == pytest.approx((0, 0.0095), abs=1e-4)
    assert wilson(8, 400) == pytest.approx((0.0102, 0.0390), abs=1e-4)
    assert alarms([math.inf] * 398 + [3.0, 4.0]) == "0.5 % (0.1…1.8)"
    assert times([1.0, 2.0, 3.0]) == "2/3"
    assert times([1.0, 2.0, 3.0, math.inf]) == "2/>600 (75 %)"
    assert times([math.inf]) == "never"
    assert times([]) == "-"
