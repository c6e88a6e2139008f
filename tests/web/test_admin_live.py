"""The readings behind the console's stream: shared by all who watch, and none where nobody does."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from unittest import mock

import prometheus_client as prometheus
import pytest

from rt.metrics import Metrics
from rt.web import admin_live
from rt.web.admin_live import WINDOW, Live
from rt.web.internal import Readiness

pytestmark = pytest.mark.timeout(20)


class Counted(Metrics):
    """Metrics that count how often they are read, and fail where a test wants it."""

    def __init__(self) -> None:
        super().__init__()
        self.readings = 0
        self.broken = False

    def gathered(self) -> Iterable[prometheus.Metric]:
        self.readings += 1
        if self.broken:
            raise OSError("no such file")
        return super().gathered()


def live(metrics: Metrics, *reasons: str) -> Live:
    return Live(metrics, lambda: Readiness({"default": reasons}), 1)


def test_nothing_is_read_while_nobody_watches() -> None:
    """The first who comes has the metrics read, all share each reading, and the last who goes ends it."""

    async def run() -> None:
        metrics = Counted()
        shared = live(metrics)
        with mock.patch.object(admin_live, "INTERVAL", 0.01):
            with shared.watch(), shared.watch():
                assert shared.watching == 2
                assert await asyncio.gather(*(shared.tick() for _ in range(50))) == [True] * 50
                assert metrics.readings <= 2
                while metrics.readings < 20:
                    await shared.tick()
                assert len(shared._readings) == WINDOW
            assert shared.watching == 0 and not shared._readings
            assert [task.get_name() for task in asyncio.all_tasks() if task.get_name() == "console"] == ["console"]
            await asyncio.sleep(0)
            assert not [task for task in asyncio.all_tasks() if task.get_name() == "console"]

    asyncio.run(run())


def test_who_watches_is_sent_home_at_the_end() -> None:
    """Also who is waiting just then; who comes later is told at once."""

    async def run() -> None:
        shared = live(Counted())
        with shared.watch():
            await shared.tick()
            waiting = asyncio.create_task(shared.tick())
            await asyncio.sleep(0)
            shared.stop()
            assert await waiting is False
        with shared.watch():
            assert await shared.tick() is False

    asyncio.run(run())


def test_a_reading_that_fails_is_not_the_last(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged, and the next one is tried."""

    async def run() -> None:
        metrics = Counted()
        metrics.broken = True
        shared = live(metrics)
        with mock.patch.object(admin_live, "INTERVAL", 0.01), shared.watch():
            await shared.tick()
            metrics.broken = False
            await shared.tick()
            await shared.tick()
            assert shared.snapshot("").reasons == []

    asyncio.run(run())
    assert "the metrics could not be read for the console" in caplog.text


def test_a_snapshot_says_why_the_server_is_not_ready() -> None:
    """In the words of /ready, with the workers that there are."""

    async def run() -> None:
        found = live(Metrics(), "the store is not connected").snapshot("")
        assert found.reasons == ["the store is not connected"]
        assert [worker.ready for worker in found.workers] == [False]

    asyncio.run(run())
