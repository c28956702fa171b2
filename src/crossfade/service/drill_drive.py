"""A drill under way, as it is kept: its state, what was read, and what it has done to the world."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Final

from pydantic import TypeAdapter

from crossfade.domain.analysis.sample import History
from crossfade.domain.drill import Drill
from crossfade.domain.signal import Reading
from crossfade.domain.traffic import Slot
from crossfade.ports import Record
from crossfade.service.drill_looking import Holding

LONGEST_JOURNAL: Final = 200
_STATE, _READINGS, _HISTORY = TypeAdapter(Drill), TypeAdapter(dict[str, Reading]), TypeAdapter(History)


@dataclass(slots=True)
class Drive:
    """A drill under way. ``victim`` is the replica that is killed and its process, ``slot`` where the edge has the fault.

    ``killed``: which server is to be killed, and when that was written down.
    """

    state: Drill
    history: History = field(default_factory=History)
    readings: dict[str, Reading] = field(default_factory=dict)
    journal: list[dict[str, Any]] = field(default_factory=list)
    due: float | None = None
    slot: Slot | None = None
    victim: tuple[str, int] | None = None
    killed: tuple[str, float] | None = None
    receipt: dict[str, Any] | None = None
    ended: float | None = None
    holding: Holding | None = None
    faults: tuple[str, ...] = ()
    asked: float = 0.0
    leased: float = 0.0
    failing: float | None = None

    def to_data(self) -> dict[str, Any]:
        """As JSON."""
        state = self.state
        return {
            "drill": _STATE.dump_python(state, mode="json"),
            "name": state.plan.name,
            "by": state.by,
            "outcome": state.phase.value if state.phase.ended else "",
            "history": _HISTORY.dump_python(self.history, mode="json"),
            "readings": _READINGS.dump_python(self.readings, mode="json"),
            "journal": self.journal,
            "due": self.due,
            "slot": self.slot.value if self.slot is not None else None,
            "victim": list(self.victim) if self.victim is not None else None,
            "killed": list(self.killed) if self.killed is not None else None,
            "receipt": self.receipt,
        }

    @classmethod
    def of(cls, record: Record) -> Drive:
        """From what was written down."""
        data = record.data
        return cls(
            replace(_STATE.validate_python(data["drill"]), id=record.id),
            _HISTORY.validate_python(data["history"]),
            _READINGS.validate_python(data["readings"]),
            list(data["journal"]),
            data["due"],
            Slot(data["slot"]) if data["slot"] is not None else None,
            (str(data["victim"][0]), int(data["victim"][1])) if data["victim"] is not None else None,
            (str(data["killed"][0]), float(data["killed"][1])) if data["killed"] is not None else None,
            data["receipt"],
            record.ended,
        )

    def say(self, at: float, text: str) -> None:
        """A line of the journal."""
        self.journal.append({"at": at, "text": text, "phase": self.state.phase.value})
        del self.journal[:-LONGEST_JOURNAL]


def name_of(id: int) -> str:
    """Who begins a drill's rollouts."""
    return f"drill #{id}"


def of_drill(name: str) -> bool:
    """Whether it was a drill that has begun a rollout."""
    return name.startswith("drill #")
