"""What hyperfine, pytest-benchmark, Google Benchmark and criterion measured, read from the JSON that each writes.

Formats: ``hyperfine --export-json``, ``pytest --benchmark-json``, ``--benchmark_out_format=json`` of Google Benchmark
(repetitions are its samples), and of criterion ``target/criterion/NAME/new/sample.json`` (samples) or
``…/estimates.json`` (medians only). Times become seconds.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from crossfade.domain.errors import Invalid
from crossfade.domain.pipeline.plan import Gate, Outcome
from crossfade.domain.pipeline.results import Benchmark, decide_benchmarks, together
from crossfade.gates.figures import count, listed, mapping, number, parsed, text
from crossfade.ports.pipeline import GateContext

if TYPE_CHECKING:
    from crossfade.gates.files import Report

KNOWN: Final = "a report of hyperfine, pytest-benchmark, Google Benchmark or criterion"
_UNITS: Final = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0}


def read(name: str, gate: Gate, report: Report, context: GateContext) -> Outcome:  # noqa: ARG001 - all kinds are read alike
    """The outcome for reports of benchmarks. Raises Invalid for one that cannot be read.

    The report of the release in production is read just as strictly: this gate has read it once.
    """
    outcomes = []
    for file in report.files:
        after, failed = benchmarks(file.path, file.content)
        label, before = "nothing that came through the pipeline is in production yet", None
        if context.before is not None:
            label = context.before.label
            kept = context.before.report(file.path)
            if kept is None:
                label = f"no {file.path} is kept of {label}"
            else:
                before, _ = benchmarks(file.path, kept)
        outcomes.append(decide_benchmarks(file.path, after, before, label, gate, failed=failed))
    return together(outcomes, "benchmark reports")


def benchmarks(path: str, content: bytes) -> tuple[tuple[Benchmark, ...], tuple[str, ...]]:
    """The benchmarks of a report, and a sentence for each that did not run as it should. Raises Invalid."""
    report = mapping(path, parsed(path, content))
    if "results" in report:
        return _hyperfine(path, listed(f"{path}: results", report["results"]))
    if "benchmarks" in report:
        those = listed(f"{path}: benchmarks", report["benchmarks"])
        return _pytest(path, those) if "machine_info" in report else _google(path, those)
    if "sampling_mode" in report and "times" in report:
        return (_criterion_samples(path, report),), ()
    if "median" in report and "mean" in report:
        median = mapping(f"{path}: median", report["median"]).get("point_estimate")
        return (Benchmark(_criterion_name(path), number(f"{path}: median.point_estimate", median, unit=1e-9)),), ()
    raise Invalid(path, f"keys {', '.join(map(str, list(report)[:6]))}", KNOWN)


def _benchmark(name: str, samples: list[float], median: float) -> Benchmark:
    return Benchmark(name, statistics.median(samples) if samples else median, tuple(samples))


def _numbers(place: str, value: object, unit: float = 1.0) -> list[float]:
    return [number(place, each, unit=unit) for each in listed(place, value)]


def _hyperfine(path: str, results: list[Any]) -> tuple[tuple[Benchmark, ...], tuple[str, ...]]:
    found, failed = [], []
    for at, raw in enumerate(results):
        place = f"{path}: results.{at}"
        result = mapping(place, raw)
        name = text(f"{place}.command", result.get("command"))
        samples = _numbers(f"{place}.times", result.get("times") or [])
        found.append(_benchmark(name, samples, number(f"{place}.median", result.get("median"))))
        statuses = [status for status in listed(f"{place}.exit_codes", result.get("exit_codes") or []) if status != 0]
        if statuses:
            failed.append(f"{name}: {len(statuses)} of {len(samples)} rounds ended with {statuses[0]!r}, not 0"[:400])
    return tuple(found), tuple(failed)


def _pytest(path: str, those: list[Any]) -> tuple[tuple[Benchmark, ...], tuple[str, ...]]:
    found = []
    for at, raw in enumerate(those):
        place = f"{path}: benchmarks.{at}"
        entry = mapping(place, raw)
        stats = mapping(f"{place}.stats", entry.get("stats"))
        name = text(f"{place}.fullname", entry.get("fullname") or entry.get("name"))
        samples = _numbers(f"{place}.stats.data", stats.get("data") or [])
        found.append(_benchmark(name, samples, number(f"{place}.stats.median", stats.get("median"))))
    return tuple(found), ()


def _google(path: str, those: list[Any]) -> tuple[tuple[Benchmark, ...], tuple[str, ...]]:
    rounds: dict[str, list[float]] = {}
    medians: dict[str, float] = {}
    failed = []
    for at, raw in enumerate(those):
        place = f"{path}: benchmarks.{at}"
        entry = mapping(place, raw)
        name = text(f"{place}.name", entry.get("run_name") or entry.get("name"))
        if entry.get("error_occurred") or entry.get("skipped"):
            message = entry.get("error_message") or entry.get("skip_message") or "it did not run"
            failed.append(f"{name}: {message}"[:400])
            continue
        aggregate = entry.get("run_type") == "aggregate"
        if "real_time" not in entry or (aggregate and entry.get("aggregate_name") != "median"):
            continue  # of the aggregates only the median counts; BigO and RMS are no times
        unit = _UNITS.get(str(entry.get("time_unit", "ns")))
        if unit is None:
            raise Invalid(f"{place}.time_unit", entry["time_unit"], ", ".join(_UNITS))
        time = number(f"{place}.real_time", entry["real_time"], unit=unit)
        if aggregate:
            medians[name] = time
        else:
            rounds.setdefault(name, []).append(time)
    names = dict.fromkeys((*rounds, *medians))
    found = [_google_one(name, rounds.get(name, []), medians.get(name)) for name in names]
    return tuple(found), tuple(failed)


def _google_one(name: str, samples: list[float], median: float | None) -> Benchmark:
    # One round is an average over its iterations, not a sample of how they spread.
    return _benchmark(name, samples if len(samples) > 1 else [], median if median is not None else samples[0])


def _criterion_samples(path: str, report: Mapping[str, Any]) -> Benchmark:
    times = _numbers(f"{path}: times", report["times"], 1e-9)
    iterations = [count(f"{path}: iters", each) for each in listed(f"{path}: iters", report.get("iters"))]
    if len(times) != len(iterations) or not times or 0 in iterations:
        raise Invalid(f"{path}: iters", f"{len(iterations)} for {len(times)} times", "one above 0 for each time")
    samples = [time / each for time, each in zip(times, iterations, strict=True)]
    return _benchmark(_criterion_name(path), samples, 0.0)


def _criterion_name(path: str) -> str:
    """The benchmark's name from its place: ``target/criterion/parse/small/new/sample.json`` is ``parse/small``."""
    parts = path.split("/")[:-1]
    if parts and parts[-1] in ("new", "base"):
        parts = parts[:-1]
    return "/".join(parts[parts.index("criterion") + 1 :] if "criterion" in parts else parts) or path
