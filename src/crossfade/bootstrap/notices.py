"""Those who can be told, made from `server.yaml` and the files that it names. Secrets are read once, at the start."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from crossfade.bootstrap.tls import trusting
from crossfade.domain.errors import Invalid, Refused
from crossfade.domain.notice import Templates

if TYPE_CHECKING:
    from crossfade.ports.notices import Courier
    from crossfade.service.notices import Post
    from crossfade.spec.notify import Notify, Target, Traces

LARGEST: Final = 16_384
"""Bytes of a file with a secret."""
MOST_HEADERS: Final = 20
_HEADER: Final = re.compile(r"([A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}): ?([\x20-\x7e]{0,4000})")

_log = logging.getLogger(__name__)


def make_post(state: Path, notify: Notify, traces: Traces | None, origin: str) -> Post:
    """Who can be told, and of what. Raises Refused for files that cannot be read or do not hold what they should."""
    from crossfade.notifiers.traces import Otlp
    from crossfade.service.notices import Post

    given, usual = notify.templates, Templates()
    templates = Templates(given.subject or usual.subject, given.text or usual.text)
    couriers = {name: _courier(state, name, target, templates) for name, target in notify.targets.items()}
    tracer = Otlp(traces.otlp, _headers(state, traces), traces.service_name) if traces is not None else None
    return Post(couriers, tuple(one.route() for one in notify.routes), tracer, notify.repeat, origin)


def _courier(state: Path, name: str, target: Target, templates: Templates) -> Courier:
    from crossfade.notifiers.cdevents import Sink
    from crossfade.notifiers.mail import Mail, Mailbox
    from crossfade.notifiers.posting import may_be_told
    from crossfade.notifiers.slack import Slack
    from crossfade.notifiers.webhook import Webhook, secrets_of

    place = f"notify.targets.{name}"
    match target.kind:
        case "webhook":
            assert target.url is not None and target.secret_file is not None
            path = state / target.secret_file
            try:
                return Webhook(target.url, secrets_of(_secret(path, f"{place}.secret_file")))
            except Invalid as error:
                raise Refused(
                    f"{place}.secret_file {path} does not hold a secret: wanted are {error.fields['allowed']}.",
                    hint=f"Make one: echo whsec_$(openssl rand -base64 32) > {path}",
                ) from error
        case "slack":
            assert target.url_file is not None
            path = state / target.url_file
            url = _secret(path, f"{place}.url_file").strip()
            if not may_be_told(url):
                raise Refused(f"{place}.url_file {path} does not hold a URL with https.")
            return Slack(url, templates)
        case "cdevents":
            assert target.url is not None
            return Sink(target.url)
        case _:
            assert target.smtp is not None and target.sender is not None
            password = _secret(state / target.password_file, f"{place}.password_file") if target.password_file else ""
            host, port = target.smtp
            box = Mailbox(
                host,
                port,
                target.sender,
                target.to,
                target.tls or "starttls",
                target.user or "",
                password.strip("\r\n"),
                trusting(state / target.ca) if target.ca else None,
            )
            return Mail(box, templates)


def _headers(state: Path, traces: Traces) -> Mapping[str, str]:
    if traces.headers_file is None:
        return {}
    path = state / traces.headers_file
    found: dict[str, str] = {}
    for line in _secret(path, "traces.headers_file").splitlines():
        if not line.strip():
            continue
        match = _HEADER.fullmatch(line.strip())
        if match is None:
            raise Refused(f"traces.headers_file {path} has a line that is no header.", hint="Write `Name: value`.")
        found[match[1]] = match[2]
    if len(found) > MOST_HEADERS:
        raise Refused(f"traces.headers_file {path} has more than {MOST_HEADERS} headers.")
    return found


def _secret(path: Path, key: str) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
        mode = path.stat().st_mode
        text = data.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Refused(f"{key} {path} cannot be read: {error}.") from error
    if not text.strip() or len(data) > LARGEST:
        raise Refused(f"{key} {path} does not hold a secret: it has {len(data)} bytes.")
    if mode & 0o077:
        _log.warning("%s can be read by others than its owner: chmod 600 %s", path, path)
    return text
