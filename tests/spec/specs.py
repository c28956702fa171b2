"""Hypothesis strategies: configurations of every shape, as plain data, and as YAML with known lines."""

from __future__ import annotations

import json
import math
from typing import Any

from hypothesis import strategies as st

Path = tuple[str | int, ...]

NAMES = st.from_regex(r"[a-z]([a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True)
VARIABLES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,10}", fullmatch=True).filter(
    lambda name: name not in ("PORT", "HOST") and not name.startswith("CROSSFADE_")
)
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
LINE = st.text(st.characters(min_codepoint=32, max_codepoint=0x2FF, exclude_categories=("Cc", "Cs")), max_size=20)
LABELS = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S")), min_size=1, max_size=20)
HEADERS = st.from_regex(r"X-[A-Za-z0-9-]{1,10}", fullmatch=True)
PATHS = st.from_regex(r"/[a-z0-9/?=&_.{}-]{0,20}", fullmatch=True)
PATTERNS = st.from_regex(r"\^?[a-z0-9.]{1,10}\$?", fullmatch=True)
JSON_PATHS = st.from_regex(r"\$(\.[a-z]{1,5}|\[[0-9]\]){0,3}", fullmatch=True)
PLAIN = TEXT | st.integers(-(2**53), 2**53) | st.booleans() | st.floats(allow_nan=False, allow_infinity=False)


def durations(low: float, high: float) -> st.SearchStrategy[str]:
    """Texts of lengths of time between two, in seconds."""

    def written(seconds: float) -> str:
        return f"{seconds:.6f}".rstrip("0").rstrip(".") + "s"

    units = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
    whole = [
        st.builds("{}{}".format, st.integers(math.ceil(low / size), math.floor(high / size)), st.just(unit))
        for unit, size in units.items()
        if math.ceil(low / size) <= math.floor(high / size)
    ]
    return st.floats(low, high).map(lambda s: round(s, 6)).filter(lambda s: low <= s <= high).map(written) | st.one_of(
        whole
    )


def percentages(low: int = 0) -> st.SearchStrategy[str]:
    """Texts of shares from ``low`` basis points on."""
    return st.integers(low, 10_000).map(lambda bp: f"{bp / 100:g}%")


def mappings(required: dict[str, Any], optional: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Mappings with some of the optional keys."""
    return st.fixed_dictionaries(required, optional=optional)


def commands() -> st.SearchStrategy[Any]:
    """Commands as lists and as texts."""
    words = st.lists(TEXT, max_size=4).map(lambda rest: ["./run", *rest])
    return words | st.just("python3 app.py --port $PORT 'two words'")


def expectations() -> st.SearchStrategy[Any]:
    """What is expected at a JSON path."""
    bounds = st.tuples(st.integers(-1000, 1000), st.integers(0, 1000))
    return (
        PLAIN
        | PLAIN.map(lambda value: {"equals": value})
        | bounds.map(lambda b: {"min": b[0], "max": b[0] + b[1]})
        | st.floats(-1e9, 1e9).map(lambda low: {"min": low})
        | st.booleans().map(lambda absent: {"absent": absent})
    )


def checks(capture: bool) -> st.SearchStrategy[dict[str, Any]]:
    """Health checks, or with ``capture`` those of flows."""
    optional = {
        "method": st.sampled_from(["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]),
        "send_headers": st.dictionaries(HEADERS, LINE, max_size=2),
        "send_body": TEXT,
        "status": st.integers(100, 599) | st.lists(st.integers(100, 599), min_size=1, max_size=3, unique=True),
        "json": st.dictionaries(JSON_PATHS, expectations(), max_size=3),
        "body": PATTERNS,
        "headers": st.dictionaries(HEADERS, PATTERNS, max_size=2),
        "max_latency": durations(0.001, 4),
        "timeout": durations(5, 300),
    }
    if capture:
        optional["capture"] = st.dictionaries(VARIABLES, JSON_PATHS | HEADERS.map(lambda h: f"header:{h}"), max_size=2)
    return mappings({"name": LABELS, "path": PATHS}, optional)


def limits() -> st.SearchStrategy[dict[str, Any]]:
    """Limits of a strategy."""
    return mappings(
        {},
        {
            "error_rate": percentages() | st.just("none"),
            "p99": durations(0.001, 600) | st.just("none"),
            "min_requests": st.integers(1, 10**9),
        },
    )


def shares(low: float, high: float) -> st.SearchStrategy[str]:
    """Percentages with up to four decimals."""
    return st.integers(round(low * 10_000), round(high * 10_000)).map(lambda n: f"{n / 10_000:.4f}%")


def analyses() -> st.SearchStrategy[dict[str, Any]]:
    """Blocks of how to judge; metrics of one's own in both of their places."""
    judged = {"required": st.booleans(), "dry_run": st.just(False), "weight": st.floats(0.001, 1000)}
    quantiles = st.sampled_from(["p50", "p75", "p90", "p95", "p99", "p99.5", "p99.9"])
    names = st.from_regex(r"[a-z][a-z0-9_.-]{0,10}", fullmatch=True).map(lambda name: f"m_{name}")
    direction = st.sampled_from(["rise", "drop", "either"])
    ratio = st.floats(1, 1000) | st.just("none")
    mean = mappings(
        {"signal": st.sampled_from(["checkout", "queue", "basket", "unheard"]), "margin": shares(0.1, 10_000)},
        {**judged, "direction": direction},
    )
    rate = mappings(
        {"signal": st.just("api"), "margin": shares(0, 99)}, {**judged, "direction": direction, "or_ratio": ratio}
    )
    histogram = mappings(
        {"signal": st.just("render"), "margin": shares(0, 10_000), "quantile": quantiles},
        {**judged, "direction": st.just("rise")},
    )
    own = mean | rate | histogram
    block = mappings(
        {},
        {
            "false_alarm": shares(0.001, 49),
            "false_pass": shares(0.001, 49),
            "warmup": durations(0, 30),
            "deadline": durations(90, 3600),
            "min_duration": durations(0, 90),
            "when_unsure": st.sampled_from(["hold", "promote", "rollback"]),
            "advance": st.sampled_from(["timed", "early"]),
            "strict": st.booleans(),
            "baseline": st.sampled_from(["live", "fresh"]),
            "error_rate": mappings({}, {**judged, "margin": shares(0, 99), "or_ratio": ratio, "signal": st.just("api")})
            | st.just("none"),
            "latency": st.dictionaries(quantiles, mappings({}, {**judged, "margin": shares(0, 10_000)}), max_size=3),
            "metrics": st.dictionaries(names, own, max_size=2),
            "slo": mappings(
                {"target": shares(1, 99.9999)},
                {"burn": st.floats(1, 1000), "period": durations(3600, 400 * 86_400), "share": shares(0.01, 100)},
            ),
        },
    )
    free = st.dictionaries(names.map(lambda name: f"x{name}"), own, max_size=1)
    return st.tuples(block, free, st.booleans()).map(_meant)


SOURCES = {
    "checkout": {"kind": "events", "per": "event"},
    "api": {
        "kind": "prometheus",
        "url": "http://127.0.0.1:9090",
        "requests": 'http_requests_total{release="{release}"}',
        "errors": 'http_requests_total{release="{release}",code=~"5.{2}"}',
    },
    "render": {"kind": "prometheus", "url": "https://h", "histogram": "render_bucket", "timeout": "500ms"},
    "queue": {"kind": "http", "url": "http://h/{slot}/{arm}", "value": "$.queue[0]", "stale_after": "5m"},
    "basket": {"kind": "http", "url": "http://h", "count": "$.n", "sum": "$.{release}.sum", "sum_squares": "$.q"},
}


def _meant(drawn: tuple[dict[str, Any], dict[str, Any], bool]) -> dict[str, Any]:
    """The block with the sources that its metrics need, and with something in it that is judged."""
    block, free, described = drawn
    found = {**free, **block}
    if found.get("error_rate") == "none" and not (free or block.get("latency") or block.get("metrics")):
        del found["error_rate"]
    parts = [*free.values(), *block.get("metrics", {}).values(), found.get("error_rate")]
    needed = {part.get("signal") for part in parts if isinstance(part, dict)} - {None, "unheard", "checkout"}
    return {**found, "sources": SOURCES} if needed or described else found


def strategies() -> st.SearchStrategy[dict[str, Any]]:
    """Both kinds, with and without `kind` where it may be left out."""
    blue_green = mappings(
        {},
        {"kind": st.just("blue-green"), "watch": durations(0, 604_800), "manual": st.booleans(), "limits": limits()},
    )
    weights = st.lists(st.integers(1, 10_000), min_size=1, max_size=5, unique=True).map(sorted)
    steps = weights.flatmap(
        lambda found: st.tuples(
            *(
                st.fixed_dictionaries({"weight": st.just(f"{bp / 100:g}%"), "duration": durations(0.1, 86_400)})
                for bp in found
            )
        ).map(list)
    )
    return blue_green | mappings({"kind": st.just("canary"), "steps": steps}, {"limits": limits()})


def slos() -> st.SearchStrategy[dict[str, Any]]:
    """Blocks of objectives, with the sources that they need."""
    window = {"window": durations(3600, 35 * 86_400)}
    target = {"target": st.integers(100, 9999).map(lambda bp: f"{bp / 100:g}%")}
    name = st.from_regex(r"[a-z][a-z0-9_.-]{0,10}", fullmatch=True)
    availability = mappings({"name": name, **target}, {"kind": st.just("availability"), **window})
    latency = mappings(
        {"name": name, **target, "kind": st.just("latency"), "under": durations(0.001, 300)},
        {**window, "signal": st.just("render")},
    )
    elsewhere = mappings({"name": name, **target, "signal": st.just("api")}, window)
    sources = {f"own-{one}": SOURCES[one] for one in ("api", "render")}

    def settled(block: dict[str, Any]) -> dict[str, Any]:
        objectives = [
            {**one, "signal": f"own-{one['signal']}"} if "signal" in one else one for one in block.get("objectives", [])
        ]
        return {**block, "objectives": _unique(objectives), "sources": sources}

    return mappings(
        {},
        {
            "objectives": st.lists(availability | latency | elsewhere, max_size=4),
            "watch": durations(0, 604_800),
            "on_burn": st.sampled_from(["rollback", "propose"]),
            "exhausted": st.sampled_from(["freeze", "warn"]),
            "probe": mappings(
                {},
                {"every": st.just("0s") | durations(1, 3600), "path": PATHS, "timeout": durations(0.1, 60)},
            ),
        },
    ).map(settled)


def drills() -> st.SearchStrategy[list[dict[str, Any]]]:
    """Lists of drills."""
    one = mappings(
        {"name": NAMES},
        {
            "schedule": st.sampled_from(["0 4 * * 2", "*/5 * * * *", "30 2 1 1,7 *"]),
            "zone": st.sampled_from(["UTC", "Europe/Berlin"]),
            "back": st.integers(1, 3),
            "hold": durations(0, 3600),
            "fault": st.sampled_from(["kill-replica", "latency", "errors", "kill-control-plane"]),
        },
    )
    return st.lists(one, max_size=2).map(_unique)


def environments() -> st.SearchStrategy[dict[str, Any]]:
    """Up to three environments, each with a port of its own."""
    ports = st.lists(st.integers(1, 65_535), min_size=3, max_size=3, unique=True)
    contents = mappings(
        {},
        {
            "bind": st.sampled_from(["127.0.0.1", "0.0.0.0", "::1", "10.1.2.3"]),  # noqa: S104 - nothing binds it
            "runtime": st.just("process"),
            "replicas": st.integers(1, 100),
            "env": st.dictionaries(VARIABLES, TEXT, max_size=2),
            "env_file": st.just(".env.production"),
            "strategy": strategies(),
            "analysis": analyses(),
            "warm_for": durations(0, 86_400),
            "slo": slos(),
            "drills": drills(),
            "proofs": mappings({}, {"every": st.just("0s") | durations(1, 86_400)}),
        },
    )
    found = st.dictionaries(NAMES, contents, min_size=1, max_size=3)
    return st.tuples(found, ports).map(
        lambda both: {
            name: {**content, "port": port} for (name, content), port in zip(both[0].items(), both[1], strict=False)
        }
    )


def sticky() -> st.SearchStrategy[dict[str, Any]]:
    """What a client is known by."""
    named = st.fixed_dictionaries({"by": st.sampled_from(["header", "cookie"]), "name": HEADERS})
    return named | st.sampled_from([{}, {"by": "edge-cookie"}, {"by": "nothing"}])


def _unique(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**item, "name": f"{item['name']}{number}"} for number, item in enumerate(items)]


def specs() -> st.SearchStrategy[dict[str, Any]]:
    """Whole valid configurations as plain data."""
    flows = st.fixed_dictionaries(
        {
            "name": LABELS,
            "open": st.lists(checks(True), min_size=1, max_size=2),
            "continue": st.lists(checks(True), min_size=1, max_size=2),
        }
    )
    return mappings(
        {
            "service": NAMES,
            "run": mappings(
                {"command": commands()},
                {
                    "env": st.dictionaries(VARIABLES, TEXT, max_size=3),
                    "env_file": st.just("secrets/.env"),
                    "replicas": st.integers(1, 100),
                    "start_timeout": durations(0.1, 3600),
                    "stop_timeout": durations(0.1, 3600),
                },
            ),
            "health": st.lists(checks(False), min_size=1, max_size=3).map(_unique),
            "environments": environments(),
        },
        {
            "build": mappings(
                {},
                {"command": commands(), "output": st.just("dist/x"), "ignore": st.lists(st.just("*.log"), max_size=2)},
            ),
            "continuity": st.lists(flows, max_size=2).map(_unique),
            "strategy": strategies(),
            "analysis": analyses(),
            "sticky": sticky(),
            "drain": mappings({}, {"timeout": durations(0, 86_400)}),
            "warm_for": durations(0, 86_400),
            "rollback": mappings({}, {"window": st.integers(3, 50)}),
            "slo": slos(),
            "drills": drills(),
            "proofs": mappings({}, {"every": st.just("0s") | durations(1, 86_400)}),
            "lease": durations(2, 600),
            "request_timeout": durations(0.1, 86_400),
        },
    )


def scalar(value: Any) -> str:
    """A scalar, or an empty list or mapping, as YAML on one line."""
    if isinstance(value, str):
        quoted = json.dumps(value, ensure_ascii=False)
        return "".join(c if 0x20 <= ord(c) < 0x7F or 0xA0 <= ord(c) < 0xD800 else f"\\U{ord(c):08x}" for c in quoted)
    return json.dumps(value)


def as_yaml(value: Any) -> tuple[str, dict[Path, int]]:
    """YAML with one key or item a line, and the line of each by its path."""
    lines: list[str] = []
    places: dict[Path, int] = {}

    def write(part: Any, path: Path, indent: str) -> None:
        entries = list(part.items()) if isinstance(part, dict) else list(enumerate(part))
        for step, content in entries:
            head = "-" if isinstance(part, list) else f"{scalar(step)}:"
            nested = isinstance(content, dict | list) and content
            lines.append(f"{indent}{head}" if nested else f"{indent}{head} {scalar(content)}")
            places[(*path, step)] = len(lines)
            if nested:
                write(content, (*path, step), indent + "  ")

    write(value, (), "")
    return "\n".join(lines) + "\n", places
