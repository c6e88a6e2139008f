"""The WebSocket doors: ``/connection/websocket`` for SDKs, ``/connection/uni_websocket`` for those who only listen,
``/ws`` for plain clients.

The handshake (RFC 6455 section 4.2) is checked here, with the Origin on every upgrade; then the socket is taken over,
and what comes in is read by our own strict frame reader. Extensions are declined by not mentioning them.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import logging
from collections.abc import Awaitable
from functools import partial
from typing import TYPE_CHECKING

from rt.delivery.plain import PlainConnection
from rt.delivery.sdk import SdkConnection
from rt.delivery.uni import UniConnection
from rt.errors import BAD_COMMAND, SERVER_ERROR, Closing
from rt.logs import Limited
from rt.protocol.commands import decode_connect
from rt.protocol.frames import (
    OPCODE_CLOSE,
    OPCODE_PING,
    Binary,
    Control,
    FrameError,
    FrameReader,
    Item,
    close_frame,
    close_status,
    pong_frame,
)
from rt.protocol.wires import SOCKET
from rt.web.entrance import Turned, admit, door, refusal, wished
from rt.web.intake import Intake

if TYPE_CHECKING:
    from rt.delivery.admission import Admission
    from rt.delivery.connection import Connection
    from rt.web.entrance import Entrance
    from rt.web.narrow import Narrow
    from rt.web.request import Request
    from rt.web.sink import Socket, Stream

log = Limited(logging.getLogger("rt.web"))

_MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_JSON = "centrifuge-json"
_PROTOBUF = "centrifuge-protobuf"
_UPGRADE = [("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Version", "13")]


class Reader:
    """What comes in on one WebSocket, as frames for its connection. Implements ``rt.web.sink.Receiver``."""

    __slots__ = ("_connection", "_frames", "_intake", "_text_only")

    def __init__(self, connection: Connection, max_message: int, *, text_only: bool) -> None:
        self._connection = connection
        self._intake: Intake[Item] | None = None
        self._frames = FrameReader(max_message)
        self._text_only = text_only
        connection.on_beat = self._forgive

    def _forgive(self) -> None:
        """Control frames are counted per heartbeat: a flood of them ends the connection."""
        self._frames.controls = 0

    @property
    def busy(self) -> bool:
        return self._connection.busy or (self._intake is not None and self._intake.holds)

    def received(self, data: bytes) -> None:
        connection = self._connection
        connection.received(len(data))
        if connection.hub.limits.measured or self._intake is not None:
            self._measure(data)
            return
        for item in self._frames.feed(data):
            if connection.closed:
                return
            self._take(item)

    def _measure(self, data: bytes) -> None:
        """The same within the limits of what may come in."""
        intake = self._intake = self._intake or Intake(self._connection, self._take, _messages, self._let_go)
        intake.take(self._frames.feed(data), len(data))
        if not intake.holds:
            self._let_go()

    def _let_go(self) -> None:
        self._intake = None

    def _take(self, item: Item) -> None:
        try:
            if type(item) is bytes:
                self._connection.message(item)
            else:
                self._other(item)
        except Exception:
            # A fault of ours: what was asked would be waited for in vain, and held input never be read again.
            log.exception("message", "what a client sent could not be handled")
            self._connection.close(SERVER_ERROR)

    def _other(self, item: object) -> None:
        connection = self._connection
        if isinstance(item, FrameError):
            connection.close(item.close)
        elif isinstance(item, Binary):
            if self._text_only:
                connection.close(BAD_COMMAND)
            else:
                connection.message(item.payload)
        elif isinstance(item, Control):
            if item.opcode == OPCODE_PING:
                connection.outbox.write(pong_frame(item.payload))
            elif item.opcode == OPCODE_CLOSE:
                connection.leave(close_frame(close_status(item.payload)[0]))

    def lost(self) -> None:
        self._connection.broken()


def _messages(item: Item) -> int:
    """How many messages an item is: a text has one in each line."""
    return item.count(b"\n", 0, -1) + 1 if type(item) is bytes else 1


@door
def sdk(entrance: Entrance, request: Request) -> Awaitable[None] | None:
    """The door of the SDKs' protocol, over JSON."""
    head, good = _spoken(entrance, request)
    native = _asks(request, "cf_ws_frame_ping_pong", "true")
    return entrance.in_turn(request, partial(_begin_sdk, entrance, request, head, good=good, native=native))


def _begin_sdk(entrance: Entrance, request: Request, head: bytes, *, good: bool, native: bool) -> None:
    taken, behind = request.take_over()
    sink = entrance.line(request, taken)
    connection = SdkConnection(entrance.hub, sink, native_ping=native, choose=entrance.choose(request))
    connection.came_from(entrance.address(request))
    connection.outbox.write(head)
    if not good:
        # A client that speaks only Protobuf would wait for ever on JSON: a terminal code is the clean failure.
        connection.close(BAD_COMMAND)
    _start(sink, connection, behind, text_only=True)


@door
def uni(entrance: Entrance, request: Request) -> Awaitable[None] | None:
    """The protocol's door for those who only listen: a connect request in ``?cf_connect=`` or as the first message."""
    head, good = _spoken(entrance, request)
    native = _asks(request, "cf_ws_frame_ping_pong", "true")
    asked = request.parameter("cf_connect")
    return entrance.in_turn(request, partial(_begin_uni, entrance, request, head, asked, good=good, native=native))


def _begin_uni(entrance: Entrance, request: Request, head: bytes, asked: str, *, good: bool, native: bool) -> None:
    taken, behind = request.take_over()
    sink = entrance.line(request, taken)
    connection = UniConnection(entrance.hub, sink, native_ping=native, choose=entrance.choose(request))
    connection.came_from(entrance.address(request))
    connection.outbox.write(head)
    try:
        if not good:
            raise Closing(BAD_COMMAND)
        if asked:
            connection.begin(decode_connect(asked.encode()))
    except Closing as closing:
        connection.close(closing.close)
    _start(sink, connection, behind, text_only=True)


@door
def plain(entrance: Entrance, request: Request) -> Awaitable[None] | None:
    """The door without an SDK: the channels are in the URL, and every message is one push."""
    entrance.check_origin(request)
    head = _handshake(request, "")
    begin = partial(_begin, entrance, request, head)
    # Admitted when it is its turn: what is true of its rights now may not be so then.
    return entrance.in_turn(request, lambda: admit(entrance, wished(entrance, request), begin, refusal))


def _begin(entrance: Entrance, request: Request, head: bytes, found: Admission) -> None:
    entrance.check_room(request)  # it may have waited for keys or its session
    taken, behind = request.take_over()
    sink = entrance.line(request, taken)
    refused = SOCKET.farewell(SERVER_ERROR)
    connection = PlainConnection(entrance.hub, sink, SOCKET, found, preface=b"", refusal=refused)
    connection.came_from(entrance.address(request))
    connection.outbox.write(head)
    connection.begin()
    _start(sink, connection, behind, text_only=False)


def _spoken(entrance: Entrance, request: Request) -> tuple[bytes, bool]:
    """The answer to a good handshake of a client of the protocol, and whether we speak what it wants: JSON."""
    entrance.check_origin(request)
    offered = _offered(request)
    head = _handshake(request, _JSON if _JSON in offered else "")
    protobuf = _asks(request, "format", "protobuf") or _asks(request, "cf_protocol", "protobuf")
    return head, not (protobuf or (_PROTOBUF in offered and _JSON not in offered))


def _start(sink: Socket | Stream | Narrow, connection: Connection, behind: bytes, *, text_only: bool) -> None:
    reader = Reader(connection, connection.hub.config.client.message_size_limit, text_only=text_only)
    sink.start(reader)
    if behind:
        reader.received(behind)


def _tokens(request: Request, name: str) -> list[str]:
    """The elements of a comma-separated header, lower case."""
    return [element.strip().lower() for element in request.headers.get(name, "").split(",")]


def _handshake(request: Request, subprotocol: str) -> bytes:
    """The answer 101 to a good handshake; 400, 405 or 426 for another request."""
    if request.method != "GET":
        raise Turned(405, [("Allow", "GET")])
    if request.version != "HTTP/1.1":
        raise Turned(426, _UPGRADE)
    headers = request.headers
    if "websocket" not in _tokens(request, "Upgrade") or "upgrade" not in _tokens(request, "Connection"):
        raise Turned(426, _UPGRADE)
    if headers.get("Sec-WebSocket-Version") != "13":
        raise Turned(426, _UPGRADE)
    if not headers.get("Host") or headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in headers:
        raise Turned(400)
    key = headers.get("Sec-WebSocket-Key", "").strip()
    if not _is_nonce(key):
        raise Turned(400)
    accept = base64.b64encode(hashlib.sha1(key.encode() + _MAGIC).digest())
    extra = b"Sec-WebSocket-Protocol: %s\r\n" % subprotocol.encode() if subprotocol else b""
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: %s\r\n%s\r\n" % (accept, extra)
    )


def _is_nonce(key: str) -> bool:
    """Sixteen bytes in base64 (RFC 6455 section 4.1)."""
    try:
        return len(base64.b64decode(key, validate=True)) == 16
    except (binascii.Error, ValueError):
        return False


def _offered(request: Request) -> list[str]:
    """The subprotocols that the client offers."""
    return _tokens(request, "Sec-WebSocket-Protocol")


def _asks(request: Request, name: str, value: str) -> bool:
    try:
        return request.parameter(name) == value
    except ValueError:
        raise Turned(400) from None
