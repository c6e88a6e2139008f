"""Subscriptions that the server makes: by token, by API, for the user's own channel; and what of them outlives it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import pytest

from tests.clients import Api, Ended, PlainSocket, Reader, Reply, SdkClient, UniSocket, on_worker
from tests.eventsource import EventSource, UniStream
from tests.raw import RawSocket
from tests.servers import OPEN, SEEN, STREAM, WHOLE, Server
from tests.tokens import connection_token, sign, subscription_token
from tests.waiting import PATIENCE, eventually

DOORS = ("sdk", "uni_websocket", "uni_sse", "ws", "sse")


def door(
    name: str, server: Server, user: str, *, previous: Reader | None = None, channels: tuple[str, ...] = ()
) -> Reader:
    """A reader as ``user``, going on after ``previous``; it chooses a channel itself where the door demands one."""
    token = connection_token(user, channels=list(channels))
    places = previous.places if previous else {}
    subs = {
        channel: {"recover": True, "epoch": place.epoch, "offset": place.offset} for channel, place in places.items()
    }
    cursor = previous.cursor if isinstance(previous, PlainSocket | EventSource) else ""
    match name:
        case "sdk":
            return SdkClient(server, token=token, connect={"subs": subs} if subs else {})
        case "uni_websocket":
            return UniSocket(server, {"token": token, "subs": subs})
        case "uni_sse":
            return UniStream(server, {"token": token}, last_event_id=cursor)
        case "ws":
            return PlainSocket(server, [f"own-{user}"], query=f"token={token}", since=cursor)
        case "sse":
            return EventSource(server, [f"own-{user}"], query=f"token={token}", last_event_id=cursor)
    raise AssertionError(name)


async def elsewhere(name: str, server: Server, user: str, previous: Reader, **options: Any) -> Reader:
    """The same on another worker, going on after ``previous``."""
    return await on_worker(lambda: door(name, server, user, previous=previous, **options), previous.node.__ne__)


async def enter(name: str, server: Server, user: str, **options: Any) -> Reader:
    """Come in as ``user``."""
    reader = door(name, server, user, **options)
    await reader.__aenter__()
    return reader


# By token


@pytest.mark.parametrize("name", DOORS)
def test_channels_of_the_token(whole: Server, channel: str, name: str) -> None:
    """What the token lists is subscribed with the connect, whoever may subscribe to it, and delivers."""

    async def run() -> None:
        where = f"closed:{channel}"
        async with Api(whole) as api:
            reader = await enter(name, whole, f"u-{channel}", channels=(where,))
            assert where in reader.connected["subs"]
            await api.publish(where, 1)
            assert await reader.until(where, 1) == [1]
            await reader.close()

    asyncio.run(run())


def test_what_the_token_says_of_its_channels(whole: Server, channel: str) -> None:
    """``subs`` wins over ``channels``; its data comes with the result, its info is in presence, its override holds."""
    room, plain, not_seen = f"room:{channel}", channel, f"room:{channel}-hidden"
    subs = {
        room: {"info": {"role": "host"}, "data": {"welcome": True}},
        plain: {"b64data": "eyJhIjoxfQ==", "override": {"force_recovery": {"value": False}}},
        not_seen: {"override": {"presence": {"value": False}, "join_leave": {"value": False}}},
    }

    async def run() -> None:
        async with SdkClient(whole, token=connection_token("42", subs=subs, channels=["left-out"])) as client:
            result = client.connected["subs"]
            assert result.keys() == subs.keys()
            assert result[room]["data"] == {"welcome": True}
            assert result[plain]["data"] == {"a": 1}
            assert result[room]["recoverable"] and "recoverable" not in result[plain]
            mine = {"user": "42", "client": client.connected["client"], "chan_info": {"role": "host"}}
            assert await client.presence(room) == {client.connected["client"]: mine}
            assert await client.presence(not_seen) == {}
            with pytest.raises(Reply, match="^105 "):
                await client.subscribe(room)

    asyncio.run(run())


def test_bad_channels_in_a_token(whole: Server) -> None:
    """A namespace that nobody has is an error of the connect; a ``channel`` makes the token one of a subscription."""

    async def run() -> None:
        claims: dict[str, Any]
        for claims in ({"channels": ["nowhere:x"]}, {"subs": {"nowhere:x": {}}}):
            with pytest.raises(Reply) as caught:
                await SdkClient(whole, token=connection_token("42", **claims)).__aenter__()
            assert caught.value.code == 102
        for claims in ({"channels": "x"}, {"channels": [1]}, {"subs": []}, {"subs": {"x": 1}}):
            with pytest.raises(Ended) as ended:
                await SdkClient(whole, token=connection_token("42", **claims)).__aenter__()
            assert ended.value.code == 3500, claims
        many = [f"c{number}" for number in range(129)]
        with pytest.raises(Ended) as ended:
            await SdkClient(whole, token=connection_token("42", channels=many)).__aenter__()
        assert ended.value.code == 3505

    asyncio.run(run())


def test_recovery_at_connect(whole: Server, channel: str) -> None:
    """Who says at connect where it was gets what it missed, and an answer about each channel it may have."""

    async def run() -> None:
        token = connection_token("42", channels=[channel, f"{channel}-fresh"])
        async with Api(whole) as api:
            first = await SdkClient(whole, token=token).__aenter__()
            await api.publish(channel, 1)
            await first.until(channel, 1)
            place = first.places[channel]
            await first.abort()
            await api.publish(channel, 2)
            await api.publish(channel, 3)
            since = {"recover": True, "epoch": place.epoch, "offset": place.offset}
            asked = {channel: since, f"{channel}-not-mine": since}
            async with SdkClient(whole, token=token, connect={"subs": asked}) as second:
                assert second.connected["subs"].keys() == {channel, f"{channel}-fresh"}
                result = second.connected["subs"][channel]
                assert (result["was_recovering"], result["recovered"], result["offset"]) == (True, True, place.offset)
                assert second.data(channel) == [2, 3]
                await api.publish(channel, 4)
                assert await second.until(channel, 3) == [2, 3, 4]
            lost = {channel: {**since, "epoch": "other"}}
            async with SdkClient(whole, token=token, connect={"subs": lost}) as third:
                result = third.connected["subs"][channel]
                assert (result["was_recovering"], result.get("recovered"), result["offset"]) == (True, None, 4)
                assert third.data(channel) == []

    asyncio.run(run())


# By API


@pytest.mark.parametrize("name", DOORS)
def test_subscribe_and_unsubscribe_by_api(whole: Server, channel: str, name: str) -> None:
    """A backend puts a connected user into a channel and takes them out again, whichever worker serves them."""

    async def run() -> None:
        user, where = f"u-{channel}", f"closed:{channel}"
        reader = await enter(name, whole, user, channels=(f"{channel}-other",))
        async with Api(whole) as api:
            await api.leave_worker(reader.worker())
            await api.publish(where, "too early")
            assert await api.call("subscribe", user=user, channel=where, data={"hello": 1}) == {}
            told = await reader.until_push(where, "subscribe")
            assert (told["data"], told["offset"], told["recoverable"]) == ({"hello": 1}, 1, True)
            assert "publications" not in told
            await api.publish(where, "in")
            assert await reader.until(where, 1) == ["in"]
            assert await api.call("subscribe", user=user, channel=where) == {}
            assert await api.call("unsubscribe", user=user, channel=where) == {}
            told = await reader.until_push(where, "unsubscribe")
            assert (told["code"], told["reason"]) == (2000, "server unsubscribe")
            await api.publish(where, "too late")
            await api.publish(f"{channel}-other", "a mark")
            await reader.until(f"{channel}-other", 1)
            assert reader.data(where) == ["in"]
            assert len(reader.kinds(where, "subscribe")) == 1
        await reader.close()

    asyncio.run(run())


def test_narrowed_to_one_connection(whole: Server, channel: str) -> None:
    """A client id narrows a call to one connection of the user; an unknown one to none; nobody there is no error."""

    async def run() -> None:
        user = f"u-{channel}"
        token = connection_token(user)
        async with SdkClient(whole, token=token) as one, SdkClient(whole, token=token) as two, Api(whole) as api:
            await api.call("subscribe", user=user, channel=channel, client=one.connected["client"])
            await one.until_push(channel, "subscribe")
            assert await api.call("subscribe", user=user, channel=channel, client="nobody") == {}
            assert await api.call("subscribe", user=f"{user}-nobody", channel=channel) == {}
            await api.publish(channel, 1)
            await one.until(channel, 1)
            await two.subscribe(f"{channel}-mark")
            assert two.kinds(channel, "subscribe") == [] and two.data(channel) == []
            await api.call("unsubscribe", user=user, channel=channel, client=two.connected["client"])
            await api.publish(channel, 2)
            await one.until(channel, 2)

    asyncio.run(run())


def test_recovered_by_api(whole: Server, channel: str) -> None:
    """``recover_since`` says where a subscription by API begins: what lies behind it comes as publications."""

    async def run() -> None:
        user = f"u-{channel}"
        async with SdkClient(whole, token=connection_token(user)) as client, Api(whole) as api:
            places = [await api.publish(channel, number) for number in range(4)]
            since = {"offset": places[1].offset, "epoch": places[1].epoch}
            await api.call("subscribe", user=user, channel=channel, recover_since=since)
            await client.until_push(channel, "subscribe")
            assert await client.until(channel, 2) == [2, 3]
            await api.publish(channel, 4)
            assert await client.until(channel, 3) == [2, 3, 4]

    asyncio.run(run())


def test_all_at_once(whole: Server, channel: str) -> None:
    """An unsubscribe without a channel ends all subscriptions of the user, those of the client's own making too."""

    async def run() -> None:
        user = f"u-{channel}"
        token = connection_token(user, channels=[f"{channel}-t"])
        async with SdkClient(whole, token=token) as client, Api(whole) as api:
            await api.call("subscribe", user=user, channel=f"{channel}-a")
            await client.until_push(f"{channel}-a", "subscribe")
            await client.subscribe(f"{channel}-c")
            await api.call("unsubscribe", user=user)
            for mark in "tac":
                await client.until_push(f"{channel}-{mark}", "unsubscribe")
            await client.subscribe(f"{channel}-c")

    asyncio.run(run())


def test_expiry_of_a_subscription_by_api(whole: Server, channel: str) -> None:
    """A server-side subscription whose time is over ends its connection, which can come back without it."""

    async def run() -> None:
        user = f"u-{channel}"
        async with SdkClient(whole, token=connection_token(user)) as client, Api(whole) as api:
            end = time.time() + 2
            await api.call("subscribe", user=user, channel=channel, expire_at=int(end))
            await client.until_push(channel, "subscribe")
            assert (await client.wait_ended()).code == 3006
            assert -1 < time.time() - end < 2
        async with SdkClient(whole, token=connection_token(user)) as again:
            assert channel not in again.connected.get("subs", {})

    asyncio.run(run())


# What outlives the connection


@pytest.mark.parametrize("name", DOORS)
def test_restored_on_another_worker(whole: Server, channel: str, name: str) -> None:
    """A subscription by API survives the connection: it is there at the next connect, on another worker, recovered."""

    async def run() -> None:
        user, where = f"u-{channel}", f"closed:{channel}"
        token_channel = f"closed:{channel}-token"
        first = await enter(name, whole, user, channels=(token_channel,))
        async with Api(whole) as api:
            await api.call("subscribe", user=user, channel=where, data="kept")
            await first.until_push(where, "subscribe")
            await api.publish(where, 1)
            await api.publish(token_channel, "t1")
            await first.until(where, 1)
            await first.until(token_channel, 1)
            await first.close()
            await api.publish(where, 2)
            await api.publish(token_channel, "t2")
            second = await elsewhere(name, whole, user, first, channels=(token_channel,))
            assert {where, token_channel} <= second.connected["subs"].keys()
            assert second.connected["subs"][where]["data"] == "kept"
            await api.publish(where, 3)
            assert await second.until(where, 2) == [2, 3]
            assert await second.until(token_channel, 1) == ["t2"]
            await second.close()
            await api.call("unsubscribe", user=user, channel=where)
            third = await enter(name, whole, user, channels=(token_channel,))
            assert where not in third.connected["subs"]
            await third.close()

    asyncio.run(run())


@pytest.mark.parametrize("name", ["sdk", "uni_sse", "sse"])
def test_restored_after_its_worker_was_killed(own_whole: Server, channel: str, name: str) -> None:
    """kill -9 of the worker costs nothing of it."""

    async def run() -> None:
        user, where = f"u-{channel}", f"closed:{channel}"
        first = await enter(name, own_whole, user, channels=("own",))
        async with Api(own_whole) as api:
            await api.leave_worker(first.worker())
            await api.call("subscribe", user=user, channel=where)
            await first.until_push(where, "subscribe")
            await api.publish(where, 1)
            await first.until(where, 1)
            own_whole.kill_worker(first.worker())
            await eventually(lambda: first.gone)
            await api.publish(where, 2)
            second = await elsewhere(name, own_whole, user, first, channels=("own",))
            assert await second.until(where, 1) == [2]
            await second.close()
        await first.close()

    asyncio.run(run())
    own_whole.wait_workers()


@pytest.fixture
def own_whole(start_server: Callable[..., Server]) -> Server:
    """A server like ``whole`` for a test that kills a worker."""
    return start_server(WHOLE)


def test_unsubscribed_by_api_stays_out(whole: Server, channel: str) -> None:
    """Who was taken out of a channel of their token stays out with the same token, and is in again with a newer one."""

    async def run() -> None:
        user = f"u-{channel}"
        old = connection_token(user, channels=[channel], iat=int(time.time()) - 10)
        async with SdkClient(whole, token=old) as first, Api(whole) as api:
            assert channel in first.connected["subs"]
            await api.call("unsubscribe", user=user, channel=channel)
            await first.until_push(channel, "unsubscribe")
        async with SdkClient(whole, token=old) as second:
            assert channel not in second.connected.get("subs", {})
        newer = connection_token(user, channels=[channel], iat=time.time())
        async with SdkClient(whole, token=newer) as third:
            assert channel in third.connected["subs"]

    asyncio.run(run())


def test_replaced_information_outlives_the_connection(whole: Server, channel: str) -> None:
    """What an API ``refresh`` says about a user is in presence at once and after the next connect, too."""

    async def run() -> None:
        user, where = f"u-{channel}", f"room:{channel}"
        token = connection_token(user, info={"name": "old"}, iat=int(time.time()) - 10)
        async with SdkClient(whole, token=token) as first, Api(whole) as api:
            await api.call("refresh", user=user, info={"name": "new"}, expire_at=int(time.time()) + 3600)
            await first.until_push("", "refresh")
        async with SdkClient(whole, token=token) as second:
            await second.subscribe(where)
            (mine,) = (await second.presence(where)).values()
            assert mine["conn_info"] == {"name": "new"}

    asyncio.run(run())


def test_one_users_session_is_nobody_elses(whole: Server, channel: str) -> None:
    """Names that look alike, or like keys of the store, have sessions of their own."""

    async def run() -> None:
        users = [f"u{channel}", f"u{channel}:1", f"u{channel}}}", f"U{channel}", f"u{channel} ", f"ü{channel}", ""]
        async with Api(whole) as api:
            for number, user in enumerate(users):
                await api.call("subscribe", user=user, channel=f"{channel}-{number}")
            for number, user in enumerate(users):
                async with SdkClient(whole, token=sign({"sub": user} if user else {})) as client:
                    wanted = {f"{channel}-{number}"} if user else set()
                    assert client.connected.get("subs", {}).keys() == wanted, user

    asyncio.run(run())


# The user's own channel


PERSONAL: dict[str, Any] = {
    "server": {"workers": 2},
    "client": {
        "subscribe_to_user_personal_channel": {
            "enabled": True,
            "personal_channel_namespace": "mine",
            "single_connection": True,
        }
    },
    "channel": {
        "namespaces": [
            {"name": "mine", **STREAM, **OPEN, **SEEN},
            {"name": "other", **STREAM, **OPEN},
        ]
    },
}


@pytest.fixture(scope="module")
def personal() -> Iterator[Server]:
    """Every user has a channel of their own, and one connection at a time."""
    with Server(PERSONAL) as running:
        yield running


@pytest.mark.parametrize("name", DOORS)
def test_the_users_own_channel(personal: Server, channel: str, name: str) -> None:
    """A user's connection is in their channel from the beginning; an anonymous one has none."""

    async def run() -> None:
        user = f"u-{channel}"
        mine = f"mine:#{user}"
        async with Api(personal) as api, SdkClient(personal) as nobody:
            assert nobody.connected.get("subs", {}) == {}
            reader = await enter(name, personal, user)
            assert mine in reader.connected["subs"]
            await api.publish(mine, "for you")
            assert await reader.until(mine, 1) == ["for you"]
            await reader.close()

    asyncio.run(run())


@pytest.mark.parametrize("name", ["sdk", "uni_websocket", "uni_sse"])
def test_one_connection_at_a_time(personal: Server, channel: str, name: str) -> None:
    """A user's next connection, on whichever worker, closes the one before with 3504, and stays."""

    async def run() -> None:
        user = f"u-{channel}"
        first = await SdkClient(personal, token=connection_token(user)).__aenter__()
        second = await enter(name, personal, user)
        assert (await first.wait_ended()).code == 3504
        async with SdkClient(personal) as watcher:
            await eventually_alone(watcher, f"mine:#{user}", second.connected["client"])
        assert not second.gone
        await first.close()
        await second.close()

    asyncio.run(run())


async def eventually_alone(watcher: SdkClient, channel: str, client: str) -> None:
    """Wait until ``client`` is the only one in ``channel``."""
    deadline = time.monotonic() + 15
    while (found := (await watcher.presence(channel)).keys()) != {client}:
        assert time.monotonic() < deadline, found


# Unidirectional doors


def test_a_connect_by_message(whole: Server, channel: str) -> None:
    """A unidirectional WebSocket without ``cf_connect`` takes its first message for the request."""

    async def run() -> None:
        request = {"token": connection_token("42"), "subs": {channel: {}}}
        async with UniSocket(whole, request, by_message=True) as socket, Api(whole) as api:
            assert socket.connected["subs"].keys() == {channel}
            assert socket.connected["client"] and socket.connected["session"] and "pong" not in socket.connected
            await api.publish(channel, 1)
            assert await socket.until(channel, 1) == [1]

    asyncio.run(run())


@pytest.mark.parametrize("name", ["uni_websocket", "uni_sse", "uni_sse by POST"])
def test_subs_of_a_connect_request(whole: Server, channel: str, name: str) -> None:
    """Channels of the request are subscribed where a client might; closed and private ones are left out in silence."""

    async def run() -> None:
        subs: dict[str, Any] = {channel: {}, "closed:x": {}, f"${channel}": {}}
        request = {"token": connection_token("42"), "subs": subs}
        reader = uni(name, whole, request)
        await reader.__aenter__()
        assert reader.connected["subs"].keys() == {channel}
        await reader.close()
        unknown = uni(name, whole, {**request, "subs": {"nowhere:x": {}}})
        assert await refusal(unknown) in (3501, 400)

    asyncio.run(run())


def uni(name: str, server: Server, request: dict[str, Any]) -> UniSocket | UniStream:
    """A unidirectional reader with a request of the test's own."""
    if name == "uni_websocket":
        return UniSocket(server, request)
    return UniStream(server, request, by_post=name.endswith("POST"))


async def refusal(reader: UniSocket | UniStream) -> int | None:
    """The code with which ``reader`` is turned away: of HTTP, of the close frame or of the disconnect push."""
    try:
        await reader.__aenter__()
    except Ended as ended:
        return reader.disconnect.code if reader.disconnect else ended.code
    code = (await reader.wait_ended()).code
    await reader.close()
    return code


UNI_REFUSALS: list[tuple[str, dict[str, Any], tuple[int, ...]]] = [
    ("an expired token", {"token": connection_token("42", exp=1)}, (3005, 401)),
    ("a forged token", {"token": "nonsense"}, (3500, 401)),
    ("an unknown namespace in the token", {"token": connection_token("42", channels=["nowhere:x"])}, (3004, 404)),
]


@pytest.mark.parametrize("name", ["uni_websocket", "uni_sse"])
@pytest.mark.parametrize(("request_", "codes"), [row[1:] for row in UNI_REFUSALS], ids=[row[0] for row in UNI_REFUSALS])
def test_errors_of_a_connect_become_disconnects(
    whole: Server, name: str, request_: dict[str, Any], codes: tuple[int, ...]
) -> None:
    """There are no replies on these doors, so an error of the connect ends the connection with its own code."""

    async def run() -> None:
        assert await refusal(uni(name, whole, request_)) in codes

    asyncio.run(run())


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_the_head_of_a_stream_that_ends_at_once(whole: Server, method: str) -> None:
    """It is an event stream of a known length; a connection that is not closed by it can be used again."""
    request = '{"token":"nonsense"}'
    path = "/connection/uni_sse" + (f"?cf_connect={quote(request)}" if method == "GET" else "")

    async def run() -> None:
        async with RawSocket(whole) as raw:
            lines = [f"{method} {path} HTTP/1.1", "Host: localhost"]
            lines += [f"Content-Length: {len(request)}"] if method == "POST" else []
            await raw.send("\r\n".join([*lines, "", ""]).encode() + (request.encode() if method == "POST" else b""))
            head = (await asyncio.wait_for(raw.reader.readuntil(b"\r\n\r\n"), PATIENCE)).decode().lower()
            assert head.count("content-type:") == 1 and "content-type: text/event-stream" in head
            length = int(head.partition("content-length: ")[2].partition("\r\n")[0])
            assert b'"code":3500' in await raw.bytes(length)
            if "connection: close" in head:
                assert await raw.hung_up()
            else:
                await raw.send(b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert (await raw.response()).status == 404

    asyncio.run(run())


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"token":1}', b"\xff"])
def test_bad_connect_requests(whole: Server, body: bytes) -> None:
    """A request that is no JSON object of the right kind is answered 400; an empty one is one of nobody."""

    async def run() -> None:
        stream = UniStream(whole, by_post=True)
        stream.body = body
        if body:
            with pytest.raises(Ended) as ended:
                await stream.__aenter__()
            assert ended.value.code == 400

    asyncio.run(run())


def test_last_event_id_of_a_unidirectional_stream(whole: Server, channel: str) -> None:
    """Each event carries a cursor; a stream that comes back with it gets what it missed."""

    async def run() -> None:
        request = {"token": connection_token("42", channels=[channel])}
        async with Api(whole) as api:
            async with UniStream(whole, request) as first:
                await api.publish(channel, 1)
                await first.until(channel, 1)
            assert first.cursor
            await api.publish(channel, 2)
            async with UniStream(whole, request, last_event_id=first.cursor) as second:
                assert await second.until(channel, 1) == [2]
                assert second.connected["subs"][channel]["recovered"] is True

    asyncio.run(run())


def test_subscription_tokens_have_no_part_in_it(whole: Server, channel: str) -> None:
    """A channel of the token cannot be subscribed again by the client, not even with a token; leaving it is allowed."""

    async def run() -> None:
        async with SdkClient(whole, token=connection_token("42", channels=[channel])) as client:
            with pytest.raises(Reply, match="^105 "):
                await client.subscribe(channel, token=subscription_token(channel))
            assert json.dumps(client.connected["subs"][channel])

    asyncio.run(run())
