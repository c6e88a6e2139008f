"""Listening sockets: accepting connections, and living on when descriptors run out."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable
from typing import Any

from rt.logs import Limited

log = Limited(logging.getLogger("rt.web"))

BATCH = 64  # connections accepted before the loop gets a turn
PAUSE = 1.0  # seconds without accepting when the process has no descriptors left

_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

Accept = Callable[[socket.socket, Any], None]


class Listener:
    """One listening socket, inherited and kept open by who bound it."""

    __slots__ = ("_accept", "_loop", "_pause", "_socket", "_started")

    def __init__(self, sock: socket.socket, accept: Accept) -> None:
        self._socket = sock
        self._accept = accept
        self._loop = asyncio.get_running_loop()
        self._started = False
        self._pause: asyncio.TimerHandle | None = None

    def prepare(self, send_buffer: int, user_timeout: float) -> None:
        """Set what accepted sockets inherit: no delay of small writes, a send buffer of ``send_buffer`` bytes (what
        waits shall wait where we see it), and ``user_timeout`` seconds for a peer that acknowledges nothing."""
        sock = self._socket
        if sock.family == socket.AF_UNIX:
            return
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(user_timeout * 1000))

    def start(self) -> None:
        """Accept from now on."""
        self._started = True
        self._loop.add_reader(self._socket.fileno(), self._readable)

    def stop(self) -> None:
        """Accept no more; harmless when that is so already. The socket stays open: others may hold it, and what waits
        in it is theirs."""
        if not self._started:
            return
        self._started = False
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._socket.fileno())

    def close(self) -> None:
        """Accept no more, and give up our copy of the socket. Where nobody else has one, who comes now is refused at
        once, instead of waiting for somebody to accept."""
        self.stop()
        self._socket.close()

    def _readable(self) -> None:
        for _ in range(BATCH):
            try:
                connection, address = self._socket.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._rest(error)
                    return
                continue  # a peer that left while it waited; the next one may be there
            connection.setblocking(False)
            try:
                self._accept(connection, address)
            except Exception:
                log.exception("accept", "a connection could not be taken")
                connection.close()

    def _rest(self, error: OSError) -> None:
        log.error("descriptors", "accepting nothing for a second: %s", error.strerror)
        self._loop.remove_reader(self._socket.fileno())
        self._pause = self._loop.call_later(PAUSE, self._resume)

    def _resume(self) -> None:
        self._pause = None
        if self._started:
            self.start()
