"""A publication, and where it stands in its channel's stream."""

from __future__ import annotations

from typing import Literal, NamedTuple


class Position(NamedTuple):
    """A place in a channel's stream: everything up to and including ``offset`` has been seen.

    Offsets run 1, 2, 3, ... within an epoch; another epoch is another stream. The epoch of a channel without history is
    empty, and its offset a number of this worker's own, if it counts at all.
    """

    epoch: str
    offset: int


class Publication:
    """One message of a channel.

    ``body`` is the JSON object of the wire without its offset, e.g. ``{"data":{"n":1},"tags":{"k":"v"}}``: it always
    holds ``data``, has no raw newline, and is never decoded again on its way. ``offset`` is 0 and ``epoch`` empty where
    the publication was not stored. ``time`` is when the publish was accepted, in microseconds of the accepting host's
    clock.
    """

    __slots__ = ("body", "epoch", "offset", "time")

    def __init__(self, body: bytes, epoch: str = "", offset: int = 0, time: int = 0) -> None:
        self.body = body
        self.epoch = epoch
        self.offset = offset
        self.time = time

    def encoded(self) -> bytes:
        """The Publication object of the wire, with its offset when it has one."""
        return b'%s,"offset":%d}' % (self.body[:-1], self.offset) if self.offset else self.body

    def __repr__(self) -> str:
        return f"Publication({self.epoch}.{self.offset}, {len(self.body)} bytes)"


NOWHERE = Position("", 0)
"""The position of a channel without history that nobody counts."""


class Page(NamedTuple):
    """What one read of a channel's stream gave: publications in ascending order, and the top at that moment."""

    top: Position
    publications: list[Publication]


class Change(NamedTuple):
    """Somebody came to a channel or left it; ``info`` is who, a ClientInfo as JSON. It is in no history."""

    kind: Literal["join", "leave"]
    info: bytes
