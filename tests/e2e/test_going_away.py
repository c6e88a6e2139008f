"""Workers that stop or are replaced tell everybody to come back, and nothing accepted is lost on the way."""

from __future__ import annotations

import asyncio
import itertools
import signal
from collections.abc import Callable
from contextlib import suppress

import pytest

from tests import processes
from tests.checker import Record, check
from tests.clients import Api, Place, PlainSocket, Reader, SdkClient
from tests.doors import DOORS, enter
from tests.eventsource import EventSource
from tests.servers import Server
from tests.waiting import eventually

UPGRADE = 30.0
"""Seconds that replacing two workers, one after the other, may take."""


def test_a_stop_is_told_at_every_door(start_server: Callable[..., Server], channel: str) -> None:
    """WebSockets are closed with 3001, event streams end with a disconnect event, and the server exits with 0."""

    async def run() -> None:
        server = start_server()
        async with (
            SdkClient(server) as sdk,
            PlainSocket(server, [channel]) as plain,
            EventSource(server, [channel]) as stream,
        ):
            await sdk.subscribe(channel)
            assert await asyncio.to_thread(server.stop) == 0
            for ended in (await sdk.wait_ended(), await plain.wait_ended()):
                assert (ended.code, ended.reason) == (3001, "shutdown")
            await eventually(lambda: stream.gone)
            assert stream.disconnect is not None
            assert (stream.disconnect.code, stream.disconnect.reason) == (3001, "shutdown")

    asyncio.run(run())


class Publisher:
    """Publishes one after the other until told to stop; a call whose connection ends is repeated with its key."""

    def __init__(self, server: Server, channel: str, records: list[Record]) -> None:
        self.server = server
        self.channel = channel
        self.records = records
        self.stopping = False
        self.last = Place("", 0)

    async def run(self) -> None:
        """Publish."""
        for number in itertools.count(1):
            if self.stopping:
                return
            one = f"{self.channel}-{number}"
            self.records.append({"do": "publish", "channel": self.channel, "id": one})
            self.last = await self.publish(one)
            place = self.last._asdict()
            self.records.append({"do": "published", "channel": self.channel, "id": one, **place})
            await asyncio.sleep(0.002)

    async def publish(self, one: str) -> Place:
        """Publish until there is an answer."""
        while True:
            with suppress(OSError, EOFError):
                async with Api(self.server) as api:
                    return await api.publish(self.channel, {"id": one}, idempotency_key=one)


async def follow(server: Server, door: str, publisher: Publisher, records: list[Record]) -> Reader:
    """Read, and come back whenever the connection ends, until everything published was received."""
    reader = await enter(door, server, [publisher.channel], records=records)
    while not (publisher.stopping and reader.places[publisher.channel] == publisher.last):
        if reader.gone:
            reader.leave_all()
            reader = await enter(door, server, [publisher.channel], previous=reader)
        await asyncio.sleep(0.005)
    return reader


@pytest.mark.timeout(120)
def test_an_upgrade_loses_nothing(own_server: Server, channel: str) -> None:
    """While both workers are replaced (SIGUSR2) publishers go on and readers of every door follow without a gap."""
    records: list[Record] = []
    name = f"long:{channel}"

    async def run() -> None:
        publisher = Publisher(own_server, name, records)
        task = asyncio.create_task(publisher.run())
        followers = [asyncio.create_task(follow(own_server, door, publisher, records)) for door in DOORS * 2]
        before = set(own_server.worker_pids())
        await eventually(lambda: publisher.last.offset > 20)
        processes.kill(own_server.pid, signal.SIGUSR2)
        await eventually(lambda: not before & set(own_server.worker_pids()), UPGRADE, "both workers are replaced")
        mark = publisher.last.offset
        await eventually(lambda: publisher.last.offset > mark + 20)
        await asyncio.to_thread(own_server.wait_workers)
        publisher.stopping = True
        await task
        for reader in await asyncio.gather(*followers):
            await reader.close()

    asyncio.run(run())
    assert check(records, at_least=200) == []
    assert not any(one["do"] == "gap" for one in records)
    begun = [one for one in records if one["do"] == "subscribed"]
    readers = {one["client"] for one in begun}
    assert len(begun) >= 2 * len(readers), "every reader had to come back"
    assert sum(not one["recovered"] for one in begun) == len(readers), "only their first subscriptions began anew"
