"""Rollouts on the real parts, under load, as a user sees them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.client import HTTPConnection

import pytest

from tests.e2e.installation import Installation, Load, until


@pytest.fixture(scope="module")
def shop() -> Iterator[Installation]:
    """One installation for the module; each test deploys over what the one before left."""
    with Installation() as installation:
        installation.up()
        installation.configure("v1")
        first = installation.deploy("--label", "v1")
        assert first["rollout"]["phase"] == "promoted", first
        yield installation


def nothing_lost(load: Load) -> None:
    assert load.seen.broken == []
    assert set(load.seen.statuses) == {200}, load.seen.statuses


def test_a_blue_green_deploy_loses_no_request_and_its_receipt_says_so(shop: Installation) -> None:
    shop.configure("v2")
    with Load(shop.port) as load:
        result = shop.deploy("--label", "v2")
        until(lambda: load.seen.versions.get("v2", 0) > 20, what="requests on v2")
    nothing_lost(load)
    receipt = result["receipt"]
    assert (result["rollout"]["phase"], receipt["dropped_by_switch"], receipt["failed"]) == ("promoted", 0, 0)
    assert {"before", "during", "after"} <= set(receipt["traffic"])
    assert receipt["traffic"]["after"]["total"]["p99_ms"] > 0
    assert shop.version() == "v2"


def test_a_canary_rises_through_its_steps_under_load(shop: Installation) -> None:
    shop.configure("v3", strategy=shop.canary("20%", "60%"))
    with Load(shop.port) as load:
        result = shop.deploy()
    nothing_lost(load)
    weights = [step["weight"] for step in result["receipt"]["steps"] if "sets the weights" in step["what"]]
    assert weights == [2000, 6000, 10000]
    assert result["receipt"]["exposed"]["requests"] > 0


def test_a_bad_canary_takes_itself_back_and_only_its_share_saw_it(shop: Installation) -> None:
    live = shop.version()
    shop.configure("bad", "failing", strategy=shop.canary("20%", "60%", duration="10s"))
    with Load(shop.port) as load:
        result = shop.deploy(check=False)
    assert result["rollout"]["phase"] == "rolled-back"
    assert "candidate requests failed" in result["rollout"]["reason"]
    assert "limit 5 %" in result["rollout"]["reason"]
    assert load.seen.broken == []
    assert 0 < load.seen.statuses[500] < load.seen.total / 2
    assert result["receipt"]["dropped_by_switch"] == 0
    assert result["receipt"]["failed_by_cause"] == {"5xx": result["receipt"]["failed"]}
    assert shop.version() == live


def test_a_slow_canary_takes_itself_back_by_its_p99(shop: Installation) -> None:
    live = shop.version()
    shop.configure("slow", "slow", strategy=shop.canary("30%", duration="30s", p99="150ms"))
    with Load(shop.port) as load:
        result = shop.deploy(check=False)
    nothing_lost(load)
    assert result["rollout"]["phase"] == "rolled-back"
    assert "candidate p99 is" in result["rollout"]["reason"]
    assert "limit 150 ms" in result["rollout"]["reason"]
    assert shop.version() == live


@pytest.mark.parametrize(
    ("mode", "reason", "shown"),
    [
        ("unhealthy", "did not get healthy within", "status 503, expected 200"),
        ("exits", "keeps exiting", "cannot read its configuration: KeyError: 'DATABASE'"),
        ("wrong-port", "nothing listens on port", "in mode wrong-port starts"),
        ("forgetful", "a session opened on", "status 401, expected 200"),
    ],
)
def test_a_candidate_that_is_not_well_moves_nothing_and_says_why(
    shop: Installation, mode: str, reason: str, shown: str
) -> None:
    live = shop.version()
    timeout = {"command": ["python3", "-S", "app.py"], "start_timeout": "3s" if mode != "exits" else "30s"}
    env = {"VERSION": mode, "MODE": mode, "SESSIONS": str(shop.sessions)}
    shop.configure(mode, mode, run={**timeout, "env": env})
    with Load(shop.port) as load:
        done = shop.run("deploy", str(shop.project), check=False)
    assert done.returncode == 1
    told = " ".join(done.stdout.split())
    assert reason in told
    assert shown in told
    nothing_lost(load)
    assert set(load.seen.versions) == {live}
    ended = shop.json("releases")[0]["release"]
    assert any(mode in line for lines in shop.json("logs", "--release", ended).values() for line in lines)


def test_a_paused_rollout_stays_resumes_and_can_be_promoted_at_once(shop: Installation) -> None:
    shop.configure("v4", strategy=shop.canary("30%", "60%", duration="60s"))
    with Load(shop.port) as load:
        rollout = shop.json("deploy", str(shop.project), "--detach")["id"]
        client = shop.client()
        until(lambda: client.rollout(rollout)["weight"] == 3000, what="the first step")
        assert shop.json("pause")["paused"] is True
        assert shop.run("pause", check=False).returncode == 1
        assert shop.json("resume")["paused"] is False
        shop.run("promote")
        until(lambda: client.rollout(rollout)["ended"], what="the end")
    nothing_lost(load)
    assert shop.version() == "v4"


def test_an_aborted_rollout_returns_the_traffic_at_once(shop: Installation) -> None:
    shop.configure("v5", strategy=shop.canary("50%", duration="60s"))
    live = shop.version()
    with Load(shop.port) as load:
        rollout = shop.json("deploy", str(shop.project), "--detach")["id"]
        client = shop.client()
        until(lambda: client.rollout(rollout)["weight"] == 5000, what="the step")
        until(lambda: load.seen.versions.get("v5"), what="traffic on v5")
        shop.run("abort")
        ended = until(lambda: (s := client.rollout(rollout))["ended"] and s, what="the end")
    nothing_lost(load)
    assert ended["reason"].startswith("aborted by")
    assert shop.version() == live


def test_the_candidate_can_be_previewed_by_its_header_only(shop: Installation) -> None:
    shop.configure("v6", strategy={"kind": "blue-green", "manual": True})
    live = shop.version()
    rollout = shop.json("deploy", str(shop.project), "--detach")["id"]
    client = shop.client()
    until(lambda: client.rollout(rollout)["phase"] == "ready", what="ready")
    preview = client.preview(rollout)
    assert shop.get(headers={preview["header"]: preview["value"]})[1]["x-version"] == "v6"
    assert shop.get(headers={preview["header"]: "guess"})[1]["x-version"] == live
    assert shop.version() == live
    shop.run("abort")
    until(lambda: client.rollout(rollout)["ended"], what="the end")
    assert shop.get(headers={preview["header"]: preview["value"]})[1]["x-version"] == live


def test_two_deploys_of_one_environment_the_second_is_told_who_holds_it_or_waits(shop: Installation) -> None:
    unsure = {"when_unsure": "rollback", "deadline": "3s"}
    shop.configure("v7", strategy=shop.canary("50%", duration="3s"), analysis=unsure)
    first = shop.json("deploy", str(shop.project), "--detach")["id"]
    done = shop.run("deploy", str(shop.project), check=False)
    assert done.returncode == 1
    assert f"is held by rollout #{first} of" in " ".join(done.stderr.split())
    shop.configure("v7")
    waited = shop.deploy("--wait")
    assert waited["rollout"]["phase"] == "promoted"
    assert waited["rollout"]["id"] > first


def test_one_can_go_back_to_each_of_the_three_previous_releases(shop: Installation) -> None:
    rows = shop.json("releases")
    window = [row["release"] for row in rows if row["in_window"]]
    assert len(window) >= 3
    assert all(row["restorable"] for row in rows if row["in_window"])
    with Load(shop.port) as load:
        for release in window[:3]:
            result = shop.json("rollback", "--to", release)
            assert result["rollout"]["phase"] == "promoted"
            assert shop.json("status")[0]["live"] == release
    nothing_lost(load)
    back = shop.json("rollback")
    assert back["rollout"]["candidate"] == window[1]


def test_a_release_that_cannot_be_restored_is_refused_with_the_reason(shop: Installation) -> None:
    assert "has no release r99" in shop.run("rollback", "--to", "r99", check=False).stderr
    done = shop.run("rollback", "--to", "99", check=False)
    assert done.returncode == 2
    live = shop.json("status")[0]["live"]
    assert "is live in shop/production already" in shop.run("rollback", "--to", live, check=False).stderr


def test_an_open_stream_lives_across_a_switch_until_it_has_drained(shop: Installation) -> None:
    shop.configure("v8", warm_for="0s", drain={"timeout": "3s"})
    live = shop.version()
    lines: list[str] = []
    ended = threading.Event()

    def listen() -> None:
        connection = HTTPConnection("127.0.0.1", shop.port, timeout=30)
        connection.request("GET", "/feed")
        answer = connection.getresponse()
        try:
            while line := answer.readline():
                lines.append(line.decode())
        except OSError:
            pass
        ended.set()

    threading.Thread(target=listen, daemon=True).start()
    until(lambda: lines, what="the stream")
    shop.run("deploy", str(shop.project))
    assert shop.version() == "v8"
    at_switch = len(lines)
    until(lambda: len(lines) > at_switch + 5 or ended.is_set(), what="the stream to go on")
    assert len(lines) > at_switch
    assert all(line.strip() == "" or line.startswith(f"data: {live} ") for line in lines)
    assert ended.wait(30), "the stream must end when the drain time is over"


def test_a_stream_that_drained_too_long_is_not_held_against_the_next_candidate(shop: Installation) -> None:
    shop.configure("v9", warm_for="0s", drain={"timeout": "4s"})
    streams = []
    for _ in range(4):
        streams.append(HTTPConnection("127.0.0.1", shop.port, timeout=30))
        streams[-1].request("GET", "/feed", headers={"Accept": "text/event-stream"})
        streams[-1].getresponse().readline()
    with Load(shop.port) as load:
        shop.deploy("--detach")
        # The streams are cut in the slot where the next candidate is being judged.
        shop.configure("v10", strategy=shop.canary("50%", duration="7s", min_requests=20, error_rate="0.1%"))
        result = shop.deploy("--wait")
    for stream in streams:
        stream.close()
    nothing_lost(load)
    assert result["rollout"]["phase"] == "promoted", result["rollout"]["reason"]
    assert result["receipt"]["failed"] == 0, result["receipt"]


def test_status_logs_doctor_and_receipt_say_what_there_is(shop: Installation) -> None:
    assert "shop/production" in shop.run("status").stdout
    logs = shop.json("logs", "-n", "500")
    assert all(any("starts" in line for line in lines) for lines in logs.values())
    assert all(row["ok"] for row in shop.json("doctor"))
    assert "dropped by the switch" in shop.run("receipt").stdout
