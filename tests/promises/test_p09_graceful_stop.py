"""P9: workers that leave do so without a storm, and nothing acknowledged is lost. bench/drain.py is the same with five
thousand clients."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable
from contextlib import AsyncExitStack

import pytest

from tests import processes
from tests.clients import Api, SdkClient
from tests.promises.crowd import Crowd
from tests.promises.upgrades import BACKENDS, HEADERS, Load, upgrade
from tests.servers import OPEN, OVER_BOTH, STREAM, Server
from tests.waiting import eventually, eventually_now

pytestmark = pytest.mark.alone

CLIENTS = 400
CHANNELS = 40
RATE = 100
DURATION = 3.0
BATCH = 10


def settings(duration: float = DURATION, timeout: float = 10.0) -> dict[str, object]:
    """Of a server that drains for so long."""
    return {
        "server": {"shutdown_timeout": f"{timeout:g}s", "drain": {"duration": f"{duration:g}s", "batch": BATCH}},
        "channel": {"namespaces": [{"name": "moved", **STREAM, **OPEN, "history_size": 5000}]},
    }


@pytest.mark.timeout(180)
def test_p09_p10_a_rolling_upgrade_under_load(start_server: Callable[..., Server], channel: str) -> None:
    """Four hundred clients of forty channels, a hundred publishes a second, both workers replaced: every publish is
    acknowledged, nobody misses one or gets it twice, all are back soon after, and never too many at once; the
    server is ready all the while."""
    server = start_server(settings())
    channels = [f"moved:{channel}-{number}" for number in range(CHANNELS)]
    with Crowd(server.port) as crowd:
        found = upgrade(server, crowd, channels, CLIENTS, RATE)
    print(found)
    assert found.wrong == {} and found.unknown == 0 and found.red == set()
    assert (found.inside, found.there) == (CLIENTS, CLIENTS)
    assert found.told >= CLIENTS and found.moves > 0
    assert len(found.drains) == 2 and all(DURATION <= seconds + 0.1 < DURATION + 3.0 for seconds in found.drains)
    assert found.after < 5.0
    # All of a worker over the time that it drains; clients come back 0.5 to 1.5 s after they were told.
    assert found.peak <= 1.5 * CLIENTS / DURATION + BATCH


@pytest.mark.timeout(90)
def test_p09_a_stop_under_load_is_in_time(start_server: Callable[..., Server], channel: str) -> None:
    """SIGTERM with clients and publishes: status 0 within the drain and a moment, not within nothing; who is not told
    yet receives what is published meanwhile."""
    server = start_server(settings(2.0, 8.0))
    channels = [f"moved:{channel}-{number}" for number in range(4)]
    with Crowd(server.port) as crowd:
        crowd.gather(100, channels)
        load = Load(server, channels, RATE)
        load.start()
        eventually_now(lambda: load.rounds >= 5)
        received = crowd.status(0)["counts"]["received"]
        began = time.monotonic()
        assert server.stop() == 0
        took = time.monotonic() - began
        counts = crowd.status(0)["counts"]
    load.join(10)
    assert 1.5 < took < 5.0
    assert counts["lost"] == 100 and counts["received"] > received
    assert counts.get("holes", 0) == counts.get("repeats", 0) == 0
    # A backend whose connection was closed behind an answer is refused afterwards: it knows that nothing was done. Only
    # whom the kernel had let in a moment before nobody accepted any more is cut.
    assert load.unknown <= BACKENDS and isinstance(load.failure, ConnectionRefusedError)


@pytest.mark.timeout(90)
def test_p09_a_second_sigterm_is_now(start_server: Callable[..., Server], channel: str) -> None:
    """However long the drain was to be."""
    server = start_server(settings(60.0, 100.0))
    with Crowd(server.port) as crowd:
        crowd.gather(50, [f"moved:{channel}"])
        processes.kill(server.pid, signal.SIGTERM)
        eventually_now(lambda: "draining workers=" in server.log())
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 3.0


def test_p09_who_is_not_told_yet_can_do_everything(start_server: Callable[..., Server], channel: str) -> None:
    """While its worker drains, a client publishes and subscribes, and the API answers; nobody new is let in there."""
    server = start_server(settings(60.0, 100.0) | {"server": settings(60.0, 100.0)["server"] | {"workers": 1}})  # type: ignore[operator]

    async def run() -> None:
        async with Api(server) as api, SdkClient(server) as first:
            clients = [SdkClient(server) for _ in range(2 * BATCH)]
            for client in clients:
                await client.__aenter__()
            processes.kill(server.pid, signal.SIGTERM)
            await eventually(lambda: sum(client.gone for client in clients) + first.gone == BATCH)
            staying = next(client for client in [first, *clients] if not client.gone)
            await staying.subscribe(f"moved:{channel}")
            await staying.publish(f"moved:{channel}", "mine")
            await api.publish(f"moved:{channel}", "theirs")
            assert await staying.until(f"moved:{channel}", 2) == ["mine", "theirs"]
            processes.kill(server.pid, signal.SIGTERM)
            for client in clients:
                await client.__aexit__(None, None, None)

    asyncio.run(run())


@OVER_BOTH
def test_p09_a_kept_connection_is_told_by_an_answer_that_it_ends(start_server: Callable[..., Server]) -> None:
    """Where a successor accepts already, at the first call in the drain, however long that is."""
    server = start_server({"server": {**settings(60.0, 100.0)["server"], "workers": 1}})  # type: ignore[dict-item]

    async def run() -> None:
        async with AsyncExitStack() as stack:
            api = await stack.enter_async_context(Api(server))
            for _ in range(2 * BATCH):
                await stack.enter_async_context(SdkClient(server))
            worker = api.worker()
            processes.kill(server.pid, signal.SIGUSR2)
            await eventually(lambda: " draining seconds=" in server.log())
            answer = await api.request("POST", "/api/info", b"{}", HEADERS)
            assert answer.status == 200 and answer.headers["connection"] == "close"
            await api.__aexit__()
            await api.__aenter__()
            assert api.worker() != worker
            processes.kill(server.pid, signal.SIGTERM)  # the next one, when the test is over, is at once

    asyncio.run(run())
