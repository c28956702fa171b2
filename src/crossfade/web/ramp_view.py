"""What the pages of ramps say, from ramps as data.

Pure: the same data give the same words, in the pages and in the tests.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from crossfade.web.flag_words import percent

Data = Mapping[str, Any]

FINDINGS: Final = {
    "pass": "passes",
    "fail": "fails",
    "inconclusive": "is undecided",
    "no-data": "cannot be judged",
}
ORDERS: Final = ("pause", "resume", "finish", "abort")
LABELS: Final = {"pause": "Pause", "resume": "Resume", "finish": "Finish at 100 %", "abort": "Abort"}
PAST: Final = {
    "finished": "{variant} came to 100 %",
    "failed": "{variant} failed: its share went back to 0, and the flag was killed",
    "aborted": "{variant} was taken back to 0",
    "left": "The ramp of {variant} left the flag as somebody had changed it",
}


def headline(ramp: Data) -> str:
    """Where a ramp stands."""
    share = percent(ramp["weight"])
    match ramp["phase"]:
        case "ramping" if ramp["paused"]:
            return f"Paused: {ramp['variant']} stays at {share}"
        case "ramping":
            return f"Step {ramp['step'] + 1} of {len(ramp['steps'])}: {share} get {ramp['variant']}, the rest {ramp['rest']}"
        case "finishing":
            return f"Finishes: everybody gets {ramp['variant']}"
        case "going-back":
            return f"Goes back: {ramp['variant']} is taken to 0 %"
        case "leaving":
            return "Ends: somebody else has changed the flag"
        case _:
            return past(ramp)


def past(ramp: Data) -> str:
    """How a ramp ended."""
    return PAST.get(ramp["phase"], "It has ended").format(variant=ramp["variant"])


def why(ramp: Data) -> str:
    """What it waits for, or why it ended so."""
    return str(ramp["reason"] or ramp["waiting"] or "")


def step(ramp: Data, number: int) -> str:
    """Whether a step is done, now or to come."""
    if ramp["phase"] == "finished" or number < ramp["step"]:
        return "done"
    return "now" if number == ramp["step"] and not ramp["ended"] else "later"


def events(ramp: Data) -> list[str]:
    """The business events that either variant had."""
    return sorted({name for arm in ramp["arms"].values() for name in arm["events"]})[:6]


def why_not(ramp: Data, order: str) -> str:
    """Why an order makes no sense now; empty when it does."""
    if ramp["ended"]:
        return "The ramp has ended."
    if ramp["phase"] in ("going-back", "leaving"):
        return "It is ending already."
    match order:
        case "pause" if ramp["paused"]:
            return "It is paused already."
        case "resume" if not ramp["paused"]:
            return "It is not paused."
        case "pause" | "resume" | "finish" if ramp["phase"] == "finishing":
            return "It is finishing already."
        case _:
            return ""


def what_happens(ramp: Data, order: str) -> list[str]:
    """What an order will do, in sentences."""
    variant, rest, share = ramp["variant"], ramp["rest"], percent(ramp["weight"])
    match order:
        case "pause":
            stays = f"{variant} stays at {share} until it is resumed."
            return [stays, "It is judged all the same, and goes back by itself when it does harm."]
        case "resume":
            return [f"It goes on from {share}, at the step where it was."]
        case "finish":
            return [f"Everybody whom the rule is for gets {variant} at once, without the steps that are left."]
        case _:
            return [f"Everybody who got {variant} by it gets {rest} again.", "The flag itself is not killed."]
