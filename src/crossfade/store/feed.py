"""The feed of changes: appended to in the transaction of what has changed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from crossfade.ports import CHANGES_KEPT
from crossfade.store import tables as t


def tell(c: sa.Connection, kind: str, key: str, now: float, data: Mapping[str, Any], rollout: int | None) -> None:
    """Append a change, and now and then forget the oldest ones."""
    text = json.dumps(data, separators=(",", ":"))
    result = c.execute(t.feed.insert().values(at=now, kind=kind, key=key, rollout=rollout, data=text))
    assert result.inserted_primary_key is not None
    seq = result.inserted_primary_key[0]
    if seq % 100 == 0:
        c.execute(t.feed.delete().where(t.feed.c.seq <= seq - CHANGES_KEPT))
