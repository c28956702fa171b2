"""Against the running service: the artifact of this commit, as the pipeline has started it."""

from __future__ import annotations

import http.cookiejar
import json
import os
import urllib.error
import urllib.request

URL = os.environ["SHOP_URL"]


def ask(opener, path, body=None):
    request = urllib.request.Request(URL + path, data=None if body is None else json.dumps(body).encode())
    try:
        with opener.open(request, timeout=5) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def visitor():
    return urllib.request.build_opener(urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()))


def test_the_service_has_its_catalogue():
    assert ask(visitor(), "/health")[1]["books"] == 2000
    assert ask(visitor(), "/search?q=quiet+river")[1]["books"]


def test_visitors_have_carts_of_their_own():
    ada, ben = visitor(), visitor()
    assert ask(ada, "/cart", {"book": 1}) == (201, {"books": [1]})
    assert ask(ben, "/cart") == (200, {"books": []})


def test_what_is_not_there_is_404():
    assert ask(visitor(), "/books/999999")[0] == 404
