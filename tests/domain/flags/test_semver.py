"""Versions are compared as semver says, with flagd's allowances."""

from __future__ import annotations

from itertools import combinations

import pytest
import semver as peer
from hypothesis import given
from hypothesis import strategies as st

from crossfade.domain.flags import semver

# semver.org, item 11
ASCENDING = "1.0.0-alpha 1.0.0-alpha.1 1.0.0-alpha.beta 1.0.0-beta 1.0.0-beta.2 1.0.0-beta.11 1.0.0-rc.1 1.0.0 2.0.0 2.1.0 2.1.1"


def test_versions_come_in_the_order_that_semver_gives() -> None:
    for one, other in combinations(ASCENDING.split(), 2):
        assert semver.compare(one, "<", other) is True
        assert semver.compare(one, ">=", other) is False
        assert semver.compare(other, ">", one) is True
        assert semver.compare(one, "!=", other) is True


@pytest.mark.parametrize(
    ("one", "comparison", "other", "holds"),
    [
        ("v1.2.3", "=", "1.2.3", True),
        ("V1.2.3", "=", "1.2.3", True),
        ("1", "=", "1.0.0", True),
        ("1.2", "=", "1.2.0", True),
        ("1.2-rc.1", "<", "1.2", True),
        ("1.2.3+build.5", "=", "1.2.3+other", True),
        ("1.9.0", "^", "1.0.0", True),
        ("2.0.0", "^", "1.0.0", False),
        ("1.2.9", "~", "1.2.0", True),
        ("1.3.0", "~", "1.2.0", False),
        (1.2, "=", "1.2.0", True),
        (3, ">", "2.9.9", True),
        ("1.2.3.4", "=", "1.2.3", None),
        ("01.2.3", "=", "1.2.3", None),
        ("1.2.3-01", "=", "1.2.3", None),
        ("", "=", "1.2.3", None),
        ("vv1", "=", "1.0.0", None),
        (None, "=", "1.2.3", None),
        ([1], "=", "1.2.3", None),
        ("1.2.3", "=>", "1.2.3", None),
        ("1.2.3", None, "1.2.3", None),
        ("1" * 5000, ">", "1.2.3", None),
    ],
)
def test_a_comparison_holds_or_not_or_is_none(
    one: object, comparison: object, other: object, holds: bool | None
) -> None:
    assert semver.compare(one, comparison, other) is holds


versions = st.from_regex(
    r"(0|[1-9][0-9]?)\.(0|[1-9])\.(0|[1-9])(-(rc|[1-9]|a-b)(\.(1|11|x|0a))?)?(\+b)?", fullmatch=True
)


@given(versions, versions)
def test_versions_are_ordered_as_the_semver_library_orders_them(one: str, other: str) -> None:
    wanted = peer.Version.parse(one).compare(other)
    assert semver.compare(one, "<", other) is (wanted < 0)
    assert semver.compare(one, "=", other) is (wanted == 0)


def test_a_number_of_thousands_of_digits_is_no_version() -> None:
    assert semver.compare(10**5000, ">", "1.2.3") is None
