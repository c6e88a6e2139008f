"""Connections of the SDKs and one-way WebSockets: order, waiting, and what happens to who leaves meanwhile."""

from __future__ import annotations

import asyncio
import sys
import time
import uuid
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from rt import errors
from rt.delivery.connection import unguessable
from rt.delivery.hub import Hub
from rt.errors import SERVER_UNSUBSCRIBE, Closing, StoreError
from rt.protocol.control import UnsubscribeUser, encode
from rt.protocol.frames import PING
from tests.delivery.hubs import (
    FakeKeys,
    MemoryStore,
    Sdk,
    Uni,
    config,
    finish,
    later,
    make_hub,
    nothing_left,
    run,
    ticket,
    token,
    turns,
)

KINDS = [Sdk, Uni]
JWKS = {"jwks_public_endpoint": "https://keys.example/jwks"}
FOREIGN = (  # of a key that is known nowhere
    "eyJhbGciOiJFUzI1NiIsImtpZCI6Im5vbmUifQ.eyJzdWIiOiI0MiJ9."
    "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
)


def test_commands_behind_a_connect_wait_for_it() -> None:
    """The session is read first; then all of them are answered, in their order and in one frame each step."""

    async def test() -> None:
        store = MemoryStore()
        store.sessions_used = True
        hub = make_hub(store)
        client = Sdk(hub, connect=False)
        client.connect(token(), {"id": 2, "subscribe": {"channel": "a"}}, {"id": 3, "presence": {"channel": "a"}})
        assert client.connection.busy and not client.read()
        await turns(store)
        assert [message["id"] for message in client.read()] == [1, 2, 3]
        assert client.reply(3)["error"]["code"] == 108
        await finish(hub)

    run(test)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("answers", range(6))
def test_who_leaves_while_it_connects_leaves_nothing_behind(kind: type[Sdk], answers: int) -> None:
    """However far it had come: its session, the channels of its token, their positions."""

    async def test() -> None:
        store = MemoryStore()
        store.sessions_used = True
        hub = make_hub(store)
        client = kind(hub, token(subs={"a": {}, "room:1": {"expire_at": time.time() + 900}}))
        for _ in range(answers):
            store.answer()
            await asyncio.sleep(0)
        client.connection.broken()
        await turns(store)
        nothing_left(hub)
        assert not store.present["room:1"]
        await finish(hub)

    run(test)


@pytest.mark.parametrize("kind", KINDS)
def test_who_leaves_before_its_keys_have_come_is_nobodys(kind: type[Sdk]) -> None:
    """Also where the first turn of the loop had not come yet."""

    async def test() -> None:
        store, keys = MemoryStore(), FakeKeys()
        hub = make_hub(store, config(token=JWKS), keys=keys)
        first, second = kind(hub, FOREIGN), kind(hub, FOREIGN)
        first.connection.broken()
        await turns(store)
        second.connection.broken()
        for asked in keys.asked:
            asked.set_result(None)
        await turns(store)
        nothing_left(hub)
        await finish(hub)

    run(test)


@pytest.mark.parametrize("kind", KINDS)
def test_who_has_left_the_lobby_is_not_moved(kind: type[Sdk]) -> None:
    """It would be in no one's way out, and a stop would wait for it."""

    async def test() -> None:
        store = MemoryStore()
        lobby, hub = make_hub(store), make_hub(store)
        client = kind(lobby, connect=False, choose=lambda token: hub)
        client.connection.broken()
        if isinstance(client, Uni):
            client.connect("")
        await turns(store)
        assert not hub.connections and not lobby.connections
        await finish(hub, lobby)

    run(test)


@pytest.mark.parametrize("kind", KINDS)
def test_a_token_leads_out_of_the_lobby(kind: type[Sdk]) -> None:
    """Everything that follows is of the hub it leads to; one that leads nowhere is invalid."""

    async def test() -> None:
        store = MemoryStore()
        lobby, hub = make_hub(store), make_hub(store)

        def choose(token: str) -> Hub:
            if not token:
                raise Closing(errors.INVALID_TOKEN)
            return hub

        client, lost = kind(lobby, token(), choose=choose), kind(lobby, choose=choose)
        await turns(store)
        assert lost.connection.closed and lost.code == 3500
        assert hub.connections == {client.connection} and not lobby.connections
        assert hub.users == {"42": {client.connection}}
        await finish(hub, lobby)

    run(test)


@pytest.mark.parametrize(("kind", "told"), [(Sdk, (100, None)), (Uni, (None, 3004))])
def test_a_session_that_cannot_be_read_is_no_empty_one(kind: type[Sdk], told: tuple[int | None, int | None]) -> None:
    """The client comes back later, by a temporary error or a close for which clients come back."""

    async def test() -> None:
        store = MemoryStore()
        store.sessions_used = store.away = True
        hub = make_hub(store)
        client = kind(hub, token())
        await turns(store)
        code, close = told
        if code:
            assert client.reply(1)["error"] == {"code": code, "message": "internal server error", "temporary": True}
            client.ask(2, "subscribe", channel="a")
            assert not client.read(), "what follows a refused connect is discarded"
        else:
            assert client.code == close
        await finish(hub)

    run(test)


def test_what_fails_unforeseen_ends_the_connection(caplog: pytest.LogCaptureFixture) -> None:
    """It would wait for ever."""

    async def test() -> None:
        store = MemoryStore()
        store.sessions_used = True
        hub = make_hub(store)
        client = Sdk(hub, connect=False)
        store.session = lambda user: 1 / 0  # type: ignore[assignment, method-assign, return-value]
        client.connect(token())
        await turns(store)
        assert client.code == 3004
        await finish(hub)

    run(test)
    assert "ZeroDivisionError" in caplog.text


def test_a_connection_that_idles_holds_no_queue() -> None:
    """Millions of them idle."""

    async def test() -> None:
        store = MemoryStore()
        hub = make_hub(store)
        client = Sdk(hub, token())
        client.ask(2, "subscribe", channel="a")
        await turns(store)
        connection = client.connection
        held = [getattr(connection, name) for name in type(connection).__slots__]
        assert sum(sys.getsizeof(value) for value in held) < 400
        await finish(hub)

    run(test)


# Subscriptions


def test_a_subscribe_that_the_backend_ends_on_its_way_is_over_for_good() -> None:
    """It hears that it was subscribed, and is no more; not an error after which it would try again."""

    async def test() -> None:
        store = MemoryStore()
        hub = make_hub(store)
        client = Sdk(hub, token())
        client.ask(2, "subscribe", channel="room:1")
        hub.obey(encode(UnsubscribeUser("42", channel="room:1")))
        await turns(store)
        first, second = client.read()[-2:]
        assert first == {"id": 2, "subscribe": {}}
        assert second["push"] == {"channel": "room:1", "unsubscribe": {"code": 2000, "reason": "server unsubscribe"}}
        assert not store.present["room:1"]
        client.ask(3, "subscribe", channel="room:1")
        await turns(store)
        assert "subscribe" in client.reply(3)
        await finish(hub)

    run(test)


def test_a_subscribe_whose_channel_is_lost_on_its_way_is_tried_again() -> None:
    """By a temporary error: it is answered once, and holds nothing."""

    async def test() -> None:
        store = MemoryStore()
        hub = make_hub(store)
        client = Sdk(hub, token())
        client.ask(2, "subscribe", channel="a")
        client.connection.lost(client.connection.subscriptions["a"])
        await turns(store)
        assert client.reply(2)["error"]["temporary"]
        assert not client.connection.subscriptions and not client.pushes("unsubscribe")
        await finish(hub)

    run(test)


def test_an_unsubscribe_is_answered_when_nobody_sees_the_client_any_more() -> None:
    """Also where the store cannot be told; and what was sent behind it waits."""

    async def test() -> None:
        store = MemoryStore()
        hub = make_hub(store)
        client = Sdk(hub, token())
        client.ask(2, "subscribe", channel="room:1")
        await turns(store)
        assert store.present["room:1"] and client.read()
        client.send({"id": 3, "unsubscribe": {"channel": "room:1"}}, {"id": 4, "unsubscribe": {"channel": "no"}})
        assert not client.read()
        store.away = True
        await turns(store)
        assert [client.reply(3), client.reply(4)] == [{"id": 3, "unsubscribe": {}}, {"id": 4, "unsubscribe": {}}]
        store.away = False
        await finish(hub)

    run(test)


@pytest.mark.parametrize(
    ("subscription", "fields", "answer"),
    [
        ("a", {"token": "none"}, 103),
        ("a", {"token": ticket("a", exp=1)}, 109),
        ("a", {"token": ticket("a", expire_at=1)}, 110),
        ("a", {}, 105),
        ("nowhere:a", {}, 102),
        ("b" * 300, {}, 107),
        ("own:b", {}, 103),
        ("$b", {}, 103),
        ("b", {"type": 1}, 108),
        ("b", {"tf": {"key": "x"}}, 107),
        ("b", {"recover": True, "epoch": "other", "flag": 2, "recoverable": True, "token": ticket("b")}, 112),
    ],
)
def test_why_a_subscribe_is_refused(subscription: str, fields: dict[str, Any], answer: int) -> None:
    """By the codes of the protocol; the connection lives on."""

    async def test() -> None:
        store = MemoryStore()
        hub = make_hub(store, config(force_recovery=True))
        client = Sdk(hub, token())
        client.ask(2, "subscribe", channel="a" if answer == 105 else "c")
        await turns(store)
        client.ask(3, "subscribe", channel=subscription, **fields)
        await turns(store)
        assert client.reply(3)["error"]["code"] == answer
        assert len(client.connection.subscriptions) == 1 and not client.connection.closed
        await finish(hub)

    run(test)


@pytest.mark.parametrize("bad", [ticket("b"), ticket("a", user="43"), ticket("a", client="someone")])
def test_a_good_token_of_another_subscription_ends_the_connection(bad: str) -> None:
    """3500: an application that mixes them up is not to go on."""

    async def test() -> None:
        store = MemoryStore()
        hub = make_hub(store)
        client = Sdk(hub, token())
        client.ask(2, "subscribe", channel="a", token=bad)
        assert client.code == 3500
        await finish(hub)

    run(test)


# Rights that end


def test_a_right_that_ends_while_it_is_joined_is_not_followed() -> None:
    """The client hears a temporary error; when it comes back, its token is expired."""

    async def test() -> None:
        store = MemoryStore()
        hub = make_hub(store, config(expired_sub_close_delay=0.0))
        client = Sdk(hub, token())
        client.ask(2, "subscribe", channel="a", token=ticket("a", expire_at=time.time() + 90))
        later(hub, 89)
        assert client.connection.subscriptions
        later(hub, 2)
        assert not client.connection.subscriptions
        await turns(store)
        assert client.reply(2)["error"]["code"] == 100
        await finish(hub)

    run(test)


@pytest.mark.parametrize(
    ("made", "close"), [(lambda: {"subs": {"a": {"expire_at": time.time() + 90}}}, 3006), (dict, None)]
)
def test_a_right_that_ends(made: Callable[[], dict[str, Any]], close: int | None) -> None:
    """The server's own ends the connection, a client's only its subscription (2501)."""

    async def test() -> None:
        store = MemoryStore()
        hub = make_hub(store, config(expired_sub_close_delay=0.0))
        client = Sdk(hub, token(**made()))
        await turns(store)
        if close is None:
            client.ask(2, "subscribe", channel="a", token=ticket("a", expire_at=time.time() + 90))
            await turns(store)
            assert client.reply(2)["subscribe"]["ttl"] in (66, 67)
        later(hub, 89)
        assert client.connection.subscriptions
        later(hub, 2)
        assert not client.connection.subscriptions
        if close is None:
            assert [push["unsubscribe"]["code"] for push in client.pushes("unsubscribe")] == [2501]
        else:
            assert client.code == close
        await finish(hub)

    run(test)


def test_a_fresh_token_prolongs_a_subscription() -> None:
    """One that is invalid or of another one ends the connection; none at all is a bad request."""

    async def test() -> None:
        store = MemoryStore()
        hub = make_hub(store)
        client, other = Sdk(hub, token()), Sdk(hub, token())
        for one in (client, other):
            one.ask(2, "subscribe", channel="a", token=ticket("a", expire_at=time.time() + 900))
        await turns(store)
        client.ask(3, "sub_refresh", channel="a", token=ticket("a"))
        client.ask(4, "sub_refresh", channel="a")
        client.ask(5, "sub_refresh", channel="b", token=ticket("b"))
        client.ask(6, "sub_refresh", channel="a", token=ticket("a", exp=1))
        assert client.reply(3) == {"id": 3, "sub_refresh": {}}
        assert [client.reply(id)["error"]["code"] for id in (4, 5, 6)] == [107, 103, 109]
        right = client.connection.subscriptions["a"].right
        assert right is not None and right.end is None
        other.ask(3, "sub_refresh", channel="a", token="none")
        assert other.code == 3500
        await finish(hub)

    run(test)


@pytest.mark.parametrize(
    ("fresh", "outcome"),
    [
        (partial(token, expire_at=4102444800), None),
        (partial(token, exp=1), 3005),
        (partial(token, "43"), 3500),
        (lambda: "none", 3500),
        (lambda: "", 3501),
        (partial(token, channels=["a"]), 3010),
    ],
)
def test_a_fresh_token_of_a_connection(fresh: Callable[[], str], outcome: int | None) -> None:
    """It prolongs the right, or ends the connection by the protocol's code."""

    async def test() -> None:
        store = MemoryStore()
        hub = make_hub(store)
        client = Sdk(hub, token(exp=time.time() + 60))
        client.ask(2, "refresh", token=fresh())
        if outcome is None:
            assert client.reply(2)["refresh"]["expires"] is True and client.reply(2)["refresh"]["ttl"] > 900
        else:
            assert client.code == outcome
        await finish(hub)

    run(test)


# The one-way WebSocket


def test_a_one_way_socket_is_asked_in_a_way_that_it_answers() -> None:
    """It sends no pong of the protocol; the socket's own ping is answered by every end of one."""

    async def test() -> None:
        store = MemoryStore()
        hub = make_hub(store)
        both, native = Uni(hub), Uni(hub, native_ping=True)
        await turns(store)
        assert both.connection.ping.endswith(PING) and b"{}" in both.connection.ping
        assert native.connection.ping == PING
        assert "ping" not in native.read()[0]["connect"] and both.read()[0]["connect"]["ping"] == 25
        await finish(hub)

    run(test)


@pytest.mark.parametrize(
    ("request_", "close"),
    [
        ({"token": token(exp=1)}, 3005),
        ({"token": token(expire_at=1)}, 3005),
        ({"token": "none"}, 3500),
        ({"token": token(channels=["nowhere:a"])}, 3004),
        ({"subs": {"nowhere:a": {}}}, 3501),
        ({"token": token(), "subs": {f"c{n}": {} for n in range(200)}}, 3505),
        ([], 3501),
    ],
)
def test_a_one_way_connect_that_cannot_be(request_: Any, close: int) -> None:
    """Errors become closes, told as a push before the close frame."""

    async def test() -> None:
        store = MemoryStore()
        hub = make_hub(store)
        client = Uni(hub, connect=False)
        client.send(request_)
        await turns(store)
        assert client.code == close
        assert client.read()[-1]["disconnect"]["code"] == close
        await finish(hub)

    run(test)


def test_a_one_way_connect_follows_what_it_may() -> None:
    """What needs a token is skipped without a word; what it sends later is dropped."""

    async def test() -> None:
        store = MemoryStore()
        hub = make_hub(store)
        client = Uni(hub, connect=False)
        client.connect(token(), subs={"a": {}, "own:b": {}, "$c": {}})
        await turns(store)
        client.send({"id": 2, "subscribe": {"channel": "b"}})
        assert set(client.read()[0]["connect"]["subs"]) == {"a"}
        assert client.connection.session == client.heard[0]["connect"]["session"]
        client.connection.lost(client.connection.subscriptions["a"])
        assert client.code == 3010
        await finish(hub)

    run(test)


def test_nothing_is_pushed_behind_the_last_words() -> None:
    """Of several channels that are lost in one step, the first ends the connection."""

    async def test() -> None:
        store = MemoryStore()
        hub = make_hub(store)
        client = Sdk(hub, token(subs={"a": {}}))
        await turns(store)
        client.ask(2, "subscribe", channel="b")
        await turns(store)
        for subscription in list(client.connection.subscriptions.values()):
            client.connection.lost(subscription)
        client.connection.unsubscribe_by_server("", SERVER_UNSUBSCRIBE)
        assert client.code == 3010 and not client.pushes("unsubscribe")
        await finish(hub)

    run(test)


def test_a_failure_of_the_store_answers_a_command_and_nothing_else() -> None:
    """A temporary error; the commands behind it go on."""

    async def test() -> None:
        store = MemoryStore()
        hub = make_hub(store, config(insecure=True))
        client = Sdk(hub)
        store.history = lambda *_, **__: failed()  # type: ignore[method-assign]
        client.send({"id": 2, "history": {"channel": "a"}}, {"id": 3, "rpc": {}}, {"send": {}})
        await turns(store)
        assert [message.get("error", {}).get("code") for message in client.read()] == [None, 100, 108]
        await finish(hub)

    def failed() -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        future.set_exception(StoreError("away", definite=True))
        return future

    run(test)


def test_who_is_told_that_it_is_subscribed_is_seen_by_others() -> None:
    """The reply waits for presence, and is followed by its own join, once; who is refused meanwhile is seen no more."""

    async def test() -> None:
        store = MemoryStore()
        hub = make_hub(store)
        client = Sdk(hub, token())
        await turns(store)
        client.read()
        client.send({"id": 2, "subscribe": {"channel": "room:1", "join_leave": True}})
        seen = False
        for _ in range(20):
            seen = seen or client.connection.id in store.present["room:1"]
            assert seen or not client.read()
            store.answer()
            await asyncio.sleep(0)
        await turns(store)
        assert client.reply(2)["subscribe"] is not None
        assert [change.kind for _, change in store.changes] == ["join"]
        assert [push["channel"] for push in client.pushes("join")] == ["room:1"]
        client.send({"id": 3, "unsubscribe": {"channel": "room:1"}})
        await turns(store)
        asked = {"channel": "room:1", "recover": True, "epoch": "gone", "offset": 9, "flag": 2}
        client.send({"id": 4, "subscribe": asked})
        await turns(store)
        assert client.reply(4)["error"]["code"] == 112
        assert not store.present["room:1"]
        await finish(hub)

    run(test)


def test_ids_of_connections_are_random_uuids() -> None:
    """What the SDKs and the API take for a UUID of version 4 is one, and no two are the same."""
    ids = [uuid.UUID(unguessable()) for _ in range(1000)]
    assert len(set(ids)) == 1000
    assert {(one.version, one.variant) for one in ids} == {(4, uuid.RFC_4122)}
