"""Logging in by a provider: who it vouches for comes in as what it says of them, and nobody else does."""

from __future__ import annotations

import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from crossfade.bootstrap.state import make_parts, prepare, read_config
from crossfade.domain.access import Grant, local_actor
from crossfade.service import Service
from crossfade.web.app import create_web
from crossfade.web.assets import Assets
from crossfade.web.oidc import Attempt, router
from crossfade.web.provider import LARGEST, Provider
from crossfade.web.sessions import Sessions, local
from tests.web.issuer import CLIENT, SECRET, Issuer

ORIGIN = "https://crossfade.test"
OPERATOR = Grant.parse("operator@*/staging")


class NoEngine:
    """These tests begin no rollout."""

    def drive(self, rollout: int) -> None:
        raise AssertionError(rollout)

    def ring(self) -> None:
        raise AssertionError


@pytest.fixture(scope="module")
def everything() -> Iterator[Service]:
    state = Path(tempfile.mkdtemp(prefix="cf-", dir="/tmp"))
    prepare(state)
    yield Service(make_parts(state), NoEngine(), read_config)
    shutil.rmtree(state)


@pytest.fixture
def service(everything: Service) -> Service:
    """One ledger for all tests, without the accounts of the test before."""
    for account in everything.accounts.list():
        everything.accounts.remove(account.name, local_actor("root"))
    return everything


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with Issuer() as running:
        yield running


class Browser:
    """Follows redirects by hand, so that a test can step in anywhere."""

    def __init__(self, service: Service, issuer: Issuer, **changes: Any) -> None:
        settings: dict[str, Any] = {
            "issuer": issuer.url,
            "client_id": CLIENT,
            "client_secret": SECRET,
            "origin": ORIGIN,
            "grants": {"deployers": (OPERATOR,), "staff": (Grant.parse("viewer"),)},
        }
        self.issuer = issuer
        house = Sessions(service, ORIGIN, b"key", Assets(), oidc=True)
        provider = Provider(**(settings | changes))
        self.app = create_web(service, origin=ORIGIN, key=b"key", provider=None)
        self.app.include_router(router(service, provider, b"key", house.begin, house.address, local, self.now))
        self.late = 0.0
        self.http = TestClient(self.app, base_url=ORIGIN, follow_redirects=False, raise_server_exceptions=True)

    def now(self) -> float:
        return time.time() + self.late

    def go(self, then: str = "/") -> str:
        answer = self.http.get("/login/oidc", params={"next": then})
        assert answer.status_code == 303, answer.text
        return str(answer.headers["location"])

    def back(self, url: str) -> httpx.Response:
        answer: httpx.Response = self.http.get(url)
        return answer

    def log_in(self, then: str = "/") -> httpx.Response:
        return self.back(self.issuer.agree(self.go(then)))


@pytest.fixture
def browser(service: Service, issuer: Issuer) -> Browser:
    return Browser(service, issuer)


def test_whom_the_provider_vouches_for_has_a_session_with_the_grants_of_their_groups(
    browser: Browser, service: Service
) -> None:
    answer = browser.log_in("/environments/bookshop/production?tab=logs")
    assert (answer.status_code, answer.headers["location"]) == (303, "/environments/bookshop/production?tab=logs")
    actor = service.accounts.by_session(answer.cookies["__Host-crossfade"], "").actor
    assert (actor.name, actor.grants) == ("ada", (OPERATOR,))
    account = service.accounts.get("ada")
    assert (account.issuer, account.has_password) == (f"{browser.issuer.url}#1815", False)


@pytest.mark.parametrize("algorithm", ["RS256", "ES256"])
def test_both_kinds_of_signature_are_understood(service: Service, algorithm: str) -> None:
    with Issuer(algorithm=algorithm) as issuer:
        assert Browser(service, issuer).log_in().status_code == 303


def test_the_cookie_of_an_attempt_is_for_this_host_only_and_gone_at_the_end(browser: Browser) -> None:
    cookie = browser.http.get("/login/oidc").headers["set-cookie"]
    assert cookie.startswith("__Host-crossfade-oidc=")
    for wanted in ("HttpOnly", "Secure", "SameSite=lax", "Path=/", "Max-Age=600"):
        assert wanted in cookie
    assert "Domain" not in cookie
    browser.log_in()
    assert "__Host-crossfade-oidc" not in browser.http.cookies


def test_a_place_that_is_not_ours_is_not_where_a_login_leads(browser: Browser) -> None:
    assert browser.log_in("//evil.example").headers["location"] == "/"
    assert browser.log_in("/" + "x" * 5000).headers["location"] == "/"


def refused(answer: httpx.Response, issuer: Issuer) -> str:
    """What the browser is told: a reason, and nothing of what was exchanged."""
    assert answer.status_code == 403, answer.text
    assert "__Host-crossfade" not in answer.cookies
    for kept in (SECRET, "opaque", "eyJ", issuer.url):
        assert kept not in answer.text
    return answer.text


def test_another_state_is_refused_before_the_provider_is_asked(browser: Browser) -> None:
    url = browser.issuer.agree(browser.go())
    asked = list(browser.issuer.asked)
    said = refused(browser.back(re.sub(r"state=[^&]*", "state=another", url)), browser.issuer)
    assert "did not begin this login" in said
    assert browser.issuer.asked == asked


def test_a_login_that_another_browser_began_is_refused(browser: Browser) -> None:
    url = browser.issuer.agree(browser.go())
    browser.http.cookies.clear()
    assert "did not begin this login" in refused(browser.back(url), browser.issuer)


def test_a_cookie_that_was_changed_is_refused(browser: Browser) -> None:
    url = browser.issuer.agree(browser.go())
    name = "__Host-crossfade-oidc"
    body, _, signature = str(browser.http.cookies[name]).strip('"').partition(".")
    browser.http.cookies.clear()
    browser.http.cookies.set(name, f"{body[:-4]}AAAA.{signature}")
    assert "did not begin this login" in refused(browser.back(url), browser.issuer)


def test_a_return_is_good_once_even_with_its_cookie(browser: Browser) -> None:
    url = browser.issuer.agree(browser.go())
    cookie = str(browser.http.cookies["__Host-crossfade-oidc"])
    assert browser.back(url).status_code == 303
    browser.http.cookies.clear()
    browser.http.cookies.set("__Host-crossfade-oidc", cookie)
    assert "used already" in refused(browser.back(url), browser.issuer)


def test_a_code_of_another_login_does_not_fit_this_one(browser: Browser) -> None:
    stolen = re.search(r"code=([^&]*)", browser.issuer.agree(browser.go()))
    assert stolen is not None
    url = browser.issuer.agree(browser.go())
    said = refused(browser.back(re.sub(r"code=[^&]*", f"code={stolen[1]}", url)), browser.issuer)
    assert "did not confirm" in said


def test_who_takes_too_long_begins_again(browser: Browser) -> None:
    url = browser.issuer.agree(browser.go())
    browser.late = 601
    assert "too long ago" in refused(browser.back(url), browser.issuer)


LIES: dict[str, Any] = {
    "another nonce": lambda c: c | {"nonce": "another"},
    "no nonce": lambda c: {k: v for k, v in c.items() if k != "nonce"},
    "an audience that is not us": lambda c: c | {"aud": "another-client"},
    "several audiences and no word for whom": lambda c: c | {"aud": [CLIENT, "another-client"]},
    "another issuer": lambda c: c | {"iss": "https://evil.example"},
    "an end that is past": lambda c: c | {"exp": int(time.time()) - 3600},
    "no end": lambda c: {k: v for k, v in c.items() if k != "exp"},
    "a beginning that is to come": lambda c: c | {"iat": int(time.time()) + 3600},
    "no subject": lambda c: {k: v for k, v in c.items() if k != "sub"},
    "a name that is no text": lambda c: c | {"preferred_username": ["ada"]},
}


@pytest.mark.parametrize("lie", LIES)
def test_a_token_with_a_wrong_claim_is_refused(browser: Browser, lie: str) -> None:
    browser.issuer.token = LIES[lie]
    assert "did not confirm" in refused(browser.log_in(), browser.issuer)


def test_a_token_that_nobody_signed_is_refused(browser: Browser) -> None:
    browser.issuer.header = {"alg": "none"}
    assert "did not confirm" in refused(browser.log_in(), browser.issuer)


def test_a_token_that_another_key_signed_is_refused_even_under_a_known_name(browser: Browser) -> None:
    assert browser.log_in().status_code == 303
    known = browser.issuer.key.kid
    browser.issuer.rotate()
    browser.issuer.header = {"kid": known}
    assert "did not confirm" in refused(browser.log_in(), browser.issuer)


def test_keys_that_the_provider_has_changed_are_fetched_again(browser: Browser) -> None:
    assert browser.log_in().status_code == 303
    browser.issuer.rotate()
    browser.late = 31
    assert browser.log_in().status_code == 303
    assert browser.issuer.asked.count("/keys") == 2
    assert browser.issuer.asked.count("/.well-known/openid-configuration") == 1


def test_a_document_about_another_issuer_is_refused(browser: Browser) -> None:
    browser.issuer.document = {"issuer": "https://evil.example"}
    assert browser.http.get("/login/oidc").status_code == 403


@pytest.mark.parametrize("place", ["http://idp.example.org/token", "file:///etc/passwd", "https:///token", 7, None])
def test_secrets_are_sent_nowhere_without_tls(browser: Browser, place: object) -> None:
    browser.issuer.document = {"token_endpoint": place}
    assert browser.http.get("/login/oidc").status_code == 403


def test_an_endless_answer_is_not_read_to_its_end(browser: Browser) -> None:
    browser.issuer.padding = LARGEST
    answer = browser.http.get("/login/oidc")
    assert (answer.status_code, "did not confirm" in answer.text) == (403, True)


def test_a_provider_that_is_away_is_told_calmly(browser: Browser) -> None:
    url = browser.issuer.agree(browser.go())
    browser.issuer.stop()
    answer = browser.back(url)
    assert (answer.status_code, "The login provider does not answer." in answer.text) == (503, True)


def test_who_has_no_group_with_a_role_is_not_let_in(browser: Browser, service: Service) -> None:
    browser.issuer.claims["groups"] = ["visitors"]
    assert "may do nothing here" in refused(browser.log_in(), browser.issuer)
    assert service.accounts.list() == ()


def test_grants_follow_what_the_provider_says_at_each_login(browser: Browser, service: Service) -> None:
    browser.log_in()
    browser.issuer.claims["groups"] = ["staff", "visitors", 7, "staff"]
    browser.log_in()
    assert service.accounts.get("ada").grants == (Grant.parse("viewer"),)


def test_a_claim_may_be_deep_inside(service: Service, issuer: Issuer) -> None:
    issuer.claims = {"email": "Ada@Example.org", "realm_access": {"roles": "staff"}}
    browser = Browser(service, issuer, name_claim="email", role_claim="realm_access.roles")
    assert browser.log_in().status_code == 303
    assert service.accounts.get("ada@example.org").grants == (Grant.parse("viewer"),)


def test_an_address_that_is_not_verified_is_nobodys_name(service: Service, issuer: Issuer) -> None:
    issuer.claims |= {"email": "ada@example.org", "email_verified": False}
    answer = Browser(service, issuer, name_claim="email").log_in()
    assert "has not verified" in refused(answer, issuer)


def test_an_account_of_ours_is_never_taken_over(browser: Browser, service: Service) -> None:
    service.accounts.add("ada", [Grant.parse("admin")], "correct horse battery", local_actor("root"))
    assert "another account of the name ada" in refused(browser.log_in(), browser.issuer)
    account = service.accounts.get("ada")
    assert (account.grants, account.issuer) == ((Grant.parse("admin"),), "")


def test_a_name_that_has_changed_hands_at_the_provider_is_not_the_same_account(browser: Browser) -> None:
    assert browser.log_in().status_code == 303
    browser.issuer.claims["sub"] = "somebody else"
    assert "another account of the name ada" in refused(browser.log_in(), browser.issuer)


def test_a_disabled_account_stays_out_whatever_the_provider_says(browser: Browser, service: Service) -> None:
    browser.log_in()
    service.accounts.change("ada", disabled=True, by=local_actor("root"))
    answer = browser.log_in()
    assert (answer.status_code, "__Host-crossfade" in answer.cookies) == (401, False)


@pytest.mark.parametrize("name", ["", "a b", "../x", "a" * 101, "ada\n"])
def test_a_name_that_cannot_be_an_account_is_refused(browser: Browser, name: str) -> None:
    browser.issuer.claims["preferred_username"] = name
    assert "cannot be an account here" in refused(browser.log_in(), browser.issuer)


@pytest.mark.parametrize(("error", "told"), [("access_denied", "cancelled"), ("<script>", "refused")])
def test_what_the_provider_says_of_an_error_is_not_shown(browser: Browser, error: str, told: str) -> None:
    state = re.search(r"state=([^&]*)", browser.go())
    assert state is not None
    params = {"error": error, "error_description": "<b>no</b>", "state": state[1]}
    answer = browser.http.get("/login/oidc/return", params=params)
    said = refused(answer, browser.issuer)
    assert told in said
    assert "<script>" not in said and "<b>no" not in said


def test_an_attempt_is_read_as_it_was_signed_and_by_no_other_key() -> None:
    attempt = Attempt.fresh("/ünïcode", 1000.0)
    assert Attempt.read(attempt.signed(b"key"), b"key", 1599.0) == attempt
    assert Attempt.read(attempt.signed(b"key"), b"key", 1600.0) is None
    assert Attempt.read(attempt.signed(b"key"), b"other", 1000.0) is None
    for cookie in ("", ".", "x.y", "ü.ü", "=" * 5000):
        assert Attempt.read(cookie, b"key", 1000.0) is None
