"""One client from accept to close, whatever its door: its outbox, its subscriptions, its heartbeat, and the one way to
end."""

from __future__ import annotations

import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING

from rt.delivery.catchup import catch_up
from rt.delivery.outbox import Outbox, Sink
from rt.delivery.subscription import State, Subscription
from rt.errors import CONNECTION_EXPIRED, GONE, NORMAL, SLOW, Close, Closing

if TYPE_CHECKING:
    from rt.delivery.hub import Hub
    from rt.delivery.wheel import Alarm
    from rt.protocol.dialog import Heartbeat
    from rt.protocol.wires import Wire


class Connection(ABC):
    """``subscriptions`` by channel (for a stream: one, under any key). ``id`` is unguessable and unique."""

    __slots__ = (
        "_alarm",
        "_expires",
        "closed",
        "heartbeat",
        "hub",
        "id",
        "on_beat",
        "outbox",
        "subscriptions",
        "user",
        "wire",
    )

    def __init__(self, hub: Hub, sink: Sink, wire: Wire) -> None:
        self.hub = hub
        self.wire = wire
        self.id = str(uuid.uuid4())
        self.user = ""
        self.outbox = Outbox(sink, self)
        self.subscriptions: dict[str, Subscription] = {}
        self.heartbeat: Heartbeat | None = None
        self.closed = False
        self.on_beat: Callable[[], None] | None = None  # for the door, once per heartbeat
        self._expires = inf
        self._alarm: Alarm | None = None
        hub.connections.add(self)
        hub.metrics.connected(wire.name)

    # What the door tells

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
        self.heard()

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
        for subscription in list(self.subscriptions.values()):
            if subscription.state is State.BEHIND:
                catch_up(subscription)

    @abstractmethod
    def lost(self, subscription: Subscription) -> None:
        """What the subscription needs next is lost, so it cannot go on as it is."""

    # Time

    def live(self, heartbeat: Heartbeat, expire_at: float | None) -> None:
        """It has begun: from now on it is pinged, and closed at its token's end (``expire_at``, seconds since 1970)."""
        self.heartbeat = heartbeat
        if expire_at is not None:
            self._expires = self.hub.now() + expire_at + self.hub.config.client.token.leeway - time.time()
        self._wake()

    def _wake(self) -> None:
        assert self.heartbeat is not None
        self.wake_at(min(self.heartbeat.due(), self._expires))

    def wake_at(self, moment: float) -> None:
        """Have :meth:`tick` called then, instead of whenever it was to be."""
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = self.hub.wheel.at(moment, self.tick)

    def tick(self, now: float) -> None:
        """Send a ping that is due; close a peer that has not answered one, or whose token has expired."""
        heartbeat = self.heartbeat
        if self.closed or heartbeat is None:
            return
        try:
            if now >= self._expires:
                raise Closing(CONNECTION_EXPIRED)
            if self.on_beat is not None:
                self.on_beat()
            if heartbeat.beat(now):
                self.outbox.write(self.wire.ping)
        except Closing as closing:
            self.close(closing.close)
        if not self.closed:
            self._wake()

    # The end

    def leave(self, last: bytes) -> None:
        """The peer has said goodbye; ``last`` is what it expects to hear."""
        self.close(NORMAL, last=last)

    def close(self, close: Close, *, last: bytes | None = None, heard: bool = True) -> None:
        """End the connection for a reason of the table; ``heard`` is whether the peer can still be told."""
        if self.closed:
            return
        self.closed = True
        if self._alarm is not None:
            self._alarm.cancel()
        self.hub.connections.discard(self)
        self.hub.metrics.disconnected(self.wire.name, close)
        for subscription in self.subscriptions.values():
            subscription.feed.leave(subscription)
        self.subscriptions.clear()
        if heard:
            self.outbox.end(self.farewell(close) if last is None else last)
        else:
            self.outbox.discard()

    def farewell(self, close: Close) -> bytes:
        """The last bytes."""
        return self.wire.farewell(close)
