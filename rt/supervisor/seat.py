"""The place of one worker: its listening sockets, which outlive the worker, and how its deaths are answered."""

from __future__ import annotations

import asyncio
import collections
import socket
from pathlib import Path

from rt.config import Config
from rt.supervisor import listeners, preflight
from rt.supervisor.child import Child

SETTLED = 2.0
"""Seconds of service after which a death is an accident, not a failed start."""

BACKOFF = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 5.0, 5.0, 5.0)
"""Seconds before each further start of a worker that keeps dying unsettled; the first comes at once. One death more is
a loop.
"""

MANY_DEATHS = (40, 300.0)
"""So many deaths within so many seconds are a loop too, however long each life was."""


class Backoff:
    """Says how long to wait after a death. Only lives that were cut short count, until one has settled."""

    __slots__ = ("_deaths", "_unsettled")

    def __init__(self) -> None:
        self._unsettled = 0
        self._deaths: collections.deque[float] = collections.deque(maxlen=MANY_DEATHS[0])

    def died(self, now: float, served: float) -> float | None:
        """Seconds to wait after a death at ``now`` that ended ``served`` seconds of service; None when it is a loop."""
        self._deaths.append(now)
        self._unsettled = 0 if served >= SETTLED else self._unsettled + 1
        if len(self._deaths) == MANY_DEATHS[0] and now - self._deaths[0] < MANY_DEATHS[1]:
            return None
        if self._unsettled > len(BACKOFF):
            return None
        return BACKOFF[max(0, self._unsettled - 1)]

    @property
    def unsettled(self) -> int:
        """How many lives in a row were cut short."""
        return self._unsettled


class Seat:
    """One worker's place. ``child`` is the process on it now, ``task`` the supervisor's task that keeps it occupied."""

    __slots__ = ("backoff", "child", "index", "internal", "name", "public", "task")

    def __init__(self, index: int, port: int) -> None:
        self.index = index
        self.name = f"{socket.gethostname()}-{port}-{index}"
        self.child: Child | None = None
        self.task: asyncio.Task[None] | None = None
        self.backoff = Backoff()
        self.public: list[socket.socket] = []
        self.internal: list[socket.socket] = []

    def bind(self, config: Config, file: Path | None) -> None:
        """Bind this seat's sockets unless it has them; ConfigError when that cannot be."""
        if not self.public:
            self.public, self.internal = preflight.bind(config, file)

    def release(self) -> None:
        """Close the sockets: nobody accepts from them, so the kernel must send nobody there."""
        listeners.close([*self.public, *self.internal])
        self.public, self.internal = [], []
