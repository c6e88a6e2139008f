"""A reader that stops reading harms nobody, and loses nothing that history still holds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.clients import Api, PlainSocket, SdkClient
from tests.doors import DOORS, enter, everything
from tests.servers import Server
from tests.waiting import eventually

SMALL = 4096
"""Receive buffer of a reader that stops, so that what it does not take piles up at the server."""

PAYLOAD = "x" * 2000
COUNT = 500
"""Publications while a reader stands still: more than a megabyte, far beyond every buffer on the way."""

TIGHT = {"low_watermark": "16KiB", "high_watermark": "64KiB", "send_buffer": "16KiB", "pacing": {"first": "50ms"}}


@pytest.fixture(scope="module")
def tight() -> Iterator[Server]:
    """A server whose outboxes are small, and which gives a standing reader all the time it wants."""
    with Server({"delivery": {**TIGHT, "stall_timeout": "60s"}}) as running:
        yield running


async def flood(api: Api, channel: str, count: int = COUNT, start: int = 0) -> list[int]:
    """Publish ``count`` large numbered payloads; the numbers."""
    for number in range(start, start + count):
        await api.publish(channel, {"n": number, "text": PAYLOAD})
    return list(range(start, start + count))


def numbers(payloads: list[Any]) -> list[int]:
    """The numbers of flooded payloads."""
    return [payload["n"] for payload in payloads]


@pytest.mark.parametrize("door", DOORS)
def test_catch_up(tight: Server, channel: str, door: str) -> None:
    """A reader that stops and comes back gets everything, in order, on the same connection; others are not held up."""

    async def run() -> None:
        long = f"long:{channel}"
        async with Api(tight) as api:
            slow = await enter(door, tight, [long], receive_buffer=SMALL)
            healthy = await enter(door, tight, [long])
            behind = tight.metric("rt_catch_ups_total")
            slow.pause()
            sent = await flood(api, long)
            assert numbers(await healthy.until(long, COUNT)) == sent
            slow.resume()
            sent += await flood(api, long, 50, COUNT)
            assert numbers(await slow.until(long, len(sent), timeout=30)) == sent
            assert not slow.gone
            await eventually(lambda: tight.metric("rt_catch_ups_total") > behind)
            await slow.close()
            await healthy.close()

    asyncio.run(run())


@pytest.mark.parametrize("door", ["ws", "sse"])
def test_catch_up_beyond_history(tight: Server, channel: str, door: str) -> None:
    """What history no longer holds when the reader comes back is told, and the stream goes on from there."""

    async def run() -> None:
        short = f"short:{channel}"
        async with Api(tight) as api:
            slow = await enter(door, tight, [short], receive_buffer=SMALL)
            slow.pause()
            await flood(api, short)
            slow.resume()
            await eventually(lambda: slow.gaps, 30, "the gap is told")
            place = await api.publish(short, {"n": COUNT, "text": ""})
            await eventually(lambda: slow.places[short] == place)
            got = numbers(slow.data(short))
            assert got == sorted(set(got))
            assert len(got) < COUNT
            await slow.close()

    asyncio.run(run())


def test_catch_up_beyond_history_over_the_sdk_door(tight: Server, channel: str) -> None:
    """An SDK is told to subscribe again (2500); its next subscribe answers honestly."""

    async def run() -> None:
        short = f"short:{channel}"
        async with Api(tight) as api, SdkClient(tight, receive_buffer=SMALL) as slow:
            await slow.subscribe(short)
            slow.pause()
            await flood(api, short)
            slow.resume()
            await eventually(lambda: any("unsubscribe" in push for push in slow.pushes), 30, "an unsubscribe")
            (push,) = [push for push in slow.pushes if "unsubscribe" in push]
            assert push == {"channel": short, "unsubscribe": {"code": 2500, "reason": "insufficient state"}}
            assert (await slow.resubscribe(short)).get("recovered", False) is False
            place = await api.publish(short, "end")
            await eventually(lambda: slow.places[short] == place)

    asyncio.run(run())


@pytest.mark.parametrize("door", ["sdk", "ws"])
def test_disconnect(tight: Server, channel: str, door: str) -> None:
    """Where the namespace says so a slow reader is closed with 3008, and recovers what it missed when it comes back."""

    async def run() -> None:
        strict = f"strict:{channel}"
        async with Api(tight) as api:
            slow = await enter(door, tight, [strict], receive_buffer=SMALL)
            slow.pause()
            sent = await flood(api, strict, 150)
            await eventually(lambda: tight.metric("rt_disconnects_total", code="3008") > 0)
            slow.resume()
            await eventually(lambda: slow.gone)
            assert isinstance(slow, SdkClient | PlainSocket)
            ended = await slow.wait_ended()
            assert (ended.code, ended.reason) == (3008, "slow")
            again = await enter(door, tight, [strict], previous=slow)
            missing = len(sent) - len(slow.data(strict))
            await again.until(strict, missing)
            assert numbers(everything([slow, again], strict)) == sent
            await again.close()

    asyncio.run(run())


@pytest.mark.parametrize("door", DOORS)
def test_a_reader_that_takes_nothing_is_closed(start_server: Callable[..., Server], channel: str, door: str) -> None:
    """Who takes no byte for the stall timeout is closed, and loses nothing when it comes back in time."""

    async def run() -> None:
        server = start_server({"delivery": {**TIGHT, "stall_timeout": "1s"}})
        long = f"long:{channel}"
        async with Api(server) as api:
            slow = await enter(door, server, [long], receive_buffer=SMALL)
            slow.pause()
            sent = await flood(api, long, 200)
            await eventually(lambda: server.metric("rt_disconnects_total", code="3008") == 1)
            slow.resume()
            await eventually(lambda: slow.gone)
            again = await enter(door, server, [long], previous=slow)
            await eventually(lambda: numbers(everything([slow, again], long)) == sent, what="nothing is missing")
            await again.close()

    asyncio.run(run())
