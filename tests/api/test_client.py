"""The client: a change is sent again under its key when the connection is lost, and a server elsewhere is found."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from crossfade.cli.client import Client, Problem
from crossfade.domain.errors import Invalid, Unavailable
from tests.api.world import DIGEST, TOKEN, World
from tests.free_port import free_port


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    made.settle()
    return made


class Losing(httpx.BaseTransport):
    """Carries every request, and loses the first answer."""

    def __init__(self) -> None:
        self._inner = httpx.HTTPTransport()
        self.sent = 0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        answer = self._inner.handle_request(request)
        self.sent += 1
        if self.sent == 1:
            answer.read()
            raise httpx.ReadError("the connection is lost")
        return answer


def test_a_change_whose_answer_was_lost_is_sent_again_and_happens_once(world: World) -> None:
    with world.serving() as url:
        client = Client(url, TOKEN)
        losing = Losing()
        client._http = httpx.Client(
            base_url=f"{url}/api/v1", headers={"Authorization": f"Bearer {TOKEN}"}, transport=losing
        )
        assert client.add_account("ada", ["viewer"], None)["name"] == "ada"
        assert losing.sent == 2
        assert [row["name"] for row in client.accounts()] == ["ada"]


def test_lists_come_whole_and_refusals_as_the_server_said_them(world: World) -> None:
    for _ in range(600):
        world.parts.store.add_release(next(iter(world.service.keys())), DIGEST, world.config, "", 1.0)
    with world.serving() as url:
        client = Client(url, TOKEN)
        assert len(client.releases("shop/production")) == 602
        assert client.compare("shop/production", "r1", "r2") == []
        assert client.me()["via"] == "local"
        with pytest.raises(Problem) as refused:
            client.rollout(99)
        assert (refused.value.status, refused.value.code) == (404, "not-found")


def test_a_server_elsewhere_is_found_by_the_variables(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with world.serving() as url:
        monkeypatch.setenv("CROSSFADE_URL", f"{url}/")
        with pytest.raises(Invalid, match="CROSSFADE_TOKEN"):
            Client.of(Path("/nowhere"))
        monkeypatch.setenv("CROSSFADE_TOKEN", world.token("viewer@shop/staging"))
        assert [row["environment"] for row in Client.of(Path("/nowhere")).environments()] == ["staging"]
        monkeypatch.setenv("CROSSFADE_CA", "/nowhere/ca.pem")
        with pytest.raises(Invalid, match="CROSSFADE_CA"):
            Client.of(Path("/nowhere"))
    monkeypatch.setenv("CROSSFADE_URL", "ftp://x")
    with pytest.raises(Invalid, match="CROSSFADE_URL"):
        Client.of(Path("/nowhere"))


def test_where_nobody_listens_it_says_so() -> None:
    with pytest.raises(Unavailable, match="does not answer"):
        Client(f"http://127.0.0.1:{free_port()}", TOKEN).environments()
