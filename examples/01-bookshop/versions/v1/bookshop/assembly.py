"""How the parts are put together. The folders of `faults/` replace this file to break the shop in one certain way."""

from __future__ import annotations

from pathlib import Path

from bookshop.shop import Shop
from bookshop.store import Store


def make_store(database: Path) -> Store:
    return Store(database)


def make_shop(store: Store) -> Shop:
    return Shop(store)


def listening_port(port: int) -> int:
    return port
