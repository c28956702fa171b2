"""Signed webhooks: as Standard Webhooks has them, to targets that hang, refuse, redirect and say too much."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from crossfade.domain.errors import Invalid
from crossfade.domain.notice import State
from crossfade.notifiers.posting import LARGEST_ANSWER, may_be_told, post
from crossfade.notifiers.webhook import Webhook, secrets_of, sign
from crossfade.ports.notices import Dispatch, Result
from tests.notifiers.targets import Twin, http_target, notice

SECRET = "whsec_" + base64.b64encode(b"k" * 24).decode()
HOW_TO = Path(__file__).parents[2] / "docs" / "how-to" / "get-told.md"


@pytest.fixture
def twin() -> Iterator[Twin]:
    with http_target() as made:
        yield made


def dispatch(**other: object) -> Dispatch:
    return Dispatch("ntc_0123", notice(**other), 1_700_000_001.9)


def test_a_signature_is_that_of_the_specification() -> None:
    # The vector that the specification's own libraries are tested with.
    [secret] = secrets_of("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n")
    found = sign(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert found == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_who_receives_a_notice_can_check_who_sent_it(twin: Twin) -> None:
    answer = Webhook(f"{twin.url}/hook", secrets_of(SECRET)).carry(dispatch(state=State.OPENED))
    assert (answer.result, answer.sentence) == (Result.SENT, "127.0.0.1 answered 204")
    [got] = twin.got
    assert (got.headers["webhook-id"], got.headers["webhook-timestamp"]) == ("ntc_0123", "1700000001")
    signed = b".".join((b"ntc_0123", b"1700000001", got.body))
    want = base64.b64encode(hmac.new(b"k" * 24, signed, hashlib.sha256).digest()).decode()
    assert got.headers["webhook-signature"] == f"v1,{want}"
    body = json.loads(got.body)
    assert (body["type"], body["timestamp"]) == ("crossfade.alert.opened", "2023-11-14T22:13:20.250Z")
    assert body["data"]["sentence"] == "answers: it burns 20 times too fast"
    assert answer.digest == f"sha256:{hashlib.sha256(got.body).hexdigest()}"


def test_while_a_secret_is_changed_both_sign(twin: Twin) -> None:
    old = "whsec_" + base64.b64encode(b"o" * 32).decode()
    Webhook(twin.url, secrets_of(f"{SECRET}\n\n{old}\n")).carry(dispatch())
    assert len(twin.got[0].headers["webhook-signature"].split(" ")) == 2


@pytest.mark.parametrize(
    "text", ["", "\n", "hunter2", "whsec_c2hvcnQ=", "whsec_*", SECRET.removeprefix("whsec_"), f"{SECRET}\n" * 3]
)
def test_what_is_no_secret_is_refused_and_not_shown(text: str) -> None:
    with pytest.raises(Invalid) as caught:
        secrets_of(text)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("status", [500, 502, 503, 429, 408])
def test_what_may_pass_is_worth_another_try(twin: Twin, status: int) -> None:
    twin.answers, twin.headers = [status], {"Retry-After": "7"}
    answer = post(twin.url, b"{}", {})
    assert (answer.result, answer.after) == (Result.LATER, 7.0)


@pytest.mark.parametrize("status", [400, 401, 404, 410])
def test_a_refusal_is_told_as_one_with_the_beginning_of_its_reason(twin: Twin, status: int) -> None:
    twin.answers, twin.says = [status], b"no such\nhook\x1b[2J" + b"x" * 1000
    answer = post(f"{twin.url}/SECRET", b"{}", {})
    assert answer.result is Result.REFUSED
    assert answer.sentence.startswith(f"127.0.0.1 answered {status}: no such hook [2Jxxx")
    assert len(answer.sentence) < 250


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed(twin: Twin, status: int) -> None:
    with http_target() as elsewhere:
        twin.answers, twin.headers = [status], {"Location": elsewhere.url}
        assert post(twin.url, b"{}", {}).result is Result.REFUSED
        assert elsewhere.got == []


def test_of_an_answer_without_end_only_the_beginning_is_read(twin: Twin) -> None:
    twin.answers, twin.says = [400], b"y" * 200 * LARGEST_ANSWER
    assert post(twin.url, b"{}", {}).result is Result.REFUSED


@pytest.mark.parametrize("how", ["hangs", "drips"])
def test_a_target_that_hangs_is_left_when_its_time_is_over(twin: Twin, how: str) -> None:
    setattr(twin, how, True)
    began = time.monotonic()
    answer = post(twin.url, b"{}", {}, within=0.5)
    assert answer.result is Result.LATER
    assert time.monotonic() - began < 10
    assert "did not answer within 0.5 s" in answer.sentence


def test_what_a_target_says_back_shows_no_secret(twin: Twin) -> None:
    twin.answers, twin.says = [401], b"token abc-token at " + f"{twin.url}/SECRET".encode()
    answer = post(f"{twin.url}/SECRET", b"{}", {}, hidden=("abc-token",))
    assert "abc-token" not in answer.sentence and "SECRET" not in answer.sentence


@pytest.mark.parametrize(
    "says",
    [
        "no /services/T0SECRETS/xyz?token=hunter22222 here",
        "no team T0SECRETS",
        "bad token hunter22222",
        "/services/T0SECRETS/xyz",
    ],
)
def test_what_a_target_says_of_the_path_that_is_its_secret_is_not_quoted(twin: Twin, says: str) -> None:
    twin.answers, twin.says = [404], says.encode()
    answer = post(f"{twin.url}/services/T0SECRETS/xyz?token=hunter22222", b"{}", {})
    assert "T0SECRETS" not in answer.sentence and "hunter2" not in answer.sentence, answer.sentence
    assert "(hidden)" in answer.sentence


@pytest.mark.parametrize(
    "url",
    ["http://example.invalid/", "ftp://127.0.0.1/", "https://", "//127.0.0.1", "https://ada:pw@example.invalid/", "http://[",
     "http://localhost.example.invalid/"],
)  # fmt: skip
def test_only_https_is_spoken_beyond_this_machine(url: str) -> None:
    assert not may_be_told(url)
    answer = post(url, b"{}", {})
    assert answer.result is Result.REFUSED


def test_nobody_who_listens_is_worth_another_try() -> None:
    assert post("http://127.0.0.1:9/", b"{}", {}).result is Result.LATER


def test_what_the_how_to_shows_takes_a_good_one_and_refuses_all_others(twin: Twin, tmp_path: Path) -> None:
    [shown] = [
        code for code in re.findall(r"^```python\n(.*?)^```", HOW_TO.read_text(), re.M | re.S) if "def verify" in code
    ]
    Webhook(twin.url, secrets_of(SECRET)).carry(dispatch())
    [got] = twin.got
    given = {"secret": SECRET, "headers": got.headers, "body": got.body.decode()}
    (tmp_path / "given.json").write_text(json.dumps(given))
    script = f"""
import json
{shown}
given = json.load(open({str(tmp_path / "given.json")!r}))
secret, headers, body = given["secret"], given["headers"], given["body"].encode()
assert verify(secret, headers, body, now=1700000100)
assert not verify(secret, headers, body + b" ", now=1700000100)
assert not verify(secret, headers, body, now=1700000001 + 301)
assert not verify(secret, headers, body, now=1700000001 - 301)
assert not verify(secret, {{**headers, "webhook-id": "ntc_other"}}, body, now=1700000100)
assert not verify("whsec_" + "A" * 32, headers, body, now=1700000100)
assert not verify(secret, {{}}, body, now=1700000100)
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
