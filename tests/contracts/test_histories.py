"""The promises of `ports.records.Histories`, kept by the files and by their twin."""

from __future__ import annotations

import itertools
import math
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from crossfade.domain.errors import Invalid, StorageFailed
from crossfade.domain.rings import RESOLUTIONS, reaches
from crossfade.domain.slo import EDGE, PROBE, Counted, Series
from crossfade.domain.values import DAY, EnvKey
from crossfade.fakes.history import MemoryHistories
from crossfade.ports import Histories
from crossfade.store.history import SIZE, FolderHistories

KEY = EnvKey("bookshop", "production")
SERIES = Series(KEY, EDGE)
NOW = 1_790_000_040.0
"""A whole minute, so that a test can reckon; that it need not be one is what the laws are for."""


@pytest.fixture(params=["memory", "folder"])
def histories(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Histories]:
    if request.param == "memory":
        yield MemoryHistories()
        return
    kept = FolderHistories(tmp_path / "history")
    yield kept
    kept.close()


def same(one: Counted, other: Counted) -> bool:
    """Equal but for the rounding of what is spread over bins."""
    pairs = ((one.total, other.total), (one.bad, other.bad), (one.covered, other.covered))
    return all(math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-6) for a, b in pairs)


def fill(histories: Histories, begins: float, ends: float, each: float, rate: float = 10, bad: float = 1) -> None:
    """``rate`` requests a second, ``bad`` of them bad, in readings of ``each`` seconds."""
    at = begins
    while at < ends:
        until = min(ends, at + each)
        histories.add(SERIES, at, until, Counted(rate * (until - at), bad * (until - at), until - at))
        at = until


def test_what_was_added_is_counted(histories: Histories) -> None:
    histories.add(SERIES, NOW, NOW + 1, Counted(120, 3, 1))
    assert histories.count(SERIES, NOW, NOW + 1) == Counted(120, 3, 1)
    assert histories.count(SERIES, NOW - 3600, NOW + 3600) == Counted(120, 3, 1)
    assert histories.count(SERIES, NOW - 10, NOW) == Counted()


def test_a_time_without_counts_is_unknown_and_no_bin(histories: Histories) -> None:
    fill(histories, NOW, NOW + 60, 1)
    fill(histories, NOW + 120, NOW + 180, 1)
    assert histories.count(SERIES, NOW, NOW + 180).covered == pytest.approx(120)
    assert [one.at - NOW for one in histories.bins(SERIES, NOW, NOW + 180, 60)] == [0, 120]
    assert histories.count(Series(KEY, "other"), NOW, NOW + 180) == Counted()
    assert histories.bins(Series(KEY, "other"), NOW, NOW + 180, 60) == ()


def test_what_is_known_in_part_says_so(histories: Histories) -> None:
    histories.add(SERIES, NOW, NOW + 100, Counted(50, 0, 25))
    assert same(histories.count(SERIES, NOW + 10, NOW + 30), Counted(10, 0, 5))


def test_counts_are_spread_evenly_between_two_readings(histories: Histories) -> None:
    histories.add(SERIES, NOW + 0.5, NOW + 4.5, Counted(400, 40, 4))
    found = {one.at - NOW: one.counted for one in histories.bins(SERIES, NOW, NOW + 10, 1)}
    assert sorted(found) == [0, 1, 2, 3, 4]
    assert same(found[0], Counted(50, 5, 0.5)) and same(found[2], Counted(100, 10, 1))


@pytest.mark.parametrize("back", [1, 59, 61, 300, 3599, 3601, 21_600, 86_399, 86_401, 3 * DAY, 30 * DAY])
def test_a_window_of_any_length_is_counted_whole(histories: Histories, back: float) -> None:
    fill(histories, NOW - 34 * DAY, NOW - 7200, 400_000)
    fill(histories, NOW - 7200, NOW + 0.25, 1)
    assert same(histories.count(SERIES, NOW + 0.25 - back, NOW + 0.25), Counted(10 * back, back, back))


def test_what_is_older_than_35_days_is_forgotten(histories: Histories) -> None:
    fill(histories, NOW - 40 * DAY, NOW, 400_000)
    known = histories.count(SERIES, 0, NOW).covered
    assert 35 * DAY - 60 <= known <= 35 * DAY
    assert histories.bins(SERIES, 0, NOW, DAY)[0].at >= NOW - 36 * DAY


def test_a_stale_round_of_the_ring_is_a_gap(histories: Histories) -> None:
    fill(histories, NOW, NOW + 60, 1)
    later = NOW + 3600 + 30  # half of those slots are of this round, the others still of the one before
    fill(histories, later, later + 30, 1)
    assert histories.count(SERIES, later - 600, later + 30) == Counted(300, 30, 30)
    much_later = NOW + 35 * DAY
    fill(histories, much_later + 60, much_later + 61, 1)
    assert histories.count(SERIES, much_later, much_later + 60) == Counted()


def test_a_clock_that_jumps_forth_leaves_a_gap_and_one_that_comes_back_finds_the_past(histories: Histories) -> None:
    fill(histories, NOW - 600, NOW, 1)
    fill(histories, NOW + 30 * DAY, NOW + 30 * DAY + 10, 1)
    fill(histories, NOW, NOW + 60, 1)
    seen = histories.count(SERIES, NOW - 600, NOW + 40 * DAY)
    # Ten slots of seconds went to the wrong time, and nothing of that time is counted.
    assert 640 <= seen.covered <= 660 and seen.total == pytest.approx(10 * seen.covered)


def test_a_clock_that_jumps_back_overwrites_what_it_had_counted_then(histories: Histories) -> None:
    fill(histories, NOW, NOW + 120, 1, rate=10, bad=0)
    fill(histories, NOW + 90, NOW + 100, 1, rate=50, bad=5)
    assert same(histories.count(SERIES, NOW, NOW + 600), Counted(900 + 500, 50, 100))
    fill(histories, NOW + 100, NOW + 130, 1, rate=10, bad=0)
    assert same(histories.count(SERIES, NOW, NOW + 600), Counted(900 + 500 + 300, 50, 130))
    # And so do the coarse bins, where only a share of a bin is of the time before.
    assert sum(one.counted.bad for one in histories.bins(SERIES, NOW, NOW + 600, 60)) == pytest.approx(50)


def test_a_clock_that_shows_1970_for_a_while_costs_no_history(histories: Histories) -> None:
    fill(histories, NOW - 7200, NOW, 10)
    fill(histories, 5, 65, 1)
    fill(histories, NOW, NOW + 10, 1)
    assert histories.count(SERIES, NOW - 7200, NOW + 10).covered > 7200 - 120


@pytest.mark.parametrize(
    ("begins", "ends", "counted"),
    [
        (NOW, NOW, Counted(5, 1, 0)),
        (NOW, NOW - 5, Counted(5, 1, 1)),
        (math.nan, NOW, Counted(5, 1, 1)),
        (NOW, math.inf, Counted(5, 1, 1)),
        (NOW, 1e300, Counted(5, 1, 1)),
        (-5.0, NOW, Counted(5, 1, 1)),
        (NOW, NOW + 1, Counted(math.nan, 1, 1)),
        (NOW, NOW + 1, Counted(5, math.inf, 1)),
    ],
)
def test_a_time_that_is_none_and_a_count_that_is_none_are_not_kept(
    histories: Histories, begins: float, ends: float, counted: Counted
) -> None:
    histories.add(SERIES, begins, ends, counted)
    assert histories.count(SERIES, 0, NOW + DAY) == Counted()


def test_a_count_is_never_negative_nor_more_bad_than_there_were(histories: Histories) -> None:
    histories.add(SERIES, NOW, NOW + 1, Counted(-5, 3, 1))
    histories.add(SERIES, NOW + 1, NOW + 2, Counted(5, 8, 90))
    histories.add(SERIES, NOW + 2, NOW + 3, Counted(5, -8, -90))
    assert histories.count(SERIES, NOW, NOW + 3) == Counted(10, 5, 2)


def test_a_step_is_at_least_a_second(histories: Histories) -> None:
    for step in (0, 0.5, -1, math.nan):
        with pytest.raises(Invalid, match="at least 1 s"):
            histories.bins(SERIES, NOW, NOW + 1, step)


NAMES = ["answers", "Answers", PROBE, "../../etc/passwd", "a/b", "a:b", ".", "", "ü" * 100, "\ud800", "\n\0", "x" * 300]


def test_series_with_hostile_names_are_kept_apart_and_listed(histories: Histories) -> None:
    keys = [KEY, EnvKey("bookshop", "staging"), EnvKey("cafe", "production")]
    series = [Series(key, name) for key in keys for name in NAMES]
    for number, one in enumerate(series, 1):
        histories.add(one, NOW, NOW + 1, Counted(number, 0, 1))
    assert [histories.count(one, NOW, NOW + 1).total for one in series] == list(range(1, len(series) + 1))
    assert sorted(map(repr, histories.all())) == sorted(map(repr, series))


def test_what_is_removed_is_forgotten_and_may_begin_anew(histories: Histories) -> None:
    fill(histories, NOW, NOW + 10, 1)
    histories.remove(SERIES)
    histories.remove(SERIES)
    assert histories.all() == ()
    assert histories.count(SERIES, NOW, NOW + 10) == Counted()
    fill(histories, NOW + 20, NOW + 30, 1)
    assert histories.count(SERIES, NOW, NOW + 30).covered == pytest.approx(10)


def test_threads_that_add_and_count_at_once_lose_nothing(histories: Histories) -> None:
    series = [Series(KEY, name) for name in ("a", "b", "c", "d")]
    wrong: list[Counted] = []
    done = threading.Event()

    def add(one: Series) -> None:
        for second in range(300):
            histories.add(one, NOW + second, NOW + second + 1, Counted(7, 2, 1))

    def count() -> None:
        while not done.is_set():
            for one in series:
                seen = histories.count(one, NOW, NOW + 600)
                if not math.isclose(seen.total, 7 * seen.covered) or not math.isclose(seen.bad, 2 * seen.covered):
                    wrong.append(seen)

    reader = threading.Thread(target=count)
    writers = [threading.Thread(target=add, args=(one,)) for one in series]
    for thread in (reader, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    reader.join()
    assert wrong == []
    assert all(same(histories.count(one, NOW, NOW + 600), Counted(2100, 600, 300)) for one in series)


# Readings one after the other, with gaps, of a time that is long compared with the finest ring.
READINGS = st.lists(
    st.tuples(
        st.sampled_from([0.0, 0.0, 0.0, 0.3, 7.0, 900.0, 40_000.0]),
        st.floats(0.01, 3.0) | st.floats(1, 5000),
        st.integers(0, 5000),
        st.floats(0, 1),
        st.floats(0.01, 1),
    ),
    min_size=1,
    max_size=12,
)


def _added(kept: list[Histories], readings: list[tuple[float, float, int, float, float]]) -> tuple[float, Counted]:
    at, total = NOW + 0.137, Counted()
    for gap, lasts, requests, bad, known in readings:
        at += gap
        counted = Counted(requests, requests * bad, lasts * known)
        for one in kept:
            one.add(SERIES, at, at + lasts, counted)
        at += lasts
        total = total.plus(counted)
    return at, total


@settings(deadline=None, max_examples=30)
@given(READINGS, st.lists(st.floats(0, 1), max_size=4), st.sampled_from([1.0, 7.0, 10.0, 60.0, 3600.0]))
@example([(0.0, 1.0, 1, 1.0, 1.0)], [0.5], 7.0)
@example([(0.0, 0.01, 1, 1.0, 1.0), (0.0, 0.01, 1, 1.0, 1.0)], [0.0, 1.0], 1.0)
def test_sums_over_any_cut_are_what_was_added_and_the_twins_agree(
    readings: list[tuple[float, float, int, float, float]], cuts: list[float], step: float
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        files, twin = FolderHistories(Path(folder)), MemoryHistories()
        ends, total = _added([files, twin], readings)
        marks = [NOW, *sorted(NOW + (ends - NOW) * cut for cut in cuts), ends]
        for histories in (files, twin):
            parts = [histories.count(SERIES, a, b) for a, b in itertools.pairwise(marks)]
            whole = Counted()
            for part in parts:
                assert 0 <= part.bad <= part.total + 1e-9 and part.covered >= 0
                whole = whole.plus(part)
            assert same(whole, total)
            binned = Counted()
            for one in histories.bins(SERIES, NOW, ends, step):
                assert one.at % step == 0 and one.seconds == step and 0 < one.counted.covered <= step
                binned = binned.plus(one.counted)
            if all(known > 0.01 for *_, known in readings):  # what is not known at all is no bin
                assert same(binned, total)
        for a, b in itertools.pairwise(marks):
            assert same(files.count(SERIES, a, b), twin.count(SERIES, a, b))
        files.close()


JUMPS = st.lists(
    st.tuples(st.floats(-5000, 5000) | st.floats(-100, 100) | st.just(0.0), st.floats(0.1, 200)),
    min_size=1,
    max_size=20,
)


@settings(deadline=None, max_examples=30)
@given(JUMPS)
def test_whatever_a_clock_does_no_time_is_known_twice_and_no_count_comes_from_nothing(
    jumps: list[tuple[float, float]],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        files, twin = FolderHistories(Path(folder)), MemoryHistories()
        at, total = NOW, 0.0
        for jump, lasts in jumps:
            at = max(0.0, at + jump)
            for histories in (files, twin):
                histories.add(SERIES, at, at + lasts, Counted(10 * lasts, lasts, lasts))
            at += lasts
            total += 10 * lasts
        for histories in (files, twin):
            seen = histories.count(SERIES, 0, at + 10_000)
            assert seen.total <= total * (1 + 1e-9)
            assert math.isclose(seen.total, 10 * seen.covered, rel_tol=1e-6, abs_tol=1e-6)
            assert same(histories.count(SERIES, at, at + 10_000), Counted())
            for one in histories.bins(SERIES, at - 3000, at, 10):
                assert one.counted.covered <= 10
        assert same(files.count(SERIES, 0, at), twin.count(SERIES, 0, at))
        files.close()


@given(st.floats(0, 4e9))
def test_each_moment_is_read_from_one_ring_that_still_has_it(until: float) -> None:
    parts = reaches(until)
    assert parts[0][1] == until
    for (finer, _), (_, coarser) in itertools.pairwise(parts):
        assert finer == coarser
    for (step, slots), (begins, ends) in zip(RESOLUTIONS, parts, strict=True):
        assert ends - begins <= step * slots
        assert begins == 0 or begins % 60 == 0
    assert until - parts[-1][0] >= min(until, 35 * DAY - 60)


# What only the files can be asked.


def test_history_survives_a_restart(tmp_path: Path) -> None:
    before = FolderHistories(tmp_path)
    fill(before, NOW, NOW + 100, 1)
    before.close()
    after = FolderHistories(tmp_path)
    assert after.all() == (SERIES,)
    assert same(after.count(SERIES, NOW, NOW + 200), Counted(1000, 100, 100))
    fill(after, NOW + 130, NOW + 140, 1)
    assert same(after.count(SERIES, NOW, NOW + 200), Counted(1100, 110, 110))


def test_a_series_takes_two_megabytes_at_most_and_a_young_one_much_less(tmp_path: Path) -> None:
    histories = FolderHistories(tmp_path)
    fill(histories, NOW, NOW + 60, 1)
    (path,) = tmp_path.glob("*/*/*.rings")
    assert path.stat().st_size == SIZE == 2_008_576
    assert path.stat().st_blocks * 512 < 200_000
    fill(histories, NOW, NOW + 80 * DAY, 800_000)
    assert path.stat().st_size == SIZE
    assert path.stat().st_mode & 0o077 == 0


KILLED = """
import sys
from pathlib import Path
from crossfade.store.history import FolderHistories
from crossfade.domain.slo import Counted, Series
from crossfade.domain.values import EnvKey
histories = FolderHistories(Path(sys.argv[1]))
at, series = float(sys.argv[2]), Series(EnvKey("bookshop", "production"), "@edge")
print("begun", flush=True)
while True:
    histories.add(series, at, at + 0.25, Counted(2.5, 0.25, 0.25))
    at += 0.25
"""


def test_a_writer_that_is_killed_at_any_moment_leaves_only_true_bins(tmp_path: Path) -> None:
    at = NOW
    for _ in range(5):
        writer = subprocess.Popen([sys.executable, "-c", KILLED, tmp_path, str(at)], stdout=subprocess.PIPE)
        assert writer.stdout is not None and writer.stdout.readline() == b"begun\n"
        with pytest.raises(subprocess.TimeoutExpired):
            writer.wait(0.05)
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        histories = FolderHistories(tmp_path)
        seen = histories.count(SERIES, 0, NOW + DAY)
        assert seen.covered > 0
        assert same(seen, Counted(10 * seen.covered, seen.covered, seen.covered))
        at = histories.bins(SERIES, NOW, NOW + DAY, 1)[-1].at + 60
        histories.close()


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.integers(0, SIZE - 1), st.binary(min_size=1, max_size=200)), min_size=1, max_size=8))
@example([(0, b"other")])
@example([(18, b"\xff" * 8)])
@example([(26, b"\xff" * 4)])
def test_a_damaged_file_is_never_believed_beyond_what_can_be(harm: list[tuple[int, bytes]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        histories = FolderHistories(Path(folder))
        fill(histories, NOW - 35 * DAY, NOW, 1_000_000)
        histories.close()
        (path,) = Path(folder).glob("*/*/*.rings")
        with path.open("r+b") as file:
            for at, data in harm:
                file.seek(at)
                file.write(data[: SIZE - at])
        histories.all()
        seen = histories.count(SERIES, 0, NOW + DAY)
        assert 0 <= seen.bad <= seen.total and 0 <= seen.covered <= 35 * DAY
        fill(histories, NOW, NOW + 10, 1)
        assert histories.count(SERIES, NOW, NOW + 10).covered == pytest.approx(10)
        histories.close()


@pytest.mark.parametrize("size", [0, 10, 4096, SIZE - 1, SIZE + 1])
def test_a_file_that_was_cut_off_is_put_aside_and_history_begins_anew(tmp_path: Path, size: int) -> None:
    histories = FolderHistories(tmp_path)
    fill(histories, NOW, NOW + 10, 1)
    histories.close()
    (path,) = tmp_path.glob("*/*/*.rings")
    os.truncate(path, size)
    assert histories.all() == ()
    fill(histories, NOW + 10, NOW + 15, 1)
    assert histories.count(SERIES, NOW, NOW + 20).covered == pytest.approx(5)
    assert path.with_suffix(".broken").stat().st_size == size


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "history").write_text("a file where a folder belongs")
    with pytest.raises(StorageFailed, match="history"):
        FolderHistories(tmp_path / "history").add(SERIES, NOW, NOW + 1, Counted(1, 0, 1))
