"""What k6, Locust, vegeta and oha measured, read from the reports that each of them writes.

Formats, as documented by each: k6 ``--summary-export`` and the data of ``handleSummary()``
(grafana.com/docs/k6/latest/results-output/end-of-test), Locust ``--csv`` (``…_stats.csv``) and ``--json``
(docs.locust.io/en/stable/retrieving-stats.html), ``vegeta report -type=json`` (github.com/tsenart/vegeta#report-command),
``oha --output-format json`` (github.com/hatoo/oha, schema.json).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from crossfade.domain.errors import Invalid
from crossfade.domain.pipeline.plan import Gate, Outcome
from crossfade.domain.pipeline.results import LoadResult, decide_load, together
from crossfade.gates.figures import count, mapping, number, parsed
from crossfade.ports.pipeline import GateContext

if TYPE_CHECKING:
    from crossfade.gates.files import Report

CLOSED: Final = (
    "Locust is closed-loop: it asks again only when it was answered, so that a slow service is asked less, and the times "
    "leave out what waiting requests would have seen (coordinated omission); true times are higher under stress"
)
MAYBE_CLOSED: Final = (
    "oha is closed-loop unless it was given `-q`; give it `--latency-correction` too, or times leave out what waiting "
    "requests would have seen (coordinated omission)"
)
MAYBE_CLOSED_K6: Final = (
    "k6 is open-loop only with its arrival-rate executors; with the others its times leave out what waiting requests "
    "would have seen (coordinated omission)"
)
KNOWN: Final = "a report of k6, Locust, vegeta or oha"
_QUANTILES: Final = ("p50", "p95", "p99")


def read(name: str, gate: Gate, report: Report, context: GateContext) -> Outcome:  # noqa: ARG001 - all kinds are read alike
    """The outcome for reports of load tests. Raises Invalid for one that cannot be read."""
    outcomes = [decide_load(file.path, load_result(file.path, file.content), gate) for file in report.files]
    return together(outcomes, "load reports")


def load_result(path: str, content: bytes) -> LoadResult:
    """What a report says, of whichever tool it is. Raises Invalid when it is of none, or not whole."""
    start = content[:4096].removeprefix(b"\xef\xbb\xbf").lstrip()
    if start.startswith(b"Requests ") and b"[total, rate" in start:
        raise Invalid(path, "vegeta's report as text", "`vegeta report -type=json`")
    if start.startswith((b"Type,Name,", b'"Type","Name",')):
        return _locust_csv(path, content)
    if not start.startswith((b"{", b"[")):
        raise Invalid(path, start[:40].decode("utf-8", "replace"), KNOWN)
    report = parsed(path, content)
    if isinstance(report, list):
        return _locust_json(path, report)
    if "metrics" in report:
        return _k6(path, mapping(f"{path}: metrics", report["metrics"]), report)
    if "latencies" in report and "status_codes" in report:
        return _vegeta(path, report)
    if "summary" in report and "latencyPercentiles" in report:
        return _oha(path, report)
    raise Invalid(path, f"keys {', '.join(map(str, list(report)[:6]))}", KNOWN)


def _k6(path: str, metrics: Mapping[str, Any], report: Mapping[str, Any]) -> LoadResult:
    def values(name: str) -> Mapping[str, Any]:
        # handleSummary() puts them one level deeper than --summary-export.
        metric = mapping(f"{path}: metrics.{name}", metrics.get(name, {}))
        return mapping(f"{path}: metrics.{name}.values", metric["values"]) if "values" in metric else metric

    requests = values("http_reqs")
    total = count(f"{path}: metrics.http_reqs.count", requests.get("count", 0))
    failed = values("http_req_failed")
    if total and not failed:
        raise Invalid(f"{path}: metrics", "no http_req_failed", "k6's metrics of HTTP requests, with http_req_failed")
    share = number(f"{path}: metrics.http_req_failed", failed.get("rate", failed.get("value", 0.0)))
    if share > 1:
        raise Invalid(f"{path}: metrics.http_req_failed", share, "a share from 0 to 1")
    times = values("http_req_duration")
    names = {"p50": ("p(50)", "med"), "p95": ("p(95)",), "p99": ("p(99)",)}
    quantiles = {
        name: number(f"{path}: metrics.http_req_duration.{key}", times[key], unit=1e-3)
        for name, keys in names.items()
        for key in keys[:1] + tuple(key for key in keys[1:] if keys[0] not in times)
        if key in times
    }
    dropped = count(f"{path}: metrics.dropped_iterations.count", values("dropped_iterations").get("count", 0))
    state = report.get("state")
    seconds = None
    if isinstance(state, dict) and "testRunDurationMs" in state:
        seconds = number(f"{path}: state.testRunDurationMs", state["testRunDurationMs"], unit=1e-3)
    broken = []
    for name, metric in metrics.items():
        limits = metric.get("thresholds", {}) if isinstance(metric, dict) else {}
        for limit, kept in limits.items() if isinstance(limits, dict) else ():
            # handleSummary() says whether it is kept, --summary-export whether it is not.
            if (isinstance(kept, dict) and kept.get("ok") is not True) or kept is True:
                broken.append(f"{name} {limit}"[:200])
    return LoadResult(
        "k6",
        total,
        # A share above nothing is at least one request, however the figures were rounded.
        min(total, max(round(share * total), 1 if share > 0 else 0)),
        quantiles,
        seconds,
        number(f"{path}: metrics.http_reqs.rate", requests["rate"]) if "rate" in requests else None,
        dropped,
        tuple(broken),
        notes=(MAYBE_CLOSED_K6,),
        hints={"p99": "set `summaryTrendStats: ['med', 'p(95)', 'p(99)']` in the script's options"},
    )


def _vegeta(path: str, report: Mapping[str, Any]) -> LoadResult:
    times = mapping(f"{path}: latencies", report["latencies"])
    total = count(f"{path}: requests", report.get("requests"))
    statuses = {
        str(status): count(f"{path}: status_codes.{status}", those)
        for status, those in mapping(f"{path}: status_codes", report["status_codes"]).items()
    }
    # As vegeta counts success itself: statuses from 200 to 399. 0 stands for no answer.
    good = sum(those for status, those in statuses.items() if status[:1] in "23" and len(status) == 3)
    keys = {"p50": "50th", "p95": "95th", "p99": "99th"}
    return LoadResult(
        "vegeta",
        total,
        max(0, total - good),
        {
            name: number(f"{path}: latencies.{key}", times[key], unit=1e-9)
            for name, key in keys.items()
            if key in times and total
        },
        number(f"{path}: duration", report.get("duration", 0), unit=1e-9),
        number(f"{path}: rate", report.get("rate", 0)),
    )


def _oha(path: str, report: Mapping[str, Any]) -> LoadResult:
    summary = mapping(f"{path}: summary", report["summary"])
    statuses = mapping(f"{path}: statusCodeDistribution", report.get("statusCodeDistribution", {}))
    faults = mapping(f"{path}: errorDistribution", report.get("errorDistribution", {}))
    answered = {
        str(status): count(f"{path}: statusCodeDistribution.{status}", those) for status, those in statuses.items()
    }
    # What was on its way when the time was over has not failed; oha's own rate leaves it out too.
    broken = sum(
        count(f"{path}: errorDistribution.{what}", those)
        for what, those in faults.items()
        if what != "aborted due to deadline"
    )
    times = mapping(f"{path}: latencyPercentiles", report["latencyPercentiles"])
    return LoadResult(
        "oha",
        sum(answered.values()) + broken,
        sum(those for status, those in answered.items() if status[:1] not in "123") + broken,
        {
            name: number(f"{path}: latencyPercentiles.{name}", times[name])
            for name in _QUANTILES
            if times.get(name) is not None
        },
        number(f"{path}: summary.total", summary.get("total", 0)),
        # It is null when nothing was asked.
        None
        if summary.get("requestsPerSec") is None
        else number(f"{path}: summary.requestsPerSec", summary["requestsPerSec"]),
        notes=(MAYBE_CLOSED,),
    )


def _locust_csv(path: str, content: bytes) -> LoadResult:
    try:
        rows = list(csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise Invalid(path, str(error)[:100], "Locust's …_stats.csv") from None
    row = next((row for row in rows if row.get("Name") == "Aggregated"), None)
    if row is None:
        raise Invalid(path, f"{len(rows)} rows", "Locust's …_stats.csv with its row `Aggregated`")

    def cell(column: str) -> float:
        try:
            return number(f"{path}: Aggregated: {column}", float(row.get(column) or ""))
        except ValueError:
            raise Invalid(f"{path}: Aggregated: {column}", row.get(column), "a number") from None

    total = count(f"{path}: Request Count", cell("Request Count"))
    return LoadResult(
        "Locust",
        total,
        count(f"{path}: Failure Count", cell("Failure Count")),
        {name: cell(f"{name[1:]}%") / 1e3 for name in _QUANTILES} if total else {},
        rate=cell("Requests/s"),
        notes=(CLOSED,),
    )


def _locust_json(path: str, report: Iterable[Any]) -> LoadResult:
    total = errors = 0
    times: dict[float, int] = {}
    begins: list[float] = []
    ends: list[float] = []
    for at, raw in enumerate(report):
        entry = mapping(f"{path}: {at}", raw)
        if "num_requests" not in entry or "response_times" not in entry:
            raise Invalid(f"{path}: {at}", ", ".join(map(str, list(entry)[:6])), KNOWN)
        total += count(f"{path}: {at}.num_requests", entry["num_requests"])
        errors += count(f"{path}: {at}.num_failures", entry.get("num_failures", 0))
        for time, those in mapping(f"{path}: {at}.response_times", entry["response_times"]).items():
            try:
                taken = number(f"{path}: {at}.response_times", float(time), unit=1e-3)
            except ValueError:
                raise Invalid(f"{path}: {at}.response_times", time, "milliseconds") from None
            times[taken] = times.get(taken, 0) + count(f"{path}: {at}.response_times.{time}", those)
        begins.append(number(f"{path}: {at}.start_time", entry.get("start_time", 0)))
        ends.append(number(f"{path}: {at}.last_request_timestamp", entry.get("last_request_timestamp") or 0))
    seconds = max(ends) - min(begins) if begins and max(ends) > min(begins) > 0 else None
    quantiles = {name: _quantile(times, int(name[1:]) / 100) for name in _QUANTILES} if times else {}
    rate = total / seconds if seconds else None
    return LoadResult("Locust", total, errors, quantiles, seconds, rate, notes=(CLOSED,))


def _quantile(times: Mapping[float, int], share: float) -> float:
    """The least time that at least ``share`` of those counted do not exceed."""
    wanted, seen = share * sum(times.values()), 0
    for time, those in sorted(times.items()):
        seen += those
        if seen >= wanted:
            return time
    return max(times)
