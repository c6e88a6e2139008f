"""Cursors: positions in one or more channels as a short text, the ``id:`` of an SSE event and ``since`` of a request.

There are two forms. *By place*: ``epoch.offset`` for each channel in the order of the request, joined by ``,``. *By
name*: ``name=epoch.offset``, joined likewise, in whatever order; the names are percent-encoded. It is for streams that
follow another list than the request's. In both, ``-`` stands for a channel without history.

Clients send cursors back, so what is decoded is hostile: bounded, strict, with one spelling for each value. A cursor
grants nothing; who may read a channel is checked wherever one is used.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from rt.protocol.publication import Position

MAX_CHANNELS: Final = 16
"""Channels in the list of a request, and so positions in a cursor by place."""

MAX_TEXT: Final = 1024
"""Characters of a cursor by place."""

MAX_NAMED: Final = 8192
"""Characters of a cursor by name: it must fit into the head of a request."""

MAX_OFFSET: Final = 2**53 - 1
"""The largest integer that JavaScript, and so the SDKs, can hold."""

_NO_HISTORY = "-"
_UNSAFE = re.compile(rb"[^A-Za-z0-9._~:$#@/&*+;!-]")
"""What is percent-encoded in a name: all that is special in a cursor or in JSON, or not ASCII."""

_QUOTED = re.compile(rb"%([0-9A-F]{2})")
_MAX_ENTRY = 1 + 32 + 1 + 16 + 1
_EPOCH = re.compile(r"[A-Za-z0-9_-]{1,32}")
_ENTRY = re.compile(r"([A-Za-z0-9_-]{1,32})\.(0|[1-9][0-9]{0,15})")


class CursorError(ValueError):
    """Not a cursor for this list of channels. The text never repeats what was sent."""


def encode(positions: Sequence[Position | None]) -> str:
    """The cursor of ``positions``, by place. None, and a position without epoch, stand for a channel without history.

    Raises CursorError for what :func:`decode` would refuse.
    """
    _check_count(len(positions))
    return ",".join([entry(position) for position in positions])


def mark(name: str) -> str:
    """What stands before the position of the channel ``name`` in a cursor by name."""
    return _quote(name) + "="


def entry(position: Position | None) -> str:
    """The part of a cursor that is one position. Raises CursorError where no cursor can hold it."""
    if position is None or not position.epoch:
        return _NO_HISTORY
    epoch, offset = position
    if _EPOCH.fullmatch(epoch) is None or not 0 <= offset <= MAX_OFFSET:
        raise CursorError("a position that no cursor can hold")
    return f"{epoch}.{offset}"


def fits(names: Sequence[str]) -> bool:
    """Whether a cursor by name can hold these channels, wherever they will stand."""
    return sum(len(mark(name)) + _MAX_ENTRY for name in names) <= MAX_NAMED


def decode(text: str, names: Sequence[str]) -> dict[str, Position | None]:
    """The positions in ``text`` by channel; None for one without history.

    By place it is for exactly the channels ``names``, in this order. By name it may lack some of them and hold others:
    the caller takes what it looks for. Raises CursorError for anything that was not written here.
    """
    if "=" in text:
        return _by_name(text)
    _check_count(len(names))
    if len(text) > MAX_TEXT:
        raise CursorError(f"longer than {MAX_TEXT} characters")
    entries = text.split(",")
    if len(entries) != len(names):
        raise CursorError("another number of positions than channels")
    return {name: _position(one) for name, one in zip(names, entries, strict=True)}


def _by_name(text: str) -> dict[str, Position | None]:
    if len(text) > MAX_NAMED:
        raise CursorError(f"longer than {MAX_NAMED} characters")
    found: dict[str, Position | None] = {}
    for one in text.split(","):
        quoted, _, position = one.partition("=")
        name = _name(quoted)
        if name in found:
            raise CursorError("a channel twice")
        found[name] = _position(position)
    return found


def _name(quoted: str) -> str:
    try:
        name = _QUOTED.sub(lambda match: bytes.fromhex(match[1].decode()), quoted.encode()).decode()
    except UnicodeError:
        raise CursorError("a name that is not UTF-8") from None
    if not name or _quote(name) != quoted:
        raise CursorError("not a name")
    return name


def _quote(name: str) -> str:
    return _UNSAFE.sub(lambda match: b"%%%02X" % match[0][0], name.encode()).decode()


def _check_count(count: int) -> None:
    if not 1 <= count <= MAX_CHANNELS:
        raise CursorError(f"a cursor by place is for 1 to {MAX_CHANNELS} channels")


def _position(text: str) -> Position | None:
    if text == _NO_HISTORY:
        return None
    match = _ENTRY.fullmatch(text)
    if match is None:
        raise CursorError("not a position")
    offset = int(match[2])
    if offset > MAX_OFFSET:
        raise CursorError("offset out of range")
    return Position(match[1], offset)
