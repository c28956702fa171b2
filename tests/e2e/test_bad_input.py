"""What goes wrong before anything begins: a clear error, the right exit code, and nothing lost."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.e2e.installation import Installation
from tests.free_port import free_port


@pytest.fixture(scope="module")
def shop() -> Iterator[Installation]:
    with Installation() as installation:
        installation.up()
        installation.configure("v1")
        installation.deploy()
        yield installation


def crossfade(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "crossfade.cli.main", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "COLUMNS": "200", **env},
    )


def test_without_a_server_every_command_says_how_to_start_one(tmp_path: Path) -> None:
    done = crossfade("--state", str(tmp_path / "none"), "status")
    assert done.returncode == 1
    assert "No server has been started" in done.stderr
    assert "crossfade up" in done.stderr


def test_malformed_yaml_is_refused_with_file_and_line_and_exit_code_two(tmp_path: Path) -> None:
    (tmp_path / "crossfade.yaml").write_text("service: shop\nrun:\n  command: [\n")
    done = crossfade("validate", str(tmp_path))
    assert done.returncode == 2
    assert "crossfade.yaml:" in done.stderr
    (tmp_path / "crossfade.yaml").write_text("service: Shop!\nrollback: {window: 1}\nenvironments: {production: {}}\n")
    document = json.loads(crossfade("validate", str(tmp_path), "--json").stdout)
    assert document["error"] == "invalid-config"
    keys = {problem["key"] for problem in document["fields"]["problems"]}
    assert {"service", "rollback.window"} <= keys


def test_a_project_without_a_configuration_is_told_about_init(tmp_path: Path) -> None:
    done = crossfade("deploy", str(tmp_path))
    assert done.returncode == 1
    assert "crossfade init" in done.stderr


def test_init_writes_a_file_that_validates_and_never_over_another(tmp_path: Path) -> None:
    (tmp_path / "package.json").write_text('{"name": "x", "scripts": {"start": "node server.js"}}')
    assert crossfade("init", str(tmp_path)).returncode == 0
    assert crossfade("validate", str(tmp_path)).returncode == 0
    before = (tmp_path / "crossfade.yaml").read_text()
    done = crossfade("init", str(tmp_path))
    assert done.returncode == 1
    assert "--force" in done.stderr
    assert (tmp_path / "crossfade.yaml").read_text() == before


def test_a_taken_edge_port_is_named_and_nothing_moves(shop: Installation) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        shop.configure("v1", service="other", environments={"production": {"port": port}})
        done = shop.run("deploy", str(shop.project), check=False)
    assert done.returncode == 1
    assert str(port) in done.stdout
    shop.configure("v1")
    assert shop.version() == "v1"
    shop.configure("v1", service="other", environments={"production": {"port": free_port()}})
    assert shop.run("deploy", str(shop.project), check=False).returncode == 0


def test_the_edge_port_of_another_environment_is_refused_by_its_name(shop: Installation) -> None:
    shop.configure("v1", service="third", environments={"production": {"port": shop.port}})
    done = shop.run("deploy", str(shop.project), check=False)
    assert done.returncode == 1
    assert "which is the edge port of shop/production" in " ".join(done.stderr.split())


def test_a_taken_api_port_is_named(tmp_path: Path) -> None:
    with Installation() as other, socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = crossfade("--state", str(other.state), "up", "--port", port)
    assert done.returncode == 1
    assert f"127.0.0.1:{port} cannot be used for the API" in done.stderr


def test_a_second_server_on_one_state_folder_is_refused(shop: Installation) -> None:
    done = shop.run("serve", "--port", str(free_port()), check=False, timeout=30)
    assert done.returncode == 1
    assert "Another server already serves" in done.stderr


def test_up_twice_leaves_what_runs_as_it_is(shop: Installation) -> None:
    before = shop.pid_of("server"), shop.pid_of("edge")
    assert shop.json("up", "--port", str(shop.api_port))["started"] is False
    assert (shop.pid_of("server"), shop.pid_of("edge")) == before


def test_an_api_beyond_loopback_is_refused(tmp_path: Path) -> None:
    done = crossfade("--state", str(tmp_path / "s"), "up", "--host", "0.0.0.0")  # noqa: S104 - it must be refused
    assert done.returncode == 1
    assert "without TLS" in done.stderr
    done = crossfade("--state", str(tmp_path / "s"), "up", "--host", "localhost")
    assert done.returncode == 2
    assert "an IP address" in done.stderr


def test_an_unwritable_state_folder_is_named() -> None:
    with tempfile.NamedTemporaryFile(prefix="cf-", dir="/tmp") as in_the_way:
        done = crossfade("--state", f"{in_the_way.name}/state", "up")
    assert done.returncode == 1
    assert "cannot be written" in done.stderr
    assert "--state" in done.stderr


def test_a_state_folder_too_deep_for_sockets_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 60) / ("e" * 40)
    done = crossfade("--state", str(deep), "up")
    assert done.returncode == 2
    assert "at most" in done.stderr
    assert not deep.exists()


def test_a_build_that_fails_shows_its_last_lines(shop: Installation) -> None:
    shop.configure(
        "v1", build={"command": [sys.executable, "-c", "print('no such module: shop'); raise SystemExit(4)"]}
    )
    done = shop.run("deploy", str(shop.project), check=False)
    assert done.returncode == 1
    assert "exited with 4" in done.stderr
    assert "no such module: shop" in done.stderr


def test_secrets_of_an_env_file_reach_the_service_and_nothing_else(shop: Installation) -> None:
    (shop.project / "prod.env").write_text("API_KEY='hunter2-very-secret'\n")
    (shop.project / "app.py").write_text(
        (shop.project / "app.py").read_text().replace('starts", flush', "starts {len(os.environ['API_KEY'])}\", flush")
    )
    shop.configure("v9")
    config = json.loads((shop.project / "crossfade.yaml").read_text())
    config["run"]["env_file"] = "prod.env"
    (shop.project / "crossfade.yaml").write_text(json.dumps(config))
    assert "API_KEY" in shop.run("deploy", str(shop.project), "--dry-run").stdout
    result = shop.run("deploy", str(shop.project), "--json")
    assert json.loads(result.stdout)["rollout"]["phase"] == "promoted"
    assert any("starts 19" in line for lines in shop.json("logs", "shop/production").values() for line in lines)
    shown = [result.stdout, shop.run("status", "--json").stdout, shop.run("releases", "shop", "--json").stdout]
    assert not any("hunter2" in text for text in shown)
    private = {"secrets", "programs"}
    for path in shop.state.rglob("*"):
        inside = path.relative_to(shop.state).parts
        if not path.is_file() or inside[0] in {"project", *private}:
            continue
        assert b"hunter2" not in path.read_bytes(), path
    for name in private:
        assert (shop.state / name).stat().st_mode & 0o077 == 0
    (shop.project / "prod.env").unlink()


def test_the_api_wants_its_token_on_every_route_but_health_and_readiness(shop: Installation) -> None:
    url = shop.client().url
    assert httpx.get(f"{url}/healthz").status_code == 200
    paths = httpx.get(f"{url}/api/v1/openapi.json").json()["paths"]
    for path, methods in paths.items():
        if path in ("/healthz", "/readyz"):
            continue
        form = "application/json" if path.startswith("/ofrep/") else "application/problem+json"
        for method in methods:
            concrete = (
                path.replace("{id}", "1").replace("{service_name}", "shop").replace("{environment}", "production")
            )
            for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic eDp5"}):
                answer = httpx.request(method.upper(), f"{url}{concrete}", headers=headers)
                assert answer.status_code == 401, (method, path)
                assert answer.headers["content-type"] == form


def test_hostile_requests_are_refused_and_never_a_server_error(shop: Installation) -> None:
    url = shop.client().url
    token = (shop.state / "token").read_text().strip()
    http = httpx.Client(base_url=f"{url}/api/v1", headers={"Authorization": f"Bearer {token}"})
    deploy = {"service": "shop", "environment": "production", "digest": "sha256:" + "0" * 64, "config": {}}
    answers = [
        http.post("/rollouts", json=deploy),
        http.post("/rollouts", json=deploy | {"digest": "../../etc/passwd"}),
        http.post("/rollouts", json=deploy | {"service": "../x"}),
        http.post("/rollouts", json=deploy | {"surprise": 1}),
        http.post("/rollouts", content=b"[" * 100_000, headers={"Content-Type": "application/json"}),
        http.post("/rollouts", content=b"\xff\xfe", headers={"Content-Type": "application/json"}),
        http.post("/rollouts", content=b"x" * (5 * 1024 * 1024)),
        http.post("/artifacts", content=b"this is no tar"),
        http.post("/artifacts?digest=nonsense", content=b""),
        http.get("/rollouts/999999"),
        http.get("/rollouts/99999999999999999999999"),
        http.get("/rollouts?limit=0"),
        http.get("/rollouts?service=shop"),
        http.get("/environments/shop/production/logs?release=x"),
        http.get("/environments/..%2f..%2fetc/production"),
        http.post("/environments/shop/production/commands", json={"command": "explode"}),
        http.post("/environments/shop/production/rollbacks", json={"to": "r1; rm -rf /"}),
    ]
    for answer in answers:
        assert 400 <= answer.status_code < 500, (answer.request.url, answer.status_code, answer.text)
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["title"]
