"""`crossfade init` proposes a file that is valid as it stands, from whatever the folder holds."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crossfade.spec.loader import parse
from crossfade.spec.models import Spec, json_schema
from crossfade.spec.propose import Proposal, propose, service_name
from crossfade.spec.tree import read

DJANGO = 'os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")\n'


def project(root: Path, files: Mapping[str, str]) -> Path:
    root.mkdir(exist_ok=True)
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        if text.startswith("#!"):
            path.chmod(0o755)
    return root


def proposed(root: Path) -> tuple[Spec, Proposal]:
    proposal = propose(root)
    jsonschema.Draft202012Validator(json_schema()).validate(read(proposal.text).data)
    return parse(proposal.text), proposal


@pytest.mark.parametrize(
    ("files", "run", "build", "path"),
    [
        pytest.param(
            {"main.py": 'from fastapi import FastAPI\napp = FastAPI()\n\n@app.get("/healthz")\ndef ok(): ...\n'},
            "python3 -m uvicorn main:app --host $HOST --port $PORT", "", "/healthz", id="fastapi",
        ),
        pytest.param(
            {
                "src/shop/api/__init__.py": "",
                "src/shop/api/main.py": "import fastapi\nweb: fastapi.FastAPI = fastapi.FastAPI()\n",
                "requirements.txt": "fastapi\nuvicorn\n",
            },
            "python3 -m uvicorn shop.api.main:web --host $HOST --port $PORT --app-dir src",
            "python3 -m pip install --quiet --upgrade --target vendor -r requirements.txt", "/", id="fastapi-in-src",
        ),
        pytest.param(
            {"web-app/asgi.py": "from starlette.applications import Starlette\napp = Starlette(routes=[Route('/ready', x)])\n"},
            "python3 -m uvicorn asgi:app --host $HOST --port $PORT --app-dir web-app", "", "/ready", id="starlette",
        ),
        pytest.param(
            {"shop.py": "from flask import Flask\nserver = Flask(__name__)\n@server.route('/health')\ndef h(): ...\n"},
            "python3 -m flask --app shop:server run --host $HOST --port $PORT", "", "/health", id="flask",
        ),
        pytest.param(
            {
                "shop/__init__.py": "from flask import Flask\napp = Flask(__name__)\n",
                "pyproject.toml": '[project]\nname = "shop"\ndependencies = ["flask>=3", "gunicorn"]\n',
            },
            "python3 -m gunicorn shop:app --bind $HOST:$PORT",
            "python3 -m pip install --quiet --upgrade --target vendor flask>=3 gunicorn", "/", id="flask-gunicorn",
        ),
        pytest.param(
            {"manage.py": DJANGO, "requirements.txt": "Django>=5\ngunicorn==23\n", "shop/urls.py": 'path("health/", ok),'},
            "python3 -m gunicorn shop.wsgi --bind $HOST:$PORT",
            "python3 -m pip install --quiet --upgrade --target vendor -r requirements.txt", "/health/", id="django",
        ),
        pytest.param(
            {"manage.py": DJANGO}, "python3 manage.py runserver --noreload $HOST:$PORT", "", "/", id="django-alone"
        ),
        pytest.param(
            {
                "package.json": json.dumps({"scripts": {"start": "node server.js"}, "dependencies": {"express": "5"}}),
                "package-lock.json": "{}",
                "server.js": "app.get('/health', (q, r) => r.send('ok'))\n",
            },
            "node server.js", "npm ci --omit=dev", "/health", id="node",
        ),
        pytest.param(
            {"package.json": json.dumps({"scripts": {"start": "NODE_ENV=x next start", "build": "next build"}})},
            "npm run --silent start", "sh -c npm install --no-audit --no-fund && npm run build", "/", id="node-npm",
        ),
        pytest.param({"package.json": '{"main": "./index.js"}', "index.js": "1"}, "node ./index.js", "", "/", id="node-main"),
        pytest.param(
            {"go.mod": "module shop\n", "main.go": 'package main\nfunc main() { http.HandleFunc("/healthz", h) }\n'},
            "./app", "go build -o build/app .", "/healthz", id="go",
        ),
        pytest.param(
            {"go.mod": "module shop\n", "cmd/shop/main.go": 'package main\nfunc main() { mux.Handle("GET /ready", h) }\n'},
            "./app", "go build -o build/app ./cmd/shop", "/ready", id="go-cmd",
        ),
        pytest.param({"Procfile": "worker: x\nweb: ./serve --port $PORT 'a b'\n"}, "./serve --port $PORT a b", "", "/", id="procfile"),
        pytest.param(
            {"Procfile": "web: exec ./serve --port ${PORT:-80} | tee log\n"},
            "sh -c exec ./serve --port ${PORT:-80} | tee log", "", "/", id="procfile-shell",
        ),
        pytest.param({"run": "#!/bin/sh\nexec true\n"}, "./run", "", "/", id="program"),
        pytest.param({"app.py": "print('hello')\n"}, "python3 app.py", "", "/", id="script"),
        pytest.param({}, "./run", "", "/", id="nothing"),
        pytest.param({"notes.txt": "hello", "Dockerfile": "FROM scratch\n"}, "./run", "", "/", id="dockerfile"),
    ],
)  # fmt: skip
def test_what_is_there_becomes_a_valid_file(
    tmp_path: Path, files: dict[str, str], run: str, build: str, path: str
) -> None:
    spec, _ = proposed(project(tmp_path / "bookshop", files))
    assert spec.service == "bookshop"
    assert " ".join(spec.run.command) == run
    assert " ".join(spec.build.command) == build
    assert [check.path for check in spec.health] == [path]
    assert spec.for_environment("production").port == 8080
    if "--target vendor" in build:
        assert spec.run.env == {"PYTHONPATH": "vendor"}


def test_the_file_says_what_was_guessed_and_from_what(tmp_path: Path) -> None:
    root = project(
        tmp_path / "shop", {"main.py": 'app = FastAPI()\n@app.get("/health")\ndef h(): ...\n', "Dockerfile": "FROM x"}
    )
    _, proposal = proposed(root)
    assert "# Guessed from: main.py makes a FastAPI application, app." in proposal.text
    assert "# Guessed from: main.py, line 2." in proposal.text
    assert proposal.found == [
        "run: python3 -m uvicorn main:app --host '$HOST' --port '$PORT' (main.py makes a FastAPI application, app)",
        "health: /health (main.py, line 2)",
        "pipeline: compile (Python)",
        "a Dockerfile, which the process runtime does not read",
    ]


def test_where_nothing_is_found_the_file_says_what_to_fill_in(tmp_path: Path) -> None:
    _, proposal = proposed(tmp_path)
    assert proposal.text.count("# FILL IN") == 2
    assert proposal.found == ["nothing that says how the service is started"]


def test_a_request_to_another_service_is_no_health_route(tmp_path: Path) -> None:
    source = 'requests.get("/health")\nself.client.get("/ping")\nfetch("/status")\n'
    spec, _ = proposed(project(tmp_path / "x", {"app.py": source, "tests/test_app.py": 'app.get("/ready")'}))
    assert spec.health[0].path == "/"


@pytest.mark.parametrize(
    ("folder", "name"),
    [("My_Shop", "my-shop"), ("3d.printer", "d-printer"), ("ÜÖ", "app"), ("x" * 60, "x" * 40), ("-a-", "a"), ("a" * 39 + "-b", "a" * 39)],
)  # fmt: skip
def test_the_name_of_the_service_comes_from_the_folder(tmp_path: Path, folder: str, name: str) -> None:
    (tmp_path / folder).mkdir()
    assert service_name(tmp_path / folder) == name
    spec, _ = proposed(tmp_path / folder)
    assert spec.service == name


def test_a_hostile_folder_breaks_nothing(tmp_path: Path) -> None:
    root = project(tmp_path / "evil", {"a/b.py": "app = Flask("})
    (root / "loop").symlink_to(root)
    (root / "a" / "up").symlink_to("..")
    (root / "passwd.py").symlink_to("/etc/passwd")
    (root / "package.json").write_bytes(b"\xff\xfe\x00\x01" * 1000)
    (root / "pyproject.toml").write_text("[project\ndependencies = 3")
    (root / "Procfile").mkdir()
    os.mkfifo(root / "manage.py")
    os.mkfifo(root / "go.mod")
    (root / "deep.py").write_text("FastAPI" + "(" * 100_000)
    (root / "minus.py").write_text("x = FastAPI(" + "-" * 100_000 + "1)")
    (root / "huge.py").write_text("FastAPI\n" + "@app.get('/health" * 100_000)
    (root / "many.py").write_text("get('/status')\n" * 50_000)
    (root / os.fsdecode(b"\xff\xfe.py")).write_text("app = FastAPI()\n")
    (root / "line\nbreak.py").write_text("app = FastAPI()\n")
    (root / "requirements.txt").write_bytes(b"\x00\x01")
    nested = root
    for _ in range(40):
        nested = nested / "d"
    nested.mkdir(parents=True)
    spec, proposal = proposed(root)
    assert spec.run.command == ("./run",)
    assert "passwd" not in proposal.text


@pytest.fixture
def nobody() -> Iterator[Path]:
    """A folder of a user who is not root, as whom the test goes on: root reads everything."""
    propose(Path("/nonexistent"))  # what it imports late is then there, wherever that may be read from
    folder = Path(tempfile.mkdtemp(prefix="cf-", dir="/tmp"))
    if os.geteuid():
        yield folder
    else:
        os.chown(folder, 65_534, 65_534)
        os.seteuid(65_534)
        try:
            yield folder
        finally:
            os.seteuid(0)
    shutil.rmtree(folder)


def test_what_may_not_be_read_is_as_if_it_were_not_there(nobody: Path) -> None:
    root = project(nobody / "x", {"Procfile": "web: ./x\n", "hidden/app.py": "app = FastAPI()"})
    (root / "Procfile").chmod(0)
    (root / "hidden").chmod(0)
    try:
        assert parse(propose(root).text).run.command == ("./run",)
    finally:
        (root / "hidden").chmod(0o755)
    assert "uvicorn" in parse(propose(root).text).run.command


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=60)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["web: {}\n", "web: run {} --port $PORT"]).flatmap(lambda t: TEXT.map(t.format)),
    st.recursive(TEXT | st.integers() | st.none(), lambda inner: st.dictionaries(st.sampled_from(["scripts", "start", "main", "build", "dependencies"]), inner, max_size=3), max_leaves=6),
    TEXT,
)  # fmt: skip
def test_whatever_text_is_in_the_files_the_proposal_is_valid(
    tmp_path: Path, procfile: str, package: object, requirements: str
) -> None:
    for name, files in {
        "a": {"Procfile": procfile, "requirements.txt": requirements},
        "b": {"package.json": json.dumps(package), "server.js": "1"},
        "c": {"pyproject.toml": f"[project]\ndependencies = [{json.dumps(requirements)}]", "app.py": requirements},
    }.items():
        root = project(tmp_path / name, files)
        proposed(root)
        shutil.rmtree(root)


def test_the_proposed_build_makes_the_dependencies_importable_for_the_proposed_command(tmp_path: Path) -> None:
    """For real, with a package of its own, so that no registry is asked."""
    package = project(
        tmp_path / "greeting",
        {
            "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
            '[project]\nname = "greeting"\nversion = "1"\n',
            "backend.py": "import zipfile\n"
            "def build_wheel(folder, config_settings=None, metadata_directory=None):\n"
            "    name = 'greeting-1-py3-none-any.whl'\n"
            "    with zipfile.ZipFile(folder + '/' + name, 'w') as wheel:\n"
            "        wheel.writestr('greeting.py', 'WORD = 42')\n"
            "        wheel.writestr('greeting-1.dist-info/METADATA', 'Metadata-Version: 2.1\\nName: greeting\\nVersion: 1\\n')\n"
            "        wheel.writestr('greeting-1.dist-info/WHEEL', 'Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n')\n"
            "        wheel.writestr('greeting-1.dist-info/RECORD', '')\n"
            "    return name\n",
        },
    )
    root = project(
        tmp_path / "shop", {"app.py": "import greeting; print(greeting.WORD)\n", "requirements.txt": f"{package}\n"}
    )
    spec, _ = proposed(root)
    assert spec.build.command[:3] == ("python3", "-m", "pip")
    if importlib.util.find_spec("pip") is None:
        pytest.skip("this Python has no pip, which the proposal is for")
    command = [sys.executable, *spec.build.command[1:]]
    build = subprocess.run(command, cwd=root, capture_output=True, check=False, timeout=110)
    assert build.returncode == 0, build.stderr.decode()
    env = {**os.environ, **dict(spec.for_environment("production").env)}
    done = subprocess.run(
        [sys.executable, *spec.run.command[1:]], cwd=root, env=env, capture_output=True, check=False, timeout=60
    )
    assert done.stdout == b"42\n", done.stderr.decode()
