"""What the edge answers about variants, read and kept: laws over reloads, releases and restarts of the reader."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossfade.domain.analysis.sample import Moments
from crossfade.domain.errors import Invalid
from crossfade.domain.signal import Latencies, VariantFacts
from crossfade.domain.traffic import Slot
from crossfade.domain.values import EnvKey
from crossfade.signals.variants import NAMES, Variant, Variants, read_variants

SHOP = EnvKey("shop", "production")
BLUE = (SHOP, Slot.BLUE)
WORKER = (1, 1)

words = st.text("abzABZ019._-", min_size=1, max_size=100)
names = st.builds("{}={}".format, words, words)
counts = st.integers(0, 10**12)
sums = st.floats(-1e12, 1e12, allow_nan=False)
moments = st.builds(Moments, counts.map(float), sums, sums.map(abs))
event_names = st.from_regex(r"\A[a-z][a-z0-9_.-]{0,39}\Z")
histograms = st.dictionaries(st.integers(0, 200), st.integers(1, 10**12)).map(lambda d: tuple(sorted(d.items())))
facts = st.builds(
    VariantFacts, counts, counts, histograms.map(Latencies), st.dictionaries(event_names, moments, max_size=5)
)
places = st.sampled_from([BLUE, (SHOP, Slot.GREEN), (EnvKey("my-shop", "qa"), Slot.BLUE)])
variants = st.builds(Variant, places, names, counts, facts)


def line(variant: Variant) -> str:
    """As edge.lua writes it."""
    (key, pool), known = variant.place, variant.facts
    latencies = ",".join(f"{bucket}:{n}" for bucket, n in known.latencies.counts) or "-"
    events = ",".join(f"{name}:{m.n:.0f}:{m.sum:.17g}:{m.sum_sq:.17g}" for name, m in known.events.items()) or "-"
    place = f"{key.service}.{key.environment}.{pool}"
    return f"{place} {variant.name} {variant.born} {known.requests} {known.errors} {latencies} {events}\n"


@given(st.integers(1, 10**12), st.lists(variants, max_size=5))
def test_what_is_told_is_read_to_the_last_digit(tick: int, told: list[Variant]) -> None:
    assert read_variants(f"tick {tick}\n" + "".join(map(line, told)) + "\n") == (tick, tuple(told))


@given(st.text(), st.text())
def test_whatever_is_answered_is_read_without_a_fault(before: str, after: str) -> None:
    read_variants(before)
    read_variants(f"tick 1\n{before}shop.production.blue {after}")
    read_variants(f"tick 1\nshop.production.blue a=b 1 1 1 {before} {after}\n")


@given(variants, st.integers(0, 400), st.characters())
def test_a_line_with_one_wrong_character_is_read_as_none_or_as_one_variant(
    variant: Variant, at: int, other: str
) -> None:
    text = line(variant)
    at %= len(text)
    tick, found = read_variants("tick 1\n" + text[:at] + other + text[at + 1 :])
    assert tick == 1
    assert len(found) <= 1


@pytest.mark.parametrize(
    "text",
    [
        "Unknown command: 'crossfade variants'\n",
        "",
        "tick\n",
        "tick -1\n",
        "shop.production.blue a=on 1 1 0 - -\n",
        "tick " + "9" * 400,
    ],
)
def test_an_answer_without_a_tick_tells_nothing_and_the_tick_stays(text: str) -> None:
    assert read_variants(text) == (0, ())
    known = Variants()
    known.heard(WORKER, "tick 7\nshop.production.blue a=on 1 1 0 - -\n")
    assert not known.heard(WORKER, text)
    assert known.command(WORKER) == "crossfade variants 7"
    assert known.of(SHOP)[Slot.BLUE]["a=on"].requests == 1


@pytest.mark.parametrize(
    "text",
    [
        "shop.production.blue a=on 1 1 0 -",
        "shop.production.blue a=on 1 1 0 - - -",
        "shop.production.blue a 1 1 0 - -",
        "shop.production.blue a=on 1 -1 0 - -",
        "shop.production.blue a=on 1 1 0 201:1 -",
        "shop.production.blue a=on 1 1 0 5:1,5:2 -",
        "shop.production.blue a=on 1 1 0 5:1, -",
        "shop.production.blue a=on 1 1 0 - sale:1:nan:1",
        "shop.production.blue a=on 1 1 0 - sale:1:1.2.3:1",
        "shop.production.blue a=on 1 1 0 - sale:1:1",
        "shop.production.blue a=on 1 1 0 - Sale:1:1:1",
        "shop.production.blue a=on 1 \u0661 0 - -",
        "shop.production.blue a=ö 1 1 0 - -",
        "shop.production.blue a=on 1 1 0 5:" + "9" * 400 + " -",
        "shop.production.red a=on 1 1 0 - -",
        "shop.production a=on 1 1 0 - -",
        "Shop.production.blue a=on 1 1 0 - -",
    ],
)
def test_odd_lines_are_passed_over_and_the_others_are_read(text: str) -> None:
    good = "shop.production.blue b=on 2 3 1 - -\n"
    _, found = read_variants(f"tick 2\n{good}{text}\n")
    assert found == (Variant(BLUE, "b=on", 2, VariantFacts(3, 1)),)


@dataclass
class Worker:
    """What edge.lua does for one pool: variants that grow, are retired by a release, and are told since a tick."""

    tick: int = 1
    births: int = 0
    of: dict[str, list[int]] = field(default_factory=dict)
    old: list[tuple[str, list[int]]] = field(default_factory=list)

    def count(self, name: str) -> None:
        if name not in self.of:
            self.births += 1
            self.of[name] = [self.births, 0, 0]
        self.of[name][1] += 1
        self.of[name][2] = self.tick

    def release(self) -> None:
        self.old = [(name, one) for name, one in self.old if one[2] >= self.tick] + list(self.of.items())
        self.of = {}

    def answer(self, command: str) -> str:
        since = int(command.rsplit(maxsplit=1)[-1])
        self.tick += 1
        lines = [
            f"shop.production.blue {name} {born} {n} {n} {7 + born}:{n} sale:{n}:{2 * n}:{4 * n}\n"
            for name, (born, n, tick) in (*self.old, *self.of.items())
            if tick >= since
        ]
        return f"tick {self.tick}\n" + "".join(lines)


steps = st.lists(
    st.one_of(st.sampled_from(["a=on", "a=off", "b=x"]), st.sampled_from(["release", "read", "restart", "reload"])),
    max_size=60,
)


@given(steps)
def test_nothing_is_lost_or_counted_twice_over_releases_reloads_and_restarts_of_the_reader(steps: list[str]) -> None:
    worker, current, known = Worker(), WORKER, Variants()
    expected: dict[str, int] = defaultdict(int)
    for step in [*steps, "read"]:
        before = known.of(SHOP).get(Slot.BLUE, {})
        if step == "release":
            worker.release()
        elif step == "read":
            known.heard(current, worker.answer(known.command(current)))
        elif step == "restart":  # another reader, from what this one wrote down
            known = Variants.loaded(json.loads(json.dumps(known.saved(current))), current)
        elif step == "reload":  # the old worker is asked until it has ended
            known.heard(current, worker.answer(known.command(current)))
            known.gone(current)
            worker, current = Worker(), (current[0] + 1, 1)
        else:
            worker.count(step)
            expected[step] += 1
        after = known.of(SHOP).get(Slot.BLUE, {})
        assert all(after[name].requests >= facts.requests for name, facts in before.items()), "counts only grow"
    told = known.of(SHOP).get(Slot.BLUE, {})
    assert {name: facts.requests for name, facts in told.items()} == expected
    for facts in told.values():
        assert facts.latencies.samples == facts.errors == facts.requests
        assert facts.events == {"sale": Moments(facts.requests, 2.0 * facts.requests, 4.0 * facts.requests)}


@given(st.lists(st.tuples(places, names, facts), max_size=6), st.booleans())
def test_what_was_written_down_is_read_again(
    told: list[tuple[tuple[EnvKey, Slot], str, VariantFacts]], gone: bool
) -> None:
    known = Variants()
    text = "".join(line(Variant(place, name, i, one)) for i, (place, name, one) in enumerate(told, 1))
    known.heard(WORKER, f"tick 3\n{text}")
    if gone:
        known.gone(WORKER)
    again = Variants.loaded(json.loads(json.dumps(known.saved(WORKER))), WORKER)
    for key in {SHOP, EnvKey("my-shop", "qa")}:
        assert again.of(key) == known.of(key)


@pytest.mark.parametrize(
    "data",
    [
        {"kept": [["shop", "blue", "a=on", 0, 1, 1, [], {}]]},
        {"kept": [["shop.production", "red", "a=on", 0, 1, 1, [], {}]]},
        {"kept": [["shop.production", "blue", "a=on", 0, 1]]},
        {"kept": [["shop.production", "blue", "a=on", 0, "x", 1, [], {}]]},
        {"told": [["shop.production", "blue", "a=on", None, 1, 1, [], {}]]},
        {"told": [["shop.production", "blue", "a=on", 1, 1, 1, [], {"sale": [1]}]]},
        {"told": 5},
    ],
)
def test_what_nobody_wrote_down_is_not_taken(data: dict[str, object]) -> None:
    with pytest.raises((ValueError, TypeError, AttributeError, Invalid)):
        Variants.loaded(data, WORKER)


def test_the_variants_that_were_heard_of_longest_ago_are_forgotten_first() -> None:
    known = Variants()
    for i in range(NAMES + 100):
        known.heard(
            WORKER, f"tick 2\nshop.production.blue a={i} {i + 1} 5 0 - -\nshop.production.blue on=on 1 {i} 0 - -\n"
        )
        if i % 100 == 50:
            known.gone(WORKER)
    told = known.of(SHOP)[Slot.BLUE]
    assert len(told) == NAMES
    assert "on=on" in told
    assert f"a={NAMES + 99}" in told
    assert "a=0" not in told
