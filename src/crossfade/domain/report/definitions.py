"""What each figure is called, what its unit is, and what exactly it says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Definition:
    """``unit`` is share (0…1), seconds, per day, or the plural of what is counted. ``good``: where it is better, 1 or -1."""

    name: str
    unit: str
    says: str
    of: str
    good: int = 0


FIGURES: Final[dict[str, Definition]] = {
    "edge": Definition(
        "Availability at the edge",
        "share",
        "Of all requests that the edge counted, those that did not fail. Times of which nothing is known are left out, "
        "and told as what is not covered.",
        "requests",
        1,
    ),
    "outside": Definition(
        "Availability from outside",
        "share",
        "Of all questions that the prober asked the edge from outside, those with a good answer.",
        "questions",
        1,
    ),
    "incidents": Definition(
        "Incidents",
        "incidents",
        "Pages, rollouts that failed with traffic, watches that rolled back, and stretches of a minute or more in which "
        "the edge failed at least 1 % of the requests, at least five; what overlaps in one environment is one incident. "
        "Those of drills are counted apart.",
        "days known",
        -1,
    ),
    "frequency": Definition(
        "Deployment frequency",
        "per day",
        "Releases that were deployed and got all the traffic, a day, from the first day on of which anything is known. "
        "Rollbacks and drills don't count.",
        "deployments",
        1,
    ),
    "lead_time": Definition(
        "Change lead time",
        "seconds",
        "From the commit to the moment at which its release had all the traffic; of the first deployment of each release "
        "that a run of the pipeline has built.",
        "releases",
        -1,
    ),
    "fail_rate": Definition(
        "Change fail rate",
        "share",
        "Of all deployments that have ended, those that were rolled back, by themselves or by hand, before or within their "
        "watch, or were marked as failed.",
        "deployments",
        -1,
    ),
    "fail_rate_exposed": Definition(
        "Change fail rate, seen by clients",
        "share",
        "The same, but only those that clients' requests have reached, however few.",
        "deployments",
        -1,
    ),
    "recovery": Definition(
        "Failed deployment recovery time",
        "seconds",
        "From the first exposed request until the router was wholly on a good release; of failed deployments that clients "
        "were exposed to, and that are over.",
        "failed deployments",
        -1,
    ),
    "rework": Definition(
        "Rework rate",
        "share",
        "Of all deployments that have ended, those that were fixes: marked as one, or begun within the watch after a failure.",
        "deployments",
        -1,
    ),
    "lost": Definition(
        "Requests lost to switches",
        "requests",
        "Connections that broke within 2 seconds after a move of the weights, by the receipts.",
        "receipts with counts",
        -1,
    ),
    "drill_recovery": Definition(
        "Recovery time in drills",
        "seconds",
        "From the fault, or without one from the order to go back, until the older release had all the traffic, or the control "
        "plane was back.",
        "passed drills",
        -1,
    ),
}
"""In the order in which they are told."""

NOTES: Final = (
    "Days are those of UTC, whatever clocks are set to.",
    "What is not known is null, and never 0: where n is 0, nothing is said.",
    "Of durations the median is told, with the ninth decile (p90) beside it.",
    "A rollout, an incident and a drill belong to the day on which they began.",
)
