"""The twin of `probes.http`: answers come from a script instead of a replica."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence

from crossfade.domain.health import Check, CheckResult, Flow


class FakeProber:
    """`ports.Prober` without a network. ``faults`` says for a base URL, a check and the headers sent what is wrong.

    By default nothing is. ``asked`` lists what was asked, as (base URL, check's name).
    """

    def __init__(self) -> None:
        self.faults: Callable[[str, Check, Mapping[str, str]], Sequence[str]] = lambda url, check, headers: ()
        self.asked: list[tuple[str, str]] = []
        self._lock = threading.Lock()

    def check(self, base_url: str, checks: Sequence[Check], headers: Mapping[str, str]) -> tuple[CheckResult, ...]:
        return tuple(self._one(base_url, check, headers) for check in checks)

    def flow(
        self, base_url: str, flow: Flow, opening_headers: Mapping[str, str], continuing_headers: Mapping[str, str]
    ) -> tuple[CheckResult, ...]:
        results: list[CheckResult] = []
        steps = [(check, opening_headers) for check in flow.opening]
        steps += [(check, continuing_headers) for check in flow.continuing]
        for check, headers in steps:
            results.append(self._one(base_url, check, headers))
            if not results[-1].healthy:
                break
        return tuple(results)

    def _one(self, base_url: str, check: Check, headers: Mapping[str, str]) -> CheckResult:
        with self._lock:
            self.asked.append((base_url, check.name))
        faults = tuple(self.faults(base_url, check, {**dict(check.send_headers), **headers}))
        return CheckResult(check.name, base_url + check.path, faults, 0.001)
