"""E-mail, to a mail server that is one."""

from __future__ import annotations

import socket
import ssl
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossfade.domain.alert import Severity
from crossfade.domain.notice import State, Templates
from crossfade.notifiers.mail import Mail, Mailbox, compose
from crossfade.ports.notices import Dispatch, Result
from tests.e2e import certificates
from tests.notifiers.targets import mail_target, notice, raw_target


def box(port: int, **other: object) -> Mailbox:
    said: dict[str, object] = {
        "sender": "crossfade@example.org",
        "to": ("ops@example.org", "ada@example.org"),
        "tls": "none",
    }
    return Mailbox("127.0.0.1", port, **(said | other))  # type: ignore[arg-type] # each test gives what it is about


def dispatch(**other: object) -> Dispatch:
    return Dispatch("ntc_1", notice(**other), 1_700_000_001.0)


@pytest.fixture
def tls(tmp_path: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """The server's and the client's."""
    certificate, key = certificates.make(tmp_path)
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(certificate, key)
    return server, ssl.create_default_context(cafile=str(certificate))


def test_a_letter_arrives_with_what_happened() -> None:
    with mail_target() as (post, port):
        answer = Mail(box(port), Templates()).carry(dispatch())
        assert (answer.result, answer.sentence) == (Result.SENT, "127.0.0.1 took it for 2 of 2")
        [letter] = post.letters
        assert post.to == [["ops@example.org", "ada@example.org"]]
    assert letter["Subject"] == "bookshop/production: burn:answers"
    assert letter["From"] == "crossfade@example.org"
    assert (letter["Auto-Submitted"], letter["Importance"]) == ("auto-generated", "high")
    assert letter["Message-ID"] == "<ntc_1@example.org>"
    assert "it burns 20 times too fast" in letter.get_content()


def test_all_that_is_about_one_thing_is_one_thread() -> None:
    def refers(**other: object) -> str:
        return str(compose(dispatch(**other), box(1), Templates())["References"])

    first = refers(state=State.OPENED)
    assert first == refers(state=State.RESOLVED, severity=Severity.TICKET) == refers(state=State.REMINDER)
    assert first != refers(about="alert-13")


def test_a_password_goes_through_starttls_only(tls: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    server, client = tls
    with mail_target(server) as (post, port):
        given = {"tls": "starttls", "user": "crossfade", "password": "the-password", "trust": client}
        assert Mail(box(port, **given), Templates()).carry(dispatch()).result is Result.SENT
        assert (post.logins, post.secure) == ([("crossfade", "the-password")], [True])
        wrong = Mail(box(port, **given | {"password": "guessed"}), Templates()).carry(dispatch())
        assert wrong.result is Result.REFUSED
        assert "535" in wrong.sentence and "guessed" not in wrong.sentence


def test_tls_from_the_beginning(tls: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    server, client = tls
    with mail_target(server, implicit=True) as (post, port):
        assert Mail(box(port, tls="tls", trust=client), Templates()).carry(dispatch()).result is Result.SENT
        assert len(post.letters) == 1


def test_a_server_that_nobody_vouches_for_gets_nothing(tls: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    server, _ = tls
    with mail_target(server) as (post, port):
        given = {"tls": "starttls", "user": "crossfade", "password": "the-password"}
        answer = Mail(box(port, **given), Templates()).carry(dispatch())
        assert (answer.result, post.logins) == (Result.LATER, [])
        assert "TLS failed" in answer.sentence


def test_a_server_without_starttls_gets_nothing() -> None:
    with mail_target() as (post, port):
        answer = Mail(box(port, tls="starttls"), Templates()).carry(dispatch())
        assert (answer.result, post.letters) == (Result.REFUSED, [])


def test_one_who_is_not_known_there_keeps_nobody_else_from_it() -> None:
    with mail_target() as (post, port):
        post.refuses["ada@example.org"] = 550
        answer = Mail(box(port), Templates()).carry(dispatch())
        assert answer.result is Result.SENT
        assert "ada@example.org (550)" in answer.sentence
        post.refuses["ops@example.org"] = 550
        assert Mail(box(port), Templates()).carry(dispatch()).result is Result.REFUSED
        post.refuses["ops@example.org"] = 451
        assert Mail(box(port), Templates()).carry(dispatch()).result is Result.LATER


@pytest.mark.parametrize(("says", "result"), [("452 full", Result.LATER), ("554 spam", Result.REFUSED)])
def test_what_the_server_says_to_the_letter_counts(says: str, result: Result) -> None:
    with mail_target() as (post, port):
        post.says = says
        assert Mail(box(port), Templates()).carry(dispatch()).result is result


def test_nobody_who_listens_is_worth_another_try() -> None:
    assert Mail(box(9), Templates()).carry(dispatch()).result is Result.LATER


def test_a_server_that_says_a_letter_now_and_then_is_left() -> None:
    def drip(connection: socket.socket) -> None:
        while True:
            connection.sendall(b"220-wait\r\n")
            time.sleep(0.02)

    with raw_target(drip) as port:
        began = time.monotonic()
        answer = Mail(box(port), Templates(), within=0.5).carry(dispatch())
        assert (answer.result, answer.sentence) == (Result.LATER, "127.0.0.1: did not finish within 0.5 s")
        assert time.monotonic() - began < 10


@given(st.text(max_size=300), st.text(max_size=300))
def test_no_text_makes_another_header(title: str, sentence: str) -> None:
    evil = compose(dispatch(title=f"{title}\r\nBcc: eve@evil.example", sentence=sentence), box(1), Templates())
    text = evil.as_bytes().decode(errors="replace")
    head = text.partition("\r\n\r\n")[0]
    names = [line.partition(":")[0] for line in head.split("\r\n") if not line.startswith((" ", "\t"))]
    assert names == list(dict.fromkeys(names))
    assert "Bcc" not in names
