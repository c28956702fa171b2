"""`crossfade gate` alone: what it says and how it exits, in a folder, with a git repository and without one."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from crossfade.cli.main import app

SARIF = {
    "version": "2.1.0",
    "runs": [
        {
            "tool": {"driver": {"name": "scan"}},
            "results": [
                {
                    "ruleId": "R1",
                    "message": {"text": "100 % wrong,\n::warning::x ##[add-mask]y"},
                    "locations": [
                        {"physicalLocation": {"artifactLocation": {"uri": "a.py"}, "region": {"startLine": 2}}}
                    ],
                }
            ],
        }
    ],
}
JUNIT = '<testsuite><testcase name="a"/></testsuite>'


def gate(*words: str) -> Result:
    return CliRunner().invoke(app, ["gate", *words])


def git(folder: Path, *words: str) -> None:
    who = ["-c", "user.name=Ada", "-c", "user.email=ada@example.org", "-c", "init.defaultBranch=main"]
    subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True, timeout=30)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.py").write_text("one\ntwo\nthree\n")
    (tmp_path / "junit.xml").write_text(JUNIT)
    (tmp_path / "r.sarif").write_text(json.dumps(SARIF))
    (tmp_path / "lcov.info").write_text("SF:a.py\nDA:1,1\nDA:2,1\nDA:3,1\nDA:4,0\nend_of_record\n")
    return tmp_path


def test_it_exits_with_0_when_the_gate_says_yes_and_with_1_when_it_says_no(project: Path) -> None:
    assert (gate("junit", "junit.xml").exit_code, gate("junit", "junit.xml").stdout) == (
        0,
        "pass: junit.xml: 1 test passed\n",
    )
    refused = gate("junit", "junit.xml", "--least", "2")
    assert (refused.exit_code, refused.stdout) == (1, "no-data: junit.xml: 1 test was run; at least 2 are wanted\n")
    assert gate("junit", "nothing.xml").exit_code == 1


def test_a_path_may_be_absolute_when_it_leads_into_the_folder_and_several_are_one_report(project: Path) -> None:
    (project / "more.xml").write_text(JUNIT)
    found = gate("junit", str(project / "junit.xml"), "more.xml", "*.xml", "--least", "2", "--json")
    assert (found.exit_code, json.loads(found.stdout)["numbers"]["run"]) == (0, 2)
    assert gate("junit", "junit.xml", "nothing.xml").exit_code == 1


def test_the_folder_may_be_another_one(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    assert gate("junit", "junit.xml", "--folder", str(project)).exit_code == 0


@pytest.mark.parametrize(
    "words",
    [
        ["cucumber", "junit.xml"],
        ["junit", "/etc/passwd"],
        ["junit", "../junit.xml"],
        ["junit", ""],
        ["junit", "junit.xml", "--minimum", "80%"],
        ["junit", "junit.xml", "--least", "0"],
        ["junit", "junit.xml", "--base", "main"],
        ["junit", "junit.xml", "--format", "gitlab"],
        ["junit", "junit.xml", "--folder", "nothing"],
        ["junit", "junit.xml", "--write-baseline", "b.json"],
        ["coverage", "lcov.info", "--minimum", "0.8"],
        ["coverage", "lcov.info", "--minimum", "180%"],
        ["coverage", "lcov.info", "--minimum", "NaN%"],
        ["coverage", "lcov.info", "--base", "main"],  # there is no repository
        ["sarif", "r.sarif", "--level", "fatal"],
        ["sarif", "r.sarif", "--baseline", "../b.json"],
        ["sarif", "r.sarif", "--write-baseline", "../b.json"],
        ["load", "r.json", "--p95", "300"],
        ["benchmark", "r.json", "--before", "nothing.json"],
        ["pact", "p.json", "--provider", "shop"],
        ["junit"],
    ],
    ids=" ".join,
)
def test_it_exits_with_2_when_it_cannot_be_asked_so(project: Path, words: list[str]) -> None:
    found = gate(*words)
    assert (found.exit_code, found.stdout) == (2, "")
    assert "Traceback" not in found.stderr


def test_a_baseline_is_written_and_then_known(project: Path) -> None:
    written = gate("sarif", "r.sarif", "--write-baseline", ".crossfade/findings.json")
    assert (written.exit_code, written.stdout) == (
        0, ".crossfade/findings.json: 1 finding known from now on. Commit it, and name it by --baseline.\n"
    )  # fmt: skip
    assert gate("sarif", "r.sarif", "--baseline", ".crossfade/findings.json").exit_code == 0
    assert gate("sarif", "r.sarif").exit_code == 1


def test_no_baseline_is_written_from_a_tool_that_broke_off_or_through_a_link(project: Path) -> None:
    (project / "b.json").symlink_to("/tmp/elsewhere.json")
    assert gate("sarif", "r.sarif", "--write-baseline", "b.json").exit_code == 2
    (project / "r.sarif").write_text('{"version": "2.1.0", "runs": [{"tool": {"driver": {"name": "scan"}}}]}')
    assert gate("sarif", "r.sarif", "--write-baseline", "c.json").exit_code == 1
    assert not (project / "c.json").exists()


def test_changed_lines_are_those_since_the_base_committed_or_not(project: Path) -> None:
    git(project, "init", "-q")
    git(project, "add", "a.py")
    git(project, "commit", "-q", "-m", "one")
    (project / "a.py").write_text("one\ntwo\nthree\nfour\n")
    found = gate("coverage", "lcov.info", "--minimum", "75%", "--base", "main", "--json")
    said = json.loads(found.stdout)
    assert (found.exit_code, said["details"]) == (1, ["a.py:4 is not covered (changed)"])
    git(project, "commit", "-q", "-a", "-m", "two")
    for base, status in (("main", 0), ("HEAD~1", 1), ("nothing", 2), ("--output=x", 2), ("HEAD~7", 2)):
        assert gate("coverage", "lcov.info", "--minimum", "75%", f"--base={base}").exit_code == status, base


def test_changed_lines_of_a_project_below_the_top_of_its_repository_are_found(project: Path) -> None:
    shop = project / "shop"
    shop.mkdir()
    for name in ("a.py", "lcov.info"):
        (shop / name).write_bytes((project / name).read_bytes())
    git(project, "init", "-q")
    git(project, "add", ".")
    git(project, "commit", "-q", "-m", "one")
    (shop / "a.py").write_text("one\ntwo\nthree\nfour\n")
    found = gate("coverage", "lcov.info", "--minimum", "75%", "--base", "main", "--folder", "shop")
    assert "a.py:4 is not covered (changed)" in found.stdout


def test_an_api_is_compared_with_the_document_at_the_base_or_in_a_file(project: Path) -> None:
    def api(*paths: str) -> str:
        answer = {"get": {"responses": {"200": {"description": "ok"}}}}
        return json.dumps(
            {"openapi": "3.1.0", "info": {"title": "t", "version": "1"}, "paths": dict.fromkeys(paths, answer)}
        )

    (project / "api.json").write_text(api("/a", "/b"))
    (project / "before.json").write_text(api("/a", "/b"))
    git(project, "init", "-q")
    git(project, "add", "api.json")
    git(project, "commit", "-q", "-m", "one")
    (project / "api.json").write_text(api("/a"))
    for words in (["--base", "main"], ["--before", "before.json"]):
        found = gate("openapi", "api.json", *words)
        assert found.exit_code == 1 and "GET /b" in found.stdout
    assert gate("openapi", "api.json", "--base", "main", "--before", "before.json").exit_code == 2
    assert gate("openapi", "api.json", "--before", "before.json", "--allow", "GET /b").exit_code == 0


def test_annotations_for_github_name_file_and_line_and_no_report_can_add_commands_of_its_own(project: Path) -> None:
    found = gate("sarif", "r.sarif", "--format", "github")
    lines = found.stdout.splitlines()
    assert lines[0].startswith("::error title=crossfade gate sarif::r.sarif (scan): 1 finding (1 warning): a.py:2: ")
    assert lines[1] == "::error file=a.py,line=2::warning R1: 100 %25 wrong, ::warning::x ## [add-mask]y  [allow: R1]"
    assert len(lines) == 2 and "##[" not in found.stdout
    (project / "junit.xml").write_text(
        "<testsuite><testcase name='::stop-commands::x'><failure/></testcase></testsuite>"
    )
    for form in ("text", "github"):
        shown = gate("junit", "junit.xml", "--format", form).stdout.splitlines()
        assert not any(line.lstrip().startswith("::stop") for line in shown)
