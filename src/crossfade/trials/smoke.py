"""Smoke flows: what users must be able to do, done once against an environment's edge."""

from __future__ import annotations

from collections.abc import Sequence

from crossfade.domain.health import Flow
from crossfade.domain.pipeline.plan import Outcome, SmokeFlow
from crossfade.ports import Prober
from crossfade.ports.pipeline import Cancel, Tell


def smoke(prober: Prober, url: str, flows: Sequence[SmokeFlow], tell: Tell, cancel: Cancel) -> Outcome:
    """Each flow once, its checks in order with the same cookies and captures; a flow ends at its first fault."""
    faults: list[str] = []
    done = 0
    for flow in flows:
        if cancel.is_set():
            return Outcome(False, "it was cancelled", "no-data")
        results = prober.flow(url, Flow(flow.name, flow.checks, ()), {}, {})
        broken = [f"{flow.name}: {r.name} ({r.where}): {fault}" for r in results for fault in r.faults]
        done += sum(result.healthy for result in results)
        tell(f"{flow.name}: {'; '.join(broken) if broken else f'{len(results)} checks passed'}")
        faults += broken
    numbers = {"flows": len(flows), "checks": sum(len(flow.checks) for flow in flows), "passed": done}
    if faults:
        return Outcome(False, f"users cannot: {faults[0]}", details=tuple(faults), numbers=numbers)
    names = ", ".join(flow.name for flow in flows)
    return Outcome(True, f"{len(flows)} {'flow works' if len(flows) == 1 else 'flows work'}: {names}", numbers=numbers)
