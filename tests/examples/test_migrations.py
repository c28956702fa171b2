"""The bookshop on PostgreSQL through six releases: nothing fails, nothing is lost, whichever version writes."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from decimal import Decimal
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
import yaml

from crossfade.databases.postgres.database import PostgresDatabase
from crossfade.spec.migrations import load
from tests.databases.servers import WHEEL, Server, running
from tests.databases.shop import Heard
from tests.e2e.installation import Installation, until
from tests.e2e.test_crashes import begin, dying, follow
from tests.engine.pipelines import GIT
from tests.free_port import free_port

EXAMPLE = Path(__file__).parents[2] / "examples" / "03-migrations"
MIGRATIONS = [migration for migration, _ in load([EXAMPLE / "migrations"])]
VERSIONS = ("", *(one.version for one in MIGRATIONS))
BOOKS = 3000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(WHEEL, tmp_path_factory.mktemp("shop")) as server:
        yield server


@pytest.fixture
def url(server: Server) -> Iterator[str]:
    url = server.url()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute((EXAMPLE / "tables.sql").read_bytes())
        connection.execute(
            "INSERT INTO books (title, author, price, sold) SELECT 'Old ' || g, 'Given' || g || ' Family' || g, g, 0"
            " FROM generate_series(1, %s) g",
            (BOOKS,),
        )
    yield url
    server.drop()


class Clients:
    """Open-loop clients: a request every ``pause`` seconds whatever the answers take. All that was written is remembered."""

    numbers = itertools.count(1)

    def __init__(self, port: int, pause: float = 0.02, clients: int = 3) -> None:
        self.port, self.pause = port, pause
        self.failed: list[str] = []
        self.written: dict[str, tuple[int, str]] = {}
        self.sold: dict[str, int] = {}
        self.versions: set[str] = set()
        self._due = time.monotonic()
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(clients)]

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=20)

    def _run(self) -> None:
        connection: HTTPConnection | None = None
        while not self._stop.is_set():
            with self._lock:
                number, self._due = next(self.numbers), max(self._due + self.pause, time.monotonic() - 1)
                due = self._due
            self._stop.wait(max(0.0, due - time.monotonic()))
            connection = connection or HTTPConnection("127.0.0.1", self.port, timeout=20)
            title = f"New {number}"
            author, cents = f"Author{number} of the {number}", number % 9000 + 1
            steps = (
                f"/add?title={quote(title)}&author={quote(author)}&cents={cents}&isbn=i-{number}",
                f"/sell?title={quote(f'Old {number % BOOKS + 1}')}",
                f"/book?title={quote(title)}",
            )
            for path in steps:
                for attempt in (1, 2):
                    try:
                        connection.request("POST" if "/add" in path or "/sell" in path else "GET", path)
                        answer = connection.getresponse()
                        body = answer.read()
                    except (OSError, HTTPException) as error:
                        # A kept connection that was closed while idle is the client's to reopen.
                        connection.close()
                        connection = HTTPConnection("127.0.0.1", self.port, timeout=20)
                        if attempt == 2:
                            self.failed.append(f"{path}: {error!r}")
                        continue
                    self.versions.add(answer.headers.get("X-Version", "?"))
                    if answer.status != 200:
                        self.failed.append(f"{path}: {answer.status} {body[:300]!r}")
                    elif path.startswith("/add"):
                        self.written[title] = (cents, author)
                    elif path.startswith("/sell"):
                        with self._lock:
                            self.sold[f"Old {number % BOOKS + 1}"] = self.sold.get(f"Old {number % BOOKS + 1}", 0) + 1
                    elif str(number).encode() not in body:
                        self.failed.append(f"{path}: {body[:300]!r}")
                    break


def seen(url: str, version: str) -> dict[str, tuple[Any, ...]]:
    """All books as a version sees them: cents, author and sold, each from its own columns."""
    with psycopg.connect(url, autocommit=True) as connection:
        if version:
            connection.execute(f'SET search_path = "public_{version}", public'.encode())
        rows = connection.execute("SELECT * FROM books")
        names = [column.name for column in rows.description or ()]
        found = {}
        for row in rows.fetchall():
            one = dict(zip(names, row, strict=True))
            price = one["price"]
            cents = int(price * 100) if isinstance(price, Decimal) else price
            author = one.get("author") or f"{one['given_name']} {one['family_name']}"
            found[one["title"]] = (cents, author, one.get("sold", one.get("copies_sold")))
        return found


def whole(url: str, versions: tuple[str, ...], *clients: Clients) -> None:
    """Every write of every client is what every version sees."""
    for version in versions:
        shown = seen(url, version)
        for one in clients:
            for title, (cents, author) in one.written.items():
                assert shown[title][:2] == (cents, author), (version, title, shown[title])
        for n in range(1, BOOKS + 1):
            title = f"Old {n}"
            sold = sum(one.sold.get(title, 0) for one in clients)
            assert shown[title] == (n, f"Given{n} Family{n}", sold), (version, title)


class Replica:
    """A process of one version of the shop, as a release's replica runs."""

    def __init__(self, folder: Path, version: str, env: dict[str, str]) -> None:
        app = folder / version
        subprocess.run(
            [sys.executable, EXAMPLE / "build.py", version], check=True, env={**os.environ, "BOOKSHOP_OUTPUT": str(app)}
        )
        self.port = free_port()
        self.log = folder / f"{version}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-B", "shop.py"],
                cwd=app,
                env={**os.environ, **env, "PORT": str(self.port)},
                stdout=log,
                stderr=log,
            )
        until(self._answers, what=f"{version} to answer")

    def _answers(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        connection = HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def end(self) -> None:
        self.process.terminate()
        self.process.wait(20)


def test_three_releases_at_once_write_what_all_of_them_read_through_every_migration(url: str, tmp_path: Path) -> None:
    database, heard = PostgresDatabase(url), Heard()

    def bring(version: str) -> None:
        migration = next(one for one in MIGRATIONS if one.version == version)
        database.expand(migration, heard.watch())
        assert database.backfill(version, heard.watch(duty=0.5))

    replicas: list[Replica] = []

    def start(version: str, schema: str) -> Replica:
        replicas.append(Replica(tmp_path, version, dict(database.environment(schema))))
        return replicas[-1]

    try:
        v1 = start("v1", "")
        with Clients(v1.port) as first:
            bring("01_isbn")
            v2 = start("v2", "01_isbn")
            with Clients(v2.port) as second:
                bring("02_copies")
                bring("03_price")
                v4 = start("v4", "03_price")
                with Clients(v4.port) as third:
                    bring("04_author")
                    bring("05_rules")
                    until(lambda: len(third.written) > 100, what="writes of v4")
                    v6 = start("v6", "05_rules")
                    with Clients(v6.port) as fourth:
                        until(lambda: len(fourth.written) > 100, what="writes of v6")
                    v6.end()  # back by two releases, in the middle of it
                    until(lambda: len(third.written) > 300, what="writes after the rollback")
        for one in (v1, v2):
            one.end()
        clients = (first, second, third, fourth)
        assert [one.failed for one in clients] == [[], [], [], []]
        assert min(len(one.written) for one in clients) > 100
        whole(url, VERSIONS, *clients)
        v6 = start("v6", "05_rules")
        with Clients(v6.port) as last:
            for migration in MIGRATIONS[:3]:
                database.contract(migration.version, heard.watch())
            v4.end()
            for migration in MIGRATIONS[3:]:
                database.contract(migration.version, heard.watch())
            until(lambda: len(last.written) > 50, what="writes after the contracts")
        assert last.failed == []
        whole(url, ("", VERSIONS[-1]), *clients, last)
    finally:
        for one in replicas:
            if one.process.poll() is None:
                one.end()


@pytest.fixture
def shop(url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Installation]:
    # Steps find the tools of the interpreter that runs the tests.
    monkeypatch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    with Installation() as shop:
        shutil.rmtree(shop.project)
        shutil.copytree(EXAMPLE, shop.project)
        spec = yaml.safe_load((EXAMPLE / "crossfade.yaml").read_text())
        spec["build"]["command"] = [sys.executable, "build.py"]
        spec["run"]["command"] = [sys.executable, "-B", "shop.py"]
        spec["strategy"]["steps"] = [{"weight": "30%", "duration": "1s"}]
        spec["strategy"]["limits"] = {"min_requests": 5}
        spec["drain"] = {"timeout": "3s"}
        spec["warm_for"] = "1s"
        spec["environments"] = {"production": {"port": shop.port}}
        (shop.project / "crossfade.yaml").write_text(yaml.safe_dump(spec))
        (shop.project / ".env").write_text(f"DATABASE_URL={url}\n")
        shop.up()
        yield shop


def deploy(shop: Installation, version: str) -> dict[str, object]:
    os.environ["BOOKSHOP_VERSION"] = version
    try:
        done: dict[str, object] = shop.deploy("--label", version)["rollout"]
    finally:
        del os.environ["BOOKSHOP_VERSION"]
    assert done["phase"] == "promoted", done["reason"]
    return done


def pipeline(shop: Installation, version: str) -> dict[str, Any]:
    """Commit a version, and have the commit go through the stages."""

    def git(*words: str) -> None:
        subprocess.run([*GIT, *words], cwd=shop.project, check=True, capture_output=True)

    (shop.project / "VERSION").write_text(version)
    (shop.project / ".gitignore").write_text(".env\nbuild/\n")
    git("init", "-q")
    git("add", "-A")
    git("commit", "-q", "-m", f"The bookshop {version}")
    secrets = str(shop.project / ".env")
    shop.run("sources", "add", "bookshop", str(shop.project), "--secret-file", f"production={secrets}")
    begun = shop.json("run", "main", "--service", "bookshop", "--no-follow")
    client = shop.client()
    found = until(lambda: one if (one := client.run(begun["id"]))["ended"] else None, 100, "the end of the run")
    return dict(found)


@pytest.mark.timeout(170)
def test_a_release_brings_its_column_is_taken_back_comes_again_and_its_old_shape_goes_when_the_window_closes(
    shop: Installation, url: str
) -> None:
    database = PostgresDatabase(url)
    deploy(shop, "v1")
    with Clients(shop.port, clients=4) as clients:
        run = pipeline(shop, "v2")
        assert run["status"] == "passed", [
            (n["name"], n["sentence"], n["details"]) for s in run["stages"] for n in s["nodes"]
        ]
        stages = {stage["name"]: {node["name"]: node["sentence"] for node in stage["nodes"]} for stage in run["stages"]}
        assert "migrations" in stages["commit"] and "is live" in stages["production"]["deploy"]
        (record,) = database.ledger()
        assert (record.version, record.phase) == ("01_isbn", "verified")
        shop.run("rollback")
        assert shop.get("/health")[1]["x-version"] == "v1"
        assert [one.phase for one in database.ledger()] == ["verified"]
        deploy(shop, "v2")
        said = shop.run("status").stdout
        assert "01_isbn" in said and "in the rollback window" in said, said
        refused = shop.run("migrations", "abort", "01_isbn", "--env", "production", check=False)
        assert refused.returncode == 1 and "needs it" in refused.stderr + refused.stdout
        for version in ("v3", "v4", "v5"):
            deploy(shop, version)
        until(lambda: database.ledger()[0].phase == "contracted", 40, "the contract of 01_isbn")
        releases = shop.json("releases")
        gone = next(one for one in releases if one["release"] == "r1")
        assert not gone["restorable"]
        assert database.ledger()[1].phase == "verified"
    assert clients.failed == []
    assert {"v1", "v2", "v3", "v4", "v5"} <= clients.versions
    whole(url, ("02_copies", "03_price", "04_author"), clients)


USUAL = [
    f"{action} {when}"
    for action in (
        "snapshot",
        "clear-slot",
        "start-replicas",
        "connect",
        "probe",
        "set-split",
        "commit",
        "discard",
        "close",
    )
    for when in ("before", "done")
] + ["observed saved", "done saved"]
"""Boundaries of every rollout: tests/e2e/test_crashes.py kills the server there."""


@pytest.mark.timeout(170)
def test_a_server_killed_at_every_boundary_of_a_rollouts_migrations_brings_them_to_their_end(
    shop: Installation, url: str, tmp_path: Path
) -> None:
    deploy(shop, "v1")
    record = tmp_path / "boundaries"
    record.write_text("\n".join(USUAL) + "\n")
    with Clients(shop.port, clients=2, pause=0.05) as clients:
        os.environ["BOOKSHOP_VERSION"] = "v3"
        try:
            with dying(shop, record, "kill") as server:
                ended = follow(shop, server, begin(shop, server), 120)
        finally:
            del os.environ["BOOKSHOP_VERSION"]
    met = set(record.read_text().splitlines()) - set(USUAL)
    steps = {f"{step} {when}" for step in ("expand 01_isbn", "expand 02_copies") for when in ("before", "done")}
    assert steps | {"migrate before", "migrate done", "backfill 01_isbn done", "backfill 02_copies done"} <= met
    assert server.deaths == len(met)
    assert ended["phase"] == "promoted", ended
    assert clients.failed == []
    database = PostgresDatabase(url)
    assert [one.phase for one in database.ledger()] == ["verified", "verified"]
    whole(url, ("", "01_isbn", "02_copies"), clients)
