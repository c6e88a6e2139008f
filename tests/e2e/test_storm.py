"""Many clients come and go while publishers run at full speed; the checker judges what each of them saw."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from contextlib import AsyncExitStack

import pytest

from tests.checker import Record, check
from tests.clients import Api, Place, Reader, SdkClient
from tests.doors import enter
from tests.servers import Server
from tests.waiting import eventually

CLIENTS = 16
PUBLISHERS = 4
SECONDS = 4.0
IDS = itertools.count(1)


async def publisher(server: Server, channels: list[str], records: list[Record], until: float) -> dict[str, Place]:
    """Publish to the channels in turn, as fast as answers come; the last place of each."""
    tops: dict[str, Place] = {}
    async with Api(server) as api:
        for channel in itertools.cycle(channels):
            if time.monotonic() > until:
                return tops
            one = f"m{next(IDS)}"
            records.append({"do": "publish", "channel": channel, "id": one})
            place = await api.publish(channel, {"id": one})
            records.append({"do": "published", "channel": channel, "id": one, **place._asdict()})
            tops[channel] = place
    return tops


async def restless(client: SdkClient, channels: list[str], until: float, dice: random.Random) -> None:
    """Subscribe and unsubscribe at random, coming back from where it was, and end subscribed to everything."""
    inside: set[str] = set()
    while time.monotonic() < until:
        channel = dice.choice(channels)
        if channel in inside:
            await client.unsubscribe(channel)
            inside.remove(channel)
        else:
            await come_back(client, channel)
            inside.add(channel)
        await asyncio.sleep(dice.random() * 0.01)
    for channel in channels:
        if channel not in inside:
            await come_back(client, channel)


async def come_back(client: SdkClient, channel: str) -> None:
    """Subscribe from where the client is, or for the first time."""
    if channel in client.places:
        await client.resubscribe(channel)
    else:
        await client.subscribe(channel)


async def wait_tops(readers: list[Reader], tops: dict[str, Place]) -> None:
    """Wait until every reader is where its channels ended."""

    def there() -> bool:
        return all(reader.places.get(channel) == top for reader in readers for channel, top in tops.items())

    await eventually(there, 30, "every reader is at the top")


@pytest.mark.timeout(120)
def test_subscribing_and_unsubscribing_under_load(server: Server, channel: str) -> None:
    """Nothing is lost, doubled, swapped or invented for clients that come and go on both workers."""
    records: list[Record] = []
    channels = [f"long:{channel}-{number}" for number in range(3)]

    async def run() -> None:
        until = time.monotonic() + SECONDS
        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(SdkClient(server, records=records)) for _ in range(CLIENTS)]
            assert len({client.node for client in clients}) == 2
            work = [publisher(server, channels, records, until) for _ in range(PUBLISHERS)]
            dice = [random.Random(number) for number in range(CLIENTS)]
            walks = [restless(client, channels, until, die) for client, die in zip(clients, dice, strict=True)]
            tops, _ = await asyncio.gather(asyncio.gather(*work), asyncio.gather(*walks))
            await wait_tops(list(clients), highest(tops))
            assert all(not push.get("unsubscribe") for client in clients for push in client.pushes)

    asyncio.run(run())
    assert check(records, at_least=CLIENTS * 100) == []
    assert sum(one["do"] == "subscribed" and one["recovered"] for one in records) > CLIENTS


def highest(tops: list[dict[str, Place]]) -> dict[str, Place]:
    """The last place of each channel over all publishers."""
    result: dict[str, Place] = {}
    for channel, place in itertools.chain.from_iterable(top.items() for top in tops):
        result[channel] = max(place, result.get(channel, place))
    return result


@pytest.mark.timeout(120)
@pytest.mark.parametrize("door", ["ws", "sse"])
def test_reconnecting_under_load(server: Server, channel: str, door: str) -> None:
    """Readers without an SDK that drop their connection again and again go on from their cursor, on any worker."""
    records: list[Record] = []
    channels = [f"long:{channel}-{number}" for number in range(2)]

    async def reconnecting(until: float, dice: random.Random) -> Reader:
        reader = await enter(door, server, channels, records=records)
        while time.monotonic() < until:
            await asyncio.sleep(dice.random() * 0.1)
            await reader.close()
            reader.leave_all()
            reader = await enter(door, server, channels, previous=reader)
        return reader

    async def run() -> None:
        until = time.monotonic() + SECONDS
        work = [publisher(server, channels, records, until) for _ in range(PUBLISHERS)]
        walks = [reconnecting(until, random.Random(number)) for number in range(CLIENTS // 2)]
        tops, readers = await asyncio.gather(asyncio.gather(*work), asyncio.gather(*walks))
        await wait_tops(list(readers), highest(tops))
        for reader in readers:
            await reader.close()

    asyncio.run(run())
    assert check(records, at_least=CLIENTS * 50) == []
    assert sum(one["do"] == "subscribed" and one["recovered"] for one in records) > CLIENTS
