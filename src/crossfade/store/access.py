"""Accounts, their credentials, approvals and the audit log, in the ledger's database."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from crossfade.domain.access import Grant, Role
from crossfade.domain.audit import GENESIS, AuditEntry, Verified, verify
from crossfade.domain.errors import NotFound, Refused
from crossfade.domain.values import EnvKey, ReleaseNumber
from crossfade.ports import Account, Approval, Login, Token
from crossfade.store import tables as t
from crossfade.store.database import Database

PAGE = 1000
"""Entries of the audit log that are read at once."""


class SqlAccess(Database):
    """`ports.Access`."""

    # --- accounts

    def add_account(self, account: Account) -> None:
        try:
            with self._writing() as c:
                c.execute(t.accounts.insert().values(name=account.name, created=account.created, **_changing(account)))
        except IntegrityError:
            raise Refused(
                f"There is an account {account.name!r} already.", hint="`crossfade accounts change`"
            ) from None

    def account(self, name: str) -> Account | None:
        with self._reading() as c:
            row = c.execute(sa.select(t.accounts).where(t.accounts.c.name == name)).one_or_none()
        return _account(row) if row is not None else None

    def accounts(self) -> tuple[Account, ...]:
        with self._reading() as c:
            return tuple(_account(row) for row in c.execute(sa.select(t.accounts).order_by(t.accounts.c.name)))

    def change_account(self, account: Account) -> None:
        with self._writing() as c:
            found = c.execute(t.accounts.update().where(t.accounts.c.name == account.name).values(**_changing(account)))
        if not found.rowcount:
            raise _no_account(account.name)

    def remove_account(self, name: str) -> None:
        with self._writing() as c:
            found = c.execute(t.accounts.delete().where(t.accounts.c.name == name))
            c.execute(t.tokens.delete().where(t.tokens.c.owner == name))  # or another of this name would have them
            c.execute(t.sessions.delete().where(t.sessions.c.name == name))
        if not found.rowcount:
            raise _no_account(name)

    # --- tokens

    def add_token(self, token: Token) -> None:
        with self._writing() as c:
            c.execute(
                t.tokens.insert().values(
                    id=token.id,
                    name=token.name,
                    owner=token.owner,
                    hash=token.hash,
                    grants=_said(token.grants),
                    created=token.created,
                    expires=token.expires,
                )
            )

    def token(self, id: str) -> Token | None:
        with self._reading() as c:
            row = c.execute(sa.select(t.tokens).where(t.tokens.c.id == id)).one_or_none()
        return _token(row) if row is not None else None

    def tokens(self, owner: str | None = None) -> tuple[Token, ...]:
        query = sa.select(t.tokens).order_by(t.tokens.c.created.desc(), t.tokens.c.id)
        if owner is not None:
            query = query.where(t.tokens.c.owner == owner)
        with self._reading() as c:
            return tuple(_token(row) for row in c.execute(query))

    def revoke_token(self, id: str, now: float) -> None:
        with self._writing() as c:
            known = c.execute(sa.select(t.tokens.c.id).where(t.tokens.c.id == id)).first()
            open_ones = sa.and_(t.tokens.c.id == id, t.tokens.c.revoked.is_(None))
            c.execute(t.tokens.update().where(open_ones).values(revoked=now))
        if known is None:
            raise NotFound(f"There is no token {id!r}.", hint="`crossfade tokens` lists them.")

    def token_used(self, id: str, now: float) -> None:
        with self._writing() as c:
            c.execute(t.tokens.update().where(t.tokens.c.id == id).values(used=now))

    # --- sessions and links

    def open_session(self, session: Login) -> None:
        grants = None if session.grants is None else _said(session.grants)
        with self._writing() as c:
            c.execute(t.sessions.delete().where(t.sessions.c.expires < session.created))
            c.execute(
                t.sessions.insert().values(
                    hash=session.hash,
                    name=session.name,
                    grants=grants,
                    csrf=session.csrf,
                    created=session.created,
                    seen=session.seen,
                    expires=session.expires,
                )
            )

    def session(self, hash: str) -> Login | None:
        with self._reading() as c:
            row = c.execute(sa.select(t.sessions).where(t.sessions.c.hash == hash)).one_or_none()
        if row is None:
            return None
        grants = None if row.grants is None else _read(row.grants)
        return Login(row.hash, row.name, grants, row.csrf, row.created, row.seen, row.expires)

    def session_seen(self, hash: str, now: float) -> None:
        with self._writing() as c:
            c.execute(t.sessions.update().where(t.sessions.c.hash == hash).values(seen=now))

    def end_session(self, hash: str) -> None:
        with self._writing() as c:
            c.execute(t.sessions.delete().where(t.sessions.c.hash == hash))

    def end_sessions(self, name: str) -> None:
        with self._writing() as c:
            c.execute(t.sessions.delete().where(t.sessions.c.name == name))

    def add_link(self, hash: str, name: str, grants: Sequence[Grant], expires: float) -> None:
        with self._writing() as c:
            c.execute(t.links.insert().values(hash=hash, name=name, grants=_said(grants), expires=expires))

    def use_link(self, hash: str, now: float) -> tuple[str, tuple[Grant, ...]] | None:
        with self._writing() as c:
            row = c.execute(sa.select(t.links).where(t.links.c.hash == hash)).one_or_none()
            c.execute(t.links.delete().where(sa.or_(t.links.c.hash == hash, t.links.c.expires < now)))
        return (row.name, _read(row.grants)) if row is not None and now <= row.expires else None

    # --- approvals

    def ask_approval(self, approval: Approval) -> Approval:
        waiting = sa.and_(t.approvals.c.key == str(approval.key), t.approvals.c.state == "waiting")
        with self._writing() as c:
            c.execute(t.approvals.update().where(waiting).values(state="superseded", decided=approval.asked))
            result = c.execute(
                t.approvals.insert().values(
                    key=str(approval.key),
                    release=approval.release.n,
                    role=approval.role.value,
                    by=approval.by,
                    identity=approval.identity,
                    asked=approval.asked,
                    state="waiting",
                    why="",
                )
            )
            assert result.inserted_primary_key is not None
        return replace(approval, id=int(result.inserted_primary_key[0]))

    def approval(self, id: int) -> Approval | None:
        with self._reading() as c:
            row = c.execute(sa.select(t.approvals).where(t.approvals.c.id == id)).one_or_none()
        return _approval(row) if row is not None else None

    def approvals(
        self, key: EnvKey | None = None, *, waiting: bool = False, limit: int = 50, before: int | None = None
    ) -> tuple[Approval, ...]:
        query = sa.select(t.approvals).order_by(t.approvals.c.id.desc()).limit(limit)
        if key is not None:
            query = query.where(t.approvals.c.key == str(key))
        if waiting:
            query = query.where(t.approvals.c.state == "waiting")
        if before is not None:
            query = query.where(t.approvals.c.id < before)
        with self._reading() as c:
            return tuple(_approval(row) for row in c.execute(query))

    def decide(self, approval: Approval) -> bool:
        waiting = sa.and_(t.approvals.c.id == approval.id, t.approvals.c.state == "waiting")
        with self._writing() as c:
            done = c.execute(
                t.approvals.update()
                .where(waiting)
                .values(
                    state=approval.state, decided_by=approval.decided_by, decided=approval.decided, why=approval.why
                )
            )
        return bool(done.rowcount)

    def reopen(self, id: int) -> None:
        undone = sa.and_(t.approvals.c.id == id, t.approvals.c.state == "approved", t.approvals.c.rollout.is_(None))
        with self._writing() as c:
            c.execute(t.approvals.update().where(undone).values(state="waiting", decided_by=None, decided=None))

    def decided_rollout(self, id: int, rollout: int) -> None:
        with self._writing() as c:
            c.execute(t.approvals.update().where(t.approvals.c.id == id).values(rollout=rollout))

    # --- the audit log

    def note(self, entry: Callable[[int], AuditEntry]) -> AuditEntry:
        with self._writing() as c:
            last = c.execute(sa.select(t.audit.c.seq, t.audit.c.hash).order_by(t.audit.c.seq.desc()).limit(1)).first()
            # Never a number again: were the end cut off, the next entry would hide it.
            made = entry(max(last.seq if last is not None else 0, self._given(c) or 0) + 1)
            c.execute(
                t.audit.insert().values(
                    seq=made.seq,
                    at=made.at,
                    who=made.who,
                    via=made.via,
                    address=made.address,
                    what=made.what,
                    key=made.key,
                    before=json.dumps(made.before, sort_keys=True),
                    after=json.dumps(made.after, sort_keys=True),
                    hash=made.hash(last.hash if last is not None else GENESIS),
                )
            )
        return made

    def audit(self, limit: int, *, before: int | None = None, key: str | None = None) -> tuple[AuditEntry, ...]:
        query = sa.select(t.audit).order_by(t.audit.c.seq.desc()).limit(limit)
        if before is not None:
            query = query.where(t.audit.c.seq < before)
        if key is not None:
            query = query.where(t.audit.c.key == key)
        with self._reading() as c:
            return tuple(_entry(row) for row in c.execute(query))

    def verify_audit(self) -> Verified:
        with self._reading() as c:
            last = self._given(c)
        return verify(self._all_entries(last), last)

    def _given(self, c: sa.Connection) -> int | None:
        """The highest number that an entry ever had: SQLite remembers it, also when its row is gone. None: not known."""
        if not self.url.startswith("sqlite"):
            return None
        found = c.exec_driver_sql("SELECT seq FROM sqlite_sequence WHERE name = 'audit'").scalar()
        return int(found) if found is not None else None

    def _all_entries(self, last: int | None) -> Iterator[tuple[AuditEntry, str]]:
        """In pages: the log is as long as the installation is old. What is written meanwhile is not looked at."""
        seen = 0
        while True:
            query = sa.select(t.audit).where(t.audit.c.seq > seen).order_by(t.audit.c.seq).limit(PAGE)
            if last is not None:
                query = query.where(t.audit.c.seq <= last)
            with self._reading() as c:
                rows = c.execute(query).all()
            if not rows:
                return
            for row in rows:
                try:
                    entry = _entry(row)
                except (ValueError, RecursionError):  # not even JSON any more: nothing that was written has this hash
                    entry = AuditEntry(row.seq, 0.0, "", "", "", "", "", {}, {})
                yield entry, row.hash
            seen = rows[-1].seq


def _no_account(name: str) -> NotFound:
    return NotFound(f"There is no account {name!r}.", hint="`crossfade accounts` lists them.")


def _said(grants: Sequence[Grant]) -> str:
    return json.dumps([str(grant) for grant in grants])


def _read(grants: str) -> tuple[Grant, ...]:
    return tuple(Grant.parse(text) for text in json.loads(grants))


def _changing(account: Account) -> dict[str, Any]:
    return {
        "password": account.password,
        "issuer": account.issuer,
        "grants": _said(account.grants),
        "disabled": account.disabled,
    }


def _account(row: sa.Row[Any]) -> Account:
    return Account(row.name, _read(row.grants), row.created, row.password, row.issuer, row.disabled)


def _token(row: sa.Row[Any]) -> Token:
    return Token(
        row.id, row.name, row.owner, _read(row.grants), row.created, row.hash, row.expires, row.revoked, row.used
    )


def _approval(row: sa.Row[Any]) -> Approval:
    return Approval(
        row.id,
        EnvKey.parse(row.key),
        ReleaseNumber(row.release),
        Role(row.role),
        row.by,
        row.identity,
        row.asked,
        row.state,
        row.decided_by,
        row.decided,
        row.why,
        row.rollout,
    )


def _entry(row: sa.Row[Any]) -> AuditEntry:
    before, after = json.loads(row.before), json.loads(row.after)
    # SQLite keeps bytes where text is declared, if somebody else writes them: as text they are not what was hashed.
    who, via, address, what, key = map(str, (row.who, row.via, row.address, row.what, row.key))
    return AuditEntry(row.seq, row.at, who, via, address, what, key, before, after)
