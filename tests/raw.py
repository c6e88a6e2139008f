"""A socket that says exactly the bytes it is told to, for requests and frames that no library would send."""

from __future__ import annotations

import asyncio
import json
import os
import struct
from contextlib import suppress
from typing import Any, NamedTuple, Self

from tests.clients import Response, plug, read_head, read_response
from tests.servers import Server
from tests.waiting import PATIENCE

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


class Frame(NamedTuple):
    """One frame from the server."""

    final: bool
    opcode: int
    payload: bytes


class Shut(Exception):
    """The server closed: with ``code`` and ``reason`` of a close frame, or None when it just hung up."""

    def __init__(self, code: int | None, reason: str = "") -> None:
        super().__init__(f"{code} {reason}")
        self.code = code
        self.reason = reason


def frame(
    opcode: int, payload: bytes = b"", *, final: bool = True, masked: bool = True, reserved: int = 0, length: int = -1
) -> bytes:
    """A client frame (RFC 6455 section 5.2). ``reserved`` are the three RSV bits; ``length`` lies about the length."""
    size = len(payload) if length < 0 else length
    head = bytes([(final << 7) | (reserved << 4) | opcode])
    mark = masked << 7
    if size < 126:
        head += bytes([mark | size])
    elif size < 1 << 16:
        head += bytes([mark | 126]) + struct.pack("!H", size)
    else:
        head += bytes([mark | 127]) + struct.pack("!Q", size)
    if not masked:
        return head + payload
    key = os.urandom(4)
    return head + key + bytes(byte ^ key[index % 4] for index, byte in enumerate(payload))


def text(message: Any) -> bytes:
    """A text frame with a JSON message."""
    return frame(TEXT, json.dumps(message).encode())


def close(code: int, reason: bytes = b"") -> bytes:
    """A close frame."""
    return frame(CLOSE, struct.pack("!H", code) + reason)


def upgrade(path: str, **changes: str | None) -> bytes:
    """A WebSocket handshake (RFC 6455 section 4.1); ``changes`` replace headers, None leaves one out."""
    headers: dict[str, str | None] = {
        "Host": "localhost",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version": "13",
    }
    headers |= {name.replace("_", "-"): value for name, value in changes.items()}
    lines = [f"{name}: {value}" for name, value in headers.items() if value is not None]
    return "\r\n".join([f"GET {path} HTTP/1.1", *lines, "", ""]).encode("latin-1")


class RawSocket:
    """One TCP connection to the public port."""

    def __init__(self, server: Server, receive_buffer: int | None = None) -> None:
        self.server = server
        self.receive_buffer = receive_buffer

    async def __aenter__(self) -> Self:
        self.reader, self.writer = await asyncio.open_connection(sock=plug(self.server.port, self.receive_buffer))
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()
        with suppress(OSError):
            await self.writer.wait_closed()

    async def send(self, data: bytes) -> None:
        """Send bytes as they are; a server that is gone already is no failure here."""
        self.writer.write(data)
        with suppress(ConnectionError):
            await asyncio.wait_for(self.writer.drain(), PATIENCE)

    async def response(self) -> Response:
        """The HTTP response; Shut when the server hangs up instead."""
        try:
            return await read_response(self.reader)
        except (asyncio.IncompleteReadError, ConnectionError):
            raise Shut(None) from None

    async def head(self) -> Response:
        """Status and headers of a response whose body nobody needs."""
        try:
            return Response(*await read_head(self.reader), b"")
        except (asyncio.IncompleteReadError, ConnectionError):
            raise Shut(None) from None

    async def handshake(self, path: str = "/connection/websocket") -> None:
        """Become a WebSocket."""
        await self.send(upgrade(path))
        head = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), PATIENCE)
        assert head.startswith(b"HTTP/1.1 101 "), head

    async def connect(self) -> dict[str, Any]:
        """Become a WebSocket and send a connect command; the reply."""
        await self.handshake()
        await self.send(text({"id": 1, "connect": {}}))
        reply = json.loads((await self.frame()).payload)
        assert isinstance(reply, dict)
        return reply

    async def frame(self) -> Frame:
        """The next frame; Shut for a close frame and for the end of the connection."""
        try:
            first, second = await self.bytes(2)
            size = second & 0x7F
            assert not second & 0x80, "a server must not mask"
            if size == 126:
                (size,) = struct.unpack("!H", await self.bytes(2))
            elif size == 127:
                (size,) = struct.unpack("!Q", await self.bytes(8))
            payload = await self.bytes(size)
        except (asyncio.IncompleteReadError, ConnectionError):
            raise Shut(None) from None
        if first & 0x0F == CLOSE:
            code = struct.unpack("!H", payload[:2])[0] if payload else None
            raise Shut(code, payload[2:].decode())
        return Frame(bool(first & 0x80), first & 0x0F, payload)

    async def bytes(self, count: int) -> bytes:
        """Exactly ``count`` bytes."""
        return await asyncio.wait_for(self.reader.readexactly(count), PATIENCE)

    async def shut(self) -> Shut:
        """Read until the server closes; how it did."""
        try:
            while True:
                await self.frame()
        except Shut as shut:
            return shut

    async def hung_up(self) -> bool:
        """Whether nothing more comes and the connection is closed, within the usual patience."""
        try:
            return await asyncio.wait_for(self.reader.read(), PATIENCE) is not None
        except ConnectionError:
            return True
