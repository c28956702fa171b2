"""The hourly profile: rates and templates of paths, nothing that could be somebody's, and bounded whatever is asked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossfade.domain.values import EnvKey
from crossfade.signals.profile import DAYS, HOUR, MOST_PATHS, OTHER, Hours, template

KEY = EnvKey("shop", "production")


@pytest.mark.parametrize(
    ("path", "kept"),
    [
        ("/", "/"),
        ("/books/7", "/books/{n}"),
        ("/books/7/reviews", "/books/{n}/reviews"),
        ("/v1/users/ada@example.org", "/v1/users/{id}"),
        ("/orders/3f2a6c1e-9f60-4f0c-8a43-0c7f7fd0a9d1", "/orders/{id}"),
        ("/search?q=secret", "/search"),
        ("/static/app.js", "/static/app.js"),
        ("/reset/aZ9xQ2kL8mPq", "/reset/{id}"),
        ("/a/b/c/d/e/f/g/h/i/j", "/a/b/c/d/e/f/g/h/{id}"),
        ("/caf%C3%A9", "/{id}"),
    ],
)
def test_what_could_be_somebodys_value_is_not_kept(path: str, kept: str) -> None:
    assert template(path) == kept


@given(st.text(min_size=0, max_size=300))
def test_a_template_of_a_template_is_itself_and_has_no_query(path: str) -> None:
    found = template("/" + path)
    assert template(found.replace("{n}", "1").replace("{id}", "%")) == found
    assert "?" not in found and len(found) < 300


def test_the_peak_is_the_greatest_hourly_rate_and_the_mix_is_by_share(tmp_path: Path) -> None:
    hours = Hours(tmp_path / "p.json", 0.0)
    total = 0
    for minute in range(120):
        rate = 2 if minute < 60 else 10
        total += rate * 60
        hours.count(KEY, total, minute * 60.0)
    for number in range(40):
        hours.ask(KEY, "GET", f"/books/{number}" if number % 4 else "/cart", 100.0)
    found = hours.profile(KEY)
    assert found is not None and found.busiest == HOUR and found.hours == 2
    assert found.peak == pytest.approx(10.0)
    assert found.mix == {"GET /books/{n}": 0.75, "GET /cart": 0.25}
    assert hours.profile(EnvKey("shop", "staging")) is None


def test_an_edge_that_counts_anew_takes_nothing_away(tmp_path: Path) -> None:
    hours = Hours(tmp_path / "p.json", 0.0)
    for at, total in ((0.0, 1000), (60.0, 1600), (120.0, 10), (180.0, 610)):
        hours.count(KEY, total, at)
    found = hours.profile(KEY)
    assert found is not None and found.peak == pytest.approx(1200 / 120)


def test_a_million_paths_are_a_hundred_templates_and_the_rest(tmp_path: Path) -> None:
    hours = Hours(tmp_path / "p.json", 0.0)
    hours.count(KEY, 0, 0.0)
    hours.count(KEY, 9, 60.0)
    letters = "abcdefghijklmnopqrstuvwxyz"
    for one in letters:
        for other in letters:
            hours.ask(KEY, "GET", f"/{one}{other}", 1.0)
    found = hours.profile(KEY)
    assert found is not None and len(found.mix) == MOST_PATHS + 1
    assert found.mix[OTHER] == pytest.approx(1 - MOST_PATHS / 26**2)
    hours.ask(KEY, "G E T", "/x", 1.0)
    hours.ask(KEY, "GET", "*", 1.0)
    assert len(found.mix) == MOST_PATHS + 1


def test_what_is_known_is_there_after_a_restart_and_what_is_too_old_is_not(tmp_path: Path) -> None:
    file = tmp_path / "p.json"
    hours = Hours(file, 0.0)
    hours.count(KEY, 0, 0.0)
    hours.count(KEY, 600, 60.0)
    hours.ask(KEY, "GET", "/books/7?token=secret", 60.0)
    hours.save(61.0)
    again = Hours(file, 61.0)
    assert again.profile(KEY) == hours.profile(KEY) and "secret" not in file.read_text()
    for at in (0.0, 60.0):
        again.count(KEY, 0, (DAYS + 2) * 86400.0 + at)
    assert again.profile(KEY) is None


@pytest.mark.parametrize("content", ["", "[]", "{", json.dumps({"nobody": {"1": {}}}), json.dumps({"a/b": {"x": 1}})])
def test_a_file_that_cannot_be_read_is_begun_anew(tmp_path: Path, content: str) -> None:
    file = tmp_path / "p.json"
    file.write_text(content)
    assert Hours(file, 0.0).profile(KEY) is None
