"""The benchmark gate: laws of the comparison, reports of four tools, and hostile ones."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossfade.domain.errors import Invalid
from crossfade.domain.pipeline.plan import Gate, GateKind, Outcome
from crossfade.domain.pipeline.results import Benchmark, decide_benchmarks, ratio
from crossfade.gates import ReportGates
from crossfade.gates.benchmark import benchmarks
from crossfade.ports.pipeline import Before, GateContext

REPORTS = Path(__file__).parent / "reports"
GATE = Gate(GateKind.BENCHMARK, "bench.json")
TIMES = st.floats(1e-9, 1e3)


def measured(name: str, middle: float, *, spread: float = 0.02, rounds: int = 30, seed: int = 0) -> Benchmark:
    drawn = random.Random(f"{seed}{name}{middle}")
    samples = tuple(middle * (1 + drawn.uniform(-spread, spread)) for _ in range(rounds))
    return Benchmark(name, sorted(samples)[rounds // 2], samples)


def decided(after: list[Benchmark], before: list[Benchmark] | None, gate: Gate = GATE) -> Outcome:
    return decide_benchmarks("bench.json", after, before, "r12", gate)


@given(st.lists(TIMES, min_size=5, max_size=20), st.lists(TIMES, min_size=5, max_size=20), st.randoms())
@settings(max_examples=25, deadline=None)
def test_the_order_of_samples_does_not_matter(one: list[float], two: list[float], drawn: random.Random) -> None:
    first = ratio(Benchmark("a", 1.0, tuple(one)), Benchmark("a", 1.0, tuple(two)))
    drawn.shuffle(one)
    drawn.shuffle(two)
    assert ratio(Benchmark("a", 1.0, tuple(one)), Benchmark("a", 1.0, tuple(two))) == first


@given(TIMES, TIMES, st.floats(0, 1))
def test_without_samples_the_point_decides_and_says_so(before: float, after: float, margin: float) -> None:
    outcome = decided([Benchmark("a", after)], [Benchmark("a", before)], replace(GATE, margin=margin))
    assert outcome.passed == (after / before <= 1 + margin)
    assert "a point estimate: not samples enough for an interval" in outcome.details[0]


@given(st.lists(TIMES, min_size=5, max_size=12))
@settings(max_examples=25, deadline=None)
def test_the_same_samples_never_fail(samples: list[float]) -> None:
    same = [Benchmark("a", sorted(samples)[len(samples) // 2], tuple(samples))]
    assert decided(same, same).finding in ("pass", "inconclusive")


@pytest.mark.parametrize(
    ("factor", "finding"), [(0.5, "pass"), (1.0, "pass"), (1.05, "pass"), (1.2, "fail"), (3.0, "fail")]
)
def test_samples_tell_slower_from_as_fast(factor: float, finding: str) -> None:
    outcome = decided([measured("parse", 0.01 * factor, seed=1)], [measured("parse", 0.01, seed=2)])
    assert outcome.finding == finding
    assert outcome.passed == (finding == "pass")


def test_samples_that_scatter_too_far_are_inconclusive_and_say_so() -> None:
    after, before = measured("parse", 0.0104, spread=0.5, rounds=8), measured("parse", 0.01, spread=0.5, rounds=8)
    outcome = decided([after], [before])
    assert (outcome.passed, outcome.finding) == (False, "inconclusive")
    assert (
        "1 benchmark cannot be told from r12 without more rounds (margin 10 %): parse: it cannot be told:"
        in outcome.sentence
    )


def test_a_slower_benchmark_is_named_with_its_times_and_can_be_allowed() -> None:
    after, before = (
        [measured("parse", 0.013), measured("print", 0.01)],
        [measured("parse", 0.01), measured("print", 0.01)],
    )
    outcome = decided(after, before)
    assert outcome.sentence.startswith(
        "bench.json: 1 of 2 benchmarks slower than in r12 (margin 10 %): parse: slower: +"
    )
    assert "→" in outcome.details[0]
    assert decided(after, before, replace(GATE, allow=("parse",))).passed


def test_a_benchmark_that_went_missing_is_no_pass_unless_allowed() -> None:
    outcome = decided([Benchmark("print", 1.0)], [Benchmark("parse", 1.0), Benchmark("print", 1.0)])
    assert (outcome.passed, outcome.finding) == (False, "no-data")
    assert "parse: r12 had it" in outcome.sentence
    assert decided([Benchmark("print", 1.0)], [Benchmark("parse", 1.0)], replace(GATE, allow=("parse",))).passed


def test_the_first_report_passes_and_says_that_there_is_nothing_to_compare_with() -> None:
    outcome = decide_benchmarks("bench.json", [Benchmark("a", 1.0)], None, "no release is in production", GATE)
    assert outcome.passed
    assert outcome.sentence == "bench.json has 1 benchmark, and nothing to compare with: no release is in production"


def test_a_report_without_benchmarks_is_no_data() -> None:
    assert decided([], None).finding == "no-data"
    assert decided([Benchmark("a", 1.0)], None, replace(GATE, least=2)).finding == "no-data"


def test_very_many_samples_are_compared_at_a_bounded_price() -> None:
    many = measured("parse", 0.01, rounds=50_000)
    assert decided([many], [many]).passed


def read(name: str, path: str = "") -> tuple[tuple[Benchmark, ...], tuple[str, ...]]:
    return benchmarks(path or name, (REPORTS / name).read_bytes())


def test_hyperfine_is_read_with_its_samples() -> None:
    found, failed = read("hyperfine.json")
    assert [(each.name, len(each.samples)) for each in found] == [("sleep 0.02", 12), ("true", 12)]
    assert found[0].median == pytest.approx(0.0216, abs=1e-4)
    assert failed == ()


def test_a_command_of_hyperfine_that_failed_is_no_benchmark() -> None:
    report = json.loads((REPORTS / "hyperfine.json").read_text())
    report["results"][0]["exit_codes"][3] = 127
    found, failed = benchmarks("h.json", json.dumps(report).encode())
    assert failed == ("sleep 0.02: 1 of 12 rounds ended with 127, not 0",)
    assert not decide_benchmarks("h.json", found, found, "r12", GATE, failed=failed).passed


def test_pytest_benchmark_is_read_with_its_samples() -> None:
    found, _ = read("pytest_benchmark.json")
    assert [(each.name, len(each.samples)) for each in found] == [("test_b.py::test_sorting", 12)]
    assert found[0].median == pytest.approx(8.35e-6, rel=1e-3)


def test_google_benchmark_is_read_with_repetitions_as_samples_and_its_own_units() -> None:
    found, _ = read("google_benchmark.json")
    assert [(each.name, each.samples) for each in found] == [
        ("BM_Parse/8", tuple(pytest.approx(t) for t in (412e-6, 420e-6, 416e-6))),
        ("BM_Print", ()),  # one round is an average, not a sample
    ]
    assert found[1].median == pytest.approx(2.5e-6)


def test_an_error_in_google_benchmark_fails_with_its_message() -> None:
    report = json.loads((REPORTS / "google_benchmark.json").read_text())
    report["benchmarks"][5] |= {"error_occurred": True, "error_message": "no such file"}
    found, failed = benchmarks("g.json", json.dumps(report).encode())
    assert failed == ("BM_Print: no such file",)
    assert [each.name for each in found] == ["BM_Parse/8"]


def test_criterion_is_read_from_samples_or_estimates_and_named_by_its_place() -> None:
    samples, _ = read("criterion_sample.json", "target/criterion/parse/small/new/sample.json")
    estimates, _ = read("criterion_estimates.json", "target/criterion/parse/small/new/estimates.json")
    assert samples[0].name == estimates[0].name == "parse/small"
    assert len(samples[0].samples) == 6
    assert samples[0].median == pytest.approx(1.01e-6, rel=0.01)
    assert estimates[0].median == pytest.approx(1.01e-6)
    assert estimates[0].samples == ()


HOSTILE = {
    "nothing": b"",
    "binary": bytes(range(256)),
    "a list": b"[]",
    "JSON of something else": b'{"tests": 3}',
    "a million brackets": b'{"results": ' + b"[" * 1_000_000,
    "NaN": b'{"results": [{"command": "x", "median": NaN}]}',
    "a negative time": b'{"results": [{"command": "x", "median": -1}]}',
    "a median of nothing": b'{"results": [{"command": "x", "median": 0}]}',
    "no name": b'{"results": [{"median": 1}]}',
    "times that are none": b'{"results": [{"command": "x", "median": 1, "times": "fast"}]}',
    "an unknown unit": b'{"benchmarks": [{"name": "x", "real_time": 1, "time_unit": "weeks"}]}',
    "iterations of nothing": b'{"sampling_mode": "Flat", "iters": [0], "times": [1]}',
    "fewer iterations than times": b'{"sampling_mode": "Flat", "iters": [], "times": [1]}',
    "an estimate of nothing": b'{"mean": {}, "median": {"point_estimate": null}}',
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_report_is_refused(name: str) -> None:
    with pytest.raises(Invalid):
        benchmarks("bench.json", HOSTILE[name])


def test_a_name_that_stands_there_twice_is_refused() -> None:
    twice = [Benchmark("a", 1.0), Benchmark("a", 2.0)]
    with pytest.raises(Invalid, match="each name once"):
        decided(twice, None)


def test_the_gate_compares_with_the_report_that_it_read_of_the_release_in_production(tmp_path: Path) -> None:
    content = (REPORTS / "pytest_benchmark.json").read_bytes()
    (tmp_path / "bench.json").write_bytes(content)
    first = ReportGates().read("speed", GATE, GateContext(tmp_path))
    assert first.passed
    assert "nothing to compare with: nothing that came through the pipeline is in production yet" in first.sentence
    kept: list[tuple[bytes | None, bool]] = [(content, True), (content.replace(b"e-06", b"e-07"), False), (None, True)]
    for report, passed in kept:
        before = Before("r12 (4f2c81a)", lambda path: None, {"bench.json": report}.get)
        outcome = ReportGates().read("speed", GATE, GateContext(tmp_path, before=before))
        assert outcome.passed == passed
        assert "r12 (4f2c81a)" in outcome.sentence
