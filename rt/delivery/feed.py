"""A feed: all on this worker who follow the same list of channels, and the turn that goes out to them together.

An SDK subscription follows a list of one; a stream (``/sse``, ``/ws``, ``uni_sse``) a list of several. What the
channels take is collected into the feed's *turn*; at the end of the loop turn it is encoded once per wire and written
once per member.

The *base* holds the channels' positions when the turn now filling began. Whoever stands at the base is live and gets
the turns; everybody else is brought there first (:mod:`rt.delivery.catchup`). An empty turn means: the base is where
the channels are.

How it treats those who cannot keep up is its *manner* (:mod:`rt.delivery.policy`). Where a namespace has a ``batch``,
the turn goes out at the end of that interval instead, unless something that does not wait has come into it.

A stream whose list of channels changes goes from one feed to another: :meth:`Feed.part` gives it the rest of the turn
here, :meth:`Feed.enter` lets it take part there from what is taken next.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from rt.delivery.behind import catch_up, fell_behind
from rt.delivery.condensing import condensed
from rt.delivery.flush import attempt, count_lacking, deliver, observe
from rt.delivery.members import Members
from rt.delivery.policy import Manner
from rt.delivery.subscription import State, Subscription
from rt.protocol.publication import Change, Position, Publication
from rt.protocol.wires import Item, Told, What, Wire

if TYPE_CHECKING:
    from rt.delivery.channel import Channel
    from rt.delivery.hub import Hub
    from rt.delivery.outbox import Outbox


class Feed:
    """``key`` is the list of channels, and ``named`` whether its cursors name them. ``count`` is its subscriptions in
    whatever state; with none the hub drops it."""

    __slots__ = (
        "_after",
        "_entering",
        "_joins",
        "_lacking",
        "_opening",
        "_overflown",
        "_size",
        "_start",
        "_unfinished",
        "_unsettled",
        "base",
        "broken",
        "channels",
        "count",
        "dirty",
        "hub",
        "key",
        "manner",
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
        self._unsettled: dict[Subscription, None] = {}
        # Joining subscriptions that have had all of the turn now filling up to an item, and at how many items that is.
        self._entering: dict[Subscription, int] = {}
        self._after: list[Callable[[], None]] = []  # what waits for the flush under way to be through
        self._lacking: dict[tuple[int, str], int] = {}  # what the turn now filling leaves out of its channels
        self._joins = 0  # subscriptions that are told who comes and leaves
        self._start: list[Position] | None = None  # the base before the flush under way
        self.manner: Manner  # the hub sets it, again whenever settings change

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
        out. What channels without history took before it came is not its own."""
        if subscription.state is State.JOINING:
            pairs = zip(self.channels, positions, self.base, strict=True)
            positions = [position if channel.stored else base for channel, position, base in pairs]
        if positions == self.base:
            subscription.members.add(subscription)
        else:
            if subscription.state is State.JOINING:
                subscription.fell_at = self.hub.now()
                self.release()  # it would miss what is kept nowhere as long as a batch waits
            subscription.state = State.BEHIND
            subscription.positions = positions
            self._unsettled[subscription] = None

    def leave(self, subscription: Subscription) -> None:
        """The subscription is over. Harmless when it is already."""
        if subscription.state is State.GONE:
            return
        subscription.state = State.GONE
        subscription.members.remove(subscription)
        self._entering.pop(subscription, None)
        self._unsettled.pop(subscription, None)
        self.hub.paces.pop(subscription, None)
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

    def place(self, subscription: Subscription) -> list[Position] | None:
        """Where it stands for certain: everything up to there was given to its outbox, and nothing beyond. None while
        it is on its way, or a flush is."""
        if subscription.state is State.BEHIND:
            return subscription.positions
        return self.base if subscription.state is State.LIVE and self._unfinished is None else None

    @property
    def is_whole(self) -> bool:
        """Whether all are live: nobody is behind, or on the way."""
        return self.count == sum(len(members) for members in self.members.values())

    def floor(self, index: int) -> Position:
        """The lowest position of a channel from which somebody who is live may still fall behind."""
        return (self.base if self._start is None else self._start)[index]

    def _give(self, subscription: Subscription, items: Sequence[Item], start: list[Position]) -> None:
        """Write items of a turn to one alone, which stood at ``start`` before them."""
        members = subscription.members
        frame = members.wire.encode(self.names, items, start)
        if frame:
            subscription.outbox.offer(frame, subscription, start)
            observe(self, members, items, len(frame), 1)

    def _let_in(self, entering: dict[Subscription, int], turn: list[Item]) -> None:
        """Those who came while the turn filled get what was taken since, and are live."""
        joining = [one for one in entering if one.state is State.JOINING]
        for subscription in joining:
            subscription.members.add(subscription)
        for subscription in joining:
            self._give(subscription, turn[entering[subscription] :], subscription.positions)

    # The turn

    def changed(self, index: int, change: Change) -> None:
        """Somebody came to a channel or left it."""
        if self._joins:
            self.take(index, change)

    def take(self, index: int, what: What) -> None:
        """Add to the turn now filling. A turn is bounded like an outbox; one too large is left to the history."""
        limits, size = self.hub.delivery, _size(what)
        self._size += size
        full = self._size > limits.high_watermark or len(self.turn) >= limits.max_messages
        if full and not self._makes_room(size, 2):
            self._overflow(index, what)
        else:
            self.turn.append(Item(index, what))
        if not self.dirty and (self.manner.batches is None or not self._put_off(index, self.manner.batches)):
            self.release()

    def release(self) -> None:
        """The turn goes out at the end of this turn of the loop. (It may have done so already.)"""
        if not self.dirty and (self.turn or self._size):
            self.dirty = True
            self.hub.mark(self)

    def _put_off(self, index: int, batches: tuple[float, ...]) -> bool:
        """Whether what has come may wait for its interval: not when the turn is half full (a quarter, conflated)."""
        limits = self.hub.delivery
        half = self._size * 2 > limits.high_watermark or len(self.turn) * 2 > limits.max_messages
        if half and not self._makes_room(0, 4):
            return False
        interval = batches[index]
        if interval:
            self.hub.batches.add(self, interval)
        return interval > 0

    def _makes_room(self, size: int, parts: int) -> bool:
        """Leave out of the turn what is conflated; whether it has no more then than one of so many parts of what it
        may hold. (With much more it would be gone through again too soon.) ``size`` is of what is not in it yet."""
        if not self.manner.condenses or self._entering or self._overflown or not self.turn:
            return False
        limits = self.hub.delivery
        self.turn = condensed(self.channels, self.turn, self._leave_out)
        self._size = size + sum(_size(what) for _, what in self.turn)
        return self._size * parts <= limits.high_watermark and len(self.turn) * parts <= limits.max_messages

    def _leave_out(self, place: int, reason: str) -> None:
        self._lacking[place, reason] = self._lacking.get((place, reason), 0) + 1

    def _overflow(self, index: int, what: What) -> None:
        if isinstance(what, Change):
            self.hub.tally.drops["turn"] += 1
        elif self.channels[index].stored or (self.manner.lags and self.channels[index].namespace.slow != "drop_newest"):
            self._overflown = True
        elif isinstance(what, Told):
            self.turn.append(Item(index, what))
        elif self.manner.lags:
            self._leave_out(index, "newest")
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
        self._start, self.base = start, self.standing()
        self.broken.clear()
        entering, self._entering = self._entering, {}
        if self._overflown:
            self._overflown = False
            self._lacking.clear()
            self._all_behind(start, entering)
        else:
            sent = condensed(self.channels, turn, self._leave_out) if self.manner.condenses else turn
            lacking, self._lacking = self._lacking, {}
            self._unfinished = deliver(self, sent, start, lacking)
            self._let_in(entering, turn)
            if entering:  # who are given what is conflated, too
                count_lacking(self, {lack: count for lack, count in lacking.items() if lack[1]}, len(entering))
        self._go_on()

    def _go_on(self) -> None:
        """One slice of the flush."""
        if self._unfinished is not None:
            if next(self._unfinished, self) is not self:
                self.hub.loop.call_soon(attempt, self, self._go_on)
                return
            self._unfinished = None
        self._start = None
        if self.dirty:
            self.hub.mark(self)
        if self._unsettled:
            unsettled, self._unsettled = self._unsettled, {}
            for subscription in unsettled:
                catch_up(subscription)
        if self._after:
            after, self._after = self._after, []
            for do in after:
                do()

    def failed(self) -> None:
        """A flush has failed, so that nobody knows who has had what: all who are live begin anew."""
        self._unfinished = None
        for subscription in list(self.everybody()):
            subscription.outbox.owner.lost(subscription)
        self._go_on()

    def _all_behind(self, start: list[Position], entering: dict[Subscription, int]) -> None:
        """A turn was too large. Where a channel beside one with history keeps nothing, they come back from outside."""
        returns = self.manner.lags or all(channel.stored for channel in self.channels)
        joining = [(one, one.positions) for one in entering if one.state is State.JOINING]
        for subscription, positions in [*((one, start) for one in self.everybody()), *joining]:
            if returns:
                self.fall_behind(subscription, positions, paced=False)
            else:
                subscription.outbox.owner.lost(subscription)

    def fall_behind(self, subscription: Subscription, positions: list[Position], *, paced: bool = True) -> None:
        """It gets nothing more until its outbox has drained; then it catches up from ``positions``, later each time."""
        subscription.members.remove(subscription)
        subscription.state = State.BEHIND
        subscription.positions = list(positions)
        fell_behind(subscription, paced=paced)


def _size(what: What) -> int:
    if isinstance(what, Publication):
        return len(what.body)
    return len(what.info) if isinstance(what, Change) else 0
