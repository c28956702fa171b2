"""How the parts are put together, but a setting is missing, and so it ends at once."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

from bookshop.shop import Shop
from bookshop.store import Store


def make_store(_: Path) -> NoReturn:
    raise RuntimeError("PAYMENT_KEY is not set")


def make_shop(store: Store) -> Shop:
    return Shop(store)


def listening_port(port: int) -> int:
    return port
