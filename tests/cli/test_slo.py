"""`crossfade slo`, `alerts` and `watches` as people type them, on a server whose edge and history are a test's."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from typer.testing import CliRunner

from crossfade.cli import slo_show as show
from crossfade.cli.main import app
from crossfade.cli.slo import moment
from crossfade.domain.alert import Severity
from crossfade.domain.environment import Occupant
from crossfade.domain.errors import Invalid
from crossfade.domain.release import BlueGreen, ReleaseConfig
from crossfade.domain.rollout import Kind as Deployment
from crossfade.domain.rollout import Plan
from crossfade.domain.slo import Counted, Kind, Objective, Series, SloPolicy
from crossfade.domain.traffic import Slot
from tests.api.world import DIGEST, KEY, STAGING, TOKEN, World
from tests.service.report_stage import Ledger

DONE, FAILED, USAGE = 0, 1, 2
POLICY = SloPolicy((Objective("answers", 0.999), Objective("fast", 0.99, Kind.LATENCY, threshold=0.3)))
SPEAKS = {"\x1b", "\x9b", "\u202e", "\x07"}
OPENSLO = """
apiVersion: openslo/v1
kind: SLO
metadata: {name: checkout}
spec:
  service: shop
  budgetingMethod: Occurrences
  timeWindow: [{duration: 28d, isRolling: true}]
  indicator:
    metadata: {name: ok}
    spec:
      ratioMetric:
        counter: true
        good: {metricSource: {type: Prometheus, spec: {query: 'http_requests_total{code!~"5.."}'}}}
        total: {metricSource: {type: Prometheus, spec: {query: http_requests_total}}}
  objectives: [{target: 0.995}]
"""


@dataclass
class Shop:
    """r2 is live in production; 20 000 requests were counted in the last hour, 10 of them bad, none in the ten minutes of a gap."""

    world: World
    url: str
    now: float
    columns: int = 160

    def run(self, *words: str) -> tuple[int, str]:
        """What a command ends with, and all that it says."""
        environment = {"CROSSFADE_URL": self.url, "CROSSFADE_TOKEN": TOKEN, "COLUMNS": str(self.columns)}
        done = CliRunner().invoke(app, words, env=environment)
        assert done.exception is None or isinstance(done.exception, SystemExit), done.output
        return done.exit_code, done.output

    def said(self, *words: str) -> str:
        """What a command says that must be done."""
        code, output = self.run(*words)
        assert code == DONE, output
        return output

    def json(self, *words: str) -> Any:
        return json.loads(self.said(*words, "--json"))


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    world = World(tmp_path_factory.mktemp("world"), config=ReleaseConfig(("x",), slo=POLICY))
    world.now = now = math.floor(time.time() / 60) * 60.0
    ledger, store = Ledger(world.parts, KEY, POLICY), world.parts.store
    for at in (now - 7200, now - 600):
        last = ledger.deploy(at)
        store.occupy(KEY, Slot.GREEN, Occupant(last.plan.candidate, last.id, 1))
    first = store.add_release(STAGING, DIGEST, ReleaseConfig(("x",)), "", now)
    store.begin(Plan(STAGING, Deployment.DEPLOY, first.number, None, Slot.BLUE, BlueGreen()), "ada", now)
    for begins, ends, bad in ((now - 3600, now - 1800, 10), (now - 1200, now, 0)):
        for name in ("answers", "fast", "@edge"):
            world.parts.histories.add(Series(KEY, name), begins, ends, Counted(10_000, bad, ends - begins))
    world.service.watches.look()
    with world.serving() as url:
        yield Shop(world, url, now)


# --- objectives


def test_all_environments_are_a_table_and_one_is_shown_in_whole(shop: Shop) -> None:
    listed = shop.said("slo")
    assert "shop/production" in listed and "shop/staging" in listed
    whole = shop.said("slo", "shop/production")
    assert "99.9 % answered without an error over 30 d" in whole
    assert "99 % answered within 300 ms over 30 d" in whole
    assert "99.95 % good" in whole and "50 % left" in whole
    assert "of the last 30 d is known; the rest is a gap" in whole
    assert "14.4x" in whole and "in 1 h" in whole
    assert "r2 is watched" in whole
    assert shop.said("slo", "show", "production") == whole


def test_as_json_it_is_what_the_api_says(shop: Shop) -> None:
    found = shop.json("slo", "shop/production")
    assert [one["name"] for one in found["objectives"]] == ["answers", "fast"]
    assert found["objectives"][0]["budget"]["left"] == pytest.approx(0.5, abs=1e-3)
    environments = shop.json("slo")["environments"]
    assert [one["environment"] for one in environments] == ["production", "staging"]


def test_status_says_it_in_a_line_each(shop: Shop) -> None:
    said = shop.said("status", "shop/production")
    assert "99.95 % good of 99.9 %" in said and "50 % left" in said
    assert "r2 is watched" in said
    assert shop.json("status", "shop/production")[0]["slo"]["watch"]["release"] == "r2"


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("words", ["slo", "slo production", "status production", "watches production", "slo history answers --env production"])  # fmt: skip
def test_it_fits_into_a_terminal(shop: Shop, words: str, columns: int) -> None:
    narrow = Shop(shop.world, shop.url, shop.now, columns)
    for line in narrow.said(*words.split()).splitlines():
        assert cell_len(line) <= columns, line
        assert "…" not in line


def test_an_environment_that_there_is_not_is_answered_with_those_there_are(shop: Shop) -> None:
    code, said = shop.run("slo", "nowhere")
    assert code == FAILED
    assert "shop/production" in said
    code, said = shop.run("watches", "shop")
    assert code == USAGE
    assert "shop/production, shop/staging" in said


# --- history


def test_a_gap_in_the_history_is_a_gap(shop: Shop) -> None:
    asked = ("slo", "history", "answers", "--env", "production", "--from", "2h", "--step", "1m")
    assert "nothing for 10 m 00 s" in shop.said(*asked)
    found = shop.json(*asked)
    assert found["objective"] == "answers"
    assert sum(row["bad"] for row in found["bins"]) == pytest.approx(10)


def test_of_a_time_before_all_nothing_is_known(shop: Shop) -> None:
    said = shop.said("slo", "history", "@probe", "--env", "production", "--from", "2026-01-01", "--to", "2026-01-02")
    assert "Nothing is known of @probe" in said


@pytest.mark.parametrize(
    "words",
    [
        ("--from", "yesterday"),
        ("--from", "5"),
        ("--from", "1h", "--to", "2h"),
        ("--step", "0s"),
        ("--step", "500ms"),
        ("--step", "fast"),
        ("--from", "35d", "--step", "1s"),
    ],
)
def test_a_time_that_is_none_is_refused_with_what_is_one(shop: Shop, words: tuple[str, ...]) -> None:
    code, said = shop.run("slo", "history", "answers", "--env", "production", *words)
    assert code == USAGE, said
    assert "allowed" in said


def test_an_objective_that_there_is_not_is_answered_with_known_ones(shop: Shop) -> None:
    code, said = shop.run("slo", "history", "[/]\x1b[31m", "--env", "production")
    assert code == FAILED
    assert "answers, fast" in said and not SPEAKS & set(said)


def test_moments_are_times_or_how_long_ago() -> None:
    assert moment("--from", "2h", 10_000.0) == 2800.0
    assert moment("--from", "1970-01-02T00:00:00+00:00", 0.0) == 86_400.0
    for bad in ("", "now", "h", "-1h", "9999999-01-01"):
        with pytest.raises(Invalid, match="how long ago"):
            moment("--from", bad, 0.0)


# --- alerts


def test_what_wants_a_person_is_listed_until_it_is_over(shop: Shop) -> None:
    alerts = shop.world.service.alerts
    facts = {"proposal": {"sentence": "r1 can be restored", "command": "crossfade rollback shop/production --to r1"}}
    id = alerts.open(KEY, "burn:answers", Severity.PAGE, "answers: 2 % failed", facts).id
    listed = shop.said("alerts")
    assert f"#{id}" in listed and "answers: 2 % failed" in listed and "nobody looks after it yet" in listed
    assert "to end it: crossfade rollback shop/production --to r1" in listed
    assert "1 open alert" in shop.said("status", "production")
    assert "is yours" in shop.said("alerts", "ack", str(id))
    assert "seen by" in shop.said("alerts", "list", "production")
    alerts.resolve(KEY, "burn:answers", "it burns no more")
    assert "Nothing wants a person." in shop.said("alerts")
    assert "it burns no more" in shop.said("alerts", "--all")
    assert "over already" in shop.said("alerts", "ack", str(id))
    assert shop.json("alerts") == {"alerts": []}
    assert shop.json("alerts", "--all")["alerts"][0]["id"] == id
    code, said = shop.run("alerts", "ack", "999999")
    assert code == FAILED and "error" in said


def test_what_others_have_written_does_not_speak_to_the_terminal(shop: Shop) -> None:
    alerts = shop.world.service.alerts
    alerts.open(KEY, "prober", Severity.TICKET, "\x1b[31mred \x9b2J\u202e [bold]b[/bold] [/] :smile: \x07")
    for words in (("alerts",), ("alerts", "--json"), ("slo", "production"), ("slo", "production", "--json")):
        said = shop.said(*words)
        assert not SPEAKS & set(said)
        assert "[bold]b[/bold] [/] :smile:" in said
    alerts.resolve(KEY, "prober", "answered")


# --- watches


def test_a_watch_is_listed_shown_and_ended(shop: Shop) -> None:
    (row,) = shop.json("watches", "production")["watches"]
    assert f"#{row['id']}" in shop.said("watches", "production")
    shown = shop.said("watches", "show", str(row["id"]))
    assert "r2 after r1" in shown and "watching" in shown
    assert shop.said("watches", "end", str(row["id"])).startswith(f"Watch #{row['id']} is over")
    assert "watch " not in shop.said("status", "production")


# --- files


def test_openslo_becomes_our_own_words(shop: Shop, tmp_path: Path) -> None:
    file = tmp_path / "checkout.yaml"
    file.write_text(OPENSLO)
    made = shop.said("slo", "import", str(file))
    assert "slo:" in made and "target: 99.5%" in made and "window: 28d" in made
    assert shop.json("slo", "import", str(file))["text"] == made


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (OPENSLO.replace("kind: SLO", "kind: Wish"), "Wish"),
        (OPENSLO.replace("0.995", "1.0"), "target"),
        (OPENSLO.replace("28d", "90d"), "35d"),
        ("\x00", ""),
        ("{", ""),
        ("", ""),
    ],
)
def test_openslo_that_cannot_be_kept_is_refused_with_its_place(
    shop: Shop, tmp_path: Path, text: str, says: str
) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    code, said = shop.run("slo", "import", str(file))
    assert code == USAGE, said
    assert says in said and "bad.yaml" in " ".join(said.split()), said


def test_a_file_that_cannot_be_read_is_named(shop: Shop, tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b"\xff")
    for name in ("nothing", "latin", "."):
        code, said = shop.run("slo", "import", str(tmp_path / name))
        assert code == USAGE
        assert "FILE" in said


def test_rules_and_a_dashboard_are_written_for_others(shop: Shop, tmp_path: Path) -> None:
    file = tmp_path / "rules.yml"
    assert "Wrote" in shop.said("slo", "rules", "-o", str(file))
    assert file.read_text() == shop.said("slo", "rules")
    assert "answers" in file.read_text()
    assert json.loads(shop.said("slo", "grafana"))
    code, said = shop.run("slo", "rules", "-o", str(tmp_path / "none" / "rules.yml"))
    assert code == FAILED and "cannot be written" in said


# --- how numbers look


@given(st.floats(0, 1))
def test_a_share_that_is_not_all_is_never_shown_as_all(share: float) -> None:
    shown = show.good(share)
    assert (shown == "100 %") == (share >= 1)
    assert float(shown.removesuffix(" %")) <= share * 100 + 1e-6


@given(st.one_of(st.none(), st.floats(-1e6, 1, allow_nan=False)), st.integers(1, 60))
def test_a_bar_has_all_its_cells_and_is_empty_only_when_nothing_is_left(share: float | None, width: int) -> None:
    text = show.left({"left": share}, width).plain
    assert text.count("█") + text.count("░") == width
    assert (text.count("█") > 0) == (share is not None and share > 0)
    assert ("all left" in text) == (share is not None and share >= 1)
