"""How long to wait before the next attempt."""

from __future__ import annotations

import random

FIRST = 0.05
LAST = 2.0
STEADY = 1.0
"""Seconds that a connection must last for the waiting to start anew; one that dies at once is no success."""


class Backoff:
    """Delays that double from 50 ms to 2 s, each with jitter, so that the workers of a fleet do not come all at
    once."""

    __slots__ = ("_delay",)

    def __init__(self) -> None:
        self._delay = FIRST

    def lasted(self, seconds: float) -> None:
        """A connection was there for ``seconds``."""
        if seconds >= STEADY:
            self._delay = FIRST

    def next(self) -> float:
        """Seconds to wait now: between half of the delay and all of it."""
        delay, self._delay = self._delay, min(self._delay * 2, LAST)
        return delay * random.uniform(0.5, 1.0)
