"""From a migration and what a database holds to its layer; and what expand, contract and abort of a layer are as SQL."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

from crossfade.domain.errors import Invalid
from crossfade.domain.migrations import columns, indexes, sync, tables
from crossfade.domain.migrations import operations as ops
from crossfade.domain.migrations.catalogue import Catalogue, TableFact
from crossfade.domain.migrations.draft import Draft
from crossfade.domain.migrations.layer import Layer, Moves, View, ViewColumn, moved, rendered, rendered_group
from crossfade.domain.migrations.operations import Migration, Operation
from crossfade.domain.migrations.plan import Fill, Group, Hazard, How, Name, Plan, literal, quoted

INVOKER: Final = 150000
"""The server version from which views can ask for the rights of who uses them."""
HOW: Final[dict[type, Callable[[Draft, Any], None]]] = {
    ops.CreateTable: tables.create_table,
    ops.RenameTable: tables.rename_table,
    ops.DropTable: tables.drop_table,
    ops.AddColumn: columns.add_column,
    ops.DropColumn: columns.drop_column,
    ops.RenameColumn: columns.rename_column,
    ops.AlterColumn: columns.alter_column,
    ops.SplitColumn: columns.split_column,
    ops.MergeColumns: columns.merge_columns,
    ops.CreateIndex: indexes.create_index,
    ops.DropIndex: indexes.drop_index,
    ops.CreateConstraint: indexes.create_constraint,
    ops.DropConstraint: indexes.drop_constraint,
    ops.RenameConstraint: indexes.rename_constraint,
    ops.SetReplicaIdentity: indexes.set_replica_identity,
    ops.Sql: tables.sql,
    ops.AddEnumValues: tables.add_enum_values,
    ops.ReplaceEnum: tables.replace_enum,
    ops.AttachPartition: tables.attach_partition,
    ops.DetachPartition: tables.detach_partition,
}


def operation_name(operation: Operation) -> str:
    """As the file calls it: ``add_column``."""
    name = type(operation).__name__
    return "".join(f"_{c.lower()}" if c.isupper() and i else c.lower() for i, c in enumerate(name))


def version_schema(schema: str, version: str) -> str:
    """Where a version's views are. Raises Invalid when the name would be too long."""
    name = f"{schema}_{version}"
    if len(name.encode()) > 63:
        raise Invalid("version", version, f"at most {62 - len(schema.encode())} bytes beside the schema {schema}")
    return name


def shape(catalogue: Catalogue, opened: Sequence[Layer]) -> tuple[View, ...]:
    """What the newest version sees: the newest layer's views, with what has been made beside the migrations since."""
    known = {
        (view.table, c.physical) for layer in opened for view in (*layer.before, *layer.views) for c in view.columns
    }
    known |= {one for layer in opened for one in layer.made}
    tables_known = {view.table for layer in opened for view in (*layer.before, *layer.views)}
    views: list[View] = []
    for view in opened[-1].views if opened else ():
        fact = catalogue.table(view.table)
        if fact is None:
            continue
        have = {one.name for one in fact.columns}
        more = [one for one in fact.columns if (view.table, one.name) not in known and view.column(one.name) is None]
        kept = tuple(c for c in view.columns if c.physical in have)
        names = {c.name for c in kept}
        columns_ = (*(c for c in view.fact.columns if c.name in names), *more)
        logical = _logical(view, fact, opened)
        views.append(
            replace(
                view,
                columns=(*kept, *(ViewColumn(c.name, c.name) for c in more)),
                fact=replace(logical, columns=columns_),
            )
        )
    views += [
        View(fact.name.name, fact.name, tuple(ViewColumn(c.name, c.name) for c in fact.columns), fact)
        for fact in catalogue.tables
        if fact.name not in tables_known
    ]
    return tuple(views)


def _logical(view: View, fact: TableFact, opened: Sequence[Layer]) -> TableFact:
    """A version's fact, with what only the database knows now: rights, views of the user's, rows, constraints made beside us."""
    names = {c.physical: c.name for c in view.columns}
    known = {one.name for layer in opened for v in (*layer.before, *layer.views) for one in v.fact.constraints}
    known |= {one.name for layer in opened for v in (*layer.before, *layer.views) for one in v.fact.indexes}
    foreign = [one for one in fact.indexes if one.name not in known and not one.name.startswith("_cf")]
    beside = tuple(
        replace(one, columns=tuple(names.get(c, c) for c in one.columns)) for one in foreign if not one.constraint
    )
    return replace(
        view.fact,
        grants=fact.grants,
        rows=fact.rows,
        triggers=fact.triggers,
        views=tuple((who, names.get(column, column)) for who, column in fact.views),
        indexes=(*view.fact.indexes, *beside),
    )


def layer(migration: Migration, catalogue: Catalogue, opened: Sequence[Layer], position: int) -> tuple[Layer, Draft]:
    """Plan a migration on top of those that are open, oldest first. Raises Invalid for what cannot be done, with its place."""
    schema = version_schema(catalogue.schema, migration.version)
    if schema in catalogue.schemas:
        raise Invalid("version", migration.version, f"a version whose schema {schema} is not there yet")
    before = shape(catalogue, opened)
    draft = Draft(catalogue, migration.version, position, schema, before, opened)
    for i, operation in enumerate(migration.operations):
        draft.place = f"{migration.source}: operations[{i}].{operation_name(operation)}"
        HOW[type(operation)](draft, operation)
    draft.place = migration.source
    made = Layer(
        migration.version,
        position,
        schema,
        before,
        draft.views(),
        tuple(draft.reshapes()),
        tuple(draft.made),
        tuple(
            ([Group("prepare the contract", How.TOGETHER, tuple(draft.ready_first))] if draft.ready_first else [])
            + draft.ready
        ),
        (*draft.contract_first, *draft.contract_drop, *draft.contract, *draft.contract_last, *draft.contract_rename),
        tuple(draft.after),
        tuple(draft.undo),
        (*draft.abort_first, *draft.abort, *draft.abort_last),
        tuple(draft.moves),
        tuple(draft.identities),
    )
    return made, draft


def expand(made: Layer, draft: Draft, opened: Sequence[Layer]) -> Plan:
    """The plan of a layer that is new: expand, fills and settle. ``opened`` are the layers below it."""
    every = (*opened, made)
    changed = {one.table for one in made.reshapes} | {table for table, _ in made.made}
    locked = changed | {view.table for view in made.views if view.table not in {b.table for b in made.before}}
    calm = [view for view in made.views if view.table not in locked]
    moving = [view for view in made.views if view.table in locked]
    have = set(sync.reshaped(opened))
    statements = [
        f"CREATE SCHEMA {quoted(made.schema)}",
        f"GRANT USAGE ON SCHEMA {quoted(made.schema)} TO PUBLIC",
        f"COMMENT ON SCHEMA {quoted(made.schema)} IS {literal(f'crossfade: version {made.version}')}",
        *(line for view in calm for line in view_lines(made.schema, view, draft.catalogue)),
        *draft.first,
        *draft.expand,
        *(sync.function(table, every) for table in sync.reshaped(every)),
        *(sync.trigger(table) for table in sync.reshaped([made]) if table not in have),
        *(line for view in moving for line in view_lines(made.schema, view, draft.catalogue)),
    ]
    group = Group("make the new shape beside the old one", How.TOGETHER, tuple(rendered(one) for one in statements))
    return Plan(
        made.version,
        (group,),
        fills(made),
        tuple(rendered_group(one) for one in draft.settle),
        contract(made, (), "", ()),
        abort(made, opened),
        (*draft.hazards, *_hazards(made, draft)),
    )


def fills(made: Layer) -> tuple[Fill, ...]:
    """What has to be backfilled, and verified."""
    return tuple(sync.fill(one) for one in made.reshapes if one.marker)


def _hazards(made: Layer, draft: Draft) -> list[Hazard]:
    found = []
    for one in made.reshapes:
        fact = draft.catalogue.table(one.table)
        if fact is None:
            continue
        if one.marker and not one.key:
            found.append(
                Hazard(
                    "no-key",
                    made.version,
                    f"{fact.name.name} has no key: its rows are walked block by block",
                    "A primary key is better.",
                )
            )
        if not one.compared:
            found.append(
                Hazard(
                    "not-compared",
                    made.version,
                    f"up or down of {fact.name.name} is not the same twice, so values are not compared",
                )
            )
    return found


def view_lines(schema: str, view: View, catalogue: Catalogue) -> list[str]:
    """Makes a version's view of a table."""
    name = str(Name(schema, view.name))
    option = " WITH (security_invoker = true)" if catalogue.server >= INVOKER else ""
    listed = ", ".join(f"{quoted(c.physical)} AS {quoted(c.name)}" for c in view.columns)
    lines = [f"CREATE VIEW {name}{option} AS SELECT {listed} FROM {view.table}"]
    for c in view.columns:
        if c.default is not None:
            lines.append(f"ALTER VIEW {name} ALTER COLUMN {quoted(c.name)} SET DEFAULT {c.default}")
        if c.comment is not None:
            lines.append(f"COMMENT ON COLUMN {name}.{quoted(c.name)} IS {literal(c.comment)}")
    for grantee, privilege in view.fact.grants:
        if privilege in ("SELECT", "INSERT", "UPDATE", "DELETE", "REFERENCES", "TRIGGER", "TRUNCATE"):
            lines.append(f"GRANT {privilege} ON {name} TO {grantee}")
    return lines


def drop_views(schema: str, views: Sequence[View]) -> list[str]:
    """Takes a version's schema away. What somebody else has put there, or built upon it, stops it."""
    lines = [f"DROP VIEW IF EXISTS {Name(schema, view.name)}" for view in views]
    return [*lines, f"DROP SCHEMA IF EXISTS {quoted(schema)}"]


def contract(oldest: Layer, newer: Sequence[Layer], old_schema: str, old_views: Sequence[View]) -> tuple[Group, ...]:
    """Take away what only the shape before the oldest open layer needs. ``newer`` are the layers above, as they are now.

    ``old_schema`` is that of the version before, empty when there is none.
    """
    after = [moved(one, Moves.of(oldest)) for one in newer]
    touched = dict.fromkeys([*sync.reshaped([oldest]), *sync.reshaped(newer)])
    statements = [
        *(drop_views(old_schema, old_views) if old_schema else []),
        *(sync.drop(table) for table in touched),
        *_identities(oldest, newer),
        *oldest.contract,
        *(line for table in sync.reshaped(after) for line in (sync.function(table, after), sync.trigger(table))),
    ]
    core = Group("take the old shape away", How.TOGETHER, tuple(rendered(one) for one in statements))
    ready = tuple(rendered_group(one) for one in oldest.ready)
    moves = Moves.of(oldest)
    return (*ready, core, *(rendered_group(moves.group(one)) for one in oldest.after))


def _identities(oldest: Layer, newer: Sequence[Layer]) -> list[str]:
    """Views let go of a sequence that the contract drops."""
    return [
        f"ALTER VIEW {Name(one.schema, view.name)} ALTER COLUMN {quoted(c.name)} DROP DEFAULT"
        for one in (oldest, *newer)
        for view in one.views
        for c in view.columns
        if (view.table, c.physical) in oldest.identities
    ]


def contracted(oldest: Layer, newer: Sequence[Layer]) -> list[Layer]:
    """The layers that stay open, with the names that the contract of the oldest has left."""
    moves = Moves.of(oldest)
    return [moved(one, moves) for one in newer]


def abort(newest: Layer, below: Sequence[Layer]) -> tuple[Group, ...]:
    """Take away what only the newest layer needs. ``below`` are the layers that stay."""
    staying = set(sync.reshaped(below))
    statements = [
        *drop_views(newest.schema, newest.views),
        *(sync.drop(table) for table in sync.reshaped([newest]) if table not in staying),
        *(sync.function(table, below) for table in sync.reshaped(below)),
        *newest.abort,
    ]
    core = Group("take the new shape away", How.TOGETHER, tuple(rendered(one) for one in statements))
    return (*(rendered_group(one) for one in newest.undo), core)
