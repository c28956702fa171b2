"""Runs of pipelines, with real repositories and processes: each comes to its end, and nothing is left behind."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from crossfade.domain.errors import NotFound, Refused
from tests.engine.pipelines import ADA, Installation, Repository, node, script

SLEEP = script("import time; time.sleep(600)")


@pytest.fixture
def place() -> Iterator[Installation]:
    found = Installation()
    yield found
    found.remove()


@pytest.fixture
def shop(place: Installation, tmp_path: Path) -> Repository:
    repository = Repository(tmp_path / "shop")
    repository.write("app.py", "print('shop')\n")
    repository.configure({"commit": {"steps": {"test": script("print('tested')")}}})
    repository.commit("the first")
    place.add(repository)
    return repository


BEFORE: set[psutil.Process] = set()


@pytest.fixture(autouse=True)
def before() -> None:
    """What runs already is nobody's of these tests."""
    BEFORE.clear()
    BEFORE.update(psutil.Process().children(recursive=True))


def left(place: Installation) -> list[str]:
    """Checkouts and processes of runs that are still there. A keeper waits a moment for another job before it ends."""
    deadline = time.monotonic() + 10
    while True:
        found = [str(path) for path in (place.state / "runs").glob("*/*/tree")]
        # Databases that other tests of this worker share are children too, and stay to its end.
        children = [child for child in psutil.Process().children(recursive=True) if child not in BEFORE]
        found += [str(process) for process in children if process.is_running()]
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.05)


def test_a_good_commit_passes_and_its_artifact_is_signed(place: Installation, shop: Repository) -> None:
    run = place.ended(place.start(shop))
    assert (run["status"], run["reason"]) == ("passed", ""), run
    assert node(run, "commit", "test")["sentence"].startswith("exited with 0")
    assert place.runs.log(run["id"], "commit", "test")["text"].splitlines()[-1] == "tested"
    from crossfade.domain.values import Digest

    assert place.runs.attested(Digest(run["artifact"]), "shop") == ()
    assert "of another service" not in place.runs.attested(Digest(run["artifact"]), "blog")
    assert place.runs.attested(Digest(run["artifact"]), "blog") != ()
    assert left(place) == []


def test_a_failed_step_ends_the_run_with_its_last_lines_and_the_others_are_done_all_the_same(
    place: Installation, shop: Repository
) -> None:
    bad = script("import sys; print('line 3: no colon'); sys.exit(4)")
    shop.configure({"commit": {"steps": {"lint": bad, "test": script("pass")}}})
    shop.commit("broken")
    run = place.ended(place.start(shop))
    assert run["status"] == "failed" and run["reason"].startswith("commit: lint: exited with 4")
    assert node(run, "commit", "lint")["details"][-1] == "line 3: no colon"
    assert node(run, "commit", "test")["status"] == "passed"
    assert node(run, "commit", "artifact")["status"] == "skipped"
    assert run["artifact"] is None


def test_a_step_finds_only_the_files_of_the_commit_and_what_it_is_told(place: Installation, shop: Repository) -> None:
    shop.configure(
        {
            "commit": {
                "env": {"A": "1"},
                "steps": {"test": script("import os; print(sorted(os.listdir('.')), os.environ)")},
            }
        }
    )
    shop.commit()
    shop.write("untracked.txt", "not committed")
    run = place.ended(place.start(shop))
    said = place.runs.log(run["id"], "commit", "test")["text"]
    assert "untracked.txt" not in said and "app.py" in said
    assert f"'CROSSFADE_RUN': '{run['id']}'" in said and "'A': '1'" in said
    assert "XDG_STATE_HOME" not in said and "CROSSFADE_TEST_SESSION" not in said


def test_a_cancelled_run_ends_soon_and_leaves_nothing_behind(place: Installation, shop: Repository) -> None:
    shop.configure({"commit": {"steps": {"slow": SLEEP, "other": SLEEP}}})
    shop.commit()
    id = place.start(shop)
    place.until(lambda: node(place.runs.run(id), "commit", "slow")["status"] == "running")
    place.runs.cancel(id, ADA)
    run = place.ended(id)
    assert (run["status"], run["reason"]) == ("cancelled", "cancelled by ada")
    assert node(run, "commit", "slow")["status"] == "cancelled"
    assert left(place) == []
    with pytest.raises(Refused, match="has ended"):
        place.runs.cancel(id, ADA)


def test_the_verification_of_an_older_commit_of_the_branch_is_superseded(place: Installation, shop: Repository) -> None:
    shop.configure({"commit": {"steps": {"slow": SLEEP}}})
    shop.commit("slow")
    one = place.start(shop)
    place.until(lambda: node(place.runs.run(one), "commit", "slow")["status"] == "running")
    shop.configure({"commit": {"steps": {"slow": script("pass")}}})
    shop.commit("quick")
    two = place.start(shop)
    assert place.ended(two)["status"] == "passed"
    first = place.ended(one)
    assert first["status"] == "superseded" and f"run #{two}" in first["reason"]


def test_many_runs_are_done_in_the_order_in_which_they_came(place: Installation, shop: Repository) -> None:
    shop.configure({"commit": {"steps": {"test": script("pass")}}}, supersede=False)
    shop.commit()
    ids = [place.start(shop) for _ in range(8)]
    runs = [place.ended(id) for id in ids]
    assert all(run["status"] == "passed" for run in runs)
    begun = [run["began"] for run in runs]
    assert begun == sorted(begun)


def test_what_a_run_waits_for_is_said(place: Installation, shop: Repository) -> None:
    shop.configure({"commit": {"steps": {"slow": SLEEP}}}, supersede=False)
    shop.commit()
    ids = [place.start(shop) for _ in range(3)]
    waiting = place.until(lambda: place.runs.run(ids[2])["waiting"].startswith("waits for its turn: #") and ids[2])
    assert f"#{ids[0]}, #{ids[1]}" in place.runs.run(waiting)["waiting"]
    for id in ids:
        place.runs.cancel(id, ADA)
    assert [place.ended(id)["status"] for id in ids] == ["cancelled"] * 3


def test_a_server_that_ends_takes_the_run_up_again_where_its_stage_began(place: Installation, shop: Repository) -> None:
    gate = place.state / "go"
    waits = script(f"import os, time\nwhile not os.path.exists({str(gate)!r}): time.sleep(0.05)")
    shop.configure({"commit": {"steps": {"first": script("pass"), "slow": waits}}})
    shop.commit()
    id = place.start(shop)
    place.until(lambda: node(place.runs.run(id), "commit", "slow")["status"] == "running")
    place.close()
    assert left(place) == []
    assert place.runs.run(id)["status"] == "running"
    gate.touch()
    place.open()
    run = place.ended(id)
    assert (run["status"], run["stages"][0]["attempt"]) == ("passed", 2)


def test_a_run_that_failed_goes_on_from_the_stage_that_failed(place: Installation, shop: Repository) -> None:
    flag = place.state / "good"
    fickle = script(f"import os, sys; sys.exit(not os.path.exists({str(flag)!r}))")
    shop.configure({"commit": {"steps": {"test": script("pass")}}, "integration": {"steps": {"api": fickle}}})
    shop.commit()
    first = place.ended(place.start(shop))
    assert first["status"] == "failed" and first["reason"].startswith("integration: api")
    flag.touch()
    place.runs.restart(first["id"], ADA)
    again = place.ended(first["id"])
    assert (again["status"], again["artifact"]) == ("passed", first["artifact"])
    assert [stage["attempt"] for stage in again["stages"]] == [1, 2]


def test_a_run_can_begin_in_a_later_stage_when_its_commit_has_passed_those_before(
    place: Installation, shop: Repository
) -> None:
    shop.configure({"commit": {"steps": {"test": script("pass")}}, "integration": {"steps": {"api": script("pass")}}})
    shop.commit()
    with pytest.raises(Refused, match="has not passed commit yet"):
        place.start(shop, stage="integration")
    first = place.ended(place.start(shop))
    again = place.ended(place.start(shop, stage="integration"))
    assert (again["status"], again["artifact"]) == ("passed", first["artifact"])
    assert again["stages"][0]["finished"] == first["stages"][0]["finished"]


def test_a_gate_reads_what_a_step_has_left_and_fails_without_it(place: Installation, shop: Repository) -> None:
    report = "<testsuite name='s' tests='2'><testcase name='a'/><testcase name='b'><failure message='x'/></testcase></testsuite>"
    gates = {"tests": {"kind": "junit", "report": "junit.xml"}, "more": {"kind": "junit", "report": "nothing.xml"}}
    shop.configure({"commit": {"steps": {"test": script(f"open('junit.xml', 'w').write({report!r})")}, "gates": gates}})
    shop.commit()
    run = place.ended(place.start(shop))
    assert run["status"] == "failed"
    assert node(run, "commit", "tests")["finding"] == "fail"
    assert node(run, "commit", "more")["finding"] == "no-data"


def test_a_stage_whose_service_does_not_start_fails_with_its_reason(place: Installation, shop: Repository) -> None:
    services = {"broken": {"kind": "command", "run": script("print('no disk'); raise SystemExit(3)"),
                           "health": {"name": "up", "path": "/"}, "start_timeout": "5s"}}  # fmt: skip
    shop.configure({"commit": {"services": services, "steps": {"test": script("pass")}}})
    shop.commit()
    run = place.ended(place.start(shop))
    assert run["status"] == "failed" and "broken" in run["reason"], run["reason"]
    assert node(run, "commit", "test")["status"] in ("cancelled", "pending", "skipped")
    assert left(place) == []


def test_commits_of_other_branches_are_verified_and_go_no_further(place: Installation, shop: Repository) -> None:
    shop.configure({"commit": {"steps": {"test": script("pass")}}, "production": {"environment": "production"}})
    shop.commit()
    shop.git("checkout", "-q", "-b", "topic")
    shop.commit("on a topic")
    run = place.ended(place.start(shop, "topic"))
    assert (run["status"], [stage["name"] for stage in run["stages"]]) == ("passed", ["commit"])


def test_what_is_not_there_is_refused_with_what_to_do(place: Installation, shop: Repository) -> None:
    with pytest.raises(NotFound, match="crossfade sources add blog"):
        place.runs.source("blog")
    with pytest.raises(NotFound):
        place.start(shop, "no-such-branch")
    with pytest.raises(NotFound, match="no run #99"):
        place.runs.run(99)
    shop.git("rm", "-q", "crossfade.yaml")
    shop.commit("without")
    with pytest.raises(NotFound, match="crossfade init"):
        place.start(shop)


def test_secrets_of_the_source_reach_the_step_that_names_them_and_no_log(place: Installation, shop: Repository) -> None:
    place.runs.add_source("shop", str(shop.folder), secrets={"PIP_TOKEN": "s3cr3t-value"}, by=ADA)
    show: dict[str, Any] = {
        "run": script("import os; print('token', os.environ['PIP_TOKEN'])"),
        "secrets": ["PIP_TOKEN"],
    }
    missing: dict[str, Any] = {"run": script("pass"), "secrets": ["OTHER"]}
    shop.configure({"commit": {"steps": {"show": show, "none": missing}}})
    shop.commit()
    run = place.ended(place.start(shop))
    assert node(run, "commit", "show")["status"] == "passed"
    said = place.runs.log(run["id"], "commit", "show")["text"]
    assert "token" in said and "s3cr3t" not in said
    assert "no secret OTHER" in node(run, "commit", "none")["sentence"]
    assert "s3cr3t" not in str(place.runs.source("shop")) + str(run)


def test_a_repeated_step_whose_inputs_are_the_same_is_taken_from_the_cache(
    place: Installation, shop: Repository
) -> None:
    cached = {
        "run": script("open('out.txt', 'w').write('made')"),
        "cache": {"inputs": ["app.py"], "outputs": ["out.txt"]},
    }
    use = {"run": script("print(open('out.txt').read())"), "needs": ["make"]}
    shop.configure({"commit": {"steps": {"make": cached, "use": use}}})
    shop.commit()
    first, second = place.ended(place.start(shop)), place.ended(place.start(shop))
    assert [node(run, "commit", "make")["cached"] for run in (first, second)] == [False, True]
    assert "made" in place.runs.log(second["id"], "commit", "use")["text"]
    shop.write("app.py", "print('other')\n")
    shop.commit()
    assert node(place.ended(place.start(shop)), "commit", "make")["cached"] is False


def test_a_stage_that_takes_too_long_is_ended(place: Installation, shop: Repository) -> None:
    shop.configure({"commit": {"timeout": "1s", "steps": {"slow": SLEEP}}})
    shop.commit()
    run = place.ended(place.start(shop))
    assert run["status"] == "failed" and "took longer than" in run["reason"]
    assert left(place) == []
