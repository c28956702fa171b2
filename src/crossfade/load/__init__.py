"""Open-loop load: requests leave on schedule, whatever became of those before, and latency counts from the schedule.

In a program: ``Result.of(plan, run(plan))``. On its own: ``python -m crossfade.load --help``.
"""

from crossfade.load.generator import Generator, run
from crossfade.load.plan import LoadPlan, Phase, Request, Streams
from crossfade.load.progress import Progress
from crossfade.load.records import FailedRequest, Records, StreamFacts
from crossfade.load.result import Group, Quantiles, Result, Slice
from crossfade.load.shards import run_sharded

__all__ = [
    "FailedRequest",
    "Generator",
    "Group",
    "LoadPlan",
    "Phase",
    "Progress",
    "Quantiles",
    "Records",
    "Request",
    "Result",
    "Slice",
    "StreamFacts",
    "Streams",
    "run",
    "run_sharded",
]
