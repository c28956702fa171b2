"""What holds of every report, whatever it is of."""

from __future__ import annotations

import csv
import io
import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from itertools import pairwise
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from crossfade.domain.report.availability import Day, budget_left
from crossfade.domain.report.deployments import Deployment, failures
from crossfade.domain.report.dora import measure
from crossfade.domain.report.figure import Spread
from crossfade.domain.report.incidents import JOIN, Piece, merge
from crossfade.domain.report.markdown import markdown, plain
from crossfade.domain.report.plots import PLOTS
from crossfade.domain.report.report import Facts, build
from crossfade.domain.report.sheet import COLUMNS, FORMULAS, cell, csv_of
from crossfade.domain.report.span import DAY, Span
from crossfade.domain.report.words import percent
from crossfade.domain.slo import Counted
from tests.domain.report import made

NOW = float(made.SPAN.ends)
many = st.lists(made.deployments(), max_size=12, unique_by=lambda one: one.id)
nows = st.floats(made.SPAN.begins - DAY, made.SPAN.ends + DAY)


@given(many)
def test_the_frequency_never_counts_rollbacks_nor_drills(deployments: Sequence[Deployment]) -> None:
    without = [one for one in deployments if not one.rollback and not one.drill]
    counted = [measure(some, failures(some), made.SPAN, NOW) for some in (deployments, without)]
    assert counted[0].deployments == counted[1].deployments
    assert counted[0].tried == counted[1].tried


@given(many, nows)
def test_no_measure_is_told_without_a_case(deployments: Sequence[Deployment], now: float) -> None:
    found = measure(deployments, failures(deployments), made.SPAN, now)
    told = found.to_data()
    assert (found.per_day is None) == (found.deployments == 0 or found.days == 0)
    assert (told["fail_rate"]["share"] is None) == (told["fail_rate"]["n"] == 0)
    assert (told["rework"]["share"] is None) == (told["rework"]["n"] == 0)
    for name in ("lead_time", "recovery"):
        assert (told[name]["median"] is None) == (told[name]["n"] == 0)
    assert 0 <= found.exposed <= found.failed <= found.tried
    assert found.deployments <= found.tried
    assert found.recovery.n + found.unrecovered == found.exposed
    assert 0 <= found.fixes <= found.tried


@given(many)
def test_a_recovery_takes_no_less_than_no_time(deployments: Sequence[Deployment]) -> None:
    for failure in failures(deployments):
        assert failure.recovery is None or failure.recovery >= 0
        assert failure.exposed or failure.recovery is None
        assert not failure.deployment.rollback and not failure.deployment.drill


@given(many, st.randoms())
def test_the_order_of_rollouts_makes_no_difference(deployments: list[Deployment], random: Random) -> None:
    other = list(deployments)
    random.shuffle(other)
    assert failures(other) == failures(deployments)


@given(st.lists(made.pieces(), max_size=15), st.randoms())
def test_incidents_are_merged_once_and_in_any_order(pieces: list[Piece], random: Random) -> None:
    found = merge(pieces)
    assert merge(piece for one in found for piece in one.pieces) == found
    other = [*pieces, *pieces[:3]]
    random.shuffle(other)
    assert merge(other) == found
    assert {piece for one in found for piece in one.pieces} == set(pieces)


@given(st.lists(made.pieces(), max_size=15))
def test_incidents_of_one_environment_are_apart_from_each_other(pieces: list[Piece]) -> None:
    for key in made.KEYS:
        mine = [one for one in merge(pieces) if one.key == key]
        for one, following in pairwise(mine):
            assert one.reach + JOIN < following.begins
        assert all((one.ends is None) or one.begins <= one.ends <= one.reach for one in mine)
        assert all((one.detection() or 0) >= 0 and one.duration(NOW) >= 0 for one in mine)


@settings(max_examples=25)
@given(made.places(), nows)
def test_the_days_together_are_the_month(places: list[Facts], now: float) -> None:
    report = build(places, [], made.SPAN, now)
    figures = {one["figure"]: one for one in report["figures"]}
    for name in ("edge", "outside"):
        assert sum(day[name]["n"] for day in report["days"]) == figures[name]["n"]
        assert sum(place[name]["n"] for place in report["environments"]) == figures[name]["n"]
    assert sum(place["dora"]["frequency"]["n"] for place in report["environments"]) == figures["frequency"]["n"]
    if now >= made.SPAN.ends:
        assert sum(day["deployments"] for day in report["days"]) == figures["frequency"]["n"]
        assert sum(day["failed"] for day in report["days"]) == report["dora"]["fail_rate"]["failed"]
        assert sum(day["incidents"] for day in report["days"]) == report["incidents"]["n"]
    assert len(report["days"]) <= 30


@settings(max_examples=25)
@given(made.places(), made.places(), nows)
def test_every_report_is_told_in_every_form(places: list[Facts], before: list[Facts], now: float) -> None:
    report = json.loads(json.dumps(build(places, before, made.SPAN, now), allow_nan=False))
    for one in report["figures"]:
        assert one["n"] or one["value"] is None, one
        assert one["before"]["n"] or one["before"]["value"] is None
        assert one["unit"] != "share" or one["value"] is None or 0 <= one["value"] <= 1
        covered = one.get("covered")
        assert covered is None or 0 <= covered <= 1
    assert markdown(report).startswith("# Report: November 2026\n")
    rows = list(csv.reader(io.StringIO(csv_of(report), newline="")))
    assert {len(row) for row in rows} == {len(COLUMNS)}
    for draw in PLOTS.values():
        svg = ET.fromstring(draw(report))  # noqa: S314 - of our own making
        assert [child.tag.rpartition("}")[2] for child in svg[:2]] == ["title", "desc"]
        assert not re.search(r'="-?(nan|inf)', draw(report))


@settings(max_examples=25)
@given(made.places())
def test_what_is_left_of_a_budget_never_grows(places: list[Facts]) -> None:
    for place in build(places, [], made.SPAN, NOW)["environments"]:
        for one in place["objectives"]:
            left = [share for _, share in one["burn"]]
            assert left == sorted(left, reverse=True)
            assert not left or left[-1] == one["budget_left"]


@given(made.counts(), st.floats(0.5, 0.9999))
def test_a_budget_is_whole_where_nothing_failed_and_used_up_at_its_target(counted: Counted, target: float) -> None:
    left = budget_left(target, counted)
    assert (left is None) == (counted.total == 0)
    if left is not None:
        assert left <= 1
        assert (left == 1) == (counted.bad == 0)
        assert abs(budget_left(target, replace(counted, bad=(1 - target) * counted.total)) or 0.0) < 1e-6


@given(st.data())
def test_a_day_is_kept_as_it_was(data: st.DataObject) -> None:
    day = data.draw(made.days(made.SPAN.begins))
    kept = Day.from_data(json.loads(json.dumps(day.to_data())))
    assert kept.to_data() == day.to_data()
    assert (kept.edge.total, kept.edge.bad, kept.stretches) == (day.edge.total, day.edge.bad, day.stretches)


@given(st.lists(st.floats(0, 1e9), max_size=30))
def test_a_spread_is_of_what_it_is_of(values: list[float]) -> None:
    found = Spread.of(values)
    assert found.n == len(values)
    if values:
        assert found.median is not None and found.p90 is not None
        assert min(values) <= found.median <= found.p90 <= max(values)


@given(st.dates(date(1971, 1, 1), date(8999, 12, 31)))
def test_a_month_is_whole_days_between_its_neighbours(day: date) -> None:
    span = Span.of_month(f"{day:%Y-%m}")
    assert span.month == f"{day:%Y-%m}"
    assert span.previous.ends == span.begins
    assert Span.around(span.ends).begins == span.ends
    assert len(list(span.days())) in (28, 29, 30, 31)


@given(st.floats(0, 1))
def test_a_share_is_never_rounded_to_all_nor_to_none(share: float) -> None:
    assert (percent(share) == "100 %") == (share == 1)
    assert (percent(share) == "0 %") == (share == 0)


HOSTILE = st.text() | st.builds(
    lambda a, b: a + b, st.sampled_from([*FORMULAS, " =", "\ufeff=", "'", '"']), st.text(max_size=20)
)


@given(HOSTILE)
def test_no_text_is_a_formula_in_a_sheet(text: str) -> None:
    (row,) = csv.reader(io.StringIO(f"{cell(text)},next\r\n", newline=""))
    assert row[1] == "next"
    assert not row[0].startswith(FORMULAS)
    assert not row[0].lstrip().startswith(FORMULAS)


@given(HOSTILE)
def test_a_text_stays_in_its_cell_of_markdown(text: str) -> None:
    told = plain(text)
    assert "\n" not in told and "\r" not in told
    assert not re.search(r"(?<!\\)(?:\\\\)*[|`<>*_\[\]]", told)
