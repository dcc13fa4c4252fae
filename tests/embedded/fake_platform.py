"""A platform as a joining machine sees it: TLS with an authority of its own, and `POST /api/v1/nodes/join`."""

import json
import ssl
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import IPv4Address
from pathlib import Path
from types import TracebackType
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tenantry.embedded.certificates import make_ca, make_server_certificate, pem
from tenantry.embedded.invitation import fingerprint

ADDRESS = "127.0.0.1"
Answer = tuple[int, Any]


def make_authority(name: str, age: timedelta = timedelta()) -> tuple[ec.EllipticCurvePrivateKey, str]:
    """Return an authority's key and certificate (PEM), made `age` ago."""
    key = ec.generate_private_key(ec.SECP256R1())
    return key, pem(make_ca(key, name, datetime.now(UTC) - age))


class FakePlatform:
    """Serves in a thread on a free port. `answer` gets the request's document; `requests` keeps them.

    `clock`: how far the platform's clock is ahead of ours. `signed_by`: another authority than the one it shows.
    """

    def __init__(
        self,
        place: Path,
        *,
        tls: bool = True,
        clock: timedelta = timedelta(),
        impostor: bool = False,
        answer: Callable[[Any], Answer] | None = None,
    ) -> None:
        self.requests: list[Any] = []
        self.answer = answer or (lambda document: (201, self.joined(document["name"])))
        now = datetime.now(UTC) + clock
        ca_key = ec.generate_private_key(ec.SECP256R1())
        ca = make_ca(ca_key, "platform", now)
        self.ca_text = pem(ca)
        self.fingerprint = fingerprint(ssl.PEM_cert_to_DER_cert(self.ca_text))
        signer = ec.generate_private_key(ec.SECP256R1()) if impostor else ca_key
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = make_server_certificate(signer, ca, key, IPv4Address(ADDRESS), now)
        chain = place / "fake-platform.pem"
        text = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        chain.write_bytes(text + pem(certificate).encode() + self.ca_text.encode())
        self._server = ThreadingHTTPServer((ADDRESS, 0), self._handler())
        self._server.daemon_threads = True
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(chain)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    @property
    def url(self) -> str:
        return f"https://{ADDRESS}:{self._server.server_port}"

    @property
    def token(self) -> str:
        return f"tnj_0123456789abcdef.{self.fingerprint}"

    def joined(self, name: str, **changed: Any) -> dict[str, Any]:
        """Return the platform's answer to a join that it accepts."""
        return {
            "node": name,
            "epoch": "00000000-0000-0000-0000-000000000001",
            "uid_base": None,
            "control_url": self.url,
            "ca": self.ca_text,
            "agent": {
                # Port 1: nothing listens there.
                "dsn": f"host={ADDRESS} port=1 dbname=tenantry user=tenantry_node_2 password=p-2 sslmode=verify-full",
                "node_key": "a-node-key",
                "node_token": "tnn_a-token",
            },
            "tenant_database": {"host": ADDRESS, "port": 1},
            "redis": {"host": ADDRESS, "port": 2},
            "control": None,
        } | changed

    def __enter__(self) -> "FakePlatform":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        platform = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                document = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                platform.requests.append((self.path, document))
                status, told = platform.answer(document)
                text = told if isinstance(told, bytes) else json.dumps(told).encode()
                if status == 0:
                    self.close_connection = True
                    return
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, format: str, *args: Any) -> None:
                """Nobody reads it."""

        return Handler
