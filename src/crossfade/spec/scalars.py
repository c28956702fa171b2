"""The kinds of values in `crossfade.yaml`: how each is read, written back, described to people and to editors."""

from __future__ import annotations

import ipaddress
import math
import re
import shlex
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final
from urllib.parse import urlsplit

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from crossfade.domain import schedule
from crossfade.domain.analysis.policy import QUANTILES
from crossfade.domain.errors import Invalid
from crossfade.domain.release import SMALLEST_WINDOW
from crossfade.domain.values import Weight, parse_duration, parse_name

LONGEST_TEXT: Final = 32_768
"""Characters of one value. The operating system takes 128 KiB for one argument or variable."""

MOST_WORDS: Final = 500
"""Words of a command, patterns of a list."""

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}")
_SHARE = re.compile(r"\s*(\d{1,12}(?:\.\d{1,12})?)\s*%\s*")
METRIC = re.compile(r"[a-z][a-z0-9_.-]{0,39}")
_PATH = re.compile(r"/[\x21\x22\x24-\x7e]{0,1999}")
_SHELL = re.compile(r"\|\|?|&&?|;|\d*[<>]{1,2}(?:&\d)?|\$\(.*|`.*")
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_RESERVED = ("PORT", "HOST")
_UNITS = ("s", "m", "h", "d", "ms")


class NotAllowed(Exception):
    """A value is not of its kind. ``allowed`` says more than the kind's own words do; empty when it has no more to say."""

    def __init__(self, allowed: str = "") -> None:
        super().__init__(allowed)
        self.allowed = allowed


@dataclass(frozen=True)
class Kind:
    """One kind of value. ``allowed`` completes "allowed: …"; ``read`` raises NotAllowed; ``schema`` is for editors.

    Attached to a field's annotation; it replaces the validation that Pydantic would choose for the type.
    """

    allowed: str
    read: Callable[[Any], Any]
    write: Callable[[Any], Any] = lambda value: value
    schema: Mapping[str, Any] = field(default_factory=dict)

    def _validate(self, value: Any) -> Any:
        try:
            return self.read(value)
        except NotAllowed as refused:
            raise PydanticCustomError(
                "not_allowed", "{allowed}", {"allowed": refused.allowed or self.allowed}
            ) from None

    def __get_pydantic_core_schema__(self, _source: Any, _handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            self._validate,
            serialization=core_schema.plain_serializer_function_ser_schema(self.write),
        )

    def __get_pydantic_json_schema__(self, _core: CoreSchema, _handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return dict(self.schema)


@dataclass(frozen=True)
class Words:
    """What is allowed where a mapping or a list is expected."""

    allowed: str


def text_of(value: Any, longest: int = LONGEST_TEXT) -> str:
    """The value itself when it is text of at most so many characters. Raises NotAllowed."""
    if not isinstance(value, str) or len(value) > longest or "\0" in value:
        raise NotAllowed
    try:
        value.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can smuggle in
        raise NotAllowed from None
    return value


def choice(*names: str) -> Kind:
    """One of some words."""

    def read(value: Any) -> str:
        if not isinstance(value, str) or value not in names:
            raise NotAllowed
        return value

    words = ", ".join(names[:-1]) + f" or {names[-1]}" if len(names) > 1 else names[0]
    return Kind(words, read, schema={"type": "string", "enum": list(names)})


def whole(low: int, high: int, allowed: str = "") -> Kind:
    """A whole number from ``low`` to ``high``."""

    def read(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise NotAllowed
        return value

    words = allowed or f"a whole number from {low} to {high}"
    return Kind(words, read, schema={"type": "integer", "minimum": low, "maximum": high})


def show_seconds(seconds: float) -> str:
    """The shortest text that `parse_duration` reads as exactly this many seconds: ``30s``, ``250ms``, ``1.5h``."""
    candidates = []
    for unit in _UNITS:
        size = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}[unit]
        text = f"{Decimal(repr(round(seconds / size, 9))).normalize():f}{unit}"
        if parse_duration("duration", text) == seconds:
            candidates.append(text)
    return min(candidates, key=len, default=f"{Decimal(repr(seconds)):f}s")


def duration(low: str, high: str, *, none: bool = False) -> Kind:
    """Seconds from ``low`` to ``high``; with ``none``, that word stands for no limit."""
    least, most = parse_duration("low", low), parse_duration("high", high)

    def read(value: Any) -> float | None:
        if none and value == "none":
            return None
        if not isinstance(value, str) or len(value) > 40:
            raise NotAllowed
        try:
            seconds = parse_duration("duration", value)
        except Invalid:
            raise NotAllowed from None
        if not least <= seconds <= most:
            raise NotAllowed
        return seconds

    words = f"a duration from {low} to {high} with a unit ms, s, m, h or d"
    pattern = r"^\s*\d+(\.\d+)?(ms|s|m|h|d)\s*$"
    return Kind(
        f"{words}, or none" if none else words,
        read,
        lambda seconds: "none" if seconds is None else show_seconds(seconds),
        {"type": "string", "pattern": pattern + r"|^none$" if none else pattern},
    )


def percentage(*, none: bool = False, zero: bool = True) -> Kind:
    """A share as a `Weight`; with ``none``, that word stands for no limit."""

    def read(value: Any) -> Weight | None:
        if none and value == "none":
            return None
        if not isinstance(value, str) or len(value) > 40:
            raise NotAllowed
        try:
            weight = Weight.parse(value)
        except Invalid:
            raise NotAllowed from None
        if not zero and not weight.bp:
            raise NotAllowed
        return weight

    words = f"a percentage {'from' if zero else 'above'} 0% {'to' if zero else 'up to'} 100% with at most two decimals"
    pattern = r"^\s*\+?\d+(\.\d*)?\s*%\s*$"
    return Kind(
        f"{words}, or none" if none else words,
        read,
        lambda weight: "none" if weight is None else f"{weight.bp / 100:g}%",
        {"type": "string", "pattern": pattern + r"|^none$" if none else pattern},
    )


def _share_of(text: str) -> float:
    """``0.1%`` is 0.001. Raises NotAllowed."""
    found = _SHARE.fullmatch(text)
    if found is None:
        raise NotAllowed
    return float(Decimal(found[1]) / 100)


def share(low: str, high: str, *, none: bool = False) -> Kind:
    """A share 0…1 as a percentage, with as many digits as one likes; with ``none``, that word stands for no limit."""
    least, most = _share_of(low), _share_of(high)

    def read(value: Any) -> float | None:
        if none and value == "none":
            return None
        if not isinstance(value, str) or len(value) > 40:
            raise NotAllowed
        found = _share_of(value)
        if not least <= found <= most:
            raise NotAllowed
        return found

    words = f"a percentage from {low} to {high}"
    pattern = r"^\s*\d+(\.\d+)?\s*%\s*$"
    return Kind(
        f"{words}, or none" if none else words,
        read,
        lambda found: "none" if found is None else f"{(Decimal(repr(found)) * 100).normalize():f}%",
        {"type": "string", "pattern": pattern + r"|^none$" if none else pattern},
    )


def number(low: float, high: float, *, none: bool = False) -> Kind:
    """A number from ``low`` to ``high``; with ``none``, that word stands for no such limit."""

    def read(value: Any) -> float | None:
        if none and value == "none":
            return None
        found = float(_number(value))
        if not low <= found <= high:
            raise NotAllowed
        return found

    words = f"a number from {low:g} to {high:g}"
    plain: Mapping[str, Any] = {"type": "number", "minimum": low, "maximum": high}
    return Kind(
        f"{words}, or none" if none else words,
        read,
        lambda found: "none" if found is None else found,
        {"anyOf": [plain, {"const": "none"}]} if none else plain,
    )


def _metric_name(value: Any) -> str:
    if not METRIC.fullmatch(text_of(value, 40)):
        raise NotAllowed
    return str(value)


def _query(value: Any) -> str:
    text = text_of(value, 4000)
    if not text.strip() or any(ord(c) < 32 and c not in "\t\n" for c in text):
        raise NotAllowed
    return text


def _url(value: Any) -> str:
    text = text_of(value, 2000)
    try:
        parts = urlsplit(text)
        port_is_fine = parts.port is None or parts.port > 0
    except ValueError:
        raise NotAllowed from None
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_is_fine or not text.isprintable():
        raise NotAllowed
    if parts.username is not None or parts.password is not None or " " in text:
        raise NotAllowed
    return text


def _name(value: Any) -> str:
    try:
        return parse_name("name", text_of(value))
    except Invalid:
        raise NotAllowed from None


def _label(value: Any) -> str:
    text = text_of(value, 100).strip()
    if not text or not text.isprintable():
        raise NotAllowed
    return text


def _command(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        try:
            words = shlex.split(text_of(value))
        except ValueError:
            raise NotAllowed("a command whose quotes are closed; a list of words avoids quoting") from None
        for word in words:
            if _SHELL.fullmatch(word):
                raise NotAllowed(
                    f'a command without {word!r}: no shell reads it. Use ["sh", "-c", "…"] where a shell is wanted'
                )
        if words and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*=.*", words[0], re.DOTALL):
            raise NotAllowed("a command that begins with a program; variables belong under env")
    elif isinstance(value, list | tuple):
        words = [text_of(word) for word in value]
    else:
        raise NotAllowed
    if not words or not words[0].strip() or len(words) > MOST_WORDS:
        raise NotAllowed
    return tuple(words)


def _relative(value: Any) -> str:
    text = text_of(value, 1000)
    if not text or text.startswith("/") or ".." in text.split("/") or not text.isprintable():
        raise NotAllowed
    return text


def _file(value: Any) -> str:
    text = text_of(value, 1000)
    if not text or not text.isprintable() or text.endswith("/"):
        raise NotAllowed
    return text


def _patterns(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or len(value) > MOST_WORDS:
        raise NotAllowed
    patterns = tuple(text_of(pattern, 1000) for pattern in value)
    if not all(pattern and pattern.isprintable() for pattern in patterns):
        raise NotAllowed
    return patterns


def _variable(value: Any) -> str:
    text = text_of(value, 200)
    if text in _RESERVED or text.startswith("CROSSFADE_"):
        raise NotAllowed("any other name: Crossfade itself sets PORT, HOST and CROSSFADE_…")
    if not _VARIABLE.fullmatch(text):
        raise NotAllowed
    return text


def _capture_name(value: Any) -> str:
    if not _VARIABLE.fullmatch(text_of(value, 100)):
        raise NotAllowed
    return str(value)


def _setting(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        try:
            return str(value)
        except ValueError:  # more digits than Python converts
            raise NotAllowed from None
    return text_of(value)


def _header_name(value: Any) -> str:
    if not _TOKEN.fullmatch(text_of(value)):
        raise NotAllowed
    return str(value)


def _header_value(value: Any) -> str:
    text = text_of(value, 8192)
    if any(c in text for c in "\r\n"):
        raise NotAllowed
    return text


def _path(value: Any) -> str:
    if not _PATH.fullmatch(text_of(value)):
        raise NotAllowed
    return str(value)


def _status(value: Any) -> tuple[int, ...]:
    codes = value if isinstance(value, list | tuple) else [value]
    if not 1 <= len(codes) <= 100 or len({repr(code) for code in codes}) < len(codes):
        raise NotAllowed
    for code in codes:
        if isinstance(code, bool) or not isinstance(code, int) or not 100 <= code <= 599:
            raise NotAllowed
    return tuple(codes)


def _expression(value: Any) -> str:
    text = text_of(value, 1000)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            re.compile(text)
    except re.error as error:
        raise NotAllowed(f"a regular expression; this one is not: {error.msg}") from None
    except (RecursionError, OverflowError, MemoryError):
        raise NotAllowed("a simpler regular expression") from None
    if not text:
        raise NotAllowed
    return text


def _json_path(value: Any) -> str:
    import jsonpath_rfc9535 as jsonpath  # noqa: PLC0415 - costs 30 ms, which most commands save

    text = text_of(value, 500)
    try:
        jsonpath.compile(text)
    except (jsonpath.JSONPathError, RecursionError, ValueError):
        raise NotAllowed from None
    return text


def _capture(value: Any) -> str:
    text = text_of(value, 500)
    if text.startswith("header:"):
        if not _TOKEN.fullmatch(text.removeprefix("header:")):
            raise NotAllowed
        return text
    return _json_path(text)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise NotAllowed
    try:
        number = float(value)
    except OverflowError:
        raise NotAllowed from None
    if not math.isfinite(number):
        raise NotAllowed
    return value


def _plain(value: Any) -> str | int | float | bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        if abs(_number(value)) > 2**53 and isinstance(value, int):
            raise NotAllowed  # JSON numbers are not exact beyond this
        return value
    return text_of(value, 1000)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise NotAllowed
    return value


def _cron(value: Any) -> str:
    try:
        return str(schedule.parse(text_of(value, schedule.LONGEST)))
    except Invalid as error:
        raise NotAllowed(str(error.fields["allowed"])) from None


def _address(value: Any) -> str:
    try:
        address = ipaddress.ip_address(text_of(value, 100))
    except ValueError:
        raise NotAllowed from None
    if "%" in value or address.is_multicast:
        raise NotAllowed
    return str(address)


STRING: Final = {"type": "string", "minLength": 1}

NAME: Final = Kind(
    "1 to 40 of a-z, 0-9 and '-', beginning with a letter, not ending with '-'",
    _name,
    schema={"type": "string", "pattern": "^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$"},
)
LABEL: Final = Kind(
    "a name of 1 to 100 characters", _label, schema={"type": "string", "pattern": r"\S", "maxLength": 100}
)
COMMAND: Final = Kind(
    "a command as a list of words, or as one text that is split like a shell would but never run by one",
    _command,
    list,
    {
        "anyOf": [
            {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": MOST_WORDS},
            {"type": "string", "pattern": r"\S"},
        ]
    },
)
FOLDER: Final = Kind(
    "a folder inside the project, written relative to it",
    _relative,
    schema={"type": "string", "pattern": r"^[^/]", "not": {"pattern": r"(^|/)\.\.(/|$)"}},
)
FILE: Final = Kind("the path of a file, relative to the project", _file, schema={"type": "string", "pattern": r"[^/]$"})
PATTERNS: Final = Kind(
    "a list of shell patterns", _patterns, list, {"type": "array", "items": STRING, "maxItems": MOST_WORDS}
)
VARIABLE: Final = Kind(
    "letters, digits and '_', not beginning with a digit",
    _variable,
    schema={
        "type": "string",
        "pattern": "^[A-Za-z_][A-Za-z0-9_]*$",
        "not": {"pattern": "^(PORT|HOST|CROSSFADE_.*)$"},
    },
)
SETTING: Final = Kind(
    "text, a number, true or false; '' for empty", _setting, schema={"type": ["string", "number", "boolean"]}
)
METHOD: Final = choice(*METHODS)
PATH: Final = Kind(
    "a path that begins with '/', without spaces and '#'",
    _path,
    schema={"type": "string", "pattern": r"^/[\x21\x22\x24-\x7e]*$", "maxLength": 2000},
)
HEADER_NAME: Final = Kind(
    "the name of a header or cookie",
    _header_name,
    schema={"type": "string", "pattern": r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$"},
)
HEADER_VALUE: Final = Kind("text on one line", _header_value, schema={"type": "string", "pattern": r"^[^\r\n]*$"})
BODY: Final = Kind("text", text_of, schema={"type": "string"})
STATUS: Final = Kind(
    "a status code from 100 to 599, or a list of several",
    _status,
    lambda codes: codes[0] if len(codes) == 1 else list(codes),
    {
        "anyOf": [
            {"type": "integer", "minimum": 100, "maximum": 599},
            {
                "type": "array",
                "items": {"type": "integer", "minimum": 100, "maximum": 599},
                "minItems": 1,
                "maxItems": 100,
                "uniqueItems": True,
            },
        ]
    },
)
EXPRESSION: Final = Kind(
    "a regular expression of Python of at most 1000 characters", _expression, schema={**STRING, "maxLength": 1000}
)
JSON_PATH: Final = Kind(
    "a JSON path of RFC 9535, for example $.books",
    _json_path,
    schema={"type": "string", "pattern": r"^\$", "maxLength": 500},
)
CAPTURE_NAME: Final = Kind(
    "letters, digits and '_', not beginning with a digit",
    _capture_name,
    schema={"type": "string", "pattern": "^[A-Za-z_][A-Za-z0-9_]*$"},
)
CAPTURE: Final = Kind(
    "a JSON path, or header: and the name of a header",
    _capture,
    schema={"type": "string", "pattern": r"^(\$|header:.)"},
)
NUMBER: Final = Kind("a number", _number, schema={"type": "number"})
PLAIN: Final = Kind("text, a number, true or false", _plain, schema={"type": ["string", "number", "boolean"]})
FLAG: Final = Kind("true or false", _flag, schema={"type": "boolean"})
ADDRESS: Final = Kind(
    "an IP address, for example 127.0.0.1", _address, schema={"type": "string", "pattern": r"^[0-9A-Fa-f:.]+$"}
)
CRON: Final = Kind(
    f"a line of cron: {schedule.FIELDS}",
    _cron,
    schema={"type": "string", "pattern": r"^\s*(\S+\s+){4}\S+\s*$", "maxLength": schedule.LONGEST},
)
METRIC_NAME: Final = Kind(
    "1 to 40 of a-z, 0-9, '_', '.' and '-', beginning with a letter",
    _metric_name,
    schema={"type": "string", "pattern": "^[a-z][a-z0-9_.-]{0,39}$"},
)
QUANTILE: Final = choice(*QUANTILES)
QUERY: Final = Kind("a query", _query, schema={"type": "string", "pattern": r"\S", "maxLength": 4000})
URL: Final = Kind(
    "a URL that begins with http:// or https://, without a user name and password",
    _url,
    schema={"type": "string", "pattern": "^https?://"},
)
WINDOW: Final = whole(
    SMALLEST_WINDOW,
    50,
    f"a whole number from {SMALLEST_WINDOW} to 50: at least the {SMALLEST_WINDOW} previous releases must stay restorable",
)
PORT: Final = whole(1, 65_535)
