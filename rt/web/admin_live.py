"""What goes on, once a second, for every console that is open on this worker."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence

import msgspec

from rt.logs import Limited
from rt.metrics import Metrics, WorkerState
from rt.metrics.figures import Figures, Reading, figures, read
from rt.web.internal import Readiness, judged, together

log = Limited(logging.getLogger("rt.web.console"))

INTERVAL = 1.0
"""Seconds between two snapshots."""

WINDOW = 6
"""Readings that the quantiles look back over."""


class Worker(msgspec.Struct, frozen=True, gc=False):
    """One process: whether it is ready for a tenant at least, whether it has stopped accepting, and for how many
    seconds nothing was heard of it."""

    pid: int
    ready: bool
    leaving: bool
    silent: float


class Snapshot(msgspec.Struct, frozen=True, gc=False):
    """One event of the stream; ``at`` in seconds since 1970."""

    at: float
    reasons: list[str]
    workers: list[Worker]
    figures: Figures


class Live:
    """Reads the metrics of all workers every second while somebody watches, and no more when nobody does.

    Who watches waits for the next reading, and gets the newest: a console that is slow misses some, and none waits for
    it in a queue.
    """

    def __init__(self, metrics: Metrics, readiness: Callable[[], Readiness], expected: int) -> None:
        self._metrics = metrics
        self._readiness = readiness
        self._expected = expected
        self._readings: deque[Reading] = deque(maxlen=WINDOW)
        self._watching = 0
        self._task: asyncio.Task[None] | None = None
        self._next: asyncio.Future[None] | None = None
        self._stopped = False

    @property
    def watching(self) -> int:
        """How many consoles are open here."""
        return self._watching

    @contextlib.contextmanager
    def watch(self) -> Iterator[None]:
        """Have the metrics read, to the end of the block."""
        self._watching += 1
        if self._task is None and not self._stopped:
            self._task = asyncio.create_task(self._run(), name="console")
        try:
            yield
        finally:
            self._watching -= 1
            if not self._watching:
                self._end()

    async def tick(self) -> bool:
        """Wait for the next reading; False when there will be none."""
        if self._stopped:
            return False
        if self._next is None:
            self._next = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._next)
        return not self._stopped

    def snapshot(self, tenant: str) -> Snapshot:
        """The newest reading; with ``tenant`` what is counted for that one."""
        if not self._readings:
            self._read()
        now = time.monotonic()
        states = self._metrics.workers()
        return Snapshot(
            at=time.time(),
            reasons=together(judged(self._readiness(), states, self._expected, now)),
            workers=_workers(states, now),
            figures=figures(self._readings, tenant),
        )

    def stop(self) -> None:
        """Read no more; who waits goes home."""
        self._stopped = True
        self._end()

    def _end(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
        self._readings.clear()
        self._wake()

    def _wake(self) -> None:
        waiting, self._next = self._next, None
        if waiting is not None and not waiting.done():
            waiting.set_result(None)

    async def _run(self) -> None:
        while True:
            try:
                self._read()
            except Exception:
                log.exception("reading", "the metrics could not be read for the console")
            self._wake()
            await asyncio.sleep(INTERVAL)

    def _read(self) -> None:
        self._readings.append(read(self._metrics.gathered(), time.monotonic()))


def _workers(states: Sequence[WorkerState], now: float) -> list[Worker]:
    return [
        Worker(state.pid, bool(state.ready), state.leaving, round(max(0.0, now - state.seen), 1)) for state in states
    ]
