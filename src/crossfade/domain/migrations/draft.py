"""A migration's layer while its operations are planned, one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Final

from crossfade.domain.errors import Invalid
from crossfade.domain.migrations.catalogue import Catalogue, ColumnFact, TableFact
from crossfade.domain.migrations.layer import (
    Condition,
    Derived,
    Layer,
    Reshape,
    View,
    ViewColumn,
    column_ref,
    table_ref,
)
from crossfade.domain.migrations.plan import Group, Hazard, How, Name, quoted
from crossfade.domain.migrations.sql import names, reads_tables, renamed, tokens

LONGEST: Final = 63
"""Bytes of a name in PostgreSQL."""
NO_EQUALITY: Final = frozenset(
    ["json", "xml", "point", "line", "lseg", "box", "path", "polygon", "circle", "txid_snapshot"]
)
VOLATILE: Final = frozenset(
    [
        "random",
        "gen_random_uuid",
        "uuid_generate_v4",
        "uuid_generate_v1",
        "uuidv7",
        "uuidv4",
        "clock_timestamp",
        "statement_timestamp",
        "now",
        "current_timestamp",
        "localtimestamp",
        "timeofday",
        "nextval",
    ]
)


@dataclass
class Draw:
    """A table as it is while it is planned. ``view`` maps the names of its columns to physical ones, in order."""

    physical: Name
    fact: TableFact
    view: dict[str, str]
    defaults: dict[str, str] = field(default_factory=dict)
    comments: dict[str, str] = field(default_factory=dict)
    made_now: bool = False


@dataclass
class Change:
    """What becomes a `Reshape`. ``alias`` and ``old`` are the table's shape before the migration."""

    table: Name
    alias: str
    old: dict[str, str]
    facts: TableFact
    marker: str = ""
    ups: list[tuple[str, str]] = field(default_factory=list)
    downs: list[tuple[str, str]] = field(default_factory=list)
    conditions: list[Condition] = field(default_factory=list)
    compared: bool = True
    texts: set[str] = field(default_factory=set)


class Draft:
    """Collects what the operations of one migration do. ``place`` is where we are, for errors."""

    def __init__(
        self,
        catalogue: Catalogue,
        version: str,
        position: int,
        schema: str,
        before: Sequence[View],
        opened: Sequence[Layer],
    ) -> None:
        self.catalogue = catalogue
        self.version, self.position, self.schema = version, position, schema
        self.place = version
        self.before = tuple(before)
        self.opened = tuple(opened)
        self.tables: dict[str, Draw] = {
            one.name: Draw(
                one.table,
                one.fact,
                {c.name: c.physical for c in one.columns},
                {c.name: c.default for c in one.columns if c.default is not None},
                {c.name: c.comment for c in one.columns if c.comment is not None},
            )
            for one in before
        }
        self.changes: dict[Name, Change] = {}
        self.made: list[tuple[Name, str]] = []
        self.first: list[str] = []
        self.expand: list[str] = []
        self.settle: list[Group] = []
        self.ready_first: list[str] = []
        self.ready: list[Group] = []
        self.contract_first: list[str] = []
        self.contract_drop: list[str] = []
        self.contract: list[str] = []
        self.contract_last: list[str] = []
        self.contract_rename: list[str] = []
        self.after: list[Group] = []
        self.undo: list[Group] = []
        self.abort_first: list[str] = []
        self.abort: list[str] = []
        self.abort_last: list[str] = []
        self.moves: list[tuple[Name, str, str]] = []
        self.identities: list[tuple[Name, str]] = []
        self.hazards: list[Hazard] = []

    # --- finding

    def table(self, name: str) -> Draw:
        """Raises Invalid for a table that is not there."""
        found = self.tables.get(name)
        if found is None:
            raise Invalid(f"{self.place}.table", name, _known(self.tables, "no table of the schema"))
        return found

    def column(self, table: Draw, name: str, key: str = "column") -> ColumnFact:
        found = table.fact.column(name)
        if found is None or name not in table.view:
            raise Invalid(f"{self.place}.{key}", name, _known(table.view, f"no column of {table.fact.name.name}"))
        return found

    def reshapable(self, table: Draw) -> Draw:
        if table.made_now:
            raise Invalid(
                f"{self.place}.table",
                table.fact.name.name,
                "a table that was there before this migration",
                hint="Put it into create_table, or into a migration of its own.",
            )
        return table

    def hazard(self, code: str, sentence: str, hint: str = "", *, blocks: bool = False) -> None:
        self.hazards.append(Hazard(code, self.place, sentence, hint, blocks))

    # --- naming

    def short(self, name: str, kind: str = "") -> str:
        """A name of ours that fits: ``_cf3_price``."""
        return fitting(f"_cf{self.position}{kind}_{name}")

    def free_column(self, table: Draw, name: str) -> str:
        """The final name where nothing else has it or will get it, else one of ours."""
        actual = self.catalogue.table(table.physical)
        taken = {one.name for one in actual.columns} if actual is not None else set()
        taken |= {new for layer in self.opened for at, old, new in layer.moves if at == table.physical and old}
        taken |= {new for at, old, new in self.moves if at == table.physical and old}
        taken |= {made for at, made in self.made if at == table.physical}
        return self.short(name) if name in taken else name

    def free_table(self, name: str) -> Name:
        taken = set(self.catalogue.taken)
        taken |= {new for layer in self.opened for _, old, new in layer.moves if not old}
        taken |= {new for _, old, new in self.moves if not old}
        return Name(self.catalogue.schema, self.short(name) if name in taken else name)

    # --- reshaping

    def change(self, table: Draw) -> Change:
        """The reshape of a table in this migration, begun when there is none yet."""
        found = self.changes.get(table.physical)
        if found is None:
            before = next(one for one in self.before if one.table == table.physical)
            generated = {one.name for one in before.fact.columns if one.generated}
            old = {c.name: c.physical for c in before.columns if c.name not in generated}
            found = self.changes[table.physical] = Change(table.physical, before.name, old, before.fact)
            found.texts |= {c.physical for c in before.columns if _no_equality(before.fact.column(c.name))}
        return found

    def marked(self, table: Draw) -> Change:
        """The same, with a marker column."""
        change = self.change(table)
        if not change.marker:
            change.marker = self.short("marker")
            at = table.physical
            self.expand.append(
                f"ALTER TABLE {table_ref(at)} ADD COLUMN {column_ref(at, change.marker)} smallint NOT NULL DEFAULT 0"
            )
            self.made.append((at, change.marker))
            self.contract_last.append(f"ALTER TABLE {table_ref(at)} DROP COLUMN {column_ref(at, change.marker)}")
            self.abort.append(f"ALTER TABLE {table_ref(at)} DROP COLUMN IF EXISTS {column_ref(at, change.marker)}")
        return change

    def add(self, table: Draw, physical: str, type_: str, more: str = "") -> None:
        """A physical column of this migration."""
        at = table.physical
        self.expand.append(f"ALTER TABLE {table_ref(at)} ADD COLUMN {column_ref(at, physical)} {type_}{more}")
        self.made.append((at, physical))
        self.abort.append(f"ALTER TABLE {table_ref(at)} DROP COLUMN IF EXISTS {column_ref(at, physical)}")

    def expression(self, sql: str, key: str, fact: TableFact) -> str:
        """An ``up`` or ``down`` over a shape, checked as far as it can be without a database. Raises Invalid."""
        generated = [one.name for one in fact.columns if one.generated]
        found = sorted(names(sql, generated, fact.name.name))
        if found:
            allowed = f"an expression without {', '.join(found)}, which PostgreSQL generates only afterwards"
            raise Invalid(f"{self.place}.{key}", sql, allowed)
        if not sql.strip() or any(token.text == ";" for token in tokens(sql)):
            raise Invalid(f"{self.place}.{key}", sql, "one SQL expression")
        return sql

    def renames(self, table: Draw, physical: str, final: str) -> None:
        """The contract gives a column its name."""
        if physical != final:
            at = table.physical
            self.contract.append(
                f"ALTER TABLE {table_ref(at)} RENAME COLUMN {column_ref(at, physical)} TO {quoted(final)}"
            )
            self.moves.append((at, physical, final))

    def drops(self, table: Draw, physical: str) -> None:
        """The contract takes a column away."""
        at = table.physical
        self.contract_drop.append(f"ALTER TABLE {table_ref(at)} DROP COLUMN {column_ref(at, physical)}")

    def refuse_dependents(self, table: Draw, name: str) -> None:
        """What the user has built upon a column that will go. Raises Invalid."""
        dependents = sorted({who for who, column in table.fact.views if column == name})
        if dependents:
            raise Invalid(
                f"{self.place}.column",
                name,
                f"a column that no view or function depends on; on this one {', '.join(dependents)}",
                hint="Drop it, or make it anew without the column, before this migration.",
            )

    # --- conditions and constraints on new columns

    def physical(self, table: Draw, sql: str) -> str:
        """An expression over the table's names as one over its columns, for statements."""
        refs = {name: column_ref(table.physical, physical) for name, physical in table.view.items()}
        return renamed(sql, refs, table.fact.name.name)

    def require(self, table: Draw, title: str, sql: str, name: str = "") -> str:
        """A check over new columns: tolerant of rows that nobody could fill, strict by the time of the contract.

        ``sql`` is over the names of the new shape. The strict constraint becomes ``name``; without one it only serves to set
        NOT NULL without a scan. Its name until then is returned.
        """
        change = self.marked(table)
        at = table_ref(table.physical)
        physical = self.physical(table, sql)
        tolerant, strict = self.short(name or title, "t"), self.short(name or title, "s")
        marker = column_ref(table.physical, change.marker)
        self.expand.append(
            f"ALTER TABLE {at} ADD CONSTRAINT {quoted(tolerant)} CHECK ({marker} = 0 OR ({physical})) NOT VALID"
        )
        self.ready_first.append(f"ALTER TABLE {at} ADD CONSTRAINT {quoted(strict)} CHECK ({physical}) NOT VALID")
        validate = f"ALTER TABLE {at} VALIDATE CONSTRAINT {quoted(strict)}"
        self.ready.append(Group(f"validate that {title}", How.ALONE, (validate,)))
        self.contract.append(f"ALTER TABLE {at} DROP CONSTRAINT {quoted(tolerant)}")
        if name:
            self.contract.append(f"ALTER TABLE {at} RENAME CONSTRAINT {quoted(strict)} TO {quoted(name)}")
        change.conditions.append(Condition(title, sql))
        return strict

    def require_not_null(self, table: Draw, name: str, physical: str) -> None:
        """The column becomes NOT NULL at the contract, and until then for every row that is filled."""
        at = table_ref(table.physical)
        strict = self.require(table, f"{name} is not null", f"{quoted(name)} IS NOT NULL")
        self.contract.append(f"ALTER TABLE {at} ALTER COLUMN {column_ref(table.physical, physical)} SET NOT NULL")
        self.contract.append(f"ALTER TABLE {at} DROP CONSTRAINT {quoted(strict)}")

    # --- the end

    def views(self) -> tuple[View, ...]:
        return tuple(
            View(
                name,
                one.physical,
                tuple(ViewColumn(c, p, one.defaults.get(c), one.comments.get(c)) for c, p in one.view.items()),
                one.fact,
            )
            for name, one in self.tables.items()
        )

    def reshapes(self) -> Iterator[Reshape]:
        for change in self.changes.values():
            now = next((one for one in self.tables.values() if one.physical == change.table), None)
            if now is None or not (change.ups or change.downs):
                continue  # the table itself goes, or its columns need nobody's care
            generated = {one.name for one in now.fact.columns if one.generated}
            new = {name: physical for name, physical in now.view.items() if name not in generated}
            renamed = now.fact.name.name
            old = {
                **{name: physical for name, physical in new.items() if physical in change.old.values()},
                **change.old,
            }

            def derived(each: tuple[str, str], shape: Mapping[str, str], alias: str) -> Derived:
                found = names(each[1], tuple(shape), alias)
                return Derived(each[0], each[1], tuple(p for n, p in shape.items() if n in found))

            actual = self.catalogue.table(change.table)
            texts = change.texts | {
                now.view[c.name] for c in now.fact.columns if _no_equality(c) and c.name in now.view
            }
            yield Reshape(
                change.table,
                change.marker,
                change.alias,
                renamed,
                tuple(derived(one, old, change.alias) for one in change.ups),
                tuple(derived(one, new, renamed) for one in change.downs),
                tuple(old.items()),
                tuple(new.items()),
                tuple(change.conditions),
                change.compared and not any(_varies(sql) for _, sql in (*change.ups, *change.downs)),
                tuple(sorted(texts)),
                actual.key if actual is not None else (),
            )

    def replace_fact(self, table: Draw, **more: object) -> None:
        table.fact = replace(table.fact, **more)  # type: ignore[arg-type]  # fields by name, of one dataclass


def fitting(name: str) -> str:
    """At most 63 bytes, still told apart by a digest."""
    if len(name.encode()) <= LONGEST:
        return name
    digest = sha256(name.encode()).hexdigest()[:8]
    return name.encode()[: LONGEST - 9].decode("utf-8", "ignore") + "_" + digest


def _known(names_: Mapping[str, object], nothing: str) -> str:
    some = sorted(names_)
    if not some:
        return nothing
    return "one of " + ", ".join(some[:20]) + (f" and {len(some) - 20} more" if len(some) > 20 else "")


def _no_equality(column: ColumnFact | None) -> bool:
    return column is not None and column.type.removesuffix("[]").split("(")[0].strip() in NO_EQUALITY


def _varies(sql: str) -> bool:
    """Whether an expression need not be the same twice."""
    lowered = sql.lower()
    return reads_tables(sql) or any(word in lowered for word in VOLATILE)
