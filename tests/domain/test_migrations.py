"""Laws of migrations: phases and windows, names in expressions, and references that follow a contract's renames."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from crossfade.domain.migrations.applied import check_applied, not_applied
from crossfade.domain.migrations.layer import Layer, Moves, column_ref, rendered, table_ref
from crossfade.domain.migrations.operations import Migration
from crossfade.domain.migrations.phased import dropped
from crossfade.domain.migrations.phases import (
    OPEN,
    RECORDED,
    Needing,
    Phase,
    Record,
    Surroundings,
    standing,
    too_old,
    waits_for,
)
from crossfade.domain.migrations.plan import Name, literal, quoted
from crossfade.domain.migrations.sql import is_constant, names, parenthesised, renamed, tokens

records = st.lists(st.sampled_from(RECORDED), min_size=1, max_size=6).map(
    lambda phases: [Record(f"{i:02}", i, "sha256:0", f"{i:02}.yaml", phase) for i, phase in enumerate(phases, 1)]
)
texts = st.text(st.characters(codec="utf-8", exclude_characters="\x00\x02\x03\x1f"), max_size=40)


@given(records, st.data())
def test_a_contract_never_runs_before_a_verified_backfill_nor_before_an_older_one(
    ledger: list[Record], data: st.DataObject
) -> None:
    record = data.draw(st.sampled_from(ledger))
    if not waits_for(record, ledger, Surroundings()):
        assert record.phase in (Phase.VERIFIED, Phase.CONTRACTING)
        assert not any(one.phase in OPEN for one in ledger if one.position < record.position)


@given(records, st.data())
def test_a_contract_never_runs_while_a_release_that_runs_or_can_come_back_needs_the_old_shape(
    ledger: list[Record], data: st.DataObject
) -> None:
    record = data.draw(st.sampled_from(ledger))
    version = data.draw(st.sampled_from(["", *(one.version for one in ledger)]))
    around = Surroundings([Needing("r3", version, "is in the rollback window")])
    place = {one.version: one.position for one in ledger}.get(version, 0)
    waits = waits_for(record, ledger, around)
    assert (f"r3 is in the rollback window and needs the shape before {record.version}" in waits) == (
        place < record.position
    )


@given(
    records,
    st.sampled_from(["rollout #3 is under way", ""]),
    st.sampled_from(["clients see 5 % errors", ""]),
    st.booleans(),
)
def test_whatever_is_out_of_order_around_it_is_a_reason_to_wait(
    ledger: list[Record], rollout: str, budget: str, promoted: bool
) -> None:
    around = Surroundings((), budget, rollout, promoted)
    for record in ledger:
        waits = waits_for(record, ledger, around)
        assert (rollout in waits or not rollout) and (budget in waits or not budget)
        assert promoted or waits


@given(records, st.data())
def test_a_release_can_run_until_what_it_needs_begins_to_go(ledger: list[Record], data: st.DataObject) -> None:
    version = data.draw(st.sampled_from([one.version for one in ledger if one.phase is not Phase.ABORTED] or [""]))
    mine = {one.version: one.position for one in ledger}.get(version, 0)
    gone = [one for one in ledger if one.position > mine and one.phase in (Phase.CONTRACTING, Phase.CONTRACTED)]
    assert bool(too_old(version, ledger)) == bool(gone)


@given(records, st.data())
def test_only_a_verified_migration_has_a_phase_that_follows_from_releases(
    ledger: list[Record], data: st.DataObject
) -> None:
    record = data.draw(st.sampled_from(ledger))
    version = st.sampled_from([None, "", *(one.version for one in ledger)])
    phase = standing(record, ledger, Surroundings(), data.draw(version), data.draw(version))
    derived = {Phase.VERIFIED, Phase.DEPLOYING, Phase.SOAKING, Phase.CONTRACTABLE}
    assert phase in (derived if record.phase is Phase.VERIFIED else {record.phase})


@given(texts)
def test_the_words_of_an_expression_are_all_of_it(text: str) -> None:
    assert "".join(token.text for token in tokens(text)) == text


@given(texts, texts)
def test_what_is_quoted_is_one_name_and_one_constant(name: str, value: str) -> None:
    (token,) = tokens(quoted(name)) if name else (None,)
    assert token is None or token.name == name
    found = [token for token in tokens(literal(value)) if token.kind == "text"]
    assert len(found) == 1


@given(
    st.lists(
        st.sampled_from(["price", "title", '"Mixed Case"', "'price'", "+", "upper(", ")", "::price", "b.", "books."]),
        max_size=8,
    )
)
def test_a_renamed_expression_reads_the_new_names_only(words: list[str]) -> None:
    text = " ".join(words)
    found = names(text, ["price", "title"], "books")
    after = renamed(text, {"price": "p_new", "title": "t_new"}, "books")
    assert names(after, ["price", "title"], "books") == frozenset()
    assert ("p_new" in after) == ("price" in found)


def test_names_in_texts_types_functions_and_other_tables_are_none() -> None:
    sql = "price(1) || 'price' || x::price || other.price || CAST(x AS price) || $$price$$ /* price */ -- price"
    assert names(sql, ["price"], "books") == frozenset()
    assert names('books.price + "price" + first', ["price", "first"], "books") == {"price", "first"}
    assert renamed("books.price + 1", {"price": '"_cf1_price"'}, "books") == '"_cf1_price" + 1'


def test_a_default_is_one_value_for_all_rows_or_it_is_filled() -> None:
    assert all(map(is_constant, ("1", "-2.5", "'a'", "'a'::text", "true", "now()", "'{}'::jsonb", "null")))
    assert not any(
        map(is_constant, ("random()", "gen_random_uuid()", "nextval('a')", "1; drop table a", "clock_timestamp()"))
    )


def test_the_first_group_of_parentheses_ends_where_it_ends() -> None:
    text = "a (b, ')', (c)) d (e)"
    begin, end = parenthesised(text)
    assert text[begin : end + 1] == "(b, ')', (c))"
    assert parenthesised("none") == (-1, -1)


def test_references_follow_what_a_contract_renames() -> None:
    books = Name("public", "books")
    layer = Layer("02", 1, "public_02", (), (), moves=((books, "_cf1_price", "price"), (books, "", "works")))
    statement = f"ALTER TABLE {table_ref(books)} DROP COLUMN {column_ref(books, '_cf1_price')}"
    assert rendered(statement) == 'ALTER TABLE "public"."books" DROP COLUMN "_cf1_price"'
    assert rendered(Moves.of(layer).statement(statement)) == 'ALTER TABLE "public"."works" DROP COLUMN "price"'


def test_what_a_contract_in_sql_drops_is_found() -> None:
    found = list(
        dropped(
            [
                'ALTER TABLE IF EXISTS ONLY public.books DROP COLUMN IF EXISTS "Old", DROP title, ALTER price DROP NOT NULL',
                "DROP TABLE IF EXISTS shelf",
                "ALTER TABLE books DROP CONSTRAINT c",
            ]
        )
    )
    assert found == [("books", "Old"), ("books", "title"), ("shelf", "")]


@given(records)
def test_files_that_are_what_was_applied_are_never_refused(ledger: list[Record]) -> None:
    last = max((one.position for one in ledger if one.phase is not Phase.ABORTED), default=0)
    ledger = [one for one in ledger if one.phase is not Phase.ABORTED or one.position > last]
    files = [Migration(one.version, one.checksum, one.source) for one in ledger]
    check_applied(files, ledger)
    todo = {one.version for one in not_applied(files, ledger)}
    assert todo == {one.version for one in ledger if one.phase in (Phase.ABORTED, Phase.EXPANDING)}
