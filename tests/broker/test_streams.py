"""rt.broker.streams: versions of publications, and changes told on a channel."""

from __future__ import annotations

import asyncio

import pytest

from rt import errors
from rt.broker import Published, PublishOptions
from rt.broker.bus import MAX_INFO
from rt.errors import Refused
from rt.protocol.publication import Change, Position
from tests.brokers import META_TTL, STORED, VOLATILE, Worker, asynchronous, body
from tests.stores import Store
from tests.waiting import eventually


def versioned(version: int, epoch: str = "") -> PublishOptions:
    """With history."""
    return STORED._replace(version=version, version_epoch=epoch)


@asynchronous
async def test_an_old_version_is_not_published(shared_store: Store, channel: str) -> None:
    """The same one neither; the answer is the top."""
    async with Worker(shared_store) as worker:
        await worker.broker.subscribe(channel)
        first = await worker.broker.publish(channel, body(1), versioned(5))
        assert first == Published(Position(first.position.epoch, 1), duplicate=False, suppressed=False)
        await worker.broker.publish(channel, body(2), STORED)
        top = Position(first.position.epoch, 2)
        for version in (5, 4, 1):
            old = await worker.broker.publish(channel, body(9), versioned(version))
            assert old == Published(top, duplicate=False, suppressed=True)
        after = await worker.broker.publish(channel, body(3), versioned(6))
        assert after == Published(Position(top.epoch, 3), duplicate=False, suppressed=False)
        await eventually(lambda: len(worker.bodies(channel)) == 3)
        assert worker.bodies(channel) == [body(1), body(2), body(3)]
        page = await worker.broker.history(channel, limit=-1, meta_ttl=META_TTL)
        assert [found.body for found in page.publications] == [body(1), body(2), body(3)]
        counters = worker.broker.counters
        assert (counters.published, counters.suppressed, counters.duplicates) == (3, 3, 0)


@asynchronous
async def test_versions_beyond_what_a_double_holds_are_told_apart(shared_store: Store, channel: str) -> None:
    """Up to 64 bits; and 10 is more than 9."""
    async with Worker(shared_store) as worker:
        for version, suppressed in (
            (9, False), (10, False), (9, True), (2**53, False), (2**53 + 1, False), (2**53, True),
            (2**64 - 2, False), (2**64 - 1, False), (2**64 - 1, True), (2**64 - 2, True),
        ):  # fmt: skip
            published = await worker.broker.publish(channel, body(1), versioned(version))
            assert published.suppressed is suppressed, version


@asynchronous
async def test_another_version_epoch_begins_anew(shared_store: Store, channel: str) -> None:
    """An empty one is compared with whatever was last."""
    async with Worker(shared_store) as worker:
        for version, epoch, suppressed in (
            (5, "a", False), (5, "a", True), (1, "b", False), (1, "b", True), (5, "a", False),
            (5, "", True), (6, "", False), (3, "", True), (3, "a", False),
        ):  # fmt: skip
            published = await worker.broker.publish(channel, body(1), versioned(version, epoch))
            assert published.suppressed is suppressed, (version, epoch)


@asynchronous
async def test_without_history_there_are_no_versions(shared_store: Store, channel: str) -> None:
    """Each is handed over."""
    async with Worker(shared_store) as worker:
        await worker.broker.subscribe(channel)
        for _ in range(2):
            options = VOLATILE._replace(version=5)
            assert not (await worker.broker.publish(channel, body(1), options)).suppressed
        await eventually(lambda: len(worker.bodies(channel)) == 2)


@asynchronous
async def test_a_key_goes_before_a_version(shared_store: Store, channel: str) -> None:
    """A repeat gets the first result; a suppressed publish has none to keep."""
    async with Worker(shared_store) as worker:
        first = await worker.broker.publish(channel, body(1), versioned(5)._replace(idempotency_key="a"))
        again = await worker.broker.publish(channel, body(1), versioned(5)._replace(idempotency_key="a"))
        assert again == Published(first.position, duplicate=True, suppressed=False)
        for _ in range(2):
            old = await worker.broker.publish(channel, body(2), versioned(4)._replace(idempotency_key="b"))
            assert old == Published(first.position, duplicate=False, suppressed=True)
        new = await worker.broker.publish(channel, body(3), versioned(6)._replace(idempotency_key="b"))
        assert not new.duplicate and not new.suppressed


@pytest.mark.parametrize("by", ["publish", "read"])
@asynchronous
async def test_a_new_epoch_forgets_the_version(store: Store, channel: str, by: str) -> None:
    """The publication it stood for can no longer be recovered."""
    async with Worker(store, lineage="old") as worker:
        before = await worker.broker.publish(channel, body(1), versioned(5))
        worker.broker.set_lineage("new")
        if by == "read":
            await worker.broker.position(channel, META_TTL)
        after = await worker.broker.publish(channel, body(1), versioned(5))
        assert after.position.epoch != before.position.epoch and not after.suppressed
        assert (await worker.broker.publish(channel, body(1), versioned(5))).suppressed


@asynchronous
async def test_a_removed_history_keeps_the_version(shared_store: Store, channel: str) -> None:
    """Like epoch and offset."""
    async with Worker(shared_store) as worker:
        await worker.broker.publish(channel, body(1), versioned(5))
        await worker.broker.remove_history(channel)
        assert (await worker.broker.publish(channel, body(1), versioned(5))).suppressed


@asynchronous
async def test_racers_with_one_version_publish_once(shared_store: Store, channel: str) -> None:
    """Whichever worker they asked."""
    async with Worker(shared_store) as one, Worker(shared_store) as two:
        racing = [(one, two)[n % 2].broker.publish(channel, body(n), versioned(5)) for n in range(50)]
        results = await asyncio.gather(*racing)
        assert sorted(result.suppressed for result in results) == [False] + [True] * 49
        assert len({result.position for result in results}) == 1


@asynchronous
async def test_a_change_is_told_to_all_and_kept_nowhere(shared_store: Store, channel: str) -> None:
    """In order with the publications, and it moves no position."""
    join, leave = Change("join", b'{"client":"a:b"}'), Change("leave", b'{"client":"a:b"}')
    async with Worker(shared_store) as one, Worker(shared_store) as two:
        await asyncio.gather(one.broker.subscribe(channel), two.broker.subscribe(channel))
        await one.broker.announce(channel, join)
        await one.broker.announce(channel, leave)
        await one.broker.publish(channel, body(1), VOLATILE)
        for worker in (one, two):
            await eventually(lambda worker=worker: worker.bodies(channel) == [body(1)])  # type: ignore[misc]
            assert worker.changes[channel] == [join, leave]
            assert worker.broker.counters.bus_dropped == 0
        assert shared_store.command("KEYS", f"*{{{channel}}}*") == []


@asynchronous
async def test_an_info_beyond_the_bound_is_refused(shared_store: Store, channel: str) -> None:
    """It would be dropped by whoever hears it."""
    async with Worker(shared_store) as worker:
        with pytest.raises(Refused) as caught:
            await worker.broker.announce(channel, Change("join", b"{" + b" " * MAX_INFO + b"}"))
        assert caught.value.error is errors.LIMIT_EXCEEDED


@asynchronous
async def test_a_name_with_a_brace_is_refused_by_every_call(shared_store: Store) -> None:
    """It would be another channel's key."""
    async with Worker(shared_store) as worker:
        for call in (
            lambda: worker.broker.announce("a}", Change("join", b"{}")),
            lambda: worker.broker.enter("{a", [], announce=False),
            lambda: worker.broker.leave("a}:x", "c", announce=False),
            lambda: worker.broker.presence("a}"),
            lambda: worker.broker.presence_stats("a}"),
        ):
            with pytest.raises(ValueError, match="brace"):
                call()
