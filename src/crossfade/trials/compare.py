"""Compares two releases by paired blocks of load, both up side by side on this machine."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import random
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from crossfade.domain.errors import Unavailable
from crossfade.domain.health import Check
from crossfade.domain.pipeline.performance import Pair, decide, looks
from crossfade.domain.pipeline.plan import Compare, Dependent, DependentKind, Outcome
from crossfade.ports.pipeline import Cancel, Contender, Dependents, Place, Tell

PATIENCE: Final = 30.0
LAG: Final = 0.05
"""Seconds by which the generator may start late (p99 of a block): both blocks of a pair suffer alike from a busy machine,

and the interval has it; a block that the generator itself has broken up is no measurement.
"""
MOST_FAILED: Final = 0.01
"""The share of failed requests above which a candidate fails whatever its latency, when the release before fails less."""


class Generator:
    """The load generator as a program that takes block after block. Ends with its standard input."""

    def __init__(self, command: Sequence[str], seed: int) -> None:
        self._process = subprocess.Popen(
            [*command, "--blocks"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self._seed = seed

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None and self._process.stdout is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def block(self, url: str, compare: Compare, seconds: float) -> Mapping[str, Any]:
        """One block: ``requests``, ``failed``, quantiles ``p50`` … in seconds, ``void`` with the reasons. Raises Unavailable."""
        plan = {
            "url": url,
            "phases": [{"rate": compare.rate, "duration": seconds}],
            "mix": [_request(one.request, one.weight) for one in compare.requests],
            "seed": self._seed,
            "timeout": 5.0,
            "lag_floor": LAG,
        }
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(plan).encode() + b"\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
            said: dict[str, Any] = json.loads(answer)
        except (OSError, ValueError):
            raise Unavailable("The load generator ended in the midst of it.") from None
        if "error" in said:
            raise Unavailable(f"The load generator cannot do it: {said['error']}")
        return said


def compare(
    dependents: Dependents,
    load_command: Sequence[str],
    compare: Compare,
    before: Contender,
    after: Contender,
    *,
    owner: str,
    folder: Path,
    tell: Tell,
    cancel: Cancel,
) -> Outcome:
    """Pairs of blocks in random order, in ever new instances, until a look can tell. Raises Unavailable, Invalid."""
    # Chance from what is compared: the same run of the same releases draws the same order.
    seed = int.from_bytes(hashlib.sha256(f"{owner} {before.folder} {after.folder}".encode()).digest()[:4], "big")
    chance = random.Random(seed)  # noqa: S311 - an order, no secret
    margins = dict(compare.margins)
    fixed = looks(compare.floor, compare.most)
    pairs: list[Pair] = []
    failed = {"before": [0, 0], "after": [0, 0]}
    restart = 0
    generator = Generator(load_command, seed)
    try:
        for number, target in enumerate(fixed):
            each = math.ceil((target - len(pairs)) / compare.restarts)
            while len(pairs) < target:
                restart += 1
                with _both(dependents, compare, before, after, owner, folder, cancel) as places:
                    for name in ("before", "after"):
                        generator.block(places[name].url, compare, max(0.1, compare.warmup))
                    for _ in range(min(each, target - len(pairs))):
                        if cancel.is_set():
                            return Outcome(False, "it was cancelled", "no-data")
                        pairs.append(_pair(generator, compare, places, restart, chance, failed))
                tell(f"{len(pairs)} of at most {fixed[-1]} pairs")
            broken = _broken(failed, before, after)
            if broken is not None:
                return broken
            outcome = decide(
                pairs,
                margins,
                compare.alpha,
                last=number == len(fixed) - 1,
                inconclusive_passes=compare.inconclusive == "pass",
                block=compare.block,
            )
            if outcome is not None:
                with contextlib.suppress(OSError):
                    (folder / "pairs.json").write_text(json.dumps(dict(outcome.numbers)))
                return outcome
    finally:
        generator.close()
    raise AssertionError("the last look decides")


@contextlib.contextmanager
def _both(
    dependents: Dependents,
    compare: Compare,
    before: Contender,
    after: Contender,
    owner: str,
    folder: Path,
    cancel: Cancel,
) -> Iterator[dict[str, Place]]:
    """Fresh instances of both releases."""
    places: dict[str, Place] = {}
    with contextlib.ExitStack() as stack:
        for name, one in (("before", before), ("after", after)):
            config = one.config
            env = {**dict(config.env), **one.secrets, **dict(compare.env)}
            check = config.checks[0] if config.checks else Check("up", "/")
            wanted = Dependent(
                name,
                DependentKind.COMMAND,
                config.command,
                check,
                tuple(env.items()),
                artifact=True,
                start_timeout=config.start_timeout,
            )
            started = stack.enter_context(
                dependents.start(
                    (wanted,),
                    owner=owner,
                    folder=folder / name / "services",
                    tree=one.folder,
                    artifact=one.folder,
                    env={},
                    tell=lambda _: None,  # again and again: the progress says enough
                    cancel=cancel,
                )
            )
            places[name] = started[name]
        yield places


def _pair(
    generator: Generator,
    compare: Compare,
    places: Mapping[str, Place],
    restart: int,
    chance: random.Random,
    failed: dict[str, list[int]],
) -> Pair:
    order = ["before", "after"]
    chance.shuffle(order)
    found = {name: generator.block(places[name].url, compare, compare.block) for name in order}
    for name in order:
        failed[name][0] += found[name]["failed"]
        failed[name][1] += found[name]["requests"]
    void = next((reason for name in order for reason in found[name]["void"]), "")
    return Pair(restart, found["before"]["quantiles"], found["after"]["quantiles"], void)


def _broken(failed: Mapping[str, Sequence[int]], before: Contender, after: Contender) -> Outcome | None:
    """A candidate that answers errors is no faster for it."""
    (bad, of), (was, among) = failed["after"], failed["before"]
    if bad >= 3 and of and bad / of > MOST_FAILED and bad / of > 2 * (was / among if among else 0.0):
        sentence = f"{after.name} fails {bad} of {of} requests ({bad / of:.1%}), {before.name} {was} of {among}"
        return Outcome(False, sentence.replace("%", " %"), numbers={"failed": bad, "requests": of})
    return None


def _request(text: str, weight: float) -> dict[str, Any]:
    """``GET /books`` as the generator takes it."""
    method, space, path = text.partition(" ")
    return {"path": path if space else text, "method": method if space else "GET", "weight": weight}
