"""Presence, server-side subscriptions, tokens that end, disconnects: with the published Python SDK."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
from centrifuge import StreamPosition

from tests.clients import Api, SdkClient
from tests.sdk.python import Giver, Python, SubscriptionLog, to_the_end
from tests.servers import Server
from tests.stores import Store
from tests.tokens import connection_token, subscription_token
from tests.waiting import PATIENCE, eventually

CODES = [
    (None, 3503, False),
    ({"code": 3000, "reason": "connection closed"}, 3000, True),
    ({"code": 3499, "reason": "come back"}, 3499, True),
    ({"code": 3500, "reason": "never"}, 3500, False),
    ({"code": 3999, "reason": "never"}, 3999, False),
    ({"code": 4000, "reason": "ours, come back"}, 4000, True),
    ({"code": 4499, "reason": "ours, come back"}, 4499, True),
    ({"code": 4500, "reason": "ours, never"}, 4500, False),
    ({"code": 4999, "reason": "ours, never"}, 4999, False),
]
"""What a backend says, the code that arrives, and whether the SDK comes back."""


def test_presence(whole: Server, channel: str) -> None:
    """The SDK sees who is there, who comes and who goes, itself first."""

    async def run() -> None:
        where = f"room:{channel}"
        ada, bob = connection_token("42", info={"name": "Ada"}), connection_token("43")
        async with Python(whole, ada) as watcher, Python(whole, bob) as guest:
            sub, log = await watcher.subscribe(where)
            me, you = watcher.log.connected[0].client, guest.log.connected[0].client
            await eventually(lambda: log.changes == [("join", me)])
            theirs, _ = await guest.subscribe(where)
            await eventually(lambda: log.changes[1:] == [("join", you)])
            found = (await sub.presence()).clients
            assert {client: info.user for client, info in found.items()} == {me: "42", you: "43"}
            assert found[me].conn_info == {"name": "Ada"}
            stats = await sub.presence_stats()
            assert (stats.num_clients, stats.num_users) == (2, 2)
            await theirs.unsubscribe()
            await eventually(lambda: log.changes[2:] == [("leave", you)])
            stats = await watcher.client.presence_stats(where)
            assert (stats.num_clients, stats.num_users) == (1, 1)

    asyncio.run(to_the_end(run()))


def test_joins_on_request(whole: Server, channel: str) -> None:
    """The option ``join_leave`` brings joins where the namespace does not force them on everybody."""

    async def run() -> None:
        where = f"hall:{channel}"
        async with Python(whole) as watcher, SdkClient(whole) as guest:
            _, log = await watcher.subscribe(where, join_leave=True)
            await guest.subscribe(where)
            await guest.unsubscribe(where)
            id_ = guest.connected["client"]
            await eventually(lambda: log.changes[-2:] == [("join", id_), ("leave", id_)])

    asyncio.run(to_the_end(run()))


def test_presence_after_races(whole: Server, channel: str) -> None:
    """Ten rounds of subscribe and unsubscribe without waiting leave nobody behind."""

    async def run() -> None:
        where = f"room:{channel}"
        async with Python(whole) as client, SdkClient(whole) as watcher:
            log = SubscriptionLog()
            sub = client.client.new_subscription(where, events=log)
            for _ in range(10):
                await sub.subscribe()
                await sub.unsubscribe()
            begun = time.monotonic()
            while await watcher.presence_stats(where) != (0, 0):
                assert time.monotonic() - begun < 2
            seen = len(log.subscribed)
            await sub.subscribe()
            await eventually(lambda: len(log.subscribed) > seen)
            while await watcher.presence_stats(where) != (1, 1):
                assert time.monotonic() - begun < PATIENCE
            assert len(client.log.connected) == 1

    asyncio.run(to_the_end(run()))


def test_channels_of_the_token(whole: Server, channel: str) -> None:
    """Server-side subscriptions of a token come up with the connection and deliver, joins included."""

    async def run() -> None:
        where = f"room:{channel}"
        token = connection_token("42", subs={where: {"data": {"hello": 1}}})
        async with Python(whole, token) as client, Api(whole) as api, SdkClient(whole) as guest:
            await eventually(lambda: client.log.subscribed)
            assert [(one.channel, one.data) for one in client.log.subscribed] == [(where, {"hello": 1})]
            await api.publish(where, 1)
            await eventually(lambda: client.log.received == [(where, 1)])
            await guest.subscribe(where)
            await eventually(lambda: (where, "join", guest.connected["client"]) in client.log.changes)

    asyncio.run(to_the_end(run()))


def test_subscribed_by_the_backend(whole: Server, channel: str) -> None:
    """A backend subscribes a user and takes the subscription away again; the SDK tells both."""

    async def run() -> None:
        user = f"u-{channel}"
        async with Python(whole, connection_token(user)) as client, Api(whole) as api:
            await api.call("subscribe", user=user, channel=channel, data="why")
            await eventually(lambda: client.log.subscribed)
            assert [(one.channel, one.data) for one in client.log.subscribed] == [(channel, "why")]
            await api.publish(channel, 1)
            await eventually(lambda: client.log.received == [(channel, 1)])
            await api.call("unsubscribe", user=user, channel=channel)
            await eventually(lambda: client.log.unsubscribed == [channel])

    asyncio.run(to_the_end(run()))


def test_its_server_side_subscription_outlives_a_disconnect(whole: Server, channel: str) -> None:
    """After a disconnect that asks it back the SDK has its server-side subscription again, and what it missed."""

    async def run() -> None:
        user = f"u-{channel}"
        async with Python(whole, connection_token(user)) as client, Api(whole) as api:
            await api.call("subscribe", user=user, channel=channel)
            await eventually(lambda: client.log.subscribed)
            await api.publish(channel, 0)
            await eventually(lambda: client.log.received)
            for number in range(1, 6):
                await api.call("disconnect", user=user, disconnect={"code": 3011, "reason": "force reconnect"})
                await api.publish(channel, number)
                await eventually(lambda count=number: len(client.log.received) > count)  # type: ignore[misc]
            assert [data for _, data in client.log.received] == list(range(6))
            assert all(one.recovered for one in client.log.subscribed[1:])

    asyncio.run(to_the_end(run()))


def test_its_unsubscribed_subscription_stays_down(whole: Server, channel: str) -> None:
    """A subscription that the SDK made itself and a backend ended is over for good: code 2000."""

    async def run() -> None:
        user = f"u-{channel}"
        async with Python(whole, connection_token(user)) as client, Api(whole) as api:
            _, log = await client.subscribe(channel)
            await api.call("unsubscribe", user=user, channel=channel)
            await eventually(lambda: log.unsubscribed)
            assert [(one.code, one.reason) for one in log.unsubscribed] == [(2000, "server unsubscribe")]
            await client.client.publish(channel, 1)
            assert log.data == [] and len(log.subscribed) == 1

    asyncio.run(to_the_end(run()))


@pytest.mark.parametrize(("said", "code", "back"), CODES, ids=[str(row[1]) for row in CODES])
def test_after_a_disconnect(whole: Server, channel: str, said: dict[str, Any] | None, code: int, back: bool) -> None:
    """After every class of codes the SDK does what the protocol says: it comes back, or it does not."""

    async def run() -> None:
        user = f"u-{channel}"
        async with Python(whole, connection_token(user)) as client, Api(whole) as api:
            _, log = await client.subscribe(channel)
            await api.call("disconnect", user=user, **({"disconnect": said} if said else {}))
            if back:
                await eventually(lambda: len(client.log.connected) == 2 and len(log.subscribed) == 2)
                assert client.log.connecting[1].code == code
                await api.publish(channel, 1)
                await eventually(lambda: log.data == [1])
            else:
                await eventually(lambda: client.log.disconnected)
                ended = client.log.disconnected[0]
                assert (ended.code, ended.reason) == (code, said["reason"] if said else "force disconnect")
                assert len(client.log.connecting) == 1

    asyncio.run(to_the_end(run()))


def test_an_expired_token_at_connect(whole: Server) -> None:
    """Error 109 makes the SDK ask for another token and connect with that; without one to be had it gives up."""

    async def run() -> None:
        giver = Giver(connection_token("42"))
        async with Python(whole, connection_token("42", exp=1), get_token=giver) as client:
            await eventually(lambda: client.log.connected)
            assert giver.asked == 1 and client.log.disconnected == []
        async with Python(whole, connection_token("42", exp=1)) as hopeless:
            await eventually(lambda: hopeless.log.disconnected)
            assert hopeless.log.connected == []

    asyncio.run(to_the_end(run()))


def test_it_refreshes_its_tokens(whole: Server, channel: str) -> None:
    """Tokens that end are exchanged in time, again and again, on the same connection and without a gap."""
    where = f"closed:{channel}"

    async def run() -> None:
        ends = [int(time.time()) + 3 * number for number in range(1, 5)]
        first, *others = [connection_token("42", exp=end) for end in ends]
        giver = Giver(*others)
        async with Python(whole, first, get_token=giver) as client, Api(whole) as api:
            first, *others = [subscription_token(where, exp=end) for end in ends]
            sub_giver = Giver(*others)
            _, log = await client.subscribe(where, token=first, get_token=sub_giver)
            await eventually(lambda: giver.asked >= 2 and sub_giver.asked >= 2)
            await api.publish(where, 1)
            await eventually(lambda: log.data == [1])
            assert len(client.log.connected) == len(log.subscribed) == 1
            assert not client.log.errors and not log.errors and not log.unsubscribed

    asyncio.run(to_the_end(run()))


def test_an_expired_token_at_subscribe(whole: Server, channel: str) -> None:
    """Error 109 makes the SDK ask for another subscription token; without one to be had the subscription ends."""
    where = f"closed:{channel}"

    async def run() -> None:
        async with Python(whole, connection_token("42")) as client:
            giver = Giver(subscription_token(where))
            _, log = await client.subscribe(where, token=subscription_token(where, exp=1), get_token=giver)
            assert giver.asked == 1 and len(log.subscribed) == 1
            other = f"{where}-2"
            _, log = await client.subscribe(other, token=subscription_token(other, exp=1))
            assert log.subscribed == [] and len(log.unsubscribed) == 1

    asyncio.run(to_the_end(run()))


@pytest.mark.parametrize(
    ("name", "code"), [("closed:x", 103), ("nowhere:x", 102), ("$x", 103), ("x" * 256, 107), ("a{b", 107)]
)
def test_terminal_errors_of_a_subscribe(whole: Server, name: str, code: int) -> None:
    """An error that no retry mends ends the subscription with its code, at once and for good."""

    async def run() -> None:
        async with Python(whole, connection_token("42")) as client:
            _, log = await client.subscribe(name)
            assert [one.code for one in log.unsubscribed] == [code]
            assert log.errors == [] and client.log.disconnected == []

    asyncio.run(to_the_end(run()))


def test_temporary_errors_of_a_subscribe(start_server: Callable[..., Server], channel: str) -> None:
    """While the store is away a subscribe fails for the time being; the SDK tries until it works."""

    async def run() -> None:
        with Store() as store:
            server = start_server({"redis": {"url": store.url, "probe_interval": "500ms"}})
            async with Python(server) as client:
                store.kill()
                _, log = await client.begin(channel)
                await eventually(lambda: len(log.errors) >= 2)
                await asyncio.to_thread(store.start)
                await eventually(lambda: log.subscribed)
                assert log.unsubscribed == [] and client.log.disconnected == []

    asyncio.run(to_the_end(run()))


def test_the_application_keeps_the_state(whole: Server, channel: str) -> None:
    """With ``get_state`` the application says where its data stands; what came after it arrives, nothing else.

    A position that cannot be recovered from (error 112) makes the SDK ask again.
    """

    async def run() -> None:
        async with Python(whole) as client, Api(whole) as api:
            places = [await api.publish(channel, number) for number in range(4)]
            state = StreamPosition(offset=places[1].offset, epoch=places[1].epoch)
            giver = Giver(StreamPosition(offset=1, epoch="lost"), state)
            _, log = await client.begin(channel, get_state=giver)
            await eventually(lambda: log.data == [2, 3])
            assert giver.asked == 2

    asyncio.run(to_the_end(run()))
