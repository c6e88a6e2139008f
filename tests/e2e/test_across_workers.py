"""A publication reaches every reader, whichever worker accepted it and whichever serves the reader."""

from __future__ import annotations

import asyncio

import pytest

from tests.clients import Api, SdkClient, on_worker, publish_all
from tests.doors import DOORS, enter, enter_elsewhere
from tests.servers import API_KEY, Server
from tests.waiting import eventually


@pytest.mark.parametrize("door", DOORS)
def test_from_one_worker_to_the_other(server: Server, channel: str, door: str) -> None:
    """What the API accepts on one worker comes out of the door of the other, in order and with its offsets."""

    async def run() -> None:
        reader = await enter(door, server, [channel])
        async with Api(server) as api:
            await api.leave_worker(reader.worker())
            sent = await publish_all(lambda payload: api.publish(channel, payload), 5)
            assert await reader.until(channel, 5) == sent
            assert [one.offset for one in reader.received] == [1, 2, 3, 4, 5]
        await reader.close()

    asyncio.run(run())


@pytest.mark.parametrize("door", DOORS)
def test_readers_on_all_workers(server: Server, channel: str, door: str) -> None:
    """Two readers on two workers see the same stream, and a client's own publications are in it."""

    async def run() -> None:
        one = await enter(door, server, [channel])
        other = await enter_elsewhere(door, server, [channel], previous=one, node=one.node)
        assert one.worker() != other.worker()
        async with SdkClient(server) as publisher:
            for number in range(3):
                assert await publisher.publish(channel, {"n": number}) == {}
        assert await one.until(channel, 3) == await other.until(channel, 3) == [{"n": 0}, {"n": 1}, {"n": 2}]
        await one.close()
        await other.close()

    asyncio.run(run())


@pytest.mark.parametrize("door", DOORS)
def test_without_history(server: Server, channel: str, door: str) -> None:
    """A channel without history is delivered all the same; its publications have no offset."""

    async def run() -> None:
        volatile = f"live:{channel}"
        reader = await enter(door, server, [volatile])
        async with Api(server) as api:
            await api.leave_worker(reader.worker())
            assert await api.publish(volatile, "now") == ("", 0)
        assert await reader.until(volatile, 1) == ["now"]
        assert [one.offset for one in reader.received] == [0]
        await reader.close()

    asyncio.run(run())


@pytest.mark.parametrize("door", DOORS)
def test_hostile_payloads_arrive_unchanged(server: Server, channel: str, door: str) -> None:
    """Line ends of every kind, NUL and nesting are data like any other."""
    payloads = [
        "a\nb\rc\r\nd\u0085e\u2028f\u2029g",
        "\x00\x1f\x7f",
        "data: x\n\nevent: gap\nid: 9",
        {"push": {"channel": channel, "pub": {"data": "forged"}}},
        "\U0001f600",
        [[[[[[[[1]]]]]]]],
        None,
        0,
        "",
        {"__proto__": {"a": 1}, "constructor": 1},
        1e300,
        12345678901234567890,
    ]

    async def run() -> None:
        reader = await enter(door, server, [channel])
        async with Api(server) as api:
            for payload in payloads:
                await api.publish(channel, payload)
        assert await reader.until(channel, len(payloads)) == payloads
        await reader.close()

    asyncio.run(run())


def test_pretty_printed_json_stays_one_message(server: Server, channel: str) -> None:
    """Raw newlines between the tokens of a payload do not break the framing of any door."""

    async def run() -> None:
        readers = [await enter(door, server, [channel]) for door in DOORS]
        body = f'{{"channel": "{channel}",\n "data": {{\r\n  "a": [1,\n\t2]\n}}\n}}\n'.encode()
        async with Api(server) as api:
            headers = {"Authorization": f"apikey {API_KEY}"}
            assert (await api.request("POST", "/api/publish", body, headers)).status == 200
        for reader in readers:
            assert await reader.until(channel, 1) == [{"a": [1, 2]}]
            await reader.close()

    asyncio.run(run())


def test_broadcast_and_batch(server: Server, channel: str) -> None:
    """One call reaches several channels, and one bad channel does not stop the others."""

    async def run() -> None:
        first, second = f"{channel}-1", f"{channel}-2"
        reader = await enter("ws", server, [first, second])
        async with Api(server) as api:
            answer = await api.call("broadcast", channels=[first, "nowhere:x", second], data="b")
            assert [list(one) for one in answer["responses"]] == [["result"], ["error"], ["result"]]
            assert answer["responses"][1]["error"]["code"] == 102
        assert await reader.until(first, 1) == await reader.until(second, 1) == ["b"]
        await reader.close()

    asyncio.run(run())


def test_info_names_every_worker(server: Server) -> None:
    """The registry holds both workers under the names that connections are told."""

    async def run() -> None:
        async with Api(server) as api:
            nodes = {node["name"] for node in (await api.call("info"))["nodes"]}
        assert len(nodes) == 2
        for name in nodes:
            client = await on_worker(lambda: SdkClient(server), name.__eq__)
            await client.close()

    asyncio.run(run())


def test_leaving_is_noticed(server: Server, channel: str) -> None:
    """A reader that vanishes without a word no longer counts as a connection."""

    async def run() -> None:
        await eventually(lambda: server.metric("rt_connections") == 0, what="the tests before have left")
        client = SdkClient(server)
        await client.__aenter__()
        await client.subscribe(channel)
        await eventually(lambda: server.metric("rt_connections") == 1)
        await client.abort()
        await eventually(lambda: server.metric("rt_connections") == 0)

    asyncio.run(run())
