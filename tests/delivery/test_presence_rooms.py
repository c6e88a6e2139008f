"""Who is present where: said when somebody comes, said again, taken back when they go, whatever the store does."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from rt.config import Config
from rt.delivery.hub import Hub
from rt.delivery.presence import Presence
from rt.errors import SHUTDOWN
from tests.delivery.hubs import MemoryStore, Sdk, config, finish, later, make_hub, run, ticket, token, turns


def often(rate: float = 100.0) -> Config:
    """Said again all the time."""
    whole = config(presence_update_interval=0.01)
    return msgspec.structs.replace(whole, delivery=msgspec.structs.replace(whole.delivery, join_leave_rate=rate))


async def here(hub: Hub, store: MemoryStore, channel: str, user: str = "42", **fields: object) -> Sdk:
    """Somebody who is subscribed."""
    client = Sdk(hub, token(user))
    client.ask(2, "subscribe", channel=channel, **fields)
    await turns(store)
    assert "subscribe" in client.reply(2)
    return client


async def renewed(store: MemoryStore, channel: str) -> None:
    """Wait until those who are there have been said again."""
    before = len(store.calls)
    while not any(call[0] == "enter" and call[1] == channel for call in store.calls[before:]):
        store.answer()
        await asyncio.sleep(0)
    await turns(store)


def test_a_joiner_hears_its_own_join_behind_its_reply() -> None:
    """And the others hear it too, and that it leaves; the infos of both tokens are shown."""

    async def test() -> None:
        store = MemoryStore()
        hub = make_hub(store)
        first = await here(hub, store, "room:1", join_leave=True)
        second = Sdk(hub, token("43", info={"name": "b"}))
        second.ask(2, "subscribe", channel="room:1", token=ticket("room:1", "43", info={"role": "x"}), join_leave=True)
        await turns(store)
        kinds = [next(iter(message.get("push", message).keys() - {"id", "channel"})) for message in second.read()]
        assert kinds == ["connect", "subscribe", "join"]
        info = first.pushes("join")[1]["join"]["info"]
        assert info == second.pushes("join")[0]["join"]["info"]
        assert (info["user"], info["conn_info"], info["chan_info"]) == ("43", {"name": "b"}, {"role": "x"})
        second.connection.broken()
        await turns(store)
        assert first.pushes("leave")[0]["leave"]["info"] == info
        assert list(store.present["room:1"]) == [first.connection.id]
        await finish(hub)
        assert not store.present["room:1"]

    run(test)


def test_a_channel_that_only_tells_is_not_kept() -> None:
    """Joins and leaves are announced, and the store keeps nobody."""

    async def test() -> None:
        store = MemoryStore()
        hub = make_hub(store)
        client = await here(hub, store, "told:1")
        client.ask(3, "unsubscribe", channel="told:1")
        await turns(store)
        assert [change.kind for _, change in store.changes] == ["join", "leave"]
        assert not store.calls and not store.present["told:1"]
        assert len(client.pushes("join")) == 1
        await finish(hub)

    run(test)


def test_a_plain_channel_costs_nothing() -> None:
    """Neither a call nor a seat."""

    async def test() -> None:
        store = MemoryStore()
        hub = make_hub(store)
        await here(hub, store, "live:1")
        assert not store.calls and not hub.presence.count()
        await finish(hub)
        assert not store.calls

    run(test)


def test_a_token_may_switch_presence_off() -> None:
    """For its subscription alone."""

    async def test() -> None:
        store = MemoryStore()
        hub = make_hub(store)
        off = {"presence": {"value": False}, "join_leave": {"value": False}}
        await here(hub, store, "room:1", token=ticket("room:1", override=off))
        assert not store.calls
        await here(hub, store, "room:1")
        assert len(store.present["room:1"]) == 1
        await finish(hub)

    run(test)


def test_who_is_forgotten_by_the_store_is_said_again() -> None:
    """From the connections that live: an empty restart heals without a new join."""

    async def test() -> None:
        store = MemoryStore()
        hub = make_hub(store, often())
        client = await here(hub, store, "room:1")
        store.present.clear()
        told = len(store.changes)
        await renewed(store, "room:1")
        assert list(store.present["room:1"]) == [client.connection.id] and len(store.changes) == told
        await finish(hub)

    run(test)


def test_a_join_that_did_not_get_through_is_told_later() -> None:
    """Once, with the next renewal."""

    async def test() -> None:
        store = MemoryStore()
        hub = make_hub(store, often())
        client = await here(hub, store, "room:1")
        other = Sdk(hub, token("43"))
        other.ask(2, "subscribe", channel="room:1")
        store.away = True
        await turns(store)
        assert "subscribe" in other.reply(2), "the subscription does not depend on it"
        store.away = False
        await renewed(store, "room:1")
        await renewed(store, "room:1")
        assert set(store.present["room:1"]) == {client.connection.id, other.connection.id}
        assert [change.kind for _, change in store.changes] == ["join", "join"]
        await finish(hub)

    run(test)


def test_who_leaves_while_it_is_renewed_is_not_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A renewal in many parts asks before each of them who is still here."""
    monkeypatch.setattr("rt.delivery.presence.AT_ONCE", 1)

    async def test() -> None:
        store = MemoryStore()
        hub = make_hub(store, config())
        clients = [await here(hub, store, "room:1", str(n)) for n in range(3)]
        room = hub.presence._rooms["room:1"]
        hub.presence._due(room, hub.now())
        await asyncio.sleep(0)
        clients[2].connection.broken()
        await turns(store)
        assert set(store.present["room:1"]) == {client.connection.id for client in clients[:2]}
        await finish(hub)

    run(test)


def test_a_crowd_is_not_told_to_itself_one_by_one() -> None:
    """Beyond the rate nobody hears of it; presence is true all the same, and the tally says how many."""

    async def test() -> None:
        store = MemoryStore()
        hub = make_hub(store, often(rate=2.0))
        for n in range(6):
            await here(hub, store, "room:1", str(n))
        assert len(store.present["room:1"]) == 6
        assert len(store.changes) < 6 and hub.tally.drops["join_leave"] == 6 - len(store.changes)
        await finish(hub)

    run(test)


def test_another_info_is_shown_at_once() -> None:
    """Wherever the connection is present."""

    async def test() -> None:
        store = MemoryStore()
        hub = make_hub(store)
        client = await here(hub, store, "room:1")
        client.ask(3, "refresh", token=token(info={"n": 2}))
        await turns(store)
        assert b'"conn_info":{"n":2}' in store.present["room:1"][client.connection.id]
        assert len(store.changes) == 1, "nobody has come or gone"
        await finish(hub)

    run(test)


def test_a_room_that_is_empty_is_forgotten() -> None:
    """With its next renewal; one who comes before that finds it as it was."""

    async def test() -> None:
        store = MemoryStore()
        hub = make_hub(store, often())
        client = await here(hub, store, "room:1")
        client.ask(3, "unsubscribe", channel="room:1")
        await turns(store)
        while hub.presence._rooms:
            await asyncio.sleep(0)
        client.ask(4, "subscribe", channel="room:1")
        await turns(store)
        assert list(store.present["room:1"]) == [client.connection.id]
        await finish(hub)

    run(test)


def test_a_worker_that_leaves_takes_everybody_back() -> None:
    """Also who is closed after a renewal was due: nobody is to be seen until the time runs out."""

    async def test() -> None:
        store = MemoryStore()
        hub = make_hub(store)
        first, second = [await here(hub, store, "room:1", user) for user in ("1", "2")]
        hub.leaving = True
        first.connection.close(SHUTDOWN)
        hub.presence._due(hub.presence._rooms["room:1"], hub.now())
        second.connection.close(SHUTDOWN)
        await turns(store)
        assert not store.present["room:1"] and not hub.presence.count()
        await finish(hub)

    run(test)


def test_a_subscription_that_expires_is_no_presence() -> None:
    """Nor one that the client ended itself: whoever has the reply finds nobody."""

    async def test() -> None:
        store = MemoryStore()
        hub = make_hub(store)
        watcher = await here(hub, store, "room:1", "1")
        first = await here(hub, store, "room:1", token=ticket("room:1", exp=hub.wall() + 60))
        second = await here(hub, store, "room:1", "2")
        assert len(store.present["room:1"]) == 3
        later(hub, 61 + hub.config.client.expired_sub_close_delay)
        second.ask(3, "unsubscribe", channel="room:1")
        await turns(store)
        assert first.pushes("unsubscribe") and second.reply(3)
        watcher.ask(3, "presence", channel="room:1")
        await turns(store)
        assert list(watcher.reply(3)["presence"]["presence"]) == [watcher.connection.id]
        await finish(hub)

    run(test)


def test_leaving_what_one_is_not_in_is_harmless() -> None:
    """A joining subscription has no seat yet."""

    async def test() -> None:
        store = MemoryStore()
        hub = make_hub(store)
        client = Sdk(hub, token())
        client.ask(2, "subscribe", channel="room:1")
        assert isinstance(hub.presence, Presence) and hub.presence.leave("room:1", client.connection) is None
        client.connection.broken()
        await turns(store)
        assert not store.calls
        await finish(hub)

    run(test)
