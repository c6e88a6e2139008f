"""Our own HTTP/1.1 on plain sockets, below the same delegates as Tornado's.

A connection reads a head, gives the request to a delegate of Tornado's documented interface
(``HTTPServerConnectionDelegate``, ``HTTPMessageDelegate``), its body too, and reads the next head when the answer is
out. Requests that were sent ahead wait; so one at a time is answered, in their order. There is no IOStream, task or
closure per request, and a stream that takes its socket over is simply given it.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from tornado.httputil import HTTPInputError, HTTPMessageDelegate, HTTPServerConnectionDelegate
from tornado.iostream import StreamClosedError

from rt.delivery.wheel import Wheel
from rt.logs import Limited
from rt.web.chunks import Chunks
from rt.web.heads import CHUNKED, MAX_HEAD, Head, Heads, Malformed, end_of
from rt.web.line import BODY, ENDING, GONE, HEAD, HOLD, NEVER, WORK, Line, Lines
from rt.web.response import Response
from rt.web.sink import Socket

log = Limited(logging.getLogger("rt.web"))

AHEAD = 65536  # bytes that may be sent ahead of an answer; then the socket is not read until the answer is out
TURN = 32  # heads and parts of a body that one connection is served before others get a turn
IDLE = 75.0  # seconds a connection may wait for its next request

_TLS = b"\x16\x03"  # with which a handshake begins
_REFUSED = {
    400: b"HTTP/1.1 400 Bad Request",
    413: b"HTTP/1.1 413 Content Too Large",
    431: b"HTTP/1.1 431 Request Header Fields Too Large",
    500: b"HTTP/1.1 500 Internal Server Error",
}
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Http1(Lines):
    """What the connections of one listener share. ``timeout``: seconds in which a head must be complete, and then its
    body; ``max_body``: bytes beyond which a body is refused with 413, where its door has no smaller bound."""

    def __init__(self, delegate: HTTPServerConnectionDelegate, wheel: Wheel, *, timeout: float, max_body: int) -> None:
        super().__init__(wheel, timeout)
        self.delegate = delegate
        self.max_body = max_body
        self.heads = Heads()

    def accept(self, sock: socket.socket, address: Any) -> None:
        """Serve a connection; the socket does not block."""
        Connection(self, sock, address).start()


class Connection(Line):
    """One connection."""

    __slots__ = ("_begun", "_chunks", "_delegate", "_http", "_kept", "_left", "_response", "_running", "max_body")

    def __init__(self, http: Http1, sock: socket.socket, address: Any) -> None:
        super().__init__(http, sock, address)
        self._http = http
        self._begun = True  # there is a deadline for the head that is waited for
        self._kept = False  # this is not its first request
        self._left = 0  # bytes of the body that are still to come; in chunks: that may come
        self._chunks: Chunks | None = None
        self._delegate: HTTPMessageDelegate | None = None
        self._response: Response | None = None
        self._running = False
        self.max_body = http.max_body

    def _received(self) -> None:
        if self._state <= BODY:
            self._advance()
        elif len(self._buffer) >= AHEAD:
            self._pause()

    def _end_of_input(self) -> None:
        """Who has sent a whole request may still read its answer; unless a door says that this is leaving."""
        if self._state == WORK and self._response is not None and self._response.leave is None:
            self._ended = True
            self._pause()
        else:
            self.abort()

    def _advance(self) -> None:
        """Serve what is here, until something must be waited for."""
        if self._running:
            return
        self._running = True
        turn = TURN
        try:
            while turn and self._state <= BODY and (self._next_head() if self._state == HEAD else self._more_body()):
                turn -= 1
        finally:
            self._running = False
        if self._state > BODY:
            return
        if turn:
            self._resume()
        else:
            self._pause()  # so that it does not send faster than it is served
            self._loop.call_soon(self._advance)

    # The head

    def _next_head(self) -> bool:
        """Whether a request began."""
        data = self._buffer
        try:
            end = end_of(data) if data else 0
            if end > MAX_HEAD or (not end and len(data) > MAX_HEAD):
                self._refuse(431)
                return False
            if not end:
                self._await_head()
                return False
            # A first one may be the only one, and is mostly like no other: it has a nonce in it, or a cursor.
            head = self._http.heads.read(data[:end]) if self._kept else Head(data[:end])
        except Malformed:
            if data.startswith(_TLS):
                logging.getLogger("rt.web").debug("TLS on a port without TLS")
            self._refuse(400)
            return False
        self._buffer = data[end:]
        self._begin(head)
        return True

    def _await_head(self) -> None:
        if self._ended:
            self.abort()
        elif self._buffer and not self._begun:
            self._begun = True
            self._deadline = self._loop.time() + self._http.timeout

    def _begin(self, head: Head) -> None:
        """Give the head to a delegate."""
        http, start = self._http, head.start
        self._state = HOLD
        self._deadline = NEVER
        self.max_body = http.max_body
        last = not head.keeps or http.leaving
        response = self._response = Response(self, start.method, old=start.version == "HTTP/1.0", last=last)
        try:
            self._delegate = http.delegate.start_request(self, response)
            waiting = self._delegate.headers_received(start, head.headers)
        except Exception as error:
            self._failed(error)
            return
        if waiting is None:
            self._expect_body(head)
        elif self._state == HOLD:
            self._hold(waiting, partial(self._expect_body, head))

    # The body

    def _expect_body(self, head: Head) -> None:
        response, length = self._response, head.length
        if self._state != HOLD or response is None:
            return
        if not length:
            self._whole()
            return
        self._state = BODY
        self._deadline = self._loop.time() + self._http.timeout
        self._chunks = Chunks() if length == CHUNKED else None
        self._left = self.max_body if length == CHUNKED else length
        if response.finished:
            self.answered(response)
        elif length > self.max_body:
            self._refuse(413)
        elif head.asks and not self._buffer:
            self.write(_CONTINUE)

    def _more_body(self) -> bool:
        """Whether something of the body was here."""
        data, chunks, delegate, response = self._buffer, self._chunks, self._delegate, self._response
        assert delegate is not None and response is not None
        if not data:
            if self._ended:
                self.abort()
            return False
        if response.finished:
            self._buffer = b""  # it is answered already, and closed when that is out
            return False
        try:
            if chunks is None:
                part, self._buffer = data[: self._left], data[self._left :]
            else:
                part, self._buffer = chunks.feed(data)
            self._left -= len(part)
            if self._left < 0:
                self._refuse(413)
                return False
            waiting = delegate.data_received(part) if part else None
        except Malformed:
            self._refuse(400)
            return False
        except Exception as error:
            self._failed(error)
            return False
        if waiting is not None and self._state == BODY:
            self._state = HOLD
            self._hold(waiting, self._after_part)
        else:
            self._after_part()
        return True

    def _after_part(self) -> None:
        if self._state in (HOLD, BODY):
            self._state = BODY
            if self._response is not None and self._response.finished:
                self.answered(self._response)
            elif self._chunks.done if self._chunks is not None else not self._left:
                self._whole()

    def _whole(self) -> None:
        """The request is all here."""
        self._state = WORK
        self._deadline = NEVER
        self._chunks = None
        response, delegate, self._delegate = self._response, self._delegate, None
        assert response is not None and delegate is not None
        if response.finished:
            self.answered(response)
            return
        try:
            delegate.finish()
        except Exception as error:
            self._failed(error)

    def _hold(self, waiting: Awaitable[None], then: Callable[[], None]) -> None:
        """Go on with ``then`` when the delegate is ready for it."""
        asyncio.ensure_future(waiting).add_done_callback(partial(self._held, then))

    def _held(self, then: Callable[[], None], waiting: asyncio.Future[None]) -> None:
        try:
            waiting.result()
        except asyncio.CancelledError:
            self.abort()
        except Exception as error:
            if self._state == HOLD:
                self._failed(error)
        else:
            if self._state == HOLD:
                then()
                self._advance()

    # The answer

    def _drained(self) -> None:
        self._deadline = self._loop.time() + self._http.timeout if self._state == BODY else NEVER
        response = self._response
        if response is not None:
            response.drained()
            if response.finished:
                self.answered(response)

    def answered(self, response: Response) -> None:
        """An answer is finished. When it is out, and its delegate through with the request, the next one is served."""
        if response is not self._response or self._out is not None or self._state in (HOLD, ENDING, GONE):
            return
        if self._state == BODY or response.last:  # else nobody was told that it ends
            unread = self._state == BODY or self._buffer
            self._abandon()
            if unread:
                self._say_last(b"")
            else:
                self._close()
            return
        response.let_go()
        self._response = None
        self._state = HEAD
        self._begun = False
        self._kept = True
        self._deadline = self._loop.time() + IDLE
        if self._ended or self._buffer:
            self._advance()
        else:
            self._resume()

    def take_over(self) -> tuple[Socket, bytes]:
        """The socket, for good, and what has come behind the request. StreamClosedError when the peer has left."""
        if self._out is not None:
            self.abort()
        if self._state == GONE:
            raise StreamClosedError
        behind, reading = self._buffer, self._reading
        self._forget()
        if self._response is not None:
            self._response.let_go()
        self._response = self._delegate = None
        self._reading = False
        return Socket(self._socket, self._loop, watched=reading), behind

    # The end

    def part(self) -> None:
        if self._response is not None and not self._response.begun:
            self._response.last = True

    def leave(self) -> None:
        if self._state == HEAD and not self._buffer:
            self._readable()  # closing over a request that is here would leave its sender not knowing what was done
        if self._state == HEAD and not self._buffer:
            self.abort()
        else:
            self.part()

    def _failed(self, error: Exception) -> None:
        """A delegate has failed, with the exception that is being handled."""
        if isinstance(error, HTTPInputError):
            self._refuse(400)
        else:
            log.exception("delegate", "a request failed")
            self._refuse(500)

    def _refuse(self, status: int) -> None:
        """Answer what cannot be served, as long as nothing was answered, and read no more requests."""
        if self._response is not None and self._response.begun:
            self.abort()
            return
        self._abandon()
        if self._state not in (ENDING, GONE):
            self._say_last(_REFUSED[status] + b"\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")

    def _abandon(self) -> None:
        delegate, self._delegate = self._delegate, None
        response, self._response = self._response, None
        try:
            if response is not None:
                response.lost()
            if delegate is not None:
                delegate.on_connection_close()
        except Exception:
            log.exception("delegate", "a request failed")
