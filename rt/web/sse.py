"""The door for Server-Sent Events, ``/sse``: for ``new EventSource(url)`` and ``curl -N``.

The status line and the headers are written by us, with ``Connection: close``: the chunks of HTTP/1.1 would not let
connections share their frames.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from rt.delivery.plain import PlainConnection
from rt.protocol.wires import SSE
from rt.web.entrance import Turned, later

if TYPE_CHECKING:
    from rt.delivery.connection import Connection
    from rt.web.entrance import Entrance, Header
    from rt.web.request import Request

_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nCache-Control: no-store\r\n"
    b"X-Accel-Buffering: no\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n"
)
_PREFLIGHT = [
    ("Access-Control-Allow-Methods", "GET"),
    ("Access-Control-Allow-Headers", "Authorization, Cache-Control, Last-Event-ID"),
    ("Access-Control-Max-Age", "300"),
]


class Discard:
    """An event stream is for receiving: what the client sends is not read, only that it leaves."""

    __slots__ = ("_connection",)

    busy = False

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def received(self, data: bytes) -> None:
        pass

    def lost(self) -> None:
        self._connection.broken()


def door(entrance: Entrance) -> Callable[[Request], None]:
    """The door."""

    def enter(request: Request) -> None:
        cors = entrance.check_origin(request)
        if request.method == "OPTIONS":
            raise Turned(204, [*cors, *_PREFLIGHT])
        if request.method != "GET":
            raise Turned(405, [("Allow", "GET, OPTIONS")])
        try:
            admission = entrance.admit(request)
            entrance.check_room()
        except Turned as turned:
            raise _told(request, turned, cors) from None
        sink, _ = request.take_over()
        head = _head(cors)
        connection = PlainConnection(entrance.hub, sink, SSE, admission, preface=head, refusal=head + later())
        sink.start(Discard(connection))
        connection.begin()

    return entrance.door(enter)


def _told(request: Request, turned: Turned, cors: list[Header]) -> Turned:
    """A full worker asks a browser to come back, in the words of a stream: by an error status an EventSource ends."""
    if turned.status == 503 and "text/event-stream" in request.headers.get("Accept", ""):
        headers = [("Content-Type", "text/event-stream; charset=utf-8"), ("Cache-Control", "no-store")]
        return Turned(200, [*headers, ("Connection", "close"), *cors], later())
    return Turned(turned.status, [*turned.headers, *cors], turned.body)


def _head(cors: list[Header]) -> bytes:
    """The head of the answer. The values come from the allow-list or passed it, so they hold no line break."""
    lines = b"".join(b"%s: %s\r\n" % (name.encode("ascii"), value.encode("ascii")) for name, value in cors)
    return b"%s%s\r\n" % (_HEAD, lines)
