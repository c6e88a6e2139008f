"""Looking into a running server: which connections there are, and how a channel and one connection stand."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any, Self

from rt.web.tail import TAILS
from tests.clients import Api, Http, PlainSocket, SdkClient, on_worker
from tests.servers import API_KEY, OPEN, OVER_BOTH, SEEN, Server
from tests.tokens import connection_token
from tests.waiting import PATIENCE

Start = Callable[..., Server]


class Tail:
    """``POST /api/tail`` as curl would do it, on the public port or the internal one."""

    def __init__(self, port: int, channel: str, key: str = API_KEY) -> None:
        self.port, self.channel, self.key = port, channel, key
        self.head = ""

    async def __aenter__(self) -> Self:
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        body = json.dumps({"channel": self.channel})
        head = [
            "POST /api/tail HTTP/1.1",
            "Host: x",
            f"X-API-Key: {self.key}",
            f"Content-Length: {len(body)}",
            "",
            body,
        ]
        self.writer.write("\r\n".join(head).encode())
        async with asyncio.timeout(PATIENCE):
            self.head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()

    async def event(self) -> dict[str, Any]:
        """The next one that is not a heartbeat; empty at the end."""
        async with asyncio.timeout(PATIENCE):
            while line := await self.reader.readline():
                if line.startswith(b"data: "):
                    event: dict[str, Any] = json.loads(line[6:])
                    return event
        return {}


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
                return bool((await api.call("connections", slow=True))["total"] == 1)

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
            places = [await api.publish(name, number) for number in range(8)]
            await here.until(name, 8)
            await there.until(name, 8)
            found = await api.call("channel", channel=name)
            assert (found["channel"], found["namespace"], found["num_clients"]) == (name, "short", 2)
            assert found["position"] == {"epoch": places[-1].epoch, "offset": 8}
            assert found["policy"]["history_size"] == 5 and found["policy"]["slow"] == "catch_up"
            assert {worker["node"] for worker in found["workers"]} == {here.node, there.node}
            for worker in found["workers"]:
                assert (worker["epoch"], worker["offset"]) == (places[-1].epoch, 8)
                assert (worker["subscribers"], worker["live"], worker["repairing"]) == (1, 1, False)
                assert {key: worker["recent"][key] for key in ("count", "oldest", "newest")} == {
                    "count": 5,
                    "oldest": 4,
                    "newest": 8,
                }
            nobody = await api.call("channel", channel=f"live:{channel}")
            assert (nobody["num_clients"], nobody["workers"]) == (0, []) and "position" not in nobody

    asyncio.run(run())


@OVER_BOTH
def test_a_tail_shows_what_passes(start_server: Start, channel: str, http: str) -> None:
    """Publications with position, time and size, who comes and leaves, on either port and worker, in order; nobody
    counts it as a subscriber."""
    server = start_server({"channel": {"namespaces": [{"name": "room", "history_size": 10, **OPEN, **SEEN}]}})
    name = f"room:{channel}"

    async def run() -> None:
        async with (
            Api(server) as api,
            Tail(server.port, name) as outside,
            Tail(server.internal_port, name) as inside,
            SdkClient(server) as client,
        ):
            for tail in (outside, inside):
                assert tail.head.startswith("HTTP/1.1 200 ") and "text/event-stream" in tail.head
                begun = (await tail.event())["tail"]
                assert begun["channel"] == name and begun["offset"] == 0
            assert (await api.call("channels"))["channels"] == {}
            assert (await api.call("channel", channel=name))["num_clients"] == 0
            await client.subscribe(name)
            places = [await api.publish(name, {"n": number}, tags={"k": "v"}) for number in range(20)]
            await client.unsubscribe(name)
            for tail in (outside, inside):
                assert (await tail.event())["join"]["client"] == client.connected["client"]
                for number in range(20):
                    shown = await tail.event()
                    assert shown["publication"] == {"data": {"n": number}, "tags": {"k": "v"}, "offset": number + 1}
                    assert shown["epoch"] == places[number].epoch and abs(shown["time"] - time.time()) < 60
                    assert 20 < shown["size"] < 60
                assert (await tail.event())["leave"]["client"] == client.connected["client"]

    asyncio.run(run())


def test_a_tail_that_may_not_be(start_server: Start, channel: str) -> None:
    """A wrong key, a bad channel, an unknown namespace, and more than there may be: an answer like any other's."""
    server = start_server({"server": {"workers": 1}})

    async def run() -> None:
        async with Tail(server.internal_port, channel, "wrong") as tail:
            assert tail.head.startswith("HTTP/1.1 401 ")
        for bad, code in ((b'{"channel":"a*"}', 107), (b'{"channel":"no:a"}', 102), (b"{}", 107)):
            async with Http(server) as http:
                answer = await http.request("POST", "/api/tail", bad, {"X-API-Key": API_KEY})
                assert (answer.status, answer.json()["error"]["code"]) == (200, code)
        async with Http(server) as http:
            assert (await http.request("POST", "/api/tail", b"[", {"X-API-Key": API_KEY})).status == 400
            assert (await http.request("GET", "/api/tail", b"", {"X-API-Key": API_KEY})).status == 405
        async with AsyncExitStack() as stack:
            for _ in range(TAILS):
                tail = await stack.enter_async_context(Tail(server.port, channel))
                assert "tail" in await tail.event()
            async with Http(server) as http:
                body = json.dumps({"channel": channel}).encode()
                answer = await http.request("POST", "/api/tail", body, {"X-API-Key": API_KEY})
                assert answer.json()["error"]["code"] == 106
        async with asyncio.timeout(PATIENCE):  # those that left make room
            while "text/event-stream" not in (await left(server, channel)):
                pass

    async def left(server: Server, channel: str) -> str:
        async with Tail(server.port, channel) as tail:
            return tail.head

    asyncio.run(run())


def test_a_tail_ends_with_the_server_and_says_what_it_left_out(start_server: Start, channel: str) -> None:
    """One that is not read misses some and is told how many; the server does not wait for it at its stop."""
    server = start_server({"server": {"workers": 1}, "delivery": {"send_buffer": "4KiB"}})

    async def run() -> None:
        async with Api(server) as api, Tail(server.port, f"live:{channel}") as tail:
            assert "tail" in await tail.event()
            tail.writer.transport.pause_reading()  # type: ignore[attr-defined]
            for _ in range(200):
                await api.publish(f"live:{channel}", "x" * 30_000)
            tail.writer.transport.resume_reading()  # type: ignore[attr-defined]
            shown = dropped = 0
            while shown + dropped < 200:
                event = await tail.event()
                shown += "publication" in event
                dropped += event.get("dropped", 0)
            assert dropped > 0
            server.process.terminate()  # type: ignore[union-attr]
            last = {}
            while event := await tail.event():
                last = event
            assert last == {"end": "this worker is leaving"}

    asyncio.run(run())
