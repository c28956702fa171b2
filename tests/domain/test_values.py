import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossfade.domain.errors import Invalid
from crossfade.domain.values import (
    Digest,
    EnvKey,
    ReleaseNumber,
    Weight,
    parse_duration,
    parse_name,
    show_duration,
)


@given(st.integers(0, 10_000))
def test_a_weight_and_its_rest_are_all_traffic(bp: int) -> None:
    assert Weight(bp).bp + Weight(bp).rest.bp == 10_000


@given(st.integers(0, 10_000))
def test_a_weight_reads_back_as_it_is_shown(bp: int) -> None:
    assert Weight.parse(str(Weight(bp))) == Weight(bp)


@pytest.mark.parametrize("text", ["5", "-1%", "100.01%", "1.234%", "x%", "", "%", "nan%", "inf%"])
def test_a_weight_that_is_no_percentage_is_refused_with_what_is_allowed(text: str) -> None:
    with pytest.raises(Invalid, match=r"percentage from 0% to 100%"):
        Weight.parse(text)


@pytest.mark.parametrize("bad", [-1, 10_001, True, 1.5])
def test_a_weight_outside_its_range_is_refused(bad: int) -> None:
    with pytest.raises(Invalid):
        Weight(bad)


@pytest.mark.parametrize(
    ("text", "seconds"), [("250ms", 0.25), ("30s", 30), ("1.5m", 90), ("2h", 7200), ("1d", 86400), (" 3s ", 3)]
)
def test_a_duration_is_a_number_with_a_unit(text: str, seconds: float) -> None:
    assert parse_duration("x", text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["30", "s", "-3s", "3 s s", "1w", "", 30])
def test_a_duration_without_a_unit_is_refused_and_the_place_named(text: str) -> None:
    with pytest.raises(Invalid, match=r"drain\.timeout"):
        parse_duration("drain.timeout", text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0 ms"), (0.3404, "340 ms"), (1.0, "1 s"), (12.44, "12.4 s"), (125, "2 m 05 s"), (3780, "1 h 03 m")],
)
def test_a_duration_is_shown_in_its_natural_unit(seconds: float, text: str) -> None:
    assert show_duration(seconds) == text


@given(st.floats(0, 1e7))
def test_any_duration_can_be_shown(seconds: float) -> None:
    assert show_duration(seconds)


@pytest.mark.parametrize("name", ["", "A", "1a", "a_b", "a.b", "-a", "a-", "a" * 41, "a\n", "ä", "../x", "a b"])
def test_names_that_would_not_fit_everywhere_are_refused(name: str) -> None:
    with pytest.raises(Invalid):
        parse_name("service", name)


def test_an_environment_is_written_service_slash_environment() -> None:
    key = EnvKey("bookshop", "production")
    assert EnvKey.parse(str(key)) == key
    with pytest.raises(Invalid, match="service/environment"):
        EnvKey.parse("bookshop")


@given(st.integers(1, 999_999_999))
def test_release_numbers_read_back_and_keep_their_order(n: int) -> None:
    assert ReleaseNumber.parse(str(ReleaseNumber(n))) == ReleaseNumber(n)
    assert ReleaseNumber(n) < ReleaseNumber(n + 1)


@pytest.mark.parametrize("text", ["r0", "12", "r-1", "r1x", "R1", "r01", "r9999999999"])
def test_what_is_no_release_number_is_refused(text: str) -> None:
    with pytest.raises(Invalid, match="r12"):
        ReleaseNumber.parse(text)


@pytest.mark.parametrize("text", ["", "sha256:", "sha256:" + "g" * 64, "md5:" + "0" * 64, "sha256:" + "0" * 65])
def test_what_is_no_digest_is_refused(text: str) -> None:
    with pytest.raises(Invalid, match="64 hex"):
        Digest(text)
