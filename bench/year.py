"""``python -m bench.year``: a year of deployments of one service, by four ways, as its clients see them.

One schedule, drawn from a seed, says which deployments there are, what is wrong with some of them and what is killed
when. Stop-and-start, a rolling restart with health checks, blue-green without a judge and Crossfade go through it side
by side, each with an edge, a supervisor and replicas of its own, under a constant open-loop load that records every
request. Nothing that machines do is sped up. Shorter than in life are two things only: the quiet days between two
deployments, and the person who takes a bad release back where nothing else does.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from bench.processes import BenchFailed, Processes, say
from bench.report import Report, machine, milliseconds, run
from bench.year_account import Account, Person, Rule, account
from bench.year_client import SLOW
from bench.year_deployer import REPLICAS, WAYS
from bench.year_own import NAME, STEPS, WATCH, Own
from bench.year_peers import Peer
from bench.year_run import PAGE_SHARE, PAGE_WINDOW, REACTION, Pace, Way, Year
from bench.year_schedule import Fault, Kill, Release, Turn, year
from crossfade.routers.haproxy import version as haproxy_version

LABELS: Final = {"rolling": "rolling with health checks", "blue-green": "blue-green without judge"}
START: Final = 1.0
"""Seconds that a replica needs before it is ready. Services of life often need more."""
WITHIN: Final = 10.0
"""Seconds for a release to become healthy, in all four ways."""
IN_LIFE: Final = 300.0
"""Seconds from the page to the command of somebody who is awake, at the desk, and knows at once what to do."""
RULES: Final = (Rule(0.005), Rule(0.01), Rule(0.02), Rule(0.05), Rule(0.1))
"""By how many bad requests a second is bad: what the number of incidents depends on."""
RULE: Final = Rule()


@dataclass(frozen=True, slots=True)
class Measured:
    """A way's account, and the same with other rules of what an incident is; ``seconds`` of each good deployment."""

    account: Account
    by_rule: tuple[tuple[Rule, int], ...]
    seconds: tuple[float, ...]
    not_promoted: int
    """Good releases that were not deployed: false alarms, where there is a judge."""
    killed: Mapping[str, int]
    healed_by: Mapping[str, int]
    unharmed: int
    """Bad releases that harmed fewer clients than an incident takes."""
    lag: float
    """Seconds within which 99 % of the requests were started: more than a few milliseconds are the machine's doing."""


def measure(given: argparse.Namespace) -> Report:
    """The whole bench. Raises BenchFailed."""
    pace = Pace(given.rate, given.quiet, given.seed)
    turns = year(given.deployments * given.rounds, given.bad / 100, given.kills / 100, given.seed)
    limit, start, within = given.seconds or math.inf, START, WITHIN
    if given.short:
        pace = Pace(100.0, 1.0, given.seed)
        turns, start, within = short(), 0.3, 60.0
    with Processes() as processes:
        makers = [_maker(processes.folder, name, start, within) for name in given.ways]
        years = _run(processes, makers, turns, pace, limit)
        told = {one.way.name: one.told for one in years}
        # What all of them have been through: a time limit may have ended some earlier than others.
        common = min(sum(bool(turn.ends) for turn in those) for those in told.values())
        if not common:
            raise BenchFailed("not one deployment was seen to its end within the time")
        found = {one.way.name: _measured(one, common, pace.rate) for one in years}
        report = _report(found, turns[:common], pace, given.per_year)
        report.measured |= {
            "schedule": [asdict(turn) for turn in turns[:common]],
            "turns": {name.strip("*"): [asdict(turn) for turn in those[:common]] for name, those in told.items()},
        }
    if given.markdown:
        given.markdown.write_text(table(report) + "\n")
    return report


def short() -> tuple[Turn, ...]:
    """A handful of turns: good ones, a bad one whose harm is plain at once, and both kills."""
    return (
        Turn(Release(1)),
        Turn(Release(2, Fault.ERRORS, 0.3)),
        Turn(Release(3), Kill.REPLICA, 0.3),
        Turn(Release(4), Kill.CONTROL, 0.5),
    )


def _maker(folder: Path, name: str, start: float, within: float) -> Callable[[], Way]:
    if name == "crossfade":
        return lambda: Own(folder / "own", start, within)
    return lambda: Peer(name, folder / name, start, within)


def _run(
    processes: Processes, makers: Sequence[Callable[[], Way]], turns: Sequence[Turn], pace: Pace, limit: float
) -> list[Year]:
    """All ways at the same time, each in a thread. Raises BenchFailed with what went wrong in one of them."""
    ways: list[Way] = []
    years: list[Year] = []
    try:
        for number, make in enumerate(makers, 1):
            say(f"bench.year: builds way {number} of {len(makers)}")
            ways.append(make())
        years += [Year(processes, way, turns, pace) for way in ways]
        began = time.monotonic()
        for one in years:
            one.start()
        while any(one.alive for one in years) and not any(one.error for one in years):
            time.sleep(0.2)
            if time.monotonic() - began > limit:
                for one in years:
                    one.ask_to_stop()
        for one in years:
            if one.error is not None:
                raise one.error
        return years
    finally:
        for one in years:
            one.ask_to_stop()
        for way in ways:
            with contextlib.suppress(Exception):  # the others are to end all the same
                way.end()
        for one in years:
            one.end()


def _measured(one: Year, common: int, rate: float) -> Measured:
    told = one.told[:common]
    assert one.requests is not None
    requests = one.requests.between(told[0].begins, told[-1].ends)
    person = Person(REACTION, IN_LIFE)
    found = account(requests, told, RULE, person, rate)
    return Measured(
        found,
        tuple((rule, len(account(requests, told, rule, person, rate).incidents)) for rule in RULES),
        tuple(turn.deployed - turn.begins for turn in told if turn.plain and turn.ok),
        sum(not turn.ok for turn in told if not turn.fault),
        _counted([turn.kill for turn in told if turn.kill]),
        _counted([turn.healed_by for turn in told if turn.healed_by]),
        sum(bad < RULE.least for bad, _ in found.harmed.values()),
        one.lag,
    )


def _counted(words: Sequence[str]) -> dict[str, int]:
    return {word: words.count(word) for word in dict.fromkeys(words)}


def _report(found: Mapping[str, Measured], turns: Sequence[Turn], pace: Pace, per_year: float) -> Report:
    report = Report(
        "Year: what clients saw of a year of deployments, by four ways to deploy",
        ("", *(LABELS.get(name, name) for name in found)),
    )
    accounts = [one.account for one in found.values()]
    person = Person(REACTION, IN_LIFE)

    def row(what: str, cell: Callable[[Account], str]) -> None:
        report.rows.append((what, *(cell(one) for one in accounts)))

    def each(what: str, cell: Callable[[Measured], str]) -> None:
        report.rows.append((what, *(cell(one) for one in found.values())))

    row(
        f"**availability of a year** with {per_year:g} such deployments",
        lambda a: share(a.of_year(per_year, pace.rate)),
    )
    row(
        f"the same with a person who takes {IN_LIFE / 60:g} min to react (calculated)",
        lambda a: share(a.of_year(per_year, pace.rate, person=True)),
    )
    row("availability as run: all deployments within the run", lambda a: share(a.as_run))
    row("requests", lambda a: f"{a.sent:,}")
    row("**failed requests**", lambda a: f"{a.failed:,}")
    row(f"slow ones besides (over {SLOW * 1000:.0f} ms)", lambda a: f"{a.slow:,}")
    row("**incidents seen by users**", lambda a: f"{len(a.incidents)}")
    row("**mean recovery, s** (median)", lambda a: seconds(a.recoveries()))
    row(
        f"the same with a person who takes {IN_LIFE / 60:g} min (calculated)",
        lambda a: seconds(a.recoveries(person.longer)),
    )
    row("**requests lost to switches** (slow)", lambda a: f"{a.lost_to_switches} ({a.slow_in_switches})")
    each("a good deployment takes, median s", lambda m: f"{statistics.median(m.seconds):.1f}" if m.seconds else "-")
    row("**deployments an hour**, as run", lambda a: f"{a.deployments / max(1.0, a.seconds) * 3600:.0f}")
    each("bad releases taken back by: itself · a person · nobody", _healers)
    each("bad releases that harmed nobody, or fewer than an incident takes", lambda m: f"{m.unharmed}")
    each("good releases that were not deployed", lambda m: f"{m.not_promoted}")
    _goals(report, found, per_year, pace.rate)
    report.notes = _notes(found, turns, pace, per_year)
    report.versions = {"haproxy": haproxy_version()}
    for name, one in found.items():
        report.measured[name.strip("*")] = asdict(one)
    if NAME in found:
        report.failures = found[NAME].account.lost_to_switches
    return report


def _healers(one: Measured) -> str:
    return " · ".join(str(one.healed_by.get(who, 0)) for who in ("itself", "operator", "nobody"))


def _goals(report: Report, found: Mapping[str, Measured], per_year: float, rate: float) -> None:
    """What is expected of ours, as far as it was measured beside what it is compared with."""
    if NAME not in found:
        return
    ours = found[NAME].account
    of_year = ours.of_year(per_year, rate)
    report.goals.append((f"availability of a year ≥ 99.99 %: {share(of_year)}", of_year >= 0.9999))
    if "stop-and-start" in found:
        theirs = len(found["stop-and-start"].account.incidents)
        fewer = 1 - len(ours.incidents) / theirs if theirs else 0.0
        text = f"incidents that users see, ≥ 90 % fewer than with stop-and-start: {fewer:.0%} ({len(ours.incidents)} for {theirs})"
        report.goals.append((text, fewer >= 0.9))
    if "rolling" in found:
        mine, theirs_too = ours.recoveries(), found["rolling"].account.recoveries()
        faster = 1 - (statistics.mean(mine) if mine else 0.0) / statistics.mean(theirs_too) if theirs_too else 0.0
        text = f"mean recovery ≥ 70 % faster than rolling with health checks: {faster:.0%}"
        report.goals.append((text, faster >= 0.7))
    lost = ours.lost_to_switches
    report.goals.append((f"0 requests lost to switches: {lost}", not lost))


def _notes(found: Mapping[str, Measured], turns: Sequence[Turn], pace: Pace, per_year: float) -> list[str]:
    faults = _counted([turn.release.fault.value for turn in turns if turn.release.fault])
    kills = _counted([turn.kill.value for turn in turns if turn.kill])
    steps = ", ".join(f"{weight} for {lasts} s" for weight, lasts in STEPS)
    notes = []
    if NAME in found:
        ours = found[NAME].account
        for name, one in found.items():
            if name != NAME:
                notes.append(f"{LABELS.get(name, name)}, times ours: {_ratios(one.account, ours)}")
    for name, one in found.items():
        causes = ", ".join(f"{cause} {count}" for cause, count in sorted(one.account.by_cause.items())) or "none"
        rules = " · ".join(str(count) for _, count in one.by_rule)
        notes.append(
            f"{LABELS.get(name, name).strip('*')}: incidents by what happened: {causes}; by the share that makes a second bad: {rules}"
        )
    shares = " · ".join(f"{rule.share:.1%}" for rule in RULES)
    rule = (
        f"those shares: {shares}; an incident is a stretch of seconds in which ≥ {RULE.share:.0%} of the requests were bad"
        f" (failed, or over {SLOW * 1000:.0f} ms), less than {RULE.apart:g} s apart, with ≥ {RULE.least} bad requests;"
        " recovery is from its first bad request to its last"
    )
    happened = (
        f"{len(turns)} deployments each, {sum(faults.values())} of them bad ({_listed(faults)}); killed: {_listed(kills)};"
        f" {REPLICAS} replicas that start in {START:g} s; {pace.rate:g} requests/s each, open-loop, one in ten an order"
    )
    of_year = (
        f"a year: bad requests a deployment, times {per_year:g}, of {pace.rate:g} requests/s for 365.25 days; the same"
        " deployments, days apart, and nothing else fails"
    )
    operator = (
        f"the operator of all four ways is paged when ≥ {PAGE_SHARE:.0%} of the last {PAGE_WINDOW:g} s' requests were bad,"
        f" by what the clients themselves see, or at once by a job that fails; acts {REACTION:g} s later, and never errs"
    )
    calculated = (
        f"calculated: where the operator was needed, the same share of bad requests for {IN_LIFE - REACTION:g} s more"
    )
    lag = (
        f"the client started 99 % of the requests within {milliseconds(max(one.lag for one in found.values()))} ms of their"
        " time; a machine that is busy with other work makes slow requests of its own, and so incidents of good releases"
    )
    return [
        *notes,
        rule,
        happened,
        of_year,
        operator,
        calculated,
        "lost to switches: failed requests in the turns of good releases in which nothing was killed",
        f"Crossfade: canary of {steps}; what is unsure goes on; watch of {WATCH} s after the promotion",
        lag,
    ]


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {word}" for word, count in counts.items()) or "none"


def _ratios(theirs: Account, ours: Account) -> str:
    def times(one: float, other: float) -> str:
        return f"{one / other:.1f}" if other else "∞" if one else "1"

    mine, other = (statistics.mean(one.recoveries() or [0.0]) for one in (ours, theirs))
    return (
        f"bad requests {times(theirs.bad, ours.bad)}, incidents {times(len(theirs.incidents), len(ours.incidents))},"
        f" mean recovery {times(other, mine)}"
    )


def share(value: float) -> str:
    """A share near 1 as a percentage, with as many nines as it takes and one digit more; never rounded up."""
    if value >= 1:
        return "100 %"
    text = ""
    for digits in range(2, 9):
        text = f"{math.floor(value * 10 ** (digits + 2)) / 10**digits:.{digits}f}"
        if set(text.partition(".")[2]) != {"9"}:
            break
    return f"{text} %"


def seconds(values: Sequence[float]) -> str:
    """Mean, and in brackets the median."""
    return f"{statistics.mean(values):.1f} ({statistics.median(values):.1f})" if values else "-"


def table(report: Report) -> str:
    """The table with its goals, and what it was measured on: what a README has room for."""
    lines = [f"| {' | '.join(report.columns)} |", f"| --- |{' ---: |' * (len(report.columns) - 1)}"]
    lines += [f"| {' | '.join(row)} |" for row in report.rows]
    lines += ["", *[f"- {'reached' if met else '**missed**'}: {text}" for text, met in report.goals]]
    about = machine()
    return "\n".join([*lines, f"- {about['machine']}; {about['date']}"])


def _more(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--deployments", type=int, default=60, help="of each way (default 60, some 20 minutes; 200 take an hour)")
    add("--bad", type=float, default=15.0, metavar="%", help="of the deployments are bad ones (default 15)")
    add(
        "--kills", type=float, default=5.0, metavar="%", help="have a replica killed, and as many the control plane (5)"
    )
    add("--seed", type=int, default=8, help="of the schedule and the load (default 8)")
    add("--seconds", type=float, default=0.0, help="end then, with what all ways have been through (default: no limit)")
    add("--rate", type=float, default=150.0, help="requests a second on each way (default 150)")
    add("--quiet", type=float, default=2.0, help="seconds between two deployments (default 2)")
    add("--per-year", type=float, default=250.0, help="deployments of a year (default 250: one a working day)")
    add("--ways", nargs="+", choices=[*WAYS, "crossfade"], default=[*WAYS, "crossfade"], help="default: all four")
    add("--markdown", type=Path, metavar="OUT", help="where to write the table alone, as Markdown")


if __name__ == "__main__":
    sys.exit(run("year", (__doc__ or "").partition("\n")[0].partition(": ")[2], measure, rounds=1, more=_more))
