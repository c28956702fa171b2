"""A trace tells a person how an answer came about, and ends where the evaluation did."""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from crossfade.domain.flags.document import read
from crossfade.domain.flags.evaluate import compiled
from crossfade.domain.flags.model import NOWHERE, FlagSet, Json, Surroundings
from crossfade.domain.flags.why import CODE_DEFAULT, as_data
from crossfade.domain.values import ReleaseNumber
from tests.domain.flags.generated import NOW, contexts, flag_sets, values

surroundings = st.just(NOWHERE) | st.integers(6, 13).map(lambda n: Surroundings(ReleaseNumber(n)))


@settings(max_examples=150, deadline=None)
@given(flag_sets(), surroundings, contexts | values, st.integers(-4, 4), st.sampled_from([1, 2, 3]))
def test_a_trace_is_of_the_evaluation_and_its_last_step_says_what_it_came_to(
    flag_set: FlagSet, around: Surroundings, context: Json, hours: int, version: int
) -> None:
    flag_set = FlagSet(flag_set.flags, metadata={"hashVersion": version}, segments=flag_set.segments)
    evaluator = compiled(flag_set, around)
    now = NOW + 3600.0 * hours
    for key in (*evaluator.keys, "none"):
        found = evaluator.evaluate(key, context, now)
        told = evaluator.why(key, context, now)
        assert (told["flag"], told["evaluation"]) == (key, as_data(found))
        assert json.loads(json.dumps(told)) == told
        assert all(step.keys() == {"what", "found", "outcome"} for step in told["steps"])
        outcome = told["steps"][-1]["outcome"]
        if found.error is None:
            name = CODE_DEFAULT if found.variant is None else f"`{found.variant}`"
            assert outcome in (name, f"not met: {name}")


DOCUMENT: Json = {
    "flags": {
        "checkout": {
            "state": "ENABLED",
            "variants": {"on": True, "off": False},
            "defaultVariant": "off",
            "targeting": {"if": [{"in": [{"var": "country"}, ["de", "fr"]]}, "on", None]},
            "crossfade": {
                "needs": "r12",
                "requires": [{"flag": "accounts", "variants": ["on"]}],
                "rules": [
                    {"name": "staff", "if": {"ends_with": [{"var": "email"}, "@x.org"]}, "serve": "on"},
                    {"name": "old", "paused": True, "serve": "on"},
                    {"name": "later", "from": 1790000060, "serve": "on"},
                    {"name": "past", "until": 1789999940, "serve": "on"},
                    {
                        "name": "ramp",
                        "if": {"and": [{"segment": "beta"}, {">": [{"var": "age"}, 17]}]},
                        "serve": {"split": {"shares": {"on": [[0, 1000]]}, "rest": "off"}},
                    },
                    {
                        "name": "slow",
                        "if": {"var": "slow"},
                        "serve": {"linear": {"variant": "on", "rest": "off", "begins": 1789996400, "ends": 1790003600}},
                    },
                ],
            },
        },
        "accounts": {
            "state": "ENABLED",
            "variants": {"on": True, "off": False},
            "defaultVariant": "on",
            "targeting": {"if": [{"var": "banned"}, "off"]},
        },
    },
    "crossfade": {"segments": {"beta": {"if": {"==": [{"var": "plan"}, "beta"]}}}},
}
EVALUATOR = compiled(read(DOCUMENT), Surroundings(ReleaseNumber(12)))


def told(context: Json, key: str = "checkout") -> list[str]:
    steps = EVALUATOR.why(key, context, float(NOW))["steps"]
    return [f"{step['what']} | {step['found']} | {step['outcome']}" for step in steps]


BEGINNING = [
    "state | ENABLED | goes on",
    "needs release r12 or newer | no release asks; the oldest that serves is r12 | met",
]
OPEN = [*BEGINNING, "requires accounts to be `on` | accounts is `on` (banned is not given) | met"]


def test_a_need_that_is_not_met_is_told_with_what_asked() -> None:
    assert told({"release": "r9"})[1:] == ['needs release r12 or newer | release is "r9" | not met: `off`']


def test_a_prerequisite_that_is_not_met_is_told_with_what_it_looked_at() -> None:
    wanted = "requires accounts to be `on` | accounts is `off` (banned is true) | not met: `off`"
    assert told({"banned": True}) == [*BEGINNING, wanted]


def test_a_rule_is_told_with_what_it_asked_and_what_it_found() -> None:
    assert told({"email": "bob@x.org"}) == [
        *OPEN,
        'rule staff: {"ends_with": [{"var": "email"}, "@x.org"]} | email is "bob@x.org" | holds',
        "rule staff | holds | `on`",
    ]


PASSED = [
    *OPEN,
    'rule staff: {"ends_with": [{"var": "email"}, "@x.org"]} | email is not given | does not hold',
    "rule old | paused | is left out",
    "rule later | from 2026-09-21 14:14:20 UTC; it is 2026-09-21 14:13:20 UTC | not yet",
    "rule past | until 2026-09-21 14:12:20 UTC; it is 2026-09-21 14:13:20 UTC | is over",
]


def test_a_split_is_told_with_the_bucket_and_whose_it_is() -> None:
    beta = [
        *PASSED,
        'rule ramp: segment beta | plan is "beta" | holds',
        'rule ramp: {">": [{"var": "age"}, 17]} | age is 18 | holds',
    ]
    assert told({"plan": "beta", "age": 18, "targetingKey": "user-1"}) == [
        *beta,
        "rule ramp | split by targetingKey: bucket 8969 of 10000, rest `off` | `off`",
    ]
    assert told({"plan": "beta", "age": 18, "targetingKey": "user-24"})[-1] == (
        "rule ramp | split by targetingKey: bucket 223 of 10000, `on` has 0-999 | `on`"
    )
    assert told({"plan": "beta", "age": 18})[-1] == (
        "rule ramp | split by targetingKey: targetingKey is not given | `off`"
    )


def test_of_several_conditions_those_are_told_that_were_asked() -> None:
    assert told({"plan": "free", "age": 18})[len(PASSED)] == (
        'rule ramp: segment beta | plan is "free" | does not hold'
    )


def test_a_ramp_is_told_with_its_share_of_now() -> None:
    assert told({"slow": 1, "targetingKey": "user-1"})[-1] == (
        "rule slow | ramp by targetingKey: bucket 8969 of 10000, `on` has 50 % now | `off`"
    )


def test_targeting_and_the_default_are_told_last() -> None:
    slow = [
        "rule ramp: segment beta | plan is not given | does not hold",
        'rule slow: {"var": "slow"} | slow is not given | does not hold',
    ]
    condition = 'targeting: {"in": [{"var": "country"}, ["de", "fr"]]}'
    assert told({"country": "de"}) == [
        *PASSED,
        *slow,
        f'{condition} | country is "de" | holds',
        "targeting | what is left | `on`",
    ]
    assert told({"country": "uk"})[-3:] == [
        f'{condition} | country is "uk" | does not hold',
        "targeting | what is left | comes to no variant",
        "default | nothing before came to a variant | `off`",
    ]


def test_what_is_no_question_is_told_as_well() -> None:
    assert told([]) == ["the context | The context is a list, not an object. | INVALID_CONTEXT"]
    assert told({}, key="none") == ["the flag | There is no flag 'none'. | FLAG_NOT_FOUND"]
