"""rt.broker.pipeline: what a caller is told when the store is in trouble, and that it is true."""

from __future__ import annotations

import asyncio
import contextlib
import time

import pytest
import redis

from rt.broker import Member
from rt.broker.refusal import Refusal
from rt.errors import StoreError
from rt.protocol.publication import Change, Position
from tests.brokers import META_TTL, STORED, VOLATILE, Worker, asynchronous, body, outcome
from tests.stores import DURABLE, Store
from tests.waiting import eventually

CHANNEL = "chat"
STREAM = "rt:default:{chat}:stream"


def cut(worker: Worker) -> None:
    """End the connection for commands from this side."""
    link = worker.broker._pipeline._link
    assert link is not None
    link.close(StoreError("cut by the test", definite=False))


def stored_bodies(store: Store) -> list[bytes]:
    """What is in the stream, as the store says it."""
    return [entry[1][1] for entry in store.command("XRANGE", STREAM, "-", "+")]


@asynchronous
async def test_a_stall_longer_than_the_timeout_writes_once(store: Store) -> None:
    """Unknown at the timeout; the retry with the same key finds what the first attempt did."""
    async with Worker(store, timeout=0.2) as worker:
        await worker.broker.position(CHANNEL, META_TTL)
        keyed = STORED._replace(idempotency_key="k")
        with store.paused():
            began = time.monotonic()
            plain, first = await asyncio.gather(
                outcome(worker.broker.publish(CHANNEL, body(1), STORED)),
                outcome(worker.broker.publish(CHANNEL, body(2), keyed)),
            )
            took = time.monotonic() - began
        assert 0.2 <= took < 0.4
        for error in (plain, first):
            assert isinstance(error, StoreError) and not error.definite
        await worker.ready()
        again = await worker.broker.publish(CHANNEL, body(2), keyed)
        assert again.duplicate and again.position.offset == 2
        assert stored_bodies(store) == [body(1), body(2)]
        assert worker.broker.counters.unknown == 2


@asynchronous
async def test_calls_made_while_the_store_is_gone_fail_at_once(store: Store) -> None:
    """Definite, long before the timeout."""
    async with Worker(store, timeout=5.0) as worker:
        with store.down():
            await eventually(lambda: not worker.broker.status().connected)
            began = time.monotonic()
            error = await outcome(worker.broker.publish(CHANNEL, body(1), STORED))
            assert isinstance(error, StoreError) and error.definite
            assert time.monotonic() - began < 0.5
        await worker.ready()
        await worker.broker.publish(CHANNEL, body(2), STORED)
        assert stored_bodies(store) == [body(2)]


@asynchronous
async def test_a_lost_connection_is_bridged_where_repeating_is_harmless(store: Store) -> None:
    """Reads and publishes with a key go again; a publish without one fails as unknown. All of them happened once at
    most."""
    async with Worker(store) as worker:
        top = await worker.broker.position(CHANNEL, META_TTL)
        with store.paused():
            calls = [
                outcome(worker.broker.publish(CHANNEL, body(1), STORED._replace(idempotency_key="k"))),
                outcome(worker.broker.position(CHANNEL, META_TTL)),
                outcome(worker.broker.publish(CHANNEL, body(2), STORED)),
            ]
            together = asyncio.gather(*calls)
            await asyncio.sleep(0.02)  # all three are written
            cut(worker)
        keyed, read, plain = await together
        assert keyed.position.epoch == top.epoch
        assert isinstance(read, Position) and read.epoch == top.epoch
        assert isinstance(plain, StoreError) and not plain.definite
        assert worker.broker.counters.repeated == 2
        assert stored_bodies(store).count(body(1)) == 1
        assert stored_bodies(store).count(body(2)) <= 1


@asynchronous
async def test_an_outcome_that_was_unknown_once_stays_unknown(store: Store) -> None:
    """The repeat never left, or was refused; the first attempt happened all the same."""
    async with Worker(store, timeout=0.3) as worker:
        await publish_one(worker)
        keyed = STORED._replace(idempotency_key="k")
        with store.paused():
            call = asyncio.ensure_future(outcome(worker.broker.publish(CHANNEL, body(2), keyed)))
            await asyncio.sleep(0.02)  # written
            cut(worker)
            error = await call
        assert isinstance(error, StoreError) and not error.definite
        await worker.ready()
        assert stored_bodies(store) == [body(1), body(2)]
        assert (await worker.broker.publish(CHANNEL, body(2), keyed)).duplicate


@asynchronous
async def test_connections_killed_under_load_cost_no_keyed_publish(store: Store) -> None:
    """Each is answered and is in the stream once."""
    async with Worker(store) as worker:
        options = STORED._replace(history_size=10_000)
        calls = []
        for n in range(600):
            calls.append(outcome(worker.broker.publish(CHANNEL, body(n), options._replace(idempotency_key=f"k{n}"))))
            if n % 200 == 50:
                await asyncio.to_thread(store.command, "CLIENT", "KILL", "TYPE", "normal")
                await eventually(lambda: worker.broker.status().connected)
        results = await asyncio.gather(*calls)
        told = [n for n, result in enumerate(results) if not isinstance(result, StoreError)]
        found = stored_bodies(store)
        assert len(found) == len(set(found))
        assert {body(n) for n in told} <= set(found)
        for n, result in enumerate(results):
            if isinstance(result, StoreError) and result.definite:
                assert body(n) not in found
        assert worker.broker.counters.reconnects >= 3


@pytest.mark.parametrize(
    "program", ["valkey-server", pytest.param("redis-server", marks=pytest.mark.needs("redis-server"))]
)
@asynchronous
async def test_a_store_killed_under_load_leaves_no_false_acknowledgement(program: str) -> None:
    """Every publication answered with a position is in the stream there; every definite refusal is not."""
    with Store(program, options=DURABLE) as store:
        async with Worker(store, lineage="none") as one, Worker(store, lineage="none") as two:
            await one.broker.subscribe(CHANNEL)
            options = STORED._replace(history_size=100_000)
            results: dict[int, object] = {}
            stopping = False

            async def keep_publishing(worker: Worker, first: int) -> None:
                n = first
                while not stopping:
                    batch = range(n, n + 20)
                    n += 40
                    told = await asyncio.gather(
                        *(outcome(worker.broker.publish(CHANNEL, body(m), options)) for m in batch)
                    )
                    results.update(zip(batch, told, strict=True))
                    await asyncio.sleep(0.001)

            load = [asyncio.create_task(keep_publishing(one, 0)), asyncio.create_task(keep_publishing(two, 20))]
            for _ in range(2):
                before = len(results)
                await eventually(lambda before=before: len(results) > before + 200)  # type: ignore[misc]
                await asyncio.to_thread(store.kill)
                await asyncio.to_thread(store.start)
                await asyncio.gather(one.ready(), two.ready())
            stopping = True
            await asyncio.gather(*load)
            await eventually(lambda: one.resumed >= 1)
            entries = {entry[0]: entry[1][1] for entry in store.command("XRANGE", STREAM, "-", "+")}
            for n, result in results.items():
                if not isinstance(result, StoreError):
                    offset = result.position.offset  # type: ignore[attr-defined]
                    assert entries[b"%d-0" % offset] == body(n)
                elif result.definite:
                    assert body(n) not in entries.values()
            assert len(set(entries.values())) == len(entries)


@asynchronous
async def test_out_of_memory_refuses_what_is_stored_and_nothing_else(store: Store) -> None:
    """Definite, with nothing half-done; publishing without history, reading and hearing go on."""
    async with Worker(store) as worker:
        await worker.broker.subscribe(CHANNEL)
        top = (await worker.broker.publish(CHANNEL, body(1), STORED)).position
        with store.setting("maxmemory", 1):
            for channel, options in (
                (CHANNEL, STORED),
                (CHANNEL, STORED._replace(idempotency_key="k")),
                ("new", STORED),
                (CHANNEL, VOLATILE._replace(idempotency_key="v")),
            ):
                error = await outcome(worker.broker.publish(channel, body(9), options))
                assert isinstance(error, Refusal) and error.kind == "oom" and error.definite
            await worker.broker.publish(CHANNEL, body(2), VOLATILE)
            await eventually(lambda: worker.bodies(CHANNEL) == [body(1), body(2)])
            assert await worker.broker.position(CHANNEL, META_TTL) == top
            await worker.broker.remove_history(CHANNEL)
        assert worker.broker.counters.refused == {"oom": 4}
        assert await worker.broker.publish(CHANNEL, body(3), STORED._replace(idempotency_key="k")) == (
            Position(top.epoch, 2),
            False,
            False,
        )


@asynchronous
async def test_a_script_that_fails_half_way_is_unknown(store: Store) -> None:
    """Here: a user who may write the stream but not publish. What was written stays, so nobody may say it was not."""
    store.command("ACL", "SETUSER", "writer", "on", ">secret", "~rt:*", "+@all", "resetchannels")
    url = store.url.replace("unix://", "unix://writer:secret@")
    async with Worker(url, wait=False, timeout=0.3) as worker:
        await eventually(lambda: worker.broker.status().connected)
        error = await outcome(worker.broker.publish(CHANNEL, body(1), STORED))
        assert isinstance(error, StoreError) and not error.definite
        assert stored_bodies(store) == [body(1)]
        assert not worker.broker.ready


async def use_everything_else(worker: Worker) -> None:
    """Versions, presence, sessions, commands, questions and the registry."""
    broker = worker.broker
    for n, epoch in enumerate(("a", "b")):
        await broker.publish(CHANNEL, body(n), STORED._replace(version=1, version_epoch=epoch))
    await broker.announce(CHANNEL, Change("join", b"{}"))
    assert await broker.enter(CHANNEL, [Member("c", "u", b"{}")], announce=True) == 1
    assert await broker.presence(CHANNEL) == {"c": b"{}"}
    await broker.presence_stats(CHANNEL)
    await broker.leave(CHANNEL, "c", announce=True)
    await broker.update_session("u", {"a": b"1"}, ["b"], 60.0)
    await broker.touch_sessions(["u"], 60.0)
    assert await broker.session("u") == {"a": b"1"}
    await broker.command(b"{}")
    await broker.survey(b"{}")
    await broker.register(b"node", 60.0)


@asynchronous
async def test_a_user_with_few_rights_is_enough(store: Store) -> None:
    """These commands, the keys and channels of the prefix, and nothing else."""
    store.command(
        "ACL", "SETUSER", "rt", "on", ">secret", "resetkeys", "~rt:*", "resetchannels", "&rt:*", "nocommands",
        "+evalsha", "+script|load", "+info", "+ping", "+subscribe", "+unsubscribe", "+publish",
        "+hmget", "+hset", "+hincrby", "+del", "+xadd", "+xrange", "+xrevrange", "+pexpire", "+pttl", "+get", "+set",
        "+mget", "+sadd", "+srem", "+smembers", "+exists", "+hdel", "+hexists", "+hget", "+hgetall", "+hlen", "+time",
        "+zadd", "+zcard", "+zcount", "+zrangebyscore", "+zrem",
    )  # fmt: skip
    url = store.url.replace("unix://", "unix://rt:secret@")
    async with Worker(url) as worker:
        await worker.broker.subscribe(CHANNEL)
        keyed = STORED._replace(idempotency_key="k")
        await worker.broker.publish(CHANNEL, body(1), keyed)
        assert len((await worker.broker.history(CHANNEL, limit=-1, meta_ttl=META_TTL)).publications) == 1
        assert len((await worker.broker.history(CHANNEL, limit=1, reverse=True, meta_ttl=META_TTL)).publications) == 1
        await worker.broker.remove_history(CHANNEL)
        await use_everything_else(worker)
        assert await worker.broker.workers() == [b"node"]
        await eventually(lambda: worker.removed == [CHANNEL])


@asynchronous
async def test_a_wrong_password_is_said_and_mended_by_the_operator(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """Never with the password in the line."""
    store.command("CONFIG", "SET", "requirepass", "right")
    async with Worker(store.url.replace("unix://", "unix://:wr0ng@"), wait=False) as worker:
        await eventually(lambda: caplog.messages)
        assert "auth" in caplog.text and "wr0ng" not in caplog.text
        assert any("WRONGPASS" in reason for reason in worker.broker.status().reasons)
        error = await outcome(worker.broker.publish(CHANNEL, body(1), STORED))
        assert isinstance(error, StoreError) and error.definite


@asynchronous
async def test_no_password_where_one_is_needed(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """It is an error of the login, not of the first publish."""
    store.command("CONFIG", "SET", "requirepass", "right")
    async with Worker(store, wait=False) as worker:
        await eventually(lambda: "auth" in caplog.text)
        assert not worker.broker.status().connected


@asynchronous
async def test_a_database_number_and_a_password(store: Store) -> None:
    """Keys are in that database; the bus is everywhere."""
    store.command("ACL", "SETUSER", "me", "on", ">p@ss", "~*", "&*", "+@all")
    async with Worker(store.url.replace("unix://", "unix://me:p%40ss@") + "?db=3") as worker:
        await worker.broker.publish(CHANNEL, body(1), STORED)
        assert store.command("DBSIZE") == 0
        assert b"db3" in store.command("INFO", "keyspace")


@asynchronous
async def test_a_busy_store_refuses_definitely(store: Store) -> None:
    """While somebody's script does not end."""
    async with Worker(store, timeout=3.0) as worker:
        await publish_one(worker)
        with store.setting("busy-reply-threshold", 1):
            endless = asyncio.create_task(asyncio.to_thread(_endless, store))
            error: object = None
            while not (isinstance(error, Refusal) and error.kind == "busy"):
                error = await outcome(worker.broker.publish(CHANNEL, body(2), STORED))
            assert error.definite
            await asyncio.to_thread(store.command, "SCRIPT", "KILL")
            await endless
        await worker.ready()


async def publish_one(worker: Worker) -> None:
    """One publication, so that scripts and epoch are there."""
    await worker.broker.publish(CHANNEL, body(1), STORED)


def _endless(store: Store) -> None:
    with contextlib.suppress(redis.RedisError):
        store.command("EVAL", "while true do end", "0")


@asynchronous
async def test_a_cancelled_call_goes_on_and_its_reply_reaches_nobody_else(store: Store) -> None:
    """Ten thousand calls, many of them cancelled at random moments: every reply has the tag of its call."""
    async with Worker(store, timeout=5.0) as worker:
        calls: list[tuple[str, asyncio.Future[Position]]] = []
        expected = {}
        for n in range(50):
            expected[f"c{n}"] = (await worker.broker.publish(f"c{n}", body(n), STORED)).position
        for n in range(10_000):
            channel = f"c{n % 50}"
            calls.append((channel, worker.broker.position(channel, META_TTL)))
            if n % 7 == 0:
                calls[n // 2][1].cancel()
            if n % 500 == 0:
                await asyncio.sleep(0)
        for channel, call in calls:
            with contextlib.suppress(asyncio.CancelledError):
                assert await call == expected[channel]
        assert worker.broker.status().connected and worker.broker.counters.reconnects == 0


@asynchronous
async def test_no_task_is_made_per_publish(store: Store) -> None:
    """A future each, and one write for all of a turn."""
    async with Worker(store) as worker:
        before = len(asyncio.all_tasks())
        calls = [worker.broker.publish(CHANNEL, body(n), STORED) for n in range(100)]
        assert len(asyncio.all_tasks()) == before
        await asyncio.gather(*calls)


@asynchronous
async def test_reads_share_the_deadline(store: Store) -> None:
    """They go again by themselves, and are over at the timeout all the same."""
    async with Worker(store, timeout=0.2) as worker:
        with store.paused():
            began = time.monotonic()
            error = await outcome(worker.broker.position(CHANNEL, META_TTL))
            assert isinstance(error, StoreError)
            assert time.monotonic() - began < 0.4
        await worker.ready()
