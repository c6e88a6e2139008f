"""Waiting for a condition, with a bound."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

POLL = 0.005
"""Seconds between two looks at a condition."""

PATIENCE = 15.0
"""Seconds that a test waits for what should happen at once: enough for a busy machine, short enough to be a failure."""


async def eventually(condition: Callable[[], object], timeout: float = PATIENCE, what: str = "") -> None:
    """Return as soon as ``condition()`` is true; AssertionError after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout:g} s: {what or condition}"
        await asyncio.sleep(POLL)


def eventually_now(condition: Callable[[], object], timeout: float = PATIENCE, what: str = "") -> None:
    """The same for a test that runs no event loop."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout:g} s: {what or condition}"
        time.sleep(POLL)
