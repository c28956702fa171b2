"""The page of a rollout, in every state that one can be in; its orders; and its stream."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import jinja2
import pytest
from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings

import crossfade.web
from crossfade.domain import errors
from crossfade.domain import rollout as machine
from crossfade.domain.access import Actor, Grant
from crossfade.domain.environment import Entry
from crossfade.domain.release import ReleaseConfig
from crossfade.domain.rollout import Phase, Plan, Rollout
from crossfade.domain.traffic import Slot
from crossfade.domain.values import EnvKey, ReleaseNumber, Weight
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
from crossfade.service import Service
from crossfade.service.accounts import Session
from crossfade.store.access import SqlAccess
from crossfade.store.sql import SqlStore
from crossfade.web import rollout_view, rollouts, stream
from tests.domain.test_rollout import KEY, moves, plan, plans, play

HOSTILE = "<script>alert(1)</script>\"'\u202egnp.exe"
BASE = "<title>{% block title %}{% endblock %}</title>{% block head %}{% endblock %}{% block main %}{% endblock %}{% block scripts %}{% endblock %}"
TEMPLATES = jinja2.Environment(
    loader=jinja2.ChoiceLoader(
        [
            jinja2.DictLoader({"base.html": BASE}),
            jinja2.FileSystemLoader(Path(crossfade.web.__file__).with_name("templates")),
        ]
    ),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
)
TEMPLATES.globals["static"] = lambda path: f"/static/{path}"
STATUS = {errors.Forbidden: 403, errors.NotFound: 404, errors.Invalid: 422}


class Idle:
    """A driver that drives nothing: the tests put rollouts where they want them."""

    def drive(self, rollout: int) -> None: ...

    def ring(self) -> None: ...


class House:
    """The least that the pages can live in; who asks is a request header."""

    def __init__(self, service: Service) -> None:
        self.service = service

    def session(self, request: Request) -> Session:
        name, _, grant = request.headers.get("x-who", "ada operator").partition(" ")
        return Session(Actor(name, (Grant.parse(grant),), "session", "127.0.0.1"), "secret of the session", 9e9)

    async def posted(self, request: Request) -> tuple[Session, Mapping[str, str]]:
        form = dict(parse_qsl((await request.body()).decode()))
        session = self.session(request)
        if form.get("csrf") != session.csrf:
            raise errors.Forbidden("This form is not ours.")
        return session, form

    def is_fetch(self, request: Request) -> bool:
        return request.headers.get("x-requested-with") == "fetch"

    def page(self, request: Request, session: Session, template: str, status: int = 200, **context: Any) -> Response:
        said = TEMPLATES.get_template(template).render(actor=session.actor, csrf=session.csrf, **context)
        return HTMLResponse(said, status)


class World:
    """A ledger with one environment, in which r1 is live and r2 is rolled out."""

    def __init__(self, place: Path) -> None:
        url = f"sqlite:///{place / 'ledger.db'}"
        self.store = SqlStore(url)
        self.parts = Parts(
            store=self.store,
            router=FakeRouter(),
            runtime=FakeRuntime(),
            signals=FakeSignals(),
            prober=FakeProber(),
            artifacts=FakeArtifacts(place / "artifacts"),
            secrets=FakeSecrets(),
            access=SqlAccess(url),
            flags=MemoryFlags(self.store),
            records=MemoryRecords(self.store),
            histories=MemoryHistories(),
            key=b"key",
        )
        self.service = Service(self.parts, Idle(), lambda *_: ReleaseConfig(("true",)))
        for label in ("one", HOSTILE):
            digest = self.parts.artifacts.add(label)  # type: ignore[attr-defined]  # the fake's own, not of the port
            self.store.add_release(KEY, digest, ReleaseConfig(("true",)), label, 900.0)
        first = self.store.begin(replace(plan(baseline=None), candidate=ReleaseNumber(1)), "ada", 950.0).id
        self.store.commit(first, Slot.BLUE, ReleaseNumber(1), 9e9, 960.0)
        self.store.close(first, {"outcome": "promoted"}, 961.0)
        self.id = self.store.begin(plan(), "ada <ada@example>", 1000.0).id
        self.app = FastAPI()
        house = House(self.service)
        self.app.include_router(rollouts.router(house))
        self.app.include_router(stream.router(house))

        @self.app.exception_handler(errors.CrossfadeError)
        async def failed(_: Request, error: errors.CrossfadeError) -> JSONResponse:
            return JSONResponse({"what": error.what}, next((s for k, s in STATUS.items() if isinstance(error, k)), 500))

        self.browser = TestClient(self.app, raise_server_exceptions=False)

    def put(self, state: Rollout, *entries: Entry) -> None:
        """The rollout is now so."""
        self.store.save(replace(state, id=self.id), entries)

    def put_at(self, phase: Phase, **changes: Any) -> None:
        state, _ = machine.begin(self.id, plan(), 1000.0)
        self.put(replace(state, phase=phase, pending=(), **changes))

    def get(self, path: str, who: str = "ada operator", **headers: str) -> Any:
        return self.browser.get(f"/rollouts/{self.id}{path}", headers={"x-who": who, **headers})

    def order(self, name: str, who: str = "ada operator", once: str = "o" * 32, **more: str) -> Any:
        return self.browser.post(
            f"/rollouts/{self.id}/orders/{name}",
            data={"csrf": "secret of the session", "once": once, **more},
            headers={"x-who": who},
            follow_redirects=False,
        )


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture(scope="module")
def one_world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


# --- the page


@given(plans, moves)
@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
def test_every_state_that_a_rollout_can_be_in_is_a_page(one_world: World, plan: Plan, moves: list[object]) -> None:
    told = set()
    for state, _ in play(plan, moves):
        kind = (state.phase, state.step, state.paused is not None, state.waiting, state.reason, state.verdict)
        if kind in told:
            continue
        told.add(kind)
        one_world.put(state)
        facts = rollouts.Glance(one_world.service).facts(one_world.id)
        page = TEMPLATES.get_template("rollout.html").render(
            **rollouts._shown(facts, Actor("ada", (Grant.parse("operator"),), "session")), logs={}, csrf="", actor=None
        )
        assert rollout_view.headline(facts.rollout).replace("'", "&#39;") in page
        assert sum(share.wide for share in rollout_view.shares(facts.rollout, None)) == 10_000
        for command, why_not in facts.refused.items():
            offered = f"/orders/{command}" in page
            assert offered <= (not why_not), "what is offered is allowed"
            pausing = {"pause": state.paused is None, "resume": state.paused is not None}.get(command, True)
            assert offered >= (not why_not and pausing), "what is allowed is offered"
            for moved in (False, True):
                assert all(rollout_view.what_happens(command, facts.rollout, moved, {}, "r1"))
        rungs = rollout_view.timeline(facts.rollout, facts.journal)
        assert sum(rung.state in ("now", "failed") for rung in rungs) == (state.phase is not Phase.PROMOTED)


def test_names_that_mean_harm_are_shown_as_what_they_are(world: World) -> None:
    page = world.get("").text
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;&#34;&#39;\u202egnp.exe</bdi>" in page
    assert "ada &lt;ada@example&gt;" in page


def test_a_page_carries_no_script_or_style_of_its_own(world: World) -> None:
    page = world.get("").text
    assert " style=" not in page
    assert "<style" not in page
    assert " onclick" not in page
    assert page.count("<script src=") == page.count("<script")


def test_a_bar_shows_the_control_beside_the_baseline_it_belongs_to() -> None:
    rollout = {"slot": "green", "candidate": "r2", "baseline": "r1", "ended": False, "weight": 2000}
    edge = {"reachable": True, "blue": 8000, "green": 2000, "control": 2000}
    assert [(s.name, s.release, s.at, s.wide) for s in rollout_view.shares(rollout, edge)] == [
        ("blue", "r1", 0, 6000),
        ("control", "r1", 6000, 2000),
        ("green", "r2", 8000, 2000),
    ]


def test_before_any_traffic_an_abort_says_that_none_moves(world: World) -> None:
    world.put_at(Phase.CHECKING)
    assert "No traffic has moved" in world.get("/orders/abort").text


def test_an_abort_under_traffic_says_where_it_goes_and_what_becomes_of_the_replicas(world: World) -> None:
    world.put_at(Phase.SHIFTING, weight=Weight(500))
    page = world.get("/orders/abort").text
    assert "All traffic goes back to r1 in blue at once." in page
    assert "The replicas of r2 stay for up to 30 s" in page


# --- orders


@pytest.mark.parametrize("name", ["promote", "pause", "abort"])
def test_an_order_is_given_by_who_asked_for_it(world: World, name: str) -> None:
    world.put_at(Phase.SHIFTING, weight=Weight(500))
    answer = world.order(name, who="grace operator@bookshop/*")
    assert (answer.status_code, answer.headers["location"]) == (303, f"/rollouts/{world.id}")
    assert [(o.command.value, o.by) for o in world.store.orders(world.id)] == [(name, "grace")]
    assert [(e["what"], e["who"]) for e in world.service.audit.page(1)] == [(f"rollout.{name}", "grace")]


def test_a_form_that_is_sent_twice_acts_once(world: World) -> None:
    world.put_at(Phase.SHIFTING, weight=Weight(500))
    with ThreadPoolExecutor(4) as several:
        answers = list(several.map(lambda _: world.order("pause"), range(4)))
    assert {answer.status_code for answer in answers} == {303}
    assert len(world.store.orders(world.id)) == 1


def test_two_forms_act_twice(world: World) -> None:
    world.put_at(Phase.SHIFTING, weight=Weight(500))
    world.order("pause", once="a" * 32)
    world.order("pause", once="b" * 32)
    assert len(world.store.orders(world.id)) == 2


def test_a_script_is_told_where_to_go_instead_of_being_sent_there(world: World) -> None:
    world.put_at(Phase.SHIFTING, weight=Weight(500))
    answer = world.browser.post(
        f"/rollouts/{world.id}/orders/pause",
        data={"csrf": "secret of the session", "once": "o" * 32},
        headers={"x-requested-with": "fetch"},
    )
    assert (answer.status_code, answer.headers["x-go-to"]) == (204, f"/rollouts/{world.id}")


def test_a_refused_order_shows_why_and_changes_nothing(world: World) -> None:
    world.put_at(Phase.CHECKING)
    answer = world.order("promote")
    assert answer.status_code == 409
    assert "cannot be promoted yet: r2 has not passed its health checks." in answer.text
    assert world.store.orders(world.id) == ()


@pytest.mark.parametrize("name", rollouts.ACTS)
def test_a_viewer_is_offered_nothing_and_may_order_nothing(world: World, name: str) -> None:
    world.put_at(Phase.SHIFTING, weight=Weight(500))
    page = world.get("", who="vera viewer").text
    assert "/orders/" not in page
    assert "This wants the role operator for bookshop/production." in page
    assert 'type="submit"' not in world.get(f"/orders/{name}", who="vera viewer").text
    assert world.order(name, who="vera viewer").status_code in (403, 409)
    assert world.store.orders(world.id) == ()


def test_who_may_not_see_the_environment_sees_nothing_of_its_rollouts(world: World) -> None:
    for path in ("", "/part", "/logs", "/samples", "/plots/interval", "/orders/abort"):
        assert world.get(path, who="eve admin@other/*").status_code == 403, path
    assert world.order("abort", who="eve admin@other/*").status_code == 403
    assert world.browser.get(f"/live?rollout={world.id}", headers={"x-who": "eve admin@other/*"}).status_code == 403


def test_a_form_from_elsewhere_orders_nothing(world: World) -> None:
    world.put_at(Phase.SHIFTING, weight=Weight(500))
    answer = world.browser.post(f"/rollouts/{world.id}/orders/abort", data={"once": "o" * 32})
    assert answer.status_code == 403
    assert world.store.orders(world.id) == ()


@pytest.mark.parametrize(
    ("path", "status"),
    [("/rollouts/99", 404), ("/rollouts/0", 422), ("/rollouts/x", 422), ("/rollouts/99999999999999", 422)],
)
def test_a_rollout_that_there_is_not_is_said_not_to_be(world: World, path: str, status: int) -> None:
    assert world.browser.get(path).status_code == status


def test_an_order_that_there_is_not_is_said_not_to_be(world: World) -> None:
    assert world.get("/orders/explode").status_code == 404
    assert world.order("explode").status_code == 404
    assert world.order("abort", once="short").status_code == 422


def test_a_promoted_rollout_offers_the_way_back_and_the_way_back_is_a_rollout(world: World) -> None:
    world.store.commit(world.id, Slot.GREEN, ReleaseNumber(2), 9e9, 1009.0)
    world.put_at(Phase.PROMOTED)
    world.store.close(world.id, {"outcome": "promoted"}, 1010.0)
    assert "brings r1 back in the place of r2" in world.get("/orders/rollback").text
    answers = [world.order("rollback", to="r1") for _ in range(2)]
    assert {answer.headers["location"] for answer in answers} == {f"/rollouts/{world.id + 1}"}
    begun = world.service.rollout(world.id + 1)
    assert (begun["kind"], begun["candidate"], begun["baseline"], begun["by"]) == ("rollback", "r1", "r2", "ada")


def test_the_page_of_a_release_that_is_not_live_rolls_nothing_back(world: World) -> None:
    world.put_at(Phase.ROLLED_BACK)
    world.store.close(world.id, {"outcome": "rolled-back"}, 1010.0)
    assert "r2 is not live: r1 is." in world.get("").text
    assert world.order("rollback").status_code == 409
    assert world.service.rollouts(KEY, 1)[0]["id"] == world.id


# --- the stream


async def heard(
    world: World, wanted: stream.Wanted, since: int | None, how_many: int, sees: str = "viewer"
) -> list[str]:
    """The first events of a stream, comments left out."""
    viewer = stream.Viewer(lambda: Actor("ada", (Grant.parse(sees),), "session"))
    events = stream._events(world.service.hub, viewer, wanted, since)
    found: list[str] = []

    async def listen(events: AsyncIterator[str]) -> None:
        async for piece in events:
            found.extend(event for event in piece.split("\n\n") if event and not event.startswith(":"))
            if len(found) >= how_many:
                return

    world.service.hub.start()
    try:
        await asyncio.wait_for(listen(events), 20)
    finally:
        await events.aclose()
        world.service.hub.stop()
    return found


def data(event: str) -> dict[str, Any]:
    return dict(json.loads(next(line[6:] for line in event.splitlines() if line.startswith("data: "))))


def test_a_stream_goes_on_after_the_number_it_is_given_and_leaves_nothing_out(world: World) -> None:
    _, newest = world.service.hub.kept()
    for text in ("one", "two", "three"):
        world.store.tell("journal", str(KEY), {"text": text}, 1000.0, world.id)
    events = asyncio.run(heard(world, stream.Wanted(world.id, frozenset([KEY])), newest + 1, 2))
    assert [data(event)["data"]["text"] for event in events] == ["two", "three"]
    assert [int(event.splitlines()[0].removeprefix("id: ")) for event in events] == [newest + 2, newest + 3]


def test_a_stream_of_one_rollout_tells_nothing_of_others(world: World) -> None:
    _, newest = world.service.hub.kept()
    world.store.tell("journal", str(KEY), {"text": "another's"}, 1000.0, world.id + 1)
    world.store.tell("journal", "other/production", {"text": "elsewhere"}, 1000.0, world.id)
    world.store.tell("journal", str(KEY), {"text": "ours"}, 1000.0, world.id)
    [event] = asyncio.run(heard(world, stream.Wanted(world.id, frozenset([KEY])), newest, 1))
    assert data(event)["data"]["text"] == "ours"


def test_a_stream_of_everything_tells_what_the_viewer_may_see(world: World) -> None:
    _, newest = world.service.hub.kept()
    world.store.tell("live", "other/staging", {"release": "r9"}, 1000.0)
    world.store.tell("live", "mine/staging", {"release": "r1"}, 1000.0)
    [event] = asyncio.run(heard(world, stream.Wanted(None, frozenset()), newest, 1, "viewer@mine/*"))
    assert data(event)["key"] == "mine/staging"


def test_a_stream_ends_with_the_session_and_says_so(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "HEARTBEAT", 0.05)
    asked = iter([Actor("ada", (Grant.parse("viewer"),), "session")])

    def look() -> Actor:
        try:
            return next(asked)
        except StopIteration:
            raise errors.Unauthenticated("gone") from None

    async def last() -> str:
        events = stream._events(world.service.hub, stream.Viewer(look), stream.Wanted(None, frozenset()), None)
        return [event async for event in events][-1]

    world.service.hub.start()
    try:
        assert asyncio.run(asyncio.wait_for(last(), 20)).startswith("event: bye")
    finally:
        world.service.hub.stop()


def test_who_has_too_many_streams_open_is_told_and_others_are_not() -> None:
    turnstile = stream.Turnstile()
    for _ in range(stream.MOST_STREAMS_EACH):
        turnstile.enter("ada")
    with pytest.raises(errors.TooMany):
        turnstile.refuse_if_full("ada")
    turnstile.refuse_if_full("grace")
    turnstile.leave("ada")
    turnstile.refuse_if_full("ada")


def test_a_stream_that_is_asked_for_wrongly_says_what_is_allowed(world: World) -> None:
    for wrong in ("rollout=x", "keys=nonsense", "after=-1", f"keys={','.join(['a/b'] * 201)}"):
        assert world.browser.get(f"/live?{wrong}").status_code == 422, wrong


def test_keys_of_a_stream_want_to_be_seen(world: World) -> None:
    answer = world.browser.get(f"/live?keys={EnvKey('secret', 'production')}", headers={"x-who": "eve viewer@a/b"})
    assert answer.status_code == 403


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.0, "until it is sure"), (0.2, "1 s left"), (59.5, "1 m 00 s left"), (125.0, "2 m 05 s left")],
)
def test_what_is_left_of_a_step_is_said_in_whole_seconds(seconds: float, said: str) -> None:
    assert rollout_view.left(seconds) == said
