"""A join token, and the certificate authority it vouches for. Standard library only.

A token is `tnj_<secret>.<fingerprint>`: the fingerprint is the first 32 hexadecimal digits of the SHA-256 of the
platform's CA certificate. Whoever holds the token can therefore tell the platform from somebody in the middle before
saying the secret, without any certificate installed beforehand.
"""

import hashlib
import re
import socket
import ssl
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from tenantry.embedded.errors import JoinFailed

FINGERPRINT_DIGITS = 32
_TOKEN = re.compile(r"(tnj_[A-Za-z0-9_-]{8,200})\.([0-9a-f]{32})\Z")
_CONNECT_SECONDS = 10


@dataclass(frozen=True, slots=True)
class Invitation:
    """Where the platform is and what lets a machine in."""

    url: str
    fingerprint: str
    secret: str = field(repr=False)


def parse_invitation(url: str, token: str) -> Invitation:
    """Return the invitation; `ValueError` says what is wrong with which."""
    secret, fingerprint = parse_token(token)
    return Invitation(parse_url(url), fingerprint, secret)


def parse_url(text: str) -> str:
    """Return the platform's URL without a path; `ValueError` for anything but https://HOST[:PORT]."""
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host:
        raise ValueError(f"{text!r} is no address; one looks like https://10.0.0.1:8081")
    if parts.scheme == "http":
        raise ValueError(
            f"{text!r} is not encrypted, and a join carries passwords: use the https:// address that "
            "«tenantry node token» prints"
        )
    if parts.scheme != "https" or parts.username or parts.query or parts.fragment or parts.path not in ("", "/"):
        raise ValueError(f"{text!r} is not the platform's address; one looks like https://10.0.0.1:8081")
    return f"https://{f'[{host}]' if ':' in host else host}{f':{port}' if port else ''}"


def parse_token(text: str) -> tuple[str, str]:
    """Return a join token's secret (`tnj_…`) and fingerprint; `ValueError` when it has not that form."""
    match = _TOKEN.match(text)
    if match is None:
        # Not shown: it may be a whole token with one character too many, in somebody's terminal log.
        raise ValueError("this is not a join token (tnj_….…, all of it); «tenantry node token» makes one")
    return match[1], match[2]


def fingerprint(certificate: bytes) -> str:
    """Return the fingerprint of a certificate in DER form, as tokens carry it."""
    return hashlib.sha256(certificate).hexdigest()[:FINGERPRINT_DIGITS]


def pin_ca(invitation: Invitation) -> str:
    """Return the CA certificate (PEM) that the token names, from what the server shows. Says nothing secret.

    Raises `JoinFailed` when nothing answers there, it does not speak TLS, or it shows another authority.
    """
    chain = fetch_chain(invitation.url)
    for certificate in chain:
        if fingerprint(certificate) == invitation.fingerprint:
            return ssl.DER_cert_to_PEM_cert(certificate)
    raise JoinFailed(
        f"{invitation.url} is not the platform that made this token: its certificates are others "
        f"({', '.join(fingerprint(certificate)[:8] for certificate in chain) or 'none'}; the token says "
        f"{invitation.fingerprint[:8]}). Either the address is another platform's, or somebody stands between. "
        "The token was not sent."
    )


def fetch_chain(url: str) -> list[bytes]:
    """Return the certificates (DER) that the server at `url` shows, unverified. `JoinFailed` when there is none."""
    host, port = host_and_port(url)
    # What is fetched here is compared with the token's fingerprint; nothing is sent over this connection.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with (
            socket.create_connection((host, port), _CONNECT_SECONDS) as plain,
            context.wrap_socket(plain, server_hostname=host) as secure,
        ):
            return _shown(secure)
    except ssl.SSLError as error:
        raise JoinFailed(
            f"{url} does not speak TLS as the platform does ({error.reason or error}). Is it the address that "
            "«tenantry node token» printed?"
        ) from error
    except OSError as error:
        raise JoinFailed(
            f"{url} cannot be reached: {error.strerror or error}. Check that the platform runs with "
            f"--cluster-address, and that this machine may reach port {port} of it."
        ) from error


def host_and_port(url: str) -> tuple[str, int]:
    """Return where to connect to for `url`, as `parse_url` made it."""
    parts = urlsplit(url)
    return str(parts.hostname), parts.port or 443


def verified_context(ca: str) -> ssl.SSLContext:
    """Return a TLS context that trusts servers with a certificate by `ca` (PEM) for the name or address asked."""
    return ssl.create_default_context(cadata=ca)


def _shown(secure: ssl.SSLSocket) -> list[bytes]:
    """Return the handshake's certificates. Python has a public method for it since 3.13, the same inside before."""
    public: Any = getattr(secure, "get_unverified_chain", None)
    if public is not None:
        return [bytes(certificate) for certificate in public()]
    inner: Any = secure._sslobj  # type: ignore[attr-defined]
    chain = inner.get_unverified_chain() or []
    return [ssl.PEM_cert_to_DER_cert(certificate.public_bytes()) for certificate in chain]
