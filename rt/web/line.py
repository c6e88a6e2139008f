"""A plain socket while HTTP is spoken on it: bytes in, bytes out, a deadline, and an end that the peer can read."""

from __future__ import annotations

import asyncio
import socket
from abc import ABC, abstractmethod
from typing import Any

from rt.delivery.wheel import Alarm, Wheel

READ_SIZE = 65536  # bytes taken from a socket at once
STALLED = 30.0  # seconds in which a peer must take something of what it is sent
LINGER = 2.0  # seconds in which a peer can read why it was refused, while what it still sends is thrown away
NEVER = float("inf")

# What a line waits for: a head; more of a body; the delegate, which asked for time; the answer, as the request is all
# here; the peer to leave. Nothing any more, as the socket is closed or somebody else's.
HEAD, BODY, HOLD, WORK, ENDING, GONE = range(6)

_NONE = Alarm(lambda now: None)


class Lines:
    """The lines of one listener. ``timeout``: seconds after which a line that says nothing is cut."""

    def __init__(self, wheel: Wheel, timeout: float) -> None:
        self.wheel = wheel
        self.timeout = timeout
        self.loop = asyncio.get_running_loop()
        self.open: set[Line] = set()
        self.leaving = False

    def part(self) -> None:
        """Close each line after its next answer. One that waits for a request may have one on its way."""
        self.leaving = True
        for line in self.open:
            line.part()

    def leave(self) -> None:
        """Close the lines that wait for a request, and the others after their answer."""
        self.leaving = True
        for line in list(self.open):
            line.leave()

    def close(self) -> None:
        """Close all of them, whatever they do."""
        for line in list(self.open):
            line.abort()


class Line(ABC):
    """One of them."""

    __slots__ = (
        "_address",
        "_alarm",
        "_buffer",
        "_deadline",
        "_ended",
        "_fd",
        "_lines",
        "_loop",
        "_out",
        "_reading",
        "_socket",
        "_state",
    )

    protocol = "http"

    def __init__(self, lines: Lines, sock: socket.socket, address: Any) -> None:
        self._lines = lines
        self._loop = lines.loop
        self._socket = sock
        self._fd = sock.fileno()
        self._address = address
        self._state = HEAD
        self._buffer = b""  # what has come and is not served yet
        self._out: bytearray | None = None  # what the socket did not take yet
        self._ended = False  # the peer has closed its side
        self._reading = False
        self._deadline = lines.loop.time() + lines.timeout
        self._alarm = _NONE

    @property
    def remote_ip(self) -> str:
        """The peer's address; of a Unix socket none that says anything."""
        return str(self._address[0]) if isinstance(self._address, tuple) else "0.0.0.0"

    @property
    def gone(self) -> bool:
        """Whether it is closed, or somebody else's."""
        return self._state == GONE

    def start(self) -> None:
        """Serve. What was sent right behind the handshake of TCP is often here already."""
        first = self._deadline
        self._readable()
        if self._state == GONE:
            return  # a stream, most likely
        self._lines.open.add(self)
        if self._alarm is _NONE:
            self._alarm = self._lines.wheel.at(first, self._due)
        self._resume()

    @abstractmethod
    def part(self) -> None:
        """Say in the answer that is under way that it is the last."""

    @abstractmethod
    def leave(self) -> None:
        """Close, when an answer is due behind it."""

    @abstractmethod
    def _received(self) -> None:
        """There is more in the buffer."""

    @abstractmethod
    def _end_of_input(self) -> None:
        """The peer will send no more."""

    @abstractmethod
    def _drained(self) -> None:
        """All that was written is out, later than at once."""

    @abstractmethod
    def _abandon(self) -> None:
        """Nobody reads an answer any more, if there is one to come: tell whoever is at work for it."""

    # What comes in

    def _resume(self) -> None:
        if not self._reading and not self._ended:
            self._reading = True
            self._loop.add_reader(self._fd, self._readable)

    def _pause(self) -> None:
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._fd)

    def _readable(self) -> None:
        if self._state == GONE:
            return  # somebody else reads from the next turn on
        try:
            data = self._socket.recv(READ_SIZE)
        except BlockingIOError:
            return
        except OSError:
            self.abort()
            return
        if not data:
            self._end_of_input()
        elif self._state != ENDING:
            self._buffer = self._buffer + data if self._buffer else data
            self._received()

    # What goes out

    def write(self, data: bytes) -> bool:
        """Send; whether all of it is out."""
        if self._state == GONE:
            return False
        if self._out is not None:
            self._out += data
            return False
        try:
            sent = self._socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.abort()
            return False
        if sent == len(data):
            return True
        self._out = bytearray(memoryview(data)[sent:])
        self._deadline = self._loop.time() + STALLED
        self._loop.add_writer(self._fd, self._writable)
        return False

    def _writable(self) -> None:
        out = self._out
        if out is None:
            return
        try:
            sent = self._socket.send(out)
        except BlockingIOError:
            return
        except OSError:
            self.abort()
            return
        del out[:sent]
        self._deadline = self._loop.time() + STALLED
        if not out:
            self._out = None
            self._loop.remove_writer(self._fd)
            if self._state == ENDING:
                self._linger()
            else:
                self._drained()

    # The end

    def _due(self, now: float) -> None:
        """The alarm: at a deadline, or to look for the next one."""
        if now < self._deadline:
            self._alarm = self._lines.wheel.at(min(self._deadline, now + self._lines.timeout), self._due)
        else:
            self.abort()

    def _say_last(self, words: bytes) -> None:
        """Close when the peer has read ``words``, which may be none: to close with unread bytes would take them, and
        what was written before, back."""
        self._state = ENDING
        self._buffer = b""
        if self.write(words):
            self._linger()

    def _linger(self) -> None:
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            self._ended = True
        if self._ended:
            self._close()
            return
        self._resume()
        self._alarm.cancel()
        self._deadline = self._loop.time() + LINGER
        self._alarm = self._lines.wheel.at(self._deadline, self._due)

    def abort(self) -> None:
        """Close at once."""
        if self._state != GONE:
            self._close()
            self._abandon()

    def _close(self) -> None:
        self._forget()
        if self._out is not None:
            self._out = None
            self._loop.remove_writer(self._fd)
        self._pause()
        self._socket.close()

    def _forget(self) -> None:
        self._state = GONE
        self._buffer = b""
        self._alarm.cancel()
        self._lines.open.discard(self)
