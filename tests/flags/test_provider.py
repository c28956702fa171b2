"""The in-process provider: what it serves, what it says of itself, and what it does when its server fails."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from openfeature import api
from openfeature.client import OpenFeatureClient
from openfeature.evaluation_context import EvaluationContext
from openfeature.event import EventDetails, ProviderEvent
from openfeature.exception import ErrorCode, ProviderNotReadyError
from openfeature.provider import ProviderStatus

from crossfade.domain.errors import Invalid
from crossfade.flags import CrossfadeProvider, follower, request
from crossfade.flags.holding import Holding, read_answer, read_file, write_file
from tests.e2e import certificates
from tests.flags.flag_server import FlagServer, eventually, flag_server, switch
from tests.sdks.serving import DOCUMENT, QUESTIONS, Question


@pytest.fixture
def server() -> Iterator[FlagServer]:
    with flag_server() as running:
        yield running


class Told:
    """What a provider said of itself, in order."""

    def __init__(self, client: OpenFeatureClient) -> None:
        self.events: list[tuple[str, EventDetails]] = []
        for event in ProviderEvent:
            client.add_handler(event, partial(self._add, event.name))

    def _add(self, name: str, details: EventDetails) -> None:
        self.events.append((name, details))

    def of(self, name: str) -> list[EventDetails]:
        return [details for told, details in self.events if told == f"PROVIDER_{name}"]


@pytest.fixture
def connect(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Makes a provider the one of a client; all are shut down at the end."""
    made: list[CrossfadeProvider] = []

    def connected(server: FlagServer | None = None, **options: Any) -> tuple[CrossfadeProvider, OpenFeatureClient]:
        if server is not None:
            options = {"url": server.url, "token": "t", "service": "shop", "environment": "production"} | options
        provider = CrossfadeProvider(**{"stale_after": 0.1, "poll": 0.05} | options)
        made.append(provider)
        domain = f"{request.node.name}-{len(made)}"
        try:
            api.set_provider_and_wait(provider, domain=domain)
        except ProviderNotReadyError:
            assert not options.get("timeout", 5.0) > 1.0
        return provider, api.get_client(domain)

    yield connected
    for provider in made:
        provider.shutdown()
    api.clear_providers()


def on(client: OpenFeatureClient) -> bool:
    return client.get_boolean_value("new-checkout", False)


@pytest.mark.parametrize("question", QUESTIONS, ids=str)
def test_every_type_and_every_error_is_as_any_other_provider_has_it(connect: Any, question: Question) -> None:
    _, client = connect(document=DOCUMENT)
    attributes = dict(question.context)
    context = EvaluationContext(attributes.pop("targetingKey", None), attributes)
    ask: Any = getattr(client, f"get_{question.type}_details")
    found = ask(question.flag, question.default, context)
    assert found.value == question.value
    assert type(found.value) is type(question.value)
    assert (found.reason, found.variant) == (question.reason, question.variant)
    assert found.error_code == (ErrorCode(question.error) if question.error else None)
    assert dict(found.flag_metadata).items() >= question.metadata.items()


def test_numbers_are_of_the_kind_that_is_asked_for_where_they_can_be(connect: Any) -> None:
    variants = {"whole": 2.0, "int": 3, "half": 0.5}
    flags = {name: {"state": "ENABLED", "variants": variants, "defaultVariant": name} for name in variants}
    _, client = connect(document={"flags": flags})
    assert client.get_integer_details("whole", 0).value == 2
    assert type(client.get_float_value("int", 0.0)) is float
    assert client.get_integer_details("half", 7).error_code is ErrorCode.TYPE_MISMATCH
    assert client.get_integer_value("half", 7) == 7


def test_what_an_application_does_with_an_object_is_nobody_elses_affair(connect: Any) -> None:
    _, client = connect(document=DOCUMENT)
    client.get_object_value("banner", {})["sizes"].append("mine")
    assert client.get_object_value("banner", {})["sizes"] == [1, 2.5, {"deep": None}]


def test_the_release_is_part_of_the_context_unless_the_application_says_another(
    connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    flag = {
        "state": "ENABLED",
        "variants": {"on": True, "off": False},
        "defaultVariant": "off",
        "targeting": {"if": [{"==": [{"var": "release"}, "r12"]}, "on"]},
    }
    monkeypatch.setenv("CROSSFADE_RELEASE", "r12")
    _, client = connect(document={"flags": {"new-checkout": flag}})
    assert on(client) is True
    assert client.get_boolean_value("new-checkout", True, EvaluationContext(None, {"release": "r11"})) is False


def test_a_time_in_the_context_is_text_as_json_has_it(connect: Any) -> None:
    flag = {
        "state": "ENABLED",
        "variants": {"on": True, "off": False},
        "defaultVariant": "off",
        "targeting": {"if": [{"starts_with": [{"var": "since"}, "2026-10-01T"]}, "on"]},
    }
    _, client = connect(document={"flags": {"new-checkout": flag}})
    since = datetime(2026, 10, 1, 12, tzinfo=UTC)
    assert client.get_boolean_value("new-checkout", False, EvaluationContext(None, {"since": since})) is True


def test_a_change_is_served_and_told(connect: Any, server: FlagServer) -> None:
    provider, client = connect(server)
    told = Told(client)
    assert on(client) is False
    server.say(switch(True))
    eventually(lambda: on(client))
    assert provider.version == 2
    eventually(lambda: told.of("CONFIGURATION_CHANGED"))
    assert told.of("CONFIGURATION_CHANGED")[0].flags_changed == ["new-checkout"]
    assert server.fetches.count(200) == 2, "the set is asked for when it has changed, and only then"


def test_it_says_who_it_is_and_which_environment_it_means(connect: Any, server: FlagServer) -> None:
    connect(server, token="secret")
    for headers in server.seen:
        assert headers["Authorization"] == "Bearer secret"
        assert headers["X-Crossfade-Environment"] == "shop/production"


def test_without_a_stream_it_polls_by_the_tag(connect: Any, server: FlagServer) -> None:
    server.streams = False
    _, client = connect(server)
    eventually(lambda: 304 in server.fetches)
    server.say(switch(True))
    eventually(lambda: on(client))


def test_a_server_that_dies_is_told_of_with_the_age_and_found_again(connect: Any, server: FlagServer) -> None:
    server.say(switch(True))
    provider, client = connect(server)
    told = Told(client)
    assert client.get_boolean_details("new-checkout", False).flag_metadata == {}
    server.stop()
    eventually(lambda: client.get_provider_status() is ProviderStatus.STALE)
    found = client.get_boolean_details("new-checkout", False)
    assert (found.value, found.reason, found.error_code) == (True, "STATIC", None)
    assert found.flag_metadata["stale"] is True
    assert provider.stale
    eventually(lambda: told.of("STALE"))
    assert told.of("STALE")[0].metadata["version"] == 2
    assert float(told.of("STALE")[0].metadata["age"]) > 0
    before = provider.age
    eventually(lambda: provider.age > before)

    server.start()
    eventually(lambda: client.get_provider_status() is ProviderStatus.READY)
    assert client.get_boolean_details("new-checkout", False).flag_metadata == {}
    server.say(switch(False))
    eventually(lambda: not on(client))


def test_a_server_that_has_lost_sight_of_its_ledger_tells_its_age_and_we_tell_it_on(
    connect: Any, server: FlagServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower, "CONFIRM_EVERY", 0.1)
    provider, client = connect(server)
    server.age = 600
    eventually(lambda: client.get_provider_status() is ProviderStatus.STALE)
    assert provider.age is not None
    assert provider.age > 599
    server.age = 0
    eventually(lambda: client.get_provider_status() is ProviderStatus.READY)
    assert provider.age < 599


def test_without_a_first_set_the_codes_own_default_is_served_until_there_is_one(
    connect: Any, server: FlagServer
) -> None:
    server.stop()
    provider, client = connect(server, timeout=0.2)
    assert client.get_provider_status() is ProviderStatus.ERROR
    found = client.get_boolean_details("new-checkout", True)
    assert (found.value, found.error_code) == (True, ErrorCode.PROVIDER_NOT_READY)
    assert provider.age is None
    server.say(switch(True))
    server.start()
    eventually(lambda: client.get_provider_status() is ProviderStatus.READY)
    assert on(client) is True


def test_a_server_that_accepts_and_says_nothing_holds_up_nobody(connect: Any) -> None:
    import socket

    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        options = {"url": f"http://127.0.0.1:{silent.getsockname()[1]}", "token": "t"}
        _, client = connect(service="shop", environment="production", timeout=0.2, **options)
        assert client.get_boolean_value("new-checkout", True) is True


BAD = {
    "not-json": b"{",
    "not-utf8": b'{"version": 1, "document": {"flags": {"\xff": {}}}}',
    "a-list": b"[]",
    "no-flags": b'{"version": 1, "document": {"flags": 7}}',
    "a-version-that-is-none": b'{"version": "new", "document": {"flags": {}}}',
    "a-bomb": b"[" * 100_000,
    "an-unknown-variant": b'{"version":1,"document":{"flags":{"a":{"state":"ENABLED","variants":{},"defaultVariant":"x"}}}}',
    "empty": b"",
}


@pytest.mark.parametrize("body", BAD.values(), ids=BAD)
def test_a_set_that_cannot_be_read_does_not_replace_the_last_good_one(
    connect: Any, server: FlagServer, body: bytes
) -> None:
    server.say(switch(True))
    provider, client = connect(server)
    server.say_bytes(body)
    eventually(lambda: client.get_provider_status() is ProviderStatus.STALE)
    assert on(client) is True
    assert provider.version == 2
    server.say(switch(False))
    eventually(lambda: not on(client))
    eventually(lambda: client.get_provider_status() is ProviderStatus.READY)


@pytest.mark.parametrize("status", [401, 403, 500, 503])
def test_a_refusal_leaves_the_last_good_set(connect: Any, server: FlagServer, status: int) -> None:
    server.say(switch(True))
    _, client = connect(server)
    server.status = status
    server.say(switch(False))
    eventually(lambda: client.get_provider_status() is ProviderStatus.STALE)
    assert on(client) is True
    server.status = 200
    eventually(lambda: not on(client))


def test_over_tls_only_a_certificate_that_is_trusted_is_believed(
    connect: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, key = certificates.make(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    server = FlagServer().start(context)
    try:
        server.say(switch(True))
        _, stranger = connect(server, timeout=0.5)
        assert stranger.get_boolean_details("new-checkout", False).error_code is ErrorCode.PROVIDER_NOT_READY
        monkeypatch.setenv("CROSSFADE_CA", str(certificate))
        _, client = connect(server)
        assert on(client) is True
        server.say(switch(False))
        eventually(lambda: not on(client))
    finally:
        server.stop()


# Files


def test_a_file_that_many_write_at_once_is_whole_at_every_moment(tmp_path: Path) -> None:
    file = tmp_path / "flags.json"
    sets = [read_answer({"version": n, "document": switch(n % 2 == 0)}, 1.0) for n in range(1, 5)]
    write_file(file, sets[0])
    stop = threading.Event()

    def write(held: Holding) -> None:
        while not stop.is_set():
            write_file(file, held)

    threads = [threading.Thread(target=write, args=(held,)) for held in sets]
    for thread in threads:
        thread.start()
    try:
        versions = {read_file(file).version for _ in range(300)}
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert versions <= {1, 2, 3, 4}
    assert list(tmp_path.iterdir()) == [file]


def test_each_new_set_is_kept_and_serves_at_the_next_start_without_a_server(
    connect: Any, server: FlagServer, tmp_path: Path
) -> None:
    cache = tmp_path / "made" / "flags.json"
    server.say(switch(True))
    provider, _ = connect(server, cache=cache)
    eventually(cache.exists)
    server.stop()
    provider.shutdown()

    again, client = connect(server, cache=cache)
    assert on(client) is True
    assert again.version == 2
    assert again.age > 0
    eventually(lambda: client.get_provider_status() is ProviderStatus.STALE)
    server.say(switch(False))
    server.start()
    eventually(lambda: not on(client))
    eventually(lambda: json.loads(cache.read_text())["version"] == 3)
    assert list(cache.parent.iterdir()) == [cache]


def test_a_bootstrap_file_serves_until_the_server_answers_and_is_left_as_it_is(
    connect: Any, server: FlagServer, tmp_path: Path
) -> None:
    bootstrap = tmp_path / "flags.json"
    bootstrap.write_text(json.dumps(switch(True)))
    content = bootstrap.read_bytes()
    server.stop()
    _, client = connect(server, bootstrap=bootstrap)
    assert on(client) is True
    server.start()
    eventually(lambda: not on(client))
    assert bootstrap.read_bytes() == content


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"version": 1}', b"\xff\xfe"])
def test_a_cache_that_is_damaged_gives_way_to_the_bootstrap_file(
    connect: Any, server: FlagServer, tmp_path: Path, content: bytes
) -> None:
    cache, bootstrap = tmp_path / "cache.json", tmp_path / "bootstrap.json"
    cache.write_bytes(content)
    bootstrap.write_text(json.dumps(switch(True)))
    server.stop()
    _, client = connect(server, cache=cache, bootstrap=bootstrap)
    assert on(client) is True


def test_a_cache_that_cannot_be_written_stops_nothing(connect: Any, server: FlagServer, tmp_path: Path) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.touch()
    _, client = connect(server, cache=in_the_way / "flags.json")
    server.say(switch(True))
    eventually(lambda: on(client))


def test_a_file_by_itself_is_followed_through_a_mistake(connect: Any, tmp_path: Path) -> None:
    file = tmp_path / "flags.json"
    file.write_text(json.dumps(switch(False)))
    _, client = connect(file=file)
    assert on(client) is False
    file.write_text(json.dumps(switch(True)))
    eventually(lambda: on(client))
    file.write_text("{")
    eventually(lambda: client.get_provider_status() is ProviderStatus.STALE)
    assert on(client) is True
    file.write_text(json.dumps(switch(False)))
    eventually(lambda: not on(client))
    eventually(lambda: client.get_provider_status() is ProviderStatus.READY)


@pytest.mark.parametrize("url", ["", "ftp://there", "7420", "http://"])
def test_a_url_that_is_none_is_refused_at_once(url: str) -> None:
    with pytest.raises(Invalid, match="CROSSFADE_FLAGS_URL"):
        CrossfadeProvider(url, "t", service="shop", environment="production")


# What it costs those who import it, and what it leaves behind


def test_importing_it_brings_nothing_heavy_with_it() -> None:
    code = "import crossfade.flags, sys; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    loaded = set(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    )
    heavy = {"numpy", "scipy", "sqlalchemy", "fastapi", "starlette", "pydantic", "httpx", "uvicorn", "dbos", "grpc"}
    assert loaded & heavy == set()
    assert "openfeature" in loaded


def test_it_ends_with_no_thread_left(server: FlagServer) -> None:
    provider = CrossfadeProvider(server.url, "t", service="shop", environment="production")
    provider.initialize(EvaluationContext())
    ours = [thread for thread in threading.enumerate() if thread.name.startswith("crossfade-flag")]
    assert len(ours) == 2
    provider.shutdown()
    assert not any(thread.is_alive() for thread in ours)


def test_it_can_be_ended_and_begun_again(connect: Any, server: FlagServer) -> None:
    provider, client = connect(server)
    provider.shutdown()
    provider.initialize(EvaluationContext())
    server.say(switch(True))
    eventually(lambda: on(client))


# The header


def test_what_is_served_in_a_request_is_told_and_what_fails_is_not(connect: Any) -> None:
    _, client = connect(document=DOCUMENT)
    with request() as made:
        client.get_boolean_value("new-checkout", False, EvaluationContext("ada", {"country": "de"}))
        client.get_string_value("always", "a mistake")
        client.get_boolean_value("nowhere", False)
        client.get_boolean_value("off", False)
    assert made.header() == "new-checkout=on"


# Fork


def test_after_a_fork_the_child_follows_the_flags_too_and_the_parent_goes_on(connect: Any, server: FlagServer) -> None:
    _, client = connect(server)
    assert on(client) is False
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:  # pragma: no cover - another process
        try:
            deadline = time.monotonic() + 20
            os.write(writer, b"?" if on(client) else b"0")
            while not on(client) and time.monotonic() < deadline:
                time.sleep(0.01)
            os.write(writer, b"1" if on(client) else b"!")
        finally:
            os._exit(0)
    try:
        assert os.read(reader, 1) == b"0"
        eventually(lambda: len({headers.get("Accept") for headers in server.seen}) > 1)
        server.say(switch(True))
        assert os.read(reader, 1) == b"1"
        eventually(lambda: on(client))
    finally:
        os.waitpid(child, 0)
        os.close(reader)
        os.close(writer)


def test_evaluations_in_many_threads_while_the_set_changes_are_of_one_set_or_the_next(
    connect: Any, server: FlagServer
) -> None:
    _, client = connect(server)
    stop = threading.Event()
    wrong: list[Any] = []

    def work() -> None:
        while not stop.is_set():
            found = client.get_boolean_details("new-checkout", False)
            if found.error_code or found.value is not (found.variant == "on"):
                wrong.append(found)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for turn in range(8):
        server.say(switch(turn % 2 == 0))
        eventually(lambda turn=turn: on(client) is (turn % 2 == 0))
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []
