"""`ports.databases.Databases`: what a release says of its database, made into one by its URL."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from crossfade.bootstrap.databases import open_database
from crossfade.domain.errors import CrossfadeError, Invalid, InvalidConfig, NotFound
from crossfade.domain.migrations.operations import Migration
from crossfade.domain.migrations.phases import Record
from crossfade.domain.release import DatabaseUse, Release
from crossfade.domain.values import Digest
from crossfade.ports import Artifacts, Secrets
from crossfade.ports.databases import Database, NoDatabases

KEPT: Final = 60.0
"""Seconds for which a ledger that was read is remembered while its database does not answer."""


class ReleaseDatabases(NoDatabases):
    """Of releases whose `crossfade.yaml` has ``database``."""

    def __init__(self, artifacts: Artifacts, secrets: Secrets) -> None:
        super().__init__()
        self._artifacts, self._secrets = artifacts, secrets
        self._known: dict[str, tuple[float, Sequence[Record]]] = {}

    def version(self, digest: Digest, use: DatabaseUse) -> str:
        """See the port."""
        found = self._load(digest, use)
        return found[-1].version if found else ""

    def migrations(self, release: Release) -> Sequence[Migration]:
        """See the port."""
        use = release.config.database
        return self._load(release.digest, use) if use is not None else ()

    def of(self, release: Release) -> Database | None:
        """See the port."""
        use = release.config.database
        if use is None:
            return None
        return open_database(self._url(release, use), schema=use.schema, variable=use.pass_as)

    def ledger(self, release: Release, lately: float = 1.0) -> Sequence[Record] | None:
        """See the port."""
        use = release.config.database
        if use is None:
            return None
        place = ""
        try:
            place = f"{self._url(release, use)} {use.schema}"
            now = time.monotonic()
            at, known = self._known.get(place, (-KEPT, ()))
            if now - at < lately:
                return known
            database = self.of(release)
            assert database is not None  # it has one
            found = database.ledger()
        except CrossfadeError:
            known_at, last = self._known.get(place, (-KEPT, None)) if place else (-KEPT, None)
            return last if time.monotonic() - known_at < KEPT else None
        self._known[place] = now, found
        return found

    def env(self, release: Release) -> Mapping[str, str]:
        """See the port."""
        database = self.of(release)
        return database.environment(release.config.schema_version) if database is not None else {}

    def _load(self, digest: Digest, use: DatabaseUse) -> list[Migration]:
        from crossfade.spec.migrations import load

        root = self._artifacts.folder(digest)
        folder = root / use.folder
        if not folder.is_dir():
            return []
        if not _within(folder, root):
            raise Invalid("database.migrations", use.folder, "a folder within build.output")
        try:
            return [one for one, _ in load([folder])]
        except InvalidConfig as error:
            problems = [type(p)(f"{use.folder}/{p.file}", p.line, p.key, p.found, p.allowed) for p in error.problems]
            raise InvalidConfig(problems) from error

    def _url(self, release: Release, use: DatabaseUse) -> str:
        config = release.config
        known = {**dict(config.env), **(self._secrets.get(config.secrets) if config.secrets else {})}
        url = known.get(use.variable, "")
        if not url:
            raise NotFound(
                f"{release.number} has no variable {use.variable}, which database.url names.",
                hint="Put the database's URL under that name into an env_file.",
            )
        return url


def _within(folder: Path, root: Path) -> bool:
    return folder.resolve().is_relative_to(root.resolve())
