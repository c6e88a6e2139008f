"""The gate of a worker: how many connections it takes in all, and how many new ones in a second."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Literal

from rt.delivery.buckets import Bucket

if TYPE_CHECKING:
    from rt.delivery.hub import Hub

Refusal = Literal["total", "rate", "leaving", "per_ip"]

AT_ONCE = 20  # connections that may come at once, whatever the rate, as a page that is loaded anew opens a few
SHARE = 0.1  # seconds' worth of the rate that may be saved beyond that: as many come in one turn of the loop
STEP = 0.01  # seconds between two looks at who may come in, at least: they come in small groups, not one by one


def depth(rate: float) -> float:
    """How many new connections may come at once."""
    return min(rate, max(AT_ONCE, rate * SHARE))


class Gate:
    """Decides over each new connection, before anything is spent on it. A reload keeps what the bucket holds.

    Who comes faster than the rate waits here, in the order of coming: after a worker has died all its clients come at
    once, and to refuse them would only bring them back, in a worse order. The room holds whom the rate lets in within
    ``limits.connections.wait``; who would have to wait longer is refused at once.
    """

    __slots__ = ("_bucket", "_hub", "_queue", "_timer", "waiting")

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._bucket = Bucket(hub.config.limits.connections.new_per_second, hub.now(), depth)
        self._queue: deque[asyncio.Future[None]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self.waiting = 0  # without those of the queue who have left

    def refusal(self, address: str) -> Refusal | None:
        """Why there is no room for one from ``address``, whatever the rate. None where there is."""
        hub = self._hub
        limits = hub.config.limits.connections
        if hub.leaving:
            return self._refuse("leaving")
        if hub.crowd.full:
            return self._refuse("total")
        if limits.per_ip and hub.crowd.of(address) >= limits.per_ip:
            return self._refuse("per_ip")
        return None

    def turn(self, *, patient: bool = True) -> asyncio.Future[None] | Refusal | None:
        """None: it is this one's turn. A future: it is when that is done; to be cancelled by who leaves before. Else
        why it may not even wait, as it may not where it is not ``patient``."""
        limits = self._hub.config.limits.connections
        self._bucket.rate = limits.new_per_second
        if not self.waiting and self._bucket.take(self._hub.now()):
            return None
        if not patient or self.waiting + 1 > limits.new_per_second * limits.wait:
            return self._refuse("rate")
        place: asyncio.Future[None] = self._hub.loop.create_future()
        place.add_done_callback(self._gone)
        self._queue.append(place)
        self.waiting += 1
        self._hub.tally.waits += 1
        self._arm()
        return place

    def let_go(self) -> None:
        """Let all who wait go on, to be told what has changed."""
        while self._queue:
            place = self._queue.popleft()
            if not place.done():
                place.set_result(None)

    def _refuse(self, reason: Refusal) -> Refusal:
        self._hub.tally.refusals[reason] += 1
        return reason

    def _gone(self, place: asyncio.Future[None]) -> None:
        self.waiting -= 1

    def _arm(self) -> None:
        if self._timer is None:
            self._timer = self._hub.loop.call_later(max(self._bucket.wait, STEP), self._release)

    def _release(self) -> None:
        self._timer = None
        self._bucket.rate = self._hub.config.limits.connections.new_per_second
        queue, now = self._queue, self._hub.now()
        while queue and (queue[0].done() or self._bucket.take(now)):
            place = queue.popleft()
            if not place.done():
                place.set_result(None)
        if queue:
            self._arm()
