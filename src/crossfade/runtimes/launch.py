"""Becomes one program: reads its launch file, takes on its folder and environment, and turns into its command.

supervisord runs this file as ``python -S -I launch.py FILE`` (10 ms), so that nothing of a program has to survive the
quoting rules of supervisord's configuration, and secrets are in a file that only its owner can read. It imports
nothing of Crossfade and as little as it can of Python.

A launch file is fields that each end with a NUL byte: umask (octal), folder, number of arguments, the arguments, then
``NAME=value`` once per variable. The environment is exactly those variables.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # `signal` itself costs 5 ms, and `typing` 10
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

NOT_FOUND = 127
NOT_EXECUTABLE = 126


def encode(umask: int, folder: str, command: tuple[str, ...], env: dict[str, str]) -> bytes:
    """A launch file. No text may contain a NUL character."""
    fields = [f"{umask:o}", folder, str(len(command)), *command, *(f"{name}={env[name]}" for name in sorted(env))]
    return b"".join(os.fsencode(field) + b"\0" for field in fields)


def decode(data: bytes) -> tuple[int, bytes, list[bytes], dict[bytes, bytes]]:
    """Umask, folder, arguments and environment. Raises ValueError when the file is damaged."""
    fields = data.split(b"\0")
    if len(fields) < 5 or fields.pop():
        raise ValueError("the launch file is cut short")
    umask, folder, count = int(fields[0], 8), fields[1], int(fields[2])
    command = fields[3 : 3 + count]
    if len(command) != count or not command:
        raise ValueError("the launch file is cut short")
    env = {}
    for field in fields[3 + count :]:
        name, _, value = field.partition(b"=")
        env[name] = value
    return umask, folder, command, env


def identity(pid: int | str) -> str:
    """What tells one process from a later one with the same number: its number, start time (ticks) and boot.

    Empty when there is no such process, or only its exit status is left, which nobody has asked for yet.
    """
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            boot = file.read().strip()
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().decode("ascii", "replace")
    except OSError:
        return ""
    number, rest = fields.split(" ", 1)
    facts = rest.rpartition(")")[2].split()
    return "" if facts[0] in "ZX" else f"{number} {facts[19]} {boot}"


def places(command: bytes, path: bytes) -> list[bytes]:
    """Where to look for a command, as a shell would."""
    if b"/" in command:
        return [command]
    return [os.path.join(folder or b".", command) for folder in path.split(b":")]


def fail(status: int, message: str) -> NoReturn:
    """Say why on the program's own log, then end."""
    os.write(2, f"crossfade: {message}\n".encode("utf-8", "replace"))
    os._exit(status)


def main(file_name: str) -> NoReturn:
    """Never returns."""
    with open(file_name, "rb") as file:
        data = file.read()
    try:
        umask, folder, command, env = decode(data)
    except ValueError as error:
        fail(NOT_EXECUTABLE, f"{file_name}: {error}")
    note = identity("self")
    try:
        # Lets the next supervisord find what an earlier one left running when it was killed.
        with open(os.path.splitext(file_name)[0] + ".pid", "w") as file:
            file.write(note)
    except OSError:
        pass  # A full disk must not keep a crashed program from coming back.
    try:
        os.umask(umask)
        os.chdir(folder)
    except OSError as error:
        fail(NOT_EXECUTABLE, f"cannot enter the folder {os.fsdecode(folder)}: {error.strerror}")
    # Python ignores these two, and what is ignored stays ignored in the program.
    _signal.signal(_signal.SIGPIPE, _signal.SIG_DFL)
    _signal.signal(_signal.SIGXFSZ, _signal.SIG_DFL)
    problem, status = "No such file or directory", NOT_FOUND
    for place in places(command[0], env.get(b"PATH", b"/usr/bin:/bin")):
        try:
            os.execve(place, command, env)  # noqa: S606 - there must be no shell
        except FileNotFoundError:
            if os.path.exists(place):
                problem, status = "the interpreter that it names does not exist", NOT_FOUND
        except NotADirectoryError:
            pass
        except OSError as error:
            if isinstance(error, PermissionError) and not os.path.exists(place):
                continue  # A folder of PATH that we may not look into: a shell says "not found", too.
            problem, status = error.strerror or str(error), NOT_EXECUTABLE
    fail(status, f"cannot run {os.fsdecode(command[0])!r}: {problem}")


if __name__ == "__main__":
    main(sys.argv[1])
