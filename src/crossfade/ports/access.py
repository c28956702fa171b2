"""Who may do what, as a Protocol: accounts and their credentials, approvals, and the audit log."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from crossfade.domain.access import Grant, Role
from crossfade.domain.audit import AuditEntry, Verified
from crossfade.domain.values import EnvKey, ReleaseNumber


@dataclass(frozen=True, slots=True)
class Account:
    """Somebody who may ask. ``password`` is a hash (empty: none), ``issuer`` who vouches for them (empty: we do)."""

    name: str
    grants: tuple[Grant, ...]
    created: float
    password: str = field(default="", repr=False)
    issuer: str = ""
    disabled: bool = False


@dataclass(frozen=True, slots=True)
class Token:
    """A credential for a program. ``hash`` is of its secret; times are epoch seconds, None: never."""

    id: str
    name: str
    owner: str
    grants: tuple[Grant, ...]
    created: float
    hash: str = field(repr=False)
    expires: float | None = None
    revoked: float | None = None
    used: float | None = None


@dataclass(frozen=True, slots=True)
class Login:
    """A browser's session. ``hash`` is of the cookie's secret; ``grants`` are its own, None: the account's."""

    hash: str = field(repr=False)
    name: str
    grants: tuple[Grant, ...] | None
    csrf: str = field(repr=False)
    created: float
    seen: float
    expires: float


@dataclass(frozen=True, slots=True)
class Approval:
    """A release that waits for somebody else's word. ``state`` is waiting, approved, rejected or superseded.

    ``role`` is what the approver must be there; ``identity`` is who asked, as `Actor.identity` says.
    """

    id: int
    key: EnvKey
    release: ReleaseNumber
    role: Role
    by: str
    identity: str
    asked: float
    state: str = "waiting"
    decided_by: str | None = None
    decided: float | None = None
    why: str = ""
    rollout: int | None = None


class Access(Protocol):
    """Accounts, their credentials, approvals, and the audit log. Durable when a call returns."""

    def add_account(self, account: Account) -> None:
        """Raises Refused when there is one of this name."""

    def account(self, name: str) -> Account | None: ...

    def accounts(self) -> tuple[Account, ...]:
        """By name."""

    def change_account(self, account: Account) -> None:
        """All but its name and when it was created. Raises NotFound."""

    def remove_account(self, name: str) -> None:
        """With its sessions and tokens. Raises NotFound."""

    def add_token(self, token: Token) -> None: ...

    def token(self, id: str) -> Token | None: ...

    def tokens(self, owner: str | None = None) -> tuple[Token, ...]:
        """Newest first."""

    def revoke_token(self, id: str, now: float) -> None:
        """The first time stays. Raises NotFound."""

    def token_used(self, id: str, now: float) -> None: ...

    def open_session(self, session: Login) -> None:
        """Also forgets those that have ended."""

    def session(self, hash: str) -> Login | None: ...

    def session_seen(self, hash: str, now: float) -> None: ...

    def end_session(self, hash: str) -> None: ...

    def end_sessions(self, name: str) -> None:
        """All of one account."""

    def add_link(self, hash: str, name: str, grants: Sequence[Grant], expires: float) -> None: ...

    def use_link(self, hash: str, now: float) -> tuple[str, tuple[Grant, ...]] | None:
        """Name and grants of a link, which is gone with this; None when it is unknown, used or too old."""

    def ask_approval(self, approval: Approval) -> Approval:
        """Write it down, numbered; one that waits in the environment is superseded by it."""

    def approval(self, id: int) -> Approval | None: ...

    def approvals(
        self, key: EnvKey | None = None, *, waiting: bool = False, limit: int = 50, before: int | None = None
    ) -> tuple[Approval, ...]:
        """Newest first."""

    def decide(self, approval: Approval) -> bool:
        """Write down what was decided; False when it does not wait any more. Once, whoever is first."""

    def reopen(self, id: int) -> None:
        """What was approved could not begin: it waits again."""

    def decided_rollout(self, id: int, rollout: int) -> None:
        """Which rollout an approval has begun."""

    def note(self, entry: Callable[[int], AuditEntry]) -> AuditEntry:
        """Append to the audit log what ``entry`` makes of the next number."""

    def audit(self, limit: int, *, before: int | None = None, key: str | None = None) -> tuple[AuditEntry, ...]:
        """Newest first."""

    def verify_audit(self) -> Verified:
        """Look at the whole chain."""
