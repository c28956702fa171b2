"""Tar streams: a canonical one is written, any is read, and nothing of what a stream says is believed.

Not by `tarfile`: what that writes differs between versions of Python, and a digest must not; what it reads it keeps in
memory, however long a stream claims its names to be.
"""

from __future__ import annotations

import io
import os
import stat
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Final, Protocol

from crossfade.domain.errors import Invalid

PLACE: Final = "artifact"
BLOCK: Final = 512
CHUNK: Final = 1024 * 1024
LONGEST_HEADER: Final = 64 * 1024
"""Bytes of one extended header: longer than any path can be."""

END: Final = b"\0" * (2 * BLOCK)


class Source(Protocol):
    """Where bytes come from: at most ``size`` of them; none at the end."""

    def read(self, size: int, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Member:
    """``kind`` is file, folder, link or hard. ``size`` in bytes (files only), ``target`` for links."""

    name: str
    kind: str
    executable: bool = False
    size: int = 0
    target: str = ""


# -- writing


def header(member: Member) -> bytes:
    """The canonical header: no owner, no times, mode 0644 or 0755, long or non-ASCII names in a pax header."""
    kind = {"file": b"0", "folder": b"5", "link": b"2"}[member.kind]
    mode = 0o755 if member.executable or member.kind == "folder" else 0o777 if member.kind == "link" else 0o644
    name = member.name.encode() + (b"/" if member.kind == "folder" else b"")
    target = member.target.encode()
    extended = b""
    for key, value in (("path", name), ("linkpath", target)):
        if len(value) > 100 or not value.isascii():
            extended += _pax_record(key, value)
    before = _ustar(b"pax", b"x", 0o644, len(extended), b"") + extended + padding(len(extended)) if extended else b""
    return before + _ustar(_short(name), kind, mode, member.size, _short(target))


def padding(size: int) -> bytes:
    """What follows ``size`` bytes of content."""
    return b"\0" * (-size % BLOCK)


def _short(value: bytes) -> bytes:
    return value[:100] if value.isascii() else b"see-pax"


def _pax_record(key: str, value: bytes) -> bytes:
    body = b" " + key.encode() + b"=" + value + b"\n"
    length = len(body)
    while len(str(length)) + len(body) != length:
        length = len(str(length)) + len(body)
    return str(length).encode() + body


def _ustar(name: bytes, kind: bytes, mode: int, size: int, target: bytes) -> bytes:
    def octal(number: int, width: int) -> bytes:
        return b"%0*o\0" % (width - 1, number)

    start = name.ljust(100, b"\0") + octal(mode, 8) + octal(0, 8) + octal(0, 8) + octal(size, 12) + octal(0, 12)
    end = kind + target.ljust(100, b"\0") + b"ustar\0" + b"00"
    end = end.ljust(BLOCK - len(start) - 8, b"\0")
    checksum = sum(start) + 8 * ord(" ") + sum(end)
    return start + b"%06o\0 " % checksum + end


def walk(folder: Path, ignore: Sequence[str] = (), prefix: str = "") -> Iterator[tuple[Member, str]]:
    """Everything in a folder with its path on disk: names in the order of their bytes, parents first.

    ``ignore`` are shell patterns: one without '/' is for names anywhere, one with '/' for paths from the top.
    Raises Invalid for sockets, pipes, devices, links that lead outside, names that are not UTF-8; OSError.
    """
    with os.scandir(folder) as found:
        entries = sorted(found, key=lambda entry: os.fsencode(entry.name))
    for entry in entries:
        name = prefix + entry.name
        if any(fnmatchcase(name if "/" in pattern else entry.name, pattern) for pattern in ignore):
            continue
        _check_utf8(name)
        facts = entry.stat(follow_symlinks=False)
        if stat.S_ISLNK(facts.st_mode):
            target = os.readlink(entry.path)
            check_link(name, target)
            yield Member(name, "link", target=target), entry.path
        elif stat.S_ISDIR(facts.st_mode):
            yield Member(name, "folder"), entry.path
            yield from walk(Path(entry.path), ignore, f"{name}/")
        elif stat.S_ISREG(facts.st_mode):
            yield Member(name, "file", bool(facts.st_mode & 0o100), facts.st_size), entry.path
        else:
            raise Invalid(PLACE, entry.path, "files, folders and links; this is a socket, a pipe or a device")


# -- names


def safe_name(name: str) -> str:
    """A member's name as a path below the top folder; '.' for the top itself. Raises Invalid."""
    _check_utf8(name)
    parts = PurePosixPath(name).parts
    if not name or name.startswith("/") or ".." in parts or "\0" in name:
        raise Invalid(PLACE, name, "paths that stay below the top folder")
    return str(PurePosixPath(*parts))


def check_link(name: str, target: str) -> None:
    """A link is relative and leads nowhere above the top folder. Raises Invalid."""
    _check_utf8(target)
    depth = len(PurePosixPath(name).parts) - 1
    inside = bool(target) and not target.startswith("/") and "\0" not in target
    for part in PurePosixPath(target).parts:
        depth += -1 if part == ".." else 1
        inside = inside and depth >= 0
    if not inside:
        raise Invalid(PLACE, f"{name} -> {target}", "links that stay inside (relative, not leading out)")


def _check_utf8(name: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError:
        raise Invalid(PLACE, name, "file names in UTF-8") from None


# -- reading


def members(source: Source) -> Iterator[tuple[Member, Source]]:
    """The members of a tar stream, each with its content, which is there until the next one is asked for.

    Takes ustar, pax and GNU streams. Raises Invalid for anything damaged, cut short, or of another kind.
    """
    long: dict[str, str] = {}
    while (block := _exactly(source, BLOCK)) != bytes(BLOCK):
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise damaged(str(error)) from None
        size = int(long.pop("size", info.size))
        if size < 0:
            raise damaged("a negative size")
        if info.type in (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK):
            if size > LONGEST_HEADER:
                raise Invalid(PLACE, f"a header of {size} bytes", f"headers of at most {LONGEST_HEADER} bytes")
            data = _exactly(source, size)
            _exactly(source, -size % BLOCK)
            if info.type == tarfile.XHDTYPE:
                long |= _pax(data)
            elif info.type != tarfile.XGLTYPE:
                key = "path" if info.type == tarfile.GNUTYPE_LONGNAME else "linkpath"
                long[key] = data.split(b"\0")[0].decode("utf-8", "surrogateescape")
            continue
        name, target = long.pop("path", info.name), long.pop("linkpath", info.linkname)
        long.clear()
        content = _Content(source, size if info.isreg() else 0)
        yield _member(info, name, target, size), content
        content.skip()
        _exactly(source, -content.size % BLOCK)


def damaged(why: str) -> Invalid:
    """The error for a stream that is not what it should be."""
    return Invalid(PLACE, why, "a whole tar stream, plain or gzipped")


def plain(source: Source) -> Source:
    """The stream without its gzip, when it has one. Raises Invalid while it is read, when that is damaged."""
    head = b""
    while len(head) < 2 and (more := source.read(2 - len(head))):
        head += more
    joined = _Joined(head, source)
    return _Gunzipped(joined) if head == b"\x1f\x8b" else joined


def _member(info: tarfile.TarInfo, name: str, target: str, size: int) -> Member:
    name = safe_name(name)
    if info.type in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE):
        return Member(name, "file", bool(info.mode & 0o100), size)
    if info.isdir():
        return Member(name, "folder")
    if info.issym():
        check_link(name, target)
        return Member(name, "link", target=target)
    if info.islnk():
        return Member(name, "hard", target=safe_name(target))
    raise Invalid(PLACE, name, "files, folders and links; this is a device, a pipe, a sparse file or unknown")


def _pax(data: bytes) -> dict[str, str]:
    found = {}
    while data.strip(b"\0"):
        length, _, _ = data.partition(b" ")
        if not length.isdigit() or not len(length) < int(length[:9]) <= len(data):
            raise damaged("a broken extended header")
        record, data = data[len(length) + 1 : int(length)], data[int(length) :]
        key, equals, value = record.removesuffix(b"\n").partition(b"=")
        if not equals:
            raise damaged("a broken extended header")
        name = key.decode("utf-8", "replace")
        if name.startswith("GNU.sparse."):
            raise Invalid(PLACE, "a sparse file", "a tar stream without sparse files")
        if name == "size" and not value.isdigit():
            raise damaged("a broken size in an extended header")
        if name in ("path", "linkpath", "size"):
            found[name] = value.decode("utf-8", "surrogateescape")[:LONGEST_HEADER]
    return found


def _exactly(source: Source, size: int) -> bytes:
    found = b""
    while len(found) < size:
        more = source.read(size - len(found))
        if not more:
            raise damaged("it is cut short")
        found += more
    return found


class _Content:
    """One member's bytes."""

    def __init__(self, source: Source, size: int) -> None:
        self.size = self._left = size
        self._source = source

    def read(self, size: int) -> bytes:
        data = self._source.read(min(size, self._left)) if self._left else b""
        if self._left and not data:
            raise damaged("it is cut short")
        self._left -= len(data)
        return data

    def skip(self) -> None:
        while self.read(CHUNK):
            pass


class _Joined:
    def __init__(self, head: bytes, rest: Source) -> None:
        self._head, self._rest = io.BytesIO(head), rest

    def read(self, size: int) -> bytes:
        return self._head.read(size) or self._rest.read(size)


class _Gunzipped:
    """gzip as a stream, in bounded memory; several gzip members in a row are one stream."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._unpacker = zlib.decompressobj(wbits=31)
        self._pending = b""

    def read(self, size: int) -> bytes:
        while True:
            if not self._pending:
                self._pending = self._source.read(64 * 1024)
                if not self._pending:
                    if not self._unpacker.eof:
                        raise damaged("the gzip stream is cut short")
                    return b""
            if self._unpacker.eof:
                self._pending = self._pending.lstrip(b"\0")  # Padding between and after members.
                if not self._pending:
                    continue
                self._unpacker = zlib.decompressobj(wbits=31)
            try:
                data = self._unpacker.decompress(self._pending, size)
            except zlib.error as error:
                raise damaged(f"the gzip stream is damaged ({error})") from None
            self._pending = self._unpacker.unconsumed_tail or self._unpacker.unused_data
            if data:
                return data
