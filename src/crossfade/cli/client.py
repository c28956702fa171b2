"""A typed client of the API, as the CLI uses it."""

from __future__ import annotations

import json
import os
import ssl
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final, cast
from urllib.parse import quote

import httpx

from crossfade.api import answers, run_answers
from crossfade.bootstrap.tls import pinned
from crossfade.cli.flag_client import FlagClient
from crossfade.cli.slo_client import SloClient
from crossfade.domain.errors import CrossfadeError, Invalid, Unavailable

Data = Mapping[str, Any]
CHUNK = 1 << 20
PAGE: Final = 500
TRIES: Final = 3
"""How often a request is sent whose connection was lost. A change carries a key, so that it happens once."""
PAUSE: Final = 0.3
"""Seconds before another try."""
IN_FLIGHT: Final = '{"type":"urn:crossfade:in-flight"'
HEARTBEAT_WITHIN: Final = 40.0
"""Seconds of silence after which a stream is taken for lost."""


class Problem(CrossfadeError):
    """What the API refused, as it said it."""

    def __init__(self, status: int, body: Mapping[str, Any]) -> None:
        super().__init__(str(body.get("title", f"the server answered {status}")), hint=str(body.get("hint") or ""))
        self.status = status
        self.code = str(body.get("type", "")).removeprefix("urn:crossfade:") or "http"
        self.fields = body.get("fields") or {}


class Client:
    """Speaks to the server of one state folder. Raises Unavailable when there is none, Problem when it refuses."""

    def __init__(self, url: str, token: str, trust: ssl.SSLContext | None = None) -> None:
        self.url = url
        self._http = httpx.Client(
            base_url=f"{url}/api/v1",
            headers={"Authorization": f"Bearer {token}"},
            timeout=httpx.Timeout(30.0, read=120.0),
            trust_env=False,
            verify=trust if trust is not None else True,
        )
        self.flags = FlagClient(self)
        self.slo = SloClient(self)

    @classmethod
    def of(cls, state: Path) -> Client:
        """The client for a state folder whose server is (or was) up; with CROSSFADE_URL set, for the server there."""
        if url := os.environ.get("CROSSFADE_URL", ""):
            return cls._elsewhere(url)
        hint = "Start it with `crossfade up`."
        try:
            known = json.loads((state / "server.json").read_text())
            token = (state / "token").read_text().strip()
        except FileNotFoundError:
            raise Unavailable(f"No server has been started in {state}.", hint=hint) from None
        except (OSError, ValueError) as error:
            raise Unavailable(f"The state folder {state} cannot be read: {error}.", hint=hint) from error
        try:
            trust = pinned(Path(known["certificate"])) if known.get("certificate") else None
        except (OSError, ssl.SSLError) as error:
            raise Unavailable(f"The certificate in {state} cannot be read: {error}.", hint=hint) from error
        return cls(str(known["url"]), token, trust)

    @classmethod
    def _elsewhere(cls, url: str) -> Client:
        """By CROSSFADE_URL, CROSSFADE_TOKEN and, for a certificate of one's own, CROSSFADE_CA. Raises Invalid."""
        token, ca = os.environ.get("CROSSFADE_TOKEN", ""), os.environ.get("CROSSFADE_CA", "")
        if not url.startswith(("http://", "https://")):
            raise Invalid("CROSSFADE_URL", url, "a URL that begins with http:// or https://")
        if not token or not token.isascii() or not token.isprintable():
            raise Invalid("CROSSFADE_TOKEN", "nothing", "a token of the server that CROSSFADE_URL names")
        try:
            trust = ssl.create_default_context(cafile=ca) if ca else None
        except (OSError, ssl.SSLError) as error:
            raise Invalid("CROSSFADE_CA", ca, f"the path of a file of PEM certificates ({error})") from error
        return cls(url.rstrip("/"), token, trust)

    def introduce(self, name: str) -> None:
        """What the holder of the state folder's token is called; of other tokens the account's name counts."""
        self._http.headers["X-Crossfade-By"] = name.encode("ascii", "replace").decode()

    def call(self, method: str, path: str, **kwargs: Any) -> Any:
        """What is answered, as data; None where there is nothing to say."""
        answer = self._ask(method, path, **kwargs)
        if answer.status_code == 204:
            return None
        try:
            body = answer.json()
        except ValueError:
            body = {"title": f"the server answered {answer.status_code} without JSON"}
        if answer.status_code >= 400:
            raise Problem(answer.status_code, body if isinstance(body, dict) else {})
        return body

    def _ask(self, method: str, path: str, **kwargs: Any) -> httpx.Response:
        streamed = "content" in kwargs  # a file that was half sent cannot be sent again
        if method != "GET" and not streamed:
            kwargs["headers"] = {"Idempotency-Key": uuid.uuid4().hex}
        tries = 1 if streamed else TRIES
        while True:
            tries -= 1
            try:
                answer = self._http.request(method, path, **kwargs)
            except httpx.ConnectError as error:
                raise self._silent(error) from error  # nobody listens: that does not change within a moment
            except httpx.HTTPError as error:
                if not tries:
                    raise self._silent(error) from error
            else:
                if not tries or answer.status_code != 409 or not answer.text.startswith(IN_FLIGHT):
                    return answer
            time.sleep(PAUSE)

    def _silent(self, error: Exception) -> Unavailable:
        return Unavailable(
            f"The server at {self.url} does not answer ({type(error).__name__}).",
            hint="Start it with `crossfade up`; traffic goes on without it.",
        )

    def text(self, path: str) -> str:
        """What is answered, as it is."""
        answer = self._ask("GET", path)
        if answer.status_code >= 400:
            raise Problem(answer.status_code, answer.json())
        return answer.text

    def listed(self, path: str, limit: int | None = None, **params: Any) -> list[Any]:
        """All rows of a list, page by page; the first ``limit``."""
        rows: list[Any] = []
        cursor: str | None = None
        while True:
            size = PAGE if limit is None else min(PAGE, limit - len(rows))
            asked = {"limit": size, **params} | ({"cursor": cursor} if cursor else {})
            page = self.call("GET", path, params=asked)
            rows += page["items"]
            cursor = page["next"]
            if cursor is None or (limit is not None and len(rows) >= limit):
                return rows

    def upload(self, tarball: BinaryIO, digest: str) -> answers.Artifact:
        """Send an artifact; the server checks its digest."""

        def chunks() -> Iterator[bytes]:
            while chunk := tarball.read(CHUNK):
                yield chunk

        return cast(answers.Artifact, self.call("POST", "/artifacts", params={"digest": digest}, content=chunks()))

    def deploy(self, body: Mapping[str, Any]) -> answers.Rollout | answers.Approval:
        return cast(answers.Rollout | answers.Approval, self.call("POST", "/rollouts", json=body))

    def deploy_again(self, key: str, release: str, by: str, fix: str = "") -> answers.Rollout | answers.Approval:
        return cast(
            answers.Rollout | answers.Approval,
            self.call("POST", f"/environments/{key}/releases/{release}/rollouts", json={"by": by, "fix": fix}),
        )

    def rollout(self, id: int) -> answers.Rollout:
        return cast(answers.Rollout, self.call("GET", f"/rollouts/{id}"))

    def rollouts(self, limit: int = 20) -> list[answers.Rollout]:
        return self.listed("/rollouts", limit)

    def journal(self, id: int) -> list[answers.Entry]:
        return self.listed(f"/rollouts/{id}/journal")

    def receipt(self, id: int) -> Data:
        return cast(Data, self.call("GET", f"/rollouts/{id}/receipt"))

    def plot(self, id: int, name: str) -> str:
        return self.text(f"/rollouts/{id}/plots/{name}")

    def notices(self, target: str = "", limit: int = 20) -> list[Data]:
        """What was sent to whom, newest first; of one target, or of all."""
        return self.listed("/notices", limit, **({"target": target} if target else {}))

    def test_notice(self, target: str, by: str) -> Data:
        return cast(Data, self.call("POST", "/notices/test", json={"target": target, "by": by}))

    def preview(self, id: int) -> answers.Preview:
        return cast(answers.Preview, self.call("GET", f"/rollouts/{id}/preview"))

    def environments(self) -> list[answers.Environment]:
        return self.listed("/environments")

    def environment(self, key: str) -> answers.Environment:
        return cast(answers.Environment, self.call("GET", f"/environments/{key}"))

    def traffic(self, key: str) -> Data:
        return cast(Data, self.call("GET", f"/environments/{key}/traffic"))

    def releases(self, key: str) -> list[answers.Release]:
        return self.listed(f"/environments/{key}/releases")

    def command(self, key: str, command: str, by: str) -> answers.Rollout:
        body = {"command": command, "by": by}
        return cast(answers.Rollout, self.call("POST", f"/environments/{key}/commands", json=body))

    def rollback(self, key: str, to: str | None, by: str) -> answers.Rollout:
        return cast(answers.Rollout, self.call("POST", f"/environments/{key}/rollbacks", json={"to": to, "by": by}))

    def migrations(self, key: str) -> Data:
        return cast(Data, self.call("GET", f"/environments/{key}/migrations"))

    def order_migration(self, key: str, version: str, command: str, by: str, override: str = "") -> Data:
        body = {"command": command, "override": override, "by": by}
        place = f"/environments/{key}/migrations/{quote(version, safe='')}/commands"
        return cast(Data, self.call("POST", place, json=body))

    def logs(self, key: str, release: str | None, lines: int) -> dict[str, list[str]]:
        params: dict[str, str | int] = {"lines": lines} | ({"release": release} if release else {})
        return cast(dict[str, list[str]], self.call("GET", f"/environments/{key}/logs", params=params))

    def doctor(self) -> list[answers.Finding]:
        return cast(list[answers.Finding], self.call("GET", "/doctor")["items"])

    def going_back(self, key: str) -> answers.RollbackPlan:
        """What it would take to end a harm now."""
        return cast(answers.RollbackPlan, self.call("GET", f"/environments/{key}/going-back"))

    # --- pipelines

    def start_run(self, body: Mapping[str, Any]) -> run_answers.Run:
        return cast(run_answers.Run, self.call("POST", "/runs", json=body))

    def run(self, id: int) -> run_answers.Run:
        return cast(run_answers.Run, self.call("GET", f"/runs/{id}"))

    def runs(self, limit: int, service: str | None = None) -> list[run_answers.Run]:
        """Newest first, without their nodes."""
        return self.listed("/runs", limit, **({"service": service} if service else {}))

    def order_run(self, id: int, order: str) -> run_answers.Run:
        """``cancel`` or ``restart``."""
        return cast(run_answers.Run, self.call("POST", f"/runs/{id}/{order}", json={}))

    def run_log(self, id: int, stage: str, node: str, offset: int) -> run_answers.Log:
        path = f"/runs/{id}/stages/{quote(stage, safe='')}/nodes/{quote(node, safe='')}/log"
        return cast(run_answers.Log, self.call("GET", path, params={"offset": offset, "limit": 2**20}))

    def sources(self) -> list[run_answers.Source]:
        return self.listed("/sources")

    def put_source(self, service: str, body: Mapping[str, Any]) -> run_answers.Source:
        return cast(run_answers.Source, self.call("PUT", f"/sources/{service}", json=body))

    def remove_source(self, service: str) -> None:
        self.call("DELETE", f"/sources/{service}")

    def value_stream(self, service: str, limit: int) -> run_answers.ValueStream:
        found = self.call("GET", f"/services/{service}/stream", params={"limit": limit})
        return cast(run_answers.ValueStream, found)

    # --- access

    def accounts(self) -> list[answers.Account]:
        return self.listed("/accounts")

    def add_account(self, name: str, grants: Sequence[str], password: str | None) -> answers.Account:
        body = {"name": name, "grants": list(grants), "password": password}
        return cast(answers.Account, self.call("POST", "/accounts", json=body))

    def change_account(self, name: str, grants: Sequence[str] | None, disabled: bool | None) -> answers.Account:
        body = {"grants": None if grants is None else list(grants), "disabled": disabled}
        return cast(answers.Account, self.call("PATCH", f"/accounts/{name}", json=body))

    def set_password(self, name: str, password: str) -> None:
        self.call("PUT", f"/accounts/{name}/password", json={"password": password})

    def remove_account(self, name: str) -> None:
        self.call("DELETE", f"/accounts/{name}")

    def tokens(self) -> list[answers.Token]:
        return self.listed("/tokens")

    def issue_token(
        self, name: str, grants: Sequence[str], expires: float | None, owner: str | None
    ) -> answers.NewToken:
        """The token's facts, and its text as ``token``, this once."""
        body = {"name": name, "grants": list(grants), "expires": expires, "owner": owner}
        return cast(answers.NewToken, self.call("POST", "/tokens", json=body))

    def revoke_token(self, id: str) -> None:
        self.call("DELETE", f"/tokens/{id}")

    def audit(self, limit: int, key: str | None) -> list[answers.AuditEntry]:
        """Newest first."""
        return self.listed("/audit", limit, **({"key": key} if key else {}))

    def verify_audit(self) -> answers.Verified:
        return cast(answers.Verified, self.call("GET", "/audit/verification"))

    def approvals(self) -> list[answers.Approval]:
        return self.listed("/approvals")

    def approval(self, id: int) -> answers.Approval:
        return cast(answers.Approval, self.call("GET", f"/approvals/{id}"))

    def approve(self, id: int) -> answers.Rollout:
        """The rollout that begins."""
        return cast(answers.Rollout, self.call("POST", f"/approvals/{id}/approve"))

    def reject(self, id: int, why: str) -> answers.Approval:
        return cast(answers.Approval, self.call("POST", f"/approvals/{id}/reject", json={"why": why}))

    def new_link(self, role: str, name: str) -> answers.Link:
        """A way in for a browser: ``url``, good once, until ``expires``."""
        return cast(answers.Link, self.call("POST", "/links", json={"role": role, "name": name}))

    def me(self) -> answers.Me:
        return cast(answers.Me, self.call("GET", "/me"))

    def release(self, key: str, release: str) -> answers.ReleaseDetail:
        return cast(answers.ReleaseDetail, self.call("GET", f"/environments/{key}/releases/{release}"))

    def statement(self, key: str, release: str) -> Data:
        """What is signed about the artifact of a release, and whether it holds."""
        return cast(Data, self.call("GET", f"/environments/{key}/releases/{release}/statement"))

    def compare(self, key: str, one: str, other: str) -> list[answers.Difference]:
        params = {"from": one, "to": other}
        page = self.call("GET", f"/environments/{key}/compare", params=params)
        return cast(list[answers.Difference], page["items"])

    def samples(self, id: int) -> list[answers.Sample]:
        return self.listed(f"/rollouts/{id}/samples")

    # --- what happens

    def changes(self, since: int | None = None, environment: str | None = None) -> Iterator[tuple[int, answers.Change]]:
        """What happens from now on or after a change, each with its number; a lost connection is taken up again.

        Ends never; the kind ``reset`` says that some was missed. Raises Problem when the server refuses.
        """
        params = {"environment": environment} if environment else {}
        while True:
            headers = {"Last-Event-ID": str(since)} if since is not None else {}
            try:
                with self._http.stream(
                    "GET",
                    "/changes",
                    params=params,
                    headers=headers,
                    timeout=httpx.Timeout(10.0, read=HEARTBEAT_WITHIN),
                ) as answer:
                    if answer.status_code >= 400:
                        answer.read()
                        raise Problem(answer.status_code, answer.json())
                    for number, change in _events(answer.iter_lines()):
                        since = number or since
                        yield number, change
            except httpx.HTTPError:
                pass  # a server that starts again, or a network that comes back
            time.sleep(PAUSE)


def _events(lines: Iterator[str]) -> Iterator[tuple[int, answers.Change]]:
    number = 0
    for line in lines:
        name, _, value = line.partition(": ")
        if name == "id":
            number = int(value)
        elif name == "data":
            yield number, json.loads(value)
            number = 0
