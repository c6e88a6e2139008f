"""What happens while a channel opens: publications that do not fit, and people who leave."""

from __future__ import annotations

import asyncio
import random
from unittest.mock import patch

import msgspec
import pytest

from rt.config import Channel as ChannelSettings
from rt.delivery.hub import Hub
from rt.delivery.subscription import State
from rt.errors import StoreError
from rt.protocol.publication import Position
from rt.protocol.wires import SDK
from tests.delivery.test_walks import CHANNELS, FakeSink, FakeStore, Reader, SdkReader, settings
from tests.delivery.test_walks import make_hub as walks_hub

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
    return walks_hub(msgspec.structs.replace(config, delivery=delivery), store)


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
    hub.wheel.stop()


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


def test_who_comes_to_a_channel_that_failed_to_open_is_refused() -> None:
    """The hub has forgotten it: opened once more it would be deaf. The next one asked for is another."""

    async def run() -> None:
        store = FakeStore(Calm())
        hub = make_hub(store)
        feed = hub.feed((CHANNEL,), (hub.namespaces.find(CHANNEL),))
        store.away = True
        opening = hub.spawn(feed.open())
        await turns(store)
        assert isinstance(opening.exception(), StoreError)
        store.away = False
        with pytest.raises(StoreError):
            await feed.open()
        reader = SdkReader(hub, Calm(), {})
        await turns(store, reader)
        hub.broadcast(CHANNEL, store.streams[CHANNEL].append(10))
        await turns(store, reader)
        assert reader.places[CHANNEL] == ("e0", 1)
        await finish(hub)

    asyncio.run(run())


def test_a_check_that_the_store_did_not_answer_is_made_up_soon() -> None:
    """It counts as never made, so that the next look at silent channels begins with it."""

    async def run() -> None:
        store = FakeStore(Calm())
        hub = make_hub(store)
        reader = SdkReader(hub, Calm(), {})
        await turns(store, reader)
        store.away = True
        hub.check_all()
        await turns(store, reader)
        assert hub.channels[CHANNEL].checked_at == 0.0
        await finish(hub)

    asyncio.run(run())


def test_a_reload_that_switches_history_off_sends_everybody_round() -> None:
    """Live or not: who stayed on the old channel would wait for ever."""

    async def run() -> None:
        store = FakeStore(Calm())
        hub = make_hub(store)
        live, behind = SdkReader(hub, Calm(), {}), SdkReader(hub, Calm(), {})
        await turns(store, live)
        behind.read()
        behind.sink.full = True
        for _ in range(20):
            hub.broadcast(CHANNEL, store.streams[CHANNEL].append(100))
            await turns(store, live)
        assert [one.state for one in behind.connection.subscriptions.values()] == [State.BEHIND]
        off = msgspec.structs.replace(hub.config.channel.without_namespace, history_size=0, slow="disconnect")
        hub.reload(msgspec.structs.replace(hub.config, channel=ChannelSettings(without_namespace=off)))
        assert not behind.connection.subscriptions and not live.connection.subscriptions
        behind.sink.open()
        pushes = [message["push"] for message in behind.sink.messages() if "push" in message]
        assert pushes[-1]["unsubscribe"]["code"] == 2500
        await finish(hub)

    asyncio.run(run())


def came_back(hub: Hub, since: int) -> SdkReader:
    """One more who is at ``since``."""
    return SdkReader(hub, Calm(), {CHANNEL: Position("e0", since)})


async def asked(store: FakeStore, hub: Hub, since: int) -> int:
    """How many times the store is asked for one who comes back from ``since`` and gets all up to the top."""
    reader, count = came_back(hub, since), 0
    for _ in range(100):
        count += len(store.answers)
        store.answer()
        await asyncio.sleep(0)
        reader.read()
    assert reader.places[CHANNEL] == store.streams[CHANNEL].position
    return count


def test_one_read_is_for_all_who_come_back() -> None:
    """One after the other, from positions that the first read covers, also when something comes meanwhile."""

    async def run() -> None:
        store = FakeStore(Calm())
        for _ in range(20):
            store.streams[CHANNEL].append(10)
        hub = make_hub(store)
        assert await asked(store, hub, 10) == 3, "SUBSCRIBE, the position, a page"
        assert [await asked(store, hub, since) for since in (10, 10, 15, 20)] == [0, 0, 0, 0]
        hub.broadcast(CHANNEL, store.streams[CHANNEL].append(10))
        assert [await asked(store, hub, since) for since in (10, 9, 9)] == [0, 1, 0]
        await finish(hub)

    asyncio.run(run())


def test_what_was_removed_or_has_expired_is_kept_by_nobody() -> None:
    """A read that was under way when the history was removed is for who asked; an old stream expires when it does."""

    async def run() -> None:
        store = FakeStore(Calm())
        stream = store.streams[CHANNEL]
        for _ in range(20):
            stream.append(10)
        hub = make_hub(store)
        await asked(store, hub, 20)
        reader, channel = came_back(hub, 12), hub.channels[CHANNEL]
        while not store.answers:
            await asyncio.sleep(0)
        channel.emptied()
        await turns(store, reader)
        assert len(channel.recent) == 0
        reader = came_back(hub, 12)
        await turns(store, reader)
        assert len(channel.recent) == 8
        channel.emptied()
        for publication in stream.kept:
            publication.time -= int(channel.namespace.history_ttl * 1e6)
        reader = came_back(hub, 12)
        await turns(store, reader)
        channel.refresh()
        assert len(channel.recent) == 0
        await finish(hub)

    asyncio.run(run())


@pytest.mark.parametrize("entering", [False, True])
def test_a_turn_that_cannot_be_written_is_told(entering: bool) -> None:
    """A fault of the server's own leaves nobody deaf: all begin anew from where they are, and get what they missed."""

    async def run() -> None:
        store = FakeStore(Calm())
        hub = make_hub(store)
        reader = SdkReader(hub, Calm(), {})
        await turns(store, reader)
        readers = [reader]
        with patch.object(type(SDK), "encode", side_effect=[ValueError("a fault")] * 2):
            hub.broadcast(CHANNEL, store.streams[CHANNEL].append(10))
            if entering:
                readers.append(SdkReader(hub, Calm(), {}))
                hub.broadcast(CHANNEL, store.streams[CHANNEL].append(10))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        for _ in range(3):
            await turns(store, reader)
            readers[-1].read()
        hub.broadcast(CHANNEL, store.streams[CHANNEL].append(10))
        await turns(store, reader)
        readers[-1].read()
        assert {one.places[CHANNEL] for one in readers} == {Position("e0", 3 if entering else 2)}
        assert not any(one.waits for one in readers)
        await finish(hub)

    asyncio.run(run())
