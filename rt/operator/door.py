"""The internal port of a running server, as the command line asks it."""

from __future__ import annotations

import http.client
import ipaddress
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from rt.config import Config
from rt.operator.shown import visible

PATIENCE = 10.0
"""Seconds to wait for an answer, or for the next sign of life of a stream."""

LARGEST = 64 << 20
"""Bytes of an answer, or of an event of a stream."""


class Unanswered(Exception):
    """Nobody answered, or with an error; the text says what to the operator, on one line, whoever wrote it."""

    def __init__(self, words: str) -> None:
        super().__init__(visible(words))


class _Error(msgspec.Struct, frozen=True):
    code: int
    message: str


class _Answer(msgspec.Struct, frozen=True):
    result: dict[str, Any] | None = None
    error: _Error | None = None


_answer = msgspec.json.Decoder(_Answer).decode


class Door:
    """``tenant`` is whose API is called; empty where the config names none. Unanswered when the config has no such
    tenant, or names some and none is given."""

    def __init__(self, config: Config, tenant: str) -> None:
        internal = config.server.internal
        self._host, self._port = reachable(internal.address), internal.port
        self._prefix = ""
        api = config.http_api
        names = [one.name for one in config.tenants]
        if tenant and tenant not in names:
            raise Unanswered(f"the config has no tenant {tenant}")
        self._unclear = ""
        if names and not tenant:
            self._unclear = f"name a tenant with --tenant: {', '.join(names)}"
        if tenant:
            api = config.tenants[names.index(tenant)].http_api
            self._prefix = f"/t/{tenant}"
        self._key = api.key.encode()
        if not self._unclear and not self._key and not api.insecure:
            self._unclear = "http_api.key is not set, and without it the API answers nobody"

    def get(self, path: str) -> tuple[int, bytes]:
        """Status and body of a GET. Unanswered for one that is too large or too slow, here and below."""
        with self._open() as connection:
            connection.request("GET", path)
            with connection.getresponse() as response:
                return response.status, _body(response)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """The result of a method of the server API."""
        with self._open() as connection, self._ask(connection, method, params) as response:
            return _result(response.status, _body(response))

    def stream(self, method: str, **params: Any) -> Iterator[dict[str, Any]]:
        """The events of a method that answers with a stream, to its end."""
        with self._open() as connection, self._ask(connection, method, params) as response:
            if not (response.getheader("Content-Type") or "").startswith("text/event-stream"):
                _result(response.status, _body(response))
                raise Unanswered("the server answered with something else than a stream")
            while line := response.readline(LARGEST):
                if line.startswith(b"data: "):
                    yield _event(line[len(b"data: ") :])

    def _ask(self, connection: http.client.HTTPConnection, method: str, params: Any) -> http.client.HTTPResponse:
        if self._unclear:
            raise Unanswered(self._unclear)
        asked = {name: value for name, value in params.items() if value is not None}
        headers = {"X-API-Key": self._key} if self._key else {}
        try:
            connection.request("POST", f"{self._prefix}/api/{method}", msgspec.json.encode(asked), headers)
        except ValueError:  # whose text holds the key
            raise Unanswered("http_api.key is not fit for a header") from None
        return connection.getresponse()

    @contextmanager
    def _open(self) -> Iterator[http.client.HTTPConnection]:
        connection = http.client.HTTPConnection(self._host, self._port, timeout=PATIENCE)
        try:
            yield connection
        except TimeoutError:
            raise Unanswered(f"no answer within {PATIENCE:g} s at {self._host} port {self._port}") from None
        except (OSError, http.client.HTTPException) as error:
            words = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise Unanswered(f"no running server answers at {self._host} port {self._port}: {words}") from None
        finally:
            connection.close()


def reachable(address: str) -> str:
    """Where to ask for what listens on ``address``: here, when that is every address."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    if found.is_unspecified:
        return "127.0.0.1" if found.version == 4 else "::1"
    return address


def _body(response: http.client.HTTPResponse) -> bytes:
    """All of it, neither larger than is good for us nor slower."""
    until, body = time.monotonic() + PATIENCE, bytearray()
    while part := response.read1(65536):
        body += part
        if len(body) > LARGEST:
            raise Unanswered(f"the answer is larger than {LARGEST >> 20} MiB")
        if time.monotonic() > until:
            raise TimeoutError
    if response.length:
        raise http.client.IncompleteRead(bytes(body), response.length)
    return bytes(body)


def _event(text: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except ValueError:
        raise Unanswered("the stream has an event that makes no sense") from None


def _result(status: int, body: bytes) -> dict[str, Any]:
    try:
        answer = _answer(body)
    except ValueError:
        answer = _Answer()
    if answer.result is not None:
        return answer.result
    if answer.error is not None:
        raise Unanswered(f"error {answer.error.code}: {answer.error.message}")
    if status == 401:
        raise Unanswered("the server has another http_api.key than this config")
    raise Unanswered(f"the server answered with the status {status}")
