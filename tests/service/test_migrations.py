"""What a contract waits for, who may order one, and what follows for the releases of the window."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from crossfade.domain.environment import Occupant
from crossfade.domain.errors import Forbidden, NotFound, NotRestorable, Refused
from crossfade.domain.migrations.operations import Migration
from crossfade.domain.release import BlueGreen, DatabaseUse, Limits
from crossfade.domain.rollout import Rollout
from crossfade.domain.traffic import Slot
from crossfade.domain.values import ReleaseNumber
from crossfade.fakes.database import FakeDatabases
from crossfade.ports.databases import Watch
from crossfade.service.migrations import CUSTODIAN
from tests.service.stage import ADMIN, KEY, OPERATOR, VIEWER, Stage

FIRST, SECOND = (Migration(name, f"sha256:{name}", f"{name}.yaml") for name in ("01_isbn", "02_price"))
QUIET = Watch(lambda _: None, lambda _: None, lambda: "", threading.Event())


class Shop:
    """An installation with a database; `release` makes a release live that carries migrations, as the engine would."""

    def __init__(self, use: DatabaseUse | None = None) -> None:
        self.databases = FakeDatabases()
        self.stage = Stage()
        self.stage.parts = replace(self.stage.parts, databases=self.databases)
        self.stage.service = self.stage.another_server()
        self.use = use or DatabaseUse()
        self.stage.config = replace(self.stage.config, database=self.use)
        self.stage.signals.ensure(KEY)

    def begin(self, *migrations: Migration) -> Rollout:
        """A rollout that has brought the database to what its release needs."""
        artifacts = self.stage.parts.artifacts
        take, databases = artifacts.put, self.databases

        def put(*args: object) -> object:
            found = take(*args)  # type: ignore[arg-type] # passed on as they come
            databases.carries[found.digest] = migrations
            return found

        artifacts.put = put  # type: ignore[method-assign,assignment] # what an artifact carries is known once it is there
        try:
            state = self.stage.deploy(ADMIN)
        finally:
            artifacts.put = take  # type: ignore[method-assign] # back to what it was
        assert isinstance(state, Rollout)
        for one in migrations:
            databases.database.expand(one, QUIET)
            databases.database.backfill(one.version, QUIET)
        return state

    def release(self, *migrations: Migration) -> str:
        state = self.begin(*migrations)
        self.stage.finish(state)
        return str(state.plan.candidate)

    def look(self) -> None:
        """What the custodian does every few seconds."""
        self.stage.service.migrations.look()

    def phases(self) -> list[str]:
        return [item["phase"] for item in self.stage.service.migrations.view(KEY)["items"]]

    def waits(self, version: str = FIRST.version) -> list[str]:
        items = self.stage.service.migrations.view(KEY)["items"]
        return next(list(item["waits"]) for item in items if item["version"] == version)


@pytest.fixture
def shop() -> Shop:
    return Shop()


def test_an_old_shape_goes_by_itself_once_the_window_has_closed_and_not_before(shop: Shop) -> None:
    shop.release()
    shop.release(FIRST)
    for _ in range(5):  # the window holds the five before the live one
        shop.look()
        assert shop.phases() == ["soaking"]
        assert "r1 is in the rollback window and needs the shape before 01_isbn" in shop.waits()
        shop.release(FIRST)
    assert shop.phases() == ["contractable"]
    shop.look()
    assert shop.phases() == ["contracted"]
    last = shop.stage.noted()[-1]
    assert (last["who"], last["what"], last["key"]) == (CUSTODIAN.name, "migration.contract", f"{KEY}/01_isbn")


def test_what_a_contract_waits_for_is_said_with_the_release_and_why(shop: Shop) -> None:
    store = shop.stage.parts.store
    shop.release()
    state = shop.begin(FIRST)
    assert shop.waits() == [
        "no release that needs 01_isbn has been promoted yet",
        "r1 is live and needs the shape before 01_isbn",
        f"rollout #{state.id} is under way",
    ]
    assert shop.phases() == ["deploying"]
    store.occupy(KEY, Slot.BLUE, Occupant(ReleaseNumber(1), 1, 2))
    shop.stage.finish(state)
    assert shop.waits() == ["r1 still runs in slot blue and needs the shape before 01_isbn"]
    store.occupy(KEY, Slot.BLUE, None)
    store.retire(KEY, Slot.BLUE, Occupant(ReleaseNumber(1), 1, 2).names(KEY), shop.stage.now + 30)
    assert shop.waits() == ["r1 still serves its last requests and needs the shape before 01_isbn"]
    for one in store.retirements():
        store.retired(one.id)
    assert shop.waits() == ["r1 is in the rollback window and needs the shape before 01_isbn"]


def test_a_rollback_keeps_the_newer_shape_and_its_contract_waits_for_the_release_that_is_live_again(shop: Shop) -> None:
    shop.release()
    shop.release(FIRST)
    back = shop.stage.service.rollback(KEY, None, OPERATOR)
    assert back.plan.schema == ""  # nothing has to be done to the database
    shop.stage.finish(back)
    shop.look()
    assert shop.phases() == ["verified"]
    assert "r1 is live and needs the shape before 01_isbn" in shop.waits()


def test_an_override_gives_the_window_up_and_is_noted_with_who_why_and_what(shop: Shop) -> None:
    service = shop.stage.service
    shop.release()
    shop.release(FIRST)
    with pytest.raises(Refused, match="r1 is in the rollback window and needs the shape before 01_isbn"):
        service.migrations.contract(KEY, "01_isbn", "", OPERATOR)
    with pytest.raises(Forbidden):
        service.migrations.contract(KEY, "01_isbn", "r1 never comes back", OPERATOR)
    assert service.restorable(KEY)[0].ok
    service.migrations.contract(KEY, "01_isbn", "r1 never comes back", ADMIN)
    shop.look()
    assert shop.phases() == ["contracted"]
    last = shop.stage.noted()[-1]
    assert (last["who"], last["what"]) == (ADMIN.name, "migration.contract")
    assert last["after"] == {"override": "r1 never comes back", "given_up": ["r1"]}
    reasons = service.restorable(KEY)[0].reasons
    assert reasons == ("it needs the shape before migration 01_isbn, which was contracted",)
    for to in (None, ReleaseNumber(1)):
        with pytest.raises(NotRestorable, match="01_isbn, which was contracted"):
            service.rollback(KEY, to, OPERATOR)


def test_nothing_overrides_what_runs(shop: Shop) -> None:
    shop.release()
    state = shop.begin(FIRST)
    migrations = shop.stage.service.migrations
    with pytest.raises(Refused, match="r1 is live"):
        migrations.contract(KEY, "01_isbn", "never mind", ADMIN)
    shop.stage.parts.store.occupy(KEY, Slot.BLUE, Occupant(ReleaseNumber(1), 1, 1))
    shop.stage.finish(state)
    with pytest.raises(Refused, match="r1 still runs in slot blue"):
        migrations.contract(KEY, "01_isbn", "never mind", ADMIN)
    assert shop.phases() == ["soaking"]


def test_a_contract_that_has_begun_goes_on_whatever_there_is_and_no_release_that_needs_the_old_shape_may_begin(
    shop: Shop,
) -> None:
    shop = Shop(DatabaseUse(contracts=False))
    service, database = shop.stage.service, shop.databases.database
    shop.release()
    shop.release(FIRST)
    shop.look()
    assert shop.phases() == ["soaking"]  # a manual one never goes by itself
    refused: list[NotRestorable] = []

    def between(_: str) -> None:
        """While it runs."""
        with pytest.raises(NotRestorable) as caught:
            service.rollback(KEY, ReleaseNumber(1), OPERATOR)
        refused.append(caught.value)
        service.migrations.stop()  # the server ends in the middle of it

    database.between = between
    service.migrations.contract(KEY, "01_isbn", "r1 never comes back", ADMIN)
    shop.look()
    assert [one.phase for one in database.ledger()] == ["contracting"]
    assert "01_isbn" in str(refused[0])
    database.between = lambda _: None
    shop.stage.service = shop.stage.another_server()
    assert not shop.stage.service.restorable(KEY)[0].ok
    shop.begin(FIRST)  # a rollout that needs the new shape is nothing to wait for
    shop.look()
    assert shop.phases() == ["contracted"]


def test_nothing_is_contracted_while_clients_see_more_errors_than_they_may(shop: Shop) -> None:
    shop.stage.config = replace(shop.stage.config, strategy=BlueGreen(limits=Limits(error_rate=0.01)))
    shop.release()
    for _ in range(6):
        shop.release(FIRST)
    state = shop.begin(FIRST)
    shop.look()
    shop.stage.now += 5
    shop.stage.signals.serve(KEY, Slot.BLUE, 200, 8)
    shop.look()
    shop.stage.parts.store.close(state.id, {}, shop.stage.now)
    shop.look()
    assert shop.waits() == ["clients see 4 % errors, and 1 % are allowed"]
    shop.stage.now += 600
    shop.stage.signals.serve(KEY, Slot.BLUE, 1000)
    shop.look()
    shop.look()
    assert shop.phases() == ["contracted"]


def test_a_release_that_names_no_database_but_is_older_is_taken_to_need_the_oldest_shape(shop: Shop) -> None:
    shop.stage.config = replace(shop.stage.config, database=None)
    shop.release()
    shop.stage.config = replace(shop.stage.config, database=shop.use)
    shop.release(FIRST)
    shop.look()
    assert shop.waits() == ["r1 is in the rollback window and needs the shape before 01_isbn"]
    shop.stage.service.migrations.contract(KEY, "01_isbn", "r1 never comes back", ADMIN)
    shop.look()
    assert not shop.stage.service.restorable(KEY)[0].ok


def test_contracts_go_one_after_the_other(shop: Shop) -> None:
    shop.release()
    shop.release(FIRST)
    for _ in range(6):
        shop.release(FIRST, SECOND)
    assert shop.phases() == ["contractable", "soaking"]
    shop.look()
    assert shop.phases()[0] == "contracted"
    shop.look()
    assert shop.phases() == ["contracted", "contracted"]


def test_an_abort_is_refused_while_a_release_needs_the_migration_or_builds_on_it(shop: Shop) -> None:
    migrations, store = shop.stage.service.migrations, shop.stage.parts.store
    shop.release()
    state = shop.begin(FIRST)
    with pytest.raises(Refused, match=r"01_isbn cannot be aborted: r2 is being rolled out"):
        migrations.abort(KEY, "01_isbn", OPERATOR)
    store.close(state.id, {}, shop.stage.now)  # rolled back: r2 was never live
    with pytest.raises(Forbidden):
        migrations.abort(KEY, "01_isbn", VIEWER)
    with pytest.raises(NotFound, match=r"There is no migration 09"):
        migrations.abort(KEY, "09", OPERATOR)
    migrations.abort(KEY, "01_isbn", OPERATOR)
    assert shop.phases() == ["aborted"]
    assert shop.stage.noted()[-1]["what"] == "migration.abort"


def test_an_abort_is_refused_while_a_candidates_own_migration_has_not_even_begun(shop: Shop) -> None:
    shop.release()
    state = shop.begin(FIRST)
    shop.stage.parts.store.close(state.id, {}, shop.stage.now)
    expand = shop.databases.database.expand
    shop.databases.database.expand = lambda migration, watch: (  # type: ignore[method-assign] # the rollout has only begun
        None if migration is SECOND else expand(migration, watch)
    )
    shop.databases.database.backfill = lambda version, watch: True  # type: ignore[method-assign] # nothing was expanded
    shop.begin(FIRST, SECOND)
    with pytest.raises(Refused, match=r"r3 is being rolled out"):
        shop.stage.service.migrations.abort(KEY, "01_isbn", OPERATOR)


def test_an_abort_that_a_crash_has_broken_off_is_finished(shop: Shop) -> None:
    shop.release()
    state = shop.begin(FIRST)
    shop.stage.parts.store.close(state.id, {}, shop.stage.now)
    service, database = shop.stage.service, shop.databases.database
    database.between = lambda _: service.migrations.stop()
    service.migrations.abort(KEY, "01_isbn", OPERATOR)
    assert [one.phase for one in database.ledger()] == ["aborting"]
    shop.stage.service = shop.stage.another_server()
    shop.look()
    assert [one.phase for one in database.ledger()] == ["aborted"]


def test_a_database_that_does_not_answer_is_said_and_keeps_nobody_from_going_back(shop: Shop) -> None:
    shop.release()
    shop.release(FIRST)
    shop.databases.database.fails_with = Refused("The database does not answer.")
    shop.look()
    assert shop.stage.service.migrations.view(KEY)["answers"] is False
    assert shop.stage.service.status(KEY)["migrations"] == []
    assert shop.stage.service.restorable(KEY)[0].ok


def test_the_status_of_an_environment_has_its_open_migrations(shop: Shop) -> None:
    shop.release()
    shop.release(FIRST)
    (one,) = shop.stage.service.status(KEY)["migrations"]
    assert (one["version"], one["phase"]) == ("01_isbn", "soaking")
    assert one["waits"]


def test_a_backfill_is_paused_by_an_operator_and_that_is_noted(shop: Shop) -> None:
    shop.release()
    shop.begin(FIRST)
    migrations = shop.stage.service.migrations
    with pytest.raises(Forbidden):
        migrations.pause(KEY, "01_isbn", True, VIEWER)
    migrations.pause(KEY, "01_isbn", True, OPERATOR)
    assert shop.databases.database.ledger()[0].paused
    migrations.pause(KEY, "01_isbn", False, OPERATOR)
    assert [one["what"] for one in shop.stage.noted()[-2:]] == ["migration.pause", "migration.resume"]
