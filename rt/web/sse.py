"""The doors for Server-Sent Events: ``/sse`` for ``new EventSource(url)`` and ``curl -N``, and ``uni_sse`` of the
protocol.

The status line and the headers are written by us, with ``Connection: close``: the chunks of HTTP/1.1 would not let
connections share their frames.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING

from rt import errors
from rt.delivery import admission
from rt.delivery.plain import PlainConnection
from rt.delivery.rules import TooMany
from rt.errors import Closing, Refused
from rt.protocol import commands
from rt.protocol.wires import SSE, UNI_SSE
from rt.web.entrance import Turned, admit, door, later, refusal, since, wished
from rt.web.intake import Intake

if TYPE_CHECKING:
    from rt.delivery.connection import Connection
    from rt.protocol.wires import StreamWire
    from rt.web.entrance import Entrance, Header
    from rt.web.request import Request

_TYPE = "text/event-stream; charset=utf-8"
_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nCache-Control: no-store\r\n"
    b"X-Accel-Buffering: no\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n"
)


class Discard:
    """An event stream is for receiving: what the client sends is not read, only that it leaves."""

    __slots__ = ("_connection", "_intake")

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._intake: Intake[bytes] | None = None

    @property
    def busy(self) -> bool:
        return self._intake is not None and self._intake.holds

    def received(self, data: bytes) -> None:
        connection = self._connection
        if connection.hub.limits.measured:
            intake = self._intake = self._intake or Intake(connection, _drop, _one, self._let_go)
            intake.take((data,), len(data))
            if not intake.holds:
                self._let_go()

    def _let_go(self) -> None:
        self._intake = None

    def lost(self) -> None:
        self._connection.broken()


def _drop(data: bytes) -> None:
    """Nobody reads it."""


def _one(data: bytes) -> int:
    return 1


@door
def plain(entrance: Entrance, request: Request) -> Awaitable[None] | None:
    """The door without an SDK: the channels are in the URL."""
    cors = _checked(entrance, request, ("GET",))
    begin, refuse = partial(_begin, entrance, request, SSE, cors), partial(_turned, request, cors)
    # Admitted when it is its turn: what is true of its rights now may not be so then.
    return entrance.in_turn(
        request, lambda: admit(entrance, wished(entrance, request), begin, refuse), _teller(request, cors)
    )


@door
def uni(entrance: Entrance, request: Request) -> Awaitable[None] | None:
    """The protocol's door for those who only listen: a connect request in ``?cf_connect=`` or as the body."""
    cors = _checked(entrance, request, ("GET", "POST"))
    try:
        body = request.body if request.method == "POST" else request.parameter("cf_connect").encode()
        connect = commands.decode_connect(body or b"{}")
        token = connect.token or request.token()
        wish = admission.Request((), since(request), token, connect=connect, address=entrance.address(request))
    except (ValueError, Closing):
        raise Turned(400, cors) from None
    begin, refuse = partial(_begin, entrance, request, UNI_SSE, cors), partial(_ended, request, cors)
    return entrance.in_turn(request, lambda: admit(entrance, wish, begin, refuse), _teller(request, cors))


def _checked(entrance: Entrance, request: Request, methods: tuple[str, ...]) -> list[Header]:
    """The CORS headers of a request with a good origin and method; the preflight and others are answered."""
    cors = entrance.check_origin(request)
    if request.method == "OPTIONS":
        raise Turned(204, [*cors, *_preflight(methods)])
    if request.method not in methods:
        raise Turned(405, [("Allow", ", ".join([*methods, "OPTIONS"]))])
    return cors


def _preflight(methods: tuple[str, ...]) -> list[Header]:
    return [
        ("Access-Control-Allow-Methods", ", ".join(methods)),
        ("Access-Control-Allow-Headers", "Authorization, Cache-Control, Content-Type, Last-Event-ID"),
        ("Access-Control-Max-Age", "300"),
    ]


def _begin(
    entrance: Entrance, request: Request, wire: StreamWire, cors: list[Header], found: admission.Admission
) -> None:
    """Take the socket over, and begin the stream."""
    try:
        entrance.check_room(request)
    except Turned as turned:
        raise _told(request, turned, cors) from None
    taken, _ = request.take_over()
    sink = entrance.line(request, taken)
    head = _head(cors)
    connection = PlainConnection(entrance.hub, sink, wire, found, preface=head, refusal=head + later())
    connection.came_from(entrance.address(request))
    sink.start(Discard(connection))
    connection.begin()


def _turned(request: Request, cors: list[Header], refused: Exception) -> Turned:
    """Why there is no stream, as an HTTP status."""
    return _told(request, refusal(refused), cors)


def _ended(request: Request, cors: list[Header], refused: Exception) -> Turned:
    """Why there is no stream, as the protocol has it: one that begins and ends with a disconnect."""
    match refused:
        case TooMany():
            return _told(request, refusal(refused), cors)
        case Closing():
            close = refused.close
        case Refused():
            close = errors.closing(refused.error)
        case _:
            return _told(request, refusal(refused), cors)
    return Turned(200, [*_streamed(cors)], UNI_SSE.farewell(close))


def _teller(request: Request, cors: list[Header]) -> Callable[[Turned], Turned]:
    return lambda turned: _told(request, turned, cors)


def _told(request: Request, turned: Turned, cors: list[Header]) -> Turned:
    """A browser that is to come back is asked to in the words of a stream: by an error status an EventSource ends."""
    after = dict(turned.headers).get("Retry-After")
    if after is not None and "text/event-stream" in request.headers.get("Accept", ""):
        return Turned(200, _streamed(cors), later(float(after)))
    return Turned(turned.status, [*turned.headers, *cors], turned.body)


def _streamed(cors: list[Header]) -> list[Header]:
    return [("Content-Type", _TYPE), ("Cache-Control", "no-store"), *cors]


def _head(cors: list[Header]) -> bytes:
    """The head of the answer. The values come from the allow-list or passed it, so they hold no line break."""
    lines = b"".join(b"%s: %s\r\n" % (name.encode("ascii"), value.encode("ascii")) for name, value in cors)
    return b"%s%s\r\n" % (_HEAD, lines)
