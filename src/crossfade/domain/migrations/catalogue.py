"""What a PostgreSQL schema holds, as plain data: read by the adapter, planned upon here."""

from __future__ import annotations

from dataclasses import dataclass, replace

from crossfade.domain.migrations.plan import Name


@dataclass(frozen=True, slots=True)
class ColumnFact:
    """``type`` as SQL. ``identity``: ``a`` always, ``d`` by default, else empty. ``sequence`` is the one that it owns.

    ``generated`` is the expression's text. ``grants`` says whether anybody has rights on this column alone.
    """

    name: str
    type: str
    nullable: bool = True
    default: str | None = None
    identity: str = ""
    sequence: Name | None = None
    generated: str = ""
    comment: str | None = None
    grants: bool = False
    enum: Name | None = None


@dataclass(frozen=True, slots=True)
class ConstraintFact:
    """``kind`` as in pg_constraint: c, f, u, p, x. ``definition`` by pg_get_constraintdef; ``index`` backs u, p and x."""

    name: str
    kind: str
    columns: tuple[str, ...]
    definition: str
    validated: bool = True
    index: str = ""
    table: Name | None = None
    """Of a foreign key: the table that it points to."""
    foreign: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class IndexFact:
    """``tail`` is what follows USING in its definition. ``columns`` are all that it depends on, also by expressions."""

    name: str
    tail: str
    columns: tuple[str, ...]
    unique: bool = False
    valid: bool = True
    constraint: str = ""
    partial: bool = False


@dataclass(frozen=True, slots=True)
class Incoming:
    """A foreign key of another table (or this one) that points here."""

    table: Name
    constraint: ConstraintFact


@dataclass(frozen=True, slots=True)
class TableFact:
    """``kind``: ``r`` a table, ``p`` a partitioned one. ``views`` are the user's views and functions that depend on a column."""

    name: Name
    kind: str
    columns: tuple[ColumnFact, ...]
    constraints: tuple[ConstraintFact, ...] = ()
    indexes: tuple[IndexFact, ...] = ()
    incoming: tuple[Incoming, ...] = ()
    views: tuple[tuple[str, str], ...] = ()
    """What depends, and on which column."""
    triggers: tuple[str, ...] = ()
    partition_of: Name | None = None
    partitions: tuple[Name, ...] = ()
    replica_identity: str = "DEFAULT"
    rows: int = 0
    grants: tuple[tuple[str, str], ...] = ()
    """Grantee (as SQL) and privilege."""

    def column(self, name: str) -> ColumnFact | None:
        return next((one for one in self.columns if one.name == name), None)

    def constraint(self, name: str) -> ConstraintFact | None:
        return next((one for one in self.constraints if one.name == name), None)

    @property
    def key(self) -> tuple[tuple[str, str], ...]:
        """The columns of the primary key with their types, else of a unique index over columns that are never null."""
        for kind in ("p", "u"):
            for constraint in self.constraints:
                facts = [self.column(name) for name in constraint.columns]
                if constraint.kind == kind and facts and all(one is not None and not one.nullable for one in facts):
                    return tuple((one.name, one.type) for one in facts if one is not None)
        return ()


@dataclass(frozen=True, slots=True)
class EnumFact:
    """A type and its values, in order."""

    name: Name
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Catalogue:
    """One schema of a database. ``server`` is server_version_num (150004). ``taken`` are names of all its relations."""

    schema: str
    server: int
    tables: tuple[TableFact, ...]
    enums: tuple[EnumFact, ...] = ()
    taken: frozenset[str] = frozenset()
    schemas: frozenset[str] = frozenset()

    def table(self, name: Name) -> TableFact | None:
        return next((one for one in self.tables if one.name == name), None)

    def having(self, table: TableFact) -> Catalogue:
        """With one table more, or in another form."""
        others = tuple(one for one in self.tables if one.name != table.name)
        return replace(self, tables=(*others, table), taken=self.taken | {table.name.name})
