"""Who is there, who comes and who goes: over every door, on every worker, and when a worker dies."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.clients import Api, PlainSocket, Reader, Reply, SdkClient, UniSocket, on_worker
from tests.eventsource import EventSource, UniStream
from tests.servers import WHOLE, Server, merged
from tests.tokens import connection_token, subscription_token
from tests.waiting import PATIENCE, eventually

CROWD = 1000
TTL = 3.0


def own_id(reader: Reader) -> str:
    """The client id that the server gave to ``reader``."""
    found = reader.connected["client"]
    assert isinstance(found, str)
    return found


def door(name: str, server: Server, channel: str, user: str) -> Reader:
    """A reader of ``channel`` as ``user``, not entered yet; the SDK's door and the bare ones take it from the token."""
    token = connection_token(user, info={"name": user}, channels=[channel] if name.startswith("uni") else [])
    query = f"token={token}"
    match name:
        case "sdk":
            return SdkClient(server, token=token)
        case "ws":
            return PlainSocket(server, [channel], query=query)
        case "sse":
            return EventSource(server, [channel], query=query)
        case "uni_websocket":
            return UniSocket(server, {"token": token})
        case "uni_sse":
            return UniStream(server, {"token": token})
    raise AssertionError(name)


DOORS = ("sdk", "ws", "sse", "uni_websocket", "uni_sse")


async def come(name: str, server: Server, channel: str, user: str) -> Reader:
    """Enter and be in ``channel``."""
    reader = door(name, server, channel, user)
    await reader.__aenter__()
    if isinstance(reader, SdkClient):
        await reader.subscribe(channel)
    return reader


@pytest.mark.parametrize("name", DOORS)
def test_who_is_there(whole: Server, channel: str, name: str) -> None:
    """Through whatever door somebody came, they are in presence while they are there, and not after."""

    async def run() -> None:
        where = f"room:{channel}"
        async with SdkClient(whole) as watcher, Api(whole) as api:
            assert await watcher.presence(where) == {}
            assert await watcher.presence_stats(where) == (0, 0)
            reader = await come(name, whole, where, "42")
            here = {own_id(reader): {"user": "42", "client": own_id(reader), "conn_info": {"name": "42"}}}
            await eventually_presence(watcher, where, here)
            assert (await api.call("presence", channel=where))["presence"] == here
            assert await watcher.presence_stats(where) == (1, 1)
            assert await api.call("presence_stats", channel=where) == {"num_clients": 1, "num_users": 1}
            await reader.close()
            await eventually_presence(watcher, where, {})
            assert await api.call("presence_stats", channel=where) == {"num_clients": 0, "num_users": 0}

    asyncio.run(run())


async def eventually_presence(watcher: SdkClient, channel: str, expected: dict[str, Any]) -> None:
    """Wait until presence is as ``expected``: other workers see somebody a moment after the reply to a subscribe."""
    deadline = time.monotonic() + PATIENCE
    while (found := await watcher.presence(channel)) != expected:
        assert time.monotonic() < deadline, f"{found} is not {expected}"


async def eventually_there(watcher: SdkClient, channel: str, expected: set[str]) -> None:
    """Wait until exactly these connections are there."""
    deadline = time.monotonic() + PATIENCE
    while (found := (await watcher.presence(channel)).keys()) != expected:
        assert time.monotonic() < deadline, f"{found} is not {expected}"


@pytest.mark.parametrize("name", DOORS)
def test_coming_and_going_is_seen_everywhere(whole: Server, channel: str, name: str) -> None:
    """A watcher at each door, on whichever worker, sees each other come and go once, its own coming included."""

    async def run() -> None:
        where = f"room:{channel}"
        watcher = await come(name, whole, where, "watcher")
        await eventually(lambda: watcher.changes(where) == [("join", own_id(watcher))], what="its own coming")
        guest = await on_worker(lambda: SdkClient(whole, token=connection_token("guest")), watcher.node.__ne__)
        await guest.subscribe(where, token="")
        await eventually(lambda: len(watcher.changes(where)) == 2)
        await guest.unsubscribe(where)
        await eventually(lambda: len(watcher.changes(where)) == 3)
        await guest.subscribe(where)
        await guest.abort()
        await eventually(lambda: len(watcher.changes(where)) == 5)
        came, went = ("join", own_id(guest)), ("leave", own_id(guest))
        assert watcher.changes(where) == [("join", own_id(watcher)), came, went, came, went]
        info = watcher.kinds(where, "leave")[0]["info"]
        assert info == {"user": "guest", "client": own_id(guest)}
        await watcher.close()

    asyncio.run(run())


def test_ones_own_coming_follows_the_reply(whole: Server, channel: str) -> None:
    """The reply to a subscribe is the first thing about a channel, one's own coming the second."""

    async def run() -> None:
        where = f"room:{channel}"
        async with SdkClient(whole) as client:
            result = await client.subscribe(where)
            assert "publications" not in result
            join = await client.until_push(where, "join")
            assert join["info"] == {"user": "", "client": own_id(client)}

    asyncio.run(run())


def test_changes_on_request(whole: Server, channel: str) -> None:
    """Where they are not forced on everybody, who asks for them sees them and nobody else does."""

    async def run() -> None:
        where = f"hall:{channel}"
        async with SdkClient(whole) as asked, SdkClient(whole) as silent, SdkClient(whole) as guest:
            await asked.subscribe(where, join_leave=True)
            await silent.subscribe(where)
            await guest.subscribe(where)
            await eventually(lambda: ("join", own_id(guest)) in asked.changes(where))
            await guest.publish(where, "a mark")
            await silent.until(where, 1)
            assert silent.changes(where) == guest.changes(where) == []

    asyncio.run(run())


def test_presence_without_changes(whole: Server, channel: str) -> None:
    """Where joins and leaves are off nobody sees any, whoever asks; presence is told all the same."""

    async def run() -> None:
        where = f"counted:{channel}"
        async with SdkClient(whole) as watcher, SdkClient(whole) as guest:
            await watcher.subscribe(where, join_leave=True)
            await guest.subscribe(where)
            await eventually_there(watcher, where, {own_id(watcher), own_id(guest)})
            assert await watcher.presence_stats(where) == (2, 1)
            await guest.publish(where, "a mark")
            await watcher.until(where, 1)
            assert watcher.changes(where) == []

    asyncio.run(run())


def test_changes_move_no_position(whole: Server, channel: str) -> None:
    """Joins and leaves have no offset and are in no history; who comes back is told none of the past ones."""

    async def run() -> None:
        where = f"room:{channel}"
        async with SdkClient(whole) as client, Api(whole) as api:
            await client.subscribe(where)
            await api.publish(where, 1)
            async with SdkClient(whole) as guest:
                await guest.subscribe(where)
            await eventually(lambda: ("leave", own_id(guest)) in client.changes(where))
            await api.publish(where, 2)
            await client.until(where, 2)
            assert [one.offset for one in client.received] == [1, 2]
            assert [one["data"] for one in (await client.history(where, limit=10))["publications"]] == [1, 2]
            before = len(client.changes(where))
            await client.unsubscribe(where)
            await client.resubscribe(where)
            await client.until_push(where, "join", 3)
            assert client.changes(where)[before:][-1] == ("join", own_id(client))
            assert ("leave", own_id(guest)) not in client.changes(where)[before:]

    asyncio.run(run())


def test_information_of_the_subscription(whole: Server, channel: str) -> None:
    """What a subscription token says about its bearer is in presence and in the join."""

    async def run() -> None:
        where = f"room:{channel}"
        async with SdkClient(whole, token=connection_token("42", info={"name": "Ada"})) as client:
            await client.subscribe(where, token=subscription_token(where, info={"role": "host"}))
            mine = {
                "user": "42",
                "client": own_id(client),
                "conn_info": {"name": "Ada"},
                "chan_info": {"role": "host"},
            }
            assert (await client.until_push(where, "join"))["info"] == mine
            assert await client.presence(where) == {own_id(client): mine}

    asyncio.run(run())


def test_unsubscribe_takes_effect_at_once(whole: Server, channel: str) -> None:
    """Whoever has the reply to an unsubscribe is not in presence any more, however fast they come and go."""

    async def run() -> None:
        where = f"room:{channel}"
        async with SdkClient(whole) as client, SdkClient(whole) as watcher:
            for _ in range(20):
                await client.subscribe(where)
                await eventually_there(watcher, where, {own_id(client)})
                await client.unsubscribe(where)
                assert await watcher.presence(where) == {}

    asyncio.run(run())


def test_presence_is_kept_alive(whole: Server, channel: str) -> None:
    """Who stays longer than an entry lasts is there all the time, and nobody is told that they came again."""

    async def run() -> None:
        where = f"room:{channel}"
        async with SdkClient(whole) as client, SdkClient(whole) as watcher:
            await client.subscribe(where)
            await client.until_push(where, "join")
            end = time.monotonic() + 1.3 * 6
            while time.monotonic() < end:
                assert (await watcher.presence(where)).keys() == {own_id(client)}
                await asyncio.wait([asyncio.shield(client.ended)], timeout=0.2)
            assert client.changes(where) == [("join", own_id(client))]

    asyncio.run(run())


def test_refusals(whole: Server, channel: str) -> None:
    """Presence that a namespace has not is not available, whoever asks and by whatever way."""

    async def run() -> None:
        async with SdkClient(whole) as client, Api(whole) as api:
            for code, name in ((108, channel), (108, f"live:{channel}"), (102, "nowhere:x")):
                for ask in (client.presence(name), client.presence_stats(name), api.call("presence", channel=name)):
                    with pytest.raises(Reply) as caught:
                        await ask
                    assert caught.value.code == code

    asyncio.run(run())


def test_a_thousand_vanish_with_their_worker(start_server: Callable[..., Server], channel: str) -> None:
    """kill -9 of the worker that holds a thousand: never seen twice, gone within the TTL, each leaving told once."""
    short = {"redis": {"presence_ttl": f"{TTL:g}s"}, "client": {"presence_update_interval": "1s"}}
    server = start_server(merged(merged(WHOLE, short), {"delivery": {"join_leave_rate": 100000}}))
    where = f"room:{channel}"

    async def run() -> None:
        watcher = await SdkClient(server).__aenter__()
        await watcher.subscribe(where)
        crowd = await gather_crowd(server, where, watcher.node)
        async with Api(server) as api:
            await api.leave_worker(crowd[0].worker())
            everyone = {own_id(client) for client in crowd} | {own_id(watcher)}
            await eventually_there(watcher, where, everyone)
            server.kill_worker(crowd[0].worker())
            killed = time.monotonic()
            while len(here := (await api.call("presence", channel=where))["presence"]) > 1:
                assert here.keys() <= everyone
                assert time.monotonic() - killed < TTL + 2, f"{len(here)} are still there"
            assert here.keys() == {own_id(watcher)}
            await eventually(lambda: len([one for one in watcher.changes(where) if one[0] == "leave"]) >= CROWD)
        changes = watcher.changes(where)
        assert len(changes) == len(set(changes)), "nobody came or went twice"
        assert {client for kind, client in changes if kind == "leave"} == everyone - {own_id(watcher)}
        await asyncio.gather(*(client.finish() for client in crowd))
        await watcher.close()

    asyncio.run(run())


async def gather_crowd(server: Server, channel: str, but: str) -> list[SdkClient]:
    """A thousand on one worker, another one than ``but``, all in ``channel``."""
    crowd: list[SdkClient] = []
    while len(crowd) < CROWD:
        fresh = await asyncio.gather(*(SdkClient(server).__aenter__() for _ in range(100)))
        there = [client for client in fresh if client.node != but][: CROWD - len(crowd)]
        await asyncio.gather(*(client.close() for client in fresh if client not in there))
        await asyncio.gather(*(client.subscribe(channel) for client in there))
        crowd += there
    return crowd
