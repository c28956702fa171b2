"""A schema's tables made anew elsewhere, without rows: enough to see what statements lock and rewrite."""

from __future__ import annotations

from collections.abc import Iterator

from crossfade.domain.migrations.catalogue import Catalogue, ColumnFact, TableFact
from crossfade.domain.migrations.plan import literal, quoted


def copied(catalogue: Catalogue) -> Iterator[str]:
    """Statements for an empty database, in order. What needs an extension fails there, and is left out by who runs them."""
    yield f"CREATE SCHEMA IF NOT EXISTS {quoted(catalogue.schema)}"
    for enum in catalogue.enums:
        yield f"CREATE TYPE {enum.name} AS ENUM ({', '.join(map(literal, enum.values))})"
    whole = [one for one in catalogue.tables if one.partition_of is None and one.kind == "r"]
    for table in whole:
        for column in table.columns:
            if column.sequence is not None and not column.identity:
                yield f"CREATE SEQUENCE IF NOT EXISTS {column.sequence}"
        yield f"CREATE TABLE {table.name} ({', '.join(_column(one) for one in table.columns)})"
        for column in table.columns:
            if column.sequence is not None and not column.identity:
                yield f"ALTER SEQUENCE {column.sequence} OWNED BY {table.name}.{quoted(column.name)}"
    for table in whole:
        yield from _indexes(table)
        for constraint in table.constraints:
            if constraint.kind == "c":
                yield f"ALTER TABLE {table.name} ADD CONSTRAINT {quoted(constraint.name)} CHECK ({constraint.definition})"
    for table in whole:
        for constraint in table.constraints:
            if constraint.kind == "f" and constraint.table is not None:
                columns, foreign = (", ".join(map(quoted, names)) for names in (constraint.columns, constraint.foreign))
                yield (
                    f"ALTER TABLE {table.name} ADD CONSTRAINT {quoted(constraint.name)} FOREIGN KEY ({columns})"
                    f" REFERENCES {constraint.table} ({foreign}) {constraint.definition}"
                )


def _indexes(table: TableFact) -> Iterator[str]:
    for index in table.indexes:
        words = "UNIQUE INDEX" if index.unique else "INDEX"
        yield f"CREATE {words} {quoted(index.name)} ON {table.name} USING {index.tail}"
        constraint = table.constraint(index.constraint) if index.constraint else None
        if constraint is not None and constraint.kind in "up":
            kind = "PRIMARY KEY" if constraint.kind == "p" else "UNIQUE"
            yield f"ALTER TABLE {table.name} ADD CONSTRAINT {quoted(constraint.name)} {kind} USING INDEX {quoted(index.name)}"


def _column(one: ColumnFact) -> str:
    words = [quoted(one.name), one.type]
    if one.generated:
        words.append(f"GENERATED ALWAYS AS ({one.generated}) STORED")
    elif one.identity:
        words.append(f"GENERATED {'ALWAYS' if one.identity == 'a' else 'BY DEFAULT'} AS IDENTITY")
    elif one.default is not None:
        words.append(f"DEFAULT {one.default}")
    if not one.nullable:
        words.append("NOT NULL")
    return " ".join(words)
