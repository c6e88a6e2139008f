"""A rolling upgrade under load: all workers are replaced while a crowd follows and backends publish."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import threading
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from datetime import datetime
from types import TracebackType
from typing import NamedTuple, Self

from tests import processes
from tests.clients import Api
from tests.promises.crowd import Crowd
from tests.servers import API_KEY, Server
from tests.waiting import eventually_now

HEADERS = {"X-API-Key": API_KEY, "Content-Type": "application/json"}

BACKENDS = 4
"""Connections that publish, each to channels of its own."""

GOOD = {"lost", "recovered", "received", "fresh", "cut again"}
"""What a crowd counts that is as it should be while it is told to move."""


class Load(threading.Thread):
    """Publishes ``rate`` times a second, the same number to each channel, until the ``with`` block ends.

    ``acked`` is how many were acknowledged, ``unknown`` how often a connection ended instead of an answer, ``offset``
    where every channel ends afterwards.
    """

    def __init__(self, server: Server, channels: Sequence[str], rate: float) -> None:
        super().__init__(name="load", daemon=True)
        self._server = server
        self._parts = [channels[number::BACKENDS] for number in range(BACKENDS)]
        self._pause = 1.0 / rate
        self._over = False
        self.rounds = 0
        self.acked = 0
        self.unknown = 0
        self.moves = 0
        self.offset = 0
        self.failure: BaseException | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over = True
        self.join(60)
        if self.failure is not None and error is None:
            raise self.failure

    def run(self) -> None:
        """Publish."""
        try:
            asyncio.run(self._run())
        except BaseException as error:
            self.failure = error

    async def _run(self) -> None:
        async with AsyncExitStack() as stack:
            apis = [await stack.enter_async_context(Api(self._server)) for _ in self._parts]
            due = time.monotonic()
            while not self._over:
                self.rounds += 1
                pause = self._pause * sum(map(len, self._parts))
                offsets = await asyncio.gather(
                    *(self._publish_to(api, part) for api, part in zip(apis, self._parts, strict=True))
                )
                assert len(set().union(*offsets)) == 1
                self.offset = offsets[0].pop()
                due = max(due + pause, time.monotonic() - pause)
                await asyncio.sleep(max(0.0, due - time.monotonic()))

    async def _publish_to(self, api: Api, part: Sequence[str]) -> set[int]:
        """One publication to each; the offsets that they got."""
        offsets = set()
        for name in part:
            body = {"channel": name, "data": self.rounds, "idempotency_key": f"{name} {self.rounds}"}
            if api.reader.at_eof():  # closed while it was idle, which any pool looks for: nothing is sent over it
                await self._anew(api)
            while True:
                with suppress(OSError, EOFError):
                    answer = await api.request("POST", "/api/publish", json.dumps(body).encode(), HEADERS)
                    break
                self.unknown += 1
                await self._anew(api)
            assert answer.status == 200, answer
            offsets.add(answer.json()["result"]["offset"])
            self.acked += 1
            if answer.headers.get("connection", "").lower() == "close":
                self.moves += 1
                await self._anew(api)
        return offsets

    async def _anew(self, api: Api) -> None:
        await api.__aexit__()
        await api.__aenter__()


class Moved(NamedTuple):
    """What an upgrade did; times are seconds. ``drains`` are those from a worker's word to its end, ``after`` from the
    last worker's end until everybody was inside, ``peak`` the most clients that came back within one second, ``red``
    what ``/ready`` said when it was not."""

    clients: int
    inside: int
    there: int
    acked: int
    unknown: int
    moves: int
    rate: float
    drains: list[float]
    after: float
    peak: int
    told: int
    wrong: dict[str, int]
    red: set[str]


def upgrade(server: Server, crowd: Crowd, channels: Sequence[str], clients: int, rate: float) -> Moved:
    """Gather the crowd, half of it on each worker; replace both (SIGUSR2) under load; see that all are whole."""
    first = crowd.gather(clients // 2, channels)
    other = next(name for name in _names(server) if name != first)
    crowd.ask("gather", count=clients, channels=list(channels), node=other)
    before = set(server.worker_pids())
    red = set()

    def replaced() -> bool:
        status, body = server.internal("/ready")
        if status != 200:
            red.add(body)
        return "workers replaced" in server.log()

    crowd.storm(0.0)  # from now on whoever is cut comes back
    began = time.monotonic()
    with Load(server, channels, rate) as load:
        eventually_now(lambda: load.rounds > 1, 30.0, "the load has begun")
        processes.kill(server.pid, signal.SIGUSR2)
        eventually_now(replaced, 120.0, "both workers are replaced")
        ended = time.monotonic()
        assert not before & set(server.worker_pids())
        eventually_now(lambda: crowd.status(0)["inside"] == clients, 30.0, "everybody is back")
        after = time.monotonic() - ended
    seconds = time.monotonic() - began
    eventually_now(lambda: crowd.status(load.offset)["there"] == clients, 30.0, "everybody is whole")
    found = crowd.status(load.offset)
    return Moved(
        clients=clients,
        inside=found["inside"],
        there=found["there"],
        acked=load.acked,
        unknown=load.unknown,
        moves=load.moves,
        rate=load.acked / seconds,
        drains=drains(server.log()),
        after=after,
        peak=found["peak"],
        told=found["counts"].get("cut again", 0),
        wrong={name: count for name, count in found["counts"].items() if name not in GOOD and count},
        red=red,
    )


def _names(server: Server) -> list[str]:
    """Of the workers, as clients see them."""

    async def run() -> list[str]:
        async with Api(server) as api:
            return [node["name"] for node in (await api.call("info"))["nodes"]]

    return asyncio.run(run())


def drains(log: str) -> list[float]:
    """Seconds from each "draining" of a worker to its end, as the log has them."""
    began = [_time(line) for line in log.splitlines() if re.search(r"rt\.worker\[worker \d+\] draining ", line)]
    ended = [_time(line) for line in log.splitlines() if " worker ended " in line]
    return [end - begin for begin, end in zip(began, ended, strict=False)]


def _time(line: str) -> float:
    return datetime.fromisoformat(line.split(" ", 1)[0]).timestamp()
