"""Of what people are told: alerts, and the ends of rollouts, runs, drills and watches, each as a notice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from crossfade.domain.alert import Alert, Severity
from crossfade.domain.notice import Notice, State
from crossfade.domain.pipeline.run import Run, Status
from crossfade.domain.release import Release
from crossfade.domain.rollout import Kind, Phase, Rollout
from crossfade.domain.values import EnvKey, show_duration

_STATES: Final = {"opened": State.OPENED, "resolved": State.RESOLVED}
_WATCHES: Final = {
    "passed": (Severity.INFO, "nothing was wrong after the promotion"),
    "helped": (Severity.TICKET, "it was taken back after its promotion"),
    "not-helped": (Severity.PAGE, "taking it back has not helped"),
    "unknown": (Severity.TICKET, "whether taking it back has helped is not known"),
}
_RUNS: Final = {Status.PASSED: "passed", Status.FAILED: "failed", Status.CANCELLED: "was cancelled"}


def of_alert(alert: Alert, what: str, origin: str) -> Notice:
    """That it was ``opened`` (or got more severe), or is ``resolved``. ``origin`` is where browsers reach the dashboard."""
    over = what == "resolved"
    return Notice(
        f"alert-{alert.id}",
        alert.ended if over and alert.ended is not None else alert.began,
        alert.severity,
        "alert",
        alert.key,
        alert.name,
        (alert.resolution or alert.sentence) if over else alert.sentence,
        _STATES[what],
        f"{origin}/alerts/{alert.id}" if origin else "",
        {"alert": alert.id, "name": alert.name, "began": alert.began, **alert.facts},
    )


def of_reminder(alert: Alert, nth: int, now: float, origin: str) -> Notice:
    """That it is still open, and nobody has said that they look after it. ``nth`` counts such notices."""
    told = of_alert(alert, "opened", origin)
    lasts = show_duration(float(round(max(0.0, now - alert.began))))
    sentence = f"Open for {lasts}, and acknowledged by nobody: {alert.sentence}"
    return Notice(
        told.about, now, told.severity, told.kind, told.key, told.title, sentence, State.REMINDER, told.url,
        told.facts, nth,
    )  # fmt: skip


def of_rollout(
    state: Rollout, receipt: Mapping[str, Any], release: Release, ended: float, origin: str, traceparent: str
) -> Notice:
    """That it has ended: the release is live, or clients were taken back from it."""
    plan = state.plan
    named = f"{plan.candidate} ({release.label})" if release.label else str(plan.candidate)
    took = show_duration(float(round(max(0.0, ended - state.began), 1)))
    back = plan.kind is Kind.ROLLBACK
    requests, failed = receipt.get("requests"), receipt.get("failed")
    seen = f" Clients made {requests} requests meanwhile, {failed} failed." if requests is not None else ""
    if state.phase is Phase.PROMOTED:
        severity = Severity.TICKET if back else Severity.INFO
        title = f"back to {named}" if back else f"{named} is live"
        change = "rolledback" if back else "upgraded" if plan.baseline is not None else "deployed"
        why = f" ({state.reason})" if state.reason else ""
        sentence = f"Rollout #{state.id} has given {named} all traffic after {took}{why}.{seen}"
    else:
        severity = Severity.PAGE if back else Severity.TICKET
        title = f"the rollback to {named} failed" if back else f"{named} was taken back"
        change = "" if back else "rolledback"
        home = f" to {plan.baseline}" if plan.baseline is not None else ""
        sentence = f"Rollout #{state.id} went back{home} after {took}: {state.reason or 'no reason is known'}.{seen}"
    return Notice(
        f"rollout-{state.id}",
        ended,
        severity,
        "rollout",
        plan.key,
        title,
        sentence,
        url=f"{origin}/rollouts/{state.id}" if origin else "",
        facts={
            "rollout": state.id,
            "rollout_kind": plan.kind.value,
            "outcome": state.phase.value,
            "change": change,
            "candidate": str(plan.candidate),
            "baseline": str(plan.baseline) if plan.baseline is not None else None,
            "label": release.label,
            "artifact": release.digest.text,
            "began": state.began,
            "ended": ended,
            "reason": state.reason,
            "requests": requests,
            "failed": failed,
            "traceparent": traceparent,
        },
    )


def of_run(run: Run, now: float, origin: str, traceparent: str) -> Notice:
    """That a run of a pipeline has ended. One that is restarted ends again."""
    plan = run.plan
    said = _RUNS.get(run.status, f"ended ({run.status})")
    attempt = sum(stage.attempt for stage in run.stages)
    commit = f"{plan.commit.id[:7]} ({plan.branch or 'no branch'})"
    return Notice(
        f"run-{run.id}-{attempt}",
        run.finished if run.finished is not None else now,
        Severity.TICKET if run.status is Status.FAILED else Severity.INFO,
        "run",
        plan.key,
        f"run #{run.id} of {commit} {said}",
        run.reason or f"Run #{run.id} of {commit} {said}: {plan.commit.subject}",
        url=f"{origin}/runs/{run.id}" if origin else "",
        facts={
            "run": run.id,
            "status": run.status.value,
            "commit": plan.commit.id,
            "branch": plan.branch,
            "trigger": plan.trigger,
            "traceparent": traceparent,
        },
    )


def of_drill(view: Mapping[str, Any], origin: str) -> Notice:
    """That a drill has ended. ``view`` is that of the use case."""
    named = f"drill {view['name']}" if view["name"] else "the drill"
    receipt = view["receipt"] or {}
    took = receipt.get("recovery")
    recovered = f" It recovered within {took:g} s." if isinstance(took, int | float) else ""
    harmed = receipt.get("harmed")
    lost = f" Requests harmed: {harmed}." if isinstance(harmed, int) else ""
    went = f"From {view['home']} to {view['target'] or 'a canary of it'}"
    title = f"{named} has passed" if view["ok"] else f"{named} has failed"
    why = "" if view["ok"] else f": {view['reason'] or 'no reason is known'}"
    return Notice(
        f"drill-{view['id']}",
        view["ended_at"] or view["entered"],
        Severity.INFO if view["ok"] else Severity.TICKET,
        "drill",
        EnvKey(view["service"], view["environment"]),
        title,
        f"{title}{why}. {went} and home.{recovered}{lost}",
        url=f"{origin}/drills/{view['id']}" if origin else "",
        facts={"drill": view["id"], "name": view["name"], "fault": view["fault"], "ok": view["ok"], "receipt": receipt},
    )


def of_watch(view: Mapping[str, Any], origin: str) -> Notice | None:
    """What the watch after a promotion came to; None when somebody else has changed the environment meanwhile."""
    if view["phase"] not in _WATCHES:
        return None
    severity, title = _WATCHES[view["phase"]]
    return Notice(
        f"watch-{view['id']}",
        view["ended_at"] or view["entered"],
        severity,
        "watch",
        EnvKey(view["service"], view["environment"]),
        f"{view['release']}: {title}",
        view["sentence"],
        url=f"{origin}/environments/{view['service']}/{view['environment']}/slo" if origin else "",
        facts={"watch": view["id"], "rollout": view["rollout"], "release": view["release"], "cause": view["cause"]},
    )
