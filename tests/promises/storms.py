"""A reconnect storm: a worker is killed, all its clients miss a few publications and come back at once."""

from __future__ import annotations

import asyncio
import math
import os
import re
import time
from typing import Any, NamedTuple

from tests.clients import Api
from tests.promises.crowd import Crowd
from tests.servers import Server
from tests.waiting import eventually_now

TICK = os.sysconf("SC_CLK_TCK")


class Figures(NamedTuple):
    """What a storm did. Times are seconds; counters are those of both workers, from the kill to the last one's return.

    ``wrong`` is everything that nobody should have seen, by name. ``lag`` is the bucket's bound that 99 of 100 ticks of
    the loops were below, and ``longest`` the one that all were.
    """

    clients: int
    back: int
    whole: int
    seconds: float
    took: dict[str, float]
    reads: int
    waits: int
    refused: int
    lag: float
    longest: float
    cpu: float
    wrong: dict[str, int]

    @property
    def per_second(self) -> float:
        """Clients that became whole per second."""
        return self.whole / self.seconds


GOOD = {"lost", "recovered", "received"}
"""What a crowd counts that is as it should be."""


def lags(server: Server) -> dict[float, float]:
    """How many ticks of all loops came at most so many seconds late, by bound."""
    text = server.internal("/metrics")[1]
    return {
        float(bound): float(count)
        for bound, count in re.findall(r'^rt_loop_lag_seconds_bucket\{le="([^"]+)"\} (\S+)$', text, re.MULTILINE)
    }


def quantile(before: dict[float, float], after: dict[float, float], part: float) -> float:
    """The least bound that this part of what came between is below."""
    came = {bound: after[bound] - before.get(bound, 0.0) for bound in sorted(after)}
    return next(bound for bound, count in came.items() if count >= part * came[math.inf])


def cpu_seconds(pid: int) -> float:
    """User and system time of a process."""
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def counted(server: Server) -> tuple[float, float, float]:
    """Reads of the store, waits, refusals."""
    names = ("rt_store_reads_total", "rt_waits_total", "rt_refusals_total")
    return (server.metric(names[0]), server.metric(names[1]), server.metric(names[2]))


def publish_all(server: Server, channels: list[str], count: int) -> int:
    """So many publications to each channel; the offset that they end at."""

    async def run() -> int:
        answer: dict[str, Any] = {}
        async with Api(server) as api:
            for number in range(count):
                answer = await api.call("broadcast", channels=channels, data={"n": number})
            offsets = {one["result"]["offset"] for one in answer["responses"]}
            assert len(offsets) == 1
            return int(offsets.pop())

    return asyncio.run(run())


def settled(server: Server) -> None:
    """Wait until every worker has copied its numbers since now."""
    now = time.time()

    def fresh() -> bool:
        text = server.internal("/metrics")[1]
        seen = [
            float(at) for at in re.findall(r"^rt_worker_seen_timestamp_seconds\{[^}]*\} (\S+)$", text, re.MULTILINE)
        ]
        return len(seen) == server.config["server"]["workers"] and min(seen) > now

    eventually_now(fresh, 5.0, "all workers have copied their numbers")


def storm(
    server: Server, crowd: Crowd, channels: list[str], *, clients: int, missed: int, within: float, patience: float
) -> Figures:
    """Gather the crowd on one worker, kill it, publish, let everybody back within ``within`` seconds."""
    top = publish_all(server, channels, 1)
    crowd.gather(clients, channels)
    victim = worker_with(server, clients)
    settled(server)
    before, before_lags = counted(server), lags(server)
    (survivor,) = set(server.worker_pids()) - {victim}
    spent = cpu_seconds(survivor)
    server.kill_worker(victim)
    eventually_now(lambda: crowd.status(top)["inside"] == 0, 15.0, "everybody has noticed")
    top = publish_all(server, channels, missed)
    began = crowd.storm(within)
    assert began["outside"] == clients
    eventually_now(lambda: crowd.status(top)["there"] == clients, patience, "everybody is whole")
    found = crowd.status(top)
    settled(server)
    reads, waits, refused = (int(now - then) for now, then in zip(counted(server), before, strict=True))
    after_lags = lags(server)
    cpu = sum(cpu_seconds(pid) for pid in server.worker_pids()) - spent
    top = publish_all(server, channels, 1)
    eventually_now(lambda: crowd.status(top)["there"] == clients, patience, "everybody hears what is new")
    last = crowd.status(top)
    return Figures(
        clients=clients,
        back=found["counts"]["recovered"],
        whole=last["there"],
        seconds=found["back_at"] - began["began"],
        took=found["took"],
        reads=reads,
        waits=waits,
        refused=refused,
        lag=quantile(before_lags, after_lags, 0.99),
        longest=quantile(before_lags, after_lags, 1.0),
        cpu=cpu,
        wrong={name: count for name, count in last["counts"].items() if name not in GOOD and count},
    )


def worker_with(server: Server, descriptors: int) -> int:
    """The worker that holds the crowd."""
    most = max(server.worker_pids(), key=lambda pid: len(os.listdir(f"/proc/{pid}/fd")))
    assert len(os.listdir(f"/proc/{most}/fd")) > descriptors
    return most
