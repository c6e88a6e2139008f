"""rt.broker.presence: who is there, told once, and gone in time."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import pytest

from rt.broker import Member, Stats
from rt.broker.presence import BATCH
from rt.protocol.publication import Change
from tests.brokers import Worker, asynchronous
from tests.stores import Store
from tests.waiting import eventually

SWEEP = 1000
"""Members that one call sweeps; see presence.lua."""


def member(client: str, user: str = "u") -> Member:
    """A member whose info can be told from others."""
    return Member(client, user, b'{"user":"%s","client":"%s"}' % (user.encode(), client.encode()))


def joined(one: Member) -> Change:
    """Its join."""
    return Change("join", one.info)


def left(one: Member) -> Change:
    """Its leave."""
    return Change("leave", one.info)


def due(channel: str) -> str:
    """The key of the times."""
    return f"rt:default:{{{channel}}}:presence:due"


def end_the_time_of(store: Store, channel: str, *clients: str) -> None:
    """As if nobody had spoken of them for a long time."""
    for client in clients:
        store.command("ZADD", due(channel), "XX", 1, client)


def nothing_is_kept(store: Store, channel: str) -> bool:
    """Whether the store has no key of the channel."""
    return bool(store.command("KEYS", f"rt:default:{{{channel}}}:*") == [])


@asynchronous
async def test_who_comes_and_goes_is_there_and_told(shared_store: Store, channel: str) -> None:
    """To every worker; the numbers are those of the moment after."""
    a, b, c = member("a", "ann"), member("b", "bob"), member("c", "ann")
    async with Worker(shared_store) as one, Worker(shared_store) as two:
        await asyncio.gather(one.broker.subscribe(channel), two.broker.subscribe(channel))
        assert await one.broker.presence(channel) == {}
        assert await one.broker.presence_stats(channel) == Stats(0, 0)
        assert await one.broker.enter(channel, [a], announce=True) == 1
        assert await two.broker.enter(channel, [b, c], announce=True) == 3
        assert await one.broker.presence(channel) == {"a": a.info, "b": b.info, "c": c.info}
        assert await two.broker.presence_stats(channel) == Stats(3, 2)
        await one.broker.leave(channel, "a", announce=True)
        assert await two.broker.presence(channel) == {"b": b.info, "c": c.info}
        assert await two.broker.presence_stats(channel) == Stats(2, 2)
        await two.broker.leave(channel, "c", announce=True)
        await two.broker.leave(channel, "b", announce=True)
        expected = [joined(a), joined(b), joined(c), left(a), left(c), left(b)]
        for worker in (one, two):
            await eventually(lambda worker=worker: len(worker.changes.get(channel, [])) == 6)  # type: ignore[misc]
            assert worker.changes[channel] == expected
        assert nothing_is_kept(shared_store, channel)


@asynchronous
async def test_nobody_comes_or_goes_twice(shared_store: Store, channel: str) -> None:
    """Whatever is said again."""
    a = member("a")
    async with Worker(shared_store) as worker:
        await worker.broker.subscribe(channel)
        for _ in range(3):
            assert await worker.broker.enter(channel, [a, a], announce=True) == 1
        assert await worker.broker.presence_stats(channel) == Stats(1, 1)
        for _ in range(3):
            await worker.broker.leave(channel, "a", announce=True)
        await worker.broker.leave(channel, "never there", announce=True)
        await worker.broker.announce(channel, Change("join", b'{"last":1}'))
        await eventually(lambda: Change("join", b'{"last":1}') in worker.changes.get(channel, []))
        assert worker.changes[channel][:-1] == [joined(a), left(a)]


@asynchronous
async def test_without_announce_nothing_is_told(shared_store: Store, channel: str) -> None:
    """Neither by coming nor by going nor by a sweep."""
    async with Worker(shared_store) as worker:
        await worker.broker.subscribe(channel)
        await worker.broker.enter(channel, [member("a"), member("b")], announce=False)
        await worker.broker.leave(channel, "a", announce=False)
        end_the_time_of(shared_store, channel, "b")
        assert await worker.broker.presence(channel) == {}
        await worker.broker.announce(channel, Change("leave", b'{"last":1}'))
        await eventually(lambda: worker.changes.get(channel))
        assert worker.changes[channel] == [Change("leave", b'{"last":1}')]


@asynchronous
async def test_names_may_hold_anything(shared_store: Store, channel: str) -> None:
    """Users with colons, digits, braces, NUL and letters of any script; none of them takes another's place."""
    users = ["", "1:2", "0:3:abc", "{a}", "\x00", "ж", "a\nb", "1", "__proto__"]
    members = [Member(f"c{n}", user, b'{"n":%d}' % n) for n, user in enumerate(users)]
    async with Worker(shared_store) as worker:
        await worker.broker.subscribe(channel)
        await worker.broker.enter(channel, members, announce=True)
        assert await worker.broker.presence(channel) == {one.client: one.info for one in members}
        assert await worker.broker.presence_stats(channel) == Stats(len(users), len(users))
        for one in members:
            await worker.broker.leave(channel, one.client, announce=True)
        assert nothing_is_kept(shared_store, channel)
        await eventually(lambda: len(worker.changes.get(channel, [])) == 2 * len(users))
        assert worker.changes[channel][len(users) :] == [left(one) for one in members]


CALLS = ["enter", "leave", "presence", "presence_stats"]


@pytest.mark.parametrize("call", CALLS)
@asynchronous
async def test_every_call_sweeps_out_whose_time_is_over(shared_store: Store, channel: str, call: str) -> None:
    """And tells their leave, once."""
    a, b = member("a", "ann"), member("b", "bob")
    async with Worker(shared_store) as worker:
        await worker.broker.subscribe(channel)
        await worker.broker.enter(channel, [a, b], announce=True)
        end_the_time_of(shared_store, channel, "a")
        if call == "enter":
            assert await worker.broker.enter(channel, [b], announce=True, refresh=True) == 1
        elif call == "leave":
            await worker.broker.leave(channel, "a", announce=True)
        elif call == "presence":
            assert await worker.broker.presence(channel) == {"b": b.info}
        else:
            assert await worker.broker.presence_stats(channel) == Stats(1, 1)
        await worker.broker.leave(channel, "b", announce=True)
        await eventually(lambda: left(b) in worker.changes[channel])
        assert worker.changes[channel] == [joined(a), joined(b), left(a), left(b)]


@asynchronous
async def test_a_worker_that_dies_is_gone_within_the_ttl(shared_store: Store, channel: str) -> None:
    """The store's own clock says so, and the other worker's refresh tells it although nobody asks."""
    a, b = member("a"), member("b")
    async with Worker(shared_store, presence_ttl=0.3) as one:
        await one.broker.subscribe(channel)
        async with Worker(shared_store, presence_ttl=0.3) as two:
            await two.broker.enter(channel, [b], announce=True)
        await one.broker.enter(channel, [a], announce=True)

        async def refreshed() -> None:
            while left(b) not in one.changes[channel]:
                await one.broker.enter(channel, [a], announce=True, refresh=True)

        async with asyncio.timeout(5):
            await refreshed()
        assert await one.broker.presence(channel) == {"a": a.info}
        assert one.changes[channel] == [joined(b), joined(a), left(b)]


@asynchronous
async def test_the_keys_outlive_the_members_and_then_go(shared_store: Store, channel: str) -> None:
    """So that whoever looks after the time of the last one finds it and tells its leave; nothing stays for ever."""
    async with Worker(shared_store, presence_ttl=100.0) as worker:
        await worker.broker.enter(channel, [member("a")], announce=True)
        for key in shared_store.command("KEYS", f"rt:default:{{{channel}}}:presence*"):
            assert 190_000 < shared_store.command("PTTL", key) <= 200_000
        assert len(shared_store.command("KEYS", f"rt:default:{{{channel}}}:presence*")) == 3


@asynchronous
async def test_a_refresh_tells_no_join_and_brings_back_what_the_store_lost(store: Store, channel: str) -> None:
    """The whole member, not only its time."""
    members = [member(f"c{n}", f"u{n % 3}") for n in range(7)]
    async with Worker(store) as worker:
        await worker.broker.subscribe(channel)
        await worker.broker.enter(channel, members, announce=False)
        store.command("FLUSHALL")
        assert await worker.broker.presence(channel) == {}
        assert await worker.broker.enter(channel, members, announce=True, refresh=True) == 7
        assert await worker.broker.presence_stats(channel) == Stats(7, 3)
        await worker.broker.leave(channel, "c0", announce=True)
        await eventually(lambda: worker.changes.get(channel))
        assert worker.changes[channel] == [left(members[0])]


@asynchronous
async def test_a_refresh_may_bring_another_info(shared_store: Store, channel: str) -> None:
    """It is what others see from then on, in the leave too."""
    async with Worker(shared_store) as worker:
        await worker.broker.subscribe(channel)
        await worker.broker.enter(channel, [Member("a", "u", b'{"v":1}')], announce=True)
        await worker.broker.enter(channel, [Member("a", "u", b'{"v":2}')], announce=True, refresh=True)
        assert await worker.broker.presence(channel) == {"a": b'{"v":2}'}
        await worker.broker.leave(channel, "a", announce=True)
        await eventually(lambda: len(worker.changes.get(channel, [])) == 2)
        assert worker.changes[channel] == [Change("join", b'{"v":1}'), Change("leave", b'{"v":2}')]


@asynchronous
async def test_a_crowd_that_is_gone_is_seen_by_nobody_and_told_once(shared_store: Store, channel: str) -> None:
    """More than one sweep takes; two workers ask at once, again and again."""
    crowd = [member(f"c{n}", f"u{n % 100}") for n in range(2 * SWEEP + 345)]
    stay = [member("stay1", "s"), member("stay2", "u1")]
    async with Worker(shared_store) as one, Worker(shared_store) as two:
        await one.broker.subscribe(channel)
        assert await one.broker.enter(channel, crowd, announce=True) == len(crowd)
        await two.broker.enter(channel, stay, announce=True)
        shared_store.command(
            "EVAL",
            "for _, id in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do"
            " if string.sub(id, 1, 4) ~= 'stay' then redis.call('ZADD', KEYS[1], 1, id) end end",
            1,
            due(channel),
        )
        assert await two.broker.presence_stats(channel) == Stats(2, 2)
        assert await two.broker.presence(channel) == {each.client: each.info for each in stay}
        assert await one.broker.enter(channel, stay[:1], announce=True, refresh=True) == 2
        await asyncio.gather(*(worker.broker.presence_stats(channel) for worker in (one, two) for _ in range(5)))
        assert await two.broker.presence_stats(channel) == Stats(2, 2)
        await two.broker.leave(channel, "stay2", announce=True)
        await eventually(lambda: left(stay[1]) in one.changes[channel])
        told = Counter(one.changes[channel])
        assert set(told.values()) == {1}
        assert all(told[left(each)] == 1 for each in crowd)


@asynchronous
async def test_many_members_enter_in_slices(shared_store: Store, channel: str) -> None:
    """One future for all of them."""
    members = [member(f"c{n}") for n in range(2 * BATCH + 1)]
    async with Worker(shared_store) as worker:
        assert await worker.broker.enter(channel, members, announce=False) == len(members)
        assert await worker.broker.enter(channel, [], announce=False) == len(members)


@pytest.mark.parametrize("lost", ["presence", "presence:due", "presence:users"])
@asynchronous
async def test_a_part_that_is_lost_takes_nobody_for_there_for_ever(
    shared_store: Store, channel: str, lost: str
) -> None:
    """The rest goes too, and comes back with the next refresh."""
    async with Worker(shared_store) as worker:
        await worker.broker.enter(channel, [member("dead"), member("a", "ann")], announce=False)
        shared_store.command("DEL", f"rt:default:{{{channel}}}:{lost}")
        assert await worker.broker.enter(channel, [member("a", "ann")], announce=False, refresh=True) == 1
        assert await worker.broker.presence(channel) == {"a": member("a", "ann").info}
        assert await worker.broker.presence_stats(channel) == Stats(1, 1)


@pytest.mark.parametrize("seed", range(3))
@asynchronous
async def test_a_thousand_random_calls_agree_with_a_model(shared_store: Store, channel: str, seed: int) -> None:
    """Members, users, and every join and leave in its order, over two workers and a forgotten script now and then."""
    chance = random.Random(seed)
    async with Worker(shared_store) as one, Worker(shared_store) as two:
        await one.broker.subscribe(channel)
        there: dict[str, Member] = {}
        told: list[Change] = []
        for n in range(1000):
            broker = chance.choice((one, two)).broker
            each = member(f"c{chance.randrange(8)}", f"u{chance.randrange(8) // 3}")
            each = there.get(each.client, each)
            what = chance.random()
            if what < 0.4:
                if each.client not in there:
                    told.append(joined(each))
                there[each.client] = each
                assert await broker.enter(channel, [each], announce=True) == len(there)
            elif what < 0.6:
                if there.pop(each.client, None):
                    told.append(left(each))
                await broker.leave(channel, each.client, announce=True)
            elif what < 0.7 and each.client in there:
                end_the_time_of(shared_store, channel, each.client)
                told.append(left(there.pop(each.client)))
                assert await broker.presence_stats(channel) == Stats(len(there), len({m.user for m in there.values()}))
            elif what < 0.98:
                assert await broker.presence(channel) == {m.client: m.info for m in there.values()}
            elif n % 2:
                shared_store.command("SCRIPT", "FLUSH")
        last = Change("join", b'{"last":1}')
        await one.broker.announce(channel, last)
        await eventually(lambda: one.changes[channel][-1] == last)
        assert one.changes[channel][:-1] == told
