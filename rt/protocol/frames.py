"""WebSocket frames (RFC 6455): a strict reader for what clients send, and encoders for what a server sends.

The reader is a machine without a clock: bytes in, items out, however the bytes were cut. No extension is ever agreed
on, so every reserved bit is an error. What can be refused from a frame's header is refused before its payload comes.
"""

from __future__ import annotations

import contextlib
import struct
from typing import Final, NamedTuple

from rt import errors

OPCODE_CONTINUATION: Final = 0x0
OPCODE_TEXT: Final = 0x1
OPCODE_BINARY: Final = 0x2
OPCODE_CLOSE: Final = 0x8
OPCODE_PING: Final = 0x9
OPCODE_PONG: Final = 0xA

NO_STATUS: Final = 1005
"""What a close frame without a code means (RFC 6455 section 7.1.5). It is never sent as a number."""

MAX_FRAGMENTS: Final = 64
"""Frames that one message may be cut into. Empty fragments cost nothing of the size limit, so they are counted."""

MAX_CONTROLS: Final = 256
"""Control frames accepted until the owner sets :attr:`FrameReader.controls` back to 0."""

_FIN = 0x80
_SMALL = 125  # the longest payload whose length fits the second byte; the longest of a control frame
_HEADER = 6  # bytes before the payload of a small masked frame
_CHUNK = 4096  # unmasked at once: larger integers fall out of the processor's cache and take twice as long
_FINAL_TEXT = _FIN | OPCODE_TEXT
_LEGAL_STARTS = frozenset({0x00, 0x01, 0x02, 0x80, 0x81, 0x82, 0x88, 0x89, 0x8A})


class Binary(NamedTuple):
    """A complete binary message."""

    payload: bytes


class Control(NamedTuple):
    """A control frame: ``opcode`` is :data:`OPCODE_PING`, :data:`OPCODE_PONG` or :data:`OPCODE_CLOSE`.

    ``payload`` has at most 125 bytes, and that of a close frame has passed :func:`close_status`.
    """

    opcode: int
    payload: bytes


class FrameError(errors.Closing):
    """The client broke the rules; the connection must end with ``close``. The text says how, in fixed words."""


Item = bytes | Binary | Control | FrameError
"""What a reader gives: ``bytes`` is a complete text message (valid UTF-8); an error or a close frame is always last."""


class _Message:
    """A message of which the last frame has not come yet."""

    __slots__ = ("data", "frames", "opcode")

    def __init__(self, opcode: int) -> None:
        self.opcode = opcode
        self.data = bytearray()
        self.frames = 0


class FrameReader:
    """Reads the frames of one client.

    ``max_message`` bounds a message in bytes, all its fragments together. Between two calls the reader holds at most
    that and one header or control frame, and nothing at all when no frame or message is unfinished.

    ``controls`` counts control frames. The owner, who has the clock, sets it to 0 once in every heartbeat period; more
    than :data:`MAX_CONTROLS` in between end the connection (3013). So a flood of pings is refused, and how the bytes
    were cut makes no difference to that.
    """

    __slots__ = ("_buffer", "_ended", "_message", "_need", "controls", "max_message")

    def __init__(self, max_message: int) -> None:
        self.max_message = max_message
        self.controls = 0
        self._buffer: bytearray | None = None  # the beginning of a frame
        self._need = 0  # bytes the buffer must have before it is worth looking at again
        self._message: _Message | None = None
        self._ended = False

    @property
    def pending(self) -> bool:
        """True while a frame or a message has begun and not ended; how long that may last is for the owner to say."""
        return self._buffer is not None or self._message is not None

    @property
    def ended(self) -> bool:
        """True after a close frame or an error: further bytes are discarded unread (RFC 6455 section 1.4)."""
        return self._ended

    def feed(self, data: bytes) -> list[Item]:
        """Take the next bytes; return what they completed, in order. Never raises.

        After a :class:`FrameError` or a close frame, which are always last, every later call returns an empty list.
        """
        size = len(data)
        if (
            _HEADER <= size <= _HEADER + _SMALL
            and data[1] == _FIN + size - _HEADER
            and data[0] == _FINAL_TEXT
            and self._buffer is None
            and self._message is None
            and not self._ended
            and size - _HEADER <= self.max_message
        ):
            # One whole small text frame: nearly everything a client ever sends.
            payload = _xor(data[_HEADER:], data[2:_HEADER])
            if payload.isascii():
                return [payload]
        return self._feed(data)

    def _feed(self, data: bytes | bytearray) -> list[Item]:
        """The same without the short cut."""
        items: list[Item] = []
        if self._ended:
            return items
        if self._buffer is not None:
            self._buffer += data
            if len(self._buffer) < self._need:
                return items
            data, self._buffer = self._buffer, None
        try:
            self._parse(data, items)
        except FrameError as error:
            # Without its traceback, which would keep this call's bytes alive in a reference cycle.
            items.append(error.with_traceback(None))
            self._end()
        return items

    def _parse(self, data: bytes | bytearray, items: list[Item]) -> None:
        """Append every item that ``data`` completes, and keep the beginning of an unfinished frame."""
        start, size = 0, len(data)
        while True:
            payload_at, end = self._measure(data, start)
            if end > size:
                break
            item = self._frame(data, start, payload_at, end)
            if item is not None:
                items.append(item)
            if self._ended:
                return
            start = end
        if start < size:
            self._buffer = bytearray(data[start:]) if start or isinstance(data, bytes) else data
            self._need = end - start

    def _measure(self, data: bytes | bytearray, start: int) -> tuple[int, int]:
        """Where the payload and the frame that begins at ``start`` end; beyond the data, how much is needed to go on.

        Raises FrameError for everything that a header can be refused for.
        """
        size = len(data)
        if size - start < 2:
            return 0, start + 2
        first, second = data[start], data[start + 1]
        self._check_start(first, second)
        length, payload_at = second & 0x7F, start + _HEADER
        if length > _SMALL:
            width = 2 if length == 126 else 8
            payload_at += width
            if size - start < 2 + width:
                return payload_at, start + 2 + width
            length = int.from_bytes(data[start + 2 : start + 2 + width], "big")
            if length >> 63:
                raise FrameError(errors.PROTOCOL_ERROR, "length with its top bit set")
            if length <= (_SMALL if width == 2 else 0xFFFF):
                raise FrameError(errors.PROTOCOL_ERROR, "length not in its shortest form")
        if first & 0x8 == 0:
            self._check_size(length)
        return payload_at, payload_at + length

    def _check_start(self, first: int, second: int) -> None:
        """Refuse what the first two bytes of a frame can be refused for (RFC 6455 sections 5.1 to 5.5)."""
        if first not in _LEGAL_STARTS:
            raise FrameError(errors.PROTOCOL_ERROR, "reserved bit or opcode, or a control frame in fragments")
        if second < 0x80:
            raise FrameError(errors.PROTOCOL_ERROR, "frame without a mask")
        if first & 0x8:
            if second & 0x7F > _SMALL:
                raise FrameError(errors.PROTOCOL_ERROR, "control frame longer than 125 bytes")
            if self.controls >= MAX_CONTROLS:
                raise FrameError(errors.TOO_MANY, "too many control frames")
        elif first & 0xF == OPCODE_CONTINUATION:
            if self._message is None:
                raise FrameError(errors.PROTOCOL_ERROR, "continuation of no message")
            if self._message.frames >= MAX_FRAGMENTS:
                raise FrameError(errors.POLICY, "message in too many fragments")
        elif self._message is not None:
            raise FrameError(errors.PROTOCOL_ERROR, "new message before the last one ended")

    def _check_size(self, length: int) -> None:
        """Refuse a data frame that would make its message larger than allowed."""
        held = 0 if self._message is None else len(self._message.data)
        if held + length > self.max_message:
            raise FrameError(errors.TOO_LARGE, "message too large")

    def _frame(self, data: bytes | bytearray, start: int, payload_at: int, end: int) -> Item | None:
        """Take one complete frame; return what it completes."""
        first = data[start]
        payload = _unmask(data, payload_at, end)
        if first & 0x8:
            return self._control(first & 0xF, payload)
        if first & _FIN and self._message is None:
            return _message(first & 0xF, payload)
        if self._message is None:
            self._message = _Message(first & 0xF)
        message = self._message
        message.data += payload
        message.frames += 1
        if not first & _FIN:
            return None
        self._message = None
        return _message(message.opcode, bytes(message.data))

    def _control(self, opcode: int, payload: bytes) -> Control:
        self.controls += 1
        if opcode == OPCODE_CLOSE:
            close_status(payload)
            self._end()
        return Control(opcode, payload)

    def _end(self) -> None:
        self._ended = True
        self._buffer = self._message = None


def _message(opcode: int, payload: bytes) -> Item:
    """A complete message. Raises FrameError (1007) for a text that is not UTF-8."""
    if opcode == OPCODE_BINARY:
        return Binary(payload)
    if not payload.isascii():
        _decode(payload)
    return payload


def _decode(payload: bytes) -> str:
    with contextlib.suppress(UnicodeDecodeError):
        return payload.decode()
    # Not raised while the decoding error is handled: as its context that would keep the whole payload alive.
    raise FrameError(errors.INVALID_UTF8, "text that is not UTF-8")


def _unmask(data: bytes | bytearray, start: int, end: int) -> bytes:
    """The payload between ``start`` and ``end``, whose mask is the four bytes before it (RFC 6455 section 5.3)."""
    mask = bytes(data[start - 4 : start])
    if end - start <= _CHUNK:
        return _xor(data[start:end], mask)
    return b"".join([_xor(data[at : min(at + _CHUNK, end)], mask) for at in range(start, end, _CHUNK)])


def _xor(payload: bytes | bytearray, mask: bytes) -> bytes:
    # As two big integers: for 100 bytes that beats translating four interleaved slices by tables, and in chunks it is
    # nearly as fast for large payloads.
    size = len(payload)
    key = (mask * ((size + 3) >> 2))[:size]
    return (int.from_bytes(payload, "little") ^ int.from_bytes(key, "little")).to_bytes(size, "little")


def close_status(payload: bytes) -> tuple[int, str]:
    """The code and the reason of a close frame's payload; ``(1005, "")`` where it is empty.

    Raises FrameError: 1002 for a code that may not be on the wire (RFC 6455 section 7.4) or half a code, 1007 for a
    reason that is not UTF-8.
    """
    if not payload:
        return NO_STATUS, ""
    if len(payload) == 1:
        raise FrameError(errors.PROTOCOL_ERROR, "close frame with half a code")
    code = int.from_bytes(payload[:2], "big")
    if not _on_wire(code):
        raise FrameError(errors.PROTOCOL_ERROR, "close code that may not be sent")
    return code, _decode(payload[2:])


def _on_wire(code: int) -> bool:
    # 1012 to 1014 are younger than the RFC; the IANA registry has them.
    return 1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999


# What a server sends: never masked, never in fragments, lengths in their shortest form.

PING: Final = b"\x89\x00"
"""A ping without payload, the heartbeat of a plain WebSocket."""

_LENGTH_16 = struct.Struct("!BBH").pack
_LENGTH_64 = struct.Struct("!BBQ").pack


def text_frame(payload: bytes) -> bytes:
    """One text message. ``payload`` must be UTF-8; it is not looked at."""
    size = len(payload)
    if size <= _SMALL:
        return b"%c%c%b" % (_FINAL_TEXT, size, payload)
    if size <= 0xFFFF:
        return _LENGTH_16(_FINAL_TEXT, 126, size) + payload
    return _LENGTH_64(_FINAL_TEXT, 127, size) + payload


def pong_frame(payload: bytes) -> bytes:
    """The answer to a ping with ``payload``. Raises ValueError for more than 125 bytes."""
    return _control_frame(OPCODE_PONG, payload)


def close_frame(code: int, reason: str = "") -> bytes:
    """A close frame; a reason too long for it is cut between two characters.

    :data:`NO_STATUS` gives the frame without code and reason: the echo of such a frame. Raises ValueError for any other
    code that may not be on the wire (1006, say).
    """
    if code == NO_STATUS:
        return _control_frame(OPCODE_CLOSE, b"")
    if not _on_wire(code):
        raise ValueError(f"close code {code} may not be sent")
    text = reason.encode("utf-8", "replace")[: _SMALL - 2].decode("utf-8", "ignore")
    return _control_frame(OPCODE_CLOSE, code.to_bytes(2, "big") + text.encode())


def _control_frame(opcode: int, payload: bytes) -> bytes:
    if len(payload) > _SMALL:
        raise ValueError("a control frame has at most 125 bytes")
    return b"%c%c%b" % (_FIN | opcode, len(payload), payload)
