from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.databases.mariadb import MariaDatabase, MariaServer, missing, running_mariadb
from tests.databases.servers import DEBIAN, WHEEL, Server, running


@pytest.fixture(scope="session")
def newest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(WHEEL, tmp_path_factory.mktemp("pg18")) as server:
        yield server


@pytest.fixture(scope="session")
def debian(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if not DEBIAN.is_dir():
        pytest.skip("PostgreSQL 15 of Debian is wanted")
    with running(DEBIAN, tmp_path_factory.mktemp("pg15")) as server:
        yield server


@pytest.fixture
def postgres(newest: Server) -> Iterator[Server]:
    yield newest
    newest.drop()


@pytest.fixture(params=["18", "15"])
def either(request: pytest.FixtureRequest) -> Iterator[Server]:
    server: Server = request.getfixturevalue("newest" if request.param == "18" else "debian")
    yield server
    server.drop()


@pytest.fixture(scope="session")
def maria_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MariaServer]:
    if missing():
        pytest.skip(f"{', '.join(missing())} of Debian is wanted")
    with running_mariadb(tmp_path_factory.mktemp("maria")) as server:
        yield server


@pytest.fixture
def maria(maria_server: MariaServer) -> Iterator[MariaDatabase]:
    yield maria_server.database()
    maria_server.drop()
