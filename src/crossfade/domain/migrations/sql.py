"""As much of SQL's lexical rules as it takes to find names in an expression: no grammar, PostgreSQL itself has that."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

TOKEN: Final = re.compile(
    r"""
    (?P<space>   \s+ | --[^\n]* | /\*.*?\*/ )
  | (?P<dollar>  \$(?P<tag>[A-Za-z_]\w*)?\$ .*? \$(?P=tag)?\$ )
  | (?P<text>    [eE]'(?:[^'\\]|\\.|'')*' | (?:[bBxXnN]|[uU]&)?'(?:[^']|'')*' )
  | (?P<quoted>  "(?:[^"]|"")*" )
  | (?P<number>  \d[\w.]* )
  | (?P<word>    [^\W\d][\w$]* )
  | (?P<cast>    :: )
  | (?P<sign>    . )
    """,
    re.VERBOSE | re.DOTALL,
)
RESERVED: Final = frozenset(
    re.findall(
        r"\w+",
        """
    all analyse analyze and any array as asc asymmetric authorization binary both case cast check collate collation
    column concurrently constraint create cross current_catalog current_date current_role current_schema
    current_time current_timestamp current_user default deferrable desc distinct do else end except false fetch for
    foreign freeze from full grant group having ilike in initially inner intersect into is isnull join lateral
    leading left like limit localtime localtimestamp natural not notnull null offset on only or order outer overlaps
    placing primary references returning right select session_user similar some symmetric system_user table
    tablesample then to trailing true union unique user using variadic verbose when where window with
    """,
    )
)
"""Words that are no column's name without quotes (PostgreSQL 18, appendix C)."""
CONSTANT: Final = re.compile(
    r"""\s*(?: [-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)? | true | false | null | E?'(?:[^']|'')*'
        | (?:now|current_date|current_timestamp|localtimestamp|transaction_timestamp)(?:\(\))? )
        \s*(?:::\s*[\w .]+(?:\(\s*\d+(?:\s*,\s*\d+)?\s*\))?(?:\[\])?)?\s*""",
    re.VERBOSE | re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Token:
    """``name`` is what an identifier means to the catalogue (folded, or without its quotes); empty for all else."""

    kind: str
    text: str
    name: str = ""


def tokens(sql: str) -> Iterator[Token]:
    """All of the text, in order, spaces and comments too."""
    for match in TOKEN.finditer(sql):
        kind, text = match.lastgroup or "sign", match.group()
        if kind == "tag":
            kind = "dollar"
        if kind == "word":
            yield Token(kind, text, text.lower())
        elif kind == "quoted":
            yield Token(kind, text, text[1:-1].replace('""', '"'))
        else:
            yield Token(kind, text)


def _columns(sql: str, alias: str) -> Iterator[tuple[int, str]]:
    """Tokens that may be names of columns: the place of each and its name. A qualifier must be ``alias``."""
    every = list(tokens(sql))
    solid = [i for i, token in enumerate(every) if token.kind != "space"]
    for at, i in enumerate(solid):
        token = every[i]
        if not token.name or (token.kind == "word" and token.name in RESERVED):
            continue
        before = every[solid[at - 1]] if at else None
        after = every[solid[at + 1]] if at + 1 < len(solid) else None
        if (after is not None and after.text in ("(", ".")) or (after is not None and after.kind == "text"):
            continue  # a function, a qualifier, or a type before a constant
        if before is not None:
            if before.text == "::" or before.name in ("as", "collate", "nulls"):
                continue
            if before.text == "." and (at < 2 or every[solid[at - 2]].name != alias):
                continue
        yield i, token.name


def names(sql: str, columns: Sequence[str], alias: str = "") -> frozenset[str]:
    """Those of the columns that an expression may refer to: rather one too many than one too few."""
    known = frozenset(columns)
    return frozenset(name for _, name in _columns(sql, alias) if name in known)


def renamed(sql: str, columns: Mapping[str, str], alias: str = "") -> str:
    """The expression with other SQL in the place of names of columns; the qualifier ``alias`` before them goes."""
    found = dict(_columns(sql, alias))
    text: list[str] = []
    every = list(tokens(sql))
    for i, token in enumerate(every):
        if i in found and found[i] in columns:
            while text and text[-1] == ".":
                del text[-2:]
            text.append(columns[found[i]])
        else:
            text.append(token.text)
    return "".join(text)


def is_constant(expression: str) -> bool:
    """Whether a default is one value for all rows, so that PostgreSQL need not write the rows to add it."""
    return CONSTANT.fullmatch(expression) is not None


def reads_tables(expression: str) -> bool:
    """Whether it has a subquery."""
    return any(token.name == "select" and token.kind == "word" for token in tokens(expression))


def parenthesised(text: str) -> tuple[int, int]:
    """Where the first group of parentheses begins and ends, both included; (-1, -1) when there is none."""
    depth, begin, place = 0, -1, 0
    for token in tokens(text):
        if token.text == "(":
            begin = place if depth == 0 and begin < 0 else begin
            depth += 1
        elif token.text == ")":
            depth -= 1
            if depth == 0 and begin >= 0:
                return begin, place
        place += len(token.text)
    return -1, -1
