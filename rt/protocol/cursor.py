"""Cursors: positions in one or more channels as a short text, the ``id:`` of an SSE event and ``since`` of a request.

The text is ``epoch.offset`` for each channel in the order of the request, joined by ``,``; ``-`` stands for a channel
without history. Clients send cursors back, so what is decoded is hostile: bounded, strict, with one spelling for each
value. A cursor grants nothing; who may read a channel is checked wherever one is used.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from rt.protocol.publication import Position

MAX_CHANNELS: Final = 16
MAX_TEXT: Final = 1024
MAX_OFFSET: Final = 2**53 - 1
"""The largest integer that JavaScript, and so the SDKs, can hold."""

_NO_HISTORY = "-"
_EPOCH = re.compile(r"[A-Za-z0-9_-]{1,32}")
_ENTRY = re.compile(r"([A-Za-z0-9_-]{1,32})\.(0|[1-9][0-9]{0,15})")


class CursorError(ValueError):
    """Not a cursor for this list of channels. The text never repeats what was sent."""


def encode(positions: Sequence[Position | None]) -> str:
    """The cursor of ``positions``. None, and a position without epoch, stand for a channel without history.

    Raises CursorError for what :func:`decode` would refuse.
    """
    _check_count(len(positions))
    return ",".join([_entry(position) for position in positions])


def decode(text: str, count: int) -> list[Position | None]:
    """The positions in ``text``, one for each of the ``count`` channels of the request; None for one without history.

    Raises CursorError for anything that :func:`encode` would not have written.
    """
    _check_count(count)
    if len(text) > MAX_TEXT:
        raise CursorError(f"longer than {MAX_TEXT} characters")
    entries = text.split(",")
    if len(entries) != count:
        raise CursorError("another number of positions than channels")
    return [_position(entry) for entry in entries]


def _check_count(count: int) -> None:
    if not 1 <= count <= MAX_CHANNELS:
        raise CursorError(f"a cursor is for 1 to {MAX_CHANNELS} channels")


def _entry(position: Position | None) -> str:
    if position is None or position == ("", 0):
        return _NO_HISTORY
    epoch, offset = position
    if _EPOCH.fullmatch(epoch) is None or not 0 <= offset <= MAX_OFFSET:
        raise CursorError("a position that no cursor can hold")
    return f"{epoch}.{offset}"


def _position(entry: str) -> Position | None:
    if entry == _NO_HISTORY:
        return None
    match = _ENTRY.fullmatch(entry)
    if match is None:
        raise CursorError("not a position")
    offset = int(match[2])
    if offset > MAX_OFFSET:
        raise CursorError("offset out of range")
    return Position(match[1], offset)
