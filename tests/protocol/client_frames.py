"""What a client may send, built by hand so that it can also be wrong, and items in a form that compares."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from rt.protocol import frames
from rt.protocol.frames import FrameError, FrameReader

LIMIT = 65536
MASK = b"\x37\xfa\x21\x3d"


def masked(payload: bytes, mask: bytes = MASK) -> bytes:
    """Mask byte by byte, as RFC 6455 section 5.3 puts it: slow, and obviously right."""
    return bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))


def frame(payload: bytes = b"", *, opcode: int = 1, fin: bool = True, mask: bytes = MASK) -> bytes:
    """A client's frame, with the shortest form of its length."""
    size = len(payload)
    first = opcode | (0x80 if fin else 0)
    if size <= 125:
        head = bytes((first, 0x80 | size))
    elif size <= 0xFFFF:
        head = struct.pack("!BBH", first, 0xFE, size)
    else:
        head = struct.pack("!BBQ", first, 0xFF, size)
    return head + mask + masked(payload, mask)


def close(code: int, reason: bytes = b"") -> bytes:
    return frame(struct.pack("!H", code) + reason, opcode=8)


def read(data: bytes, limit: int = LIMIT) -> list[frames.Item]:
    return FrameReader(limit).feed(data)


def plain(items: Sequence[frames.Item]) -> list[object]:
    """Items that compare by value: errors as their close code."""
    return [item.close.code if isinstance(item, FrameError) else item for item in items]


def error_of(items: Sequence[frames.Item]) -> int:
    """The close code of the only item, which is an error."""
    (item,) = items
    assert isinstance(item, FrameError)
    return item.close.code
