"""rt.broker.sessions: what outlives a connection, and whether it must be looked for."""

from __future__ import annotations

import asyncio

import pytest

from rt import errors
from rt.broker.sessions import BATCH, MAX_FIELDS
from rt.errors import Refused, StoreError
from tests.brokers import Worker, asynchronous, outcome
from tests.faults.link import NOWHERE, Link
from tests.stores import Store
from tests.waiting import eventually

TTL = 100.0


@asynchronous
async def test_a_session_is_written_read_and_ended(shared_store: Store, channel: str) -> None:
    """Field by field, from any worker."""
    user = channel
    async with Worker(shared_store) as one, Worker(shared_store) as two:
        assert await one.broker.session(user) == {}
        await one.broker.update_session(user, {"a": b"1", "b": b"\x00\xff"}, ["c"], TTL)
        assert await two.broker.session(user) == {"a": b"1", "b": b"\x00\xff"}
        await two.broker.update_session(user, {"c": b"3"}, ["a", "never there"], TTL)
        assert await one.broker.session(user) == {"b": b"\x00\xff", "c": b"3"}
        await one.broker.update_session(user, {}, ["b", "c"], TTL)
        assert await two.broker.session(user) == {}
        assert shared_store.command("EXISTS", f"rt:default:session:{{{user}}}") == 0


@asynchronous
async def test_each_user_has_a_session_of_its_own(shared_store: Store) -> None:
    """Whatever its name holds."""
    users = ["", "{", "}", "a}b", "a}:session:{b", "a", "ж", "a\x00"]
    async with Worker(shared_store) as worker:
        for n, user in enumerate(users):
            await worker.broker.update_session(user, {"n": b"%d" % n}, [], TTL)
        for n, user in enumerate(users):
            assert await worker.broker.session(user) == {"n": b"%d" % n}


@asynchronous
async def test_a_session_lives_from_its_last_touch(store: Store) -> None:
    """Touching makes none; the mark outlives all of them."""
    async with Worker(store) as worker:
        await worker.broker.update_session("u", {"a": b"1"}, [], TTL)
        key, mark = "rt:default:session:{u}", "rt:default:sessions"
        assert 99_000 < store.command("PTTL", key) <= 100_000
        assert store.command("PTTL", mark) > 199_000
        await worker.broker.touch_sessions(["other", "u"], 150.0)
        assert 149_000 < store.command("PTTL", key) <= 150_000
        assert store.command("EXISTS", "rt:default:session:{other}") == 0
        await worker.broker.touch_sessions(["u"], 300.0)
        assert store.command("PTTL", mark) > 299_000
        await worker.broker.touch_sessions([], TTL)


@asynchronous
async def test_many_are_touched_in_slices(store: Store) -> None:
    """One future for all."""
    users = [f"u{n}" for n in range(BATCH + 5)]
    async with Worker(store) as worker:
        await asyncio.gather(*(worker.broker.update_session(user, {"a": b"1"}, [], TTL) for user in users))
        await worker.broker.touch_sessions(users, 200.0)
        assert all(store.command("PTTL", f"rt:default:session:{{{user}}}") > 199_000 for user in users[-7:])


@asynchronous
async def test_a_session_has_a_bound(shared_store: Store, channel: str) -> None:
    """More fields are refused, and nothing of that call is done; what changes or replaces is not more."""
    user = channel
    async with Worker(shared_store) as worker:
        full = {f"f{n}": b"1" for n in range(MAX_FIELDS)}
        await worker.broker.update_session(user, full, [], TTL)
        with pytest.raises(Refused) as caught:
            await worker.broker.update_session(user, {"new": b"1", "f0": b"2"}, ["never there"], TTL)
        assert caught.value.error is errors.LIMIT_EXCEEDED
        assert await worker.broker.session(user) == full
        await worker.broker.update_session(user, {"new": b"1", "f0": b"2"}, ["f1"], TTL)
        await worker.broker.update_session(user, {"f0": b"3"}, [], TTL)
        assert len(await worker.broker.session(user)) == MAX_FIELDS


@asynchronous
async def test_a_key_that_is_no_session_is_an_error_and_no_more(store: Store) -> None:
    """Somebody else's."""
    store.command("SET", "rt:default:session:{u}", "text")
    async with Worker(store) as worker:
        assert isinstance(await outcome(worker.broker.session("u")), StoreError)
        assert isinstance(await outcome(worker.broker.update_session("u", {"a": b"1"}, [], TTL)), StoreError)
        assert await worker.broker.session("v") == {}


@asynchronous
async def test_whether_sessions_are_used_is_known_by_all(store: Store) -> None:
    """Taken for true until the mark was read; the first session says so itself, no command is needed."""
    async with Worker(store, wait=False) as one:
        assert one.broker.sessions_used
        await one.ready()
    async with Worker(store) as one, Worker(store) as two:
        await eventually(lambda: not one.broker.sessions_used and not two.broker.sessions_used)
        writing = two.broker.update_session("u", {"a": b"1"}, [], TTL)
        assert two.broker.sessions_used
        await writing
        await eventually(lambda: one.broker.sessions_used)
        async with Worker(store) as three:
            for _ in range(3):
                await three.broker.session("u")
            assert three.broker.sessions_used


@asynchronous
async def test_touching_nothing_is_no_use(store: Store) -> None:
    """Nor is a session that was emptied."""
    async with Worker(store) as worker:
        await eventually(lambda: not worker.broker.sessions_used)
        await worker.broker.touch_sessions(["u"], TTL)
        await worker.broker.update_session("u", {}, ["a"], TTL)
        assert store.command("EXISTS", "rt:default:sessions") == 0


@asynchronous
async def test_a_reading_that_is_older_than_a_command_says_nothing(store: Store) -> None:
    """It was sent before, and answered after."""
    async with Worker(store) as worker:
        await eventually(lambda: not worker.broker.sessions_used)
        sessions = worker.broker._sessions
        sessions.look()
        sessions.found()
        await worker.broker.session("u")
        assert worker.broker.sessions_used


@asynchronous
async def test_a_worker_that_cannot_hear_takes_them_for_used(store: Store) -> None:
    """The first session may begin meanwhile; when the worker is back it looks again."""
    with Link(store) as link:
        async with Worker(link.url) as one, Worker(store) as two:
            await eventually(lambda: not one.broker.sessions_used)
            link.point(NOWHERE)
            one.broker._subscriber.replace("cut by the test")
            await eventually(lambda: one.broker.sessions_used)
            link.point(store)
            await eventually(lambda: not one.broker.sessions_used)
            link.point(NOWHERE)
            one.broker._subscriber.replace("cut by the test")
            await two.broker.update_session("u", {"a": b"1"}, [], TTL)
            link.point(store)
            await eventually(lambda: one.broker.status().subscribed)
            await one.broker.session("u")
            assert one.broker.sessions_used


@asynchronous
async def test_calls_fail_at_once_while_the_store_is_away(store: Store) -> None:
    """Like all others."""
    store.kill()
    async with Worker(store, wait=False) as worker:
        for call in (
            worker.broker.session("u"),
            worker.broker.update_session("u", {"a": b"1"}, [], TTL),
            worker.broker.touch_sessions(["u"], TTL),
        ):
            error = await outcome(call)
            assert isinstance(error, StoreError) and error.definite
        assert worker.broker.sessions_used


@asynchronous
async def test_a_lost_session_is_brought_back(store: Store) -> None:
    """What the store lost returns; what it has, or knows better by another field, does not."""
    known = [
        ("sub:a", b"old", ["off:a", "off:"]),
        ("sub:b", b"old", ["off:b", "off:"]),
        ("sub:c", b"old", ["off:c", "off:"]),
        ("info", b"old", []),
    ]
    async with Worker(store) as one, Worker(store) as two:
        await one.broker.update_session("u", {"sub:a": b"new", "off:b": b"new"}, [], TTL)
        for _ in range(2):
            await two.broker.restore_session("u", known, 50.0)
        assert await one.broker.session("u") == {
            "sub:a": b"new", "off:b": b"new", "sub:c": b"old", "info": b"old"
        }  # fmt: skip
        both = [("off:", b"old", []), *known]
        await two.broker.restore_session("v", both, TTL)
        assert set(await one.broker.session("v")) == {"off:", "sub:a", "sub:b", "sub:c", "info"}
        assert 99_000 < store.command("PTTL", "rt:default:session:{v}") <= 100_000


@asynchronous
async def test_who_thought_that_there_are_no_sessions_hears_of_one_brought_back(store: Store) -> None:
    """The mark was lost as well."""
    async with Worker(store) as one, Worker(store) as two:
        await eventually(lambda: not two.broker.sessions_used)
        await one.broker.restore_session("u", [("info", b"1", [])], TTL)
        await eventually(lambda: two.broker.sessions_used)
        await one.broker.restore_session("w", [(f"f{n}", b"1", []) for n in range(MAX_FIELDS + 1)], TTL)
        assert len(await one.broker.session("w")) == MAX_FIELDS


@asynchronous
async def test_the_mark_outlives_a_session_that_is_brought_back(store: Store) -> None:
    """Also where it was not lost, but was about to end."""
    async with Worker(store) as worker:
        await worker.broker.update_session("u", {"a": b"1"}, [], TTL / 10)
        await worker.broker.restore_session("v", [("info", b"1", [])], TTL)
        assert store.command("PTTL", "rt:default:sessions") > 199_000
