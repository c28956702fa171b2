"""`server.yaml`: defaults without it, every problem at once with its line, and a manual that has every key."""

from __future__ import annotations

from pathlib import Path

import pytest

from crossfade.domain.access import Grant
from crossfade.domain.errors import InvalidConfig, Problem
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
