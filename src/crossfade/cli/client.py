"""A typed client of the API, as the CLI uses it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

import httpx

from crossfade.domain.errors import CrossfadeError, Unavailable

Data = dict[str, Any]
CHUNK = 1 << 20


class Problem(CrossfadeError):
    """What the API refused, as it said it."""

    def __init__(self, status: int, body: Mapping[str, Any]) -> None:
        super().__init__(str(body.get("title", f"the server answered {status}")), hint=str(body.get("hint") or ""))
        self.status = status
        self.code = str(body.get("type", "")).removeprefix("urn:crossfade:") or "http"
        self.fields = body.get("fields") or {}


class Client:
    """Speaks to the server of one state folder. Raises Unavailable when there is none, Problem when it refuses."""

    def __init__(self, url: str, token: str) -> None:
        self.url = url
        self._http = httpx.Client(
            base_url=f"{url}/api/v1",
            headers={"Authorization": f"Bearer {token}"},
            timeout=httpx.Timeout(30.0, read=120.0),
            trust_env=False,
        )

    @classmethod
    def of(cls, state: Path) -> Client:
        """The client for a state folder whose server is (or was) up."""
        hint = "Start it with `crossfade up`."
        try:
            known = json.loads((state / "server.json").read_text())
            token = (state / "token").read_text().strip()
        except FileNotFoundError:
            raise Unavailable(f"No server has been started in {state}.", hint=hint) from None
        except (OSError, ValueError) as error:
            raise Unavailable(f"The state folder {state} cannot be read: {error}.", hint=hint) from error
        return cls(str(known["url"]), token)

    def _call(self, method: str, path: str, **kwargs: Any) -> Any:
        answer = self._ask(method, path, **kwargs)
        try:
            body = answer.json()
        except ValueError:
            body = {"title": f"the server answered {answer.status_code} without JSON"}
        if answer.status_code >= 400:
            raise Problem(answer.status_code, body if isinstance(body, dict) else {})
        return body

    def _ask(self, method: str, path: str, **kwargs: Any) -> httpx.Response:
        try:
            return self._http.request(method, path, **kwargs)
        except httpx.HTTPError as error:
            raise Unavailable(
                f"The server at {self.url} does not answer ({type(error).__name__}).",
                hint="Start it with `crossfade up`; traffic goes on without it.",
            ) from error

    def upload(self, tarball: BinaryIO, digest: str) -> Data:
        """Send an artifact; the server checks its digest."""

        def chunks() -> Iterator[bytes]:
            while chunk := tarball.read(CHUNK):
                yield chunk

        return cast(Data, self._call("POST", "/artifacts", params={"digest": digest}, content=chunks()))

    def deploy(self, body: Mapping[str, Any]) -> Data:
        return cast(Data, self._call("POST", "/rollouts", json=body))

    def rollout(self, id: int) -> Data:
        return cast(Data, self._call("GET", f"/rollouts/{id}"))

    def rollouts(self, limit: int = 20) -> list[Data]:
        return cast(list[Data], self._call("GET", "/rollouts", params={"limit": limit}))

    def journal(self, id: int) -> list[Data]:
        return cast(list[Data], self._call("GET", f"/rollouts/{id}/journal"))

    def receipt(self, id: int) -> Data:
        return cast(Data, self._call("GET", f"/rollouts/{id}/receipt"))

    def plot(self, id: int, name: str) -> str:
        answer = self._ask("GET", f"/rollouts/{id}/plots/{name}")
        if answer.status_code >= 400:
            raise Problem(answer.status_code, answer.json())
        return answer.text

    def preview(self, id: int) -> Data:
        return cast(Data, self._call("GET", f"/rollouts/{id}/preview"))

    def environments(self) -> list[Data]:
        return cast(list[Data], self._call("GET", "/environments"))

    def environment(self, key: str) -> Data:
        return cast(Data, self._call("GET", f"/environments/{key}"))

    def traffic(self, key: str) -> Data:
        return cast(Data, self._call("GET", f"/environments/{key}/traffic"))

    def releases(self, key: str) -> list[Data]:
        return cast(list[Data], self._call("GET", f"/environments/{key}/releases"))

    def command(self, key: str, command: str, by: str) -> Data:
        body = {"command": command, "by": by}
        return cast(Data, self._call("POST", f"/environments/{key}/commands", json=body))

    def rollback(self, key: str, to: str | None, by: str) -> Data:
        return cast(Data, self._call("POST", f"/environments/{key}/rollbacks", json={"to": to, "by": by}))

    def logs(self, key: str, release: str | None, lines: int) -> dict[str, list[str]]:
        params: dict[str, str | int] = {"lines": lines} | ({"release": release} if release else {})
        return cast(dict[str, list[str]], self._call("GET", f"/environments/{key}/logs", params=params))

    def doctor(self) -> list[Data]:
        return cast(list[Data], self._call("GET", "/doctor"))
