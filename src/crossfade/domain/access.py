"""Who may do what where: roles, grants, and the actor that every change carries."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Self

from crossfade.domain.errors import Forbidden, Invalid
from crossfade.domain.values import EnvKey

EVERYWHERE: Final = "*"
_WHERE: Final = re.compile(r"(\*|[a-z0-9][a-z0-9-]{0,49})/(\*|[a-z0-9][a-z0-9-]{0,49})")
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._@+-]{0,99}")


class Role(StrEnum):
    """What one may do: look; deploy and steer; give access to others. Each can do what those before it can."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"

    def covers(self, wanted: Role) -> bool:
        """Whether who has this role may do what wants the other."""
        order = tuple(Role)
        return order.index(self) >= order.index(wanted)


@dataclass(frozen=True, slots=True)
class Grant:
    """A role in some environments. ``where`` is `*`, or `service/environment` of which either half may be `*`."""

    role: Role
    where: str = EVERYWHERE

    def __post_init__(self) -> None:
        if self.where != EVERYWHERE and not _WHERE.fullmatch(self.where):
            raise Invalid("grant", self.where, "'*', or 'service/environment' in which either may be '*'")

    @classmethod
    def parse(cls, text: str) -> Self:
        """From `operator@bookshop/production`; without `@…`, everywhere. Raises Invalid."""
        role, at, where = text.partition("@")
        if role not in set(Role):
            raise Invalid("role", role, "viewer, operator or admin")
        return cls(Role(role), where if at else EVERYWHERE)

    def __str__(self) -> str:
        return self.role.value if self.where == EVERYWHERE else f"{self.role.value}@{self.where}"

    def covers(self, key: EnvKey) -> bool:
        """Whether it is about this environment."""
        if self.where == EVERYWHERE:
            return True
        service, _, environment = self.where.partition("/")
        return service in ("*", key.service) and environment in ("*", key.environment)

    def within(self, others: Iterable[Grant]) -> bool:
        """Whether one of the others gives all that this one gives."""
        return any(other.role.covers(self.role) and _inside(self.where, other.where) for other in others)


def _inside(where: str, other: str) -> bool:
    if other == EVERYWHERE:
        return True
    if where == EVERYWHERE:
        return False  # the installation itself is more than all of its environments
    return all(wide in ("*", narrow) for narrow, wide in zip(where.split("/"), other.split("/"), strict=True))


def is_account_name(text: str) -> bool:
    """Whether an account may have this name."""
    return _NAME.fullmatch(text) is not None


def account_name(text: str) -> str:
    """A name that an account may have. Raises Invalid."""
    if not is_account_name(text):
        raise Invalid(
            "account", text, "1 to 100 of a-z, 0-9, '.', '_', '@', '+' and '-', beginning with a letter or digit"
        )
    return text


@dataclass(frozen=True, slots=True)
class Actor:
    """Who asks. ``via`` is how that is known: ``local`` (the state folder's own token), ``token``, ``session`` or

    ``events``. ``address`` is where from, ``credential`` the id of the token (never its secret).
    """

    name: str
    grants: tuple[Grant, ...]
    via: str
    address: str = ""
    credential: str = ""

    def may(self, role: Role, key: EnvKey | None) -> bool:
        """Whether the actor has the role in an environment; without one, in the whole installation."""
        return any(
            grant.role.covers(role) and (grant.where == EVERYWHERE if key is None else grant.covers(key))
            for grant in self.grants
        )

    def sees(self, key: EnvKey) -> bool:
        return self.may(Role.VIEWER, key)

    def require(self, role: Role, key: EnvKey | None) -> None:
        """Raises Forbidden, saying what is wanted where and what the actor has."""
        if self.may(role, key):
            return
        place = str(key) if key is not None else "the whole installation"
        held = ", ".join(map(str, self.grants)) or "nothing"
        raise Forbidden(
            f"This wants the role {role} for {place}; {self.name} has {held}.",
            hint="An admin can give it: `crossfade accounts change`.",
            wanted=role.value,
            where=str(key) if key is not None else EVERYWHERE,
        )

    @property
    def identity(self) -> str:
        """Who this is where two different people are wanted. The local token is one person, whatever name it gives."""
        return "local" if self.via == "local" else self.name


def local_actor(name: str, address: str = "") -> Actor:
    """The holder of the state folder's own token: admin of everything. The name is what they call themselves."""
    return Actor(name or "somebody", (Grant(Role.ADMIN),), "local", address)
