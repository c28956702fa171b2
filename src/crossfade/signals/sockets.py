"""Connections to a worker of the edge: one that is asked, and one that follows a ring of log lines."""

from __future__ import annotations

import socket


class Session:
    """A connection on which commands are asked one after the other."""

    def __init__(self, path: str) -> None:
        self._connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._connection.settimeout(3.0)
            self._connection.connect(path)
            self._connection.sendall(b"prompt\n")
            self._until_prompt()
        except OSError:
            self._connection.close()
            raise

    def ask(self, command: str) -> str:
        """Raises OSError when the worker is gone."""
        self._connection.sendall(command.encode() + b"\n")
        return self._until_prompt()

    def _until_prompt(self) -> str:
        data = bytearray()
        while not data.endswith(b"\n> "):
            chunk = self._connection.recv(65536)
            if not chunk:
                raise ConnectionResetError("the edge closed the connection")
            data += chunk
        return data[:-2].decode(errors="replace")

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Ring:
    """A ring of log lines that is followed."""

    def __init__(self, path: str, command: str, failures: bool) -> None:
        self.failures = failures
        self.connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self.connection.settimeout(2.0)
            self.connection.connect(path)
            self.connection.sendall(command.encode() + b"\n")
            self.connection.setblocking(False)
        except OSError:
            self.connection.close()
            raise
        self._rest = b""

    def lines(self) -> list[bytes]:
        """What has come since, at most a few megabytes at once; a longer line than a kilobyte is dropped."""
        chunks = [self._rest]
        for _ in range(64):
            try:
                chunk = self.connection.recv(65536)
            except OSError:  # nothing more now, or gone
                break
            if not chunk:
                break
            chunks.append(chunk)
        *lines, rest = b"".join(chunks).split(b"\n")
        self._rest = rest if len(rest) < 1024 else b""
        return [line for line in lines if line]
