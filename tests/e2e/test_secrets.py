"""Secrets are planted in every place that takes one; then everything that can be read is searched for them."""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.installation import Installation, until
from tests.web.issuer import CLIENT, SECRET, Issuer

VARIABLE = "planted-env-file-value-7f3a"
PASSWORD = "planted password 9c41 of grace"
WRONG = "planted wrong password 55d0"
PAGES = (
    "/",
    "/events",
    "/audit",
    "/settings",
    "/approvals",
    "/environments/shop/production",
    "/environments/shop/production/releases/r1",
    "/environments/shop/production/releases/r1?from=r1&to=r2",
    "/rollouts/1",
    "/rollouts/1/receipt",
)


@dataclass
class Planted:
    """An installation in which everything has happened. ``secrets``: what it is → its text; ``told``: what was answered."""

    world: Installation
    secrets: dict[str, str] = field(default_factory=dict)
    told: dict[str, str] = field(default_factory=dict)

    def run(self, *words: str, typed: str = "") -> str:
        command = [sys.executable, "-m", "crossfade.cli.main", "--state", str(self.world.state), *words]
        done = subprocess.run(command, input=typed, capture_output=True, text=True, timeout=90, check=False)
        if words[:2] != ("tokens", "add") and words[0] != "dashboard":
            self.told[f"crossfade {' '.join(words)}"] = done.stdout + done.stderr
        return done.stdout


def api(planted: Planted, browser: httpx.Client) -> None:
    """Every GET of the published API that can be asked without more, and bodies that carry secrets where they are wrong."""
    token = (planted.world.state / "token").read_text().strip()
    planted.secrets["the state folder's token"] = token
    headers = {"Authorization": f"Bearer {token}"}
    known = {
        "service": "shop",
        "service_name": "shop",
        "environment": "production",
        "id": "1",
        "release": "r1",
        "name": "grace",
    }
    document = browser.get("/api/v1/openapi.json", headers=headers)
    for path, operations in document.json()["paths"].items():
        if "get" in operations and "changes" not in path:
            place = re.sub(r"\{(\w+)\}", lambda match: known.get(match[1], "1"), path)
            planted.told[f"GET {place}"] = browser.get(place, headers=headers).text
    bad: list[tuple[str, Any]] = [
        ("/api/v1/accounts", {"name": "x", "grants": ["viewer"], "password": [PASSWORD]}),
        ("/api/v1/accounts", {"name": "x y", "grants": ["viewer"], "password": PASSWORD}),
        ("/api/v1/rollouts", {"service": "shop", "secrets": {"TOKEN": [VARIABLE]}}),
        ("/api/v1/rollouts", {"service": 1, "environment": "production", "secrets": {"TOKEN": VARIABLE}, "config": {}}),
    ]
    for place, body in bad:
        planted.told[f"POST {place} {len(planted.told)}"] = browser.post(place, json=body, headers=headers).text
    for wrong in (token[:-1], f"cf_{'0' * 12}_{'x' * 43}"):
        answer = browser.get("/api/v1/environments", headers={"Authorization": f"Bearer {wrong}"})
        assert answer.status_code == 401
        planted.told[f"a wrong token {len(planted.told)}"] = answer.text


def pages(planted: Planted, browser: httpx.Client, issuer: Issuer) -> None:
    """A login that fails, one by a link, and all pages; a login by the provider."""
    form = browser.get("/login")
    planted.told["page /login"] = form.text
    csrf = re.search(r'name="csrf" value="([^"]+)"', form.text)
    assert csrf is not None
    answer = browser.post("/login", data={"name": "grace", "password": WRONG, "csrf": csrf[1]})
    assert answer.status_code == 401, answer.text
    planted.told["a failed login"] = answer.text
    answer = browser.post("/login", data={"name": "grace", "password": PASSWORD, "csrf": csrf[1]})
    assert answer.status_code == 303, answer.text
    planted.secrets["the cookie of a session by password"] = str(browser.cookies["crossfade"])
    browser.cookies.clear()
    way = browser.get("/login/oidc")
    state = str(browser.cookies.get("crossfade-oidc", ""))
    planted.secrets["the cookie of a login under way"] = state
    planted.told["after OIDC"] = browser.get(issuer.agree(way.headers["location"])).text
    planted.secrets["the cookie of an OIDC session"] = str(browser.cookies.get("crossfade"))
    browser.cookies.clear()
    link = planted.run("dashboard").strip()
    secret = link.rpartition("=")[2]
    assert len(secret) > 30
    planted.secrets["the secret of a link"] = secret
    answer = browser.get(link)
    planted.told["the link"] = answer.text
    planted.secrets["the session's cookie"] = str(browser.cookies["crossfade"])
    for place in PAGES:
        answer = browser.get(place)
        assert answer.status_code == 200, f"{place}: {answer.status_code} {answer.headers.get('location')}"
        planted.told[f"page {place}"] = answer.text


@pytest.fixture(scope="module")
def planted() -> Iterator[Planted]:
    with Issuer() as issuer, Installation() as world:
        found = Planted(world)
        found.secrets |= {
            "a variable of an env_file": VARIABLE,
            "a password": PASSWORD,
            "a wrong password": WRONG,
            "the client secret": SECRET,
            "a wrongly quoted client secret": "s3cret%2Fwith%3Asigns",
        }
        secret = world.state / "oidc-secret"
        secret.write_text(SECRET + "\n")
        secret.chmod(0o600)
        roles = {"claim": "groups", "grants": {"deployers": ["admin"]}}
        oidc = {"issuer": issuer.url, "client_id": CLIENT, "client_secret_file": "oidc-secret", "roles": roles}
        (world.state / "server.yaml").write_text(json.dumps({"oidc": oidc}))
        world.up()
        (world.project / ".env.production").write_text(f"PLANTED={VARIABLE}\n")
        for version in ("v1", "v2"):
            world.configure(version)
            config = json.loads((world.project / "crossfade.yaml").read_text())
            config["run"]["env_file"] = ".env.production"
            (world.project / "crossfade.yaml").write_text(json.dumps(config))
            found.run("deploy", str(world.project))
        assert world.version() == "v2"
        found.run("rollback")
        found.run("accounts", "add", "grace", "--role", "viewer", "--password-stdin", typed=PASSWORD + "\n")
        found.run("accounts", "add", "short", "--role", "viewer", "--password-stdin", typed=PASSWORD[:9] + "\n")
        token = found.run("tokens", "add", "ci", "--role", "viewer").strip()
        found.secrets["a token"] = token.rsplit("_", 1)[1]
        for words in ("accounts", "tokens", "audit", "status", "releases", "logs", "doctor", "receipt"):
            found.run(words, "--json")
        with httpx.Client(base_url=world.client().url, trust_env=False, timeout=30) as browser:
            api(found, browser)
            pages(found, browser, issuer)
        until(lambda: list((world.state / "logs").iterdir()), what="logs")
        yield found


def leaks(planted: Planted, text: str) -> list[str]:
    return [name for name, secret in planted.secrets.items() if secret in text]


def test_no_answer_of_the_api_no_page_and_no_command_shows_a_secret(planted: Planted) -> None:
    assert len(planted.told) > 30
    found = {place: leaks(planted, text) for place, text in planted.told.items()}
    # A page shows its own session's cookie to nobody; the token of the state folder is in no answer either.
    assert {place: names for place, names in found.items() if names} == {}


def test_no_log_has_a_secret(planted: Planted) -> None:
    logs = [path for path in (planted.world.state / "logs").rglob("*") if path.is_file()]
    assert any("server" in path.name for path in logs)
    found = {path.name: leaks(planted, path.read_text(errors="replace")) for path in logs}
    assert {name: names for name, names in found.items() if names} == {}


def test_the_ledgers_hold_no_secret(planted: Planted) -> None:
    ledgers = sorted(planted.world.state.glob("*.db"))
    assert ledgers
    for ledger in ledgers:
        connection = sqlite3.connect(f"file:{ledger}?mode=ro", uri=True)
        try:
            dump = "\n".join(connection.iterdump())
        finally:
            connection.close()
        assert leaks(planted, dump) == [], ledger.name


def test_no_process_carries_a_secret_in_its_command_line(planted: Planted) -> None:
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue  # it has ended meanwhile
    assert leaks(planted, "\n".join(lines)) == []


def test_files_that_hold_a_secret_are_for_their_owner_only(planted: Planted) -> None:
    state = planted.world.state
    open_ones = []
    for path in state.rglob("*"):
        if not path.is_file() or path.is_relative_to(planted.world.project):
            continue
        if leaks(planted, path.read_bytes().decode(errors="replace")):
            closed = any(not folder.stat().st_mode & 0o077 for folder in (path, *path.parents) if folder != state)
            if not closed:
                open_ones.append(str(path.relative_to(state)))
    assert open_ones == []
