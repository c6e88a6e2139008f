"""Wires: the formats of finished bytes, made once per turn and shared by every member that speaks them.

A *turn* is what a feed has taken since its last flush: items of one or more channels in the order of taking. A wire
makes one ``bytes`` of it, which is then given to each member's socket unchanged. Frames that are replayed to one
connection are made by the same call, from that connection's own positions.

Every wire has twins that also carry who comes and leaves: of all channels (:meth:`Wire.joined`), or of some places of
the list only (:meth:`Wire.joining`).
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import ClassVar, Final, NamedTuple, TypeVar

from rt.errors import Close
from rt.protocol import cursor, replies, sse
from rt.protocol.frames import PING, close_frame, text_frame
from rt.protocol.publication import Change, Position, Publication


class Told(NamedTuple):
    """In a turn: the stream of this channel is not continuous here; it goes on from ``position``."""

    position: Position


What = Publication | Told | Change


class Item(NamedTuple):
    """One thing to send: ``place`` is the channel's place in the list of the feed."""

    place: int
    what: What


class Name:
    """A channel's name, ready for the wires.

    ``json`` is its JSON string, ``head`` the start of a bare push, ``push`` the start of an SDK push of a publication,
    and ``mark`` what stands before its position in a cursor: nothing where the cursor goes by places.
    """

    __slots__ = ("head", "json", "mark", "push", "text")

    def __init__(self, text: str, *, named: bool = False) -> None:
        self.text = text
        self.json = json.dumps(text).encode()
        self.head = b'{"channel":%s,' % self.json
        self.push = b'{"push":%s"pub":' % self.head
        self.mark = cursor.mark(text) if named else ""


W = TypeVar("W", bound="Wire")

_MOST_TWINS: Final = 256


class Wire(ABC):
    """A format of finished bytes; the instances below are all there are, and their twins.

    ``name`` labels metrics. ``ping`` is its heartbeat. ``tells``: a gap is told in the stream, and the stream goes on;
    else its owner hears of it (``Connection.lost``). ``joins``: it carries who comes and leaves.
    """

    __slots__ = ("_places", "joins")

    name: ClassVar[str]
    ping: ClassVar[bytes]
    tells: ClassVar[bool] = False

    def __init__(self, places: frozenset[int] | None = frozenset()) -> None:
        self.joins = places is None or bool(places)
        self._places = places  # of the channels whose coming and leaving it carries; None: of all

    def joined(self: W, joins: bool) -> W:
        """The twin that carries who comes and leaves, in every channel; or the one that does not."""
        return _twin(type(self), None if joins else frozenset())

    def joining(self: W, places: Iterable[int]) -> W:
        """The twin that carries who comes and leaves in the channels at ``places`` of the list, and in no other."""
        return _twin(type(self), frozenset(places))

    def farewell(self, close: Close) -> bytes:
        """The last bytes of a connection that ends for the reason ``close``."""
        return close_frame(close.code, close.reason)

    def push(self, body: bytes) -> bytes:
        """The bytes of one push that is no item of a turn; ``body`` is its JSON object, without any wrapper."""
        return text_frame(body)

    def encode(self, channels: Sequence[Name], items: Sequence[Item], start: Sequence[Position]) -> bytes:
        """The bytes of ``items``, empty when none of them is for this wire; ``start`` holds the positions of all
        channels before the first."""
        mine = [item for item in items if type(item.what) is Publication or self._carries(item)]
        return self._encode(channels, mine, start)

    @abstractmethod
    def _encode(self, channels: Sequence[Name], items: Sequence[Item], start: Sequence[Position]) -> bytes:
        """The bytes of ``items``, all of which are for this wire."""

    def _carries(self, item: Item) -> bool:
        """Whether something that is no publication is for this wire."""
        if type(item.what) is Change:
            return self._places is None or item.place in self._places
        return self.tells


_twins: dict[tuple[type[Wire], frozenset[int] | None], Wire] = {}


def _twin(kind: type[W], places: frozenset[int] | None) -> W:
    """The same object for the same question, so that members share it. (One too many is only shared by fewer.)"""
    twin = _twins.get((kind, places))
    if twin is None:
        twin = kind(places)
        if len(_twins) < _MOST_TWINS:
            _twins[kind, places] = twin
    assert isinstance(twin, kind)
    return twin


class _Trail:
    """The cursor as it advances over the items of one call: the entry of each channel, renewed where one moved."""

    __slots__ = ("_channels", "_entries")

    def __init__(self, channels: Sequence[Name], start: Sequence[Position]) -> None:
        self._channels = channels
        self._entries = [_entry(name, position) for name, position in zip(channels, start, strict=True)]

    def over(self, item: Item) -> str:
        """The cursor after ``item``; one without an offset moves nothing."""
        what = item.what
        if isinstance(what, Told):
            self._entries[item.place] = _entry(self._channels[item.place], what.position)
        elif isinstance(what, Publication) and what.offset:
            self._entries[item.place] = _entry(self._channels[item.place], Position(what.epoch, what.offset))
        return ",".join(self._entries)


def _entry(name: Name, position: Position) -> str:
    return name.mark + cursor.entry(position)


def standing(channels: Sequence[Name], positions: Sequence[Position]) -> str:
    """The cursor that stands for these positions, in the form that the names are made for."""
    return ",".join([_entry(name, position) for name, position in zip(channels, positions, strict=True)])


def _bare(channel: Name, what: What) -> bytes:
    """A push as the doors without an SDK send it, without its closing brace."""
    match what:
        case Publication():
            return b'%s"pub":%s' % (channel.head, what.encoded())
        case Change(kind, info):
            return b'%s"%s":{"info":%s}' % (channel.head, kind.encode(), info)
        case Told((epoch, offset)):
            return b'%s"gap":{"epoch":"%s","offset":%d}' % (channel.head, epoch.encode(), offset)


class SdkWire(Wire):
    """Pushes for the SDKs: one text frame per turn, its pushes joined by newlines."""

    __slots__ = ()

    name = "websocket"
    ping = text_frame(replies.PING)

    def push(self, body: bytes) -> bytes:
        return text_frame(b'{"push":%s}' % body)

    def _encode(self, channels: Sequence[Name], items: Sequence[Item], start: Sequence[Position]) -> bytes:
        pushes = [
            b"%s%s}}" % (channels[place].push, what.encoded())
            if isinstance(what, Publication)
            else b'{"push":%s}}' % _bare(channels[place], what)
            for place, what in items
        ]
        return text_frame(b"\n".join(pushes)) if pushes else b""


class UniWire(Wire):
    """Bare pushes for those who only listen, each a text frame of its own."""

    __slots__ = ()

    name = "uni_websocket"
    ping = text_frame(replies.PING)

    def _encode(self, channels: Sequence[Name], items: Sequence[Item], start: Sequence[Position]) -> bytes:
        return b"".join([text_frame(b"%s}" % _bare(channels[place], what)) for place, what in items])


class StreamWire(Wire):
    """What the wires of streams share: everything they say has the cursor to come back with."""

    __slots__ = ()

    @abstractmethod
    def notice(self, channel: Name, kind: str, body: bytes, cursor: str) -> bytes:
        """Something about one channel that is no item of a turn: ``kind`` is ``subscribe`` or ``unsubscribe``, ``body``
        its JSON object."""


class EventWire(StreamWire):
    """What the wires of event streams share."""

    __slots__ = ()

    @abstractmethod
    def end(self, close: Close, cursor: str | None, retry: int) -> bytes:
        """The last bytes of one that should come back after ``retry`` milliseconds, from ``cursor`` where that is
        certain."""


class SocketWire(StreamWire):
    """One text frame per push, each with the cursor."""

    __slots__ = ()

    name = "ws"
    ping = PING
    tells = True

    def notice(self, channel: Name, kind: str, body: bytes, cursor: str) -> bytes:
        return text_frame(b'%s"%s":%s,"cursor":"%s"}' % (channel.head, kind.encode(), body, cursor.encode()))

    def _encode(self, channels: Sequence[Name], items: Sequence[Item], start: Sequence[Position]) -> bytes:
        trail = _Trail(channels, start)
        frames = []
        for item in items:
            text = trail.over(item).encode()
            frames.append(text_frame(b'%s,"cursor":"%s"}' % (_bare(channels[item.place], item.what), text)))
        return b"".join(frames)


class SseWire(EventWire):
    """Server-Sent Events (WHATWG HTML, section 9.2): the cursor is the event's id, and what is no publication has an
    event name."""

    __slots__ = ()

    name = "sse"
    ping = sse.HEARTBEAT
    tells = True

    def farewell(self, close: Close) -> bytes:
        return sse.event(replies.disconnect_object(close), event="disconnect")

    def end(self, close: Close, cursor: str | None, retry: int) -> bytes:
        return sse.retry(retry) + sse.event(replies.disconnect_object(close), id=cursor, event="disconnect")

    def push(self, body: bytes) -> bytes:
        return sse.event(body)

    def notice(self, channel: Name, kind: str, body: bytes, cursor: str) -> bytes:
        return sse.event(_spliced(channel, body), id=cursor, event=kind)

    def _encode(self, channels: Sequence[Name], items: Sequence[Item], start: Sequence[Position]) -> bytes:
        trail = _Trail(channels, start)
        return b"".join([_event(channels[item.place], item.what, trail.over(item)) for item in items])


def _event(channel: Name, what: What, text: str) -> bytes:
    match what:
        case Publication():
            return sse.event(b'%s"pub":%s}' % (channel.head, what.encoded()), id=text)
        case Change(kind, info):
            return sse.event(b'%s"info":%s}' % (channel.head, info), id=text, event=kind)
        case Told((epoch, offset)):
            body = b'%s"epoch":"%s","offset":%d}' % (channel.head, epoch.encode(), offset)
            return sse.event(body, id=text, event="gap")


def _spliced(channel: Name, body: bytes) -> bytes:
    """The object ``body`` with the channel as its first field."""
    return channel.head + body[1:] if body != b"{}" else b'{"channel":%s}' % channel.json


class UniSseWire(EventWire):
    """Server-Sent Events whose data are bare pushes; the cursor is the event's id."""

    __slots__ = ()

    name = "uni_sse"
    ping = sse.event(replies.PING)

    def farewell(self, close: Close) -> bytes:
        return sse.event(b'{"disconnect":%s}' % replies.disconnect_object(close))

    def end(self, close: Close, cursor: str | None, retry: int) -> bytes:
        return sse.retry(retry) + sse.event(b'{"disconnect":%s}' % replies.disconnect_object(close), id=cursor)

    def push(self, body: bytes) -> bytes:
        return sse.event(body)

    def notice(self, channel: Name, kind: str, body: bytes, cursor: str) -> bytes:
        return sse.event(b'%s"%s":%s}' % (channel.head, kind.encode(), body), id=cursor)

    def _encode(self, channels: Sequence[Name], items: Sequence[Item], start: Sequence[Position]) -> bytes:
        trail = _Trail(channels, start)
        return b"".join(
            [sse.event(b"%s}" % _bare(channels[item.place], item.what), id=trail.over(item)) for item in items]
        )


SDK = _twin(SdkWire, frozenset())
UNI = _twin(UniWire, frozenset())
SOCKET = _twin(SocketWire, frozenset())
SSE = _twin(SseWire, frozenset())
UNI_SSE = _twin(UniSseWire, frozenset())
