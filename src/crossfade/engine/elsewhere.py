"""Asks the signals that come from elsewhere, in a thread of its own: a slow one must not keep the judge from looking."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any, Final

from crossfade.domain.analysis.policy import Source
from crossfade.domain.analysis.sample import Arm
from crossfade.domain.analysis.totals import Totals, since
from crossfade.domain.errors import CrossfadeError
from crossfade.ports import Parts

ASK_EVERY: Final = 2.0
"""Seconds between questions to the sources."""

ARMS: Final = ("baseline", "candidate")


class Elsewhere:
    """What some sources say of both arms since one last looked. ``kept`` is an earlier `to_data`."""

    def __init__(
        self,
        parts: Parts,
        sources: Sequence[Source],
        labels: Mapping[str, Mapping[str, str]],
        kept: Mapping[str, Any],
    ) -> None:
        self._parts, self._sources, self._labels = parts, sources, labels
        self._lock = threading.Lock()
        self._known = {
            (source.name, arm): Totals.from_data(kept[source.name][arm])
            for source in sources
            for arm in ARMS
            if arm in kept.get(source.name, {})
        }
        self._said: dict[str, dict[str, Totals]] = {}
        self._missing = {source.name: "has not answered yet" for source in sources}
        self._stop = threading.Event()
        if sources:
            threading.Thread(target=self._run, name="signals from elsewhere", daemon=True).start()

    def close(self) -> None:
        """Stop asking."""
        self._stop.set()

    def since_last(self) -> tuple[dict[str, Arm], dict[str, str]]:
        """By arm what each source counted since the last time, and why some could not be read."""
        with self._lock:
            said, self._said = self._said, {}
            missing = dict(self._missing)
        arms = {arm: Arm() for arm in ARMS}
        for source in self._sources:
            for arm, totals in said.get(source.name, {}).items():
                known = self._known.get((source.name, arm))
                self._known[source.name, arm] = totals.after(known)
                if known is None:
                    continue  # what it counted before the rollout is nobody's
                try:
                    arms[arm] = _joined(arms[arm], since(source, totals, known))
                except CrossfadeError as error:
                    missing[source.name] = str(error)
        return arms, missing

    def to_data(self) -> dict[str, Any]:
        """As JSON: how far each source was read."""
        data: dict[str, Any] = {}
        for (name, arm), totals in self._known.items():
            data.setdefault(name, {})[arm] = totals.to_data()
        return data

    def _run(self) -> None:
        while not self._stop.is_set():
            for source in self._sources:
                try:
                    said = {arm: self._parts.sources.read(source, self._labels[arm]) for arm in ARMS}
                except CrossfadeError as error:
                    with self._lock:
                        self._missing[source.name] = str(error)
                    continue
                except Exception as error:  # noqa: BLE001 - a source that breaks in a new way is one that is missing
                    with self._lock:
                        self._missing[source.name] = f"cannot be read: {error!r}"
                    continue
                with self._lock:
                    self._said[source.name] = said
                    self._missing.pop(source.name, None)
            self._stop.wait(ASK_EVERY)


def _joined(one: Arm, other: Arm) -> Arm:
    return Arm(
        one.requests,
        one.errors,
        {**one.rates, **other.rates},
        {**one.histograms, **other.histograms},
        {**one.means, **other.means},
    )
