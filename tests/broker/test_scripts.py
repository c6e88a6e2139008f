"""rt.broker.scripts: the lineage fence. An offset is never used twice within one epoch, whatever the store has lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from rt.broker.scripts import Scripts
from rt.protocol.publication import Position
from tests.brokers import META_TTL, STORED, Worker, asynchronous, body
from tests.faults.link import Link
from tests.stores import DURABLE, Store, free_port
from tests.waiting import eventually

CHANNEL = "chat"
META = "rt:default:{chat}:meta"
STREAM = "rt:default:{chat}:stream"


async def publish(worker: Worker, number: int, key: str = "") -> Position:
    """Publish and give the position."""
    return (await worker.broker.publish(CHANNEL, body(number), STORED._replace(idempotency_key=key))).position


async def kept(worker: Worker) -> list[bytes]:
    """What the stream holds."""
    return [found.body for found in (await worker.broker.history(CHANNEL, limit=-1, meta_ttl=META_TTL)).publications]


def test_the_texts_differ_by_lineage() -> None:
    """So that a server of another lineage does not know them."""
    one, two = Scripts("a" * 16), Scripts("b" * 16)
    assert not set(one.digests.values()) & set(two.digests.values())
    assert one.digests == Scripts("a" * 16).digests


@asynchronous
async def test_a_store_that_comes_back_empty_begins_a_new_epoch(store: Store) -> None:
    """The scripts are loaded again, and whoever holds a position is told to check it."""
    async with Worker(store) as worker:
        before = await publish(worker, 1)
        with store.down():
            pass
        await worker.ready()
        await eventually(lambda: worker.resumed >= 1)
        after = await publish(worker, 2)
        assert after.epoch != before.epoch and after.offset == 1
        assert worker.broker.counters.lineage_renewals == 1


@pytest.mark.parametrize(
    "program", ["valkey-server", pytest.param("redis-server", marks=pytest.mark.needs("redis-server"))]
)
@asynchronous
async def test_a_store_that_restarts_with_its_data_is_not_trusted(program: str) -> None:
    """It may lack the newest: a new epoch, without the old stream. A retry must not be told of a lost publication."""
    with Store(program, options=DURABLE) as store:
        async with Worker(store) as worker:
            before = await publish(worker, 1, key="k")
            with store.down():
                pass
            await worker.ready()
            after = await publish(worker, 1, key="k")
            assert after.epoch != before.epoch and after.offset == 1
            assert await publish(worker, 1, key="k") == after
            assert await kept(worker) == [body(1)]


@asynchronous
async def test_a_read_meets_the_fence_too() -> None:
    """Nobody recovers from a stream of another lineage."""
    with Store(options=DURABLE) as store:
        async with Worker(store) as worker:
            before = await publish(worker, 1)
            with store.down():
                pass
            await worker.ready()
            page = await worker.broker.history(CHANNEL, since=Position(before.epoch, 0), limit=-1, meta_ttl=META_TTL)
            assert page.top.epoch != before.epoch and page.top.offset == 0 and page.publications == []


@asynchronous
async def test_without_the_fence_a_restart_goes_on() -> None:
    """For a store that loses no acknowledged write."""
    with Store(options=DURABLE) as store:
        async with Worker(store, lineage="none") as worker:
            before = await publish(worker, 1, key="k")
            with store.down():
                pass
            await worker.ready()
            assert await publish(worker, 1, key="k") == before
            assert await publish(worker, 2) == Position(before.epoch, 2)
            assert await kept(worker) == [body(1), body(2)]


LOSSES: dict[str, Callable[[Store], object]] = {
    "flushall": lambda store: store.command("FLUSHALL"),
    "metadata": lambda store: store.command("DEL", META),
    "metadata of another kind": lambda store: [store.command("DEL", META), store.command("HSET", META, "x", "y")],
}


@pytest.mark.parametrize("loss", LOSSES)
@asynchronous
async def test_lost_metadata_begins_a_new_epoch(store: Store, loss: str) -> None:
    """With an empty stream, whoever comes first: a publisher or a reader."""
    async with Worker(store) as worker:
        epochs = {(await publish(worker, 1, key="k")).epoch}
        LOSSES[loss](store)
        after = await publish(worker, 2, key="k")
        assert after.offset == 1 and after.epoch not in epochs
        assert await kept(worker) == [body(2)]
        epochs.add(after.epoch)
        LOSSES[loss](store)
        read = await worker.broker.position(CHANNEL, META_TTL)
        assert read.offset == 0 and read.epoch not in epochs
        assert await kept(worker) == []


@asynchronous
async def test_a_lost_stream_keeps_the_epoch_and_shows(store: Store) -> None:
    """No offset is used again, and what is gone can be told."""
    async with Worker(store) as worker:
        await publish(worker, 1)
        before = await publish(worker, 2)
        store.command("DEL", STREAM)
        page = await worker.broker.history(CHANNEL, since=Position(before.epoch, 1), limit=-1, meta_ttl=META_TTL)
        assert (page.top, page.publications) == (before, [])
        assert await publish(worker, 3) == Position(before.epoch, 3)


@pytest.mark.parametrize("what", ["ahead", "no stream"])
@asynchronous
async def test_a_stream_that_does_not_fit_its_metadata_begins_a_new_epoch(store: Store, what: str) -> None:
    """Somebody restored one of the two keys: the publish succeeds and nothing is used twice."""
    async with Worker(store) as worker:
        before = await publish(worker, 1)
        if what == "ahead":
            store.command("XADD", STREAM, "9-0", "b", "{}", "t", "1")
        else:
            store.command("SET", STREAM, "text")
        after = await publish(worker, 2)
        assert after.offset == 1 and after.epoch != before.epoch
        assert await kept(worker) == [body(2)]


@asynchronous
async def test_workers_with_different_views_do_not_alternate(store: Store) -> None:
    """The one with the old view reads again, and joins the epoch of the other."""
    async with Worker(store, lineage="old") as one, Worker(store, lineage="old") as two:
        first = await publish(one, 1)
        assert await publish(two, 2) == Position(first.epoch, 2)
        two.broker.set_lineage("new")
        second = await publish(two, 3)
        assert second.offset == 1 and second.epoch != first.epoch
        # The view of the first is old, as if word had not reached it; what it would read is new.
        one.broker._pipeline._setting = "new"
        for n in range(4, 10):
            assert await publish(one if n % 2 else two, n) == Position(second.epoch, n - 2)


@asynchronous
async def test_a_hundred_calls_refused_at_once_begin_one_epoch(store: Store) -> None:
    """They share one reading, and keep their order."""
    async with Worker(store, lineage="old") as worker:
        await publish(worker, 0)
        loads = worker.broker.counters.script_reloads
        store.command("HSET", META, "lineage", "another")
        results = await asyncio.gather(*(worker.broker.publish(CHANNEL, body(n), STORED) for n in range(100)))
        assert len({result.position.epoch for result in results}) == 1
        assert [result.position.offset for result in results] == list(range(1, 101))
        assert worker.broker.counters.script_reloads == loads + 1


@asynchronous
async def test_forgotten_scripts_are_loaded_again(store: Store) -> None:
    """Every call under way is sent again, once, in order."""
    async with Worker(store) as worker:
        before = await publish(worker, 0)
        store.command("SCRIPT", "FLUSH")
        results = await asyncio.gather(*(worker.broker.publish(CHANNEL, body(n), STORED) for n in range(1, 101)))
        assert [result.position for result in results] == [Position(before.epoch, n) for n in range(2, 102)]
        assert worker.broker.counters.script_reloads == 1


@pytest.mark.parametrize(
    "program", ["valkey-server", pytest.param("redis-server", marks=pytest.mark.needs("redis-server"))]
)
@asynchronous
async def test_a_failover_to_a_replica_that_lagged_uses_no_offset_twice(program: str) -> None:
    """What was acknowledged and lost is told by a new epoch."""
    port = free_port()
    with (
        Store(program, options=["--port", str(port), "--repl-diskless-sync-delay", "0"]) as primary,
        Store(program, options=["--replicaof", f"127.0.0.1 {port}"]) as replica,
        Link(primary) as link,
    ):
        async with Worker(link.url) as worker:
            first = await publish(worker, 1)
            await eventually(lambda: replica.command("EXISTS", META) == 1)
            replica.command("REPLICAOF", "127.0.0.1", "1")  # cut off from its primary
            for n in (2, 3, 4):
                assert (await publish(worker, n)).epoch == first.epoch
            primary.kill()
            replica.command("REPLICAOF", "NO", "ONE")
            assert replica.command("XLEN", STREAM) == 1, "the replica did not lag"
            link.point(replica)
            await eventually(lambda: worker.broker.counters.lineage_renewals == 1)
            await worker.ready()
            after = await publish(worker, 5)
            assert after.epoch != first.epoch and after.offset == 1
            await eventually(lambda: worker.resumed)


@asynchronous
async def test_a_primary_that_becomes_a_replica_refuses_and_is_left(store: Store) -> None:
    """Definite, no hot loop, and well again by itself when it is a primary again: of another lineage."""
    async with Worker(store, probe_interval=60.0) as worker:
        before = await publish(worker, 1)
        store.command("REPLICAOF", "127.0.0.1", "1")
        results = await asyncio.gather(
            *(worker.broker.publish(CHANNEL, body(n), STORED) for n in range(5)), return_exceptions=True
        )
        assert all(getattr(result, "definite", False) for result in results), results
        await eventually(lambda: not worker.broker.status().connected)
        store.command("REPLICAOF", "NO", "ONE")
        await worker.ready()
        after = await publish(worker, 2)
        assert after.epoch != before.epoch and await kept(worker) == [body(2)]
