"""What supervisor and worker say to each other over their socket pair.

A message is four bytes of length (big-endian), a word, a line feed, and a body of any bytes. Unknown words are ignored
on both sides: during a rolling upgrade the two may be of different versions. The end of the stream means that the other
is gone.

To the worker: ``start`` (first, see :class:`Start`), ``reload`` (an encoded config), ``lineage`` (text), ``part``
(its successor accepts, so calls of the API should go there), ``drain`` (seconds). To the supervisor: ``ready``,
``beat``, ``leaving`` (somebody else told it to stop), ``done`` (the word of an order carried out), ``failed`` (the
word, a line feed, why).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Callable
from typing import NamedTuple, Self

MAX_MESSAGE = 16 * 1024 * 1024
"""Bytes of one message. A config is some kilobytes; more is a stream out of step."""

_HEAD = 4


class ControlError(Exception):
    """The stream does not hold messages: the other side is not what it should be."""


class Message(NamedTuple):
    """One message: a word and its body."""

    word: str
    body: bytes = b""


class Start(NamedTuple):
    """What a worker needs to begin: its name and number, the embedded store's lineage (or None) and address (or
    nothing), and the config, encoded.
    """

    name: str
    number: int
    lineage: str | None
    store: str
    config: bytes

    def encode(self) -> bytes:
        """The body of a ``start`` message."""
        head = {"name": self.name, "number": self.number, "lineage": self.lineage, "store": self.store}
        return json.dumps(head).encode() + b"\n" + self.config

    @classmethod
    def decode(cls, body: bytes) -> Self:
        """Read the body of a ``start`` message; ControlError when it is none."""
        head, _, config = body.partition(b"\n")
        try:
            values = json.loads(head)
            # A supervisor of an older version, which an upgrade keeps, does not say where the store is.
            store = str(values.get("store", ""))
            return cls(str(values["name"]), int(values["number"]), values["lineage"], store, config)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ControlError(f"not a start message: {error}") from error


def pack(word: str, body: bytes = b"") -> bytes:
    """One message as bytes."""
    payload = word.encode() + b"\n" + body
    return len(payload).to_bytes(_HEAD, "big") + payload


def unpack(payload: bytes) -> Message:
    """The message in ``payload``, which is without its length."""
    word, _, body = payload.partition(b"\n")
    return Message(word.decode("ascii", "replace"), body)


class Inbox:
    """Bytes in, whole messages out, however the bytes were cut."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Message]:
        """The messages that ``data`` completes; ControlError on an impossible length."""
        self._buffer += data
        messages = []
        while len(self._buffer) >= _HEAD:
            length = int.from_bytes(self._buffer[:_HEAD], "big")
            if length > MAX_MESSAGE:
                raise ControlError(f"a message of {length} bytes")
            if len(self._buffer) < _HEAD + length:
                break
            messages.append(unpack(bytes(self._buffer[_HEAD : _HEAD + length])))
            del self._buffer[: _HEAD + length]
        return messages


def receive(sock: socket.socket, timeout: float) -> Message:
    """Wait at most ``timeout`` seconds (per read) for one message, before there is a loop; ControlError when none
    comes.
    """
    sock.settimeout(timeout)
    try:
        length = int.from_bytes(_receive_exactly(sock, _HEAD), "big")
        if length > MAX_MESSAGE:
            raise ControlError(f"a message of {length} bytes")
        return unpack(_receive_exactly(sock, length))
    except OSError as error:
        raise ControlError(f"no message: {error}") from error


def _receive_exactly(sock: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        part = sock.recv(count - len(data))
        if not part:
            raise ControlError("the other side is gone")
        data += part
    return bytes(data)


class Control:
    """One end of the socket pair on an event loop. :meth:`send` never waits: what the socket does not take is kept.

    ``on_message`` gets every message in order; ``on_end`` is called once, when the other side is gone or out of step.
    What waits to be sent is bounded: a peer that reads nothing while more than ``MAX_MESSAGE`` bytes wait is taken for
    gone.
    """

    __slots__ = ("_inbox", "_loop", "_on_end", "_on_message", "_outgoing", "_socket")

    def __init__(self, sock: socket.socket, on_message: Callable[[Message], None], on_end: Callable[[], None]) -> None:
        sock.setblocking(False)
        self._socket: socket.socket | None = sock
        self._on_message = on_message
        self._on_end = on_end
        self._inbox = Inbox()
        self._outgoing = bytearray()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(sock, self._read)

    def send(self, word: str, body: bytes = b"") -> None:
        """Send a message; nothing happens when the other side is gone."""
        if self._socket is None:
            return
        idle = not self._outgoing
        self._outgoing += pack(word, body)
        if len(self._outgoing) > 2 * MAX_MESSAGE:
            self._end()
        elif idle:
            self._write()

    def close(self) -> None:
        """Close this end. ``on_end`` is not called any more."""
        if self._socket is not None:
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
            self._socket.close()
            self._socket = None

    def _end(self) -> None:
        if self._socket is not None:
            self.close()
            self._on_end()

    def _read(self) -> None:
        assert self._socket is not None
        try:
            data = self._socket.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        messages: list[Message] = []
        if data:
            with contextlib.suppress(ControlError):
                messages = self._inbox.feed(data)
                for message in messages:
                    self._on_message(message)
                return
        self._end()

    def _write(self) -> None:
        assert self._socket is not None
        try:
            sent = self._socket.send(self._outgoing)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._end()
            return
        del self._outgoing[:sent]
        if self._outgoing:
            self._loop.add_writer(self._socket, self._write)
        else:
            self._loop.remove_writer(self._socket)
