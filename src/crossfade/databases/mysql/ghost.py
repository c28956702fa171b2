"""`gh-ost`: a copy that follows its table by the binary log. It swaps by itself, once it is told that it need not wait any more.

Written after its documentation (command-line-flags, interactive-commands, understanding-output), and tested against a stand-in
that speaks these: gh-ost itself is in no package registry.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import socket
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from pymysql.connections import Connection

from crossfade.databases.mysql.connection import Place, impatiently, quoted, rows, value
from crossfade.databases.mysql.leftovers import exists, sweep
from crossfade.databases.mysql.online import Change, Seen, Tool, in_memory, path_of
from crossfade.domain.errors import Refused, Unavailable
from crossfade.ports.databases import Watch

PROGRAM: Final = "gh-ost"
SWAP_PATIENCE: Final = 60.0
END_PATIENCE: Final = 2.0
STATUS: Final = re.compile(r"Copy: (?P<done>\d+)/(?P<total>\d+) (?P<share>[\d.]+)%;")
STATE: Final = re.compile(r"(?:State|ETA): (?P<state>postponing cut-over|throttled[^;]*)")
ETA: Final = re.compile(r"ETA: (?:(?P<due>due)|(?:(?P<h>\d+)h)?(?:(?P<m>\d+)m)?(?:(?P<s>\d+)s)?)(?:;|\s*$)")


def command(
    program: str,
    change: Change,
    where: Place,
    folder: Path,
    secret: str,
    *,
    duty: float = 1.0,
    throttle_http: str = "",
    mariadb: bool = False,
    lag: float = 5.0,
) -> tuple[str, ...]:
    """The whole command line. The password is in the file ``secret``, for all may read a command line."""
    return (
        program,
        "--execute",
        f"--conf={secret}",
        f"--host={where.host}",
        f"--port={where.port}",
        f"--database={where.database}",
        f"--table={change.table}",
        f"--alter={change.clause}",
        f"--force-table-names={change.stem}",
        "--allow-on-master",
        "--assume-rbr",
        "--initially-drop-ghost-table",
        "--initially-drop-socket-file",
        f"--max-lag-millis={round(lag * 1000)}",
        "--max-load=Threads_running=50",
        "--critical-load=Threads_running=500",
        f"--nice-ratio={round((1 - duty) / duty, 3):g}",
        "--cut-over-lock-timeout-seconds=1",
        "--default-retries=60",
        f"--postpone-cut-over-flag-file={folder / 'postpone'}",
        f"--panic-flag-file={folder / 'panic'}",
        f"--serve-socket-file={folder / 's'}",
        *((f"--throttle-http={throttle_http}",) if throttle_http else ()),
        *(("--skip-metadata-lock-check",) if mariadb else ()),
    )


def configuration(where: Place) -> str:
    """The file of ``--conf``. Its reader knows quotes, and backslashes within them."""
    return f"[client]\nuser={_escaped(where.user)}\npassword={_escaped(where.password)}\n"


def _escaped(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def status(text: str) -> Seen | None:
    """What the answer to ``sup`` says; None when it is none."""
    match = STATUS.search(text)
    if match is None:
        return None
    state = STATE.search(text)
    waits = state["state"].strip() if state else ""
    eta = ETA.search(text)
    seconds = None
    if eta is not None and (eta["due"] or eta["h"] or eta["m"] or eta["s"]):
        seconds = float(int(eta["h"] or 0) * 3600 + int(eta["m"] or 0) * 60 + int(eta["s"] or 0))
    share = min(1.0, float(match["share"]) / 100)
    if waits == "postponing cut-over":
        return Seen(1.0, 0.0, copied=True)
    return Seen(share, seconds, waits)


class Ghost:
    """`online.OnlineChange`. ``connection`` is the one that is alone with the migrations of its database."""

    verifiable = False
    """A write is in the copy a moment after it is in the table, so there is no moment at which both are the same."""

    def __init__(
        self,
        change: Change,
        where: Place,
        connection: Connection[Any],
        watch: Watch,
        *,
        throttle_http: str = "",
        program: str = PROGRAM,
    ) -> None:
        self._change, self._where, self._connection, self._watch = change, where, connection, watch
        self._http, self._program = throttle_http, program
        self._tool: Tool | None = None
        self._folder: Path | None = None
        self._seen = Seen()
        self._waiting = False

    def start(self) -> None:
        """See the port. Raises Refused for a table with foreign keys."""
        found = shutil.which(self._program)
        if found is None:
            raise Unavailable(f"{self._program} is not on PATH.")
        refuse_for_ghost(self._connection, self._where, self._change.table)
        self.abort()
        self._folder = Path(tempfile.mkdtemp(prefix="crossfade-"))
        secret = in_memory(configuration(self._where))
        (self._folder / "postpone").touch()
        mariadb = "mariadb" in str(value(self._connection, "SELECT VERSION()")).lower()
        line = command(
            found,
            self._change,
            self._where,
            self._folder,
            path_of(secret),
            duty=self._watch.duty,
            throttle_http=self._http,
            mariadb=mariadb,
        )
        self._waiting, self._seen = False, Seen()
        self._tool = Tool(line, self._folder, secret, lambda _: None)

    def seen(self) -> Seen:
        """See the port."""
        if self._tool is None:
            return Seen(failed="it was not started")
        ended = self._tool.status()
        if ended is not None:
            if self.swapped():
                return Seen(1.0, 0.0, copied=True)
            said = " ".join(list(self._tool.last)[-3:])[:600]
            return Seen(self._seen.share, failed=f"{PROGRAM} ended with {ended}: {said or 'it did not say why'}")
        found = status(self._ask("sup"))
        if found is not None:
            self._seen = found
        return self._seen

    def throttle(self, wait: bool) -> None:
        """See the port."""
        if wait != self._waiting and self._ask("throttle" if wait else "no-throttle"):
            self._waiting = wait

    def followed(self) -> bool:
        """See the port: never, for it follows only while it runs."""
        return False

    def cut_over(self) -> None:
        """See the port."""
        if self._folder is None or self._tool is None:
            raise Refused(f"The copy of {self._change.table} is not there any more.", hint="Run it again.")
        self._ask("unpostpone")
        (self._folder / "postpone").unlink(missing_ok=True)
        deadline = time.monotonic() + SWAP_PATIENCE
        while self._tool.status() is None and time.monotonic() < deadline:
            self._watch.cancel.wait(0.05)
            time.sleep(0.05)
        if not self.swapped():
            said = " ".join(list(self._tool.last)[-3:])[:600]
            raise Refused(
                f"gh-ost did not swap {self._change.table}: {said or 'it did not say why'}.",
                hint="End the transactions that are open on it, then run it again.",
            )

    def swapped(self) -> bool:
        """See the port."""
        change = self._change
        return exists(self._connection, change.ghost_old) and not exists(self._connection, change.ghost)

    def finish(self) -> None:
        """See the port."""
        self.close()
        for table in (self._change.ghost_old, self._change.ghost_log):
            sql = f"DROP TABLE IF EXISTS {quoted(table)}"
            impatiently(self._connection, self._where, sql, self._watch.cancel, patience=30.0)

    def abort(self) -> None:
        """See the port."""
        self.close()
        sweep(self._connection, self._where, self._change)

    def close(self) -> None:
        """See the port. The panic file ends it at once, and it takes nothing away."""
        if self._folder is not None and self._tool is not None:
            (self._folder / "panic").touch()
            deadline = time.monotonic() + END_PATIENCE
            while self._tool.status() is None and time.monotonic() < deadline:
                time.sleep(0.05)
        if self._tool is not None:
            self._tool.end()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._tool = self._folder = None

    def _ask(self, what: str) -> str:
        """A command by the socket, and the answer; empty while it does not listen."""
        if self._folder is None:
            return ""
        answer = b""
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(2.0)
            connection.connect(str(self._folder / "s"))
            connection.sendall(what.encode() + b"\n")
            connection.shutdown(socket.SHUT_WR)
            while len(answer) < 65_536 and (more := connection.recv(4096)):
                answer += more
        return answer.decode("utf-8", "replace")


def refuse_for_ghost(connection: Connection[Any], where: Place, table: str) -> None:
    """Raises Refused for what gh-ost cannot do."""
    if where.socket:
        raise Refused("gh-ost reaches a server by host and port only.", hint="Give a URL without unix_socket.")
    if has_foreign_keys(connection, table):
        raise Refused(f"gh-ost takes no table with foreign keys, and {table} has some.")


def has_foreign_keys(connection: Connection[Any], table: str) -> bool:
    """From the table or to it."""
    query = (
        "SELECT 1 FROM information_schema.KEY_COLUMN_USAGE WHERE TABLE_SCHEMA = DATABASE()"
        " AND REFERENCED_TABLE_NAME IS NOT NULL AND (TABLE_NAME = %s OR REFERENCED_TABLE_NAME = %s) LIMIT 1"
    )
    return bool(rows(connection, query, (table, table)))
