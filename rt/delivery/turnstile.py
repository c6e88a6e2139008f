"""The turnstile: those who are behind pass one after the other, for a bounded time in each turn of the loop.

When thousands who stood still read again at once, each of them is given pages of its own. Between these the loop lives,
so that nobody who is well waits for all of them.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from rt.delivery.subscription import Subscription

SLICE: Final = 0.004
"""Seconds of each turn of the loop in which they may pass."""


class Turnstile:
    """``let`` is called with those who had to wait, in the order of coming; it may find that nothing is to be done."""

    def __init__(self, loop: asyncio.AbstractEventLoop, let: Callable[[Subscription], None]) -> None:
        self._loop = loop
        self._let = let
        self._waiting: OrderedDict[Subscription, None] = OrderedDict()
        self._end: float | None = None  # of this turn's time; None where nobody has come in this turn
        self._letting = False

    def passes(self, subscription: Subscription) -> bool:
        """Whether it may go on now. Else it waits here, and is let go on by itself."""
        now = self._loop.time()
        if self._end is None:
            self._end = now + SLICE
            self._loop.call_soon(self._turn)
        if now < self._end and (self._letting or not self._waiting):
            return True
        self._waiting[subscription] = None
        return False

    def _turn(self) -> None:
        """Another turn of the loop."""
        if not self._waiting:
            self._end = None
            return
        self._end = self._loop.time() + SLICE
        self._loop.call_soon(self._turn)
        self._letting = True
        try:
            while self._waiting and self._loop.time() < self._end:
                self._let(self._waiting.popitem(last=False)[0])
        finally:
            self._letting = False
