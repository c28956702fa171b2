"""Follows a rollout to its end."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.console import Console
from rich.live import Live

from crossfade.cli import show
from crossfade.cli.client import Client, Data
from crossfade.domain.errors import Unavailable

POLL = 0.15
AWAY = 60.0
"""Seconds for which a server that does not answer is waited for; it restarts in a few."""


def _look(client: Client, id: int) -> Data:
    deadline = time.monotonic() + AWAY
    while True:
        try:
            return client.rollout(id)
        except Unavailable:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def silently(client: Client, id: int) -> Data:
    """Wait for the end."""
    while not (state := _look(client, id))["ended"]:
        time.sleep(POLL)
    return state


def live(console: Console, client: Client, id: int) -> Data | None:
    """Show progress until the end; None when the person leaves with Ctrl-C (the rollout goes on)."""
    told = 0
    first = _look(client, id)
    key = f"{first['service']}/{first['environment']}"
    console.print(f"{key}: rollout #{id} of {first['candidate']} ({first['strategy']})")
    try:
        with Live(console=console, refresh_per_second=8, transient=True) as screen:
            while True:
                state = _look(client, id)
                journal = client.journal(id)
                for entry in journal[told:]:
                    screen.console.print(f"  {entry['at'] - first['began']:7.2f} s  {entry['text']}", markup=False)
                told = len(journal)
                if state["ended"]:
                    return state
                if console.is_terminal:
                    screen.update(show.environment(client.environment(key)))
                time.sleep(POLL)
    except KeyboardInterrupt:
        return None


def receipt(client: Client, id: int, patience: float = 8.0) -> Data:
    """The receipt, with what clients saw after the end when that comes in time."""
    deadline = time.monotonic() + patience
    while "after" not in (data := client.receipt(id))["traffic"] and time.monotonic() < deadline:
        if not data["traffic"]:
            break
        time.sleep(POLL)
    return data


def until(client: Client, id: int, command: str, patience: float = 5.0) -> Data:
    """The rollout once a command has shown its effect, or as it is when it takes its time."""
    deadline = time.monotonic() + patience
    while True:
        state = _look(client, id)
        effect = {
            "pause": state["paused"],
            "resume": not state["paused"],
            "promote": state["phase"] in ("promoting", "promoted"),
            "abort": state["phase"] in ("rolling-back", "rolled-back"),
        }[command]
        if effect or state["ended"] or time.monotonic() > deadline:
            return state
        time.sleep(0.02)


def new_lines(old: Sequence[str], now: Sequence[str]) -> Sequence[str]:
    """The lines of ``now`` that come after those of ``old``, where both are the end of one growing text."""
    for overlap in range(min(len(old), len(now)), 0, -1):
        if list(old[-overlap:]) == list(now[:overlap]):
            return now[overlap:]
    return now
