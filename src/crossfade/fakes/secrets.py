"""The twin of `store.secrets`."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping

from crossfade.domain.errors import CrossfadeError, NotFound


class FakeSecrets:
    """`ports.Secrets` in memory. ``fails_with`` is raised by the next `put`, until it is None."""

    def __init__(self) -> None:
        self.fails_with: CrossfadeError | None = None
        self._lock = threading.Lock()
        self._found: dict[str, dict[str, str]] = {}

    def put(self, values: Mapping[str, str]) -> str:
        if self.fails_with is not None:
            raise self.fails_with
        if not values:
            return ""
        name = hashlib.sha256(json.dumps(dict(values), sort_keys=True).encode()).hexdigest()
        with self._lock:
            self._found[name] = dict(values)
        return name

    def get(self, name: str) -> Mapping[str, str]:
        if not name:
            return {}
        with self._lock:
            if name not in self._found:
                raise NotFound(f"There are no secrets {name[:12]}.", hint="Deploy again with the env file.")
            return dict(self._found[name])
