"""Replicas as real processes under a real supervisord."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from crossfade.domain.errors import CrossfadeError, StorageFailed, Unavailable
from crossfade.domain.values import EnvKey
from crossfade.ports import Replica, ReplicaSpec
from crossfade.runtimes.process import ProcessRuntime
from crossfade.runtimes.supervisor import LOG_BACKUPS, LOG_BYTES, Supervisor

Until = Callable[..., None]

KEY = EnvKey("shop", "production")
PYTHON = (sys.executable, "-S", "-c")
STAYS = (*PYTHON, "import time; time.sleep(600)")
SERVES = (sys.executable, "-m", "http.server", "$PORT", "--bind", "${HOST}")


def spec(
    name: str,
    command: tuple[str, ...] = STAYS,
    env: dict[str, str] | None = None,
    cwd: Path = Path("/"),
    stop_timeout: float = 10.0,
) -> ReplicaSpec:
    return ReplicaSpec(f"shop.production.{name}", command, cwd, env or {}, stop_timeout=stop_timeout)


def one(runtime: ProcessRuntime, name: str = "r1-1") -> Replica:
    return next(r for r in runtime.replicas(KEY) if r.name == f"shop.production.{name}")


def answers(replica: Replica) -> bool:
    try:
        with urllib.request.urlopen(f"http://{replica.host}:{replica.port}/", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def lives(pid: int) -> bool:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] != "Z"


def test_a_replica_serves_on_the_port_that_it_was_given(runtime: ProcessRuntime, until: Until, tmp_path: Path) -> None:
    (started,) = runtime.start(KEY, [spec("r1-1", SERVES, cwd=tmp_path)], 1)
    until(lambda: answers(started))
    assert one(runtime).port == started.port


def test_only_port_and_host_are_substituted(runtime: ProcessRuntime, until: Until) -> None:
    show = (*PYTHON, "import sys; print(*sys.argv[1:], flush=True); import time; time.sleep(600)")
    words = ("$PORT", "a${PORT}b", "$HOST:$PORT", "$PORTAL", "$HOME", "$(id)", "`id`", "%d;$$", "*", "'\"")
    (started,) = runtime.start(KEY, [spec("r1-1", (*show, *words))], 1)
    until(lambda: runtime.logs(started.name))
    port = started.port
    assert runtime.logs(started.name) == (f"{port} a{port}b 127.0.0.1:{port} $PORTAL $HOME $(id) `id` %d;$$ * '\"",)


def test_hostile_environment_values_arrive_as_they_are(
    runtime: ProcessRuntime, until: Until, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONTROL_PLANE_TOKEN", "not for replicas")
    hostile = {
        "QUOTES": 'it\'s "so" `x` $(y) $HOME ${HOME}',
        "PERCENT": "100% %(here)s %(ENV_PATH)s %%",
        "COMMA": "a,b=c,d",
        "COMMENT": "x ; y # z",
        "LINES": "one\ntwo\r\n\tthree\\n\n[program:evil]\ncommand=/bin/false\n",
        "UNICODE": "ünï ☃ \U0001f600 \u202e",
        "NOT_UTF8": os.fsdecode(b"\xff\xfe"),
        "EMPTY": "",
        "LONG": "x" * 100_000,
    }
    out = tmp_path / "env.json"
    code = f"import json, os, time; json.dump(dict(os.environ), open({str(out)!r}, 'w')); time.sleep(600)"
    (started,) = runtime.start(KEY, [spec("r1-1", (*PYTHON, code), env=hostile)], 1)
    until(lambda: out.exists() and out.read_text().endswith("}"))
    seen = json.loads(out.read_text())
    assert {name: seen[name] for name in hostile} == hostile
    assert (seen["PORT"], seen["HOST"]) == (str(started.port), "127.0.0.1")
    assert set(seen) - set(hostile) <= {"PATH", "HOME", "LANG", "TMPDIR", "PORT", "HOST", "LC_CTYPE"}


def test_secrets_are_in_files_that_only_their_owner_can_read(runtime: ProcessRuntime, state: Path) -> None:
    runtime.start(KEY, [spec("r1-1", env={"PASSWORD": "hunter2"})], 1)
    holding = [path for path in state.rglob("*") if path.is_file() and b"hunter2" in path.read_bytes()]
    assert holding
    for path in holding:
        assert path.stat().st_mode & 0o077 == 0
        assert path.parent.stat().st_mode & 0o077 == 0
    assert b"hunter2" not in b"".join(
        p.read_bytes() for p in Path("/proc").glob("[0-9]*/cmdline") if lives(int(p.parent.name))
    )


def test_a_replica_outlives_a_killed_controller(state: Path, supervisor: Supervisor, until: Until) -> None:
    code = f"""
import sys, time
from pathlib import Path
from crossfade.domain.values import EnvKey
from crossfade.ports import ReplicaSpec
from crossfade.runtimes.process import ProcessRuntime
from crossfade.runtimes.supervisor import Supervisor
state = Path({str(state)!r})
runtime = ProcessRuntime(state, Supervisor(state))
(replica,) = runtime.start(EnvKey("shop", "production"), [ReplicaSpec("shop.production.r1-1", {STAYS!r}, Path("/"), {{}})], 1)
print(replica.pid, replica.port, flush=True)
time.sleep(600)
"""
    controller = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert controller.stdout is not None
        pid, port = map(int, controller.stdout.readline().split())
    finally:
        os.killpg(controller.pid, signal.SIGKILL)
        controller.wait()
    runtime = ProcessRuntime(state, Supervisor(state))
    until(lambda: one(runtime).state == "running")
    assert (one(runtime).pid, one(runtime).port, one(runtime).restarts) == (pid, port, 0)
    assert lives(pid)


def test_a_killed_replica_comes_back_on_its_port(runtime: ProcessRuntime, until: Until, tmp_path: Path) -> None:
    (started,) = runtime.start(KEY, [spec("r1-1", SERVES, cwd=tmp_path)], 1)
    until(lambda: answers(started))
    until(lambda: one(runtime).state == "running")
    os.kill(started.pid, signal.SIGKILL)
    until(lambda: one(runtime).pid not in (0, started.pid))
    until(lambda: answers(started))
    back = one(runtime)
    assert (back.port, back.restarts) == (started.port, 1)
    assert "SIGKILL" in back.detail


def test_what_a_crashed_replica_leaves_behind_does_not_keep_its_port(
    runtime: ProcessRuntime, until: Until, tmp_path: Path
) -> None:
    # The first of the group forks a server and waits; killed, it leaves the server on the port.
    code = (
        "import os, sys, time\n"
        "if os.fork() == 0:\n"
        "    os.execv(sys.executable, [sys.executable, '-m', 'http.server', os.environ['PORT'], '--bind', '127.0.0.1'])\n"
        "time.sleep(600)"
    )
    (started,) = runtime.start(KEY, [spec("r1-1", (*PYTHON, code), cwd=tmp_path)], 1)
    until(lambda: answers(started))
    until(lambda: one(runtime).state == "running")
    os.kill(started.pid, signal.SIGKILL)
    until(lambda: one(runtime).pid not in (0, started.pid))
    until(lambda: answers(started))
    assert "Address already in use" not in "\n".join(runtime.logs(started.name))


def test_a_command_that_does_not_exist_says_so_in_state_and_log(runtime: ProcessRuntime, until: Until) -> None:
    runtime.start(KEY, [spec("r1-1", ("no-such-command", "$PORT"))], 1)
    until(lambda: one(runtime).state == "exited")
    assert "exited with status 127" in one(runtime).detail
    assert (
        runtime.logs("shop.production.r1-1")[-1] == "crossfade: cannot run 'no-such-command': No such file or directory"
    )


def test_a_folder_that_does_not_exist_says_so_in_the_log(runtime: ProcessRuntime, until: Until) -> None:
    runtime.start(KEY, [spec("r1-1", cwd=Path("/no/such/folder"))], 1)
    until(lambda: one(runtime).state == "exited")
    assert "cannot enter the folder /no/such/folder" in runtime.logs("shop.production.r1-1")[-1]


def test_a_crash_loop_is_not_hot_and_can_be_stopped(runtime: ProcessRuntime, until: Until) -> None:
    runtime.start(KEY, [spec("r1-1", ("sh", "-c", "exit 7"))], 1)
    until(lambda: one(runtime).restarts >= 2)
    time.sleep(1)
    assert one(runtime).restarts < 10
    runtime.stop(KEY, ["shop.production.r1-1"], 1)
    assert runtime.replicas(KEY) == ()


def test_replicas_that_ignore_sigterm_are_killed_together(runtime: ProcessRuntime, until: Until) -> None:
    deaf = (
        *PYTHON,
        "import signal, time; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)",
    )
    names = [f"r1-{i}" for i in range(4)]
    started = runtime.start(KEY, [spec(name, deaf, stop_timeout=3) for name in names], 1)
    until(lambda: all(runtime.logs(r.name) for r in started))
    began = time.monotonic()
    runtime.stop(KEY, [r.name for r in started], 1)
    took = time.monotonic() - began
    assert 2.5 <= took < 10  # One stop_timeout, not four.
    assert not any(lives(r.pid) for r in started)


def test_a_slow_stop_keeps_nobody_from_starting(runtime: ProcessRuntime, until: Until) -> None:
    deaf = (
        *PYTHON,
        "import signal, time; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)",
    )
    (slow,) = runtime.start(KEY, [spec("r1-1", deaf, stop_timeout=15)], 1)
    until(lambda: runtime.logs(slow.name))
    stopping = threading.Thread(target=runtime.stop, args=(KEY, [slow.name], 1))
    stopping.start()
    until(lambda: one(runtime).detail == "is stopping")
    runtime.start(KEY, [spec("r2-1")], 1)
    assert stopping.is_alive()
    assert lives(slow.pid)
    os.kill(slow.pid, signal.SIGKILL)
    stopping.join(30)
    assert [r.name for r in runtime.replicas(KEY)] == ["shop.production.r2-1"]


def test_children_of_a_stopped_replica_die_too(runtime: ProcessRuntime, until: Until, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    code = (
        "import os, signal, time\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    signal.signal(15, signal.SIG_IGN)\n"
        f"    open({str(pids)!r}, 'w').write(str(os.getpid()) + '.')\n"
        "time.sleep(600)"
    )
    (started,) = runtime.start(KEY, [spec("r1-1", (*PYTHON, code), stop_timeout=1)], 1)
    until(lambda: pids.exists() and pids.read_text().endswith("."))
    child = int(pids.read_text()[:-1])
    assert lives(child)
    runtime.stop(KEY, ["shop.production.r1-1"], 1)
    assert not lives(started.pid)
    assert not lives(child)


def test_output_and_errors_are_in_one_log_and_binary_does_not_break_it(runtime: ProcessRuntime, until: Until) -> None:
    code = (
        "import os, time\n"
        "os.write(1, b'out\\n'); os.write(2, b'err\\n')\n"
        "os.write(1, bytes(range(256)) * 40 + b'\\n\\x1b[2J\\x1b]0;title\\x07\\n' + b'y' * 9000 + b'\\nend\\n')\n"
        "time.sleep(600)"
    )
    (started,) = runtime.start(KEY, [spec("r1-1", (*PYTHON, code))], 1)
    until(lambda: runtime.logs(started.name, 1) == ("end",))
    lines = runtime.logs(started.name, 1000)
    assert lines[:2] == ("out", "err")
    assert not any(ord(c) < 32 and c != "\t" for line in lines for c in line)
    assert max(map(len, lines)) <= 2000
    assert runtime.logs(started.name, 2)[1:] == ("end",)
    assert runtime.logs(started.name, 0) == ()


def test_logs_are_rotated_and_still_read_as_one(runtime: ProcessRuntime, state: Path, until: Until) -> None:
    code = (
        "import os, time\n"
        "line = b'x' * 1023 + b'\\n'\n"
        f"for i in range({LOG_BYTES * 6 // 65536}): os.write(1, line * 64)\n"
        "os.write(1, b'end\\n'); time.sleep(600)"
    )
    (started,) = runtime.start(KEY, [spec("r1-1", (*PYTHON, code))], 1)
    until(lambda: runtime.logs(started.name, 1) == ("end",), 100)
    parts = sorted((state / "logs").glob(f"{started.name}.log*"))
    assert len(parts) == LOG_BACKUPS + 1
    assert sum(part.stat().st_size for part in parts) < (LOG_BACKUPS + 1.1) * LOG_BYTES
    assert len(runtime.logs(started.name, 200)) == 200


def test_the_log_stays_after_a_stop(runtime: ProcessRuntime, until: Until) -> None:
    (started,) = runtime.start(KEY, [spec("r1-1", ("echo", "why it failed"))], 1)
    until(lambda: runtime.logs(started.name))
    runtime.stop(KEY, [started.name], 1)
    assert runtime.logs(started.name)[0] == "why it failed"


def test_a_replica_that_is_down_gets_another_port_when_its_own_was_taken(
    state: Path, supervisor: Supervisor, runtime: ProcessRuntime, until: Until, tmp_path: Path
) -> None:
    wanted = spec("r1-1", SERVES, cwd=tmp_path)
    (started,) = runtime.start(KEY, [wanted], 1)
    until(lambda: answers(started))
    supervisor.shutdown()
    with socket.socket() as thief:
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        thief.bind((started.host, started.port))
        thief.listen()
        supervisor.start()
        until(lambda: one(runtime).state == "exited")
        (moved,) = runtime.start(KEY, [wanted], 1)
        assert moved.port != started.port
        until(lambda: answers(moved))


def test_ports_are_below_those_of_outgoing_connections(runtime: ProcessRuntime) -> None:
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    started = runtime.start(KEY, [spec(f"r1-{i}") for i in range(5)], 1)
    assert len({r.port for r in started}) == 5
    if lowest >= 21_000:
        assert all(r.port < lowest for r in started)


def test_replicas_come_back_by_themselves_with_their_ports_when_supervisord_starts_again(
    state: Path, supervisor: Supervisor, runtime: ProcessRuntime, until: Until, tmp_path: Path
) -> None:
    started = runtime.start(KEY, [spec("r1-1", SERVES, cwd=tmp_path), spec("r1-2", SERVES, cwd=tmp_path)], 1)
    until(lambda: all(answers(r) for r in started))
    supervisor.shutdown()
    assert not any(lives(r.pid) for r in started)
    with pytest.raises(Unavailable, match="crossfade up"):
        runtime.replicas(KEY)
    Supervisor(state).start()
    until(lambda: all(answers(r) for r in started))
    assert [r.port for r in runtime.replicas(KEY)] == [r.port for r in started]
    again = runtime.start(KEY, [spec("r1-1", SERVES, cwd=tmp_path)], 1)
    assert again[0].pid == one(runtime).pid


def test_a_killed_supervisord_leaves_no_rival_of_the_replica_that_comes_back(
    state: Path, supervisor: Supervisor, runtime: ProcessRuntime, until: Until, tmp_path: Path
) -> None:
    (started,) = runtime.start(KEY, [spec("r1-1", SERVES, cwd=tmp_path)], 1)
    until(lambda: answers(started))
    os.kill(supervisor.pid(), signal.SIGKILL)
    until(lambda: not supervisor.running())
    assert lives(started.pid)  # It goes on without.
    supervisor.start()
    assert not lives(started.pid)
    until(lambda: answers(one(runtime)))
    assert one(runtime).port == started.port


def test_without_supervisord_nothing_is_started_later(
    state: Path, supervisor: Supervisor, runtime: ProcessRuntime
) -> None:
    supervisor.shutdown()
    with pytest.raises(Unavailable, match="crossfade up"):
        runtime.start(KEY, [spec("r1-1")], 1)
    supervisor.start()
    assert supervisor.states() == {}
    assert runtime.replicas(KEY) == ()


def test_an_unwritable_state_folder_fails_and_starts_nothing(state: Path, runtime: ProcessRuntime) -> None:
    (state / "replicas").write_text("a file in the way")
    with pytest.raises(StorageFailed):
        runtime.start(KEY, [spec("r1-1")], 1)
    assert list((state / "programs").iterdir()) == []


def test_an_unwritable_program_folder_leaves_nothing_half_started(
    state: Path, supervisor: Supervisor, runtime: ProcessRuntime
) -> None:
    (kept,) = runtime.start(KEY, [spec("r1-1")], 1)
    blocked = state / "programs" / "shop.production.r2-2.conf"
    blocked.mkdir()
    with pytest.raises(StorageFailed):
        runtime.start(KEY, [spec("r2-1"), spec("r2-2")], 1)
    blocked.rmdir()
    assert [r.name for r in runtime.replicas(KEY)] == [kept.name]
    assert set(supervisor.states()) == {kept.name}
    assert {path.stem for path in (state / "programs").iterdir()} == {kept.name}


def test_a_full_disk_fails_and_starts_nothing(state: Path, supervisor: Supervisor, runtime: ProcessRuntime) -> None:
    (kept,) = runtime.start(KEY, [spec("r1-1")], 1)
    # The limit on file sizes of a process of its own stands for the full disk: every write fails half-way.
    code = f"""
import resource, signal
from pathlib import Path
from crossfade.domain.errors import StorageFailed
from crossfade.domain.values import EnvKey
from crossfade.ports import ReplicaSpec
from crossfade.runtimes.process import ProcessRuntime
from crossfade.runtimes.supervisor import Supervisor
state = Path({str(state)!r})
runtime = ProcessRuntime(state, Supervisor(state))
resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))
specs = [ReplicaSpec(f"shop.production.r2-{{i}}", {STAYS!r}, Path("/"), {{"BIG": "x" * 500}}) for i in (1, 2)]
try:
    runtime.start(EnvKey("shop", "production"), specs, 1)
except StorageFailed as error:
    print("failed:", error.hint)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert "failed: Free some space" in done.stdout, done.stderr
    assert [r.name for r in runtime.replicas(KEY)] == [kept.name]
    assert {path.stem for path in (state / "programs").iterdir()} == {kept.name}
    assert not [path for path in state.rglob(".*") if path.is_file()]


def test_many_callers_at_once_do_not_damage_each_other(state: Path, supervisor: Supervisor, until: Until) -> None:
    keys = [EnvKey("shop", name) for name in ("one", "two", "three", "four")]
    problems: list[BaseException] = []

    def work(key: EnvKey) -> None:
        mine = ProcessRuntime(state, Supervisor(state))
        try:
            for turn in range(4):
                names = [f"shop.{key.environment}.r{turn}-{i}" for i in (1, 2)]
                mine.start(key, [ReplicaSpec(name, STAYS, Path("/"), {}) for name in names], turn)
                if turn < 3:
                    mine.stop(key, names, turn)
        except (CrossfadeError, OSError, AssertionError) as error:
            problems.append(error)

    threads = [threading.Thread(target=work, args=(key,)) for key in keys]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)
    assert problems == []
    runtime = ProcessRuntime(state, supervisor)
    found = [r for key in keys for r in runtime.replicas(key)]
    assert [r.name for r in found] == [f"shop.{k.environment}.r3-{i}" for k in keys for i in (1, 2)]
    assert len({r.port for r in found}) == 8
    until(lambda: all(r.state == "running" for key in keys for r in runtime.replicas(key)))
    assert set(supervisor.states()) == {r.name for r in found}


def test_two_starts_of_one_environment_at_once_start_each_replica_once(state: Path, supervisor: Supervisor) -> None:
    results: list[tuple[Replica, ...]] = []

    def work() -> None:
        with contextlib.suppress(CrossfadeError):
            results.append(ProcessRuntime(state, Supervisor(state)).start(KEY, [spec("r1-1"), spec("r1-2")], 1))

    threads = [threading.Thread(target=work) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(results) == 5
    assert len({(r.name, r.pid, r.port) for result in results for r in result}) == 2


def test_a_damaged_record_is_no_reason_to_fail(state: Path, runtime: ProcessRuntime) -> None:
    runtime.start(KEY, [spec("r1-1")], 1)
    (state / "replicas" / "shop.production" / "shop.production.r1-2.json").write_text("{")
    assert [r.name for r in runtime.replicas(KEY)] == ["shop.production.r1-1"]
    assert len(runtime.start(KEY, [spec("r1-2")], 1)) == 1


def test_a_replica_dies_of_a_closed_pipe_as_it_would_in_a_shell(runtime: ProcessRuntime, until: Until) -> None:
    # Python, which launches it, ignores SIGPIPE; what is ignored is inherited.
    (started,) = runtime.start(KEY, [spec("r1-1", ("sh", "-c", "grep SigIgn /proc/self/status; sleep 600"))], 1)
    until(lambda: runtime.logs(started.name))
    ignored = int(runtime.logs(started.name)[0].split()[1], 16)
    assert ignored & 1 << (signal.SIGPIPE - 1) == 0
    assert ignored & 1 << (signal.SIGXFSZ - 1) == 0
