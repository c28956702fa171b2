"""YAML text as plain data, with the line of every key. Never runs anything, and stops early on hostile input.

The events of ruamel.yaml's parser are read one by one, rather than its finished objects, because only so the
work is bounded: a document can nest or repeat itself (aliases) beyond any memory long before it is large.
Plain scalars are read by the core schema of YAML 1.2 (section 10.3.2): ``on`` and ``no`` are text, ``0123`` is 123.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)
from ruamel.yaml.reader import ReaderError

LARGEST: Final = 1024 * 1024
"""Bytes of a file."""

LONGEST_LINE: Final = 65_536
"""Characters. The parser takes quadratic time over some tokens, none of which spans lines."""

MOST_VALUES: Final = 10_000
"""Values in a file, those behind aliases counted wherever they are used."""

DEEPEST: Final = 30
"""Levels of lists and mappings."""

EMPTY: Final = "an empty file"

Path = tuple[str | int, ...]

_NULL = re.compile(r"~|null|Null|NULL|")
_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
_INT = re.compile(r"[-+]?[0-9]{1,4000}")
_OCTAL = re.compile(r"0o[0-7]{1,4000}")
_HEX = re.compile(r"0x[0-9a-fA-F]{1,4000}")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_SPECIAL = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_STR: Final = "tag:yaml.org,2002:str"


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with the YAML itself. ``line`` counts from 1; ``path`` leads to the key, empty for the whole file."""

    line: int
    path: Path
    found: str
    allowed: str


@dataclass(slots=True)
class Tree:
    """``data`` is dicts, lists and scalars; ``lines`` has the line of each key and item by its path.

    ``broken``: the text could not be read to its end, so that nothing more can be said of it.
    """

    data: Any = None
    lines: dict[Path, int] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    broken: bool = False


@dataclass(slots=True)
class _Node:
    line: int
    kind: str  # "scalar", "list", "map"
    text: str = ""
    plain: bool = False
    items: list[_Node] = field(default_factory=list)  # of a map: key, value, key, value, …
    tag: str = ""


class _Stop(Exception):
    def __init__(self, line: int, found: str, allowed: str) -> None:
        super().__init__(found)
        self.fault = Fault(line, (), found, allowed)


def read(text: str, verbatim: Callable[[Path], bool] = lambda path: False) -> Tree:
    """Read one document. Scalars whose path is ``verbatim`` stay text as written. Never raises on bad input."""
    tree = Tree()
    try:
        if len(text.encode("utf-8", "replace")) > LARGEST:
            raise _Stop(0, "a file of more than 1 MiB", "at most 1 MiB")
        for number, line in enumerate(text.split("\n"), 1):
            if len(line) > LONGEST_LINE:
                raise _Stop(number, f"a line of more than {LONGEST_LINE} characters", "shorter lines")
        node = _compose(text.removeprefix("\ufeff"))
        if node is None or (node.kind == "scalar" and node.plain and _NULL.fullmatch(node.text)):
            raise _Stop(0, EMPTY, "a mapping that begins with service:")
        _Builder(tree, verbatim).build(node)
    except _Stop as stop:
        tree.faults.append(stop.fault)
        tree.broken = True
    except MarkedYAMLError as error:
        tree.faults.append(_syntax(error))
        tree.broken = True
    except ReaderError as error:
        before = text[: error.position] if isinstance(error.position, int) else ""
        fault = Fault(before.count("\n") + 1, (), "a character that is not printable", "printable characters")
        tree.faults.append(fault)
        tree.broken = True
    except (YAMLError, ValueError, RecursionError, IndexError, AttributeError, AssertionError, NotImplementedError):
        # The scanner's own slips on garbage: what it was given is not YAML, wherever it stumbled.
        tree.faults.append(Fault(0, (), "text that is not YAML", "a YAML mapping"))
        tree.broken = True
    return tree


def _syntax(error: MarkedYAMLError) -> Fault:
    mark = error.problem_mark or error.context_mark
    line = mark.line + 1 if mark is not None else 0
    what = " ".join(str(error.problem or error.context or "broken YAML").split())
    if "'\\t'" in what:
        return Fault(line, (), "a tab", "spaces to indent with; YAML does not allow tabs there")
    return Fault(line, (), f"broken YAML ({what[:100]})", "YAML, with its brackets, quotes and indentation in order")


def _compose(text: str) -> _Node | None:
    root: _Node | None = None
    open_nodes: list[tuple[_Node, str]] = []
    anchors: dict[str, _Node] = {}
    count = 0
    documents = 0
    for event in YAML(typ="safe", pure=True).parse(text):
        line = event.start_mark.line + 1
        count += 1
        if count > 2 * MOST_VALUES:
            raise _Stop(line, f"more than {MOST_VALUES} values", "a smaller file")
        if isinstance(event, DocumentStartEvent):
            documents += 1
            if documents > 1:
                raise _Stop(line, "a second document", "one document in a file")
            continue
        node: _Node
        if isinstance(event, ScalarEvent):
            node = _Node(line, "scalar", event.value, bool(event.implicit[0]), tag=_tag(event))
            if event.anchor:
                anchors[event.anchor] = node
        elif isinstance(event, MappingStartEvent | SequenceStartEvent):
            node = _Node(line, "map" if isinstance(event, MappingStartEvent) else "list", tag=_tag(event))
            open_nodes.append((node, event.anchor or ""))
            if len(open_nodes) > DEEPEST:
                raise _Stop(line, f"more than {DEEPEST} levels of lists and mappings", "a flatter file")
            continue
        elif isinstance(event, MappingEndEvent | SequenceEndEvent):
            node, anchor = open_nodes.pop()
            if anchor:
                anchors[anchor] = node
        elif isinstance(event, AliasEvent):
            # An anchor counts from the end of its value on, so that nothing can contain itself.
            known = anchors.get(event.anchor)
            if known is None:
                raise _Stop(line, f"the alias *{event.anchor[:40]}", "an anchor that is complete above it")
            node = _Node(line, known.kind, known.text, known.plain, known.items, known.tag)
        else:
            continue
        if open_nodes:
            open_nodes[-1][0].items.append(node)
        else:
            root = node
    return root


def _tag(event: Any) -> str:
    return str(event.ctag or "")


class _Builder:
    def __init__(self, tree: Tree, verbatim: Callable[[Path], bool]) -> None:
        self._tree = tree
        self._verbatim = verbatim
        self._count = 0

    def build(self, root: _Node) -> None:
        self._tree.lines[()] = root.line
        self._tree.data = self._value(root, (), 0)

    def _fault(self, line: int, path: Path, found: str, allowed: str) -> None:
        self._tree.faults.append(Fault(line, path, found, allowed))

    def _value(self, node: _Node, path: Path, depth: int) -> Any:
        self._count += 1
        if self._count > MOST_VALUES:
            raise _Stop(node.line, f"more than {MOST_VALUES} values, aliases counted", "a smaller file")
        if depth > DEEPEST:
            raise _Stop(node.line, f"more than {DEEPEST} levels, aliases counted", "a flatter file")
        if node.tag not in ("", "!", _STR):
            self._fault(node.line, path, f"the tag {node.tag[:60]!r}", "values without tags")
        if node.kind == "list":
            items = []
            for number, item in enumerate(node.items):
                self._tree.lines[(*path, number)] = item.line
                items.append(self._value(item, (*path, number), depth + 1))
            return items
        if node.kind == "map":
            return self._mapping(node, path, depth)
        if self._verbatim(path) and not (node.plain and not node.tag and _NULL.fullmatch(node.text)):
            return node.text
        return _scalar(node.text) if node.plain and not node.tag else node.text

    def _mapping(self, node: _Node, path: Path, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        merged: list[tuple[_Node, _Node]] = []
        for key, value in zip(node.items[::2], node.items[1::2], strict=True):
            if key.kind != "scalar":
                self._fault(
                    key.line, path, f"a {'list' if key.kind == 'list' else 'mapping'} as a key", "text as a key"
                )
            elif key.text == "<<" and key.plain:
                merged.append((key, value))
            elif key.text in found:
                first = self._tree.lines[(*path, key.text)]
                allowed = f"each key once; the first is in line {first}"
                self._fault(key.line, (*path, key.text), "the same key again", allowed)
            else:
                self._tree.lines[(*path, key.text)] = key.line
                found[key.text] = self._value(value, (*path, key.text), depth + 1)
        for key, value in merged:
            self._merge(key, value, path, found, depth)
        return found

    def _merge(self, key: _Node, value: _Node, path: Path, found: dict[str, Any], depth: int) -> None:
        """``<<: *defaults``: what it names fills in the keys that are not there."""
        for source in value.items if value.kind == "list" else [value]:
            if source.kind != "map":
                self._fault(key.line, (*path, "<<"), "something that is not a mapping", "a mapping to merge in")
                continue
            # Its own keys may repeat some that are here, so it is read aside, and its lines kept only where it counts.
            aside = Tree()
            builder = _Builder(aside, self._verbatim)
            builder._count = self._count
            fill = builder._mapping(source, path, depth + 1)
            self._count = builder._count
            self._tree.faults += aside.faults
            for name, content in fill.items():
                if name not in found:
                    found[name] = content
                    here = len(path)
                    self._tree.lines |= {at: line for at, line in aside.lines.items() if at[here : here + 1] == (name,)}


def _scalar(text: str) -> Any:
    if _NULL.fullmatch(text):
        return None
    if _BOOL.fullmatch(text):
        return text.lower() == "true"
    if _INT.fullmatch(text):
        return int(text)
    if _OCTAL.fullmatch(text) or _HEX.fullmatch(text):
        return int(text, 0)
    if _FLOAT.fullmatch(text):
        return float(text)
    if _SPECIAL.fullmatch(text):
        return float(text.replace(".", "", 1))
    return text
