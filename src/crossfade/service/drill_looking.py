"""What a drill looks at: its rollouts, the health of what is live, the judge's word on the older release, and the fault."""

from __future__ import annotations

from collections import deque
from typing import Final

from crossfade.domain.analysis import against_profile
from crossfade.domain.analysis.limits import hold_to
from crossfade.domain.analysis.sample import History
from crossfade.domain.analysis.verdict import Finding
from crossfade.domain.drill import Seen
from crossfade.domain.environment import Environment
from crossfade.domain.errors import CrossfadeError
from crossfade.domain.release import Limits
from crossfade.domain.rollout import Phase
from crossfade.domain.signal import Latencies, Reading
from crossfade.domain.traffic import Counters, Slot
from crossfade.domain.values import EnvKey, ReleaseNumber
from crossfade.ports import Parts, Replica

RECENT: Final = 10.0
"""Seconds that count as lately."""
LOOK_EVERY: Final = 1.0
"""Seconds between two looks at what clients see of the older release."""


def seen(parts: Parts, id: int) -> Seen:
    """One of the drill's rollouts, as its journal tells of it. Raises NotFound."""
    state = parts.store.rollout(id)
    moved = failed = home = None
    for entry in parts.store.journal(id):
        if entry.phase == Phase.ROLLING_BACK.value and failed is None:
            failed = entry.at
        if entry.action == "set-split" and entry.weight and moved is None:
            moved = entry.at
        if entry.action == "set-split" and entry.weight == 0 and failed is not None and home is None:
            home = entry.at
    outcome = state.phase.value if state.phase.ended else ""
    going = state.step > 0 or state.phase is Phase.PROMOTING
    return Seen(id, state.began, outcome, moved, failed, home, state.reason, going)  # type: ignore[arg-type] # two ends


def live_replicas(parts: Parts, environment: Environment) -> tuple[Replica, ...]:
    """Those of the live release that the runtime knows. Raises Unavailable."""
    occupant = environment.slots.get(environment.slot) if environment.slot is not None else None
    names = occupant.names(environment.key) if occupant is not None else ()
    return tuple(one for one in parts.runtime.replicas(environment.key) if one.name in names)


def faults(parts: Parts, environment: Environment) -> tuple[str, ...]:
    """What is wrong with the live release's replicas; nothing when all are healthy."""
    if environment.live is None or environment.slot is None:
        return ()
    config = parts.store.release(environment.key.service, environment.live).config
    occupant = environment.slots.get(environment.slot)
    try:
        known = {one.name: one for one in live_replicas(parts, environment)}
    except CrossfadeError as error:
        return (str(error),)
    for name in occupant.names(environment.key) if occupant is not None else ():
        one = known.get(name)
        if one is None or one.state in ("exited", "stopped"):
            return (f"{name} {one.detail or one.state}" if one is not None else f"{name} is not there",)
        results = parts.prober.check(f"http://{one.host}:{one.port}", config.checks, {})
        wrong = next((f"{name}: {result.name}: {fault}" for result in results for fault in result.faults), "")
        if wrong:
            return (wrong,)
    return ()


def hurt(parts: Parts, environment: Environment, name: str, pid: int) -> str:
    """By what it is seen that a replica is not as it was when it had this process; empty while it is not seen."""
    edge = ""
    try:
        servers = parts.router.read(environment.key).servers.get(environment.slot, ()) if environment.slot else ()
        edge = next((f"the edge sees {name} as down ({s.check})" for s in servers if s.server.name == name
                     and s.status == "down"), "")  # fmt: skip
        one = next((one for one in parts.runtime.replicas(environment.key) if one.name == name), None)
    except CrossfadeError:
        return edge
    if one is None:
        return f"{name} is not there"
    if one.pid != pid or one.state != "running":
        return f"{name} {one.detail or one.state}"
    return edge


class Holding:
    """Whether the older release does worse than what served before it. ``history`` is what clients saw before the drill.

    It is held to its own limits, and to that history as a release is in the watch after its promotion. Used by one thread.
    """

    def __init__(self, limits: Limits, slot: Slot, history: History, began: Reading, hold: float) -> None:
        self._limits, self._slot, self._began, self._planned = limits, slot, began, max(hold, 1.0)
        self._profile = against_profile.profile_of(history)
        self._evidence = against_profile.begin(self._profile)
        self._last = began
        self._recent: deque[Reading] = deque()

    def look(self, reading: Reading) -> str:
        """What is wrong; empty when nothing is."""
        if reading.at - self._last.at < LOOK_EVERY:
            return ""
        while len(self._recent) > 1 and self._recent[1].at <= reading.at - RECENT:
            self._recent.popleft()
        self._recent.append(reading)
        whole, lately, since = (reading.since(one) for one in (self._began, self._recent[0], self._last))
        seconds, slot = reading.at - self._last.at, self._slot
        self._last = reading
        verdict = hold_to(self._limits, whole.facts(slot), lately.facts(slot), whole.facts(slot.other))
        if verdict.finding is Finding.FAIL:
            return verdict.reasons[0]
        counters, latencies = since.slots.get(slot, Counters()), since.latencies.get(slot, Latencies())
        look = against_profile.Look(seconds, counters.requests, counters.errors, latencies.counts)
        self._evidence = against_profile.advance(self._profile, self._evidence, look, self._planned)
        judged, _ = against_profile.judge(self._profile, self._evidence, self._planned)
        return judged.reasons[0] if judged.finding is Finding.FAIL else ""


def stranger(parts: Parts, environment: Environment, own: str) -> int | None:
    """The rollout under way that is not the drill's; None when there is none."""
    holder = environment.holder
    if holder is None or parts.store.begun_by([holder]).get(holder) == own:
        return None
    return holder


def begun(parts: Parts, key: EnvKey, own: str, candidate: ReleaseNumber, after: int) -> int | None:
    """The rollout to a release that the drill has begun, after the one with this id; None when it has not."""
    rollouts = [
        one for one in parts.store.rollouts(key, limit=20) if one.id > after and one.plan.candidate == candidate
    ]
    by = parts.store.begun_by([one.id for one in rollouts])
    return next((one.id for one in rollouts if by.get(one.id) == own), None)
