"""The pages of runs: what they say in words, how a stage is drawn, what of a log is shown, and what orders do."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st

from crossfade.domain.access import Grant
from crossfade.domain.errors import NotFound
from crossfade.web import run_view as view
from crossfade.web.app import mount
from tests.api.world import World
from tests.engine.pipelines import ADA, Installation, Repository, script
from tests.web.test_house import ORIGIN, PASSWORD, Visitor

HOSTILE = "<script>alert(1)</script> \u202egnp.exe"
NODE = {
    "kind": "command",
    "status": "passed",
    "waiting": "",
    "sentence": "",
    "finding": None,
}


@st.composite
def stages(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Nodes that need each other in no circle, in any order."""
    names = [f"n{i}" for i in range(draw(st.integers(1, 9)))]
    nodes = [
        {**NODE, "name": name, "needs": draw(st.lists(st.sampled_from(names[:i]), unique=True)) if i else []}
        for i, name in enumerate(names)
    ]
    return draw(st.permutations(nodes))


@given(stages())
def test_each_node_is_drawn_once_below_and_beside_all_that_it_needs(nodes: list[dict[str, Any]]) -> None:
    drawn = view.graph(nodes)
    at = {dot.node["name"]: dot for dot in drawn.dots}
    assert sorted(at) == sorted(node["name"] for node in nodes)
    assert len({dot.y for dot in drawn.dots}) == len(nodes)
    for node in nodes:
        for need in node["needs"]:
            assert at[need].y < at[node["name"]].y
            assert at[need].x < at[node["name"]].x
    assert all(0 < dot.x < drawn.wide and 0 < dot.y < drawn.high for dot in drawn.dots)


@given(stages())
def test_lines_lead_to_the_same_nodes_as_the_needs(nodes: list[dict[str, Any]]) -> None:
    drawn = view.graph(nodes)
    at = {dot.node["name"]: dot for dot in drawn.dots}
    by_y = {dot.y: dot.node["name"] for dot in drawn.dots}
    lines: dict[str, set[str]] = {name: set() for name in at}
    for edge in drawn.edges:
        match = re.match(r"M\d+ (\d+)H\d+V(\d+)H", edge.path)
        assert match is not None
        lines[by_y[int(match[2])]].add(by_y[int(match[1])])

    def above(name: str, known: dict[str, set[str]]) -> set[str]:
        return {*known[name], *(far for need in known[name] for far in above(need, known))}

    needs = {node["name"]: set(node["needs"]) for node in nodes}
    for name in at:
        assert above(name, lines) == above(name, needs)


@given(st.text())
def test_a_log_keeps_its_lines_and_loses_what_a_terminal_obeys(text: str) -> None:
    shown = view.plain(text)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", shown)
    assert shown.count("\n") == text.count("\n")
    assert view.plain(shown) == shown


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("\x1b[1;31mred\x1b[0m and \x1b[38;5;12mblue\x1b[K", "red and blue"),
        ("\x1b]8;;http://x\x07a link\x1b]8;;\x07", "a link"),
        ("\x1b]0;a title\x1b\\text", "text"),
        ("10 %\r50 %\r100 %\r\ndone\r\n", "100 %\ndone\n"),
        ("a\x00b\x08c\x9b", "abc"),
        ("<b>\t&amp;</b>", "<b>\t&amp;</b>"),
    ],
)
def test_a_log_is_shown_as_text(written: str, shown: str) -> None:
    assert view.plain(written) == shown


def run_in(status: str, **stage: Any) -> dict[str, Any]:
    first: dict[str, Any] = {
        "name": "commit",
        "status": "passed",
        "environment": None,
        "rollout": None,
        "attempt": 1,
        "nodes": [],
    }
    last = {**first, "name": "production", "status": "running", "environment": "production", **stage}
    ended = status in ("passed", "failed", "cancelled", "superseded")
    return {"status": status, "ended": ended, "short": "4f2c81a", "stages": [first, last]}


def test_what_cannot_be_ordered_now_is_said_with_its_reason() -> None:
    deploying = run_in("running", rollout=7, nodes=[{"name": "deploy", "kind": "deploy", "status": "running"}])
    assert "Rollout #7 is in flight" in view.why_not(deploying, "cancel")
    assert view.why_not(run_in("running"), "cancel") == ""
    assert view.why_not(run_in("failed"), "restart") == ""
    assert "it failed" in view.why_not(run_in("failed"), "cancel")
    assert "was superseded" in view.why_not(run_in("superseded"), "restart")
    assert "under way" in view.why_not(run_in("running"), "restart")
    with pytest.raises(NotFound):
        view.why_not(run_in("running"), "explode")


def test_the_bars_of_a_value_stream_are_as_long_as_the_times_they_stand_for() -> None:
    stage = {"name": "commit", "status": "passed", "waited": 30.0, "worked": 60.0, "why": "waits for its turn"}
    flow = {"committed": 0.0, "queued": 10.0, "stages": [stage, {**stage, "waited": 0.0, "worked": None}]}
    longest = view.longest([flow])
    assert longest == 100.0
    assert [(bar.kind, bar.at, bar.wide) for bar in view.bars(flow, longest)] == [
        ("before", 0.0, 100.0),
        ("waited", 100.0, 300.0),
        ("worked", 400.0, 600.0),
    ]
    assert "commit waited: waits for its turn, 30 s" in view.bars(flow, longest)[1].said
    assert view.bars(flow, 0.0) == []


# --- the pages of a real run


@pytest.fixture(scope="module")
def made() -> Iterator[tuple[Installation, Visitor, int]]:
    """Somebody who is logged in, and a run whose second step failed after it has written something."""
    installation, folder = Installation(), Path(tempfile.mkdtemp(prefix="cf-"))
    repository = Repository(folder / "shop")
    write = f"print({HOSTILE!r}); print('\\x1b[31mred\\x1b[0m'); print('x' * 70 * 1024); print('the end')"
    steps = {"first": script("pass"), "tests": {"run": script(write + "; raise SystemExit(3)"), "needs": ["first"]}}
    repository.configure({"commit": {"steps": steps}, "integration": {"steps": {"later": script("pass")}}})
    repository.write("app.py", "")
    repository.commit(HOSTILE)
    installation.add(repository)
    id = installation.start(repository)
    installation.ended(id)
    for name, grant in (("ada", "admin"), ("vera", "viewer")):
        installation.service.accounts.add(name, [Grant.parse(grant)], PASSWORD, ADA)
    app = FastAPI()
    mount(app, installation.service, origin=ORIGIN, key=b"k" * 32)
    visitor = Visitor(app)
    visitor.log_in("ada")
    yield installation, visitor, id
    installation.remove()
    shutil.rmtree(folder)


Made = tuple[Installation, Visitor, int]


def test_a_failed_run_says_where_and_why_and_offers_to_go_on(made: Made) -> None:
    _, visitor, id = made
    page = visitor.get(f"/runs/{id}").text
    assert "exited with 3" in page
    assert f"/runs/{id}/stages/commit/nodes/tests" in page
    assert f"/runs/{id}/orders/restart" in page
    assert f"/runs/{id}/orders/cancel" not in page
    assert "was not reached" in page
    assert f"#{id}</a>" in visitor.get("/runs?service=shop").text
    part = visitor.get("/runs", headers={"X-Requested-With": "fetch"}).text
    assert 'data-part="runs"' in part
    assert "<html" not in part


def test_hostile_text_of_a_commit_and_a_log_is_shown_as_text(made: Made) -> None:
    _, visitor, id = made
    node = f"/runs/{id}/stages/commit/nodes/tests"
    for path in ("/runs", f"/runs/{id}", node, f"/runs/{id}/orders/restart", "/services/shop/stream"):
        page = visitor.get(path).text
        assert "<script>alert" not in page, path
        assert "\u202e" not in page, path
        assert "alert(1)" in page, path


def test_the_end_of_a_log_is_shown_and_the_whole_of_it_can_be_kept(made: Made) -> None:
    _, visitor, id = made
    node = f"/runs/{id}/stages/commit/nodes/tests"
    page = visitor.get(node).text
    assert "the end\n" in page
    assert "\x1b" not in page
    assert "Its end only" in page
    assert len(page) < 100_000
    answer = visitor.get(f"{node}/log.txt")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers["content-disposition"] == f'attachment; filename="run-{id}-commit-tests.txt"'
    assert HOSTILE in answer.text
    assert answer.text.count("x") >= 70 * 1024
    part = visitor.get(f"{node}/log?offset=0").json()
    assert (HOSTILE in part["text"], part["ended"], part["next"]) == (True, False, 64 * 1024)
    assert visitor.get(f"{node}/log?offset={part['next']}").json()["ended"]
    assert visitor.get(f"/runs/{id}/stages/commit/nodes/nothing").status_code == 404
    assert visitor.get(f"/runs/{id}/stages/nowhere/nodes/tests").status_code == 404
    assert visitor.get(f"{node}/log?offset=-1").status_code == 422


def test_a_restart_says_what_it_does_and_does_it_once(made: Made) -> None:
    installation, visitor, id = made
    place = f"/runs/{id}/orders/restart"
    page = visitor.get(place).text
    assert "All of commit is done again, as attempt 2" in page
    once = re.search(r'name="once" value="([^"]+)"', page)
    assert once is not None
    for _ in range(2):
        answer = visitor.post(place, {"once": once[1]}, page=place)
        assert (answer.status_code, answer.headers["location"]) == (303, f"/runs/{id}")
    installation.ended(id)
    assert installation.runs.run(id)["stages"][0]["attempt"] == 2
    refused = visitor.post(f"/runs/{id}/orders/cancel", {"once": "0123456789abcdef"}, page="/settings")
    assert refused.status_code == 409
    assert "It has ended" in refused.text or "has ended" in refused.text
    assert visitor.get(f"/runs/{id}/orders/explode").status_code == 404
    assert visitor.post(f"/runs/{id}/orders/explode").status_code == 404


def test_a_server_without_pipelines_says_so(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.service.accounts.add("ada", [Grant.parse("admin")], PASSWORD, ADA)
    app = FastAPI()
    mount(app, world.service, origin=ORIGIN, key=b"k" * 32)
    visitor = Visitor(app)
    visitor.log_in("ada")
    answer = visitor.get("/runs")
    assert (answer.status_code, "runs no pipelines" in answer.text) == (503, True)
