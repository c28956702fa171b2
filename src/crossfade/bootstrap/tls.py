"""The server's certificate: looked at before it is used, watched while it is, and trusted by its own CLI."""

from __future__ import annotations

import contextlib
import logging
import os
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from crossfade.domain.errors import Refused

LARGEST: Final = 1024 * 1024
"""Bytes of a file."""

WARNED_BEFORE: Final = 14 * 86400.0
"""Seconds before the end of a certificate from which on it is spoken of."""

WATCHED_EVERY: Final = 2.0
"""Seconds between two looks at the files."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate that fits its key. ``until`` is epoch seconds, ``pem`` the server's own without its issuers'."""

    path: Path
    key: Path
    names: tuple[str, ...]
    until: float
    pem: bytes

    def ends_soon(self, now: float) -> bool:
        return self.until - now < WARNED_BEFORE

    def describe(self, now: float) -> str:
        """For whom, and how long still."""
        day = datetime.fromtimestamp(self.until, UTC).strftime("%Y-%m-%d")
        names = ", ".join(self.names) or "no name"
        return f"the certificate for {names} is valid until {day} ({(self.until - now) / 86400:.0f} days)"


def examine(certificate: Path, key: Path, now: float) -> Certificate:
    """Look at a certificate and its key. Raises Refused, saying which file is wrong and how."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    data = _read(certificate, "certificate")
    _read(key, "key")
    try:
        found = x509.load_pem_x509_certificates(data)[0]
    except ValueError:
        raise Refused(
            f"The TLS certificate {certificate} is not a certificate in PEM.",
            hint="The file begins with -----BEGIN CERTIFICATE-----; the server's own comes first, then its issuers'.",
        ) from None
    begins, until = found.not_valid_before_utc.timestamp(), found.not_valid_after_utc.timestamp()
    if now >= until:
        day = datetime.fromtimestamp(until, UTC).strftime("%Y-%m-%d %H:%M UTC")
        raise Refused(f"The TLS certificate {certificate} expired on {day}.", hint="Renew it.")
    if now < begins - 300:  # clocks differ a little
        day = datetime.fromtimestamp(begins, UTC).strftime("%Y-%m-%d %H:%M UTC")
        raise Refused(f"The TLS certificate {certificate} is not valid before {day}.", hint="Is this clock right?")
    context(certificate, key)
    return Certificate(certificate, key, _names(found), until, found.public_bytes(Encoding.PEM))


def _names(found: object) -> tuple[str, ...]:
    from cryptography import x509

    assert isinstance(found, x509.Certificate)
    try:
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return ()
    hosts = names.get_values_for_type(x509.DNSName)
    return (*hosts, *map(str, names.get_values_for_type(x509.IPAddress)))


def _read(path: Path, what: str) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
    except OSError as error:
        raise Refused(
            f"The TLS {what} {path} cannot be read: {error.strerror}.",
            hint="It must be a file that the user of the server can read.",
        ) from error
    if len(data) > LARGEST:
        raise Refused(f"The TLS {what} {path} has more than 1 MiB.")
    return data


def _no_password() -> str:
    raise Refused("The TLS key is encrypted.", hint="A server that starts by itself cannot ask: decrypt the key.")


def context(certificate: Path, key: Path) -> ssl.SSLContext:
    """For a server: TLS 1.2 or newer. Raises Refused when key and certificate do not fit."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION | ssl.OP_CIPHER_SERVER_PREFERENCE
    made.set_alpn_protocols(["http/1.1"])
    _load(made, certificate, key)
    return made


def _load(made: ssl.SSLContext, certificate: Path, key: Path) -> None:
    try:
        made.load_cert_chain(certificate, key, _no_password)
    except (ssl.SSLError, OSError) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or "unreadable"
        fits = "MISMATCH" in str(reason)
        raise Refused(
            f"The TLS key {key} does not belong to the certificate {certificate}."
            if fits
            else f"The TLS certificate {certificate} and its key {key} cannot be used ({reason}).",
            hint="Both must be PEM, and made together.",
        ) from error


def pinned(certificate: Path) -> ssl.SSLContext:
    """For a client of this very server: trusts the one certificate in the file, whatever names it has, and no other.

    The file is written by the server into its state folder: who could change it could read the token beside it.
    Raises OSError, ssl.SSLError.
    """
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    # The certificate itself is known, so that its names add nothing; it need not be its own issuer.
    made.check_hostname = False
    made.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    made.load_verify_locations(certificate)
    return made


def trusting(authorities: Path) -> ssl.SSLContext:
    """For a client of somebody else's server: trusts whom the certificates in the file vouch for. Raises Refused."""
    try:
        return ssl.create_default_context(cafile=str(authorities))
    except (OSError, ssl.SSLError) as error:
        raise Refused(f"The certificates in {authorities} cannot be read: {error}.", hint="It must be PEM.") from error


def write_pin(path: Path, certificate: Certificate) -> None:
    """Tell the clients of this machine whom to trust."""
    fresh = path.with_suffix(".new")
    fresh.write_bytes(certificate.pem)
    fresh.replace(path)


class Watched:
    """A context whose certificate is read again when its files change: renewing it needs no restart.

    What does not fit is not taken: the one before goes on being used, and the log says why.
    """

    def __init__(
        self, certificate: Certificate, changed: Callable[[Certificate], None], now: Callable[[], float]
    ) -> None:
        self.context = context(certificate.path, certificate.key)
        self._files = (certificate.path, certificate.key)
        self._changed, self._now = changed, now
        self._seen = self._look()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="certificate", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()

    def _watch(self) -> None:
        while not self._stop.wait(WATCHED_EVERY):
            seen = self._look()
            if seen != self._seen:
                self._seen = seen
                self._take()

    def _take(self) -> None:
        try:
            fresh = examine(*self._files, self._now())
            _load(self.context, *self._files)
            self._changed(fresh)
        except (Refused, OSError) as error:
            _log.warning("The changed TLS certificate is not taken, the one before stays: %s", error)
        else:
            _log.info("A new TLS certificate is used: %s", fresh.describe(self._now()))

    def _look(self) -> tuple[tuple[int, int, int], ...]:
        found = []
        for path in self._files:
            with contextlib.suppress(OSError):
                status = os.stat(path)
                found.append((status.st_mtime_ns, status.st_size, status.st_ino))
        return tuple(found)
