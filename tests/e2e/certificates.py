"""Certificates for tests, made on the spot."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID


def make(folder: Path, name: str = "crossfade.test", days: float = 90.0, password: str = "") -> tuple[Path, Path]:
    """A self-signed certificate and its key; a negative number of days is one that has ended."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=100))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName(name), x509.IPAddress(ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    encryption = BestAvailableEncryption(password.encode()) if password else NoEncryption()
    certificate, private = folder / "cert.pem", folder / "key.pem"
    for path, data in (
        (private, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)),
        (certificate, made.public_bytes(Encoding.PEM)),
    ):
        fresh = path.with_suffix(".fresh")
        fresh.write_bytes(data)
        fresh.chmod(0o600)
        fresh.replace(path)
    return certificate, private
