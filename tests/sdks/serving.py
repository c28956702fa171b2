"""Servers of flags in processes of their own, and what everybody who asks them is to be answered."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, Queue
from typing import Any, Final

from tests.free_port import free_port

ROOT: Final = Path(__file__).parents[2]
TOKEN: Final = "open-sesame"
PATIENCE: Final = 30.0

GERMAN: Final = {"==": [{"var": "country"}, "de"]}
DOCUMENT: Final[dict[str, Any]] = {
    "flags": {
        "always": {"state": "ENABLED", "variants": {"on": True, "off": False}, "defaultVariant": "on"},
        "new-checkout": {
            "state": "ENABLED",
            "variants": {"on": True, "off": False},
            "defaultVariant": "off",
            "targeting": {"if": [GERMAN, "on"]},
            "metadata": {"team": "shop", "since": 7, "kept": False},
        },
        "theme": {
            "state": "ENABLED",
            "variants": {"dark": "midnight", "light": "snow — ☃"},
            "defaultVariant": "light",
            "targeting": {"if": [GERMAN, "dark", None]},
        },
        "limit": {"state": "ENABLED", "variants": {"low": 10, "high": 9007199254740991}, "defaultVariant": "high"},
        "ratio": {"state": "ENABLED", "variants": {"half": 0.5, "whole": 1.0}, "defaultVariant": "whole"},
        "banner": {
            "state": "ENABLED",
            "variants": {"hello": {"text": "Hi", "sizes": [1, 2.5, {"deep": None}]}, "none": {}},
            "defaultVariant": "hello",
        },
        "page": {
            "state": "ENABLED",
            "variants": {"a": "a", "b": "b"},
            "defaultVariant": "a",
            "targeting": {"fractional": [["a", 50], ["b", 50]]},
        },
        "off": {"state": "DISABLED", "variants": {"on": True, "off": False}, "defaultVariant": "on"},
        "yours": {"state": "ENABLED", "variants": {"on": True, "off": False}, "defaultVariant": None},
        "broken": {
            "state": "ENABLED",
            "variants": {"on": True, "off": False},
            "defaultVariant": "off",
            "targeting": {"if": [True, "nowhere"]},
        },
    },
    "metadata": {"flagSetId": "shop"},
}


@dataclass(frozen=True)
class Question:
    """One flag asked by a type and a default, and what must come of it."""

    type: str
    flag: str
    default: Any
    value: Any
    reason: str
    variant: str | None = None
    context: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    error: str | None = None

    def __str__(self) -> str:
        return f"{self.type}-{self.flag}-{self.context.get('country', '')}{self.error or self.reason}"


ADA: Final = {"targetingKey": "ada"}
TEAM: Final = DOCUMENT["flags"]["new-checkout"]["metadata"]
QUESTIONS: Final = (
    Question("boolean", "always", False, True, "STATIC", "on"),
    Question("boolean", "new-checkout", True, False, "DEFAULT", "off", ADA | {"country": "fr"}, TEAM),
    Question("boolean", "new-checkout", False, True, "TARGETING_MATCH", "on", ADA | {"country": "de"}, TEAM),
    Question("string", "theme", "?", "snow — ☃", "DEFAULT", "light"),
    Question("string", "theme", "?", "midnight", "TARGETING_MATCH", "dark", {"country": "de"}),
    Question("integer", "limit", 0, 9007199254740991, "STATIC", "high"),
    Question("float", "ratio", 0.1, 1.0, "STATIC", "whole"),
    Question("object", "banner", {}, {"text": "Hi", "sizes": [1, 2.5, {"deep": None}]}, "STATIC", "hello"),
    Question("string", "always", "mine", "mine", "ERROR", error="TYPE_MISMATCH"),
    Question("boolean", "nowhere", True, True, "ERROR", error="FLAG_NOT_FOUND"),
    Question("boolean", "broken", True, True, "ERROR", error="GENERAL"),
)
"""What the specifications leave no choice in; flags without a value are asked by themselves, as providers differ there."""


class Serving:
    """A process that serves a file, as `crossfade flags serve` does."""

    def __init__(self, folder: Path, token: str = TOKEN) -> None:
        self.file = folder / "flags.json"
        self.port, self.grpc_port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.token = token
        self.say(DOCUMENT)
        self._process: subprocess.Popen[str] | None = None

    def say(self, document: dict[str, Any]) -> None:
        """Serve something else from now on."""
        draft = self.file.with_suffix(".draft")
        draft.write_text(json.dumps(document))
        draft.replace(self.file)

    def start(self) -> Serving:
        code = (
            "import sys\nfrom pathlib import Path\nfrom crossfade.bootstrap.flag_file import serve_flag_file\n"
            "serve_flag_file(Path(sys.argv[1]), port=int(sys.argv[2]), grpc_port=int(sys.argv[3]), token=sys.argv[4],"
            " on_listen=lambda url: print(url, flush=True))"
        )
        arguments = [str(self.file), str(self.port), str(self.grpc_port), self.token]
        self._process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline().strip() == self.url
        return self

    def kill(self) -> None:
        """By SIGKILL: nothing is said to anybody."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGKILL)
            process.communicate()


@contextmanager
def serving(folder: Path) -> Iterator[Serving]:
    """One that runs until the end of the block."""
    served = Serving(folder).start()
    try:
        yield served
    finally:
        served.kill()


class Node:
    """A script of `node/` that answers questions, line by line. Events that it tells are put aside."""

    def __init__(self, script: str, url: str, token: str, **environment: str) -> None:
        packages = ROOT / "build" / "node"
        assert packages.is_dir(), f"no {packages}: `make setup` brings it"
        self.events: Queue[dict[str, Any]] = Queue()
        self._answers: Queue[Any] = Queue()
        self._process = subprocess.Popen(
            ["node", str(Path(__file__).parent / "node" / script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "NODE_PACKAGES": str(packages),
                "URL_OF_SERVER": url,
                "TOKEN": token,
                "NO_PROXY": "127.0.0.1",
                **environment,
            },
        )
        threading.Thread(target=self._read, daemon=True).start()
        self.ready: Any = self._answer()

    def ask(self, question: dict[str, Any]) -> Any:
        """What comes of a question."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """Ends by itself, once nobody asks any more."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            assert self._process.wait(PATIENCE) == 0
        finally:
            self._process.kill()
            self._process.wait()

    def _answer(self) -> Any:
        try:
            return self._answers.get(timeout=PATIENCE)
        except Empty:
            self._process.kill()
            raise AssertionError("the script said nothing") from None

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            said = json.loads(line)
            (self.events if isinstance(said, dict) and "event" in said else self._answers).put(said)


@contextmanager
def node(script: str, url: str, token: str = TOKEN, **environment: str) -> Iterator[Node]:
    """A script that answers until the end of the block."""
    running = Node(script, url, token, **environment)
    try:
        yield running
    except BaseException:
        running._process.kill()
        running._process.wait()
        raise
    running.close()
