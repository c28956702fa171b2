"""What a migration says: pgroll's operations as plain data, and those beyond them. SQL in them is the user's own.

``up`` computes the new shape from the old, for writes of older releases; ``down`` the old from the new. In both, names are
those of the columns of the table's shape that they compute from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Unset:
    """Said of a value that an operation does not speak of, where None means to take it away."""


UNSET: Final = Unset()


@dataclass(frozen=True, slots=True)
class Check:
    """A condition for one column, or several."""

    name: str
    constraint: str
    no_inherit: bool = False


@dataclass(frozen=True, slots=True)
class References:
    """A foreign key. ``match``, ``on_delete``, ``on_update`` are SQL's words, upper case; empty for the default."""

    name: str
    table: str
    columns: tuple[str, ...]
    on_delete: str = ""
    on_update: str = ""
    on_delete_columns: tuple[str, ...] = ()
    match: str = ""
    deferrable: bool = False
    initially_deferred: bool = False


@dataclass(frozen=True, slots=True)
class Identity:
    """``always``: GENERATED ALWAYS, else BY DEFAULT. ``options`` are the sequence's, as SQL."""

    always: bool = False
    options: str = ""


@dataclass(frozen=True, slots=True)
class Column:
    """A column to be made. ``default`` and ``generated`` are SQL; ``up`` is for the columns of `SplitColumn` alone."""

    name: str
    type: str
    nullable: bool = False
    pk: bool = False
    unique: bool = False
    default: str | None = None
    comment: str | None = None
    check: Check | None = None
    references: References | None = None
    generated: str | None = None
    identity: Identity | None = None
    up: str | None = None


@dataclass(frozen=True, slots=True)
class Constraint:
    """A constraint of a table to be made. ``kind``: ``unique``, ``check``, ``primary_key``, ``foreign_key``, ``exclude``."""

    name: str
    kind: str
    columns: tuple[str, ...] = ()
    check: str = ""
    no_inherit: bool = False
    references: References | None = None
    nulls_not_distinct: bool = False
    deferrable: bool = False
    initially_deferred: bool = False
    include: tuple[str, ...] = ()
    storage: str = ""
    tablespace: str = ""
    exclude: str = ""
    """Of an exclusion: all after EXCLUDE, as SQL."""


@dataclass(frozen=True, slots=True)
class IndexColumn:
    """One column of an index; ``sort``, ``nulls``, ``opclass`` are SQL."""

    name: str
    collate: str = ""
    opclass: str = ""
    sort: str = ""
    nulls: str = ""


@dataclass(frozen=True, slots=True)
class CreateTable:
    """A table more."""

    name: str
    columns: tuple[Column, ...]
    constraints: tuple[Constraint, ...] = ()
    comment: str | None = None


@dataclass(frozen=True, slots=True)
class RenameTable:
    """A table under another name."""

    old: str
    new: str


@dataclass(frozen=True, slots=True)
class DropTable:
    """A table less."""

    name: str


@dataclass(frozen=True, slots=True)
class AddColumn:
    """A column more; ``up`` fills it."""

    table: str
    column: Column
    up: str | None = None


@dataclass(frozen=True, slots=True)
class DropColumn:
    """A column less; ``down`` fills it for older releases."""

    table: str
    column: str
    down: str | None = None


@dataclass(frozen=True, slots=True)
class RenameColumn:
    """A column under another name."""

    table: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class AlterColumn:
    """Whatever is not UNSET or None changes. ``default``, ``comment`` None take them away."""

    table: str
    column: str
    up: str | None = None
    down: str | None = None
    type: str | None = None
    nullable: bool | None = None
    default: str | Unset | None = UNSET
    comment: str | Unset | None = UNSET
    check: Check | None = None
    references: References | None = None
    unique: str | None = None
    """The name of the constraint."""


@dataclass(frozen=True, slots=True)
class SplitColumn:
    """One column becomes several, each with its ``up``; ``down`` makes the old one of them."""

    table: str
    column: str
    into: tuple[Column, ...]
    down: str


@dataclass(frozen=True, slots=True)
class MergeColumns:
    """Several columns become one by ``up``; ``down`` has an expression for each old column."""

    table: str
    columns: tuple[str, ...]
    into: Column
    up: str
    down: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class CreateIndex:
    """An index more; ``predicate`` and ``storage`` are SQL."""

    table: str
    name: str
    columns: tuple[IndexColumn, ...]
    method: str = ""
    unique: bool = False
    predicate: str = ""
    storage: str = ""


@dataclass(frozen=True, slots=True)
class DropIndex:
    """An index less."""

    name: str


@dataclass(frozen=True, slots=True)
class CreateConstraint:
    """``up`` and ``down`` have an expression for columns of the constraint; those without are taken as they are."""

    table: str
    constraint: Constraint
    up: tuple[tuple[str, str], ...] = ()
    down: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class DropConstraint:
    """Of one column with pgroll's `drop_constraint`, of several with `drop_multicolumn_constraint`."""

    table: str
    name: str
    up: tuple[tuple[str, str], ...] = ()
    down: tuple[tuple[str, str], ...] = ()
    columns: int = 1
    """1: ``up`` and ``down`` name the column ``""``, for pgroll does not write it. 2: they name each."""


@dataclass(frozen=True, slots=True)
class RenameConstraint:
    """A constraint under another name."""

    table: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class SetReplicaIdentity:
    """``kind``: ``full``, ``default``, ``nothing`` or ``index``."""

    table: str
    kind: str
    index: str = ""


@dataclass(frozen=True, slots=True)
class Sql:
    """``up`` runs in expand, or in contract with ``on_complete``; ``down`` takes it back."""

    up: str
    down: str = ""
    on_complete: bool = False


@dataclass(frozen=True, slots=True)
class AddEnumValues:
    """Values are added at the end of the type, or before or after one that it has: ``(value, "before"|"after"|"", other)``."""

    type: str
    values: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True, slots=True)
class ReplaceEnum:
    """A type gets other values: every column of it moves to the new type. ``up``/``down`` map values; others stay."""

    type: str
    values: tuple[str, ...]
    up: tuple[tuple[str, str], ...] = ()
    down: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class AttachPartition:
    """``bounds`` as SQL: ``FOR VALUES FROM (…) TO (…)`` or ``DEFAULT``; ``check`` says the same of the rows, as SQL."""

    table: str
    partition: str
    bounds: str
    check: str = ""


@dataclass(frozen=True, slots=True)
class DetachPartition:
    """A partition becomes a table of its own."""

    table: str
    partition: str


Operation = (
    CreateTable
    | RenameTable
    | DropTable
    | AddColumn
    | DropColumn
    | RenameColumn
    | AlterColumn
    | SplitColumn
    | MergeColumns
    | CreateIndex
    | DropIndex
    | CreateConstraint
    | DropConstraint
    | RenameConstraint
    | SetReplicaIdentity
    | Sql
    | AddEnumValues
    | ReplaceEnum
    | AttachPartition
    | DetachPartition
)


@dataclass(frozen=True, slots=True)
class Phased:
    """A migration written as SQL: statements by phase, in order. ``abort`` takes ``expand`` back."""

    expand: tuple[str, ...] = ()
    backfill: tuple[str, ...] = ()
    contract: tuple[str, ...] = ()
    abort: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Migration:
    """``version`` is its file's stem, ``checksum`` of the file's content (``sha256:…``), ``source`` the file's name.

    Either it has ``operations``, or it is ``sql``.
    """

    version: str
    checksum: str
    source: str
    operations: tuple[Operation, ...] = ()
    sql: Phased | None = None
