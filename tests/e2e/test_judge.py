"""The judge on the real parts: what it finds, what it keeps, what it compares with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from crossfade.domain.errors import CrossfadeError
from crossfade.runtimes.supervisor import Supervisor
from tests.e2e.installation import Installation, Load, until

ALONE = {"error_rate": "none"}
"""No fixed limit: what fails, the judge found."""


@pytest.fixture(scope="module")
def shop() -> Iterator[Installation]:
    with Installation() as installation:
        installation.up()
        installation.configure("v1")
        assert installation.deploy()["rollout"]["phase"] == "promoted"
        yield installation


def test_a_flaky_candidate_is_found_by_comparison_and_told_in_a_sentence(shop: Installation) -> None:
    shop.configure("flaky", "flaky", strategy=shop.canary("30%", duration="30s", **ALONE))
    with Load(shop.port):
        result = shop.deploy(check=False)
    assert result["rollout"]["phase"] == "rolled-back"
    reason = result["rollout"]["reason"]
    assert "errors" in reason
    assert "against 0 %" in reason
    assert "with 95 % confidence at every moment; limit 0.1 pp more: fail" in reason
    (metric,) = result["receipt"]["metrics"]
    assert (metric["name"], metric["finding"]) == ("error_rate", "fail")
    assert metric["fail"] >= metric["fail_line"] == pytest.approx(2.0)
    assert result["receipt"]["failed"] == result["receipt"]["exposed"]["failed"] > 0


def test_a_flaky_release_is_found_in_the_watch_after_a_switch_by_what_was_before(shop: Installation) -> None:
    with Load(shop.port) as load:
        until(lambda: load.has_seen(2000), what="some history")
        watched = {"kind": "blue-green", "watch": "30s", "limits": ALONE}
        shop.configure("flaky", "flaky", strategy=watched)
        result = shop.deploy(check=False)
    assert result["rollout"]["phase"] == "rolled-back"
    assert "before" in result["rollout"]["reason"]
    assert shop.version() == "v1"


def test_a_step_that_passed_may_end_early_and_fresh_replicas_are_compared_with_and_gone_at_the_end(
    shop: Installation,
) -> None:
    analysis = {
        "advance": "early",
        "min_duration": "1s",
        "baseline": "fresh",
        "error_rate": {"margin": "10%", "or_ratio": "none"},
        "conversion": {"signal": "checkout", "margin": "50%", "direction": "drop", "required": False},
    }
    shop.configure("v2", strategy=shop.canary("20%", "60%", duration="60s"), analysis=analysis)
    with Load(shop.port, "/buy") as load:
        rollout = shop.json("deploy", str(shop.project), "--detach")["id"]
        client = shop.client()
        runs = Supervisor(shop.state).states

        def of_baseline() -> set[str]:
            return {name for name in runs() if f".r1.{rollout}-" in name}

        until(of_baseline, what="fresh replicas")
        until(lambda: client.rollout(rollout)["ended"], seconds=90, what="the end")
        state = client.rollout(rollout)
        assert state["phase"] == "promoted", state
        until(lambda: not of_baseline(), what="fresh replicas to be stopped")
    assert load.seen.broken == []
    assert set(load.seen.statuses) == {200}
    texts = [entry["text"] for entry in client.journal(rollout)]
    assert "starts fresh replicas of r1 to compare with" in texts
    assert any("(of it control 20 %)" in text for text in texts)
    metrics = {metric["name"]: metric for metric in state["metrics"]}
    assert metrics["error_rate"]["finding"] == "pass"
    assert metrics["conversion"]["baseline"] == pytest.approx(20.0, rel=0.02)  # read an instant after the requests
    assert client.receipt(rollout)["duration"] < 60


@pytest.mark.timeout(240)
def test_a_killed_server_goes_on_with_the_evidence_it_had(shop: Installation) -> None:
    analysis = {"deadline": "10m", "error_rate": {"margin": "0.1%"}}
    shop.configure("v3", strategy=shop.canary("30%", duration="60s"), analysis=analysis)
    with Load(shop.port):
        rollout = shop.json("deploy", str(shop.project), "--detach")["id"]
        client = shop.client()

        def asked() -> float:
            (metric,) = client.rollout(rollout)["metrics"] or [{"sentence": ""}]
            words = metric["sentence"].partition(" of ")[2].partition(")")[0]
            return float(words or 0)

        until(lambda: asked() > 300, what="some evidence")
        before = asked()
        began = client.rollout(rollout)["entered"]
        shop.kill("server")

        def more() -> bool:
            try:
                return asked() > before
            except CrossfadeError:
                return False  # the server is not back yet

        until(more, seconds=60, what="more evidence")
        assert asked() >= before
        assert client.rollout(rollout)["entered"] == began
        shop.run("abort")
        until(lambda: client.rollout(rollout)["ended"], what="the end")


def test_what_the_judge_saw_can_be_drawn_and_a_plan_is_made_of_the_traffic_there_was(
    shop: Installation, tmp_path: Path
) -> None:
    rollouts = [state for state in shop.client().rollouts() if state["reason"].startswith("errors")]
    shop.run("receipt", str(rollouts[-1]["id"]), "--plots", str(tmp_path / "plots"))
    drawn = sorted((tmp_path / "plots").iterdir())
    assert [path.name.rpartition("-")[2] for path in drawn] == ["evidence.svg", "interval.svg", "latency.svg"]
    for path in drawn:
        root = ElementTree.fromstring(path.read_text())  # noqa: S314 - a file of our own
        assert root.tag.endswith("svg")
    done = shop.run("receipt", "1", "--plots", str(tmp_path / "none"), check=False)
    assert done.returncode == 1
    assert "was not judged" in done.stderr
    shop.configure("v9", strategy=shop.canary("5%", "50%"))
    with Load(shop.port):
        planned = until(
            lambda: (p := shop.json("plan", str(shop.project)))["requests_per_second"] and p, what="traffic"
        )
    assert [step["weight"] for step in planned["steps"]] == [0.05, 0.5]
