"""Health checks and flows over HTTP.

By httpcore, the part of httpx that speaks HTTP, as only there a time limit can be set on a whole exchange: with one per
read, a replica that sends a byte now and then would hold its checker for ever.
"""

from __future__ import annotations

import codecs
import functools
import json
import re
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from email.utils import parsedate_to_datetime
from typing import Any, Final
from urllib.parse import quote

import httpcore
from jsonpath_rfc9535 import JSONPathError, JSONPathQuery
from jsonpath_rfc9535 import compile as compile_path

from crossfade.domain.health import Answer, Check, CheckResult, Flow, judge_answer

LARGEST_BODY: Final = 1024 * 1024
"""Bytes of an answer that are read. Also what bounds the time of a check's regular expressions."""

LONGEST_CAPTURE: Final = 8 * 1024
_CAPTURE = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
_PATH_SAFE = "%/:?[]@!$&'()*+,;=~"


class HttpProber:
    """The `Prober` port. Safe to use from several threads. `close` it in the end.

    Each request has a connection of its own: one that is kept may be closed by the replica in the moment that it is
    used again, which looks like a fault, and costs 40 ms of delayed acknowledgement where a server sends headers and
    body apart. Proxies of the environment are not used and redirects not followed: what is asked is the replica itself.
    """

    def __init__(self) -> None:
        self._deadline = _Deadline()
        self._pool = httpcore.ConnectionPool(
            max_connections=None, max_keepalive_connections=0, network_backend=_Backend(self._deadline)
        )

    def close(self) -> None:
        """Close all connections."""
        self._pool.close()

    def check(self, base_url: str, checks: Sequence[Check], headers: Mapping[str, str]) -> tuple[CheckResult, ...]:
        """See `Prober.check`. No check sends cookies that another one got. Never raises."""
        return tuple(self._step(base_url, check, headers, None) for check in checks)

    def flow(
        self, base_url: str, flow: Flow, opening_headers: Mapping[str, str], continuing_headers: Mapping[str, str]
    ) -> tuple[CheckResult, ...]:
        """See `Prober.flow`. Never raises.

        ``{name}`` in paths, bodies and header values stands for what an earlier step captured.
        """
        session = _Session()
        results: list[CheckResult] = []
        steps = [(check, opening_headers) for check in flow.opening]
        steps += [(check, continuing_headers) for check in flow.continuing]
        for check, headers in steps:
            results.append(self._step(base_url, check, headers, session))
            if not results[-1].healthy:
                break
        return tuple(results)

    def _step(self, base_url: str, check: Check, headers: Mapping[str, str], session: _Session | None) -> CheckResult:
        send = {**dict(check.send_headers), **headers}
        path, body = check.path, check.send_body
        if session is not None:
            missing = session.missing(path, *send.values())
            if missing:
                return CheckResult(check.name, base_url + path, (f"nothing was captured as {missing}",), 0.0)
            path, body = session.fill_path(path), session.fill(body)
            send = {name: session.fill(value) for name, value in send.items()} | session.cookie_header()
        url = base_url.rstrip("/") + path
        answer, set_cookies = self._ask(check, url, send, body)
        parsed, json_fault = _parse(answer)
        found, faults = _look_up(check, parsed) if not json_fault else ({}, [])
        faults += judge_answer(check, answer, json_fault, found)
        if session is not None and not faults:
            session.keep_cookies(set_cookies)
            faults += session.capture(check, answer, parsed, json_fault)
        return CheckResult(check.name, url, tuple(faults), answer.elapsed)

    def _ask(self, check: Check, url: str, headers: Mapping[str, str], body: str) -> tuple[Answer, list[str]]:
        began = time.perf_counter()
        limit = f"timed out after {check.timeout:g} s"
        try:
            self._deadline.set(check.timeout)
            status, received, data = self._exchange(check.method, url, headers, body)
        except httpcore.ConnectTimeout:
            failure = f"{limit}, connecting"
        except (httpcore.TimeoutException, TimeoutError):
            failure = limit
        except httpcore.ConnectError as error:
            failure = _reason(error)
        except httpcore.RemoteProtocolError as error:
            failure = f"no whole HTTP answer: {_shortened(_reason(error))}"
        except (httpcore.NetworkError, ConnectionError):
            failure = "the connection was reset"
        except _TooLarge:
            failure = f"the body is larger than {LARGEST_BODY // 1024} KiB"
        except Exception as error:  # noqa: BLE001 - whatever a replica does, its checker goes on
            failure = f"could not be asked: {_shortened(_reason(error))}"
        else:
            elapsed = time.perf_counter() - began
            seen: dict[str, str] = {}
            for name, value in received:
                seen[name] = f"{seen[name]}, {value}" if name in seen else value
            set_cookies = [value for name, value in received if name == "set-cookie"]
            text = data.decode(_charset(seen.get("content-type", "")), "replace")
            return Answer(status, seen, text, elapsed), set_cookies
        return Answer(failure=failure, elapsed=time.perf_counter() - began), []

    def _exchange(
        self, method: str, url: str, headers: Mapping[str, str], body: str
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        sent = {"User-Agent": "crossfade", "Accept": "*/*", "Accept-Encoding": "identity", **headers}
        packed = [(name.encode("ascii"), value.encode("utf-8")) for name, value in sent.items()]
        scheme, separator, rest = url.partition("://")
        target = scheme + separator + quote(rest, safe=_PATH_SAFE)
        # The deadline is what limits; a time-out only makes the pool pass one on.
        limits = dict.fromkeys(("connect", "read", "write", "pool"), 3600.0)
        data = bytearray()
        with self._pool.stream(
            method, target, headers=packed, content=body.encode() or None, extensions={"timeout": limits}
        ) as response:
            for piece in response.iter_stream():
                data += piece
                if len(data) > LARGEST_BODY:
                    raise _TooLarge
            received = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in response.headers]
            return response.status, received, bytes(data)


class _TooLarge(Exception):
    pass


class _Session:
    """What a flow carries from step to step: cookies and captures."""

    def __init__(self) -> None:
        self._cookies: dict[str, str] = {}
        self._captured: dict[str, str] = {}

    def missing(self, *texts: str) -> str:
        """The first name that was not captured, empty when there is none. A body may have braces of its own."""
        names = (name for text in texts for name in _CAPTURE.findall(text))
        return next((name for name in names if name not in self._captured), "")

    def fill(self, text: str) -> str:
        return _CAPTURE.sub(lambda found: self._captured.get(found[1], found[0]), text)

    def fill_path(self, text: str) -> str:
        return _CAPTURE.sub(lambda found: quote(self._captured.get(found[1], found[0]), safe=""), text)

    def cookie_header(self) -> dict[str, str]:
        if not self._cookies:
            return {}
        return {"Cookie": "; ".join(f"{name}={value}" for name, value in self._cookies.items())}

    def keep_cookies(self, set_cookies: Iterable[str]) -> None:
        """All of them: flows go to one host, and there also by HTTP what is meant for HTTPS at the front."""
        for line in set_cookies:
            pair, *attributes = line.split(";")
            name, equals, value = (part.strip() for part in pair.partition("="))
            if not equals or not name:
                continue
            if _has_ended(attributes):
                self._cookies.pop(name, None)
            else:
                self._cookies[name] = value

    def capture(self, check: Check, answer: Answer, parsed: Any, json_fault: str) -> list[str]:
        faults = []
        for name, where in check.capture:
            value: Any = None
            if where.startswith("header:"):
                value = (answer.headers or {}).get(where.removeprefix("header:").strip().lower())
            elif json_fault:
                faults.append(json_fault)
                continue
            else:
                try:
                    value = next((node.value for node in _path(where).finditer(parsed)), None)
                except (JSONPathError, RecursionError) as error:
                    faults.append(f"JSON path {where} cannot be followed: {_reason(error)}")
                    continue
            if value is None:
                faults.append(f"nothing at {where} to capture as {name}")
                continue
            text = value if isinstance(value, str) else json.dumps(value)
            if len(text) > LONGEST_CAPTURE:
                faults.append(f"what is at {where} is too long to capture as {name}")
                continue
            self._captured[name] = text
        return faults


class _Deadline(threading.local):
    """When the exchange of this thread must be over, on the monotonic clock."""

    at = 0.0

    def set(self, seconds: float) -> None:
        self.at = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds; never 0, which sockets take for none at all."""
        return max(self.at - time.monotonic(), 0.001)


class _Backend(httpcore.NetworkBackend):
    """Connections that keep to the deadline of the thread that uses them."""

    def __init__(self, deadline: _Deadline) -> None:
        self._deadline = deadline
        self._real = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Any = None,
    ) -> httpcore.NetworkStream:
        stream = self._real.connect_tcp(host, port, self._deadline.left(), local_address, socket_options)
        return _Stream(stream, self._deadline)


class _Stream(httpcore.NetworkStream):
    def __init__(self, real: httpcore.NetworkStream, deadline: _Deadline) -> None:
        self._real = real
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._real.read(max_bytes, self._deadline.left())

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._real.write(buffer, self._deadline.left())

    def close(self) -> None:
        self._real.close()

    def start_tls(
        self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return _Stream(self._real.start_tls(ssl_context, server_hostname, self._deadline.left()), self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._real.get_extra_info(info)


def _parse(answer: Answer) -> tuple[Any, str]:
    """The body as JSON, or why it is none."""

    def refuse(constant: str) -> Any:
        raise ValueError(f"{constant} is not JSON")  # It would also slip through every limit.

    try:
        return json.loads(answer.body, parse_constant=refuse), ""
    except RecursionError:
        return None, "the body is nested too deeply"
    except ValueError as error:
        shown = _shortened(answer.body) if answer.body else "empty"
        return None, f"the body is not JSON ({_reason(error)}): {shown}"


def _look_up(check: Check, parsed: Any) -> tuple[dict[str, Any], list[str]]:
    """The first value at each expected path that there is, and what is wrong with the paths."""
    found: dict[str, Any] = {}
    faults: list[str] = []
    for expected in check.json:
        try:
            for node in _path(expected.path).finditer(parsed):
                found[expected.path] = node.value
                break
        except (JSONPathError, RecursionError) as error:
            faults.append(f"JSON path {expected.path} cannot be followed: {_reason(error)}")
    return found, faults


@functools.lru_cache(maxsize=256)
def _path(text: str) -> JSONPathQuery:
    return compile_path(text)


def _has_ended(attributes: Iterable[str]) -> bool:
    """Whether a cookie is set only to be deleted."""
    for attribute in attributes:
        name, _, value = (part.strip() for part in attribute.partition("="))
        if name.lower() == "max-age":
            return value.startswith("-") or value == "0"
        if name.lower() == "expires":
            try:
                return parsedate_to_datetime(value).timestamp() <= time.time()
            except (ValueError, TypeError, OverflowError):
                return False
    return False


def _charset(content_type: str) -> str:
    found = re.search(r"charset=\"?([A-Za-z0-9._-]+)", content_type)
    try:
        return codecs.lookup(found[1]).name if found else "utf-8"
    except LookupError:
        return "utf-8"


def _reason(error: BaseException) -> str:
    """The operating system's words where there are some: ``connection refused``."""
    text = re.sub(r"^\[Errno -?\d+\] ", "", str(error)) or type(error).__name__
    return text[:1].lower() + text[1:]


def _shortened(text: str) -> str:
    return text if len(text) <= 120 else text[:117] + "..."
