"""Every route, by what it declares: without a token, with a wrong one, with too small a role, with one elsewhere."""

from __future__ import annotations

import re

import pytest
from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute

from crossfade.api.guard import GuardedRoute, Scope
from crossfade.domain.access import Role
from tests.api.world import TOKEN, World, problem

KNOWN = {
    "service_name": "shop",
    "environment": "production",
    "release": "r1",
    "version": "01_isbn",
    "key": "new-checkout",
    "flag": "new-checkout",
    "number": "1",
    "experiment": "checkout-page",
    "plot": "effects",
    "id": "1",
    "name": "evidence",
    "objective": "answers",
    "stage": "commit",
    "node": "tests",
}
NONE_YET = ("approvals", "flag-requests", "/ramps/{id}", "/alerts/{id}", "/drills/{id}", "/watches/{id}")
"""There is none whose environment could be asked for."""
BELOW = {Role.OPERATOR: "viewer", Role.ADMIN: "operator"}


def declared(app: FastAPI) -> list[GuardedRoute]:
    """Every route that the application itself answers, but for the OpenAPI document."""
    found: list[GuardedRoute] = []

    def gather(routes: list[object]) -> None:
        for route in routes:
            if isinstance(route, GuardedRoute):
                found.append(route)
            elif hasattr(route, "original_router"):  # how this framework keeps an included router
                gather(route.original_router.routes)
            else:
                assert getattr(route, "path", "") == "/api/v1/openapi.json", route

    gather(list(app.routes))
    return found


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    made = World(tmp_path_factory.mktemp("world"))
    made.settle()
    made.with_pipelines()
    return made


def operations(world: World) -> list[tuple[str, str, str, str]]:
    """Method, path, role and scope of every operation, as published."""
    paths = world.app.openapi()["paths"]
    return [
        (method.upper(), path, operation["x-crossfade-role"], operation["x-crossfade-scope"])
        for path, methods in paths.items()
        for method, operation in methods.items()
    ]


def place(path: str, **other: str) -> str:
    return re.sub(r"\{(\w+)\}", lambda match: {**KNOWN, **other}[match[1]], path)


def test_every_route_of_the_application_is_guarded_and_published(world: World) -> None:
    routes = declared(world.app)
    assert len(routes) == len(operations(world)) > 30
    assert all(isinstance(route, GuardedRoute) for route in routes)


def test_a_route_without_a_declaration_cannot_be_made() -> None:
    router = APIRouter(route_class=GuardedRoute)
    with pytest.raises(TypeError, match="declares no role"):
        router.get("/forgotten")(dict)
    assert issubclass(GuardedRoute, APIRoute)


def test_nobody_comes_in_without_a_token_or_with_one_that_is_not_valid(world: World) -> None:
    expired, revoked = world.token("admin", expires=1001.0), world.token("admin")
    world.now = 1002.0
    with world.client() as local:
        assert local.delete(f"/api/v1/tokens/{revoked.split('_')[1]}").status_code == 204
    wrong = [None, "nonsense", TOKEN[:-1], expired, revoked, f"cf_{'0' * 12}_{'x' * 43}", "é"]
    with world.client(None) as client:
        for method, path, role, scope in operations(world):
            for token in wrong:
                headers = {} if token is None else {"Authorization": f"Bearer {token}".encode("latin-1")}
                answer = client.request(method, place(path), headers=headers)
                if "hooks" in path:
                    problem(answer, 401, "unauthenticated")  # no token opens it: what is sent has to be signed
                    continue
                if role == "nobody":
                    assert answer.status_code == 200, (method, path)
                    continue
                if scope == Scope.FLAGS:  # these speak of errors as their protocol does
                    assert (answer.status_code, answer.json()["errorCode"]) == (401, "GENERAL")
                else:
                    problem(answer, 401, "unauthenticated")
                assert answer.headers["www-authenticate"] == "Bearer"


def test_nobody_does_what_a_smaller_role_may_not(world: World) -> None:
    clients = {name: world.client(world.token(name)) for name in ("viewer", "operator")}
    for method, path, role, _ in operations(world):
        if role in ("operator", "admin"):
            answer = clients[BELOW[Role(role)]].request(method, place(path), json={})
            if any(word in path for word in NONE_YET):
                problem(answer, 404, "not-found")
            else:
                problem(answer, 403, "forbidden")


def test_the_right_role_elsewhere_opens_nothing_here(world: World) -> None:
    tokens = {str(role): world.client(world.token(f"{role}@other/production")) for role in Role}
    for method, path, role, scope in operations(world):
        if scope in (Scope.INSTALLATION, Scope.ENVIRONMENT, Scope.ROLLOUT, Scope.RUN, Scope.FLAG_SET):
            problem(tokens[role].request(method, place(path), json={}), 403, "forbidden")


def test_the_token_of_a_replica_opens_the_events_and_nothing_else(world: World) -> None:
    token = world.parts.events_token(next(iter(world.service.keys())))
    with world.client(token) as client:
        for method, path, role, scope in operations(world):
            if scope in (Scope.FLAGS, Scope.FLAG_SET):
                continue  # tests/api/test_ofrep_installation.py, tests/api/test_flags.py
            if role != "nobody":
                answer = client.request(method, place(path), json={})
                problem(answer, *((422, "invalid") if scope == Scope.EVENTS else (401, "unauthenticated")))


def test_lists_show_what_the_asker_may_see_and_no_more(world: World) -> None:
    with world.client(world.token("viewer@shop/staging")) as client:
        assert [row["environment"] for row in client.get("/api/v1/environments").json()["items"]] == ["staging"]
        assert [row["id"] for row in client.get("/api/v1/rollouts").json()["items"]] == [3]
        assert client.get("/api/v1/tokens").json()["items"] == []
        problem(client.get("/api/v1/rollouts?service=shop&environment=production"), 403, "forbidden")


def test_who_asks_is_the_accounts_name_whatever_the_body_says(world: World) -> None:
    service = world.service
    with world.client() as local:
        assert local.get("/api/v1/me", headers={"X-Crossfade-By": "eve@desk"}).json()["name"] == "eve@desk"
        local.post("/api/v1/accounts", json={"name": "ada", "grants": ["operator"]})
        body = {"name": "ci", "grants": ["operator@shop/*"], "owner": "ada"}
        text = local.post("/api/v1/tokens", json=body).json()["token"]
    with world.client(text) as client:
        assert client.get("/api/v1/me").json() == {
            "name": "ada",
            "via": "token",
            "grants": ["operator@shop/*"],
            "credential": text.split("_")[1],
        }
        headers = {"X-Crossfade-By": "eve"}
        assert client.post(
            "/api/v1/rollouts/2/commands", json={"command": "abort", "by": "eve"}, headers=headers
        ).is_success
    assert service.audit.page(1)[0]["who"] == "ada"
