"""A feed: all on this worker who follow the same list of channels, and the turn that goes out to them together.

An SDK subscription follows a list of one; a stream (``/sse``, ``/ws``) follows up to sixteen. What the channels take is
collected into the feed's *turn*; at the end of the loop turn it is encoded once per wire and written once per member.

The *base* holds the channels' positions when the turn now filling began. Whoever stands at the base is live and gets
the turns; everybody else is brought there first (:mod:`rt.delivery.catchup`). An empty turn means: the base is where
the channels are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from rt.delivery.subscription import State, Subscription
from rt.protocol.publication import Position, Publication
from rt.protocol.wires import SDK, Item, Told, Wire

if TYPE_CHECKING:
    from rt.delivery.channel import Channel
    from rt.delivery.hub import Hub
    from rt.delivery.outbox import Outbox

Send = Callable[[bytes], int]

CHUNK = 500  # members written to before looking at the clock
SLICE = 0.004  # seconds a flush may take before the loop gets a turn


class Members:
    """Those of a feed who speak one wire and are live: *ready* with their socket's ``send``, or *blocked* by their
    outbox."""

    __slots__ = ("blocked", "ready", "wire")

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.ready: dict[Subscription, Send] = {}
        self.blocked: dict[Subscription, None] = {}

    def add(self, subscription: Subscription) -> None:
        """From now on it takes part in the turns."""
        subscription.state = State.LIVE
        if subscription.outbox.queue is None:
            self.ready[subscription] = subscription.outbox.send
        else:
            self.blocked[subscription] = None

    def block(self, subscription: Subscription) -> None:
        """Its outbox has something waiting."""
        self.ready.pop(subscription, None)
        self.blocked[subscription] = None

    def unblock(self, subscription: Subscription) -> None:
        """Its outbox is empty again."""
        self.blocked.pop(subscription, None)
        self.ready[subscription] = subscription.outbox.send

    def remove(self, subscription: Subscription) -> None:
        """It takes part no more; what it has not been given it is not owed."""
        self.ready.pop(subscription, None)
        self.blocked.pop(subscription, None)

    def __len__(self) -> int:
        return len(self.ready) + len(self.blocked)


class Feed:
    """``count`` is its subscriptions in whatever state; with none the hub drops it."""

    __slots__ = (
        "_opening",
        "_overflown",
        "_size",
        "_unfinished",
        "_unsettled",
        "base",
        "channels",
        "count",
        "dirty",
        "hub",
        "key",
        "members",
        "names",
        "opened",
        "turn",
    )

    def __init__(self, hub: Hub, key: tuple[str, ...], channels: Sequence[Channel]) -> None:
        self.hub = hub
        self.key = key
        self.channels = channels
        self.names = [channel.name for channel in channels]
        self.members: dict[Wire, Members] = {}
        self.base: list[Position] = []
        self.turn: list[Item] = []
        self.count = 0
        self.opened = False
        self.dirty = False
        self._size = 0
        self._overflown = False
        self._opening: asyncio.Task[None] | None = None
        self._unfinished: Iterator[None] | None = None
        # Subscriptions that stand inside the turn now filling: they are brought to the base when it has been flushed.
        self._unsettled: list[Subscription] = []

    @property
    def catches_up(self) -> bool:
        """Whether history is the queue of a slow member here."""
        return all(channel.stored and channel.namespace.slow == "catch_up" for channel in self.channels)

    # Membership

    async def open(self) -> None:
        """Wait until all channels are open and feed this turn. StoreError when one cannot be opened."""
        if not self.opened:
            if self._opening is None:
                self._opening = self.hub.spawn(self._open())
            await asyncio.shield(self._opening)

    async def _open(self) -> None:
        try:
            if len(self.channels) == 1:
                await self.channels[0].open()
            else:
                await asyncio.gather(*(channel.open() for channel in self.channels))
        finally:
            self._opening = None
        self.attach(followed=self.count > 0)

    def attach(self, *, followed: bool = True) -> None:
        """All channels are open: from here on what they take is ours, unless everybody has left while they opened."""
        self.opened = True
        self.base = [channel.position for channel in self.channels]
        if followed:
            for index, channel in enumerate(self.channels):
                channel.feeds[self] = index

    def subscribe(self, outbox: Outbox, wire: Wire, *, positioned: bool) -> Subscription:
        """A new subscription, joining. The caller brings it to live, or lets it leave."""
        members = self.members.get(wire)
        if members is None:
            members = self.members[wire] = Members(wire)
        self.count += 1
        return Subscription(self, members, outbox, positioned=positioned)

    def everybody(self) -> Iterator[Subscription]:
        """Those who are live, over all wires."""
        for members in self.members.values():
            yield from [*members.ready, *members.blocked]

    def settle(self, subscription: Subscription, positions: list[Position]) -> None:
        """It has everything up to ``positions``: live when that is the base, else once the turn that it stands in is
        out."""
        if positions == self.base:
            subscription.members.add(subscription)
        else:
            subscription.state = State.BEHIND
            subscription.positions = positions
            self._unsettled.append(subscription)

    def leave(self, subscription: Subscription) -> None:
        """The subscription is over. Harmless when it is already."""
        if subscription.state is State.GONE:
            return
        subscription.state = State.GONE
        subscription.members.remove(subscription)
        self.count -= 1
        if not self.count:
            self.hub.drop(self)

    # The turn

    def take(self, index: int, what: Publication | Told) -> None:
        """Add to the turn now filling. A turn is bounded like an outbox; one too large is left to the history."""
        limits = self.hub.delivery
        self._size += len(what.body) if isinstance(what, Publication) else 0
        if self._size > limits.high_watermark or len(self.turn) >= limits.max_messages:
            self._overflow(index, what)
        else:
            self.turn.append(Item(index, what))
        if not self.dirty:
            self.dirty = True
            self.hub.mark(self)

    def _overflow(self, index: int, what: Publication | Told) -> None:
        if self.catches_up:
            self._overflown = True
        elif isinstance(what, Told):
            self.turn.append(Item(index, what))
        else:
            self.hub.tally.drops["turn"] += 1

    def tell(self, index: int, top: Position) -> None:
        """The stream of a channel broke off; it goes on from ``top``."""
        sdk = self.members.get(SDK)
        if sdk is not None:
            for subscription in [*sdk.ready, *sdk.blocked]:
                if subscription.positioned:
                    subscription.outbox.owner.lost(subscription)
        if any(len(members) for wire, members in self.members.items() if wire is not SDK):
            self.take(index, Told(top))
        elif not self.turn and self.base:
            self.base[index] = top

    def flush(self) -> None:
        """Write the turn to all members; with very many, in slices between which the loop lives."""
        if self._unfinished is not None:
            return  # it marks itself again when it is through
        self.dirty = False
        turn, start = self.turn, self.base
        self.turn, self._size = [], 0
        self.base = [channel.position for channel in self.channels]
        if self._overflown:
            self._overflown = False
            self._all_behind(start)
        else:
            self._unfinished = self._deliver(turn, start)
        self._go_on()

    def _go_on(self) -> None:
        """One slice of the flush."""
        if self._unfinished is not None:
            if next(self._unfinished, self) is not self:
                self.hub.loop.call_soon(self._go_on)
                return
            self._unfinished = None
        unsettled, self._unsettled = self._unsettled, []
        for subscription in unsettled:
            self.hub.catch_up(subscription)
        if self.dirty:
            self.hub.mark(self)

    def _all_behind(self, start: list[Position]) -> None:
        for subscription in self.everybody():
            self.fall_behind(subscription, start, paced=False)

    def _deliver(self, turn: list[Item], start: list[Position]) -> Iterator[None]:
        """Write ``turn`` to a snapshot of the members; yields when the loop should have a turn."""
        deadline = self.hub.now() + SLICE
        stale = False
        self._count_missed(turn)
        jobs = [(members, list(members.ready.items()), list(members.blocked)) for members in self.members.values()]
        for members, ready, blocked in jobs:
            frame = members.wire.encode(self.names, turn, start) if ready or blocked else b""
            if not frame:
                continue
            for first in range(0, len(ready), CHUNK):
                if self.hub.now() > deadline:
                    yield
                    deadline = self.hub.now() + SLICE
                    stale = True
                chunk = ready[first : first + CHUNK]
                if stale:
                    blocked += [pair[0] for pair in chunk if pair[0] not in members.ready]
                    chunk = [pair for pair in chunk if pair[0] in members.ready]
                self._send(members, chunk, frame)
            for subscription in blocked:
                self._offer(subscription, members, frame, start)
            self._observe(members, turn, len(frame), len(ready) + len(blocked))

    def _count_missed(self, turn: list[Item]) -> None:
        """What is in no history is missed by who is behind."""
        behind = self.count - sum(len(members) for members in self.members.values())
        if behind:
            volatile = sum(isinstance(what, Publication) and not what.offset for _, what in turn)
            self.hub.tally.drops["volatile"] += behind * volatile

    @staticmethod
    def _send(members: Members, chunk: list[tuple[Subscription, Send]], frame: bytes) -> None:
        """The hot loop: one system call per member and turn, and nothing else."""
        size = len(frame)
        short: list[tuple[Subscription, int]] = []
        for subscription, send in chunk:
            try:
                sent = send(frame)
                if sent != size:
                    short.append((subscription, sent))
            except BlockingIOError:
                short.append((subscription, 0))
            except OSError:
                short.append((subscription, -1))
        for subscription, sent in short:
            if sent < 0:
                subscription.outbox.owner.broken()
            elif subscription.state is State.LIVE:
                subscription.outbox.hold(frame, sent)

    @staticmethod
    def _offer(subscription: Subscription, members: Members, frame: bytes, start: list[Position]) -> None:
        """For one that was not ready at its turn; it may have drained, left, or joined anew since."""
        if subscription in members.ready:
            subscription.outbox.write(frame)
        elif subscription in members.blocked:
            subscription.outbox.offer(frame, subscription, start)

    def _observe(self, members: Members, turn: list[Item], size: int, receivers: int) -> None:
        for index, what in turn:
            if isinstance(what, Publication):
                self.hub.delivered(members.wire.name, self.channels[index].namespace.name, what, receivers)
        self.hub.tally.sent_bytes += size * receivers

    def fall_behind(self, subscription: Subscription, positions: list[Position], *, paced: bool = True) -> None:
        """It gets nothing more until its outbox has drained; then it catches up from ``positions``, later each time."""
        subscription.members.remove(subscription)
        subscription.state = State.BEHIND
        subscription.positions = list(positions)
        self.hub.fell_behind(subscription, paced=paced)
