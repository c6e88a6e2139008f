"""Listening in on a channel, for operators: a feed without subscriptions, which gives away what it takes.

It costs the channel what one more feed does, and is no subscriber: nobody sees it in presence or in a count.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rt.config import Namespace
from rt.delivery.feed import Feed
from rt.delivery.hub import Hub
from rt.delivery.policy import manner
from rt.protocol.publication import Change, Position, Publication
from rt.protocol.wires import Told, What

TURN_ITEMS = 1000
"""Publications of one turn of the loop that are given away; what comes beyond them is counted."""

TURN_BYTES = 256 * 1024
"""And their bytes."""

Tell = Callable[[Sequence[What], int], None]


class Tap(Feed):
    """``tell`` gets what the channel took in a turn of the loop, and how much of it is left out."""

    __slots__ = ("_bytes", "_dropped", "_tell", "_told")

    def __init__(self, hub: Hub, name: str, namespace: Namespace, tell: Tell) -> None:
        super().__init__(hub, (name,), [hub.channel(name, namespace)])
        self.manner = manner([namespace])
        self._tell = tell
        self._told: list[What] = []
        self._bytes = 0
        self._dropped = 0
        self.channels[0].claims.add(self)

    async def open(self) -> None:
        """Begin to listen; :meth:`position` is from where. StoreError when the channel cannot be opened."""
        (channel,) = self.channels
        await channel.open()
        self.opened = True
        if self in channel.claims:
            channel.feeds[self] = 0

    def close(self) -> None:
        """Listen no more. Harmless when that is over."""
        self.hub.drop(self)

    @property
    def position(self) -> Position:
        """Where the channel is."""
        return self.channels[0].position

    @property
    def over(self) -> bool:
        """Whether nothing will come any more: the channel began anew, without us."""
        return self.channels[0].closed

    def floor(self, index: int) -> Position:
        return self.position

    def changed(self, index: int, change: Change) -> None:
        self.take(index, change)

    def tell(self, index: int, top: Position) -> None:
        self.take(index, Told(top))

    def take(self, index: int, what: What) -> None:
        size = len(what.body) if isinstance(what, Publication) else 0
        if len(self._told) >= TURN_ITEMS or (self._bytes + size > TURN_BYTES and self._told):
            self._dropped += 1
            return
        self._bytes += size
        self._told.append(what)
        if not self.dirty:
            self.dirty = True
            self.hub.mark(self)

    def flush(self) -> None:
        self.dirty = False
        told, self._told, self._bytes = self._told, [], 0
        dropped, self._dropped = self._dropped, 0
        self._tell(told, dropped)
