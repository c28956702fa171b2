"""Experiments: what counts for them and what does not, and what comes of them. What applications tell is looked at here too."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from crossfade.domain.access import Role
from crossfade.domain.errors import Forbidden, Invalid, InvalidBatch, NotFound, Refused
from crossfade.domain.experiments.plan import Metric, MetricKind, Plan, Window
from crossfade.domain.release import BlueGreen
from crossfade.domain.rollout import Kind
from crossfade.domain.rollout import Plan as RolloutPlan
from crossfade.domain.traffic import Slot
from crossfade.domain.values import Digest, EnvKey, ReleaseNumber
from crossfade.service import experiments as use_cases
from crossfade.service.experiments import Experiments
from tests.service.stage import KEY, OPERATOR, STAGING, VIEWER, Stage, person

FLAG: dict[str, Any] = {
    "state": "ENABLED",
    "variants": {"old": False, "new": True, "other": False},
    "defaultVariant": "old",
    "crossfade": {"rules": [{"name": "half", "serve": {"split": {"shares": {"new": 5000}, "rest": "old"}}}]},
}
PAID = Metric("orders", MetricKind.CONVERSION, "paid")
PLAN = Plan("page", "checkout", "old", ("new",), {}, (PAID,), ("country",))
DAY = 86_400.0


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    """A release is live, and there is a flag that splits its users in halves."""
    monkeypatch.setattr(use_cases, "KNOWN_FOR", 0.0)
    stage = Stage()
    settle(stage, KEY)
    stage.service.flags.save(KEY, "checkout", FLAG, OPERATOR)
    return stage


def settle(stage: Stage, key: EnvKey) -> None:
    store = stage.parts.store
    release = store.add_release(key, Digest("sha256:" + "a" * 64), stage.config, "", stage.now)
    stage.finish(store.begin(rollout(release.number, key), "ada", stage.now))


def rollout(number: ReleaseNumber, key: EnvKey = KEY) -> RolloutPlan:
    return RolloutPlan(key, Kind.DEPLOY, number, None, Slot.BLUE, BlueGreen())


@pytest.fixture
def trials(stage: Stage) -> Experiments:
    return stage.service.experiments


@pytest.fixture
def running(trials: Experiments) -> Experiments:
    trials.create(KEY, PLAN, OPERATOR)
    trials.start(KEY, "page", OPERATOR)
    return trials


def expose(stage: Stage, units: int, start: int = 0, **more: Any) -> None:
    """Half of them get the new page, and twice as many of those pay."""
    many = range(start, start + units)
    exposures = [{"flag": "checkout", "variant": "new" if n % 2 else "old", "unit": f"u{n}", **more} for n in many]
    tracks = [{"name": "paid", "unit": f"u{n}"} for n in many if n % 10 in ({1, 3, 5, 7} if n % 2 else {0, 2})]
    for i in range(0, units, 500):
        stage.service.flag_events.post(KEY, exposures=exposures[i : i + 500])
    for i in range(0, len(tracks), 500):
        stage.service.flag_events.post(KEY, tracks=tracks[i : i + 500])


# --- its life


def test_an_experiment_is_created_then_runs_and_is_stopped(stage: Stage, trials: Experiments) -> None:
    made = trials.create(KEY, PLAN, OPERATOR, hypothesis="more orders")
    assert (made["state"], made["plan"]["weights"], made["by"]) == ("created", {"old": 5000, "new": 5000}, "olga")
    assert trials.results(KEY, "page")["results"] is None
    assert trials.start(KEY, "page", OPERATOR)["state"] == "running"
    stage.now += 10
    stopped = trials.stop(KEY, "page", OPERATOR, "enough")
    assert (stopped["state"], stopped["ended"], stopped["why"]) == ("stopped", stage.now, "enough")
    assert [one["what"] for one in stage.noted()][-3:] == ["experiment.create", "experiment.start", "experiment.stop"]
    told = [one.data for one in stage.parts.store.changes(0) if one.kind == "experiment"]
    assert [one["state"] for one in told] == ["created", "running", "stopped"]


def test_only_an_operator_changes_experiments(running: Experiments) -> None:
    changes: list[Callable[[], object]] = [
        lambda: running.create(KEY, PLAN, VIEWER),
        lambda: running.start(KEY, "page", VIEWER),
        lambda: running.stop(KEY, "page", VIEWER),
        lambda: running.exclude(KEY, "page", [], VIEWER),
        lambda: running.conclude(KEY, "page", None, VIEWER),
        lambda: running.remove(KEY, "page", VIEWER),
    ]
    for change in changes:
        with pytest.raises(Forbidden):
            change()


@pytest.mark.parametrize(
    "plan",
    [
        Plan("page", "checkout", "old", ("nothing",), {}, (PAID,)),
        Plan("page", "checkout", "old", (), {}, (PAID,)),
        Plan("page", "checkout", "old", ("new",), {}, ()),
        Plan("", "checkout", "old", ("new",), {}, (PAID,)),
        Plan("page", "checkout", "old", ("new",), {"old": -1, "new": 1}, (PAID,)),
        Plan("page", "checkout", "old", ("new",), {}, (PAID,), alpha=7.0),
    ],
)
def test_a_plan_that_cannot_be_is_refused_with_what_is_wrong(trials: Experiments, plan: Plan) -> None:
    with pytest.raises(InvalidBatch):
        trials.create(KEY, plan, OPERATOR)
    assert trials.list(KEY) == []


def test_an_experiment_is_of_a_flag_that_there_is_and_that_serves(stage: Stage, trials: Experiments) -> None:
    with pytest.raises(NotFound, match="no flag 'x'"):
        trials.create(KEY, Plan("page", "x", "old", ("new",), {}, (PAID,)), OPERATOR)
    trials.create(KEY, PLAN, OPERATOR)
    with pytest.raises(Refused, match="already"):
        trials.create(KEY, PLAN, OPERATOR)
    stage.service.flags.kill(KEY, "checkout", "", OPERATOR)
    with pytest.raises(Refused, match="killed"):
        trials.start(KEY, "page", OPERATOR)
    stage.service.flags.revive(KEY, "checkout", OPERATOR)
    trials.start(KEY, "page", OPERATOR)
    with pytest.raises(Refused, match="started already"):
        trials.start(KEY, "page", OPERATOR)
    with pytest.raises(Refused, match="experiment page tries"):
        stage.service.flags.remove(KEY, "checkout", OPERATOR)


def test_an_experiment_that_runs_is_not_forgotten(running: Experiments) -> None:
    with pytest.raises(Refused, match="runs"):
        running.remove(KEY, "page", OPERATOR)
    running.stop(KEY, "page", OPERATOR)
    running.remove(KEY, "page", OPERATOR)
    with pytest.raises(NotFound):
        running.get(KEY, "page")


# --- what it shows


def test_the_better_variant_wins_with_an_interval(stage: Stage, running: Experiments) -> None:
    stage.now += 60
    expose(stage, 4000)
    stage.now += 60
    found = running.results(KEY, "page")
    assert found["experiment"]["units"] == 4000
    results = found["results"]
    assert results["winner"] == "new", results["why"]
    estimate = results["metrics"][0]["estimates"][0]
    assert estimate["treatment"] == "new"
    assert results["plan"]["began"] == stage.now - 120


def test_results_are_counted_once_for_all_who_look(
    stage: Stage, running: Experiments, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(use_cases, "KNOWN_FOR", 1e9)
    expose(stage, 100)
    first = running.results(KEY, "page")
    expose(stage, 100, 100)
    assert running.results(KEY, "page") == first
    running.stop(KEY, "page", OPERATOR)
    assert running.results(KEY, "page")["experiment"]["units"] == 200


def test_what_comes_in_an_incident_does_not_count(stage: Stage, running: Experiments) -> None:
    began = stage.now
    expose(stage, 100)
    stage.now += 100
    expose(stage, 50, 1000)
    stage.now += 100
    assert running.results(KEY, "page")["results"]["counted"]["units"] == 150
    window = Window(began + 90, began + 110, "the payment provider was away")
    excluded = running.exclude(KEY, "page", [window], OPERATOR)
    assert excluded["plan"]["excluded"][0]["why"] == "the payment provider was away"
    assert running.results(KEY, "page")["results"]["counted"]["units"] == 100
    with pytest.raises(InvalidBatch):
        running.exclude(KEY, "page", [Window(5.0, 4.0)], OPERATOR)


@pytest.mark.parametrize("exclude", [True, False])
def test_what_comes_while_a_rollout_moves_traffic_does_not_count_unless_it_should(
    stage: Stage, trials: Experiments, exclude: bool
) -> None:
    trials.create(KEY, PLAN, OPERATOR, exclude_rollouts=exclude)
    trials.start(KEY, "page", OPERATOR)
    expose(stage, 100)
    stage.now += 100
    store = stage.parts.store
    release = store.add_release(KEY, Digest("sha256:" + "b" * 64), stage.config, "", stage.now)
    store.begin(rollout(release.number), "ada", stage.now)
    stage.now += 10
    expose(stage, 50, 1000)
    stage.now += 100
    results = trials.results(KEY, "page")["results"]
    assert results["counted"]["units"] == (100 if exclude else 150)
    assert [w["why"] for w in results["plan"]["excluded"]] == (["rollout #2 of r2"] if exclude else [])


def test_a_unit_that_got_two_variants_is_left_out(stage: Stage, running: Experiments) -> None:
    expose(stage, 100)
    told = {"flag": "checkout", "variant": "new", "unit": "u0"}
    stage.service.flag_events.post(KEY, exposures=[told])
    counted = running.results(KEY, "page")["results"]["counted"]
    assert (counted["units"], counted["crossovers"]) == (99, 1)


def test_after_the_end_nobody_is_taken_in_but_what_they_do_counts_while_its_window_lasts(
    stage: Stage, trials: Experiments
) -> None:
    metric = Metric("orders", MetricKind.CONVERSION, "paid", window=3600.0)
    trials.create(KEY, Plan("page", "checkout", "old", ("new",), {}, (metric,)), OPERATOR)
    trials.start(KEY, "page", OPERATOR)
    exposures = [{"flag": "checkout", "variant": "new", "unit": f"u{n}"} for n in range(10)]
    stage.service.flag_events.post(KEY, exposures=exposures)
    stage.now += 10
    trials.stop(KEY, "page", OPERATOR)
    late = [{"flag": "checkout", "variant": "new", "unit": f"late{n}"} for n in range(10)]
    stage.now += 10
    found = stage.service.flag_events.post(KEY, exposures=late, tracks=[{"name": "paid", "unit": "u1"}])
    assert found == {"exposures": 0, "tracks": 1, "usage": 0, "left_out": 10}
    stage.now += 3601
    assert stage.service.flag_events.post(KEY, tracks=[{"name": "paid", "unit": "u2"}])["tracks"] == 0


# --- the end


def test_shipping_gives_everybody_the_variant(stage: Stage, running: Experiments) -> None:
    expose(stage, 100)
    done = running.conclude(KEY, "page", "new", OPERATOR, "as expected")
    assert (done["state"], done["shipped"], done["change"]["version"]) == ("concluded", "new", 2)
    evaluator = stage.service.flags.serving(KEY).evaluator
    assert {evaluator.evaluate("checkout", {"targetingKey": str(n)}, 0.0).variant for n in range(100)} == {"new"}
    with pytest.raises(Refused, match="concluded"):
        running.conclude(KEY, "page", "old", OPERATOR)


def test_concluding_without_shipping_changes_no_flag(stage: Stage, running: Experiments) -> None:
    done = running.conclude(KEY, "page", None, OPERATOR)
    assert (done["state"], done["shipped"], done["change"]) == ("concluded", None, None)
    assert stage.service.flags.serving(KEY).version == 1


def test_shipping_waits_for_a_word_where_changes_do(stage: Stage, running: Experiments) -> None:
    stage.service.flags.set_settings(KEY, Role.OPERATOR, person("root", "admin"))
    done = running.conclude(KEY, "page", "new", OPERATOR)
    assert (done["change"]["version"], done["change"]["request"]["state"]) == (None, "waiting")
    assert stage.service.flags.serving(KEY).version == 1


def test_only_what_was_compared_is_shipped(running: Experiments) -> None:
    with pytest.raises(Invalid, match="ship"):
        running.conclude(KEY, "page", "other", OPERATOR)


# --- what applications tell


def post(stage: Stage, **batch: Any) -> dict[str, int]:
    return stage.service.flag_events.post(KEY, **batch)


def test_who_somebody_is_is_not_kept(stage: Stage, running: Experiments) -> None:
    attributes = {"country": "de", "email": "ada@example.org", "age": 36}
    post(stage, exposures=[{"flag": "checkout", "variant": "new", "unit": "ada@example.org", "attributes": attributes}])
    unit = next(stage.parts.flags.units(KEY, "page"))
    assert b"ada" not in unit.unit
    assert (len(unit.unit), unit.attributes) == (16, {"country": "de"})
    events = stage.service.flag_events
    assert events.unit(KEY, "u") == events.unit(KEY, "u") != events.unit(STAGING, "u")


def test_a_batch_that_comes_again_counts_once(stage: Stage, running: Experiments) -> None:
    settle(stage, STAGING)
    told = [{"name": "paid", "unit": "u"}]
    assert post(stage, batch="b1", tracks=told) == post(stage, batch="b1", tracks=told)
    assert len(list(stage.parts.flags.outcomes(KEY, "page"))) == 1
    assert stage.service.flag_events.post(STAGING, batch="b1", tracks=told)["left_out"] == 1


def test_clocks_may_differ_a_little(stage: Stage, running: Experiments) -> None:
    stage.now += 100
    for ahead, kept in ((299.0, stage.now), (-50.0, stage.now - 50.0)):
        post(stage, tracks=[{"name": "paid", "unit": "u", "at": stage.now + ahead}])
        assert kept in [one.at for one in stage.parts.flags.outcomes(KEY, "page")]
    for at in (stage.now + 301.0, stage.now - 8 * DAY, -1.0, math.nan, math.inf, 10**400, "soon", True):
        with pytest.raises(InvalidBatch, match=r"tracks\.0\.at"):
            post(stage, tracks=[{"name": "paid", "unit": "u", "at": at}])


def test_everything_that_is_wrong_with_a_batch_is_told_by_its_place(stage: Stage, running: Experiments) -> None:
    with pytest.raises(InvalidBatch) as caught:
        post(
            stage,
            exposures=[
                {"flag": "checkout", "variant": "new", "unit": "u"},
                {"flag": "", "variant": "x" * 201, "unit": "", "slot": "red", "release": "12"},
            ],
            tracks=[{"name": "a\nb", "unit": 5, "value": math.inf, "release": "r99"}],
            usage=[{"flag": "checkout", "variant": 5, "n": -1, "release": "r1"}, {"flag": "checkout", "n": True}],
        )
    places = [fault.place for fault in caught.value.faults]
    assert places == [
        "exposures.1.flag",
        "exposures.1.variant",
        "exposures.1.unit",
        "exposures.1.release",
        "exposures.1.slot",
        "tracks.0.name",
        "tracks.0.unit",
        "tracks.0.value",
        "tracks.0.release",
        "usage.0.n",
        "usage.1.n",
    ]
    assert list(stage.parts.flags.units(KEY, "page")) == []


def test_batches_are_bounded(stage: Stage) -> None:
    many = [{"name": "paid", "unit": "u"}] * 1001
    with pytest.raises(Invalid, match="at most 1000"):
        post(stage, tracks=many)
    with pytest.raises(NotFound):
        stage.service.flag_events.post(EnvKey("no", "where"), tracks=many[:1])


def test_what_there_is_not_any_more_is_left_out_of_usage(stage: Stage) -> None:
    usage = [
        {"flag": "checkout", "variant": "new", "n": 5, "release": "r1"},
        {"flag": "checkout", "variant": "", "n": 2, "release": "r1"},
        {"flag": "checkout", "variant": "gone", "n": 5, "release": "r1"},
        {"flag": "gone", "variant": "new", "n": 5, "release": "r1"},
        {"flag": "checkout", "variant": "new", "n": 5, "release": ""},
        {"flag": "checkout", "variant": "new", "n": 0, "release": "r1"},
    ]
    assert post(stage, usage=usage) == {"exposures": 0, "tracks": 0, "usage": 2, "left_out": 0}
    assert {(one.variant, one.n) for one in stage.parts.flags.usage(KEY)} == {("new", 5), ("", 2)}
