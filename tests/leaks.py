"""What a server keeps, and whether it is back at what it was: descriptors, tasks, and everything that is registered.

baseline = Baseline(server)   # after warming up, with nobody connected
...
baseline.assert_back()
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass

from tests.servers import Server
from tests.waiting import eventually_now

REGISTERED = ("rt_connections", "rt_subscriptions", "rt_channels", "rt_feeds", "rt_users", "rt_seats", "rt_waiting")
"""Gauges of what workers have registered; they are 0 when nobody is there and channels have lingered."""

SPARE_DESCRIPTORS = 4
"""Per worker: files of metrics, and connections of who is looking."""

SPARE_TASKS = 2
"""Per worker: what runs now and then."""

BACK = 20.0
"""Seconds until all is let go: channels linger, and presence is swept."""


@dataclass
class Kept:
    """What there is at one moment: in all, per worker on average, and of the worker that has most."""

    registered: dict[str, float]
    tasks: float
    descriptors: int

    def __str__(self) -> str:
        registered = ", ".join(f"{name.removeprefix('rt_')} {count:g}" for name, count in self.registered.items())
        return f"{self.descriptors} descriptors and {self.tasks:g} tasks per worker; {registered} in all"

    def beyond(self, before: Kept) -> list[str]:
        """What there is more of than ``before``."""
        more = [
            f"{name}: {count:g}, was {before.registered[name]:g}"
            for name, count in self.registered.items()
            if count > before.registered[name]
        ]
        if self.tasks > before.tasks + SPARE_TASKS:
            more.append(f"tasks per worker: {self.tasks:g}, were {before.tasks:g}")
        if self.descriptors > before.descriptors + SPARE_DESCRIPTORS:
            more.append(f"descriptors of a worker: {self.descriptors}, were {before.descriptors}")
        return more


def kept(server: Server) -> Kept:
    """What ``server`` has now."""
    workers = server.worker_pids()
    registered = {name: server.metric(name) for name in REGISTERED}
    return Kept(registered, server.metric("rt_tasks") / max(1, len(workers)), max(map(descriptors, workers), default=0))


def descriptors(pid: int) -> int:
    """How many ``pid`` has open; 0 when it is gone."""
    with suppress(OSError):
        return len(os.listdir(f"/proc/{pid}/fd"))
    return 0


class Baseline:
    """What ``server`` keeps when nobody is connected: waits for what still lingers, then looks. Workers may be replaced
    later; what counts is what one of them has."""

    def __init__(self, server: Server) -> None:
        self.server = server
        with suppress(AssertionError):  # where something is left, that is what there is
            eventually_now(lambda: not any(server.metric(name) for name in REGISTERED), BACK)
        self.kept = kept(server)

    def left(self, within: float = BACK) -> list[str]:
        """What is not back after ``within`` seconds, with nobody connected; nothing is what should be."""
        found: list[str] = []

        def back() -> bool:
            found[:] = kept(self.server).beyond(self.kept)
            return not found

        with suppress(AssertionError):
            eventually_now(back, within)
        return found

    def assert_back(self, within: float = BACK) -> None:
        """AssertionError with what is not."""
        left = self.left(within)
        assert not left, f"left behind: {left}"
