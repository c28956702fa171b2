"""The load gate: reports of four tools come to the same figures, and no fault in one of them is a pass."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossfade.domain.errors import Invalid
from crossfade.domain.pipeline.plan import Gate, GateKind
from crossfade.domain.pipeline.results import LoadResult, decide_load
from crossfade.gates import ReportGates
from crossfade.gates.load import load_result
from crossfade.ports.pipeline import GateContext

REPORTS = Path(__file__).parent / "reports"
GATE = Gate(GateKind.LOAD, "load.json")


def result(name: str) -> LoadResult:
    return load_result(name, (REPORTS / name).read_bytes())


def changed(name: str, **values: Any) -> bytes:
    """A report with other values at its top."""
    return json.dumps({**json.loads((REPORTS / name).read_text()), **values}).encode()


def test_k6_is_read_as_its_summary_export_writes_it() -> None:
    found = result("k6_summary_export.json")
    assert (found.tool, found.requests, found.errors, found.dropped, found.broken) == ("k6", 1200, 6, 0, ())
    assert found.quantiles == {"p50": pytest.approx(0.0182), "p95": pytest.approx(0.0585)}
    assert decide_load("k6.json", found, GATE).sentence == (
        "k6.json (k6): 1200 requests, 39.9 a second, 0.5 % failed, p50 18.2 ms, p95 58.5 ms"
    )


def test_k6_is_read_as_handle_summary_gets_it_and_dropped_iterations_fail() -> None:
    found = result("k6_handle_summary.json")
    assert (found.requests, found.errors, found.dropped) == (1200, 0, 17)
    assert found.seconds == pytest.approx(30.0805)
    assert found.quantiles["p99"] == pytest.approx(0.26)
    outcome = decide_load("k6.json", found, GATE)
    assert not outcome.passed
    assert "17 iterations were dropped" in outcome.sentence
    assert "the tool's own limit was not kept: http_req_duration p(95)<100" in outcome.details


def test_a_threshold_that_k6_says_was_not_kept_fails() -> None:
    report = json.loads((REPORTS / "k6_summary_export.json").read_text())
    report["metrics"]["http_req_duration"]["thresholds"]["p(95)<50"] = True  # in this format: that it failed
    found = load_result("k6.json", json.dumps(report).encode())
    assert found.broken == ("http_req_duration p(95)<50",)
    assert not decide_load("k6.json", found, GATE).passed


def test_a_limit_on_what_the_report_does_not_have_is_no_data_and_says_how_to_get_it() -> None:
    outcome = decide_load("k6.json", result("k6_summary_export.json"), replace(GATE, p99=0.5))
    assert (outcome.passed, outcome.finding) == (False, "no-data")
    assert "p99 is not in the report, but has a limit: set `summaryTrendStats" in outcome.sentence


def test_locust_is_read_from_its_table_and_from_its_json_with_a_note_on_what_it_omits() -> None:
    table, raw = result("locust_stats.csv"), result("locust.json")
    assert (table.requests, table.errors) == (237, 15)
    assert table.quantiles == {"p50": 0.003, "p95": 0.005, "p99": 0.009}
    assert (raw.requests, raw.errors) == (330, 22)
    assert raw.quantiles == {"p50": 0.003, "p95": 0.005, "p99": 0.008}
    assert raw.rate == pytest.approx(120.58, abs=0.01)
    outcome = decide_load("locust.json", raw, replace(GATE, error_rate=0.1))
    assert outcome.passed
    assert "coordinated omission" in outcome.details[0]


def test_vegeta_is_read_from_its_json() -> None:
    found = result("vegeta.json")
    assert (found.requests, found.errors) == (1200, 24)  # 4 without an answer, 20 with 503; redirects are none
    assert found.quantiles == {k: pytest.approx(v) for k, v in {"p50": 0.0204, "p95": 0.0617, "p99": 0.1205}.items()}
    outcome = decide_load("vegeta.json", found, GATE)
    assert outcome.details[0] == "2 % of requests failed (24 of 1200), limit 1 %"


def test_the_text_of_vegeta_is_refused_with_what_to_do_instead() -> None:
    text = b"Requests      [total, rate, throughput]         1200, 40.03, 39.30\nDuration      [total, attack, wait]  30s\n"
    with pytest.raises(Invalid, match=r"vegeta report -type=json"):
        load_result("vegeta.txt", text)


def test_oha_is_read_from_its_json_and_requests_on_their_way_at_the_end_have_not_failed() -> None:
    found = result("oha.json")
    assert (found.requests, found.errors) == (1197, 7)  # 6 with 503, one refused, and not the three at the deadline
    assert found.quantiles == {"p50": 0.0087, "p95": 0.0214, "p99": 0.0481}
    assert "-q" in found.notes[0]


def test_no_requests_are_no_data_whatever_the_limits() -> None:
    empty = load_result("vegeta.json", changed("vegeta.json", requests=0, status_codes={}))
    outcome = decide_load("vegeta.json", empty, replace(GATE, error_rate=1.0))
    assert (outcome.passed, outcome.finding) == (False, "no-data")
    assert "at least 1 are wanted" in outcome.sentence


def test_fewer_requests_than_wanted_are_no_data() -> None:
    assert decide_load("oha.json", result("oha.json"), replace(GATE, least=5000)).finding == "no-data"


LIMITS = st.floats(0.001, 10)


@given(st.integers(1, 10**6), st.data(), LIMITS, LIMITS)
def test_what_passes_still_passes_when_it_is_faster_or_fails_less(
    requests: int, data: st.DataObject, p95: float, limit: float
) -> None:
    errors = data.draw(st.integers(0, requests))
    gate = replace(GATE, error_rate=0.05, p95=limit)
    outcome = decide_load("x", LoadResult("k6", requests, errors, {"p95": p95}), gate)
    assert outcome.passed == (errors / requests <= 0.05 and p95 <= limit)
    fewer = data.draw(st.integers(0, errors))
    better = decide_load("x", LoadResult("k6", requests, fewer, {"p95": p95 / 2}), gate)
    assert better.passed or not outcome.passed


@given(st.integers(1, 10**6), st.integers(1, 1000))
def test_dropped_requests_never_pass(requests: int, dropped: int) -> None:
    assert not decide_load("x", LoadResult("k6", requests, 0, {}, dropped=dropped), GATE).passed


K6 = json.loads((REPORTS / "k6_summary_export.json").read_text())["metrics"]
HOSTILE = {
    "nothing": b"",
    "text": b"all went well",
    "binary": bytes(range(256)),
    "UTF-16": '{"metrics": {}}'.encode("utf-16"),
    "JSON of something else": b'{"tests": 3}',
    "a list of something else": b'[{"name": "x"}]',
    "JSON that ends early": b'{"metrics": {"http_reqs"',
    "a million brackets": b'{"metrics": ' + b"[" * 1_000_000,
    "NaN": b'{"latencies": {"50th": NaN}, "requests": 1, "status_codes": {"200": 1}}',
    "infinity": b'{"latencies": {"50th": 1e999}, "requests": 1, "status_codes": {"200": 1}}',
    "a negative time": changed("vegeta.json", latencies={"50th": -1}),
    "a negative count": changed("vegeta.json", requests=-5),
    "half a request": changed("vegeta.json", requests=1.5),
    "a number of very many digits": b'{"latencies": {}, "status_codes": {}, "requests": ' + b"9" * 400 + b"}",
    "a number that is text": changed("oha.json", statusCodeDistribution={"200": "many"}),
    "a list for an object": changed("oha.json", summary=[]),
    "more failures than requests": json.dumps({"metrics": {**K6, "http_req_failed": {"value": 1.5}}}).encode(),
    "k6 without what failed": json.dumps({"metrics": {k: v for k, v in K6.items() if k != "http_req_failed"}}).encode(),
    "a table without its sum": b"Type,Name,Request Count\nGET,/books,5\n",
    "a table with words for figures": b"Type,Name,Request Count,Failure Count\n,Aggregated,many,0\n",
    "a table with not a number": b"Type,Name,Request Count,Failure Count\n,Aggregated,nan,0\n",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_report_is_refused_with_its_name(name: str) -> None:
    with pytest.raises(Invalid, match=r"load\.json"):
        load_result("load.json", HOSTILE[name])


def test_the_gate_reads_each_report_and_all_must_pass(tmp_path: Path) -> None:
    for name in ("oha.json", "vegeta.json"):
        (tmp_path / name).write_bytes((REPORTS / name).read_bytes())
    gate = replace(GATE, report="*.json", p95=0.05)
    outcome = ReportGates().read("load", gate, GateContext(tmp_path))
    assert outcome.sentence.startswith(
        "1 of 2 load reports: vegeta.json (vegeta): 1200 requests, 40.03 a second, 2 % failed"
    )
    assert "p95 61.7 ms, limit 50 ms" in outcome.sentence
    assert ReportGates().read("load", replace(gate, error_rate=0.05, p95=0.1), GateContext(tmp_path)).passed
