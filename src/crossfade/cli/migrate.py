"""`crossfade migrate`: expand, backfill and contract a database by hand, without a server."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from crossfade.cli.context import FAILED, Context, Json, telling
from crossfade.domain.errors import Busy, Invalid, NotFound, Refused, StorageFailed
from crossfade.domain.migrations.operations import Migration
from crossfade.domain.migrations.phases import OPEN, Needing, Phase, Record, Surroundings, waits_for
from crossfade.ports.databases import Database, Watch

LEVELS: Final = ("error", "warning", "note")
UNFINISHED: Final = (Phase.EXPANDING, Phase.EXPANDED, Phase.BACKFILLING)

migrate = typer.Typer(help="Change a database's schema while it is in use; no server is needed.", no_args_is_help=True)

Files = Annotated[list[Path], typer.Argument(help="Migration files, or their folder.", show_default=False)]
Versions = Annotated[
    list[str] | None, typer.Argument(help="Versions, files, or the folder of these.", show_default=False)
]
Url = Annotated[
    str | None,
    typer.Option(
        "--database",
        help="postgresql://user:password@host:port/name, or mysql://…",
        envvar=["CROSSFADE_DATABASE", "DATABASE_URL"],
        show_default=False,
    ),
]
Schema = Annotated[str, typer.Option("--schema", help="PostgreSQL: the schema that is migrated.")]
Duty = Annotated[str, typer.Option("--duty", help="The share of time that a backfill may work.")]
Blockers = Annotated[
    bool, typer.Option("--cancel-blockers", help="End the sessions that stand in the way of a lock, after some tries.")
]


@dataclass(frozen=True)
class Work:
    """A database at work, what follows it, and whether somebody wants an end."""

    database: Database
    watch: Watch
    cancel: threading.Event


def opened(url: str | None, schema: str) -> Database:
    """Raises Invalid without a URL, or for one that cannot be."""
    from crossfade.bootstrap.databases import ALLOWED, open_database

    if not url:
        hint = "Or put it into CROSSFADE_DATABASE, where `ps` does not show it."
        raise Invalid("--database", "", ALLOWED, hint=hint)
    return open_database(url, schema=schema)


@contextmanager
def at_work(
    ctx: Context, url: str | None, schema: str, duty: str = "100%", cancel_blockers: bool = False
) -> Iterator[Work]:
    """Ctrl-C and SIGTERM end what is done at the next boundary; a second one ends it where it is."""
    from crossfade.cli.migrate_show import Display

    share, database, cancel = _share(duty), opened(url, schema), threading.Event()
    with Display(ctx.console, silent=ctx.json) as display:

        def stop(*_: object) -> None:
            if cancel.is_set():
                raise KeyboardInterrupt
            cancel.set()
            display.tell("ends at the next boundary; once more ends it here and now")

        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            watch = Watch(display.tell, display.progress, lambda: "", cancel, share, cancel_blockers)
            yield Work(database, watch, cancel)
        except KeyboardInterrupt:
            raise Refused(
                "Ended in the middle; nothing is lost: the database knows how far it was.",
                hint="The same command goes on from there. `crossfade migrate status` says where that is.",
            ) from None
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _share(text: str) -> float:
    from crossfade.spec.scalars import NotAllowed, share

    kind = share("1%", "100%")
    try:
        return float(kind.read(text))
    except NotAllowed:
        raise Invalid("--duty", text, kind.allowed) from None


# --- before anything is changed


@migrate.command("lint")
def lint(
    context: typer.Context,
    files: Files,
    # From no variable: a scratch database is made there, which nobody wants on a server that was meant for something else.
    database: Annotated[
        str | None,
        typer.Option("--database", help="A database to trace on, on a scratch copy of its schema.", show_default=False),
    ] = None,
    schema: Schema = "public",
    sarif: Annotated[
        Path | None, typer.Option("--sarif", help="Write the findings there too.", show_default=False)
    ] = None,
    queries: Annotated[
        Path | None,
        typer.Option("--queries", help="Queries of the running release, to try on the new shape.", show_default=False),
    ] = None,
    level: Annotated[str, typer.Option("--level", help="The least that fails: error, warning or note.")] = "error",
    as_json: Json = False,
) -> None:
    """What is wrong or dangerous in migrations, statement by statement. With a database, also what each locks."""
    from crossfade.bootstrap.databases import linter, sarif_document
    from crossfade.cli import migrate_show
    from crossfade.spec.migrations import load

    with telling(context, as_json) as ctx:
        if level not in LEVELS:
            raise Invalid("--level", level, ", ".join(LEVELS))
        if queries is not None and not database:
            raise Invalid("--queries", str(queries), "only with --database")
        loaded = load(files)
        found = linter(database or "", schema=schema, queries=queries).lint(loaded)
        if sarif is not None:
            try:
                sarif.parent.mkdir(parents=True, exist_ok=True)
                sarif.write_text(json.dumps(sarif_document(found), indent=1) + "\n", encoding="utf-8")
            except OSError as error:
                raise StorageFailed.because(f"write {sarif}", error) from error
        failing = [one for one in found if LEVELS.index(one.severity) <= LEVELS.index(level)]
        if ctx.json:
            ctx.say({"files": len(loaded), "ok": not failing, "findings": [asdict(one) for one in found]}, lambda: None)
        else:
            for one in found:
                ctx.console.print(migrate_show.finding(one), soft_wrap=True)
            ctx.console.print(f"{_counted(len(loaded), 'migration')}, {_counted(len(found), 'finding')}.")
        if failing:
            raise typer.Exit(FAILED)


@migrate.command("plan")
def plan(
    context: typer.Context, files: Files, database: Url = None, schema: Schema = "public", as_json: Json = False
) -> None:
    """The SQL of every phase of those not yet applied, and what to know before; changes nothing."""
    with telling(context, as_json) as ctx:
        _plan(ctx, opened(database, schema), files)


def _plan(ctx: Context, database: Database, files: Sequence[Path]) -> None:
    from rich.console import Group

    from crossfade.cli import migrate_show

    _, every = _chosen(database, files)
    plans = database.plan(every)
    if not ctx.json and not plans:
        ctx.console.print("All of them were applied.")
    elif ctx.json:
        ctx.say([asdict(one) for one in plans], lambda: None)
    else:
        ctx.console.print(Group(*(migrate_show.plan(one) for one in plans)), soft_wrap=True)
    if any(hazard.blocks for one in plans for hazard in one.hazards):
        raise typer.Exit(FAILED)


def _chosen(database: Database, files: Sequence[Path]) -> tuple[list[Migration], list[Migration]]:
    """Those named, and those with all that lies beside them and matters. Raises Refused for what was left out."""
    from crossfade.bootstrap.databases import named

    ledger = database.ledger()
    chosen, every = named(files, ledger)
    database.check(every)
    known = {one.version for one in chosen} | {one.version for one in ledger if one.phase is not Phase.ABORTED}
    forgotten = [one.source for one in every if one.version not in known]
    if forgotten:
        raise Refused(
            f"{', '.join(forgotten)} comes before {chosen[-1].source} and was not applied.",
            hint="Name it too, or the folder: a version goes on from the one before.",
        )
    return chosen, every


# --- expand and backfill


@migrate.command("expand")
def expand(
    context: typer.Context,
    files: Files,
    database: Url = None,
    schema: Schema = "public",
    duty: Duty = "100%",
    cancel_blockers: Blockers = False,
    no_backfill: Annotated[bool, typer.Option("--no-backfill", help="Leave the rows for `backfill`.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="As `plan`: show the SQL, change nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Make the new shape beside the old one, fill it and verify it, for all that were not applied yet."""
    with telling(context, as_json) as ctx:
        if dry_run:
            _plan(ctx, opened(database, schema), files)
            return
        with at_work(ctx, database, schema, duty, cancel_blockers) as work:
            chosen, _ = _chosen(work.database, files)
            ready: list[str] = []
            for migration in chosen:
                _expand(ctx, work, migration, not no_backfill)
                if work.cancel.is_set():
                    break
                ready.append(migration.version)
        stopped = work.cancel.is_set() and len(ready) < len(chosen)
        _end(ctx, work, stopped, "The same command goes on from there.")
        if not ctx.json:
            done = "expanded" if no_backfill else "expanded, filled and verified"
            ctx.console.print(f"{_listed(ready)}: {done}.", markup=False, soft_wrap=True)


def _expand(ctx: Context, work: Work, migration: Migration, fill: bool) -> None:
    phase = _phase(work.database, migration.version)
    if phase in (None, Phase.EXPANDING):
        _say(ctx, f"{migration.version}: expand")
        work.database.expand(migration, work.watch)
        phase = _phase(work.database, migration.version)
    if fill and phase in UNFINISHED and not work.cancel.is_set():
        _fill(ctx, work, migration.version)


def _fill(ctx: Context, work: Work, version: str) -> None:
    """Raises Refused, in whose sentence the first rows are that cannot be filled."""
    _say(ctx, f"{version}: backfill")
    if not work.database.backfill(version, work.watch):
        work.cancel.set()


def _phase(database: Database, version: str) -> Phase | None:
    phases = [one.phase for one in database.ledger() if one.version == version and one.phase is not Phase.ABORTED]
    return phases[-1] if phases else None


@migrate.command("backfill")
def backfill(
    context: typer.Context,
    versions: Versions = None,
    database: Url = None,
    schema: Schema = "public",
    duty: Duty = "100%",
    cancel_blockers: Blockers = False,
    as_json: Json = False,
) -> None:
    """Fill and verify what was expanded; goes on where it ended. Without a version: all that is not verified."""
    with telling(context, as_json) as ctx, at_work(ctx, database, schema, duty, cancel_blockers) as work:
        _backfill(ctx, work, _meant(work.database, versions, _unfinished), f"`{_words('backfill', versions)}` goes on.")


def _backfill(ctx: Context, work: Work, meant: Sequence[Record], how: str) -> None:
    done = []
    for one in meant:
        _fill(ctx, work, one.version)
        if work.cancel.is_set():
            break
        done.append(one.version)
    _end(ctx, work, len(done) < len(meant), how)
    _say(ctx, f"{_listed(done)}: filled and verified." if done else "Nothing is left to fill.")


@migrate.command("pause")
def pause(
    context: typer.Context,
    versions: Versions = None,
    database: Url = None,
    schema: Schema = "public",
    as_json: Json = False,
) -> None:
    """Let a backfill wait, whoever runs it, until `resume`. Writes of all versions go on."""
    with telling(context, as_json) as ctx:
        target = opened(database, schema)
        meant = _meant(target, versions, _unfinished)
        if not meant:
            raise Refused("No backfill is open.", hint="`crossfade migrate status` shows where each migration stands.")
        for one in meant:
            target.pause(one.version, True)
        paused = [one.version for one in meant]
        ctx.say({"paused": paused}, lambda: f"{_listed(paused)}: paused. `crossfade migrate resume` lets it go on.")


@migrate.command("resume")
def resume(
    context: typer.Context,
    versions: Versions = None,
    database: Url = None,
    schema: Schema = "public",
    duty: Duty = "100%",
    as_json: Json = False,
) -> None:
    """Let a paused backfill go on: where it is being run, or here when nobody runs it any more."""
    with telling(context, as_json) as ctx, at_work(ctx, database, schema, duty) as work:
        meant = _meant(work.database, versions, _unfinished)
        for one in meant:
            work.database.pause(one.version, False)
        try:
            _backfill(ctx, work, meant, f"`{_words('resume', versions)}` goes on.")
        except Busy:
            resumed = [one.version for one in meant]
            ctx.say({"resumed": resumed}, lambda: f"{_listed(resumed)}: goes on where it is being run.")


# --- contract and abort


@migrate.command("contract")
def contract(
    context: typer.Context,
    versions: Versions = None,
    database: Url = None,
    schema: Schema = "public",
    override: Annotated[
        bool, typer.Option("--override", help="Also while sessions of an older version are connected: they will fail.")
    ] = False,
    cancel_blockers: Blockers = False,
    as_json: Json = False,
) -> None:
    """Take the old shape away, for good. Without a version: of the oldest migration that is open."""
    with telling(context, as_json) as ctx, at_work(ctx, database, schema, "100%", cancel_blockers) as work:
        _take(ctx, work, "contract", _meant(work.database, versions, _oldest), override, versions)


@migrate.command("abort")
def abort(
    context: typer.Context,
    versions: Versions = None,
    database: Url = None,
    schema: Schema = "public",
    override: Annotated[
        bool, typer.Option("--override", help="Also while sessions of the version are connected: they will fail.")
    ] = False,
    cancel_blockers: Blockers = False,
    as_json: Json = False,
) -> None:
    """Take the new shape away again; the old one has every write. Without a version: of the newest that is open."""
    with telling(context, as_json) as ctx, at_work(ctx, database, schema, "100%", cancel_blockers) as work:
        _take(ctx, work, "abort", _meant(work.database, versions, _newest)[::-1], override, versions)


def _take(
    ctx: Context, work: Work, what: str, meant: Sequence[Record], override: bool, versions: Sequence[str] | None
) -> None:
    done = []
    for one in meant:
        if work.cancel.is_set():
            break
        held = _held(work.database, what, one)
        if held and not override:
            raise Refused(
                f"{one.version} stays as it is: {'; '.join(held)}.",
                hint="End these sessions, or give --override: their next statement fails.",
            )
        for line in held:
            work.watch.tell(f"overridden: {line}")
        if what == "contract" and one.version in _first(work.database.ledger()):
            work.watch.tell("note: clients that use the tables without a version's schema need what goes now")
        _say(ctx, f"{one.version}: {what}")
        if what == "contract":
            work.database.contract(one.version, work.watch)
        else:
            work.database.abort(one.version, work.watch)
        if _phase(work.database, one.version) in OPEN:
            break
        done.append(one.version)
    _end(ctx, work, len(done) < len(meant), f"`{_words(what, versions)}` goes on.")
    end = "contracted" if what == "contract" else "aborted"
    _say(ctx, f"{_listed(done)}: {end}." if done else "No migration is open.")


def _held(database: Database, what: str, record: Record) -> list[str]:
    """Who is connected that needs the shape which is taken away, as far as a database can tell its clients apart."""
    counts = _sessions(database, database.ledger())
    if what == "abort":
        found = counts.get(record.version, 0)
        return [f"{_counted(found, 'session')} of it connected, and its shape would go"] if found else []
    places = {"": 0, **{one.version: one.position for one in database.ledger()}}
    older = {version: count for version, count in counts.items() if places[version] < record.position}
    return _connected(older, f"needs the shape before {record.version}")


def _connected(counts: Mapping[str, int], needs: str) -> list[str]:
    found = [(_client(version), _counted(count, "session")) for version, count in counts.items() if count]
    return [f"{client} has {sessions} connected and {needs}" for client, sessions in found]


def _client(version: str) -> str:
    return f"version {version}" if version else "the schema from before all versions"


def _first(ledger: Sequence[Record]) -> list[str]:
    """The version before which there was none, so that nobody knows its older clients by name."""
    return [one.version for one in ledger if one.phase is not Phase.ABORTED][:1]


def _sessions(database: Database, ledger: Sequence[Record]) -> dict[str, int]:
    """Of each version that has its shape still: those open, and the one before them (empty: from before all)."""
    staying = [one for one in ledger if one.phase is not Phase.ABORTED]
    first = next((i for i, one in enumerate(staying) if one.phase in OPEN), len(staying))
    versions = (
        [one.version for one in staying[max(0, first - 1) :]] if first else ["", *(one.version for one in staying)]
    )
    return {version: database.replicas(version) for version in versions}


# --- to see something


@migrate.command("status")
def status(
    context: typer.Context,
    files: Annotated[
        list[Path] | None, typer.Argument(help="Files or their folder, to see what is planned.", show_default=False)
    ] = None,
    database: Url = None,
    schema: Schema = "public",
    as_json: Json = False,
) -> None:
    """Where each migration stands, how far a backfill is, and what its contract waits for."""
    from crossfade.cli import migrate_show

    with telling(context, as_json) as ctx:
        target = opened(database, schema)
        found = look(target)
        if files:
            chosen, every = _named(target, files)
            target.check(every)
            known = {one["version"] for one in found["migrations"] if one["phase"] != Phase.ABORTED}
            found["planned"] = [one.version for one in chosen if one.version not in known]
        ctx.say(found, lambda: migrate_show.status(found))


def look(database: Database) -> dict[str, Any]:
    """``{database, migrations, planned}``: each migration as in the ledger, with its sessions and ``waits_for``.

    ``older_unknown``: its older clients use the tables themselves, and cannot be counted.
    """
    from crossfade.cli import migrate_show

    records = database.ledger()
    counts = _sessions(database, records)
    needing = [
        Needing(_client(version), version, f"has {_counted(n, 'session')} connected")
        for version, n in counts.items()
        if n
    ]
    rows = []
    for one in records:
        waits = waits_for(one, records, Surroundings(needing)) if one.phase in OPEN else ()
        row = migrate_show.record(one, waits, counts.get(one.version))
        rows.append({**row, "older_unknown": one.phase in OPEN and one.version in _first(records)})
    return {"database": database.describe(), "migrations": rows, "planned": []}


@migrate.command("ledger")
def ledger(
    context: typer.Context,
    files: Annotated[
        list[Path] | None,
        typer.Argument(help="Files or their folder, to compare with what was applied.", show_default=False),
    ] = None,
    database: Url = None,
    schema: Schema = "public",
    as_json: Json = False,
) -> None:
    """All that was applied, with checksums and times. With files: 1 when one was edited or is missing."""
    from crossfade.cli import migrate_show

    with telling(context, as_json) as ctx:
        target = opened(database, schema)
        if files:
            target.check(_named(target, files)[1])
        rows = [{**asdict(one), "phase": one.phase.value} for one in target.ledger()]
        if not rows and not as_json:
            ctx.console.print("No migration was applied yet.")
            return
        ctx.say(rows, lambda: migrate_show.ledger(rows))


# ---


def _named(database: Database, files: Sequence[Path]) -> tuple[list[Migration], list[Migration]]:
    from crossfade.bootstrap.databases import named

    chosen, every = named(files, database.ledger())
    return chosen, every


def _unfinished(records: Sequence[Record]) -> list[Record]:
    return [one for one in records if one.phase in UNFINISHED]


def _oldest(records: Sequence[Record]) -> list[Record]:
    return [one for one in records if one.phase in OPEN][:1]


def _newest(records: Sequence[Record]) -> list[Record]:
    return [one for one in records if one.phase in OPEN][-1:]


def _meant(
    database: Database, words: Sequence[str] | None, otherwise: Callable[[Sequence[Record]], list[Record]]
) -> list[Record]:
    """The migrations that versions, files and folders name, in the ledger's order; without any, what ``otherwise`` gives.

    Of files those that are not open are passed over. Raises NotFound for a version that was never applied.
    """
    records = [one for one in database.ledger() if one.phase is not Phase.ABORTED]
    if not words:
        return otherwise(records)
    applied = {one.version for one in records}
    wanted: set[str] = set()
    for word in words:
        path = Path(word)
        if word not in applied and path.exists():
            chosen, every = _named(database, [path])
            database.check(every)
            still = {one.version for one in records if one.phase in OPEN}
            wanted |= {one.version for one in chosen} & still
        elif word in applied:
            wanted.add(word)
        else:
            known = ", ".join(one.version for one in records) or "none yet"
            raise NotFound(f"No migration {word} was applied to this database.", hint=f"Applied: {known}.")
    return [one for one in records if one.version in wanted]


def _end(ctx: Context, work: Work, stopped: bool, how: str) -> None:
    """The end of what was at work: as JSON where each migration stands now, and exit 1 when it is not the end."""
    if ctx.json:
        ctx.say({**look(work.database), "stopped": stopped}, lambda: None)
    elif stopped:
        ctx.console.print(f"Stopped; nothing is lost. {how}", markup=False, soft_wrap=True)
    if stopped:
        raise typer.Exit(FAILED)


def _say(ctx: Context, text: str) -> None:
    if not ctx.json:
        ctx.console.print(text, markup=False, highlight=False, soft_wrap=True)


def _words(command: str, versions: Sequence[str] | None) -> str:
    return " ".join(["crossfade migrate", command, *(versions or ())])


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _listed(versions: Sequence[str]) -> str:
    return ", ".join(versions) or "nothing"
