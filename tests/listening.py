"""Both HTTP connections that the doors stand on, over a delegate of a test's own."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPServerConnectionDelegate
from tornado.iostream import IOStream

from rt.delivery.wheel import Wheel
from rt.web.http1 import Http1
from rt.web.listener import Listener
from rt.web.strict import StrictStream

KINDS = ("fast", "tornado")
"""As the config names them."""


@contextlib.asynccontextmanager
async def listening(
    kind: str,
    delegate: HTTPServerConnectionDelegate,
    *,
    timeout: float = 10.0,
    max_body: int = 1 << 20,
    send_buffer: int = 65536,
    found: list[Http1] | None = None,
) -> AsyncIterator[int]:
    """Serve ``delegate``; yields the port. At the end no connection is left. ``found`` gets our own server itself."""
    sock = socket.create_server(("127.0.0.1", 0))
    sock.setblocking(False)
    accept: Callable[[socket.socket, Any], None]
    wheel = Wheel(0.05)
    wheel.start()
    own = Http1(delegate, wheel, timeout=timeout, max_body=max_body)
    if found is not None:
        found.append(own)
    tornado = HTTPServer(delegate, idle_connection_timeout=timeout, body_timeout=timeout, max_body_size=max_body)
    if kind == "fast":
        accept = own.accept
    else:

        def accept(connection: socket.socket, address: Any) -> None:
            stream: IOStream = StrictStream(connection, max_buffer_size=2 * max_body)
            tornado.handle_stream(stream, address)

    listener = Listener(sock, accept)
    listener.prepare(send_buffer, 30.0)
    listener.start()
    try:
        yield sock.getsockname()[1]
    finally:
        listener.stop()
        sock.close()
        own.close()
        assert not own.open
        await asyncio.wait_for(tornado.close_all_connections(), 5)
        wheel.stop()
