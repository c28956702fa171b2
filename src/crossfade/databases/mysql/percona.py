"""`pt-online-schema-change`: a copy by INSERT … SELECT in chunks, followed by three triggers. The swap is ours, not the tool's."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pymysql.connections import Connection

from crossfade.databases.mysql.connection import Place, impatiently, quoted, rows
from crossfade.databases.mysql.leftovers import exists, sweep, triggers
from crossfade.databases.mysql.online import Change, Seen, Tool, in_memory, path_of
from crossfade.domain.errors import Unavailable
from crossfade.ports.pipeline import Cancel

PROGRAM: Final = "pt-online-schema-change"
CHUNK: Final = 0.1
"""Seconds that a chunk should take: it locks its rows for so long."""
PLUGIN: Final = """\
# With a pause file the tool looks for its end every 60 seconds, and has no option for it.
package pt_online_schema_change_plugin;
use strict;
sub new {
   my ($class, %args) = @_;
   my $made = \\&NibbleIterator::new;
   no warnings 'redefine';
   *NibbleIterator::new = sub { my $self = $made->(@_); $self->{sleep} = 1; return $self };
   return bless { %args }, $class;
}
1;
"""
PROGRESS: Final = re.compile(r"Copying .*?:\s+(?P<share>\d+)% (?:(?P<days>\d+)\+)?(?P<clock>\d+(?::\d+)+) remain\b")
PAUSED: Final = re.compile(r"Sleeping \d+ seconds because .* exists")
WAITING: Final = re.compile(r"(?:Replica|Waiting|Pausing|Sleeping) ?.*")
STAMP: Final = re.compile(r"^\s*(?:\(in cleanup\) )?(?:\d{4}-\d\d-\d\dT[\d:]{8} )?")
NOISE: Final = re.compile(
    r"(?:No slaves found|Not checking slave lag|Operation, tries, wait|\S+, \d+, [\d.]+|See --|Not dropping|Altering|Creating|"
    r"Created|Altered|Copying|Copied|# |Triggers|Not updating|Exiting|DROP TRIGGER|DROP TABLE|Dropping|Successfully|.* was not altered$).*"
)


@dataclass(frozen=True, slots=True)
class Limits:
    """When the tool waits by itself: seconds a replica is behind, and threads that run; above ``most`` it gives up."""

    lag: float = 5.0
    running: int = 50
    most: int = 500


def command(
    program: str, change: Change, where: Place, folder: Path, secret: str, limits: Limits, duty: float = 1.0
) -> tuple[str, ...]:
    """The whole command line. The password is in the defaults file ``secret``, for all may read a command line."""
    return (
        program,
        "--execute",
        f"--alter={change.clause}",
        f"--new-table-name={change.new}",
        "--no-version-check",
        "--no-swap-tables",
        "--no-drop-new-table",
        "--no-drop-triggers",
        "--no-drop-old-table",
        "--no-check-unique-key-change",  # a unique key is refused before, by what it is
        f"--pause-file={folder / 'pause'}",
        f"--plugin={folder / 'plugin.pm'}",
        f"--chunk-time={CHUNK:g}",
        f"--sleep={round(CHUNK * (1 - duty) / duty, 3):g}",
        f"--max-lag={limits.lag:g}",
        "--check-interval=1",
        f"--max-load=Threads_running={limits.running}",
        f"--critical-load=Threads_running={limits.most}",
        "--set-vars=lock_wait_timeout=1,innodb_lock_wait_timeout=2",
        "--tries=create_triggers:30:0.5,copy_rows:30:0.25",
        "--progress=time,1",
        f"D={where.database},t={change.table},F={secret}",
    )


def defaults(where: Place) -> str:
    """An option file that says where, and who."""
    reach = (
        f'socket="{_escaped(where.socket)}"' if where.socket else f'host="{_escaped(where.host)}"\nport={where.port}'
    )
    return (
        f'[client]\n{reach}\nuser="{_escaped(where.user)}"\npassword="{_escaped(where.password)}"\n'
        "default-character-set=utf8mb4\n"
    )


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def progress(line: str) -> tuple[float, float] | None:
    """Share and seconds left that a line tells: ``Copying `t`.`items`:  51% 00:02 remain``."""
    match = PROGRESS.search(line)
    if match is None:
        return None
    seconds = 0
    for part in match["clock"].split(":"):
        seconds = seconds * 60 + int(part)
    return min(1.0, int(match["share"]) / 100), float(seconds + 86_400 * int(match["days"] or 0))


class Percona:
    """`online.OnlineChange`. ``connection`` is the one that is alone with the migrations of its database."""

    verifiable = True

    def __init__(
        self,
        change: Change,
        where: Place,
        connection: Connection[Any],
        cancel: Cancel,
        *,
        duty: float = 1.0,
        limits: Limits | None = None,
        program: str = PROGRAM,
    ) -> None:
        self._change, self._where, self._connection, self._cancel = change, where, connection, cancel
        self._duty, self._limits, self._program = duty, limits or Limits(), program
        self._tool: Tool | None = None
        self._folder: Path | None = None
        self._seen = Seen()

    def start(self) -> None:
        """See the port."""
        found = shutil.which(self._program)
        if found is None:
            raise Unavailable(f"{self._program} is not installed.", hint="Debian: apt-get install percona-toolkit")
        self.abort()
        self._folder = Path(tempfile.mkdtemp(prefix="crossfade-"))
        (self._folder / "plugin.pm").write_text(PLUGIN, encoding="utf-8")
        secret = in_memory(defaults(self._where))
        line = command(found, self._change, self._where, self._folder, path_of(secret), self._limits, self._duty)
        self._tool = Tool(line, self._folder, secret, self._heard)

    def seen(self) -> Seen:
        """See the port."""
        if self._tool is None:
            return Seen(failed="it was not started")
        status = self._tool.status()
        if status is None:
            return self._seen
        if status == 0:
            return Seen(share=1.0, copied=True)
        return Seen(share=self._seen.share, failed=reason(status, list(self._tool.last)))

    def throttle(self, wait: bool) -> None:
        """See the port."""
        if self._folder is not None:
            file = self._folder / "pause"
            if wait:
                file.touch()
            else:
                file.unlink(missing_ok=True)

    def cut_over(self) -> None:
        """See the port."""
        one = self._change
        rows(
            self._connection, f"ANALYZE TABLE {quoted(one.new)}"
        )  # or its first queries are planned for an empty table
        pairs = f"{quoted(one.table)} TO {quoted(one.old)}, {quoted(one.new)} TO {quoted(one.table)}"
        impatiently(self._connection, self._where, f"RENAME TABLE {pairs}", self._cancel)

    def swapped(self) -> bool:
        """See the port."""
        return exists(self._connection, self._change.old) and not exists(self._connection, self._change.new)

    def followed(self) -> bool:
        """See the port."""
        return exists(self._connection, self._change.new) and len(triggers(self._connection, self._change)) == 3

    def finish(self) -> None:
        """See the port. The triggers go with the table."""
        self.close()
        sql = f"DROP TABLE IF EXISTS {quoted(self._change.old)}"
        impatiently(self._connection, self._where, sql, self._cancel, patience=30.0)

    def abort(self) -> None:
        """See the port."""
        self.close()
        sweep(self._connection, self._where, self._change)

    def close(self) -> None:
        """End the tool. What it made stays."""
        if self._tool is not None:
            self._tool.end()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._tool = self._folder = None

    def _heard(self, line: str) -> None:
        found = progress(line)
        if found is not None:
            self._seen = Seen(*found)
        elif PAUSED.search(line) or WAITING.fullmatch(line):
            self._seen = Seen(self._seen.share, self._seen.eta, "" if PAUSED.search(line) else line)


def reason(status: int, lines: Sequence[str]) -> str:
    """Why the tool ended, from its last lines."""
    if status < 0:
        return f"{PROGRAM} was killed (signal {-status})"
    plain = [STAMP.sub("", line).strip().rstrip(".") for line in lines]
    telling = dict.fromkeys(line for line in plain if line and not NOISE.match(line) and not PAUSED.search(line))
    return f"{PROGRAM} ended with {status}: {'; '.join(list(telling)[-3:])[:600] or 'it did not say why'}"
