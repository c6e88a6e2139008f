"""The way of a subscription to the base of its feed, whatever made it be elsewhere.

:func:`join` is for one that begins (and may ask for recovery), :mod:`rt.delivery.behind` for one that fell behind. Both
ask :func:`reach` for the way of every channel of the feed, read from the store what is missing here, and ask again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from rt.errors import INTERNAL, Refused
from rt.protocol.bridge import Gap, Missing, bridge, fits
from rt.protocol.publication import Page, Position, Publication
from rt.protocol.wires import Item, Told

if TYPE_CHECKING:
    from rt.delivery.channel import Channel
    from rt.delivery.feed import Feed

TRIES = 3


class Limit(NamedTuple):
    """The most one reply may recover: publications, and bytes of their bodies."""

    publications: int
    size: int


class Leg(NamedTuple):
    """The way of one channel: after ``publications`` it stands at ``position``.

    ``gap`` is empty, or a word why the asked position cannot be recovered; then nothing is given, and ``position`` is
    where it goes on. ``dropped`` and ``conflated`` count what its policy left out (:class:`rt.delivery.spare.Rest`),
    ``forgotten`` what was kept by another policy, which is no more.
    """

    position: Position
    publications: Sequence[Publication] = ()
    gap: str = ""
    dropped: int = 0
    conflated: int = 0
    forgotten: int = 0

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

    With a ``limit`` a leg is whole or a gap (a reply recovers all or nothing); without, for one that fell behind, it
    may be the first part of the way.
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
        return Leg(base) if since is None or limit is not None else _spared(channel, since, base)
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
    if limit is None and channel.namespace.slow == "conflate" and want != base:
        return _conflated(channel, want, base, page)
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


def _conflated(channel: Channel, want: Position, base: Position, page: Page | None) -> Leg | Missing:
    """Where only the newest counts, for one that fell behind: the one at the base, as long as it is known here."""
    channel.refresh()
    if channel.recent.covers(base.offset - 1):
        found = channel.recent.between(base.offset - 1, base.offset)
        return Leg(base, found, conflated=base.offset - want.offset - 1)
    leg = _newest(channel, want, base, page)
    return leg if isinstance(leg, Missing) else leg._replace(conflated=max(leg.position.offset - want.offset - 1, 0))


def _spared(channel: Channel, since: Position, base: Position) -> Leg:
    """A channel without history: what it keeps for those who are behind. ``since`` may lie within the turn that is
    filling."""
    if since.offset >= base.offset:
        return Leg(since)
    if channel.spare is None:
        return Leg(base, forgotten=base.offset - since.offset)
    first = max(since.offset, min(channel.spare.since, base.offset))
    rest = channel.spare.after(first, base.offset, channel.hub.now())
    return Leg(base, rest.publications, "", rest.dropped, rest.conflated, forgotten=first - since.offset)


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
