"""What a socket sends, measured: when it is more than a rate limit lets through, its reading stops until it is not.

Nothing is refused and nothing thrown away. What has been read is held here, at most one read's worth, and handed on as
tokens come; the sender is stopped by its own full buffers. While it is held, silence of the peer means nothing.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from random import uniform
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from rt.delivery.connection import Connection

T = TypeVar("T")

PATIENCE = 10  # times that the wait is doubled while others are quicker
LEAST, MOST = 0.001, 1.0  # seconds between two looks whether there is a token: a reload may have changed the limit


class Intake(Generic[T]):
    """The measured input of one connection; made when there is a limit, and kept as long as it holds something.

    ``hand_on`` gets each item in its turn; ``cost`` says how many messages it is; ``over`` is called when nothing is
    held any more: whoever keeps this lets it go then, since the two would hold each other.
    """

    __slots__ = ("_connection", "_cost", "_due", "_hand_on", "_held", "_over", "_owed", "_timer", "_vain")

    def __init__(
        self,
        connection: Connection,
        hand_on: Callable[[T], None],
        cost: Callable[[T], int],
        over: Callable[[], None] | None = None,
    ) -> None:
        self._connection = connection
        self._hand_on = hand_on
        self._cost = cost
        self._over = over
        self._held: deque[T] = deque()
        self._owed = False
        self._due = 0.0  # when there is to be a token
        self._timer: asyncio.TimerHandle | None = None
        self._vain = 0  # looks that found no token, less those that did

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
        else:
            self._timer.cancel()
        if connection.heartbeat is not None and not self._owed:  # it may have begun while this is held
            self._owed = True
            connection.heartbeat.rest()
        self._due = connection.hub.now() + wait
        self._timer = connection.hub.loop.call_later(min(max(wait, LEAST), MOST), self._go_on)

    def _go_on(self) -> None:
        connection, before = self._connection, len(self._held)
        wait = max(self._work(), self._pay(0))
        if connection.closed:
            self._held.clear()
            self._end()
        elif wait > 0.0:
            self._hold(self._patient(wait, progress=len(self._held) < before))
        else:
            self._end()
            if self._owed and connection.heartbeat is not None:
                connection.heartbeat.resume(connection.hub.now())
            self._owed = False
            if not connection.busy:
                connection.outbox.sink.resume()

    def _end(self) -> None:
        self._timer = None
        if self._over is not None:
            self._over()

    def _patient(self, wait: float, *, progress: bool) -> float:
        """How long to wait really. Where there was no token when there was to be one, others of the same user, address
        or tenant were first: all who wait for one bucket must not come for every token of it."""
        if progress:
            self._vain = max(self._vain - 1, 0)
        elif self._connection.hub.now() >= self._due:
            self._vain = min(self._vain + 1, PATIENCE)
        return uniform(wait, wait * 2**self._vain)
