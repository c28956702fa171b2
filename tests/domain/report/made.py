"""Deployments, pieces and days as Hypothesis makes them."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from hypothesis import strategies as st

from crossfade.domain.report.availability import Day, Kept, stretches
from crossfade.domain.report.deployments import Deployment
from crossfade.domain.report.incidents import How, Piece, Source
from crossfade.domain.report.report import Drill, Facts
from crossfade.domain.report.span import DAY, Span
from crossfade.domain.slo import Bin, Counted, Kind, Objective
from crossfade.domain.values import EnvKey

SPAN: Final = Span.of_month("2026-11")
KEYS: Final = (EnvKey("shop", "production"), EnvKey("atlas", "production"))

keys = st.sampled_from(KEYS)
moments = st.integers(SPAN.begins - 3 * DAY, SPAN.ends + 3 * DAY).map(float)
seconds = st.floats(0.0, 200_000.0)


@st.composite
def deployments(draw: st.DrawFn, key: EnvKey | None = None) -> Deployment:
    began, took = draw(moments), draw(st.floats(1.0, 9000.0))
    promoted, rollback = draw(st.booleans()), draw(st.booleans())
    ended = began + took if draw(st.integers(0, 9)) else None
    given = began + took * draw(st.floats(0.0, 0.9)) if draw(st.booleans()) else None
    promoted = promoted and ended is not None
    back = draw(st.floats(0.0, 1.0))
    n = draw(st.integers(1, 6))
    return Deployment(
        id=draw(st.integers(1, 500)),
        key=key or draw(keys),
        release=f"r{n}",
        baseline=draw(st.sampled_from([None, *(f"r{other}" for other in range(1, 7) if other != n)])),
        rollback=rollback,
        began=began,
        ended=ended,
        promoted=promoted,
        by=draw(st.sampled_from(["ada", "crossfade"])),
        reason=draw(st.sampled_from(["", "it fails", "aborted by ada"])),
        exposed_from=given,
        noticed=None if promoted or ended is None else ended,
        switched=ended if promoted else None,
        home=None if promoted or given is None or ended is None else given + back * (ended - given),
        share=draw(st.floats(0.0, 1.0)),
        requests=draw(st.none() | st.integers(0, 1000)),
        failed=draw(st.none() | st.integers(0, 1000)),
        served=draw(st.none() | st.integers(0, 10_000)),
        lost=draw(st.none() | st.integers(0, 3)),
        watch=draw(st.sampled_from([0.0, 1800.0, 86_400.0])),
        automatic=draw(st.booleans()),
        drill=draw(st.integers(0, 5)) == 0,
        marked=draw(st.integers(0, 5)) == 0,
        fix=draw(st.integers(0, 5)) == 0,
        committed=draw(st.none() | st.just(began - 3600.0)),
    )


@st.composite
def pieces(draw: st.DrawFn, key: EnvKey | None = None) -> Piece:
    # Close to each other, so that many overlap.
    begins = SPAN.begins + draw(st.integers(0, 2000)) * 10.0
    ends = draw(st.none() | st.integers(0, 60).map(lambda tens: begins + 10.0 * tens))
    return Piece(
        key or draw(keys),
        draw(st.sampled_from(Source)),
        draw(st.integers(0, 9)),
        begins,
        ends,
        draw(st.sampled_from(["a page", "bad minutes"])),
        draw(st.none() | st.just(begins + 5.0)),
        draw(st.sampled_from(["", "r1"])),
        draw(st.floats(0.0, 1.0)),
        draw(st.none() | st.integers(0, 99).map(float)),
        draw(st.sampled_from([How.ITSELF, How.ROLLBACK, How.KILL, How.PERSON])),
    )


@st.composite
def counts(draw: st.DrawFn) -> Counted:
    total = draw(st.integers(0, 10**9))
    covered = draw(st.floats(0.0, float(DAY)))
    return Counted(float(total), float(draw(st.integers(0, total))), covered) if covered else Counted()


@st.composite
def days(draw: st.DrawFn, at: int) -> Day:
    bins = [Bin(at + 60.0 * minute, 60.0, draw(counts())) for minute in range(draw(st.integers(0, 3)))]
    target = draw(st.sampled_from([0.9, 0.999]))
    kept = {"answers": Kept(target, Kind.AVAILABILITY, draw(counts()))} if draw(st.booleans()) else {}
    return Day(at, draw(counts()), draw(counts()), kept, stretches(bins))


@st.composite
def facts(draw: st.DrawFn, key: EnvKey) -> Facts:
    chosen = draw(st.lists(st.sampled_from(list(SPAN.days())), max_size=4, unique=True))
    many = draw(st.lists(deployments(key), max_size=8, unique_by=lambda one: one.id))
    drills = [
        Drill(id, key, "weekly", draw(moments), None, draw(st.sampled_from(["", "passed", "failed", "aborted"])))
        for id in range(draw(st.integers(0, 2)))
    ]
    return Facts(
        key,
        tuple([draw(days(at)) for at in sorted(chosen)]),
        (Objective("answers", 0.999),) if draw(st.booleans()) else (),
        # What happens in one environment happens one after the other.
        tuple(replace(one, id=number) for number, one in enumerate(sorted(many, key=lambda d: d.began), 1)),
        tuple(draw(st.lists(pieces(key), max_size=4))),
        tuple(drills),
        gone=draw(st.booleans()),
    )


@st.composite
def places(draw: st.DrawFn) -> list[Facts]:
    chosen = draw(st.lists(keys, max_size=2, unique=True))
    return [draw(facts(key)) for key in sorted(chosen)]
