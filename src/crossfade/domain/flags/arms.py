"""Answers by the variants that they were made with, as the two arms that the judge compares."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace

from crossfade.domain.analysis.policy import EDGE, ERROR_RATE, Against, Analysis, Per, Source, SourceKind
from crossfade.domain.analysis.sample import Arm, Moments
from crossfade.domain.signal import Reading, VariantFacts
from crossfade.domain.traffic import POOLS, Pool

NONE = Moments(0.0, 0.0, 0.0)


def name_of(flag: str, variant: str) -> str:
    """As answers tell it, and readings count it: ``new-checkout=on``."""
    return f"{flag}={variant}"


def told(reading: Reading, flag: str, pools: Iterable[Pool] = POOLS) -> set[str]:
    """The variants of a flag that answers of these pools told."""
    known = (name.partition("=") for pool in pools for name in reading.variants.get(pool, {}))
    return {variant for of, _, variant in known if of == flag}


def facts(reading: Reading, flag: str, variants: Collection[str], pools: Iterable[Pool] = POOLS) -> VariantFacts:
    """What the answers that were made with any of these variants came to, in these pools together."""
    found = VariantFacts()
    for pool in pools:
        counted = reading.variants.get(pool, {})
        for variant in variants:
            if (more := counted.get(name_of(flag, variant))) is not None:
                found = found.plus(more)
    return found


def arm(counted: VariantFacts, sources: Collection[Source] = ()) -> Arm:
    """As the judge takes it, with the business events of the sources that are used."""
    means = {}
    for source in sources:
        new = counted.events.get(source.name, NONE)
        means[source.name] = replace(new, n=float(counted.requests)) if source.per is Per.REQUEST else new
    return Arm(counted.requests, counted.errors, histograms={EDGE: counted.latencies.histogram()}, means=means)


def tellable(analysis: Analysis) -> tuple[Analysis, tuple[str, ...]]:
    """The part of a policy that variants can be judged by, and the names of the metrics that are left out.

    Only the edge knows with which variants an answer was made: a query to some other system cannot ask for them.
    """

    def can(signal: str) -> bool:
        return signal == EDGE or analysis.source(signal).kind is SourceKind.EVENTS

    kept = tuple(metric for metric in analysis.metrics if can(metric.signal))
    left_out = tuple(metric.name for metric in analysis.metrics if not can(metric.signal))
    if not any(not metric.dry_run for metric in kept):
        kept = (*(metric for metric in kept if metric.name != ERROR_RATE.name), replace(ERROR_RATE, required=False))
    return replace(analysis, metrics=kept, baseline=Against.LIVE), left_out


def event_sources(analysis: Analysis) -> tuple[Source, ...]:
    """Where the business events that a policy uses come from."""
    used = sorted({metric.signal for metric in analysis.metrics} - {EDGE})
    return tuple(source for source in map(analysis.source, used) if source.kind is SourceKind.EVENTS)
