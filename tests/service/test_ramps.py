"""Guarded ramps on twins, under traffic of a seeded simulation: who reaches 100 %, who is killed, and what is told of it."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from crossfade.domain.access import Role
from crossfade.domain.analysis.policy import (
    ERROR_RATE,
    Analysis,
    Direction,
    Metric,
    Shape,
    Source,
    SourceKind,
    WhenUnsure,
)
from crossfade.domain.errors import Busy, Forbidden, Invalid, NotFound, Refused, StorageFailed, Unavailable
from crossfade.domain.flags.ramp import Command
from crossfade.domain.release import Step
from crossfade.domain.rollout import Rollout
from crossfade.domain.traffic import Slot
from crossfade.domain.values import Weight
from crossfade.ports.flags import FlagSettings
from crossfade.service.ramps import AFTER, Ramps
from crossfade.service.steering import CUSTODIAN
from crossfade.store.flags import SqlFlags
from crossfade.store.sql import SqlStore
from tests.service.stage import ADMIN, KEY, OPERATOR, VIEWER, Stage

FLAG = "new-checkout"
STEPS = tuple(Step(Weight(bp), 20.0) for bp in (1000, 5000, 10_000))
DOCUMENT = {
    "flags": {
        FLAG: {
            "state": "ENABLED",
            "variants": {"on": True, "off": False},
            "defaultVariant": "off",
            "crossfade": {"owner": "ada"},
        }
    }
}
JUDGED = Analysis(
    metrics=(
        replace(ERROR_RATE, margin=0.01, required=False),
        Metric("latency", Shape.HISTOGRAM, 0.5, quantile="p99", required=False),
        Metric("conversion", Shape.MEAN, 0.2, "checkout", direction=Direction.DROP, required=False),
    )
)


@dataclass
class Arm:
    """How answers with a variant turn out. ``buys``: the share of them with a business event."""

    errors: float = 0.002
    seconds: float = 0.02
    buys: float = 0.3


@dataclass
class Shop:
    """A service whose answers are made with a flag's variants, by the share that the flag gives them."""

    on: Arm = field(default_factory=Arm)
    off: Arm = field(default_factory=Arm)
    rate: int = 200
    tells: bool = True
    stage: Stage = field(default_factory=Stage)

    def __post_init__(self) -> None:
        self.stage.live()
        self.parts = self.stage.parts
        self.parts.signals.ensure(KEY)  # type: ignore[attr-defined] # the twin's
        self.random = random.Random(5)
        self.parts.flags.write(KEY, DOCUMENT, (FLAG,), "ada", self.stage.now, expects=0)
        self.ramps = self.another_server()
        self.id = 0

    def another_server(self) -> Ramps:
        return Ramps(self.parts, self.stage.service, self.stage.service.audit)

    def begin(self, **how: Any) -> dict[str, Any]:
        asked: dict[str, Any] = {"steps": STEPS, "analysis": JUDGED, **how}
        view = self.ramps.begin(KEY, FLAG, "on", OPERATOR, **asked)
        self.id = view["id"]
        self.ramps.look()
        return view

    def flag(self) -> Mapping[str, Any]:
        current = self.parts.flags.current(KEY)
        assert current is not None
        assert current.document is not None
        data: Mapping[str, Any] = current.document["flags"][FLAG]
        return data

    def share(self) -> int:
        """What the flag's rule gives to `on`."""
        if "killed" in self.flag()["crossfade"]:
            return 0
        rules = {rule["name"]: rule for rule in self.flag()["crossfade"].get("rules", ())}
        if "ramp" not in rules:
            return 0
        return sum(end - begin for begin, end in rules["ramp"]["serve"]["split"]["shares"].get("on", ()))

    def serve(self, seconds: float = 1.0) -> None:
        """A second's traffic, and the ramps' look at it."""
        self.stage.now += seconds
        share = self.share() / 10_000
        total = round(self.rate * seconds)
        exposed = sum(self.random.random() < share for _ in range(total))
        for name, arm, n in (("on", self.on, exposed), ("off", self.off, total - exposed)):
            header = f"{FLAG}={name}" if self.tells else ""
            for status, buys, times in self._turns(arm, n):
                events = "checkout" if buys else ""
                self.parts.signals.answer(  # type: ignore[attr-defined] # the twin's
                    KEY, Slot.BLUE, header, events, times=times, status=status, seconds=arm.seconds
                )
        self.ramps.look()

    def _turns(self, arm: Arm, n: int) -> list[tuple[int, bool, int]]:
        failed = sum(self.random.random() < arm.errors for _ in range(n))
        bought = sum(self.random.random() < arm.buys for _ in range(n - failed))
        turns = [(500, False, failed), (200, True, bought), (200, False, n - failed - bought)]
        return [turn for turn in turns if turn[2]]

    def run(self, most: int = 200) -> dict[str, Any]:
        """Serve until the ramp has ended."""
        for _ in range(most):
            self.serve()
            if (view := self.ramps.view(self.id))["ended"]:
                return view
        return self.ramps.view(self.id)


def test_a_good_variant_reaches_everybody_and_its_receipt_says_what_each_variants_clients_saw() -> None:
    shop = Shop()
    shop.begin()
    view = shop.run()
    assert view["phase"] == "finished", view
    assert shop.share() == 10_000
    shares = [line["weight"] for line in view["journal"] if line["weight"] is not None]
    assert shares == [1000, 5000, 10_000, 10_000]
    judged = view["receipt"]["judged"]
    assert judged["on"]["requests"] + judged["off"]["requests"] > 200 * 50
    assert judged["on"]["events"]["checkout"]["n"] > 1000
    assert 10 < judged["on"]["p99_ms"] < 40
    assert view["receipt"]["after"]["on"]["requests"] > 0
    assert view["receipt"]["after"]["off"]["requests"] == 0


@pytest.mark.parametrize(
    ("arm", "said"),
    [
        (Arm(errors=0.05), "errors"),
        (Arm(seconds=0.2), "latency"),
        (Arm(buys=0.15), "conversion"),
    ],
)
def test_a_variant_that_fails_or_is_slow_or_sells_less_kills_itself_while_its_release_stays(
    arm: Arm, said: str
) -> None:
    shop = Shop(on=arm)
    live = shop.stage.service.environment(KEY).live
    shop.begin()
    view = shop.run()
    assert view["phase"] == "failed", view
    assert said in view["reason"]
    killed = shop.flag()["crossfade"]["killed"]
    assert (killed["by"], killed["why"]) == (CUSTODIAN.name, view["reason"][:500])
    assert shop.flag()["crossfade"]["rules"][0]["serve"]["split"]["shares"] == {}
    assert shop.stage.service.environment(KEY).live == live
    after = view["receipt"]["after"]
    assert after["on"]["requests"] == 0
    assert after["off"]["requests"] >= 200 * (AFTER - 1)
    noted = [entry["what"] for entry in shop.stage.noted()]
    assert noted[-2:] == ["flag.kill", "ramp.end"]


def test_an_incident_that_hits_both_variants_kills_nothing() -> None:
    shop = Shop(on=Arm(errors=0.2), off=Arm(errors=0.2))
    shop.begin(steps=STEPS[:2])
    for _ in range(30):
        shop.serve()
    assert shop.ramps.view(shop.id)["phase"] == "ramping"


def test_answers_that_tell_no_variant_are_no_data_and_never_a_pass() -> None:
    shop = Shop(tells=False)
    shop.begin(analysis=replace(JUDGED, when_unsure=WhenUnsure.PROMOTE))
    for _ in range(100):
        shop.serve()
    view = shop.ramps.view(shop.id)
    assert (view["step"], view["phase"], shop.share()) == (0, "ramping", 1000)
    assert view["verdict"]["finding"] == "no-data"
    assert "answers told new-checkout=on so far" in view["waiting"]


def test_evidence_outlives_the_server_and_the_ramp_goes_on_where_it_was() -> None:
    shop, through = Shop(on=Arm(errors=0.02)), Shop(on=Arm(errors=0.02))
    for one in (shop, through):
        one.begin()
    for second in range(8):
        for one in (shop, through):
            one.serve()
        if second in (2, 5):
            shop.ramps = shop.another_server()
    kept, whole = (one.parts.flags.ramp_evidence(one.id) for one in (shop, through))
    assert kept is not None
    assert whole is not None
    assert kept["evidence"]["fail"]["values"] == pytest.approx(whole["evidence"]["fail"]["values"], rel=1e-9)
    assert kept["totals"] == whole["totals"]


def test_a_crash_after_every_single_write_leaves_a_ramp_that_ends_as_if_there_had_been_none() -> None:
    shop = Shop(on=Arm(errors=0.1), rate=50)
    shop.begin()
    dying = shop.parts.flags

    class Dies(Exception):
        """The server is gone."""

    written = 0

    def die_after(name: str) -> None:
        real = getattr(dying, name)

        def write(*args: Any, **named: Any) -> Any:
            nonlocal written
            real(*args, **named)
            written += 1
            raise Dies

        setattr(dying, name, write)

    for name in ("write", "save_ramp"):
        die_after(name)
    for _ in range(120):
        try:
            shop.serve()
        except Dies:
            shop.ramps = shop.another_server()
        if shop.parts.flags.ramp(shop.id).ended:
            break
    assert written > 10
    view = shop.another_server().view(shop.id)
    assert view["phase"] == "failed"
    assert shop.flag()["crossfade"]["killed"]["by"] == CUSTODIAN.name
    notes = [version.note for version in shop.parts.flags.versions(KEY)]
    assert len(notes) == 3  # made, 10 %, killed: nothing was written twice


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"killed": {"by": "ada", "at": 1.0, "why": "a hunch"}}, "ada killed the flag: a hunch"),
        ({"off": "on"}, "the flag was changed in what it serves"),
    ],
)
def test_whoever_changes_the_flag_meanwhile_has_it_and_the_ramp_is_left(change: dict[str, Any], said: str) -> None:
    shop = Shop()
    shop.begin()
    shop.serve()
    current = shop.parts.flags.current(KEY)
    assert current is not None
    data = dict(shop.flag())
    changed = {"flags": {FLAG: {**data, "crossfade": {**data["crossfade"], **change}}}}
    shop.parts.flags.write(KEY, changed, (FLAG,), "ada", shop.stage.now, expects=current.number)
    view = shop.run(10)
    assert view["phase"] == "left"
    assert said in view["reason"]
    assert shop.flag() == changed["flags"][FLAG]


def test_a_flag_that_is_gone_leaves_its_ramp() -> None:
    shop = Shop()
    shop.begin()
    shop.parts.flags.write(KEY, {"flags": {}}, (FLAG,), "ada", shop.stage.now, expects=2)
    shop.ramps.look()
    shop.stage.now += AFTER
    shop.ramps.look()
    assert shop.ramps.view(shop.id)["reason"] == "the flag was removed"


def test_words_about_the_flag_may_change_and_another_flag_may_too() -> None:
    shop = Shop()
    shop.begin()
    data = dict(shop.flag())
    data = {**data, "crossfade": {**data["crossfade"], "owner": "bob", "description": "the new one"}}
    shop.parts.flags.write(
        KEY, {"flags": {FLAG: data, "other": DOCUMENT["flags"][FLAG]}}, ("other",), "bob", shop.stage.now, expects=2
    )
    view = shop.run()
    assert view["phase"] == "finished"
    assert shop.flag()["crossfade"]["owner"] == "bob"


def test_a_rollout_that_begins_meanwhile_makes_the_ramp_wait_and_its_step_begins_anew_after_it() -> None:
    shop = Shop()
    shop.begin()
    for _ in range(10):
        shop.serve()
    state = shop.stage.deploy(ADMIN)
    assert isinstance(state, Rollout)
    shop.on = Arm(errors=0.5)
    for _ in range(30):
        shop.serve()
    view = shop.ramps.view(shop.id)
    assert view["waiting"] == f"waits: rollout #{state.id} moves the service's traffic"
    assert (view["phase"], view["step"]) == ("ramping", 0)
    before = view["arms"]["on"]["requests"]
    shop.on = Arm()
    shop.stage.finish(state)
    for _ in range(15):
        shop.serve()
    view = shop.ramps.view(shop.id)
    assert view["step"] == 0
    assert view["arms"]["on"]["failed"] < 10
    assert view["arms"]["on"]["requests"] > before
    assert shop.run()["phase"] == "finished"


def test_a_rollout_that_came_and_went_between_two_looks_is_seen_too() -> None:
    shop = Shop()
    shop.begin()
    shop.serve()
    state = shop.stage.deploy(ADMIN)
    assert isinstance(state, Rollout)
    shop.stage.finish(state)
    shop.serve()
    lines = [line["text"] for line in shop.ramps.view(shop.id)["journal"]]
    assert "waits: a rollout has moved the service's traffic" in lines


def test_orders_pause_resume_finish_and_abort_it() -> None:
    shop = Shop()
    shop.begin()
    shop.ramps.order(shop.id, Command.PAUSE, OPERATOR)
    for _ in range(40):
        shop.serve()
    assert shop.ramps.view(shop.id)["step"] == 0
    with pytest.raises(Forbidden):
        shop.ramps.order(shop.id, Command.RESUME, VIEWER)
    shop.ramps.order(shop.id, Command.RESUME, OPERATOR)
    shop.ramps.order(shop.id, Command.FINISH, OPERATOR)
    assert shop.run()["phase"] == "finished"
    assert shop.share() == 10_000
    with pytest.raises(Refused, match="has ended"):
        shop.ramps.order(shop.id, Command.ABORT, OPERATOR)
    other = Shop()
    other.begin()
    other.serve()
    other.ramps.order(other.id, Command.ABORT, OPERATOR)
    view = other.run()
    assert (view["phase"], view["reason"], other.share()) == ("aborted", "aborted by olga", 0)
    assert "killed" not in other.flag()["crossfade"]


def test_what_cannot_be_ramped_is_refused_with_what_to_do() -> None:
    shop = Shop()
    ramps = shop.ramps
    with pytest.raises(Forbidden):
        ramps.begin(KEY, FLAG, "on", VIEWER)
    with pytest.raises(NotFound, match="no flag 'nothing'"):
        ramps.begin(KEY, "nothing", "on", OPERATOR)
    with pytest.raises(NotFound, match="no variant 'maybe'"):
        ramps.begin(KEY, FLAG, "maybe", OPERATOR)
    with pytest.raises(Refused, match="that is its off variant"):
        ramps.begin(KEY, FLAG, "off", OPERATOR, rest="on")
    with pytest.raises(Invalid, match=r"steps\.1\.weight"):
        ramps.begin(KEY, FLAG, "on", OPERATOR, steps=(STEPS[1], STEPS[0]))
    shop.begin()
    with pytest.raises(Busy):
        ramps.begin(KEY, FLAG, "on", OPERATOR)
    shop.ramps.order(shop.id, Command.FINISH, OPERATOR)
    shop.run()
    with pytest.raises(Refused, match="has 100 % of rule 'ramp' already"):
        ramps.begin(KEY, FLAG, "on", OPERATOR)


@pytest.mark.parametrize("rule", ["a\nb", "x" * 201])
def test_a_ramp_that_would_make_of_the_flag_what_nobody_can_read_is_refused(rule: str) -> None:
    shop = Shop()
    with pytest.raises(Invalid, match="name"):
        shop.ramps.begin(KEY, FLAG, "on", OPERATOR, rule=rule, steps=STEPS)
    assert shop.parts.flags.ramps(KEY) == ()


def test_an_order_that_cannot_be_written_down_is_not_carried_out(monkeypatch: pytest.MonkeyPatch) -> None:
    shop = Shop()
    shop.begin()
    shop.serve()

    def full(*_: Any, **__: Any) -> None:
        raise StorageFailed("The disk is full.")

    with monkeypatch.context() as patched:
        patched.setattr(shop.parts.flags, "save_ramp", full)
        with pytest.raises(StorageFailed):
            shop.ramps.order(shop.id, Command.FINISH, OPERATOR)
    shop.serve()
    view = shop.ramps.view(shop.id)
    assert (view["phase"], view["weight"], shop.share()) == ("ramping", 1000, 1000)
    assert not any("finish" in line["text"] for line in view["journal"])


def test_where_changes_want_approval_beginning_a_ramp_wants_that_role() -> None:
    shop = Shop()
    shop.parts.flags.set_settings(KEY, FlagSettings(Role.ADMIN))
    with pytest.raises(Forbidden):
        shop.ramps.begin(KEY, FLAG, "on", OPERATOR)
    shop.ramps.begin(KEY, FLAG, "on", ADMIN)


def test_a_ramp_goes_on_from_the_share_that_its_rule_has_and_evicts_nobody() -> None:
    shop = Shop()
    split = {"by": "targetingKey", "shares": {"on": [[2000, 4000]]}, "rest": "off"}
    data = {**DOCUMENT["flags"][FLAG], "crossfade": {"rules": [{"name": "slowly", "serve": {"split": split}}]}}
    shop.parts.flags.write(KEY, {"flags": {FLAG: data}}, (FLAG,), "ada", shop.stage.now, expects=1)
    view = shop.begin()
    assert (view["rule"], view["rest"]) == ("slowly", "off")
    assert [step["weight"] for step in view["steps"]] == [5000, 10_000]
    slices = shop.flag()["crossfade"]["rules"][0]["serve"]["split"]["shares"]["on"]
    assert slices[0] == [2000, 4000]
    assert sum(end - begin for begin, end in slices) == 5000


def test_metrics_that_cannot_be_asked_by_variant_are_not_judged_and_named() -> None:
    shop = Shop()
    source = Source("api", SourceKind.PROMETHEUS, "http://127.0.0.1:1", requests="a", errors="b")
    api = Metric("api_errors", Shape.RATE, 0.01, "api")
    view = shop.begin(analysis=Analysis(metrics=(*JUDGED.metrics, api), sources=(source,)))
    assert view["not_judged"] == ["api_errors"]
    assert shop.run()["phase"] == "finished"


def test_the_live_releases_policy_is_taken_when_none_is_given() -> None:
    shop = Shop()
    shop.stage.live(analysis=replace(JUDGED, false_alarm=0.02))
    shop.begin(analysis=None)
    kept = shop.parts.flags.ramp(shop.id).state["ramp"]["plan"]["analysis"]
    assert kept["false_alarm"] == 0.02


def test_while_the_edge_does_not_answer_nothing_advances_and_it_goes_on_when_it_is_back() -> None:
    shop = Shop()
    shop.begin()
    for _ in range(5):
        shop.serve()
    signals = shop.stage.signals
    signals.fails_with = Unavailable("the edge is away")
    for _ in range(40):
        shop.stage.now += 1
        shop.ramps.look()
    assert shop.ramps.view(shop.id)["step"] <= 1
    signals.fails_with = None
    assert shop.run()["phase"] == "finished"


def test_the_feed_hears_of_every_step_and_of_the_end() -> None:
    shop = Shop()
    shop.begin()
    shop.run()
    told = [c.data for c in shop.parts.store.changes(0, 10_000) if c.kind == "ramp"]
    assert next(data["step"] for data in told if "step" in data) == 0
    assert {data.get("weight") for data in told} >= {1000, 5000, 10_000}
    assert told[-1]["ended"] is True
    assert [entry["id"] for entry in shop.ramps.list(KEY)] == [shop.id]
    assert shop.ramps.open(KEY, FLAG) is None


def test_on_the_real_ledger_a_ramp_outlives_servers_and_ends_as_on_its_twin(tmp_path: Path) -> None:
    store = SqlStore(f"sqlite:///{tmp_path / 'ledger.db'}")
    stage = Stage(store)
    stage.parts = replace(stage.parts, flags=(flags := SqlFlags(store.url)))
    stage.service = stage.another_server()
    shop, twin = Shop(on=Arm(errors=0.05), stage=stage), Shop(on=Arm(errors=0.05))
    for one in (shop, twin):
        one.begin()
    for _ in range(60):
        shop.ramps = shop.another_server()
        for one in (shop, twin):
            one.serve()
    view, other = shop.ramps.view(shop.id), twin.ramps.view(twin.id)
    for ledger in (store, flags):
        ledger.dispose()
    assert view["phase"] == other["phase"] == "failed"
    assert view["reason"] == other["reason"]
    for part in ("judged", "after", "steps"):  # evidence is kept with 12 digits
        assert view["receipt"][part] == other["receipt"][part]


def test_the_thread_drives_by_itself() -> None:
    shop = Shop()
    ramps = Ramps(shop.parts, shop.stage.service, shop.stage.service.audit, interval=0.01)
    ramps.start()
    try:
        view = ramps.begin(KEY, FLAG, "on", OPERATOR, steps=STEPS, analysis=JUDGED)
        for _ in range(500):
            if shop.share() == 1000:
                break
            ramps._stop.wait(0.01)
        assert shop.share() == 1000
        ramps.order(view["id"], Command.PAUSE, OPERATOR)
    finally:
        ramps.stop()
