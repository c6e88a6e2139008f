"""Rights that end at a moment of the wall clock: connections and subscriptions whose tokens say so.

They are kept by the wall clock and looked at several times a second, and not put on the wheel: when the clock is set,
they end when it says so, not when it would have said so before.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING

from rt.delivery.wheel import Alarm, Callback

if TYPE_CHECKING:
    from rt.delivery.wheel import Wheel

LOOK = 0.25  # seconds between two looks: a right outlives its end by at most this and a tick of the wheel
LITTER = 1024  # cancelled entries that are not worth a sweep

EARLY = 25.0  # seconds before the end of a right at which a client is asked for a fresh token, at most ...
SHARE = 0.25  # ... and at most this share of what is left


def told(expire_at: float, now: float) -> int:
    """The ``ttl`` that a client is told, in whole seconds: it asks for a fresh token when that has passed, and the
    fresh one must be here before the right ends."""
    left = expire_at - now
    return max(1, int(left - min(EARLY, left * SHARE)))


class Expiry:
    """The ends of all rights of one hub, the next one first."""

    __slots__ = ("_cancelled", "_count", "_heap", "_next", "_wall", "_wheel")

    def __init__(self, wheel: Wheel, wall: Callable[[], float] = time.time) -> None:
        self._wheel = wheel
        self._wall = wall
        self._heap: list[tuple[float, int, _End]] = []
        self._count = 0
        self._cancelled = 0
        self._next: Alarm | None = None

    def start(self, now: float) -> None:
        """Begin to look; ``now`` is the loop's time."""
        self._next = self._wheel.at(now + LOOK, self._look)

    def stop(self) -> None:
        """Look no more."""
        if self._next is not None:
            self._next.cancel()

    def at(self, moment: float, callback: Callback) -> Alarm:
        """Call ``callback(moment of the wall clock)`` once when that clock (seconds since 1970) has passed
        ``moment``."""
        self._count += 1
        end = _End(self, callback)
        heappush(self._heap, (moment, self._count, end))
        return end

    def _look(self, now: float) -> None:
        # First: what is called below may fail, and the next look must come all the same.
        self._next = self._wheel.at(now + LOOK, self._look)
        wall = self._wall()
        while self._heap and self._heap[0][0] <= wall:
            _, _, end = heappop(self._heap)
            callback, end.callback = end.callback, None
            if callback is None:
                self._cancelled -= 1
            else:
                callback(wall)

    def _forget(self) -> None:
        """One more is cancelled; when these are the most, sweep."""
        self._cancelled += 1
        if self._cancelled > LITTER and self._cancelled * 2 > len(self._heap):
            self._heap = [entry for entry in self._heap if entry[2].callback is not None]
            heapify(self._heap)
            self._cancelled = 0


class _End(Alarm):
    """The end of one right."""

    __slots__ = ("_expiry",)

    def __init__(self, expiry: Expiry, callback: Callback) -> None:
        super().__init__(callback)
        self._expiry = expiry

    def cancel(self) -> None:
        """It does not end, or not then."""
        if self.callback is not None:
            super().cancel()
            self._expiry._forget()
