"""Public keys and who publishes them: signers of every kind, and an endpoint that serves their key set or misbehaves.

Tokens are signed with the primitives alone, not with the library that the server verifies them with.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import json
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.tokens import encode

HASHES: dict[str, hashes.HashAlgorithm] = {"256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512()}
CURVES: dict[str, tuple[str, ec.EllipticCurve]] = {
    "ES256": ("P-256", ec.SECP256R1()),
    "ES384": ("P-384", ec.SECP384R1()),
    "ES512": ("P-521", ec.SECP521R1()),
}
ALGORITHMS = ("RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "EdDSA")

Private = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


@dataclass(frozen=True)
class Signer:
    """A private key and the name it is published under; ``algorithm`` is what it signs with unless told otherwise."""

    key: Private
    algorithm: str
    kid: str

    def sign(self, claims: dict[str, Any], alg: str = "", **header: Any) -> str:
        """A token; its header says ``alg`` and, unless told otherwise, the ``kid``. A header of None is left out."""
        head = {"alg": alg or self.algorithm, "typ": "JWT", "kid": self.kid, **header}
        head = {name: value for name, value in head.items() if value is not None}
        signed = f"{encode(json.dumps(head).encode())}.{encode(json.dumps(claims).encode())}"
        return f"{signed}.{encode(self.signature(signed.encode(), alg))}"

    def signature(self, data: bytes, alg: str = "") -> bytes:
        """Sign as the key's kind does, with the hash of ``alg`` (by default, and where it has none, the key's own)."""
        key, digest = self.key, HASHES.get((alg or self.algorithm)[-3:], HASHES["256"])
        if isinstance(key, ed25519.Ed25519PrivateKey):
            return key.sign(data)
        if isinstance(key, rsa.RSAPrivateKey):
            return key.sign(data, padding.PKCS1v15(), digest)
        size = (key.curve.key_size + 7) // 8
        return b"".join(part.to_bytes(size, "big") for part in decode_dss_signature(key.sign(data, ec.ECDSA(digest))))

    @property
    def pem(self) -> str:
        """The public half, as a PEM."""
        return self.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()

    def jwk(self, **changes: Any) -> dict[str, Any]:
        """The public half, as an entry of a key set; ``changes`` add or replace, and None removes."""
        entry = {"kid": self.kid, "alg": self.algorithm, "use": "sig", **self._numbers(), **changes}
        return {name: value for name, value in entry.items() if value is not None}

    def _numbers(self) -> dict[str, str]:
        key = self.key
        if isinstance(key, ed25519.Ed25519PrivateKey):
            raw = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
            return {"kty": "OKP", "crv": "Ed25519", "x": encode(raw)}
        if isinstance(key, rsa.RSAPrivateKey):
            public = key.public_key().public_numbers()
            return {"kty": "RSA", "n": number(public.n), "e": number(public.e)}
        point = key.public_key().public_numbers()
        size = (key.curve.key_size + 7) // 8
        name = next(name for name, curve in CURVES.values() if curve.name == key.curve.name)
        return {"kty": "EC", "crv": name, "x": number(point.x, size), "y": number(point.y, size)}


@functools.cache
def signer(algorithm: str, kid: str = "", bits: int = 2048) -> Signer:
    """A signer for this algorithm; the same one for the same arguments, because keys take long to make."""
    if algorithm == "EdDSA":
        return Signer(ed25519.Ed25519PrivateKey.generate(), algorithm, kid or algorithm)
    if algorithm in CURVES:
        return Signer(ec.generate_private_key(CURVES[algorithm][1]), algorithm, kid or algorithm)
    return Signer(_rsa(kid, bits), algorithm, kid or algorithm)


@functools.cache
def _rsa(kid: str, bits: int) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, bits)


def number(value: int, size: int = 0) -> str:
    """A number as key sets write it."""
    return encode(value.to_bytes(size or (value.bit_length() + 7) // 8, "big"))


def jwks(*entries: Any) -> bytes:
    """A key set of these signers, or of entries as they are."""
    return json.dumps({"keys": [e.jwk() if isinstance(e, Signer) else e for e in entries]}).encode()


def der(pem: str) -> bytes:
    """What a PEM wraps."""
    return base64.b64decode("".join(line for line in pem.splitlines() if "-----" not in line))


class Endpoint:
    """An HTTP server on a port of its own, in threads of its own.

    ``answer`` is called for each request, with what writes the response, and may be exchanged at any time; ``paths``
    are the paths that were asked for. ``ended`` is set at the end: an answer that takes long waits for it.
    """

    def __init__(self, *entries: Any) -> None:
        self.paths: list[str] = []
        self.ended = threading.Event()
        self.answer: Callable[[BaseHTTPRequestHandler], None] = body(jwks(*entries))
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/keys.json"

    def publish(self, *entries: Any) -> None:
        """Serve this key set from now on."""
        self.answer = body(jwks(*entries))

    def wrap(self, context: ssl.SSLContext) -> None:
        """Serve over TLS from now on."""
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.url = self.url.replace("http:", "https:").replace("127.0.0.1", "localhost")

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                endpoint.paths.append(self.path)
                # Who asked may have left.
                with contextlib.suppress(OSError):
                    endpoint.answer(self)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        return Handler

    def __enter__(self) -> Endpoint:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.ended.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def body(data: bytes, *, status: int = 200, kind: str = "application/json", **headers: str) -> Any:
    """An answer with this body. ``headers`` are added, with ``_`` for ``-``."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(data)), **headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(data)

    return answer


def drip(ended: threading.Event, gap: float = 0.02) -> Any:
    """An answer that never ends: a byte now and then."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        while not ended.wait(gap):
            handler.wfile.write(b" ")

    return answer


def flood(size: int, *, chunked: bool = False) -> Any:
    """An answer of ``size`` bytes that does not say how long it is, in chunks or until it closes."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.protocol_version = "HTTP/1.1"
        handler.send_response(200)
        if chunked:
            handler.send_header("Transfer-Encoding", "chunked")
        handler.send_header("Connection", "close")
        handler.end_headers()
        piece = b" " * 65536
        for _ in range(size // len(piece)):
            handler.wfile.write(b"10000\r\n%b\r\n" % piece if chunked else piece)

    return answer
