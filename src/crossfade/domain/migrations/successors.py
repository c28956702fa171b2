"""A second column beside the first: the way to change a type, a constraint, or whether it may be null, without a lock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from crossfade.domain.errors import Invalid
from crossfade.domain.migrations.catalogue import ColumnFact, ConstraintFact, Incoming, IndexFact, TableFact
from crossfade.domain.migrations.constraints import build, linked
from crossfade.domain.migrations.draft import Draft, Draw
from crossfade.domain.migrations.layer import column_ref, table_ref
from crossfade.domain.migrations.plan import Group, How, Name, literal, quoted


def duplicate(
    draft: Draft,
    table: Draw,
    expressions: Mapping[str, tuple[str, str]],
    facts: Mapping[str, ColumnFact],
    *,
    without: Sequence[str] = (),
) -> dict[str, str]:
    """New columns in the place of others of the same names, with all their constraints and indexes but ``without``.

    ``expressions`` are up and down of each. Returns the new physical columns by name.
    """
    change = draft.marked(table)
    before, made, gone = table.fact, {}, {}
    at = table.physical
    for name, (up, down) in expressions.items():
        fact = draft.column(table, name)
        if fact.generated:
            raise Invalid(f"{draft.place}.column", name, "a column that PostgreSQL does not generate")
        if table.view[name] in [one for one, _ in change.ups]:
            raise Invalid(
                f"{draft.place}.column",
                name,
                "changed once in a migration",
                hint="Put both into one operation, or in two migrations.",
            )
        draft.refuse_dependents(table, name)
        if fact.grants:
            draft.hazard("column-grants", f"rights on {name} alone do not pass to its successor", "Grant them again.")
        draft.expression(up, "up", change.facts)
        draft.expression(down, "down", change.facts)
        physical = draft.short(name)
        draft.add(table, physical, facts[name].type)
        gone[name], made[name] = table.view[name], physical
        change.ups.append((physical, up))
        change.downs.append((gone[name], down))
    table.view = {name: made.get(name, physical) for name, physical in table.view.items()}
    draft.replace_fact(table, columns=tuple(facts.get(one.name, one) for one in before.columns))
    for name, physical in made.items():
        _carry(draft, table, name, gone[name], physical, facts[name])
    for constraint in before.constraints:
        if constraint.name not in without and set(constraint.columns) & set(made):
            _copy_constraint(draft, table, constraint)
    for index in before.indexes:
        if index.constraint not in without and index.name not in without and set(index.columns) & set(made):
            _copy_index(draft, table, before, index)
    for name, physical in gone.items():
        draft.drops(table, physical)
        draft.renames(table, made[name], name)
    if without:
        draft.replace_fact(
            table,
            constraints=tuple(one for one in table.fact.constraints if one.name not in without),
            indexes=tuple(one for one in table.fact.indexes if one.constraint not in without),
        )
    del at
    return made


def _carry(draft: Draft, table: Draw, name: str, gone: str, physical: str, fact: ColumnFact) -> None:
    """Default, identity, sequence, comment and NOT NULL of a column's successor."""
    at = table.physical
    if fact.identity and fact.sequence is not None:
        if any((at, gone) in layer.identities for layer in draft.opened):
            raise Invalid(
                f"{draft.place}.column",
                name,
                "a column whose identity no open migration moves",
                hint="Contract the older migration first.",
            )
        table.defaults[name] = f"nextval({literal(str(fact.sequence))}::regclass)"
        draft.contract_first.append(to_identity(table, physical, fact.identity, str(fact.sequence)))
        draft.contract.append(name_sequence(table, physical, fact.sequence.name))
        draft.identities.append((at, physical))
    elif fact.default is not None:
        table.defaults[name] = fact.default
        draft.contract.append(alter(table, physical, f"SET DEFAULT {fact.default}"))
        if fact.sequence is not None:
            own = f"ALTER SEQUENCE {fact.sequence} OWNED BY {table_ref(at)}.{column_ref(at, physical)}"
            draft.contract_first.append(own)
    else:
        table.defaults.pop(name, None)
    if fact.sequence is not None and not fact.identity and fact.type in ("bigint", "int8"):
        draft.expand.append(f"ALTER SEQUENCE {fact.sequence} AS bigint")
    if fact.comment is not None:
        text = literal(fact.comment)
        draft.contract.append(f"COMMENT ON COLUMN {table_ref(at)}.{column_ref(at, physical)} IS {text}")
    if not fact.nullable:
        draft.require_not_null(table, name, physical)


OWNED: Final = (
    "(SELECT d.objid::regclass::text FROM pg_depend d JOIN pg_attribute a ON a.attrelid = d.refobjid "
    "AND a.attnum = d.refobjsubid WHERE d.classid = 'pg_class'::regclass AND d.deptype = 'i' "
    "AND d.refobjid = {table}::regclass AND a.attname = {column})"
)
"""The sequence of an identity column."""


def to_identity(table: Draw, physical: str, identity: str, sequence: str) -> str:
    """A column gets an identity that goes on where a sequence stands: one anonymous block."""
    at = table.physical
    words = "ALWAYS" if identity == "a" else "BY DEFAULT"
    ref, column = table_ref(at), column_ref(at, physical)
    owned = OWNED.format(table=f"'{ref}'", column=f"trim(both '\"' from '{column}')")
    return (
        f"DO $crossfade$ DECLARE l bigint; c boolean; BEGIN ALTER TABLE {ref} ALTER COLUMN {column} SET NOT NULL, "
        f"ALTER COLUMN {column} ADD GENERATED {words} AS IDENTITY; "
        f"SELECT last_value, is_called INTO l, c FROM {sequence}; PERFORM setval({owned}::regclass, l, c); END $crossfade$"
    )


def name_sequence(table: Draw, physical: str, name: str) -> str:
    """The sequence of an identity column gets the name of that before it, once that is gone."""
    at = table.physical
    owned = OWNED.format(table=f"'{table_ref(at)}'", column=f"trim(both '\"' from '{column_ref(at, physical)}')")
    return f"DO $crossfade$ BEGIN EXECUTE format('ALTER SEQUENCE %s RENAME TO %I', {owned}, {literal(name)}); END $crossfade$"


def _copy_constraint(draft: Draft, table: Draw, constraint: ConstraintFact) -> None:
    """A check or foreign key for the successors. Unique and primary ones follow their index."""
    if constraint.kind == "c":
        draft.require(table, f"check {constraint.name}", constraint.definition, constraint.name)
    elif constraint.kind == "f":
        linked(draft, table, constraint, tolerant=True, renames=True)
    elif constraint.kind == "x":
        raise Invalid(
            f"{draft.place}.column",
            constraint.columns[0],
            f"a column without an exclusion constraint ({constraint.name})",
        )


def _copy_index(draft: Draft, table: Draw, before: TableFact, index: IndexFact) -> None:
    """Built once the column is filled; it takes the old one's place at the contract."""
    at = table.physical
    copy = Name(at.schema, draft.short(index.name))
    build(draft, table, copy, index.unique, draft.physical(table, index.tail))
    constraint = before.constraint(index.constraint) if index.constraint else None
    if constraint is None:
        draft.contract.append(f"ALTER INDEX {copy} RENAME TO {quoted(index.name)}")
        return
    words = "PRIMARY KEY" if constraint.kind == "p" else "UNIQUE"
    for incoming in before.incoming:
        if set(incoming.constraint.foreign) == set(constraint.columns) and _still_there(draft, incoming):
            _copy_incoming(draft, table, incoming.table, incoming.constraint)
    if constraint.kind == "p":
        draft.contract_drop.insert(0, f"ALTER TABLE {table_ref(at)} DROP CONSTRAINT {quoted(constraint.name)}")
    draft.contract.append(
        f"ALTER TABLE {table_ref(at)} ADD CONSTRAINT {quoted(constraint.name)} {words} USING INDEX {quoted(copy.name)}"
    )


def _still_there(draft: Draft, incoming: Incoming) -> bool:
    """Whether an older migration of the chain has not taken the foreign key away."""
    others = [one.fact for one in draft.tables.values() if one.fact.name == incoming.table]
    return not others or any(fact.constraint(incoming.constraint.name) is not None for fact in others)


def _copy_incoming(draft: Draft, table: Draw, other: Name, constraint: ConstraintFact) -> None:
    """A foreign key of another table that points to a column with a successor: a second one points to that."""
    source = next((one for one in draft.tables.values() if one.fact.name == other), None)
    if source is None:
        raise Invalid(
            f"{draft.place}.column",
            constraint.foreign[0],
            f"a column that no table outside of {draft.catalogue.schema} refers to: {other} does",
        )
    at, copy = source.physical, draft.short(constraint.name)
    columns = ", ".join(column_ref(at, source.view[name]) for name in constraint.columns)
    foreign = ", ".join(column_ref(table.physical, table.view[name]) for name in constraint.foreign)
    ref = table_ref(at)
    add_ = (
        f"ALTER TABLE {ref} ADD CONSTRAINT {quoted(copy)} FOREIGN KEY ({columns}) REFERENCES "
        f"{table_ref(table.physical)} ({foreign}) {constraint.definition} NOT VALID"
    )
    draft.settle.append(
        Group(
            f"let {other.name} refer to it",
            How.TOGETHER,
            (f"ALTER TABLE {ref} DROP CONSTRAINT IF EXISTS {quoted(copy)}", add_),
        )
    )
    draft.settle.append(
        Group(f"validate {constraint.name}", How.ALONE, (f"ALTER TABLE {ref} VALIDATE CONSTRAINT {quoted(copy)}",))
    )
    draft.contract_first.append(f"ALTER TABLE {ref} DROP CONSTRAINT {quoted(constraint.name)}")
    draft.contract_first.append(f"ALTER TABLE {ref} RENAME CONSTRAINT {quoted(copy)} TO {quoted(constraint.name)}")
    draft.abort_first.append(f"ALTER TABLE {ref} DROP CONSTRAINT IF EXISTS {quoted(copy)}")


def alter(table: Draw, physical: str, action: str) -> str:
    """Changes one column."""
    at = table.physical
    return f"ALTER TABLE {table_ref(at)} ALTER COLUMN {column_ref(at, physical)} {action}"


def comment(draft: Draft, table: Draw, name: str, physical: str, text: str | None) -> None:
    """The view says it at once, the column from the contract on."""
    at = table.physical
    value = "NULL" if text is None else literal(text)
    if text is not None:
        table.comments[name] = text
    draft.contract.append(f"COMMENT ON COLUMN {table_ref(at)}.{column_ref(at, physical)} IS {value}")
