"""The part of the client that speaks of flags and experiments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol, cast
from urllib.parse import quote

Data = Mapping[str, Any]
PAGE: Final = 500


class Speaks(Protocol):
    """What is used of the client."""

    def call(self, method: str, path: str, **kwargs: Any) -> Any: ...

    def text(self, path: str) -> str: ...

    def listed(self, path: str, limit: int | None = None, **params: Any) -> list[Any]: ...


class FlagClient:
    """Flags, change requests, ramps and experiments. Raises as the client does."""

    def __init__(self, client: Speaks) -> None:
        self._client = client

    def _get(self, path: str, **params: Any) -> Data:
        return cast(Data, self._client.call("GET", path, params={k: v for k, v in params.items() if v is not None}))

    def _post(self, path: str, **body: Any) -> Data:
        return cast(Data, self._client.call("POST", path, json=body))

    # --- flags

    def flags(self, key: str, stale: bool = False) -> Data:
        """All of them as ``flags``, with the version that is served."""
        rows: list[Any] = []
        cursor: str | None = None
        while True:
            page = self._get(f"/environments/{key}/flags", limit=PAGE, stale=stale, cursor=cursor)
            rows += page["items"]
            cursor = page["next"]
            if cursor is None:
                return {**{k: v for k, v in page.items() if k not in ("items", "next")}, "flags": rows}

    def flag(self, key: str, name: str) -> Data:
        return self._get(_flag(key, name))

    def save(self, key: str, name: str, flag: Data, expects: int | None, note: str) -> Data:
        body = {"flag": dict(flag), "expects": expects, "note": note}
        return cast(Data, self._client.call("PUT", _flag(key, name), json=body))

    def remove(self, key: str, name: str) -> Data:
        return cast(Data, self._client.call("DELETE", _flag(key, name)))

    def order(self, key: str, name: str, command: str, **more: Any) -> Data:
        """``kill``, ``revive``, ``enable``, ``disable``, ``pause`` or ``resume`` (a rule), ``shares``."""
        return self._post(f"{_flag(key, name)}/commands", command=command, **more)

    def why(self, key: str, name: str, context: Data) -> Data:
        return self._post(f"{_flag(key, name)}/why", context=dict(context))

    def preview(self, key: str, name: str, flag: Data, contexts: Sequence[Data]) -> Data:
        return self._post(f"{_flag(key, name)}/preview", flag=dict(flag), contexts=list(contexts))

    def promote(self, key: str, name: str, to: str, dry_run: bool, note: str) -> Data:
        return self._post(f"{_flag(key, name)}/promotions", to=to, dry_run=dry_run, note=note)

    # --- sets and versions

    def export(self, key: str, plain: bool) -> Data:
        return self._get(f"/environments/{key}/flag-export", plain=plain)

    def bring(self, key: str, document: Data, replace: bool, dry_run: bool, note: str) -> Data:
        place = f"/environments/{key}/flag-imports"
        return self._post(place, document=dict(document), replace=replace, dry_run=dry_run, note=note)

    def versions(self, key: str, limit: int) -> list[Data]:
        return self._client.listed(f"/environments/{key}/flag-versions", limit)

    def compare(self, key: str, one: int, other: int) -> list[Data]:
        found = self._get(f"/environments/{key}/flag-changes", **{"from": one, "to": other})
        return cast(list[Data], found["items"])

    def restore(self, key: str, number: int, note: str) -> Data:
        return self._post(f"/environments/{key}/flag-versions/{number}/restore", note=note)

    def settings(self, key: str) -> Data:
        return self._get(f"/environments/{key}/flag-settings")

    def set_settings(self, key: str, approval: str | None) -> Data:
        place = f"/environments/{key}/flag-settings"
        return cast(Data, self._client.call("PUT", place, json={"approval": approval}))

    # --- change requests

    def requests(self, limit: int) -> list[Data]:
        return self._client.listed("/flag-requests", limit)

    def approve(self, id: int) -> Data:
        return self._post(f"/flag-requests/{id}/approve")

    def reject(self, id: int, why: str) -> Data:
        return self._post(f"/flag-requests/{id}/reject", why=why)

    # --- ramps

    def begin_ramp(self, key: str, name: str, body: Data) -> Data:
        return cast(Data, self._client.call("POST", f"{_flag(key, name)}/ramps", json=dict(body)))

    def ramps(self, key: str, limit: int) -> list[Data]:
        return self._client.listed(f"/environments/{key}/ramps", limit)

    def ramp(self, id: int) -> Data:
        return self._get(f"/ramps/{id}")

    def order_ramp(self, id: int, command: str) -> Data:
        return self._post(f"/ramps/{id}/commands", command=command)

    # --- experiments

    def experiments(self, key: str) -> list[Data]:
        return self._client.listed(f"/environments/{key}/experiments")

    def add_experiment(self, key: str, body: Data) -> Data:
        return cast(Data, self._client.call("POST", f"/environments/{key}/experiments", json=dict(body)))

    def experiment(self, key: str, name: str) -> Data:
        return self._get(f"/environments/{key}/experiments/{quote(name, safe='')}")

    def results(self, key: str, name: str) -> Data:
        return self._get(f"/environments/{key}/experiments/{quote(name, safe='')}/results")

    def remove_experiment(self, key: str, name: str) -> None:
        self._client.call("DELETE", f"/environments/{key}/experiments/{quote(name, safe='')}")

    def experiment_plot(self, key: str, name: str, plot: str) -> str:
        return self._client.text(f"/environments/{key}/experiments/{quote(name, safe='')}/plots/{plot}")

    def order_experiment(self, key: str, name: str, command: str, **more: Any) -> Data:
        return self._post(f"/environments/{key}/experiments/{quote(name, safe='')}/commands", command=command, **more)


def _flag(key: str, name: str) -> str:
    return f"/environments/{key}/flags/{quote(name, safe='')}"
