"""The bench of the evaluation works: its table is whole, and who is compared gives the right answers first."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

from bench.flag_evaluation import BULK, FLAGS, KINDS, OURS, contexts, document
from bench.peers_flags import PEERS
from crossfade.domain.flags.document import read
from crossfade.domain.flags.evaluate import compiled

ROOT = Path(__file__).parents[2]


def _here(package: str) -> bool:
    try:
        return bool(importlib.metadata.version(package))
    except importlib.metadata.PackageNotFoundError:
        return False


def test_the_bench_measures_ours_and_every_peer_that_is_here(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    done = subprocess.run(
        [sys.executable, "-m", "bench.flag_evaluation", "--short", "--json", str(out)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])},
        stdin=subprocess.DEVNULL,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    data = json.loads(out.read_text())
    names = {OURS, BULK, *(name for name, (package, _) in PEERS.items() if _here(package))}
    assert set(data["measured"]["rates"]) == names
    for rates in data["measured"]["rates"].values():
        assert set(rates) == set(KINDS)
        assert all(len(measured) == 1 and measured[0] > 0 for measured in rates.values())
    assert all(f"| {name} |" in done.stdout for name in names)
    assert len(data["goals"]) == 3 + ("openfeature-flagd-core" in names)
    assert data["failures"] == 0


def test_the_mix_is_a_third_of_each_kind_and_people_get_both_variants() -> None:
    flag_set = read(document(FLAGS))
    kinds = [next(iter(flag.targeting), "") if flag.targeting else "" for flag in flag_set.flags.values()]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {"": 33, "fractional": 33, "if": 33}
    evaluator = compiled(flag_set)
    for key in ("flag-1", "flag-2", "flag-5"):
        found = [evaluator.evaluate(key, context, 0.0).variant for context in contexts(100)]
        assert set(found) == {"on", "off"}
