"""Gates: each reads a report that a step has left, and says pass or fail, in words and numbers."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from crossfade.domain.errors import CrossfadeError, NotFound, Unavailable
from crossfade.domain.pipeline.plan import Gate, GateKind, Outcome
from crossfade.gates.files import open_reports
from crossfade.ports.pipeline import GateContext

READERS: Final = {kind: f"crossfade.gates.{kind.value}" for kind in GateKind}
"""Where each kind is read: a module with ``read(name, gate, report, context) -> Outcome``, loaded when it is wanted."""


class ReportGates:
    """The `Gates` port, over files of the checkout."""

    def read(self, name: str, gate: Gate, context: GateContext) -> Outcome:
        """See `Gates.read`. Never raises."""
        return self.read_all(name, gate, (gate.report,), context)

    def read_all(self, name: str, gate: Gate, patterns: Sequence[str], context: GateContext) -> Outcome:
        """As `read`, of the files of several patterns as one report."""
        try:
            report = open_reports(context.tree, patterns)
            outcome: Outcome = importlib.import_module(READERS[gate.kind]).read(name, gate, report, context)
        except NotFound as error:
            return Outcome(False, str(error), "no-data")
        except Unavailable as error:
            return Outcome(False, str(error), "no-data", infrastructure=True)
        except CrossfadeError as error:
            return Outcome(False, str(error))
        except RecursionError:
            return Outcome(False, f"{gate.report} is nested too deeply to be read")
        except Exception as error:  # noqa: BLE001 - whatever a report does to its reader, it is no pass
            return Outcome(False, f"{gate.report} cannot be read: {type(error).__name__}: {str(error)[:200]}")
        return _printable(outcome)


def _printable(outcome: Outcome) -> Outcome:
    """Names of files and tests may hold anything: what is shown of them moves no cursor and ends no line."""
    said, details = _line(outcome.sentence), tuple(_line(line) for line in outcome.details)
    return replace(outcome, sentence=said, details=details)


def _line(text: str) -> str:
    return text if text.isprintable() else "".join(sign if sign.isprintable() else " " for sign in text)
