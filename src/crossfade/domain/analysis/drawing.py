"""What plots are drawn with: an area with axes, lines of text that do not touch, and the document around them.

Each document is one self-contained SVG element without scripts and without ids, so that several may stand in one page.
It follows the reader's light or dark scheme; a page may set its custom properties (``--ink``, ``--baseline``, …).
Colours are Okabe and Ito's, and no line is told by its colour alone. Whatever the numbers are, all coordinates are.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from crossfade.domain.analysis.evidence import Array

WIDTH, HEIGHT = 640, 240
TOP, BOTTOM = 58, 208
"""Where the area of a plot begins and ends; above it are its titles, below it the labels of its axis."""

GAP: Final = 13.0
"""Pixels from one line of text to the next."""

MOST_TITLE: Final = 90

STYLE: Final = """
.cf-plot{--ink:#1f2328;--soft:#59636e;--grid:#d8dee4;--baseline:#0072b2;--candidate:#c04f00;--line-2:#00795a;\
--line-3:#a1478a;--line-4:#6b5b00;font:11px system-ui,sans-serif}
@media (prefers-color-scheme:dark){.cf-plot{--ink:#e6edf3;--soft:#9da7b1;--grid:#343b44;--baseline:#56b4e9;\
--candidate:#f0a03c;--line-2:#2dc79c;--line-3:#e08fc4;--line-4:#e6d95a}}
.cf-plot text{fill:var(--soft)}.cf-plot .head{fill:var(--ink);font-size:13px;font-weight:600}
.cf-plot .grid{stroke:var(--grid);stroke-width:1}.cf-plot .limit{stroke:var(--ink);stroke-width:1.25;\
stroke-dasharray:5 4}.cf-plot .said{fill:var(--ink)}
.cf-plot path{fill:none;stroke-width:2;stroke-linejoin:round}
"""
COLOURS: Final = ("--candidate", "--baseline", "--line-2", "--line-3", "--line-4")
DASHES: Final = ("", "7 3", "2 3", "9 3 2 3", "4 2")


# --- where things are


@dataclass(frozen=True, slots=True)
class Panel:
    """An area from ``left`` to ``right`` pixels that shows x0…x1 and y0…y1."""

    left: float
    right: float
    x0: float
    x1: float
    y0: float
    y1: float
    bottom: float = BOTTOM

    def x(self, value: float) -> str:
        return place(value, self.x0, self.x1, self.left, self.right)

    def y(self, value: float) -> str:
        return place(value, self.y0, self.y1, self.bottom, TOP)

    def points(self, values: Iterable[tuple[float, float]]) -> str:
        """Of a path or polygon; what is no number is left out."""
        return " ".join(f"{self.x(x)},{self.y(y)}" for x, y in values if not (math.isnan(x) or math.isnan(y)))

    def path(self, values: Iterable[tuple[float, float]], style: str) -> str:
        points = self.points(values)
        return f'<path d="M{points}" style="{style}"/>' if points else ""

    def inside(self, drawn: str) -> str:
        """Drawn things, cut off at the borders."""
        wide, tall = self.right - self.left, self.bottom - TOP
        return (
            f'<svg x="{self.left}" y="{TOP}" width="{wide}" height="{tall}" '
            f'viewBox="{self.left} {TOP} {wide} {tall}" overflow="hidden">{drawn}</svg>'
        )

    def across(self, y: float, kind: str, style: str = "") -> str:
        at = self.y(y)
        return f'<line class="{kind}" x1="{self.left}" y1="{at}" x2="{self.right}" y2="{at}" style="{style}"/>'

    def axes(self, along: Sequence[tuple[float, str]], up: Sequence[tuple[float, str]]) -> str:
        drawn = []
        for value, text in up:
            drawn.append(self.across(value, "grid"))
            drawn.append(caption(self.left - 6, float(self.y(value)) + 4, text, "", "end"))
        for value, text in along:
            x = self.x(value)
            drawn.append(f'<line class="grid" x1="{x}" y1="{self.bottom}" x2="{x}" y2="{self.bottom + 4}"/>')
            drawn.append(caption(float(x), self.bottom + 17, text, "", "middle"))
        return "".join(drawn)

    def labels(self, wanted: Sequence[tuple[float, str, str]]) -> str:
        """Texts at the right of the area, at their heights or as near as there is room: (y, text, class or colour)."""
        placed: list[tuple[float, str, str]] = []
        for y, text, kind in sorted(wanted, key=lambda one: -one[0]):
            at = float(self.y(y)) + 4
            placed.append((max(at, placed[-1][0] + GAP) if placed else max(at, TOP + 6), text, kind))
        over = placed[-1][0] - (self.bottom + 4) if placed else 0.0
        lowest = math.inf
        drawn = []
        for at, text, kind in reversed(placed):
            # From below: only what would leave the area, or touch what has moved up, moves up.
            lowest = min(at, lowest - GAP, self.bottom + 4.0) if over > 0 else at
            drawn.append(caption(self.right + 6, lowest, text, kind))
        return "".join(drawn)


def place(value: float, low: float, high: float, start: float, end: float) -> str:
    """A coordinate, always a number: what lies far outside is drawn just outside."""
    share = (value - low) / (high - low) if high > low and math.isfinite(value) else (0.5 if high <= low else 0.0)
    if value == math.inf:
        share = 1.2
    elif value == -math.inf:
        share = -0.2
    return f"{start + (end - start) * min(1.2, max(-0.2, share)):.1f}"


def begin(t: Array) -> float:
    """Where the axis of time begins: at 0, unless all that is shown is much later."""
    first, last = float(t[0]), float(t[-1])
    return first if last > 0 and first > 0.5 * last and len(t) > 1 else 0.0


def linear_ticks(low: float, high: float) -> list[tuple[float, str]]:
    """Some round numbers between two, and how they are written."""
    step = tick_step((high - low) / 4)
    first = math.ceil(low / step)
    return [(k * step, f"{k * step:.4g}") for k in range(first, first + 7) if k * step <= high]


def tick_step(least: float) -> float:
    """The next of 1, 2, 5, 10, 20, …"""
    power = 10 ** math.floor(math.log10(least)) if least > 0 and math.isfinite(least) else 1.0
    return next(power * times for times in (1, 2, 5, 10) if power * times >= least * 0.999 or times == 10)


def time_ticks(low: float, high: float) -> list[tuple[float, str]]:
    """Of an axis in seconds, in the unit that suits it."""
    units = ((86_400.0, "d"), (3600.0, "h"), (60.0, "min"), (1.0, "s"))
    size, name = next((one for one in units if high - low >= 3 * one[0]), units[-1])
    ticks = linear_ticks(low / size, high / size)
    return [(t * size, f"{text} {name}" if i == len(ticks) - 1 else text) for i, (t, text) in enumerate(ticks)]


# --- words and marks


def document(title: str, what: str, said: str, body: Sequence[str], height: int = HEIGHT) -> str:
    """The whole element. ``said``: the plot in words, for those who cannot see it."""
    title = title if len(title) <= MOST_TITLE else title[: MOST_TITLE - 1] + "…"
    name = plain(f"{title}. {what}" if title else what)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="cf-plot" role="img" aria-label="{name}" '
        f'viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}">'
        f"<title>{name}</title><desc>{plain(said)}</desc><style>{STYLE}</style>"
        + (caption(12, 17, title, "head") + caption(12, 32, what) if title else caption(12, 17, what, "head"))
        + "".join(body)
        + "</svg>\n"
    )


def caption(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> str:
    """``kind``: a class, or a style if it has a colon."""
    how = f' style="{kind}"' if ":" in kind else f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{how}>{plain(text)}</text>'


def plain(text: str) -> str:
    """Escaped, and without what XML cannot hold at all."""
    return escape(re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", text))


def empty() -> str:
    """In place of a plot that has nothing to show."""
    return caption(WIDTH / 2, HEIGHT / 2 + 16, "nothing to show yet", "", "middle")


def finite(values: Iterable[float]) -> list[float]:
    """Those that are numbers."""
    return [float(value) for value in values if math.isfinite(value)]
