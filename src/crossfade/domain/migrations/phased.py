"""Migrations written as SQL: run as they are, phase by phase. What `contract` drops is not shown by the new version's views."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

from crossfade.domain.migrations import planner
from crossfade.domain.migrations.catalogue import Catalogue
from crossfade.domain.migrations.layer import Layer, View
from crossfade.domain.migrations.operations import Migration, Phased
from crossfade.domain.migrations.plan import Group, Hazard, How, Plan, literal, quoted
from crossfade.domain.migrations.sql import Token, tokens

OUTSIDE: Final = frozenset(("concurrently",))
"""Words of statements that PostgreSQL does not run in a transaction."""


def plan(
    migration: Migration, catalogue: Catalogue, opened: Sequence[Layer], position: int, views: bool
) -> tuple[Layer, Plan]:
    """``views``: versions have schemas here, so this one gets one too: see `views_after`."""
    sql = migration.sql or Phased()
    schema = planner.version_schema(catalogue.schema, migration.version) if views else ""
    before = planner.shape(catalogue, opened) if views else ()
    shown = hidden(before, sql.contract)
    made = Layer(
        migration.version,
        position,
        schema,
        before,
        shown,
        after=tuple(groups("contract", sql.contract)),
        undo=tuple(groups("abort", sql.abort)),
    )
    expand = [*groups("expand", sql.expand), *groups("backfill", sql.backfill)]
    if not expand:
        expand.append(Group("nothing to expand", How.TOGETHER, ()))
    hazards = (
        []
        if sql.abort or not sql.expand
        else [Hazard("no-abort", migration.source, "there is no abort section: it cannot be taken back")]
    )
    contract = planner.contract(made, (), "", ())
    return made, Plan(migration.version, tuple(expand), (), (), contract, planner.abort(made, opened), tuple(hazards))


def hidden(views: Sequence[View], contract: Sequence[str]) -> tuple[View, ...]:
    """What a version sees whose contract has these statements."""
    gone = set(dropped(contract))
    return tuple(_without(view, gone) for view in views if (view.name, "") not in gone)


def views_after(made: Layer, catalogue: Catalogue, opened: Sequence[Layer]) -> tuple[Layer, Group]:
    """The version's views over what its expand has left, for only the database knows what SQL does."""
    contract = [statement for group in made.after for statement in group.statements]
    shown = hidden(planner.shape(catalogue, opened), contract)
    lines = [
        f"CREATE SCHEMA {quoted(made.schema)}",
        f"GRANT USAGE ON SCHEMA {quoted(made.schema)} TO PUBLIC",
        f"COMMENT ON SCHEMA {quoted(made.schema)} IS {literal(f'crossfade: version {made.version}')}",
        *(line for view in shown for line in planner.view_lines(made.schema, view, catalogue)),
    ]
    return replace(made, views=shown), Group("make the version's views", How.TOGETHER, tuple(lines))


def groups(title: str, statements: Sequence[str]) -> Iterator[Group]:
    """Statements that can be one transaction are; others stand alone."""
    together: list[str] = []
    for statement in statements:
        if any(token.name in OUTSIDE for token in tokens(statement)):
            if together:
                yield Group(title, How.TOGETHER, tuple(together))
                together = []
            yield Group(f"{title}, outside a transaction", How.ALONE, (statement,))
        else:
            together.append(statement)
    if together:
        yield Group(title, How.TOGETHER, tuple(together))


def dropped(statements: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Tables (with an empty column) and columns that plain statements drop, by their names without schema."""
    for statement in statements:
        words = [token for token in tokens(statement) if token.kind != "space"]
        names = [token.name for token in words]
        if names[:2] == ["drop", "table"]:
            at = _after(names, 2, "if", "exists")
            yield _last_name(words, at)[0], ""
        if names[:2] == ["alter", "table"]:
            at = _after(names, _after(names, 2, "if", "exists"), "only")
            table, at = _last_name(words, at)
            for i in range(at, len(words)):
                if names[i] == "drop" and words[i - 1].text in (",", words[at - 1].text):
                    j = _after(names, _after(names, i + 1, "column"), "if", "exists")
                    if j < len(names) and names[i + 1] not in (
                        "constraint",
                        "default",
                        "not",
                        "expression",
                        "identity",
                    ):
                        yield table, names[j]


def _after(names: Sequence[str], at: int, *words: str) -> int:
    return at + len(words) if tuple(names[at : at + len(words)]) == words else at


def _last_name(words: Sequence[Token], at: int) -> tuple[str, int]:
    """A name that may have its schema before it, and where it ends."""
    if at + 2 < len(words) and words[at + 1].text == ".":
        return words[at + 2].name, at + 3
    return (words[at].name if at < len(words) else ""), at + 1


def _without(view: View, gone: set[tuple[str, str]]) -> View:
    kept = tuple(c for c in view.columns if (view.name, c.name) not in gone)
    fact = replace(view.fact, columns=tuple(c for c in view.fact.columns if (view.name, c.name) not in gone))
    return replace(view, columns=kept, fact=fact)
