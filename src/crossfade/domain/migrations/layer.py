"""One open migration, resolved against a database: which physical columns stand for which names, and how they are kept.

Statements of a layer are run much later, when older layers' contracts may have renamed what they speak of: so they name tables
and columns by references (`column`, `table`), which `moved` follows and `rendered` turns into SQL.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from crossfade.domain.migrations.catalogue import TableFact
from crossfade.domain.migrations.plan import Group, Name, quoted

BEGIN: Final = "\x02"
END: Final = "\x03"
BETWEEN: Final = "\x1f"
REFERENCE: Final = re.compile(f"{BEGIN}([^{END}]*){END}")


def table_ref(table: Name) -> str:
    """A table in a statement."""
    return f"{BEGIN}{table.schema}{BETWEEN}{table.name}{END}"


def column_ref(table: Name, physical: str) -> str:
    """A column in a statement, by its physical name."""
    return f"{BEGIN}{table.schema}{BETWEEN}{table.name}{BETWEEN}{physical}{END}"


def rendered(statement: str) -> str:
    """The statement as SQL."""

    def one(match: re.Match[str]) -> str:
        parts = match.group(1).split(BETWEEN)
        return quoted(parts[2]) if len(parts) > 2 else str(Name(*parts))

    return REFERENCE.sub(one, statement)


def rendered_group(group: Group) -> Group:
    """The group as SQL."""
    return replace(group, statements=tuple(rendered(one) for one in group.statements))


@dataclass(frozen=True, slots=True)
class ViewColumn:
    """``default`` is SQL that the view says where the table's own does not hold; None: the table's. ``comment`` likewise."""

    name: str
    physical: str
    default: str | None = None
    comment: str | None = None


@dataclass(frozen=True, slots=True)
class View:
    """A table as one version sees it. ``fact`` is the same in full, by the version's own names."""

    name: str
    table: Name
    columns: tuple[ViewColumn, ...]
    fact: TableFact

    def column(self, name: str) -> ViewColumn | None:
        return next((one for one in self.columns if one.name == name), None)


@dataclass(frozen=True, slots=True)
class Derived:
    """A physical column and the expression that computes it. ``inputs`` are the physical columns that it reads."""

    physical: str
    expression: str
    inputs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Condition:
    """What a row of the new shape must fulfil. ``sql`` is over the names of the new shape; ``title`` is for people.

    ``lookup``: a row that does not fulfil it cannot be stored even so (a foreign key): its ``columns`` (physical) become null
    until it does.
    """

    title: str
    sql: str
    columns: tuple[str, ...] = ()
    lookup: bool = False


@dataclass(frozen=True, slots=True)
class Reshape:
    """How one migration changes the columns of one table. ``marker`` is empty where no row has to be filled.

    ``old`` and ``new`` map names to physical columns, before and after; ``alias`` and ``renamed`` are the table's names there.
    ``texts`` are physical columns of types that know no equality: they are compared as text.
    """

    table: Name
    marker: str
    alias: str
    renamed: str
    ups: tuple[Derived, ...]
    downs: tuple[Derived, ...]
    old: tuple[tuple[str, str], ...]
    new: tuple[tuple[str, str], ...]
    conditions: tuple[Condition, ...] = ()
    compared: bool = True
    texts: tuple[str, ...] = ()
    key: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Layer:
    """``before`` and ``views`` are the whole shape of the schema before and after. ``made`` are physical columns of its own.

    ``ready`` groups come before the contract's transaction, ``contract`` statements are within it, ``after`` follow.
    ``undo`` groups come before the abort's transaction, ``abort`` statements are within it. ``moves`` are what the contract
    renames: (table, column, its new name); with an empty column the table itself. ``position`` counts from 1 over all
    migrations of the database.
    """

    version: str
    position: int
    schema: str
    before: tuple[View, ...]
    views: tuple[View, ...]
    reshapes: tuple[Reshape, ...] = ()
    made: tuple[tuple[Name, str], ...] = ()
    ready: tuple[Group, ...] = ()
    contract: tuple[str, ...] = ()
    after: tuple[Group, ...] = ()
    undo: tuple[Group, ...] = ()
    abort: tuple[str, ...] = ()
    moves: tuple[tuple[Name, str, str], ...] = ()
    identities: tuple[tuple[Name, str], ...] = ()
    """Columns that the contract gives an identity of their own: views then need no default for them any more."""

    @property
    def contracts(self) -> bool:
        """Whether its contract changes more than which version schemas there are."""
        return bool(self.ready or self.contract or self.after or self.reshapes)


@dataclass(frozen=True, slots=True)
class Moves:
    """What a contract has renamed. ``columns`` first, by the table's name before ``tables``."""

    columns: Mapping[tuple[Name, str], str] = field(default_factory=dict)
    tables: Mapping[Name, Name] = field(default_factory=dict)
    identities: frozenset[tuple[Name, str]] = frozenset()

    @classmethod
    def of(cls, contracted: Layer) -> Moves:
        columns = {(table, column): new for table, column, new in contracted.moves if column}
        tables = {table: Name(table.schema, new) for table, column, new in contracted.moves if not column}
        return cls(columns, tables, frozenset(contracted.identities))

    def table(self, name: Name) -> Name:
        return self.tables.get(name, name)

    def column(self, table: Name, physical: str) -> str:
        return self.columns.get((table, physical), physical)

    def statement(self, text: str) -> str:
        def one(match: re.Match[str]) -> str:
            schema, name, *column = match.group(1).split(BETWEEN)
            at = Name(schema, name)
            return column_ref(self.table(at), self.column(at, column[0])) if column else table_ref(self.table(at))

        return REFERENCE.sub(one, text)

    def group(self, group: Group) -> Group:
        return replace(group, statements=tuple(self.statement(one) for one in group.statements))


def moved(layer: Layer, moves: Moves) -> Layer:
    """The layer with the physical names that an older layer's contract has left."""

    def view(one: View) -> View:
        kept = tuple(
            replace(
                c,
                physical=moves.column(one.table, c.physical),
                default=None if (one.table, c.physical) in moves.identities else c.default,
            )
            for c in one.columns
        )
        return replace(one, table=moves.table(one.table), columns=kept)

    def derived(table: Name, one: Derived) -> Derived:
        inputs = tuple(moves.column(table, i) for i in one.inputs)
        return Derived(moves.column(table, one.physical), one.expression, inputs)

    def reshape(one: Reshape) -> Reshape:
        at = one.table
        return replace(
            one,
            table=moves.table(at),
            ups=tuple(derived(at, d) for d in one.ups),
            downs=tuple(derived(at, d) for d in one.downs),
            old=tuple((n, moves.column(at, p)) for n, p in one.old),
            new=tuple((n, moves.column(at, p)) for n, p in one.new),
            conditions=tuple(replace(c, columns=tuple(moves.column(at, p) for p in c.columns)) for c in one.conditions),
            texts=tuple(moves.column(at, p) for p in one.texts),
            key=tuple((moves.column(at, p), t) for p, t in one.key),
        )

    return replace(
        layer,
        before=tuple(view(one) for one in layer.before),
        views=tuple(view(one) for one in layer.views),
        reshapes=tuple(reshape(one) for one in layer.reshapes),
        made=tuple((moves.table(t), moves.column(t, c)) for t, c in layer.made),
        ready=tuple(moves.group(one) for one in layer.ready),
        contract=tuple(moves.statement(one) for one in layer.contract),
        after=tuple(moves.group(one) for one in layer.after),
        undo=tuple(moves.group(one) for one in layer.undo),
        abort=tuple(moves.statement(one) for one in layer.abort),
        moves=tuple((moves.table(t), moves.column(t, c) if c else c, n) for t, c, n in layer.moves),
        identities=tuple((moves.table(t), moves.column(t, c)) for t, c in layer.identities),
    )
