"""``python -m bench.year_client``: the client of ``bench.year``, and all that its operator ever sees.

Open-loop load by `crossfade.load`. Each second it prints one line of JSON: how many requests ended, and how many of them
were bad, which is to say failed or slow. Every single request is in the records that it leaves behind.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Final

from crossfade.domain.analysis.latency import bucket_of
from crossfade.load import LoadPlan, Progress, run

SLOW: Final = 0.5
"""Seconds from when a request was due; one that takes longer is bad, for its user."""


def main() -> int:
    """``PLAN RECORDS``: the plan as JSON, and where the records go when SIGTERM or the plan's end comes."""
    plan = LoadPlan.from_data(json.loads(Path(sys.argv[1]).read_text()))
    edge = bucket_of(SLOW)

    def tell(progress: Progress) -> None:
        failed = sum(progress.failures.values())
        # Failures may be slow too, so this counts a few twice; an operator who sees more acts sooner.
        slow = sum(count for bucket, count in progress.latencies.items() if bucket > edge)
        bad = min(progress.requests, failed + slow)
        print(json.dumps({"requests": progress.requests, "bad": bad}), flush=True)

    run(plan, on_progress=tell, stop_on_signals=True).save(Path(sys.argv[2]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
