"""Leaving without a storm: the connections of a worker are told to go in batches, spread over a time.

All who are told at once come back at once, to workers that have others to serve. Until it is its turn, a connection is
served as ever.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from math import ceil
from typing import TYPE_CHECKING, NamedTuple

from rt.errors import SHUTDOWN, Close

if TYPE_CHECKING:
    from rt.delivery.connection import Connection
    from rt.delivery.hub import Hub

AT_ONCE = 200  # connections told between two turns of the loop, however large a batch is


class Pace(NamedTuple):
    """``duration`` is the seconds until the last batch, ``batch`` the most connections in one. So few that they are one
    batch go at once; more are spread evenly, in batches that come as often as it takes."""

    duration: float
    batch: int

    def interval(self, count: int) -> float:
        """Seconds from one batch to the next, for ``count`` connections."""
        batches = ceil(count / self.batch)
        return self.duration / (batches - 1) if batches > 1 else 0.0


async def drain(hubs: Sequence[Hub], pace: Pace, close: Close = SHUTDOWN) -> None:
    """Close all connections that the ``hubs`` have now. The caller sees to it that none are added."""
    waiting: deque[Connection] = deque()
    for hub in hubs:
        waiting.extend(hub.connections)
    if not waiting:
        return
    loop = asyncio.get_running_loop()
    began, interval, told = loop.time(), pace.interval(len(waiting)), 0
    while waiting:
        for hub in hubs:
            hub.batches.flush()  # what was put off goes out before its readers go
        await asyncio.sleep(0)
        await _tell(waiting, pace.batch, close)
        told += 1
        if waiting:
            await asyncio.sleep(max(0.0, began + told * interval - loop.time()))


async def _tell(waiting: deque[Connection], batch: int, close: Close) -> None:
    """Close so many of those that still are here."""
    count = 0
    while waiting and count < batch:
        connection = waiting.popleft()
        if connection.closed:
            continue
        connection.close(close)
        count += 1
        if count % AT_ONCE == 0:
            await asyncio.sleep(0)
