"""Constraints and indexes of columns: made so that no writer waits, and none of an older release fails where rows are filled."""

from __future__ import annotations

from crossfade.domain.errors import Invalid
from crossfade.domain.migrations.catalogue import ConstraintFact, Incoming, IndexFact
from crossfade.domain.migrations.draft import Draft, Draw
from crossfade.domain.migrations.layer import Condition, column_ref, table_ref
from crossfade.domain.migrations.operations import Check, References
from crossfade.domain.migrations.plan import Group, How, Name, quoted
from crossfade.domain.migrations.sql import names


def check(draft: Draft, table: Draw, op: Check, filled: bool) -> None:
    """On columns that are filled it is tolerant until the contract; else it holds at once for every writer."""
    if filled:
        draft.require(table, f"check {op.name}", op.constraint, op.name)
    else:
        at, sql = table_ref(table.physical), draft.physical(table, op.constraint)
        more = " NO INHERIT" if op.no_inherit else ""
        draft.expand.append(f"ALTER TABLE {at} ADD CONSTRAINT {quoted(op.name)} CHECK ({sql}){more} NOT VALID")
        validate = f"ALTER TABLE {at} VALIDATE CONSTRAINT {quoted(op.name)}"
        draft.settle.append(Group(f"validate {op.name}", How.ALONE, (validate,)))
        draft.abort_first.append(f"ALTER TABLE {at} DROP CONSTRAINT IF EXISTS {quoted(op.name)}")
    columns = tuple(sorted(names(op.constraint, tuple(table.view), table.fact.name.name)))
    fact = ConstraintFact(op.name, "c", columns, op.constraint)
    draft.replace_fact(table, constraints=(*table.fact.constraints, fact))


def references(draft: Draft, table: Draw, column: str, op: References, filled: bool) -> None:
    """A foreign key of one column."""
    foreign_key(draft, table, op.name or f"{table.physical.name}_{column}_fkey", (column,), op, filled)


def foreign_key(draft: Draft, table: Draw, name: str, columns: tuple[str, ...], op: References, filled: bool) -> None:
    """NOT VALID first, validated once the rows are filled."""
    target = draft.table(op.table)
    foreign = op.columns or tuple(n for n, _ in target.fact.key)
    for one in foreign:
        draft.column(target, one, "references.column")
    words = [f"MATCH {op.match}" if op.match else ""]
    words.append(f"ON UPDATE {op.on_update}" if op.on_update else "")
    words.append(f"ON DELETE {op.on_delete}" if op.on_delete else "")
    if op.on_delete_columns:
        words.append("(" + ", ".join(quoted(table.view.get(one, one)) for one in op.on_delete_columns) + ")")
    words.append("DEFERRABLE" if op.deferrable or op.initially_deferred else "")
    words.append("INITIALLY DEFERRED" if op.initially_deferred else "")
    fact = ConstraintFact(
        name, "f", columns, " ".join(filter(None, words)), table=target.fact.name, foreign=tuple(foreign)
    )
    linked(draft, table, fact, tolerant=filled, renames=filled)
    draft.replace_fact(table, constraints=(*table.fact.constraints, fact))
    draft.replace_fact(target, incoming=(*target.fact.incoming, Incoming(table.fact.name, fact)))


def linked(draft: Draft, table: Draw, fact: ConstraintFact, *, tolerant: bool, renames: bool) -> None:
    """Adds a foreign key NOT VALID, and has it validated; ``tolerant`` of rows that nobody could fill."""
    assert fact.table is not None  # a foreign key points somewhere
    wanted = fact.table
    target = next((one for one in draft.tables.values() if one.fact.name == wanted), None)
    name = draft.short(fact.name) if renames else fact.name
    at = table_ref(table.physical)
    columns = ", ".join(column_ref(table.physical, table.view[one]) for one in fact.columns)
    if target is not None:
        to = table_ref(target.physical)
        foreign = ", ".join(column_ref(target.physical, target.view[one]) for one in fact.foreign)
    else:
        to, foreign = str(wanted), ", ".join(quoted(one) for one in fact.foreign)
    actual = draft.catalogue.table(table.physical)
    if actual is not None and actual.kind == "p":
        raise Invalid(
            f"{draft.place}.table",
            table.physical.name,
            "a table that is not partitioned: a foreign key is checked there under its lock",
        )
    draft.expand.append(
        f"ALTER TABLE {at} ADD CONSTRAINT {quoted(name)} FOREIGN KEY ({columns}) REFERENCES {to} ({foreign}) {fact.definition} NOT VALID"
    )
    validate = f"ALTER TABLE {at} VALIDATE CONSTRAINT {quoted(name)}"
    draft.settle.append(Group(f"validate {fact.name}", How.ALONE, (validate,)))
    draft.abort_first.append(f"ALTER TABLE {at} DROP CONSTRAINT IF EXISTS {quoted(name)}")
    if renames:
        draft.contract.append(f"ALTER TABLE {at} RENAME CONSTRAINT {quoted(name)} TO {quoted(fact.name)}")
    if tolerant:
        other = quoted("_crossfade_other")
        pairs = zip(fact.columns, fact.foreign, strict=True)
        place = target.physical if target is not None else wanted
        names_ = dict(target.view) if target is not None else {}
        match = " AND ".join(
            f"{other}.{quoted(names_.get(f, f))} = {quoted(table.fact.name.name)}.{quoted(c)}" for c, f in pairs
        )
        nulls = " OR ".join(f"{quoted(c)} IS NULL" for c in fact.columns)
        draft.marked(table).conditions.append(
            Condition(
                f"{', '.join(fact.columns)} is in {wanted.name}",
                f"{nulls} OR EXISTS (SELECT 1 FROM {place} AS {other} WHERE {match})",
                tuple(table.view[one] for one in fact.columns),
                lookup=True,
            )
        )


def unique(draft: Draft, table: Draw, name: str, columns: tuple[str, ...], filled: bool, nulls: bool = False) -> None:
    """An index built beside all writers, which the contract makes a constraint where the column is new."""
    at = table.physical
    index = Name(at.schema, draft.short(name) if filled else name)
    refs = ", ".join(column_ref(at, table.view[one]) for one in columns)
    build(draft, table, index, True, f"btree ({refs})" + (" NULLS NOT DISTINCT" if nulls else ""))
    add_ = f"ALTER TABLE {table_ref(at)} ADD CONSTRAINT {quoted(name)} UNIQUE USING INDEX {quoted(index.name)}"
    if filled:
        draft.contract.append(add_)
    else:
        again = f"ALTER TABLE {table_ref(at)} DROP CONSTRAINT IF EXISTS {quoted(name)}"
        draft.settle.append(Group(f"make {name} a constraint", How.TOGETHER, (add_,)))
        draft.abort_first.append(again)
        draft.abort_first.append(f"DROP INDEX IF EXISTS {index}")
    draft.hazard("unique-old-writers", f"writes of older releases that break {name} fail as soon as it is built")
    fact = ConstraintFact(name, "u", columns, "", index=name)
    tail = "btree (" + ", ".join(quoted(one) for one in columns) + ")" + (" NULLS NOT DISTINCT" if nulls else "")
    draft.replace_fact(
        table,
        constraints=(*table.fact.constraints, fact),
        indexes=(*table.fact.indexes, IndexFact(name, tail, columns, unique=True, constraint=name)),
    )


def build(draft: Draft, table: Draw, index: Name, is_unique: bool, tail: str) -> None:
    """Has an index built beside all writers."""
    at = table.physical
    actual = draft.catalogue.table(at)
    if actual is not None and actual.kind == "p":
        raise Invalid(
            f"{draft.place}.table",
            at.name,
            "a table that is not partitioned",
            hint="Make the index with create_index, which knows partitions.",
        )
    words = "UNIQUE INDEX" if is_unique else "INDEX"
    create = f"CREATE {words} CONCURRENTLY {quoted(index.name)} ON {table_ref(at)} USING {tail}"
    draft.settle.append(Group(f"build {index.name}", How.INDEX, (create,), index))
