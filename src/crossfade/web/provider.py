"""An OpenID provider: where it sends browsers, and what it says of who comes back.

The code flow with PKCE (RFC 7636) of OpenID Connect Core 1.0, section 3.1. Nothing that the provider or the browser says
is believed before it is checked, and no answer is read beyond a size and a time.
"""

from __future__ import annotations

import json
import logging
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, cast
from urllib.parse import quote, urlsplit

import httpx
from authlib.oauth2.rfc6749.parameters import prepare_grant_uri
from authlib.oauth2.rfc7636 import create_s256_code_challenge
from authlib.oidc.core import CodeIDToken
from joserfc import jwt
from joserfc.errors import InvalidKeyIdError, JoseError
from joserfc.jwk import KeySet

from crossfade.domain.access import Grant, account_name
from crossfade.domain.errors import Forbidden, Invalid, TooMany, Unavailable

ALGORITHMS: Final = ("RS256", "ES256")
"""Of the token's signature. Nothing else: not `none`, and none whose key is a shared secret."""

LARGEST: Final = 256 * 1024
"""Bytes of an answer."""

PATIENCE: Final = 10.0
"""Seconds for an answer as a whole."""

KEPT: Final = 3600.0
"""Seconds for which the provider's document and keys are kept."""

KEYS_AGAIN: Final = 30.0
"""Seconds between two looks for a key that is not among the known ones: a token with an invented one costs one at most."""

LEEWAY: Final = 60
"""Seconds by which two clocks may differ."""

AT_ONCE: Final = 4
"""Logins that talk to the provider at a time; more would take the server's threads from everybody else."""

_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Provider:
    """Who vouches for people, and what that gives them.

    ``origin`` is where browsers reach us, without a slash at the end. ``name_claim`` and ``role_claim`` are names of
    claims, or paths with dots (`realm_access.roles`). ``grants``: value of the role claim → what it gives.
    ``trust`` verifies the provider's certificate; None: as the system does.
    """

    issuer: str
    client_id: str
    origin: str
    client_secret: str = field(default="", repr=False)
    scopes: tuple[str, ...] = ("openid", "profile", "email")
    name_claim: str = "preferred_username"
    role_claim: str = "groups"
    grants: Mapping[str, tuple[Grant, ...]] = field(default_factory=dict)
    trust: ssl.SSLContext | None = None

    @property
    def returns_to(self) -> str:
        """Where the provider sends browsers back to; it must be registered there."""
        return f"{self.origin}/login/oidc/return"


@dataclass(frozen=True, slots=True)
class Person:
    """Whom the provider vouches for. ``issuer`` names provider and subject: a name alone may change hands there."""

    name: str
    grants: tuple[Grant, ...]
    issuer: str


class Refusal(Exception):
    """The provider, or what came in its name, is not as it must be. The text is for the log, not for the browser."""


class Conversation:
    """Talks to one provider. Safe to use from several threads."""

    def __init__(self, provider: Provider, now: Callable[[], float] = time.time) -> None:
        self.provider = provider
        self._now = now
        self._http = httpx.Client(
            timeout=httpx.Timeout(PATIENCE / 2),
            follow_redirects=False,
            trust_env=False,
            verify=provider.trust if provider.trust is not None else True,
            headers={"Accept": "application/json"},
        )
        self._turn = threading.BoundedSemaphore(AT_ONCE)
        self._lock = threading.Lock()
        self._document: dict[str, Any] = {}
        self._document_at = -KEPT
        self._keys: KeySet | None = None
        self._keys_at = -KEPT

    def way_there(self, state: str, nonce: str, verifier: str) -> str:
        """Where to send the browser. Raises Unavailable, TooMany."""
        with self._asking():
            document = self._discover()
        return str(
            prepare_grant_uri(
                document["authorization_endpoint"],
                client_id=self.provider.client_id,
                response_type="code",
                redirect_uri=self.provider.returns_to,
                scope=" ".join(self.provider.scopes),
                state=state,
                nonce=nonce,
                code_challenge=create_s256_code_challenge(verifier),
                code_challenge_method="S256",
            )
        )

    def vouched(self, code: str, nonce: str, verifier: str) -> Person:
        """Who came back with this code. Raises Forbidden, Unavailable, TooMany."""
        with self._asking():
            document = self._discover()
            answer = self._exchange(document, code, verifier)
            return self._person(self._claims(document, answer, nonce))

    def _asking(self) -> _Turn:
        return _Turn(self._turn, self.provider.issuer)

    # --- the provider's document and keys

    def _discover(self) -> dict[str, Any]:
        with self._lock:
            if self._document and self._now() - self._document_at < KEPT:
                return self._document
        url = self.provider.issuer.rstrip("/") + "/.well-known/openid-configuration"
        document = self._json("GET", url)
        if document.get("issuer") != self.provider.issuer:
            raise Refusal(f"its document is about another issuer: {document.get('issuer')!r:.200}")
        for name in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
            if not _fit(document.get(name)):
                raise Refusal(f"its document has no usable {name}: {document.get(name)!r:.200}")
        with self._lock:
            self._document, self._document_at = document, self._now()
        return document

    def _key_set(self, document: Mapping[str, Any], *, again: bool = False) -> KeySet:
        with self._lock:
            age = self._now() - self._keys_at
            if self._keys is not None and age < (KEYS_AGAIN if again else KEPT):
                return self._keys
        found = self._json("GET", document["jwks_uri"])
        try:
            keys = KeySet.import_key_set(cast("Any", found))
        except (JoseError, ValueError, TypeError, KeyError) as error:
            raise Refusal(f"its keys cannot be read: {type(error).__name__}") from error
        with self._lock:
            self._keys, self._keys_at = keys, self._now()
        return keys

    # --- the code and the token

    def _exchange(self, document: Mapping[str, Any], code: str, verifier: str) -> dict[str, Any]:
        own = self.provider
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": own.returns_to,
            "code_verifier": verifier,
            "client_id": own.client_id,
        }
        auth: httpx.BasicAuth | None = None
        if own.client_secret:
            known = document.get("token_endpoint_auth_methods_supported")
            if isinstance(known, list) and "client_secret_post" in known and "client_secret_basic" not in known:
                form["client_secret"] = own.client_secret
            else:  # RFC 6749, section 2.3.1
                auth = httpx.BasicAuth(quote(own.client_id, safe=""), quote(own.client_secret, safe=""))
        return self._json("POST", document["token_endpoint"], form, auth)

    def _claims(self, document: Mapping[str, Any], answer: Mapping[str, Any], nonce: str) -> dict[str, Any]:
        token = answer.get("id_token")
        if not isinstance(token, str):
            raise Refusal("its answer has no id_token")
        try:
            decoded = self._verified(document, token)
            claims = CodeIDToken(
                decoded.claims,
                decoded.header,
                {
                    "iss": {"essential": True, "value": self.provider.issuer},
                    "aud": {"essential": True, "value": self.provider.client_id},
                    "sub": {"essential": True},
                },
                {
                    "nonce": nonce,
                    "client_id": self.provider.client_id,
                    "access_token": answer.get("access_token"),
                },
            )
            claims.validate(int(self._now()), LEEWAY)
        except (JoseError, ValueError, TypeError, KeyError) as error:
            raise Refusal(f"its token is not valid: {error}") from error
        return dict(claims)

    def _verified(self, document: Mapping[str, Any], token: str) -> jwt.Token:
        try:
            return jwt.decode(token, self._key_set(document), list(ALGORITHMS))
        except (InvalidKeyIdError, ValueError):
            # Keys are changed now and then: perhaps this one is new.
            return jwt.decode(token, self._key_set(document, again=True), list(ALGORITHMS))

    def _person(self, claims: Mapping[str, Any]) -> Person:
        own = self.provider
        named = _at(claims, own.name_claim)
        subject = claims["sub"]
        if not isinstance(named, str) or not isinstance(subject, str) or not 1 <= len(subject) <= 255:
            raise Refusal(f"its token has no {own.name_claim} that is text")
        if own.name_claim == "email" and claims.get("email_verified", True) is not True:
            raise Forbidden("Your provider has not verified your address.", hint="Verify it there, then log in again.")
        try:
            name = account_name(named.lower())
        except Invalid as error:
            raise Forbidden(
                f"The name that your provider gives you cannot be an account here: {error.what}",
                hint=f"It is the claim {own.name_claim}; an admin can choose another one.",
            ) from error
        grants = _given(own.grants, _at(claims, own.role_claim))
        if not grants:
            raise Forbidden(
                f"{name} may do nothing here: the provider names no group that has a role.",
                hint=f"An admin maps values of the claim {own.role_claim} to roles.",
            )
        return Person(name, grants, f"{own.issuer}#{subject}")

    # --- HTTP

    def _json(
        self, method: str, url: str, form: Mapping[str, str] | None = None, auth: httpx.BasicAuth | None = None
    ) -> dict[str, Any]:
        """A JSON object, read within a size and a time. Raises Refusal."""
        place = urlsplit(url)._replace(query="", fragment="").geturl()
        ends = time.monotonic() + PATIENCE
        body = bytearray()
        try:
            with self._http.stream(method, url, data=form, auth=auth) as answer:
                for chunk in answer.iter_bytes(16_384):
                    body += chunk
                    if len(body) > LARGEST:
                        raise Refusal(f"{place} answers with more than {LARGEST} bytes")
                    if time.monotonic() > ends:
                        raise Refusal(f"{place} takes longer than {PATIENCE:.0f} s")
                status = answer.status_code
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise Unavailable(_AWAY, hint=_LATER) from _told(place, error)
        try:
            found = json.loads(bytes(body))
        except (ValueError, RecursionError):
            found = None
        if status != 200:
            said = found.get("error") if isinstance(found, dict) else None
            raise Refusal(f"{place} answers {status} {said!r:.100}")
        if not isinstance(found, dict):
            raise Refusal(f"{place} does not answer with a JSON object")
        return found


_AWAY = "The login provider does not answer."
_LATER = "Try again in a minute, or log in with a password."


def _told(place: str, error: Exception) -> Exception:
    _log.warning("OIDC: %s does not answer: %s: %s", place, type(error).__name__, error)
    return error


class _Turn:
    """One of a few conversations at a time, and its refusals as errors that tell the browser nothing of use."""

    def __init__(self, turns: threading.BoundedSemaphore, issuer: str) -> None:
        self._turns, self._issuer = turns, issuer

    def __enter__(self) -> None:
        if not self._turns.acquire(timeout=PATIENCE):
            raise TooMany("Too many logins at once.", 10.0, hint="Try again in 10 s.")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._turns.release()
        if isinstance(error, Refusal):
            _log.warning("OIDC: a login by %s is refused: %s", self._issuer, error)
            raise Forbidden(
                "The login provider did not confirm who you are.",
                hint="Log in again. If it goes on, the server's log says why.",
            ) from error


def _fit(url: object) -> bool:
    """Whether secrets may be sent there."""
    if not isinstance(url, str) or len(url) > 2000:
        return False
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        return False
    return bool(host) and (parts.scheme == "https" or (parts.scheme == "http" and host in _LOOPBACK))


def _at(claims: Mapping[str, Any], name: str) -> Any:
    """A claim by its name, or by a path with dots."""
    if name in claims:
        return claims[name]
    here: Any = claims
    for step in name.split("."):
        here = here.get(step) if isinstance(here, dict) else None
    return here


def _given(grants: Mapping[str, tuple[Grant, ...]], said: Any) -> tuple[Grant, ...]:
    values: Sequence[Any] = said if isinstance(said, list) else [said]
    found = (grant for value in values if isinstance(value, str) for grant in grants.get(value, ()))
    return tuple(dict.fromkeys(found))
