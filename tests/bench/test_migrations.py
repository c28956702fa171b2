"""The bench of migrations works, and leaves out no operation. How fast anything is, no test asks."""

from __future__ import annotations

import pytest

import bench.migrations as measured
from bench.operations import OPERATIONS
from crossfade.domain.migrations.phases import Phase, Progress
from crossfade.spec.migration_operations import OPERATIONS as KNOWN
from tests.bench.test_benches import bench


def test_the_migrations_bench_measures_everything_and_no_client_fails(tmp_path_factory: pytest.TempPathFactory) -> None:
    printed, data = bench("migrations", tmp_path_factory.mktemp("out") / "out.json")
    assert data["failures"] == 0, printed
    assert len(data["goals"]) == 8
    speed = data["measured"]["speed"]
    assert speed["unthrottled"][0]["rate"] > 0 < speed["50 % duty"][0]["new"]["done"]
    assert data["measured"]["reader"]["waited"][0] > 0
    assert data["measured"]["operations"]["statements"] > 0
    assert data["measured"]["narrow"]["seconds"] > 0


def test_every_operation_that_can_be_written_is_measured() -> None:
    written = "\n".join(one.operations for one in OPERATIONS)
    assert [name for name in KNOWN if f"- {name}:" not in written] == []


def test_rates_are_of_the_backfill_and_not_of_its_verification() -> None:
    told = measured.Told()
    for at, done in ((1.0, 100), (2.0, 1100), (3.0, 2100)):
        told.numbers.append((at, Progress(Phase.BACKFILLING, "items", done, 2100)))
    told.numbers.append((9.0, Progress(Phase.BACKFILLING, "verify items", 5, 0)))
    assert measured._rate(told) == 1000
    filled = [(float(n), 100 * n * n) for n in range(1, 11)]
    assert measured._between(filled, 0.7, 0.9) > measured._between(filled, 0.1, 0.3) > 0
