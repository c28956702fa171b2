"""Signed statements: only what this installation has signed is opened, and only as it was signed."""

from __future__ import annotations

import base64
import json
import stat
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossfade.domain.errors import Invalid, StorageFailed
from crossfade.store.signing import LARGEST_ENVELOPE, FileSigner, key_from_pem, opened

SAID = {"_type": "https://in-toto.io/Statement/v1", "subject": [{"name": "bücher", "digest": {"sha256": "ab"}}]}


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> FileSigner:
    return FileSigner(tmp_path_factory.mktemp("signing"))


def envelope_of(signer: FileSigner) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(signer.sign(SAID))
    return found


def test_what_is_signed_is_opened_again_by_another_process_with_the_same_folder(tmp_path: Path) -> None:
    envelope = FileSigner(tmp_path).sign(SAID)
    assert FileSigner(tmp_path).open(envelope) == SAID


def test_the_public_key_alone_opens_it_anywhere(signer: FileSigner) -> None:
    key = key_from_pem(signer.public())
    assert opened(signer.sign(SAID), key) == SAID
    assert key.keyid == signer.key_id


def test_an_envelope_is_dsse_as_other_tools_read_it(signer: FileSigner) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    found = envelope_of(signer)
    assert found["payloadType"] == "application/vnd.in-toto+json"
    assert [one["keyid"] for one in found["signatures"]] == [signer.key_id]
    payload = base64.b64decode(found["payload"])
    assert json.loads(payload) == SAID
    # https://github.com/secure-systems-lab/dsse/blob/master/protocol.md
    kind = found["payloadType"]
    signed = b"DSSEv1 %d %b %d %b" % (len(kind), kind.encode(), len(payload), payload)
    key = load_pem_public_key(signer.public().encode())
    assert isinstance(key, Ed25519PublicKey)
    key.verify(base64.b64decode(found["signatures"][0]["sig"]), signed)


@settings(deadline=None)
@given(st.data())
def test_any_change_of_a_byte_in_payload_or_signature_is_refused(signer: FileSigner, data: st.DataObject) -> None:
    found = envelope_of(signer)
    holder, key = data.draw(st.sampled_from([(found, "payload"), (found["signatures"][0], "sig")]))
    content = bytearray(base64.b64decode(holder[key]))
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= data.draw(st.integers(1, 255))
    holder[key] = base64.b64encode(content).decode()
    with pytest.raises(Invalid):
        signer.open(json.dumps(found))


@settings(deadline=None)
@given(st.data())
def test_any_change_of_a_character_in_an_envelope_is_refused_or_means_the_same(
    signer: FileSigner, data: st.DataObject
) -> None:
    text = signer.sign(SAID)
    at = data.draw(st.integers(0, len(text) - 1))
    changed = text[:at] + data.draw(st.characters(codec="utf-8")) + text[at + 1 :]
    try:
        assert signer.open(changed) == SAID
    except Invalid:
        return
    assert json.loads(changed) == json.loads(text)


def test_what_another_installation_has_signed_is_refused(signer: FileSigner, tmp_path: Path) -> None:
    other = FileSigner(tmp_path)
    with pytest.raises(Invalid, match="signed with this key"):
        signer.open(other.sign(SAID))
    forged = json.loads(other.sign(SAID))
    forged["signatures"][0]["keyid"] = signer.key_id
    with pytest.raises(Invalid):
        signer.open(json.dumps(forged))


def test_a_signature_of_another_key_beside_ours_does_no_harm(signer: FileSigner, tmp_path: Path) -> None:
    found = envelope_of(signer)
    found["signatures"].insert(0, json.loads(FileSigner(tmp_path).sign(SAID))["signatures"][0])
    assert signer.open(json.dumps(found)) == SAID


def changed(signer: FileSigner, **keys: Any) -> str:
    return json.dumps({**envelope_of(signer), **keys})


def test_malformed_envelopes_are_refused(signer: FileSigner) -> None:
    found = envelope_of(signer)
    signature = found["signatures"][0]
    bad = [
        "", "null", "[]", "{}", "3", "{", "\0", "NaN", "[" * 100_000,
        json.dumps({k: v for k, v in found.items() if k != "payload"}),
        changed(signer, more=1),
        changed(signer, payload=3), changed(signer, payload="é"), changed(signer, payload=found["payload"] + "\n"),
        changed(signer, payload=found["payload"] + "="), changed(signer, payloadType="text/plain"),
        changed(signer, payloadType=None), changed(signer, signatures=[]), changed(signer, signatures={}),
        changed(signer, signatures=[signature] * 2), changed(signer, signatures=[signature | {"sig": None}]),
        changed(signer, signatures=["x"]), changed(signer, signatures=[{**signature, "keyid": f"{n}"} for n in range(11)]),
        changed(signer, signatures=[signature | {"keyid": 3}]), changed(signer, signatures=[signature | {"sig": ""}]),
        '{"payload": "", ' + json.dumps(found)[1:],
        " " * (LARGEST_ENVELOPE + 1),
    ]  # fmt: skip
    for text in bad:
        with pytest.raises(Invalid):
            signer.open(text)


def test_only_json_is_signed(signer: FileSigner) -> None:
    for value in ({"a": float("nan")}, {"a": object()}, {"a": "\udc80"}):
        with pytest.raises(Invalid):
            signer.sign(value)


def test_the_private_key_is_its_owners_alone_and_the_public_one_is_beside_it(tmp_path: Path) -> None:
    signer = FileSigner(tmp_path / "state")
    public = signer.public()
    private = tmp_path / "state" / "signing.key"
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert (tmp_path / "state" / "signing.pub").read_text() == public
    assert b"PRIVATE" in private.read_bytes() and "PRIVATE" not in public
    assert sorted(path.name for path in private.parent.iterdir()) == ["signing.key", "signing.pub"]


def test_nothing_is_made_before_it_is_needed(tmp_path: Path) -> None:
    FileSigner(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_many_at_once_make_one_key(tmp_path: Path) -> None:
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(FileSigner(tmp_path).key_id)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8 and len(set(found)) == 1


def test_a_damaged_key_is_told_and_never_replaced(tmp_path: Path) -> None:
    for content in (b"", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"):
        (tmp_path / "signing.key").write_bytes(content)
        with pytest.raises(StorageFailed, match="damaged"):
            FileSigner(tmp_path).sign(SAID)
        assert (tmp_path / "signing.key").read_bytes() == content


def test_a_file_that_is_no_public_key_is_refused(signer: FileSigner, tmp_path: Path) -> None:
    signer.public()
    for pem in ("", "x", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "\0é"):
        with pytest.raises(Invalid, match="public Ed25519 key"):
            key_from_pem(pem)
