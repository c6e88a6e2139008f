"""One member of a feed: a connection's interest in one channel, or in the list of channels of a stream."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from rt.protocol.publication import Position

if TYPE_CHECKING:
    from rt.delivery.feed import Feed
    from rt.delivery.members import Members
    from rt.delivery.outbox import Outbox
    from rt.delivery.wheel import Alarm
    from rt.errors import Unsubscribe


class State(enum.IntEnum):
    """Where a subscription is on its way: it may only be live when nothing between it and the base is missing."""

    JOINING = 0
    BEHIND = 1
    LIVE = 2
    GONE = 3


class Right:
    """What is special about few subscriptions: ``info`` (the chan_info of a token, raw JSON), the end of the permission
    if it has one, whether the server made it, and why it was ended before it had begun."""

    __slots__ = ("by_server", "end", "ended", "info")

    def __init__(self, info: bytes = b"", *, by_server: bool = False) -> None:
        self.info = info
        self.by_server = by_server
        self.end: Alarm | None = None
        self.ended: Unsubscribe | None = None


class Subscription:
    """``positions`` (one for each channel of the feed) is where it stands while it is behind; while live, the feed
    knows.

    ``positioned``: its reader counts offsets and must be told of a gap. ``falls`` counts how often it fell behind
    lately and ``resume_at`` (loop time) is when its next catch-up may begin: that is pacing, where history is the queue
    (else the hub has a :class:`rt.delivery.pacing.Pace`). ``fetching`` is true while a page is read for it. ``right``
    is None for most: a client's own, by the options of the namespace.
    """

    __slots__ = (
        "falls",
        "fetching",
        "feed",
        "fell_at",
        "members",
        "outbox",
        "positioned",
        "positions",
        "resume_at",
        "right",
        "state",
    )

    def __init__(self, feed: Feed, members: Members, outbox: Outbox, *, positioned: bool) -> None:
        self.feed = feed
        self.members = members
        self.outbox = outbox
        self.positioned = positioned
        self.positions: list[Position] = []
        self.state = State.JOINING
        self.falls = 0
        self.fell_at = 0.0
        self.resume_at = 0.0
        self.fetching = False
        self.right: Right | None = None
