"""Keys and certificates of the lab's management planes: made anew for each lab, worth nothing outside of it."""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncssh
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

USERNAME = "haprobe"
_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Credentials:
    """Files of one lab, under one directory: whose they are is in their names."""

    directory: Path

    @property
    def ca(self) -> Path:
        """The CA of every unit's certificate, PEM."""
        return self.directory / "ca.pem"

    @property
    def client_key(self) -> Path:
        """Private key of the one administrator, OpenSSH format."""
        return self.directory / "client.key"

    @property
    def authorized_keys(self) -> Path:
        """The administrator's public key, as the units know it."""
        return self.directory / "authorized_keys"

    @property
    def known_hosts(self) -> Path:
        """Every unit's host key, by each of its addresses."""
        return self.directory / "known_hosts"

    def certificate(self, unit: str) -> Path:
        """A unit's certificate and private key, PEM."""
        return self.directory / f"{unit}.pem"

    def host_key(self, unit: str) -> Path:
        """A unit's SSH host key."""
        return self.directory / f"{unit}.hostkey"

    def token(self, unit: str) -> Path:
        """The REST API token that a unit accepts."""
        return self.directory / f"{unit}.token"

    def know(self, unit: str, address: str, port: int) -> None:
        """Add a port forwarded to a unit's command line to the known hosts."""
        key = asyncssh.read_private_key(self.host_key(unit)).export_public_key().decode().strip()
        with self.known_hosts.open("a") as file:
            file.write(f"[{address}]:{port} {key}\n")


def make(directory: Path, units: dict[str, Iterable[str]]) -> Credentials:
    """Make all of them.

    Args:
        directory: For the files; made if missing, readable by its owner only.
        units: The addresses under which each unit is reached.
    """
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(0o700)
    made = Credentials(directory)
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca = _certificate("haprobe lab CA", ca_key.public_key(), ca_key, None, ())
    made.ca.write_bytes(ca.public_bytes(serialization.Encoding.PEM))
    client = asyncssh.generate_private_key("ssh-ed25519")
    client.write_private_key(made.client_key)
    client.write_public_key(made.authorized_keys)
    known = []
    for unit, addresses in units.items():
        listed = list(addresses)
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _certificate(f"{unit} (stand-in)", key.public_key(), ca_key, ca, listed)
        made.certificate(unit).write_bytes(certificate.public_bytes(serialization.Encoding.PEM) + _pem(key))
        host = asyncssh.generate_private_key("ssh-ed25519")
        host.write_private_key(made.host_key(unit))
        known.append(f"{','.join(listed)} {host.export_public_key().decode().strip()}\n")
        made.token(unit).write_text(secrets.token_urlsafe(24) + "\n")
    made.known_hosts.write_text("".join(known))
    return made


def _certificate(
    name: str,
    public_key: ec.EllipticCurvePublicKey,
    ca_key: ec.EllipticCurvePrivateKey,
    ca: x509.Certificate | None,
    addresses: Iterable[str],
) -> x509.Certificate:
    """A certificate for these addresses, or, without a CA above it, the CA's own."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(ca.subject if ca else subject)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _DAY)
        .not_valid_after(now + 30 * _DAY)
        .add_extension(x509.BasicConstraints(ca=ca is None, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
    )
    names = [x509.IPAddress(ipaddress.ip_address(one)) for one in addresses]
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    if ca is None:
        not_for = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment")
        usage = dict.fromkeys((*not_for, "key_agreement", "encipher_only", "decipher_only"), False)
        builder = builder.add_extension(x509.KeyUsage(key_cert_sign=True, crl_sign=True, **usage), critical=True)
    return builder.sign(ca_key, hashes.SHA256())


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
