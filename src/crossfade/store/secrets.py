"""Secret values in files that only their owner can read, and env files, whose values never get into an error."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import re
import secrets
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from crossfade.domain.errors import Invalid, NotFound, StorageFailed

LONGEST_ENV_FILE: Final = 1024 * 1024
"""Bytes."""

_NAME = re.compile(r"[0-9a-f]{64}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\", '"': '"', "$": "$"}


class FolderSecrets:
    """The `Secrets` port: one file per set of values.

    A name is a keyed digest (HMAC-SHA256) of the values, with a random key of this folder: the same values have the
    same name here, and nobody can find out by guessing what is behind a name.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()

    def put(self, values: Mapping[str, str]) -> str:
        """Keep them; returns their name, empty for no values. Raises StorageFailed."""
        if not values:
            return ""
        data = json.dumps(dict(values), sort_keys=True).encode()
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.chmod(self._folder, 0o700)
            name = hmac.new(self._key(), data, hashlib.sha256).hexdigest()
            path = self._folder / name
            if not path.is_file() or path.read_bytes() != data:
                self._write(path, data)
        except OSError as error:
            raise StorageFailed.because(f"write to {self._folder}", error) from error
        return name

    def get(self, name: str) -> Mapping[str, str]:
        """Raises NotFound, StorageFailed."""
        if not name:
            return {}
        missing = NotFound(f"There are no secrets {name[:12]}.", hint="Deploy again with the env file.", secrets=name)
        if not _NAME.fullmatch(name):
            raise missing
        try:
            data = (self._folder / name).read_bytes()
            if not hmac.compare_digest(hmac.new(self._key(), data, hashlib.sha256).hexdigest(), name):
                raise StorageFailed(f"The secrets {name[:12]} are damaged.", hint="Deploy again with the env file.")
            return {str(key): str(value) for key, value in json.loads(data).items()}
        except FileNotFoundError:
            raise missing from None
        except OSError as error:
            raise StorageFailed.because(f"read {self._folder / name}", error) from error

    def _key(self) -> bytes:
        """Made once; whoever is first wins."""
        path = self._folder / "key"
        try:
            key = path.read_bytes()
        except FileNotFoundError:
            draft = self._draft(path, secrets.token_bytes(32))
            try:
                with contextlib.suppress(FileExistsError):
                    os.link(draft, path)
            finally:
                draft.unlink()
            key = path.read_bytes()
        if len(key) != 32:
            raise StorageFailed(f"{path} is damaged.", hint="Remove it and deploy again with the env files.")
        return key

    def _write(self, path: Path, data: bytes) -> None:
        os.replace(self._draft(path, data), path)

    def _draft(self, path: Path, data: bytes) -> Path:
        draft = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
        try:
            fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(fd, "wb") as out:
                out.write(data)
                out.flush()
                os.fsync(fd)
        except OSError:
            with contextlib.suppress(OSError):
                draft.unlink()
            raise
        return draft


def parse_env_file(text: str, place: str) -> dict[str, str]:
    r"""The variables of an env file: ``NAME=value`` lines, ``#`` comments, an optional ``export`` before the name.

    A bare value ends at `` #`` or the end of its line. ``'...'`` is taken as it is, ``"..."`` knows ``\n \r \t \\ \" \$``;
    both may span lines. Nothing is substituted. The last of equal names counts. ``place`` names the file in errors.
    Raises Invalid, naming line and problem and never a value.
    """
    if len(text) > LONGEST_ENV_FILE:
        raise Invalid(place, f"{len(text)} characters", f"at most {LONGEST_ENV_FILE} characters")
    found: dict[str, str] = {}
    rest = text.removeprefix("\ufeff").replace("\r\n", "\n")
    number = 1
    while rest:
        line = rest.split("\n", 1)[0]
        body = line.strip()
        if not body or body.startswith("#"):
            rest, number = rest[len(line) + 1 :], number + 1
            continue
        where = f"{place}:{number}"
        name, equals, _ = line.partition("=")
        name = re.sub(r"^export\s+", "", name.strip())
        if not equals:
            raise Invalid(where, "a line without '='", "NAME=value, a comment, or an empty line")
        if not _VARIABLE.fullmatch(name):
            # What is before '=' could be a value on a line of its own.
            raise Invalid(
                where, "a name with other characters", "names of letters, digits and '_', not beginning with a digit"
            )
        value, used = _value(rest[line.index("=") + 1 :], where)
        if "\0" in value:
            raise Invalid(where, "a NUL character", "values without NUL")
        found[name] = value
        taken = rest[: line.index("=") + 1 + used]
        number += taken.count("\n") + 1
        rest = rest[len(taken) + 1 :]
    return found


def _value(text: str, where: str) -> tuple[str, int]:
    """The value at the start of the text, and how many characters it takes up to its line's end."""
    blank = len(text) - len(text.lstrip(" \t"))
    quote = text[blank : blank + 1]
    if quote not in ("'", '"'):
        line = text.split("\n", 1)[0]
        bare = re.split(r"(?:^|\s)#", line, maxsplit=1)[0]
        return bare.strip(), len(line)
    out: list[str] = []
    at = blank + 1
    while at < len(text) and text[at] != quote:
        if quote == '"' and text[at] == "\\" and text[at + 1 : at + 2] in _ESCAPES and at + 1 < len(text):
            out.append(_ESCAPES[text[at + 1]])
            at += 2
            continue
        out.append(text[at])
        at += 1
    if at >= len(text):
        raise Invalid(where, f"a {quote} that is never closed", f"a closing {quote}")
    tail = text[at + 1 :].split("\n", 1)[0]
    if tail.strip() and not re.match(r"\s+#", tail):
        raise Invalid(where, "text after the closing quote", "nothing, or a comment after a space")
    return "".join(out), at + 1 + len(tail)
