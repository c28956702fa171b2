"""The schemathesis gate: reports of the real tool about a real application, and hostile ones."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Thread
from time import monotonic, sleep

import pytest
import uvicorn
from fastapi import FastAPI

from crossfade.domain.errors import Invalid
from crossfade.domain.pipeline.plan import Gate, GateKind
from crossfade.gates import ReportGates
from crossfade.gates.schemathesis import behaviour, without_secrets
from crossfade.ports.pipeline import GateContext
from tests.free_port import free_port

GATE = Gate(GateKind.SCHEMATHESIS, "schemathesis.xml")


def application() -> FastAPI:
    app = FastAPI()

    @app.get("/books")
    def books(page: int = 1) -> dict[str, int]:
        if page < 0:
            raise RuntimeError("there is no page before the first")
        return {"page": page}

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ok"}

    return app


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    server = uvicorn.Server(uvicorn.Config(application(), port=free_port(), log_level="critical"))
    thread = Thread(target=server.run)
    thread.start()
    deadline = monotonic() + 20
    while not server.started and monotonic() < deadline:
        sleep(0.02)
    yield f"http://127.0.0.1:{server.config.port}/openapi.json"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def report(url: str, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return run(url, tmp_path_factory.mktemp("schemathesis"))


def run(url: str, folder: Path, *options: str) -> bytes:
    """What schemathesis reports; the token goes along so that it can be looked for."""
    path = folder / "report.xml"
    tool = [
        str(Path(sys.executable).parent / "schemathesis"),
        "run",
        url,
        "--phases",
        "fuzzing",
        "--max-examples",
        "15",
    ]
    tool += ["--seed", "1", "--report", "junit", "--report-junit-path", str(path), "--output-sanitize", "false"]
    tool += ["-H", "Authorization: Bearer s3cret", *options]
    subprocess.run(tool, cwd=folder, capture_output=True, check=False, timeout=60)
    return path.read_bytes()


def test_a_fault_is_told_by_operation_and_check_with_a_command_to_try_it(report: bytes) -> None:
    outcome = behaviour("st.xml", report, GATE)
    assert not outcome.passed
    assert "of 2 operations" in outcome.sentence
    assert "GET /books: ST101 Server error" in outcome.sentence
    assert outcome.details[0] == "GET /books: ST101 Server error  [allow: GET /books:ST101]"
    assert outcome.details[1].startswith("  curl -X GET ")
    assert "page=-" in outcome.details[1]


def test_no_secret_of_a_header_is_shown(report: bytes) -> None:
    assert b"s3cret" in report  # the tool was told to leave it there
    outcome = behaviour("st.xml", report, GATE)
    assert "s3cret" not in outcome.sentence + "".join(outcome.details)
    assert "Authorization: [hidden]" in "".join(outcome.details)


def test_checks_can_be_allowed_by_operation_code_or_both(report: bytes) -> None:
    assert behaviour("st.xml", report, replace(GATE, allow=("GET /books",))).passed
    assert behaviour("st.xml", report, replace(GATE, allow=("GET /books:ST101", "ST103"))).passed
    assert not behaviour("st.xml", report, replace(GATE, allow=("GET /health",))).passed


def test_an_application_without_faults_passes(url: str, tmp_path: Path) -> None:
    outcome = behaviour("st.xml", run(url, tmp_path, "--include-path", "/health"), GATE)
    assert outcome.passed
    assert outcome.sentence == "st.xml: 1 operations tested, no check failed"


def wrapped(cases: str, name: str = "schemathesis") -> bytes:
    return f'<?xml version="1.0"?><testsuites><testsuite name="{name}">{cases}</testsuite></testsuites>'.encode()


def test_operations_that_were_all_skipped_are_no_data() -> None:
    outcome = behaviour("st.xml", wrapped('<testcase name="GET /a"><skipped message="no data"/></testcase>'), GATE)
    assert (outcome.passed, outcome.finding) == (False, "no-data")
    assert behaviour("st.xml", wrapped(""), GATE).finding == "no-data"
    assert behaviour("st.xml", wrapped('<testcase name="GET /a"/>'), replace(GATE, least=2)).finding == "no-data"


def test_an_error_of_the_tool_itself_is_no_pass() -> None:
    case = '<testcase name="GET /a"><error message="Connection refused">it broke</error></testcase>'
    outcome = behaviour("st.xml", wrapped(case), GATE)
    assert not outcome.passed
    assert "GET /a: error Connection refused" in outcome.sentence


def test_a_failure_in_words_that_nobody_knows_is_still_one() -> None:
    for case in ("<failure/>", "<failure>something</failure>", '<failure message="">1. Test Case ID: x</failure>'):
        assert not behaviour("st.xml", wrapped(f'<testcase name="GET /a">{case}</testcase>'), GATE).passed


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("curl -H 'Authorization: Bearer x.y' http://h/", "curl -H 'Authorization: [hidden]' http://h/"),
        ('curl -H "X-Api-Key: abc" http://h/', "curl -H 'X-Api-Key: [hidden]' http://h/"),
        ("curl -H 'Content-Type: application/json' http://h/", "curl -H 'Content-Type: application/json' http://h/"),
        ("curl 'http://h/a?page=1&api_token=abc&x=2'", "curl 'http://h/a?page=1&api_token=[hidden]&x=2'"),
        ("curl http://ada:pw@h/", "curl http://[hidden]@h/"),
        ("""curl -H 'X-Key: a"b'"'"'c' http://h/""", "curl -H 'X-Key: [hidden]' http://h/"),
        ("curl -H X-Key:abc http://h/", "curl -H 'X-Key: [hidden]' http://h/"),
        ("curl -H 'Cookie: session=1; other=2' http://h/", "curl -H 'Cookie: [hidden]' http://h/"),
    ],
)
def test_secrets_in_commands_are_hidden(command: str, shown: str) -> None:
    assert without_secrets(command) == shown


HOSTILE = {
    "nothing": b"",
    "text": b"all went well",
    "binary": bytes(range(256)),
    "JSON": b"{}",
    "XML that ends early": b"<testsuites><testsuite",
    "another tool's report": wrapped('<testcase name="test_a"/>', "pytest"),
    "XML of something else": b"<coverage/>",
    "entities that laugh": b'<!DOCTYPE a [<!ENTITY x "ha"><!ENTITY y "&x;&x;">]><testsuites>&y;</testsuites>',
    "an entity from elsewhere": b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><testsuites>&x;</testsuites>',
    "an unknown encoding": b'<?xml version="1.0" encoding="klingon"?><testsuites/>',
    "an attribute twice": b'<testsuites><testsuite name="schemathesis" name="x"/></testsuites>',
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_report_is_refused(name: str) -> None:
    with pytest.raises(Invalid, match=r"st\.xml"):
        behaviour("st.xml", HOSTILE[name], GATE)


def test_the_gate_reads_the_report_in_the_checkout(report: bytes, tmp_path: Path) -> None:
    (tmp_path / "schemathesis.xml").write_bytes(report)
    outcome = ReportGates().read("behaviour", GATE, GateContext(tmp_path))
    assert outcome == behaviour("schemathesis.xml", report, GATE)
