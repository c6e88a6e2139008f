"""Many publishers of the same thing at once, over all workers."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from tests.clients import Api, Place, PlainSocket
from tests.servers import Server

RACERS = 50


async def all_workers(stack: AsyncExitStack, server: Server) -> list[Api]:
    """RACERS connections that do not all lead to one worker."""
    while True:
        apis = [await stack.enter_async_context(Api(server)) for _ in range(RACERS)]
        if len({api.worker() for api in apis}) > 1:
            return apis


def test_one_key_makes_one_publication(server: Server, channel: str) -> None:
    """Fifty racers with one idempotency key on all workers: one publication, and fifty times the same answer."""

    async def run() -> None:
        async with AsyncExitStack() as stack:
            apis = await all_workers(stack, server)
            reader = await stack.enter_async_context(PlainSocket(server, [channel]))
            calls = [api.publish(channel, {"racer": number}, idempotency_key="once") for number, api in enumerate(apis)]
            places = await asyncio.gather(*calls)
            assert set(places) == {Place(places[0].epoch, 1)}
            assert (await apis[0].publish(channel, "end")).offset == 2
            got = await reader.until(channel, 2)
            assert (len(got), got[1]) == (2, "end")
            history = await apis[0].call("history", channel=channel, limit=-1)
            assert [one["data"] for one in history["publications"]] == got

    asyncio.run(run())


def test_a_key_is_the_channels_own(server: Server, channel: str) -> None:
    """The same key on another channel is another publication; on a channel without history it works as well."""

    async def run() -> None:
        other, volatile = f"{channel}-other", f"live:{channel}"
        async with Api(server) as api, PlainSocket(server, [channel, other, volatile]) as reader:
            for name in (channel, other, volatile):
                for body in ("first", "second"):
                    await api.publish(name, body, idempotency_key="key")
                await api.publish(name, "end")
            for name in (channel, other, volatile):
                assert await reader.until(name, 2) == ["first", "end"]

    asyncio.run(run())


def test_offsets_have_no_holes(server: Server, channel: str) -> None:
    """Fifty publishers without keys on all workers get offsets 1 to 50, each once, and readers see them in order."""

    async def run() -> None:
        async with AsyncExitStack() as stack:
            apis = await all_workers(stack, server)
            reader = await stack.enter_async_context(PlainSocket(server, [channel]))
            places = await asyncio.gather(*(api.publish(channel, number) for number, api in enumerate(apis)))
            assert sorted(place.offset for place in places) == list(range(1, RACERS + 1))
            await reader.until(channel, RACERS)
            assert [one.offset for one in reader.received] == list(range(1, RACERS + 1))
            assert all(places[one.data].offset == one.offset for one in reader.received)

    asyncio.run(run())
