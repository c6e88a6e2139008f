"""Those of a feed who take part in its turns, by wire."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from rt.delivery.subscription import State, Subscription

if TYPE_CHECKING:
    from rt.protocol.wires import Wire

Send = Callable[[bytes], int]


class Members:
    """Those of a feed who speak one wire and are live: *ready* with their socket's ``send``, or *blocked* by their
    outbox."""

    __slots__ = ("blocked", "ready", "wire")

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.ready: dict[Subscription, Send] = {}
        self.blocked: dict[Subscription, None] = {}

    def add(self, subscription: Subscription) -> None:
        """From now on it takes part in the turns."""
        subscription.state = State.LIVE
        if subscription.outbox.queue is None:
            self.ready[subscription] = subscription.outbox.send
        else:
            self.blocked[subscription] = None

    def block(self, subscription: Subscription) -> None:
        """Its outbox has something waiting."""
        self.ready.pop(subscription, None)
        self.blocked[subscription] = None

    def unblock(self, subscription: Subscription) -> None:
        """Its outbox is empty again."""
        self.blocked.pop(subscription, None)
        self.ready[subscription] = subscription.outbox.send

    def remove(self, subscription: Subscription) -> None:
        """It takes part no more; what it has not been given it is not owed."""
        self.ready.pop(subscription, None)
        self.blocked.pop(subscription, None)

    def __len__(self) -> int:
        return len(self.ready) + len(self.blocked)
