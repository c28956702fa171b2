"""Business events from a replica itself: with what it is given, and after the server has moved."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from crossfade import bootstrap
from crossfade.domain.analysis.sample import Moments
from crossfade.domain.values import EnvKey, ReleaseNumber
from crossfade.runtimes.supervisor import Supervisor
from crossfade.store.sql import SqlStore
from tests.e2e.installation import Installation
from tests.free_port import free_port


@pytest.fixture(scope="module")
def shop() -> Iterator[Installation]:
    with Installation() as installation:
        installation.up()
        installation.configure("v1")
        installation.deploy()
        yield installation


def given(shop: Installation) -> dict[str, str]:
    """What the first replica of the active slot finds in its environment."""
    status: Mapping[str, Any] = shop.client().environment("shop/production")
    name = status["slots"][status["active_slot"]]["replicas"][0]["name"]
    fields = Path(f"/proc/{Supervisor(shop.state).states()[name].pid}/environ").read_bytes().decode().split("\0")
    return dict(field.split("=", 1) for field in fields if field)


def run_the_example(replica: dict[str, str]) -> None:
    """The program of docs/how-to/business-events.md, as an application with this environment runs it."""
    text = (Path(__file__).parents[2] / "docs" / "how-to" / "business-events.md").read_text()
    program = text.partition("```python\n")[2].partition("```")[0]
    done = subprocess.run([sys.executable, "-c", program], env=replica, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_documented_program_posts_events_with_what_is_in_a_replicas_environment(shop: Installation) -> None:
    replica = given(shop)
    for _ in range(2):
        run_the_example(replica)  # the batch has a name: the second time adds nothing
    store = SqlStore(f"sqlite:///{shop.state / 'crossfade.db'}")
    slot = replica["CROSSFADE_SLOT"]
    assert store.event_tallies(EnvKey("shop", "production")) == {
        (ReleaseNumber(1), slot, "checkout"): Moments(1.0, 23.5, 552.25),
        (ReleaseNumber(1), slot, "signup"): Moments(1.0, 1.0, 1.0),
    }
    store.dispose()
    assert replica["CROSSFADE_FLAGS_URL"] == f"http://127.0.0.1:{shop.api_port}"
    assert replica["CROSSFADE_FLAGS_TOKEN"] == replica["CROSSFADE_EVENTS_TOKEN"]
    assert replica["CROSSFADE_EVENTS_TOKEN"] not in (shop.state / "logs" / "server.log").read_text()


def test_a_server_that_has_moved_still_rolls_back_to_replicas_that_know_its_old_address(shop: Installation) -> None:
    old = given(shop)
    shop.configure("v2")
    shop.deploy()
    bootstrap.down(shop.state, True, lambda _: None)
    shop.api_port = free_port()
    shop.up()
    assert shop.run("rollback", "shop", check=False).returncode == 0
    assert shop.version() == "v1"
    assert given(shop)["CROSSFADE_EVENTS_URL"] == old["CROSSFADE_EVENTS_URL"]
    shop.configure("v3")
    shop.deploy()
    assert given(shop)["CROSSFADE_EVENTS_URL"] == f"http://127.0.0.1:{shop.api_port}/api/v1/events"
    run_the_example(given(shop))
