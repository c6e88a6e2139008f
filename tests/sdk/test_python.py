"""The published Python SDK, unchanged, in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from centrifuge import CentrifugeError
from centrifuge.exceptions import ReplyError

from tests.clients import Api
from tests.sdk.python import Python, SubscriptionLog, to_the_end
from tests.servers import Server
from tests.tokens import connection_token, subscription_token
from tests.waiting import eventually

ROUNDS = 10


def test_publish_and_receive(server: Server, channel: str) -> None:
    """What one SDK client publishes, another receives, with its offsets."""

    async def run() -> None:
        async with Python(server) as sender, Python(server) as receiver:
            _, log = await receiver.subscribe(channel)
            quiet, _ = await sender.subscribe(channel)
            for number in range(3):
                await quiet.publish({"n": number})
            await eventually(lambda: len(log.data) == 3)
            assert (log.data, log.offsets) == ([{"n": 0}, {"n": 1}, {"n": 2}], [1, 2, 3])

    asyncio.run(to_the_end(run()))


def test_recovery_after_its_worker_is_killed(own_server: Server, channel: str) -> None:
    """kill -9 of its worker costs an SDK client nothing: it comes back by itself and gets what it missed, in order."""

    async def run() -> None:
        async with Python(own_server) as client, Api(own_server) as api:
            _, log = await client.subscribe(channel)
            await api.publish(channel, 0)
            await eventually(lambda: log.data == [0])
            worker = client.worker()
            await api.leave_worker(worker)
            own_server.kill_worker(worker)
            for number in range(1, 21):
                await api.publish(channel, number)
            await eventually(lambda: len(log.data) == 21)
            assert log.data == list(range(21))
            assert (log.subscribed[1].was_recovering, log.subscribed[1].recovered) == (True, True)

    asyncio.run(to_the_end(run()))


def test_subscribe_and_unsubscribe_in_a_loop(server: Server, channel: str) -> None:
    """Ten rounds without waiting leave a subscription that works."""

    async def run() -> None:
        async with Python(server) as client, Api(server) as api:
            log = SubscriptionLog()
            sub = client.client.new_subscription(channel, events=log)
            for _ in range(ROUNDS):
                await sub.subscribe()
                await sub.unsubscribe()
            seen = len(log.subscribed)
            await sub.subscribe()
            await eventually(lambda: len(log.subscribed) > seen)
            await api.publish(channel, "last")
            await eventually(lambda: log.data)
            assert log.data == ["last"]
            assert len(client.log.connected) == 1

    asyncio.run(to_the_end(run()))


def test_history(server: Server, channel: str) -> None:
    """History gives the position and the publications."""

    async def run() -> None:
        async with Python(server) as client, Api(server) as api:
            sub, _ = await client.subscribe(channel)
            epoch = [(await api.publish(channel, number)).epoch for number in range(5)][-1]
            page = await sub.history(limit=-1)
            assert ([one.data for one in page.publications], page.offset, page.epoch) == ([0, 1, 2, 3, 4], 5, epoch)

    asyncio.run(to_the_end(run()))


def test_errors_of_calls(server: Server, channel: str) -> None:
    """The SDK hands the server's own codes to the application, and stays connected."""

    async def run() -> None:
        async with Python(server) as client:
            for code, call in (
                (102, client.client.publish("nowhere:x", 1)),
                (103, client.client.publish("closed:x", 1)),
                (108, client.client.history("live:x", limit=1)),
                (108, client.client.rpc("any", {})),
                (108, client.client.presence(channel)),
            ):
                with pytest.raises(CentrifugeError) as caught:
                    await call
                assert isinstance(caught.value, ReplyError)
                assert caught.value.code == code
            assert client.log.disconnected == []

    asyncio.run(to_the_end(run()))


def test_errors_of_subscriptions(server: Server) -> None:
    """A refused subscription ends with the server's code, for good."""

    async def run() -> None:
        async with Python(server) as client:
            for channel, code in (("closed:x", 103), ("nowhere:x", 102)):
                _, log = await client.subscribe(channel)
                assert [one.code for one in log.unsubscribed] == [code]

    asyncio.run(to_the_end(run()))


def test_tokens(server: Server) -> None:
    """A connection token names the user, a subscription token opens a closed channel, a bad one ends the connection."""

    async def run() -> None:
        async with Python(server, token=connection_token("42")) as client:
            _, log = await client.subscribe("closed:mine", token=subscription_token("closed:mine", "42"))
            assert log.unsubscribed == []
        async with Python(server, token=connection_token("42", key="another key" * 4)) as stranger:
            assert [one.code for one in stranger.log.disconnected] == [3500]

    asyncio.run(to_the_end(run()))


def test_shutdown_sends_it_elsewhere(start_server: Callable[..., Server]) -> None:
    """A server that stops says so with a code after which the SDK tries again."""

    async def run() -> None:
        server = start_server()
        async with Python(server) as client:
            assert await asyncio.to_thread(server.stop) == 0
            await eventually(lambda: len(client.log.connecting) == 2)
            assert (client.log.connecting[1].code, client.log.connecting[1].reason) == (3001, "shutdown")

    asyncio.run(to_the_end(run()))
