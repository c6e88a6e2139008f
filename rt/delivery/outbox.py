"""The outbox: what waits for one socket, bounded in bytes, messages and age.

As long as the kernel takes what is sent, nothing waits and the outbox is empty: its subscriptions are *ready* and the
turns write straight to the socket. When the kernel refuses, the rest waits here, the subscriptions are *blocked*, and
the socket is watched until everything is out. Beyond the share of its priority a subscription falls behind instead; one
whose policy is ``disconnect`` costs the connection above the high watermark (:mod:`rt.delivery.policy`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol

from rt.delivery.behind import outranked
from rt.delivery.policy import share
from rt.delivery.subscription import State

if TYPE_CHECKING:
    from rt.delivery.hub import Hub
    from rt.delivery.subscription import Subscription
    from rt.delivery.wheel import Alarm
    from rt.protocol.publication import Position

LINGER = 2.0  # seconds a connection may take to hear its last words before the socket is closed


class Sink(Protocol):
    """Where an outbox writes: a plain socket, or a stream for TLS.

    ``send`` is like ``socket.send`` of a non-blocking socket: the number of bytes taken, BlockingIOError when none can
    be taken now, another OSError when the connection is broken.
    """

    send: Callable[[bytes], int]

    def watch(self, drain: Callable[[], None]) -> None:
        """Call ``drain`` whenever bytes can be taken, until :meth:`unwatch`."""

    def unwatch(self) -> None:
        """Call it no more."""

    def pause(self) -> None:
        """Read nothing from the peer for now."""

    def resume(self) -> None:
        """Read from the peer again."""

    def end(self) -> None:
        """Nothing more will be sent: tell the peer so, and wait for it to leave."""

    def close(self) -> None:
        """Close at once. Harmless when it is closed already."""


class Owner(Protocol):
    """Whose outbox it is."""

    hub: Hub
    closed: bool

    @property
    def subscriptions(self) -> Mapping[str, Subscription]:
        """What it follows, by channel or other key."""

    def broken(self) -> None:
        """The socket is gone."""

    def slow(self, reason: str) -> None:
        """The peer takes too little, for a reason of the metrics."""

    def heard(self) -> None:
        """The peer took something."""

    def drained(self) -> None:
        """Nothing waits any more."""

    def lost(self, subscription: Subscription) -> None:
        """What the subscription needs next is lost."""


class Nobody:
    """Owns what connections leave behind that have ended. With the connection itself as owner the two would hold each
    other, and with them all that a connection is made of, until the garbage collector has gone through everything."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.closed = True
        self.subscriptions: Mapping[str, Subscription] = {}

    def broken(self) -> None:
        """It has ended already."""

    def slow(self, reason: str) -> None:
        """So it has."""

    def heard(self) -> None:
        """Nobody asks any more."""

    def drained(self) -> None:
        """Nothing is read any more."""

    def lost(self, subscription: Subscription) -> None:
        """There is none."""


class Outbox:
    """The queue of one connection. ``size`` is bytes waiting, ``count`` frames waiting."""

    __slots__ = ("_alarm", "_moved", "_partial", "count", "ending", "owner", "queue", "send", "sink", "size")

    def __init__(self, sink: Sink, owner: Owner) -> None:
        self.sink = sink
        self.send = sink.send
        self.owner = owner
        # (when it came, how many frames it is, the bytes); made when first needed: most connections never wait.
        self.queue: deque[tuple[float, int, bytes]] | None = None
        self.size = 0
        self.count = 0
        self.ending = False
        self._partial = False
        self._moved = 0.0
        self._alarm: Alarm | None = None

    def write(self, data: bytes) -> None:
        """Send ``data`` after all that waits. For replies, pages and heartbeats: these are exempt from the bounds."""
        if self.queue is not None:
            self._append(data)
            return
        try:
            sent = self.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.owner.broken()
            return
        if sent < len(data):
            self.hold(data, sent)

    def hold(self, data: bytes, sent: int) -> None:
        """The kernel took only ``sent`` bytes of ``data``: the rest waits, and whoever writes here with it."""
        assert self.queue is None  # whoever writes past the queue breaks the stream
        self.queue = deque()
        self._partial = sent > 0
        self._moved = self.owner.hub.now()
        self._append(data[sent:])
        self.sink.watch(self.drain)
        self._watch_stall()
        if not self.ending:
            self.owner.hub.queues.add(self)
            for subscription in self.owner.subscriptions.values():
                if subscription.state is State.LIVE:
                    subscription.members.block(subscription)

    def offer(self, frame: bytes, subscription: Subscription, start: list[Position]) -> None:
        """A turn's ``frame`` for a blocked subscription, which stood at ``start`` before it: queue it, or apply the
        policy."""
        if self.queue is None:
            self.write(frame)
            return
        limits, manner = self.owner.hub.delivery, subscription.feed.manner
        size = self.size + len(frame)
        if manner.lags:
            most = share(limits, manner.rank)
            fits = size <= most.size and self.count < most.messages
            if fits and not manner.conflates and not outranked(subscription):
                self._append(frame)
            else:
                subscription.feed.fall_behind(subscription, start)
        elif size <= limits.high_watermark and self.count < limits.max_messages:
            self._append(frame)
        else:
            self.owner.slow("queue")

    def drain(self) -> None:
        """Send what waits, as much as the socket takes; called when it is writable."""
        queue = self.queue
        if queue is None:
            return
        try:
            while queue:
                self._merge(queue)
                came, frames, data = queue[0]
                sent = self.send(data)
                self.size -= sent
                self._moved = self.owner.hub.now()
                self.owner.heard()  # its pong may wait behind what we do not read meanwhile
                if sent < len(data):
                    queue[0] = (came, frames, data[sent:])
                    self._partial = True
                    return
                queue.popleft()
                self.count -= frames
                self._partial = False
        except BlockingIOError:
            return
        except OSError:
            if self.ending:
                self.discard()  # its owner has closed already and would not hear of it
            else:
                self.owner.broken()
            return
        self._emptied()

    def end(self, last: bytes) -> None:
        """Send ``last`` after what cannot be taken back, drop the rest, and say goodbye. Bounded by the linger time."""
        self.ending = True
        self.owner.hub.queues.discard(self)
        if self.queue:
            kept = [self.queue[0]] if self._partial else []
            self.queue = deque(kept)
            self.size = sum(len(data) for _, _, data in kept)
            self.count = sum(frames for _, frames, _ in kept)
        if last:
            self.write(last)
        if self.queue is None:
            self.sink.end()
        elif not self.queue:
            self._emptied()
        hub = self.owner.hub
        hub.wheel.at(hub.now() + LINGER, lambda now: self.sink.close())

    def discard(self) -> None:
        """The socket is gone: nothing waits any more."""
        self.ending = True
        self.owner.hub.queues.discard(self)
        self.queue = None
        self.size = self.count = 0
        if self._alarm is not None:
            self._alarm.cancel()
        self.sink.close()

    def _append(self, data: bytes) -> None:
        assert self.queue is not None
        self.queue.append((self.owner.hub.now(), 1, data))
        self.size += len(data)
        self.count += 1

    def _merge(self, queue: deque[tuple[float, int, bytes]]) -> None:
        """Many small frames become one system call, but never with a half-sent one, whose age is its own."""
        if len(queue) < 2 or self._partial:
            return
        came = queue[0][0]
        frames = sum(entry[1] for entry in queue)
        data = b"".join([entry[2] for entry in queue])
        queue.clear()
        queue.append((came, frames, data))

    def _emptied(self) -> None:
        self.queue = None
        self.owner.hub.queues.discard(self)
        self.sink.unwatch()
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if self.ending:
            self.sink.end()
            return
        for subscription in self.owner.subscriptions.values():
            if subscription.state is State.LIVE:
                subscription.members.unblock(subscription)
        self.owner.drained()

    def _watch_stall(self) -> None:
        hub = self.owner.hub
        wait = min(hub.delivery.stall_timeout, hub.delivery.max_age)
        self._alarm = hub.wheel.at(hub.now() + wait, self._look)

    def _look(self, now: float) -> None:
        """Close a connection that takes nothing, or whose oldest message is too old."""
        queue = self.queue
        if not queue or self.ending:
            return
        limits = self.owner.hub.delivery
        stalled = self._moved + limits.stall_timeout
        aged = queue[0][0] + limits.max_age
        if now >= stalled:
            self.owner.slow("stalled")
        elif now >= aged:
            self.owner.slow("age")
        else:
            self._alarm = self.owner.hub.wheel.at(min(stalled, aged), self._look)
