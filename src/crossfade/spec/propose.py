"""A first `crossfade.yaml` from what is in a folder. It says what it guessed, and from what."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from crossfade.domain.errors import InvalidConfig
from crossfade.spec.loader import parse
from crossfade.spec.propose_pipeline import Stagecraft, craft
from crossfade.spec.survey import App, Folder, Route
from crossfade.spec.written import comments, flow, scalar

_ASGI: Final = ("FastAPI", "Starlette", "Quart", "Litestar")
_WSGI: Final = ("Flask", "Bottle")
_SCRIPTS: Final = ("app.py", "main.py", "server.py", "run.py")
_PROGRAMS: Final = ("run", "start", "app", "server", "bin/run", "bin/start", "bin/server", "run.sh", "start.sh")
_SHELL = re.compile(r"[|&;<>()`*?~!#\n\r]|\$\(|\$\{[^}]*[^A-Za-z0-9_}]|^\s*[A-Za-z_][A-Za-z0-9_]*=")
_VENDOR: Final = "vendor"


@dataclass(frozen=True, slots=True)
class Proposal:
    """``text`` is a valid file with comments. ``found`` says, a sentence each, what it was made from."""

    text: str
    found: list[str]


@dataclass(slots=True)
class _Guess:
    run: list[str]
    why: list[str]
    build: list[str] = field(default_factory=list)
    build_why: list[str] = field(default_factory=list)
    output: str = "."
    env: dict[str, str] = field(default_factory=dict)
    ignore: list[str] = field(default_factory=list)
    listens: bool = True  # whether the command itself hands over $PORT
    sure: bool = True


def propose(folder: Path) -> Proposal:
    """Look into ``folder`` and propose. Nothing in it is run or imported; whatever cannot be read is left out."""
    here = Folder(folder)
    name = service_name(folder)
    for guess in _guesses(here):
        for pipeline in dict.fromkeys((craft(here, guess.run), None)):
            text = _write(name, guess, here.health_route(), pipeline)
            try:
                parse(text)
            except InvalidConfig:
                continue  # a name or a command there that the file cannot hold
            return Proposal(text, [*_found(guess, here.health_route(), pipeline), *_notes(here)])
    guess = _Guess(["./run"], ["Nothing here says how the service is started."], listens=False, sure=False)
    return Proposal(_write(name, guess, None, None), ["nothing that says how the service is started", *_notes(here)])


def service_name(folder: Path) -> str:
    """The name of the folder as the name of a service; ``app`` when nothing of it can be used."""
    try:
        plain = folder.resolve().name
    except (OSError, RuntimeError):
        plain = folder.name
    name = re.sub(r"[^a-z0-9]+", "-", plain.lower()).lstrip("-0123456789")[:40].strip("-")
    return name or "app"


def _guesses(here: Folder) -> Iterator[_Guess]:
    for look in (_procfile, _python, _node, _go, _program, _script):
        guess = look(here)
        if guess is not None:
            yield guess


def _procfile(here: Folder) -> _Guess | None:
    match = re.search(r"^web:[ \t]*(\S.*)$", here.text("Procfile"), re.MULTILINE)
    if match is None:
        return None
    command = match[1].strip()
    why = ["The web line of Procfile."]
    words = _words(command)
    if words is None:
        words = ["sh", "-c", command]
        why.append("It needs a shell: let its last command begin with exec, so that signals reach it.")
    build, build_why, env, ignore = _dependencies(here)
    return _Guess(words, why, build, build_why, env=env, ignore=ignore, listens="PORT" in command)


def _words(command: str) -> list[str] | None:
    """The words of a command, or None when only a shell can read it."""
    if _SHELL.search(command):
        return None
    try:
        return shlex.split(command) or None
    except ValueError:
        return None


def _python(here: Folder) -> _Guess | None:
    build, build_why, env, ignore = _dependencies(here)

    def guess(run: list[str], *why: str) -> _Guess:
        return _Guess(["python3", *run], list(why), build, build_why, env=env, ignore=ignore)

    if here.has("manage.py"):
        settings = re.search(r"""DJANGO_SETTINGS_MODULE["'],\s*["']([A-Za-z0-9_.]+)["']""", here.text("manage.py"))
        if settings is not None:
            project = settings[1].split(".")[0]
            if _wants(here, "uvicorn"):
                run = ["-m", "uvicorn", f"{project}.asgi:application", "--host", "$HOST", "--port", "$PORT"]
            elif _wants(here, "gunicorn"):
                run = ["-m", "gunicorn", f"{project}.wsgi", "--bind", "$HOST:$PORT"]
            else:
                run = ["manage.py", "runserver", "--noreload", "$HOST:$PORT"]
                return guess(
                    run,
                    f"manage.py: a Django project, {project}.",
                    "runserver is not made for production; with gunicorn or uvicorn among the requirements, use that.",
                )
            return guess(run, f"manage.py: a Django project, {project}.")
    apps = here.apps(_ASGI + _WSGI)
    if not apps:
        return None
    app = min(apps, key=lambda found: (found.file.count("/"), found.variable not in ("app", "application"), found.file))
    base, module = _module(app)
    where = f"{app.file} makes a {app.maker} application, {app.variable}."
    if app.maker in _ASGI:
        run = ["-m", "uvicorn", f"{module}:{app.variable}", "--host", "$HOST", "--port", "$PORT"]
        return guess(run + (["--app-dir", base] if base else []), where)
    if app.maker == "Flask" and not _wants(here, "gunicorn"):
        if base:
            env = env | {"PYTHONPATH": ":".join(filter(None, [env.get("PYTHONPATH"), base]))}
        run = ["-m", "flask", "--app", f"{module}:{app.variable}", "run", "--host", "$HOST", "--port", "$PORT"]
        return guess(
            run, where, "flask run is not made for production; with gunicorn among the requirements, use that."
        )
    run = ["-m", "gunicorn", f"{module}:{app.variable}", "--bind", "$HOST:$PORT"]
    return guess(run + (["--chdir", base] if base else []), where)


def _module(app: App) -> tuple[str, str]:
    """The folder to import from (empty for the top) and the module's name."""
    folders = app.file.split("/")
    module = folders.pop().removesuffix(".py")
    base = folders[:1] if folders[:1] == ["src"] else []
    package = folders[len(base) :]
    if not all(name.isidentifier() for name in package):
        base, package = folders, []  # no package has such a name
    if module == "__init__" and package:
        module = package.pop()
    return "/".join(base), ".".join([*package, module])


def _wants(here: Folder, package: str) -> bool:
    """Whether the project names ``package`` among what it needs."""
    text = here.text("requirements.txt") + "\n" + here.text("pyproject.toml")
    return re.search(rf"""(^|["'\s]){re.escape(package)}($|["'\s=<>~!;\[])""", text, re.MULTILINE) is not None


def _dependencies(here: Folder) -> tuple[list[str], list[str], dict[str, str], list[str]]:
    """How a Python project's dependencies get into its artifact: command, why, env, ignore."""
    install = ["python3", "-m", "pip", "install", "--quiet", "--upgrade", "--target", _VENDOR]
    why = "so that the artifact has all it needs: installed into the folder vendor, which PYTHONPATH names."
    if re.search(r"^\s*[^\s#]", here.text("requirements.txt"), re.MULTILINE):
        return [*install, "-r", "requirements.txt"], [f"requirements.txt, {why}"], {"PYTHONPATH": _VENDOR}, []
    try:
        project: Any = tomllib.loads(here.text("pyproject.toml")).get("project")
    except (tomllib.TOMLDecodeError, RecursionError, ValueError):
        return [], [], {}, []
    dependencies = project.get("dependencies") if isinstance(project, dict) else None
    if isinstance(dependencies, list) and dependencies and all(isinstance(line, str) for line in dependencies):
        return [*install, *dependencies], [f"The dependencies of pyproject.toml, {why}"], {"PYTHONPATH": _VENDOR}, []
    return [], [], {}, []


def _node(here: Folder) -> _Guess | None:
    try:
        package: Any = json.loads(here.text("package.json") or "null")
    except (ValueError, RecursionError):
        return None
    if not isinstance(package, dict):
        return None
    scripts: Any = package.get("scripts")
    scripts = scripts if isinstance(scripts, dict) else {}
    start, main = scripts.get("start"), package.get("main")
    words = _words(start) if isinstance(start, str) else None
    if words is not None and words[0] == "node":
        run, why = words, ["scripts.start of package.json, without npm, so that signals reach the program itself."]
    elif isinstance(start, str) and start.strip():
        run, why = ["npm", "run", "--silent", "start"], ["scripts.start of package.json."]
    elif isinstance(main, str) and here.has(main):
        run, why = ["node", main], ["main of package.json."]
    elif here.has("server.js") or here.has("index.js"):
        run, why = (
            ["node", "server.js" if here.has("server.js") else "index.js"],
            ["package.json, and a script beside it."],
        )
    else:
        return None
    build: list[str] = []
    build_why: list[str] = []
    install = "npm ci" if here.has("package-lock.json") else "npm install --no-audit --no-fund"
    if isinstance(scripts.get("build"), str):
        build, build_why = ["sh", "-c", f"{install} && npm run build"], ["scripts.build of package.json."]
    elif isinstance(package.get("dependencies"), dict) and package["dependencies"]:
        build, build_why = [*install.split(), "--omit=dev"], ["The dependencies of package.json."]
    listens = any("$PORT" in word for word in run)
    return _Guess(run, why, build, build_why, listens=listens)


def _go(here: Folder) -> _Guess | None:
    if not re.search(r"^module\s+\S", here.text("go.mod"), re.MULTILINE):
        return None
    mains = [
        name
        for name, text in here.sources.items()
        if name.endswith(".go") and re.search(r"^package[ \t]+main\b", text, re.MULTILINE) and "func main()" in text
    ]
    if not mains:
        return None
    place = mains[0].rpartition("/")[0]
    return _Guess(
        ["./app"],
        ["The program that the build makes."],
        ["go", "build", "-o", "build/app", f"./{place}" if place else "."],
        [f"go.mod, and the main package in {mains[0]}."],
        output="build",
        listens=False,
    )


def _program(here: Folder) -> _Guess | None:
    for name in _PROGRAMS:
        if here.runnable(name):
            return _Guess([f"./{name}"], [f"{name} is a program."], listens=False)
    return None


def _script(here: Folder) -> _Guess | None:
    for name in _SCRIPTS:
        if here.has(name) and here.text(name).strip():
            build, build_why, env, ignore = _dependencies(here)
            return _Guess(
                ["python3", name], [f"{name} is here."], build, build_why, env=env, ignore=ignore, listens=False
            )
    return None


def _found(guess: _Guess, route: Route | None, pipeline: Stagecraft | None) -> list[str]:
    found = [f"run: {shlex.join(guess.run)} ({guess.why[0].rstrip('.')})"]
    if guess.build:
        found.append(f"build: {shlex.join(guess.build)} ({guess.build_why[0].partition(',')[0].rstrip('.')})")
    if route is not None:
        found.append(f"health: {route.path} ({route.file}, line {route.line})")
    else:
        found.append("health: no route that looks like a health check; / is proposed")
    if pipeline is not None:
        found.append(f"pipeline: {', '.join(pipeline.names)} ({pipeline.language})")
    return found


def _notes(here: Folder) -> list[str]:
    if here.has("Dockerfile"):
        return ["a Dockerfile, which the process runtime does not read"]
    return []


def _write(name: str, guess: _Guess, route: Route | None, pipeline: Stagecraft | None) -> str:
    lines = [
        "# Proposed by `crossfade init`. What it guessed says so; what is not here has a default.",
        "# Every key, with its meaning: docs/reference/crossfade-yaml.md. To check this file: crossfade validate",
        "",
        f"service: {name}",
        "",
    ]
    if guess.build:
        lines += [*comments("Guessed from: ", guess.build_why), "build:", f"  command: {flow(guess.build)}"]
        lines += [f"  output: {guess.output}", ""]
    lines += ["run:"]
    if guess.sure:
        lines += [f"  {line}" for line in comments("Guessed from: ", guess.why)]
    else:
        lines += [
            "  # FILL IN: the program and its arguments, a list of words. Nothing here said how the service is started.",
        ]
    if not guess.listens:
        lines += ["  # The program must listen on the port in the variable PORT, at the address in HOST."]
    lines += [f"  command: {flow(guess.run)}"]
    if guess.env:
        lines += ["  env:", *(f"    {key}: {scalar(value)}" for key, value in guess.env.items())]
    lines += ["", "# What must be true of a replica before it gets traffic."]
    if route is not None:
        lines += comments("Guessed from: ", [f"{route.file}, line {route.line}."])
        lines += ["# Let it assert what the business needs, for example with  json: {$.books: {min: 1}}"]
        lines += ["health:", "  - name: it answers", f"    path: {scalar(route.path)}"]
    else:
        lines += [
            "# FILL IN: no route that looks like a health check was found. One that asserts what the business needs is",
            "# better than the front page, for example  {name: there are books, path: /health, json: {$.books: {min: 1}}}",
            "health:",
            "  - name: it answers",
            "    path: /",
        ]
    lines += [
        "",
        "# All traffic moves at once, and the new release is watched for a while. To move it in steps instead:",
        "#   strategy: {kind: canary, steps: [{weight: 5%, duration: 30s}, {weight: 50%, duration: 1m}]}",
        "strategy: {kind: blue-green, watch: 10s}",
        "",
        "environments:",
        "  production: {port: 8080}",
        "",
    ]
    if pipeline is not None:
        lines += [*pipeline.lines, ""]
    return "\n".join(lines)
