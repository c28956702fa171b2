from __future__ import annotations

import json
import sqlite3

import pytest

from shop import carts, catalogue
from shop.__main__ import Shop
from shop.pool import Exhausted, Pool


@pytest.fixture
def database() -> sqlite3.Connection:
    found = sqlite3.connect(":memory:")
    catalogue.fill(found)
    return found


@pytest.fixture
def shop(tmp_path) -> Shop:
    return Shop(str(tmp_path / "shop.db"))


def test_a_book_is_found_by_its_number(database):
    assert catalogue.book(database, 7) == {"id": 7, "title": "The Hidden River, volume 7", "price": 1159}
    assert catalogue.book(database, 0) is None


def test_the_catalogue_is_listed_page_by_page(database):
    first, second = catalogue.listed(database, 1), catalogue.listed(database, 2)
    assert [book["id"] for book in first + second] == list(range(1, 41))


def test_a_search_finds_the_books_that_have_all_the_words(database):
    found = catalogue.search(database, "blue garden")
    assert found and all("Blue Garden" in book["title"] for book in found)
    assert catalogue.search(database, "") == [] and catalogue.search(database, "nothing-like-it") == []


def test_an_order_has_the_books_of_the_cart_and_empties_it(database):
    chosen = carts.Carts()
    chosen.put("ada", 1)
    chosen.put("ada", 2)
    assert carts.order(database, chosen, "ada") == {"order": 1, "books": [1, 2], "total": 937 + 974}
    assert chosen.of("ada") == [] and carts.order(database, chosen, "ada") is None


def test_the_cart_is_known_by_its_cookie(shop):
    status, said, headers = shop.answer("POST", "/cart", "", b'{"book": 3}')
    assert (status, said) == (201, {"books": [3]})
    name = headers["Set-Cookie"].split(";")[0]
    assert shop.answer("GET", "/cart", name, b"")[1] == {"books": [3]}
    assert shop.answer("GET", "/cart", "cart=another", b"")[1] == {"books": []}
    assert carts.name_of("broken=") == "" and carts.name_of("") == ""


def test_every_path_answers(shop):
    assert shop.answer("GET", "/health", "", b"")[1] == {"status": "ok", "books": 2000}
    assert shop.answer("GET", "/books/5", "", b"")[0] == 200
    assert shop.answer("GET", "/books/0", "", b"")[0] == 404
    assert shop.answer("GET", "/books?page=2", "", b"")[1]["books"][0]["id"] == 21
    assert shop.answer("GET", "/books?page=x", "", b"")[0] == 422
    assert shop.answer("GET", "/search?q=golden", "", b"")[1]["books"]
    assert shop.answer("GET", "/nowhere", "", b"")[0] == 404
    assert "<h1>Bookshop" in shop.answer("GET", "/", "", b"")[1]
    assert shop.answer("GET", "/openapi.json", "", b"")[1]["openapi"].startswith("3.")
    assert shop.answer("POST", "/orders", "", b"")[0] == 409
    assert shop.answer("POST", "/cart", "", b"no json")[0] == 422
    assert shop.answer("POST", "/cart", "", json.dumps({"book": 99999}).encode())[0] == 404
    name = shop.answer("POST", "/cart", "", b'{"book": 3}')[2]["Set-Cookie"].split(";")[0]
    assert shop.answer("POST", "/orders", name, b"")[0] == 201


def test_who_finds_no_connection_free_is_told_so():
    pool = Pool(lambda: sqlite3.connect(":memory:"), 1, patience=0.01)
    with pool.connection(), pytest.raises(Exhausted):
        pool.connection().__enter__()
    with pool.connection() as again:
        assert again.execute("SELECT 1").fetchone() == (1,)
