"""Makes `.venv` with exactly what a lock names, and the project itself in it, editable.

    python3 tools/setup.py LOCK [--debian]

LOCK is a file of `locks/` without its ending (run, dev, bench, lock). `--debian` also sees to the programs of
`tools/debian-packages.txt`. Only the standard library is used, for at this time there is nothing else. A second run
that finds all in place says nothing and takes a moment. Why it is so: docs/decisions/0001-hash-locks.md.

Exit codes: 0 done, 1 something is missing or failed (said on stderr), 130 interrupted.
"""

# The annotations may be modern, the statements not: a Python that is too old must get as far as being told so.
from __future__ import annotations

import argparse
import base64
import configparser
import contextlib
import fcntl
import hashlib
import importlib.util
import json
import os
import re
import select
import shutil
import ssl
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

OLDEST = (3, 11)
ROOT = Path(__file__).resolve().parent.parent
HELD_BY = {"run": ("dev", "bench")}
"""Locks that are wholly inside others: who has the wider one needs no more (a test compares the files)."""

BUILT_FROM = ("pyproject.toml", "package-lock.json", "tests/sdks/node/package-lock.json", "hatch_build.py")
"""What the built project is made from besides its sources, which are used where they are."""
BUILT = ("src/crossfade/web/static/vendor", "build/assets", "build/node")
"""The folders that the build of a checkout fills, by hatch_build.py: without them it is built again."""

PIP_WHEEL = "pip-26.3-py3-none-any.whl"
PIP_SHA256 = "f3b60b20ffaadd4415ed7957212a38ac63fa4c5fa375bd0f4a797777940fad13"
DEBIAN_PIP = "python3-pip-whl"
"""The package in which Debian and Ubuntu keep the pip that their `python3-venv` would put into an environment."""


class SetupFailed(Exception):
    """What is wrong, and what to do next, in words for the user."""


class Progress:
    """What goes on: one line that renews itself on a terminal, a line every few seconds elsewhere."""

    PAUSE = 3.0

    def __init__(self) -> None:
        self.terminal = sys.stderr.isatty()
        self.started = self.shown = time.monotonic()
        self.dirty = False

    def say(self, text: str) -> None:
        """Print a line that stays."""
        if self.dirty:
            print("\r\x1b[2K", end="", file=sys.stderr)
            self.dirty = False
        print(f"set-up: {text}", file=sys.stderr, flush=True)
        self.shown = time.monotonic()

    def now(self, text: str) -> None:
        """Show the state of a step that takes its time."""
        seconds = time.monotonic() - self.started
        if self.terminal:
            print(f"\r\x1b[2Kset-up: {text} ({seconds:.0f} s)"[:84], end="", file=sys.stderr, flush=True)
            self.dirty = True
        elif time.monotonic() - self.shown >= self.PAUSE:
            self.say(f"{text} ({seconds:.0f} s)")


def main(arguments: Sequence[str]) -> int:
    """Run the set-up; see the module's docstring."""
    want_python(arguments)
    parser = argparse.ArgumentParser(prog="tools/setup.py", description="Make .venv from a lock of locks/.")
    parser.add_argument("lock", choices=sorted(path.stem for path in (ROOT / "locks").glob("*.txt")))
    parser.add_argument("--debian", action="store_true", help="also install the missing Debian packages")
    options = parser.parse_args(arguments)
    progress = Progress()
    try:
        with alone(progress) as hold:
            Environment(ROOT, progress, hold).bring(options.lock)
            if options.debian:
                bring_programs(ROOT / "tools" / "debian-packages.txt", progress)
    except SetupFailed as failure:
        progress.say(f"failed. {failure}")
        return 1
    except KeyboardInterrupt:
        progress.say("interrupted; the next run takes it up again.")
        return 130
    return 0


def want_python(arguments: Sequence[str]) -> None:
    """Go on in a newer Python of this machine when this one is too old; exit with a clear message if there is none."""
    if sys.version_info[:2] >= OLDEST:
        return
    for minor in range(14, OLDEST[1] - 1, -1):
        newer = shutil.which("python3." + str(minor))
        if newer:
            os.execv(newer, [newer, str(Path(__file__).resolve()), *arguments])  # noqa: S606 - found on PATH just now
    found = ".".join(str(part) for part in sys.version_info[:3])
    wanted = ".".join(str(part) for part in OLDEST)
    sys.exit(
        f"set-up: Python {found} ({sys.executable}) is too old; Crossfade needs {wanted} or newer. "
        "Install one (Debian 12 and Ubuntu 24.04 have it), or name one: make PYTHON=/path/to/python3 ..."
    )


@contextlib.contextmanager
def alone(progress: Progress) -> Iterator[int]:
    """Hold the checkout's folder, so that two set-ups at once do the work once.

    The hold is the descriptor's: given on to pip, it lasts until that has ended too, even if we are killed.
    """
    folder = os.open(ROOT, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.say("another one is at work in this checkout; waiting for it")
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield folder
    finally:
        os.close(folder)


class Environment:
    """The `.venv` of a checkout. Its stamp, written last, says what it holds; without one it is made anew."""

    def __init__(self, root: Path, progress: Progress, hold: int) -> None:
        self.root = root
        self.hold = hold
        self.home = root / ".venv"
        self.python = self.home / "bin" / "python"
        self.stamp = self.home / "crossfade-stamp.json"
        self.log = self.home / "setup.log"
        self.progress = progress

    def bring(self, lock: str) -> None:
        """Make `.venv` hold ``lock`` and the project. Raises SetupFailed."""
        stamp = self._read_stamp()
        held: dict[str, str] = stamp["locks"] if stamp.get("base") == self._base() else {}
        covered = any(held.get(name) == self._hash(f"locks/{name}.txt") for name in (lock, *HELD_BY.get(lock, ())))
        project = "".join(self._hash(name) for name in BUILT_FROM)
        built = all((self.root / place).is_dir() for place in BUILT) or not (self.root / "hatch_build.py").exists()
        if covered and built and stamp.get("project") == project and self.python.exists():
            return
        self.stamp.unlink(missing_ok=True)
        if not held or not self.python.exists():
            held = {}
            self._create()
        if not covered or not held:
            before = held
            held = {name: self._hash(f"locks/{name}.txt") for name in {*before, lock}}
            held = {name: digest for name, digest in held.items() if digest and not covers(held, name)}
            for name in sorted(held):
                if before.get(name) != held[name]:
                    self._install(name)
            if before:
                self._remove_strays(sorted(held))
        # Should the build fail, for want of the network say, the next run takes it up from here.
        self._write_stamp({"base": self._base(), "locks": held})
        self.progress.now("the project itself")
        # hatchling, which builds it, is in the lock: nothing is fetched here.
        self._pip(["install", "--no-deps", "--no-index", "--no-build-isolation", "--editable", str(self.root)])
        self._write_stamp({"base": self._base(), "locks": held, "project": project})
        self.progress.say(f"done, .venv holds locks/{lock}.txt")

    def _base(self) -> dict[str, str]:
        """What an environment cannot outlive: another Python, or another place (its scripts name it)."""
        return {"python": sys.version, "executable": os.path.realpath(sys.executable), "root": str(self.root)}

    def _hash(self, name: str) -> str:
        path = self.root / name
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""

    def _read_stamp(self) -> dict[str, Any]:
        try:
            stamp: dict[str, Any] = json.loads(self.stamp.read_text())
        except (OSError, ValueError):
            return {}
        return stamp

    def _write_stamp(self, content: Mapping[str, object]) -> None:
        draft = self.stamp.with_suffix(".draft")
        draft.write_text(json.dumps(content, indent=2) + "\n")
        draft.replace(self.stamp)

    def _create(self) -> None:
        """An empty environment with pip. Debian's Python has no ensurepip unless python3-venv is installed."""
        self.progress.say(f"making .venv with Python {sys.version.split()[0]}")
        bare = importlib.util.find_spec("ensurepip") is None
        command = [sys.executable, "-m", "venv", "--clear", *(["--without-pip"] if bare else []), str(self.home)]
        made = subprocess.run(command, capture_output=True, text=True, check=False)
        if made.returncode:
            raise SetupFailed(f"{' '.join(command)} said:\n{(made.stdout + made.stderr).strip()}")
        if bare:
            self.progress.now("this Python has no pip; fetching one")
            packages = next(self.home.glob("lib/python3*/site-packages"))
            with tempfile.TemporaryDirectory(prefix="cf-pip-") as folder:
                # A wheel of pure Python runs as it is, unpacked. Verified: by its hash, or by apt.
                shutil.unpack_archive(pip_wheel(Path(folder)), packages, "zip")

    def _install(self, lock: str) -> None:
        path = self.root / "locks" / f"{lock}.txt"
        total = len(re.findall(r"^[\w.-]+==", path.read_text(), re.MULTILINE))
        self.progress.say(f"installing the {total} packages of locks/{lock}.txt")
        seen = 0

        def watch(line: str) -> None:
            nonlocal seen
            if line.startswith(("Collecting ", "Requirement already")):
                seen += 1
            # pip says nothing while it unpacks: what has arrived tells how far it is.
            arrived = len(list(self.home.glob("lib/python3*/site-packages/*.dist-info")))
            self.progress.now(f"{min(seen, total)} of {total} packages fetched, {arrived} in place")

        # Wheels only: a source distribution would run a build whose own needs no lock names.
        wanted = ["--require-hashes", "--no-deps", "--only-binary", ":all:", "--requirement", str(path)]
        self._pip(["install", *wanted], watch)

    def _remove_strays(self, locks: Sequence[str]) -> None:
        """Uninstall what an older lock brought and none of ``locks`` names: a forgotten dependency must not hide."""
        named = {"pip", "setuptools", "crossfade"}
        for lock in locks:
            named |= set(re.findall(r"^([\w.-]+)==", (self.root / "locks" / f"{lock}.txt").read_text(), re.MULTILINE))
        listed = json.loads(self._pip(["list", "--format=json"]))
        strays = [entry["name"] for entry in listed if re.sub(r"[-_.]+", "-", entry["name"]).lower() not in named]
        if strays:
            self._pip(["uninstall", "--yes", *strays])

    def _pip(self, arguments: Sequence[str], watch: Callable[[str], None] | None = None) -> str:
        """Run pip, which takes index, proxy and certificates from the user's own settings. Returns its stdout."""
        command = [str(self.python), "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments]
        lines = []
        with self.log.open("a") as log:
            log.write(f"$ {' '.join(command)}\n")
            log.flush()
            pipe = subprocess.PIPE
            with subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=log, pass_fds=[self.hold]
            ) as pip:
                assert pip.stdout is not None
                rest = b""
                while True:
                    if not select.select([pip.stdout], [], [], 1.0)[0]:
                        if watch:
                            watch("")
                        continue
                    block = os.read(pip.stdout.fileno(), 65536)
                    if not block:
                        break
                    *whole, rest = (rest + block).split(b"\n")
                    for line in whole:
                        lines.append(line.decode(errors="replace"))
                        log.write(lines[-1] + "\n")
                        if watch:
                            watch(lines[-1])
        if pip.returncode:
            said = "\n".join(line for line in self.log.read_text().splitlines() if not line.startswith("WARNING"))
            raise SetupFailed(
                f"pip said:\n{said[-2000:]}\nAll it said is in {self.log}. If the network or the package index is at "
                "fault, set pip's usual settings (PIP_INDEX_URL, PIP_CERT, HTTPS_PROXY), or npm_config_registry where the "
                "packages of npm cannot be fetched, and run this again."
            )
        return "\n".join(lines)


def covers(held: Mapping[str, str], lock: str) -> bool:
    """Whether a wider lock of ``held`` brings all of ``lock``."""
    return any(held.get(wider) for wider in HELD_BY.get(lock, ()))


def pip_wheel(folder: Path) -> Path:
    """A pip to start with, put into ``folder``: from the index that pip is set to use, else from Debian's packages.

    Raises SetupFailed when neither has one.
    """
    settings = pip_settings(os.environ, Path.home())
    reasons = []
    sources: list[Callable[[], Path]] = [lambda: pip_from_debian(folder)]
    if settings.get("index-url"):
        sources.insert(0, lambda: pip_from_index(settings, folder))
    for source in sources:
        try:
            return source()
        except (OSError, ValueError, subprocess.SubprocessError, tarfile.TarError) as error:
            reasons.append(str(error))
    raise SetupFailed(
        "This Python comes without pip, and none could be fetched:\n  "
        + "\n  ".join(reasons)
        + "\nInstall the package python3-venv, or set PIP_INDEX_URL to a package index that this machine reaches."
    )


def pip_settings(environ: Mapping[str, str], home: Path) -> dict[str, str]:
    """The settings of pip that concern a download, by pip's own order: environment, user's file, machine's file."""
    names = ("index-url", "cert", "proxy")
    settings: dict[str, str] = {}
    own = environ.get("PIP_CONFIG_FILE")
    config_home = Path(environ.get("XDG_CONFIG_HOME") or home / ".config")
    files = [Path("/etc/pip.conf"), home / ".pip" / "pip.conf", config_home / "pip" / "pip.conf"]
    for path in [*files, *([Path(own)] if own else [])]:
        parser = configparser.RawConfigParser()
        with contextlib.suppress(configparser.Error, OSError):
            parser.read(path)
        for section in ("global", "install"):
            for name in names:
                if parser.has_option(section, name):
                    settings[name] = parser.get(section, name).strip()
    for name in names:
        value = environ.get("PIP_" + name.replace("-", "_").upper())
        if value:
            settings[name] = value
    return settings


def pip_from_index(settings: Mapping[str, str], folder: Path) -> Path:
    """The pinned wheel from the configured package index. Raises OSError, or ValueError if it is not there."""
    index = settings["index-url"].rstrip("/") + "/pip/"
    proxies = {"http": settings["proxy"], "https": settings["proxy"]} if settings.get("proxy") else None
    context = ssl.create_default_context(cafile=settings.get("cert"))  # without one: SSL_CERT_FILE, else the system's
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler(proxies), urllib.request.HTTPSHandler(context=context)
    )

    def get(url: str) -> bytes:
        parts = urllib.parse.urlsplit(url)
        request = urllib.request.Request(parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl())  # noqa: S310 - the user's own index, of any scheme that urllib knows
        if parts.username is not None:
            login = urllib.parse.unquote(f"{parts.username}:{parts.password or ''}")
            request.add_header("Authorization", "Basic " + base64.b64encode(login.encode()).decode())
        with opener.open(request, timeout=60) as answer:
            content: bytes = answer.read()
            return content

    for link in re.findall(r"""href\s*=\s*["']([^"'#]+)""", get(index).decode(errors="replace")):
        if urllib.parse.unquote(link).endswith("/" + PIP_WHEEL) or link == PIP_WHEEL:
            content = get(same_login(index, urllib.parse.urljoin(index, link)))
            if hashlib.sha256(content).hexdigest() != PIP_SHA256:
                raise ValueError(f"the package index gave a {PIP_WHEEL} that is not the pinned one (sha256 differs)")
            path = folder / PIP_WHEEL
            path.write_bytes(content)
            return path
    raise ValueError(f"the package index that pip is set to use has no {PIP_WHEEL}")


def same_login(index: str, url: str) -> str:
    """``url`` with the login of ``index`` when it is on the same host, and of nobody else."""
    mine, other = urllib.parse.urlsplit(index), urllib.parse.urlsplit(url)
    bare = mine.netloc.rpartition("@")[2]
    return other._replace(netloc=mine.netloc).geturl() if other.netloc == bare else url


def pip_from_debian(folder: Path) -> Path:
    """The wheel that Debian ships for its own python3-venv; apt verifies it. Needs no root: nothing is installed.

    Raises OSError, CalledProcessError or ValueError.
    """
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        raise ValueError("this is no Debian or Ubuntu, so its packages cannot give a pip")
    state = folder / "apt"
    (state / "lists" / "partial").mkdir(parents=True)
    (state / "cache" / "archives" / "partial").mkdir(parents=True)
    options = [f"-oDir::State::Lists={state / 'lists'}", f"-oDir::Cache={state / 'cache'}", "-oAcquire::Languages=none"]
    options += ["-oDebug::NoLocking=1", "-oAPT::Sandbox::User="]
    try:  # the machine's own lists first; when they are missing or out of date, lists of our own
        run_quietly(["apt-get", "-q", "download", DEBIAN_PIP], folder)
    except ValueError:
        run_quietly(["apt-get", "-q", *options, "update"], folder)
        run_quietly(["apt-get", "-q", *options, "download", DEBIAN_PIP], folder)
    archive = next(folder.glob(f"{DEBIAN_PIP}_*.deb"))
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(archive)], stdout=subprocess.PIPE) as unpacking:
        with tarfile.open(fileobj=unpacking.stdout, mode="r|") as content:
            for member in content:
                name = Path(member.name).name
                if member.isfile() and re.fullmatch(r"pip-[\w.]+-py3-none-any\.whl", name):
                    stream = content.extractfile(member)
                    if stream is not None:
                        (folder / name).write_bytes(stream.read())
        # dpkg-deb may still be writing what tarfile did not want.
        if unpacking.stdout is not None:
            unpacking.stdout.close()
    found = sorted(folder.glob("pip-*.whl"))
    if not found:
        raise ValueError(f"Debian's package {DEBIAN_PIP} has no pip in it")
    return found[-1]


def run_quietly(command: Sequence[str], folder: Path) -> None:
    """Run ``command`` in ``folder``. Raises ValueError with its last line when it fails."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines() or ["nothing"]
        raise ValueError(f"{' '.join(command[:1])} said: {said[-1]}")


def missing_programs(listing: str, path: str | None = None) -> list[tuple[str, str]]:
    """The (package, program) pairs of ``listing`` whose program is not on ``path`` (default: PATH).

    Raises SetupFailed for a line that is not "package program", with "#" before a remark.
    """
    missing = []
    for number, line in enumerate(listing.splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        if len(words) != 2:
            raise SetupFailed(f"tools/debian-packages.txt:{number}: found {line!r}; allowed: a package and its program")
        package, program = words
        if not shutil.which(program, path=path):
            missing.append((package, program))
    return missing


def may_sudo() -> bool:
    """Whether sudo is here and asks for no password."""
    if not shutil.which("sudo"):
        return False
    return subprocess.run(["sudo", "-n", "true"], capture_output=True, check=False).returncode == 0


POLICY = Path("/usr/sbin/policy-rc.d")
"""What Debian's packages ask before they start a service (deb-systemd-invoke, invoke-rc.d): 101 says no."""


@contextlib.contextmanager
def no_services(as_root: Sequence[str], policy: Path = POLICY) -> Iterator[None]:
    """Let no package start a service meanwhile. A machine that has a policy of its own keeps it."""
    if policy.exists():
        yield
        return
    forbid = [[*as_root, "tee", str(policy)], [*as_root, "chmod", "755", str(policy)]]
    try:
        for command in forbid:
            subprocess.run(command, input=b"#!/bin/sh\nexit 101\n", capture_output=True, check=False)
        yield
    finally:
        subprocess.run([*as_root, "rm", "-f", str(policy)], capture_output=True, check=False)


def disable_services(packages: Sequence[str], as_root: Sequence[str]) -> None:
    """Keep what these packages brought from being started at the next boot either, where systemd is what boots."""
    listed = subprocess.run(["dpkg", "-L", *packages], capture_output=True, text=True, check=False).stdout
    units = sorted(set(re.findall(r"/systemd/system/([\w.-]+\.service)$", listed, re.MULTILINE)))
    if units and shutil.which("systemctl"):
        subprocess.run([*as_root, "systemctl", "disable", *units], capture_output=True, check=False)


def bring_programs(listing: Path, progress: Progress) -> None:
    """Install the Debian packages whose programs are missing, where root or sudo allows.

    Raises SetupFailed, naming what is missing, where it does not.
    """
    missing = missing_programs(listing.read_text())
    if not missing:
        return
    packages = sorted({package for package, _ in missing})
    names = ", ".join(f"{program} (Debian package {package})" for package, program in missing)
    by_hand = f"Install with: sudo apt-get install {' '.join(packages)}"
    apt = shutil.which("apt-get")
    if not apt:
        raise SetupFailed(f"Missing here: {names}. This machine has no apt-get; install them its own way.")
    as_root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    if as_root and not may_sudo():
        raise SetupFailed(f"Missing here: {names}. {by_hand}")
    progress.say(f"installing the Debian packages {' '.join(packages)}")
    install = [*as_root, "env", "DEBIAN_FRONTEND=noninteractive", apt, "-q", "-y", "--no-install-recommends", "install"]
    progress.now("apt-get update")
    subprocess.run([*as_root, apt, "-q", "update"], capture_output=True, stdin=subprocess.DEVNULL, check=False)
    progress.now("apt-get install")
    with no_services(as_root):
        done = subprocess.run(
            [*install, *packages], capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
        )
        disable_services(packages, as_root)
    if done.returncode or missing_programs(listing.read_text()):
        raise SetupFailed(f"Missing here: {names}. apt-get said:\n{(done.stdout + done.stderr)[-1500:]}\n{by_hand}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
