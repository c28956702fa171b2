"""The port `Signals` on the edge: exact counters, sampled latencies, and each failed request.

Counters come from the workers' statistics. A reload replaces the worker; the old one finishes its requests, and as
long as it has any it is asked too. To get its last count, one connection to it is held open, which keeps it from
exiting before it was read. So counts go on over reloads. They are lost when the edge is killed, and when it
reloads while nobody reads: then the segment changes.

Business events that applications tell in response headers are summed by edge.lua, and carried over reloads like the
counters. There a pool that gets another release forgets names that its last one did not use: what they came to is kept
here. So is what answers tell of the variants that they were made with.

Latencies and failures are log lines in two rings in the edge's memory, followed over the same socket. A ring costs a
request no system call, waits for nobody, and still has the last thousands of failures for a reader that was away.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from crossfade.domain.analysis import latency
from crossfade.domain.analysis.sample import History, Moments
from crossfade.domain.errors import Invalid, NotFound, Unavailable
from crossfade.domain.signal import Failure, Latencies, Reading
from crossfade.domain.traffic import CONTROL, POOLS, Counters, Pool, Slot
from crossfade.domain.values import EnvKey
from crossfade.ports.pipeline import Profile
from crossfade.signals.profile import Hours
from crossfade.signals.sockets import Ring, Session
from crossfade.signals.statistics import (
    EVENTS,
    REFUSED,
    Events,
    Place,
    Statistics,
    Worker,
    cause_of,
    failure,
    name_of,
    place_named,
    place_of,
    read_statistics,
    read_worker,
    variables_wanted,
)
from crossfade.signals.variants import Variants

SOCKET: Final = "edge.sock"
FILE: Final = "signals.json"
HOURS: Final = "profile.json"
PATIENCE: Final = 3.0
REMEMBERED: Final = 20_000
SAVED_EVERY: Final = 5.0
WINDOW: Final = 10.0
"""Seconds of one count of the history."""

WINDOWS: Final = 360
"""How many are remembered: an hour."""

NAMES: Final = 200
"""Names of business events of one pool that are remembered after its worker, or its release, has gone."""

log = logging.getLogger(__name__)


class EdgeSignals:
    """`ports.Signals` of the edge whose socket is in ``run``; what must outlive this process is kept in ``folder``.

    `read` works by itself. `start` adds a thread that follows the rings and looks for new workers ``every`` so many
    seconds; without it, samples and failures are taken in only when something is read. ``now`` gives epoch seconds.
    """

    def __init__(self, folder: Path, run: Path, every: float = 1.0, now: Callable[[], float] = time.time) -> None:
        self._file, self._path, self._every, self._now = folder / FILE, str(run / SOCKET), every, now
        self._lock = threading.RLock()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._followed: dict[tuple[int, int], _Followed] = {}
        self._current: tuple[int, int] | None = None
        self._generation = 0
        self._segment = ""
        self._base: dict[Place, Counters] = {}
        self._histograms: dict[Place, dict[int, int]] = {}
        self._failures: dict[EnvKey, deque[Failure]] = {}
        self._events: Events = {}
        self._variants = Variants()
        self._windows = _Windows(now())
        self._hours = Hours(folder / HOURS, now())
        self._saved_at = 0.0
        self._dirty = False
        self.malformed = 0
        """Log lines that were not understood, and ignored."""
        self._met_any = False
        self._known: tuple[int, int] | None = None
        self._load()

    # --- the port

    def read(self, key: EnvKey) -> Reading:
        found = self.read_many([key])
        if key not in found:
            raise NotFound(f"The edge has no environment {key}.", hint="Deploy it first.")
        return found[key]

    def read_many(self, keys: Sequence[EnvKey]) -> Mapping[EnvKey, Reading]:
        with self._lock:
            statistics = self._poll(PATIENCE)
            self._pump()
            events = self._all_events(self._followed.values())
            return {key: self._reading(key, events) for key in keys if key in statistics.present}

    def _reading(self, key: EnvKey, events: Events) -> Reading:
        slots = {slot: self._total((key, slot)) for slot in Slot}
        histograms = {slot: Latencies(tuple(sorted(self._histograms.get((key, slot), {}).items()))) for slot in Slot}
        return Reading(
            self._now(),
            self._segment,
            slots,
            self._total((key, None)),
            histograms,
            self._total((key, CONTROL)),
            Latencies(tuple(sorted(self._histograms.get((key, CONTROL), {}).items()))),
            *_told(key, events),
            self._variants.of(key),
        )

    def failures(self, key: EnvKey, since: float) -> tuple[Failure, ...]:
        with self._lock:
            with contextlib.suppress(Unavailable):
                self._poll(0.0)
            self._pump()
            return tuple(sorted((f for f in self._failures.get(key, ()) if f.at > since), key=lambda f: f.at))

    def history(self, key: EnvKey, slot: Pool) -> History:
        with self._lock:
            with contextlib.suppress(Unavailable):
                self._poll(0.0)
            self._pump()
            place = (key, slot)
            total, began = self._total(place), self._windows.began.get(place)
            whole = list(self._windows.of.get(place, ()))
            seconds = WINDOW * len(whole)
            requests, errors = sum(n for n, _ in whole), sum(x for _, x in whole)
            if began is not None and total.requests >= began.requests:
                requests, errors = requests + total.requests - began.requests, errors + total.errors - began.errors
                seconds += max(0.0, self._now() - self._windows.at)
            known = Latencies(tuple(sorted(self._histograms.get(place, {}).items())))
            known = known.since(self._windows.latencies.get(place, Latencies()))
            return History(requests, errors, tuple(float(x) for _, x in whole), known.histogram(), seconds)

    def profile(self, key: EnvKey) -> Profile | None:
        with self._lock:
            return self._hours.profile(key)

    def forget(self, key: EnvKey, slot: Pool) -> None:
        with self._lock:
            with contextlib.suppress(Unavailable):
                self._poll(0.0)
            place = (key, slot)
            self._windows.of.pop(place, None)
            self._windows.began[place] = self._total(place)
            self._windows.short.add(place)
            self._windows.latencies[place] = Latencies(tuple(sorted(self._histograms.get(place, {}).items())))

    # --- the reader

    def start(self) -> None:
        """Follow the edge in a thread of its own, until `stop`."""
        if self._thread is None:
            self._stopping.clear()
            self._thread = threading.Thread(target=self._follow, name="edge-signals", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End the thread, write down what was counted, and let go of the edge."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(timeout=10)
            self._thread = None
        with self._lock:
            self._save()
            self._hours.save(self._now(), at_once=True)
            for followed in self._followed.values():
                followed.close()
            self._followed.clear()
            self._failures.clear()  # the edge still has them, for whoever reads next
            self._known, self._current, self._met_any = self._current or self._known, None, False

    def _follow(self) -> None:
        due = 0.0
        while not self._stopping.is_set():
            try:
                if time.monotonic() >= due:
                    due = time.monotonic() + self._every
                    with self._lock, contextlib.suppress(Unavailable):
                        self._count_hours(self._poll(0.0))
                        self._roll()
                with self._lock:
                    rings = [ring.connection for followed in self._followed.values() for ring in followed.rings]
                wait = min(0.25, max(0.01, due - time.monotonic()))
                if not rings:
                    self._stopping.wait(wait)
                    continue
                with contextlib.suppress(OSError, ValueError):  # another thread may have closed one meanwhile
                    if select.select(rings, [], [], wait)[0]:
                        self._stopping.wait(0.02)  # a burst is cheaper to read together
                with self._lock:
                    self._pump()
                    if self._dirty and time.monotonic() - self._saved_at > SAVED_EVERY:
                        self._save()
            except Exception:
                log.exception("The edge's signals could not be read; trying again")
                self._stopping.wait(1.0)

    def _count_hours(self, statistics: Statistics) -> None:
        now = self._now()
        for key in statistics.present:
            self._hours.count(key, sum(self._total((key, pool)).requests for pool in POOLS), now)
        self._hours.save(now)

    def _roll(self) -> None:
        """Close the window of history when its time is over."""
        windows, now = self._windows, self._now()
        if now - windows.at < WINDOW:
            return
        whole = now - windows.at < 2 * WINDOW  # one that nobody closed in time is no window of that length
        places = {place for followed in self._followed.values() for place in followed.statistics.counters}
        for place in places:
            total = self._total(place)
            began = windows.began.get(place)
            fresh = total.since(began) if began is not None and total.requests >= began.requests else None
            known = place[1] is not None and place not in windows.short
            if whole and known and fresh is not None and fresh.requests:
                windows.of.setdefault(place, deque(maxlen=WINDOWS)).append((fresh.requests, fresh.errors))
            windows.began[place] = total
        windows.at = now
        windows.short.clear()
        self._dirty = True

    # --- counters

    def _total(self, place: Place) -> Counters:
        total = self._base.get(place, Counters())
        open_now = 0
        for followed in self._followed.values():
            counters = followed.count(place)
            total = total.plus(counters)
            open_now += counters.open
        return replace(total, open=open_now)

    def _poll(self, patience: float) -> Statistics:
        """Bring every worker's counts up to date. Raises Unavailable when no worker serves."""
        try:
            worker, stat, variables, events, variants = self._ask_serving(patience)
        except Unavailable:
            self._settle(None)
            raise
        if worker.identity not in self._followed:
            self._settle(worker.identity)  # whether the one before it is still there decides if counts go on
            self._meet(worker)
        self._current, self._generation = worker.identity, worker.generation
        statistics = read_statistics(stat, variables, events)
        self._heard(self._followed[worker.identity], statistics)
        self._dirty |= self._variants.heard(worker.identity, variants)
        self._settle(worker.identity)
        return statistics

    def _meet(self, worker: Worker) -> None:
        """A worker that was not seen before: the next after a reload, or the first of a new segment."""
        continues = worker.identity == self._known or (
            self._current is not None and self._segment != "" and worker.generation - self._generation in (0, 1)
        )
        if not continues:
            for followed in self._followed.values():
                followed.close()
            self._followed.clear()
            self._segment = f"{worker.started}-{worker.pid}-{os.urandom(3).hex()}"
            self._base.clear()
            self._histograms.clear()
            self._events.clear()
            self._variants.lost()
            self._windows.began.clear()
            self._windows.latencies.clear()
        # All samples of a worker that began while this reader was there are new to it.
        self._followed[worker.identity] = _Followed(self._path, from_the_beginning=self._met_any)
        self._known, self._current, self._met_any = None, worker.identity, True
        self._save()

    def _settle(self, serving: tuple[int, int] | None) -> None:
        """Take the last counts of workers that are done, and let them go."""
        for identity, followed in list(self._followed.items()):
            if identity == serving:
                continue
            try:
                worker = read_worker(followed.ask("show info"))
                stat = followed.ask("show stat")
                wanted = variables_wanted(stat)
                variables = "".join(followed.ask(command) for command in wanted)
                self._heard(followed, read_statistics(stat, variables, followed.ask(EVENTS)))
                self._variants.heard(identity, followed.ask(self._variants.command(identity)))
            except (OSError, ValueError):
                # It was killed with whatever it had not told yet.
                self._pump_one(followed)
                followed.close()
                del self._followed[identity]
                if identity == self._current:
                    self._current, self._segment = None, ""
                else:
                    self._keep(followed)
                    self._variants.gone(identity)
                continue
            if worker.stopping and worker.connections == 0:
                self._pump_one(followed)
                followed.close()
                del self._followed[identity]
                self._keep(followed)
                self._variants.gone(identity)
                self._save()

    def _heard(self, followed: _Followed, statistics: Statistics) -> None:
        """Take a worker's newest counts, and remember the failures among them that no log line tells of."""
        for place, events in followed.statistics.events.items():
            still = statistics.events.get(place, {})
            gone = {name: m for name, m in events.items() if name not in still or still[name].n < m.n}
            _add(self._events, place, gone)
            self._dirty |= bool(gone)
        followed.statistics = statistics
        for place, silent in statistics.silent.items():
            known = followed.silent.get(place, silent if followed.was_running else 0)
            kept = self._failures.setdefault(place[0], deque(maxlen=REMEMBERED))
            kept.extend([failure(self._now(), place[1], 0, "response")] * (silent - known))
            followed.silent[place] = max(known, silent)

    def _all_events(self, workers: Iterable[_Followed]) -> Events:
        """What was kept and what these workers have."""
        total = {place: dict(events) for place, events in self._events.items()}
        for followed in workers:
            for place, events in followed.statistics.events.items():
                _add(total, place, events)
        return total

    def _keep(self, followed: _Followed) -> None:
        for place, events in followed.statistics.events.items():
            _add(self._events, place, events)
        for place in followed.statistics.counters:
            self._base[place] = self._base.get(place, Counters()).plus(followed.count(place))

    def _ask_serving(self, patience: float) -> tuple[Worker, str, str, str, str]:
        deadline = time.monotonic() + patience
        while True:
            try:
                with Session(self._path) as session:
                    worker, stat = read_worker(session.ask("show info")), session.ask("show stat")
                    wanted = variables_wanted(stat)
                    variables = "".join(session.ask(command) for command in wanted)
                    variants = session.ask(self._variants.command(worker.identity))
                    return worker, stat, variables, session.ask(EVENTS), variants
            except (OSError, ValueError) as error:
                if time.monotonic() >= deadline:
                    raise Unavailable(
                        "The edge does not answer.",
                        hint="It is restarted by itself within seconds; if not, see `crossfade doctor`.",
                    ) from error
                time.sleep(0.02)

    # --- log lines

    def _pump(self) -> None:
        for followed in self._followed.values():
            self._pump_one(followed)

    def _pump_one(self, followed: _Followed) -> None:
        for ring in followed.rings:
            for line in ring.lines():
                try:
                    self._take(line, ring.failures, followed)
                except (ValueError, IndexError):
                    self.malformed += 1

    def _take(self, line: bytes, failures: bool, followed: _Followed) -> None:
        proxy, server, status, termination, at, took, *asked = line.split(b" ", 7)
        place = place_of(proxy.decode("ascii"))
        if place is None:
            return
        if failures:
            code = int(status)
            if termination in (b"KD", b"KL") and server != b"_elsewhere":
                followed.ended_by_us[place] = followed.ended_by_us.get(place, 0) + 1
            cause = cause_of(code, termination.decode("ascii"), server.decode("ascii"), proxy.endswith(b"._nobody"))
            if cause:
                kept = self._failures.setdefault(place[0], deque(maxlen=REMEMBERED))
                kept.append(failure(int(at) / 1e6, place[1], code, cause))
        elif took != b"-" and status != b"101" and place[1] is not None and server != b"_elsewhere":
            histogram = self._histograms.setdefault(place, {})
            bucket = latency.bucket_of(int(took) / 1e6)
            histogram[bucket] = histogram.get(bucket, 0) + 1
            self._dirty = True
            if len(asked) == 2:  # a worker from before an update does not say
                method, path = asked[0].decode("latin-1"), asked[1].decode("latin-1")
                self._hours.ask(place[0], method, path, self._now())

    # --- on disk

    def _save(self) -> None:
        """What another process needs to go on counting. Best effort: without it, a new segment begins."""
        base = dict(self._base)
        old = [followed for identity, followed in self._followed.items() if identity != self._current]
        for followed in old:
            for place in followed.statistics.counters:
                base[place] = base.get(place, Counters()).plus(followed.count(place))
        events = self._all_events(old)
        data = {
            "events": [[*name_of(p), n, m.n, m.sum, m.sum_sq] for p, known in events.items() for n, m in known.items()],
            "variants": self._variants.saved(self._current or self._known),
            "segment": self._segment,
            "worker": self._current or self._known,
            "base": [[*name_of(place), c.requests, c.errors, c.retries, c.by_cause] for place, c in base.items()],
            "histograms": [[*name_of(place), sorted(h.items())] for place, h in self._histograms.items()],
            "windows": [[*name_of(place), list(kept)] for place, kept in self._windows.of.items()],
            "before": [[*name_of(place), known.counts] for place, known in self._windows.latencies.items()],
        }
        temporary = self._file.with_suffix(".new")
        try:
            with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
                json.dump(data, file, separators=(",", ":"))
            os.replace(temporary, self._file)
        except OSError as error:
            log.warning("The counts at the edge could not be written down: %s", error.strerror)
        self._saved_at, self._dirty = time.monotonic(), False

    def _load(self) -> None:
        try:
            data: Mapping[str, Any] = json.loads(self._file.read_bytes())
            worker = data["worker"]
            base = {
                place_named(k, s): Counters(r, e, n, 0, tuple(map(tuple, causes)))
                for k, s, r, e, n, causes in data["base"]
            }
            histograms = {place_named(k, s): {int(b): int(n) for b, n in counts} for k, s, counts in data["histograms"]}
            events: Events = {}
            for k, s, name, *sums in data.get("events", ()):
                events.setdefault(place_named(k, s), {})[str(name)] = Moments(*map(float, sums))
            if worker:
                known = (int(worker[0]), int(worker[1]))
                self._variants = Variants.loaded(data.get("variants", {}), known)
                self._known, self._events = known, events
                self._segment, self._base, self._histograms = str(data["segment"]), base, histograms
                for k, s, kept in data.get("windows", ()):
                    self._windows.of[place_named(k, s)] = deque(((int(n), int(x)) for n, x in kept), maxlen=WINDOWS)
                for k, s, counts in data.get("before", ()):
                    before = tuple((int(b), int(n)) for b, n in counts)
                    self._windows.latencies[place_named(k, s)] = Latencies(before)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, Invalid):
            pass  # counted anew, in a new segment


def _told(key: EnvKey, total: Events) -> tuple[dict[Pool, dict[str, Moments]], dict[Pool, int]]:
    """All business events of an environment, and how many were refused, by pool."""
    told, refused = {}, {}
    for pool in POOLS:
        found = dict(total.get((key, pool), {}))
        if REFUSED in found:
            refused[pool] = int(found.pop(REFUSED).n)
        if found:
            told[pool] = found
    return told, refused


class _Windows:
    """The history of slots: ``of`` each its (requests, errors) of whole windows; since ``at`` the present one counts,

    from ``began``; of places that are ``short`` not from its beginning. ``latencies`` are those of releases that were in
    the slot before.
    """

    def __init__(self, at: float) -> None:
        self.at = at
        self.of: dict[Place, deque[tuple[int, int]]] = {}
        self.began: dict[Place, Counters] = {}
        self.short: set[Place] = set()
        self.latencies: dict[Place, Latencies] = {}


class _Followed:
    """One worker: a connection that is held open to read its last counts, and its two rings."""

    def __init__(self, path: str, from_the_beginning: bool) -> None:
        self.statistics = Statistics()
        self.silent: dict[Place, int] = {}
        self.ended_by_us: dict[Place, int] = {}
        """Streams that were still open when their replica's drain time was over: cut on purpose, no failures."""
        self.was_running = not from_the_beginning
        self._session = Session(path)
        skip = "" if from_the_beginning else " -n"
        self.rings = [Ring(path, f"show events samples -w{skip}", False), Ring(path, "show events failures -w", True)]

    def count(self, place: Place) -> Counters:
        """What this worker counted, less the answers that broke off because we ended them."""
        counters = self.statistics.counters.get(place, Counters())
        causes = dict(counters.by_cause)
        ours = min(self.ended_by_us.get(place, 0), causes.get("broken", 0))
        if not ours:
            return counters
        causes["broken"] -= ours
        left = tuple(sorted((cause, count) for cause, count in causes.items() if count))
        return replace(counters, errors=counters.errors - ours, by_cause=left)

    def ask(self, command: str) -> str:
        return self._session.ask(command)

    def close(self) -> None:
        self._session.close()
        for ring in self.rings:
            ring.connection.close()
        self.rings = []


def _add(total: Events, place: Place, events: Mapping[str, Moments]) -> None:
    kept = total.setdefault(place, {})
    for name, moments in events.items():
        kept[name] = kept[name].plus(moments) if name in kept else moments
    for name in list(kept)[: max(0, len(kept) - NAMES)]:
        if name not in events:
            del kept[name]
