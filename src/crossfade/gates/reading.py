"""XML, text and JSON of reports as streams and values: within limits, and with nothing in them taken for an instruction.

XML is read by defusedxml: entities and what is outside are refused, a document type alone is not, as JaCoCo's and
Cobertura's reports name theirs (it is never fetched). Nothing of the tree is kept, so that a large report is read in little
memory. That is also why JUnit is not read by junitparser, which builds its own tree with a parser of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from crossfade.domain.errors import Invalid
from crossfade.gates.figures import parsed

DEEPEST: Final = 100
MOST_ELEMENTS: Final = 2_500_000
MOST_VALUES: Final = 4_000_000
LONGEST_TEXT: Final = 20_000
"""Characters of an element's text that are kept."""
MOST_COUNTED: Final = 10**15
_CHUNK: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Begun:
    """An element begins. Names are without their namespace."""

    tag: str
    attributes: dict[str, str]


@dataclass(frozen=True, slots=True)
class Ended:
    """An element ends. ``text`` is its own, its first `LONGEST_TEXT` characters."""

    tag: str
    text: str


@dataclass(slots=True)
class _Target:
    """What the parser tells, until it is asked for."""

    path: str
    events: list[Begun | Ended] = field(default_factory=list)
    open: list[list[str]] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)
    elements: int = 0

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        self.elements += 1
        if len(self.open) >= DEEPEST:
            raise Invalid(self.path, f"over {DEEPEST} elements in each other", f"at most {DEEPEST}")
        if self.elements > MOST_ELEMENTS:
            raise Invalid(self.path, f"over {MOST_ELEMENTS} elements", f"at most {MOST_ELEMENTS}")
        self.open.append([])
        self.kept.append(0)
        self.events.append(Begun(_bare(tag), attributes))

    def data(self, text: str) -> None:
        if self.open and self.kept[-1] < LONGEST_TEXT:
            piece = text[: LONGEST_TEXT - self.kept[-1]]
            self.open[-1].append(piece)
            self.kept[-1] += len(piece)

    def end(self, tag: str) -> None:
        self.kept.pop()
        self.events.append(Ended(_bare(tag), "".join(self.open.pop())))

    def close(self) -> None:
        """The parser wants one."""


def _bare(tag: str) -> str:
    return tag.rpartition("}")[2]


def elements(path: str, content: bytes) -> Iterator[Begun | Ended]:
    """The elements of an XML report, in their order. Raises Invalid: no XML, entities in it, too deep, too many."""
    from defusedxml import DefusedXmlException  # noqa: PLC0415 - few gates read XML
    from defusedxml.ElementTree import DefusedXMLParser, ParseError  # noqa: PLC0415 - as above

    target = _Target(path)
    parser: Any = DefusedXMLParser(target=target, forbid_dtd=False, forbid_entities=True, forbid_external=True)
    try:
        for at in range(0, len(content), _CHUNK):
            parser.feed(content[at : at + _CHUNK])
            yield from target.events
            target.events.clear()
        parser.close()
    except DefusedXmlException as error:
        raise Invalid(path, type(error).__name__, "XML without entities and external references") from None
    except (ParseError, ValueError, LookupError) as error:
        raise Invalid(path, str(error)[:100], "well-formed XML") from None
    yield from target.events


def values(path: str, content: bytes) -> Any:
    """The JSON of a report. Raises Invalid as `figures.parsed`, and for more values than a report has."""
    if sum(content.count(sign) for sign in (b",", b"[", b"{")) > MOST_VALUES:
        raise Invalid(path, f"over {MOST_VALUES} values", f"at most {MOST_VALUES}")
    return parsed(path, content)


def lines(path: str, content: bytes) -> Iterator[tuple[int, str]]:
    """The lines of a text with their numbers from 1. Raises Invalid when it is not UTF-8."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Invalid(path, f"byte {content[error.start]:#04x} at {error.start}", "text in UTF-8") from None
    begin, number = 0, 0
    while begin < len(text):
        end = text.find("\n", begin)
        end = len(text) if end < 0 else end
        number += 1
        yield number, text[begin:end].rstrip("\r")
        begin = end + 1


def whole(place: str, text: str | None, *, least: int = 0, most: int = MOST_COUNTED) -> int:
    """A whole number out of an attribute or a column. Raises Invalid."""
    shown = "nothing" if text is None else text[:40]
    digits = (text or "").strip()
    # int() itself would take signs, spaces, underscores, and digits of any script.
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 16) or not least <= int(digits) <= most:
        raise Invalid(place, shown, f"a whole number from {least} to {most}")
    return int(digits)


def shown(text: str, most: int = 200) -> str:
    """Somebody else's words on one line for people: printable, and not longer than ``most`` characters."""
    line = "".join(sign if sign.isprintable() else " " for sign in text[: 4 * most + 200])
    line = " ".join(line.split())
    return line if len(line) <= most else line[: most - 1] + "…"
