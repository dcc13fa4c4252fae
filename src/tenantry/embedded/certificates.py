"""The cluster's certificates: an authority of the platform's own, and the servers' certificate for its address.

Made at the first up with a cluster address and kept. The authority never changes: every node pinned it when it joined.
The servers' certificate is made anew when the address changed, when it is damaged, or when it ends soon; nodes trust
any that the authority signed.
"""

import datetime
import ipaddress
import os
import pwd
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tenantry.embedded.config import Config
from tenantry.embedded.errors import HomeUnusable
from tenantry.embedded.files import write_file
from tenantry.embedded.home import Home
from tenantry.spec.users import control_uid, redis_uid

# Nobody looks after an authority inside a home: it must outlive the machines. The servers' is renewed by any `up`.
CA_DAYS = 30 * 365
SERVER_DAYS = 10 * 365
RENEW_DAYS = 30
# Clocks of machines that join may be behind.
_BACK = datetime.timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Certificates:
    """Files of a cluster. `ca_text` is the authority's certificate as PEM; `renewed`: running servers hold an old one.

    The chain holds the servers' certificate and the authority's, by whose fingerprint a joining machine knows it.
    """

    ca_text: str
    chain: Path
    postgres_key: Path
    redis_key: Path
    gateway_key: Path
    renewed: bool = False


def paths(home: Home, ca_text: str, *, renewed: bool = False) -> Certificates:
    """Return where the files are."""
    postgres, redis, gateway = (home.secrets / f"{name}.tls.key" for name in ("postgres", "redis", "gateway"))
    return Certificates(ca_text, home.etc / "server.pem", postgres, redis, gateway, renewed)


def keep_certificates(home: Home, config: Config) -> Certificates | None:
    """Return the cluster's certificates, making what is missing or due; None without a cluster address.

    The private keys are 0600: the authority's for the home's owner alone, the servers' copied to each server's user.
    """
    if config.cluster_address is None:
        return None
    address = ipaddress.IPv4Address(config.cluster_address)
    ca_key, ca = _keep_ca(home, config.node)
    key_file, chain = home.secrets / "server.key", home.etc / "server.pem"
    due = _is_due(key_file, chain, ca, address)
    if due:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = make_server_certificate(ca_key, ca, key, address)
        write_file(key_file, _key_text(key), 0o600)
        write_file(chain, pem(certificate) + pem(ca))
    made = paths(home, pem(ca), renewed=due)
    text = key_file.read_text()
    write_file(made.postgres_key, text, 0o600, _postgres_owner())
    write_file(made.redis_key, text, 0o600, None if config.uid_base is None else redis_uid(config.uid_base))
    write_file(made.gateway_key, text, 0o600, None if config.uid_base is None else control_uid(config.uid_base))
    return made


def make_ca(key: ec.EllipticCurvePrivateKey, name: str, now: datetime.datetime | None = None) -> x509.Certificate:
    """Return the certificate of an authority."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Tenantry platform on {name}")])
    return (
        _builder(subject, subject, key.public_key(), CA_DAYS, now)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def make_server_certificate(
    ca_key: ec.EllipticCurvePrivateKey,
    ca: x509.Certificate,
    key: ec.EllipticCurvePrivateKey,
    address: ipaddress.IPv4Address,
    now: datetime.datetime | None = None,
) -> x509.Certificate:
    """Return a certificate for servers at `address`."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, str(address))])
    return (
        _builder(subject, ca.subject, key.public_key(), SERVER_DAYS, now)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(address)]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )


def pem(certificate: x509.Certificate) -> str:
    """Return a certificate as text."""
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _keep_ca(home: Home, name: str) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    """Return the authority. The key is written first; a crash between leaves a key, whose certificate is made anew.

    Raises `HomeUnusable` when the key is lost: every node trusts it, so another one would shut them all out.
    """
    key_file, certificate_file = home.secrets / "ca.key", home.etc / "ca.pem"
    if key_file.exists():
        key = serialization.load_pem_private_key(key_file.read_bytes(), None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise HomeUnusable(f"{key_file} is not the key that was made here. Restore it from a copy.")
        if certificate_file.exists():
            return key, x509.load_pem_x509_certificate(certificate_file.read_bytes())
    elif certificate_file.exists():
        raise HomeUnusable(
            f"{key_file} is lost, the key of the authority that every node trusts. Restore it from a copy; or remove "
            f"{certificate_file}, and join every node again."
        )
    else:
        key = ec.generate_private_key(ec.SECP256R1())
        write_file(key_file, _key_text(key), 0o600)
    certificate = make_ca(key, name)
    write_file(certificate_file, pem(certificate))
    return key, certificate


def _is_due(key_file: Path, chain: Path, ca: x509.Certificate, address: ipaddress.IPv4Address) -> bool:
    """Whether the servers need a new certificate."""
    try:
        key = serialization.load_pem_private_key(key_file.read_bytes(), None)
        certificate = x509.load_pem_x509_certificates(chain.read_bytes())[0]
        certificate.verify_directly_issued_by(ca)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (OSError, ValueError, TypeError, IndexError, InvalidSignature, x509.ExtensionNotFound):
        return True
    left = certificate.not_valid_after_utc - datetime.datetime.now(datetime.UTC)
    return (
        key.public_key() != certificate.public_key()
        or names.get_values_for_type(x509.IPAddress) != [address]
        or left < datetime.timedelta(days=RENEW_DAYS)
    )


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    days: int,
    now: datetime.datetime | None,
) -> x509.CertificateBuilder:
    begin = (now or datetime.datetime.now(datetime.UTC)) - _BACK
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + datetime.timedelta(days=days))
    )


def _usage(*, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def _key_text(key: ec.EllipticCurvePrivateKey) -> str:
    """Return the key as PKCS#8, the one form that all three servers read."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def _postgres_owner() -> tuple[int, int] | None:
    if os.geteuid() != 0:
        return None
    entry = pwd.getpwnam("postgres")
    return entry.pw_uid, entry.pw_gid
