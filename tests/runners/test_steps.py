"""`ProcessSteps` and its keeper, with real processes: how jobs end, what their logs hold, and that nothing survives."""

from __future__ import annotations

import base64
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossfade.domain.pipeline.plan import Container
from crossfade.ports.pipeline import How, Job
from crossfade.runners.containers import run_command
from crossfade.runners.keeper import Masker
from crossfade.runners.process import ProcessSteps


@pytest.fixture
def job(tmp_path: Path) -> Callable[..., Job]:
    tree = tmp_path / "tree"
    tree.mkdir()

    def make(*command: str, **more: Any) -> Job:
        return Job("step", more.pop("owner", "run-1"), command, tree, tree, tmp_path / "logs" / "step.log", **more)

    return make


@pytest.fixture
def steps(tmp_path: Path) -> ProcessSteps:
    return ProcessSteps(tmp_path)


def python(code: str) -> tuple[str, str, str]:
    return (sys.executable, "-c", textwrap.dedent(code))


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until(truth: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 15
    while not truth():
        assert time.monotonic() < deadline
        time.sleep(0.02)


Make = Callable[..., Job]
NEVER = threading.Event()
STUBBORN = "import os, signal, time; os.setsid(); signal.signal(signal.SIGTERM, signal.SIG_IGN); "


@given(
    st.lists(st.binary(min_size=1, max_size=6), max_size=4),
    st.lists(st.sampled_from([b"a", b"b", b"ab", b"abab", b"\0", b"xyz"]), max_size=40),
    st.data(),
)
def test_a_log_is_masked_alike_however_it_comes_in(
    secrets: list[bytes], words: list[bytes], data: st.DataObject
) -> None:
    secrets = [*secrets, *data.draw(st.lists(st.sampled_from([b"abab", b"ababab", b"babx", b"bxyzab"]), max_size=3))]
    text = b"".join([*words, *secrets, *words])
    masker, shown, rest = Masker(secrets), b"", text
    while rest:
        size = data.draw(st.integers(1, 7))
        shown += masker.feed(rest[:size])
        rest = rest[size:]
    shown += masker.end()
    whole = Masker(secrets)
    assert shown == whole.feed(text) + whole.end()
    hidden = {one for one in secrets if len(one) >= 4}
    hidden |= {base64.b64encode(one) for one in hidden}
    pattern = b"|".join(re.escape(one) for one in sorted(hidden, key=lambda one: (-len(one), one)))
    assert shown == (re.sub(pattern, b"***", text) if hidden else text)


def test_output_is_kept_in_order_and_whole_with_its_bytes(steps: ProcessSteps, job: Make) -> None:
    one = job(*python("import os\nfor n in range(2000): os.write(1 + n % 2, bytes([n % 256]) * 500)"))
    ended = steps.run(one, NEVER)
    assert (ended.how, ended.status, ended.written) == (How.EXITED, 0, 1_000_000)
    assert one.log.read_bytes() == b"".join(bytes([n % 256]) * 500 for n in range(2000))


def test_the_status_is_the_commands(steps: ProcessSteps, job: Make) -> None:
    ended = steps.run(job("sh", "-c", "exit 3"), NEVER)
    assert (ended.how, ended.status) == (How.EXITED, 3)
    assert ended.sentence.startswith("exited with 3 after")


def test_a_signal_is_named(steps: ProcessSteps, job: Make) -> None:
    ended = steps.run(job("sh", "-c", "kill -SEGV $$"), NEVER)
    assert (ended.how, ended.status) == (How.KILLED, signal.SIGSEGV)
    assert "SIGSEGV" in ended.sentence


def test_a_command_that_is_not_there_is_said(steps: ProcessSteps, job: Make) -> None:
    ended = steps.run(job("no-such-program"), NEVER)
    assert ended.how is How.NOT_STARTED
    assert "no-such-program" in ended.sentence


def test_one_that_takes_too_long_is_ended(steps: ProcessSteps, job: Make) -> None:
    assert steps.run(job("sleep", "60", timeout=0.3), NEVER).how is How.TIMEOUT


def test_one_that_takes_too_much_memory_is_ended_with_its_children(steps: ProcessSteps, job: Make) -> None:
    code = "import os, time; pid = os.fork(); x = b'x' * (1 << 27); time.sleep(60)"
    assert steps.run(job(*python(code), memory=100 * 2**20), NEVER).how is How.MEMORY


def test_a_flood_of_output_is_ended_and_the_log_says_so(steps: ProcessSteps, job: Make) -> None:
    one = job("yes", output=1_000_000)
    ended = steps.run(one, NEVER)
    assert (ended.how, ended.written) == (How.OUTPUT, 1_000_000)
    assert one.log.read_bytes()[1_000_000:].startswith(b"\ncrossfade: more than")


def test_what_a_command_leaves_behind_is_ended_though_it_hides_and_is_deaf(steps: ProcessSteps, job: Make) -> None:
    one = job(
        *python(
            f"import os\nif os.fork() == 0:\n    {STUBBORN}print(os.getpid(), flush=True); time.sleep(60)\nos.read(0, 1); import time; time.sleep(0.3)"
        )
    )
    ended = steps.run(one, NEVER)
    assert (ended.how, ended.left) == (How.EXITED, 1)
    assert not is_alive(int(one.log.read_text()))


def test_one_that_forks_without_end_is_ended(steps: ProcessSteps, job: Make) -> None:
    # Bounded, should the keeper fail: 1,300 is a little more than it allows.
    code = "import os, time\nfor _ in range(1300):\n    if os.fork() == 0: time.sleep(30); os._exit(0)\ntime.sleep(30)"
    ended = steps.run(job(*python(code)), NEVER)
    assert ended.how is How.MEMORY
    assert "processes" in ended.sentence


def test_a_cancelled_one_is_ended_though_it_is_deaf_to_the_polite_signal(steps: ProcessSteps, job: Make) -> None:
    cancel, one = (
        threading.Event(),
        job(*python(f"{STUBBORN}print(os.getpid(), flush=True); time.sleep(60)".replace("os.setsid(); ", ""))),
    )

    def cancels() -> None:
        until(lambda: one.log.exists() and one.log.read_bytes().endswith(b"\n"))
        cancel.set()

    threading.Thread(target=cancels).start()
    assert steps.run(one, cancel).how is How.CANCELLED
    assert not is_alive(int(one.log.read_text()))


def test_a_command_sees_nothing_of_the_server(steps: ProcessSteps, job: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVER_SECRET", "hidden-thing")
    one = job(*python("import os; print(sorted(os.environ), os.listdir('/proc/self/fd'))"), env={"MINE": "1"})
    steps.run(one, NEVER)
    names, _, descriptors = one.log.read_text().partition("] [")
    expected = {"CROSSFADE_JOB", "CROSSFADE_OWNER", "CROSSFADE_PLACE", "HOME", "LANG", "MINE", "PATH", "TMPDIR"}
    assert set(re.findall(r"'(\w+)'", names)) - {"LC_CTYPE"} == expected
    # The fourth is the one that the listing itself opened.
    assert set(re.findall(r"'(\d+)'", descriptors)) == {"0", "1", "2", "3"}


def test_secrets_do_not_reach_the_log(steps: ProcessSteps, job: Make) -> None:
    one = job("sh", "-c", 'echo "$TOKEN"; printf hunt; sleep 0.1; echo er22', secrets={"TOKEN": "hunter22"})
    steps.run(one, NEVER)
    assert one.log.read_text() == "***\n***\n"


def test_when_the_server_is_killed_nothing_of_a_step_stays(tmp_path: Path, job: Make) -> None:
    log = job().log
    server = subprocess.Popen(
        [
            *python(f"""
        import sys, threading
        from pathlib import Path
        from crossfade.ports.pipeline import Job
        from crossfade.runners.process import ProcessSteps
        code = "import os, time\\nif os.fork() == 0: os.setsid()\\nprint(os.getpid(), flush=True); time.sleep(60)"
        tree = Path({str(tmp_path)!r}) / "tree"
        job = Job("step", "run-1", (sys.executable, "-c", code), tree, tree, Path({str(log)!r}))
        ProcessSteps(tree.parent).run(job, threading.Event())
    """)
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    until(lambda: log.exists() and log.read_bytes().count(b"\n") == 2)
    server.kill()
    server.wait()
    until(lambda: not any(is_alive(int(pid)) for pid in log.read_text().split()))


def test_when_a_keeper_is_killed_the_step_is_lost_and_swept_and_others_stay(steps: ProcessSteps, job: Make) -> None:
    other = subprocess.Popen(["sleep", "60"], env={**os.environ, "CROSSFADE_OWNER": "run-1"})
    try:
        one = job(
            *python(
                "import os, time\nif os.fork() == 0: os.setsid()\nprint(os.getpid(), os.getppid(), flush=True); time.sleep(60)"
            )
        )

        def kill() -> None:
            until(lambda: one.log.exists() and one.log.read_bytes().count(b"\n") == 2)
            pids = [line.split() for line in one.log.read_text().splitlines()]
            mains = {pid for pid, _ in pids}
            os.kill(int(next(parent for _, parent in pids if parent not in mains)), signal.SIGKILL)

        threading.Thread(target=kill).start()
        assert steps.run(one, NEVER).how is How.LOST
        assert not any(is_alive(int(line.split()[0])) for line in one.log.read_text().splitlines())
        assert steps.sweep("run-1") == 0
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_a_container_gets_the_tree_its_limits_and_no_more(job: Make) -> None:
    one = job("make", "test", memory=1024)
    command = run_command("podman", one, Container("localhost/x", "none"), name="n", variables=Path("/v"), place="p")
    assert command[:5] == ["podman", "run", "--rm", "--pull", "never"]
    assert command[-5:] == ["--entrypoint", "make", "--", "localhost/x", "test"]
    assert command[command.index("--network") + 1] == "none"
    assert command[command.index("--memory") + 1] == "1024"
    assert command[command.index("--mount") + 1] == f"type=bind,source={one.tree},target={one.tree}"


def test_a_cancellation_that_comes_before_the_keeper_has_read_its_job_ends_it(steps: ProcessSteps, job: Make) -> None:
    cancel = threading.Event()
    cancel.set()
    for _ in range(3):  # of a keeper that starts, and of one that waits already
        assert steps.run(job("sleep", "600"), cancel).how is How.CANCELLED
    assert steps.run(job("true"), NEVER).how is How.EXITED
