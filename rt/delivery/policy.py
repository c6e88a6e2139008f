"""What becomes of a subscriber that cannot keep up: the policies, and how they share one walk.

*Nothing waits for a slow subscriber, and nothing piles up for it.* Every policy but ``disconnect`` lets a subscription
fall **behind**: its outbox takes no more turns for it, it keeps its positions, and when its outbox is empty it is
brought to the base again (:mod:`rt.delivery.catchup`). The policies differ in one thing only, in what is kept for the
way back, and that is kept once per channel, never per subscriber:

=============================== ============================== ====================================================
policy                          kept for the way back          who comes back is owed
=============================== ============================== ====================================================
``catch_up`` (with history)     the history                    everything, in order, or to be told of a gap
``conflate`` (history, cache)   the newest of the history      the newest publication
``drop_oldest``                 the newest, within bounds      the newest, in order; what is missing lies before them
``conflate``                    the newest of each key         the newest of every key, in order of their coming
``drop_newest``                 nothing                        what was queued when it fell behind; then, from now on
``disconnect``                  (it does not fall behind)      everything, or to be closed with 3008
=============================== ============================== ====================================================

So a channel without history whose policy leaves things out counts what it takes: it has a *local* position, an epoch
that is empty and a number that no wire ever shows. With it, joining, turns, slices, a change of feed and falling behind
are what they are for channels with history: exact. What is kept is the channel's :class:`rt.delivery.spare.Spare`. A
thousand stalled readers cost a turn what none would, and memory for what their outboxes held when they fell.

**States.** *Live and ready*: the turns write to the socket; nothing below is ever looked at. *Live and blocked*:
something waits in the outbox; turns are queued there, shared, up to the share of the feed's priority (:func:`share`).
Where only the newest counts (``conflate``), nothing is queued: it falls behind at once, and is given what is newest
when there is room. *Behind*: see above. *Behind and paced* (:mod:`rt.delivery.pacing`): its flushes come at intervals
that grow until each is out before the next. *Gone*.

**Who owns what.** The outbox owns bytes, encoded, in order, never taken back. The channel owns what can be had again:
history, recent ring, spare. The subscription owns positions, nothing else. The hub owns the paces of those who have
one: an ordinary subscription has no byte of all this.

**Priority** orders those who share a connection. From low to high they may fill a quarter of the low watermark, all of
it, four times as much; once one has fallen behind, none below it is queued for that connection any more; when there is
room again, they are served from high to low, each only when nothing waits. A channel's spare has the same shares of
``delivery.subscription``. So under a stall what is given up first is ``low``, then ``normal``, then ``high``: by every
way in which something can be given up.

**A stream** (``/ws``, ``/sse``, ``uni_sse``) has one cursor and is behind on all its channels or on none. It lags when
any of them leaves things out, or all of them can catch up; a ``disconnect`` channel beside one that leaves things out
keeps a spare too, as large as an outbox may be, and the stream is closed when that did not suffice. Its share is that
of its highest priority; in a page the channels come by priority.

What happens at

* **a drain**: the outbox is empty; the live are ready again, then those behind are served, by priority, until something
  waits again (:func:`rt.delivery.behind.resume`). When very many drain at once, they pass a
  :class:`rt.delivery.turnstile.Turnstile`, a few milliseconds of each turn of the loop;
* **close, unsubscribe**: the subscription leaves; what it was not given it is not owed, and does not count as dropped;
* **a change of feed**: positions go along by channel, local ones too, and so does the pace;
* **a reload**: the new policy holds from the next turn on. A spare of another kind begins empty; who was behind is
given
  what the new one has, and what the old one held is counted as dropped (``reload``). A channel whose history was
  switched on or off starts anew, as ever;
* **an overflow of a turn** (more in one turn of the loop than an outbox may hold): all fall behind, unpaced, and come
  back by their policy in the next step, or by history, whatever the policy. Without history ``drop_newest`` and
  ``disconnect`` have nothing to come back by: what does not fit is dropped, and counted. A stream that follows such a
  ``disconnect`` channel beside one with history is closed when the latter overflows, and comes back with its cursor. A
  *batch* that is half full goes out early and does not get there;
* **a sink of TLS**, which takes nothing while a write is under way: that is a block like any other, so short that it
  has no pace: :class:`rt.delivery.pacing.Pace` begins at a block that outlasts ``pacing.first``;
* **a restart of a reader**: positions of channels without history are not in any cursor. It begins now.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from rt.config import Delivery, Namespace

LOW: Final = 0
NORMAL: Final = 1
HIGH: Final = 2

RANKS: Final = {"low": LOW, "normal": NORMAL, "high": HIGH}


class Manner(NamedTuple):
    """How a feed treats members that cannot keep up; made of the namespaces of its channels.

    ``lags``: they fall behind. ``conflates``: only the newest counts, so nothing is queued for them. ``paced``: their
    flushes are spaced by a :class:`rt.delivery.pacing.Pace`, since what comes meanwhile makes them no longer. ``rank``
    is that of the highest priority. ``order`` holds the places of the channels, by priority. ``batches`` holds the
    intervals of the channels, None where none has one; ``condenses``: some channel's batches are conflated.
    """

    lags: bool
    conflates: bool
    paced: bool
    rank: int
    order: tuple[int, ...]
    batches: tuple[float, ...] | None
    condenses: bool


class Share(NamedTuple):
    """What may wait for those of one priority: bytes and messages."""

    size: int
    messages: int


def sheds(namespace: Namespace) -> bool:
    """Whether slow subscribers are not given everything, and history does not bring it back."""
    return not namespace.history and namespace.slow in ("drop_oldest", "drop_newest", "conflate")


def manner(namespaces: Sequence[Namespace]) -> Manner:
    """The manner of a feed of channels of these namespaces, in this order. (There may be none, for a moment.)"""
    shed = [sheds(namespace) for namespace in namespaces]
    conflate = [namespace.slow == "conflate" for namespace in namespaces]
    catch_up = [namespace.history and namespace.slow == "catch_up" for namespace in namespaces]
    stored = all(namespace.history and namespace.slow != "disconnect" for namespace in namespaces)
    lags = stored or any(shed)
    ranks = [RANKS[namespace.priority] for namespace in namespaces]
    batches = tuple(namespace.batch for namespace in namespaces)
    return Manner(
        lags=lags,
        conflates=bool(conflate) and all(conflate),
        paced=lags and bool(ranks) and not any(catch_up),
        rank=max(ranks, default=NORMAL),
        order=tuple(sorted(range(len(ranks)), key=lambda place: -ranks[place])),
        batches=batches if any(batches) else None,
        condenses=any(one and batch for one, batch in zip(conflate, batches, strict=True)),
    )


def share(delivery: Delivery, rank: int) -> Share:
    """How far the outbox of a connection may be filled for one of this rank that can fall behind."""
    if rank == LOW:
        return Share(delivery.low_watermark // 4, max(delivery.max_messages // 4, 1))
    if rank == HIGH:
        return Share(min(4 * delivery.low_watermark, delivery.high_watermark), delivery.max_messages)
    return Share(delivery.low_watermark, max(delivery.max_messages // 2, 1))


def spared(delivery: Delivery, rank: int) -> Share:
    """How much is kept of a channel of this rank for those who are behind; never more than may wait for one of them."""
    own = delivery.subscription
    share = {LOW: (own.max_bytes // 4, own.max_messages // 4), HIGH: (4 * own.max_bytes, 4 * own.max_messages)}
    size, messages = share.get(rank, (own.max_bytes, own.max_messages))
    return Share(min(size, delivery.high_watermark), max(min(messages, delivery.max_messages), 1))
