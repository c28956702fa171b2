"""An OpenFeature provider that evaluates in the application's own process.

It fetches the environment's flags from Crossfade's server and follows their changes by its stream, by polling where
there is none. While the server is away the last good set goes on serving, at first the one of a file, and its age is
told. No evaluation waits for anything but the processor.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from openfeature.evaluation_context import EvaluationContext
from openfeature.event import ProviderEvent, ProviderEventDetails
from openfeature.exception import ErrorCode, ProviderNotReadyError
from openfeature.flag_evaluation import FlagResolutionDetails, FlagValueType, Reason
from openfeature.provider import AbstractProvider, Metadata
from openfeature.track import TrackingEventDetails

from crossfade.domain.errors import CrossfadeError
from crossfade.domain.flags.model import TARGETING_KEY, FlagSet
from crossfade.domain.flags.model import Reason as Why
from crossfade.domain.values import EnvKey
from crossfade.flags.exposure import current
from crossfade.flags.follower import Follower
from crossfade.flags.holding import Holding, read_answer, read_file
from crossfade.flags.outbox import Outbox
from crossfade.flags.server import Server

NAME: Final = "Crossfade"
POLL: Final = 5.0
STALE_AFTER: Final = 5.0
FIRST_SET_WITHIN: Final = 5.0
TELL_EVERY: Final = 10.0
"""Seconds between two events that say how old the set is by now."""

_SPLIT, _MATCH = Why.SPLIT, Why.TARGETING_MATCH
_NOTHING: Final = EvaluationContext()
_log = logging.getLogger(__name__)
_alive: weakref.WeakSet[CrossfadeProvider] = weakref.WeakSet()

Object = Sequence[FlagValueType] | Mapping[str, FlagValueType]


class CrossfadeProvider(AbstractProvider):
    """Flags of one environment.

    Without arguments it is what Crossfade's own environment variables say: ``CROSSFADE_FLAGS_URL``,
    ``CROSSFADE_FLAGS_TOKEN``, ``CROSSFADE_SERVICE``, ``CROSSFADE_ENVIRONMENT``, and ``CROSSFADE_RELEASE`` and
    ``CROSSFADE_SLOT`` for what is told of it. Instead of a server, ``file`` names a document, which is read again when
    it changes, and ``document`` is one. Raises Invalid.

    ``cache`` is a file that each new set is kept in, ``bootstrap`` one that the application came with: whichever is
    there serves, in this order, while the server has not answered yet. Times are in seconds: ``poll`` between two looks
    where nothing tells of changes; ``stale_after`` of silence the provider says that it is stale; ``timeout`` for the
    first set. ``attributes`` are those of the context that an exposure is told with.
    """

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        *,
        service: str | None = None,
        environment: str | None = None,
        file: str | Path | None = None,
        document: Mapping[str, Any] | None = None,
        bootstrap: str | Path | None = None,
        cache: str | Path | None = None,
        release: str | None = None,
        slot: str | None = None,
        attributes: Sequence[str] = (),
        poll: float = POLL,
        stale_after: float = STALE_AFTER,
        timeout: float = FIRST_SET_WITHIN,
        tell: bool = True,
    ) -> None:
        super().__init__()
        self._release = _said(release, "CROSSFADE_RELEASE")
        self._attributes = tuple(attributes)
        self._files = [Path(path) for path in (cache, bootstrap) if path is not None]
        self._stale_after, self._timeout = stale_after, timeout
        self._held: Holding | None = None
        self._units: Mapping[str, str] = {}
        self._seen_at = 0.0
        self._away_since: float | None = None
        self._why = ""
        self._stale = False
        self._initialized_at: float | None = None
        self._told_at = 0.0
        self._not_ready = False
        self._tried, self._ready = threading.Event(), threading.Event()
        self._forked = False
        self._waking = threading.Lock()
        self._outbox: Outbox | None = None
        self._follower: Follower | None = None
        if document is not None:
            self._hold(read_answer(dict(document), time.time()))
        elif file is not None:
            self._follower = Follower(Path(file), self, poll=min(poll, 1.0), cache=None)
        else:
            key = EnvKey(_said(service, "CROSSFADE_SERVICE"), _said(environment, "CROSSFADE_ENVIRONMENT"))
            server = Server(_said(url, "CROSSFADE_FLAGS_URL"), _said(token, "CROSSFADE_FLAGS_TOKEN"), key)
            self._follower = Follower(server, self, poll=poll, cache=Path(cache) if cache is not None else None)
            if tell:
                self._outbox = Outbox(server, release=self._release, slot=_said(slot, "CROSSFADE_SLOT"))

    def get_metadata(self) -> Metadata:
        return Metadata(name=NAME)

    @property
    def version(self) -> int:
        """Of the set that is served; 0 while there is none, and for a file."""
        return self._held.version if self._held is not None else 0

    @property
    def age(self) -> float | None:
        """Seconds since the set that is served was known to be the newest; None while there is none."""
        return max(0.0, time.time() - self._seen_at) if self._held is not None else None

    @property
    def stale(self) -> bool:
        """Whether the source has been away for so long that it was told."""
        return self._stale

    @property
    def dropped(self) -> int:
        """What was told of flags, and could be neither sent nor kept."""
        return self._outbox.dropped if self._outbox is not None else 0

    def initialize(self, evaluation_context: EvaluationContext) -> None:
        """Begin to follow. Returns with a set; raises ProviderNotReadyError when there is none in time, and goes on."""
        self._initialized_at = None
        _alive.add(self)
        deadline = time.monotonic() + self._timeout
        if self._outbox is not None:
            self._outbox.start()
        if self._follower is not None:
            self._follower.start()
            if self._files:
                self._tried.wait(self._timeout)
            if self._held is None:
                self._hold_a_file()
            if self._held is None:
                self._ready.wait(max(0.0, deadline - time.monotonic()))
        self._not_ready = self._held is None
        self._initialized_at = time.monotonic()
        if self._not_ready:
            raise ProviderNotReadyError(f"No flags are here yet: {self._why or 'the server has not answered'}.")

    def shutdown(self) -> None:
        """End, having sent what is to be told if the server has it at once. What is held goes on being served."""
        _alive.discard(self)
        if self._forked:
            return
        if self._follower is not None:
            self._follower.stop()
        if self._outbox is not None:
            self._outbox.stop()

    def resolve_boolean_details(
        self, flag_key: str, default_value: bool, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[bool]:
        return self._resolve(flag_key, default_value, evaluation_context, bool)

    def resolve_string_details(
        self, flag_key: str, default_value: str, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[str]:
        return self._resolve(flag_key, default_value, evaluation_context, str)

    def resolve_integer_details(
        self, flag_key: str, default_value: int, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[int]:
        return self._resolve(flag_key, default_value, evaluation_context, int)

    def resolve_float_details(
        self, flag_key: str, default_value: float, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[float]:
        return self._resolve(flag_key, default_value, evaluation_context, float)

    def resolve_object_details(
        self, flag_key: str, default_value: Object, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[Object]:
        return self._resolve(flag_key, default_value, evaluation_context, dict)

    def track(
        self,
        tracking_event_name: str,
        evaluation_context: EvaluationContext | None = None,
        tracking_event_details: TrackingEventDetails | None = None,
    ) -> None:
        """Tell that the unit of the context did something. Without a targeting key nobody did, and it is not told."""
        if self._forked:
            self._wake()
        unit = evaluation_context.targeting_key if evaluation_context is not None else None
        if unit and self._outbox is not None:
            value = tracking_event_details.value if tracking_event_details is not None else None
            self._outbox.track(tracking_event_name, unit, value)

    def _resolve(
        self, key: str, default: Any, context: EvaluationContext | None, kind: type
    ) -> FlagResolutionDetails[Any]:
        if self._forked:
            self._wake()
        held = self._held
        if held is None:
            return FlagResolutionDetails(
                default, ErrorCode.PROVIDER_NOT_READY, f"No flags are here yet: {self._why}.", Reason.ERROR
            )
        context = context or _NOTHING
        asked = self._asked(context)
        found = held.evaluator.evaluate(key, asked, time.time())
        metadata = found.metadata
        if self._stale:
            metadata = {**metadata, "stale": True, "age": round(self.age or 0.0, 1)}
        if found.error is not None:
            return FlagResolutionDetails(
                default, ErrorCode(found.error.value), found.details, Reason.ERROR, None, metadata
            )
        variant, value = found.variant, found.value
        if variant is None:
            return FlagResolutionDetails(default, None, None, found.reason, None, metadata)
        if value.__class__ is not kind:
            # JSON knows numbers, of one kind only; OpenFeature knows two.
            if kind is float and value.__class__ is int:
                value = float(value)
            elif kind is int and value.__class__ is float and value.is_integer():
                value = int(value)
            elif not (kind is dict and value.__class__ is list):
                what = f"Flag {key!r} has a value of type {type(value).__name__}, and was asked as {kind.__name__}."
                return FlagResolutionDetails(default, ErrorCode.TYPE_MISMATCH, what, Reason.ERROR, None, metadata)
        if kind is dict:
            value = _copied(value)
        reason = found.reason
        chosen = reason is _SPLIT or reason is _MATCH
        made = current()
        if made is not None:
            made.note(key, variant, chosen)
        outbox = self._outbox
        if outbox is not None:
            outbox.count(key, variant)
            if chosen:
                unit = asked.get(self._units.get(key, TARGETING_KEY))
                if unit is not None and unit != "":
                    told = {name: asked[name] for name in self._attributes if name in asked}
                    outbox.expose(key, variant, str(unit), told)
        return FlagResolutionDetails(value, None, None, reason, variant, metadata)

    def _asked(self, context: EvaluationContext) -> dict[str, Any]:
        """The context as an evaluator reads it: JSON, with the targeting key and the release that asks."""
        asked: dict[str, Any] = {**context.attributes}
        if self._release:
            asked.setdefault("release", self._release)
        if context.targeting_key is not None:
            asked[TARGETING_KEY] = context.targeting_key
        if datetime in map(type, asked.values()):
            asked = {name: one.isoformat() if type(one) is datetime else one for name, one in asked.items()}
        return asked

    # What the follower tells, from its thread.

    def found(self, holding: Holding) -> None:
        """Serve a newer set."""
        before = self._held
        self._hold(holding)
        if before is not None and self._initialized_at is not None:
            changed = _changed(before, holding)
            self._tell(ProviderEvent.PROVIDER_CONFIGURATION_CHANGED, "The flags have changed.", changed)

    def confirmed(self, known_at: float) -> None:
        """What is served was the newest then: just now, unless the server itself has lost sight of its ledger."""
        self._seen_at = known_at
        behind = time.time() - known_at
        if behind > self._stale_after:
            self._fall_behind("the server does not know whether they are the newest", time.monotonic() - behind)
        else:
            self._back()

    def failed(self, why: str) -> None:
        """The source is away, or what it gave is no set: what is held goes on, and is stale after a while."""
        self._fall_behind(why, time.monotonic())

    def _fall_behind(self, why: str, since: float) -> None:
        now = time.monotonic()
        if self._away_since is None:
            self._away_since = since
            _log.warning("The flags cannot be followed, and stay as they are: %s", why)
        self._why = why
        self._tried.set()
        begun = self._initialized_at
        if now - self._away_since < self._stale_after or begun is None or now - begun < 0.2:
            return  # too soon, or the SDK has not yet said itself that we are ready
        if not self._stale or now - self._told_at >= TELL_EVERY:
            self._stale, self._told_at = True, now
            self._tell(ProviderEvent.PROVIDER_STALE, f"The flags are as they were: {why}.")

    def _back(self) -> None:
        """The source is there."""
        self._tried.set()
        self._away_since, self._why = None, ""
        if self._initialized_at is not None and (self._stale or self._not_ready):
            self._stale = self._not_ready = False
            self._tell(ProviderEvent.PROVIDER_READY, "The flags are followed.")

    def _hold(self, holding: Holding) -> None:
        self._units = _units(holding.flags)
        self._seen_at = holding.known_at
        self._held = holding
        self._ready.set()

    def _hold_a_file(self) -> None:
        for path in self._files:
            try:
                holding = read_file(path)
            except (OSError, CrossfadeError) as error:
                _log.warning("The flags in %s cannot be read: %s", path, error)
                continue
            if self._held is None:
                self._hold(holding)
            return

    def _tell(self, event: ProviderEvent, message: str, changed: list[str] | None = None) -> None:
        metadata: dict[str, bool | str | int | float] = {"version": self.version}
        if self.age is not None:
            metadata["age"] = round(self.age, 3)
        with contextlib.suppress(RuntimeError):  # the interpreter ends, and the SDK's threads before ours
            self.emit(event, ProviderEventDetails(flags_changed=changed, message=message, metadata=metadata))

    def _wake(self) -> None:
        """In the first evaluation after a fork: the threads were the parent's."""
        with self._waking:
            if not self._forked:
                return
            self._forked = False
            if self._follower is not None:
                self._follower.start()
            if self._outbox is not None:
                self._outbox.start()

    def _after_fork(self) -> None:
        self._waking = threading.Lock()
        self._tried, self._ready = threading.Event(), threading.Event()
        if self._follower is not None:
            self._follower.forget()
        if self._outbox is not None:
            self._outbox.forget()
        self._forked = True


def _copied(value: Any) -> Any:
    """Of parsed JSON: what an application does with a value is no other evaluation's affair."""
    if isinstance(value, dict):
        return {name: _copied(one) for name, one in value.items()}
    return [_copied(one) for one in value] if isinstance(value, list) else value


def _said(given: str | None, variable: str) -> str:
    return given if given is not None else os.environ.get(variable, "")


def _units(flags: FlagSet) -> Mapping[str, str]:
    """By which attribute a flag's split draws, where it is not the targeting key."""
    by = {}
    for flag in flags.flags.values():
        for rule in flag.rules:
            drawn = rule.serve if isinstance(rule.serve, str) else rule.serve.by
            if not isinstance(rule.serve, str) and drawn != TARGETING_KEY:
                by[flag.key] = drawn
    return by


def _changed(before: Holding, after: Holding) -> list[str]:
    """Flags that may come to something else: those that are others, and all, when what they share is."""
    old, new = before.flags, after.flags
    shared = [(held.said.get("release"), held.flags.evaluators, held.flags.segments) for held in (before, after)]
    names = old.flags.keys() | new.flags.keys()
    return sorted(name for name in names if shared[0] != shared[1] or old.flags.get(name) != new.flags.get(name))


def _fork_all() -> None:
    for provider in list(_alive):
        provider._after_fork()


def _shut_all() -> None:
    for provider in list(_alive):
        provider.shutdown()


os.register_at_fork(after_in_child=_fork_all)
atexit.register(_shut_all)
