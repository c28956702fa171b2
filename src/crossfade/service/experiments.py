"""Experiments of environments: made, started, stopped, told, and concluded by shipping a variant."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from pydantic import TypeAdapter

from crossfade.domain.access import Actor, Role
from crossfade.domain.errors import Fault, Invalid, InvalidBatch, NotFound, Refused
from crossfade.domain.experiments.plan import MOST_WINDOWS, Plan, Window
from crossfade.domain.experiments.plots import PLOTS
from crossfade.domain.experiments.results import Results, analyse
from crossfade.domain.experiments.units import Exposure, Outcome
from crossfade.domain.flags import document as documents
from crossfade.domain.flags.model import Flag, Split
from crossfade.domain.flags.split import share_of
from crossfade.domain.values import FULL, EnvKey
from crossfade.ports import Parts
from crossfade.ports.flags import MOST_UNITS, ExperimentRow, Unit
from crossfade.service.audit import Audit
from crossfade.service.flag_edits import FLAGS
from crossfade.service.flag_serving import Serving
from crossfade.service.flags import Flags, done

KNOWN_FOR: Final = 5.0
"""Seconds for which results that were counted are given again."""
RESULTS_KEPT: Final = 50
AN_INSTANT: Final = 0.001
"""Seconds that an experiment lasts which was stopped as it was started."""
MOST_EXPERIMENTS: Final = 500
"""Of one environment."""
LONGEST_WHY: Final = 500

_PLAN = TypeAdapter(Plan)


class Experiments:
    """Use cases. Changes want an operator and are in the audit log. ``state`` is created, running, stopped or concluded."""

    def __init__(self, parts: Parts, audit: Audit, flags: Flags) -> None:
        self._parts, self._audit, self._flags = parts, audit, flags
        self._known: OrderedDict[tuple[EnvKey, str], tuple[float, ExperimentRow, Results]] = OrderedDict()
        self._counting = threading.Lock()

    # --- to see

    def list(self, key: EnvKey) -> list[dict[str, Any]]:
        """Newest first. Raises NotFound."""
        self._flags.serving(key)
        return [told(row) for row in self._parts.flags.experiments(key)]

    def get(self, key: EnvKey, name: str) -> dict[str, Any]:
        """One, with its ``plan``. Raises NotFound."""
        return told(self._parts.flags.experiment(key, name))

    def results(self, key: EnvKey, name: str) -> dict[str, Any]:
        """``experiment`` as `get` gives it, and ``results``: all that is known now, None before it was started.

        Raises NotFound.
        """
        row = self._parts.flags.experiment(key, name)
        if row.started is None:
            return {"experiment": told(row), "results": None}
        known, results = self._results(row)
        found = results.to_data()
        if known.left_out:
            found["warnings"] = [
                *found["warnings"],
                f"{known.left_out:,} units or outcomes came when all {MOST_UNITS:,} places were taken, and are left out.",
            ]
        return {"experiment": told(known), "results": found}

    def plot(self, key: EnvKey, name: str, which: str) -> str:
        """What is known now as an SVG: one of `PLOTS`. Raises NotFound."""
        row, draw = self._parts.flags.experiment(key, name), PLOTS.get(which)
        if draw is None:
            raise NotFound(f"There is no plot {which!r}.", hint=f"There are {', '.join(PLOTS)}.")
        if row.started is None:
            raise NotFound(f"The experiment {name} was not started: there is nothing to draw.")
        return draw(self._results(row)[1], f"{key} {name}")

    def _results(self, row: ExperimentRow) -> tuple[ExperimentRow, Results]:
        """What was counted a moment ago, and the experiment as it was then."""
        key, name = row.key, row.name
        with self._counting:  # all that ask at once are given what the first one counted
            known = self._known.get((key, name))
            same = known is not None and replace(known[1], units=0, left_out=0) == replace(row, units=0, left_out=0)
            if known is None or not same or time.monotonic() - known[0] >= KNOWN_FOR:
                results = self._count(row)
                known = self._known[key, name] = (time.monotonic(), row, results)
                self._known.move_to_end((key, name))
                while len(self._known) > RESULTS_KEPT:
                    self._known.popitem(last=False)
            return known[1], known[2]

    def _count(self, row: ExperimentRow) -> Results:
        flags, now = self._parts.flags, self._parts.now()
        plan = self.plan_of(row)
        exposures = _exposures(flags.units(row.key, row.name))
        outcomes = (Outcome(one.unit.hex(), one.name, one.at, one.value) for one in flags.outcomes(row.key, row.name))
        return analyse(plan, exposures, outcomes, now)

    def plan_of(self, row: ExperimentRow) -> Plan:
        """What it compares, with the windows that don't count: those that were given, and rollouts."""
        plan = _PLAN.validate_python(row.state["plan"])
        windows = [*plan.excluded, *(self._rollouts(row) if row.state["exclude_rollouts"] else ())]
        began = row.started or 0.0
        ends = max(row.ended, began + AN_INSTANT) if row.ended is not None else None
        return replace(plan, began=began, ends=ends, excluded=tuple(windows[:MOST_WINDOWS]))

    def _rollouts(self, row: ExperimentRow) -> Iterable[Window]:
        """When rollouts moved traffic while it ran."""
        began, now = row.started or 0.0, row.ended if row.ended is not None else self._parts.now()
        environment = self._parts.store.environment(row.key)
        holder = environment.holder if environment is not None else None
        for one in self._parts.store.rollouts(row.key, limit=MOST_WINDOWS):
            ends = now if one.id == holder else one.entered
            if one.began < now and ends > began and ends > one.began:
                yield Window(one.began, ends, f"rollout #{one.id} of {one.plan.candidate}")

    def segments(self, key: EnvKey) -> Mapping[str, frozenset[str]]:
        """By flag, the attributes that experiments which still count are cut by."""
        found: dict[str, frozenset[str]] = {}
        for row in self._parts.flags.experiments(key):
            if row.ended is None:
                found[row.flag] = found.get(row.flag, frozenset()) | frozenset(row.state["plan"]["segments"])
        return found

    # --- to change; each raises Forbidden, NotFound and Refused

    def create(
        self, key: EnvKey, plan: Plan, by: Actor, *, exclude_rollouts: bool = True, hypothesis: str = ""
    ) -> dict[str, Any]:
        """Make one, which counts nothing but what units do before, until it is started.

        Without weights, those of the flag's split are taken, else equal ones. Raises InvalidBatch.
        """
        by.require(Role.OPERATOR, key)
        serving = self._flags.serving(key)
        flag = self._flags.flag_of(serving, plan.flag)
        if not plan.weights:
            plan = replace(plan, weights=_weights(flag, plan.variants))
        plan = replace(plan, began=0.0, ends=None)
        plan.check()
        unknown = [name for name in plan.variants if name not in flag.variants]
        if unknown:
            raise InvalidBatch([Fault("variants", name, f"one of {', '.join(flag.variants)}") for name in unknown])
        if len(self._parts.flags.experiments(key)) >= MOST_EXPERIMENTS:
            raise Refused(f"{key} has {MOST_EXPERIMENTS} experiments.", hint="Remove some of those that are over.")
        state = {
            "plan": plan.to_data(),
            "exclude_rollouts": exclude_rollouts,
            "hypothesis": hypothesis[:LONGEST_WHY],
            "by": by.name,
            "shipped": None,
            "why": "",
        }
        events = tuple(sorted({metric.event for metric in plan.metrics}))
        row = ExperimentRow(key, plan.name, plan.flag, state, events, self._parts.now())
        self._parts.flags.add_experiment(row)
        self._said(by, "experiment.create", row, {}, {"flag": plan.flag, "plan": state["plan"]})
        return told(row)

    def start(self, key: EnvKey, name: str, by: Actor) -> dict[str, Any]:
        """From now on, exposures count."""
        by.require(Role.OPERATOR, key)
        row = self._parts.flags.experiment(key, name)
        if row.started is not None:
            raise Refused(f"The experiment {name} was started already.", hint="Make another one.")
        flag = self._flags.flag_of(self._flags.serving(key), row.flag)
        if not flag.enabled or flag.killed is not None:
            raise Refused(f"{row.flag} is {'killed' if flag.enabled else 'disabled'}: nobody would be exposed to it.")
        return self._save(by, "experiment.start", row, replace(row, started=self._parts.now()))

    def stop(self, key: EnvKey, name: str, by: Actor, why: str = "") -> dict[str, Any]:
        """From now on, exposures don't count; what exposed units do does, until the windows of all metrics are over."""
        by.require(Role.OPERATOR, key)
        row = self._parts.flags.experiment(key, name)
        if row.ended is not None:
            return told(row)
        now = self._parts.now()
        windows = [metric["window"] or 0.0 for metric in row.state["plan"]["metrics"]]
        until = now if row.started is None else now + max(windows, default=0.0)
        state = {**row.state, "why": why[:LONGEST_WHY]}
        return self._save(by, "experiment.stop", row, replace(row, state=state, ended=now, until=until))

    def exclude(self, key: EnvKey, name: str, windows: Sequence[Window], by: Actor) -> dict[str, Any]:
        """Say which times don't count, in place of those that were said before: incidents. Raises InvalidBatch."""
        by.require(Role.OPERATOR, key)
        row = self._parts.flags.experiment(key, name)
        plan = replace(_PLAN.validate_python(row.state["plan"]), excluded=tuple(windows))
        plan.check()
        return self._save(by, "experiment.exclude", row, replace(row, state={**row.state, "plan": plan.to_data()}))

    def conclude(self, key: EnvKey, name: str, ship: str | None, by: Actor, why: str = "") -> dict[str, Any]:
        """End it, and with ``ship`` give everybody that variant; as the flag's changes do, that may wait for approval.

        ``change`` is what came of the flag's change, None when nothing is shipped.
        """
        by.require(Role.OPERATOR, key)
        row = self._parts.flags.experiment(key, name)
        if row.state["shipped"] is not None:
            raise Refused(f"The experiment {name} is concluded: {row.state['shipped']} was shipped.")
        change = None
        if ship is not None:
            if ship not in (row.state["plan"]["control"], *row.state["plan"]["treatments"]):
                raise Invalid("ship", ship, "a variant that the experiment compares, or nothing")
            made = self._flags.change(
                key,
                "flag.ship",
                lambda base: {FLAGS + row.flag: documents.write_flag(_shipped(self._of(base, row.flag), ship))},
                by,
                name=row.flag,
                note=f"experiment {name} is concluded",
            )
            change = done(made)
        self.stop(key, name, by, why)
        row = self._parts.flags.experiment(key, name)
        state = {**row.state, "shipped": ship if ship is not None else "", "why": why[:LONGEST_WHY]}
        return {**self._save(by, "experiment.conclude", row, replace(row, state=state)), "change": change}

    def remove(self, key: EnvKey, name: str, by: Actor) -> None:
        """Forget it with all that was counted. One that runs has to be stopped first."""
        by.require(Role.OPERATOR, key)
        row = self._parts.flags.experiment(key, name)
        if row.started is not None and row.ended is None:
            raise Refused(f"The experiment {name} runs.", hint="Stop it first.")
        self._parts.flags.remove_experiment(key, name)
        self._said(by, "experiment.remove", row, told(row), {})

    def _of(self, base: Serving, flag: str) -> Flag:
        return self._flags.flag_of(base, flag)

    def _save(self, by: Actor, what: str, before: ExperimentRow, row: ExperimentRow) -> dict[str, Any]:
        self._parts.flags.save_experiment(row)
        self._said(by, what, row, _noted(before), _noted(row))
        return told(self._parts.flags.experiment(row.key, row.name))

    def _said(
        self, by: Actor, what: str, row: ExperimentRow, before: Mapping[str, Any], after: Mapping[str, Any]
    ) -> None:
        self._audit.note(by, what, f"{row.key}/{row.name}"[:200], before, after)
        said = {"experiment": row.name, "flag": row.flag, "state": standing(row)}
        self._parts.store.tell("experiment", str(row.key), said, self._parts.now())


def standing(row: ExperimentRow) -> str:
    """Where an experiment is."""
    if row.state["shipped"] is not None:
        return "concluded"
    if row.ended is not None:
        return "stopped"
    return "running" if row.started is not None else "created"


def told(row: ExperimentRow) -> dict[str, Any]:
    """An experiment as the API gives it."""
    return {
        "name": row.name,
        "service": row.key.service,
        "environment": row.key.environment,
        "flag": row.flag,
        "state": standing(row),
        "plan": row.state["plan"],
        "exclude_rollouts": row.state["exclude_rollouts"],
        "hypothesis": row.state["hypothesis"],
        "by": row.state["by"],
        "shipped": row.state["shipped"] or None,
        "why": row.state["why"],
        "created": row.created,
        "started": row.started,
        "ended": row.ended,
        "units": row.units,
        "left_out": row.left_out,
    }


def _noted(row: ExperimentRow) -> dict[str, Any]:
    return {"state": standing(row), "units": row.units, "shipped": row.state["shipped"], "why": row.state["why"]} | {
        "excluded": row.state["plan"]["excluded"][:20]
    }


def _exposures(units: Iterable[Unit]) -> Iterable[Exposure]:
    for one in units:
        unit, release = one.unit.hex(), str(one.release) if one.release is not None else ""
        yield Exposure(unit, one.variant, one.at, release, one.slot, one.attributes)
        if one.crossed is not None:
            yield Exposure(unit, one.other, one.crossed)


def _weights(flag: Flag, variants: Sequence[str]) -> dict[str, int]:
    """The shares that the flag's first split of all these variants gives them, else equal ones."""
    for rule in flag.rules:
        if isinstance(rule.serve, Split) and not rule.paused:
            shares = {name: share_of(rule.serve, name) for name in variants}
            if all(shares.values()):
                return shares
    return {name: FULL // max(1, len(variants)) for name in variants}


def _shipped(flag: Flag, variant: str) -> Flag:
    """The flag, giving everybody whom its split was for that variant."""
    for i, rule in enumerate(flag.rules):
        if isinstance(rule.serve, Split) and variant in (*rule.serve.shares, rule.serve.rest):
            rules = (*flag.rules[:i], replace(rule, serve=variant, paused=False), *flag.rules[i + 1 :])
            return replace(flag, rules=rules)
    if flag.targeting is not None:
        raise Refused(
            f"{flag.key} has no rule that splits {variant!r} from others, and conditions of its own.",
            hint="Change the flag, and conclude the experiment without shipping.",
        )
    return replace(flag, default=variant)
