"""Presence, server-side subscriptions, tokens that end, disconnects: with the published JavaScript SDK."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

from tests.clients import Api, SdkClient
from tests.sdk.javascript import JavaScript
from tests.servers import Server
from tests.stores import Store
from tests.tokens import connection_token, subscription_token
from tests.waiting import PATIENCE

pytestmark = pytest.mark.needs("node")

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
        async with JavaScript(whole) as watcher, JavaScript(whole) as guest:
            me = (await watcher.connect(token=connection_token("42", info={"name": "Ada"})))["client"]
            await watcher.subscribe(where)
            assert (await watcher.wait("join"))["info"]["client"] == me
            you = (await guest.connect(token=connection_token("43")))["client"]
            await guest.subscribe(where)
            assert (await watcher.wait("join", 2))["info"] == {"client": you, "user": "43"}
            found = (await watcher.call("presence", channel=where))["clients"]
            assert found.keys() == {me, you}
            assert (found[me]["user"], found[me]["connInfo"]) == ("42", {"name": "Ada"})
            assert await watcher.call("presenceStats", channel=where) == {"numClients": 2, "numUsers": 2}
            await guest.call("unsubscribe", channel=where)
            assert (await watcher.wait("leave"))["info"]["client"] == you
            assert await watcher.call("presenceStats", channel=where) == {"numClients": 1, "numUsers": 1}

    asyncio.run(run())


def test_joins_on_request(whole: Server, channel: str) -> None:
    """The option ``joinLeave`` brings joins where the namespace does not force them on everybody."""

    async def run() -> None:
        where = f"hall:{channel}"
        async with JavaScript(whole) as watcher, SdkClient(whole) as guest:
            await watcher.connect()
            await watcher.subscribe(where, joinLeave=True)
            await guest.subscribe(where)
            await watcher.wait("join", 2)
            await guest.unsubscribe(where)
            assert (await watcher.wait("leave"))["info"]["client"] == guest.connected["client"]

    asyncio.run(run())


def test_presence_after_races(whole: Server, channel: str) -> None:
    """Ten rounds of subscribe and unsubscribe without waiting leave nobody behind."""

    async def run() -> None:
        where = f"room:{channel}"
        async with JavaScript(whole) as client, SdkClient(whole) as watcher:
            await client.connect()
            for _ in range(10):
                await client.call("subscribe", channel=where)
                await client.call("unsubscribe", channel=where)
            begun = time.monotonic()
            while await watcher.presence_stats(where) != (0, 0):
                assert time.monotonic() - begun < 2
            await client.subscribe(where)
            while await watcher.presence_stats(where) != (1, 1):
                assert time.monotonic() - begun < PATIENCE
            assert client.named("error") == client.named("sub-error") == []
            assert len(client.named("connected")) == 1

    asyncio.run(run())


def test_channels_of_the_token(whole: Server, channel: str) -> None:
    """Server-side subscriptions of a token come up with the connection and deliver, joins included."""

    async def run() -> None:
        where = f"room:{channel}"
        token = connection_token("42", subs={where: {"data": {"hello": 1}}})
        async with JavaScript(whole) as client, Api(whole) as api, SdkClient(whole) as guest:
            await client.connect(token=token)
            told = await client.wait("server-subscribed")
            assert (told["channel"], told["data"]) == (where, {"hello": 1})
            await api.publish(where, 1)
            assert (await client.wait("server-publication"))["data"] == 1
            await guest.subscribe(where)
            await client.wait("server-join", 2)

    asyncio.run(run())


def test_subscribed_by_the_backend(whole: Server, channel: str) -> None:
    """A backend subscribes a user and takes the subscription away again; the SDK tells both."""

    async def run() -> None:
        user = f"u-{channel}"
        async with JavaScript(whole) as client, Api(whole) as api:
            await client.connect(token=connection_token(user))
            await api.call("subscribe", user=user, channel=channel, data="why")
            told = await client.wait("server-subscribed")
            assert (told["channel"], told["data"]) == (channel, "why")
            await api.publish(channel, 1)
            await client.wait("server-publication")
            await api.call("unsubscribe", user=user, channel=channel)
            assert (await client.wait("server-unsubscribed"))["channel"] == channel

    asyncio.run(run())


def test_its_server_side_subscription_outlives_a_disconnect(whole: Server, channel: str) -> None:
    """After a disconnect that asks it back the SDK has its server-side subscription again, and what it missed."""

    async def run() -> None:
        user = f"u-{channel}"
        async with JavaScript(whole) as client, Api(whole) as api:
            await client.connect(token=connection_token(user))
            await api.call("subscribe", user=user, channel=channel)
            await client.wait("server-subscribed")
            await api.publish(channel, 0)
            await client.wait("server-publication")
            for number in range(1, 6):
                await api.call("disconnect", user=user, disconnect={"code": 3011, "reason": "force reconnect"})
                await api.publish(channel, number)
                told = await client.wait("server-subscribed", number + 1)
                assert (told["wasRecovering"], told["recovered"]) == (True, True)
                await client.wait("server-publication", number + 1)
            assert [one["data"] for one in client.named("server-publication")] == list(range(6))

    asyncio.run(run())


def test_its_unsubscribed_subscription_stays_down(whole: Server, channel: str) -> None:
    """A subscription that the SDK made itself and a backend ended is over for good: code 2000."""

    async def run() -> None:
        user = f"u-{channel}"
        async with JavaScript(whole) as client, Api(whole) as api:
            await client.connect(token=connection_token(user))
            await client.subscribe(channel)
            await api.call("unsubscribe", user=user, channel=channel)
            ended = await client.wait("unsubscribed")
            assert (ended["code"], ended["reason"]) == (2000, "server unsubscribe")
            await client.call("publish", channel=channel, data=1)
            assert client.named("publication") == [] and len(client.named("subscribed")) == 1

    asyncio.run(run())


@pytest.mark.parametrize(("said", "code", "back"), CODES, ids=[str(row[1]) for row in CODES])
def test_after_a_disconnect(whole: Server, channel: str, said: dict[str, object] | None, code: int, back: bool) -> None:
    """After every class of codes the SDK does what the protocol says: it comes back, or it does not."""

    async def run() -> None:
        user = f"u-{channel}"
        async with JavaScript(whole) as client, Api(whole) as api:
            await client.connect(token=connection_token(user))
            await client.subscribe(channel)
            await api.call("disconnect", user=user, **({"disconnect": said} if said else {}))
            if back:
                assert (await client.wait("connecting", 2))["code"] == code
                await client.wait("connected", 2)
                await client.wait("subscribed", 2)
                await api.publish(channel, 1)
                await client.wait("publication")
            else:
                ended = await client.wait("disconnected")
                assert (ended["code"], ended["reason"]) == (code, said["reason"] if said else "force disconnect")
                assert len(client.named("connecting")) == 1

    asyncio.run(run())


def test_an_expired_token_at_connect(whole: Server) -> None:
    """Error 109 makes the SDK ask for another token and connect with that."""

    async def run() -> None:
        async with JavaScript(whole) as client:
            await client.connect(token=connection_token("42", exp=1), tokens=[connection_token("42")])
            assert len(client.named("get-token")) == 1
            assert [one["code"] for one in client.named("error")] == [109]

    asyncio.run(run())


def test_an_expired_token_and_no_other(whole: Server) -> None:
    """Without a way to get another token the SDK gives up."""

    async def run() -> None:
        async with JavaScript(whole) as client:
            await client.start(token=connection_token("42", exp=1))
            assert (await client.wait("disconnected"))["code"] == 1

    asyncio.run(run())


def test_it_refreshes_its_connection(whole: Server, channel: str) -> None:
    """A token that ends is exchanged in time, again and again, on the same connection and without a gap."""

    async def run() -> None:
        async with JavaScript(whole) as client, Api(whole) as api:
            first, *others = [connection_token("42", exp=int(time.time()) + 3 * number) for number in range(1, 5)]
            await client.connect(token=first, tokens=others)
            await client.subscribe(channel)
            await client.wait("get-token", 2)
            await api.publish(channel, 1)
            await client.wait("publication")
            assert len(client.named("connected")) == 1
            assert client.named("disconnected") == client.named("error") == []

    asyncio.run(run())


def test_it_refreshes_its_subscription(whole: Server, channel: str) -> None:
    """So is a subscription token."""
    where = f"closed:{channel}"

    async def run() -> None:
        async with JavaScript(whole) as client, Api(whole) as api:
            await client.connect(token=connection_token("42"))
            ends = [int(time.time()) + 3 * number for number in range(1, 5)]
            first, *others = [subscription_token(where, exp=end) for end in ends]
            await client.subscribe(where, token=first, tokens=others)
            await client.wait("get-sub-token", 2)
            await api.publish(where, 1)
            await client.wait("publication")
            assert len(client.named("subscribed")) == 1
            assert client.named("unsubscribed") == client.named("sub-error") == []

    asyncio.run(run())


def test_an_expired_token_at_subscribe(whole: Server, channel: str) -> None:
    """Error 109 makes the SDK ask for another subscription token; without one to be had it ends unauthorized."""
    where = f"closed:{channel}"

    async def run() -> None:
        async with JavaScript(whole) as client:
            await client.connect(token=connection_token("42"))
            await client.subscribe(where, token=subscription_token(where, exp=1), tokens=[subscription_token(where)])
            assert len(client.named("get-sub-token")) == 1
            other = f"{where}-2"
            await client.begin(other, token=subscription_token(other, exp=1))
            assert (await client.wait("unsubscribed"))["code"] == 1

    asyncio.run(run())


def test_a_subscription_that_runs_out(whole: Server, channel: str) -> None:
    """Where no new token is to be had in time the subscription ends; the connection stays."""
    where = f"closed:{channel}"

    async def run() -> None:
        async with JavaScript(whole) as client, Api(whole) as api:
            await client.connect(token=connection_token("42"))
            await client.subscribe(where, token=subscription_token(where, exp=int(time.time()) + 2))
            await api.publish(where, 1)
            await client.wait("publication")
            assert (await client.wait("unsubscribed"))["code"] == 1
            assert client.named("disconnected") == []

    asyncio.run(run())


@pytest.mark.parametrize(
    ("name", "code"), [("closed:x", 103), ("nowhere:x", 102), ("$x", 103), ("x" * 256, 107), ("a{b", 107)]
)
def test_terminal_errors_of_a_subscribe(whole: Server, name: str, code: int) -> None:
    """An error that no retry mends ends the subscription with its code, at once and for good."""

    async def run() -> None:
        async with JavaScript(whole) as client:
            await client.connect(token=connection_token("42"))
            await client.begin(name)
            assert (await client.wait("unsubscribed"))["code"] == code
            assert client.named("sub-error") == [] and client.named("disconnected") == []

    asyncio.run(run())


def test_temporary_errors_of_a_subscribe(start_server: Callable[..., Server], channel: str) -> None:
    """While the store is away a subscribe fails for the time being; the SDK tries until it works."""

    async def run() -> None:
        with Store() as store:
            server = start_server({"redis": {"url": store.url, "probe_interval": "500ms"}})
            async with JavaScript(server) as client:
                await client.connect()
                store.kill()
                await client.begin(channel)
                await client.wait("sub-error", 2)
                assert {one["code"] for one in client.named("sub-error")} == {100}
                await asyncio.to_thread(store.start)
                await client.wait("subscribed")
                assert client.named("unsubscribed") == client.named("disconnected") == []

    asyncio.run(run())


def test_the_application_keeps_the_state(whole: Server, channel: str) -> None:
    """With ``getState`` the application says where its data stands; what came after it arrives, nothing else.

    A position that cannot be recovered from (error 112) makes the SDK ask again.
    """

    async def run() -> None:
        async with JavaScript(whole) as client, Api(whole) as api:
            places = [await api.publish(channel, number) for number in range(4)]
            state = {"offset": places[1].offset, "epoch": places[1].epoch}
            await client.connect()
            await client.subscribe(channel, states=[{"offset": 1, "epoch": "lost"}, state])
            await client.wait("publication", 2)
            assert [one["data"] for one in client.named("publication")] == [2, 3]
            assert len(client.named("get-state")) == 2

    asyncio.run(run())


def test_the_state_before_the_first_publication(whole: Server, channel: str) -> None:
    """The position of an empty stream has an epoch, too, so that nothing between it and the subscribe is lost."""

    async def run() -> None:
        async with JavaScript(whole) as client, SdkClient(whole) as reader, Api(whole) as api:
            page = await reader.history(channel, limit=0)
            assert page["offset"] == 0 and page["epoch"]
            await api.publish(channel, "between")
            await client.connect()
            await client.subscribe(channel, states=[{"offset": 0, "epoch": page["epoch"]}])
            assert (await client.wait("publication"))["data"] == "between"
            assert len(client.named("get-state")) == 1

    asyncio.run(run())


def test_only_the_newest(whole: Server, channel: str) -> None:
    """In cache mode with ``auto_cache_recover`` a first subscribe brings the newest publication without asking."""

    async def run() -> None:
        where = f"newest:{channel}"
        async with JavaScript(whole) as client, Api(whole) as api:
            for number in range(3):
                await api.publish(where, number)
            await client.connect()
            await client.subscribe(where)
            assert (await client.wait("publication"))["data"] == 2
            await api.publish(where, 3)
            await client.wait("publication", 2)
            assert [one["data"] for one in client.named("publication")] == [2, 3]

    asyncio.run(run())
