"""Rights that end while somebody is connected: cut in time, through every door, unless they were renewed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from tests.clients import Api, Ended, PlainSocket, Reader, Refusal, Reply, SdkClient, UniSocket
from tests.eventsource import EventSource, UniStream
from tests.servers import OPEN, SEEN, STREAM, Server
from tests.tokens import connection_token, sign, subscription_token
from tests.waiting import eventually

LIFE = 2
"""Seconds that a right lasts here, at least one: tokens count in whole seconds."""

MARGIN = 1.0
"""Seconds after its end within which a right must have been cut."""

SLACK = 0.5
"""Seconds that a busy machine may add."""

DOORS = ("sdk", "ws", "sse", "uni_websocket", "uni_sse")

STRICT: dict[str, Any] = {
    "client": {"allow_anonymous_connect_without_token": False},
    "channel": {
        "namespaces": [
            {"name": "room", **STREAM, **OPEN, **SEEN},
            {"name": "closed", **STREAM},
        ]
    },
}


@pytest.fixture(scope="module")
def prompt() -> Iterator[Server]:
    """A server that cuts without any delay."""
    with Server(STRICT) as running:
        yield running


@pytest.fixture(scope="module")
def patient() -> Iterator[Server]:
    """A server that waits two seconds more for a refresh."""
    delays = {"expired_close_delay": "2s", "expired_sub_close_delay": "2s"}
    with Server({**STRICT, "client": {**STRICT["client"], **delays}}) as running:
        yield running


def soon(seconds: float = LIFE) -> int:
    """A whole second of the clock, at least ``seconds`` away."""
    return int(time.time() + seconds) + 1


def reader(door: str, server: Server, channel: str, token: str, subscription: str = "") -> Reader:
    """A reader of ``channel`` with a connection token, and with a subscription token where one is given."""
    query = f"token={token}" + (f"&subscription_token={subscription}" if subscription else "")
    match door:
        case "sdk":
            return SdkClient(server, token=token)
        case "ws":
            return PlainSocket(server, [channel], query=query)
        case "sse":
            return EventSource(server, [channel], query=query)
        case "uni_websocket":
            return UniSocket(server, {"token": token, "subs": {channel: {}}})
        case "uni_sse":
            return UniStream(server, {"token": token, "subs": {channel: {}}})
    raise AssertionError(door)


async def at_every_door(check: Callable[[str], Awaitable[None]], doors: tuple[str, ...] = DOORS) -> None:
    """Check all doors at the same time, since most of it is waiting; AssertionError with what failed at which."""
    results = await asyncio.gather(*(check(door) for door in doors), return_exceptions=True)
    failed = {door: repr(result) for door, result in zip(doors, results, strict=True) if result is not None}
    assert not failed, failed


async def cut(waiting: Awaitable[Any], end: float, later: float = 0.0) -> Any:
    """What ``waiting`` gives; it must not come before ``end``, and not much later."""
    found = await waiting
    late = time.time() - end - later
    assert -0.05 <= late <= MARGIN + SLACK, f"{late:.2f} s after the end"
    return found


def test_an_expired_connection_is_cut(prompt: Server, channel: str) -> None:
    """Within a second of its end the connection is closed with 3005, and told so; nothing reaches it afterwards."""

    async def check(door: str) -> None:
        end = soon()
        async with reader(door, prompt, channel, connection_token("42", exp=end)) as one:
            ended: Ended = await cut(one.wait_ended(), end)
            assert (ended.code, ended.reason) == (3005, "connection expired")
            if isinstance(one, UniSocket | UniStream):
                assert one.disconnect is not None and one.disconnect.code == 3005

    asyncio.run(at_every_door(check))


def test_expire_at_counts_instead(prompt: Server, channel: str) -> None:
    """``expire_at`` is the connection's own end, whatever ``exp`` says of the token; 0 means never."""

    async def check(door: str) -> None:
        end = soon()
        short = reader(door, prompt, channel, connection_token("42", expire_at=end))
        endless = reader(door, prompt, channel, connection_token("42", exp=end, expire_at=0))
        async with short, endless:
            assert (await cut(short.wait_ended(), end)).code == 3005
            assert not endless.gone
            if isinstance(endless, SdkClient):
                assert "expires" not in endless.connected
                await endless.subscribe(channel)

    asyncio.run(at_every_door(check))


def test_a_cut_stream_can_come_back(prompt: Server, channel: str) -> None:
    """What was read up to the cut is told with it: with a fresh token the stream goes on and misses nothing."""

    async def check(door: str) -> None:
        mine = f"{channel}-{door}"
        async with Api(prompt) as api:
            async with reader(door, prompt, mine, connection_token("42", exp=soon())) as first:
                await api.publish(mine, 1)
                await first.until(mine, 1)
                await first.wait_ended()
                assert isinstance(first, PlainSocket | EventSource)
            await api.publish(mine, 2)
            again = reader(door, prompt, mine, connection_token("42"))
            if isinstance(again, EventSource):
                again.headers["Last-Event-ID"] = first.cursor
            else:
                again = PlainSocket(prompt, [mine], query=f"token={connection_token('42')}", since=first.cursor)
            async with again:
                assert await again.until(mine, 1) == [2]

    asyncio.run(at_every_door(check, ("ws", "sse", "uni_sse")))


def test_the_reply_tells_how_long(prompt: Server, channel: str) -> None:
    """A connect and a subscribe whose right ends say so, with time left to ask for a new token; others say nothing."""

    async def run() -> None:
        async with SdkClient(prompt, token=connection_token("42", exp=soon(100))) as client:
            assert client.connected["expires"] is True
            assert 50 <= client.connected["ttl"] < 100
            where = f"closed:{channel}"
            result = await client.subscribe(where, token=subscription_token(where, exp=soon(50)))
            assert result["expires"] is True and 25 <= result["ttl"] < 50
            result = await client.subscribe(channel)
            assert "expires" not in result and "ttl" not in result
        async with SdkClient(prompt, token=sign({"sub": "42"})) as client:
            assert "expires" not in client.connected and "ttl" not in client.connected

    asyncio.run(run())


def test_a_refreshed_connection_stays(prompt: Server, channel: str) -> None:
    """With a new token in time the connection goes on, as often as it likes; then it ends with the last one."""

    async def run() -> None:
        async with SdkClient(prompt, token=connection_token("42", exp=soon())) as client, Api(prompt) as api:
            await client.subscribe(channel)
            end = 0
            for _ in range(2):
                end = soon()
                result = await client.refresh(connection_token("42", exp=end))
                assert result["expires"] is True and LIFE - 1 <= result["ttl"] <= LIFE + 1
            await api.publish(channel, 1)
            await client.until(channel, 1)
            assert (await cut(client.wait_ended(), end)).code == 3005

    asyncio.run(run())


REFRESHES: list[tuple[str, str, int]] = [
    ("an expired token", connection_token("42", exp=1), 3005),
    ("another user's token", connection_token("43"), 3500),
    ("an anonymous token", sign({}), 3500),
    ("a forged token", connection_token("42", key="x" * 40), 3500),
    ("no token at all", "nonsense", 3500),
    ("an empty token", "", 3501),
    ("a token of a subscription", subscription_token("x"), 3500),
    ("a token of other channels", connection_token("42", channels=["another"]), 3010),
]


@pytest.mark.parametrize(("token", "code"), [row[1:] for row in REFRESHES], ids=[row[0] for row in REFRESHES])
def test_refreshes_that_end_the_connection(prompt: Server, token: str, code: int) -> None:
    """Each wrong token in a refresh has its own close."""

    async def run() -> None:
        async with SdkClient(prompt, token=connection_token("42")) as client:
            with pytest.raises(Ended) as ended:
                await client.refresh(token)
            assert ended.value.code == code

    asyncio.run(run())


def test_a_refresh_without_end(prompt: Server) -> None:
    """A new token without an end makes the connection endless, and the result has nothing to say."""

    async def run() -> None:
        end = soon(1)
        async with SdkClient(prompt, token=connection_token("42", exp=end)) as client:
            assert await client.refresh(sign({"sub": "42"})) == {}
            await eventually(lambda: time.time() > end + MARGIN)
            assert await client.history("room:x", limit=0)

    asyncio.run(run())


def test_an_expired_subscription_is_cut(prompt: Server, channel: str) -> None:
    """Within a second of its end the subscription is gone (2501) and the connection, with what else it has, stays."""

    async def check(door: str) -> None:
        where, other = f"closed:{channel}-{door}", f"{channel}-{door}"
        end = soon()
        token = subscription_token(where, exp=end)
        if door == "sdk":
            one: Reader = SdkClient(prompt, token=connection_token("42"))
        else:
            query = f"token={connection_token('42')}&subscription_token={token}"
            one = (PlainSocket if door == "ws" else EventSource)(prompt, [where, other], query=query)
        async with one, Api(prompt) as api:
            if isinstance(one, SdkClient):
                await one.subscribe(where, token=token)
                await one.subscribe(other)
            told = await cut(one.until_push(where, "unsubscribe"), end)
            assert (told["code"], told["reason"]) == (2501, "subscription expired")
            await api.publish(where, "a secret")
            await api.publish(other, "a mark")
            await one.until(other, 1)
            assert one.data(where) == [] and not one.gone

    asyncio.run(at_every_door(check, ("sdk", "ws", "sse")))


def test_a_stream_ends_with_its_last_channel(prompt: Server, channel: str) -> None:
    """A stream whose only right has ended ends, and says why."""

    async def check(door: str) -> None:
        where = f"closed:{channel}-{door}"
        end = soon()
        token = subscription_token(where, exp=end)
        async with reader(door, prompt, where, connection_token("42"), token) as one:
            ended = await cut(one.wait_ended(), end)
            assert ended.code is not None and ended.code >= 3000 and ended.reason

    asyncio.run(at_every_door(check, ("ws", "sse")))


def test_expire_at_of_a_subscription(prompt: Server, channel: str) -> None:
    """``expire_at`` is the subscription's own end; without ``exp`` it counts as well, and 0 means never."""
    where = f"closed:{channel}"

    async def run() -> None:
        async with SdkClient(prompt, token=connection_token("42")) as client:
            end = soon()
            await client.subscribe(where, token=sign({"sub": "42", "channel": where, "expire_at": end}))
            endless = sign({"sub": "42", "channel": f"{where}-2", "exp": end, "expire_at": 0})
            assert "expires" not in await client.subscribe(f"{where}-2", token=endless)
            await cut(client.until_push(where, "unsubscribe"), end)
            assert client.kinds(f"{where}-2", "unsubscribe") == []
            with pytest.raises(Reply) as caught:
                await client.subscribe(f"{where}-3", token=subscription_token(f"{where}-3", expire_at=1))
            assert caught.value.code == 110

    asyncio.run(run())


def test_a_refreshed_subscription_stays(prompt: Server, channel: str) -> None:
    """With a new token in time the subscription goes on, and ends with the last one."""
    where = f"closed:{channel}"

    async def run() -> None:
        async with SdkClient(prompt, token=connection_token("42")) as client, Api(prompt) as api:
            await client.subscribe(where, token=subscription_token(where, exp=soon()))
            end = soon(LIFE + 1)
            result = await client.sub_refresh(where, subscription_token(where, exp=end))
            assert result["expires"] is True and result["ttl"] >= LIFE
            await api.publish(where, 1)
            await client.until(where, 1)
            await cut(client.until_push(where, "unsubscribe"), end)

    asyncio.run(run())


Outcome = tuple[type[Refusal], int]

SUB_REFRESHES: list[tuple[str, Callable[[str], str], Outcome]] = [
    ("an empty token", lambda _: "", (Reply, 107)),
    ("no token at all", lambda _: "nonsense", (Ended, 3500)),
    ("a forged token", lambda name: subscription_token(name, key="x" * 40), (Ended, 3500)),
    ("a token of another channel", lambda _: subscription_token("another"), (Ended, 3500)),
    ("a token of another user", lambda name: subscription_token(name, "43"), (Ended, 3500)),
    ("a token of a connection", lambda _: connection_token("42"), (Ended, 3500)),
]


@pytest.mark.parametrize(("make", "outcome"), [row[1:] for row in SUB_REFRESHES], ids=[row[0] for row in SUB_REFRESHES])
def test_wrong_sub_refreshes(prompt: Server, channel: str, make: Callable[[str], str], outcome: Outcome) -> None:
    """Each wrong token in a sub_refresh has its own answer."""
    where = f"closed:{channel}"

    async def run() -> None:
        async with SdkClient(prompt, token=connection_token("42")) as client:
            await client.subscribe(where, token=subscription_token(where))
            with pytest.raises(Refusal) as caught:
                await client.sub_refresh(where, make(where))
            assert (type(caught.value), caught.value.code) == outcome

    asyncio.run(run())


def test_an_expired_token_in_a_sub_refresh(prompt: Server, channel: str) -> None:
    """A token that has ended already renews nothing, and the answer says that it has ended."""
    where = f"closed:{channel}"

    async def run() -> None:
        async with SdkClient(prompt, token=connection_token("42")) as client:
            await client.subscribe(where, token=subscription_token(where))
            with pytest.raises(Reply) as caught:
                await client.sub_refresh(where, subscription_token(where, exp=1))
            assert caught.value.code in (109, 110)

    asyncio.run(run())


def test_sub_refresh_of_what_is_not_subscribed(prompt: Server, channel: str) -> None:
    """Nothing to refresh: permission denied."""

    async def run() -> None:
        async with SdkClient(prompt, token=connection_token("42")) as client:
            with pytest.raises(Reply, match="^103 "):
                await client.sub_refresh(channel, subscription_token(channel))

    asyncio.run(run())


def test_the_delays_of_a_patient_server(patient: Server, channel: str) -> None:
    """The configured delay is added to both ends, and within it a refresh still comes in time."""
    where = f"closed:{channel}"

    async def run() -> None:
        end = soon(1)
        token = connection_token("42", exp=end)
        late, idle = SdkClient(patient, token=token), SdkClient(patient, token=token)
        async with late, idle, SdkClient(patient, token=connection_token("42")) as holder:
            await holder.subscribe(where, token=subscription_token(where, exp=end))
            await eventually(lambda: time.time() > end + 0.5)
            await late.refresh(connection_token("42"))
            await asyncio.gather(
                cut(idle.wait_ended(), end, later=2), cut(holder.until_push(where, "unsubscribe"), end, later=2)
            )
            await late.subscribe(channel)

    asyncio.run(run())


def test_expired_by_api(prompt: Server, channel: str) -> None:
    """A backend ends all connections of a user at once, whichever worker and door they came through."""

    async def check(door: str) -> None:
        user = f"u-{channel}-{door}"
        async with reader(door, prompt, channel, connection_token(user)) as one, Api(prompt) as api:
            await api.leave_worker(one.worker())
            assert await api.call("refresh", user=user, expired=True) == {}
            assert (await one.wait_ended()).code == 3005

    asyncio.run(at_every_door(check))


def test_another_end_by_api(prompt: Server, channel: str) -> None:
    """A backend moves the end of a connection, here to an earlier one."""

    async def check(door: str) -> None:
        user = f"u-{channel}-{door}"
        async with reader(door, prompt, channel, connection_token(user)) as one, Api(prompt) as api:
            end = soon()
            await api.call("refresh", user=user, expire_at=end)
            if not isinstance(one, PlainSocket) and (not isinstance(one, EventSource) or isinstance(one, UniStream)):
                told = await one.until_push("", "refresh")
                assert told["expires"] is True and told["ttl"] >= 1
            assert (await cut(one.wait_ended(), end)).code == 3005

    asyncio.run(at_every_door(check))


def test_an_endless_connection_by_api(prompt: Server, channel: str) -> None:
    """A refresh by API that names no end makes a connection endless."""

    async def run() -> None:
        user, end = f"u-{channel}", soon()
        async with SdkClient(prompt, token=connection_token(user, exp=end)) as client, Api(prompt) as api:
            await api.call("refresh", user=user)
            await client.until_push("", "refresh")
            await eventually(lambda: time.time() > end + MARGIN)
            await client.subscribe(channel)

    asyncio.run(run())


def test_nothing_comes_after_the_end(prompt: Server, channel: str) -> None:
    """Published all the while, a channel whose right ends delivers nothing later than a second after the end."""
    where = f"closed:{channel}"

    async def run() -> None:
        end = soon()
        seen: list[float] = []
        async with SdkClient(prompt, token=connection_token("42")) as client, Api(prompt) as api:
            await client.subscribe(where, token=subscription_token(where, exp=end))
            while time.time() < end + MARGIN + SLACK + 0.5:
                count = len(client.received)
                await api.publish(where, time.time())
                await asyncio.wait([asyncio.shield(client.ended)], timeout=0.02)
                if len(client.received) > count:
                    seen.append(time.time())
            assert seen and max(seen) <= end + MARGIN + SLACK
            assert client.kinds(where, "unsubscribe")

    asyncio.run(run())
