from __future__ import annotations

import http.cookiejar
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from crossfade.domain.release import Canary
from crossfade.load import LoadPlan, Phase, Request, Result, run
from crossfade.probes.http import HttpProber
from crossfade.spec.loader import load
from tests.free_port import free_port

EXAMPLE = Path(__file__).parents[2] / "examples" / "01-bookshop"
NO_REVIEWS = (8, 15, 16, 24, 32, 39, 40, 47, 48)
"""Books in which v3 fails."""


class Shop:
    """A running process of the bookshop."""

    def __init__(self, folder: Path, database: Path, port: int) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.log = folder.parent / f"{folder.name}-{port}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-B", "-m", "bookshop"],
                cwd=folder,
                env=os.environ | {"HOST": "127.0.0.1", "PORT": str(port), "DATABASE": str(database)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def wait(self) -> Shop:
        """Until it listens."""
        deadline = time.monotonic() + 30
        while "bookshop v" not in self.said():
            assert self.process.poll() is None, self.said()
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.01)
        return self

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


class Reader:
    """A client with cookies. Answers are status, headers, text."""

    def __init__(self, jar: http.cookiejar.CookieJar | None = None) -> None:
        self.jar = http.cookiejar.CookieJar() if jar is None else jar
        cookies = urllib.request.HTTPCookieProcessor(self.jar)
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), cookies)

    def get(self, shop: Shop, path: str, body: Any = None) -> tuple[int, Any, str]:
        """``body`` a dict for a form, anything else as JSON in bytes."""
        data = urllib.parse.urlencode(body).encode() if isinstance(body, dict) else body
        request = urllib.request.Request(shop.url + path, data=data)
        try:
            with self._opener.open(request, timeout=30) as answer:
                return answer.status, answer.headers, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.headers, error.read().decode()

    def json(self, shop: Shop, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        return json.loads(self.get(shop, path, data)[2])


Open = Callable[..., Shop]


@pytest.fixture
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="cf-", dir="/tmp"))
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture
def build(folder: Path) -> Callable[..., Path]:
    def make(version: str = "v1", fault: str = "") -> Path:
        output = folder / f"{version}{fault}"
        if not output.exists():
            command = [sys.executable, "-B", str(EXAMPLE / "build.py"), "--version", version, "--output", str(output)]
            subprocess.run([*command, "--fault", fault], check=True, capture_output=True)
        return output

    return make


@pytest.fixture
def open_shop(folder: Path, build: Callable[..., Path]) -> Iterator[Open]:
    """Starts the bookshop; all of a test share one database."""
    shops: list[Shop] = []

    def start(version: str = "v1", fault: str = "", *, wait: bool = True) -> Shop:
        shops.append(Shop(build(version, fault), folder / "data" / "shop.db", free_port()))
        return shops[-1].wait() if wait else shops[-1]

    yield start
    for shop in shops:
        shop.end()


@pytest.mark.parametrize("version", ["v1", "v2", "v3"])
def test_every_version_shows_books_and_is_healthy(open_shop: Open, version: str) -> None:
    shop, reader = open_shop(version), Reader()
    status, headers, page = reader.get(shop, "/")
    assert status == 200 and "The Tide Table" not in page and "Slack Water" in page, "the newest first"
    assert headers["X-Bookshop-Version"] == version
    assert "The Tide Table" in reader.get(shop, "/?page=2")[2]
    assert "The Tide Table" in reader.get(shop, "/books/1")[2]
    assert "1 book for" in reader.get(shop, "/search?q=tide+HOLM")[2]
    assert len(reader.json(shop, "/api/books")["books"]) == 48
    health = reader.json(shop, "/health")
    assert health == health | {"status": "ok", "database": "ok", "books": 48, "checkout": "ok", "version": version}
    assert reader.json(shop, "/api/books/1")["recommended"] == [] or version != "v1"


def test_what_is_not_there_or_not_allowed_is_said_politely(open_shop: Open) -> None:
    shop, reader = open_shop(), Reader()
    assert reader.get(shop, "/books/999")[0] == 404
    assert reader.get(shop, "/nothing")[0] == 404
    assert reader.get(shop, "/orders/1")[0] == 404
    assert reader.get(shop, "/health", b"x")[0] == 405
    for body in (b"", b"[]", b"{}", b'{"book": true}', b'{"book": 1, "quantity": 0}', b'{"book": "1e3"}', b"[" * 50000):
        assert reader.get(shop, "/api/cart", body)[0] == 400, body[:40]
    assert reader.get(shop, "/api/checkout", b"")[0] == 409
    page = reader.get(shop, "/search?q=%3Cscript%3Ealert(1)%3C/script%3E")[2]
    assert "<script>alert" not in page and "&lt;script&gt;alert" in page


def test_bytes_that_are_no_request_get_an_answer_and_harm_nobody(open_shop: Open) -> None:
    shop = open_shop()
    for noise, status in (
        (b"\x00\x01\x02\r\n\r\n", b"400"),
        (b"GET / HTTP/3.0\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost x\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\nContent-Length: -5\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\nContent-Length: 999999999\r\n\r\n", b"413"),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", b"411"),
        (b"GET / HTTP/1.1\r\nX: " + b"y" * 20_000, b"431"),
    ):
        with socket.create_connection(("127.0.0.1", shop.port), timeout=30) as client:
            client.sendall(noise)
            assert client.recv(1000).split(b" ")[1] == status, noise[:40]
    assert Reader().get(shop, "/")[0] == 200


def test_requests_that_come_together_are_answered_in_their_order(open_shop: Open) -> None:
    shop = open_shop()
    asked = b"".join(b"GET /api/books/%d HTTP/1.1\r\nHost: x\r\n\r\n" % n for n in (5, 3, 7))
    with socket.create_connection(("127.0.0.1", shop.port), timeout=30) as client:
        client.sendall(asked + b"HEAD / HTTP/1.1\r\nConnection: close\r\n\r\n")
        received = b""
        while piece := client.recv(65536):
            received += piece
    assert [int(number) for number in re.findall(rb'"id": (\d+)', received)] == [5, 3, 7]
    assert received.count(b"HTTP/1.1 200 OK") == 4
    assert b"<!doctype" not in received, "an answer to HEAD has no body"


def test_a_cart_goes_on_in_another_version_and_becomes_an_order_there(open_shop: Open) -> None:
    one, other, reader = open_shop("v1"), open_shop("v2"), Reader()
    assert reader.json(one, "/api/cart", {"book": 7})["count"] == 1
    assert reader.json(other, "/api/cart", {"book": 9, "quantity": 2})["count"] == 3
    assert "The Slow Hedge" in reader.get(one, "/cart")[2]
    assert "The Slow Hedge" not in reader.get(one, "/cart/remove", {"book": "9"})[2]
    assert [book["id"] for book in reader.json(other, "/api/cart")["books"]] == [7]
    status, headers, page = reader.get(other, "/checkout", {})
    assert status == 200 and "Thank you" in page and headers["X-Bookshop-Version"] == "v2"
    assert reader.json(one, "/api/cart")["count"] == 0
    assert Reader().json(one, "/api/cart")["count"] == 0, "nobody else sees it"


def test_a_session_that_nobody_gave_out_is_not_taken_on(open_shop: Open) -> None:
    shop = open_shop()
    request = urllib.request.Request(
        shop.url + "/api/cart", data=b'{"book": 1}', headers={"Cookie": "bookshop_session=" + "a" * 36}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert "a" * 36 not in answer.headers["Set-Cookie"]


def test_the_health_check_leaves_nothing_behind(open_shop: Open) -> None:
    shop, reader = open_shop(), Reader()
    for _ in range(5):
        assert reader.json(shop, "/health")["status"] == "ok"
    assert reader.json(shop, "/api/cart", {"book": 7})["count"] == 1
    assert reader.json(shop, "/api/checkout", {})["order"] == 1, "no order was made before this one"


def test_eight_processes_that_start_at_once_on_no_database_are_all_healthy(open_shop: Open, build: object) -> None:
    assert callable(build)
    build("v1")  # so that only the starts are at once
    shops = [open_shop("v1", wait=False) for _ in range(8)]
    for shop in shops:
        health = Reader().json(shop.wait(), "/health")
        assert (health["status"], health["books"]) == ("ok", 48)


def events(shop: Shop, heard: list[str], last: int | None = None) -> threading.Thread:
    """Listens in a thread until the stream ends; a stream that breaks adds ``broken``."""
    opened = threading.Event()

    def listen() -> None:
        request = urllib.request.Request(
            shop.url + "/feed", headers={} if last is None else {"Last-Event-ID": str(last)}
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as stream:
                for line in stream:
                    heard.append(line.decode().strip())
                    opened.set()
        except OSError as error:
            heard.append(f"broken: {error}")
        opened.set()

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    assert opened.wait(30)
    return thread


def until(holds: Callable[[], object], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it never came to hold"
        time.sleep(0.02)


def test_an_order_at_one_process_is_heard_at_all_and_a_stream_ends_in_good_order_at_SIGTERM(open_shop: Open) -> None:
    one, other, reader = open_shop(), open_shop(), Reader()
    heard: list[str] = []
    thread = events(one, heard)
    reader.json(other, "/api/cart", {"book": 7})
    order = reader.json(other, "/api/checkout", {})["order"]
    until(lambda: f"id: {order}" in heard)
    until(lambda: "event: heartbeat" in heard)
    one.process.send_signal(signal.SIGTERM)
    thread.join(30)
    assert heard[-3] == "event: goodbye", heard[-5:]
    assert one.process.wait(30) == 0
    assert "Traceback" not in one.said() and "destroyed" not in one.said()


def test_who_comes_back_to_another_process_has_missed_no_order(open_shop: Open) -> None:
    one, other, reader = open_shop(), open_shop(), Reader()
    orders = []
    for _ in range(3):
        reader.json(one, "/api/cart", {"book": 7})
        orders.append(reader.json(one, "/api/checkout", {})["order"])
    heard: list[str] = []
    events(other, heard, last=orders[0])
    until(lambda: f"id: {orders[2]}" in heard)
    assert [line for line in heard if line.startswith("id:")] == [f"id: {orders[1]}", f"id: {orders[2]}"]


def test_a_request_in_flight_at_SIGTERM_is_answered_and_new_ones_are_not_taken(open_shop: Open) -> None:
    shop = open_shop("v1", "slow")
    codes: list[int] = []

    def ask() -> None:
        for _ in range(10):  # one of them takes half a second
            code = Reader().get(shop, "/api/books/1")[0]
            codes.append(code)

    thread = threading.Thread(target=ask)
    thread.start()
    until(lambda: len(codes) == 9)
    time.sleep(0.1)
    shop.process.send_signal(signal.SIGTERM)
    thread.join(30)
    assert codes == [200] * 10
    assert shop.process.wait(30) == 0
    with pytest.raises(OSError):
        Reader().get(shop, "/")


class TestWebSocket:
    def test_it_says_back_what_it_is_told_in_whatever_frames(self, open_shop: Open) -> None:
        shop = open_shop()
        with connect(f"ws://127.0.0.1:{shop.port}/ws", proxy=None, compression=None) as socket_:
            for text in ("hello", "ümläut", "x" * 200, "y" * 60_000):
                socket_.send(text)
                assert echo(socket_) == text
            socket_.send(iter(["in ", "three ", "parts"]))
            assert echo(socket_) == "in three parts"
            assert socket_.ping().wait(30)

    def test_it_says_orders_and_goodbye(self, open_shop: Open) -> None:
        shop, reader = open_shop(), Reader()
        with connect(f"ws://127.0.0.1:{shop.port}/ws", proxy=None) as socket_:
            reader.json(shop, "/api/cart", {"book": 7})
            order = reader.json(shop, "/api/checkout", {})["order"]
            while (said := json.loads(socket_.recv(30))).get("heartbeat"):
                pass
            assert said["order"] == order
            shop.process.send_signal(signal.SIGTERM)
            with pytest.raises(ConnectionClosed) as ended:
                read_on(socket_)
        assert ended.value.rcvd is not None and ended.value.rcvd.code == 1001
        assert shop.process.wait(30) == 0

    @pytest.mark.parametrize(
        ("frame", "code"),
        [
            (b"\x81\x02hi", 1002),  # not masked
            (b"\xc1\x80\0\0\0\0", 1002),  # a reserved bit
            (b"\x80\x80\0\0\0\0", 1002),  # goes on with nothing
            (b"\x81\xff\0\0\0\0\xff\0\0\0\0\0\0\0", 1009),  # too long
            (b"\x81\x81\0\0\0\0\xff", 1007),  # not UTF-8
        ],
    )
    def test_frames_against_the_rules_end_it_with_the_right_code(
        self, open_shop: Open, frame: bytes, code: int
    ) -> None:
        shop = open_shop()
        with socket.create_connection(("127.0.0.1", shop.port), timeout=30) as client:
            client.sendall(
                b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            )
            client.sendall(frame)
            received = b""
            while piece := client.recv(1000):
                received += piece
        head, _, frames = received.partition(b"\r\n\r\n")
        assert b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in head, "the example of RFC 6455"
        assert frames == b"\x88\x02" + code.to_bytes(2, "big")


def read_on(socket_: Any) -> None:
    """Until it ends."""
    while True:
        socket_.recv(30)


def echo(socket_: Any) -> str:
    """The next message that is not the feed's."""
    while (said := socket_.recv(30)).startswith('{"heartbeat"'):
        pass
    return str(said)


class TestVersions:
    def test_v2_recommends_and_v1_does_not(self, open_shop: Open) -> None:
        one, two, reader = open_shop("v1"), open_shop("v2"), Reader()
        assert "You may also like" not in reader.get(one, "/books/1")[2]
        assert "You may also like" in reader.get(two, "/books/1")[2]
        recommended = reader.json(two, "/api/books/1")["recommended"]
        assert len(recommended) == 4 and 1 not in recommended

    def test_v3_is_healthy_but_fails_for_every_book_without_reviews(self, open_shop: Open) -> None:
        shop, reader = open_shop("v3"), Reader()
        codes = {number: reader.get(shop, f"/books/{number}")[0] for number in range(1, 49)}
        assert {number for number, code in codes.items() if code == 500} == set(NO_REVIEWS)
        assert set(codes.values()) == {200, 500}
        assert reader.json(shop, "/health")["status"] == "ok"
        assert "ZeroDivisionError" in shop.said() and "ZeroDivisionError" not in reader.get(shop, "/books/8")[2]

    def test_v2_carries_load_without_a_failure_where_v3_fails(self, open_shop: Open) -> None:
        failed = {}
        for version in ("v2", "v3"):
            shop = open_shop(version)
            mix = (Request("/"), Request("/books/{1-48}", 3), Request("/api/cart", 1, "POST", '{"book": 3}'))
            plan = LoadPlan(shop.url, (Phase(100, 2),), mix, users=20, record_header="X-Bookshop-Version")
            result = Result.of(plan, run(plan))
            assert result.requests == 200
            assert list(result.by_header) == [version]
            failed[version] = result.by_kind
        assert failed["v2"] == {}
        assert failed["v3"].keys() == {"status-500"} and failed["v3"]["status-500"] >= 5


class TestFaults:
    def test_never_healthy_says_why(self, open_shop: Open) -> None:
        shop = open_shop("v2", "never-healthy")
        status, _, body = Reader().get(shop, "/health")
        assert status == 503
        assert json.loads(body)["database"] == "unable to open database file"
        assert Reader().get(shop, "/")[0] == 200, "only health knows"

    def test_exits_ends_at_once_with_its_reason_in_the_log(self, open_shop: Open) -> None:
        shop = open_shop("v2", "exits", wait=False)
        assert shop.process.wait(30) == 1
        assert "RuntimeError: PAYMENT_KEY is not set" in shop.said()

    def test_wrong_port_listens_elsewhere(self, open_shop: Open) -> None:
        shop = open_shop("v2", "wrong-port")
        with pytest.raises(OSError):
            Reader().get(shop, "/")
        shop.port = int(re.findall(r"http://127\.0\.0\.1:(\d+)", shop.said())[0])
        shop.url = f"http://127.0.0.1:{shop.port}"
        assert Reader().json(shop, "/health")["status"] == "ok"

    def test_broken_session_is_healthy_and_forgets_carts_of_other_processes(self, open_shop: Open) -> None:
        active, standby, reader = open_shop("v1"), open_shop("v2", "broken-session"), Reader()
        assert reader.json(standby, "/health")["status"] == "ok"
        assert reader.json(active, "/api/cart", {"book": 7})["count"] == 1
        assert reader.json(standby, "/api/cart")["count"] == 0
        assert reader.json(standby, "/api/cart", {"book": 7})["count"] == 1
        assert reader.json(standby, "/api/cart")["count"] == 1, "its own it knows"

    def test_slow_takes_long_for_one_request_in_ten_and_never_for_health(self, open_shop: Open) -> None:
        shop, reader = open_shop("v2", "slow"), Reader()
        times = []
        for _ in range(20):
            began = time.monotonic()
            assert reader.get(shop, "/books/1")[0] == 200
            times.append(time.monotonic() - began)
        assert sum(took >= 0.45 for took in times) >= 2
        assert sorted(times)[9] < 0.45


class TestConfiguration:
    def test_it_is_valid_and_checks_the_business(self) -> None:
        config = load(EXAMPLE / "crossfade.yaml").for_environment("production")
        assert config.replicas == 2
        assert isinstance(config.strategy, Canary)
        assert [step.weight.bp for step in config.strategy.steps] == [500, 2500, 5000]
        assert config.flows

    @pytest.mark.parametrize(
        ("version", "fault", "healthy", "flows"),
        [
            ("v1", "", True, True),
            ("v2", "", True, True),
            ("v3", "", True, True),
            ("v2", "slow", True, True),
            ("v2", "never-healthy", False, True),
            ("v2", "broken-session", True, False),
        ],
    )
    def test_its_checks_and_its_flow_tell_the_faults_apart(
        self, open_shop: Open, version: str, fault: str, healthy: bool, flows: bool
    ) -> None:
        config = load(EXAMPLE / "crossfade.yaml").for_environment("production")
        active, standby = open_shop("v1"), open_shop(version, fault)
        prober = HttpProber()
        try:
            results = prober.check(standby.url, config.checks, {})
            assert all(result.healthy for result in results) is healthy, results
            with Relay(active.port, standby.port) as edge:
                results = prober.flow(edge.url, config.flows[0], {"X-To": "active"}, {"X-To": "standby"})
            assert all(result.healthy for result in results) is flows, results
        finally:
            prober.close()

    def test_its_build_command_makes_what_it_names_as_output(self, folder: Path) -> None:
        project = folder / "project"
        shutil.copytree(EXAMPLE, project, ignore=shutil.ignore_patterns("build", "__pycache__"))
        spec = load(project / "crossfade.yaml")
        command = [sys.executable if word == "python3" else word for word in spec.build.command]
        for version in ("v2", "v1"):
            subprocess.run(
                command, cwd=project, env=os.environ | {"BOOKSHOP_VERSION": version}, check=True, capture_output=True
            )
            assert f'"{version}"' in (project / spec.build.output / "bookshop" / "version.py").read_text()
        made = project / spec.build.output / "bookshop"
        assert "None yet" in (made / "features.py").read_text(), "nothing of v2 is left"


class TestBuild:
    def test_the_same_version_is_built_to_the_same_files(self, build: Callable[..., Path], folder: Path) -> None:
        one = build("v3")
        kept = {path.relative_to(one): path.read_bytes() for path in one.rglob("*") if path.is_file()}
        shutil.rmtree(one)
        again = build("v3")
        assert {path.relative_to(again): path.read_bytes() for path in again.rglob("*") if path.is_file()} == kept

    def test_names_that_there_are_not_and_folders_of_others_are_refused(self, folder: Path) -> None:
        (folder / "mine").mkdir()
        (folder / "mine" / "thesis.txt").write_text("years of work")
        for arguments, said in (
            (["--version", "v9"], "there are v1, v2, v3"),
            (["--fault", "fire"], "there are broken-session"),
            (["--output", str(folder / "mine")], "holds something else"),
        ):
            command = [sys.executable, "-B", str(EXAMPLE / "build.py"), *arguments]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 1 and said in done.stderr
        assert (folder / "mine" / "thesis.txt").exists()


class Relay:
    """One address in front of two shops, as an edge: the header X-To says which one is meant."""

    def __init__(self, active: int, standby: int) -> None:
        self._ports = {b"active": active, b"standby": standby}
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Relay:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        # Closing alone would not wake up the accept.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(30)

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._pass_on, args=(client,), daemon=True).start()

    def _pass_on(self, client: socket.socket) -> None:
        with client:
            while True:
                asked = b""
                while not _whole(asked):
                    piece = client.recv(65536)
                    if not piece:
                        return
                    asked += piece
                found = re.search(rb"\r\nx-to: (\w+)", asked, re.IGNORECASE)
                assert found
                with socket.create_connection(("127.0.0.1", self._ports[found[1]]), timeout=30) as shop:
                    shop.sendall(asked)
                    answer = b""
                    while not _whole(answer):
                        answer += shop.recv(65536)
                    client.sendall(answer)


def _whole(message: bytes) -> bool:
    head, end, body = message.partition(b"\r\n\r\n")
    length = re.search(rb"\r\ncontent-length: (\d+)", head, re.IGNORECASE)
    return bool(end) and len(body) >= (int(length[1]) if length else 0)
