"""Nothing is left behind: what a server's workers keep after a scenario is what they kept before it.

``with leakless(server): ...`` warms the server up when it is met for the first time, notes what its workers keep, and
waits after the block until they keep that again.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import time
from collections.abc import Iterator
from typing import NamedTuple

from tests import processes
from tests.clients import Api
from tests.doors import DOORS, enter
from tests.leaks import REGISTERED
from tests.servers import Server
from tests.waiting import eventually_now

GROWTH = 24 << 20
"""Bytes by which a worker's memory may have grown: allocators keep what was used, up to a point."""

SETTLE = 10.0
"""Seconds, beside the linger time of channels, until a server is at rest."""

KEPT = (*REGISTERED, "rt_tasks")
"""What the workers say that they keep, summed over them."""

LINGERS = "rt_channels"
"""Goes a while after its last reader."""

WARM = 8
"""Readers of each door that warm a server up."""


class Level(NamedTuple):
    """What the workers keep: by metric, and each worker's descriptors and memory."""

    kept: dict[str, float]
    descriptors: list[int]
    resident: list[int]


_WARMED: set[int] = set()

_RESTED: dict[tuple[int, ...], Level] = {}
"""What servers kept at rest, by the workers that they had then: it need not be found out for every scenario."""


def copied(text: str) -> dict[str, str]:
    """When each worker copied its numbers last, by pid."""
    return dict(re.findall(r'^rt_worker_seen_timestamp_seconds\{pid="(\d+)"\} (\S+)$', text, re.MULTILINE))


def look(server: Server) -> Level | None:
    """The level, as of now; None where a worker is not well."""
    deadline = time.monotonic() + SETTLE
    before = copied(server.internal("/metrics")[1])
    while True:
        text = server.internal("/metrics")[1]
        seen = copied(text)
        # By whose clock does not matter, as long as it is another moment.
        if len(seen) == server.config["server"]["workers"] and not seen.items() & before.items():
            break
        if time.monotonic() > deadline:
            return None
        time.sleep(0.02)
    sums = dict.fromkeys(KEPT, 0.0)
    for name, value in re.findall(r"^(\w+)(?:\{[^}]*\})? (\S+)$", text, re.MULTILINE):
        if name in sums:
            sums[name] += float(value)
    pids = server.worker_pids()
    return Level(
        sums,
        sorted(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids),
        sorted(processes.resident_bytes(pid) for pid in pids),
    )


def warm(server: Server) -> None:
    """Let every worker do once what it does."""
    if server.pid in _WARMED:
        return

    async def run() -> None:
        channel = f"warm-{server.pid}"
        async with Api(server) as api:
            readers = [await enter(door, server, [channel]) for door in DOORS for _ in range(WARM)]
            await api.publish(channel, "x" * 1000)
            await asyncio.gather(*(reader.until(channel, 1) for reader in readers))
            await asyncio.gather(*(reader.close() for reader in readers))

    asyncio.run(run())
    _WARMED.add(server.pid)


def over(level: Level, base: Level, *, lingering: bool, grown: int) -> dict[str, tuple[float, float]]:
    """What is more than it was: (now, before)."""
    looked = [name for name in KEPT if name != LINGERS or not lingering]
    found = {name: (level.kept[name], base.kept[name]) for name in looked if level.kept[name] > base.kept[name]}
    # A worker may have been replaced meanwhile, so they are compared by size.
    if sum(level.descriptors) > sum(base.descriptors):
        found["descriptors"] = (sum(level.descriptors), sum(base.descriptors))
    if level.resident[-1] > base.resident[-1] + grown:
        found["resident"] = (level.resident[-1], base.resident[-1])
    return found


def rested(server: Server, *, lingering: bool) -> Level:
    """The level when nobody is connected and all tasks that end have ended."""
    levels: list[Level] = []
    none = [name for name in REGISTERED if name != LINGERS or not lingering]

    def quiet() -> bool:
        level = look(server)
        if level is None:
            return False
        levels.append(level)
        before = levels[-2] if len(levels) > 1 else None
        return not any(level.kept[name] for name in none) and (
            before is not None
            and (before.kept["rt_tasks"], before.descriptors) == (level.kept["rt_tasks"], level.descriptors)
        )

    wait = SETTLE + 2 * linger(server)
    try:
        eventually_now(quiet, wait, "the server is at rest")
    except AssertionError:
        raise AssertionError(f"not at rest: {levels[-1:]}") from None
    return levels[-1]


def linger(server: Server) -> float:
    """Seconds that a channel is kept after its last reader."""
    text = str(server.config.get("delivery", {}).get("linger", "5s"))
    return float(text.removesuffix("ms")) / 1000 if text.endswith("ms") else float(text.removesuffix("s"))


@contextlib.contextmanager
def leakless(server: Server, *, grown: int = GROWTH, lingering: bool = False) -> Iterator[Level]:
    """A scenario that leaves nothing behind, but channels where they may go on ``lingering``, and less memory than
    ``grown`` per worker. The block gets what was there before it."""
    warm(server)
    workers = tuple(server.worker_pids())
    base = _RESTED.get(workers) or rested(server, lingering=lingering)
    yield base
    more: dict[str, tuple[float, float]] = {}
    levels: list[Level] = []

    def back() -> bool:
        level = look(server)
        if level is None:
            return False
        levels.append(level)
        more.clear()
        more.update(over(level, base, lingering=lingering, grown=grown))
        return not more

    try:
        eventually_now(back, SETTLE + linger(server), "nothing is left behind")
    except AssertionError:
        raise AssertionError(f"left behind (now, before): {more}") from None
    if base.kept[LINGERS] == 0:
        _RESTED[tuple(server.worker_pids())] = base._replace(resident=levels[-1].resident)
