"""What happens while a channel opens: publications that do not fit, and people who leave."""

from __future__ import annotations

import asyncio
import random

import msgspec

from rt.delivery.hub import Hub
from rt.metrics import Metrics
from rt.protocol.publication import Position
from rt.protocol.wires import SDK
from tests.delivery.test_walks import CHANNELS, FakeSink, FakeStore, Reader, SdkReader, settings

CHANNEL = CHANNELS[0]
LARGE = 5000
"""Bytes that no ring of these tests holds."""


class Calm(random.Random):
    """A chance that never strikes: sinks take everything."""

    def random(self) -> float:
        return 0.99


def make_hub(store: FakeStore, *, linger: float = 0.0) -> Hub:
    """A hub on a store in memory, without position checks that could heal what is tested."""
    config = settings()
    delivery = msgspec.structs.replace(config.delivery, linger=linger, position_check_interval=3600.0)
    hub = Hub(msgspec.structs.replace(config, delivery=delivery), store, Metrics(), node="n")  # type: ignore[arg-type]
    hub.wheel.tick = 0.005
    hub.start()
    return hub


async def turns(store: FakeStore, reader: Reader | None = None) -> None:
    """Let everything under way come to its end."""
    for _ in range(100):
        store.answer()
        await asyncio.sleep(0)
        if reader is not None:
            reader.read()


async def finish(hub: Hub) -> None:
    """Stop, without leaving a task."""
    await hub.stop()
    hub.halt()


def opened_after(sizes: list[int]) -> Position | None:
    """Where a reader stands when publications of these sizes came between the position's reading and its answer."""

    async def run() -> Position | None:
        store = FakeStore(Calm())
        hub = make_hub(store)
        reader = SdkReader(hub, Calm(), {})
        while not store.answers:
            await asyncio.sleep(0)
        store.answer()  # SUBSCRIBE is confirmed
        while not store.answers:
            await asyncio.sleep(0)
        store.answer()  # the position is read: 0
        for size in sizes:
            hub.broadcast(CHANNEL, store.streams[CHANNEL].append(size))
        await turns(store, reader)
        await finish(hub)
        return reader.places.get(CHANNEL)

    return asyncio.run(run())


def test_a_hole_in_what_was_held_is_repaired() -> None:
    """One that is too large to be held is read from the stream, and what follows it is not waited for in vain."""
    assert opened_after([LARGE, 10, 10]) == ("e0", 3)


def test_the_newest_is_read_when_it_could_not_be_held() -> None:
    """Nothing after it shows that it is missing, so that must be remembered."""
    assert opened_after([10, LARGE]) == ("e0", 2)


def test_a_feed_whose_last_reader_left_while_it_opened_is_gone() -> None:
    """It takes nothing from a channel that others have open, and the channel that only it wanted is closed again."""

    async def run() -> None:
        store = FakeStore(Calm())
        hub = make_hub(store)
        reader = SdkReader(hub, Calm(), {})
        await turns(store, reader)
        namespace = hub.namespaces.find(CHANNEL)
        feed = hub.feed((CHANNEL, CHANNELS[1]), (namespace, namespace))
        opening = hub.spawn(feed.open())
        subscription = feed.subscribe(reader.connection.outbox, SDK, positioned=True)
        await asyncio.sleep(0)
        feed.leave(subscription)
        await turns(store, reader)
        assert opening.done()
        assert [other.key for other in hub.channels[CHANNEL].feeds] == [(CHANNEL,)]
        async with asyncio.timeout(5):
            while CHANNELS[1] in hub.channels:
                await asyncio.sleep(0.005)
        await finish(hub)

    asyncio.run(run())


def test_taking_bytes_is_a_sign_of_life() -> None:
    """A reader whose pong waits behind its backlog is slow, not dead."""

    async def run() -> None:
        store = FakeStore(Calm())
        hub = make_hub(store)
        reader = SdkReader(hub, Calm(), {})
        await turns(store, reader)
        sink, connection = reader.sink, reader.connection
        assert isinstance(sink, FakeSink)
        heartbeat = connection.heartbeat
        assert heartbeat is not None
        assert heartbeat.beat(heartbeat.due())
        deadline = heartbeat.due()
        sink.full = True
        connection.outbox.write(b"x" * 100)
        sink.open()
        assert heartbeat.due() > deadline
        await finish(hub)

    asyncio.run(run())
