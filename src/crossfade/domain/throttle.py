"""How often something may be tried: failures are counted by name, and too many of them cost time."""

from __future__ import annotations

from collections import OrderedDict


class Throttle:
    """After ``limit`` failures within ``window`` seconds a name has to wait until the oldest of them is that old.

    Remembers the ``most`` names that failed last, so that inventing names does not fill the memory.
    """

    def __init__(self, limit: int, window: float, most: int = 10_000) -> None:
        self._limit, self._window, self._most = limit, window, most
        self._failures: OrderedDict[str, list[float]] = OrderedDict()

    def wait(self, name: str, now: float) -> float:
        """Seconds until the name may try again; 0 when it may now."""
        recent = [at for at in self._failures.get(name, ()) if now - at < self._window]
        return 0.0 if len(recent) < self._limit else max(0.0, recent[-self._limit] + self._window - now)

    def failed(self, name: str, now: float) -> None:
        """Count a failure."""
        recent = [at for at in self._failures.pop(name, ()) if now - at < self._window]
        self._failures[name] = [*recent, now][-self._limit :]
        while len(self._failures) > self._most:
            self._failures.popitem(last=False)

    def forget(self, name: str) -> None:
        """The name has succeeded."""
        self._failures.pop(name, None)
