"""E-mail by SMTP. Everything about one thing is one thread; what comes in cannot make another header."""

from __future__ import annotations

import contextlib
import hashlib
import smtplib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from typing import Final

from crossfade.domain.alert import Severity
from crossfade.domain.notice import Notice, Templates, line
from crossfade.ports.notices import Answer, Dispatch, Result

TIMEOUT: Final = 10.0
"""Seconds for one answer of the server."""
WITHIN: Final = 30.0
"""Seconds for one message in all."""
LONGEST_SUBJECT: Final = 200


@dataclass(frozen=True, slots=True)
class Mailbox:
    """Where mail is handed in. ``tls``: `starttls`, `tls` or `none`; ``trust`` in place of the system's certificates.

    ``password`` is sent only when there is TLS, or on loopback.
    """

    host: str
    port: int
    sender: str
    to: tuple[str, ...]
    tls: str = "starttls"
    user: str = ""
    password: str = ""
    trust: ssl.SSLContext | None = None


def compose(dispatch: Dispatch, box: Mailbox, templates: Templates) -> EmailMessage:
    """The message. Subject and names are put on one line, and the library refuses any other line break."""
    notice = dispatch.notice
    domain = box.sender.rpartition("@")[2]
    thread = f"<{_thread(notice)}@{domain}>"
    letter = EmailMessage(policy=SMTP)
    letter["From"] = box.sender
    letter["To"] = ", ".join(box.to)
    letter["Subject"] = line(templates.subject.fill(notice), LONGEST_SUBJECT)
    letter["Date"] = format_datetime(datetime.fromtimestamp(dispatch.now, UTC))
    letter["Message-ID"] = f"<{dispatch.id}@{domain}>"
    letter["In-Reply-To"] = thread
    letter["References"] = thread
    letter["Auto-Submitted"] = "auto-generated"
    letter["X-Crossfade-Notice"] = notice.type
    if notice.severity is Severity.PAGE:
        letter["Importance"] = "high"
    letter.set_content(templates.text.fill(notice).strip() + "\n")
    return letter


def _thread(notice: Notice) -> str:
    """Of everything that is about one thing. No message has this id: threads are made by what messages refer to."""
    return "thread-" + hashlib.sha256(f"{notice.key} {notice.about}".encode()).hexdigest()[:32]


class Mail:
    """`ports.notices.Courier` to people by e-mail."""

    people = True

    def __init__(self, box: Mailbox, templates: Templates, within: float = WITHIN) -> None:
        self._box, self._templates, self._within = box, templates, within

    def takes(self, notice: Notice) -> bool:
        """See the port."""
        return True

    def carry(self, dispatch: Dispatch) -> Answer:
        """See the port."""
        box = self._box
        letter = compose(dispatch, box, self._templates)
        digest = f"sha256:{hashlib.sha256(letter.get_content().encode()).hexdigest()}"
        late = threading.Event()
        try:
            with self._connection(late) as server:
                refused = server.send_message(letter, box.sender, list(box.to))
        except smtplib.SMTPResponseException as error:
            result = Result.LATER if 400 <= error.smtp_code < 500 else Result.REFUSED
            said = f"{error.smtp_code} {self._quote(error.smtp_error)}"
            return Answer(result, f"{box.host} answered {said}", digest=digest)
        except smtplib.SMTPRecipientsRefused as error:
            codes = [code for code, _ in error.recipients.values()]
            result = Result.LATER if any(400 <= code < 500 for code in codes) else Result.REFUSED
            return Answer(result, f"{box.host} takes nothing for {self._those(error.recipients)}", digest=digest)
        except smtplib.SMTPNotSupportedError as error:
            return Answer(Result.REFUSED, f"{box.host}: {self._quote(str(error))}", digest=digest)
        except ssl.SSLError as error:
            return Answer(Result.LATER, f"{box.host}: TLS failed: {self._quote(str(error))}", digest=digest)
        except (OSError, smtplib.SMTPException, ValueError) as error:
            said = f"did not finish within {self._within:g} s" if late.is_set() else self._quote(f"{error}")
            return Answer(Result.LATER, f"{box.host}: {said or type(error).__name__}", digest=digest)
        left = f"; it takes nothing for {self._those(refused)}" if refused else ""
        return Answer(
            Result.SENT, f"{box.host} took it for {len(box.to) - len(refused)} of {len(box.to)}{left}", digest=digest
        )

    @contextlib.contextmanager
    def _connection(self, late: threading.Event) -> Iterator[smtplib.SMTP]:
        """A connection as the mailbox wants it, which is cut when all of it takes too long."""
        box = self._box
        trust = box.trust or ssl.create_default_context()
        me = "crossfade.localhost"  # the machine's own name is nobody's business
        server: smtplib.SMTP
        if box.tls == "tls":
            server = smtplib.SMTP_SSL(timeout=TIMEOUT, context=trust, local_hostname=me)
        else:
            server = smtplib.SMTP(timeout=TIMEOUT, local_hostname=me)
        with _cut_after(self._within, lambda: server.sock, late):
            try:
                # The name is what certificates are held against.
                server._host = box.host  # type: ignore[attr-defined] # the constructor sets it when it connects
                code, said = server.connect(box.host, box.port)
                if code != 220:
                    raise smtplib.SMTPConnectError(code, said)
                if box.tls == "starttls":
                    server.starttls(context=trust)
                if box.user:
                    server.login(box.user, box.password)
                yield server
                with contextlib.suppress(smtplib.SMTPException, OSError):
                    server.quit()  # it has the message: how it says goodbye does not matter
            finally:
                server.close()

    def _quote(self, said: bytes | str) -> str:
        text = said.decode(errors="replace") if isinstance(said, bytes) else said
        if self._box.password:
            text = text.replace(self._box.password, "(hidden)")
        return line(text, 200)

    @staticmethod
    def _those(refused: dict[str, tuple[int, bytes]]) -> str:
        return line(", ".join(f"{who} ({code})" for who, (code, _) in refused.items()), 200)


@contextlib.contextmanager
def _cut_after(seconds: float, connection: Callable[[], socket.socket | None], late: threading.Event) -> Iterator[None]:
    """Cut the connection when it has not ended by itself: a limit per answer lets a server that drips hold us for ever."""

    def cut() -> None:
        late.set()
        sock = connection()
        if sock is not None:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    timer = threading.Timer(seconds, cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
