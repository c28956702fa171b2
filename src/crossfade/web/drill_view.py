"""What the pages of drills say, from drills as data: what one will do, where it is, what it has measured.

Pure: the same data give the same words, in the pages and in the tests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from crossfade.domain.drill import EDGE_FAULTS, Fault
from crossfade.domain.values import show_duration
from crossfade.web.slo_view import span

Data = Mapping[str, Any]

FAULTS: Final = {
    "": "nothing: a plain rehearsal",
    Fault.KILL_REPLICA.value: "one replica of what is live is killed",
    Fault.LATENCY.value: "a canary's answers are made slow",
    Fault.ERRORS.value: "a canary's answers are made errors",
    Fault.KILL_CONTROL_PLANE.value: "the server itself is killed on the way",
}
AT_THE_EDGE: Final = tuple(EDGE_FAULTS)
OUTCOMES: Final = {"passed": "passed", "failed": "failed", "aborted": "was aborted"}
SIGNS: Final = {"passed": "ok", "failed": "trouble", "aborted": "empty"}
PHASES: Final = {
    "starting": "Begins",
    "faulty": "Waits until the fault is noticed",
    "exposed": "Waits until the judge takes the canary back",
    "going-back": "Goes back",
    "holding": "The older release serves",
    "going-forth": "Returns",
    "checking": "Looks whether all is well",
    "ending": "Writes its receipt",
}
PLAIN: Final = ("starting", "going-back", "holding", "going-forth", "checking")
GAME_DAY: Final = ("starting", "faulty", "going-back", "holding", "going-forth", "checking")
CANARY: Final = ("starting", "exposed", "checking")
FIGURES: Final = (
    ("detection", "Detection", "from the fault until it was noticed"),
    ("decision", "Decision", "from there to the order to go back"),
    ("switch", "Switch", "from the order until the traffic had moved"),
    ("recovery", "Recovery", "from the beginning until then"),
    ("forth", "Way home", "until the release before had the traffic again"),
    ("whole", "Whole again", "until nothing was left of the fault"),
)
"""What a receipt has measured, and from when to when."""
PARTS: Final = {
    "back": "on the way back",
    "hold": "while the older release served",
    "forth": "on the way home",
    "after": "afterwards",
    "exposed": "while the canary had the fault",
}
"""The spans of its traffic, in words."""
HOMEWARD: Final = ("going-forth", "checking", "ending")


@dataclass(frozen=True, slots=True)
class Rung:
    """A part of a drill's way. ``state`` is done, now, failed, next, or not reached."""

    what: str
    state: str
    said: str

    @property
    def tone(self) -> str:
        """``state`` as a class of it."""
        return self.state.replace(" ", "-")


def fault_of(drill: Data) -> str:
    """What is done first, in words; empty for a plain rehearsal."""
    return FAULTS.get(drill["fault"] or "", str(drill["fault"])) if drill["fault"] else ""


def what_happens(live: str, window: Sequence[str], back: int, hold: float, fault: Fault | None) -> list[str]:
    """What a drill will do, in sentences. ``window``: the releases that can be restored, newest first."""
    if fault in AT_THE_EDGE:
        slow = "wait half a second" if fault is Fault.LATENCY else "are answered with an error, every second one"
        return [
            f"{live} is rolled out once more, as a canary beside itself; requests on the canary's slot {slow}.",
            "Only who is sent to the canary notices; how many that are is the first step of the strategy.",
            "The judge has to see it and to take the canary back. How long that takes is measured.",
            "The fault is leased: when this server dies, the edge ends it by itself.",
        ]
    target = window[back - 1] if 0 < back <= len(window) else "an earlier release"
    first = {
        Fault.KILL_REPLICA: f"One replica of {live} is killed; the others serve on, and it is seen how long it is missed.",
        Fault.KILL_CONTROL_PLANE: "On the way back this server is killed; the next one has to go on from there.",
    }
    said = [first[fault]] if fault in first else []
    return [
        *said,
        f"All traffic goes from {live} back to {target}, as a rollback does: started, checked, then moved in one step.",
        f"{target} serves for {span(hold)}. When it does harm, or is unhealthy, it is left at once.",
        f"Then all traffic returns to {live}, and it is looked whether all is well.",
        "It runs under the traffic that there is. Data and schema stay as they are.",
    ]


def why_not_abort(drill: Data) -> str:
    """Why there is nothing to abort; empty when there is."""
    if drill["ended"]:
        return "It has ended."
    if drill["phase"] in HOMEWARD:
        return "It is on its way home already: its end is near."
    return ""


def headline(drill: Data) -> str:
    """Where a drill stands, in words."""
    phase = drill["phase"]
    if phase in OUTCOMES:
        return f"It {OUTCOMES[phase]}"
    return PHASES.get(phase, str(phase))


def sign(drill: Data) -> str:
    """The mark of its state, as environments have theirs."""
    return SIGNS.get(drill["phase"], "busy")


def summary(drill: Data) -> str:
    """What came of it, or what it waits for."""
    if not drill["ended"]:
        waiting = str(drill["waiting"])
        return f"It {waiting}" if waiting.startswith("is ") else waiting
    receipt = drill["receipt"] or {}
    if drill["phase"] != "passed":
        return str(drill["reason"])
    if receipt.get("switch") is None:
        return ""
    took = show_duration(receipt["switch"])
    if drill["target"] is None:
        return f"The judge took the canary back; its traffic had moved {took} after that was decided"
    forth = (
        f"; {drill['home']} was back in {show_duration(receipt['forth'])}" if receipt.get("forth") is not None else ""
    )
    return f"{drill['target']} had all traffic {took} after the order{forth}"


def way(drill: Data) -> list[Rung]:
    """What it has done, does, and will do; of a drill with its journal."""
    phase, fault = drill["phase"], drill["fault"] or ""
    names = CANARY if fault in AT_THE_EDGE else GAME_DAY if fault == Fault.KILL_REPLICA else PLAIN
    visited = {line["phase"] for line in drill["journal"]} | {phase}
    stumbled = _stumbled(drill)
    found = []
    for name in names:
        if name == stumbled:
            state = "failed"
        elif name == phase or (phase == "ending" and name == "checking"):
            state = "now"
        elif name in visited or phase == "passed":
            state = "done"
        else:
            state = "not reached" if drill["ended"] or phase in HOMEWARD else "next"
        found.append(Rung(_what(name, drill), state, drill["waiting"] if state == "now" else ""))
    return found


def line(entry: Data) -> str:
    """A line of its journal; one that only names a phase says it in words."""
    phase, text = entry["phase"], str(entry["text"])
    words = PHASES.get(phase) or f"It {OUTCOMES.get(phase, phase)}"
    if text == phase:
        return words
    return f"{words}: {text.removeprefix(f'{phase}: ')}" if text.startswith(f"{phase}: ") else text


def _stumbled(drill: Data) -> str:
    """The phase in which it went wrong; empty when it did not."""
    before = "starting"
    for line in drill["journal"]:
        if drill["reason"] and line["text"] == f"{line['phase']}: {drill['reason']}":
            return str(before)
        before = line["phase"]
    return ""


def _what(name: str, drill: Data) -> str:
    match name:
        case "going-back":
            return f"Goes back to {drill['target']}"
        case "holding":
            return f"{drill['target']} serves for {span(drill['hold'])}"
        case "going-forth":
            return f"Returns to {drill['home']}"
        case _:
            return PHASES[name]


def figures(receipt: Data | None) -> list[tuple[str, str, str]]:
    """What was measured: name, value and what it means; those that there are."""
    if not receipt:
        return []
    always = ("switch", "recovery")
    return [
        (label, show_duration(receipt[name]) if receipt[name] is not None else "\N{EN DASH}", meaning)
        for name, label, meaning in FIGURES
        if receipt.get(name) is not None or name in always
    ]
