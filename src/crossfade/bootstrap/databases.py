"""Databases by their URL, and what looks at migrations before they run."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from crossfade.domain.errors import Invalid
from crossfade.domain.migrations.operations import Migration
from crossfade.domain.migrations.phases import Phase, Record
from crossfade.domain.migrations.plan import Hazard
from crossfade.ports.databases import Database, Finding, Linter

POSTGRES: Final = ("postgresql", "postgres")
MYSQL: Final = ("mysql", "mariadb")
ALLOWED: Final = "a URL: postgresql://, postgres://, mysql:// or mariadb://, then user:password@host:port/database"
_SCHEMA: Final = re.compile(r"[^\x00-\x1f\x7f]{1,63}")


def open_database(
    url: str, *, schema: str = "public", application: str = "", variable: str = "DATABASE_URL"
) -> Database:
    """The database that a URL names; nothing is connected yet. Raises Invalid, which never has the URL's password.

    ``schema`` is PostgreSQL's. ``application`` is the URL that replicas use, when it is another one, and ``variable`` the
    name under which they get it.
    """
    scheme, separator, _ = url.strip().partition("://")
    try:
        _ = urlsplit(url.strip()).port
    except ValueError:
        raise Invalid("database", "a URL with a host or port that is none", ALLOWED) from None
    if not _SCHEMA.fullmatch(schema):
        raise Invalid("schema", schema, "a schema's name, 1 to 63 characters")
    if separator and scheme in POSTGRES:
        from crossfade.databases.postgres.database import PostgresDatabase

        return PostgresDatabase(url.strip(), schema=schema, application=application, variable=variable)
    if separator and scheme in MYSQL:
        from crossfade.databases.mysql.database import MysqlDatabase

        return MysqlDatabase(url.strip())
    found = f"{scheme}://…" if separator and re.fullmatch(r"[a-z0-9+.-]{1,40}", scheme) else "no such URL"
    raise Invalid("database", found, ALLOWED)


def named(paths: Sequence[Path], ledger: Sequence[Record]) -> tuple[list[Migration], list[Migration]]:
    """The migrations that were named, and those with what lies beside them and belongs to the ledger or comes before.

    Both in order. So one file of a folder can be named, and the others are still seen to be whole. Raises as `load` does.
    """
    from crossfade.spec.migrations import SUFFIXES, in_order, load

    chosen = [one for one, _ in load(paths)]
    known = {one.version for one in chosen}
    applied = {one.version for one in ledger if one.phase is not Phase.ABORTED}
    last = max((in_order(version) for version in known), default=[])
    every = list(chosen)
    for folder in sorted({path.absolute().parent for path in paths if path.is_file()}):
        for file in sorted(folder.iterdir()):
            if file.suffix not in SUFFIXES or file.stem in known or not file.is_file():
                continue
            # Beside a migration there may be anything, but what is numbered and comes before is one that was forgotten.
            before = file.stem[:1].isdigit() and in_order(file.stem) < last
            if file.stem in applied or before:
                try:
                    every += [one for one, _ in load([file])]
                except Invalid:
                    if file.stem in applied:
                        raise
                else:
                    known.add(file.stem)
    return chosen, sorted(every, key=lambda one: in_order(one.version))


def linter(url: str = "", *, schema: str = "public", queries: Path | None = None) -> Linter:
    """What looks at files; with a URL also at what they would do to that database's schema. Raises Invalid for a URL."""
    from crossfade.databases.lint import SquawkLinter

    files = SquawkLinter()
    return _OnDatabase(files, open_database(url, schema=schema), url, schema, queries) if url else files


def sarif_document(findings: Sequence[Finding]) -> dict[str, Any]:
    """The findings as SARIF 2.1.0, which `crossfade gate sarif` reads."""
    from crossfade.databases.sarif import sarif

    return sarif(findings)


@dataclass(frozen=True)
class _OnDatabase:
    """A linter of files, and the hazards that only a database's catalogue tells."""

    files: Linter
    database: Database
    url: str
    schema: str
    queries: Path | None

    def lint(self, migrations: Sequence[tuple[Migration, str]]) -> Sequence[Finding]:
        """See the port."""
        found = list(self.files.lint(migrations))
        said = {(one.rule, one.file) for one in found}
        for plan in self.database.plan([one for one, _ in migrations]):
            of_catalogue = [finding(hazard) for hazard in plan.hazards]
            found += [one for one in of_catalogue if (one.rule, one.file) not in said]
        if self.url.partition("://")[0] in POSTGRES:
            from crossfade.databases.postgres.trace import examine, split

            try:
                queries = split(self.queries.read_text(encoding="utf-8")) if self.queries is not None else []
            except (OSError, UnicodeDecodeError) as error:
                raise Invalid("--queries", str(self.queries), f"a file of queries in UTF-8 ({error})") from error
            ledger = self.database.ledger()
            applied = {one.version for one in ledger if one.phase is not Phase.ABORTED}
            todo = [one for one, _ in migrations if one.version not in applied]
            found += examine(self.url, self.schema, todo, queries)
        return found


def finding(hazard: Hazard) -> Finding:
    """A hazard of a plan as a finding: an error when it is refused, else a warning."""
    file, _, place = hazard.place.partition(": ")
    sentence = f"{place}: {hazard.sentence}" if place else hazard.sentence
    return Finding(hazard.code, "error" if hazard.blocks else "warning", file, 0, sentence, hazard.hint)
