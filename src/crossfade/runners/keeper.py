"""Runs one command and answers for all that it starts: its limits, its log, its end. A program of its own.

Started by `ProcessSteps` with one JSON line on stdin (what to run; it holds secrets, so it is not on the command line), it
answers with one JSON line on stdout. Whatever the command forks becomes its child when the forker ends
(PR_SET_CHILD_SUBREAPER), wherever its session, so that nothing can leave. When stdin ends, the server is gone: so is all of
this. Only the standard library is used: it starts with every step.
"""

from __future__ import annotations

import binascii
import contextlib
import ctypes
import json
import os
import re
import resource
import select
import signal
import time

TYPE_CHECKING = False  # as `typing` has it, whose import would cost each step 5 ms
if TYPE_CHECKING:
    from typing import Any

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
GRACE = 5.0
LEFT_GRACE = 0.3
LOOK_EVERY = 0.1
MOST_PROCESSES = 1000
CHUNK = 256 * 1024
MASK = b"***"


class Masker:
    """Takes secrets out of a stream of bytes, also where one is cut by the border of two chunks.

    What comes out, joined, is the same however the stream was cut. Values shorter than 4 bytes are left alone: they would
    mask half of the log.
    """

    def __init__(self, secrets: list[bytes]) -> None:
        found = {one for one in secrets if len(one) >= 4}
        found |= {binascii.b2a_base64(one, newline=False) for one in found}
        # The longest first: of two that begin alike, the rest of the longer one must not stay.
        self._secrets = sorted(found, key=lambda one: (-len(one), one))
        self._any = re.compile(b"|".join(re.escape(one) for one in self._secrets))
        self._longest = max((len(one) for one in self._secrets), default=1)
        self._held = b""

    def feed(self, chunk: bytes) -> bytes:
        """What can be shown so far: all but a tail that may be the beginning of a secret."""
        if not self._secrets:
            return chunk
        text = self._held + chunk
        cut = len(text)
        for begin in range(max(0, len(text) - self._longest + 1), len(text)):
            tail = text[begin:]
            if any(len(one) > len(tail) and one.startswith(tail) for one in self._secrets):
                cut = begin
                break
        shown, at = [], 0
        for match in self._any.finditer(text):
            if match.start() >= cut:
                break
            shown += [text[at : match.start()], MASK]
            at = match.end()
        if at < cut:
            shown.append(text[at:cut])
            at = cut
        self._held = text[at:]
        return b"".join(shown)

    def end(self) -> bytes:
        """The rest, once nothing follows."""
        held, self._held = self._held, b""
        return self._any.sub(MASK, held) if self._secrets else held


def children(pid: int) -> list[int]:
    """The processes that have this one as their parent."""
    found: list[int] = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children") as file:
                found += [int(word) for word in file.read().split()]
    except OSError:
        pass
    return found


def descendants(pid: int) -> list[int]:
    """Its children, theirs, and so on."""
    found, todo = [], children(pid)
    while todo:
        one = todo.pop()
        found.append(one)
        todo += children(one)
    return found


def memory_of(pids: list[int]) -> int:
    """Bytes that they hold for themselves; what they share with others does not count."""
    page, total = resource.getpagesize(), 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/statm") as file:
                words = file.read().split()
            total += (int(words[1]) - int(words[2])) * page
        except (OSError, IndexError, ValueError):
            continue
    return total


def send(pids: list[int], number: int) -> None:
    """Send a signal; who is gone is gone."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except OSError:
            continue


def kill_all() -> None:
    """SIGKILL to all descendants; they are halted first, for what forks faster than it is killed would get away."""
    halted: set[int] = set()
    for _ in range(50):
        new = set(descendants(os.getpid())) - halted
        if not new:
            break
        send(sorted(new), signal.SIGSTOP)
        halted |= new
    send(descendants(os.getpid()), signal.SIGKILL)


class Keeper:
    """One job, from its start to the end of all that it started."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.job = job
        self.why = ""
        self.full = ""
        self.written = 0
        self.peak = 0
        self.status: int | None = None
        self.dead = False

    def run(self) -> dict[str, Any]:
        began = time.monotonic()
        job = self.job
        secrets = [value.encode("utf-8", "surrogateescape") for value in job["secrets"].values()]
        masker = Masker([line for value in secrets for line in {value, *value.splitlines()}])
        try:
            log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError as error:
            return {"how": "no-log", "sentence": f"{job['log']} cannot be written: {error.strerror}"}
        read, write = os.pipe2(os.O_CLOEXEC)
        failed, fails = os.pipe2(os.O_CLOEXEC)
        pid = os.fork()
        if pid == 0:
            self._become(write, fails)
        os.close(write)
        os.close(fails)
        said = b""
        while chunk := os.read(failed, 4096):
            said += chunk
        os.close(failed)
        if said:
            os.waitpid(pid, 0)
            for descriptor in (log, read):
                os.close(descriptor)
            return {"how": "not-started", "status": 127, "sentence": said.decode("utf-8", "replace"), "seconds": 0.0}
        deadline = began + job["timeout"]
        killing = 0.0
        os.set_blocking(read, False)
        ended = os.pidfd_open(pid)  # readable once it has ended: no look is waited for
        open_ = True
        looked = 0.0
        while True:
            now = time.monotonic()
            watch = [0] if not self.dead else []
            if open_:
                watch.append(read)
            if self.status is None:
                watch.append(ended)
            ready, _, _ = select.select(watch, [], [], LOOK_EVERY)
            if 0 in ready and not self.dead:
                said = os.read(0, 4096)
                if not said:
                    self.dead = True
                    self._stop("cancelled")
                elif b"c" in said:
                    self._stop("cancelled")
            if read in ready:
                open_ = self._copy(read, log, masker)
            if self.status is None:
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    self.status = status
                    if not self.why:
                        break
            if now - looked >= LOOK_EVERY:
                looked = now
                self._reap(pid)
                pids = descendants(os.getpid())
                used = memory_of(pids)
                self.peak = max(self.peak, used)
                if not self.why and used > job["memory"]:
                    self._stop("memory")
                if not self.why and len(pids) > MOST_PROCESSES:
                    self._stop("memory")
            if not self.why and now > deadline:
                self._stop("timeout")
            if self.why:
                if not killing:
                    killing = now
                    send(descendants(os.getpid()), signal.SIGTERM)
                elif now - killing > (0.3 if self.dead else GRACE) or self.why in ("memory", "output", "full"):
                    kill_all()
                if self.status is not None and not descendants(os.getpid()):
                    break
                self._reap(pid)
        left = self._end_rest(pid)
        while open_ and self._copy(read, log, masker):
            pass
        self._write(log, masker.end())
        for descriptor in (log, read, ended):
            os.close(descriptor)
        return self._result(time.monotonic() - began, left)

    def _become(self, write: int, fails: int) -> None:
        job = self.job
        try:
            os.setsid()
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            os.umask(0o077)
            nothing = os.open("/dev/null", os.O_RDONLY)
            os.dup2(nothing, 0)
            os.dup2(write, 1)
            os.dup2(write, 2)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            for number in (
                signal.SIGPIPE,
                signal.SIGXFSZ,
                signal.SIGCHLD,
                signal.SIGINT,
                signal.SIGTERM,
                signal.SIGHUP,
            ):
                signal.signal(number, signal.SIG_DFL)
            os.chdir(job["folder"])
            env = {**job["env"], **job["secrets"]}
            os.execvpe(job["command"][0], job["command"], env)  # noqa: S606 - a step is a command as argv, never a shell's
        except OSError as error:
            os.write(fails, f"{job['command'][0]!r} cannot be run: {error.strerror}".encode())
        finally:
            os._exit(127)

    def _stop(self, why: str) -> None:
        self.why = self.why or why

    def _copy(self, read: int, log: int, masker: Masker) -> bool:
        try:
            chunk = os.read(read, CHUNK)
        except BlockingIOError:
            return self.status is None
        except OSError:
            return False
        if not chunk:
            return False
        self._write(log, masker.feed(chunk))
        return True

    def _write(self, log: int, data: bytes) -> None:
        room = self.job["output"] - self.written
        if not data or self.why in ("output", "full"):
            return
        cut = len(data) > room
        data = data[:room]
        view = memoryview(data)
        while view:
            try:
                count = os.write(log, view)
            except OSError as error:
                self.full = error.strerror or str(error)
                self._stop("full")
                return
            view = view[count:]
            self.written += count
        if cut:
            self._stop("output")
            limit = self.job["output"] / 2**20
            with contextlib.suppress(OSError):
                os.write(log, f"\ncrossfade: more than {limit:.0f} MiB of output; the rest is left out.\n".encode())

    def _reap(self, main: int) -> None:
        for pid in children(os.getpid()):
            if pid != main:
                try:
                    os.waitpid(pid, os.WNOHANG)
                except OSError:
                    continue

    def _end_rest(self, main: int) -> int:
        """End what the command left behind, again and again until there is nothing."""
        left, began = 0, time.monotonic()
        while True:
            self._reap(main)
            pids = descendants(os.getpid())
            if not pids:
                return left
            left = max(left, len(pids))
            if time.monotonic() - began < LEFT_GRACE and not self.dead:
                send(pids, signal.SIGTERM)
            else:
                kill_all()
            time.sleep(0.01)

    def _result(self, seconds: float, left: int) -> dict[str, Any]:
        status = self.status or 0
        code = os.waitstatus_to_exitcode(status)
        job = self.job
        took = f"after {seconds:.1f} s"
        how = self.why or ("exited" if code >= 0 else "killed")
        sentence = {
            "exited": f"exited with {code} {took}",
            "killed": f"was killed by {name(-code)} {took}" if code < 0 else "",
            "timeout": f"did not end within {job['timeout']:g} s, and was ended",
            "memory": f"used more than {job['memory'] / 2**20:.0f} MiB of memory (or {MOST_PROCESSES} processes), and was ended",
            "output": f"wrote more than {job['output'] / 2**20:.0f} MiB, and was ended",
            "full": f"its log cannot be written: {self.full}",
            "cancelled": f"was cancelled {took}",
        }[how]
        return {
            "how": "no-log" if how == "full" else how,
            "status": abs(code),
            "sentence": sentence,
            "seconds": seconds,
            "memory": self.peak,
            "written": self.written,
            "left": left,
        }


def name(number: int) -> str:
    """Of a signal: ``SIGKILL``."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def main() -> None:
    """Read what to run, run it, answer; again and again, since starting takes longer than many a step does."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    coming = b""
    while True:
        while b"\n" not in coming:
            chunk = os.read(0, 65536)
            if not chunk:
                return
            coming += chunk
        line, _, coming = coming.partition(b"\n")
        if not line.startswith(b"{"):
            continue  # a cancellation that came when the job had ended
        keeper = Keeper(json.loads(line))
        if coming.startswith(b"c"):  # one that came before the job was read
            keeper.why, coming = "cancelled", b""
        result = keeper.run()
        with contextlib.suppress(OSError):
            os.write(1, json.dumps(result).encode() + b"\n")


if __name__ == "__main__":
    main()
