"""What the reference shows is a flag set, and does what is said there."""

from __future__ import annotations

import json
import re
from pathlib import Path

from crossfade.domain.flags import closures, document, operators, survey
from crossfade.domain.flags.document import read, write
from crossfade.domain.flags.evaluate import compiled
from crossfade.domain.flags.model import Surroundings
from crossfade.domain.values import ReleaseNumber

REFERENCE = (Path(__file__).parents[3] / "docs/reference/flags.md").read_text()


def test_the_example_is_read_and_does_what_it_says() -> None:
    (shown,) = re.findall(r"```json\n(.*?)```", REFERENCE, re.DOTALL)
    flag_set = read(json.loads(shown))
    assert read(write(flag_set)) == flag_set
    evaluator = compiled(flag_set, Surroundings(ReleaseNumber(12)))
    for context, wanted in (
        ({"email": "ada@example.org"}, "on"),
        ({"email": "ada@example.org", "release": "r11"}, "off"),
        ({"country": "de"}, "on"),
        ({"country": "fr"}, "off"),
        ({"beta": True, "plan": "pro", "country": "de"}, "off"),
    ):
        assert evaluator.evaluate("new-checkout", context, 1_790_000_000.0).variant == wanted


def test_the_limits_are_those_of_the_code() -> None:
    for limit in (
        document.MOST_FLAGS,
        document.MOST_RULES,
        document.LONGEST_NAME,
        survey.DEEPEST,
        survey.DEEPEST_EXPANDED,
        survey.MOST_NODES,
        survey.MOST_NODES_EXPANDED,
        survey.MOST_TEXT,
        operators.LONGEST_TEXT,
        operators.LONGEST_LIST,
        closures.MOST_STEPS,
    ):
        assert re.search(rf"\b{limit:,}\b", REFERENCE), limit
