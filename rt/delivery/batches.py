"""Batches: feeds whose turns wait for an interval instead of the end of the loop's turn (``batch`` of a namespace).

There is one timer per interval, not per feed: all that began to wait since it was set go out together, each after the
interval at the latest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rt.delivery.feed import Feed


class Batches:
    """``release`` is called with each feed whose interval is over, and the interval."""

    def __init__(self, loop: asyncio.AbstractEventLoop, release: Callable[[Feed, float], None]) -> None:
        self._loop = loop
        self._release = release
        self._waiting: dict[float, dict[Feed, None]] = {}
        self._timers: dict[float, asyncio.TimerHandle] = {}

    def add(self, feed: Feed, interval: float) -> None:
        """The feed has something that may wait for ``interval`` seconds. It may wait already."""
        waiting = self._waiting.get(interval)
        if waiting is None:
            waiting = self._waiting[interval] = {}
            self._timers[interval] = self._loop.call_later(interval, self._due, interval)
        waiting[feed] = None

    def flush(self) -> None:
        """Nobody waits any longer."""
        for interval in list(self._waiting):
            self._timers[interval].cancel()
            self._due(interval)

    def _due(self, interval: float) -> None:
        del self._timers[interval]
        for feed in self._waiting.pop(interval):
            self._release(feed, interval)
