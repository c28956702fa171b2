"""The year of ``bench.year``: its schedule, its accounting, and one of a few deployments. How good any way is, no test asks."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.processes import BenchFailed
from bench.report import Report
from bench.year import share, table
from bench.year_account import YEAR, Account, Person, Requests, Rule, Told, account, incidents
from bench.year_run import requests_of
from bench.year_schedule import BAD, Fault, Kill, Release, year
from crossfade.load import Records
from tests.bench.test_benches import ENVIRONMENT, ROOT

PERSON = Person(10.0, 300.0)
BEGAN = 1_800_000_000.0


def requests(bad: list[bool], rate: float = 10.0, slow: bool = False) -> Requests:
    """One request every ``1 / rate`` seconds."""
    flags = np.array(bad, dtype=bool)
    none = np.zeros(len(bad), dtype=bool)
    start = BEGAN + np.arange(len(bad)) / rate
    return Requests(start, none if slow else flags, flags if slow else none)


def turn(number: int, begins: float, ends: float, fault: str = "", acted: float = 0.0) -> Told:
    return Told(number, fault, "", not fault, BEGAN + begins, ends=BEGAN + ends, ok=True, acted=acted)


def seconds_of(bad: set[int], count: int, rate: int = 10) -> list[bool]:
    """All requests of these seconds are bad."""
    return [k // rate in bad for k in range(count * rate)]


# --- the schedule


@given(st.integers(2, 300), st.floats(0, 0.9), st.floats(0, 0.4), st.integers(0, 2**32))
def test_a_seed_makes_the_same_year_with_the_shares_that_were_asked_for(
    deployments: int, bad: float, kills: float, seed: int
) -> None:
    turns = year(deployments, bad, kills, seed)
    assert turns == year(deployments, bad, kills, seed)
    assert [one.release.number for one in turns] == list(range(1, deployments + 1))
    faults = Counter(one.release.fault for one in turns if one.release.fault)
    assert sum(faults.values()) == min(round(deployments * bad), deployments - 1)
    assert max(faults.values(), default=0) - min((faults[fault] for fault in BAD), default=0) <= 1
    assert not turns[0].release.fault
    killed = Counter(one.kill for one in turns if one.kill)
    assert killed[Kill.REPLICA] == killed[Kill.CONTROL]
    assert not any(one.kill and one.release.fault for one in turns)
    assert all(one.at > 0 for one in turns if one.kill)


def test_releases_tell_the_application_what_is_wrong_with_them() -> None:
    assert Release(3).env == {"VERSION": "v3"}
    late = Release(4, Fault.LATE, 0.3, 20.5).env
    assert late == {"VERSION": "v4", "FAULT": "late", "FAULT_SHARE": "0.3", "FAULT_AFTER": "20.5"}


@pytest.mark.parametrize(("deployments", "bad", "kills"), [(1, 0.1, 0.0), (10, 1.0, 0.0), (10, 0.1, 0.5)])
def test_years_without_a_good_release_are_refused(deployments: int, bad: float, kills: float) -> None:
    with pytest.raises(BenchFailed, match="some of them are good"):
        year(deployments, bad, kills, 1)


# --- incidents


@given(st.lists(st.booleans(), max_size=400), st.floats(0.001, 1), st.floats(0, 10), st.integers(1, 20))
def test_incidents_are_apart_in_order_and_hold_enough_bad_requests(
    bad: list[bool], least_share: float, apart: float, least: int
) -> None:
    those = requests(bad)
    found = incidents(those, Rule(least_share, apart, least))
    assert sum(one.bad for one in found) <= those.bad.sum()
    for one in found:
        assert least <= one.bad <= one.requests
        within = those.between(one.begins, one.ends + 0.05)
        assert len(within) == one.requests
        assert within.bad.sum() == one.bad
        assert within.bad[0] and within.bad[-1]
        assert one.recovery >= 0
    for one, other in itertools.pairwise(found):
        assert other.begins > one.ends


@given(st.lists(st.booleans(), min_size=1, max_size=400))
def test_with_the_strictest_rule_no_bad_request_is_outside_of_an_incident(bad: list[bool]) -> None:
    found = incidents(requests(bad), Rule(0.0, 1.0, 1))
    assert sum(one.bad for one in found) == sum(bad)
    assert bool(found) == any(bad)


def test_no_requests_are_no_incident() -> None:
    assert incidents(requests([]), Rule()) == ()


@pytest.mark.parametrize(("quiet", "count"), [(4, 1), (5, 2)])
def test_bad_seconds_close_to_each_other_are_one_incident(quiet: int, count: int) -> None:
    assert len(incidents(requests(seconds_of({3, 3 + quiet + 1}, 20)), Rule(apart=5.0))) == count


def test_recovery_is_from_the_first_bad_request_to_the_last() -> None:
    (one,) = incidents(requests(seconds_of({3, 4, 5}, 20)), Rule())
    assert one.begins == pytest.approx(BEGAN + 3)
    assert one.recovery == pytest.approx(2.9)
    assert (one.requests, one.bad) == (30, 30)


def test_a_few_bad_requests_in_a_second_are_seen_by_the_share_that_they_are() -> None:
    bad = [k in (100, 103, 106, 109, 112) for k in range(1000)]
    assert len(incidents(requests(bad, rate=100), Rule(0.05))) == 1
    assert incidents(requests(bad, rate=100), Rule(0.06)) == ()
    assert incidents(requests(bad, rate=100), Rule(0.05, least=6)) == ()


def test_requests_are_taken_from_records_by_when_they_were_due() -> None:
    records = Records(BEGAN)
    for start, latency, kind in ((2.0, 0.01, ""), (0.5, 0.7, ""), (1.0, 5.0, "timeout"), (1.5, 0.2, "status-500")):
        records.add(start, latency, 0, records.kind_number(kind), 0, 0)
    found = requests_of(records)
    assert (found.start - BEGAN).tolist() == [0.5, 1.0, 1.5, 2.0]
    assert found.failed.tolist() == [False, True, True, False]
    assert found.slow.tolist() == [True, False, False, False]
    assert found.bad.tolist() == [True, True, True, False]


# --- accounts


@given(st.lists(st.sampled_from(["good", "failed", "slow"]), min_size=50, max_size=400), st.integers(1, 5))
def test_sent_is_good_and_bad_and_turns_have_it_all(outcomes: list[str], parts: int) -> None:
    failed, slow = (np.array([one == kind for one in outcomes]) for kind in ("failed", "slow"))
    those = Requests(BEGAN + np.arange(len(outcomes)) / 10, failed, slow)
    edges = [len(outcomes) / 10 * k / parts for k in range(parts + 1)]
    faults = [BAD[k % len(BAD)].value if k % 2 else "" for k in range(parts)]
    told = [turn(k, edges[k], edges[k + 1], faults[k]) for k in range(parts)]
    found = account(those, told, Rule(), PERSON, 10)
    assert found.sent == len(outcomes) == found.good + found.failed + found.slow
    assert found.bad == sum(one != "good" for one in outcomes)
    in_switches = found.lost_to_switches + found.slow_in_switches
    assert in_switches + sum(bad for bad, _ in found.harmed.values()) == found.bad
    assert sum(found.by_cause.values()) == len(found.incidents) == len(found.waits)
    assert 0 <= found.as_run <= 1
    assert found.of_year(250, 10) <= found.of_year(100, 10) <= 1


def test_a_year_has_the_runs_bad_requests_a_deployment_times_its_deployments() -> None:
    those = requests(seconds_of({3}, 20))
    found = account(those, [turn(1, 0, 10), turn(2, 10, 20)], Rule(), PERSON, 10)
    assert found.as_run == pytest.approx(0.95)
    assert found.of_year(250, 10) == pytest.approx(1 - 10 / 2 * 250 / (10 * YEAR), abs=1e-12)
    assert found.lost_to_switches == 10
    assert found.by_cause == {"good": 1}


def test_incidents_do_not_go_on_from_one_deployment_to_the_next() -> None:
    those = requests(seconds_of({9, 10}, 20))
    assert len(incidents(those, Rule())) == 1
    assert len(account(those, [turn(1, 0, 10), turn(2, 10, 20, "errors")], Rule(), PERSON, 10).incidents) == 2


def test_a_person_who_needs_as_long_as_in_life_makes_only_what_waited_for_one_worse() -> None:
    those = requests(seconds_of({2, *range(21, 41)}, 60), slow=True)
    told = [turn(1, 0, 10), turn(2, 10, 60, "slow", acted=BEGAN + 40)]
    found = account(those, told, Rule(), PERSON, 10)
    assert (found.failed, found.slow, found.repairs) == (0, 210, 1)
    assert found.waiting == pytest.approx(10 * 290)
    assert found.waits == (False, True)
    assert found.recoveries(PERSON.longer) == pytest.approx([0.9, 19.9 + 290])
    assert found.recoveries() == pytest.approx([0.9, 19.9])
    assert found.of_year(250, 10, person=True) < found.of_year(250, 10)
    assert found.harmed == {2: (200, pytest.approx(19.9))}


def test_a_repair_that_nobody_had_waited_for_in_harm_costs_no_one_anything() -> None:
    told = [turn(1, 0, 60, "crash", acted=BEGAN + 40)]
    found = account(requests([False] * 600), told, Rule(), PERSON, 10)
    assert (found.repairs, found.waiting, found.waits) == (1, 0.0, ())


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.0, "100 %"),
        (0.5, "50.00 %"),
        (0.99984, "99.98 %"),
        (0.999934, "99.993 %"),
        (0.9999994, "99.99994 %"),
        (0.999999999999, "99.99999999 %"),
    ],
)
def test_shares_have_as_many_digits_as_tell_them_from_one(value: float, text: str) -> None:
    assert share(value) == text


@given(st.floats(0.5, 1, exclude_max=True))
def test_shares_are_never_rounded_up(value: float) -> None:
    assert float(share(value).removesuffix(" %")) / 100 <= value + 1e-15


# --- the whole


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any], str]:
    """A short year: what it printed, its JSON, its Markdown."""
    folder = tmp_path_factory.mktemp("year")
    command = [sys.executable, "-m", "bench.year", "--short", "--json", "out.json", "--markdown", "out.md"]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=folder,
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        timeout=420,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, json.loads((folder / "out.json").read_text()), (folder / "out.md").read_text()


@pytest.mark.timeout(450)
def test_all_four_ways_go_through_a_few_deployments_and_it_adds_up(short: tuple[str, dict[str, Any], str]) -> None:
    printed, data, markdown = short
    measured = data["measured"]
    turns = measured["turns"]
    assert set(turns) == {"stop-and-start", "rolling", "blue-green", "Crossfade"}
    for name, those in turns.items():
        assert [one["fault"] for one in those] == ["", "errors", "", ""]
        assert [one["kill"] for one in those] == ["", "", "replica", "control plane"]
        assert those[1]["healed_by"] == ("itself" if name == "Crossfade" else "operator")
        assert all(one["ok"] for one in those if not one["fault"]), printed
        found = measured[name]["account"]
        assert found["sent"] > 0
        assert found["failed"] + found["slow"] <= found["sent"]
        assert found["deployments"] == 4
        assert found["bad_deployments"] == 1
    assert measured["Crossfade"]["account"]["lost_to_switches"] == 0
    assert len(data["goals"]) == 4
    assert markdown.startswith("| ")
    assert markdown.count("reached") + markdown.count("**missed**") == 4
    assert "availability of a year" in printed


@pytest.mark.timeout(450)
def test_a_year_that_is_ended_leaves_no_process_behind(tmp_path: Path) -> None:
    before = {one.pid for one in psutil.process_iter()}
    command = [sys.executable, "-m", "bench.year", "--deployments", "20"]
    with (tmp_path / "err").open("wb") as errors:
        running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors, cwd=ROOT, env=ENVIRONMENT)
    try:
        deadline = time.monotonic() + 240
        while b"1 of 20" not in (tmp_path / "err").read_bytes():
            assert running.poll() is None, (tmp_path / "err").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        folders = _folders(running.pid)
        assert folders
        running.send_signal(signal.SIGTERM)
        assert running.wait(120) == 128 + signal.SIGTERM
    finally:
        running.kill()
        running.wait()
    left = [one for one in psutil.process_iter() if one.pid not in before and folders & _words(one)]
    _, alive = psutil.wait_procs(left, timeout=20)
    assert alive == []


def _folders(pid: int) -> set[str]:
    """The temporary folders that the bench's children name."""
    words = [word for child in psutil.Process(pid).children(recursive=True) for word in child.cmdline()]
    return {"/".join(word.split("/")[:3]) for word in words if word.startswith("/tmp/cf-")}


def _words(process: psutil.Process) -> set[str]:
    try:
        words = [*process.cmdline(), process.cwd()]
    except psutil.Error:
        return set()
    return {"/".join(word.split("/")[:3]) for word in words if "/tmp/cf-" in word}


def test_the_table_alone_says_what_was_reached() -> None:
    report = Report("T", ("", "a"), [("x", "1")], goals=[("quick", True), ("clean", False)])
    lines = table(report).splitlines()
    assert lines[:3] == ["|  | a |", "| --- | ---: |", "| x | 1 |"]
    assert "- reached: quick" in lines
    assert "- **missed**: clean" in lines


def test_an_account_without_requests_is_whole() -> None:
    found = account(requests([]), [], Rule(), PERSON, 10)
    assert isinstance(found, Account)
    assert (found.as_run, found.of_year(250, 10), found.recoveries()) == (1.0, 1.0, [])
    assert found.seconds == 0
