"""Which door a request goes to: the hot ones directly, all others by Tornado's ``Application``.

It stands on Tornado's documented delegate interface (``HTTPServerConnectionDelegate``, ``HTTPMessageDelegate``), so
that what parses HTTP below it can be exchanged.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

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
from rt.web.entrance import RETRY_AFTER, StreamDoor, Turned
from rt.web.heads import check
from rt.web.request import Borrowed, Request
from rt.web.response import Response

if TYPE_CHECKING:
    from rt.web.entrance import Entrance
    from rt.web.tenants import Tenants

log = Limited(logging.getLogger("rt.web"))

Door = Callable[[Request], None]

PATIENCE = 10.0  # seconds that a door may wait for others when it is its turn, before it takes the socket or answers
CLOSE = ("Connection", "close")


class Router(HTTPServerConnectionDelegate):
    """``streams`` take the socket over, at the entrance of the request's tenant; they are called when the headers are
    there, for a POST when the body is too. What a stream's door returns is awaited, and cancelled when the peer leaves.
    Requests below /api go to the tenant's API, whole."""

    def __init__(
        self,
        application: HTTPServerConnectionDelegate,
        streams: Mapping[str, StreamDoor],
        tenants: Tenants,
        *,
        max_body: int,
    ) -> None:
        self.application = application
        self.streams = streams
        self.tenants = tenants
        self.max_body = max_body
        self.parting = False  # connections of Tornado's end behind their next answer; our own know by themselves
        self.entering: set[asyncio.Task[None]] = set()

    def start_request(self, server_conn: object, request_conn: HTTPConnection) -> HTTPMessageDelegate:
        """A delegate for the next request of a connection."""
        if isinstance(request_conn, HTTP1Connection) and request_conn.stream.closed():
            # Tornado goes on with what it had read before it closed behind an answer. That was the last one.
            return HTTPMessageDelegate()
        return _Exchange(self, server_conn, request_conn)

    async def stop(self) -> None:
        """Turn away whoever still waits at a door."""
        for task in self.entering:
            task.cancel()
        await asyncio.gather(*self.entering, return_exceptions=True)

    def enter(self, door: StreamDoor, entrance: Entrance, request: Request) -> asyncio.Task[None] | None:
        """Call a stream's door. When what this returns is done, however it ended, the request is answered or taken
        over; None when it is already."""
        try:
            waiting = door(entrance, request)
        except StreamClosedError:
            return None  # the peer left before its socket could be taken over: there is nobody to answer
        except Exception:
            _failed(request)
            return None
        if waiting is None:
            return None
        patience = PATIENCE + entrance.hub.config.limits.connections.wait
        task = asyncio.get_running_loop().create_task(_wait(waiting, request, patience))
        self.entering.add(task)
        task.add_done_callback(self.entering.discard)
        request.on_leave(partial(_leave, task))
        return task


async def _wait(waiting: Awaitable[None], request: Request, patience: float) -> None:
    try:
        async with asyncio.timeout(patience):
            await waiting
    except StreamClosedError:
        pass
    except (TimeoutError, asyncio.CancelledError):
        request.reply(503, headers=[RETRY_AFTER, CLOSE])
    except Exception:
        _failed(request)


def _leave(task: asyncio.Task[None]) -> None:
    task.cancel()


async def _over(task: asyncio.Task[None]) -> None:
    """Return when the task is done, however it ended: Tornado takes a failure for one of its own."""
    await asyncio.wait([task])


def _failed(request: Request) -> None:
    log.exception("door", "a door failed", path=request.path)
    request.reply(500)


def _turn(turned: Turned, request: Request) -> None:
    request.reply(turned.status, turned.body, headers=turned.headers)


class _Exchange(HTTPMessageDelegate):
    """One request on its way to its door."""

    __slots__ = ("_body", "_connection", "_delegate", "_finish", "_limit", "_request", "_router", "_server", "_size")

    def __init__(self, router: Router, server: object, connection: HTTPConnection) -> None:
        self._router = router
        self._server = server
        self._connection = connection
        self._request: Request | None = None  # whose body is being received
        self._finish: Door | None = None  # what it goes to then
        self._delegate: HTTPMessageDelegate | None = None
        self._body: list[bytes] = []
        self._size = 0
        self._limit = 0

    def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> Awaitable[None] | None:
        assert isinstance(start_line, RequestStartLine)
        router = self._router
        connection = self._connection
        if isinstance(connection, Response):
            request = Request(connection, start_line, headers)
        else:
            assert isinstance(connection, HTTP1Connection)
            request = Request(Borrowed(connection, start_line.method), start_line, headers)
            request.last = router.parting
            if status := check(start_line, headers):
                request.reply(status, headers=[CLOSE])
                return None
        if router.tenants.only is None:
            router.tenants.address(request)
        try:
            if (door := router.streams.get(request.path)) is not None:
                return self._stream(door, request)
            if request.path == "/api" or request.path.startswith("/api/"):
                api = router.tenants.api(request) if router.tenants.only is None else router.tenants.only.api
                self._expect_body(request, api.door, router.max_body)
                return None
        except Turned as turned:
            # Behind the body, so that the connection can go on.
            self._expect_body(request, partial(_turn, turned), router.max_body)
            return None
        self._delegate = router.application.start_request(self._server, connection)
        return self._delegate.headers_received(start_line, headers)

    def _stream(self, door: StreamDoor, request: Request) -> Awaitable[None] | None:
        router, only = self._router, self._router.tenants.only
        posted = request.method == "POST"
        entrance = router.tenants.entrance(request, complete=not posted) if only is None else only.entrance
        if posted:
            limit = entrance.hub.config.client.message_size_limit
            self._expect_body(request, partial(self._posted, door), limit)
            return None
        task = router.enter(door, entrance, request)
        return None if task is None else _over(task)

    def _posted(self, door: StreamDoor, request: Request) -> None:
        """A stream that was asked for by POST: its body is here, and may say whose it is."""
        tenants, only = self._router.tenants, self._router.tenants.only
        entrance = tenants.entrance(request, complete=True) if only is None else only.entrance
        self._router.enter(door, entrance, request)

    def _expect_body(self, request: Request, finish: Door, limit: int) -> None:
        length = request.headers.get("Content-Length", "0")
        self._limit = limit
        if length.isdigit() and int(length) > limit:
            self._too_large(request)
        else:
            self._request, self._finish = request, finish

    def _too_large(self, request: Request) -> None:
        self._request = None
        request.reply(413, headers=[CLOSE])

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        if self._delegate is not None:
            return self._delegate.data_received(chunk)
        if self._request is not None:
            self._size += len(chunk)
            if self._size > self._limit:
                self._too_large(self._request)
            else:
                self._body.append(chunk)
        return None

    def finish(self) -> None:
        if self._delegate is not None:
            self._delegate.finish()
        elif self._request is not None and self._finish is not None:
            request = self._request
            request.body, request.complete = b"".join(self._body), True
            try:
                self._finish(request)
            except Turned as turned:
                _turn(turned, request)
            except Exception:
                _failed(request)

    def on_connection_close(self) -> None:
        if self._delegate is not None:
            self._delegate.on_connection_close()
