"""The client's end of one connection, as cheap as can be: many thousands of messages a second in one process.

Frames and events are cut out of the bytes here and nothing is checked twice: tests/clients.py and tests/eventsource.py
are the strict ones.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import cast

OPEN_TIMEOUT = 10.0
"""Seconds until a door that does not answer is left."""

_TEXT, _CLOSE, _PING, _PONG = 1, 8, 9, 10


class Turned(Exception):
    """The door did not open: ``status`` of the answer, 0 when there was none."""

    def __init__(self, status: int) -> None:
        super().__init__(f"status {status}")
        self.status = status


class Wire(asyncio.Protocol):
    """One request, and then what the server pushes.

    ``on_message(text)`` is called with each message of a WebSocket, or with each block of an event stream. ``ended``
    becomes the close code, or None when the connection ended without one; after it, and after :meth:`leave`, nothing is
    called any more.
    """

    def __init__(self, request: bytes, on_message: Callable[[bytes], None]) -> None:
        loop = asyncio.get_running_loop()
        self._request = request
        self._on_message = on_message
        self._head: asyncio.Future[int] = loop.create_future()
        self._take: Callable[[bytes], bytes] = self._take_head
        self._rest = b""
        self._transport: asyncio.Transport | None = None
        self.ended: asyncio.Future[int | None] = loop.create_future()

    async def open(self, port: int, receive_buffer: int = 0) -> None:
        """Connect, with a receive buffer in the kernel of that size, and wait for the door to open; :class:`Turned`
        when it does not."""
        loop = asyncio.get_running_loop()
        plug = socket.socket()
        if receive_buffer:
            plug.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        plug.setblocking(False)
        try:
            async with asyncio.timeout(OPEN_TIMEOUT):
                await loop.sock_connect(plug, ("127.0.0.1", port))
                await loop.create_connection(lambda: self, sock=plug)
                status = await asyncio.shield(self._head)
        except OSError:  # TimeoutError is one
            status = 0
        finally:
            if self._transport is None:
                plug.close()
        if status not in (101, 200):
            self.leave()
            raise Turned(status)

    def send(self, message: bytes) -> None:
        """One text frame, masked with zeros."""
        self._frame(_TEXT, message)

    def leave(self, *, politely: bool = False) -> None:
        """End it from this side, with a close frame or without a word."""
        self._end(None)
        if self._transport is not None:
            if politely:
                self._frame(_CLOSE, b"\x03\xe8")
                self._transport.close()
            else:
                self._transport.abort()

    def pause(self) -> None:
        """Stop reading."""
        if self._transport is not None and not self.ended.done():
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read again."""
        if self._transport is not None and not self.ended.done():
            self._transport.resume_reading()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._rest += data
        while self._rest and not self.ended.done():
            before = len(self._rest)
            self._rest = self._take(self._rest)
            if len(self._rest) == before:
                break

    def connection_lost(self, error: Exception | None) -> None:
        self._end(None)

    def _end(self, code: int | None) -> None:
        if not self._head.done():
            self._head.set_result(0)
        if not self.ended.done():
            self.ended.set_result(code)

    # What the bytes are

    def _take_head(self, data: bytes) -> bytes:
        head, found, rest = data.partition(b"\r\n\r\n")
        if not found:
            return data
        status = int(head.split(b" ", 2)[1])
        self._take = self._take_frames if status == 101 else self._take_events
        self._head.set_result(status)
        return rest if status in (101, 200) else b""

    def _take_frames(self, data: bytes) -> bytes:
        at, size = 0, len(data)
        while size - at >= 2 and not self.ended.done():
            length, start = data[at + 1], at + 2
            if length >= 126:
                start += 2 if length == 126 else 8
                if size < start:
                    break
                length = int.from_bytes(data[at + 2 : start], "big")
            end = start + length
            if size < end:
                break
            opcode, at = data[at] & 15, end
            if opcode == _TEXT:
                self._on_message(data[start:end])
            elif opcode == _PING:
                self._frame(_PONG, data[start:end])
            elif opcode == _CLOSE:
                self._end(int.from_bytes(data[start : start + 2], "big") if length >= 2 else None)
        return data[at:]

    def _take_events(self, data: bytes) -> bytes:
        *blocks, rest = data.split(b"\n\n")
        for block in blocks:
            if self.ended.done():
                break
            self._on_message(block)
        return rest

    def _frame(self, opcode: int, payload: bytes) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        size = len(payload)
        length = bytes([0x80 | size]) if size < 126 else b"\xfe" + size.to_bytes(2, "big")
        self._transport.write(bytes([0x80 | opcode]) + length + b"\0\0\0\0" + payload)


def upgrade(path: str) -> bytes:
    """The request of a WebSocket."""
    return (
        f"GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    ).encode()


def stream(path: str, last_event_id: str) -> bytes:
    """The request of an event stream."""
    last = f"Last-Event-ID: {last_event_id}\r\n" if last_event_id else ""
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n{last}\r\n".encode()
