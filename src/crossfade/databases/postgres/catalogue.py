"""Reads what a schema holds into the domain's plain data."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Final

from psycopg import Connection
from psycopg.rows import dict_row

from crossfade.domain.errors import NotFound
from crossfade.domain.migrations.catalogue import (
    Catalogue,
    ColumnFact,
    ConstraintFact,
    EnumFact,
    Incoming,
    IndexFact,
    TableFact,
)
from crossfade.domain.migrations.plan import Name, quoted
from crossfade.domain.migrations.sql import parenthesised

TABLES: Final = """
SELECT c.oid::bigint AS oid, c.relname AS name, c.relkind::text AS kind, c.relreplident::text AS identity,
       greatest(c.reltuples, 0)::bigint AS rows,
       (SELECT i.relname FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid
         WHERE x.indrelid = c.oid AND x.indisreplident) AS identity_index,
       (SELECT ARRAY[n.nspname, p.relname]::text[] FROM pg_inherits h JOIN pg_class p ON p.oid = h.inhparent
          JOIN pg_namespace n ON n.oid = p.relnamespace WHERE h.inhrelid = c.oid AND c.relispartition) AS parent
  FROM pg_class c WHERE c.relnamespace = %(schema)s::regnamespace AND c.relkind IN ('r', 'p') ORDER BY c.relname
"""
COLUMNS: Final = """
SELECT a.attrelid::bigint AS oid, a.attname AS name, format_type(a.atttypid, a.atttypmod) AS type,
       NOT a.attnotnull AS nullable, pg_get_expr(d.adbin, d.adrelid) AS expression, a.attidentity::text AS identity,
       a.attgenerated::text AS generated, col_description(a.attrelid, a.attnum) AS comment,
       a.attacl IS NOT NULL AS grants,
       (SELECT ARRAY[n.nspname, s.relname]::text[] FROM pg_depend x JOIN pg_class s ON s.oid = x.objid AND s.relkind = 'S'
          JOIN pg_namespace n ON n.oid = s.relnamespace
         WHERE x.classid = 'pg_class'::regclass AND x.refclassid = 'pg_class'::regclass AND x.refobjid = a.attrelid
           AND x.refobjsubid = a.attnum AND x.deptype IN ('a', 'i') LIMIT 1) AS sequence,
       (SELECT ARRAY[n.nspname, t.typname]::text[] FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
         WHERE t.oid = a.atttypid AND t.typtype = 'e') AS enum
  FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
 WHERE a.attrelid = ANY(%(tables)s) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attrelid, a.attnum
"""
CONSTRAINTS: Final = """
SELECT c.conrelid::bigint AS oid, c.confrelid::bigint AS target, c.conname AS name, c.contype::text AS kind, c.convalidated AS validated,
       ARRAY(SELECT a.attname::text FROM unnest(c.conkey) WITH ORDINALITY k(n, i)
               JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.n ORDER BY k.i) AS columns,
       ARRAY(SELECT a.attname::text FROM unnest(c.confkey) WITH ORDINALITY k(n, i)
               JOIN pg_attribute a ON a.attrelid = c.confrelid AND a.attnum = k.n ORDER BY k.i) AS foreign,
       pg_get_constraintdef(c.oid) AS definition, pg_get_expr(c.conbin, c.conrelid) AS expression,
       (SELECT i.relname FROM pg_class i WHERE i.oid = c.conindid) AS index,
       ARRAY[n.nspname, r.relname]::text[] AS source,
       (SELECT ARRAY[m.nspname, f.relname]::text[] FROM pg_class f JOIN pg_namespace m ON m.oid = f.relnamespace
         WHERE f.oid = c.confrelid) AS foreign_table
  FROM pg_constraint c JOIN pg_class r ON r.oid = c.conrelid JOIN pg_namespace n ON n.oid = r.relnamespace
 WHERE (c.conrelid = ANY(%(tables)s) OR c.confrelid = ANY(%(tables)s)) AND c.contype IN ('c', 'f', 'u', 'p', 'x')
   AND c.conparentid = 0 ORDER BY c.conname
"""
INDEXES: Final = """
SELECT x.indrelid::bigint AS oid, i.relname AS name, x.indisunique AS is_unique, x.indisvalid AS valid,
       x.indpred IS NOT NULL AS partial, pg_get_indexdef(i.oid) AS definition,
       (SELECT c.conname FROM pg_constraint c WHERE c.conindid = i.oid AND c.contype IN ('u', 'p', 'x') LIMIT 1) AS constraint,
       ARRAY(SELECT a.attname::text FROM unnest(x.indkey::smallint[]) WITH ORDINALITY k(n, o)
               JOIN pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = k.n ORDER BY k.o) AS plain,
       ARRAY(SELECT DISTINCT a.attname::text FROM pg_depend d JOIN pg_attribute a
                 ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
              WHERE d.classid = 'pg_class'::regclass AND d.objid = i.oid AND d.refclassid = 'pg_class'::regclass
                AND d.refobjid = x.indrelid AND d.refobjsubid > 0) AS depends
  FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid WHERE x.indrelid = ANY(%(tables)s) ORDER BY i.relname
"""
DEPENDENTS: Final = """
SELECT d.refobjid::bigint AS oid, a.attname AS column,
       CASE WHEN r.oid IS NOT NULL THEN 'view ' || v.oid::regclass::text
            ELSE pg_describe_object(d.classid, d.objid, d.objsubid) END AS who
  FROM pg_depend d JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
  LEFT JOIN pg_rewrite r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid
  LEFT JOIN pg_class v ON v.oid = r.ev_class
 WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = ANY(%(tables)s) AND d.refobjsubid > 0
   AND d.classid IN ('pg_rewrite'::regclass, 'pg_policy'::regclass, 'pg_proc'::regclass, 'pg_statistic_ext'::regclass,
                     'pg_trigger'::regclass, 'pg_publication_rel'::regclass)
   AND (v.oid IS NULL OR v.relnamespace <> ALL(SELECT oid FROM pg_namespace WHERE nspname = ANY(%(ours)s)))
UNION
SELECT d.refobjid::bigint, a.attname, 'generated column ' || g.attname
  FROM pg_depend d JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
  JOIN pg_attribute g ON g.attrelid = d.objid AND g.attnum = d.objsubid AND g.attgenerated <> ''
 WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = ANY(%(tables)s)
   AND d.objid = d.refobjid AND d.refobjsubid > 0
UNION
SELECT d.refobjid::bigint, a.attname, 'generated column ' || g.attname
  FROM pg_depend d JOIN pg_attrdef f ON d.classid = 'pg_attrdef'::regclass AND f.oid = d.objid
  JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
  JOIN pg_attribute g ON g.attrelid = f.adrelid AND g.attnum = f.adnum AND g.attgenerated <> ''
 WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = ANY(%(tables)s) AND d.refobjsubid > 0
   AND d.refobjsubid <> f.adnum
"""
TRIGGERS: Final = (
    "SELECT tgrelid::bigint AS oid, tgname AS name FROM pg_trigger WHERE tgrelid = ANY(%(tables)s) AND NOT tgisinternal"
)
PARTITIONS: Final = """
SELECT h.inhparent::bigint AS oid, n.nspname AS schema, c.relname AS name FROM pg_inherits h JOIN pg_class c ON c.oid = h.inhrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace WHERE h.inhparent = ANY(%(tables)s) AND c.relispartition ORDER BY c.relname
"""
GRANTS: Final = """
SELECT c.oid::bigint AS oid, CASE WHEN x.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(x.grantee)) END AS grantee,
       x.privilege_type AS privilege
  FROM pg_class c, aclexplode(c.relacl) x WHERE c.oid = ANY(%(tables)s) ORDER BY 1, 2, 3
"""
ENUMS: Final = """
SELECT t.typname AS name, array_agg(e.enumlabel::text ORDER BY e.enumsortorder) AS labels
  FROM pg_type t JOIN pg_enum e ON e.enumtypid = t.oid WHERE t.typnamespace = %(schema)s::regnamespace GROUP BY t.typname ORDER BY 1
"""
IDENTITIES: Final = {"d": "DEFAULT", "f": "FULL", "n": "NOTHING"}


def read(connection: Connection[Any], schema: str, ours: Sequence[str] = ()) -> Catalogue:
    """All of a schema. ``ours`` are the version schemas, whose views do not count as somebody's. Raises NotFound.

    Works within the caller's transaction when there is one, and leaves its search path alone.
    """
    with connection.transaction(), connection.cursor(row_factory=dict_row) as cursor:
        known = cursor.execute("SELECT current_setting('search_path') AS path").fetchone()
        cursor.execute("SELECT set_config('search_path', '', true)")
        try:
            return _read(cursor, schema, ours)
        finally:
            if (
                known is not None
                and not connection.broken
                and cursor.connection.info.transaction_status.name == "INTRANS"
            ):
                cursor.execute("SELECT set_config('search_path', %s, true)", (known["path"],))


def _read(cursor: Any, schema: str, ours: Sequence[str]) -> Catalogue:
    schemas = [row["nspname"] for row in cursor.execute("SELECT nspname FROM pg_namespace").fetchall()]
    if schema not in schemas:
        raise NotFound(f"There is no schema {schema} in the database.", hint="Create it, or name another one.")
    given: dict[str, Any] = {"schema": quoted(schema), "ours": list(ours), "tables": []}

    def grouped(query: str) -> Mapping[int, list[dict[str, Any]]]:
        found: dict[int, list[dict[str, Any]]] = defaultdict(list)
        for row in cursor.execute(query, given).fetchall():
            found[row["oid"]].append(row)
        return found

    rows = cursor.execute(TABLES, given).fetchall()
    given["tables"] = [row["oid"] for row in rows]
    columns, constraints, indexes = grouped(COLUMNS), cursor.execute(CONSTRAINTS, given).fetchall(), grouped(INDEXES)
    dependents, triggers, partitions, grants = (
        grouped(DEPENDENTS),
        grouped(TRIGGERS),
        grouped(PARTITIONS),
        grouped(GRANTS),
    )
    tables = []
    for row in rows:
        oid = row["oid"]
        identity = IDENTITIES.get(row["identity"]) or f"USING INDEX {quoted(row['identity_index'] or '')}"
        tables.append(
            TableFact(
                Name(schema, row["name"]),
                row["kind"],
                tuple(_column(one) for one in columns[oid]),
                tuple(_constraint(one) for one in constraints if one["oid"] == oid),
                tuple(_index(one) for one in indexes[oid]),
                tuple(
                    Incoming(Name(*one["source"]), _constraint(one))
                    for one in constraints
                    if one["target"] == oid and one["kind"] == "f"
                ),
                tuple((one["who"], one["column"]) for one in dependents[oid]),
                tuple(one["name"] for one in triggers[oid]),
                Name(*row["parent"]) if row["parent"] else None,
                tuple(Name(one["schema"], one["name"]) for one in partitions[oid]),
                identity,
                row["rows"],
                tuple((one["grantee"], one["privilege"]) for one in grants[oid]),
            )
        )
    enums = tuple(
        EnumFact(Name(schema, one["name"]), tuple(one["labels"])) for one in cursor.execute(ENUMS, given).fetchall()
    )
    taken = cursor.execute(
        "SELECT relname FROM pg_class WHERE relnamespace = %(schema)s::regnamespace", given
    ).fetchall()
    return Catalogue(
        schema,
        cursor.connection.info.server_version,
        tuple(tables),
        enums,
        frozenset(one["relname"] for one in taken),
        frozenset(schemas),
    )


def _column(row: dict[str, Any]) -> ColumnFact:
    generated = row["expression"] if row["generated"] else ""
    return ColumnFact(
        row["name"],
        row["type"],
        row["nullable"],
        None if row["generated"] else row["expression"],
        row["identity"],
        Name(*row["sequence"]) if row["sequence"] else None,
        generated or "",
        row["comment"],
        row["grants"],
        Name(*row["enum"]) if row["enum"] else None,
    )


def _constraint(row: dict[str, Any]) -> ConstraintFact:
    definition: str = row["definition"]
    if row["kind"] == "c":
        definition = row["expression"]
    elif row["kind"] == "f":
        rest = definition.split(" REFERENCES ", 1)[1]
        definition = rest[parenthesised(rest)[1] + 1 :].removesuffix("NOT VALID").strip()
    else:
        definition = ""
    return ConstraintFact(
        row["name"],
        row["kind"],
        tuple(row["columns"]),
        definition,
        row["validated"],
        row["index"] or "",
        Name(*row["foreign_table"]) if row["kind"] == "f" else None,
        tuple(row["foreign"]),
    )


def _index(row: dict[str, Any]) -> IndexFact:
    tail = row["definition"].split(" USING ", 1)[1]
    columns = tuple(dict.fromkeys([*row["plain"], *row["depends"]]))
    return IndexFact(
        row["name"], tail, columns, row["is_unique"], row["valid"], row["constraint"] or "", row["partial"]
    )
