"""The promises of `ports.flags.Flags`, kept by the ledger and by its twin."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from crossfade.domain.access import Role
from crossfade.domain.errors import Busy, Moved, NotFound, Refused
from crossfade.domain.values import EnvKey, ReleaseNumber
from crossfade.fakes.flags import MemoryFlags
from crossfade.fakes.store import FakeStore
from crossfade.ports import Store
from crossfade.ports.flags import (
    FLAGS_TOLD,
    LATE,
    MOST_USAGES,
    VERSIONS_KEPT,
    ChangeRequest,
    Evaluations,
    ExperimentRow,
    Exposure,
    Flags,
    FlagSettings,
    Taken,
    Tracked,
    Unit,
)
from crossfade.store import experiments as store_experiments
from crossfade.store.flags import SqlFlags
from crossfade.store.sql import SqlStore

KEY = EnvKey("bookshop", "production")
STAGING = EnvKey("bookshop", "staging")
DOCUMENT: dict[str, Any] = {"flags": {"a": {"state": "ENABLED", "variants": {"on": True}, "x": "ü \ud800"}}}
REQUEST = ChangeRequest(
    0, KEY, "flag.save", {"flags/a": None}, {"flags/a": {"x": 1.5}}, 0, Role.OPERATOR, "ada", "ada", 5.0, "because"
)
EXPERIMENT = ExperimentRow(KEY, "checkout", "a", {"plan": {"n": 1}}, ("paid", "seen"), 1.0)


@dataclass(frozen=True)
class Ledger:
    """Flags, and the store whose feed hears of them."""

    flags: Flags
    store: Store

    def told(self) -> list[tuple[str, str, Any]]:
        return [(change.kind, change.key, change.data) for change in self.store.changes(0)]


Make = Callable[..., Ledger]


@pytest.fixture(params=["memory", "sqlite"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    opened: list[SqlStore | SqlFlags] = []

    def made(**bounds: int) -> Ledger:
        if request.param == "memory":
            store = FakeStore()
            return Ledger(MemoryFlags(store, **bounds), store)
        url = f"sqlite:///{tmp_path / 'ledger.db'}"
        opened.extend((SqlStore(url), SqlFlags(url, **bounds)))
        return Ledger(opened[1], opened[0])  # type: ignore[arg-type] # in the order of the line before

    yield made
    for one in opened:
        one.dispose()


@pytest.fixture
def ledger(make: Make) -> Ledger:
    return make()


@pytest.fixture
def flags(ledger: Ledger) -> Flags:
    return ledger.flags


# --- versions


def test_an_environment_has_no_flags_until_a_version_is_written(flags: Flags) -> None:
    assert (flags.newest(KEY), flags.current(KEY), flags.versions(KEY), flags.keys()) == (0, None, (), ())
    with pytest.raises(NotFound, match="version 1"):
        flags.version(KEY, 1)


def test_a_version_reads_back_exactly_as_it_was_written(flags: Flags) -> None:
    written = flags.write(KEY, DOCUMENT, ["a"], "ada", 2.5, expects=0, note="first")
    assert (written.number, written.key, written.document, written.flags) == (1, KEY, DOCUMENT, ("a",))
    assert flags.version(KEY, 1) == flags.current(KEY) == written
    assert flags.newest(KEY) == 1
    assert flags.keys() == (KEY,)
    assert flags.newest(STAGING) == 0


def test_nobody_can_change_a_version_once_it_is_written(flags: Flags) -> None:
    mine: dict[str, Any] = {"flags": {"a": {"n": [1]}}}
    flags.write(KEY, mine, ["a"], "ada", 1.0, expects=0)
    mine["flags"]["a"]["n"].append(2)
    read: Any = flags.version(KEY, 1).document
    read["flags"]["a"]["n"].append(3)
    assert flags.version(KEY, 1).document == {"flags": {"a": {"n": [1]}}}


def test_a_version_is_written_only_upon_the_one_that_it_was_decided_on(flags: Flags) -> None:
    flags.write(KEY, DOCUMENT, ["a"], "ada", 1.0, expects=0)
    for expects in (0, 2):
        with pytest.raises(Moved) as caught:
            flags.write(KEY, {"flags": {}}, ["a"], "bob", 2.0, expects=expects)
        assert (caught.value.fields["expected"], caught.value.fields["found"]) == (expects, 1)
    assert flags.write(KEY, {"flags": {}}, ["a"], "bob", 2.0, expects=1).number == 2


def test_of_many_at_once_exactly_one_writes_the_next_version(flags: Flags) -> None:
    won: list[int] = []
    moved: list[Moved] = []

    def try_it() -> None:
        try:
            won.append(flags.write(KEY, DOCUMENT, ["a"], "somebody", 1.0, expects=0).number)
        except Moved as error:
            moved.append(error)

    threads = [threading.Thread(target=try_it) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (won, len(moved)) == ([1], 7)


def test_versions_are_listed_newest_first_without_what_they_hold(flags: Flags) -> None:
    for n in range(5):
        flags.write(KEY, DOCUMENT, [f"f{n}"], "ada", float(n), expects=n, note=f"n{n}")
    assert [one.number for one in flags.versions(KEY, limit=2)] == [5, 4]
    older = flags.versions(KEY, before=3)
    assert [(one.number, one.document, one.note, one.flags) for one in older] == [
        (2, None, "n1", ("f1",)),
        (1, None, "n0", ("f0",)),
    ]


def test_old_versions_are_forgotten_and_the_newest_stay(flags: Flags) -> None:
    for n in range(VERSIONS_KEPT + 50):
        flags.write(KEY, {"flags": {}}, [], "ada", 1.0, expects=n)
    assert flags.version(KEY, 51).number == 51
    with pytest.raises(NotFound):
        flags.version(KEY, 50)


def test_the_feed_hears_of_every_version_with_the_first_of_its_flags(ledger: Ledger) -> None:
    names = [f"f{n:03}" for n in range(FLAGS_TOLD + 5)]
    ledger.flags.write(KEY, DOCUMENT, names, "ada", 1.0, expects=0)
    said = {"version": 1, "flags": names[:FLAGS_TOLD], "count": len(names)}
    assert ledger.told() == [("flags", str(KEY), said)]


# --- settings and requests


def test_an_environment_has_no_approval_until_somebody_wants_one(flags: Flags) -> None:
    assert flags.settings(KEY) == FlagSettings()
    for settings in (FlagSettings(Role.ADMIN), FlagSettings()):
        flags.set_settings(KEY, settings)
        assert flags.settings(KEY) == settings
        assert flags.settings(STAGING) == FlagSettings()


def test_a_request_reads_back_as_it_was_asked(ledger: Ledger) -> None:
    asked = ledger.flags.ask(REQUEST)
    assert asked == replace(REQUEST, id=1)
    assert ledger.flags.request(1) == asked
    assert ledger.flags.request(2) is None
    assert ledger.told() == [("flag-request", str(KEY), {"request": 1, "state": "waiting"})]


def test_a_request_supersedes_those_that_wait_for_the_same_places(flags: Flags) -> None:
    flags.ask(REQUEST)
    flags.ask(replace(REQUEST, before={"flags/b": 1}, after={"flags/b": None}))
    flags.ask(replace(REQUEST, key=STAGING))
    flags.ask(replace(REQUEST, asked=9.0, after={"flags/a": 2, "flags/c": 3}))
    states = {one.id: (one.state, one.decided) for one in flags.requests()}
    assert states == {1: ("superseded", 9.0), 2: ("waiting", None), 3: ("waiting", None), 4: ("waiting", None)}


def test_requests_are_listed_newest_first(flags: Flags) -> None:
    for n in range(4):
        flags.ask(replace(REQUEST, after={f"flags/{n}": n}))
    flags.ask(replace(REQUEST, key=STAGING))
    flags.decide(replace(REQUEST, id=2, state="rejected"))
    assert [one.id for one in flags.requests(KEY, limit=2)] == [4, 3]
    assert [one.id for one in flags.requests(KEY, before=4)] == [3, 2, 1]
    assert [one.id for one in flags.requests(waiting=True)] == [5, 4, 3, 1]


def test_a_request_is_decided_once(ledger: Ledger) -> None:
    asked = ledger.flags.ask(REQUEST)
    no = replace(asked, state="rejected", decided_by="bob", decided=7.0, why="not now")
    assert ledger.flags.decide(no)
    assert not ledger.flags.decide(replace(no, state="approved", decided_by="eve"))
    assert ledger.flags.request(1) == no
    assert ledger.told()[-1] == ("flag-request", str(KEY), {"request": 1, "state": "rejected"})


def test_a_version_of_a_request_and_its_approval_are_written_together_or_not_at_all(ledger: Ledger) -> None:
    flags = ledger.flags
    asked = flags.ask(REQUEST)
    yes = replace(asked, state="approved", decided_by="bob", decided=7.0)
    with pytest.raises(Moved):
        flags.write(KEY, DOCUMENT, ["a"], "ada", 7.0, expects=3, decided=yes)
    assert flags.request(1) == asked
    flags.write(KEY, DOCUMENT, ["a"], "ada", 7.0, expects=0, decided=yes)
    assert flags.request(1) == replace(yes, applied=1)
    assert [kind for kind, _, _ in ledger.told()] == ["flag-request", "flags", "flag-request"]
    with pytest.raises(Refused, match="does not wait"):
        flags.write(KEY, {"flags": {}}, ["a"], "ada", 8.0, expects=1, decided=yes)
    assert flags.newest(KEY) == 1


# --- ramps


def test_a_flag_has_one_open_ramp(ledger: Ledger) -> None:
    flags = ledger.flags
    first = flags.add_ramp(KEY, "a", {"share": 0}, 1.0)
    with pytest.raises(Busy, match=f"ramp #{first.id}"):
        flags.add_ramp(KEY, "a", {}, 2.0)
    other = flags.add_ramp(KEY, "b", {}, 2.0)
    flags.save_ramp(first.id, {"share": 10}, 3.0, ended=True, told={"phase": "finished"})
    flags.save_ramp(first.id, {"share": 11}, 4.0, ended=True)
    again = flags.add_ramp(KEY, "a", {}, 5.0)
    assert flags.ramp(first.id) == replace(first, state={"share": 11}, ended=3.0)
    assert [one.id for one in flags.ramps(KEY, flag="a")] == [again.id, first.id]
    assert [one.id for one in flags.ramps(open_only=True)] == [again.id, other.id]
    assert [one.id for one in flags.ramps(limit=1, before=again.id)] == [other.id]
    assert flags.ramps(STAGING) == ()
    said = [data for kind, _, data in ledger.told() if kind == "ramp"]
    assert said[2] == {"ramp": first.id, "flag": "a", "ended": True, "phase": "finished"}
    assert len(said) == 4


def test_the_evidence_of_a_ramp_stays_until_there_is_newer(flags: Flags) -> None:
    id = flags.add_ramp(KEY, "a", {}, 1.0).id
    assert flags.ramp_evidence(id) is None
    flags.save_ramp(id, {}, 2.0, evidence={"e": [1.5]})
    flags.save_ramp(id, {"s": 1}, 3.0)
    assert flags.ramp_evidence(id) == {"e": [1.5]}
    for unknown in (lambda: flags.ramp(9), lambda: flags.save_ramp(9, {}, 1.0)):
        with pytest.raises(NotFound, match="#9"):
            unknown()


# --- experiments


def test_an_experiment_reads_back_as_it_was_made(flags: Flags) -> None:
    flags.add_experiment(EXPERIMENT)
    assert flags.experiment(KEY, "checkout") == EXPERIMENT
    with pytest.raises(Refused, match="already"):
        flags.add_experiment(EXPERIMENT)
    flags.add_experiment(replace(EXPERIMENT, name="other"))
    flags.add_experiment(replace(EXPERIMENT, key=STAGING))
    assert [one.name for one in flags.experiments(KEY)] == ["other", "checkout"]
    changed = replace(EXPERIMENT, state={"s": 2}, events=("paid",), started=2.0, ended=3.0, until=4.0)
    flags.save_experiment(changed)
    assert flags.experiment(KEY, "checkout") == changed


def test_an_experiment_that_there_is_not_is_not_found(flags: Flags) -> None:
    for ask in (flags.experiment, flags.units, flags.outcomes, flags.remove_experiment):
        with pytest.raises(NotFound, match="checkout"):
            ask(KEY, "checkout")
    with pytest.raises(NotFound):
        flags.save_experiment(EXPERIMENT)


def units(flags: Flags) -> tuple[Unit, ...]:
    """By the time of their first exposure."""
    return tuple(sorted(flags.units(KEY, "checkout"), key=lambda one: (one.at, one.unit)))


def outcomes(flags: Flags) -> tuple[Tracked, ...]:
    """By time."""
    return tuple(sorted(flags.outcomes(KEY, "checkout"), key=lambda one: one.at))


def exposure(unit: bytes, variant: str = "on", at: float = 10.0, flag: str = "a") -> Exposure:
    return Exposure(flag, variant, unit, at, ReleaseNumber(3), "blue", {"country": "de"})


def take(
    flags: Flags,
    exposures: tuple[Exposure, ...] = (),
    tracks: tuple[Tracked, ...] = (),
    usage: tuple[Evaluations, ...] = (),
    batch: str = "",
) -> Taken:
    return flags.take(KEY, batch, exposures, tracks, usage, 20.0)


def running(flags: Flags, started: float | None = 5.0, ended: float | None = None) -> None:
    flags.add_experiment(EXPERIMENT)
    flags.save_experiment(replace(EXPERIMENT, started=started, ended=ended, until=ended))


def test_the_first_exposure_of_a_unit_counts(flags: Flags) -> None:
    running(flags)
    assert take(flags, (exposure(b"u"), exposure(b"v", "off", 11.0))) == Taken(exposures=2)
    assert take(flags, (exposure(b"u", at=12.0), exposure(b"u", at=9.0))) == Taken(exposures=2)
    first = Unit(b"u", "on", 9.0, ReleaseNumber(3), "blue", {"country": "de"})
    assert units(flags) == (first, replace(first, unit=b"v", variant="off", at=11.0))
    assert flags.experiment(KEY, "checkout").units == 2


def test_a_second_variant_marks_a_unit_with_the_first_time_it_got_it(flags: Flags) -> None:
    running(flags)
    take(flags, (exposure(b"u"), exposure(b"u", "off", 15.0), exposure(b"v")))
    take(flags, (exposure(b"u", "off", 13.0), exposure(b"u", "off", 16.0)))
    marks = {one.unit: (one.variant, one.at, one.other, one.crossed) for one in units(flags)}
    assert marks == {b"u": ("on", 10.0, "off", 13.0), b"v": ("on", 10.0, "", None)}


def test_exposures_count_in_the_time_of_an_experiment_of_their_flag(flags: Flags) -> None:
    running(flags, 5.0, 15.0)
    found = take(flags, (exposure(b"1", at=4.9), exposure(b"2", at=15.0), exposure(b"3", flag="b"), exposure(b"4")))
    assert found == Taken(exposures=1, left_out=3)
    assert [one.unit for one in units(flags)] == [b"4"]


def test_nothing_is_exposed_to_an_experiment_that_was_not_started_but_what_units_do_counts(flags: Flags) -> None:
    running(flags, None)
    done = Tracked("paid", b"u", 12.5, 10.0, ReleaseNumber(3), "blue")
    assert take(flags, (exposure(b"u"),), (done,)) == Taken(tracks=1, left_out=1)
    assert units(flags) == ()
    assert outcomes(flags) == (done,)


def test_outcomes_count_for_what_measures_them_until_their_time_is_over(flags: Flags) -> None:
    running(flags, 5.0, 15.0)
    tracks = tuple(
        Tracked(name, b"u", 1.0, at) for name, at in (("paid", 14.0), ("seen", 3.0), ("paid", 15.0), ("x", 9.0))
    )
    assert take(flags, (), tracks) == Taken(tracks=2, left_out=2)
    assert [(one.name, one.at) for one in outcomes(flags)] == [("seen", 3.0), ("paid", 14.0)]
    assert flags.take(KEY, "", (), tracks, (), 15.0 + LATE + 1.0) == Taken(left_out=4)


def test_one_batch_counts_for_every_experiment_that_wants_it(flags: Flags) -> None:
    running(flags)
    flags.add_experiment(replace(EXPERIMENT, name="other", events=("paid",), started=1.0))
    assert take(flags, (exposure(b"u"),), (Tracked("paid", b"u", 1.0, 10.0),)) == Taken(exposures=1, tracks=1)
    for name in ("checkout", "other"):
        assert len(list(flags.units(KEY, name))) == len(list(flags.outcomes(KEY, name))) == 1


def test_a_batch_that_comes_again_under_its_name_adds_nothing(flags: Flags) -> None:
    running(flags)
    used = Evaluations("a", "on", ReleaseNumber(3), 5, 20.0, 20.0)
    tracks = (Tracked("paid", b"u", 1.0, 10.0), Tracked("unknown", b"u", 1.0, 10.0))
    first = take(flags, (exposure(b"u"),), tracks, (used,), "one")
    assert first == Taken(exposures=1, tracks=1, usage=1, left_out=1)
    assert take(flags, (exposure(b"v"),), tracks, (used,), "one") == first
    assert (len(units(flags)), len(outcomes(flags))) == (1, 1)
    assert [one.n for one in flags.usage(KEY)] == [5]
    take(flags, (), tracks, (), "")
    take(flags, (), tracks, (), "")
    assert len(outcomes(flags)) == 3


def test_an_experiment_that_is_full_takes_no_more_and_counts_what_it_left_out(make: Make) -> None:
    flags = make(most_units=2, most_outcomes=1).flags
    running(flags)
    take(flags, (exposure(b"1"), exposure(b"2"), exposure(b"3"), exposure(b"1", "off", 11.0)))
    assert take(flags, (exposure(b"4"), exposure(b"2"))) == Taken(exposures=1, left_out=1)
    take(flags, (), (Tracked("paid", b"1", 1.0, 10.0), Tracked("paid", b"2", 1.0, 10.0)))
    row = flags.experiment(KEY, "checkout")
    assert (row.units, row.left_out) == (2, 3)
    assert [one.unit for one in units(flags)] == [b"1", b"2"]
    assert len(outcomes(flags)) == 1


def test_saving_an_experiment_leaves_its_counts(flags: Flags) -> None:
    running(flags)
    take(flags, (exposure(b"u"),))
    flags.save_experiment(replace(EXPERIMENT, started=5.0, state={"new": True}))
    assert flags.experiment(KEY, "checkout").units == 1


def test_an_experiment_is_removed_with_all_that_was_taken_for_it(flags: Flags) -> None:
    running(flags)
    take(flags, (exposure(b"u"),), (Tracked("paid", b"u", 1.0, 10.0),))
    flags.remove_experiment(KEY, "checkout")
    assert flags.experiments(KEY) == ()
    running(flags)
    assert (units(flags), outcomes(flags)) == ((), ())


def test_thousands_of_units_come_at_once_and_are_read_a_page_at_a_time(
    flags: Flags, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_experiments, "PAGE", 1000)
    running(flags)
    many = tuple(exposure(n.to_bytes(4)) for n in range(3000))
    did = tuple(Tracked("paid", one.unit, 1.0, 10.0) for one in many)
    assert take(flags, many, did) == Taken(exposures=3000, tracks=3000)
    assert take(flags, many) == Taken(exposures=3000)
    assert flags.experiment(KEY, "checkout").units == 3000
    assert {one.unit for one in units(flags)} == {one.unit for one in outcomes(flags)} == {one.unit for one in many}
    assert len(units(flags)) == len(outcomes(flags)) == 3000


# --- what is evaluated


def test_evaluations_add_up_by_flag_variant_and_release(flags: Flags) -> None:
    def used(flag: str, variant: str, release: int, n: int, at: float) -> Evaluations:
        return Evaluations(flag, variant, ReleaseNumber(release), n, at, at)

    take(flags, usage=(used("a", "on", 1, 5, 10.0), used("a", "off", 1, 1, 12.0), used("b", "on", 2, 1, 11.0)))
    take(flags, usage=(used("a", "on", 1, 3, 8.0), used("a", "on", 2, 1, 9.0)))
    assert flags.usage(KEY, "a") == (
        used("a", "off", 1, 1, 12.0),
        Evaluations("a", "on", ReleaseNumber(1), 8, 8.0, 10.0),
        used("a", "on", 2, 1, 9.0),
    )
    assert [one.flag for one in flags.usage(KEY)] == ["a", "a", "a", "b"]
    assert flags.usage(STAGING) == ()


def test_of_a_flag_those_that_were_seen_last_stay(flags: Flags) -> None:
    for n in range(1, MOST_USAGES + 4):
        flags.take(KEY, "", (), (), (Evaluations("a", "on", ReleaseNumber(n), 1, float(n), float(n)),), 20.0)
    found = flags.usage(KEY, "a")
    assert len(found) == MOST_USAGES
    assert found[-1].release == ReleaseNumber(4)
