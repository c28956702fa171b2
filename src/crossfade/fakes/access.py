"""The twin of the accounts, credentials, approvals and audit log: the same promises, in memory."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace

from crossfade.domain.access import Grant
from crossfade.domain.audit import GENESIS, AuditEntry, Verified, verify
from crossfade.domain.errors import NotFound, Refused
from crossfade.domain.values import EnvKey
from crossfade.ports import Account, Approval, Login, Token


class FakeAccess:
    """`ports.Access` in memory."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._accounts: dict[str, Account] = {}
        self._tokens: dict[str, Token] = {}
        self._sessions: dict[str, Login] = {}
        self._links: dict[str, tuple[str, tuple[Grant, ...], float]] = {}
        self._approvals: dict[int, Approval] = {}
        self._audit: list[tuple[AuditEntry, str]] = []

    def add_account(self, account: Account) -> None:
        with self._lock:
            if account.name in self._accounts:
                raise Refused(f"There is an account {account.name!r} already.", hint="`crossfade accounts change`")
            self._accounts[account.name] = account

    def account(self, name: str) -> Account | None:
        return self._accounts.get(name)

    def accounts(self) -> tuple[Account, ...]:
        with self._lock:
            return tuple(self._accounts[name] for name in sorted(self._accounts))

    def change_account(self, account: Account) -> None:
        with self._lock:
            self._accounts[account.name] = replace(account, created=self._known(account.name).created)

    def remove_account(self, name: str) -> None:
        with self._lock:
            self._known(name)
            del self._accounts[name]
            self._tokens = {id: token for id, token in self._tokens.items() if token.owner != name}
            self.end_sessions(name)

    def _known(self, name: str) -> Account:
        if name not in self._accounts:
            raise NotFound(f"There is no account {name!r}.", hint="`crossfade accounts` lists them.")
        return self._accounts[name]

    def add_token(self, token: Token) -> None:
        with self._lock:
            self._tokens[token.id] = token

    def token(self, id: str) -> Token | None:
        return self._tokens.get(id)

    def tokens(self, owner: str | None = None) -> tuple[Token, ...]:
        with self._lock:
            mine = [token for token in self._tokens.values() if owner in (None, token.owner)]
        return tuple(sorted(mine, key=lambda token: (-token.created, token.id)))

    def revoke_token(self, id: str, now: float) -> None:
        with self._lock:
            if id not in self._tokens:
                raise NotFound(f"There is no token {id!r}.", hint="`crossfade tokens` lists them.")
            if self._tokens[id].revoked is None:
                self._tokens[id] = replace(self._tokens[id], revoked=now)

    def token_used(self, id: str, now: float) -> None:
        with self._lock:
            if id in self._tokens:
                self._tokens[id] = replace(self._tokens[id], used=now)

    def open_session(self, session: Login) -> None:
        with self._lock:
            self._sessions = {h: one for h, one in self._sessions.items() if one.expires >= session.created}
            self._sessions[session.hash] = session

    def session(self, hash: str) -> Login | None:
        return self._sessions.get(hash)

    def session_seen(self, hash: str, now: float) -> None:
        with self._lock:
            if hash in self._sessions:
                self._sessions[hash] = replace(self._sessions[hash], seen=now)

    def end_session(self, hash: str) -> None:
        with self._lock:
            self._sessions.pop(hash, None)

    def end_sessions(self, name: str) -> None:
        with self._lock:
            self._sessions = {hash: one for hash, one in self._sessions.items() if one.name != name}

    def add_link(self, hash: str, name: str, grants: Sequence[Grant], expires: float) -> None:
        with self._lock:
            self._links[hash] = (name, tuple(grants), expires)

    def use_link(self, hash: str, now: float) -> tuple[str, tuple[Grant, ...]] | None:
        with self._lock:
            found = self._links.pop(hash, None)
            self._links = {h: link for h, link in self._links.items() if link[2] >= now}
        return (found[0], found[1]) if found is not None and now <= found[2] else None

    def ask_approval(self, approval: Approval) -> Approval:
        with self._lock:
            for id, one in self._approvals.items():
                if one.key == approval.key and one.state == "waiting":
                    self._approvals[id] = replace(one, state="superseded", decided=approval.asked)
            numbered = replace(approval, id=len(self._approvals) + 1)
            self._approvals[numbered.id] = numbered
            return numbered

    def approval(self, id: int) -> Approval | None:
        return self._approvals.get(id)

    def approvals(
        self, key: EnvKey | None = None, *, waiting: bool = False, limit: int = 50, before: int | None = None
    ) -> tuple[Approval, ...]:
        with self._lock:
            found = [
                one
                for id, one in sorted(self._approvals.items(), reverse=True)
                if key in (None, one.key)
                and not (waiting and one.state != "waiting")
                and (before is None or id < before)
            ]
        return tuple(found[:limit])

    def decide(self, approval: Approval) -> bool:
        with self._lock:
            known = self._approvals.get(approval.id)
            if known is None or known.state != "waiting":
                return False
            self._approvals[approval.id] = replace(
                known,
                state=approval.state,
                decided_by=approval.decided_by,
                decided=approval.decided,
                why=approval.why,
            )
            return True

    def reopen(self, id: int) -> None:
        with self._lock:
            known = self._approvals.get(id)
            if known is not None and known.state == "approved" and known.rollout is None:
                self._approvals[id] = replace(known, state="waiting", decided_by=None, decided=None)

    def decided_rollout(self, id: int, rollout: int) -> None:
        with self._lock:
            if id in self._approvals:
                self._approvals[id] = replace(self._approvals[id], rollout=rollout)

    def note(self, entry: Callable[[int], AuditEntry]) -> AuditEntry:
        with self._lock:
            made = entry(len(self._audit) + 1)
            before, after = (json.loads(json.dumps(data, sort_keys=True)) for data in (made.before, made.after))
            previous = self._audit[-1][1] if self._audit else GENESIS
            self._audit.append((replace(made, before=before, after=after), made.hash(previous)))
            return made

    def audit(self, limit: int, *, before: int | None = None, key: str | None = None) -> tuple[AuditEntry, ...]:
        with self._lock:
            found = [
                entry
                for entry, _ in reversed(self._audit)
                if (before is None or entry.seq < before) and key in (None, entry.key)
            ]
        return tuple(found[:limit])

    def verify_audit(self) -> Verified:
        with self._lock:
            return verify(self._audit, len(self._audit))
