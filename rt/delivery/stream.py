"""A stream: a connection without commands that follows a list of channels, which may change while it lives.

The backend may subscribe and unsubscribe it. It then goes from the feed of one list to the feed of another, in one step
of the loop: what it was given is known exactly at that moment, so nothing falls between and nothing comes twice. It is
told so at the place in its stream where it happens.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

import msgspec

from rt import errors
from rt.delivery import admission, control, server_side
from rt.delivery.behind import catch_up
from rt.delivery.catchup import TRIES, Absent, Leg, Pages, reach, read
from rt.delivery.connection import Connection
from rt.delivery.subscription import State, Subscription
from rt.errors import Close, Refused, StoreError, Unsubscribe
from rt.protocol import cursor
from rt.protocol.publication import NOWHERE, Position
from rt.protocol.replies import SubscribeResult
from rt.protocol.wires import UNI_SSE, Item, Name, StreamWire, Told, standing

if TYPE_CHECKING:
    from rt.delivery.admission import Following
    from rt.delivery.hub import Hub
    from rt.delivery.outbox import Sink
    from rt.delivery.wheel import Alarm
    from rt.protocol.options import Terms

T = TypeVar("T")

NOW: Final = ""
"""Under which a stream keeps its subscription ..."""

_NEXT: Final = "next"
"""... and the one it is about to go to."""


class _Notice(NamedTuple):
    """What is told of one channel: ``kind`` is ``subscribe`` or ``unsubscribe``, ``body`` its JSON object."""

    channel: str
    kind: str
    body: bytes


class Stream(Connection):
    """``following`` is what it follows, by channel. What the backend wants it to follow beside that is on its way until
    its channels are open here."""

    __slots__ = ("_coming", "_ends", "_going", "_growth", "following")

    wire: StreamWire

    def __init__(self, hub: Hub, sink: Sink, wire: StreamWire) -> None:
        super().__init__(hub, sink, wire)
        self.following: dict[str, Following] = {}
        self._coming: dict[str, Following] = {}
        self._going: set[str] = set()  # what it is about to follow no more
        self._ends: dict[str, Alarm] = {}  # of the rights to follow
        self._growth: asyncio.Task[None] | None = None

    @property
    def channels(self) -> Iterable[str]:
        return self.following

    # Following

    def subscribe(self, following: Sequence[Following], *, named: bool) -> Subscription:
        """A subscription of the feed of these channels, joining."""
        names, namespaces = tuple(one.name for one in following), tuple(one.namespace for one in following)
        feed = self.hub.feed(names, namespaces, named=named)
        pushed = [place for place, n in enumerate(namespaces) if n.join_leave and n.force_push_join_leave]
        return feed.subscribe(self.outbox, self.wire.joining(pushed), positioned=True)

    def count(self, following: Sequence[Following], legs: list[Leg]) -> None:
        gap = any(leg.gap and not unknowing(one) for one, leg in zip(following, legs, strict=True))
        recovering = any(one.recovering for one in following)
        self.hub.metrics.recovered(self.wire.name, "gap" if gap else "resumed" if recovering else "fresh")

    def enter(self, one: Following) -> None:
        """It follows the channel, and others may see that."""
        if self.closed:
            return
        hub = self.hub
        self.following[one.name] = one
        entered = hub.presence.enter(one.name, one.namespace, self, one.info)
        if one.name == server_side.only_channel(hub, self.user):
            control.claim(self, entered)
        if one.expire_at is not None:
            client = hub.config.client
            moment = one.expire_at + client.token.leeway + client.expired_sub_close_delay
            self._ends[one.name] = hub.expiry.at(moment, partial(self._over, one.name))

    def _leave(self, name: str) -> None:
        """It follows the channel no more."""
        del self.following[name]
        end = self._ends.pop(name, None)
        if end is not None:
            end.cancel()
        self.hub.presence.leave(name, self)

    # More channels

    def subscribe_by_server(self, name: str, terms: Terms, since: Position | None) -> asyncio.Future[None] | None:
        self._going.discard(name)
        if self.closed or name in self.following:
            return None
        if name not in self._coming:
            try:
                one = admission.by_server(self.hub, name, terms)
            except Refused:
                return None  # this worker's config has no such channel; the API has answered by its own
            names = [*self.following, *self._coming, name]
            if len(names) > self.hub.config.client.channel_limit or not cursor.fits(names):
                self.close(errors.CHANNEL_LIMIT)
                return None
            self._coming[name] = admission.begins(one._replace(since=since, recovering=since is not None))
        if self._growth is None:
            self._growth = self.hub.spawn(self._grow())
        return asyncio.shield(self._growth)

    async def _grow(self) -> None:
        """Go on to feeds with what is coming, until nothing more is."""
        try:
            while self._coming and not self.closed:
                await self._grow_once()
        except (StoreError, Refused):
            # It would be missing for ever: the client comes back, and finds it in its session or its token.
            self.close(errors.INSUFFICIENT_STATE)
        finally:
            self._growth = None

    async def _grow_once(self) -> None:
        """One attempt: the list may have become another one before the channels are open."""
        goal = self._goal()
        target = self.subscriptions[_NEXT] = self.subscribe(_sorted(goal), named=True)
        try:
            await target.feed.open()
            pages: Pages = {}
            for reads in range(TRIES + 1):
                absent = await self._calmly(partial(self._arrive, target, goal, pages, fresh=reads > 1))
                if absent is None:
                    return
                pages = await read(target.feed, absent)
            raise Refused(errors.INTERNAL, "the stream runs faster than it can be read")
        finally:
            if self.subscriptions.get(_NEXT) is target:
                del self.subscriptions[_NEXT]
                target.feed.leave(target)

    def _goal(self) -> dict[str, Following]:
        return {**self.following, **self._coming}

    def _arrive(
        self, target: Subscription, goal: Mapping[str, Following], pages: Pages, *, fresh: bool
    ) -> Absent | None:
        """Go to the ``target``, unless something must be read before, or the list is another one by now."""
        if self.closed or target.state is State.GONE or goal != self._goal():
            return None
        feed = target.feed
        since = [None if name in self.following else goal[name].since for name in feed.key]
        legs = reach(feed, since, pages, self.hub.limit, upto=feed.standing(), fresh=fresh)
        if isinstance(legs, Absent):
            return legs
        new = {name: leg for name, leg in zip(feed.key, legs, strict=True) if name in self._coming}
        notices = [
            _Notice(name, "subscribe", msgspec.json.encode(_pushed(self._coming[name], leg)))
            for name, leg in new.items()
        ]
        if self._go(target, notices, new):
            coming, self._coming = self._coming, {}
            self.count(list(coming.values()), [new[name] for name in coming])
            for one in coming.values():
                self.enter(one)
        return None

    # Fewer channels

    def unsubscribe_by_server(self, name: str, reason: Unsubscribe) -> None:
        names = [name] if name else list(self._goal())
        for one in names:
            self._coming.pop(one, None)
            self._going.add(one)
        self._when_calm(partial(self._shrink, names, reason))

    def _shrink(self, names: Sequence[str], reason: Unsubscribe) -> None:
        gone = [name for name in names if name in self.following and name in self._going]
        self._going.difference_update(names)
        if self.closed or not gone:
            return
        body = msgspec.json.encode({"code": reason.code, "reason": reason.reason})
        notices = [_Notice(name, "unsubscribe", body) for name in gone]
        kept = {name: one for name, one in self.following.items() if name not in gone}
        target = self.subscribe(_sorted(kept), named=True)
        feed = target.feed
        if not feed.opened and all(channel.opened for channel in feed.channels):
            feed.attach()
        if not feed.opened:
            feed.leave(target)
            self.close(errors.INSUFFICIENT_STATE)  # a channel that is kept was closed here
        elif self._go(target, notices, {}):
            for name in gone:
                self._leave(name)
            if not kept and not self._coming and self.wire is not UNI_SSE:
                expired = reason is errors.UNSUBSCRIBE_EXPIRED
                self.close(errors.SUBSCRIPTION_EXPIRED if expired else errors.FORCE_DISCONNECT)

    # From feed to feed

    def _when_calm(self, do: Callable[[], None]) -> None:
        """Do it when no flush is under way in the feed it is in: what it was given is certain only then."""
        current = self.subscriptions.get(NOW)
        if current is None:
            do()  # which sees that the connection is closed
            return
        current.feed.calm(lambda: do() if self.subscriptions.get(NOW) is current else self._when_calm(do))

    def _calmly(self, do: Callable[[], T]) -> asyncio.Future[T | None]:
        """What ``do`` returns, when it has been done so; None when the connection is closed before."""
        done: asyncio.Future[T | None] = self.hub.loop.create_future()

        def attempt() -> None:
            try:
                done.set_result(do())
            except Exception as failure:
                done.set_exception(failure)

        if self.closed:
            done.set_result(None)
        else:
            self._when_calm(attempt)
        return done

    def _go(self, target: Subscription, notices: Sequence[_Notice], new: Mapping[str, Leg]) -> bool:
        """Go over to ``target``, whose feed is open, in this very step: tell it, and what was found for ``new`` ones.

        False when the connection was closed by it.
        """
        old, feed = self.subscriptions[NOW], target.feed
        stood = dict(zip(old.feed.key, old.feed.part(old), strict=True))
        behind = old.state is State.BEHIND
        at = [new[name].start if name in new else stood[name] for name in feed.key]
        if not self.closed:
            self._tell(target, notices, new, at, behind=behind)
        if self.closed:
            feed.leave(target)
            return False
        pace = self.hub.paces.get(old)
        old.feed.leave(old)
        if self.subscriptions.get(_NEXT) is target:
            del self.subscriptions[_NEXT]
        self.subscriptions[NOW] = target
        if behind:
            target.state, target.positions = State.BEHIND, at
            target.falls, target.fell_at, target.resume_at = old.falls, old.fell_at, old.resume_at
            if pace is not None:
                self.hub.paces[target] = pace
            catch_up(target)
        else:
            feed.enter(target)
        return True

    def _tell(
        self,
        target: Subscription,
        notices: Sequence[_Notice],
        new: Mapping[str, Leg],
        at: list[Position],
        *,
        behind: bool,
    ) -> None:
        """Write the notices, and what was recovered; one that is behind gets that with the rest."""
        names = target.feed.names
        text = standing(names, at)
        told = [self.wire.notice(Name(channel), kind, body, text) for channel, kind, body in notices]
        items: list[Item] = []
        for place, name in enumerate(target.feed.key):
            if name in new:
                leg = new[name]._replace(publications=()) if behind else new[name]
                items += items_of([self._coming[name]], [leg], place)
        self.outbox.write(b"".join(told) + target.members.wire.encode(names, items, at))

    # The end

    def _over(self, name: str, now: float) -> None:
        """The right to follow a channel has ended."""
        if self.wire is UNI_SSE:
            self.close(errors.SUBSCRIPTION_EXPIRED)
        else:
            self.unsubscribe_by_server(name, errors.UNSUBSCRIBE_EXPIRED)

    def lost(self, subscription: Subscription) -> None:
        """A gap that this wire cannot tell, or a channel whose settings changed: it comes back with its cursor."""
        self.close(errors.INSUFFICIENT_STATE)

    def close(self, close: Close, *, last: bytes | None = None, heard: bool = True) -> None:
        for end in self._ends.values():
            end.cancel()
        self._ends.clear()
        super().close(close, last=last, heard=heard)


def _sorted(following: Mapping[str, Following]) -> list[Following]:
    """By name, so that all who follow the same channels are in one feed, whatever came first."""
    return [following[name] for name in sorted(following)]


def unknowing(one: Following) -> bool:
    """Whether it begins without having seen anything: then there is nothing that it could have missed."""
    return one.since == NOWHERE


def items_of(following: Sequence[Following], legs: Sequence[Leg], first: int = 0) -> list[Item]:
    """What is written of the legs of channels from place ``first`` on."""
    items: list[Item] = []
    for place, (one, leg) in enumerate(zip(following, legs, strict=True), first):
        items += [item for item in leg.items(place) if not (isinstance(item.what, Told) and unknowing(one))]
    return items


def described(one: Following, at: Position) -> SubscribeResult:
    result = SubscribeResult(epoch=at.epoch, offset=at.offset if at.epoch else 0)
    if one.data:
        result.data = msgspec.Raw(one.data)
    return result


def _pushed(one: Following, leg: Leg) -> SubscribeResult:
    """What the notice says of a channel that the backend has added; what was recovered follows it."""
    result = described(one, leg.start)
    result.positioned = result.recoverable = one.namespace.history
    return result
