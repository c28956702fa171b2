"""Accounts and what they show to be known: passwords, tokens, sessions and one-time links."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from crossfade.domain.access import Actor, Grant, Role, account_name, is_account_name
from crossfade.domain.errors import Forbidden, Invalid, NotFound, Refused, TooMany, Unauthenticated
from crossfade.domain.throttle import Throttle
from crossfade.ports import Account as Kept
from crossfade.ports import Login, Parts, Token
from crossfade.service.audit import Audit

SHORTEST_PASSWORD: Final = 10
LONGEST_PASSWORD: Final = 1000
LINK_LASTS: Final = 600.0
"""Seconds."""
SEEN_EVERY: Final = 60.0
"""Seconds between two writes of when a token or a session was used last."""
MOST_KNOWN: Final = 1000

_TOKEN = re.compile(r"cf_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")
_NAME = re.compile(r"[^\x00-\x1f\x7f]{1,100}")


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a browser's session lasts at most, and without being used; seconds."""

    session: float = 12 * 3600.0
    idle: float = 2 * 3600.0


@dataclass(frozen=True, slots=True)
class Account:
    """Somebody who may ask. ``issuer`` vouches for them; empty: we do. ``created`` is epoch seconds."""

    name: str
    grants: tuple[Grant, ...]
    created: float
    disabled: bool
    has_password: bool
    issuer: str


@dataclass(frozen=True, slots=True)
class TokenInfo:
    """A token without its secret. Times are epoch seconds, None: never. ``owner`` is empty for the installation's own."""

    id: str
    name: str
    owner: str
    grants: tuple[Grant, ...]
    created: float
    expires: float | None
    revoked: float | None
    used: float | None


@dataclass(frozen=True, slots=True)
class Session:
    """A browser's session. ``csrf`` must come with each of its changes."""

    actor: Actor
    csrf: str
    expires: float


class Accounts:
    """Adds, changes and recognises. Every recognition that fails says the same: Unauthenticated."""

    def __init__(self, parts: Parts, audit: Audit, limits: Limits = Limits()) -> None:
        self._parts, self._audit, self.limits = parts, audit, limits
        self._passwords = PasswordHasher()
        # A token's secret is random and 256 bits long: nobody guesses it, however cheap the guess.
        self._tokens = PasswordHasher(time_cost=1, memory_cost=8 * 1024, parallelism=1)
        self._nobody = self._passwords.hash(secrets.token_urlsafe())
        self._hashing = threading.BoundedSemaphore(2)  # each takes 64 MiB and a core
        self._by_name = Throttle(10, 300.0)
        self._by_address = Throttle(20, 300.0)
        self._throttling = threading.Lock()
        self._known: OrderedDict[bytes, str] = OrderedDict()
        self._knowing = threading.Lock()
        self._known_key = secrets.token_bytes(32)

    # --- accounts

    def list(self) -> tuple[Account, ...]:
        return tuple(_shown(account) for account in self._parts.access.accounts())

    def get(self, name: str) -> Account:
        """Raises NotFound."""
        return _shown(self._account(name))

    def _account(self, name: str) -> Kept:
        account = self._parts.access.account(name)
        if account is None:
            raise NotFound(f"There is no account {name!r}.", hint="`crossfade accounts` lists them.")
        return account

    def add(self, name: str, grants: Sequence[Grant], password: str | None, by: Actor) -> Account:
        """Raises Forbidden, Invalid, Refused when the name is taken."""
        by.require(Role.ADMIN, None)
        hashed = self._hashed(password) if password is not None else ""
        kept = Kept(account_name(name), tuple(grants), self._parts.now(), hashed)
        self._parts.access.add_account(kept)
        self._audit.note(by, "account.add", name, {}, _data(kept))
        return _shown(kept)

    def change(
        self, name: str, *, grants: Sequence[Grant] | None = None, disabled: bool | None = None, by: Actor
    ) -> Account:
        """Raises Forbidden, NotFound, Refused for what would leave the actor without its own way back."""
        by.require(Role.ADMIN, None)
        before = self._account(name)
        after = replace(
            before,
            grants=tuple(grants) if grants is not None else before.grants,
            disabled=disabled if disabled is not None else before.disabled,
        )
        if by.via != "local" and by.name == name and (after.disabled or not _admin(after.grants)):
            raise Refused("An admin cannot disable itself or take its own role.", hint="Ask another admin.")
        self._parts.access.change_account(after)
        if after.disabled:
            self._parts.access.end_sessions(name)
        self._audit.note(by, "account.change", name, _data(before), _data(after))
        return _shown(after)

    def set_password(self, name: str, password: str, by: Actor, old: str | None = None) -> None:
        """By an admin, or by the account itself, which shows its ``old`` one. Ends the account's sessions.

        Raises Forbidden, NotFound, Invalid, Unauthenticated when the old one is wrong, TooMany.
        """
        own = by.via != "local" and by.name == name
        if own:
            if by.via != "session":
                raise Forbidden("A token cannot change its owner's password.", hint="Log in to do it.")
            account = self._account(name)
            self._check(name, old or "", by.address, account.password)
        else:
            by.require(Role.ADMIN, None)
            account = self._account(name)
        if account.issuer:
            raise Refused(f"{name} logs in by {account.issuer}: there is no password here.")
        self._parts.access.change_account(replace(account, password=self._hashed(password)))
        self._parts.access.end_sessions(name)
        self._audit.note(by, "account.password", name)

    def remove(self, name: str, by: Actor) -> None:
        """With its tokens and sessions. Raises Forbidden, NotFound, Refused for one's own."""
        by.require(Role.ADMIN, None)
        if by.via != "local" and by.name == name:
            raise Refused("An admin cannot remove itself.", hint="Ask another admin.")
        before = self._account(name)
        self._parts.access.remove_account(name)
        self._audit.note(by, "account.remove", name, _data(before), {})

    # --- tokens

    def issue(
        self, name: str, grants: Sequence[Grant], expires: float | None, by: Actor, owner: str | None = None
    ) -> tuple[TokenInfo, str]:
        """A token, and its text, which is shown this once. Without an ``owner`` it is the actor's own; that of the

        state folder's holder is the installation's. Raises Forbidden, Invalid, NotFound.
        """
        now = self._parts.now()
        if not _NAME.fullmatch(name):
            raise Invalid("name", name, "1 to 100 characters, none of them a control character")
        if not grants:
            raise Invalid("grants", [], "at least one, for example viewer")
        if expires is not None and expires <= now:
            raise Invalid("expires", expires, "a time to come, as epoch seconds")
        mine = "" if by.via == "local" else by.name
        holder = mine if owner is None else owner
        held = by.grants
        if holder != mine:
            by.require(Role.ADMIN, None)
            held = self._account(holder).grants
        elif not holder:
            by.require(Role.ADMIN, None)
        elif by.via == "token":
            raise Forbidden("A token cannot make tokens.", hint="Log in to do it.")
        beyond = [str(grant) for grant in grants if not grant.within(held)]
        if beyond:
            raise Forbidden(
                f"A token cannot do more than its owner: {', '.join(beyond)} is more than "
                f"{', '.join(map(str, held)) or 'nothing'}."
            )
        secret = secrets.token_urlsafe(32)
        with self._hashing:
            hashed = self._tokens.hash(secret)
        token = Token(secrets.token_hex(6), name, holder, tuple(grants), now, hashed, expires)
        self._parts.access.add_token(token)
        self._audit.note(by, "token.issue", token.id, {}, _token_data(token))
        return _info(token), f"cf_{token.id}_{secret}"

    def tokens(self, owner: str | None = None) -> tuple[TokenInfo, ...]:
        """Newest first; of one owner, or all."""
        return tuple(_info(token) for token in self._parts.access.tokens(owner))

    def revoke(self, id: str, by: Actor) -> None:
        """By an admin or the owner. Raises Forbidden, NotFound."""
        token = self._parts.access.token(id)
        if token is None or (token.owner != by.name and not by.may(Role.ADMIN, None)):
            raise NotFound(f"There is no token {id!r}.", hint="`crossfade tokens` lists them.")
        self._parts.access.revoke_token(id, self._parts.now())
        self._audit.note(by, "token.revoke", id, _token_data(token), {})

    def by_token(self, text: str, address: str) -> Actor:
        """Who shows this token. Raises Unauthenticated."""
        match = _TOKEN.fullmatch(text)
        if match is None:
            raise _unknown()
        id = match[1]
        token, now = self._parts.access.token(id), self._parts.now()
        if token is None or token.revoked is not None or (token.expires is not None and token.expires <= now):
            raise _unknown()
        if not self._is_known(match[2], token):
            raise _unknown()
        grants, name = token.grants, f"token:{token.name}"
        if token.owner:
            account = self._parts.access.account(token.owner)
            if account is None or account.disabled:
                raise _unknown()
            # What was taken from the owner since is taken from the token too.
            grants, name = tuple(g for g in token.grants if g.within(account.grants)), token.owner
        if token.used is None or now - token.used > SEEN_EVERY:
            self._parts.access.token_used(id, now)
        return Actor(name, grants, "token", address, id)

    def _is_known(self, secret: str, token: Token) -> bool:
        """Whether the secret is the one that was hashed; what was found right once is not hashed again."""
        digest = hmac.digest(self._known_key, f"{secret} {token.hash}".encode(), "sha256")
        with self._knowing:
            if digest in self._known:
                self._known.move_to_end(digest)
                return True
        try:
            with self._hashing:
                self._tokens.verify(token.hash, secret)
        except (VerificationError, InvalidHashError):
            return False
        with self._knowing:
            self._known[digest] = token.id
            while len(self._known) > MOST_KNOWN:
                self._known.popitem(last=False)
        return True

    # --- sessions

    def log_in(self, name: str, password: str, address: str) -> str:
        """The secret of a new session. Raises Unauthenticated, TooMany."""
        account = self._parts.access.account(name) if is_account_name(name) else None
        usable = account is not None and not account.disabled and bool(account.password)
        try:
            self._check(name, password, address, account.password if account is not None and usable else "")
        except Unauthenticated:
            # Only names that there are: what is typed into the wrong field may be a password.
            if account is not None:
                self._audit.note(Actor(name, (), "session", address), "session.refuse", name)
            raise
        return self._open(name, None, address, "password")

    def _check(self, name: str, password: str, address: str, hashed: str) -> None:
        """Raises Unauthenticated, TooMany. Takes as long for an account that there is not."""
        now = self._parts.now()
        name = name[:100]
        self._refuse_many(name, address, now)
        with self._hashing:
            self._refuse_many(name, address, now)  # again: those that waited here with us may have failed
            try:
                shown = password[:LONGEST_PASSWORD].encode(errors="replace")
                self._passwords.verify(hashed or self._nobody, shown)
                right = bool(hashed)
            except (VerificationError, InvalidHashError):
                right = False
            with self._throttling:
                if right:
                    self._by_name.forget(f"{name} {address}")
                    return
                self._by_name.failed(f"{name} {address}", now)
                self._by_address.failed(address, now)
        raise Unauthenticated("The name or the password is wrong.")

    def _refuse_many(self, name: str, address: str, now: float) -> None:
        with self._throttling:
            wait = max(self._by_name.wait(f"{name} {address}", now), self._by_address.wait(address, now))
        if wait > 0:
            raise TooMany("Too many failed logins.", wait, hint=f"Try again in {wait:.0f} s.")

    def log_in_as(self, name: str, grants: Sequence[Grant], issuer: str, address: str) -> str:
        """A session for somebody whom an issuer vouches for; their account follows what it says of them.

        Raises Refused when a name is another issuer's or ours, Unauthenticated when the account is disabled.
        """
        known = self._parts.access.account(account_name(name))
        if known is None:
            known = Kept(name, tuple(grants), self._parts.now(), issuer=issuer)
            self._parts.access.add_account(known)
            self._audit.note(Actor(name, (), "session", address), "account.add", name, {}, _data(known))
        if known.issuer != issuer:
            raise Refused(f"The account {name} is not one of {issuer}.", hint="An admin can remove or rename it.")
        if known.disabled:
            raise _unknown()
        if known.grants != tuple(grants):
            changed = replace(known, grants=tuple(grants))
            self._parts.access.change_account(changed)
            by = Actor(name, (), "session", address)
            self._audit.note(by, "account.change", name, _data(known), _data(changed))
        return self._open(name, None, address, issuer)

    def new_link(self, name: str, grants: Sequence[Grant], by: Actor) -> str:
        """The secret of a link that logs in once, within 10 minutes. Raises Forbidden."""
        by.require(Role.ADMIN, None)
        secret = secrets.token_urlsafe(32)
        self._parts.access.add_link(_digest(secret), name, grants, self._parts.now() + LINK_LASTS)
        self._audit.note(by, "link.issue", name, {}, {"grants": [str(grant) for grant in grants]})
        return secret

    def by_link(self, text: str, address: str) -> str:
        """The secret of a session for who follows a link. Raises Unauthenticated."""
        found = self._parts.access.use_link(_digest(text), self._parts.now())
        if found is None:
            raise Unauthenticated("This link was used, or is too old.", hint="`crossfade dashboard` makes another.")
        name, grants = found
        return self._open(name, grants, address, "link")

    def _open(self, name: str, grants: tuple[Grant, ...] | None, address: str, how: str) -> str:
        secret, now = secrets.token_urlsafe(32), self._parts.now()
        ends = now + self.limits.session
        self._parts.access.open_session(Login(_digest(secret), name, grants, secrets.token_urlsafe(32), now, now, ends))
        actor = Actor(name, grants or (), "session", address)
        self._audit.note(actor, "session.begin", name, {}, {"by": how})
        return secret

    def by_session(self, secret: str, address: str) -> Session:
        """Whose session this is. Raises Unauthenticated."""
        kept, now = self._parts.access.session(_digest(secret)), self._parts.now()
        if kept is None or now >= kept.expires or now - kept.seen > self.limits.idle:
            raise _unknown()
        if kept.grants is None:
            account = self._parts.access.account(kept.name)
            if account is None or account.disabled:
                raise _unknown()
            grants = account.grants
        else:
            grants = kept.grants
        if now - kept.seen > SEEN_EVERY:
            self._parts.access.session_seen(kept.hash, now)
        # A link is made by the state folder's holder: where two people are wanted, its user is that one.
        via = "session" if kept.grants is None else "local"
        return Session(Actor(kept.name, grants, via, address), kept.csrf, kept.expires)

    def log_out(self, secret: str) -> None:
        """End the session, if there is one."""
        kept = self._parts.access.session(_digest(secret))
        if kept is not None:
            self._parts.access.end_session(kept.hash)
            self._audit.note(Actor(kept.name, (), "session"), "session.end", kept.name)

    def _hashed(self, password: str) -> str:
        if not SHORTEST_PASSWORD <= len(password) <= LONGEST_PASSWORD:
            allowed = f"{SHORTEST_PASSWORD} to {LONGEST_PASSWORD} characters"
            raise Invalid("password", f"{len(password)} characters", allowed)
        try:
            said = password.encode()
        except UnicodeEncodeError:
            raise Invalid("password", "half of a character", "whole characters") from None
        with self._hashing:
            return self._passwords.hash(said)


def _unknown() -> Unauthenticated:
    return Unauthenticated("This is not valid, or not any more.", hint="Log in again, or use another token.")


def _digest(secret: str) -> str:
    # Random, 256 bits: a plain hash keeps it from who reads the ledger.
    return hashlib.sha256(secret.encode()).hexdigest()


def _admin(grants: Sequence[Grant]) -> bool:
    return any(Grant(Role.ADMIN).within([grant]) for grant in grants)


def _shown(kept: Kept) -> Account:
    return Account(kept.name, kept.grants, kept.created, kept.disabled, bool(kept.password), kept.issuer)


def _info(token: Token) -> TokenInfo:
    return TokenInfo(
        token.id, token.name, token.owner, token.grants, token.created, token.expires, token.revoked, token.used
    )


def _data(account: Kept) -> dict[str, object]:
    return {
        "grants": [str(grant) for grant in account.grants],
        "disabled": account.disabled,
        "issuer": account.issuer,
    }


def _token_data(token: Token) -> dict[str, object]:
    return {
        "name": token.name,
        "owner": token.owner,
        "grants": [str(grant) for grant in token.grants],
        "expires": token.expires,
    }
