"""``python -m crossfade.load``: offer load to a URL, and say what came of it.

A line of JSON on standard output for every second of the run and one for the whole, more in the file of ``--json``.
SIGTERM and Ctrl-C end a run early, with its result. Exit codes: 0 done, 1 it could not be done, 2 usage.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from crossfade.domain.errors import CrossfadeError, Invalid, StorageFailed
from crossfade.load.generator import run
from crossfade.load.plan import LoadPlan, Phase, Request, Streams, seconds
from crossfade.load.progress import Progress
from crossfade.load.records import Records
from crossfade.load.result import Result
from crossfade.load.shards import run_sharded

BLOCK_QUANTILES: Final = (("p50", 0.5), ("p75", 0.75), ("p90", 0.9), ("p95", 0.95), ("p99", 0.99))


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    given = _parser().parse_args(argv)
    if given.blocks:
        return _take_blocks()
    try:
        plan = _plan(given)
        if given.shard:
            return _be_a_shard(plan, given)
        tell = _tell if given.progress else None
        if given.processes == 1:
            records = run(plan, on_progress=tell, every=given.progress or 1.0, stop_on_signals=True)
        else:
            records = run_sharded(
                plan, given.processes, on_progress=tell, every=given.progress or 1.0, stop_on_signals=True
            )
        result = Result.of(plan, records)
        if given.records:
            records.save(given.records)
        if given.json:
            _write(given.json, result.to_data())
        summary = result.to_data()
        for key in ("slices", "failures"):
            del summary[key]
        _say({"result": summary})
    except Invalid as error:
        print(f"crossfade.load: {error}", file=sys.stderr)
        return 2
    except (CrossfadeError, OSError) as error:
        print(f"crossfade.load: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m crossfade.load", description="Offer open-loop load to a URL.")
    add = parser.add_argument
    add("--url", default="", help="where to: http://HOST:PORT")
    add("--rate", type=float, help="requests a second")
    add("--duration", default="", metavar="TIME", help="for how long: 60, 60s, 5m")
    add("--phase", action="append", default=[], metavar="RATE:TIME", help="instead of --rate: 300:60s; may be repeated")
    add("--paths", nargs="+", default=[], metavar="PATH", help="the mix: '/', '/books/{1-40}@3', 'POST /cart@0.5'")
    add("--mix", type=Path, metavar="FILE", help="the mix as a JSON list of {path, weight, method, body, headers}")
    add("--users", type=int, default=0, help="virtual users, each with cookies of its own (default: nobody keeps any)")
    add("--header", action="append", default=[], metavar="NAME:VALUE", help="sent with every request; may be repeated")
    add("--record-header", default="", metavar="NAME", help="a response header whose value is counted")
    add("--sse", action="append", default=[], metavar="PATH[@N]", help="keep N event streams open")
    add("--websocket", action="append", default=[], metavar="PATH[@N]", help="keep N WebSockets open")
    add("--max-in-flight", type=int, default=1000, help="connections at once (default 1000)")
    add("--timeout", default="10", metavar="TIME", help="from the intended start to failure (default 10s)")
    add(
        "--fail-from", type=int, default=500, metavar="STATUS", help="the lowest status that is a failure (default 500)"
    )
    add("--resend", action="store_true", help="send again what met a closed kept connection, as browsers do")
    add("--lag-floor", default="5ms", metavar="TIME", help="p99 start lag that never makes a run void (default 5ms)")
    add("--slice", default="1", metavar="TIME", help="length of a slice of the result (default 1s)")
    add("--seed", type=int, default=1)
    add("--processes", type=int, default=1, help="share the load among so many (above 1500 a second or so)")
    add("--progress", type=float, default=1.0, metavar="SECONDS", help="between lines of progress; 0: none (default 1)")
    add("--json", type=Path, metavar="FILE", help="where to write the result")
    add("--records", type=Path, metavar="FILE", help="where to write every record (records.py says how)")
    add("--plan", type=Path, metavar="FILE", help="a whole plan as JSON, instead of all the above")
    add("--blocks", action="store_true", help="take plans as lines of JSON on standard input, answer each by a line")
    add("--shard", default="", help=argparse.SUPPRESS)
    add("--begin-at", type=float, help=argparse.SUPPRESS)
    return parser


def _plan(given: argparse.Namespace) -> LoadPlan:
    if given.plan:
        return LoadPlan.from_data(_read(given.plan))
    if not given.url:
        raise Invalid("--url", "", "http://HOST:PORT")
    phases = [Phase.parse(text) for text in given.phase]
    if given.rate is not None:
        phases.append(Phase(given.rate, seconds("--duration", given.duration)))
    mix = [Request.parse(text) for text in given.paths]
    if given.mix:
        listed = _read(given.mix)
        if not isinstance(listed, list):
            raise Invalid("--mix", listed, "a JSON list")
        mix += [Request.from_data(each) for each in listed]
    streams = [Streams.parse("sse", text) for text in given.sse]
    streams += [Streams.parse("websocket", text) for text in given.websocket]
    headers = []
    for text in given.header:
        name, colon, value = text.partition(":")
        if not colon:
            raise Invalid("--header", text, "NAME:VALUE")
        headers.append((name.strip(), value.strip()))
    return LoadPlan(
        url=given.url,
        phases=tuple(phases),
        mix=tuple(mix) or (Request("/"),),
        streams=tuple(streams),
        headers=tuple(headers),
        users=given.users,
        record_header=given.record_header,
        max_in_flight=given.max_in_flight,
        timeout=seconds("--timeout", given.timeout),
        fail_from=given.fail_from,
        resend=given.resend,
        lag_floor=seconds("--lag-floor", given.lag_floor),
        slice=seconds("--slice", given.slice),
        seed=given.seed,
    )


def _take_blocks() -> int:
    """Short runs one after the other, in one process: starting one for each would take longer than they do."""
    for line in sys.stdin:
        try:
            plan = LoadPlan.from_data(json.loads(line))
            records = run(plan)
            result = Result.of(plan, records)
            latencies = sorted(one for one, status in zip(records.latency, records.status, strict=True) if status)
        except (CrossfadeError, OSError, ValueError) as error:
            _say({"error": str(error)})
            continue
        quantiles = {name: latencies[int(q * (len(latencies) - 1))] for name, q in BLOCK_QUANTILES if latencies}
        _say(
            {
                "requests": result.requests,
                "failed": result.failed,
                "quantiles": quantiles,
                "void": list(result.void),
            }
        )
    return 0


def _be_a_shard(plan: LoadPlan, given: argparse.Namespace) -> int:
    shard, _, shards = given.shard.partition("/")
    records: Records = run(
        plan,
        shard=int(shard),
        shards=int(shards),
        begin_at=given.begin_at,
        on_progress=(lambda progress: _say(progress.to_data())) if given.progress else None,
        every=given.progress or 1.0,
        stop_on_signals=True,
    )
    records.save(given.records)
    return 0


def _tell(progress: Progress) -> None:
    _say(progress.line())


def _say(data: Any) -> None:
    try:
        print(json.dumps(data, separators=(",", ":")), flush=True)
    except BrokenPipeError:
        # Whoever was listening has gone; the run goes on, for its file.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except OSError as error:
        raise Invalid(str(path), error.strerror, "a file that can be read") from None
    except ValueError as error:
        raise Invalid(str(path), str(error), "JSON") from None


def _write(path: Path, data: Any) -> None:
    """All or nothing: who finds the file finds it whole."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_text(json.dumps(data))
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise StorageFailed.because(f"write {path}", error) from None


if __name__ == "__main__":
    sys.exit(main())
