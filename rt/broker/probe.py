"""Does this worker still hear the store? Ask by the only way that proves it: publish to ourselves, and listen.

A connection can be healthy and deaf: a master that was demoted, a proxy that swallows pushes. PING would be answered
there.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable

from rt.broker.counters import Counters
from rt.errors import StoreError


class Probe:
    """Publishes a probe every ``interval`` seconds, and at once after :meth:`wake`.

    ``publish`` sends the text and may raise StoreError: then nothing is known about the receiving side. ``deaf`` is
    called when a probe was published but did not come back within half the interval (at least ``timeout``, at most the
    interval), and no connection came up meanwhile: one that has just come up cannot have heard it.
    """

    __slots__ = (
        "_came", "_counters", "_deaf", "_interval", "_loop", "_patience", "_publish", "_sent_at", "_stir", "_task",
        "_text", "_woken", "is_deaf", "on_lag", "seen_at",
    )  # fmt: skip

    def __init__(
        self,
        *,
        interval: float,
        timeout: float,
        counters: Counters,
        publish: Callable[[bytes], Awaitable[object]],
        deaf: Callable[[], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._interval = interval
        self._patience = min(max(interval / 2, timeout), interval)
        self._counters = counters
        self._publish = publish
        self._deaf = deaf
        self._text = b""
        self._stir = asyncio.Event()
        self._came = False
        self._woken = False
        self._sent_at = 0.0
        self._task: asyncio.Task[None] | None = None
        self.seen_at: float | None = None
        """When the last probe came back, on the loop's clock."""
        self.is_deaf = False
        self.on_lag: Callable[[float], object] = _nothing
        """Called with the seconds that a probe took from :meth:`sent` until it was heard."""

    def start(self) -> None:
        """Begin to wait for the first :meth:`wake`."""
        self._task = self._loop.create_task(self._run())

    def sent(self) -> None:
        """The probe leaves now: what ``publish`` had to learn before is not part of its way."""
        self._sent_at = time.perf_counter()  # the loop's own clock counts in milliseconds

    async def stop(self) -> None:
        """End."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def wake(self) -> None:
        """Probe now: a connection has just come up."""
        self._woken = True
        self._stir.set()

    def hear(self, body: bytes) -> None:
        """A message on the probe's own pub/sub. Another's, or an old one, says nothing."""
        if body == self._text:
            if not self._came:
                self.on_lag(time.perf_counter() - self._sent_at)
            self.seen_at = self._loop.time()
            self.is_deaf = False
            self._came = True
            self._stir.set()

    @property
    def ready(self) -> bool:
        """Whether a probe came back within the last two intervals, and none was missed since."""
        return self.seen_at is not None and not self.is_deaf and self._loop.time() - self.seen_at <= 2 * self._interval

    async def _run(self) -> None:
        while True:
            await self._wait(self._interval, lambda: self._woken)
            await self._once()

    async def _once(self) -> None:
        self._woken = False
        self._came = False
        # Not to be guessed, and never that of another process that took our name by mistake.
        self._text = b'{"probe":"%s"}' % random.randbytes(8).hex().encode()
        self.sent()
        try:
            await self._publish(self._text)
        except StoreError:
            self._counters.probe_failures += 1
            return
        await self._wait(self._patience, lambda: self._came or self._woken)
        if not self._came and not self._woken:
            self._counters.probe_failures += 1
            self.is_deaf = True
            self._deaf()

    async def _wait(self, seconds: float, done: Callable[[], bool]) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not done():
                    self._stir.clear()
                    await self._stir.wait()


def _nothing(seconds: float) -> None:
    """Nobody wants to know."""
