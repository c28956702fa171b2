"""SIGKILL of the server after every write of a guarded ramp, under load: it goes on or goes back, and nothing is half done."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from crossfade.domain.errors import CrossfadeError
from tests.e2e.installation import Installation
from tests.e2e.test_crashes import Dying, dying
from tests.examples.flagged_bookshop import EXAMPLE, Readers, deploy, set_up

KEY = "bookshop/production"
STEP = {"begun", "noted ramp.begin", "saved ramping mark", "saved ramping", "wrote share", "noted ramp.step"}
ENDED = {"saved finishing set-share conclude", "saved finishing conclude", "saved finished"}
KILLED = {
    "saved going-back kill conclude",
    "wrote kill",
    "saved going-back conclude",
    "saved failed",
}


@pytest.fixture
def shop() -> Iterator[Installation]:
    with Installation() as shop:
        set_up(shop, analysis={"deadline": "1s", "when_unsure": "promote", "error_rate": {"margin": "3%"}})
        shop.up()
        deploy(shop, "v1")
        shop.run("flags", "import", str(EXAMPLE / "flags.json"))
        yield shop


def ramped(shop: Installation, server: Dying, flag: str, steps: list[dict[str, Any]]) -> dict[str, Any]:
    """Ramp a flag while the server keeps dying; the ramp once it has ended."""
    deadline = time.monotonic() + 150
    while time.monotonic() < deadline:
        server.tend()
        try:
            flags = shop.client().flags
            if not (begun := [one for one in flags.ramps(KEY, 10) if one["flag"] == flag]):
                flags.begin_ramp(KEY, flag, {"variant": "on", "steps": steps})
            elif begun[0]["ended"]:
                return dict(flags.ramp(begun[0]["id"]))
        except CrossfadeError:
            pass  # it is down more often than up
        time.sleep(0.05)
    raise AssertionError(
        f"the ramp of {flag} has not ended: {server.deaths} deaths, {shop.client().flags.ramps(KEY, 10)}"
    )


@pytest.mark.timeout(400)
def test_a_server_killed_after_every_write_of_a_ramp_ends_it_where_it_should(
    shop: Installation, tmp_path: Path
) -> None:
    record = tmp_path / "boundaries"
    with Readers(shop.port, pause=0.03) as readers, dying(shop, record, "kill-ramps") as server:
        good = ramped(shop, server, "recommendations", [{"weight": 5000, "duration": 0.5}])
        bad = ramped(shop, server, "fast-search", [{"weight": 5000, "duration": 60.0}])
        flags = shop.client().flags
        document = flags.export(KEY, plain=False)["flags"]
        written = [(one["flags"], one["note"]) for one in flags.versions(KEY, 50)]
    assert set(record.read_text().split("\n")) - {""} == STEP | ENDED | KILLED
    assert server.deaths == len(STEP | ENDED | KILLED)
    assert (good["phase"], good["weight"]) == ("finished", 10_000), good
    assert (bad["phase"], bad["weight"]) == ("failed", 0), bad
    assert good["receipt"]["outcome"] == "finished" and bad["receipt"]["outcome"] == "failed"
    shares = [
        document[name]["crossfade"]["rules"][-1]["serve"]["split"]["shares"]
        for name in ("recommendations", "fast-search")
    ]
    assert shares == [{"on": [[0, 10_000]]}, {}]
    assert document["fast-search"]["crossfade"]["killed"]["by"] == "crossfade"
    # Each step was written once, whatever died: the file, two shares, one share, one kill.
    assert [names for names, _ in written] == [["fast-search"]] * 2 + [["recommendations"]] * 2 + [sorted(document)]
    assert (readers.failed, set(readers.errors)) == ([], {"search"})
