"""Falling behind, and coming back: a page at a time, whenever nothing waits, by priority and at its pace.

Why a subscription falls behind and what it is owed then is in :mod:`rt.delivery.policy`; here is how it gets it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rt.delivery.catchup import TRIES, Absent, Leg, reach, read
from rt.delivery.pacing import Pace
from rt.delivery.pacing import wait as interval
from rt.delivery.policy import LOW, RANKS, share
from rt.delivery.subscription import State
from rt.errors import StoreError
from rt.protocol.bridge import cut
from rt.protocol.publication import Position
from rt.protocol.wires import Item

if TYPE_CHECKING:
    from rt.config import Namespace
    from rt.delivery.feed import Feed
    from rt.delivery.hub import Hub
    from rt.delivery.outbox import Owner
    from rt.delivery.subscription import Subscription


def fell_behind(subscription: Subscription, *, paced: bool) -> None:
    """Note it, and when it may come back: at once the first time, then later each time.

    Not ``paced``: it is not to blame. Where the newest is what counts, what blocks it is measured instead of counted.
    """
    hub, feed = subscription.feed.hub, subscription.feed
    now, pacing = hub.now(), hub.delivery.pacing
    hub.tally.slow["behind"] += 1
    hub.tally.fell(_first(feed))
    if now - subscription.fell_at > pacing.max:
        subscription.falls = 0
    subscription.fell_at = now
    subscription.falls += paced
    if feed.manner.paced:
        hub.paces[subscription] = Pace(now)
    elif paced and subscription.falls > 1:
        subscription.resume_at = now + interval(pacing, subscription.falls - 1)
    if subscription.outbox.queue is None:
        hub.loop.call_soon(catch_up, subscription)


def _first(feed: Feed) -> Namespace:
    """By whose priority its subscriptions go, and count."""
    return feed.channels[feed.manner.order[0]].namespace


def adapt(hub: Hub) -> None:
    """The settings are others: without paces nobody waits for an interval, without priorities for nobody else."""
    hub.waiting.clear()  # alarms that are too late ring as well
    for subscription in list(hub.paces):
        if not subscription.feed.manner.paced:
            del hub.paces[subscription]
    for connection in hub.connections:
        for subscription in connection.subscriptions.values():
            if subscription.state is State.BEHIND:
                hub.loop.call_soon(catch_up, subscription)


def paced_until(subscription: Subscription) -> float:
    """Loop time before which one that is behind is given nothing."""
    pace = subscription.feed.hub.paces.get(subscription)
    return subscription.resume_at if pace is None else pace.due


def outranked(subscription: Subscription) -> bool:
    """Whether a subscription of higher priority is behind on the same connection: then nothing is queued for it."""
    if not subscription.feed.hub.ranked:
        return False
    rank = subscription.feed.manner.rank
    others = subscription.outbox.owner.subscriptions.values()
    return any(other.state is State.BEHIND and other.feed.manner.rank > rank for other in others)


def resume(owner: Owner) -> None:
    """Nothing waits for the connection: those behind are served, by priority, until something does."""
    behind = [one for one in owner.subscriptions.values() if one.state is State.BEHIND]
    ranked = owner.hub.ranked
    if ranked:
        behind.sort(key=lambda one: -one.feed.manner.rank)
    for subscription in behind:
        goes_on = _forward(subscription)
        if subscription.outbox.queue is not None or (ranked and goes_on):
            return


def catch_up(subscription: Subscription) -> None:
    """Bring one that is behind a page further, or to live, when it is its turn; a no-op while its outbox, its pace or a
    read says wait."""
    if subscription.feed.hub.ranked:
        resume(subscription.outbox.owner)
    else:
        _forward(subscription)


def _forward(subscription: Subscription) -> bool:
    """Whether it is on its way, and goes on by itself: those of lower priority wait for that."""
    if subscription.fetching:
        return True
    ready = subscription.state is State.BEHIND and subscription.outbox.queue is None
    if not ready or subscription.outbox.owner.closed or _waits(subscription):
        return False
    if not subscription.feed.hub.turnstile.passes(subscription):
        return True
    legs = reach(subscription.feed, subscription.positions, {}, None)
    if isinstance(legs, Absent):
        subscription.fetching = True
        subscription.feed.hub.spawn(_fetch(subscription, subscription.positions, legs))
        return True
    return _give(subscription, legs)


def _waits(subscription: Subscription) -> bool:
    """Whether it is too early; then it is looked at again when it is time."""
    hub = subscription.feed.hub
    pace = hub.paces.get(subscription)
    if pace is None:
        due = subscription.resume_at
    else:
        step = pace.judge(hub.now(), hub.delivery.pacing)
        if step is not None:
            hub.tally.paced(_first(subscription.feed), step)
        due = pace.due
    if hub.now() >= due:
        return False
    if subscription not in hub.waiting:  # its connection may be blocked and free again many times meanwhile
        hub.waiting.add(subscription)
        hub.wheel.at(due, lambda now: _waited(subscription))
    return True


def _waited(subscription: Subscription) -> None:
    subscription.feed.hub.waiting.discard(subscription)
    catch_up(subscription)


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
        if feed.hub.ranked:
            feed.hub.loop.call_soon(resume, subscription.outbox.owner)  # those below waited for it
    if subscription.state is State.BEHIND:
        _put_off(subscription)


def _put_off(subscription: Subscription) -> None:
    """Its catch-up did not get through: try again at the next step."""
    hub = subscription.feed.hub
    subscription.falls += 1
    subscription.resume_at = hub.now() + interval(hub.delivery.pacing, subscription.falls + 1)
    hub.wheel.at(subscription.resume_at, lambda now: catch_up(subscription))


def _give(subscription: Subscription, legs: list[Leg]) -> bool:
    """Write a page of what was found, and go on when it is out; at the base be live, unless its pace says wait. Whether
    it goes on in the next step of the loop."""
    feed, outbox = subscription.feed, subscription.outbox
    if any(leg.gap for leg in legs) and not subscription.members.wire.tells and subscription.positioned:
        outbox.owner.lost(subscription)
        return False
    before = subscription.positions
    delivery, rank = feed.hub.delivery, feed.manner.rank
    items, after = _page(feed, legs, before, min(share(delivery, rank).size, delivery.low_watermark))
    if not _account(subscription, legs, before, after):
        outbox.owner.slow("queue")
        return False
    subscription.positions = after
    pace = feed.hub.paces.get(subscription)
    if pace is not None:
        pace.flush(feed.hub.now())
    if items:
        frames = subscription.members.wire.encode(feed.names, items, before)
        outbox.write(frames)
        if subscription.state is not State.BEHIND:
            return False
        feed.hub.tally.caught_up += len(items)
    if (after == feed.base or not items) and (pace is None or not pace.step):
        _arrive(subscription, after)
        return False
    if outbox.queue is None:
        feed.hub.loop.call_soon(catch_up, subscription)
        return True
    return False


def _arrive(subscription: Subscription, positions: list[Position]) -> None:
    hub = subscription.feed.hub
    subscription.feed.settle(subscription, positions)
    if subscription.state is State.LIVE:
        hub.tally.catch_ups += bool(subscription.falls)
        hub.paces.pop(subscription, None)


def _page(feed: Feed, legs: list[Leg], before: Sequence[Position], room: int) -> tuple[list[Item], list[Position]]:
    """As much of the legs as fits into ``room`` bytes, by priority, and where one stands after it.

    What is spared is given whole or not at all: it is bounded as it is, and not without a hole. Where of one channel
    there is more to come, those of lower priority wait for that.
    """
    items: list[Item] = []
    after = list(before)
    owed = LOW
    for place in feed.manner.order:
        leg, rank = legs[place], RANKS[feed.channels[place].namespace.priority]
        full = bool(items) and (room <= 0 or rank < owed)
        if feed.channels[place].stored:
            given = () if full else cut(leg.publications, room)
            behind = len(leg.publications) - len(given)
            after[place] = leg.position._replace(offset=leg.position.offset - behind)
            if after[place].offset < feed.base[place].offset:
                owed = max(owed, rank)
        elif full and leg.publications:
            continue
        else:
            given = leg.publications
            after[place] = leg.position
        items += leg._replace(publications=given).items(place)
        room -= sum(len(publication.body) for publication in given)
    return items, after


def _account(
    subscription: Subscription, legs: list[Leg], before: Sequence[Position], after: Sequence[Position]
) -> bool:
    """Count what the policies left out of the legs that were gone. False: that may not be."""
    tally = subscription.feed.hub.tally
    for channel, leg, start, end in zip(subscription.feed.channels, legs, before, after, strict=True):
        if start == end:
            continue
        if channel.spare is not None and leg.dropped + leg.forgotten:
            if channel.spare.fatal:
                return False
            tally.left_out(channel.namespace, channel.spare.reason, leg.dropped)
        tally.left_out(channel.namespace, "reload", leg.forgotten)
        tally.conflated(channel.namespace, leg.conflated)
    return True
