"""What a socket sends, measured: when it is more than a rate limit lets through, its reading stops until it is not.

Nothing is refused and nothing thrown away. What has been read is held here, at most one read's worth, and handed on as
tokens come; the sender is stopped by its own full buffers. While it is held, silence of the peer means nothing.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from rt.delivery.connection import Connection

T = TypeVar("T")

LEAST, MOST = 0.001, 1.0  # seconds between two looks whether there is a token: a reload may have changed the limit


class Intake(Generic[T]):
    """The measured input of one connection; made when there is a limit, and kept as long as it holds something.

    ``hand_on`` gets each item in its turn; ``cost`` says how many messages it is.
    """

    __slots__ = ("_connection", "_cost", "_hand_on", "_held", "_owed", "_timer")

    def __init__(self, connection: Connection, hand_on: Callable[[T], None], cost: Callable[[T], int]) -> None:
        self._connection = connection
        self._hand_on = hand_on
        self._cost = cost
        self._held: deque[T] = deque()
        self._owed = False
        self._timer: asyncio.TimerHandle | None = None

    @property
    def holds(self) -> bool:
        """Whether nothing more should be read."""
        return self._timer is not None

    def take(self, items: Iterable[T], size: int) -> None:
        """``size`` bytes were read, and these are the items in them."""
        connection = self._connection
        debt = self._pay(size)
        self._held.extend(items)
        # The bytes are here, and so is what is in them; it is the next ones that must wait.
        wait = max(self._work(), debt)
        if wait > 0.0 and not connection.closed:
            self._hold(wait)

    def _pay(self, size: int) -> float:
        """So many bytes more have been read; the seconds until all are paid."""
        rules = self._connection.hub.limits.bytes
        return 0.0 if rules is None else rules.draw(self._connection, size)

    def _work(self) -> float:
        """Hand on what may be; the seconds until there is more to do."""
        connection, held = self._connection, self._held
        while held and not connection.closed:
            rules = connection.hub.limits.messages
            wait = 0.0 if rules is None else rules.wait(connection, self._cost(held[0]), again=self.holds)
            if wait > 0.0:
                return wait
            self._hand_on(held.popleft())
        return 0.0

    def _hold(self, wait: float) -> None:
        connection = self._connection
        if self._timer is None:
            connection.outbox.sink.pause()
            if connection.heartbeat is not None:
                self._owed = True
                connection.heartbeat.rest()
        elif not self._timer.cancelled():
            self._timer.cancel()
        self._timer = connection.hub.loop.call_later(min(max(wait, LEAST), MOST), self._go_on)

    def _go_on(self) -> None:
        connection = self._connection
        wait = max(self._work(), self._pay(0))
        if connection.closed:
            self._held.clear()
            self._timer = None
        elif wait > 0.0:
            self._hold(wait)
        else:
            self._timer = None
            if self._owed and connection.heartbeat is not None:
                connection.heartbeat.resume(connection.hub.now())
            self._owed = False
            if not connection.busy:
                connection.outbox.sink.resume()
