"""How replicas of a version come to its schema: a role of its own, whose search path survives every pooler.

Where the migrations' user may not make roles, the search path goes into the URL's options instead.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

from psycopg import Connection, errors, sql

from crossfade.databases.postgres.connection import user_of, with_user
from crossfade.domain.migrations.draft import fitting
from crossfade.domain.migrations.plan import quoted


def role_name(user: str, schema: str) -> str:
    """``shop_public_02``."""
    return fitting(f"{user}_{schema}")


def derived(password: str, role: str) -> str:
    """The role's password, from that of the user it stands for: nothing has to be kept."""
    return hmac.new(password.encode(), f"crossfade:{role}".encode(), hashlib.sha256).hexdigest()


def search_path(connection: Connection[Any], user: str, schema: str, base: str) -> str:
    """The version's schema first, then what the user had."""
    row = connection.execute(
        "SELECT c FROM pg_db_role_setting s JOIN pg_roles r ON r.oid = s.setrole, unnest(s.setconfig) c"
        " WHERE r.rolname = %s AND c LIKE 'search_path=%%' ORDER BY s.setdatabase DESC LIMIT 1",
        (user,),
    ).fetchone()
    rest = row[0].split("=", 1)[1] if row else quoted(base)
    return f"{quoted(schema)}, {rest}"


def ensure(connection: Connection[Any], url: str, schema: str, base: str) -> str:
    """Make the role of a version, or bring it up to date; its URL. Without the right to: the URL with options."""
    user, password = user_of(url)
    user = user or connection.info.user
    role, path = role_name(user, schema), search_path(connection, user, schema, base)
    secret = derived(password, role) if password else None
    name = sql.Identifier(role)
    try:
        with connection.transaction():
            known = connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (role,)).fetchone()
            if known is None:
                connection.execute(sql.SQL("CREATE ROLE {} LOGIN INHERIT").format(name))
                connection.execute(sql.SQL("GRANT {} TO {}").format(sql.Identifier(user), name))
            if secret is not None:
                connection.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(name, sql.Literal(secret)))
            database = sql.Identifier(connection.info.dbname)
            connection.execute(
                sql.SQL(
                    "ALTER ROLE {} IN DATABASE {} SET search_path = " + path.replace("{", "{{").replace("}", "}}")
                ).format(name, database)
            )
    except (errors.InsufficientPrivilege, errors.InvalidGrantOperation):
        return with_options(url, path, schema)
    return with_user(url, role, secret)


def with_options(url: str, path: str, schema: str) -> str:
    """The search path as a setting of the connection, and a name by which its sessions are known."""
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    escaped = path.replace("\\", "\\\\").replace(" ", "\\ ")
    query["options"] = f"{query.get('options', '')} -csearch_path={escaped}".strip()
    query.setdefault("application_name", schema)
    return urlunsplit(parts._replace(query=urlencode(query, quote_via=quote)))


def sessions(connection: Connection[Any], url: str, schema: str) -> int:
    """How many sessions of a version's replicas there are."""
    user, _ = user_of(url)
    row = connection.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND (usename = %s OR application_name = %s)",
        (role_name(user or connection.info.user, schema), schema),
    ).fetchone()
    return int(row[0]) if row else 0


def drop(connection: Connection[Any], url: str, schema: str) -> str:
    """Take the role of a version away that nobody needs any more; what stands in the way, or nothing. Never raises for that."""
    user, _ = user_of(url)
    role = role_name(user or connection.info.user, schema)
    if connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (role,)).fetchone() is None:
        return ""
    name, owner = sql.Identifier(role), sql.Identifier(user or connection.info.user)
    try:
        with connection.transaction():
            connection.execute(sql.SQL("REASSIGN OWNED BY {} TO {}").format(name, owner))
            connection.execute(sql.SQL("DROP OWNED BY {}").format(name))
            connection.execute(sql.SQL("DROP ROLE {}").format(name))
    except (errors.InsufficientPrivilege, errors.DependentObjectsStillExist) as error:
        return f"the role {role} stays: {error.diag.message_primary}"
    return ""
