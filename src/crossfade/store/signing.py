"""Statements signed with this installation's own key, as DSSE envelopes."""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from crossfade.domain.errors import Invalid, StorageFailed
from crossfade.domain.pipeline.provenance import PAYLOAD

if TYPE_CHECKING:
    from securesystemslib.signer import CryptoSigner, SSlibKey

LARGEST_ENVELOPE: Final = 4 * 1024 * 1024
"""Characters."""

MOST_SIGNATURES: Final = 10
_SIGNED: Final = "a DSSE envelope with a statement that is signed with this key"


class FileSigner:
    """The `Signer` port: an Ed25519 key in ``signing.key`` (PKCS 8, only for its owner), its public part in ``signing.pub``.

    Both are made at first use; whoever is first wins. What is signed is a UTF-8 JSON text of an in-toto statement.
    """

    def __init__(self, state: Path) -> None:
        self._private, self._public = state / "signing.key", state / "signing.pub"
        self._lock = threading.Lock()
        self._signer: CryptoSigner | None = None

    @property
    def key_id(self) -> str:
        """A name of the public key: the SHA-256 over its description, as securesystemslib counts it. Raises StorageFailed."""
        return str(self._open().public_key.keyid)

    def public(self) -> str:
        """The public key as PEM. Raises StorageFailed."""
        return public_of(self._open().private_bytes)

    def sign(self, statement: Mapping[str, Any]) -> str:
        """A DSSE envelope in JSON around the statement. Raises StorageFailed, Invalid for what is not JSON."""
        from securesystemslib.dsse import Envelope  # noqa: PLC0415 - most commands sign nothing

        try:
            payload = json.dumps(statement, ensure_ascii=False, sort_keys=True, allow_nan=False).encode()
        except (TypeError, ValueError) as error:
            raise Invalid("statement", str(error), "a mapping of JSON values") from None
        envelope = Envelope(payload, PAYLOAD, {})
        envelope.sign(self._open())
        return json.dumps(envelope.to_dict())

    def open(self, envelope: str) -> Mapping[str, Any]:
        """The statement of an envelope that this installation signed. Raises Invalid for any other, StorageFailed."""
        return opened(envelope, self._open().public_key)

    def _open(self) -> CryptoSigner:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415 - as above
        from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: PLC0415 - as above
        from securesystemslib.signer import CryptoSigner  # noqa: PLC0415 - as above

        with self._lock:
            if self._signer is None:
                try:
                    pem = self._read()
                except OSError as error:
                    raise StorageFailed.because(f"keep a key in {self._private}", error) from error
                try:
                    key = load_pem_private_key(pem, None)
                except (ValueError, TypeError):
                    key = None
                if not isinstance(key, Ed25519PrivateKey):
                    hint = "Bring it back from a backup: without it, what it has signed cannot be verified any more."
                    raise StorageFailed(f"{self._private} is damaged.", hint=hint)
                self._signer = CryptoSigner(key)
            return self._signer

    def _read(self) -> bytes:
        from securesystemslib.signer import CryptoSigner  # noqa: PLC0415 - as above

        try:
            pem = self._private.read_bytes()
        except FileNotFoundError:
            self._private.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._once(self._private, CryptoSigner.generate_ed25519().private_bytes, 0o600)
            pem = self._private.read_bytes()
        if not self._public.exists():
            with contextlib.suppress(ValueError, TypeError):  # a damaged key is told by who asked for it
                self._once(self._public, public_of(pem).encode(), 0o644)
        return pem

    @staticmethod
    def _once(path: Path, content: bytes, mode: int) -> None:
        """A file that is whole when it is there, and that is never overwritten."""
        draft = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
        try:
            fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, mode)
            with os.fdopen(fd, "wb") as out:
                os.fchmod(fd, mode)
                out.write(content)
                out.flush()
                os.fsync(fd)
            with contextlib.suppress(FileExistsError):
                os.link(draft, path)
        finally:
            draft.unlink(missing_ok=True)


def public_of(private: bytes) -> str:
    """The public key of a private one, both as PEM. Raises ValueError, TypeError."""
    from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415 - as above
        Encoding,
        PublicFormat,
        load_pem_private_key,
    )

    key = load_pem_private_key(private, None).public_key()
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode("ascii")


def key_from_pem(pem: str) -> SSlibKey:
    """A public key as `FileSigner.public` gives it. Raises Invalid."""
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415 - as above
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey  # noqa: PLC0415 - as above
    from cryptography.hazmat.primitives.serialization import load_pem_public_key  # noqa: PLC0415 - as above
    from securesystemslib.signer import SSlibKey  # noqa: PLC0415 - as above

    try:
        key = load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise Invalid("key", "something else", "a public Ed25519 key as PEM: the installation's signing.pub")
    return SSlibKey.from_crypto(key)


def opened(envelope: str, key: SSlibKey) -> Mapping[str, Any]:
    """The statement of an envelope that is signed with this key. Raises Invalid for any other, whatever it is."""
    from securesystemslib.dsse import Envelope  # noqa: PLC0415 - as above
    from securesystemslib.exceptions import VerificationError  # noqa: PLC0415 - as above
    from securesystemslib.signer import Signature  # noqa: PLC0415 - as above

    payload, signatures = _parts(envelope)
    whole = Envelope(payload, PAYLOAD, {keyid: Signature(keyid, sig.hex()) for keyid, sig in signatures.items()})
    try:
        whole.verify([key], 1)
    except VerificationError:
        raise Invalid("envelope", f"signed by {', '.join(signatures)[:100]}", _SIGNED) from None
    statement = _json(payload.decode("utf-8", "replace"), "statement")
    if not isinstance(statement, dict):
        raise Invalid("statement", type(statement).__name__, "a mapping")
    return statement


def _parts(envelope: str) -> tuple[bytes, dict[str, bytes]]:
    """The payload, and the signatures by the key that they name. Raises Invalid for anything else."""
    if len(envelope) > LARGEST_ENVELOPE:
        raise Invalid("envelope", f"{len(envelope)} characters", f"at most {LARGEST_ENVELOPE}")
    read = _json(envelope, "envelope")
    if not isinstance(read, dict) or set(read) != {"payload", "payloadType", "signatures"}:
        raise Invalid("envelope", "something else", "a mapping of payload, payloadType and signatures")
    if read["payloadType"] != PAYLOAD:
        raise Invalid("envelope.payloadType", read["payloadType"], PAYLOAD)
    listed = read["signatures"]
    if not isinstance(listed, list) or not 1 <= len(listed) <= MOST_SIGNATURES:
        raise Invalid("envelope.signatures", "something else", f"a list of 1 to {MOST_SIGNATURES}")
    found: dict[str, bytes] = {}
    for one in listed:
        keyid = one.get("keyid") if isinstance(one, dict) else None
        if not isinstance(keyid, str) or keyid in found:
            raise Invalid("envelope.signatures", "something else", "mappings of keyid and sig, each key once")
        found[keyid] = _decoded(one.get("sig"), "envelope.signatures")
    return _decoded(read["payload"], "envelope.payload"), found


def _decoded(text: Any, place: str) -> bytes:
    """Only the one way of writing bytes in Base64 counts: what is not signed must not be changeable unseen."""
    try:
        found = base64.b64decode(text, validate=True) if isinstance(text, str) else None
    except (binascii.Error, ValueError):
        found = None
    if found is None or base64.b64encode(found).decode("ascii") != text:
        raise Invalid(place, "something else", "Base64")
    return found


def _json(text: str, place: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_once_each, parse_constant=_no_number)
    except (ValueError, RecursionError):
        raise Invalid(place, "text that is not JSON, or has a key twice", "JSON") from None


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key twice")
    return found


def _no_number(text: str) -> Any:
    raise ValueError(text)
