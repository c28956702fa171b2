"""Operations on tables, enum types and partitions, and plain SQL."""

from __future__ import annotations

from dataclasses import replace

from crossfade.domain.errors import Invalid
from crossfade.domain.migrations.catalogue import ColumnFact, ConstraintFact, EnumFact, IndexFact, TableFact
from crossfade.domain.migrations.columns import typed
from crossfade.domain.migrations.draft import Draft, Draw
from crossfade.domain.migrations.layer import column_ref, table_ref
from crossfade.domain.migrations.operations import (
    AddEnumValues,
    AttachPartition,
    Column,
    Constraint,
    CreateTable,
    DetachPartition,
    DropTable,
    RenameTable,
    ReplaceEnum,
    Sql,
)
from crossfade.domain.migrations.plan import Group, How, Name, literal, quoted
from crossfade.domain.migrations.sql import tokens
from crossfade.domain.migrations.successors import duplicate

SERIALS = frozenset(("serial", "bigserial", "smallserial", "serial2", "serial4", "serial8"))


def create_table(draft: Draft, op: CreateTable) -> None:
    """Nobody knows it yet, so it is made as it shall be."""
    if op.name in draft.tables:
        raise Invalid(f"{draft.place}.name", op.name, "a name that no table of the schema has")
    if not op.columns:
        raise Invalid(f"{draft.place}.columns", [], "one column or more")
    at = draft.free_table(op.name)
    facts: list[ColumnFact] = []
    lines: list[str] = []
    constraints: list[ConstraintFact] = []
    keys = [one.name for one in op.columns if one.pk]
    for one in op.columns:
        if one.name in [fact.name for fact in facts]:
            raise Invalid(f"{draft.place}.columns", one.name, "each name once")
        lines.append(_column_line(draft, one))
        nullable = one.nullable and not one.pk
        serial = one.type.lower() in SERIALS
        facts.append(ColumnFact(one.name, one.type, nullable, "serial" if serial else one.default, comment=one.comment))
        if one.check is not None:
            lines.append(f"CONSTRAINT {quoted(one.check.name)} CHECK ({one.check.constraint})")
            constraints.append(ConstraintFact(one.check.name, "c", (one.name,), one.check.constraint))
        if one.references is not None:
            made = Constraint(
                one.references.name or f"{op.name}_{one.name}_fkey",
                "foreign_key",
                (one.name,),
                references=one.references,
            )
            line, fact = _constraint_line(draft, op, at, made)
            lines.append(line)
            constraints.append(fact)
        if one.unique:
            name = f"{op.name}_{one.name}_key"
            lines.append(f"CONSTRAINT {quoted(name)} UNIQUE ({quoted(one.name)})")
            constraints.append(ConstraintFact(name, "u", (one.name,), "", index=name))
    if keys:
        name = f"{op.name}_pkey"
        lines.append(f"CONSTRAINT {quoted(name)} PRIMARY KEY ({', '.join(map(quoted, keys))})")
        constraints.append(ConstraintFact(name, "p", tuple(keys), "", index=name))
    for each in op.constraints:
        line, fact = _constraint_line(draft, op, at, each)
        lines.append(line)
        constraints.append(fact)
    draft.expand.append(f"CREATE TABLE {table_ref(at)} (" + ", ".join(lines) + ")")
    for text, subject in [(op.comment, f"TABLE {table_ref(at)}")] + [
        (one.comment, f"COLUMN {table_ref(at)}.{quoted(one.name)}") for one in op.columns
    ]:
        if text is not None:
            draft.expand.append(f"COMMENT ON {subject} IS {literal(text)}")
    draft.abort.append(f"DROP TABLE IF EXISTS {table_ref(at)}")
    if at.name != op.name:
        _renames_table(draft, at, op.name)
    indexes = tuple(
        IndexFact(
            one.name,
            "btree (" + ", ".join(map(quoted, one.columns)) + ")",
            one.columns,
            unique=True,
            constraint=one.name,
        )
        for one in constraints
        if one.kind in "up"
    )
    fact_ = TableFact(Name(draft.catalogue.schema, op.name), "r", tuple(facts), tuple(constraints), indexes)
    draft.tables[op.name] = Draw(at, fact_, {one.name: one.name for one in facts}, made_now=True)


def _column_line(draft: Draft, one: Column) -> str:
    words = [quoted(one.name), typed(draft, one.type)]
    if not one.nullable and not one.pk:
        words.append("NOT NULL")
    if one.default is not None:
        words.append(f"DEFAULT {one.default}")
    if one.generated:
        words.append(f"GENERATED ALWAYS AS ({one.generated}) STORED")
    if one.identity is not None:
        options = f" ({one.identity.options})" if one.identity.options else ""
        words.append(f"GENERATED {'ALWAYS' if one.identity.always else 'BY DEFAULT'} AS IDENTITY{options}")
    return " ".join(words)


def _constraint_line(draft: Draft, op: CreateTable, at: Name, one: Constraint) -> tuple[str, ConstraintFact]:
    columns = ", ".join(map(quoted, one.columns))
    more = (" DEFERRABLE" if one.deferrable or one.initially_deferred else "") + (
        " INITIALLY DEFERRED" if one.initially_deferred else ""
    )
    include = f" INCLUDE ({', '.join(map(quoted, one.include))})" if one.include else ""
    storage = f" WITH ({one.storage})" if one.storage else ""
    head = f"CONSTRAINT {quoted(one.name)} "
    match one.kind:
        case "unique":
            nulls = " NULLS NOT DISTINCT" if one.nulls_not_distinct else ""
            line = f"UNIQUE{nulls} ({columns}){include}{storage}{more}"
            return head + line, ConstraintFact(one.name, "u", one.columns, "", index=one.name)
        case "primary_key":
            return (
                head + f"PRIMARY KEY ({columns}){include}{storage}{more}",
                ConstraintFact(one.name, "p", one.columns, "", index=one.name),
            )
        case "check":
            no = " NO INHERIT" if one.no_inherit else ""
            return head + f"CHECK ({one.check}){no}", ConstraintFact(one.name, "c", one.columns, one.check)
        case "exclude":
            return head + f"EXCLUDE {one.exclude}{more}", ConstraintFact(one.name, "x", one.columns, one.exclude)
    assert one.references is not None  # the only kind that is left
    to = one.references
    if to.table == op.name:
        target, foreign = table_ref(at), ", ".join(map(quoted, to.columns))
        wanted = Name(draft.catalogue.schema, op.name)
    else:
        other = draft.table(to.table)
        named = to.columns or tuple(name for name, _ in other.fact.key)
        for name in named:
            draft.column(other, name, "references.columns")
        foreign = ", ".join(column_ref(other.physical, other.view[name]) for name in named)
        target, wanted = table_ref(other.physical), other.fact.name
    rules = "".join(
        f" {word} {value}"
        for word, value in (("MATCH", to.match), ("ON UPDATE", to.on_update), ("ON DELETE", to.on_delete))
        if value
    )
    if to.on_delete_columns:
        rules += " (" + ", ".join(map(quoted, to.on_delete_columns)) + ")"
    more = more or (" DEFERRABLE" if to.deferrable or to.initially_deferred else "")
    more += " INITIALLY DEFERRED" if to.initially_deferred and "INITIALLY" not in more else ""
    of = f" ({foreign})" if foreign else ""
    return (
        head + f"FOREIGN KEY ({columns}) REFERENCES {target}{of}{rules}{more}",
        ConstraintFact(one.name, "f", one.columns, (rules + more).strip(), table=wanted, foreign=to.columns),
    )


def rename_table(draft: Draft, op: RenameTable) -> None:
    """Views show the new name at once."""
    table = draft.table(op.old)
    if op.new in draft.tables or op.new.startswith("_cf"):
        raise Invalid(f"{draft.place}.to", op.new, "a name that no table of the schema has")
    draft.tables = {(op.new if name == op.old else name): one for name, one in draft.tables.items()}
    draft.replace_fact(table, name=Name(table.fact.name.schema, op.new))
    _renames_table(draft, table.physical, op.new)


def _renames_table(draft: Draft, at: Name, new: str) -> None:
    if at.name != new:
        draft.contract_rename.append(f"ALTER TABLE {table_ref(at)} RENAME TO {quoted(new)}")
        draft.moves.append((at, "", new))


def drop_table(draft: Draft, op: DropTable) -> None:
    """The new shape does not have it; the contract drops it."""
    table = draft.reshapable(draft.table(op.name))
    others = [
        one.table.name for one in table.fact.incoming if one.table != table.fact.name and one.table.name in draft.tables
    ]
    others = [
        name
        for name in others
        if any(c.kind == "f" and c.table == table.fact.name for c in draft.tables[name].fact.constraints)
    ]
    if others:
        raise Invalid(
            f"{draft.place}.name", op.name, f"a table that no foreign key points to; {', '.join(sorted(others))} does"
        )
    dependents = sorted({who for who, _ in table.fact.views})
    if dependents:
        raise Invalid(f"{draft.place}.name", op.name, f"a table that no view depends on; {', '.join(dependents)} does")
    if table.physical in draft.changes:
        raise Invalid(f"{draft.place}.name", op.name, "a table that no other operation of the migration changes")
    del draft.tables[op.name]
    draft.contract_drop.append(f"DROP TABLE {table_ref(table.physical)}")
    draft.hazard("drops-data", f"the contract drops {op.name} with its data")


def sql(draft: Draft, op: Sql) -> None:
    """The user's own, in the phase that they say."""
    alone = any(token.name == "concurrently" for token in tokens(op.up))
    if op.on_complete:
        draft.after.append(Group("run the user's SQL", How.ALONE if alone else How.TOGETHER, (op.up,)))
        return
    if alone:
        draft.settle.append(Group("run the user's SQL", How.ALONE, (op.up,)))
    else:
        draft.first.append(op.up)
    if op.down:
        draft.abort_first.append(op.down)
    draft.hazard(
        "plain-sql", "nobody knows what this SQL does to older releases", "Say it by operations, or have it linted."
    )


def add_enum_values(draft: Draft, op: AddEnumValues) -> None:
    """Values are added at once: there is no way back, and older releases may read them."""
    enum = _enum(draft, op.type)
    known = set(enum.values)
    for value, where, other in op.values:
        if value in known:
            raise Invalid(f"{draft.place}.values", value, f"a value that {op.type} does not have")
        if where and other not in known:
            raise Invalid(f"{draft.place}.values.{where}", other, "one of " + ", ".join(sorted(known)))
        place = f" {where.upper()} {literal(other)}" if where else ""
        draft.first.append(f"ALTER TYPE {enum.name} ADD VALUE IF NOT EXISTS {literal(value)}{place}")
        known.add(value)
    draft.hazard(
        "enum-stays",
        f"values of {op.type} cannot be taken back, and older releases read those that newer ones write",
        "replace_enum maps values for older releases.",
    )


def replace_enum(draft: Draft, op: ReplaceEnum) -> None:
    """A second type, and a successor for every column of the first."""
    enum = _enum(draft, op.type)
    if len(set(op.values)) != len(op.values) or not op.values:
        raise Invalid(f"{draft.place}.values", list(op.values), "each value once")
    for mapping, sources, targets, key in (
        (op.up, enum.values, op.values, "up"),
        (op.down, op.values, enum.values, "down"),
    ):
        mapped = dict(mapping)
        for value in sources:
            if mapped.get(value, value) not in targets:
                raise Invalid(f"{draft.place}.{key}", value, f"a mapping of {value} to one of {', '.join(targets)}")
    made = Name(enum.name.schema, draft.short(enum.name.name))
    draft.first.append(f"CREATE TYPE {made} AS ENUM ({', '.join(map(literal, op.values))})")
    found = False
    for table in draft.tables.values():
        facts = {one.name: one for one in table.fact.columns if one.enum == enum.name and one.name in table.view}
        if not facts:
            continue
        found = True
        draft.reshapable(table)
        expressions = {
            name: (_mapped(name, op.up, str(made)), _mapped(name, op.down, str(enum.name))) for name in facts
        }
        new = {
            name: replace(fact, type=str(made), default=_recast(fact.default, dict(op.up), str(made)), enum=made)
            for name, fact in facts.items()
        }
        duplicate(draft, table, expressions, new)
    if not found:
        raise Invalid(f"{draft.place}.type", op.type, "a type that a column of the schema has")
    draft.contract_rename.append(f"DROP TYPE {enum.name}")
    draft.contract_rename.append(f"ALTER TYPE {made} RENAME TO {quoted(enum.name.name)}")
    draft.abort_last.append(f"DROP TYPE IF EXISTS {made}")
    draft.hazard(
        "enum-cast", f"until the contract a cast to {op.type} means the old type; plain texts are understood by both"
    )


def _enum(draft: Draft, name: str) -> EnumFact:
    found = next((one for one in draft.catalogue.enums if one.name.name == name), None)
    if found is None:
        known = ", ".join(sorted(one.name.name for one in draft.catalogue.enums)) or "none: the schema has no enum type"
        raise Invalid(f"{draft.place}.type", name, known)
    return found


def _mapped(column: str, mapping: tuple[tuple[str, str], ...], type_: str) -> str:
    cases = " ".join(f"WHEN {literal(old)} THEN {literal(new)}" for old, new in mapping)
    text = f"{quoted(column)}::text"
    return f"(CASE {text} {cases} ELSE {text} END)::{type_}" if cases else f"{text}::{type_}"


def _recast(default: str | None, mapping: dict[str, str], type_: str) -> str | None:
    if default is None:
        return None
    value = default.split("::")[0].strip()
    if value.startswith("'") and value.endswith("'"):
        plain = value[1:-1].replace("''", "'")
        return f"{literal(mapping.get(plain, plain))}::{type_}"
    return f"({default})::text::{type_}"


def attach_partition(draft: Draft, op: AttachPartition) -> None:
    """With a check that says the same as the bounds, nothing is read under the lock."""
    table, part = draft.table(op.table), draft.table(op.partition)
    parent = draft.catalogue.table(table.physical)
    if parent is None or parent.kind != "p":
        raise Invalid(f"{draft.place}.table", op.table, "a partitioned table")
    if part.fact.partition_of is not None:
        raise Invalid(f"{draft.place}.partition", op.partition, "a table that is no partition yet")
    rows = part.fact.rows
    if not op.check and rows:
        raise Invalid(
            f"{draft.place}.check",
            None,
            f"a condition that says the same as {op.bounds}: else {op.partition} (about {rows} rows) is read under a lock",
        )
    ref, child = table_ref(table.physical), table_ref(part.physical)
    if op.check:
        name = quoted(draft.short(f"{op.partition}_bounds"))
        drop = f"ALTER TABLE {child} DROP CONSTRAINT IF EXISTS {name}"
        draft.settle.append(
            Group(
                "state the bounds",
                How.TOGETHER,
                (drop, f"ALTER TABLE {child} ADD CONSTRAINT {name} CHECK ({op.check}) NOT VALID"),
            )
        )
        draft.settle.append(
            Group("validate the bounds", How.ALONE, (f"ALTER TABLE {child} VALIDATE CONSTRAINT {name}",))
        )
        draft.contract.append(drop)
        draft.abort_first.append(drop)
    missing = [
        one.name
        for one in parent.indexes
        if not any(have.columns == one.columns and have.unique >= one.unique for have in part.fact.indexes)
    ]
    if missing and rows:
        draft.hazard(
            "builds-index",
            f"attaching builds {', '.join(missing)} on {op.partition} under its lock",
            "Create them first.",
        )
    draft.settle.append(Group("attach", How.TOGETHER, (f"ALTER TABLE {ref} ATTACH PARTITION {child} {op.bounds}",)))
    detach = f"ALTER TABLE {ref} DETACH PARTITION {child} CONCURRENTLY"
    draft.undo.append(Group("detach", How.ALONE, (detach,)))


def detach_partition(draft: Draft, op: DetachPartition) -> None:
    """The contract detaches it; until then both see it."""
    table, part = draft.table(op.table), draft.table(op.partition)
    if part.fact.partition_of != table.fact.name:
        raise Invalid(f"{draft.place}.partition", op.partition, f"a partition of {op.table}")
    detach = f"ALTER TABLE {table_ref(table.physical)} DETACH PARTITION {table_ref(part.physical)} CONCURRENTLY"
    draft.after.append(Group(f"detach {op.partition}", How.ALONE, (detach,)))
    draft.hazard("detaches-at-contract", f"rows of {op.partition} are seen in {op.table} until the contract")
