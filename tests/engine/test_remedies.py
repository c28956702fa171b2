"""What a failed verdict leads to in a rollout: the flag that is to blame is killed, or the traffic goes home."""

from __future__ import annotations

import io
import random
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from crossfade.domain.actions import KillFlag
from crossfade.domain.analysis.policy import ERROR_RATE, Analysis
from crossfade.domain.errors import Unavailable
from crossfade.domain.release import Canary, Limits, ReleaseConfig, Step
from crossfade.domain.rollout import Command, Done, Event, Failed, Kind, Ordered, Phase, Plan, Rollout, decide
from crossfade.domain.traffic import Slot
from crossfade.domain.values import EnvKey, ReleaseNumber, Weight
from crossfade.engine.effects import Effects
from crossfade.engine.loop import _entries
from crossfade.engine.observer import Observer
from crossfade.fakes.access import FakeAccess
from crossfade.fakes.artifacts import FakeArtifacts
from crossfade.fakes.flags import MemoryFlags
from crossfade.fakes.history import MemoryHistories
from crossfade.fakes.prober import FakeProber
from crossfade.fakes.records import MemoryRecords
from crossfade.fakes.router import FakeRouter
from crossfade.fakes.runtime import FakeRuntime
from crossfade.fakes.secrets import FakeSecrets
from crossfade.fakes.signals import FakeSignals
from crossfade.ports import Parts
from crossfade.store.sql import SqlStore

KEY = EnvKey("bookshop", "production")
STRATEGY = Canary((Step(Weight(1000), 20.0), Step(Weight(5000), 20.0)), Limits(error_rate=None))
FLAG = {"state": "ENABLED", "variants": {"on": True, "off": False}, "defaultVariant": "off"}
DOCUMENT = {"flags": {"new-checkout": FLAG, "search": FLAG}}


@dataclass
class Shop:
    """A rollout of r2 over r1 on twins and a real ledger; ``bad`` is the share of errors of answers of r2 by their variants.

    Half of all clients have each flag on, unless it is killed.
    """

    store: SqlStore
    bad: dict[str, float] = field(default_factory=dict)
    everywhere: float = 0.001

    def __post_init__(self) -> None:
        self.now = 1_000_000.0
        self.random = random.Random(11)
        self.signals = FakeSignals(lambda: self.now)
        self.signals.ensure(KEY)
        self.flags = MemoryFlags(self.store)
        self.flags.write(KEY, DOCUMENT, tuple(DOCUMENT["flags"]), "ada", self.now, expects=0)
        self.access = FakeAccess()
        self.parts = Parts(
            store=self.store,
            router=FakeRouter(lambda: self.now),
            runtime=FakeRuntime(),
            signals=self.signals,
            prober=FakeProber(),
            artifacts=FakeArtifacts(),
            secrets=FakeSecrets(),
            access=self.access,
            flags=self.flags,
            records=MemoryRecords(self.store),
            histories=MemoryHistories(),
            key=b"key",
            now=lambda: self.now,
        )
        self.effects, self.observer = Effects(self.parts), self.another_server()
        self.carried: list[str] = []
        self.release(None)
        self.state = self.begin(ReleaseNumber(1))

    def begin(self, baseline: ReleaseNumber | None) -> Rollout:
        tarball = io.BytesIO()
        with tarfile.open(fileobj=tarball, mode="w") as tar:
            tar.addfile(tarfile.TarInfo(f"file-{baseline}"))
        tarball.seek(0)
        artifact = self.parts.artifacts.put(tarball)
        release = self.store.add_release(
            KEY, artifact.digest, ReleaseConfig(("app",), strategy=STRATEGY), "v", self.now
        )
        slot = Slot.GREEN if baseline else Slot.BLUE
        plan = Plan(
            KEY, Kind.DEPLOY, release.number, baseline, slot, STRATEGY, analysis=Analysis(metrics=(ERROR_RATE,))
        )
        return self.store.begin(plan, "ada", self.now)

    def release(self, baseline: ReleaseNumber | None) -> None:
        """Make one live, before there is any traffic."""
        self.state = self.begin(baseline)
        while not self.state.phase.ended:
            self.now += 0.1
            self.turn()
        self.observer.close()
        self.observer = self.another_server()

    def another_server(self) -> Observer:
        """Its health checks have a thread and the real clock, which this one outruns: all is healthy."""
        observer = Observer(self.parts)
        observer._ask = lambda state, config: ((), 0)  # type: ignore[method-assign] # see above
        return observer

    def turn(self) -> None:
        """What the engine does in a turn."""
        state = self.store.rollout(self.state.id)
        event: Event
        if state.pending:
            action = state.pending[0]
            self.carried.append(action.kind)
            try:
                self.effects.carry_out(state, action, self.store.fence(state.id))
                event = Done(action.id)
            except Unavailable as error:
                event = Failed(action.id, error.what)
        else:
            event = self.observer.observe(state, self.store.fence(state.id))
        self.state, _ = decide(state, event, self.now)
        self.store.save(self.state, _entries(state, event, self.state, self.now))

    def on(self, flag: str) -> bool:
        current = self.flags.current(KEY)
        assert current is not None
        assert current.document is not None
        return "killed" not in current.document["flags"][flag].get("crossfade", {})

    def serve(self) -> None:
        """A second's traffic."""
        self.now += 1.0
        share = self.state.weight.bp / 10_000
        killed = {flag: not self.on(flag) for flag in DOCUMENT["flags"]}
        for slot, total in ((Slot.GREEN, round(300 * share)), (Slot.BLUE, round(300 * (1 - share)))):
            answers: Counter[tuple[str, int]] = Counter()
            for _ in range(total):
                has = {flag: self.random.random() < 0.5 and not killed[flag] for flag in killed}
                told = ", ".join(f"{flag}={'on' if on else 'off'}" for flag, on in has.items())
                bad = self.everywhere
                if slot is Slot.GREEN:
                    bad += sum(self.bad.get(flag, 0.0) for flag, on in has.items() if on) + self.bad.get("r2", 0.0)
                answers[told, 500 if self.random.random() < bad else 200] += 1
            for (told, status), times in answers.items():
                self.signals.answer(KEY, slot, told, times=times, status=status)

    def run(self, seconds: int = 60) -> None:
        for _ in range(seconds):
            self.serve()
            for _ in range(8):
                self.turn()
                if not self.state.pending:
                    break
            if self.state.phase.ended:
                return

    def receipt(self) -> dict[str, Any]:
        found = self.store.receipt(self.state.id)
        assert found is not None
        return dict(found)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqlStore]:
    made = SqlStore(f"sqlite:///{tmp_path / 'ledger.db'}")
    yield made
    made.dispose()


@pytest.fixture
def shop(store: SqlStore) -> Iterator[Shop]:
    made = Shop(store)
    yield made
    made.observer.close()


def test_a_harmful_variant_is_killed_and_its_release_stays(shop: Shop) -> None:
    shop.bad = {"new-checkout": 0.3}
    shop.run()
    assert not shop.on("new-checkout")
    assert shop.on("search")
    assert [killing.name for killing in shop.state.killed] == ["new-checkout=on"]
    assert shop.state.phase is not Phase.ROLLED_BACK
    shop.now += 1
    # Who is not sure may be told to go on; what counts here is that nothing failed any more.
    shop.state, _ = decide(shop.state, Ordered("go", Command.PROMOTE, "ada"), shop.now)
    shop.store.save(shop.state, ())
    shop.run(5)
    assert shop.state.phase is Phase.PROMOTED
    (remedy,) = shop.receipt()["remedies"]
    assert (remedy["what"], remedy["target"]) == ("kill-flag", "new-checkout=on")
    assert remedy["before"]["with"]["share"] > 0.1
    assert remedy["before"]["without"]["share"] < 0.05
    assert remedy["after"]["with"]["requests"] == 0
    assert remedy["after"]["without"]["requests"] > 1000
    assert remedy["after"]["without"]["share"] < 0.01
    assert [one["what"] for one in remedy["considered"]] == ["kill-flag", "kill-flag", "move-weight", "restart-release"]
    plan = shop.receipt()["plan"]
    assert plan["remedies"][plan["chosen"]]["target"] == "new-checkout=on"
    version = shop.flags.current(KEY)
    assert version is not None
    assert (version.by, version.flags) == ("crossfade", ("new-checkout",))
    assert [entry.what for entry in shop.access.audit(1)] == ["flag.kill"]
    texts = [entry.text for entry in shop.store.journal(shop.state.id)]
    assert any(text.startswith("the cheapest remedy that applies: kill flag new-checkout") for text in texts)
    assert "kills flag new-checkout: its variant on is to blame" in texts


def test_a_harmful_release_goes_back_and_its_flags_stay_on(shop: Shop) -> None:
    shop.bad = {"r2": 0.2}
    shop.run()
    assert shop.state.phase is Phase.ROLLED_BACK
    assert shop.on("new-checkout")
    assert shop.on("search")
    assert "kill-flag" not in shop.carried
    (remedy,) = shop.receipt()["remedies"]
    assert (remedy["what"], remedy["target"]) == ("move-weight", "r1")
    assert remedy["before"]["candidate"]["share"] > 0.1
    kills = [one for one in shop.receipt()["plan"]["remedies"] if one["what"] == "kill-flag"]
    assert len(kills) == 2
    assert not any(one["applies"] for one in kills)


def test_a_release_that_still_fails_without_its_variant_goes_back_with_both_remedies_in_its_receipt(shop: Shop) -> None:
    shop.bad = {"new-checkout": 0.4}
    for _ in range(100):
        shop.serve()
        for _ in range(8):
            shop.turn()
            if not shop.state.pending:
                break
        if shop.state.killed and shop.state.settles is None:
            break
    shop.bad = {"r2": 0.3}
    shop.run()
    assert shop.state.phase is Phase.ROLLED_BACK
    assert [one["what"] for one in shop.receipt()["remedies"]] == ["kill-flag", "move-weight"]
    assert shop.on("search")


def test_two_harmful_variants_are_killed_one_after_the_other(shop: Shop) -> None:
    shop.bad = {"new-checkout": 0.5, "search": 0.12}
    shop.run()
    assert {killing.flag for killing in shop.state.killed} == {"new-checkout", "search"}
    assert not shop.state.phase.ended


def test_a_new_server_goes_on_after_a_kill_with_evidence_of_its_own(shop: Shop) -> None:
    shop.bad = {"new-checkout": 0.3}
    for _ in range(100):
        shop.serve()
        for _ in range(8):
            shop.turn()
            shop.observer.close()
            shop.observer = shop.another_server()  # the server ends after every single turn
            if not shop.state.pending:
                break
    assert [killing.name for killing in shop.state.killed] == ["new-checkout=on"]
    assert not shop.state.phase.ended
    assert shop.carried.count("kill-flag") == 1


def test_flags_that_cannot_be_read_leave_going_back(shop: Shop) -> None:
    shop.bad = {"new-checkout": 0.3}

    def away(_key: EnvKey) -> Any:
        raise Unavailable("the ledger of flags is away")

    current, shop.flags.current = shop.flags.current, away  # type: ignore[method-assign,assignment] # it comes back below
    shop.on = lambda flag: True  # type: ignore[method-assign] # nothing of it can be read meanwhile
    shop.run()
    shop.flags.current = current  # type: ignore[method-assign] # back to what it was
    assert shop.state.phase is Phase.ROLLED_BACK
    kill = shop.receipt()["plan"]["remedies"][0]
    assert kill["why"] == "the flags cannot be read: the ledger of flags is away"


def test_a_kill_that_is_done_twice_is_done_once(shop: Shop) -> None:
    action = KillFlag("2.9", "new-checkout", "on", "errors 30 % against 0.1 %")
    for _ in range(2):
        shop.effects.carry_out(shop.state, action, shop.store.fence(shop.state.id))
    assert shop.flags.newest(KEY) == 2
    assert len(shop.access.audit(10)) == 1
