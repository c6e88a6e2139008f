"""rt.broker.quotas: buckets that all workers share, by the store's clock."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from rt.broker import Drawn
from rt.errors import StoreError
from tests.brokers import Worker, asynchronous, outcome
from tests.faults.link import Link
from tests.stores import Store

RULE = "publish:user:"


def key(subject: str, rule: str = RULE) -> str:
    """The bucket's key in the store."""
    return f"rt:default:quota:{{{rule}:{subject}}}"


async def draw(worker: Worker, subject: str, count: int = 1, **numbers: Any) -> Drawn:
    """A slow bucket of ten, unless told otherwise."""
    numbers = {"rate": 0.1, "capacity": 10.0} | numbers
    return await worker.broker.draw(RULE, subject, count=count, **numbers)


@asynchronous
async def test_all_workers_draw_from_one_bucket(shared_store: Store, channel: str) -> None:
    """What one takes is not there for the other; what is not there is not taken."""
    async with Worker(shared_store) as one, Worker(shared_store) as two:
        assert await draw(one, channel, 4) == (4, 0.0)
        assert await draw(two, channel, 4) == (4, 0.0)
        taken, wait = await draw(one, channel, 4)
        assert taken == 2 and 9.0 < wait <= 10.0
        taken, wait = await draw(two, channel)
        assert taken == 0 and 8.0 < wait <= 10.0


@asynchronous
async def test_tokens_come_back_by_the_stores_clock(shared_store: Store, channel: str) -> None:
    """Over a second as many as the rate says, and a bucket that is full again has no key."""
    async with Worker(shared_store) as worker:
        began, got = time.monotonic(), 0
        while (took := time.monotonic() - began) < 1.0:
            got += (await draw(worker, channel, 5, rate=50.0, capacity=5.0)).taken
            await asyncio.sleep(0.01)
        assert 5 + 50 * took - 3 <= got <= 5 + 50 * took + 3
        assert 0 < shared_store.command("PTTL", key(channel)) <= 1100


@asynchronous
async def test_a_debt_is_taken_whatever_is_there(shared_store: Store, channel: str) -> None:
    """And nothing is given until it is paid."""
    async with Worker(shared_store) as worker:
        assert (await draw(worker, channel, 25, debt=True)).taken == 25
        taken, wait = await draw(worker, channel)
        assert taken == 0 and 150 < wait <= 160


@asynchronous
async def test_another_rate_fills_no_bucket(shared_store: Store, channel: str) -> None:
    """What is missing is kept as tokens: after a reload they come back at the new rate."""
    async with Worker(shared_store) as worker:
        await draw(worker, channel, 10)
        taken, wait = await draw(worker, channel, rate=1.0)
        assert taken == 0 and 0.8 < wait <= 1.0
        taken, wait = await draw(worker, channel, capacity=20.0)
        assert taken == 1  # ten more fit now, but what was taken stays taken
        assert (await draw(worker, channel, capacity=2.0)).taken == 0


@pytest.mark.parametrize("hours", [-1, 1])
@asynchronous
async def test_a_clock_that_is_set_locks_nobody_out(shared_store: Store, channel: str, hours: int) -> None:
    """P16: an hour back or forth. Back, tokens come as ever from then on; forth, the bucket is full."""
    async with Worker(shared_store) as worker:
        await draw(worker, channel, 10)
        missing, at = shared_store.command("GET", key(channel)).split()
        shared_store.command("SET", key(channel), b"%s %d" % (missing, int(at) - hours * 3600 * 10**6))
        taken, wait = await draw(worker, channel, 5)
        if hours > 0:
            assert taken == 5
        else:
            assert taken == 0 and wait <= 10.0
            await asyncio.sleep(0.2)
            assert (await draw(worker, channel, 5, rate=50.0)).taken >= 5


@asynchronous
async def test_each_subject_of_each_rule_has_its_own(shared_store: Store, channel: str) -> None:
    """Whatever its name holds."""
    subjects = [channel + text for text in ("", "{", "}", "a}b", ":", "ж", "a b", "a\x00")]
    async with Worker(shared_store) as worker:
        for subject in subjects:
            assert (await draw(worker, subject, 10)).taken == 10
        assert (await worker.broker.draw("publish:ip:", channel, rate=1.0, capacity=10.0, count=10)).taken == 10
        for subject in subjects:
            assert (await draw(worker, subject)).taken == 0


@asynchronous
async def test_rubbish_in_the_store_is_a_full_bucket(shared_store: Store, channel: str) -> None:
    """F04 and its kin: an empty restart, or another's key, only fill it."""
    async with Worker(shared_store) as worker:
        await draw(worker, channel, 10)
        for rubbish in ("", "x", "5", "nan nan", "1e999 5"):
            shared_store.command("SET", key(channel), rubbish)
            assert (await draw(worker, channel, 10)).taken in (0, 10)
        shared_store.command("DEL", key(channel))
        assert (await draw(worker, channel, 10)).taken == 10
        shared_store.command("SCRIPT", "FLUSH")
        assert (await draw(worker, channel, 1)).taken == 0


@asynchronous
async def test_a_bucket_goes_when_it_is_full(shared_store: Store, channel: str) -> None:
    """No key outlives what it says; the slowest bucket lives as long as it needs."""
    async with Worker(shared_store) as worker:
        await draw(worker, channel, 1, rate=1000.0)
        assert shared_store.command("PTTL", key(channel)) <= 1001
        await draw(worker, channel, 10, rate=1 / 86400)
        assert 9 * 86400_000 < shared_store.command("PTTL", key(channel)) <= 10 * 86400_000 + 1000


@asynchronous
async def test_a_store_that_is_away_fails_the_call(store: Store) -> None:
    """At once when it is known to be away, within the timeout when it says nothing."""
    with Link(store) as link:
        async with Worker(link.url, timeout=0.3) as worker:
            assert (await draw(worker, "u")).taken == 1
            with link.black_hole():
                began = time.monotonic()
                assert isinstance(await outcome(draw(worker, "u")), StoreError)
                assert time.monotonic() - began < 1.0
