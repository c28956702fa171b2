"""Pieces of YAML as `crossfade init` writes them."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Sequence


def comments(lead: str, sentences: Sequence[str]) -> list[str]:
    """Sentences as lines of comments, whatever is in them."""
    text = lead + " ".join(sentences)
    printable = "".join(c if c.isprintable() else "?" for c in text)
    return textwrap.wrap(printable, 118, initial_indent="# ", subsequent_indent="# ", break_long_words=False)


def flow(words: Sequence[str]) -> str:
    """A list on one line."""
    return "[" + ", ".join(scalar(word) for word in words) + "]"


def scalar(word: str) -> str:
    """A YAML scalar for any text: plain where it is harmless, else in double quotes, which JSON's are too."""
    if re.fullmatch(r"[A-Za-z/.][A-Za-z0-9_/.-]*", word) and word.lower() not in ("true", "false", "null", "."):
        return word
    return json.dumps(word, ensure_ascii=False)


def wrapped(line: str, words: Sequence[str]) -> list[str]:
    """A line that ends in ``flow(words)``, on several lines when it is long."""
    if len(line) <= 118:
        return [line]
    start = line.removesuffix(flow(words))
    indent = " " * (len(start) - len(start.lstrip()) + 2)
    lines, here = [start.rstrip()], f"{indent}["
    for number, word in enumerate(words):
        piece = scalar(word) + ("]" if number == len(words) - 1 else ",")
        if len(here) + len(piece) > 117 and here.strip() != "[":
            lines.append(here.rstrip())
            here = f"{indent} "
        here += piece + " "
    return [*lines, here.rstrip()]
