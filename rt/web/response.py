"""What is sent back for one request of our own HTTP connection: by a door in one piece, or by Tornado's RequestHandlers
as they do it on a connection of Tornado's."""

from __future__ import annotations

import asyncio
import http.client
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from tornado.httputil import HTTPConnection, HTTPHeaders, HTTPOutputError, RequestStartLine, ResponseStartLine
from tornado.iostream import StreamClosedError

if TYPE_CHECKING:
    from rt.web.http1 import Connection
    from rt.web.sink import Socket

Callback = Callable[[], None]

JSON = (("Content-Type", "application/json"),)
"""The headers of most answers."""

_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nContent-Type: application/json\r\n\r\n%b"  # with them alone


class Response(HTTPConnection):
    """The answer to one request. Once it is finished, its socket taken over or its peer gone, nothing that is done to
    it has an effect. ``last``: the connection ends behind it."""

    __slots__ = (
        "_chunks",
        "_close_callback",
        "_flows",
        "_left",
        "_line",
        "begun",
        "finished",
        "last",
        "leave",
        "method",
        "old",
    )

    def __init__(self, line: Connection, method: str, *, old: bool, last: bool) -> None:
        self._line: Connection | None = line
        self.method = method
        self.old = old  # HTTP/1.0
        self.last = last
        self.begun = self.finished = False
        self.leave: Callback | None = None
        self._close_callback: Callback | None = None
        self._flows: list[asyncio.Future[None]] | None = None
        self._chunks = False
        self._left: int | None = None  # of what Content-Length has announced

    @property
    def context(self) -> Connection | None:
        """What Tornado asks for ``remote_ip`` and ``protocol``."""
        return self._line

    # For the doors

    @property
    def peer(self) -> str:
        """The address of the other end; empty when it has left."""
        return "" if self._line is None else self._line.remote_ip

    def on_leave(self, callback: Callback) -> None:
        """Call ``callback`` when the peer leaves before it was answered; closing its side is leaving, too."""
        self.leave = callback

    def reply(self, status: int, body: bytes, headers: Sequence[tuple[str, str]], *, last: bool) -> None:
        """Answer in one piece, and with ``last`` close. ``headers`` name the type of the body."""
        line = self._line
        if line is None:
            return
        if headers is JSON and status == 200 and not (last or self.last or self.old or self.method == "HEAD"):
            data = _ANSWER % (len(body), body)
        else:
            data = self._answer(status, body, headers, last=last)
        self.begun = self.finished = True
        line.write(data)
        line.answered(self)

    def _answer(self, status: int, body: bytes, headers: Sequence[tuple[str, str]], *, last: bool) -> bytes:
        text = f"HTTP/1.1 {status} {http.client.responses.get(status, 'Unknown')}\r\n"
        if status != 204:
            text += f"Content-Length: {len(body)}\r\n"
        for name, value in headers:
            if name == "Connection":
                last = last or value == "close"
            else:
                text += _field(name, value)
        self.last = self.last or last
        head = _head(text + self._connection())
        return head if self.method == "HEAD" else head + body

    def take_over(self) -> tuple[Socket, bytes]:
        """The socket, for good, and what the peer has sent behind the request. StreamClosedError when it has left."""
        if self._line is None or self.finished:
            raise StreamClosedError
        return self._line.take_over()

    # For Tornado's handlers

    def set_close_callback(self, callback: Callback | None) -> None:
        """Call ``callback`` when the connection breaks before the answer is finished."""
        self._close_callback = callback

    def set_max_body_size(self, size: int) -> None:
        """Take up to ``size`` bytes of this request's body; to be called before any of it has come."""
        if self._line is not None:
            self._line.max_body = size

    def write_headers(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders, chunk: bytes | None = None
    ) -> asyncio.Future[None]:
        """Begin the answer. The future is done when more may be written."""
        assert isinstance(start_line, ResponseStartLine)
        code = start_line.code
        empty = self.method == "HEAD" or code in (204, 304) or 100 <= code < 200
        length = headers.get("Content-Length")
        self._chunks = not (empty or self.old or length is not None)
        if self.old and length is None and not empty:
            self.last = True  # the end of the connection is the end of the body
        self._left = 0 if empty else None if length is None else int(length)
        text = f"HTTP/1.1 {code} {start_line.reason}\r\n"
        for name, value in headers.get_all():
            if name == "Connection":
                self.last = self.last or value.lower() == "close"
            else:
                text += _field(name, value)
        if self._chunks:
            text += "Transfer-Encoding: chunked\r\n"
        self.begun = True
        return self._write(_head(text + self._connection()) + (self._framed(chunk) if chunk else b""))

    def write(self, chunk: bytes) -> asyncio.Future[None]:
        """More of the body. The future is done when more may be written."""
        return self._write(self._framed(chunk))

    def finish(self) -> None:
        """That was all of it."""
        line = self._line
        if line is None or self.finished:
            return
        if self._left:
            line.abort()
            raise HTTPOutputError(f"{self._left} bytes of the answer are missing")
        if self._chunks:
            line.write(b"0\r\n\r\n")
        self.finished = True
        line.answered(self)

    def _write(self, data: bytes) -> asyncio.Future[None]:
        flow: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        line = self._line
        if line is not None and not self.finished and (not data or line.write(data)):
            flow.set_result(None)
        elif line is None or self.finished or line.gone:
            _fail(flow)
        else:
            self._flows = [*(self._flows or ()), flow]
        return flow

    def _framed(self, chunk: bytes) -> bytes:
        if self._left is not None:
            self._left -= len(chunk)
            if self._left < 0:
                if self._line is not None:
                    self._line.abort()
                raise HTTPOutputError("more was written than Content-Length says")
        if self._chunks and chunk:
            return b"%x\r\n%b\r\n" % (len(chunk), chunk)
        return chunk

    def _connection(self) -> str:
        if self.last:
            return "Connection: close\r\n"
        return "Connection: Keep-Alive\r\n" if self.old else ""

    # For the line

    def drained(self) -> None:
        """What was written is out."""
        flows, self._flows = self._flows, None
        for flow in flows or ():
            if not flow.done():
                flow.set_result(None)

    def lost(self) -> None:
        """The connection is no more: tell whoever waits."""
        self.let_go()
        leave, self.leave = self.leave, None
        closed, self._close_callback = self._close_callback, None
        flows, self._flows = self._flows, None
        for flow in flows or ():
            if not flow.done():
                _fail(flow)
        if not self.finished:
            for callback in filter(None, (leave, closed)):
                callback()

    def let_go(self) -> None:
        """The line goes on without this answer."""
        self._line = None


def _fail(flow: asyncio.Future[None]) -> None:
    flow.set_exception(StreamClosedError())
    flow.exception()  # whoever does not wait for it need not hear of it


def _field(name: str, value: str) -> str:
    if "\n" in value or "\r" in value or "\0" in value:
        raise ValueError("a header of the answer holds a line break")
    return f"{name}: {value}\r\n"


def _head(text: str) -> bytes:
    return f"{text}\r\n".encode("latin-1")
