"""Which door a request goes to: the hot ones directly, all others by Tornado's ``Application``.

It stands on Tornado's documented delegate interface (``HTTPServerConnectionDelegate``, ``HTTPMessageDelegate``), so
that what parses HTTP below it can be exchanged.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping

from tornado.http1connection import HTTP1Connection
from tornado.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPMessageDelegate,
    HTTPServerConnectionDelegate,
    RequestStartLine,
    ResponseStartLine,
)
from tornado.iostream import StreamClosedError

from rt.logs import Limited
from rt.web.request import Request

log = Limited(logging.getLogger("rt.web"))

Door = Callable[[Request], None]

MAX_HEADERS = 16 << 10  # bytes of a request's line and headers; more is answered 431
CLOSE = ("Connection", "close")


class Router(HTTPServerConnectionDelegate):
    """``streams`` take the socket over, and are called when the headers are there; ``api`` gets whole requests below
    /api."""

    def __init__(
        self, application: HTTPServerConnectionDelegate, streams: Mapping[str, Door], api: Door, *, max_body: int
    ) -> None:
        self.application = application
        self.streams = streams
        self.api = api
        self.max_body = max_body

    def start_request(self, server_conn: object, request_conn: HTTPConnection) -> HTTPMessageDelegate:
        """A delegate for the next request of a connection."""
        assert isinstance(request_conn, HTTP1Connection)
        return _Exchange(self, server_conn, request_conn)


class _Exchange(HTTPMessageDelegate):
    """One request on its way to its door."""

    __slots__ = ("_body", "_connection", "_delegate", "_request", "_router", "_server", "_size")

    def __init__(self, router: Router, server: object, connection: HTTP1Connection) -> None:
        self._router = router
        self._server = server
        self._connection = connection
        self._request: Request | None = None
        self._delegate: HTTPMessageDelegate | None = None
        self._body: list[bytes] = []
        self._size = 0

    def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> Awaitable[None] | None:
        assert isinstance(start_line, RequestStartLine)
        request = Request(self._connection, start_line, headers)
        if len(start_line.path) + sum(len(name) + len(value) + 4 for name, value in headers.get_all()) > MAX_HEADERS:
            request.reply(431, headers=[CLOSE])
        elif len(headers.get_list("Host")) > 1:
            request.reply(400, headers=[CLOSE])
        elif (door := self._router.streams.get(request.path)) is not None:
            self._call(door, request)
        elif request.path == "/api" or request.path.startswith("/api/"):
            self._expect_body(request)
        else:
            self._delegate = self._router.application.start_request(self._server, self._connection)
            return self._delegate.headers_received(start_line, headers)
        return None

    def _expect_body(self, request: Request) -> None:
        length = request.headers.get("Content-Length", "0")
        if length.isdigit() and int(length) > self._router.max_body:
            self._too_large(request)
        else:
            self._request = request

    def _too_large(self, request: Request) -> None:
        self._request = None
        request.reply(413, headers=[CLOSE])

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        if self._delegate is not None:
            return self._delegate.data_received(chunk)
        if self._request is not None:
            self._size += len(chunk)
            if self._size > self._router.max_body:
                self._too_large(self._request)
            else:
                self._body.append(chunk)
        return None

    def finish(self) -> None:
        if self._delegate is not None:
            self._delegate.finish()
        elif self._request is not None:
            self._request.body = b"".join(self._body)
            self._call(self._router.api, self._request)

    def on_connection_close(self) -> None:
        if self._delegate is not None:
            self._delegate.on_connection_close()

    @staticmethod
    def _call(door: Door, request: Request) -> None:
        try:
            door(request)
        except StreamClosedError:
            pass  # the peer left before its socket could be taken over: there is nobody to answer
        except Exception:
            log.exception("door", "a door failed", path=request.path)
            request.reply(500)
