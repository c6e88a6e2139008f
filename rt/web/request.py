"""One HTTP request as the hot doors see it, between Tornado's connection and them."""

from __future__ import annotations

import http.client
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from tornado.http1connection import HTTP1Connection
from tornado.httputil import HTTPHeaders, RequestStartLine, ResponseStartLine
from tornado.iostream import IOStream, StreamClosedError

from rt.web.response import JSON
from rt.web.sink import take_over

if TYPE_CHECKING:
    from rt.protocol.address import Proxies
    from rt.web.response import Response
    from rt.web.sink import Socket, Stream

MAX_FIELDS = 64  # parameters in a query


class Request:
    """``method``, ``path``, ``version`` (such as ``HTTP/1.1``), ``headers``; ``body`` is there when the
    request is ``complete``, which it is when a door that takes one is called. ``tenant`` is the one that the path
    named, None where it named none; ``path`` is without it. ``fields`` are headers that its answer is to have; it is
    the ``last`` one where the connection ends behind it."""

    __slots__ = (
        "_address",
        "_connection",
        "_query",
        "body",
        "complete",
        "fields",
        "headers",
        "last",
        "method",
        "path",
        "raw_query",
        "tenant",
        "version",
    )

    def __init__(self, connection: Response | Borrowed, start: RequestStartLine, headers: HTTPHeaders) -> None:
        self._connection = connection
        self.method = start.method
        self.version = start.version
        self.path, _, self.raw_query = start.path.partition("?")
        self.headers = headers
        self.tenant: str | None = None
        self.body = b""
        self.fields: Sequence[tuple[str, str]] = ()
        self.complete = False
        self.last = False
        self._query: dict[str, list[str]] | None = None if self.raw_query else {}
        self._address: str | None = None

    @property
    def query(self) -> dict[str, list[str]]:
        """The parameters of the URL, decoded. ValueError when they are not UTF-8, or too many."""
        if self._query is None:
            self._query = parse_qs(self.raw_query, keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS)
        return self._query

    def parameter(self, name: str) -> str:
        """The last value of one parameter; empty when it is not there. ValueError as for ``query``."""
        return self.query.get(name, [""])[-1]

    def token(self) -> str:
        """The connection token: ``Authorization: Bearer``, else ``?token=``. ValueError as for ``query``."""
        scheme, _, value = self.headers.get("Authorization", "").partition(" ")
        return value.strip() if scheme.lower() == "bearer" else self.parameter("token")

    def api_key(self) -> bytes | None:
        """The key of the server API, from the first of the three places that has one: ``X-API-Key``, ``Authorization:
        apikey``, ``?api_key=``. None when there is none, or the query cannot be read.

        As bytes, since comparing in constant time needs bytes and a header may hold any. A header sent twice is joined
        by a comma and fits no key.
        """
        key = self.headers.get("X-API-Key")
        if key is None:
            scheme, _, rest = self.headers.get("Authorization", "").partition(" ")
            key = rest.strip() if scheme.lower() == "apikey" else None
        if key is not None:
            return key.encode("latin-1", "replace")
        try:
            values = self.query.get("api_key")
        except ValueError:
            return None
        return values[0].encode() if values else None

    def address(self, proxies: Proxies) -> str:
        """Where it comes from: the other end of its connection, or whom one of the trusted ``proxies`` speaks for."""
        if self._address is None:
            header = self.headers.get(proxies.header) if proxies.any else None
            self._address = proxies.client(self._connection.peer, header)
        return self._address

    @property
    def origin(self) -> str | None:
        """The Origin header; None when the request has none."""
        return self.headers.get("Origin")

    @property
    def host(self) -> str | None:
        """The Host header; None when the request has none."""
        return self.headers.get("Host")

    def on_leave(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` when the peer leaves before it was answered or taken over."""
        self._connection.on_leave(callback)

    def reply(
        self,
        status: int,
        body: bytes = b"",
        content_type: str | None = "application/json",
        headers: Sequence[tuple[str, str]] = (),
    ) -> None:
        """Answer, now or later. Harmless when the peer has left meanwhile."""
        if body and content_type:
            if not headers and content_type == "application/json":
                headers = JSON
            elif not any(name == "Content-Type" for name, _ in headers):
                headers = (*headers, ("Content-Type", content_type))
        # What is answered before it was read ends the connection.
        self._connection.reply(status, body, headers, last=self.last or not self.complete)

    def take_over(self) -> tuple[Socket | Stream, bytes]:
        """Take the socket out of HTTP, for good: a sink, and what the peer has sent behind the request.
        StreamClosedError when the peer has left."""
        return self._connection.take_over()


class Borrowed:
    """A connection of Tornado's, for a request of ours: ``peer``, ``on_leave``, ``reply`` and ``take_over`` as of
    Response."""

    __slots__ = ("_connection", "_method")

    def __init__(self, connection: HTTP1Connection, method: str) -> None:
        self._connection = connection
        self._method = method

    @property
    def peer(self) -> str:
        """The address of the other end."""
        return str(getattr(self._connection.context, "remote_ip", ""))

    def on_leave(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` when the peer leaves."""
        stream: IOStream | None = self._connection.stream
        if stream is not None:
            stream.set_close_callback(callback)
            self._connection.set_close_callback(callback)  # when the body is here, Tornado has the one of the stream

    def reply(self, status: int, body: bytes, headers: Sequence[tuple[str, str]], *, last: bool) -> None:
        """Answer in one piece, and with ``last`` close."""
        connection = self._connection
        stream: IOStream | None = connection.stream
        if stream is None or stream.closed():
            return
        fields = HTTPHeaders()
        if status != 204:
            fields.add("Content-Length", str(len(body)))
        for name, value in headers:
            fields.add(name, value)
        if last:
            fields["Connection"] = "close"
        reason = http.client.responses.get(status, "Unknown")
        content = b"" if self._method == "HEAD" else body
        connection.write_headers(ResponseStartLine("HTTP/1.1", status, reason), fields, content)
        connection.finish()

    def take_over(self) -> tuple[Socket | Stream, bytes]:
        """Take the socket. Tornado allows it while the headers are being received; it does the same when the body has
        come, before an answer is begun, as long as that answer is awaited."""
        stream: IOStream | None = self._connection.stream
        if stream is None or stream.closed():
            raise StreamClosedError
        return take_over(self._connection.detach())
