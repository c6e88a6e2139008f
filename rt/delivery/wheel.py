"""The timing wheel: every deadline of a worker in one place, without a task, timer or coroutine per connection.

Deadlines are kept in slots of one tick each; a tick costs what is due in it, whatever the number of deadlines. A
cancelled alarm stays in its slot until its time but lets go of its callback at once, so what it was for can be freed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

log = logging.getLogger("rt.delivery")

Callback = Callable[[float], None]


class Alarm:
    """One deadline; :meth:`cancel` makes nothing of it."""

    __slots__ = ("callback",)

    def __init__(self, callback: Callback) -> None:
        self.callback: Callback | None = callback

    def cancel(self) -> None:
        """Do not call back any more."""
        self.callback = None


class Wheel:
    """Calls back at or up to one ``tick`` (seconds) after a moment of the loop's monotonic clock.

    The owner calls :meth:`start` within the running loop, and :meth:`stop`.
    """

    def __init__(self, tick: float = 0.25) -> None:
        self.tick = tick
        self.on_tick: Callable[[float], None] | None = None  # told by how many seconds a tick came too late
        self._slots: dict[int, list[Alarm]] = {}
        self._next = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._handle: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to turn in the running loop."""
        self._loop = asyncio.get_running_loop()
        self._next = int(self._loop.time() / self.tick) + 1
        self._arm()

    def stop(self) -> None:
        """Turn no more; what was to come is forgotten."""
        if self._handle is not None:
            self._handle.cancel()
        self._slots.clear()

    @property
    def count(self) -> int:
        """How many deadlines are kept, cancelled ones too."""
        return sum(map(len, self._slots.values()))

    def at(self, moment: float, callback: Callback) -> Alarm:
        """Call ``callback(now)`` once, when the loop's clock has passed ``moment``."""
        alarm = Alarm(callback)
        slot = max(int(moment / self.tick) + 1, self._next)
        self._slots.setdefault(slot, []).append(alarm)
        return alarm

    def _arm(self) -> None:
        assert self._loop is not None
        self._handle = self._loop.call_at(self._next * self.tick, self._turn)

    def _turn(self) -> None:
        assert self._loop is not None
        now = self._loop.time()
        if self.on_tick is not None:
            self.on_tick(max(0.0, now - self._next * self.tick))
        last = int(now / self.tick)
        while self._next <= last:
            due = self._slots.pop(self._next, ())
            self._next += 1
            for alarm in due:
                self._ring(alarm, now)
        self._arm()

    @staticmethod
    def _ring(alarm: Alarm, now: float) -> None:
        callback, alarm.callback = alarm.callback, None
        if callback is None:
            return
        try:
            callback(now)
        except Exception:
            # One bad deadline must not stop all the others for ever.
            log.exception("a deadline failed")
