"""Writing a turn to the members of a feed: the hot loop, in slices between which the loop lives."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from rt.delivery.members import Members, Send
from rt.delivery.subscription import State, Subscription
from rt.protocol.publication import Position, Publication
from rt.protocol.wires import Item

if TYPE_CHECKING:
    from rt.delivery.feed import Feed

CHUNK = 500  # members written to before looking at the clock
SLICE = 0.004  # seconds a flush may take before the loop gets a turn


log = logging.getLogger("rt.delivery")

Lacking = Mapping[tuple[int, str], int]
"""How many publications a turn leaves out, by the channel's place and the reason; "" for what was conflated."""


def deliver(feed: Feed, turn: list[Item], start: list[Position], lacking: Lacking) -> Iterator[None]:
    """Write ``turn``, which began at ``start``, to those who are members now; yields when the loop should have a
    turn. Who is given it lacks what it is ``lacking``."""
    if len(feed.members) == 1:
        (members,) = feed.members.values()
        if not members.blocked and len(members.ready) <= CHUNK:
            return _at_once(feed, members, list(members.ready.items()), turn, start, lacking)
    jobs = [(members, list(members.ready.items()), list(members.blocked)) for members in feed.members.values()]
    return _slices(feed, jobs, turn, start, lacking)


def attempt(feed: Feed, step: Callable[[], None]) -> None:
    """Take a step of the feed's flush. A fault in it costs nobody else a turn, and those of the feed are told."""
    try:
        step()
    except Exception:
        log.exception("a turn failed")
        feed.failed()


def _at_once(
    feed: Feed,
    members: Members,
    ready: list[tuple[Subscription, Send]],
    turn: list[Item],
    start: list[Position],
    lacking: Lacking,
) -> Iterator[None]:
    """As :func:`_slices`, for a few who speak one wire and of whom none waits: without what it needs for many."""
    _count_missed(feed, turn)
    frame = members.wire.encode(feed.names, turn, start) if ready else b""
    if frame:
        _send(ready, frame)
        observe(feed, members, turn, len(frame), len(ready))
    count_lacking(feed, lacking, len(ready))
    yield from ()


def _slices(
    feed: Feed,
    jobs: list[tuple[Members, list[tuple[Subscription, Send]], list[Subscription]]],
    turn: list[Item],
    start: list[Position],
    lacking: Lacking,
) -> Iterator[None]:
    _count_missed(feed, turn)
    deadline = feed.hub.now() + SLICE
    stale = False
    for members, ready, blocked in jobs:
        frame = members.wire.encode(feed.names, turn, start) if ready or blocked else b""
        if not frame:
            count_lacking(feed, lacking, len(ready) + len(blocked))
            continue
        given = 0
        for first in range(0, len(ready), CHUNK):
            if feed.hub.now() > deadline:
                yield
                deadline = feed.hub.now() + SLICE
                stale = True
            chunk = ready[first : first + CHUNK]
            if stale:
                blocked += [pair[0] for pair in chunk if pair[0] not in members.ready]
                chunk = [pair for pair in chunk if pair[0] in members.ready]
            _send(chunk, frame)
            given += len(chunk)
        given += sum(_offer(subscription, members, frame, start) for subscription in blocked)
        count_lacking(feed, lacking, given)
        observe(feed, members, turn, len(frame), given)


def count_lacking(feed: Feed, lacking: Lacking, given: int) -> None:
    """So many were given a turn."""
    for (place, reason), count in lacking.items():
        namespace = feed.channels[place].namespace
        if reason:
            feed.hub.tally.left_out(namespace, reason, count * given)
        else:
            feed.hub.tally.conflated(namespace, count * given)


def _count_missed(feed: Feed, turn: Sequence[Item]) -> None:
    """What is in no history, nor kept for them in another way, is missed by who is behind."""
    behind = feed.count - sum(map(len, feed.members.values()))
    if behind:
        spared = [channel.spare is not None for channel in feed.channels]
        volatile = sum(isinstance(what, Publication) and not what.offset and not spared[at] for at, what in turn)
        feed.hub.tally.drops["volatile"] += behind * volatile


def _send(chunk: list[tuple[Subscription, Send]], frame: bytes) -> None:
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


def _offer(subscription: Subscription, members: Members, frame: bytes, start: list[Position]) -> bool:
    """For one that was not ready at its turn; it may have drained, left, or joined anew since. Whether it was given
    it."""
    if subscription in members.ready:
        subscription.outbox.write(frame)
    elif subscription in members.blocked:
        subscription.outbox.offer(frame, subscription, start)
    return subscription.state is State.LIVE


def observe(feed: Feed, members: Members, turn: Sequence[Item], size: int, receivers: int) -> None:
    """Count what was written to so many of the members."""
    for place, what in turn:
        if isinstance(what, Publication):
            feed.hub.delivered(members.wire.name, feed.channels[place].namespace.name, what, receivers)
    feed.hub.tally.sent_bytes += size * receivers
