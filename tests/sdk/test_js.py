"""The published JavaScript SDK, unchanged, in Node."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from tests.clients import Api, Reply
from tests.sdk.javascript import JavaScript
from tests.servers import Server
from tests.tokens import connection_token, subscription_token

pytestmark = pytest.mark.needs("node")

ROUNDS = 10


def test_publish_and_receive(server: Server, channel: str) -> None:
    """What one SDK client publishes, another receives, with its offsets."""

    async def run() -> None:
        async with JavaScript(server) as sender, JavaScript(server) as receiver:
            await sender.connect()
            await receiver.connect()
            subscribed = await receiver.subscribe(channel)
            assert subscribed["position"]["offset"] == 0
            for number in range(3):
                assert await sender.call("publish", channel=channel, data={"n": number}) == {}
            await receiver.wait("publication", 3)
            got = [(one["data"]["n"], one["offset"]) for one in receiver.named("publication")]
            assert got == [(0, 1), (1, 2), (2, 3)]

    asyncio.run(run())


def test_the_publisher_receives_its_own(server: Server, channel: str) -> None:
    """A subscriber that publishes gets its own publication back."""

    async def run() -> None:
        async with JavaScript(server) as client:
            await client.connect()
            await client.subscribe(channel)
            await client.call("publish", channel=channel, data="hello")
            assert (await client.wait("publication"))["data"] == "hello"

    asyncio.run(run())


def test_recovery_after_its_worker_is_killed(own_server: Server, channel: str) -> None:
    """kill -9 of its worker costs an SDK client nothing: it comes back by itself and gets what it missed, in order."""

    async def run() -> None:
        async with JavaScript(own_server) as client, Api(own_server) as api:
            await client.connect()
            await client.subscribe(channel)
            await api.publish(channel, {"n": 0})
            await client.wait("publication")
            worker = client.worker()
            await api.leave_worker(worker)
            own_server.kill_worker(worker)
            for number in range(1, 21):
                await api.publish(channel, {"n": number})
            again = await client.wait("subscribed", 2)
            assert (again["wasRecovering"], again["recovered"]) == (True, True)
            await client.wait("publication", 21)
            assert [one["data"]["n"] for one in client.named("publication")] == list(range(21))

    asyncio.run(run())


def test_subscribe_and_unsubscribe_in_a_loop(server: Server, channel: str) -> None:
    """Ten rounds without waiting leave a subscription that works, and no error."""

    async def run() -> None:
        async with JavaScript(server) as client, Api(server) as api:
            await client.connect()
            for _ in range(ROUNDS):
                await client.call("subscribe", channel=channel)
                await client.call("unsubscribe", channel=channel)
            await client.subscribe(channel)
            await api.publish(channel, "last")
            await client.wait("publication")
            assert [one["data"] for one in client.named("publication")] == ["last"]
            assert client.named("error") == client.named("sub-error") == []
            assert len(client.named("connected")) == 1

    asyncio.run(run())


def test_history(server: Server, channel: str) -> None:
    """History gives positions and pages, and refuses a position of another epoch."""

    async def run() -> None:
        async with JavaScript(server) as client, Api(server) as api:
            await client.connect()
            epoch = [(await api.publish(channel, number)).epoch for number in range(5)][-1]
            top = await client.call("history", channel=channel, options={"limit": 0})
            assert (top["publications"], top["offset"], top["epoch"]) == ([], 5, epoch)
            since = {"offset": 2, "epoch": epoch}
            page = await client.call("history", channel=channel, options={"limit": 2, "since": since})
            assert [one["data"] for one in page["publications"]] == [2, 3]
            with pytest.raises(Reply, match="^112 "):
                await client.call(
                    "history", channel=channel, options={"limit": 1, "since": {**since, "epoch": "other"}}
                )

    asyncio.run(run())


def test_errors_of_calls(server: Server) -> None:
    """The SDK hands the server's own codes to the application, and stays connected."""

    async def run() -> None:
        async with JavaScript(server) as client:
            await client.connect()
            for code, call, fields in (
                (102, "publish", {"channel": "nowhere:x", "data": 1}),
                (103, "publish", {"channel": "closed:x", "data": 1}),
                (108, "history", {"channel": "live:x", "options": {"limit": 1}}),
                (108, "rpc", {"method": "any", "data": {}}),
            ):
                with pytest.raises(Reply) as caught:
                    await client.call(call, **fields)
                assert caught.value.code == code, (call, fields)
            await client.call("send", data={"dropped": True})
            await client.call("publish", channel="alive", data=1)
            assert client.named("disconnected") == []

    asyncio.run(run())


def test_errors_of_subscriptions(server: Server) -> None:
    """A refused subscription ends with the server's code, for good."""

    async def run() -> None:
        async with JavaScript(server) as client:
            await client.connect()
            await client.call("subscribe", channel="closed:x")
            ended = await client.wait("unsubscribed")
            assert (ended["code"], ended["reason"]) == (103, "permission denied")
            await client.call("subscribe", channel="nowhere:x")
            assert (await client.wait("unsubscribed", 2))["code"] == 102

    asyncio.run(run())


def test_tokens(server: Server) -> None:
    """A connection token names the user, a subscription token opens a closed channel, a bad one ends the connection."""

    async def run() -> None:
        async with JavaScript(server) as client, JavaScript(server) as stranger:
            await client.connect(token=connection_token("42"))
            await client.subscribe("closed:mine", token=subscription_token("closed:mine", "42"))
            url = f"ws://127.0.0.1:{server.port}/connection/websocket"
            await stranger.call("connect", url=url, options={"token": connection_token("42", key="another key" * 4)})
            assert (await stranger.wait("disconnected"))["code"] == 3500

    asyncio.run(run())


def test_shutdown_sends_it_elsewhere(start_server: Callable[..., Server]) -> None:
    """A server that stops says so with a code after which the SDK tries again."""

    async def run() -> None:
        server = start_server()
        async with JavaScript(server) as client:
            await client.connect()
            assert await asyncio.to_thread(server.stop) == 0
            left = await client.wait("connecting", 2)
            assert (left["code"], left["reason"]) == (3001, "shutdown")

    asyncio.run(run())
