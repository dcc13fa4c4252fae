"""An S3 server on loopback that checks every signature: moto, which knows those in headers, and before it a front that
checks those in addresses (SigV4, written from its description) and passes such requests on with one in the headers."""

import datetime
import hashlib
import hmac
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qsl, quote

import boto3
import httpx
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

REGION = "us-east-1"
BUCKET = "artifacts"
POLICY = '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}'


class Front:
    """A WSGI application before moto's."""

    def __init__(self) -> None:
        self._moto = DomainDispatcherApplication(create_backend_app)
        self.access = self.secret = self.address = ""

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        if "X-Amz-Signature=" in environ.get("QUERY_STRING", ""):
            if not self._is_signed(environ):
                start_response("403 Forbidden", [("Content-Type", "application/xml")])
                return [b"<Error><Code>SignatureDoesNotMatch</Code></Error>"]
            environ["QUERY_STRING"] = ""
            request = AWSRequest("GET", self.address + quote(environ["PATH_INFO"]))
            S3SigV4Auth(Credentials(self.access, self.secret), "s3", REGION).add_auth(request)
            environ |= {f"HTTP_{name.upper().replace('-', '_')}": value for name, value in request.headers.items()}
        elif not environ.get("HTTP_AUTHORIZATION") and not environ["PATH_INFO"].startswith("/moto-api/"):
            start_response("403 Forbidden", [("Content-Type", "application/xml")])
            return [b"<Error><Code>AccessDenied</Code></Error>"]
        return self._moto(environ, start_response)

    def _is_signed(self, environ: dict[str, Any]) -> bool:
        asked = dict(parse_qsl(environ["QUERY_STRING"], keep_blank_values=True))
        signature = asked.pop("X-Amz-Signature")
        date, scope = asked["X-Amz-Date"], asked["X-Amz-Credential"].partition("/")[2]
        begun = datetime.datetime.strptime(date, "%Y%m%dT%H%M%SZ").replace(tzinfo=datetime.UTC)
        age = (datetime.datetime.now(datetime.UTC) - begun).total_seconds()
        query = "&".join(f"{quote(name, '')}={quote(asked[name], '')}" for name in sorted(asked))
        canonical = "\n".join(
            [
                *(environ["REQUEST_METHOD"], quote(environ["PATH_INFO"]), query),
                *(f"host:{environ['HTTP_HOST']}", "", "host", "UNSIGNED-PAYLOAD"),
            ]
        )
        text = "\n".join(["AWS4-HMAC-SHA256", date, scope, hashlib.sha256(canonical.encode()).hexdigest()])
        key = f"AWS4{self.secret}".encode()
        for part in [*scope.split("/"), text]:
            key = hmac.digest(key, part.encode(), "sha256")
        right = hmac.compare_digest(key.hex(), signature) and asked["X-Amz-Credential"].startswith(f"{self.access}/")
        return right and age + 60 >= 0 and age < int(asked["X-Amz-Expires"])


@contextmanager
def serve_s3() -> Iterator[Front]:
    """A server with the bucket BUCKET, and the keys of a user who may do everything."""
    front = Front()
    server = make_server("127.0.0.1", 0, front, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    front.address = f"http://127.0.0.1:{server.server_port}"
    try:
        options: dict[str, Any] = {"endpoint_url": front.address, "region_name": REGION}
        anybody = options | {"aws_access_key_id": "x", "aws_secret_access_key": "x"}
        iam = boto3.client("iam", **anybody)
        iam.create_user(UserName="tenantry")
        iam.put_user_policy(UserName="tenantry", PolicyName="all", PolicyDocument=POLICY)
        key = iam.create_access_key(UserName="tenantry")["AccessKey"]
        front.access, front.secret = key["AccessKeyId"], key["SecretAccessKey"]
        boto3.client("s3", **anybody).create_bucket(Bucket=BUCKET)
        _count_free_requests(front, b"0")
        yield front
    finally:
        _count_free_requests(front, b"inf")
        server.shutdown()
        server.server_close()
        thread.join(10)


def _count_free_requests(front: Front, number: bytes) -> None:
    """How many requests moto takes without a look at their signature."""
    answer = httpx.post(f"{front.address}/moto-api/reset-auth", content=number)
    assert re.match(r"2..", str(answer.status_code)), answer.text
