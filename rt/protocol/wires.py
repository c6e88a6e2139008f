"""Wires: the formats of finished bytes, made once per turn and shared by every member that speaks them.

A *turn* is what a feed has taken since its last flush: items of one or more channels in the order of taking. A wire
makes one ``bytes`` of it, which is then given to each member's socket unchanged. Frames that are replayed to one
connection are made by the same call, from that connection's own positions.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from rt.errors import Close
from rt.protocol import cursor, replies, sse
from rt.protocol.frames import PING, close_frame, text_frame
from rt.protocol.publication import Position, Publication


class Told(NamedTuple):
    """In a turn: the stream of this channel is not continuous here; it goes on from ``position``."""

    position: Position


class Item(NamedTuple):
    """One thing to send: ``place`` is the channel's place in the list of the feed."""

    place: int
    what: Publication | Told


class Name:
    """A channel's name, ready for the wires: ``json`` is its JSON string, ``push`` the start of an SDK push."""

    __slots__ = ("json", "push", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.json = json.dumps(text).encode()
        self.push = b'{"push":{"channel":%s,"pub":' % self.json


class Wire(Protocol):
    """A format of finished bytes. ``name`` labels metrics; ``ping`` is its heartbeat."""

    name: str
    ping: bytes

    def farewell(self, close: Close) -> bytes:
        """The last bytes of a connection that ends for the reason ``close``."""

    def encode(self, channels: Sequence[Name], items: Sequence[Item], start: Sequence[Position]) -> bytes:
        """The bytes of ``items``; ``start`` holds the positions of all channels before the first of them."""


def _advanced(positions: list[Position], item: Item) -> None:
    """Move the position of the item's channel over it; one without an offset moves nothing."""
    what = item.what
    if isinstance(what, Told):
        positions[item.place] = what.position
    elif what.offset:
        positions[item.place] = Position(what.epoch, what.offset)


def _bare(channel: Name, what: Publication | Told) -> bytes:
    """A push as the doors without an SDK send it, without its closing brace."""
    if isinstance(what, Told):
        epoch, offset = what.position
        return b'{"channel":%s,"gap":{"epoch":"%s","offset":%d}' % (channel.json, epoch.encode(), offset)
    return b'{"channel":%s,"pub":%s' % (channel.json, what.encoded())


class _Framed:
    """What both WebSocket wires share."""

    def farewell(self, close: Close) -> bytes:
        return close_frame(close.code, close.reason)


class SdkWire(_Framed):
    """Pushes for the SDKs: one text frame per turn, its pushes joined by newlines. Gaps are told elsewhere."""

    name = "websocket"
    ping = text_frame(replies.PING)

    def encode(self, channels: Sequence[Name], items: Sequence[Item], start: Sequence[Position]) -> bytes:
        pushes = [
            b"%s%s}}" % (channels[place].push, what.encoded()) for place, what in items if isinstance(what, Publication)
        ]
        return text_frame(b"\n".join(pushes)) if pushes else b""


class SocketWire(_Framed):
    """One text frame per push, each with the cursor to come back with."""

    name = "ws"
    ping = PING

    def encode(self, channels: Sequence[Name], items: Sequence[Item], start: Sequence[Position]) -> bytes:
        positions = list(start)
        frames = []
        for item in items:
            _advanced(positions, item)
            text = cursor.encode(positions).encode()
            frames.append(text_frame(b'%s,"cursor":"%s"}' % (_bare(channels[item.place], item.what), text)))
        return b"".join(frames)


class SseWire:
    """Server-Sent Events (WHATWG HTML, section 9.2): the cursor is the event's id."""

    name = "sse"
    ping = sse.HEARTBEAT

    def farewell(self, close: Close) -> bytes:
        return sse.event(replies.disconnect_object(close), event="disconnect")

    def encode(self, channels: Sequence[Name], items: Sequence[Item], start: Sequence[Position]) -> bytes:
        positions = list(start)
        events = []
        for item in items:
            _advanced(positions, item)
            events.append(_event(channels[item.place], item.what, cursor.encode(positions)))
        return b"".join(events)


def _event(channel: Name, what: Publication | Told, text: str) -> bytes:
    if isinstance(what, Told):
        epoch, offset = what.position
        data = b'{"channel":%s,"epoch":"%s","offset":%d}' % (channel.json, epoch.encode(), offset)
        return sse.event(data, id=text, event="gap")
    return sse.event(b'{"channel":%s,"pub":%s}' % (channel.json, what.encoded()), id=text)


SDK = SdkWire()
SOCKET = SocketWire()
SSE = SseWire()
