"""What is tried out with a running release: smoke flows, load at the expected peak, a comparison of two releases."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from crossfade.domain.pipeline.plan import Compare, Load, Outcome, SmokeFlow
from crossfade.ports import Prober
from crossfade.ports.pipeline import Cancel, Contender, Dependents, Profile, Tell
from crossfade.trials.smoke import smoke

LOAD_COMMAND: Final = (sys.executable, "-m", "crossfade.load")
"""The load generator: a program of its own, so that it shares no interpreter with the server."""


class HttpTrials:
    """`ports.pipeline.Trials`. ``prober`` asks checks, ``dependents`` starts the releases that are compared."""

    def __init__(self, prober: Prober, dependents: Dependents) -> None:
        self._prober, self._dependents = prober, dependents

    def smoke(self, url: str, flows: Sequence[SmokeFlow], tell: Tell, cancel: Cancel) -> Outcome:
        """See the port."""
        return smoke(self._prober, url, flows, tell, cancel)

    def load(self, url: str, load: Load, profile: Profile | None, folder: Path, tell: Tell, cancel: Cancel) -> Outcome:
        """See the port."""
        from crossfade.trials.load import put_under_load  # noqa: PLC0415 - few runs come so far

        return put_under_load(LOAD_COMMAND, url, load, profile, folder, tell, cancel)

    def compare(
        self,
        compare: Compare,
        before: Contender,
        after: Contender,
        *,
        owner: str,
        folder: Path,
        tell: Tell,
        cancel: Cancel,
    ) -> Outcome:
        """See the port."""
        from crossfade.trials import compare as paired  # noqa: PLC0415 - few runs come so far

        return paired.compare(
            self._dependents, LOAD_COMMAND, compare, before, after, owner=owner, folder=folder, tell=tell, cancel=cancel
        )
