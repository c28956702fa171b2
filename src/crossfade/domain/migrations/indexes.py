"""Operations on indexes and constraints of tables, and the replica identity."""

from __future__ import annotations

from dataclasses import replace

from crossfade.domain.errors import Invalid
from crossfade.domain.migrations.catalogue import ConstraintFact, IndexFact
from crossfade.domain.migrations.constraints import build, check, foreign_key, unique
from crossfade.domain.migrations.draft import Draft, Draw, fitting
from crossfade.domain.migrations.layer import column_ref, table_ref
from crossfade.domain.migrations.operations import (
    Check,
    CreateConstraint,
    CreateIndex,
    DropConstraint,
    DropIndex,
    IndexColumn,
    RenameConstraint,
    SetReplicaIdentity,
)
from crossfade.domain.migrations.plan import Group, How, Name, quoted
from crossfade.domain.migrations.successors import duplicate

METHODS = frozenset(("", "btree", "hash", "gist", "spgist", "gin", "brin", "hnsw", "ivfflat", "bloom"))


def create_index(draft: Draft, op: CreateIndex) -> None:
    """Built beside all writers; on a partitioned table for each partition, then attached."""
    table = draft.table(op.table)
    if op.name in draft.catalogue.taken or any(one.name == op.name for one in table.fact.indexes):
        raise Invalid(f"{draft.place}.name", op.name, "a name that no relation of the schema has")
    if op.method.lower() not in METHODS:
        raise Invalid(f"{draft.place}.method", op.method, "one of " + ", ".join(sorted(METHODS - {""})))
    if not op.columns:
        raise Invalid(f"{draft.place}.columns", [], "one column or more")
    columns = ", ".join(_index_column(draft, table, one) for one in op.columns)
    where = f" WHERE {draft.physical(table, op.predicate)}" if op.predicate else ""
    storage = f" WITH ({op.storage})" if op.storage else ""
    tail = f"{op.method or 'btree'} ({columns}){storage}{where}"
    at = table.physical
    actual = draft.catalogue.table(at)
    words = "UNIQUE INDEX" if op.unique else "INDEX"
    if table.made_now:
        draft.expand.append(f"CREATE {words} {quoted(op.name)} ON {table_ref(at)} USING {tail}")
    elif actual is not None and actual.kind == "p":
        _partitioned(draft, table, op, words, tail)
    else:
        index = Name(at.schema, op.name)
        build(draft, table, index, op.unique, tail)
        draft.undo.append(Group(f"drop {op.name}", How.ALONE, (f"DROP INDEX CONCURRENTLY IF EXISTS {index}",)))
    if op.unique and not table.made_now:
        draft.hazard("unique-old-writers", f"writes of older releases that break {op.name} fail as soon as it is built")
    names = tuple(one.name for one in op.columns)
    fact = IndexFact(
        op.name,
        f"{op.method or 'btree'} ({', '.join(map(quoted, names))})",
        names,
        op.unique,
        partial=bool(op.predicate),
    )
    draft.replace_fact(table, indexes=(*table.fact.indexes, fact))


def _index_column(draft: Draft, table: Draw, one: IndexColumn) -> str:
    draft.column(table, one.name, "columns")
    words = [column_ref(table.physical, table.view[one.name])]
    if one.collate:
        words.append(f"COLLATE {quoted(one.collate)}")
    words += [word for word in (one.opclass, one.sort, f"NULLS {one.nulls}" if one.nulls else "") if word]
    return " ".join(words)


def _partitioned(draft: Draft, table: Draw, op: CreateIndex, words: str, tail: str) -> None:
    at = table.physical
    parent = Name(at.schema, op.name)
    draft.expand.append(f"CREATE {words} {quoted(op.name)} ON ONLY {table_ref(at)} USING {tail}")
    for part in table.fact.partitions:
        child = Name(part.schema, fitting(f"{op.name}_{part.name}"))
        # Columns of a partition have the names of its parent's.
        create = f"CREATE {words} CONCURRENTLY {quoted(child.name)} ON {part} USING {tail}"
        draft.settle.append(Group(f"build {child.name}", How.INDEX, (create,), child))
        draft.settle.append(
            Group(f"attach {child.name}", How.TOGETHER, (f"ALTER INDEX {parent} ATTACH PARTITION {child}",))
        )
    draft.abort_first.append(f"DROP INDEX IF EXISTS {parent}")
    for part in table.fact.partitions:
        draft.abort_first.append(f"DROP INDEX IF EXISTS {Name(part.schema, fitting(f'{op.name}_{part.name}'))}")


def drop_index(draft: Draft, op: DropIndex) -> None:
    """The contract drops it, for older releases may need it to be fast."""
    for table in draft.tables.values():
        found = next((one for one in table.fact.indexes if one.name == op.name), None)
        if found is None:
            continue
        if found.constraint:
            raise Invalid(
                f"{draft.place}.name",
                op.name,
                "an index without a constraint",
                hint="drop_constraint takes this one away.",
            )
        index = Name(table.physical.schema, op.name)
        draft.after.append(Group(f"drop {op.name}", How.ALONE, (f"DROP INDEX CONCURRENTLY IF EXISTS {index}",)))
        draft.replace_fact(table, indexes=tuple(one for one in table.fact.indexes if one.name != op.name))
        return
    raise Invalid(f"{draft.place}.name", op.name, "an index of the schema")


def create_constraint(draft: Draft, op: CreateConstraint) -> None:
    """With ``up`` its columns get successors, so that no write of an older release can break it; without, it holds for all."""
    table = draft.reshapable(draft.table(op.table))
    made = op.constraint
    if any(one.name == made.name for one in table.fact.constraints):
        raise Invalid(f"{draft.place}.name", made.name, f"a name that no constraint of {op.table} has")
    for name in made.columns:
        draft.column(table, name, "columns")
    ups, downs = dict(op.up), dict(op.down)
    for key, given in (("up", ups), ("down", downs)):
        strange = sorted(set(given) - set(made.columns))
        if strange:
            raise Invalid(f"{draft.place}.{key}", strange[0], "one of " + ", ".join(made.columns))
    if ups:
        facts = {name: draft.column(table, name) for name in made.columns}
        expressions = {name: (ups.get(name, quoted(name)), downs.get(name, quoted(name))) for name in made.columns}
        duplicate(draft, table, expressions, facts)
    filled = bool(ups)
    match made.kind:
        case "check":
            check(draft, table, Check(made.name, made.check, made.no_inherit), filled)
            if not filled:
                draft.hazard(
                    "check-old-writers",
                    f"writes of older releases that break {made.name} fail at once",
                    "Give `up` and `down`.",
                )
        case "unique":
            unique(draft, table, made.name, made.columns, filled, made.nulls_not_distinct)
        case "foreign_key":
            assert made.references is not None  # the format asks for it
            foreign_key(draft, table, made.name, made.columns, made.references, filled)
            if not filled:
                draft.hazard(
                    "fk-old-writers",
                    f"writes of older releases that break {made.name} fail at once",
                    "Give `up` and `down`.",
                )
        case "primary_key":
            _primary_key(draft, table, made.name, made.columns)
        case _:
            raise Invalid(f"{draft.place}.type", made.kind, "check, unique, foreign_key or primary_key")


def _primary_key(draft: Draft, table: Draw, name: str, columns: tuple[str, ...]) -> None:
    if any(one.kind == "p" for one in table.fact.constraints):
        raise Invalid(f"{draft.place}.table", table.fact.name.name, "a table without a primary key")
    nullable = [one for one in columns if draft.column(table, one).nullable]
    if nullable:
        raise Invalid(
            f"{draft.place}.columns",
            nullable[0],
            "columns that are not nullable",
            hint="alter_column makes it so, in a migration before.",
        )
    at = table.physical
    index = Name(at.schema, draft.short(name))
    build(draft, table, index, True, "btree (" + ", ".join(column_ref(at, table.view[one]) for one in columns) + ")")
    add = f"ALTER TABLE {table_ref(at)} ADD CONSTRAINT {quoted(name)} PRIMARY KEY USING INDEX {quoted(index.name)}"
    draft.contract.append(add)
    draft.undo.append(Group(f"drop {index.name}", How.ALONE, (f"DROP INDEX CONCURRENTLY IF EXISTS {index}",)))
    fact = ConstraintFact(name, "p", columns, "", index=name)
    draft.replace_fact(table, constraints=(*table.fact.constraints, fact))


def drop_constraint(draft: Draft, op: DropConstraint) -> None:
    """Its columns get successors without it; older releases keep theirs, with values that fulfil it by ``down``."""
    table = draft.reshapable(draft.table(op.table))
    found = table.fact.constraint(op.name)
    if found is None:
        known = ", ".join(sorted(one.name for one in table.fact.constraints)) or f"{op.table} has none"
        raise Invalid(f"{draft.place}.name", op.name, known)
    if found.kind == "p":
        raise Invalid(f"{draft.place}.name", op.name, "a constraint that is not the primary key")
    if op.columns == 1 and len(found.columns) != 1:
        raise Invalid(
            f"{draft.place}.name",
            op.name,
            "a constraint of one column",
            hint="drop_multicolumn_constraint takes those of several away.",
        )
    if any(set(one.constraint.foreign) == set(found.columns) for one in table.fact.incoming) and found.kind == "u":
        raise Invalid(f"{draft.place}.name", op.name, "a constraint that no foreign key relies on")

    def given(expressions: tuple[tuple[str, str], ...], name: str) -> str:
        known = dict(expressions)
        return known.get(name) or known.get("") or quoted(name)

    if not op.down:
        draft.hazard(
            "down-missing", f"writes of newer releases that break {op.name} fail until the contract", "Give `down`."
        )
    facts = {name: draft.column(table, name) for name in found.columns}
    expressions = {name: (given(op.up, name), given(op.down, name)) for name in found.columns}
    duplicate(draft, table, expressions, facts, without=(op.name,))


def rename_constraint(draft: Draft, op: RenameConstraint) -> None:
    """Nobody sees it: the contract does it."""
    table = draft.table(op.table)
    found = table.fact.constraint(op.old)
    if found is None:
        raise Invalid(f"{draft.place}.from", op.old, f"a constraint of {op.table}")
    if table.fact.constraint(op.new) is not None:
        raise Invalid(f"{draft.place}.to", op.new, f"a name that no constraint of {op.table} has")
    draft.contract.append(
        f"ALTER TABLE {table_ref(table.physical)} RENAME CONSTRAINT {quoted(op.old)} TO {quoted(op.new)}"
    )
    kept = tuple(replace(one, name=op.new) if one.name == op.old else one for one in table.fact.constraints)
    indexes = tuple(
        replace(one, name=op.new, constraint=op.new) if one.constraint == op.old else one for one in table.fact.indexes
    )
    draft.replace_fact(table, constraints=kept, indexes=indexes)


def set_replica_identity(draft: Draft, op: SetReplicaIdentity) -> None:
    """At once: it concerns who follows the table's changes, not its shape."""
    table = draft.table(op.table)
    kind = op.kind.lower()
    if kind not in ("full", "default", "nothing", "index"):
        raise Invalid(f"{draft.place}.identity.type", op.kind, "full, default, nothing or index")
    words = kind.upper()
    if kind == "index":
        found = next((one for one in table.fact.indexes if one.name == op.index), None)
        if found is None or not found.unique or found.partial:
            raise Invalid(f"{draft.place}.identity.index", op.index, f"a unique index of {op.table} over all rows")
        words = f"USING INDEX {quoted(op.index)}"
    ref = table_ref(table.physical)
    draft.expand.append(f"ALTER TABLE {ref} REPLICA IDENTITY {words}")
    draft.abort_first.append(f"ALTER TABLE {ref} REPLICA IDENTITY {table.fact.replica_identity}")
