"""The ledger keeps runs, sources, deliveries, statements and reports; and says in the feed what has changed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from crossfade.domain.access import Grant, Role
from crossfade.domain.errors import NotFound
from crossfade.domain.pipeline.plan import Commit, Outcome, Pipeline, Stage, StageName, nodes_of
from crossfade.domain.pipeline.run import Admitted, Began, Closed, NodeEnded, RunPlan, Status, decide
from crossfade.domain.values import Digest, ReleaseNumber
from crossfade.ports.pipeline import Source, Statement
from crossfade.store.runs import SqlRuns
from crossfade.store.sql import SqlStore

DIGEST = Digest("sha256:" + "b" * 64)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'ledger.db'}"


@pytest.fixture
def runs(url: str) -> Iterator[SqlRuns]:
    found = SqlRuns(url)
    yield found
    found.dispose()


def plan(service: str = "shop", commit: str = "c" * 40) -> RunPlan:
    pipeline = Pipeline(service, (Stage(StageName.COMMIT, nodes_of(StageName.COMMIT, {}, {})),))
    return RunPlan(
        pipeline, "/repo", Commit(commit, 1, 0.0), "main", "hook", "ada", "local", (Grant(Role.ADMIN),), 5.0, "{}"
    )


def test_a_run_is_read_as_it_was_written_also_after_a_restart(runs: SqlRuns, url: str) -> None:
    run = decide(runs.add_run(plan()), Admitted(StageName.COMMIT), 6.0)
    runs.save_run(run, 6.0)
    assert SqlRuns(url).run(run.id) == run
    with pytest.raises(NotFound, match="no run #99"):
        runs.run(99)


def test_runs_are_listed_newest_first_by_service_in_pages_and_open_ones_alone(runs: SqlRuns) -> None:
    made = [runs.add_run(plan("shop" if n % 2 else "blog")) for n in range(6)]
    runs.save_run(replace(made[0], status=Status.FAILED), 7.0)
    assert [run.id for run in runs.runs()] == [6, 5, 4, 3, 2, 1]
    assert [run.id for run in runs.runs("shop", limit=2)] == [6, 4]
    assert [run.id for run in runs.runs("shop", before=4)] == [2]
    assert runs.counts(5) == {("shop", "queued"): 3, ("blog", "queued"): 2}
    assert 1 not in [run.id for run in runs.runs(open_only=True)]


def test_every_change_of_a_run_is_told_in_the_feed_under_the_key_whose_rights_count(runs: SqlRuns, url: str) -> None:
    run = runs.add_run(plan())
    runs.save_run(decide(run, Admitted(StageName.COMMIT), 6.0), 6.0)
    told = [(change.kind, change.key, change.data["status"]) for change in SqlStore(url).changes(0)]
    assert told == [("run", "shop/pipeline", "queued"), ("run", "shop/pipeline", "running")]


def test_the_stages_that_a_commit_has_passed_are_known_with_the_run_in_which_it_did(runs: SqlRuns) -> None:
    run = runs.add_run(plan())
    stage = StageName.COMMIT
    for event in (
        Admitted(stage),
        Began(stage, "artifact"),
        NodeEnded(stage, "artifact", Outcome(True, "made"), DIGEST),
        Closed(stage),
    ):
        run = decide(run, event, 6.0)
    runs.save_run(run, 6.0)
    runs.add_run(plan())
    assert runs.passed_stages("shop", "c" * 40) == {"commit": run.id}
    assert runs.passed_stages("shop", "d" * 40) == {}


def test_a_release_is_known_by_the_run_that_it_came_from_and_a_later_run_takes_its_place(runs: SqlRuns) -> None:
    one, two = runs.add_run(plan()), runs.add_run(plan())
    runs.note_release("shop", ReleaseNumber(3), one.id)
    runs.note_release("shop", ReleaseNumber(3), two.id)
    assert (runs.run_of("shop", ReleaseNumber(3)), runs.run_of("shop", ReleaseNumber(4))) == (two.id, None)


def test_a_source_takes_the_place_of_the_one_before(runs: SqlRuns) -> None:
    runs.add_source(Source("shop", "/one", 1.0))
    runs.add_source(Source("shop", "/two", 2.0, "sealed", {"production": "x"}, "gitea", sinks=("http://a/",)))
    assert [source.repository for source in runs.sources()] == ["/two"]
    assert runs.source("shop") == Source(
        "shop", "/two", 2.0, "sealed", {"production": "x"}, "gitea", sinks=("http://a/",)
    )
    runs.remove_source("shop")
    assert runs.source("shop") is None
    with pytest.raises(NotFound):
        runs.remove_source("shop")


def test_a_delivery_is_taken_once_for_each_service(runs: SqlRuns) -> None:
    assert runs.claim_delivery("shop", "d1", 1.0) and not runs.claim_delivery("shop", "d1", 2.0)
    runs.give_up_delivery("shop", "d1")
    assert runs.claim_delivery("shop", "d1", 3.0)
    assert runs.claim_delivery("blog", "d1", 3.0) and runs.claim_delivery("shop", "d2", 4.0)


def test_the_oldest_deliveries_of_a_service_are_forgotten_and_no_other(
    runs: SqlRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crossfade.store.runs.DELIVERIES_KEPT", 150)
    assert runs.claim_delivery("blog", "mine", 1.0)
    assert all(runs.claim_delivery("shop", f"d{n}", 1.0) for n in range(399))
    assert runs.claim_delivery("shop", "d0", 2.0)
    assert not runs.claim_delivery("shop", "d398", 2.0) and not runs.claim_delivery("blog", "mine", 2.0)


def test_the_first_statement_about_an_artifact_stays(runs: SqlRuns) -> None:
    runs.keep_statement(Statement(DIGEST, "first", 1, 1.0))
    runs.keep_statement(Statement(DIGEST, "second", 2, 2.0))
    assert runs.statement(DIGEST) == Statement(DIGEST, "first", 1, 1.0)
    assert runs.statement(Digest("sha256:" + "0" * 64)) is None


def test_a_report_is_kept_for_the_gates_of_later_runs(runs: SqlRuns) -> None:
    run = runs.add_run(plan())
    runs.keep_report(run.id, "integration", "bench.json", b"\0{}")
    runs.keep_report(run.id, "integration", "bench.json", b"{}")
    assert runs.report(run.id, "integration", "bench.json") == b"{}"
    assert runs.report(run.id, "commit", "bench.json") is None
