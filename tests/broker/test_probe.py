"""rt.broker.probe: ready means that the whole way through the store works."""

from __future__ import annotations

import time

from tests.brokers import STORED, Worker, asynchronous, body
from tests.faults.link import Link
from tests.stores import Store
from tests.waiting import eventually

INTERVAL = 0.3


@asynchronous
async def test_a_deaf_connection_is_noticed_and_replaced(store: Store) -> None:
    """It answers PING and swallows what is published: red within two intervals, then a new connection, then green."""
    with Link(store) as link:
        async with Worker(link.url, probe_interval=INTERVAL, timeout=0.1) as worker:
            await worker.broker.subscribe("a")
            with link.swallowing("message"):
                began = time.monotonic()
                await eventually(lambda: not worker.broker.ready)
                assert time.monotonic() - began <= 2 * INTERVAL + 0.1
                assert any("probe" in reason for reason in worker.broker.status().reasons)
                await eventually(lambda: worker.resumed >= 1)
                assert link.count("swallowed")
            await eventually(lambda: worker.broker.ready)
            await worker.broker.publish("a", body(1), STORED)
            await eventually(lambda: body(1) in worker.bodies("a"))


@asynchronous
async def test_a_connection_to_another_store_is_noticed(store: Store) -> None:
    """The subscriber hangs on a store that nobody publishes to."""
    with Store() as other, Link(store) as link:
        async with Worker(link.url, probe_interval=INTERVAL, timeout=0.1) as worker:
            link.point(other)
            store.command("CLIENT", "KILL", "TYPE", "pubsub")
            await eventually(lambda: not worker.broker.ready)
            link.point(store)
            await eventually(lambda: worker.broker.ready)
            await worker.ready()


@asynchronous
async def test_a_probe_that_cannot_be_published_costs_no_connection(store: Store) -> None:
    """It says nothing about the receiving side."""
    async with Worker(store, probe_interval=INTERVAL) as worker:
        store.command("ACL", "SETUSER", "default", "-evalsha")
        failures = worker.broker.counters.probe_failures
        await eventually(lambda: not worker.broker.ready)
        assert worker.broker.counters.probe_failures > failures
        assert worker.broker.status().subscribed and worker.resumed == 0
        assert worker.broker.counters.reconnects == 0
        store.command("ACL", "SETUSER", "default", "+evalsha")
        await eventually(lambda: worker.broker.ready)


@asynchronous
async def test_a_store_that_is_gone_is_red_within_two_intervals(store: Store) -> None:
    """And green soon after it is back."""
    async with Worker(store, probe_interval=INTERVAL) as worker:
        with store.down():
            began = time.monotonic()
            await eventually(lambda: not worker.broker.ready)
            assert time.monotonic() - began <= 2 * INTERVAL + 0.1
        await eventually(lambda: worker.broker.ready)


@asynchronous
async def test_two_workers_of_one_name_do_not_hear_each_other(store: Store) -> None:
    """A probe is its sender's alone."""
    async with Worker(store, name="same", probe_interval=60.0) as one, Worker(store, name="same", probe_interval=60.0):
        seen = one.broker._probe.seen_at
        store.command("PUBLISH", "rt:default:probe:{same}", b'1p::0:1:{"probe":"0"}')
        await one.broker.publish("a", body(1), STORED)
        assert one.broker._probe.seen_at == seen


@asynchronous
async def test_a_lineage_that_changes_under_a_live_connection_is_noticed(store: Store) -> None:
    """With the next probe: the server was a replica for a moment, and nobody called it meanwhile."""
    async with Worker(store, probe_interval=INTERVAL) as worker:
        before = (await worker.broker.publish("a", body(1), STORED)).position
        store.command("REPLICAOF", "127.0.0.1", "1")
        store.command("REPLICAOF", "NO", "ONE")
        await eventually(lambda: worker.broker.counters.lineage_renewals == 1)
        await eventually(lambda: worker.resumed == 1)
        after = (await worker.broker.publish("a", body(2), STORED)).position
        assert after.epoch != before.epoch


@asynchronous
async def test_the_way_of_a_probe_is_measured(store: Store) -> None:
    """Once per probe, by one clock: a store that is far away shows."""
    lags: list[float] = []
    with Link(store) as link:
        async with Worker(link.url, probe_interval=INTERVAL) as worker:
            worker.broker.watch_lag(lags.append)
            await eventually(lambda: len(lags) >= 2)
            assert all(0 < lag < INTERVAL for lag in lags)
