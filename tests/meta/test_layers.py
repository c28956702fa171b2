"""The house's rules bite: each violation, written into a copy of the source, is caught and named."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A checkout of its own, whose files a test may spoil."""
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def lint_imports(checkout: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(checkout / "src"), "COLUMNS": "300", "NO_COLOR": "1"}
    command = [str(BIN / "lint-imports"), "--no-cache"]
    return subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=False)


HOUSE = "The house: each layer imports only those below it"
PORTS_ONLY = "Use cases, engine, API and web know ports, never adapters"
PURE = "The domain is pure"
FREE = "The ports name no framework"


@pytest.mark.parametrize(
    ("module", "line", "contract"),
    [
        ("domain/values.py", "import socket", PURE),
        ("domain/values.py", "import time", PURE),
        ("domain/rollout.py", "import asyncio", PURE),
        ("domain/rollout.py", "import logging", PURE),
        ("domain/release.py", "import sqlalchemy", PURE),
        ("domain/traffic.py", "from crossfade.ports import Parts", HOUSE),
        ("ports.py", "import httpx", FREE),
        ("ports.py", "import crossfade.store.sql", HOUSE),
        ("routers/__init__.py", "import crossfade.runtimes", HOUSE),
        ("fakes/__init__.py", "import crossfade.store", HOUSE),
        ("service.py", "import crossfade.engine", HOUSE),
        ("service.py", "import crossfade.store.sql", PORTS_ONLY),
        ("engine/loop.py", "import crossfade.routers.haproxy", PORTS_ONLY),
        ("api/app.py", "import crossfade.spec", PORTS_ONLY),
        ("api/app.py", "import crossfade.bootstrap", HOUSE),
        ("web/__init__.py", "import crossfade.fakes", PORTS_ONLY),
        ("databases/__init__.py", "import crossfade.store", HOUSE),
        ("utils/__init__.py", "", HOUSE),
        ("stray.py", "", HOUSE),
    ],
)
def test_an_import_that_breaks_the_house_is_caught(copy: Path, module: str, line: str, contract: str) -> None:
    path = copy / "src" / "crossfade" / module
    path.parent.mkdir(exist_ok=True)
    path.write_text((path.read_text() if path.exists() else "") + f"\n{line}\n")
    told = lint_imports(copy)
    broken = [one for one in told.stdout.splitlines() if one.rstrip().endswith("BROKEN")]
    # A stray package breaks the exhaustive contract before any verdict is printed; it is named all the same.
    assert told.returncode == 1, told.stdout
    if line:
        assert any(contract in one for one in broken), told.stdout
    else:
        assert Path(module).parts[0].removesuffix(".py") in told.stdout, told.stdout


def test_the_house_as_it_stands_breaks_no_contract(copy: Path) -> None:
    told = lint_imports(copy)
    assert told.returncode == 0, told.stdout


def test_every_adapter_is_under_both_contracts() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    house, ports_only = (next(c for c in contracts if c["name"].startswith(name)) for name in (HOUSE, PORTS_ONLY))
    assert ports_only["layers"][0] in house["layers"]


@pytest.mark.parametrize(
    ("statement", "name"),
    [
        ("import datetime\nNOW = datetime.datetime.now(datetime.UTC)", "`datetime.datetime.now` is banned"),
        ("from datetime import date\nTODAY = date.today()", "`datetime.date.today` is banned"),
        ("import time\nNOW = time.time()", "`time` is banned"),
        ("import random\nDRAWN = random.random()", "`random` is banned"),
        ("import uuid\nID = uuid.uuid4()", "`uuid.uuid4` is banned"),
        ("TEXT = open('x').read()", "`open()` should be replaced"),
        ("print('x')", "`print` found"),
    ],
)
def test_clock_chance_and_files_are_banned_in_the_domain_and_only_there(copy: Path, statement: str, name: str) -> None:
    for room in ("domain", "store"):
        (copy / "src" / "crossfade" / room / "spoilt.py").write_text(statement + "\n")
    command = [str(BIN / "ruff"), "check", "--no-cache", "--output-format", "json", "src"]
    told = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
    spoilt = [
        one for one in json.loads(told.stdout) if one["filename"].endswith("spoilt.py") and name in one["message"]
    ]
    assert {Path(one["filename"]).parent.name for one in spoilt} == {"domain"}, told.stdout
