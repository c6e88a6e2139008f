"""One client from accept to close, whatever its door: its outbox, its subscriptions, its heartbeat, and the one way to
end."""

from __future__ import annotations

import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from rt import logs
from rt.delivery.behind import resume
from rt.delivery.outbox import Outbox, Sink
from rt.delivery.subscription import Subscription
from rt.errors import CONNECTION_EXPIRED, GONE, NORMAL, SERVER_ERROR, SHUTDOWN, SLOW, Close, Closing, Unsubscribe

if TYPE_CHECKING:
    import asyncio

    from rt.delivery.hub import Hub
    from rt.delivery.wheel import Alarm
    from rt.protocol.dialog import Heartbeat
    from rt.protocol.options import Terms
    from rt.protocol.publication import Position
    from rt.protocol.wires import Wire

log = logs.Limited(logging.getLogger(__name__))

_ORDINARY = frozenset({GONE, NORMAL, SHUTDOWN})  # ends that nobody asks about: the client's own wish, or a deploy

# Of the 128 bits of a UUID those that are random, and those that say how it was made.
_VERSION = 4 << 76 | 2 << 62
_RANDOM = ~(15 << 76 | 3 << 62) & (1 << 128) - 1

Deferred = Callable[[], object]
"""Something to be done when the connection is live."""


def _random() -> Iterator[bytes]:
    """Sixteen bytes each; the system is asked for many at once, since asking is what costs."""
    while True:
        block = os.urandom(4096)
        yield from (block[at : at + 16] for at in range(0, len(block), 16))


_chance = _random()


def unguessable() -> str:
    """A random UUID: what ``uuid.uuid4`` makes (RFC 9562, version 4), at a quarter of its cost."""
    text = f"{int.from_bytes(next(_chance), 'big') & _RANDOM | _VERSION:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


class Connection(ABC):
    """``subscriptions`` by channel (for a stream: one, under any key). ``id`` is unguessable and unique. ``info`` is
    what its user is shown with, raw JSON or nothing."""

    __slots__ = (
        "_alarm",
        "_deferred",
        "_end",
        "address",
        "closed",
        "heartbeat",
        "hub",
        "id",
        "info",
        "on_beat",
        "outbox",
        "subscriptions",
        "user",
        "wire",
    )

    def __init__(self, hub: Hub, sink: Sink, wire: Wire) -> None:
        self.hub = hub
        self.wire = wire
        self.id = unguessable()
        self.address = ""
        self.user = ""
        self.info = b""
        self.outbox = Outbox(sink, self)
        self.subscriptions: dict[str, Subscription] = {}
        self.heartbeat: Heartbeat | None = None
        self.closed = False
        self.on_beat: Callable[[], None] | None = None  # for the door, once per heartbeat
        self._end: Alarm | None = None  # of the right to be connected
        self._alarm: Alarm | None = None
        self._deferred: list[Deferred] | None = None
        hub.connections.add(self)
        hub.metrics.connected(wire.name)

    # What the door tells

    def came_from(self, address: str) -> None:
        """Its address, once, before anything else."""
        self.address = address
        self.hub.crowd.came(self)

    @property
    def busy(self) -> bool:
        """Whether nothing more should be read from the peer for now."""
        return self.outbox.size > self.hub.delivery.low_watermark

    def message(self, payload: bytes) -> None:
        """A message came in. Streams are for receiving: what they send is dropped, and counted."""
        self.hub.tally.received_messages += 1
        self.hub.tally.drops["inbound"] += 1

    def received(self, size: int) -> None:
        """``size`` bytes came in, whatever they are."""
        self.hub.tally.received_bytes += size
        if self.heartbeat is not None:
            self.heartbeat.heard()

    def heard(self) -> None:
        """The peer lives: it sent something, or took something."""
        if self.heartbeat is not None:
            self.heartbeat.heard()

    def broken(self) -> None:
        """The socket is gone."""
        self.close(GONE, heard=False)

    # What happens inside

    def slow(self, reason: str) -> None:
        """The peer takes too little: ``reason`` is one of the metric's words."""
        self.hub.tally.slow[reason] += 1
        self.close(SLOW)

    def drained(self) -> None:
        """The outbox is empty again: read on, and catch up what fell behind."""
        self.outbox.sink.resume()
        resume(self)

    @property
    def session(self) -> str:
        """The secret by which the server API may mean this connection; empty for most, which are told none."""
        return ""

    @property
    def channels(self) -> Iterable[str]:
        """The names of the channels it follows."""
        return self.subscriptions

    @property
    def ping(self) -> bytes:
        """What a heartbeat sends."""
        return self.wire.ping

    def identified(self, user: str, info: bytes) -> None:
        """It is known who it is: from now on what the backend says to its user is said to it. (Unless it has left
        while that was found out.)"""
        if self.closed:
            return
        self.hub.leave(self)
        self.user, self.info = user, info
        self.hub.users.setdefault(user, set()).add(self)

    @abstractmethod
    def lost(self, subscription: Subscription) -> None:
        """What the subscription needs next is lost, so it cannot go on as it is."""

    # What the backend says

    @property
    def is_live(self) -> bool:
        """Whether it has begun and not ended."""
        return self.heartbeat is not None and not self.closed

    def when_live(self, deferred: Deferred) -> object:
        """Do it now, or as soon as the connection is live."""
        if self.is_live:
            return deferred()
        if self._deferred is None:
            self._deferred = []
        self._deferred.append(deferred)
        return None

    @abstractmethod
    def subscribe_by_server(self, name: str, terms: Terms, since: Position | None) -> asyncio.Future[None] | None:
        """The backend subscribes it to ``name``, which may be followed already; from ``since`` on, if that is still
        there. The future is done when it is live, None when it is at once."""

    @abstractmethod
    def unsubscribe_by_server(self, name: str, reason: Unsubscribe) -> None:
        """The backend ends its following of ``name`` (all channels where that is empty)."""

    def refreshed(self, expire_at: float | None, info: bytes | None) -> None:
        """The backend has renewed its right to be connected; whoever can be told is told."""
        self.renewed(expire_at, info)

    def renewed(self, expire_at: float | None, info: bytes | None) -> None:
        """Its right to be connected ends at another time (None: never), and it may be shown with another ``info``."""
        self._expires(expire_at)
        if info is not None and info != self.info:
            self.info = info
            self.hub.presence.changed(self)

    # Time

    def live(self, heartbeat: Heartbeat, expire_at: float | None) -> None:
        """It is live: from now on it is pinged, and closed when its right ends (``expire_at``, seconds since 1970)."""
        self.heartbeat = heartbeat
        self._expires(expire_at)
        self._wake()

    def begun(self) -> None:
        """Do what was put off until it is live; its first message is written."""
        self.hub.crowd.begun(self)
        deferred, self._deferred = self._deferred, None
        for do in deferred or ():
            if not self.closed:  # which the one before may have done
                do()

    def _expires(self, expire_at: float | None) -> None:
        if self._end is not None:
            self._end.cancel()
            self._end = None
        if expire_at is not None:
            client = self.hub.config.client
            moment = expire_at + client.token.leeway + client.expired_close_delay
            self._end = self.hub.expiry.at(moment, self._expired)

    def _expired(self, now: float) -> None:
        self.close(CONNECTION_EXPIRED)

    def _wake(self) -> None:
        assert self.heartbeat is not None
        self.wake_at(self.heartbeat.due())

    def wake_at(self, moment: float) -> None:
        """Have :meth:`tick` called then, instead of whenever it was to be."""
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = self.hub.wheel.at(moment, self.tick)

    def tick(self, now: float) -> None:
        """Send a ping that is due; close a peer that has not answered one."""
        heartbeat = self.heartbeat
        if self.closed or heartbeat is None:
            return
        try:
            if self.on_beat is not None:
                self.on_beat()
            if heartbeat.beat(now):
                self.outbox.write(self.ping)
        except Closing as closing:
            self.close(closing.close)
        if not self.closed:
            self._wake()

    def move(self, hub: Hub) -> None:
        """Before anything has begun: it is of another hub. The one that it leaves only opened the door to it."""
        self.hub.connections.discard(self)
        self.hub.leave(self)
        self.hub.crowd.went(self)
        self.hub.metrics.moved(self.wire.name)
        self.hub = hub
        hub.connections.add(self)
        hub.crowd.came(self)
        hub.metrics.connected(self.wire.name)

    # The end

    def leave(self, last: bytes) -> None:
        """The peer has said goodbye; ``last`` is what it expects to hear."""
        self.close(NORMAL, last=last)

    def close(self, close: Close, *, last: bytes | None = None, heard: bool = True) -> None:
        """End the connection for a reason of the table; ``heard`` is whether the peer can still be told."""
        if self.closed:
            return
        self.closed = True
        for alarm in (self._alarm, self._end):
            if alarm is not None:
                alarm.cancel()
        self._deferred = None
        hub = self.hub
        hub.connections.discard(self)
        hub.crowd.went(self)
        hub.leave(self)
        hub.claiming.pop(self.id, None)
        hub.metrics.disconnected(self.wire.name, close)
        if close not in _ORDINARY:
            self._log(close)
        for name in self.channels:
            hub.presence.leave(name, self)
        for subscription in self.subscriptions.values():
            if subscription.right is not None and subscription.right.end is not None:
                subscription.right.end.cancel()
            subscription.feed.leave(subscription)
        self.subscriptions.clear()
        if heard:
            self.outbox.end(self.farewell(close) if last is None else last)
        else:
            self.outbox.discard()
        # Nothing that it is made of may hold it: it goes when the socket does, not when garbage is collected.
        self.outbox.owner = hub.nobody
        self.on_beat = None

    def _log(self, close: Close) -> None:
        """One line per reason and ten seconds. The words are the table's: a backend may have chosen others."""
        tell = log.warning if close is SERVER_ERROR else log.info
        tell(
            f"{self.hub.tenant} {close.label}",
            "a connection was closed",
            reason=close.label,
            code=close.code,
            connection=self.id,
            transport=self.wire.name,
            tenant=self.hub.tenant,
        )

    def farewell(self, close: Close) -> bytes:
        """The last bytes."""
        return self.wire.farewell(close)
