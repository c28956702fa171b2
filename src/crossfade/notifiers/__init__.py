"""Tells others of runs: forges, sinks of CDEvents, chats."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping

from crossfade.notifiers import cdevents, chat, forges
from crossfade.notifiers.sending import PAUSES, Letter, send
from crossfade.ports.pipeline import News, Source


class Notifiers:
    """`ports.pipeline.Notifier`. ``pause`` waits between tries, for so many seconds."""

    def __init__(self, pause: Callable[[float], None] = time.sleep, pauses: tuple[float, ...] = PAUSES) -> None:
        self._pause, self._pauses = pause, pauses

    def tell(self, source: Source, secrets: Mapping[str, str], news: News) -> tuple[str, ...]:
        """See the port."""
        faults: list[str] = []
        hidden = tuple(value for value in secrets.values() if value)
        try:
            faults.extend(
                fault
                for letter in _letters(source, secrets, news)
                if (fault := send(letter, hidden, self._pause, self._pauses))
            )
        except Exception as error:  # noqa: BLE001 - whatever a source holds, a run is not the worse for it
            faults.append(f"cannot be told: {type(error).__name__}")
        return tuple(faults)


def _letters(source: Source, secrets: Mapping[str, str], news: News) -> Iterator[Letter]:
    status = forges.status(source, secrets.get("token", ""), news)
    if status is not None:
        yield status
    if source.sinks and (event := cdevents.event(source, news)) is not None:
        yield from (cdevents.letter(sink, event) for sink in source.sinks)
    if source.chat and (words := chat.words(news)):
        yield from (chat.letter(place, words) for place in source.chat)
