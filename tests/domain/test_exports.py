"""What Prometheus and Grafana are given, checked by Prometheus' own tool."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from crossfade.domain.exports import grafana_dashboard, prometheus_rules, window
from crossfade.domain.slo import Kind, Objective, rules
from crossfade.domain.values import DAY

PROMTOOL = shutil.which("promtool")
REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "api.md"


def view(*objectives: Objective) -> dict[str, Any]:
    """As the use case gives it."""
    return {
        "service": "bookshop",
        "environment": "production",
        "objectives": [
            {
                "name": one.name,
                "target": one.target,
                "window": one.window,
                "rules": [
                    {"severity": r.severity.value, "long": r.long, "short": r.short, "threshold": r.threshold}
                    for r in rules(one)
                ],
            }
            for one in objectives
        ],
    }


ANSWERS = Objective("answers", 0.999)
FAST = Objective("fast", 0.99, Kind.LATENCY, 7 * DAY, 0.3)
ODD = Objective('odd "name"', 0.5, window=3 * DAY + 7.5)


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    assert PROMTOOL is not None, "promtool comes with Debian's prometheus: make setup"
    return subprocess.run([PROMTOOL, *arguments], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("objectives", [(), (ANSWERS,), (ANSWERS, FAST, ODD)], ids=len)
def test_prometheus_takes_the_rules(objectives: tuple[Objective, ...], tmp_path: Path) -> None:
    path = tmp_path / "rules.yml"
    path.write_text(prometheus_rules([view(*objectives)]))
    checked = promtool("check", "rules", str(path))
    assert checked.returncode == 0, checked.stdout + checked.stderr
    groups = YAML(typ="safe").load(path.read_text())["groups"]
    burns = [rule for group in groups for rule in group["rules"] if rule.get("alert") == "CrossfadeSloBurn"]
    assert len(burns) == sum(len(rules(one)) for one in objectives)


TESTS = """
rule_files: [rules.yml]
evaluation_interval: 1m
tests:
  - interval: 1m
    input_series:
      - series: 'crossfade_slo_requests_total{{service="bookshop",environment="production",objective="answers"}}'
        values: '0+600x180'
      - series: 'crossfade_slo_bad_total{{service="bookshop",environment="production",objective="answers"}}'
        values: '{bad}'
    alert_rule_test:
      - eval_time: {at}
        alertname: CrossfadeSloBurn
        exp_alerts: [{expected}]
"""
PAGE = """{{exp_labels: {{service: bookshop, environment: production, objective: answers, severity: page, window: {window}}},
  exp_annotations: {{summary: "bookshop/production: answers burns its error budget", description: "{said}"}}}}"""


def said(long: str, short: str, threshold: float, value: str) -> str:
    text = f"The error rate over {long} and over {short} is more than {threshold:g} times what 99.9000% allows: {value} over {long}."
    return PAGE.format(window=long, said=text)


def fires(tmp_path: Path, bad: str, at: str, *expected: str) -> None:
    (tmp_path / "rules.yml").write_text(prometheus_rules([view(ANSWERS)]))
    (tmp_path / "tests.yml").write_text(TESTS.format(bad=bad, at=at, expected=",\n".join(expected)))
    ran = promtool("test", "rules", str(tmp_path / "tests.yml"))
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_a_service_that_is_well_pages_nobody(tmp_path: Path) -> None:
    fires(tmp_path, "0+0x180", "2h")


def test_few_errors_among_many_requests_page_nobody(tmp_path: Path) -> None:
    fires(tmp_path, "0+0.3x180", "2h")


def test_a_burn_that_matters_and_goes_on_pages(tmp_path: Path) -> None:
    # 12 of 600 requests a minute are bad: 2 %, twenty times what 99.9 % allows.
    page = [said("1h", "5m", 14.4, "2%"), said("6h", "30m", 6, "2%")]
    ticket = [
        one.replace("severity: page", "severity: ticket")
        for one in (said("1d", "2h", 3, "2%"), said("3d", "6h", 1, "2%"))
    ]
    fires(tmp_path, "0+12x180", "2h", *page, *ticket)


def test_a_burn_that_is_over_pages_no_more_by_its_short_window(tmp_path: Path) -> None:
    ticket = [
        one.replace("severity: page", "severity: ticket")
        for one in (said("1d", "2h", 3, "5%"), said("3d", "6h", 1, "5%"))
    ]
    fires(tmp_path, "0+60x60 3600+0x120", "2h", *ticket)


def queries() -> list[str]:
    """What the dashboard asks, with its variables filled in as Grafana does."""
    panels = grafana_dashboard()["panels"]
    found = [target["expr"] for panel in panels for target in panel["targets"]]
    return [
        one.replace("$service", ".*").replace("$environment", "production|staging").replace("$__rate_interval", "1m")
        for one in found
    ]


def test_prometheus_can_parse_whatever_the_dashboard_asks(tmp_path: Path) -> None:
    rows = [{"record": f"panel:{nth}", "expr": expr} for nth, expr in enumerate(queries())]
    path = tmp_path / "rules.yml"
    path.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rows}]}))
    checked = promtool("check", "rules", str(path))
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_rules_and_dashboard_ask_for_metrics_that_there_are() -> None:
    documented = set(re.findall(r"`(crossfade_[a-z_]+)`", REFERENCE.read_text()))
    asked = set(re.findall(r"\bcrossfade_[a-z_]+", " ".join((*queries(), prometheus_rules([view(ANSWERS)])))))
    assert asked <= documented


def test_the_dashboard_is_one_that_grafana_imports() -> None:
    dashboard = grafana_dashboard()
    assert json.loads(json.dumps(dashboard)) == dashboard
    assert {"title", "uid", "schemaVersion", "panels", "templating", "time"} <= set(dashboard)
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken
        taken |= cells
        assert panel["targets"] and panel["type"] in ("stat", "table", "timeseries")
        assert panel["datasource"]["uid"] == "${datasource}"
    assert {one["name"] for one in dashboard["templating"]["list"]} == {"datasource", "service", "environment"}


@pytest.mark.parametrize(
    ("seconds", "text"), [(300.0, "5m"), (3600.0, "1h"), (2 * DAY, "2d"), (90.0, "90s"), (0.2, "1s"), (5400.0, "90m")]
)
def test_a_window_is_written_as_prometheus_reads_it(seconds: float, text: str) -> None:
    assert window(seconds) == text
