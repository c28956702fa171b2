"""The dashboard lets in who may, hears only its own forms, and shows what others have written as text."""

from __future__ import annotations

import asyncio
import html
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute

from crossfade.bootstrap.pipelines import compose_pipelines, make_works
from crossfade.bootstrap.state import make_parts, prepare, read_config
from crossfade.domain.access import Actor, Grant, Role, local_actor
from crossfade.domain.alert import Severity
from crossfade.domain.experiments.plan import Metric, MetricKind
from crossfade.domain.experiments.plan import Plan as TrialPlan
from crossfade.domain.pipeline.plan import Commit, Node, NodeKind, Pipeline, Stage, StageName, Step
from crossfade.domain.pipeline.run import RunPlan
from crossfade.domain.release import BlueGreen, ReleaseConfig
from crossfade.domain.rollout import Kind, Plan
from crossfade.domain.traffic import Slot
from crossfade.domain.values import Digest, EnvKey, ReleaseNumber
from crossfade.service import Service
from crossfade.web.app import mount
from crossfade.web.headers import ALWAYS, POLICY
from crossfade.web.sessions import LARGEST_FORM, local
from tests.web.promised import kept_drill, kept_watch

ORIGIN = "http://crossfade.test"
KEY = EnvKey("bookshop", "production")
PASSWORD = "correct horse"
HOSTILE = ["<script>alert(1)</script>", "\"><img src=x onerror='alert(1)'>", "{{ 7 * 7 }} & 'so on'", "\u202egnp.exe"]
ROOT = local_actor("root")

WANTS: Mapping[str, str] = {
    "GET /": "session",
    "GET /glance": "viewer",
    "GET /events": "session",
    "GET /events/part": "session",
    "GET /report": "session",
    "GET /report.{form}": "session",
    "GET /approvals": "session",
    "GET /approvals/{id}": "viewer",
    "POST /approvals/{id}/{answer}": "operator",
    "GET /audit": "admin",
    "POST /audit/verify": "admin",
    "GET /settings": "session",
    "POST /settings/password": "session",
    "POST /settings/tokens": "session",
    "POST /settings/tokens/{id}/revoke": "session",
    "GET /settings/accounts": "admin",
    "POST /settings/accounts": "admin",
    "POST /settings/accounts/{name}/grants": "admin",
    "POST /settings/accounts/{name}/password": "admin",
    "POST /settings/accounts/{name}/disabled": "admin",
    "POST /settings/accounts/{name}/remove": "admin",
    "GET /environments/{name}/{environment}": "viewer",
    "GET /environments/{name}/{environment}/part": "viewer",
    "GET /environments/{name}/{environment}/logs": "viewer",
    "GET /environments/{name}/{environment}/rollouts": "viewer",
    "GET /environments/{name}/{environment}/rollback": "viewer",
    "POST /environments/{name}/{environment}/rollback": "operator",
    "GET /environments/{name}/{environment}/releases/{release}": "viewer",
    "GET /environments/{name}/{environment}/releases/{release}/rollout": "viewer",
    "POST /environments/{name}/{environment}/releases/{release}/rollout": "operator",
    "GET /environments/{name}/{environment}/compare": "viewer",
    "GET /rollouts/{id}": "viewer",
    "GET /rollouts/{id}/part": "viewer",
    "GET /rollouts/{id}/logs": "viewer",
    "GET /rollouts/{id}/samples": "viewer",
    "GET /rollouts/{id}/plots/{name}": "viewer",
    "GET /rollouts/{id}/receipt": "viewer",
    "GET /rollouts/{id}/orders/{name}": "viewer",
    "POST /rollouts/{id}/orders/{name}": "operator",
    "GET /runs": "session",
    "GET /runs/{id}": "viewer",
    "GET /runs/{id}/part": "viewer",
    "GET /runs/{id}/stages/{stage}/nodes/{node}": "viewer",
    "GET /runs/{id}/stages/{stage}/nodes/{node}/part": "viewer",
    "GET /runs/{id}/stages/{stage}/nodes/{node}/log": "viewer",
    "GET /runs/{id}/stages/{stage}/nodes/{node}/log.txt": "viewer",
    "GET /runs/{id}/orders/{order}": "viewer",
    "POST /runs/{id}/orders/{order}": "operator",
    "GET /services/{name}/stream": "viewer",
    "GET /flags": "session",
    "GET /environments/{name}/{environment}/flags": "viewer",
    "GET /environments/{name}/{environment}/new-flag": "viewer",
    "POST /environments/{name}/{environment}/new-flag": "operator",
    "POST /environments/{name}/{environment}/flag-preview": "viewer",
    "GET /environments/{name}/{environment}/flags/{flag:path}": "viewer",
    "GET /environments/{name}/{environment}/flags/{flag:path}/part": "viewer",
    "GET /environments/{name}/{environment}/flags/{flag:path}/edit": "viewer",
    "POST /environments/{name}/{environment}/flags/{flag:path}/edit": "operator",
    "GET /environments/{name}/{environment}/flags/{flag:path}/orders/{order}": "viewer",
    "POST /environments/{name}/{environment}/flags/{flag:path}/orders/{order}": "operator",
    "GET /environments/{name}/{environment}/flags/{flag:path}/versions/{number}": "viewer",
    "POST /environments/{name}/{environment}/flags/{flag:path}/versions/{number}": "operator",
    "GET /environments/{name}/{environment}/flags/{flag:path}/promote": "viewer",
    "POST /environments/{name}/{environment}/flags/{flag:path}/promote": "operator",
    "GET /environments/{name}/{environment}/flags/{flag:path}/ramp": "viewer",
    "POST /environments/{name}/{environment}/flags/{flag:path}/ramp": "operator",
    "GET /ramps/{id}": "viewer",
    "GET /ramps/{id}/part": "viewer",
    "GET /ramps/{id}/orders/{order}": "viewer",
    "POST /ramps/{id}/orders/{order}": "operator",
    "GET /flag-requests": "session",
    "GET /flag-requests/{id}": "viewer",
    "POST /flag-requests/{id}/{answer}": "operator",
    "GET /environments/{name}/{environment}/experiments": "viewer",
    "GET /environments/{name}/{environment}/new-experiment": "viewer",
    "POST /environments/{name}/{environment}/new-experiment": "operator",
    "GET /environments/{name}/{environment}/experiments/{experiment}": "viewer",
    "GET /environments/{name}/{environment}/experiments/{experiment}/part": "viewer",
    "GET /environments/{name}/{environment}/experiments/{experiment}/plots/{plot}": "viewer",
    "GET /environments/{name}/{environment}/experiments/{experiment}/orders/{order}": "viewer",
    "POST /environments/{name}/{environment}/experiments/{experiment}/orders/{order}": "operator",
    "GET /environments/{name}/{environment}/slo": "viewer",
    "GET /environments/{name}/{environment}/slo/part": "viewer",
    "GET /environments/{name}/{environment}/slo/history": "viewer",
    "GET /watches/{id}": "viewer",
    "GET /watches/{id}/part": "viewer",
    "GET /watches/{id}/end": "viewer",
    "POST /watches/{id}/end": "operator",
    "GET /alerts": "session",
    "GET /alerts/{id}": "viewer",
    "POST /alerts/{id}/acknowledge": "operator",
    "GET /environments/{name}/{environment}/drills": "viewer",
    "GET /environments/{name}/{environment}/drills/part": "viewer",
    "GET /environments/{name}/{environment}/new-drill": "viewer",
    "POST /environments/{name}/{environment}/new-drill": "operator",
    "GET /drills/{id}": "viewer",
    "GET /drills/{id}/part": "viewer",
    "GET /drills/{id}/abort": "viewer",
    "POST /drills/{id}/abort": "operator",
    "POST /environments/{name}/{environment}/proofs": "operator",
    "GET /notices": "session",
    "POST /notices/test": "admin",
    "GET /live": "viewer",
    "POST /logout": "session",
    "GET /login": "nobody",
    "POST /login": "nobody",
    "GET /login/link": "nobody",
    "POST /theme": "nobody",
    "GET /static/{mark}/{path:path}": "nobody",
    "GET /favicon.ico": "nobody",
}
"""The role that each route wants, in the environment that it is about."""
QUERY = {"GET /glance": f"?keys={KEY}", "GET /live": f"?keys={KEY}"}
QUERY |= {"GET /environments/{name}/{environment}/slo/history": "?objective=@edge"}
FILL = {"form": "csv", "id": "1", "release": "r2", "mark": "0", "path:path": "style.css", "answer": "approve"}
FILL |= {"stage": "commit", "node": "tests", "order": "cancel"}
FILL |= {"flag:path": "checkout", "number": "1", "experiment": "page", "plot": "course"}


def flag_of(texts: list[str]) -> dict[str, Any]:
    """A flag with texts wherever somebody may write one."""
    ours = {"description": texts[0], "owner": texts[1], "tags": [texts[2]]}
    rules = [{"name": texts[0], "if": {"==": [{"var": texts[1]}, texts[3]]}, "serve": "on"}]
    variants = {"on": texts[1], "off": texts[3]}
    return {"state": "ENABLED", "variants": variants, "defaultVariant": "off", "crossfade": {**ours, "rules": rules}}


class Idle:
    """An engine that leaves every rollout where it is."""

    def drive(self, rollout: int) -> None: ...

    def ring(self) -> None: ...


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    state = Path(tempfile.mkdtemp(prefix="cf-", dir="/tmp"))
    prepare(state)
    parts = make_parts(state)
    found = Service(parts, Idle(), read_config)
    works = make_works(state, parts)
    compose_pipelines(parts, works, found)
    stage = Stage(StageName.COMMIT, (Node("tests", NodeKind.COMMAND, what=Step(("true",))),))
    commit = Commit("a" * 40, 1, 1.0, HOSTILE[1], HOSTILE[0])
    pipeline = Pipeline(KEY.service, (stage, Stage(StageName.PRODUCTION, (), environment=KEY.environment)))
    works.runs.add_run(
        RunPlan(
            pipeline, "/srv", commit, HOSTILE[2], "command", HOSTILE[3], "ada", (), 1.0, "", environment="production"
        )
    )
    for number, label in enumerate(HOSTILE, 1):
        config = ReleaseConfig(("serve",), env=(("NAME", label), ("N", str(number))))
        parts.store.add_release(KEY, Digest("sha256:" + f"{number:064d}"), config, label, 1.0)
    plan = Plan(KEY, Kind.DEPLOY, ReleaseNumber(2), None, Slot.GREEN, BlueGreen())
    parts.store.begin(plan, HOSTILE[0], time.time())
    found.flags.bring(KEY, {"flags": {"checkout": flag_of(HOSTILE)}}, False, False, ROOT)
    olga = Actor("olga", (Grant(Role.OPERATOR),), "session")
    found.flags.set_settings(KEY, Role.OPERATOR, ROOT)
    found.flags.save(KEY, "checkout", flag_of([*HOSTILE[1:3], HOSTILE[0], HOSTILE[3]]), olga, note=HOSTILE[0])
    found.flags.set_settings(KEY, None, ROOT)
    found.ramps.begin(KEY, "checkout", "on", ROOT)
    metrics = (Metric("orders", MetricKind.CONVERSION, "order"),)
    trial = TrialPlan("page", "checkout", "off", ("on",), {"on": 5000, "off": 5000}, metrics)
    found.experiments.create(KEY, trial, ROOT, hypothesis=HOSTILE[1])
    found.approvals.ask(KEY, ReleaseNumber(3), Role.OPERATOR, Actor("olga", (), "session"))
    found.alerts.open(KEY, f"burn:{HOSTILE[0]}", Severity.PAGE, HOSTILE[1], {"objective": HOSTILE[2]})
    kept_drill(parts, KEY, HOSTILE[0])
    kept_watch(parts, KEY, HOSTILE[1])
    for name, grants in {
        "vera": ["viewer"],
        "olga": ["operator"],
        "ada": ["admin"],
        "stranger": ["viewer@other/staging"],
    }.items():
        found.accounts.add(name, [Grant.parse(grant) for grant in grants], PASSWORD, ROOT)
    yield found
    shutil.rmtree(state)


@pytest.fixture(scope="module")
def app(service: Service) -> FastAPI:
    api = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    api.state.web = mount(api, service, origin=ORIGIN, key=b"k" * 32)

    @api.get("/api/v1/here")
    def here() -> str:
        return "the API"

    return api


class Visitor:
    """A browser without its scripts: keeps cookies, follows nothing by itself."""

    def __init__(self, app: FastAPI, origin: str = ORIGIN) -> None:
        self._app, self._origin = app, origin
        self.cookies = httpx.Cookies()

    def ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        async def once() -> httpx.Response:
            transport = httpx.ASGITransport(self._app)
            async with httpx.AsyncClient(transport=transport, base_url=self._origin, cookies=self.cookies) as client:
                answer = await client.request(method, path, **more)
                self.cookies = client.cookies
                return answer

        return asyncio.run(once())

    def get(self, path: str, **more: Any) -> httpx.Response:
        return self.ask("GET", path, **more)

    def post(self, path: str, data: Mapping[str, str] = {}, page: str = "/settings", **more: Any) -> httpx.Response:
        """With the CSRF token of a page that it looks at first."""
        csrf = re.search(r'name="csrf" value="([^"]+)"', self.get(page).text)
        assert csrf is not None
        return self.ask("POST", path, data={"csrf": csrf[1], **data}, **more)

    def log_in(self, name: str, password: str = PASSWORD, then: str = "/") -> httpx.Response:
        return self.post("/login", {"name": name, "password": password, "next": then}, page="/login")


@pytest.fixture
def visitor(app: FastAPI) -> Visitor:
    return Visitor(app)


@pytest.fixture(scope="module")
def logged_in(app: FastAPI) -> Mapping[str, Visitor]:
    """Each is logged in once: a password takes its time."""
    found = {name: Visitor(app) for name in ("vera", "olga", "ada", "stranger")}
    for name, each in found.items():
        assert each.log_in(name).status_code == 303
    return found


def routes(app: FastAPI) -> list[str]:
    def below(router: Any) -> Iterator[str]:
        for route in router.routes:
            if isinstance(route, APIRoute):
                yield from (f"{method} {route.path}" for method in route.methods or ())
            elif hasattr(route, "original_router"):
                yield from below(route.original_router)

    return sorted(below(app.state.web))


def place(route: str) -> tuple[str, str]:
    method, path = route.split(" ")
    slots = {**FILL, "name": KEY.service, "environment": KEY.environment}
    for number, beginning in enumerate(("/alerts/", "/drills/", "/watches/"), 1):
        if path.startswith(beginning):
            slots["id"] = str(number)  # in this order they were written down
    if path.startswith("/rollouts/"):
        slots["name"] = "interval" if "/plots/" in path else "pause"
    for beginning, order in (("/environments/", "kill"), ("/ramps/", "pause")):
        if path.startswith(beginning):
            slots["order"] = "start" if "/experiments/" in path else order
    if "/accounts/" in path:
        slots["name"] = "vera"
    filled = re.sub(r"\{([^}]+)\}", lambda match: slots[match[1]], path)
    return method, filled + QUERY.get(route, "")


ROUTES = sorted(WANTS)
GUARDED = [route for route in ROUTES if WANTS[route] != "nobody"]
POSTS = [route for route in ROUTES if route.startswith("POST")]


def test_every_route_is_in_the_table(app: FastAPI) -> None:
    assert routes(app) == ROUTES


@pytest.mark.parametrize("route", GUARDED)
def test_nobody_is_let_in_without_a_session(visitor: Visitor, route: str) -> None:
    method, path = place(route)
    answer = visitor.ask(method, path)
    if method == "GET":
        assert (answer.status_code, answer.headers["location"].split("?")[0]) == (303, "/login")
        assert visitor.ask(method, path, headers={"X-Requested-With": "fetch"}).status_code == 401
    else:
        assert answer.status_code == 401
    visitor.cookies.set("crossfade", "invented")
    assert visitor.ask(method, path).status_code in (303, 401)


@pytest.mark.parametrize("route", [route for route in GUARDED if WANTS[route] != "session"])
def test_too_small_a_role_is_told_which_one_is_wanted(logged_in: Mapping[str, Visitor], route: str) -> None:
    method, path = place(route)
    small = {"viewer": "stranger", "operator": "vera", "admin": "olga"}[WANTS[route]]
    form = {"once": "0123456789abcdef", "to": "r1"}
    answer = logged_in[small].get(path) if method == "GET" else logged_in[small].post(path, form)
    assert answer.status_code == 403
    assert f"the role {WANTS[route]}" in html.unescape(answer.text)


@pytest.mark.parametrize("route", POSTS)
def test_a_form_without_its_token_or_from_another_site_is_refused(
    visitor: Visitor, logged_in: Mapping[str, Visitor], route: str
) -> None:
    method, path = place(route)
    who = visitor if WANTS[route] == "nobody" else logged_in["ada"]
    page = "/login" if WANTS[route] == "nobody" else "/settings"
    for headers in ({}, {"X-CSRF-Token": "wrong"}, {"X-CSRF-Token": ""}):
        assert who.ask(method, path, headers=headers).status_code == 403
    for headers in (
        {"Origin": "https://evil.test"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ):
        assert who.post(path, page=page, headers=headers).status_code == 403


@pytest.mark.parametrize("route", [route for route in ROUTES if route != "GET /live"])
def test_every_answer_tells_the_browser_what_not_to_do(
    visitor: Visitor, logged_in: Mapping[str, Visitor], route: str
) -> None:
    method, path = place(route)
    for answer in (visitor.ask(method, path), logged_in["vera"].ask(method, path)):
        assert {name: answer.headers.get(name) for name in ALWAYS} == dict(ALWAYS)
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["cache-control"] == ("no-cache" if "style.css" in path or "icon" in path else "no-store")


def test_pages_have_no_script_or_style_in_them(logged_in: Mapping[str, Visitor]) -> None:
    for route in (route for route in GUARDED if route.startswith("GET") and route != "GET /live"):
        answer = logged_in["ada"].get(place(route)[1])
        if "html" not in answer.headers["content-type"]:
            continue
        assert not re.search(r"<style|\sstyle=|\son[a-z]+=\"|<script(?! src=\"/static/)|javascript:", answer.text), (
            route
        )
        assert "{{" not in re.sub(r"\{\{ 7 \* 7 \}\}", "", answer.text), route
    assert "unsafe" not in POLICY


def test_what_others_wrote_is_shown_as_text(logged_in: Mapping[str, Visitor]) -> None:
    seen = "".join(
        logged_in["ada"].get(path).text
        for path in (
            "/",
            f"/environments/{KEY}",
            *(f"/environments/{KEY}/releases/r{n}" for n in (1, 2, 3, 4)),
            f"/environments/{KEY}/compare?from=r1&to=r2",
            "/approvals/1",
            "/rollouts/1",
            "/runs",
            "/runs/1",
            "/runs/1/stages/commit/nodes/tests",
            "/runs/1/orders/cancel",
            f"/services/{KEY.service}/stream",
            "/audit",
            "/flags",
            *(f"/environments/{KEY}/flags/checkout{page}" for page in ("", "/edit", "/versions/1", "/ramp")),
            "/alerts",
            "/alerts/1",
            f"/environments/{KEY}/slo",
            f"/environments/{KEY}/drills",
            "/drills/2",
            "/watches/3",
            "/flag-requests",
            "/flag-requests/1",
            f"/environments/{KEY}/experiments",
            f"/environments/{KEY}/experiments/page",
        )
    )
    assert "<script>alert" not in seen
    assert "<img src=x" not in seen
    assert "{{ 7 * 7 }}" in seen
    assert "49 &amp;" not in seen
    assert "\u202e" not in seen
    assert "\N{REPLACEMENT CHARACTER}gnp.exe" in seen


@pytest.mark.parametrize(
    "elsewhere", ["//evil.test", "/\\evil.test", "https://evil.test", "/a\\b", "/\tx", "javascript:x", "", "x" * 2000]
)
def test_a_login_leads_to_places_of_ours_only(elsewhere: str) -> None:
    assert local(elsewhere) == "/"


def test_a_login_leads_where_one_wanted_to_go(visitor: Visitor) -> None:
    wanted = visitor.get("/events?environment=bookshop/production")
    assert wanted.headers["location"] == "/login?next=/events%3Fenvironment%3Dbookshop/production"
    asked = html.unescape(visitor.get(wanted.headers["location"]).text)
    assert 'name="next" value="/events?environment=bookshop/production"' in asked
    answer = visitor.log_in("vera", then="/events?environment=bookshop/production")
    assert (answer.status_code, answer.headers["location"]) == (303, "/events?environment=bookshop/production")
    assert Visitor.get(visitor, "/events").status_code == 200


def test_a_failed_login_says_one_sentence_whatever_was_wrong(visitor: Visitor) -> None:
    said = {visitor.log_in(name, "wrong password").text for name in ("vera", "nobody-there")}
    assert all("The name or the password is wrong." in text for text in said)
    assert visitor.get("/").status_code == 303


def test_too_many_failed_logins_are_told_when_to_come_again(service: Service, visitor: Visitor) -> None:
    service.accounts.add("tired", [], PASSWORD, ROOT)
    try:
        answers = [visitor.log_in("tired", "wrong") for _ in range(11)]
        assert answers[-1].status_code == 429
        assert "Come again in 5 minutes." in answers[-1].text
        assert int(answers[-1].headers["retry-after"]) > 200
    finally:
        service.accounts.remove("tired", ROOT)
        service.accounts.__init__(service._parts, service.audit)  # type: ignore[misc]  # the address may go on


def test_a_link_logs_in_once(service: Service, app: FastAPI) -> None:
    secret = service.accounts.new_link("ada", [Grant.parse("viewer")], ROOT)
    first, second = Visitor(app), Visitor(app)
    assert first.get(f"/login/link?secret={secret}").headers["location"] == "/"
    assert first.get("/settings").status_code == 200
    assert first.get(f"/login/link?secret={secret}").headers["location"] == "/"
    assert second.get(f"/login/link?secret={secret}").status_code == 401
    assert second.get("/settings").status_code == 303


def test_cookies_are_kept_from_scripts_and_other_sites(app: FastAPI, service: Service) -> None:
    plain = Visitor(app).log_in("vera").headers["set-cookie"]
    assert re.search(r"^crossfade=[^;]+; HttpOnly; Max-Age=43200; Path=/; SameSite=lax", plain)
    api = FastAPI()
    mount(api, service, origin="https://crossfade.test", key=b"k" * 32)
    secured = Visitor(api, "https://crossfade.test")
    answer = secured.log_in("vera")
    assert re.search(r"^__Host-crossfade=[^;]+; HttpOnly; .*Path=/; SameSite=lax; Secure", answer.headers["set-cookie"])
    assert answer.headers["strict-transport-security"] == "max-age=31536000"


def test_logging_out_ends_the_session_for_good(app: FastAPI) -> None:
    visitor = Visitor(app)
    visitor.log_in("vera")
    kept = visitor.cookies["crossfade"]
    assert visitor.post("/logout").headers["location"] == "/login"
    visitor.cookies.set("crossfade", kept)
    assert visitor.get("/").status_code == 303


def test_the_colours_are_light_dark_or_the_systems(visitor: Visitor) -> None:
    assert visitor.post("/theme", {"theme": "dark", "next": "//evil.test"}, page="/login").headers["location"] == "/"
    assert '<html lang="en" data-theme="dark">' in visitor.get("/login").text
    assert visitor.post("/theme", {"theme": "x\" y='"}, page="/login").status_code == 422
    visitor.cookies.clear()
    visitor.cookies.set("crossfade-theme", "x onload")
    assert '<html lang="en">' in visitor.get("/login").text


def test_assets_are_named_by_their_content_and_compressed(visitor: Visitor) -> None:
    found = re.search(r'href="(/static/[0-9a-f]{12}/style\.css)"', visitor.get("/login").text)
    assert found is not None
    answer = visitor.get(found[1])
    assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert (answer.headers["content-encoding"], answer.headers["content-type"]) == ("gzip", "text/css; charset=utf-8")
    assert visitor.get("/static/0/../sessions.py").status_code == 404
    assert visitor.get("/static/0/%2e%2e/sessions.py").status_code == 404


def test_a_form_that_is_too_large_or_of_another_kind_is_refused(visitor: Visitor) -> None:
    large = visitor.post("/login", {"name": "x" * LARGEST_FORM}, page="/login")
    assert large.status_code == 422
    other = visitor.ask("POST", "/login", json={"name": "ada"})
    assert other.status_code == 422


def test_a_token_is_shown_once_and_never_gives_more_than_its_maker_has(
    service: Service, logged_in: Mapping[str, Visitor]
) -> None:
    form = {"name": HOSTILE[0], "grants": "viewer", "days": "30"}
    made = logged_in["vera"].post("/settings/tokens", form)
    text = re.search(r"cf_[0-9a-f]{12}_[\w-]{43}", made.text)
    assert text is not None
    assert service.accounts.by_token(text[0], "").name == "vera"
    assert text[0] not in logged_in["vera"].get("/settings").text
    assert logged_in["vera"].post("/settings/tokens", {**form, "grants": "admin"}).status_code == 403
    bad = logged_in["vera"].post("/settings/tokens", {**form, "grants": "king"})
    assert (bad.status_code, "viewer, operator or admin" in bad.text) == (422, True)
    (token,) = service.accounts.tokens("vera")
    assert logged_in["olga"].post(f"/settings/tokens/{token.id}/revoke").status_code == 404
    assert logged_in["vera"].post(f"/settings/tokens/{token.id}/revoke").status_code == 303
    assert service.accounts.tokens("vera")[0].revoked is not None


def test_an_admin_adds_changes_and_removes_accounts(service: Service, logged_in: Mapping[str, Visitor]) -> None:
    ada = logged_in["ada"]
    assert ada.post("/settings/accounts", {"name": "new", "grants": "viewer@*/staging"}).status_code == 303
    assert ada.post("/settings/accounts/new/grants", {"grants": "operator viewer"}).status_code == 303
    assert [str(grant) for grant in service.accounts.get("new").grants] == ["operator", "viewer"]
    assert ada.post("/settings/accounts/new/password", {"password": "short"}).status_code == 422
    assert ada.post("/settings/accounts/new/disabled", {"disabled": "yes"}).status_code == 303
    assert service.accounts.get("new").disabled
    assert "disabled" in ada.get("/settings/accounts").text
    assert ada.post("/settings/accounts/new/remove").status_code == 303
    assert "new" not in {account.name for account in service.accounts.list()}
    assert ada.post("/settings/accounts/ada/remove").status_code == 409


def test_nobody_can_approve_what_they_asked_for_themselves(logged_in: Mapping[str, Visitor]) -> None:
    page = logged_in["olga"].get("/approvals/1").text
    assert "asked for by olga: somebody else has to approve it." in page
    assert re.search(r"<button[^>]* disabled[^>]*>Approve", page)
    assert logged_in["olga"].post("/approvals/1/approve").status_code == 403
    assert "Approve r3" in logged_in["ada"].get("/approvals/1").text
    assert ' <span class="badge">1' in logged_in["vera"].get("/").text
    assert "badge" not in logged_in["stranger"].get("/").text


def test_what_cannot_be_done_now_is_said_where_it_was_asked(logged_in: Mapping[str, Visitor]) -> None:
    form = {"once": "0123456789abcdef", "to": "r1"}
    answer = logged_in["olga"].post(f"/environments/{KEY}/rollback", form)
    assert answer.status_code == 409
    assert "no live release to go back from" in answer.text
    assert "Rollout #1 is under way" in logged_in["olga"].get(f"/environments/{KEY}/rollback?to=r1").text
    assert logged_in["vera"].get("/rollouts/1/receipt").status_code == 409


def test_the_chain_of_the_audit_log_is_looked_at_on_demand(logged_in: Mapping[str, Visitor]) -> None:
    whole = logged_in["ada"].post("/audit/verify")
    assert re.search(r"The chain of \d+ entries is whole", whole.text)
    part = logged_in["ada"].post("/audit/verify", headers={"HX-Request": "true"})
    assert "<html" not in part.text
    assert "is whole" in part.text


def test_each_sees_the_environments_they_may(logged_in: Mapping[str, Visitor]) -> None:
    assert str(KEY) in logged_in["vera"].get("/").text
    assert KEY.service not in logged_in["stranger"].get("/").text
    assert KEY.service not in logged_in["stranger"].get("/events").text
    assert logged_in["stranger"].get(f"/events?environment={KEY}").status_code == 403


def test_what_is_not_there_is_a_page_and_the_api_keeps_its_own_answers(logged_in: Mapping[str, Visitor]) -> None:
    vera = logged_in["vera"]
    for path in (
        "/nope",
        "/rollouts/0",
        "/rollouts/99999",
        "/environments/No/where",
        f"/environments/{KEY}/releases/r99",
    ):
        answer = vera.get(path)
        assert (answer.status_code, "Not found" in answer.text) == (404, True), path
    assert vera.get("/api/v1/here").json() == "the API"
    assert vera.ask("DELETE", "/api/v1/here").status_code == 405
    assert vera.get("/api/v1/nope").json() == {"detail": "Not Found"}
