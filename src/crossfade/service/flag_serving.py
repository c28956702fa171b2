"""The flags that are served: compiled once for each version and release, renewed when either changes.

Who asks waits for no ledger: it is looked at five times a second, and while it is away the last good set goes on serving.
"""

from __future__ import annotations

import gc
import hashlib
import json
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Final

from crossfade.domain.errors import CrossfadeError, InvalidBatch, NotFound, StorageFailed
from crossfade.domain.flags import document as documents
from crossfade.domain.flags.evaluate import Evaluator, compiled
from crossfade.domain.flags.model import FlagSet, Surroundings
from crossfade.domain.values import EnvKey, ReleaseNumber
from crossfade.ports import Change, Parts
from crossfade.ports.flags import FlagVersion

LOOK_EVERY: Final = 0.2
"""Seconds between two looks at whether an environment's flags, or its releases, have changed."""
IDLE: Final = 5.0
"""Seconds after which an environment that nobody asks about is not looked at any more, until somebody does."""
CONTEXTS_KEPT: Final = 500
"""Distinct contexts of an environment that are remembered, in memory only."""
OLDER: Final = 20
"""Versions that are tried when the newest cannot be read."""
LARGEST_CONTEXT: Final = 10_000
"""Characters of a context, as JSON, that is remembered."""

EMPTY: Final[Mapping[str, Any]] = {"flags": {}}
"""The flags of an environment that has none."""

_log = logging.getLogger(__name__)


class Contexts:
    """The last distinct contexts that were asked for, so that a change can be tried on them. Never written down."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, Mapping[str, Any]] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, context: Mapping[str, Any]) -> None:
        """One that cannot be JSON, or is too large, is passed over."""
        try:
            text = json.dumps(context, sort_keys=True)
        except (TypeError, ValueError, RecursionError):
            return
        if len(text) > LARGEST_CONTEXT:
            return
        with self._lock:
            self._kept[text] = context
            self._kept.move_to_end(text)
            if len(self._kept) > CONTEXTS_KEPT:
                self._kept.popitem(last=False)

    def all(self) -> tuple[Mapping[str, Any], ...]:
        """Newest first."""
        with self._lock:
            return tuple(reversed(self._kept.values()))


@dataclass(frozen=True)
class Serving:
    """What an environment serves now. ``version`` 0: it has no flags yet. ``document`` is a flag set, ``flags`` the same read.

    ``release`` is the oldest one that serves traffic. ``stale_since`` (epoch seconds) is set while the ledger is away, so
    that nobody knows whether this is still the newest; and for good from when the newest cannot be read (``unreadable``),
    so that this is what an older one holds.
    """

    key: EnvKey
    version: int
    document: Mapping[str, Any]
    flags: FlagSet
    evaluator: Evaluator
    release: ReleaseNumber | None
    contexts: Contexts = field(compare=False, repr=False)
    stale_since: float | None = None
    unreadable: float | None = None

    def age(self, now: float) -> float:
        """Seconds for which nobody has known whether this is still the newest; 0 while it is known."""
        return max(0.0, now - self.stale_since) if self.stale_since is not None else 0.0

    def remember(self, context: Mapping[str, Any]) -> None:
        """Keep a context that somebody asked for, to preview changes on."""
        self.contexts.add(context)

    @cached_property
    def body(self) -> bytes:
        """``version``, ``release`` and ``document`` as JSON: what an in-process provider fetches."""
        release = str(self.release) if self.release is not None else None
        said = {"version": self.version, "release": release, "document": self.document}
        return json.dumps(said, allow_nan=False, separators=(",", ":")).encode()

    @cached_property
    def etag(self) -> str:
        """A strong tag of `body`."""
        return f'"{hashlib.sha256(self.body).hexdigest()[:32]}"'


_making: Final = threading.RLock()


@contextmanager
def _uncollected() -> Iterator[None]:
    """Make thousands of small things that stay: to look for garbage among them again and again takes twice as long."""
    with _making:
        collects = gc.isenabled()
        gc.disable()
        try:
            yield
        finally:
            if collects:
                gc.enable()


class Servings:
    """One per server. Once it is started a thread looks after what is asked for, else whoever asks does."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._served: dict[EnvKey, Serving] = {}
        # Elapsed time, not the installation's clock: that may stand still, or be set back.
        self._looked: dict[EnvKey, float] = {}
        self._asked: dict[EnvKey, float] = {}
        self._looking: dict[EnvKey, threading.RLock] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="flags", daemon=True)

    def start(self) -> None:
        """From here on nobody who asks often waits for a look."""
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def get(self, key: EnvKey) -> Serving:
        """What is served now. Cheap. Raises NotFound for an environment that there is not, StorageFailed the first time."""
        known = self._served.get(key)
        if known is None:
            return self.look(key)
        now = self._asked[key] = time.monotonic()
        if now - self._looked[key] >= (IDLE if self._thread.is_alive() else LOOK_EVERY):
            lock = self._lock(key)
            if lock.acquire(blocking=False):  # else somebody looks just now
                try:
                    return self._look_again(key)
                finally:
                    lock.release()
        return known

    def look(self, key: EnvKey) -> Serving:
        """What is served now, looked up. Raises as `get`, and StorageFailed whenever the ledger is away."""
        with self._lock(key):
            known = self._served.get(key)
            newest, release = self._parts.flags.newest(key), self._release(key)
            if known is None or known.version != newest:
                written = self._parts.flags.current(key)
                if written is None:
                    return self.serve(self._compile(key, 0, EMPTY, documents.read(EMPTY), release))
                document, flags, unreadable = self._readable(written)
                made = self._compile(key, written.number, document, flags, release)
                return self.serve(replace(made, stale_since=unreadable, unreadable=unreadable))
            if known.release != release:
                made = self._compile(key, known.version, known.document, known.flags, release)
                return self.serve(replace(made, stale_since=known.unreadable, unreadable=known.unreadable))
            self._looked[key] = time.monotonic()
            if known.stale_since != known.unreadable:
                known = self._served[key] = replace(known, stale_since=known.unreadable)
            return known

    def _readable(self, written: FlagVersion) -> tuple[Mapping[str, Any], FlagSet, float | None]:
        """What the newest version holds; when nobody can read that, what the last one did that can be, and since when."""
        unreadable = None
        for one in (written, *self._parts.flags.versions(written.key, limit=OLDER, before=written.number)):
            try:
                document = one.document or self._parts.flags.version(one.key, one.number).document or EMPTY
                with _uncollected():
                    return document, documents.read(document), unreadable
            except InvalidBatch as error:
                _log.error("version %d of the flags of %s cannot be read: %s", one.number, one.key, error)
                unreadable = one.at
        raise StorageFailed(
            f"None of the last versions of the flags of {written.key} can be read.",
            hint="`crossfade doctor` looks at the ledger.",
        )

    def following(self, base: Serving, document: Mapping[str, Any], flags: FlagSet) -> Serving:
        """What is to be served once this is written as the version after another one."""
        return self._compile(base.key, base.version + 1, document, flags, base.release)

    def serve(self, made: Serving) -> Serving:
        """From now on this is served, unless it is older than what is."""
        with self._lock(made.key):
            known = self._served.get(made.key)
            if known is not None and known.version > made.version:
                return known
            self._looked[made.key] = time.monotonic()
            self._served[made.key] = made
            return made

    def heard(self, changes: Sequence[Change]) -> None:
        """Look at the flags of environments that something happened to, before anybody else hears of it."""
        for name in {change.key for change in changes if change.kind in ("flags", "live", "rollout", "closed")}:
            key = EnvKey.parse(name)
            if key in self._served:
                self._look_safely(key)

    def _compile(
        self, key: EnvKey, number: int, document: Mapping[str, Any], flags: FlagSet, release: ReleaseNumber | None
    ) -> Serving:
        known = self._served.get(key)
        contexts = known.contexts if known is not None else Contexts()
        with _uncollected():
            evaluator = compiled(flags, Surroundings(release))
        return Serving(key, number, document, flags, evaluator, release, contexts)

    def _lock(self, key: EnvKey) -> threading.RLock:
        return self._looking.setdefault(key, threading.RLock())

    def _release(self, key: EnvKey) -> ReleaseNumber | None:
        """The oldest release that serves traffic, or is about to."""
        store = self._parts.store
        environment = store.environment(key)
        if environment is None:
            raise NotFound(f"There is no environment {key}.", hint="`crossfade status` shows those that there are.")
        serving = [environment.live] if environment.live is not None else []
        if environment.holder is not None:
            serving.append(store.rollout(environment.holder).plan.candidate)
        return min(serving, default=None)

    def _look_again(self, key: EnvKey) -> Serving:
        """As `look`; what was served goes on being served when that cannot be."""
        try:
            return self.look(key)
        except CrossfadeError as error:
            known = self._served[key]
            self._looked[key] = time.monotonic()
            if known.stale_since is None:
                _log.warning("the flags of %s cannot be looked up, version %d goes on: %s", key, known.version, error)
                known = self._served[key] = replace(known, stale_since=self._parts.now())
            return known

    def _run(self) -> None:
        while not self._stop.wait(LOOK_EVERY):
            now = time.monotonic()
            for key, asked in list(self._asked.items()):
                if now - asked < IDLE:
                    self._look_safely(key)

    def _look_safely(self, key: EnvKey) -> None:
        try:
            with self._lock(key):
                self._look_again(key)
        except Exception:  # noqa: BLE001 - said in the log; flags must not stand still for good
            _log.exception("the flags of %s", key)
