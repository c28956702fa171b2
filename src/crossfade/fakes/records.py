"""Records in memory: the twin of `store.records.SqlRecords`."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from crossfade.domain.values import EnvKey
from crossfade.ports import Store
from crossfade.ports.records import Record, no_record, taken


class MemoryRecords:
    """See `ports.records.Records`. ``store`` has the feed that is told."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.RLock()
        self._records: dict[int, Record] = {}
        self._last = 0

    def add(
        self, kind: str, key: EnvKey, subject: str, data: Mapping[str, Any], now: float, *, ended: float | None = None
    ) -> Record:
        """See the port."""
        with self._lock:
            known = next(iter(self.list(kind, key, subject=subject, open_only=True)), None)
            if known is not None and ended is None:
                raise taken(kind, key, subject, known.id)
            self._last += 1
            record = Record(self._last, kind, key, subject, _json(data), now, ended)
            self._records[record.id] = record
            self._store.tell(kind, str(key), {"id": record.id, "subject": subject, "ended": ended is not None}, now)
            return record

    def save(self, id: int, data: Mapping[str, Any], now: float, *, ended: bool = False, told: bool = True) -> None:
        """See the port."""
        with self._lock:
            record = replace(self.get(id), data=_json(data))
            if ended and record.ended is None:
                record = replace(record, ended=now)
            self._records[id] = record
            if told:
                said = {"id": id, "subject": record.subject, "ended": record.ended is not None}
                self._store.tell(record.kind, str(record.key), said, now)

    def get(self, id: int) -> Record:
        """See the port."""
        with self._lock:
            if id not in self._records:
                raise no_record(id)
            return self._records[id]

    def list(
        self,
        kind: str,
        key: EnvKey | None = None,
        *,
        subject: str | None = None,
        open_only: bool = False,
        since: float | None = None,
        limit: int = 50,
        before: int | None = None,
    ) -> tuple[Record, ...]:
        """See the port."""
        with self._lock:
            found = [
                record
                for record in reversed(self._records.values())
                if record.kind == kind
                and key in (None, record.key)
                and subject in (None, record.subject)
                and not (open_only and record.ended is not None)
                and (since is None or record.ended is None or record.ended >= since)
                and (before is None or record.id < before)
            ]
        return tuple(found[:limit])

    def prune(self, kind: str, before: float, keep: int) -> int:
        """See the port."""
        with self._lock:
            over = [r for r in reversed(self._records.values()) if r.kind == kind and r.ended is not None]
            old = [r.id for r in over[keep:] if r.ended is not None and r.ended < before]
            for id in old:
                del self._records[id]
            return len(old)


def _json(data: Mapping[str, Any]) -> Any:
    """As it would be read back."""
    return json.loads(json.dumps(data, allow_nan=False))
