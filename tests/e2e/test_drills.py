"""Drills and proofs on the real parts, under load: what clients see of a rehearsed rollback is nothing."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from crossfade.domain.proof import proves
from crossfade.domain.values import EnvKey
from crossfade.runtimes.process import ProcessRuntime
from crossfade.runtimes.supervisor import Supervisor
from tests.e2e.installation import Installation, Load, until

PLACE = "/environments/shop/production"
LONG = 120.0
"""Seconds that a drill may take on a busy machine."""


class Api:
    """The HTTP API of an installation, as its owner. While its server is away, it is asked again."""

    def __init__(self, shop: Installation) -> None:
        token = (shop.state / "token").read_text().strip()
        url = f"http://127.0.0.1:{shop.api_port}/api/v1"
        self._http = httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, trust_env=False)

    def get(self, path: str) -> Any:
        return until(lambda: self._once(path), what=path)

    def _once(self, path: str) -> Any:
        try:
            answer = self._http.get(path)
        except httpx.HTTPError:
            return None
        assert answer.status_code == 200, answer.text
        return answer.json()

    def post(self, path: str, **body: Any) -> httpx.Response:
        return self._http.post(path, json=body)

    def drill(self, **body: Any) -> dict[str, Any]:
        """Begin one; when it has ended."""
        begun = self.post(f"{PLACE}/drills", **body)
        assert begun.status_code == 201, begun.text
        return self.ended(begun.json()["id"])

    def ended(self, id: int) -> dict[str, Any]:
        found: dict[str, Any] = until(
            lambda: (d := self.get(f"/drills/{id}"))["ended"] and d, LONG, what=f"the end of drill #{id}"
        )
        return found

    def live(self) -> str:
        return str(self.get(PLACE)["live"])


@pytest.fixture(scope="module")
def shop() -> Iterator[Installation]:
    """One installation for the module, with four releases: r4 is live."""
    with Installation() as installation:
        installation.up()
        for version in ("v1", "v2", "v3", "v4"):
            installation.configure(version)
            assert installation.deploy("--label", version)["rollout"]["phase"] == "promoted"
        yield installation


@pytest.fixture
def api(shop: Installation) -> Api:
    return Api(shop)


def nothing_lost(load: Load) -> None:
    assert load.seen.broken == []
    assert set(load.seen.statuses) == {200}, load.seen.statuses


def test_a_drill_to_the_release_before_and_back_harms_nobody_and_says_how_long_it_took(
    shop: Installation, api: Api
) -> None:
    with Load(shop.port) as load:
        until(lambda: load.has_seen(50))
        drill = api.drill(name="weekly", hold=3.0)
    nothing_lost(load)
    assert load.seen.versions["v3"] > 20
    assert (drill["phase"], drill["reason"], api.live()) == ("passed", "", "r4")
    receipt = drill["receipt"]
    assert (receipt["harmed"], receipt["lost"], receipt["target"]) == (0, 0, "r3")
    assert 0 < receipt["switch"] <= receipt["recovery"]
    assert receipt["forth"] > 0
    assert receipt["traffic"]["hold"]["requests"] > 20
    assert receipt["traffic"]["hold"]["seconds"] >= 3
    assert {"back", "hold", "forth", "after"} <= set(receipt["traffic"])
    assert api.get(f"{PLACE}/alerts")["items"] == []


def test_one_can_rehearse_to_the_third_release_before(shop: Installation, api: Api) -> None:
    with Load(shop.port) as load:
        drill = api.drill(back=3, hold=0.0)
    nothing_lost(load)
    assert (drill["phase"], drill["target"], api.live()) == ("passed", "r1", "r4")
    assert shop.version() == "v4"


def test_a_killed_replica_is_noticed_and_is_there_again(shop: Installation, api: Api) -> None:
    with Load(shop.port) as load:
        until(lambda: load.has_seen(50))
        drill = api.drill(fault="kill-replica", hold=5.0)
    assert load.seen.total > 100
    receipt = drill["receipt"]
    assert (drill["phase"], drill["reason"]) == ("passed", "")
    assert 0 <= receipt["detection"] < receipt["recovery"]
    assert receipt["decision"] is not None
    assert receipt["whole"] >= receipt["detection"]
    # What was under way in the replica when it was killed is all that can be lost.
    assert receipt["harmed"] <= 4
    assert "was killed" in drill["noticed"] or "down" in drill["noticed"] or "restarted" in drill["noticed"]


@pytest.mark.parametrize("fault", ["errors", "latency"])
def test_the_judge_takes_a_canary_back_that_the_edge_gives_a_fault(shop: Installation, api: Api, fault: str) -> None:
    if api.live() == "r4":
        limits = {"min_requests": 20, "p99": "250ms"}
        shop.configure("v5", strategy={"kind": "blue-green", "watch": "500ms", "limits": limits})
        assert shop.deploy()["rollout"]["phase"] == "promoted"
    live = api.live()
    with Load(shop.port, clients=8) as load:
        until(lambda: load.has_seen(200))
        drill = api.drill(fault=fault)
    assert (drill["phase"], drill["reason"]) == ("passed", "")
    assert load.seen.broken == []
    receipt = drill["receipt"]
    assert receipt["detection"] > 0
    assert receipt["recovery"] >= receipt["detection"]
    exposed = receipt["exposed"]
    assert 0 < exposed["requests"] < receipt["requests"]
    assert (exposed["failed"] > 0) is (fault == "errors")
    assert set(load.seen.statuses) == ({200, 500} if fault == "errors" else {200})
    assert api.live() == live
    assert api.get(f"{PLACE}")["rollout"] is None
    nothing_left = Load(shop.port)
    with nothing_left:
        until(lambda: nothing_left.has_seen(100))
    nothing_lost(nothing_left)


def test_a_server_that_is_killed_in_the_middle_goes_on_and_nobody_notices(shop: Installation, api: Api) -> None:
    before = shop.pid_of("server")
    with Load(shop.port) as load:
        until(lambda: load.has_seen(50))
        drill = api.drill(fault="kill-control-plane", hold=1.0)
    nothing_lost(load)
    assert until(lambda: shop.pid_of("server")) != before
    assert (drill["phase"], drill["reason"]) == ("passed", "")
    assert drill["receipt"]["detection"] > 0
    assert drill["receipt"]["recovery"] >= drill["receipt"]["detection"]
    assert (drill["receipt"]["harmed"], drill["receipt"]["lost"]) == (0, 0)


def test_a_drill_is_refused_while_a_rollout_is_under_way_and_a_deployment_during_a_drill(
    shop: Installation, api: Api
) -> None:
    shop.configure("v6", strategy=shop.canary("30%", duration="60s"))
    rollout = shop.json("deploy", str(shop.project), "--detach")["id"]
    refused = api.post(f"{PLACE}/drills")
    assert refused.status_code == 409, refused.text
    assert f"rollout #{rollout}" in refused.text
    shop.run("abort")
    until(lambda: api.get(f"/rollouts/{rollout}")["ended"])
    begun = api.post(f"{PLACE}/drills", hold=60.0).json()
    assert api.post(f"{PLACE}/drills").status_code == 409
    late = shop.run("deploy", str(shop.project), check=False)
    assert late.returncode == 1
    assert f"drill #{begun['id']}" in " ".join(late.stderr.split())
    until(lambda: api.get(f"/drills/{begun['id']}")["phase"] == "holding", LONG)
    api.post(f"/drills/{begun['id']}/abort")
    ended = api.ended(begun["id"])
    assert (ended["phase"], api.live()) == ("aborted", ended["home"])


def test_a_server_that_somebody_kills_leaves_no_fault_at_the_edge(shop: Installation, api: Api) -> None:
    live = api.live()
    with Load(shop.port) as load:
        until(lambda: load.has_seen(50))
        begun = api.post(f"{PLACE}/drills", fault="errors").json()
        until(lambda: api.get(f"/drills/{begun['id']}")["phase"] == "exposed", LONG)
        shop.kill("server")
        ended = api.ended(begun["id"])
    assert load.seen.broken == []
    assert (ended["phase"], api.live()) in {("passed", live), ("failed", live)}
    with Load(shop.port) as quiet:
        until(lambda: quiet.has_seen(200))
    nothing_lost(quiet)


def test_a_planned_drill_runs_when_its_time_has_come_and_is_on_record(shop: Installation, api: Api) -> None:
    drills = [{"name": "minutely", "schedule": "* * * * *", "zone": "Europe/Berlin", "hold": "1s"}]
    shop.configure("v7", drills=drills)
    assert shop.deploy()["rollout"]["phase"] == "promoted"
    (row,) = api.get(f"{PLACE}/drills/schedule")["items"]
    assert (row["name"], row["overdue"]) == ("minutely", False)
    assert 0 < row["next"] - time.time() <= 60
    with Load(shop.port) as load:
        drill = until(
            lambda: next((d for d in api.get(f"{PLACE}/drills")["items"] if d["name"] == "minutely"), None), LONG
        )
        ended = api.ended(drill["id"])
    nothing_lost(load)
    assert (ended["phase"], ended["by"], ended["due"] % 60) == ("passed", "crossfade", 0)
    (row,) = api.get(f"{PLACE}/drills/schedule")["items"]
    assert row["last"]["id"] >= ended["id"]
    shop.configure("v8")
    until(lambda: shop.run("deploy", str(shop.project), check=False).returncode == 0, LONG)


def test_each_release_of_the_window_is_proven_aside_and_none_of_it_is_left(shop: Installation, api: Api) -> None:
    asked = api.post(f"{PLACE}/proofs")
    assert asked.status_code == 201, asked.text
    names = asked.json()["asked"]
    assert len(names) >= 3
    with Load(shop.port) as load:
        until(lambda: all(row["ok"] for row in api.get(f"{PLACE}/proofs")["items"]), LONG, "the proofs")
    nothing_lost(load)
    rows = {row["release"]: row for row in api.get(f"{PLACE}/proofs")["items"]}
    assert set(rows) == set(names)
    assert all([check["what"] for check in row["checks"]] == ["artifact", "configuration", "schema", "start"]
               for row in rows.values())  # fmt: skip
    assert all(0 < row["took"] < LONG and row["proven"] for row in rows.values())
    shown = {row["release"]: row for row in api.get(f"{PLACE}/releases")["items"]}
    assert all(shown[name]["proven"] == rows[name]["proven"] for name in names)
    runtime = ProcessRuntime(shop.state, Supervisor(shop.state))
    assert not [one.name for one in runtime.replicas(EnvKey("shop", "production")) if proves(one.name)]


def test_a_release_whose_artifact_was_changed_is_not_proven_and_somebody_is_told(shop: Installation, api: Api) -> None:
    digest = next(row for row in api.get(f"{PLACE}/releases")["items"] if row["release"] == "r4")["digest"]
    stored = next(shop.state.glob(f"artifacts/**/*{digest.removeprefix('sha256:')[:20]}*"))
    file = next(path for path in stored.rglob("app.py"))
    kept, mode = file.read_bytes(), file.stat().st_mode
    folder = file.parent.stat().st_mode
    os.chmod(file.parent, 0o700)
    os.chmod(file, 0o644)
    try:
        file.write_bytes(kept + b"\n# changed\n")
        asked = time.time()
        api.post(f"{PLACE}/proofs", release="r4")
        row = until(lambda: _tried(api, "r4", asked), LONG, "the proof")
        assert (row["ok"], row["checks"][0]["ok"]) == (False, False)
        assert "proof:r4" in _open_alerts(api)
    finally:
        file.write_bytes(kept)
        os.chmod(file, mode)
        os.chmod(file.parent, folder)
    api.post(f"{PLACE}/proofs", release="r4")
    until(lambda: "proof:r4" not in _open_alerts(api), LONG, "the end of the alert")


def _tried(api: Api, release: str, since: float) -> dict[str, Any] | None:
    rows = api.get(f"{PLACE}/proofs")["items"]
    return next((row for row in rows if row["release"] == release and (row["tried"] or 0) > since), None)


def _open_alerts(api: Api) -> set[str]:
    return {one["name"] for one in api.get(f"{PLACE}/alerts")["items"] if one["ended"] is None}
