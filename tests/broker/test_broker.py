"""rt.broker.broker: publish, read and subscribe against a real store."""

from __future__ import annotations

import asyncio

import pytest

from rt import errors
from rt.broker import NOWHERE, Published, PublishOptions
from rt.broker.bus import MAX_BODY
from rt.errors import Refused, StoreError
from rt.protocol.publication import Position
from tests.brokers import META_TTL, STORED, VOLATILE, Worker, asynchronous, body, logged, outcome
from tests.stores import Store
from tests.waiting import eventually


@asynchronous
async def test_publications_are_numbered_and_handed_to_every_worker(shared_store: Store, channel: str) -> None:
    """From 1 on, in one epoch, the accepting worker included."""
    async with Worker(shared_store) as one, Worker(shared_store) as two:
        await asyncio.gather(one.broker.subscribe(channel), two.broker.subscribe(channel))
        results = await asyncio.gather(*(one.broker.publish(channel, body(n), STORED) for n in range(1, 6)))
        epochs = {result.position.epoch for result in results}
        assert len(epochs) == 1 and len(epochs.pop()) == 8
        assert [result.position.offset for result in results] == [1, 2, 3, 4, 5]
        for worker in (one, two):
            await eventually(lambda worker=worker: len(worker.bodies(channel)) == 5)  # type: ignore[misc]
            assert worker.bodies(channel) == [body(n) for n in range(1, 6)]
            assert [heard.offset for heard in worker.heard[channel]] == [1, 2, 3, 4, 5]


@asynchronous
async def test_a_body_comes_out_byte_for_byte(shared_store: Store, channel: str) -> None:
    """Over the bus and out of the stream; colons, CR, NUL and bytes that are no text included."""
    strange = b'{"data":":1p:\r\x00\xff%d"}'
    async with Worker(shared_store) as worker:
        await worker.broker.subscribe(channel)
        await worker.broker.publish(channel, strange, STORED)
        page = await worker.broker.history(channel, limit=-1, meta_ttl=META_TTL)
        assert [found.body for found in page.publications] == [strange]
        await eventually(lambda: worker.bodies(channel) == [strange])
        assert worker.heard[channel][0].time == page.publications[0].time


@asynchronous
async def test_without_history_a_publication_has_no_position(shared_store: Store, channel: str) -> None:
    """It is handed over, and nothing of it is kept."""
    async with Worker(shared_store) as worker:
        await worker.broker.subscribe(channel)
        assert (await worker.broker.publish(channel, body(1), VOLATILE)).position == NOWHERE
        await eventually(lambda: worker.bodies(channel) == [body(1)])
        assert worker.heard[channel][0].offset == 0
        assert shared_store.command("KEYS", f"*{{{channel}}}*") == []


@asynchronous
async def test_the_stream_keeps_exactly_its_size(shared_store: Store, channel: str) -> None:
    """So that the boundary of recovery is exact."""
    async with Worker(shared_store) as worker:
        options = STORED._replace(history_size=7)
        await asyncio.gather(*(worker.broker.publish(channel, body(n), options) for n in range(1, 21)))
        page = await worker.broker.history(channel, limit=-1, meta_ttl=META_TTL)
        assert [found.offset for found in page.publications] == list(range(14, 21))


@asynchronous
async def test_pages_of_history(shared_store: Store, channel: str) -> None:
    """Since is exclusive both ways; limit and reverse do what they say."""
    async with Worker(shared_store) as worker:
        for n in range(1, 6):
            await worker.broker.publish(channel, body(n), STORED)
        top = await worker.broker.position(channel, META_TTL)
        assert top.offset == 5

        async def offsets(since: int | None, limit: int, reverse: bool = False) -> list[int]:
            asked = None if since is None else Position(top.epoch, since)
            page = await worker.broker.history(channel, since=asked, limit=limit, reverse=reverse, meta_ttl=META_TTL)
            assert page.top == top
            return [found.offset for found in page.publications]

        assert await offsets(None, -1) == [1, 2, 3, 4, 5]
        assert await offsets(None, 2) == [1, 2]
        assert await offsets(None, 0) == []
        assert await offsets(None, 2, reverse=True) == [5, 4]
        assert await offsets(0, -1) == [1, 2, 3, 4, 5]
        assert await offsets(2, -1) == [3, 4, 5]
        assert await offsets(2, 2) == [3, 4]
        assert await offsets(5, -1) == []
        assert await offsets(9, -1) == []
        assert await offsets(4, -1, reverse=True) == [3, 2, 1]
        assert await offsets(1, -1, reverse=True) == []
        page = await worker.broker.history(channel, since=Position("other", 2), limit=-1, meta_ttl=META_TTL)
        assert (page.top, page.publications) == (top, [])


@asynchronous
async def test_a_read_gives_a_channel_its_epoch(shared_store: Store, channel: str) -> None:
    """Who asks first and who publishes later agree on it."""
    async with Worker(shared_store) as one, Worker(shared_store) as two:
        first, second = await asyncio.gather(
            one.broker.position(channel, META_TTL), two.broker.history(channel, limit=-1, meta_ttl=META_TTL)
        )
        assert first == second.top and first.epoch and first.offset == 0
        published = await two.broker.publish(channel, body(1), STORED)
        assert published.position == Position(first.epoch, 1)


@asynchronous
async def test_stream_and_metadata_have_their_own_lives(shared_store: Store, channel: str) -> None:
    """The metadata never goes before the stream."""
    async with Worker(shared_store) as worker:
        await worker.broker.publish(channel, body(1), PublishOptions(10, 100.0, 5.0))
        stream, meta = (f"rt:default:{{{channel}}}:{part}" for part in ("stream", "meta"))
        assert 99_000 < shared_store.command("PTTL", stream) <= 100_000
        assert 99_000 < shared_store.command("PTTL", meta) <= 100_000
        shared_store.command("PEXPIRE", meta, 20_000)
        await worker.broker.position(channel, 30.0)
        assert shared_store.command("PTTL", meta) <= 20_000, "more than half is left: no write"
        await worker.broker.position(channel, 60.0)
        assert 59_000 < shared_store.command("PTTL", meta) <= 60_000


@asynchronous
async def test_an_expired_stream_shows_as_a_top_without_publications(shared_store: Store, channel: str) -> None:
    """The epoch lives on, and so do the offsets."""
    async with Worker(shared_store) as worker:
        published = await worker.broker.publish(channel, body(1), PublishOptions(10, 0.03, META_TTL))
        await eventually(lambda: not shared_store.command("EXISTS", f"rt:default:{{{channel}}}:stream"))
        page = await worker.broker.history(channel, since=Position(published.position.epoch, 0), limit=-1, meta_ttl=60)
        assert (page.top, page.publications) == (published.position, [])
        again = await worker.broker.publish(channel, body(2), STORED)
        assert again.position == Position(published.position.epoch, 2)


@asynchronous
async def test_history_is_removed_and_said_to_be(shared_store: Store, channel: str) -> None:
    """Epoch and offset stay."""
    async with Worker(shared_store) as one, Worker(shared_store) as two:
        await two.broker.subscribe(channel)
        top = (await one.broker.publish(channel, body(1), STORED)).position
        await one.broker.remove_history(channel)
        await eventually(lambda: two.removed == [channel])
        page = await one.broker.history(channel, limit=-1, meta_ttl=META_TTL)
        assert (page.top, page.publications) == (top, [])
        assert (await one.broker.publish(channel, body(2), STORED)).position == Position(top.epoch, 2)
        await one.broker.remove_history(f"{channel}-never-used")


@asynchronous
@pytest.mark.parametrize("options", [STORED, VOLATILE], ids=["stored", "volatile"])
async def test_fifty_racers_with_one_key_publish_once(
    shared_store: Store, channel: str, options: PublishOptions
) -> None:
    """All of them get the same position, whichever worker they asked."""
    async with Worker(shared_store) as one, Worker(shared_store) as two, Worker(shared_store) as three:
        await one.broker.subscribe(channel)
        workers = [one, two, three]
        keyed = options._replace(idempotency_key="order-17")
        racing = [workers[n % 3].broker.publish(channel, body(n), keyed) for n in range(50)]
        results = await asyncio.gather(*racing)
        assert len({result.position for result in results}) == 1
        assert sorted(result.duplicate for result in results) == [False] + [True] * 49
        await one.broker.publish(channel, body(99), options)
        await eventually(lambda: body(99) in one.bodies(channel))
        assert len(one.bodies(channel)) == 2


@asynchronous
async def test_a_key_belongs_to_its_channel(shared_store: Store, channel: str) -> None:
    """The same key on another channel is another publication. Keys may hold anything."""
    async with Worker(shared_store) as worker:
        keyed = STORED._replace(idempotency_key="a}{:meta\n\x00*")
        results = [await worker.broker.publish(f"{channel}-{n}", body(n), keyed) for n in range(2)]
        assert [result.duplicate for result in results] == [False, False]
        again = await worker.broker.publish(f"{channel}-0", body(5), keyed)
        assert again == Published(results[0].position, duplicate=True)


@asynchronous
async def test_the_first_result_stands_when_history_is_switched(shared_store: Store, channel: str) -> None:
    """What was published without history is not published again with it, and the other way round."""
    async with Worker(shared_store) as worker:
        for first, second, key in ((VOLATILE, STORED, "a"), (STORED, VOLATILE, "b")):
            before = await worker.broker.publish(channel, body(1), first._replace(idempotency_key=key))
            after = await worker.broker.publish(channel, body(1), second._replace(idempotency_key=key))
            assert after == Published(before.position, duplicate=True)


@asynchronous
async def test_a_body_beyond_the_bound_is_refused(shared_store: Store, channel: str) -> None:
    """It would be dropped by whoever hears it."""
    async with Worker(shared_store) as worker:
        with pytest.raises(Refused) as caught:
            await worker.broker.publish(channel, b"{" + b" " * MAX_BODY + b"}", STORED)
        assert caught.value.error is errors.LIMIT_EXCEEDED


@asynchronous
async def test_nonsense_on_the_bus_is_dropped_and_counted(shared_store: Store, channel: str) -> None:
    """And what comes after it is heard."""
    async with Worker(shared_store) as worker:
        await worker.broker.subscribe(channel)
        for nonsense in (b"", b"\x80pickle", b"1p:x:y:z:{}", b"9z:e:1:1:{}", b'{"channel":"x"}'):
            shared_store.command("PUBLISH", f"rt:default:{{{channel}}}", nonsense)
        await worker.broker.publish(channel, body(1), STORED)
        await eventually(lambda: worker.bodies(channel) == [body(1)])
        assert worker.broker.counters.bus_dropped == 5


@asynchronous
async def test_a_callback_that_fails_does_not_cost_the_next_publication(
    shared_store: Store, channel: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged with its traceback."""
    async with Worker(shared_store) as worker:
        await worker.broker.subscribe(channel)
        hear = worker.broker._on_publication
        worker.broker._on_publication = lambda channel, publication: 1 / 0  # type: ignore[assignment]
        await worker.broker.publish(channel, body(1), STORED)
        await eventually(lambda: "a publication could not be handed on" in caplog.messages)
        worker.broker._on_publication = hear
        await worker.broker.publish(channel, body(2), STORED)
        await eventually(lambda: worker.bodies(channel) == [body(2)])


@asynchronous
async def test_workers_know_of_each_other(store: Store) -> None:
    """As long as they say so."""
    async with Worker(store, name="b") as one, Worker(store, name="a") as two:
        assert await one.broker.workers() == []
        await one.broker.register(b"node b", 60.0)
        await two.broker.register(b"node a", 60.0)
        assert await one.broker.workers() == [b"node a", b"node b"]
        await two.broker.register(b"node a", 0.001)
        await eventually(lambda: not store.command("EXISTS", "rt:default:worker:a"))
        assert await one.broker.workers() == [b"node b"]
        assert store.command("SMEMBERS", "rt:default:workers") == [b"b"]


@asynchronous
async def test_tenants_and_prefixes_do_not_meet(shared_store: Store, channel: str) -> None:
    """Neither on the bus nor in the keys."""
    async with Worker(shared_store) as one, Worker(shared_store, prefix="other") as two:
        await two.broker.subscribe(channel)
        await one.broker.publish(channel, body(1), STORED)
        await two.broker.publish(channel, body(2), STORED)
        await eventually(lambda: two.bodies(channel) == [body(2)])
        assert (await two.broker.position(channel, META_TTL)).offset == 1


@asynchronous
async def test_a_store_that_is_down_is_told_at_once_and_found_when_it_comes(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """One line for the trouble, one for its end; nothing waits for a timeout."""
    store.kill()
    async with Worker(store, wait=False) as worker:
        await eventually(lambda: logged(caplog))
        loop = asyncio.get_running_loop()
        began = loop.time()
        for call in (
            worker.broker.publish("a", body(1), STORED),
            worker.broker.position("a", META_TTL),
            worker.broker.subscribe("a"),
            worker.broker.workers(),
        ):
            error = await outcome(call)
            assert isinstance(error, StoreError) and error.definite
        assert loop.time() - began < 0.1
        status = worker.broker.status()
        assert not status.ready and not status.connected and len(status.reasons) == 2
        store.start()
        await worker.ready()
        assert worker.broker.status().reasons == []
        await worker.broker.publish("a", body(1), STORED)
    assert len(logged(caplog)) == 2


@asynchronous
async def test_ready_comes_with_the_first_probe(shared_store: Store) -> None:
    """Long before the first interval is over."""
    async with Worker(shared_store, wait=False, probe_interval=60.0) as worker:
        await eventually(lambda: worker.broker.ready, timeout=2.0)


@asynchronous
async def test_stop_waits_for_the_calls_under_way(shared_store: Store, channel: str) -> None:
    """What was asked for is answered; what comes later is refused."""
    async with Worker(shared_store) as worker:
        calls = [worker.broker.publish(channel, body(n), STORED) for n in range(20)]
        await worker.broker.stop()
        assert [call.result().position.offset for call in calls] == list(range(1, 21))
        late = await outcome(worker.broker.publish(channel, body(21), STORED))
        assert isinstance(late, StoreError) and late.definite
