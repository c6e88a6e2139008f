"""Bringing a subscription to the base of its feed, whatever made it be elsewhere.

:func:`join` is for one that begins (and may ask for recovery), :func:`catch_up` for one that fell behind. Both ask
:func:`reach` for the way of every channel of the feed, read from the store what is missing here, and ask again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from rt.delivery.subscription import State
from rt.errors import INTERNAL, Refused, StoreError
from rt.protocol.bridge import Gap, Missing, bridge, cut, fits
from rt.protocol.publication import NOWHERE, Page, Position, Publication
from rt.protocol.wires import Item, Told

if TYPE_CHECKING:
    from rt.delivery.channel import Channel
    from rt.delivery.feed import Feed
    from rt.delivery.subscription import Subscription

TRIES = 3


class Limit(NamedTuple):
    """The most one reply may recover: publications, and bytes of their bodies."""

    publications: int
    size: int


class Leg(NamedTuple):
    """The way of one channel: after ``publications`` it stands at ``position``.

    ``gap`` is empty, or a word why the asked position cannot be recovered; then nothing is given, and ``position`` is
    where it goes on.
    """

    position: Position
    publications: Sequence[Publication] = ()
    gap: str = ""

    @property
    def start(self) -> Position:
        """Where it stands before the publications: one that gets only some of them comes back from there."""
        if not self.publications:
            return self.position
        return Position(self.position.epoch, self.publications[0].offset - 1)

    def items(self, index: int) -> list[Item]:
        """What is written for it, as the channel ``index`` of its feed: the gap first, if there is one."""
        told = [Item(index, Told(self.position))] if self.gap else []
        return told + [Item(index, publication) for publication in self.publications]


Pages = Mapping[int, Page]


class Absent(NamedTuple):
    """What must be read first: for some channels (by index) the offset to read after."""

    after: dict[int, int]


def reach(
    feed: Feed,
    since: Sequence[Position | None],
    pages: Pages,
    limit: Limit | None,
    *,
    upto: Sequence[Position] | None = None,
    fresh: bool = True,
) -> list[Leg] | Absent:
    """The legs from ``since`` to the feed's base, or to ``upto``. ``None`` in ``since`` asks for nothing; an empty
    epoch for the current one. ``fresh``: the pages were asked for later than ``since`` was.

    With a ``limit`` a leg is whole or a gap (a reply recovers all or nothing); without, it may be the first part of the
    way.
    """
    legs: list[Leg] = []
    absent: dict[int, int] = {}
    base = feed.start() if upto is None else upto
    for index, channel in enumerate(feed.channels):
        leg = _leg(channel, base[index], since[index], pages.get(index), limit, fresh=fresh)
        if isinstance(leg, Missing):
            absent[index] = leg.after
        else:
            legs.append(leg)
    return Absent(absent) if absent else legs


def _leg(
    channel: Channel, base: Position, since: Position | None, page: Page | None, limit: Limit | None, *, fresh: bool
) -> Leg | Missing:
    if not channel.stored:
        return Leg(NOWHERE)
    # A base of another epoch means that the turn now filling holds the end of the old stream.
    here = base if base.epoch == channel.position.epoch else channel.position
    if since is None:
        return Leg(here)
    if limit is not None and channel.namespace.force_recovery_mode == "cache":
        return _newest(channel, since, here, page)
    want = since if since.epoch else Position(channel.position.epoch, since.offset)
    if want.epoch != channel.position.epoch:
        return Leg(here, gap="epoch")
    if want.offset > channel.position.offset:
        return _ahead(channel, want, here, page if fresh else None)
    if here != base or want.offset > base.offset:
        return Leg(want)
    return _bridged(channel, want, base, page, limit)


def _ahead(channel: Channel, want: Position, here: Position, page: Page | None) -> Leg | Missing:
    """It has seen more than this worker: the store decides, by a page that was asked for after it came, since one that
    was under way may be older than what it has seen. (A page has been taken by the channel before we see it.)"""
    if page is None or (page.top.epoch == want.epoch and page.top.offset >= want.offset):
        return Missing(channel.position.offset)
    return Leg(here, gap="ahead")


def _bridged(channel: Channel, want: Position, base: Position, page: Page | None, limit: Limit | None) -> Leg | Missing:
    if limit is not None and base.offset - want.offset > limit.publications:
        return Leg(base, gap="limit")
    channel.refresh()
    way = bridge(want, base, channel.recent, page)
    if isinstance(way, Missing):
        return way
    if isinstance(way, Gap):
        return Leg(base, gap=way.reason)
    if limit is not None:
        if not way.complete:
            return Missing(want.offset)
        if not fits(way.publications, limit.size):
            return Leg(base, gap="limit")
    return Leg(Position(want.epoch, want.offset + len(way.publications)), way.publications)


def _newest(channel: Channel, since: Position, here: Position, page: Page | None) -> Leg | Missing:
    """Recovery mode ``cache``: only the newest publication counts."""
    if since == channel.position:
        return Leg(since)
    if not channel.position.offset:
        return Leg(here, gap="empty")
    channel.refresh()
    newest = channel.recent.newest()
    if newest is None:
        if page is None:
            return Missing(channel.position.offset - 1)
        found = [publication for publication in page.publications if publication.offset == channel.position.offset]
        if not found:
            return Leg(here, gap="trimmed")
        newest = found[0]
    return Leg(channel.position, [newest])


async def read(feed: Feed, absent: Absent) -> dict[int, Page]:
    """The pages that are missing. StoreError when the store does not answer."""
    after = absent.after
    reads = {index: feed.channels[index].read(offset) for index, offset in after.items()}
    return {index: await asyncio.shield(future) for index, future in reads.items()}


def at_once(feed: Feed, since: Sequence[Position | None], limit: Limit) -> list[Leg] | None:
    """The legs, where nothing has to be waited for; else None, and :func:`join` is for it."""
    if not feed.opened:
        return None
    legs = reach(feed, since, {}, limit)
    return None if isinstance(legs, Absent) else legs


async def join(feed: Feed, since: Sequence[Position | None], limit: Limit) -> list[Leg]:
    """Open the feed and find the legs. The caller settles its subscription in the same step of the loop.

    Raises StoreError when the store does not answer, Refused(100) when the stream runs faster than it can be read.
    """
    await feed.open()
    legs = reach(feed, since, {}, limit)
    for tries in range(TRIES):
        if not isinstance(legs, Absent):
            return legs
        # The first read may be one that others had begun; the second began after the first had ended.
        legs = reach(feed, since, await read(feed, legs), limit, fresh=tries > 0)
    if isinstance(legs, Absent):
        raise Refused(INTERNAL, "the stream runs faster than it can be read")
    return legs


def catch_up(subscription: Subscription) -> None:
    """Bring one that is behind a page further, or to live; a no-op while its outbox, its pacing or a read says wait."""
    hub = subscription.feed.hub
    ready = subscription.state is State.BEHIND and not subscription.fetching and subscription.outbox.queue is None
    if not ready or subscription.outbox.owner.closed:
        return
    if hub.now() < subscription.resume_at:
        hub.wheel.at(subscription.resume_at, lambda now: catch_up(subscription))
        return
    legs = reach(subscription.feed, subscription.positions, {}, None)
    if isinstance(legs, Absent):
        subscription.fetching = True
        hub.spawn(_fetch(subscription, subscription.positions, legs))
    else:
        _give(subscription, legs)


async def _fetch(subscription: Subscription, positions: list[Position], legs: list[Leg] | Absent) -> None:
    """Read pages until they reach; what was read for a position that is no longer held is thrown away."""
    feed = subscription.feed
    try:
        for _ in range(TRIES):
            assert isinstance(legs, Absent)
            pages = await read(feed, legs)
            if subscription.state is not State.BEHIND or subscription.positions is not positions:
                return
            legs = reach(feed, positions, pages, None)
            if not isinstance(legs, Absent):
                subscription.fetching = False
                _give(subscription, legs)
                return
    except StoreError:
        pass  # it stays behind, which is the truth; the next step tries again
    finally:
        subscription.fetching = False
    if subscription.state is State.BEHIND:
        feed.hub.pace(subscription)


def _give(subscription: Subscription, legs: list[Leg]) -> None:
    """Write a page of what was found, below the low watermark, and go on when it is out."""
    feed = subscription.feed
    if any(leg.gap for leg in legs) and not subscription.members.wire.tells and subscription.positioned:
        subscription.outbox.owner.lost(subscription)
        return
    before = subscription.positions
    items, after = _page(legs, feed.hub.delivery.low_watermark)
    subscription.positions = after
    if items:
        frames = subscription.members.wire.encode(feed.names, items, before)
        subscription.outbox.write(frames)
        if subscription.state is not State.BEHIND:
            return
    if after == feed.base or not items:
        feed.settle(subscription, after)
        if subscription.state is State.LIVE and subscription.falls:
            feed.hub.tally.catch_ups += 1
    elif subscription.outbox.queue is None:
        feed.hub.loop.call_soon(catch_up, subscription)


def _page(legs: list[Leg], room: int) -> tuple[list[Item], list[Position]]:
    """As much of the legs as fits into ``room`` bytes, and where one stands after it."""
    items: list[Item] = []
    after: list[Position] = []
    for index, leg in enumerate(legs):
        given = cut(leg.publications, room) if room > 0 or not items else ()
        items += leg._replace(publications=given).items(index)
        room -= sum(len(publication.body) for publication in given)
        behind = len(leg.publications) - len(given)
        after.append(leg.position._replace(offset=leg.position.offset - behind))
    return items, after
