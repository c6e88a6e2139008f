"""A feed: all on this worker who follow the same list of channels, and the turn that goes out to them together.

An SDK subscription follows a list of one; a stream (``/sse``, ``/ws``, ``uni_sse``) a list of several. What the
channels take is collected into the feed's *turn*; at the end of the loop turn it is encoded once per wire and written
once per member.

The *base* holds the channels' positions when the turn now filling began. Whoever stands at the base is live and gets
the turns; everybody else is brought there first (:mod:`rt.delivery.catchup`). An empty turn means: the base is where
the channels are.

A stream whose list of channels changes goes from one feed to another: :meth:`Feed.part` gives it the rest of the turn
here, :meth:`Feed.enter` lets it take part there from what is taken next.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from rt.delivery.members import Members, Send
from rt.delivery.subscription import State, Subscription
from rt.protocol.publication import Change, Position, Publication
from rt.protocol.wires import Item, Told, What, Wire

if TYPE_CHECKING:
    from rt.delivery.channel import Channel
    from rt.delivery.hub import Hub
    from rt.delivery.outbox import Outbox

CHUNK = 500  # members written to before looking at the clock
SLICE = 0.004  # seconds a flush may take before the loop gets a turn


Jobs = list[tuple[Members, list[tuple[Subscription, Send]], list[Subscription]]]


class Feed:
    """``key`` is the list of channels, and ``named`` whether its cursors name them. ``count`` is its subscriptions in
    whatever state; with none the hub drops it."""

    __slots__ = (
        "_after",
        "_entering",
        "_joins",
        "_opening",
        "_overflown",
        "_size",
        "_unfinished",
        "_unsettled",
        "base",
        "broken",
        "channels",
        "count",
        "dirty",
        "hub",
        "key",
        "members",
        "named",
        "names",
        "opened",
        "turn",
    )

    def __init__(self, hub: Hub, key: tuple[str, ...], channels: Sequence[Channel], *, named: bool = False) -> None:
        self.hub = hub
        self.key = key
        self.named = named
        self.channels = channels
        self.names = [channel.marked if named else channel.name for channel in channels]
        self.members: dict[Wire, Members] = {}
        self.base: list[Position] = []
        # Channels whose stream broke off in the turn now filling: a newcomer must not begin before that.
        self.broken: set[int] = set()
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
        # Joining subscriptions that have had all of the turn now filling up to an item, and at how many items that is.
        self._entering: dict[Subscription, int] = {}
        self._after: list[Callable[[], None]] = []  # what waits for the flush under way to be through
        self._joins = 0  # subscriptions that are told who comes and leaves

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
        if not self.opened:  # it may have been found that there is nothing to open
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
        self._joins += wire.joins
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
        self._entering.pop(subscription, None)
        self.count -= 1
        self._joins -= subscription.members.wire.joins
        if not self.count:
            self.hub.drop(self)

    # Going from one feed to another

    def calm(self, do: Callable[[], None]) -> None:
        """Call ``do`` when no flush is under way, and everybody who is live stands at the base: now, or in the step of
        the loop in which the flush ends."""
        if self._unfinished is None:
            do()
        else:
            self._after.append(do)

    def part(self, subscription: Subscription) -> list[Position]:
        """Give one that is about to leave for another feed what it has not had of the turn now filling.

        Only while the feed is calm. It stands at the positions returned: where the channels are, or, when it is or
        falls behind, where it was. Its connection may have been closed by it.
        """
        begun = self._entering.pop(subscription, None)
        if subscription.state is State.BEHIND:
            return subscription.positions
        start = self.base if begun is None else subscription.positions
        if self._overflown:
            self.fall_behind(subscription, start, paced=False)
            return subscription.positions
        self._give(subscription, self.turn[begun or 0 :], start)
        # (Its outbox may have decided that it falls behind; no type checker sees that.)
        behind = State(subscription.state) is State.BEHIND
        return subscription.positions if behind else self.standing()

    def enter(self, subscription: Subscription) -> None:
        """A joining subscription that has been given all that the channels have taken takes part from the next on."""
        if not self.turn and not self._overflown:
            subscription.members.add(subscription)
        else:
            subscription.positions = self.standing()
            self._entering[subscription] = len(self.turn)

    def start(self) -> list[Position]:
        """From where the turn now filling goes on without a break: where a newcomer must be brought."""
        if not self.broken:
            return self.base
        return [
            channel.position if index in self.broken else position
            for index, (channel, position) in enumerate(zip(self.channels, self.base, strict=True))
        ]

    def standing(self) -> list[Position]:
        """Where the channels are now."""
        return [channel.position for channel in self.channels]

    def _give(self, subscription: Subscription, items: Sequence[Item], start: list[Position]) -> None:
        """Write items of a turn to one alone, which stood at ``start`` before them."""
        members = subscription.members
        frame = members.wire.encode(self.names, items, start)
        if frame:
            subscription.outbox.offer(frame, subscription, start)
            self._observe(members, items, len(frame), 1)

    def _let_in(self, entering: dict[Subscription, int], turn: list[Item]) -> None:
        """Those who came while the turn filled get what was taken since, and are live."""
        for subscription, begun in entering.items():
            if subscription.state is State.JOINING:
                subscription.members.add(subscription)
                self._give(subscription, turn[begun:], subscription.positions)

    # The turn

    def changed(self, index: int, change: Change) -> None:
        """Somebody came to a channel or left it."""
        if self._joins:
            self.take(index, change)

    def take(self, index: int, what: What) -> None:
        """Add to the turn now filling. A turn is bounded like an outbox; one too large is left to the history."""
        limits = self.hub.delivery
        self._size += _size(what)
        if self._size > limits.high_watermark or len(self.turn) >= limits.max_messages:
            self._overflow(index, what)
        else:
            self.turn.append(Item(index, what))
        if not self.dirty:
            self.dirty = True
            self.hub.mark(self)

    def _overflow(self, index: int, what: What) -> None:
        if isinstance(what, Change):
            self.hub.tally.drops["turn"] += 1
        elif self.catches_up:
            self._overflown = True
        elif isinstance(what, Told):
            self.turn.append(Item(index, what))
        else:
            self.hub.tally.drops["turn"] += 1

    def tell(self, index: int, top: Position) -> None:
        """The stream of a channel broke off; it goes on from ``top``."""
        telling = False
        for subscription in [*self.everybody(), *self._entering]:
            if subscription.members.wire.tells:
                telling = True
            elif subscription.positioned:
                subscription.outbox.owner.lost(subscription)
        if telling:
            self.take(index, Told(top))
        elif not self.turn and self.base:
            self.base[index] = top
            return
        self.broken.add(index)

    def flush(self) -> None:
        """Write the turn to all members; with very many, in slices between which the loop lives."""
        if self._unfinished is not None:
            return  # it marks itself again when it is through
        self.dirty = False
        turn, start = self.turn, self.base
        self.turn, self._size = [], 0
        self.base = self.standing()
        self.broken.clear()
        entering, self._entering = self._entering, {}
        if self._overflown:
            self._overflown = False
            self._all_behind(start, entering)
        else:
            self._unfinished = self._deliver(self._jobs(), turn, start)
            self._let_in(entering, turn)
        self._go_on()

    def _go_on(self) -> None:
        """One slice of the flush."""
        if self._unfinished is not None:
            if next(self._unfinished, self) is not self:
                self.hub.loop.call_soon(self._go_on)
                return
            self._unfinished = None
        if self.dirty:
            self.hub.mark(self)
        unsettled, self._unsettled = self._unsettled, []
        for subscription in unsettled:
            self.hub.catch_up(subscription)
        after, self._after = self._after, []
        for do in after:
            do()

    def _all_behind(self, start: list[Position], entering: dict[Subscription, int]) -> None:
        for subscription in self.everybody():
            self.fall_behind(subscription, start, paced=False)
        for subscription in entering:
            if subscription.state is State.JOINING:
                self.fall_behind(subscription, subscription.positions, paced=False)

    def _jobs(self) -> Jobs:
        """A snapshot of the members."""
        return [(members, list(members.ready.items()), list(members.blocked)) for members in self.members.values()]

    def _deliver(self, jobs: Jobs, turn: list[Item], start: list[Position]) -> Iterator[None]:
        """Write ``turn`` to those of the snapshot; yields when the loop should have a turn."""
        deadline = self.hub.now() + SLICE
        stale = False
        self._count_missed(turn)
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

    def _observe(self, members: Members, turn: Sequence[Item], size: int, receivers: int) -> None:
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


def _size(what: What) -> int:
    if isinstance(what, Publication):
        return len(what.body)
    return len(what.info) if isinstance(what, Change) else 0
