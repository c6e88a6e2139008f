"""A store that is not ours to run: reached by URL, gone at times, and back at other times."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import pytest

from tests.clients import Api, PlainSocket, Reply, SdkClient, publish_all
from tests.doors import enter, enter_elsewhere
from tests.servers import Server
from tests.stores import DURABLE, Store
from tests.waiting import eventually

PROGRAMS = ["valkey-server", pytest.param("redis-server", marks=pytest.mark.needs("redis-server"))]


@pytest.fixture(params=PROGRAMS)
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    """A store that loses nothing it acknowledged."""
    with Store(request.param, options=DURABLE) as running:
        yield running


@pytest.fixture
def connected(store: Store, start_server: Callable[..., Server]) -> Server:
    """Two workers on that store, which notice within a second what became of it."""
    return start_server({"redis": {"url": store.url, "probe_interval": "500ms"}})


def test_across_workers_and_back(connected: Server, channel: str) -> None:
    """Publications reach both workers, and a reader that comes back on the other one has missed nothing."""

    async def run() -> None:
        async with Api(connected) as api:
            first = await enter("ws", connected, [channel])
            await api.leave_worker(first.worker())
            sent = await publish_all(lambda payload: api.publish(channel, payload), 3)
            await first.until(channel, 3)
            await first.close()
            sent += await publish_all(lambda payload: api.publish(channel, payload), 3, 3)
            second = await enter_elsewhere("ws", connected, [channel], previous=first, node=first.node)
            assert [*first.data(channel), *await second.until(channel, 3)] == sent
            await second.close()

    asyncio.run(run())


def test_started_before_its_store(store: Store, start_server: Callable[..., Server], channel: str) -> None:
    """The server starts without a store, says that it is not ready, and gets well by itself."""
    store.kill()
    server = start_server({"redis": {"url": store.url}}, await_ready=False)

    async def run() -> None:
        await eventually(lambda: server.internal("/health")[0] == 200)
        await eventually(lambda: server.internal("/ready")[0] == 503)
        async with SdkClient(server) as client:
            with pytest.raises(Reply) as caught:
                await client.subscribe(channel)
            assert (caught.value.code, caught.value.temporary) == (100, True)
            await asyncio.to_thread(store.start)
            await asyncio.to_thread(server.wait_ready)
            await client.subscribe(channel)
            await client.publish(channel, "well")
            assert await client.until(channel, 1) == ["well"]

    asyncio.run(run())


def test_the_store_is_killed_and_comes_back(connected: Server, store: Store, channel: str) -> None:
    """Connections stay, publishes fail at once and for the time being, /ready is red; then all is as before.

    A store that was killed may have lost what it acknowledged, so the readers are told of a new stream.
    """

    async def run() -> None:
        async with Api(connected) as api, PlainSocket(connected, [channel]) as plain, SdkClient(connected) as client:
            await client.subscribe(channel)
            before = await api.publish(channel, "before")
            await plain.until(channel, 1)
            store.kill()
            with pytest.raises(Reply, match="^100 "):
                await api.publish(channel, "never accepted")
            await eventually(lambda: connected.internal("/ready")[0] == 503)
            await asyncio.to_thread(store.start)
            await asyncio.to_thread(connected.wait_ready)
            after = await api.publish(channel, "after")
            assert after.epoch != before.epoch
            await eventually(lambda: plain.gaps, what="the reader is told of the new stream")
            await eventually(lambda: plain.places[channel] == after)
            await eventually(lambda: any("unsubscribe" in push for push in client.pushes))
            result = await client.resubscribe(channel)
            assert (result.get("recovered", False), result["epoch"]) == (False, after.epoch)
            last = await api.publish(channel, "last")
            await eventually(lambda: plain.places[channel] == client.places[channel] == last)
            assert "never accepted" not in plain.data(channel)
            assert not plain.gone and not client.gone

    asyncio.run(run())


def test_the_subscriber_connections_are_cut(connected: Server, store: Store, channel: str) -> None:
    """What is published while a worker is deaf is repaired from history: readers see no gap and no disorder."""

    async def run() -> None:
        async with Api(connected) as api, PlainSocket(connected, [channel]) as plain:
            sent: list[dict[str, int]] = []
            for round_ in range(5):
                sent += await publish_all(lambda payload: api.publish(channel, payload), 20, len(sent))
                await asyncio.to_thread(store.command, "CLIENT", "KILL", "TYPE", "pubsub")
                sent += await publish_all(lambda payload: api.publish(channel, payload), 20, len(sent))
                await plain.until(channel, len(sent))
                assert plain.data(channel) == sent, round_
            assert plain.gaps == []

    asyncio.run(run())
