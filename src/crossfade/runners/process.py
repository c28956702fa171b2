"""`ports.pipeline.Steps`: commands as processes under a keeper each, or in containers under a keeper each."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from crossfade.domain.errors import StorageFailed
from crossfade.domain.pipeline.plan import Container
from crossfade.ports.pipeline import Cancel, Ended, How, Job
from crossfade.runners.containers import CONTAINER_VARIABLES, Containers, run_command, variables_file

OWNER: Final = "CROSSFADE_OWNER"
PLACE: Final = "CROSSFADE_PLACE"
JOB: Final = "CROSSFADE_JOB"
KEEPER: Final = "import sys; sys.path.append(sys.argv[1]); import keeper; keeper.main()"
"""Imported rather than run as a file: so it need not be compiled for every step."""

IDLE: Final = 1.0
"""Seconds for which a keeper waits for another job."""
PATIENCE: Final = 30.0
"""Seconds that a keeper may take to end everything once it was told to."""


class ProcessSteps:
    """Runs jobs. ``state`` tells the processes of this installation from those of others."""

    def __init__(self, state: Path) -> None:
        self._state = state
        # Its hash: a command has no business in the state folder, and need not learn where it is.
        self._place = hashlib.sha256(str(state.resolve()).encode()).hexdigest()[:16]
        self._containers = Containers(self._place)
        self._idle: list[tuple[subprocess.Popen[bytes], float]] = []
        """Keepers that wait for another job, and since when."""
        self._lock = threading.Lock()
        self._contains = state / "containers"
        """There once a step has run in a container."""

    def run(self, job: Job, cancel: Cancel) -> Ended:
        """See the port."""
        home = job.log.parent.parent / "homes" / job.log.stem
        try:
            for folder in (home / "home", home / "tmp"):
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            job.log.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageFailed(f"{home} cannot be made: {error.strerror or error}.") from error
        try:
            token = os.urandom(8).hex()
            told = self._told(job, home, token)
            if job.container is None:
                return self._run(job, told, token, cancel)
            return self._contained(job, job.container, told, token, home, cancel)
        finally:
            shutil.rmtree(home, ignore_errors=True)

    def _told(self, job: Job, home: Path, token: str) -> dict[str, Any]:
        env = {
            "PATH": os.environ.get("PATH", "/usr/local/bin:/usr/bin:/bin"),
            "LANG": "C.UTF-8",
            "HOME": str(home / "home"),
            "TMPDIR": str(home / "tmp"),
            **job.env,
            OWNER: job.owner,
            PLACE: self._place,
            JOB: token,
        }
        return {
            "command": list(job.command),
            "folder": str(job.folder),
            "log": str(job.log),
            "env": env,
            "secrets": dict(job.secrets),
            "timeout": job.timeout,
            "memory": job.memory,
            "output": job.output,
        }

    def _run(self, job: Job, told: Mapping[str, Any], token: str, cancel: Cancel) -> Ended:
        process = self._keeper()
        assert process.stdin is not None and process.stdout is not None
        done = threading.Event()
        watcher = threading.Thread(target=self._cancelling, args=(process, cancel, done), daemon=True)
        try:
            process.stdin.write(json.dumps(told).encode() + b"\n")
            process.stdin.flush()
            watcher.start()
            answer = process.stdout.readline()
        except OSError:
            answer = b""
        finally:
            done.set()
        if watcher.ident is not None:
            watcher.join()  # so that nothing of this job's comes to the next one
        if answer:
            self._give_back(process)
        else:
            _end(process)
        return self._ended(answer, token)

    def _keeper(self) -> subprocess.Popen[bytes]:
        """One that waits for a job, or a new one."""
        with self._lock:
            while self._idle:
                process, _ = self._idle.pop()
                if process.poll() is None:
                    return process
                _end(process)
        return subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", KEEPER, str(Path(__file__).parent)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={"PATH": os.environ.get("PATH", ""), OWNER: "keeper", PLACE: self._place},
            start_new_session=True,
        )

    def _give_back(self, process: subprocess.Popen[bytes]) -> None:
        with self._lock:
            self._idle.append((process, time.monotonic()))
        timer = threading.Timer(IDLE, self._let_go)
        timer.daemon = True
        timer.start()

    def _let_go(self) -> None:
        """End the keepers that nobody has wanted for a while."""
        with self._lock:
            old = [one for one in self._idle if time.monotonic() - one[1] >= IDLE * 0.9]
            self._idle = [one for one in self._idle if one not in old]
        for process, _ in old:
            _end(process)

    @staticmethod
    def _cancelling(process: subprocess.Popen[bytes], cancel: Cancel, done: threading.Event) -> None:
        while not done.wait(0.02):
            if cancel.is_set():
                with contextlib.suppress(OSError, ValueError):
                    assert process.stdin is not None
                    process.stdin.write(b"c\n")
                    process.stdin.flush()
                return

    def _ended(self, answer: bytes, token: str) -> Ended:
        try:
            said = json.loads(answer)
        except ValueError:
            self._sweep(f"{JOB}={token}".encode())
            return Ended(How.LOST, -1, "was lost: what kept it was killed", 0.0)
        if said["how"] == "no-log":
            raise StorageFailed(said["sentence"] + ".", hint="Look at the free space of the state folder.")
        return Ended(
            How(said["how"]),
            int(said["status"]),
            said["sentence"],
            float(said["seconds"]),
            int(said.get("memory", 0)),
            int(said.get("written", 0)),
            int(said.get("left", 0)),
        )

    def _contained(
        self, job: Job, container: Container, told: dict[str, Any], token: str, home: Path, cancel: Cancel
    ) -> Ended:
        program = self._containers.program()
        try:
            self._contains.touch()
        except OSError as error:
            raise StorageFailed.because(f"write {self._contains}", error) from error
        name = f"crossfade-{token}"
        variables = home / "variables"
        text = variables_file({**job.env, **job.secrets})
        try:
            variables.write_text(text)
            variables.chmod(0o600)
        except OSError as error:
            raise StorageFailed.because(f"write {variables}", error) from error
        command = run_command(program, job, container, name=name, variables=variables, place=self._place)
        own = {key: os.environ[key] for key in CONTAINER_VARIABLES if key in os.environ}
        try:
            # The secrets go along for the masking only; the program itself hands on nothing but the file's variables.
            return self._run(job, {**told, "command": command, "env": {**told["env"], **own}}, token, cancel)
        finally:
            self._containers.remove(program, name)

    def sweep(self, owner: str = "") -> int:
        """See the port."""
        count = self._sweep(f"{OWNER}={owner}".encode(), whole=bool(owner))
        if self._contains.exists():  # asking podman takes a moment, which most installations need not wait
            count += self._containers.sweep(owner)
        if not owner:
            # Nothing runs any more. A home may hold the variables of a container, secrets among them.
            for left in self._state.glob("runs/*/*/homes"):
                shutil.rmtree(left, ignore_errors=True)
        return count

    def _sweep(self, mark: bytes, *, whole: bool = True) -> int:
        ended: set[int] = set()
        deadline = time.monotonic() + PATIENCE
        while found := self._left(mark, whole):
            for pid in found:
                try:
                    # Between reading and killing, the number could have passed to somebody else.
                    with open_pid(pid) as handle:
                        if self._is_marked(pid, mark, whole):
                            signal.pidfd_send_signal(handle, signal.SIGKILL)
                            ended.add(pid)
                except OSError:
                    continue
            if time.monotonic() > deadline:
                break
            time.sleep(0.02)
        return len(ended)

    def _left(self, mark: bytes, whole: bool) -> list[int]:
        pids = [int(name) for name in os.listdir("/proc") if name.isdecimal()]
        return [pid for pid in pids if pid != os.getpid() and self._is_marked(pid, mark, whole)]

    def _is_marked(self, pid: int, mark: bytes, whole: bool) -> bool:
        try:
            variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            return False
        if f"{PLACE}={self._place}".encode() not in variables:
            return False
        return any(one == mark if whole else one.startswith(mark) for one in variables)


def _end(process: subprocess.Popen[bytes]) -> None:
    """A keeper ends with its standard input."""
    assert process.stdin is not None and process.stdout is not None
    with contextlib.suppress(OSError):
        process.stdin.close()
    process.stdout.close()
    process.wait()


@contextmanager
def open_pid(pid: int) -> Iterator[int]:
    """A handle of a process: it never comes to mean another one. Raises OSError when there is none."""
    handle = os.pidfd_open(pid)
    try:
        yield handle
    finally:
        os.close(handle)
