"""Operations on columns. All of them are one: columns of the old shape go, columns of the new one come."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final

from crossfade.domain.errors import Invalid
from crossfade.domain.migrations.catalogue import ColumnFact, TableFact
from crossfade.domain.migrations.constraints import check, references, unique
from crossfade.domain.migrations.draft import Draft, Draw, fitting
from crossfade.domain.migrations.layer import column_ref, table_ref
from crossfade.domain.migrations.operations import (
    AddColumn,
    AlterColumn,
    Column,
    DropColumn,
    MergeColumns,
    RenameColumn,
    SplitColumn,
    Unset,
)
from crossfade.domain.migrations.plan import literal, quoted
from crossfade.domain.migrations.sql import is_constant, renamed
from crossfade.domain.migrations.successors import alter, comment, duplicate, to_identity

SERIALS: Final = {"serial": "integer", "bigserial": "bigint", "smallserial": "smallint", "serial4": "integer"}
TYPE: Final = re.compile(r'[\w ."]+(?:\(\s*[\w ]+(?:\s*,\s*[\w ]+)*\s*\))?[\w ]*(?:\[\d*\])*', re.UNICODE)


def add_column(draft: Draft, op: AddColumn) -> None:
    """A column more, filled by ``up`` where there is one or where its default is not the same for all rows."""
    table = draft.reshapable(draft.table(op.table))
    add(draft, table, op.column, op.up)


def add(draft: Draft, table: Draw, column: Column, up: str | None) -> str:
    """The new column's physical name."""
    _new_name(draft, table, column.name)
    type_ = typed(draft, column.type)
    if column.pk:
        raise Invalid(
            f"{draft.place}.column.pk",
            True,
            "a column that is no key yet",
            hint="Add the column first; create_constraint makes it the primary key in a later operation.",
        )
    if column.generated:
        raise Invalid(
            f"{draft.place}.column.generated",
            column.generated,
            "a column with `up`: adding a generated one writes the whole table under an exclusive lock",
        )
    default, sequence = column.default, None
    if type_.lower() in SERIALS or column.identity is not None:
        type_ = SERIALS.get(type_.lower(), type_)
        sequence = draft.free_table(fitting(f"{table.physical.name}_{column.name}_seq"))
        default = f"nextval({literal(str(sequence))}::regclass)"
    fact = ColumnFact(
        column.name,
        type_,
        column.nullable,
        default,
        comment=column.comment,
        sequence=sequence,
        identity=("a" if column.identity.always else "d") if column.identity is not None else "",
    )
    filled = up if up is not None else (default if default is not None and not is_constant(default) else None)
    if filled is None and not column.nullable and default is None:
        raise Invalid(
            f"{draft.place}.up",
            None,
            f"an expression, or a default: {column.name} is not nullable, and older releases do not know it",
        )
    physical = draft.free_column(table, column.name)
    at = table.physical
    if sequence is not None:
        options = f" {column.identity.options}" if column.identity is not None and column.identity.options else ""
        draft.expand.append(f"CREATE SEQUENCE {sequence} AS {type_}{options}")
        draft.abort.append(f"DROP SEQUENCE IF EXISTS {sequence}")
    if filled is None:
        more = (f" DEFAULT {default}" if default is not None else "") + ("" if column.nullable else " NOT NULL")
        draft.add(table, physical, type_, more)
    else:
        change = draft.marked(table)
        draft.expression(filled, "up", change.facts)
        draft.add(table, physical, type_)
        change.ups.append((physical, filled))
        if default is not None:
            table.defaults[column.name] = default
            if column.identity is None:
                draft.contract.append(alter(table, physical, f"SET DEFAULT {default}"))
    table.view[column.name] = physical
    draft.replace_fact(table, columns=(*table.fact.columns, fact))
    if column.comment is not None:
        comment(draft, table, column.name, physical, column.comment)
    if filled is not None and not column.nullable:
        draft.require_not_null(table, column.name, physical)
    if column.check is not None:
        check(draft, table, column.check, filled is not None)
    if column.references is not None:
        references(draft, table, column.name, column.references, filled is not None)
    if column.unique:
        unique(draft, table, f"{at.name}_{column.name}_key", (column.name,), filled is not None)
    if sequence is not None:
        own = f"ALTER SEQUENCE {sequence} OWNED BY {table_ref(at)}.{column_ref(at, physical)}"
        if column.identity is None:
            draft.contract.append(own)
        else:
            draft.contract.append(to_identity(table, physical, fact.identity, str(sequence)))
            draft.contract.append(f"DROP SEQUENCE {sequence}")
    draft.renames(table, physical, column.name)
    return physical


def drop_column(draft: Draft, op: DropColumn) -> None:
    """The new shape does not have it; until the contract ``down`` fills it for older releases."""
    table = draft.reshapable(draft.table(op.table))
    fact = draft.column(table, op.column)
    physical = table.view[op.column]
    _refuse_keys(draft, table, op.column)
    draft.refuse_dependents(table, op.column)
    needs = not fact.nullable and fact.default is None and not fact.identity and not fact.generated
    if op.down is None and needs:
        raise Invalid(
            f"{draft.place}.down",
            None,
            f"an expression for {op.column}, which is not nullable: rows of newer releases need a value for older ones",
        )
    change = draft.change(table)
    del table.view[op.column]
    table.defaults.pop(op.column, None)
    remaining = _without(table.fact, op.column)
    if op.down is not None:
        draft.expression(op.down, "down", remaining)
        change.downs.append((physical, op.down))
    else:
        value = "its default" if fact.default is not None else "NULL"
        draft.hazard(
            "old-value", f"older releases read {value} in {op.column} of rows that newer ones insert", "Give `down`."
        )
    draft.hazard("drops-data", f"the contract drops {op.table}.{op.column} with its data")
    lost = [one.name for one in table.fact.indexes if op.column in one.columns and len(one.columns) > 1]
    if lost:
        draft.hazard("drops-index", f"the contract drops {', '.join(lost)} with {op.column}")
    table.fact = remaining
    draft.drops(table, physical)


def rename_column(draft: Draft, op: RenameColumn) -> None:
    """Views show the new name at once, the contract gives it to the column."""
    table = draft.reshapable(draft.table(op.table))
    draft.column(table, op.old, "from")
    _new_name(draft, table, op.new, "to")
    physical = table.view[op.old]
    table.view = {(op.new if name == op.old else name): p for name, p in table.view.items()}
    for kept in (table.defaults, table.comments):
        if op.old in kept:
            kept[op.new] = kept.pop(op.old)
    table.fact = _renamed(table.fact, op.old, op.new)
    if table.physical in draft.changes:
        draft.hazard(
            "renamed-here",
            f"expressions of this migration may call {op.old} {op.new} too",
            "Two migrations are clearer.",
        )
    draft.renames(table, physical, op.new)


def alter_column(draft: Draft, op: AlterColumn) -> None:
    """Another type, nullability or constraint makes a second column beside the first; a default or comment does not."""
    table = draft.reshapable(draft.table(op.table))
    fact = draft.column(table, op.column)
    physical = table.view[op.column]
    changes = (op.type, op.nullable, op.check, op.references, op.unique)
    if all(one is None for one in changes):
        if isinstance(op.default, Unset) and isinstance(op.comment, Unset):
            raise Invalid(
                f"{draft.place}",
                op.column,
                "at least one of type, nullable, default, comment, check, references, unique",
            )
        if not isinstance(op.default, Unset):
            table.defaults[op.column] = op.default if op.default is not None else "NULL"
            action = "DROP DEFAULT" if op.default is None else f"SET DEFAULT {op.default}"
            draft.contract.append(alter(table, physical, action))
            draft.replace_fact(table, columns=_with(table.fact, replace(fact, default=op.default)))
        if not isinstance(op.comment, Unset):
            comment(draft, table, op.column, physical, op.comment)
        return
    type_ = typed(draft, op.type) if op.type is not None else fact.type
    nullable = fact.nullable if op.nullable is None else op.nullable
    default = fact.default if isinstance(op.default, Unset) else op.default
    up, down = op.up, op.down
    if up is None:
        if op.nullable is False and fact.nullable:
            raise Invalid(f"{draft.place}.up", None, f"an expression that is never null: {op.column} may be null now")
        up = f"CAST({quoted(op.column)} AS {type_})" if op.type is not None else quoted(op.column)
        if op.type is not None:
            draft.hazard(
                "implied-up", f"{op.column} is cast to {type_}", "Give `up` where a cast is not what you mean."
            )
    if down is None:
        if op.nullable and not fact.nullable:
            raise Invalid(
                f"{draft.place}.down", None, f"an expression that is never null: older releases rely on {op.column}"
            )
        down = f"CAST({quoted(op.column)} AS {fact.type})" if op.type is not None else quoted(op.column)
        if op.type is not None:
            draft.hazard("implied-down", f"writes of newer releases are cast back to {fact.type}", "Give `down` too.")
    made = duplicate(
        draft,
        table,
        {op.column: (up, down)},
        {op.column: replace(fact, type=type_, nullable=nullable, default=default)},
    )
    if not isinstance(op.comment, Unset):
        comment(draft, table, op.column, made[op.column], op.comment)
    if op.check is not None:
        check(draft, table, op.check, True)
    if op.references is not None:
        references(draft, table, op.column, op.references, True)
    if op.unique is not None:
        unique(draft, table, op.unique, (op.column,), True)


def split_column(draft: Draft, op: SplitColumn) -> None:
    """One column becomes several."""
    table = draft.reshapable(draft.table(op.table))
    draft.column(table, op.column)
    _refuse_keys(draft, table, op.column)
    draft.refuse_dependents(table, op.column)
    if len(op.into) < 2:
        raise Invalid(f"{draft.place}.into", len(op.into), "two columns or more")
    physical = table.view[op.column]
    change = draft.change(table)
    same = [one for one in op.into if one.name == op.column]
    if same:
        raise Invalid(f"{draft.place}.into", op.column, "names other than that of the column that is split")
    for one in op.into:
        if one.up is None:
            raise Invalid(f"{draft.place}.into.{one.name}.up", None, "an expression")
        add(draft, table, one, one.up)
    del table.view[op.column]
    table.defaults.pop(op.column, None)
    table.fact = _without(table.fact, op.column)
    change.downs.append((physical, draft.expression(op.down, "down", table.fact)))
    draft.drops(table, physical)


def merge_columns(draft: Draft, op: MergeColumns) -> None:
    """Several columns become one."""
    table = draft.reshapable(draft.table(op.table))
    if len(op.columns) < 2:
        raise Invalid(f"{draft.place}.columns", len(op.columns), "two columns or more")
    downs = dict(op.down)
    for name in op.columns:
        draft.column(table, name, "columns")
        _refuse_keys(draft, table, name)
        draft.refuse_dependents(table, name)
        if name not in downs:
            raise Invalid(f"{draft.place}.down", sorted(downs), f"an expression for {name} too")
    if op.into.name in op.columns:
        raise Invalid(f"{draft.place}.into", op.into.name, "a name other than those of the columns that are merged")
    change = draft.change(table)
    add(draft, table, op.into, op.up)
    for name in op.columns:
        physical = table.view.pop(name)
        table.defaults.pop(name, None)
        table.fact = _without(table.fact, name)
        draft.drops(table, physical)
        change.downs.append((physical, draft.expression(downs[name], "down", table.fact)))


# --- small things


def typed(draft: Draft, type_: str) -> str:
    """A type from outside. Raises Invalid for what cannot be one."""
    if not TYPE.fullmatch(type_) or not type_.strip():
        raise Invalid(f"{draft.place}.type", type_, "a type as SQL knows it, such as varchar(255) or numeric(10, 2)")
    return type_


def _new_name(draft: Draft, table: Draw, name: str, key: str = "column.name") -> None:
    if name in table.view:
        raise Invalid(f"{draft.place}.{key}", name, f"a name that no column of {table.fact.name.name} has")
    if not name or len(name.encode()) > 63 or "\x00" in name or name.startswith("_cf"):
        raise Invalid(f"{draft.place}.{key}", name, "1 to 63 bytes, not beginning with _cf")


def _refuse_keys(draft: Draft, table: Draw, column: str) -> None:
    for constraint in table.fact.constraints:
        if constraint.kind == "p" and column in constraint.columns:
            raise Invalid(f"{draft.place}.column", column, f"a column that is not in the primary key {constraint.name}")
    for incoming in table.fact.incoming:
        if column in incoming.constraint.foreign:
            raise Invalid(
                f"{draft.place}.column",
                column,
                f"a column that no foreign key points to; {incoming.table.name} has {incoming.constraint.name}",
            )


def _without(fact: TableFact, column: str) -> TableFact:
    return replace(
        fact,
        columns=tuple(one for one in fact.columns if one.name != column),
        constraints=tuple(one for one in fact.constraints if column not in one.columns),
        indexes=tuple(one for one in fact.indexes if column not in one.columns),
    )


def _with(fact: TableFact, column: ColumnFact) -> tuple[ColumnFact, ...]:
    return tuple(column if one.name == column.name else one for one in fact.columns)


def _renamed(fact: TableFact, old: str, new: str) -> TableFact:
    def all_(columns: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(new if one == old else one for one in columns)

    mapping = {old: quoted(new)}
    return replace(
        fact,
        columns=tuple(replace(one, name=new) if one.name == old else one for one in fact.columns),
        constraints=tuple(
            replace(
                one,
                columns=all_(one.columns),
                definition=renamed(one.definition, mapping, fact.name.name) if one.kind == "c" else one.definition,
            )
            for one in fact.constraints
        ),
        indexes=tuple(replace(one, columns=all_(one.columns), tail=renamed(one.tail, mapping)) for one in fact.indexes),
        incoming=tuple(
            replace(one, constraint=replace(one.constraint, foreign=all_(one.constraint.foreign)))
            for one in fact.incoming
        ),
        views=tuple((who, new if column == old else column) for who, column in fact.views),
    )
