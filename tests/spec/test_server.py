"""`server.yaml`: defaults without it, every problem at once with its line, and a manual that has every key."""

from __future__ import annotations

from pathlib import Path

import pytest

from crossfade.domain.access import Grant
from crossfade.domain.alert import Severity
from crossfade.domain.errors import InvalidConfig, Problem
from crossfade.domain.notice import Route, Template
from crossfade.spec.server import ServerSpec, load, parse
from crossfade.spec.shape import shape_of

MANUAL = Path(__file__).parents[2] / "docs" / "reference" / "server-yaml.md"

WHOLE = """\
listen: {host: 0.0.0.0, port: 443}
tls: {certificate: tls/cert.pem, key: /etc/tls/key.pem}
allow_plain_http: false
public_url: https://crossfade.example.org/
trusted_proxies: [10.0.0.0/8, 192.0.2.7, "::1"]
sessions: {lasts: 8h, idle: 30m}
flags: {rate: 100, burst: 200, origins: [https://shop.example.org/], grpc_port: 444}
notify:
  targets:
    ops-mail: {kind: email, smtp: "mail.example.org:587", from: crossfade@example.org, to: [ops@example.org],
               user: crossfade, password_file: smtp-password, ca: /etc/ca.pem}
    local: {kind: email, smtp: "[::1]:25", from: crossfade@example.org, to: [ops@example.org], tls: none}
    pager: {kind: webhook, url: https://pager.example.org/hook, secret_file: hook-secret}
    chat: {kind: slack, url_file: slack-url}
    events: {kind: cdevents, url: "http://127.0.0.1:8080/in"}
  routes:
    - {severity: page, to: [pager, ops-mail]}
    - {severity: [ticket, info], kind: [alert, drill], environment: bookshop/*, to: [chat]}
    - {to: [events]}
  templates: {subject: "{mark}{title}", text: "{{{sentence}}}"}
  repeat: 30m
traces: {otlp: "http://127.0.0.1:4318", headers_file: otlp-headers, service_name: shipping}
oidc:
  issuer: https://login.example.org/realms/shop
  client_id: crossfade
  client_secret_file: oidc-secret
  scopes: [openid, email]
  name_claim: email
  roles:
    claim: realm_access.roles
    grants:
      shop-admins: [admin]
      shop-developers: [viewer, operator@*/staging]
  ca: ca.pem
"""


def problems(text: str) -> tuple[Problem, ...]:
    with pytest.raises(InvalidConfig) as caught:
        parse(text)
    return caught.value.problems


def test_a_state_folder_without_the_file_has_the_defaults(tmp_path: Path) -> None:
    spec = load(tmp_path)
    assert spec == ServerSpec()
    assert (spec.listen.host, spec.listen.port, spec.tls, spec.allow_plain_http) == ("127.0.0.1", 7420, None, False)


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "---\n", "{}"])
def test_an_empty_file_has_the_defaults(tmp_path: Path, text: str) -> None:
    (tmp_path / "server.yaml").write_text(text)
    assert load(tmp_path) == ServerSpec()


def test_a_whole_file_is_read() -> None:
    spec = parse(WHOLE)
    assert (spec.listen.port, spec.public_url) == (443, "https://crossfade.example.org")
    assert spec.trusted_proxies == ("10.0.0.0/8", "192.0.2.7/32", "::1/128")
    assert (spec.sessions.lasts, spec.sessions.idle) == (8 * 3600.0, 1800.0)
    assert (spec.flags.rate, spec.flags.burst, spec.flags.grpc_port) == (100, 200, 444)
    assert spec.flags.origins == ("https://shop.example.org",)
    assert spec.oidc is not None
    assert spec.oidc.roles.grants["shop-developers"] == (Grant.parse("viewer"), Grant.parse("operator@*/staging"))


def test_who_is_told_of_what_is_read() -> None:
    spec = parse(WHOLE)
    targets, routes = spec.notify.targets, [one.route() for one in spec.notify.routes]
    assert targets["ops-mail"].smtp == ("mail.example.org", 587)
    assert (targets["local"].smtp, targets["ops-mail"].sender) == (("::1", 25), "crossfade@example.org")
    assert routes[0] == Route(("pager", "ops-mail"), frozenset({Severity.PAGE}))
    assert routes[1].kinds == {"alert", "drill"} and routes[1].places == ("bookshop/*",)
    assert routes[2] == Route(("events",))
    assert spec.notify.templates.text == Template.parse("{{{sentence}}}")
    assert spec.notify.repeat == 1800.0
    assert spec.traces is not None
    assert (spec.traces.otlp, spec.traces.service_name) == ("http://127.0.0.1:4318", "shipping")


PAGER = "pager: {kind: webhook, url: https://x.example, secret_file: s}"
MAIL = "smtp: 'mail.example.org:25', from: a@example.org, to: [b@example.org]"


@pytest.mark.parametrize(
    ("inner", "key", "word"),
    [
        ("targets: {pager: {kind: sms}}", "notify.targets.pager.kind", "webhook"),
        ("targets: {pager: {kind: webhook, url: https://x.example}}", "notify.targets.pager.secret_file", "required"),
        ("targets: {pager: {kind: webhook, url: 'http://x.example', secret_file: s}}", "notify.targets.pager.url", "https"),
        ("targets: {pager: {kind: webhook, url: https://x.example, secret_file: s, smtp: 'm:25'}}",
         "notify.targets.pager.smtp", "only url, secret_file"),
        ("targets: {chat: {kind: slack}}", "notify.targets.chat.url_file", "required"),
        ("targets: {mail: {kind: email, smtp: mail.example.org, from: a@example.org, to: [b@example.org]}}",
         "notify.targets.mail.smtp", "mail.example.org:587"),
        ("targets: {mail: {kind: email, smtp: 'm:25', from: \"a@example.org\\nBcc: e@evil.example\", to: [b@example.org]}}",
         "notify.targets.mail.from", "an e-mail address"),
        (f"targets: {{mail: {{kind: email, {MAIL}, user: u}}}}", "notify.targets.mail.password_file", "belong together"),
        (f"targets: {{mail: {{kind: email, {MAIL}, user: u, password_file: p, tls: none}}}}", "notify.targets.mail.tls", "clear"),
        ("targets: {mail: {kind: email, smtp: 'm:25', from: a@example.org, to: []}}", "notify.targets.mail.to", "required"),
        ("targets: {traces: {kind: slack, url_file: f}}", "notify.targets.traces", "another name"),
        (f"{{targets: {{{PAGER}}}, routes: [{{to: [pagr]}}]}}", "notify.routes[0].to[0]", "a target: pager"),
        (f"{{targets: {{{PAGER}}}, routes: [{{to: []}}]}}", "notify.routes[0].to", "a list of targets"),
        (f"{{targets: {{{PAGER}}}, routes: [{{to: [pager], severity: urgent}}]}}", "notify.routes[0].severity", "page, ticket or info"),
        (f"{{targets: {{{PAGER}}}, routes: [{{to: [pager], kind: []}}]}}", "notify.routes[0].kind", "alert"),
        (f"{{targets: {{{PAGER}}}, routes: [{{to: [pager], environment: bookshop}}]}}", "notify.routes[0].environment", "service/environment"),
        ("templates: {subject: '{titel}'}", "notify.templates.subject", "title"),
        ("templates: {text: '{title.__class__}'}", "notify.templates.text", "title"),
        ("templates: {subject: \"a\\nb\"}", "notify.templates.subject", "one line"),
        ("repeat: 8d", "notify.repeat", "7d"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_who_is_told_is_named(inner: str, key: str, word: str) -> None:
    found = problems(
        "notify:\n  " + (inner if not inner.startswith("{") else inner[1:-1].replace(", routes", "\n  routes"))
    )
    assert [problem.key for problem in found] == [key], found
    assert word in found[0].allowed
    assert found[0].line >= 1


def test_traces_go_by_https_or_to_this_machine() -> None:
    [problem] = problems("traces: {otlp: http://collector.example.org:4318}")
    assert (problem.key, "https" in problem.allowed) == ("traces.otlp", True)


def test_every_mistake_is_told_at_once_with_its_line() -> None:
    text = """\
listen: {host: localhost, port: 0}
tls: {certificate: cert.pem}
allow_plain_http: "yes"
public_url: crossfade.example.org
trusted_proxies: [10.0.0.1/8]
session: {lasts: 8h}
oidc:
  issuer: http://login.example.org
  client_id: crossfade
  roles: {claim: groups, grants: {staff: [viewr]}}
"""
    found = [(problem.line, problem.key) for problem in problems(text)]
    assert found == [
        (1, "listen.host"),
        (1, "listen.port"),
        (2, "tls.key"),
        (3, "allow_plain_http"),
        (4, "public_url"),
        (5, "trusted_proxies[0]"),
        (6, "session"),
        (8, "oidc.issuer"),
        (10, "oidc.roles.grants.staff[0]"),
    ]
    assert "did you mean sessions?" in problems(text)[6].allowed


@pytest.mark.parametrize(
    ("text", "key", "word"),
    [
        ("- listen", "the file", "a mapping of listen"),
        ("listen: {port: 1}\nlisten: {port: 2}", "listen", "each key once"),
        ("listen: [1", "the file", "brackets"),
        ("sessions: {lasts: 1h}", "sessions.idle", "no more than sessions.lasts"),
        ("sessions: {idle: 30}", "sessions.idle", "a duration"),
        ("flags: {grpc_port: 7420}", "flags.grpc_port", "another port than listen.port"),
        ("flags: {origins: ['*']}", "flags.origins[0]", "host and port only"),
        ("public_url: https://crossfade.example.org/below", "public_url", "host and port only"),
        ("public_url: https://ada:pw@crossfade.example.org", "public_url", "host and port only"),
        (WHOLE.replace("openid, ", ""), "oidc.scopes", "openid among them"),
        (WHOLE.replace("[admin]", "[]"), "oidc.roles.grants.shop-admins", "at least one grant"),
        (WHOLE.replace("public_url", "# public_url"), "public_url", "required with oidc"),
    ],
)
def test_what_is_wrong_is_named_with_what_is_allowed(text: str, key: str, word: str) -> None:
    (problem,) = problems(text)
    assert (problem.key, word in problem.allowed) == (key, True), problem


def test_a_url_with_a_password_is_not_shown() -> None:
    (problem,) = problems("public_url: https://ada:hunter2@crossfade.example.org")
    assert "hunter2" not in str(problem)


def test_a_folder_in_its_place_is_told(tmp_path: Path) -> None:
    (tmp_path / "server.yaml").mkdir()
    with pytest.raises(InvalidConfig, match=r"server\.yaml"):
        load(tmp_path)


def test_the_manual_has_every_key_with_what_is_allowed() -> None:
    text = MANUAL.read_text(encoding="utf-8")
    for path, shape in shape_of(ServerSpec).walk():
        name = ".".join(path).replace(".[]", "[]")
        if shape.scalar is not None:
            assert f"| `{name}` |" in text, name
            assert shape.allowed in text, f"{name}: {shape.allowed}"


def test_the_manuals_example_is_a_file_that_is_read() -> None:
    text = MANUAL.read_text(encoding="utf-8")
    spec = parse(text[text.index("```yaml\n") + 8 : text.rindex("```")])
    assert set(spec.notify.targets) == {"ops-mail", "pager", "chat", "events"}
