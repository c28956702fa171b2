"""flagd's sync service: asked as flagd's own providers ask, with messages that were made from their descriptions."""

from __future__ import annotations

import asyncio
import json
import queue
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from crossfade.api.flagd_sync import SERVICE, FlagdSync, _messages
from crossfade.api.guard import Guard
from crossfade.api.ofrep_source import Installation
from crossfade.api.ofrep_stream import Channels
from tests.api.ofrep_world import FLAGS, Server, changed, serving
from tests.api.world import ADA, KEY, STAGING, TOKEN, World
from tests.e2e.certificates import make

MADE = _messages()


class Client:
    """A channel with the calls of the service."""

    def __init__(self, address: str, **metadata: str) -> None:
        self.metadata = tuple(metadata.items())
        self.channel = grpc.insecure_channel(address)

    def fetch(self, selector: str = "") -> dict[str, Any]:
        call = self.channel.unary_unary(
            f"/{SERVICE}/FetchAllFlags",
            MADE["FetchAllFlagsRequest"].SerializeToString,
            MADE["FetchAllFlagsResponse"].FromString,
        )
        answer = call(MADE["FetchAllFlagsRequest"](selector=selector), metadata=self.metadata, timeout=20)
        found: dict[str, Any] = json.loads(answer.flag_configuration)
        return found

    def sync(self, selector: str = "") -> Any:
        call = self.channel.unary_stream(
            f"/{SERVICE}/SyncFlags", MADE["SyncFlagsRequest"].SerializeToString, MADE["SyncFlagsResponse"].FromString
        )
        return call(MADE["SyncFlagsRequest"](selector=selector), metadata=self.metadata, timeout=60)

    def describe(self) -> Any:
        call = self.channel.unary_unary(
            f"/{SERVICE}/GetMetadata",
            MADE["GetMetadataRequest"].SerializeToString,
            MADE["GetMetadataResponse"].FromString,
        )
        return call(MADE["GetMetadataRequest"](), metadata=self.metadata, timeout=20)


def refused(call: Any) -> grpc.StatusCode:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    status: grpc.StatusCode = caught.value.code()
    return status


def free_port() -> int:
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return int(trial.getsockname()[1])


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with serving(tmp_path / "flags.json", grpc_port=free_port()) as made:
        yield made


def test_all_flags_are_given_in_flagds_own_language(server: Server) -> None:
    stream = Client(server.sync).sync()
    next(stream)
    server.write(changed("welcome", crossfade={"killed": {"by": "ada", "at": 1.0, "why": "it broke"}, "off": "off"}))
    killed = json.loads(next(stream).flag_configuration)
    assert "crossfade" not in killed["flags"]["welcome"]
    assert killed["flags"]["welcome"]["defaultVariant"] == "off"
    assert Client(server.sync).fetch() == killed
    stream.cancel()


def test_a_change_is_streamed(server: Server) -> None:
    stream = Client(server.sync).sync()
    assert json.loads(next(stream).flag_configuration)["flags"]["welcome"]["defaultVariant"] == "on"
    for variant in ("off", "on"):
        server.write(changed("welcome", defaultVariant=variant))
        assert json.loads(next(stream).flag_configuration)["flags"]["welcome"]["defaultVariant"] == variant
    stream.cancel()


def test_the_metadata_that_old_providers_ask_for_is_there_and_empty(server: Server) -> None:
    answer = Client(server.sync).describe()
    assert answer.HasField("metadata")
    assert len(answer.metadata.fields) == 0


def test_a_server_that_is_ended_ends_its_streams(server: Server) -> None:
    stream = Client(server.sync).sync()
    next(stream)
    server.process.terminate()
    with pytest.raises((grpc.RpcError, StopIteration)):
        next(stream)
    server.process.wait(20)


def test_a_token_is_wanted_where_the_server_has_one(tmp_path: Path) -> None:
    with serving(tmp_path / "flags.json", token="s3cret", grpc_port=free_port()) as server:
        assert Client(server.sync, authorization="Bearer s3cret").fetch()["flags"]
        assert Client(server.sync, **{"x-api-key": "s3cret"}).fetch()["flags"]
        assert Client(server.sync).fetch("s3cret")["flags"]  # of a provider that can send nothing else
        for client, selector in ((Client(server.sync), ""), (Client(server.sync), "wrong")):
            assert refused(lambda c=client, s=selector: c.fetch(s)) is grpc.StatusCode.UNAUTHENTICATED
            assert refused(lambda c=client, s=selector: next(c.sync(s))) is grpc.StatusCode.UNAUTHENTICATED
        wrong = Client(server.sync, authorization="Bearer wrong")
        assert refused(wrong.fetch) is grpc.StatusCode.UNAUTHENTICATED


def test_a_port_that_is_taken_is_told(tmp_path: Path) -> None:
    from crossfade.bootstrap.flag_file import serve_flag_file
    from crossfade.domain.errors import Refused

    path = tmp_path / "flags.json"
    path.write_text("{}")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(Refused, match="sync service"):
            serve_flag_file(path, port=0, grpc_port=taken.getsockname()[1])


def test_messages_are_those_of_flagds_own_description() -> None:
    """Field numbers as they are on the wire: a provider of any language reads them."""
    made = MADE["SyncFlagsRequest"](provider_id="p", selector="s")
    assert made.SerializeToString() == b"\x0a\x01p\x12\x01s"
    assert MADE["SyncFlagsResponse"](flag_configuration="{}").SerializeToString() == b"\x0a\x02{}"
    answer = MADE["SyncFlagsResponse"]()
    answer.sync_context.SetInParent()
    assert answer.SerializeToString() == b"\x12\x00"


# --- of an installation


@contextmanager
def installed(world: World, pem: tuple[Path, Path] | None = None) -> Iterator[str]:
    """The service over an installation; its address."""
    source = Installation(world.service, Guard(world.service, TOKEN))
    world.service.hub.start()
    begun: queue.Queue[tuple[int, asyncio.AbstractEventLoop, asyncio.Event]] = queue.Queue()

    async def serve() -> None:
        service, ended = FlagdSync(source, Channels(source), "127.0.0.1:0", pem), asyncio.Event()
        await service.start()
        begun.put((service.port, asyncio.get_running_loop(), ended))
        await ended.wait()
        await service.stop()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    port, loop, ended = begun.get(timeout=20)
    try:
        yield f"localhost:{port}"
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join(20)
        world.service.hub.stop()


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    made.settle()
    for key, default in ((KEY, "on"), (STAGING, "off")):
        made.service.flags.save(key, "welcome", {**FLAGS["flags"]["welcome"], "defaultVariant": default}, ADA)
    return made


def default(document: dict[str, Any]) -> str:
    return str(document["flags"]["welcome"]["defaultVariant"])


def test_a_token_decides_which_environment_is_synced(world: World) -> None:
    replica, viewer = world.parts.events_token(KEY), world.token("viewer@shop/staging")
    with installed(world) as address:
        assert default(Client(address, authorization=f"Bearer {replica}").fetch()) == "on"
        assert default(Client(address).fetch(replica)) == "on"
        assert default(Client(address, authorization=f"Bearer {viewer}").fetch(str(STAGING))) == "off"
        named = {"authorization": f"Bearer {viewer}", "flagd-selector": f"flagSetId={STAGING}"}
        assert default(Client(address, **named).fetch()) == "off"
        for client, selector, status in (
            (Client(address), "", grpc.StatusCode.UNAUTHENTICATED),
            (Client(address), str(KEY), grpc.StatusCode.UNAUTHENTICATED),
            (Client(address, authorization=f"Bearer {viewer}"), str(KEY), grpc.StatusCode.PERMISSION_DENIED),
            (Client(address, authorization=f"Bearer {replica}"), str(STAGING), grpc.StatusCode.PERMISSION_DENIED),
            (Client(address, authorization=f"Bearer {viewer}"), "", grpc.StatusCode.INVALID_ARGUMENT),
            (Client(address, authorization=f"Bearer {TOKEN}"), "shop/nowhere", grpc.StatusCode.NOT_FOUND),
        ):
            assert refused(lambda c=client, s=selector: c.fetch(s)) is status


def test_a_change_of_one_environment_is_streamed_to_those_who_sync_it(world: World) -> None:
    with installed(world) as address:
        stream = Client(address).sync(world.parts.events_token(KEY))
        assert default(json.loads(next(stream).flag_configuration)) == "on"
        world.service.flags.save(STAGING, "welcome", {**FLAGS["flags"]["welcome"], "metadata": {"n": 1}}, ADA)
        world.service.flags.kill(KEY, "welcome", "it broke", ADA)
        world.service.flags.save(KEY, "welcome", {**FLAGS["flags"]["welcome"], "defaultVariant": "off"}, ADA)
        told = default(json.loads(next(stream).flag_configuration))
        while told != "off":
            told = default(json.loads(next(stream).flag_configuration))
        stream.cancel()


def test_it_speaks_tls_with_the_certificate_of_the_server(world: World, tmp_path: Path) -> None:
    certificate, key = make(tmp_path, "localhost")
    with installed(world, (certificate, key)) as address:
        trusted = grpc.ssl_channel_credentials(certificate.read_bytes())
        client = Client(address)
        client.channel = grpc.secure_channel(address, trusted)
        assert default(client.fetch(world.parts.events_token(KEY))) == "on"
        assert refused(lambda: Client(address).fetch(world.parts.events_token(KEY))) is grpc.StatusCode.UNAVAILABLE
