"""Who may come in and read what, over every door: each row has its exact answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from websockets.exceptions import InvalidStatus

from tests.clients import Ended, PlainSocket, Refusal, Reply, SdkClient
from tests.eventsource import EventSource
from tests.servers import ORIGIN, Server
from tests.tokens import PREVIOUS_KEY, connection_token, encode, sign, subscription_token

NOW = int(time.time())
FAR = NOW + 3600
STRANGE_KEY = "a key that is not ours, but long enough for it"


@pytest.fixture(scope="module")
def strict() -> Iterator[Server]:
    """A production server: nobody comes in without a token."""
    changes = {
        "server": {"mode": "production"},
        "client": {"allow_anonymous_connect_without_token": False},
    }
    with Server(changes) as running:
        yield running


Row = tuple[str, str, tuple[type[Reply] | type[Ended], int] | None, int]
"""Name, token, what an SDK is answered (None for a yes), HTTP status of the other doors."""

CONNECTIONS: list[Row] = [
    ("good", sign({"sub": "42", "exp": FAR}), None, 200),
    ("HS384", sign({"sub": "42", "exp": FAR}, alg="HS384"), None, 200),
    ("HS512", sign({"sub": "42", "exp": FAR}, alg="HS512"), None, 200),
    ("without exp", sign({"sub": "42"}), None, 200),
    ("of the previous key", sign({"sub": "42"}, PREVIOUS_KEY), None, 200),
    ("exp as a float", sign({"sub": "42", "exp": FAR + 0.5}), None, 200),
    ("anonymous", sign({"exp": FAR}), None, 403),
    ("with unknown claims", sign({"sub": "42", "roles": ["a"], "x": None}), None, 200),
    ("expired", sign({"sub": "42", "exp": NOW - 60}), (Reply, 109), 401),
    ("not yet good", sign({"sub": "42", "nbf": FAR}), (Reply, 109), 401),
    ("of another key", sign({"sub": "42"}, STRANGE_KEY), (Ended, 3500), 401),
    ("without signature", sign({"sub": "42"}).rpartition(".")[0] + ".", (Ended, 3500), 401),
    ("alg none", sign({"sub": "42"}, alg="none"), (Ended, 3500), 401),
    ("alg nOnE", sign({"sub": "42"}, alg="nOnE"), (Ended, 3500), 401),
    ("alg RS256", sign({"sub": "42"}, alg="RS256"), (Ended, 3500), 401),
    ("signed as HS256, named HS512", encode(b'{"alg":"HS512"}') + sign({"sub": "42"})[36:], (Ended, 3500), 401),
    ("with a critical header", sign({"sub": "42"}, crit=["exp"], exp=1), (Ended, 3500), 401),
    ("for one channel", sign({"sub": "42", "channel": "closed:x"}), (Ended, 3500), 401),
    ("exp as text", sign({"sub": "42", "exp": str(FAR)}), (Ended, 3500), 401),
    ("sub as a number", sign({"sub": 42}), (Ended, 3500), 401),
    ("no token at all", "nonsense", (Ended, 3500), 401),
    ("four parts", sign({"sub": "42"}) + ".x", (Ended, 3500), 401),
    ("20 KiB", sign({"sub": "x" * 20_000}), (Ended, 3500), 431),
    ("none", "", (Ended, 3501), 401),
]

SUBSCRIPTIONS: list[Row] = [
    ("good", subscription_token("closed:x"), None, 200),
    ("of the previous key", subscription_token("closed:x", key=PREVIOUS_KEY), None, 200),
    ("expired", subscription_token("closed:x", exp=NOW - 60), (Reply, 109), 401),
    ("of another key", subscription_token("closed:x", key=STRANGE_KEY), (Reply, 103), 403),
    ("for another channel", subscription_token("closed:y"), (Ended, 3500), 403),
    ("for another user", subscription_token("closed:x", "43"), (Ended, 3500), 401),
    ("of a connection", connection_token("42"), (Reply, 103), 403),
    ("no token at all", "nonsense", (Reply, 103), 403),
    ("none", "", (Reply, 103), 403),
]


def ids(rows: list[Row]) -> list[str]:
    """The names of the rows."""
    return [row[0] for row in rows]


@pytest.mark.parametrize("row", CONNECTIONS, ids=ids(CONNECTIONS))
def test_connection_tokens_of_an_sdk(strict: Server, row: Row) -> None:
    """A good token connects; an expired one is an error that asks for a new one; any other closes for good."""
    _, token, expected, _ = row

    async def run() -> None:
        if expected is None:
            async with SdkClient(strict, token=token) as client:
                assert client.connected["client"]
                return
        kind, code = expected
        with pytest.raises(Refusal) as caught:
            await SdkClient(strict, token=token).__aenter__()
        assert (type(caught.value), caught.value.code) == (kind, code)

    asyncio.run(run())


@pytest.mark.parametrize("way", ["header", "query"])
@pytest.mark.parametrize("door", ["ws", "sse"])
@pytest.mark.parametrize("row", CONNECTIONS, ids=ids(CONNECTIONS))
def test_connection_tokens_of_a_stream(strict: Server, row: Row, door: str, way: str) -> None:
    """The same without an SDK: the refusal is an HTTP status, before anything is opened."""
    _, token, _, status = row
    headers = {"Authorization": f"Bearer {token}"} if way == "header" and token else {}
    query = f"token={quote(token)}" if way == "query" and token else ""
    asyncio.run(expect_status(strict, door, "users:a", status, query, headers))


@pytest.mark.parametrize("row", SUBSCRIPTIONS, ids=ids(SUBSCRIPTIONS))
def test_subscription_tokens_of_an_sdk(strict: Server, row: Row) -> None:
    """A token decides alone; one for something else ends the connection, because somebody mixed up identities."""
    _, token, expected, _ = row

    async def run() -> None:
        async with SdkClient(strict, token=connection_token("42")) as client:
            if expected is None:
                await client.subscribe("closed:x", token=token)
                return
            kind, code = expected
            with pytest.raises(Refusal) as caught:
                await client.subscribe("closed:x", token=token)
            assert (type(caught.value), caught.value.code) == (kind, code)

    asyncio.run(run())


@pytest.mark.parametrize("door", ["ws", "sse"])
@pytest.mark.parametrize("row", SUBSCRIPTIONS, ids=ids(SUBSCRIPTIONS))
def test_subscription_tokens_of_a_stream(strict: Server, row: Row, door: str) -> None:
    """The same without an SDK."""
    _, token, _, status = row
    query = f"token={connection_token('42')}" + (f"&subscription_token={quote(token)}" if token else "")
    asyncio.run(expect_status(strict, door, "closed:x", status, query, {}))


async def expect_status(
    server: Server, door: str, channel: str, status: int, query: str, headers: dict[str, str]
) -> None:
    """Open a stream; it must be refused with ``status``, or work when that is 200."""
    try:
        if door == "sse":
            async with EventSource(server, [channel], query=query, headers=headers) as stream:
                assert stream.connected["subs"].keys() == {channel}
        else:
            async with PlainSocket(server, [channel], query=query, additional_headers=headers) as plain:
                assert plain.connected["subs"].keys() == {channel}
        found = 200
    except InvalidStatus as refused:
        found = refused.response.status_code
    except Ended as ended:
        found = ended.code or 0
    assert found == status


def test_what_a_user_may_do(strict: Server, channel: str) -> None:
    """A user subscribes and, being a subscriber, publishes; an anonymous connection may do neither here."""

    async def run() -> None:
        name = f"users:{channel}"
        async with SdkClient(strict, token=sign({"sub": "42"})) as user, SdkClient(strict, token=sign({})) as nobody:
            with pytest.raises(Reply, match="^103 "):
                await user.publish(name, 1)
            await user.subscribe(name)
            await user.publish(name, 1)
            assert await user.until(name, 1) == [1]
            (push,) = [push for push in user.pushes if "pub" in push]
            assert push["pub"]["info"] == {"user": "42", "client": user.connected["client"]}
            with pytest.raises(Reply, match="^103 "):
                await user.history(name, limit=1)
            for call in (nobody.subscribe(name), nobody.publish(name, 1)):
                with pytest.raises(Reply, match="^103 "):
                    await call

    asyncio.run(run())


def test_information_in_tokens(strict: Server, channel: str) -> None:
    """What the tokens say about the connection and the subscription goes out with what it publishes."""

    async def run() -> None:
        name = f"users:{channel}"
        token = sign({"sub": "42", "info": {"name": "Ada"}})
        async with SdkClient(strict, token=token) as user:
            await user.subscribe(name, token=subscription_token(name, info={"role": "host"}))
            await user.publish(name, 1)
            await user.until(name, 1)
            (push,) = [push for push in user.pushes if "pub" in push]
            assert push["pub"]["info"]["conn_info"] == {"name": "Ada"}
            assert push["pub"]["info"]["chan_info"] == {"role": "host"}

    asyncio.run(run())


def test_commands_sent_behind_a_refused_connect(strict: Server) -> None:
    """They are discarded, not answered, and the socket is closed."""

    async def run() -> None:
        client = await SdkClient(strict).open()
        connect, connected = client.command("connect", {"token": sign({"sub": "42", "exp": NOW - 60})})
        subscribe, subscribed = client.command("subscribe", {"channel": "users:x"})
        await client.socket.send(f"{connect}\n{subscribe}")
        assert (await connected)["error"] == {"code": 109, "message": "token expired"}
        await client.wait_ended()
        with pytest.raises(Ended):
            await subscribed
        await client.close()

    asyncio.run(run())


def test_a_page_of_the_same_host_is_a_page_like_any_other(strict: Server) -> None:
    """In production the Host header, which a rebound name controls, allows nothing."""

    async def run() -> None:
        token = connection_token("42")
        async with SdkClient(strict, token=token, origin=ORIGIN):
            pass
        with pytest.raises(InvalidStatus) as refused:
            await SdkClient(strict, token=token, origin=f"http://localhost:{strict.port}").__aenter__()
        assert refused.value.response.status_code == 403

    asyncio.run(run())


def test_the_reply_to_connect(strict: Server) -> None:
    """It names the client, says how it is pinged and, where the token ends, when."""

    async def run() -> None:
        async with SdkClient(strict, token=sign({"sub": "42"})) as client:
            result: dict[str, Any] = dict(client.connected)
            assert (len(result["client"]), result["ping"], result["pong"]) == (36, 25, True)
            assert result["version"] and result["node"]

    asyncio.run(run())
