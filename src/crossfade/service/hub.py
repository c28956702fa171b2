"""What happens, told to all who watch: the feed is read once for everybody, and rollouts are sampled once a second."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Final

from crossfade.domain.errors import CrossfadeError
from crossfade.domain.rollout import Rollout
from crossfade.domain.signal import Reading
from crossfade.domain.traffic import CONTROL, Pool
from crossfade.domain.values import EnvKey
from crossfade.ports import Change, Parts

LOOK_EVERY: Final = 0.2
"""Seconds between two looks into the feed."""
SAMPLE_EVERY: Final = 1.0
"""Seconds between two samples of a rollout."""
LATENCY_OVER: Final = 5
"""Samples that a quantile is taken over: one second of a candidate's traffic is too little for a p99."""
SAMPLES_KEPT: Final = 900
ROLLOUTS_KEPT: Final = 100
MOST_UNREAD: Final = 2_000
"""Changes that may wait for a slow reader, who is then let go."""

_log = logging.getLogger(__name__)


class Subscription:
    """An asynchronous iterator of changes, in order, none twice; ends when the hub stops or the reader is too slow.

    Begins with what came after ``since``, from the ledger; when not all of that is kept, with a `reset` instead. Changes
    of kind ``sample`` have the number 0: they cannot be resumed from.
    """

    def __init__(self, hub: Hub, since: int | None, seen: Callable[[EnvKey], bool]) -> None:
        self._hub, self._seen, self._since = hub, seen, since
        self._loop = asyncio.get_running_loop()
        self._queue: deque[Change] = deque()
        self._woken = asyncio.Event()
        self._closed = False
        self.dropped = False

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    def close(self) -> None:
        """Tell no more. In the event loop's thread."""
        self._closed = True
        self._hub.leave(self)
        self._woken.set()

    def offer(self, changes: list[Change]) -> None:
        """Take what happened. In the event loop's thread."""
        if self._closed:
            return
        self._queue.extend(change for change in changes if self.concerns(change))
        if len(self._queue) > MOST_UNREAD:
            self.dropped = True
            self.close()
        if self._queue:
            self._woken.set()

    def concerns(self, change: Change) -> bool:
        """Whether the reader may see it; what is of no environment is for those who see everything."""
        if change.kind == "audit":
            return False
        try:
            return self._seen(EnvKey.parse(change.key))
        except CrossfadeError:
            return False

    async def __aiter__(self) -> AsyncIterator[Change]:
        last = self._hub.enter(self)
        if self._since is not None:
            reached = self._since
            async for change in self._missed(self._since, last):
                reached = change.seq
                yield change
            if self._closed:
                return  # what is in the queue may come after some that were not told
            last = max(last, reached)  # the hub may not have looked yet at what the reader knows already
        while True:
            while self._queue:
                change = self._queue.popleft()
                if change.seq == 0 or change.seq > last:
                    last = max(last, change.seq)
                    yield change
            if self._closed:
                return
            self._woken.clear()
            await self._woken.wait()

    async def _missed(self, since: int, until: int) -> AsyncIterator[Change]:
        reset = Change(until, 0.0, "reset", "", None, {"newest": until})
        _, newest = await asyncio.to_thread(self._hub.kept)
        if since > newest:
            yield reset
            return
        while since < until and not self._closed:
            page = await asyncio.to_thread(self._hub.after, since)
            oldest, _ = await asyncio.to_thread(self._hub.kept)  # after the page: some may have gone meanwhile
            if since < oldest - 1:
                yield reset
                return
            if not page:
                return
            for change in page:
                if change.seq <= until and self.concerns(change):
                    yield change
            since = page[-1].seq


class Hub:
    """One per server. ``start`` before the first subscription. ``first`` is told what happens before any reader is."""

    def __init__(self, parts: Parts, first: Callable[[Sequence[Change]], None] = lambda _: None) -> None:
        self._parts, self._first = parts, first
        self._subscriptions: set[Subscription] = set()
        self._lock = threading.Lock()
        self._last = 0
        self._open: dict[int, Rollout] = {}
        self._readings: dict[int, deque[Reading]] = {}
        self._samples: OrderedDict[int, deque[dict[str, Any]]] = OrderedDict()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._sampled = 0.0

    def start(self) -> None:
        """Begin to look."""
        _, self._last = self._parts.store.changes_kept()
        self._open = {state.id: state for state in self._parts.store.rollouts(open_only=True, limit=1000)}
        self._thread = threading.Thread(target=self._run, name="hub", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Look no more; all subscriptions end."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=5)
        with self._lock:
            left = list(self._subscriptions)
        for subscription in left:
            _in_loop(subscription.loop, subscription.close)

    @property
    def viewers(self) -> int:
        return len(self._subscriptions)

    def subscribe(self, since: int | None, seen: Callable[[EnvKey], bool]) -> Subscription:
        """What happens from now on, or after change ``since``, in environments that ``seen`` lets through."""
        return Subscription(self, since, seen)

    def enter(self, subscription: Subscription) -> int:
        """The subscription is told what comes after the change whose number is returned."""
        with self._lock:
            last, ended = self._last, self._stop.is_set()
            if not ended:
                self._subscriptions.add(subscription)
        if ended:
            subscription.close()
        return last

    def leave(self, subscription: Subscription) -> None:
        with self._lock:  # the hub's thread may be going through them
            self._subscriptions.discard(subscription)

    def kept(self) -> tuple[int, int]:
        return self._parts.store.changes_kept()

    def after(self, seq: int) -> tuple[Change, ...]:
        return self._parts.store.changes(seq)

    def samples(self, rollout: int) -> list[dict[str, Any]]:
        """What was sampled of a rollout, oldest first; nothing of one that ended long ago or before this server."""
        with self._lock:
            return list(self._samples.get(rollout, ()))

    def _run(self) -> None:
        while not self._stop.wait(LOOK_EVERY):
            try:
                self._look()
            except CrossfadeError as error:
                _log.warning("the feed cannot be read: %s", error)
            except Exception:  # noqa: BLE001 - said in the log; those who watch must not be left without news
                _log.exception("the hub stumbled; it goes on")

    def _look(self) -> None:
        fresh = list(self._parts.store.changes(self._last))
        for change in fresh:
            if change.kind == "rollout" and change.rollout is not None:
                state = self._parts.store.rollout(change.rollout)
                if not state.phase.ended:
                    self._open[change.rollout] = state
            elif change.kind == "closed" and change.rollout is not None:
                self._open.pop(change.rollout, None)
                self._readings.pop(change.rollout, None)
        if fresh:
            self._first(fresh)
        now = self._parts.now()
        if not 0 <= now - self._sampled < SAMPLE_EVERY:
            self._sampled = now
            samples = [self._sample(state) for state in list(self._open.values())]
            fresh += [sample for sample in samples if sample is not None]
        if not fresh:
            return
        with self._lock:
            self._last = max(self._last, *(change.seq for change in fresh))
            loops: dict[asyncio.AbstractEventLoop, list[Subscription]] = {}
            for subscription in self._subscriptions:
                loops.setdefault(subscription.loop, []).append(subscription)
        for loop, members in loops.items():
            _in_loop(loop, _offer, members, fresh)

    def _sample(self, state: Rollout) -> Change | None:
        try:
            reading = self._parts.signals.read(state.plan.key)
        except CrossfadeError:
            return None
        readings = self._readings.setdefault(state.id, deque(maxlen=LATENCY_OVER + 1))
        readings.append(reading)
        if len(readings) < 2 or reading.at <= readings[-2].at:
            return None
        sample = sampled(state, reading, readings[-2], readings[0])
        with self._lock:
            kept = self._samples.setdefault(state.id, deque(maxlen=SAMPLES_KEPT))
            kept.append(sample)
            while len(self._samples) > ROLLOUTS_KEPT:
                self._samples.popitem(last=False)
        return Change(0, reading.at, "sample", str(state.plan.key), state.id, sample)


def sampled(state: Rollout, now: Reading, before: Reading, earlier: Reading) -> dict[str, Any]:
    """The rates of both arms between two readings; quantiles since the ``earlier`` one. Rates per second, times in ms."""
    plan = state.plan
    baseline: Pool = CONTROL if plan.fresh and now.control.requests else plan.slot.other
    arms: Mapping[str, Pool] = {"baseline": baseline, "candidate": plan.slot}
    rates, spread, seconds = now.since(before), now.since(earlier), now.at - before.at
    said: dict[str, Any] = {}
    for arm, pool in arms.items():
        facts, wide = rates.facts(pool), spread.facts(pool)
        said[arm] = {
            "rps": round(facts.requests / seconds, 2),
            "errors_per_s": round(facts.errors / seconds, 3),
            "error_rate": round(facts.errors / facts.requests, 6) if facts.requests else None,
            "p50_ms": _ms(wide.p50),
            "p99_ms": _ms(wide.p99),
        }
    return {"t": round(now.at, 2), "weight": state.weight.bp, "phase": state.phase.value, "arms": said}


def _ms(seconds: float | None) -> float | None:
    return round(seconds * 1000, 2) if seconds is not None else None


def _offer(subscriptions: list[Subscription], changes: list[Change]) -> None:
    for subscription in subscriptions:
        subscription.offer(changes)


def _in_loop(loop: asyncio.AbstractEventLoop, call: Callable[..., object], *args: object) -> None:
    try:
        loop.call_soon_threadsafe(call, *args)
    except RuntimeError:
        return  # the loop has ended, and its readers with it
