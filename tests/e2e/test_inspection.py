"""Looking into a running server: which connections there are, and how a channel and one connection stand."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

from tests.clients import Api, PlainSocket, SdkClient, on_worker
from tests.servers import Server
from tests.tokens import connection_token
from tests.waiting import PATIENCE

Start = Callable[..., Server]


def test_connections_are_found_by_user_channel_and_address(start_server: Start, channel: str) -> None:
    """On whichever worker they are: by who it is, what it follows and where it comes from, with a word on the rest."""
    server = start_server()

    async def run() -> None:
        async with AsyncExitStack() as stack:
            enter = stack.enter_async_context
            api = await enter(Api(server))
            first = await on_worker(lambda: SdkClient(server, token=connection_token("42")), lambda node: True)
            second = await on_worker(
                lambda: SdkClient(server, token=connection_token("42")), lambda node: node != first.node
            )
            stack.push_async_callback(first.close)
            stack.push_async_callback(second.close)
            anonymous = await enter(SdkClient(server))
            await enter(PlainSocket(server, [channel, "live:b"]))
            await second.subscribe(channel)
            await anonymous.subscribe("live:b")

            async def found(**filters: Any) -> dict[str, dict[str, Any]]:
                answer = await api.call("connections", **filters)
                assert answer["total"] == len(answer["connections"]) and answer["more"] is False
                return {one["client"]: one for one in answer["connections"]}

            mine = await found(user="42")
            assert set(mine) == {first.connected["client"], second.connected["client"]}
            assert {one["node"] for one in mine.values()} == {first.node, second.node}
            row = mine[second.connected["client"]]
            assert (row["address"], row["transport"], row["live"]) == ("127.0.0.1", "websocket", True)
            assert (row["channels"], row["queued_bytes"], row["behind"]) == (1, 0, 0)
            assert anonymous.connected["client"] in await found(user="")
            following = await found(channel=channel)
            assert sorted(one["transport"] for one in following.values()) == ["websocket", "ws"]
            assert {one["channels"] for one in following.values()} == {1, 2}
            assert list(await found(user="42", channel=channel)) == [second.connected["client"]]
            assert len(await found()) == len(await found(ip="127.0.0.0/8")) == len(await found(ip="127.0.0.1")) == 4
            assert await found(ip="192.0.2.1") == await found(user="nobody") == await found(slow=True) == {}
            bounded = await api.call("connections", limit=1)
            assert (len(bounded["connections"]), bounded["total"], bounded["more"]) == (1, 4, True)

    asyncio.run(run())


def test_the_slow_are_found_and_come_first(start_server: Start, channel: str) -> None:
    """One that stopped reading is listed as slow, with what waits for it; one that reads is not."""
    server = start_server()

    async def run() -> None:
        async with Api(server) as api, SdkClient(server) as quick, SdkClient(server) as slow:
            await quick.subscribe(channel)
            await slow.subscribe(channel)
            slow.pause()

            async def stuck() -> bool:
                for _ in range(20):
                    await api.publish(channel, "x" * 50_000)
                return (await api.call("connections", slow=True))["total"] == 1

            async with asyncio.timeout(PATIENCE):
                while not await stuck():
                    pass
            (row,) = (await api.call("connections", slow=True))["connections"]
            assert row["client"] == slow.connected["client"]
            assert row["queued_bytes"] > 0 or row["behind"] == 1
            assert (await api.call("connections", channel=channel))["connections"][0]["client"] == row["client"]
            one = await api.call("connection", client=row["client"])
            assert one["subscriptions"][0]["channels"] == [channel]
            slow.resume()
            last = (await api.publish(channel, "end")).offset
            await slow.until(channel, last)

            async with asyncio.timeout(PATIENCE):
                while (await api.call("connections", slow=True))["total"]:
                    pass

    asyncio.run(run())


def test_a_channel_is_seen_from_every_worker(start_server: Start, channel: str) -> None:
    """Its position in the store and on each worker, who follows it, what is kept of it, and by which settings."""
    server = start_server()

    async def run() -> None:
        async with AsyncExitStack() as stack:
            api = await stack.enter_async_context(Api(server))
            name = f"short:{channel}"
            here = await on_worker(lambda: SdkClient(server), lambda node: True)
            there = await on_worker(lambda: SdkClient(server), lambda node: node != here.node)
            for client in (here, there):
                stack.push_async_callback(client.close)
                await client.subscribe(name)
            for number in range(8):
                place = await api.publish(name, number)
            await here.until(name, 8)
            await there.until(name, 8)
            found = await api.call("channel", channel=name)
            assert (found["channel"], found["namespace"], found["num_clients"]) == (name, "short", 2)
            assert found["position"] == {"epoch": place.epoch, "offset": 8}
            assert found["policy"]["history_size"] == 5 and found["policy"]["slow"] == "catch_up"
            assert {worker["node"] for worker in found["workers"]} == {here.node, there.node}
            for worker in found["workers"]:
                assert (worker["epoch"], worker["offset"]) == (place.epoch, 8)
                assert (worker["subscribers"], worker["live"], worker["repairing"]) == (1, 1, False)
                assert {key: worker["recent"][key] for key in ("count", "oldest", "newest")} == {
                    "count": 5,
                    "oldest": 4,
                    "newest": 8,
                }
            nobody = await api.call("channel", channel=f"live:{channel}")
            assert (nobody["num_clients"], nobody["workers"]) == (0, []) and "position" not in nobody

    asyncio.run(run())
