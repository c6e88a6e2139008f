"""A slow network for the demo page: a sink that takes no more than some bytes a second, as a narrow line would.

The outbox behind it sees what it sees of a real one: a socket that takes a part, or nothing for now.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from rt.web.sink import Receiver, Socket, Stream

STEP: Final = 0.1
"""Seconds between two looks at what may be sent."""

FIRST: Final = 2048
"""Bytes that pass at once: the answer to the handshake and the first message."""


class Narrow:
    """Puts ``rate`` bytes a second into ``sink``. Implements ``rt.delivery.outbox.Sink``."""

    __slots__ = ("_drain", "_filled_at", "_loop", "_rate", "_room", "_sink", "_timer", "send")

    def __init__(self, sink: Socket | Stream, rate: int) -> None:
        self._sink = sink
        self._rate = rate
        self._loop = asyncio.get_running_loop()
        self._room = float(FIRST)
        self._filled_at = self._loop.time()
        self._drain: Callable[[], None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.send: Callable[[bytes], int] = self._send

    def start(self, receiver: Receiver) -> None:
        """Read, and give what comes to ``receiver``."""
        self._sink.start(receiver)

    def _send(self, data: bytes) -> int:
        now = self._loop.time()
        self._room = min(self._room + (now - self._filled_at) * self._rate, float(max(self._rate, FIRST)))
        self._filled_at = now
        if self._room < 1.0:
            raise BlockingIOError
        sent = self._sink.send(data[: int(self._room)])
        self._room -= sent
        return sent

    def watch(self, drain: Callable[[], None]) -> None:
        self._drain = drain
        self._timer = self._loop.call_later(STEP, self._look)

    def unwatch(self) -> None:
        self._drain = None
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        if self._drain is not None:
            self._timer = self._loop.call_later(STEP, self._look)
            self._drain()

    def pause(self) -> None:
        self._sink.pause()

    def resume(self) -> None:
        self._sink.resume()

    def end(self) -> None:
        self._sink.end()

    def close(self) -> None:
        self.unwatch()
        self._sink.close()
