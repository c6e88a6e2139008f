"""How long to wait before the next attempt, and the loop that makes it."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import NoReturn

from rt.broker.trouble import Trouble
from rt.errors import StoreError

log = logging.getLogger("rt.broker")

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


async def supervise(part: str, keep: Callable[[Backoff], Awaitable[object]], trouble: Trouble) -> NoReturn:
    """Make a connection, again and again. ``keep`` lives as long as one does, and raises what ended it; ``part`` is who
    says so."""
    backoff = Backoff()
    while True:
        try:
            await keep(backoff)
        except StoreError as error:
            trouble.begins(part, error)
        except Exception as error:
            log.exception("%s failed in an unforeseen way", part)
            trouble.begins(part, StoreError(repr(error), definite=False))
        await asyncio.sleep(backoff.next())
