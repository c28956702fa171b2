"""Reading done in a process of its own, within limits of time and memory: what a report does to it, it does to nobody else.

For the kinds whose reading runs the patterns of a document or a library of machine code. The child gets no variables
but PATH and where Python finds its modules: no tokens, no proxies, no broker.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from typing import Any, Final

from crossfade.domain.errors import CrossfadeError, Invalid, Unavailable
from crossfade.domain.pipeline.plan import Outcome

SECONDS: Final = 60.0
MEMORY: Final = 2 * 1024**3
LARGEST_ANSWER: Final = 16 * 1024 * 1024
TASKS: Final = ("openapi", "pact")


def apart(task: str, question: Mapping[str, Any], *, seconds: float = SECONDS) -> Outcome:
    """The outcome that `crossfade.gates.TASK.answer` gives to a JSON-ready question.

    Raises Invalid when the report is at fault (also by taking too long, or more memory than it may), Unavailable when
    what it is read with is not there.
    """
    environment = {
        "PATH": os.environ.get("PATH", os.defpath),
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "PYTHONIOENCODING": "utf-8",
        "PACT_DO_NOT_TRACK": "true",
        "LC_ALL": "C.UTF-8",
    }
    command = [sys.executable, "-m", "crossfade.gates.apart", task, str(int(seconds) + 1)]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
        cwd=os.sep,
        start_new_session=True,
    ) as child:
        try:
            given, _ = child.communicate(json.dumps(question).encode(), timeout=seconds)
        except subprocess.TimeoutExpired:
            raise Invalid(f"{task} report", f"reading took over {seconds:g} s", "one that is read sooner") from None
        finally:
            # The session is its own: this also ends what a library has started.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGKILL)
    try:
        answer = json.loads(given[:LARGEST_ANSWER])
    except ValueError:
        how = f"its reader ended with {child.returncode}"
        raise Invalid(f"{task} report", how, f"one that is read within {MEMORY // 1024**3} GiB") from None
    if "unavailable" in answer:
        raise Unavailable(answer["unavailable"], hint=answer["hint"])
    if "invalid" in answer:
        place, found, allowed = answer["invalid"]
        raise Invalid(place, _Shown(found), allowed, hint=answer["hint"])
    return Outcome(answer["passed"], answer["sentence"], answer["finding"], tuple(answer["details"]), answer["numbers"])


def _child(task: str, seconds: int) -> None:
    import resource  # noqa: PLC0415 - for the child alone

    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Libraries of machine code print as they like: the answer has a way of its own.
    answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    try:
        outcome = importlib.import_module(f"crossfade.gates.{task}").answer(json.load(sys.stdin))
        fields = ("passed", "sentence", "finding", "details", "numbers")
        said: dict[str, Any] = {field: getattr(outcome, field) for field in fields}
    except Unavailable as error:
        said = {"unavailable": error.what, "hint": error.hint}
    except Invalid as error:
        parts = error.fields
        said = {"invalid": [parts["place"], parts["found"], parts["allowed"]], "hint": error.hint}
    except CrossfadeError as error:
        said = {"invalid": [f"{task} report", error.what, "one that can be read"], "hint": error.hint}
    except RecursionError:
        said = {"invalid": [f"{task} report", "nested too deeply", "less nesting"], "hint": ""}
    json.dump(said, answer, default=str)
    answer.close()


class _Shown(str):
    """Text that stands for a value already shown: its repr is itself."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


if __name__ == "__main__" and sys.argv[1] in TASKS:
    _child(sys.argv[1], int(sys.argv[2]))
