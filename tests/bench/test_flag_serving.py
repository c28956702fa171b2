"""The bench of OFREP works: its table is whole, every client is told, and no request fails. How fast, no test asks."""

from __future__ import annotations

from pathlib import Path

from tests.bench.test_benches import bench


def test_flags_are_measured_over_ofrep_and_every_listening_client_is_told(tmp_path: Path) -> None:
    printed, data = bench("flag_serving", tmp_path / "out.json")
    for row in data["rows"]:
        assert f"| {' | '.join(row.values())} |" in printed
    assert data["failures"] == 0
    assert len(data["goals"]) == 5
    measured = data["measured"]
    assert measured["single_requests"] > 0
    assert [len(one) for one in measured["told_seconds"]] == [20, 20]
    assert measured["bulk_flags_per_cpu_second"][0] > 0
