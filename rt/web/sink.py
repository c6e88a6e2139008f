"""Where an outbox writes and a door reads: a plain socket that is ours, or Tornado's stream for TLS.

Once its request is known to be good, a WebSocket or event stream needs no HTTP any more. A plain socket is then taken
over: what is left of it is the descriptor, one reader callback of the loop, and a writer callback while something
waits.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Protocol

from tornado.iostream import IOStream, SSLIOStream

READ_SIZE = 65536  # bytes taken from a socket at once
WRITE_SIZE = 65536  # bytes given to a TLS stream at once: what waits in it, the outbox does not see


class Receiver(Protocol):
    """Who gets what the peer sends."""

    @property
    def busy(self) -> bool:
        """Whether nothing more should be read for now; who said so calls ``resume`` of the sink later."""

    def received(self, data: bytes) -> None:
        """Bytes came in."""

    def lost(self) -> None:
        """The peer has closed its side, or the connection is broken."""


class Socket:
    """A plain non-blocking socket. Implements ``rt.delivery.outbox.Sink``."""

    __slots__ = ("_ended", "_fd", "_loop", "_reading", "_socket", "_watching", "receiver", "send")

    def __init__(self, sock: socket.socket, loop: asyncio.AbstractEventLoop, *, watched: bool = False) -> None:
        """``watched``: the loop has a reader of somebody else for it, which is replaced by ours at the start."""
        self._socket = sock
        self._fd = sock.fileno()
        self._loop = loop
        self._reading = watched
        self._watching = False
        self._ended = False
        self.send: Callable[[bytes], int] = sock.send
        self.receiver: Receiver | None = None

    def start(self, receiver: Receiver) -> None:
        """Read, and give what comes to ``receiver``."""
        self.receiver = receiver
        self._reading = False
        self.resume()

    def watch(self, drain: Callable[[], None]) -> None:
        if self._fd >= 0:
            self._watching = True
            self._loop.add_writer(self._fd, drain)

    def unwatch(self) -> None:
        if self._watching:
            self._watching = False
            self._loop.remove_writer(self._fd)

    def pause(self) -> None:
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._fd)

    def resume(self) -> None:
        if not self._reading and self._fd >= 0:
            self._reading = True
            self._loop.add_reader(self._fd, self._readable)

    def end(self) -> None:
        if self._fd < 0 or self._ended:
            return
        self._ended = True
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            self.close()
        else:
            self.resume()  # to see the peer leave; closing with unread bytes would take our last words back

    def close(self) -> None:
        if self._fd < 0:
            return
        self.pause()
        self.unwatch()
        self._fd = -1
        self.receiver = None
        self._socket.close()

    def _readable(self) -> None:
        receiver = self.receiver
        if receiver is not None and receiver.busy and not self._ended:
            self.pause()
            return
        try:
            data = self._socket.recv(READ_SIZE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._gone()
        elif receiver is not None and not self._ended:
            receiver.received(data)

    def _gone(self) -> None:
        receiver = self.receiver
        if receiver is not None:
            receiver.lost()
        self.close()


class Stream:
    """A TLS stream of Tornado. Implements ``rt.delivery.outbox.Sink``.

    It takes a write when the one before is out, and nothing meanwhile; so at most one of them waits out of the
    outbox's sight.
    """

    __slots__ = ("_drain", "_ended", "_reading", "_stream", "_wants", "_write", "receiver", "send")

    def __init__(self, stream: IOStream) -> None:
        self._stream = stream
        self._write: asyncio.Future[None] | None = None
        self._drain: Callable[[], None] | None = None
        self._reading = False  # a read is under way
        self._wants = False  # and another one should follow
        self._ended = False
        self.send: Callable[[bytes], int] = self._send
        self.receiver: Receiver | None = None

    def start(self, receiver: Receiver) -> None:
        """Read, and give what comes to ``receiver``."""
        self.receiver = receiver
        self.resume()

    def _send(self, data: bytes) -> int:
        if self._stream.closed():
            raise ConnectionResetError
        if self._write is not None and not self._write.done():
            raise BlockingIOError
        part = data[:WRITE_SIZE]
        self._write = asyncio.ensure_future(self._stream.write(part))
        if self._drain is not None:
            self._write.add_done_callback(self._written)
        return len(part)

    def watch(self, drain: Callable[[], None]) -> None:
        self._drain = drain
        if self._write is not None:
            self._write.add_done_callback(self._written)

    def unwatch(self) -> None:
        self._drain = None

    def _written(self, write: asyncio.Future[None]) -> None:
        failed = write.cancelled() or write.exception() is not None
        if self._drain is not None and not failed:
            self._drain()

    def pause(self) -> None:
        self._wants = False

    def resume(self) -> None:
        if self.receiver is not None and self.receiver.busy:
            return  # others say so, too: when the outbox is empty, for one
        self._wants = True
        if not self._reading and not self._stream.closed():
            self._reading = True
            asyncio.ensure_future(self._stream.read_bytes(READ_SIZE, partial=True)).add_done_callback(self._read)

    def end(self) -> None:
        if not self._ended:
            self._ended = True
            # TLS has no half-close that peers handle well: close when what was written last is out.
            if self._write is None or self._write.done():
                self.close()
            else:
                self._write.add_done_callback(lambda write: self.close())

    def close(self) -> None:
        self._drain = None
        self.receiver = None
        self._stream.close()

    def _read(self, read: asyncio.Future[bytes]) -> None:
        self._reading = False
        receiver = self.receiver
        if read.cancelled() or read.exception() is not None:
            if receiver is not None:
                receiver.lost()
            self.close()
            return
        if receiver is not None and not self._ended:
            receiver.received(read.result())
            if receiver.busy:
                self._wants = False
        if self._wants:
            self.resume()


def take_over(stream: IOStream) -> tuple[Socket | Stream, bytes]:
    """A sink of a stream that was detached from HTTP, and what the peer has sent behind its request.

    Raises StreamClosedError when the peer has left already.
    """
    if isinstance(stream, SSLIOStream):
        return Stream(stream), b""  # which has them in its buffer, and reads on
    behind = asyncio.ensure_future(stream.read_bytes(READ_SIZE, partial=True))
    data = behind.result() if behind.done() else b""
    sock = stream.socket.dup()
    stream.close()  # only its own descriptor; a read that is under way ends with it
    return Socket(sock, asyncio.get_running_loop()), data
