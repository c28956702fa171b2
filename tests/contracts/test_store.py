"""The promises of `ports.Store`, kept by the ledger and by its twin."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from crossfade.domain.analysis.sample import Moments
from crossfade.domain.analysis.verdict import Finding, Verdict
from crossfade.domain.environment import Entry, Occupant
from crossfade.domain.errors import Busy, InvalidBatch, Moved, NotFound
from crossfade.domain.events import MOST_NAMES, Event
from crossfade.domain.health import Check, Expectation, Flow
from crossfade.domain.release import Canary, ReleaseConfig, Step
from crossfade.domain.rollout import Command, Done, Kind, Phase, Plan, decide
from crossfade.domain.signal import Latencies, Reading
from crossfade.domain.traffic import Counters, Slot, Sticky, StickyBy
from crossfade.domain.values import Digest, EnvKey, ReleaseNumber, Weight
from crossfade.fakes.store import FakeStore
from crossfade.ports import ANSWERS_KEPT, Kept, Store
from crossfade.store.sql import SqlStore

KEY = EnvKey("bookshop", "production")
DIGEST = Digest("sha256:" + "a" * 64)
CONFIG = ReleaseConfig(
    ("python", "app.py"),
    env=(("A", "1"),),
    checks=(Check("health", "/health", json=(Expectation("$.ok", True), Expectation("$.n", minimum=1.0))),),
    flows=(Flow("cart", (Check("open", "/"),), (Check("go on", "/cart", capture=(("id", "$.id"),)),)),),
    sticky=Sticky(StickyBy.HEADER, "X-User"),
    strategy=Canary((Step(Weight(500), 5.0), Step(Weight(5000), 5.0))),
)
PLAN = Plan(KEY, Kind.DEPLOY, ReleaseNumber(2), ReleaseNumber(1), Slot.GREEN, CONFIG.strategy)


@pytest.fixture(params=["fake", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    if request.param == "fake":
        yield FakeStore()
        return
    real = SqlStore(f"sqlite:///{tmp_path / 'ledger.db'}")
    yield real
    real.dispose()


def test_releases_are_numbered_from_one_per_service_over_all_its_environments(store: Store) -> None:
    numbers = [store.add_release(EnvKey("a", env), DIGEST, CONFIG, "", 1.0).number.n for env in ("x", "y", "x")]
    assert numbers == [1, 2, 3]
    assert store.add_release(EnvKey("b", "x"), DIGEST, CONFIG, "", 1.0).number.n == 1
    assert [r.number.n for r in store.releases(EnvKey("a", "x"))] == [3, 1]


def test_a_release_reads_back_exactly_as_it_was_written(store: Store) -> None:
    written = store.add_release(KEY, DIGEST, CONFIG, "v2 'quoted' ü", 12.5)
    assert store.release("bookshop", written.number) == written


def test_an_unknown_release_or_rollout_is_not_found(store: Store) -> None:
    with pytest.raises(NotFound, match="r9"):
        store.release("bookshop", ReleaseNumber(9))
    with pytest.raises(NotFound, match="#9"):
        store.rollout(9)


def test_an_environment_has_one_holder_and_the_next_one_is_told_who(store: Store) -> None:
    first = store.begin(PLAN, "ada@laptop", 1.0)
    with pytest.raises(Busy, match=rf"rollout #{first.id} of r2, begun by ada@laptop, now preparing"):
        store.begin(PLAN, "bob", 2.0)
    with pytest.raises(Busy):
        store.refuse_if_held(KEY)
    store.begin(replace(PLAN, key=EnvKey("bookshop", "staging")), "bob", 2.0)


def test_a_rollout_that_was_decided_on_another_revision_of_its_environment_does_not_begin(store: Store) -> None:
    with pytest.raises(Moved):
        store.begin(PLAN, "ada", 1.0, expects=1)
    state = store.begin(PLAN, "ada", 1.0, expects=0)
    store.close(state.id, {}, 2.0)
    with pytest.raises(Moved) as caught:
        store.begin(PLAN, "ada", 3.0, expects=0)
    assert (caught.value.fields["expected"], caught.value.fields["found"]) == (0, 1)
    assert store.begin(PLAN, "ada", 3.0, expects=1).id != state.id


def test_of_many_at_once_exactly_one_takes_the_environment(store: Store) -> None:
    won: list[int] = []
    refused: list[str] = []

    def try_it() -> None:
        try:
            won.append(store.begin(PLAN, "somebody", 1.0).id)
        except Busy as error:
            refused.append(error.what)

    threads = [threading.Thread(target=try_it) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(refused)) == (1, 7)


def test_each_holder_has_a_higher_fence(store: Store) -> None:
    fences = []
    for _ in range(3):
        state = store.begin(PLAN, "ada", 1.0)
        fences.append(store.fence(state.id))
        store.close(state.id, {}, 2.0)
    assert fences == [1, 2, 3]


def test_a_rollout_reads_back_exactly_as_it_was_saved(store: Store) -> None:
    state = store.begin(PLAN, "ada", 1.0)
    state, _ = decide(state, Done(state.pending[0].id), 2.0)
    state = replace(state, verdict=Verdict(Finding.FAIL, ("because", "and")), detail=("line",), paused=3.5)
    entries = [Entry(2.0, "reads the signals", "preparing", 0, "snapshot"), Entry(2.1, "x", "y", None)]
    store.save(state, entries)
    store.save(state, [Entry(3.0, "z", "y", 600)])
    assert store.rollout(state.id) == state
    assert store.journal(state.id) == (*entries, Entry(3.0, "z", "y", 600))


def test_open_rollouts_are_those_not_closed(store: Store) -> None:
    one = store.begin(PLAN, "ada", 1.0)
    store.close(one.id, {"outcome": "x"}, 2.0)
    two = store.begin(PLAN, "ada", 3.0)
    assert [r.id for r in store.rollouts(open_only=True)] == [two.id]
    assert [r.id for r in store.rollouts(KEY)] == [two.id, one.id]
    assert store.rollouts(EnvKey("other", "production")) == ()


def test_commands_are_kept_in_order_with_ids_of_their_own(store: Store) -> None:
    state = store.begin(PLAN, "ada", 1.0)
    given = [store.order(state.id, command, "ada", 1.0) for command in (Command.PAUSE, Command.RESUME, Command.PAUSE)]
    assert store.orders(state.id) == tuple(given)
    assert len({order.id for order in given}) == 3


def test_the_first_reading_of_a_label_stays(store: Store) -> None:
    state = store.begin(PLAN, "ada", 1.0)
    first = Reading(
        1.0,
        "s1",
        {Slot.BLUE: Counters(5, 1, 0, 2, (("5xx", 1),))},
        Counters(1, 1),
        {Slot.BLUE: Latencies(((3, 5),))},
    )
    store.keep_reading(state.id, "begin", first)
    store.keep_reading(state.id, "begin", Reading(2.0, "s2", {}))
    assert store.readings(state.id) == {"begin": first}


def test_a_commit_makes_live_keeps_the_other_slot_warm_and_counts_once(store: Store) -> None:
    state = store.begin(PLAN, "ada", 1.0)
    store.occupy(KEY, Slot.BLUE, Occupant(ReleaseNumber(1), 1, 2))
    store.occupy(KEY, Slot.GREEN, Occupant(ReleaseNumber(2), state.id, 2, warm_until=5.0))
    for _ in range(2):
        store.commit(state.id, Slot.GREEN, ReleaseNumber(2), 600.0, 10.0)
    environment = store.environment(KEY)
    assert environment is not None
    assert (environment.live, environment.slot, environment.standby) == (ReleaseNumber(2), Slot.GREEN, Slot.BLUE)
    assert environment.slots[Slot.BLUE].warm_until == 600.0
    assert environment.slots[Slot.GREEN].warm_until is None
    assert store.promotions(KEY) == (ReleaseNumber(2),)


def test_closing_keeps_the_first_receipt_and_gives_the_environment_free(store: Store) -> None:
    state = store.begin(PLAN, "ada", 1.0)
    assert store.receipt(state.id) is None
    store.close(state.id, {"requests": 1}, 2.0)
    store.close(state.id, {"requests": 2}, 3.0)
    assert store.receipt(state.id) == {"requests": 1}
    store.refuse_if_held(KEY)
    store.keep_receipt(state.id, {"requests": 3})
    assert store.receipt(state.id) == {"requests": 3}


def test_a_receipt_is_unfinished_until_the_reading_after_it_is_there(store: Store) -> None:
    state = store.begin(PLAN, "ada", 1.0)
    assert store.unfinished_receipts() == ()
    store.close(state.id, {}, 2.0)
    assert store.unfinished_receipts() == ((state.id, 2.0),)
    store.keep_reading(state.id, "after", Reading(9.0, "s", {}))
    assert store.unfinished_receipts() == ()


def test_retirements_are_listed_until_they_are_done_and_never_doubled(store: Store) -> None:
    for _ in range(2):
        store.retire(KEY, Slot.BLUE, ["a", "b"], 50.0)
    (retirement,) = store.retirements()
    assert (retirement.key, retirement.slot, retirement.names, retirement.deadline) == (
        KEY,
        Slot.BLUE,
        ("a", "b"),
        50.0,
    )
    store.retired(retirement.id)
    store.retired(retirement.id)
    assert store.retirements() == ()


def test_an_emptied_slot_is_empty(store: Store) -> None:
    store.begin(PLAN, "ada", 1.0)
    store.occupy(KEY, Slot.BLUE, Occupant(ReleaseNumber(1), 1, 2))
    store.occupy(KEY, Slot.BLUE, None)
    environment = store.environment(KEY)
    assert environment is not None
    assert environment.slots == {}


def test_an_ended_phase_is_kept(store: Store) -> None:
    state = store.begin(PLAN, "ada", 1.0)
    store.save(replace(state, phase=Phase.PROMOTED, pending=()), [])
    assert store.rollout(state.id).phase.ended


def test_the_newest_evidence_of_a_rollout_is_kept(store: Store) -> None:
    state = store.begin(PLAN, "ada", 1.0)
    assert store.evidence(state.id) is None
    store.keep_evidence(state.id, {"looks": 1, "wealth": [0.5, None]})
    store.keep_evidence(state.id, {"looks": 2, "wealth": []})
    assert store.evidence(state.id) == {"looks": 2, "wealth": []}


R1, R2 = ReleaseNumber(1), ReleaseNumber(2)


def events(*values: float, name: str = "checkout", key: EnvKey = KEY, release: ReleaseNumber = R1) -> list[Event]:
    return [Event(key, release, "blue", name, value) for value in values]


def test_events_add_up_by_release_pool_and_name_in_their_own_environment(store: Store) -> None:
    assert store.event_tallies(KEY) == {}
    assert store.add_events([*events(2.0, -3.0), *events(1.0, release=R2)], "", 1.0) == 3
    store.add_events([*events(1.0, name="signup"), Event(KEY, R1, "", "checkout", 5.0)], "", 1.0)
    store.add_events([*events(4.0), *events(9.0, key=EnvKey("bookshop", "staging"))], "", 1.0)
    assert store.event_tallies(KEY) == {
        (R1, "blue", "checkout"): Moments(3.0, 3.0, 29.0),
        (R2, "blue", "checkout"): Moments(1.0, 1.0, 1.0),
        (R1, "blue", "signup"): Moments(1.0, 1.0, 1.0),
        (R1, "", "checkout"): Moments(1.0, 5.0, 25.0),
    }


def test_a_batch_of_events_that_comes_again_answers_the_same_and_adds_nothing(store: Store) -> None:
    answers = [store.add_events(events(*values), "batch", 1.0) for values in ((1.0, 2.0), (1.0, 2.0), (5.0,))]
    assert answers == [2, 2, 2]
    assert store.event_tallies(KEY)[R1, "blue", "checkout"].n == 2


def test_of_the_same_batch_at_once_one_is_counted(store: Store) -> None:
    threads = [threading.Thread(target=store.add_events, args=(events(1.0), "batch", 1.0)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.event_tallies(KEY)[R1, "blue", "checkout"].n == 1


def test_the_names_of_the_last_batches_are_kept(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crossfade.store.sql.BATCHES_KEPT", 3)
    monkeypatch.setattr("crossfade.fakes.store.BATCHES_KEPT", 3)
    for name in ("a", "b", "c", "d"):
        store.add_events(events(1.0), name, 1.0)
    store.add_events(events(1.0), "d", 1.0)
    store.add_events(events(1.0), "b", 1.0)
    assert store.event_tallies(KEY)[R1, "blue", "checkout"].n == 4
    store.add_events(events(1.0), "a", 1.0)
    assert store.event_tallies(KEY)[R1, "blue", "checkout"].n == 5


def test_a_batch_with_a_name_too_many_is_refused_whole_and_may_come_again(store: Store) -> None:
    store.add_events([Event(KEY, R1, "", f"e{i}", 1.0) for i in range(MOST_NAMES)], "", 1.0)
    with pytest.raises(InvalidBatch, match=r"events\.1\.name.*'one-more'"):
        store.add_events([*events(1.0, name="e0"), *events(1.0, name="one-more")], "batch", 1.0)
    assert (R1, "blue", "e0") not in store.event_tallies(KEY)
    assert store.add_events(events(1.0, name="e0"), "batch", 1.0) == 1
    assert store.add_events(events(1.0, name="one-more", release=R2), "", 1.0) == 1


def test_releases_and_rollouts_are_read_by_page(store: Store) -> None:
    for at in range(4):
        store.add_release(KEY, DIGEST, CONFIG, "", 1.0)
        store.close(store.begin(PLAN, f"ada{at}", 1.0).id, {}, 2.0)
    assert [r.number.n for r in store.releases(KEY, limit=2)] == [4, 3]
    assert [r.number.n for r in store.releases(KEY, limit=2, before=3)] == [2, 1]
    assert [r.id for r in store.rollouts(KEY, limit=2, before=4)] == [3, 2]
    assert store.begun_by([2, 4, 99]) == {2: "ada1", 4: "ada3"}


def test_the_newest_rollout_of_each_environment_is_found_at_once(store: Store) -> None:
    staging, never = EnvKey("bookshop", "staging"), EnvKey("bookshop", "never")
    store.close(store.begin(PLAN, "ada", 1.0).id, {}, 2.0)
    newest = store.begin(PLAN, "ada", 3.0)
    other = store.begin(replace(PLAN, key=staging), "ada", 4.0)
    assert store.last_rollouts([KEY, staging, never]) == {KEY: newest, staging: other}
    assert store.last_rollouts([]) == {}


def test_each_thing_that_happens_to_a_rollout_is_told_in_order(store: Store) -> None:
    assert (store.changes(0), store.changes_kept()) == ((), (0, 0))
    state = store.begin(PLAN, "ada", 1.0)
    store.save(replace(state, phase=Phase.SHIFTING, weight=Weight(500)), [Entry(2.0, "goes on", "shifting", 500)])
    for _ in range(2):
        store.commit(state.id, Slot.GREEN, ReleaseNumber(2), 600.0, 3.0)
        store.close(state.id, {}, 4.0)
    store.tell("approval", str(KEY), {"approval": 1}, 5.0)
    told = store.changes(0)
    assert [(c.kind, c.at, c.key, c.rollout) for c in told] == [
        ("rollout", 1.0, str(KEY), state.id),
        ("journal", 2.0, str(KEY), state.id),
        ("rollout", 2.0, str(KEY), state.id),
        ("live", 3.0, str(KEY), state.id),
        ("closed", 4.0, str(KEY), state.id),
        ("approval", 5.0, str(KEY), None),
    ]
    assert told[1].data == {"text": "goes on", "weight": 500}
    assert told[2].data == {
        "phase": "shifting",
        "weight": 500,
        "step": state.step,
        "candidate": "r2",
        "baseline": "r1",
        "ended": False,
    }
    assert [c.data for c in told[3:]] == [{"release": "r2", "slot": "green"}, {}, {"approval": 1}]


def test_the_feed_is_read_by_page_and_grows_also_when_many_tell_at_once(store: Store) -> None:
    threads = [threading.Thread(target=store.tell, args=("audit", "ada", {"n": n}, 1.0)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    all_of_them = store.changes(0)
    assert sorted(c.data["n"] for c in all_of_them) == list(range(8))
    assert store.changes(0, 3) + store.changes(all_of_them[2].seq) == all_of_them
    assert store.changes_kept() == (all_of_them[0].seq, all_of_them[-1].seq)


def test_the_oldest_of_the_feed_go_and_what_is_kept_is_said(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crossfade.store.feed.CHANGES_KEPT", 150)
    monkeypatch.setattr("crossfade.fakes.store.CHANGES_KEPT", 150)
    for _ in range(200):
        store.tell("audit", "ada", {}, 1.0)
    assert store.changes_kept() == (51, 200)
    assert store.changes(0, 1)[0].seq == 51


def test_an_idempotency_key_is_claimed_once_and_then_knows_what_was_answered(store: Store) -> None:
    assert store.claim_key("ada", "k", "f1", 1.0) is None
    assert store.claim_key("ada", "k", "f2", 2.0) == Kept("f1", None, "")
    assert store.claim_key("bob", "k", "f2", 2.0) is None
    store.keep_answer("ada", "k", 202, "{}")
    assert store.claim_key("ada", "k", "f1", 3.0) == Kept("f1", 202, "{}")
    assert store.claim_key("ada", "k", "f2", 1.0 + ANSWERS_KEPT) == Kept("f1", 202, "{}")
    assert store.claim_key("ada", "k", "f2", 1.5 + ANSWERS_KEPT) is None


def test_of_many_at_once_one_claims_a_key(store: Store) -> None:
    found: list[Kept | None] = []
    threads = [threading.Thread(target=lambda: found.append(store.claim_key("ada", "k", "f", 1.0))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found.count(None) == 1


def test_a_key_is_given_up_unless_it_was_answered(store: Store) -> None:
    for name in ("done", "left"):
        store.claim_key("ada", name, "f", 1.0)
    store.keep_answer("ada", "done", 202, "{}")
    for name in ("done", "left"):
        store.give_up_key("ada", name)
    assert store.claim_key("ada", "left", "g", 2.0) is None
    store.give_up_keys()
    assert store.claim_key("ada", "left", "h", 3.0) is None
    assert store.claim_key("ada", "done", "f", 3.0) == Kept("f", 202, "{}")


def test_environments_are_read_all_or_by_their_keys(store: Store) -> None:
    keys = [EnvKey("a", "x"), EnvKey("b", "y"), EnvKey("c", "z")]
    for key in keys:
        store.begin(replace(PLAN, key=key), "ada", 1.0)
    assert sorted(store.keys()) == keys
    assert store.environments() == store.environments(keys)
    assert [found.key for found in store.environments([keys[2], keys[0], EnvKey("no", "where")])] == [keys[0], keys[2]]
    assert store.environments([]) == ()
