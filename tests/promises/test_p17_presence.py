"""P17: presence is true again soon after whatever happens, and a crowd is never told to itself one by one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial

import pytest

from tests.clients import Api, SdkClient
from tests.faults.store import Embedded
from tests.promises.brisk import BRISK, TTL
from tests.promises.crowd import Crowd
from tests.promises.leaks import leakless
from tests.promises.stages import subscribed
from tests.servers import Server, merged
from tests.waiting import eventually, eventually_now

RATE = 20
"""``delivery.join_leave_rate``."""

CROWD = 60


async def present(server: Server, channel: str) -> set[str]:
    """The ids of those who are present, as the API says."""
    async with Api(server) as api:
        return set((await api.call("presence", channel=channel))["presence"])


def test_p17_a_crowd_that_comes_and_goes(start_server: Callable[..., Server], channel: str) -> None:
    """Sixty clients enter and leave one channel as fast as they can: watchers are told of so many of these per second
    and worker as is set, each is answered, and presence is true in the end."""
    server = start_server(merged(BRISK, {"delivery": {"join_leave_rate": RATE}}))
    room = f"room:{channel}"
    turns = 0

    async def restless(client: SdkClient, until: float) -> None:
        nonlocal turns
        while time.monotonic() < until:
            await client.subscribe(room)
            await client.unsubscribe(room)
            turns += 2
        await client.subscribe(room)

    async def run() -> None:
        async with SdkClient(server) as watcher:
            await watcher.subscribe(room)
            clients = [await SdkClient(server).__aenter__() for _ in range(CROWD)]
            began = time.monotonic()
            await asyncio.gather(*(restless(client, began + 2.0) for client in clients))
            seconds = time.monotonic() - began
            truth = {str(client.connected["client"]) for client in [*clients, watcher]}
            assert await present(server, room) == truth
            told = len(watcher.changes(room))
            most = 2 * RATE * (seconds + 1.0) + 2
            print(f"{turns} turns in {seconds:.1f} s, {told} of them told, at most {most:.0f}")
            assert turns > 2 * most
            assert RATE < told <= most
            assert server.metric("rt_drops_total", reason="join_leave") > 0
            await asyncio.gather(*(client.close() for client in clients))
            await asyncio.sleep(0)
            deadline = time.monotonic() + TTL
            while len(await present(server, room)) > 1:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.05)

    with leakless(server):
        asyncio.run(run())


@pytest.mark.timeout(90)
def test_p17_after_every_fault_presence_is_the_truth(start_server: Callable[..., Server], channel: str) -> None:
    """Empty store, killed store, killed worker: within the TTL those are present who are connected, and nobody else."""
    server = start_server(BRISK)
    room = f"room:{channel}"
    store = Embedded(server)

    async def run(crowd: Crowd) -> None:
        async with SdkClient(server) as one:
            await one.subscribe(room)
            node = one.node
            crowd.gather(30, [room], other(server, node))

            async def truth(count: int, within: float) -> float:
                began = time.monotonic()
                while True:
                    found = await there(server, room)
                    if found is not None and len(found) == count and one.connected["client"] in found:
                        return time.monotonic() - began
                    assert time.monotonic() - began < within, f"{found and len(found)} of {count} after {within:g} s"
                    await asyncio.sleep(0.05)

            await truth(31, 2.0)
            store.flush()
            print(f"flushed: true after {await truth(31, TTL + 1.0):.1f} s")
            with store.killed():
                pass
            await come_back(one, room)
            print(f"killed: true after {await truth(31, TTL + 5.0):.1f} s")
            victim = max(set(server.worker_pids()) - {one.worker()})
            server.kill_worker(victim)
            print(f"worker killed: true after {await truth(1, TTL + 1.0):.1f} s")
            await eventually(lambda: not one.gone)

    with leakless(server), Crowd(server.port) as crowd:
        asyncio.run(run(crowd))
    eventually_now(lambda: server.metric("rt_seats") == 0)


async def come_back(client: SdkClient, channel: str) -> None:
    """Subscribe again, as an SDK does by itself when it is told that its position is no longer good."""
    await client.until_push(channel, "unsubscribe")
    await subscribed(partial(client.resubscribe, channel))


def other(server: Server, node: str) -> str:
    """The other worker's name."""
    stem, _, number = node.rpartition("-")
    return f"{stem}-{1 - int(number)}"


async def there(server: Server, channel: str) -> set[str] | None:
    """Those who are present; None while that cannot be said."""
    try:
        return await present(server, channel)
    except Exception:
        return None
