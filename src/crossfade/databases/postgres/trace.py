"""What statements lock and rewrite, and which queries they break: seen on a scratch copy of the schema, which is dropped."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

import psycopg
from psycopg import Connection, errors, sql

from crossfade.databases.postgres import catalogue as catalogues
from crossfade.databases.postgres.connection import connect, explained, first_line
from crossfade.databases.postgres.database import PostgresDatabase
from crossfade.domain.errors import Unavailable
from crossfade.domain.migrations.copy import copied
from crossfade.domain.migrations.operations import Migration
from crossfade.domain.migrations.plan import Group, How, quoted
from crossfade.domain.migrations.sql import tokens
from crossfade.ports.databases import Finding, Trace

LOCKS: Final = """
SELECT c.oid::regclass::text, l.mode FROM pg_locks l JOIN pg_class c ON c.oid = l.relation
 WHERE l.pid = pg_backend_pid() AND l.granted AND c.relkind IN ('r', 'p') AND c.relnamespace = %s::regnamespace
"""
FILES: Final = (
    "SELECT oid::regclass::text, relfilenode FROM pg_class WHERE relkind = 'r' AND relnamespace = %s::regnamespace"
)
DOCUMENTED: Final = "ShareUpdateExclusiveLock"
"""What CREATE and DROP INDEX CONCURRENTLY, VALIDATE and DETACH CONCURRENTLY take: it lets everybody read and write."""
STRONGEST: Final = "AccessExclusiveLock"


@contextmanager
def scratch(url: str, schema: str) -> Iterator[str]:
    """The URL of a database with the same tables and no rows. Raises Unavailable when none can be made."""
    name = f"crossfade_scratch_{secrets.token_hex(6)}"
    with connect(url) as connection:
        facts = catalogues.read(connection, schema)
        try:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        except errors.InsufficientPrivilege as error:
            raise Unavailable(
                f"No scratch database can be made: {first_line(error)}.",
                hint="ALTER ROLE … CREATEDB, or lint without --database.",
            ) from error
    place = urlunsplit(urlsplit(url)._replace(path=f"/{name}"))
    try:
        with connect(place) as copy:
            for statement in copied(facts):
                with suppress(psycopg.Error):  # what needs an extension or another schema is not there: it is a sketch
                    copy.execute(statement.encode())
        yield place
    finally:
        with connect(url) as connection:
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def traced(connection: Connection[Any], groups: Sequence[Group], schema: str) -> Iterator[Trace]:
    """Runs the groups, and says of each statement what it locks and rewrites."""
    for group in groups:
        if group.how is not How.TOGETHER:
            for statement in group.statements:
                connection.execute(statement.encode())
                yield Trace(statement, (("", DOCUMENTED),))
            continue
        with connection.transaction():
            connection.execute(f"SET LOCAL search_path = {quoted(schema)}, public".encode())
            known: set[tuple[str, str]] = set()
            for statement in group.statements:
                before = dict(connection.execute(FILES, (quoted(schema),)).fetchall())
                connection.execute(statement.encode())
                locks = {(table, mode) for table, mode in connection.execute(LOCKS, (quoted(schema),)).fetchall()}
                after = dict(connection.execute(FILES, (quoted(schema),)).fetchall())
                rewritten = tuple(sorted(t for t, node in before.items() if after.get(t, node) != node))
                yield Trace(statement, tuple(sorted(locks - known)), rewritten)
                known |= locks


def examine(url: str, schema: str, migrations: Sequence[Migration], queries: Sequence[str] = ()) -> list[Finding]:
    """Expand each migration on a scratch copy: rewrites are errors, the strongest locks notes, broken queries warnings."""
    found: list[Finding] = []
    with scratch(url, schema) as place, explained("trace"):
        database = PostgresDatabase(place, schema=schema)
        with connect(place) as connection:
            connection.execute("CREATE SCHEMA IF NOT EXISTS crossfade")
            before = {query: fails(connection, query, quoted(schema)) for query in queries}
            for migration in migrations:
                plan = database.plan([migration])[0] if migration.operations else None
                groups = (*plan.expand, *plan.settle) if plan is not None else _phased(migration)
                try:
                    for trace in traced(connection, groups, schema):
                        found += _said(migration, trace)
                except psycopg.Error as error:
                    found.append(
                        Finding(
                            "does-not-run",
                            "error",
                            migration.source,
                            0,
                            f"on a copy of the schema: {first_line(error)}",
                        )
                    )
                    continue
                path = f"{quoted(f'{schema}_{migration.version}')}, {quoted(schema)}"
                for query, failed in before.items():
                    if failed:
                        continue
                    old, new = fails(connection, query, quoted(schema)), fails(connection, query, path)
                    short = " ".join(query.split())[:100]
                    if old:
                        found.append(
                            Finding(
                                "breaks-query",
                                "error",
                                migration.source,
                                0,
                                f"the running release's query fails: {short}: {old}",
                            )
                        )
                    elif new and plan is not None:
                        sentence = f"the running release's query needs the old shape: {short}: {new}"
                        found.append(
                            Finding(
                                "needs-old-shape", "note", migration.source, 0, sentence, "The contract waits for it."
                            )
                        )
    return found


def _phased(migration: Migration) -> tuple[Group, ...]:
    from crossfade.domain.migrations.phased import groups  # noqa: PLC0415 - only for SQL

    given = migration.sql
    return tuple(groups("expand", given.expand)) if given is not None else ()


def _said(migration: Migration, trace: Trace) -> Iterator[Finding]:
    short = " ".join(trace.statement.split())[:100]
    for table in trace.rewrites:
        sentence = f"{short} writes all of {table} anew, and nobody can read it meanwhile"
        yield Finding(
            "rewrites-table", "error", migration.source, 0, sentence, "An operation does it beside the writers."
        )
    for table, mode in trace.locks:
        if mode == STRONGEST and table:
            yield Finding("locks-table", "note", migration.source, 0, f"{short} locks {table} for a moment ({mode})")


def fails(connection: Connection[Any], query: str, path: str) -> str:
    """Why a query cannot be prepared under a search path; empty when it can."""
    try:
        with connection.transaction(force_rollback=True):
            connection.execute(f"SET LOCAL search_path = {path}".encode())
            connection.execute(f"PREPARE crossfade_replay AS {query}".encode())
            connection.execute("DEALLOCATE crossfade_replay")
    except psycopg.Error as error:
        return first_line(error)
    return ""


def split(text: str) -> list[str]:
    """The queries of a file, each ended by a semicolon."""
    found: list[str] = []
    parts: list[str] = []
    for token in tokens(text):
        if token.text == ";":
            found.append("".join(parts).strip())
            parts = []
        else:
            parts.append(token.text)
    found.append("".join(parts).strip())
    return [one for one in found if any(t.kind != "space" for t in tokens(one))]
