"""OFREP on a real server of a file: what is answered, tagged, refused, and told when something changes."""

from __future__ import annotations

import asyncio
import itertools
import json
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crossfade.api.ofrep import AT_ONCE
from crossfade.api.ofrep_limits import LARGEST_BODY
from crossfade.bootstrap.flag_file import FlagFile, flag_file_app
from tests.api.ofrep_world import FLAGS, Server, changed, serving


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose file no test changes."""
    with serving(tmp_path_factory.mktemp("flags") / "flags.json") as server:
        yield server


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with serving(tmp_path / "flags.json") as server:
        yield server


def wait_for(holds: Any) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# --- one flag


def test_a_flag_is_answered_with_its_value_variant_and_reason(kept: Server) -> None:
    answer = kept.one("welcome", targetingKey="ada")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == {
        "key": "welcome",
        "reason": "STATIC",
        "variant": "on",
        "value": True,
        "metadata": {"flagSetId": "dev"},
    }
    assert kept.one("layout").json()["value"] == {"columns": 1}


def test_targeting_decides_by_the_context(kept: Server) -> None:
    for country, variant, reason in (("de", "blue", "TARGETING_MATCH"), ("fr", "red", "DEFAULT")):
        said = kept.one("colour", country=country).json()
        assert (said["variant"], said["reason"]) == (variant, reason)


def test_numbers_of_a_flag_that_has_fractions_are_all_written_with_a_point(kept: Server) -> None:
    answer = kept.one("ratio")
    assert '"value":1.0' in answer.text
    assert answer.json()["metadata"] == {"flagSetId": "dev", "team": "shop", "prio": 1.5, "old": False}


@pytest.mark.parametrize(("key", "reason"), [("sleeping", "DISABLED"), ("codes-own", "DEFAULT")])
def test_where_the_codes_own_default_is_meant_there_is_no_value(kept: Server, key: str, reason: str) -> None:
    answer = kept.one(key)
    assert answer.status_code == 200
    assert answer.json()["reason"] == reason
    assert "value" not in answer.json()
    assert answer.json()["variant"] == ""  # the provider of Python fails without one


def test_a_key_may_have_any_characters(kept: Server) -> None:
    assert kept.one("a/b").json()["key"] == "a/b"
    assert kept.one("a%2Fb").json()["value"] is True


def test_a_flag_that_there_is_not_is_not_found(kept: Server) -> None:
    answer = kept.one("nowhere")
    assert answer.status_code == 404
    said = answer.json()
    assert (said["key"], said["errorCode"]) == ("nowhere", "FLAG_NOT_FOUND")
    assert said["errorDetails"]


def test_an_evaluation_that_fails_says_why(kept: Server) -> None:
    answer = kept.one("broken", variant="purple")
    assert answer.status_code == 400
    said = answer.json()
    assert (said["key"], said["errorCode"]) == ("broken", "GENERAL")
    assert "purple" in said["errorDetails"]
    assert kept.one("broken", variant="on").json()["value"] is True


# --- all flags


def test_all_flags_come_at_once_each_as_it_comes_alone(kept: Server) -> None:
    answer = kept.all(targetingKey="ada", country="de", variant="purple")
    said = answer.json()
    assert [one["key"] for one in said["flags"]] == list(FLAGS["flags"])
    for one in said["flags"]:
        assert one == kept.one(one["key"], targetingKey="ada", country="de", variant="purple").json()
    assert said["metadata"] == {"flagSetId": "dev"}
    (stream,) = said["eventStreams"]
    assert stream["type"] == "sse"
    assert stream["url"].startswith(kept.url)


def test_the_same_body_has_the_same_tag_and_is_not_sent_again(kept: Server) -> None:
    first = kept.all(country="de")
    tag = first.headers["etag"]
    assert kept.all(country="de").headers["etag"] == tag
    for sent in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        again = kept.all(sent, country="de")
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    for sent in ('"other"', "nonsense", tag[1:-1]):
        assert kept.all(sent, country="de").status_code == 200


contexts = st.dictionaries(st.sampled_from(["country", "variant", "targetingKey"]), st.sampled_from(["de", "on", "x"]))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(one=contexts, other=contexts)
def test_two_answers_have_the_same_tag_exactly_when_they_are_the_same(
    kept: Server, one: dict[str, str], other: dict[str, str]
) -> None:
    first, second = kept.all(**one), kept.all(**other)
    assert (first.headers["etag"] == second.headers["etag"]) == (first.content == second.content)
    assert (kept.all(first.headers["etag"], **other).status_code == 304) == (first.content == second.content)


@pytest.mark.parametrize(
    "document",
    [
        changed("welcome", defaultVariant="off"),
        changed("welcome", variants={"on": "yes", "off": "no"}),
        changed("welcome", state="DISABLED"),
        changed("welcome", metadata={"team": "other"}),
        changed("welcome", targeting={"var": "nothing"}),
        changed("fresh", state="ENABLED", variants={"on": 1}, defaultVariant="on"),
        {**FLAGS, "metadata": {"flagSetId": "prod"}},
    ],
)
def test_whatever_changes_of_an_outcome_changes_the_tag(server: Server, document: dict[str, Any]) -> None:
    tag = server.all().headers["etag"]
    server.write(document)
    wait_for(lambda: server.all(tag).status_code == 200)
    assert server.all().headers["etag"] != tag


def test_what_changes_no_outcome_leaves_the_tag(server: Server) -> None:
    tag = server.all().headers["etag"]
    with server.listening() as events:
        server.write(changed("colour", targeting={"if": [{"==": ["de", {"var": "country"}]}, "blue", None]}))
        next(events)
        assert server.all(tag).status_code == 304


# --- what is refused


@pytest.mark.parametrize("path", ["/ofrep/v1/evaluate/flags", "/ofrep/v1/evaluate/flags/welcome"])
@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"\xff\xfe", 400, "PARSE_ERROR"),
        (b"[1", 400, "PARSE_ERROR"),
        (b'{"context": 1}', 400, "INVALID_CONTEXT"),
        (b'{"context": {"a": ' + b"[" * 100 + b"]" * 100 + b"}}", 400, "INVALID_CONTEXT"),
        (b"x" * (LARGEST_BODY + 1), 413, "GENERAL"),
    ],
)
def test_a_hostile_body_is_refused_in_the_protocols_form(
    kept: Server, path: str, body: bytes, status: int, code: str
) -> None:
    answer = kept.client.post(path, content=body)
    assert answer.status_code == status
    said = answer.json()
    assert (said["errorCode"], said.get("key")) == (code, "welcome" if path.endswith("welcome") else None)
    assert said["errorDetails"]


def test_thousands_of_flags_are_answered_in_their_order_and_others_have_their_turn_meanwhile(tmp_path: Path) -> None:
    async def turns(count: int) -> int:
        """How often others have their turn while so many flags are evaluated."""
        path = tmp_path / f"{count}.json"
        path.write_text(json.dumps({"flags": {f"flag-{n}": FLAGS["flags"]["welcome"] for n in range(count)}}))
        transport = httpx.ASGITransport(flag_file_app(FlagFile(path)))
        async with httpx.AsyncClient(transport=transport, base_url="http://flags") as client:
            asking = asyncio.create_task(client.post("/ofrep/v1/evaluate/flags"))
            taken = 0
            while not asking.done():
                await asyncio.sleep(0)
                taken += 1
        assert [flag["key"] for flag in asking.result().json()["flags"]] == [f"flag-{n}" for n in range(count)]
        return taken

    assert asyncio.run(turns(5 * AT_ONCE)) >= asyncio.run(turns(AT_ONCE)) + 4


def test_a_body_without_a_length_is_bounded_all_the_same(kept: Server) -> None:
    assert kept.client.post("/ofrep/v1/evaluate/flags/welcome", content=iter([b"{", b"}"])).status_code == 200
    endless = (b" " * 65536 for _ in range(100))
    assert kept.client.post("/ofrep/v1/evaluate/flags/welcome", content=endless).status_code == 413


def test_a_body_needs_no_content_type_and_no_targeting_key(kept: Server) -> None:
    answer = kept.client.post("/ofrep/v1/evaluate/flags/welcome", content=b'{"context": {}}')
    assert answer.json()["value"] is True
    assert kept.client.post("/ofrep/v1/evaluate/flags/welcome").json()["value"] is True


def test_a_request_that_breaks_off_harms_nobody(kept: Server) -> None:
    with socket.create_connection(("127.0.0.1", kept.port)) as broken:
        broken.sendall(b"POST /ofrep/v1/evaluate/flags HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
    assert kept.one("welcome").status_code == 200
    assert not any("Traceback" in line for line in kept.log)


def test_a_token_is_wanted_where_the_server_has_one(tmp_path: Path) -> None:
    with serving(tmp_path / "flags.json", token="s3cret") as server:
        assert server.one("welcome").status_code == 200
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"X-API-Key": "wrong"}, {"Authorization": "Basic x"}):
            for path in ("evaluate/flags", "evaluate/flags/welcome"):
                answer = httpx.post(f"{server.url}/ofrep/v1/{path}", headers=headers, trust_env=False)
                assert answer.status_code == 401
                assert answer.json()["errorDetails"]
        key = {"X-API-Key": "s3cret"}
        assert httpx.post(f"{server.url}/ofrep/v1/evaluate/flags", headers=key, trust_env=False).status_code == 200
        assert httpx.get(f"{server.url}/ofrep/v1/changes", trust_env=False).status_code == 401


def test_pages_of_this_machine_may_ask_and_others_may_not(kept: Server) -> None:
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type,if-none-match"}
    for origin, allowed in (("http://localhost:3000", True), ("https://evil.example", False)):
        answer = kept.client.options("/ofrep/v1/evaluate/flags", headers={"Origin": origin, **asked})
        assert (answer.headers.get("access-control-allow-origin") == origin) == allowed
    answer = kept.client.post("/ofrep/v1/evaluate/flags", headers={"Origin": "http://localhost:3000"})
    assert "ETag" in answer.headers["access-control-expose-headers"]


# --- the file


def test_a_change_of_the_file_is_told_and_served(server: Server) -> None:
    with server.listening() as events:
        for variant in ("off", "on", "off"):
            server.write(changed("welcome", defaultVariant=variant))
            event = next(events)
            assert event["type"] == "refetchEvaluation"
            assert event["etag"] == f'"{event["id"]}"'
            assert isinstance(event["lastModified"], int)
            assert server.one("welcome").json()["variant"] == variant


@pytest.mark.parametrize(
    "text", ["{", "", "[]", '{"flags": {"x": 1}}', '{"flags": {"welcome": {"defaultVariant": "nowhere"}}}', "\udcff"]
)
def test_a_broken_file_keeps_the_last_good_one_and_says_so(server: Server, text: str) -> None:
    assert server.client.get("/readyz").json() == {"ready": True, "reasons": []}
    server.path.write_bytes(text.encode(errors="surrogateescape"))
    wait_for(lambda: server.client.get("/readyz").status_code == 503)
    (reason,) = server.client.get("/readyz").json()["reasons"]
    assert "flags.json" in reason
    answer = server.one("welcome")
    assert answer.json()["value"] is True
    assert int(answer.headers["x-crossfade-flags-age"]) >= 0
    assert any("goes on being served" in line for line in server.log)
    server.write(changed("welcome", defaultVariant="off"))
    wait_for(lambda: server.one("welcome").json()["variant"] == "off")
    assert server.client.get("/readyz").status_code == 200
    assert "x-crossfade-flags-age" not in server.one("welcome").headers


def test_a_file_that_is_gone_keeps_being_served_and_is_taken_when_it_is_back(server: Server) -> None:
    server.path.unlink()
    wait_for(lambda: server.client.get("/readyz").status_code == 503)
    assert server.one("welcome").json()["value"] is True
    server.write(FLAGS)
    wait_for(lambda: server.client.get("/readyz").status_code == 200)


# --- listening


def stream_of(server: Server) -> str:
    url: str = server.all().json()["eventStreams"][0]["url"]
    return url


def test_a_ticket_lets_one_listen_and_do_nothing_else(tmp_path: Path) -> None:
    with serving(tmp_path / "flags.json", token="s3cret") as server:
        url = stream_of(server)
        assert stream_of(server) == url  # or each answer would have another tag
        anybody = httpx.Client(trust_env=False, timeout=20)
        with anybody.stream("GET", url) as answer:
            assert answer.status_code == 200
        query = url.partition("?")[2]
        assert anybody.post(f"{server.url}/ofrep/v1/evaluate/flags?{query}").status_code == 401
        ticket = query.removeprefix("ticket=")
        assert anybody.post(f"{server.url}/ofrep/v1/evaluate/flags", headers={"X-API-Key": ticket}).status_code == 401
        until, proof, rest = ticket.split(".", 2)
        forged = [f"{int(until) + 1}.{proof}.{rest}", f"{until}.{proof}.{rest}x", f"{until}..", "", "x", "é.é.é"]
        for one in forged:
            answer = anybody.get(f"{server.url}/ofrep/v1/changes", params={"ticket": one})
            assert answer.status_code == 401, one


def test_who_listens_again_with_the_last_event_is_told_what_was_missed(server: Server) -> None:
    with server.listening() as events:
        server.write(changed("welcome", defaultVariant="off"))
        last = next(events)["id"]
    server.write(changed("welcome", defaultVariant="on"))
    wait_for(lambda: server.one("welcome").json()["variant"] == "on")
    with server.listening(**{"Last-Event-ID": last}) as events:
        missed = next(events)
        assert missed["id"] != last
    with server.listening(**{"Last-Event-ID": missed["id"]}) as events:
        server.write(changed("welcome", state="DISABLED"))
        assert next(events)["id"] not in (missed["id"], last)  # and it was not told the same again


def test_many_listen_and_all_are_told(server: Server) -> None:
    opened = []
    for _ in range(50):
        listener = socket.create_connection(("127.0.0.1", server.port), timeout=20)
        listener.sendall(b"GET /ofrep/v1/changes HTTP/1.1\r\nHost: x\r\n\r\n")
        opened.append(listener)
    for listener in opened:
        told = b""
        while b"welcome" not in told:
            told += listener.recv(4096)
    server.write(changed("welcome", defaultVariant="off"))
    for listener in opened:
        told = b""
        while b"refetchEvaluation" not in told:
            told += listener.recv(4096)
        listener.close()


def test_the_time_itself_is_told_when_it_changes_an_outcome(server: Server) -> None:
    with server.listening() as events:
        begins = time.time() + 1.5
        rule = {"name": "launch", "serve": "off", "from": begins}
        server.write(changed("welcome", crossfade={"rules": [rule]}))
        next(events)
        tag = server.all().headers["etag"]
        told = next(events)
        assert told["lastModified"] >= int(begins)
        wait_for(lambda: server.all(tag).status_code == 200)
        assert server.one("welcome").json()["variant"] == "off"


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_server_that_is_ended_ends_its_streams_and_itself(server: Server, how: signal.Signals) -> None:
    with server.listening() as events:
        server.process.send_signal(how)
        assert list(events) == []
    assert server.process.wait(20) in (0, -how)


def test_a_server_that_is_killed_is_found_again_where_it_was(tmp_path: Path) -> None:
    with serving(tmp_path / "flags.json") as server:
        url, port = stream_of(server), server.port
        with server.listening() as events:
            server.process.kill()
            with pytest.raises(httpx.HTTPError):
                list(events)
        server.process.wait()
        again = Server(server.path, port=port)
        try:
            assert again.one("welcome").json()["value"] is True
            with again.listening(url):  # its URL is good still
                pass
        finally:
            again.end()


# --- starting


def test_a_file_that_is_wrong_or_not_there_is_told_at_once(tmp_path: Path) -> None:
    from crossfade.bootstrap.flag_file import serve_flag_file
    from crossfade.domain.errors import Invalid, NotFound, Refused

    path = tmp_path / "flags.json"
    with pytest.raises(NotFound, match=r"flags\.json"):
        serve_flag_file(path)
    path.write_text("{")
    with pytest.raises(Refused, match="not JSON"):
        serve_flag_file(path)
    path.write_text(json.dumps({"flags": {"x": {"state": "MAYBE"}}}))
    with pytest.raises(Invalid, match=r"flags\.x"):
        serve_flag_file(path)
    path.write_text("{}")
    with pytest.raises(Refused, match="open to everybody"):
        serve_flag_file(path, host="192.0.2.1")
    with pytest.raises(Invalid, match="IP address"):
        serve_flag_file(path, host="localhost")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(Refused, match="cannot be used"):
            serve_flag_file(path, port=taken.getsockname()[1])


def test_heartbeats_come_while_nothing_happens(server: Server) -> None:
    with server.client.stream("GET", "/ofrep/v1/changes", timeout=30) as answer:
        assert ": still here" in itertools.islice(answer.iter_lines(), 8)
