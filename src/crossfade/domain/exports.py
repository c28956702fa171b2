"""For monitoring elsewhere: rules for Prometheus and a dashboard for Grafana, over what `/metrics` shows.

``views`` are those of `service.objectives`: of each environment its objectives, each with its multi-window burn-rate rules.
A rule fires while the error rate over its long and over its short window is at its threshold times 1 - target or above, and at
least `LEAST_BAD` requests were bad, as Crossfade's own rules do.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from crossfade.domain.slo import LEAST_BAD

RATIO: Final = "crossfade:slo_bad:ratio_rate"
"""What recorded error rates are called; the window follows."""
WHERE: Final = "service, environment, objective"
DATASOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}

_UNITS: Final = ((86_400, "d"), (3600, "h"), (60, "m"), (1, "s"))

View = Mapping[str, Any]


def window(seconds: float) -> str:
    """A length of time as PromQL has it: ``1h``, ``30m``."""
    whole = max(1, round(seconds))
    size, unit = next((size, unit) for size, unit in _UNITS if whole % size == 0)
    return f"{whole // size}{unit}"


# --- Prometheus


def prometheus_rules(views: Sequence[View]) -> str:
    """A file of rules: error rates are recorded for each window, and each objective's burn rates alert."""
    windows = {rule[side] for _, each in _objectives(views) for rule in each["rules"] for side in ("long", "short")}
    recorded = [_recording(span) for span in dict.fromkeys(map(window, sorted(windows)))]
    burns = [_burn(view, each, rule) for view, each in _objectives(views) for rule in each["rules"]]
    groups = [("crossfade-slo-recorded", recorded), ("crossfade-slo-burns", burns), ("crossfade", list(_general()))]
    return "".join(_lines(groups))


def _objectives(views: Sequence[View]) -> Iterator[tuple[View, View]]:
    for view in views:
        for objective in view["objectives"]:
            yield view, objective


def _recording(span: str) -> dict[str, Any]:
    rate = f"sum by ({WHERE}) (rate({{}}[{span}]))"
    bad, total = rate.format("crossfade_slo_bad_total"), rate.format("crossfade_slo_requests_total")
    return {"record": f"{RATIO}{span}", "expr": f"{bad} / {total}"}


def _burn(view: View, objective: View, rule: View) -> dict[str, Any]:
    where = {"service": view["service"], "environment": view["environment"], "objective": objective["name"]}
    picked = ",".join(f"{name}={json.dumps(value)}" for name, value in where.items())
    limit = f"({rule['threshold']:.10g} * {1 - objective['target']:.10g})"
    long, short = window(rule["long"]), window(rule["short"])
    enough = f"sum by ({WHERE}) (increase(crossfade_slo_bad_total{{{picked}}}[{long}])) >= {LEAST_BAD:g}"
    expr = f"{RATIO}{long}{{{picked}}} >= {limit} and {RATIO}{short}{{{picked}}} >= {limit} and {enough}"
    place = f"{view['service']}/{view['environment']}"
    return {
        "alert": "CrossfadeSloBurn",
        "expr": expr,
        "labels": {**where, "severity": rule["severity"], "window": long},
        "annotations": {
            "summary": f"{place}: {objective['name']} burns its error budget",
            "description": f"The error rate over {long} and over {short} is more than {rule['threshold']:g} times what "
            f"{objective['target']:.4%} allows: {{{{ $value | humanizePercentage }}}} over {long}.",
        },
    }


def _general() -> Iterator[dict[str, Any]]:
    """What holds whatever the objectives are."""
    place = "{{ $labels.service }}/{{ $labels.environment }}"
    for name, expr, lasts, severity, summary in (
        ("CrossfadeDown", "absent(crossfade_info)", "5m", "page", "Crossfade's server is not scraped"),
        ("CrossfadeEdgeUnreachable", "crossfade_edge_reachable == 0", "2m", "page", f"{place}: the edge does not answer"),
        ("CrossfadeBudgetExhausted", "crossfade_slo_budget_left_ratio <= 0", "5m", "ticket",
         f"{place}: the error budget of {{{{ $labels.objective }}}} is used up"),
        ("CrossfadeDrillOverdue", "crossfade_drill_overdue == 1", "1h", "ticket",
         f"{place}: drill {{{{ $labels.drill }}}} is overdue"),
        ("CrossfadeProofOverdue", "crossfade_proof_overdue == 1", "1h", "ticket",
         f"{place}: {{{{ $labels.release }}}} is not proven restorable any more"),
        ("CrossfadeNoticesWait", "crossfade_notices_waiting > 0", "15m", "ticket",
         "Notices to {{ $labels.target }} are not taken"),
    ):  # fmt: skip
        yield {
            "alert": name,
            "expr": expr,
            "for": lasts,
            "labels": {"severity": severity},
            "annotations": {"summary": summary},
        }


def _lines(groups: Iterable[tuple[str, Sequence[Mapping[str, Any]]]]) -> Iterator[str]:
    """As YAML. Text is quoted as JSON does it, which YAML reads too."""
    yield "# Made by Crossfade from the objectives there are: `crossfade slo rules`. Do not edit.\ngroups:\n"
    for name, rules in groups:
        if not rules:
            continue
        yield f"  - name: {name}\n    rules:\n"
        for rule in rules:
            head = "-"
            for key, value in rule.items():
                if isinstance(value, dict):
                    yield f"      {head} {key}:\n"
                    yield from (f"          {inner}: {json.dumps(str(text))}\n" for inner, text in value.items())
                else:
                    yield f"      {head} {key}: {json.dumps(str(value))}\n"
                head = " "


# --- Grafana

_PICKED: Final = 'service=~"$service",environment=~"$environment"'
_PLACE: Final = "{{service}}/{{environment}}"
_RATES: Final = f"sum by ({WHERE}) (rate(crossfade_slo_{{}}_total{{{{{_PICKED}}}}}[$__rate_interval]))"

_PANELS: Final = (
    ("Error budget left", "stat", "percentunit", 6,
     ((f"crossfade_slo_budget_left_ratio{{{_PICKED}}}", f"{_PLACE} {{{{objective}}}}"),)),
    ("Open alerts", "stat", "short", 6, ((f"sum by (severity) (crossfade_alerts_open{{{_PICKED}}})", "{{severity}}"),)),
    ("Live release", "table", "short", 6, ((f"crossfade_live_release_info{{{_PICKED}}}", ""),)),
    ("Rollouts under way", "table", "short", 6, ((f"crossfade_rollout_open{{{_PICKED}}}", ""),)),
    ("Burn rate by window", "timeseries", "short", 12,
     ((f"crossfade_slo_burn{{{_PICKED}}}", f"{_PLACE} {{{{objective}}}} {{{{window}}}}"),)),
    ("Requests that broke an objective", "timeseries", "percentunit", 12,
     ((f"{_RATES.format('bad')} / {_RATES.format('requests')}", f"{_PLACE} {{{{objective}}}}"),)),
    ("Requests by slot", "timeseries", "reqps", 12,
     ((f"sum by (service, environment, slot) (rate(crossfade_requests_total{{{_PICKED}}}[$__rate_interval]))",
       f"{_PLACE} {{{{slot}}}}"),)),
    ("Failed requests by slot", "timeseries", "reqps", 12,
     ((f"sum by (service, environment, slot) (rate(crossfade_errors_total{{{_PICKED}}}[$__rate_interval]))",
       f"{_PLACE} {{{{slot}}}}"),)),
    ("Share of traffic", "timeseries", "percentunit", 12,
     ((f"crossfade_weight_ratio{{{_PICKED}}}", f"{_PLACE} {{{{slot}}}}"),)),
    ("Replicas that run", "timeseries", "short", 12,
     ((f"crossfade_replicas_running{{{_PICKED}}}", f"{_PLACE} {{{{slot}}}}"),)),
    ("Since the last drill", "stat", "s", 8, ((f"crossfade_drill_age_seconds{{{_PICKED}}}", f"{_PLACE} {{{{drill}}}}"),)),
    ("Since each release was proven", "stat", "s", 8,
     ((f"crossfade_proof_age_seconds{{{_PICKED}}}", f"{_PLACE} {{{{release}}}}"),)),
    ("Notices that wait", "stat", "short", 8, (("crossfade_notices_waiting", "{{target}}"),)),
)  # fmt: skip
"""Title, type, unit, width of 24, and queries with what their lines are called."""

_HEIGHT: Final = 8


def grafana_dashboard() -> dict[str, Any]:
    """A dashboard of Grafana 10 or newer, as its API and its import take it."""
    panels: list[dict[str, Any]] = []
    x = y = 0
    for number, (title, type, unit, width, queries) in enumerate(_PANELS, 1):
        if x + width > 24:
            x, y = 0, y + _HEIGHT
        panels.append(
            {
                "id": number,
                "title": title,
                "type": type,
                "datasource": DATASOURCE,
                "gridPos": {"x": x, "y": y, "w": width, "h": _HEIGHT},
                "fieldConfig": {"defaults": {"unit": unit}, "overrides": []},
                "options": {},
                "targets": [
                    {
                        "refId": chr(ord("A") + nth),
                        "datasource": DATASOURCE,
                        "expr": expr,
                        "legendFormat": legend,
                        **({"format": "table", "instant": True} if type == "table" else {}),
                    }
                    for nth, (expr, legend) in enumerate(queries)
                ],
            }
        )
        x += width
    return {
        "title": "Crossfade",
        "uid": "crossfade",
        "tags": ["crossfade"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {
            "list": [
                {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Prometheus"},
                _variable("service", "label_values(crossfade_edge_reachable, service)"),
                _variable("environment", 'label_values(crossfade_edge_reachable{service=~"$service"}, environment)'),
            ]
        },
        "panels": panels,
    }


def _variable(name: str, query: str) -> dict[str, Any]:
    return {
        "name": name,
        "label": name.capitalize(),
        "type": "query",
        "datasource": DATASOURCE,
        "query": {"query": query, "refId": name},
        "definition": query,
        "refresh": 2,
        "includeAll": True,
        "allValue": ".*",
        "multi": True,
        "current": {"text": "All", "value": "$__all"},
    }
