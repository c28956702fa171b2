"""What is printed, made harmless: what others have written does not speak to the terminal of who reads it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any, Final

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

_SPEAKS: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters but tab and line end, what turns the direction of writing, and halves of characters."""


class Terminal(Console):
    """A console for which text is text: brackets are no markup, colons no emoji, and control characters are shown."""

    def __init__(self, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, highlight=False, markup=False, emoji=False)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            said = segment.text
            if segment.control or not _SPEAKS.search(said):
                yield segment
            else:
                yield Segment(_SPEAKS.sub("\N{REPLACEMENT CHARACTER}", said), segment.style)


def as_json(data: Any) -> str:
    """One document for people and programs; where it holds what speaks to terminals, all but ASCII is escaped."""
    text = json.dumps(data, indent=2, ensure_ascii=False, default=str)
    return json.dumps(data, indent=2, default=str) if _SPEAKS.search(text) else text
