"""An OpenID provider on loopback, as real as a test wants it: signs with its own key, checks PKCE, and lies on demand."""

from __future__ import annotations

import base64
import json
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from authlib.oauth2.rfc7636 import create_s256_code_challenge
from joserfc import jwt
from joserfc.jwk import ECKey, KeyParameters, RSAKey

CLIENT, SECRET = "crossfade", "s3cret/with:signs"


@dataclass
class Grant:
    """A code that was given out."""

    redirect: str
    nonce: str
    challenge: str


@dataclass
class Issuer:
    """A context manager; ``claims`` are what it says of who logs in, and ``token`` may spoil what it signs."""

    claims: dict[str, Any] = field(default_factory=lambda: {"preferred_username": "ada", "groups": ["deployers"]})
    token: Callable[[dict[str, Any]], dict[str, Any]] = lambda claims: claims
    header: dict[str, Any] = field(default_factory=dict)
    document: dict[str, Any] = field(default_factory=dict)
    algorithm: str = "ES256"
    delay: float = 0.0
    padding: int = 0
    asked: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rotate()
        self._codes: dict[str, Grant] = {}
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer._get(self)

            def do_POST(self) -> None:
                outer._post(self)

            def log_message(self, *_: Any) -> None:
                """Quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def rotate(self) -> None:
        """A new key, under a new name."""
        parameters: KeyParameters = {"kid": secrets.token_hex(4)}
        self.key: RSAKey | ECKey = (
            RSAKey.generate_key(2048, parameters)
            if self.algorithm == "RS256"
            else ECKey.generate_key("P-256", parameters)
        )

    def __enter__(self) -> Issuer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=10)

    def agree(self, way_there: str) -> str:
        """What a person does who agrees: the URL that the browser is sent back to."""
        asked = {name: values[0] for name, values in parse_qs(urlsplit(way_there).query).items()}
        assert asked["client_id"] == CLIENT and asked["response_type"] == "code"
        assert asked["code_challenge_method"] == "S256" and "openid" in asked["scope"].split()
        code = secrets.token_urlsafe(16)
        self._codes[code] = Grant(asked["redirect_uri"], asked["nonce"], asked["code_challenge"])
        return f"{asked['redirect_uri']}?{urlencode({'code': code, 'state': asked['state']})}"

    def _get(self, request: BaseHTTPRequestHandler) -> None:
        self.asked.append(request.path)
        if request.path == "/keys":
            self._answer(request, 200, {"keys": [self.key.as_dict(private=False)]})
        elif request.path == "/.well-known/openid-configuration":
            own = {
                "issuer": self.url,
                "authorization_endpoint": f"{self.url}/authorise",
                "token_endpoint": f"{self.url}/token",
                "jwks_uri": f"{self.url}/keys",
            }
            self._answer(request, 200, own | self.document)
        else:
            self._answer(request, 404, {})

    def _post(self, request: BaseHTTPRequestHandler) -> None:
        self.asked.append(request.path)
        time.sleep(self.delay)
        body = request.rfile.read(int(request.headers["Content-Length"])).decode()
        form = {name: values[0] for name, values in parse_qs(body).items()}
        name, _, secret = (
            base64.b64decode(request.headers["Authorization"].removeprefix("Basic ")).decode().partition(":")
        )
        known = self._codes.pop(form.get("code", ""), None)
        if name != CLIENT or secret != "s3cret%2Fwith%3Asigns":
            self._answer(request, 401, {"error": "invalid_client"})
        elif known is None or known.redirect != form["redirect_uri"]:
            self._answer(request, 400, {"error": "invalid_grant"})
        elif create_s256_code_challenge(form["code_verifier"]) != known.challenge:
            self._answer(request, 400, {"error": "invalid_grant", "error_description": "PKCE"})
        else:
            self._answer(
                request, 200, {"access_token": "opaque", "token_type": "Bearer", "id_token": self._sign(known)}
            )

    def _sign(self, known: Grant) -> str:
        now = int(time.time())
        claims = {"iss": self.url, "sub": "1815", "aud": CLIENT, "exp": now + 300, "iat": now, "nonce": known.nonce}
        claims = self.token(claims | self.claims)
        header = {"alg": self.algorithm, "kid": self.key.kid} | self.header
        if header["alg"] == "none":
            parts = (
                base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in (header, claims)
            )
            return ".".join((*parts, ""))
        return jwt.encode(header, claims, self.key, [self.algorithm])

    def _answer(self, request: BaseHTTPRequestHandler, status: int, data: dict[str, Any]) -> None:
        body = json.dumps(data).encode() + b" " * self.padding
        request.send_response(status)
        request.send_header("Content-Type", "application/json")
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)
