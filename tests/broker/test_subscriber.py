"""rt.broker.subscriber: the desired set becomes the confirmed set, whatever happens, and every loss is told."""

from __future__ import annotations

import asyncio
import random
import time
from functools import partial

import pytest

from rt.broker import StoreSettings
from rt.broker.counters import Counters
from rt.broker.subscriber import BATCH, Subscriber
from rt.broker.trouble import Trouble
from rt.errors import StoreError
from tests.brokers import STORED, Worker, asynchronous, body, outcome
from tests.faults.link import Link
from tests.stores import Store
from tests.waiting import eventually


def subscriber(worker: Worker) -> Subscriber:
    """The inside of a broker."""
    return worker.broker._subscriber


def agrees(worker: Worker) -> bool:
    """Whether all that is wanted is confirmed, and nothing else."""
    inside = subscriber(worker)
    return inside.connected and not inside._expected and set(inside.desired) == inside.confirmed


def channels_of(store: Store) -> set[bytes]:
    """What the store says that somebody is subscribed to, without what workers say to themselves and one another."""
    return {name for name in store.command("PUBSUB", "CHANNELS") if name.startswith(b"rt:default:{")}


@asynchronous
async def test_after_unsubscribe_nothing_is_heard(shared_store: Store, channel: str) -> None:
    """Also what was on its way."""
    async with Worker(shared_store) as worker:
        await worker.broker.subscribe(channel)
        await worker.broker.publish(channel, body(1), STORED)
        await eventually(lambda: worker.bodies(channel) == [body(1)])
        worker.broker.unsubscribe(channel)
        worker.broker.unsubscribe(channel)
        await worker.broker.publish(channel, body(2), STORED)
        await eventually(lambda: agrees(worker))
        await worker.broker.subscribe(channel)
        await worker.broker.publish(channel, body(3), STORED)
        await eventually(lambda: body(3) in worker.bodies(channel))
        assert worker.bodies(channel) == [body(1), body(3)]


@asynchronous
async def test_what_is_published_after_the_confirmation_is_heard(shared_store: Store, channel: str) -> None:
    """Unsubscribe and subscribe in one turn are carried out in their order."""
    async with Worker(shared_store) as one, Worker(shared_store) as two:
        for n in range(50):
            confirmed = one.broker.subscribe(channel)
            one.broker.unsubscribe(channel)
            again = one.broker.subscribe(channel)
            await confirmed
            await again
            await two.broker.publish(channel, body(n), STORED)
            await eventually(lambda n=n: body(n) in one.bodies(channel))  # type: ignore[misc]
            one.broker.unsubscribe(channel)


@asynchronous
async def test_a_killed_subscriber_comes_back_whole_and_says_so(store: Store) -> None:
    """More channels than fit into one batch; what was missed is the listener's to read."""
    async with Worker(store) as worker:
        names = [f"c{n}" for n in range(2 * BATCH + 17)]
        await asyncio.gather(*map(worker.broker.subscribe, names))
        store.command("CLIENT", "KILL", "TYPE", "pubsub")
        await eventually(lambda: worker.resumed == 1)
        assert agrees(worker)
        assert len(channels_of(store)) == len(names)
        await worker.broker.publish(names[-1], body(1), STORED)
        await eventually(lambda: worker.bodies(names[-1]) == [body(1)])
        await worker.ready()
        assert worker.broker.counters.probe_failures == 0
        assert worker.resumed == 1


@asynchronous
async def test_the_first_connection_resumes_nothing(store: Store) -> None:
    """There is no position to check."""
    async with Worker(store) as worker:
        await worker.broker.subscribe("a")
        assert worker.resumed == 0


@asynchronous
async def test_a_subscribe_that_is_cut_off_fails_and_is_not_wanted(store: Store) -> None:
    """Whoever is told that it failed will not unsubscribe. One that was confirmed before stays."""
    async with Worker(store) as worker:
        await worker.broker.subscribe("kept")
        with store.paused():
            lost = [worker.broker.subscribe("lost"), worker.broker.subscribe("lost"), worker.broker.subscribe("kept")]
            subscriber(worker).replace("cut by the test")
            for call in lost:
                error = await outcome(call)
                assert isinstance(error, StoreError) and error.definite
        await eventually(lambda: worker.resumed == 1)
        assert agrees(worker)
        assert channels_of(store) == {b"rt:default:{kept}"}


@asynchronous
async def test_unsubscribed_while_away_is_not_subscribed_again(store: Store) -> None:
    """The desired set of that moment counts."""
    async with Worker(store) as worker:
        await asyncio.gather(worker.broker.subscribe("a"), worker.broker.subscribe("b"))
        with store.down():
            await eventually(lambda: not worker.broker.status().subscribed)
            worker.broker.unsubscribe("a")
        await eventually(lambda: agrees(worker))
        assert channels_of(store) == {b"rt:default:{b}"}


@asynchronous
async def test_a_store_that_stands_still_is_noticed(store: Store) -> None:
    """No error shows on a stopped server's connections: our own PING has a deadline. A subscribe fails within the
    timeout."""
    async with Worker(store, timeout=0.15, connect_timeout=0.15) as worker:
        await worker.broker.subscribe("a")
        with store.paused():
            began = time.monotonic()
            error = await outcome(worker.broker.subscribe("b"))
            assert isinstance(error, StoreError) and error.definite
            assert time.monotonic() - began < 0.4
        await eventually(lambda: worker.resumed >= 1)
        with store.paused():
            began = time.monotonic()
            await eventually(lambda: not worker.broker.status().subscribed)
            assert time.monotonic() - began < 0.8, "two timeouts and what is between"
        before = worker.resumed
        await eventually(lambda: worker.resumed > before)
        await eventually(lambda: agrees(worker))
        assert channels_of(store) == {b"rt:default:{a}"}


@asynchronous
async def test_a_confirmation_that_is_swallowed_fails_the_subscribe(store: Store) -> None:
    """And the connection is not trusted any more."""
    with Link(store) as link:
        async with Worker(link.url, timeout=0.2) as worker:
            await worker.broker.subscribe("a")
            with link.swallowing("subscribe"):
                error = await outcome(worker.broker.subscribe("b"))
                assert isinstance(error, StoreError)
            await eventually(lambda: worker.resumed >= 1)
            await eventually(lambda: agrees(worker))
            assert channels_of(store) == {b"rt:default:{a}"}


@pytest.mark.parametrize("seed", range(3))
@asynchronous
async def test_a_storm_of_subscribes_and_cuts_ends_in_agreement(store: Store, seed: int) -> None:
    """Five thousand of them, over twenty channels, with the connection killed at random moments; a model says what is
    wanted."""
    chance = random.Random(seed)
    async with Worker(store) as worker:
        wanted: set[str] = set()
        failed = 0

        def settle(channel: str, mark: object, call: asyncio.Future[None]) -> None:
            nonlocal failed
            if call.exception() is not None:
                failed += 1
                if marks.get(channel) is mark:
                    wanted.discard(channel)

        marks: dict[str, object] = {}
        for n in range(5000):
            channel = f"c{chance.randrange(20)}"
            if channel in wanted:
                wanted.discard(channel)
                marks.pop(channel, None)
                worker.broker.unsubscribe(channel)
            else:
                wanted.add(channel)
                mark = marks[channel] = object()
                call = worker.broker.subscribe(channel)
                call.add_done_callback(partial(settle, channel, mark))
            if chance.random() < 0.02:
                await asyncio.sleep(0)
            if n % 1000 == 500:
                await asyncio.to_thread(store.command, "CLIENT", "KILL", "TYPE", "pubsub")
                if chance.random() < 0.5:
                    await eventually(lambda: worker.broker.status().subscribed)
        await eventually(lambda: agrees(worker))
        await asyncio.sleep(0)
        expected = {b"rt:default:{%s}" % channel.encode() for channel in wanted}
        assert channels_of(store) == expected
        assert {name for name in subscriber(worker).confirmed if name.startswith(b"rt:default:{")} == expected


@asynchronous
async def test_a_slow_reader_is_cut_by_the_store_and_comes_back(store: Store) -> None:
    """The store ends a subscriber whose buffer is full; that is a loss like any other."""
    store.command("CONFIG", "SET", "client-output-buffer-limit", "pubsub 65536 0 0")
    async with Worker(store) as worker:
        await worker.broker.subscribe("a")
        # Written by another process while this loop does nothing at all.
        for _ in range(20):
            store.command(
                "EVAL",
                "for i = 1, 100 do redis.call('PUBLISH', KEYS[1], ARGV[1]) end",
                1,
                "rt:default:{a}",
                b"x" * 20_000,
            )
        await eventually(lambda: worker.resumed >= 1)
        await worker.broker.publish("a", body(1), STORED)
        await eventually(lambda: worker.bodies("a") == [body(1)])


@asynchronous
async def test_a_flood_lets_the_loop_go_round(store: Store) -> None:
    """Thousands of messages in one read are handed out in turns of a few milliseconds, in order."""
    counters = Counters()
    heard: list[bytes] = []

    def slow(channel: str, payload: bytes) -> None:
        end = time.perf_counter() + 0.0001
        while time.perf_counter() < end:
            pass
        heard.append(payload)

    loop = asyncio.get_running_loop()
    inside = Subscriber(
        StoreSettings(url=store.url, timeout=5.0),
        name="t",
        counters=counters,
        trouble=Trouble(loop.time, "default"),
        on_message=slow,
        on_up=lambda resumed: None,
    )
    inside.start({"flood": lambda payload: slow("", payload)})
    try:
        await eventually(lambda: inside.connected)
        lags: list[float] = []
        store.command("EVAL", "for i = 1, 3000 do redis.call('PUBLISH', 'flood', i) end", 0)
        while len(heard) < 3000:
            began = time.perf_counter()
            await asyncio.sleep(0)
            lags.append(time.perf_counter() - began)
        assert heard == [b"%d" % n for n in range(1, 3001)]
        assert sorted(lags)[-3] < 0.05, "no turn takes longer than a stride beyond the limit"
    finally:
        await inside.stop()


@asynchronous
async def test_a_script_flush_or_a_killed_command_link_is_no_loss_for_the_subscriber(store: Store) -> None:
    """Only a lineage that changed is."""
    async with Worker(store) as worker:
        await worker.broker.subscribe("a")
        await asyncio.to_thread(store.command, "CLIENT", "KILL", "TYPE", "normal")
        await eventually(lambda: worker.broker.counters.reconnects == 1)
        await worker.ready()
        assert worker.resumed == 0
