"""What a connection follows because the backend says so: its token, its session, its personal channel."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from rt.config.client import PersonalChannel
from rt.delivery import server_side
from rt.delivery.hub import Hub
from rt.errors import Closing, Refused
from rt.protocol import control, session
from rt.protocol.control import RefreshUser, SubscribeUser, UnsubscribeUser
from rt.protocol.options import Terms
from rt.protocol.session import Changes
from rt.protocol.tokens import Identity
from tests.delivery.hubs import MemoryStore, Sdk, Uni, config, finish, later, make_hub, run, token, turns

KINDS = [Sdk, Uni]
PLAIN = Terms()


def fields(*changes: Changes) -> dict[str, bytes]:
    """The session that they make."""
    found: dict[str, bytes] = {}
    for change in changes:
        found |= change.set
        for field in change.remove:
            found.pop(field, None)
    return found


async def wanted(hub: Hub, store: MemoryStore, identity: Identity) -> Identity:
    """What it comes to, when the store has answered."""
    waiting = asyncio.ensure_future(server_side.wanted(hub, identity))
    await turns(store)
    return waiting.result()


def connect_subs(client: Sdk) -> dict[str, Any]:
    """The server-side subscriptions of the first message."""
    client.read()
    first = client.heard[0]
    return dict(first["connect"].get("subs", {}))


def test_nothing_is_asked_where_nobody_uses_sessions() -> None:
    """Nor for who has no name, nor where they are switched off; a token's channels need no store either."""

    async def test() -> None:
        store = MemoryStore()
        hub, off = make_hub(store), make_hub(store, config(session_ttl=0.0))
        named, nameless = Identity("42", subs={"a": PLAIN}), Identity("")
        assert server_side.known(hub, Identity("42")) == Identity("42")
        assert server_side.known(hub, named) == named
        store.sessions_used = True
        assert server_side.known(hub, named) is None and server_side.known(off, named) == named
        assert server_side.known(hub, nameless) == nameless
        await finish(hub, off)

    run(test)


def test_token_session_and_personal_channel_together() -> None:
    """The session wins over a token that is older than it; what the backend has replaced is shown."""

    async def test() -> None:
        store = MemoryStore()
        store.sessions_used = True
        personal = PersonalChannel(enabled=True, personal_channel_namespace="own")
        hub = make_hub(store, config(subscribe_to_user_personal_channel=personal))
        info = Terms(info=b"1")
        store.sessions["42"] = fields(
            session.subscribed("s", info),
            session.unsubscribed("t1", 100.0),
            session.subscribed("t2", info),
            session.informed(b'"new"', 100.0),
        )
        subs = {"t1": PLAIN, "t2": PLAIN, "t3": PLAIN}
        old = await wanted(hub, store, Identity("42", b'"old"', None, subs, 50.0))
        assert old.subs == {"s": info, "t2": info, "t3": PLAIN, "own:#42": PLAIN} and old.info == b'"new"'
        new = await wanted(hub, store, Identity("42", b'"old"', None, subs, 150.0))
        assert new.subs == {**old.subs, "t1": PLAIN} and new.info == b'"old"'
        assert not hub.readings
        await finish(hub)

    run(test)


@pytest.mark.parametrize(
    ("subs", "code"), [({"nowhere:a": PLAIN}, 102), ({"{": PLAIN}, 107), ({f"c{n}": PLAIN for n in range(129)}, 3505)]
)
def test_a_token_whose_channels_cannot_be(subs: dict[str, Terms], code: int) -> None:
    """Is a mistake that is told; in a session it is the past."""

    async def test() -> None:
        store = MemoryStore()
        hub = make_hub(store)
        try:
            server_side.known(hub, Identity("42", subs=subs))
        except Refused as refused:
            assert refused.error.code == code
        except Closing as closing:
            assert closing.close.code == code
        else:
            raise AssertionError("it was taken")
        store.sessions_used = True
        if code < 3000:
            store.sessions["42"] = fields(*(session.subscribed(name, terms) for name, terms in subs.items()))
            assert not (await wanted(hub, store, Identity("42"))).subs
        await finish(hub)

    run(test)


@pytest.mark.parametrize("kind", KINDS)
def test_a_right_of_a_token_that_has_ended_is_left_out(kind: type[Sdk]) -> None:
    """A client that is cut off for its end comes back with the same token, and stays."""

    async def test() -> None:
        store = MemoryStore()
        hub = make_hub(store, config(expired_sub_close_delay=0.0))
        bearer = token(subs={"a": {"expire_at": hub.wall() + 60}, "b": {}})
        client = kind(hub, bearer)
        await turns(store)
        assert set(connect_subs(client)) == {"a", "b"}
        later(hub, 61)
        assert client.code == 3006
        again = kind(hub, bearer)
        await turns(store)
        assert set(connect_subs(again)) == {"b"}
        later(hub, 1)
        assert not again.connection.closed
        await finish(hub)

    run(test)


@pytest.mark.parametrize(
    ("said", "told", "left"),
    [
        (session.subscribed("s", PLAIN), SubscribeUser("42", channel="s"), {"t", "s"}),
        (session.unsubscribed("t", 2e9), UnsubscribeUser("42", channel="t"), set()),
        (session.informed(b"1", 2e9), RefreshUser("42", info=b"1"), {"t"}),
    ],
)
def test_what_is_said_while_the_session_is_read(said: Changes, told: control.Message, left: set[str]) -> None:
    """Before the answer is here, to one who is not among the user's connections yet: it is read again."""

    async def test() -> None:
        store = MemoryStore()
        store.sessions_used = True
        hub = make_hub(store)
        waiting = asyncio.ensure_future(server_side.wanted(hub, Identity("42", subs={"t": PLAIN}, issued_at=100.0)))
        await asyncio.sleep(0)
        store.sessions["42"] = fields(said)
        hub.obey(control.encode(told))
        await turns(store)
        assert set(waiting.result().subs) == left
        assert waiting.result().info == (b"1" if isinstance(told, RefreshUser) else b"")
        assert not hub.readings
        await finish(hub)

    run(test)


def test_reading_again_has_an_end() -> None:
    """However much is said; what is said to others is no reason."""

    async def test() -> None:
        store = MemoryStore()
        store.sessions_used = True
        hub = make_hub(store)
        waiting = asyncio.ensure_future(server_side.wanted(hub, Identity("42")))
        for _ in range(20):
            await asyncio.sleep(0)
            hub.obey(control.encode(RefreshUser("42")))
            store.answer()
        assert waiting.done() and store.calls.count(("session", "42")) == 1 + server_side.AGAIN
        store.calls.clear()
        waiting = asyncio.ensure_future(server_side.wanted(hub, Identity("42")))
        await asyncio.sleep(0)
        hub.obey(control.encode(RefreshUser("43")))
        await turns(store)
        assert waiting.done() and store.calls == [("session", "42")]
        await finish(hub)

    run(test)


@pytest.mark.parametrize("kind", KINDS)
def test_the_connect_says_what_is_followed(kind: type[Sdk]) -> None:
    """With where it stands, the data of its terms, and what was missed since the position of the request."""

    async def test() -> None:
        store = MemoryStore()
        hub = make_hub(store, config(force_recovery=True))
        for _ in range(3):
            store.streams["a"].append(1)
        client = kind(hub, connect=False)
        subs = {"a": {"recover": True, "epoch": "e0", "offset": 1}, "own:b": {"recover": True}}
        client.connect(token(subs={"a": {"data": {"x": 1}}, "live:b": {}}), subs=subs)
        await turns(store)
        found = connect_subs(client)
        assert set(found) == {"a", "live:b"}, "what needs a permission that nobody gave is not there"
        publications = found["a"].pop("publications")
        assert [publication["offset"] for publication in publications] == [2, 3]
        assert found["a"] == {
            "recoverable": True, "positioned": True, "epoch": "e0", "offset": 1, "recovered": True,
            "was_recovering": True, "data": {"x": 1},
        }  # fmt: skip
        await finish(hub)

    run(test)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_published_while_the_others_are_joined_is_not_lost(kind: type[Sdk]) -> None:
    """The channels of a connect are found one after the other; the first of them goes on from where it was found."""

    async def test() -> None:
        store = MemoryStore()
        hub = make_hub(store, config(force_recovery=True))
        opener = Sdk(hub, token("1", channels=["a"]))
        await turns(store)
        client = kind(hub, token(channels=["a", "b"]))
        await asyncio.sleep(0)
        for _ in range(2):
            hub.broadcast("a", store.streams["a"].append(1))
            await asyncio.sleep(0)
        await turns(store)
        pushes = [message.get("push", message) for message in client.read()[1:]]
        start = connect_subs(client)["a"].get("offset", 0)
        assert [push["pub"]["offset"] for push in pushes if push] == list(range(start + 1, 3))
        assert not opener.connection.closed
        await finish(hub)

    run(test)


def test_a_client_may_leave_and_come_to_a_channel_of_the_server() -> None:
    """It is already there (105); when it has left, it comes as its own permission says."""

    async def test() -> None:
        store = MemoryStore()
        hub = make_hub(store)
        client = Sdk(hub, token(channels=["own:b", "a"]))
        await turns(store)
        client.send({"id": 2, "subscribe": {"channel": "a"}}, {"id": 3, "unsubscribe": {"channel": "a"}})
        client.send({"id": 4, "subscribe": {"channel": "a"}}, {"id": 5, "unsubscribe": {"channel": "own:b"}})
        client.send({"id": 6, "subscribe": {"channel": "own:b"}})
        await turns(store)
        assert client.reply(2)["error"]["code"] == 105 and "subscribe" in client.reply(4)
        assert client.reply(5) and client.reply(6)["error"]["code"] == 103
        assert not store.present["own:b"]
        await finish(hub)

    run(test)


def test_a_user_whose_name_lists_others_has_no_channel_of_its_own() -> None:
    """It would be theirs."""

    async def test() -> None:
        store = MemoryStore()
        personal = PersonalChannel(enabled=True)
        hub = make_hub(store, config(subscribe_to_user_personal_channel=personal))
        clients = [Sdk(hub, token(user)) for user in ("a,b", "a#b")]
        nameless = Sdk(hub)
        await turns(store)
        assert [client.reply(1)["error"]["code"] for client in clients] == [107, 107]
        assert "subs" not in nameless.reply(1)["connect"]
        await finish(hub)

    run(test)


def test_sessions_of_those_who_are_here_live_on() -> None:
    """They are touched again and again, and those of nobody else."""

    async def test() -> None:
        store = MemoryStore()
        hub = make_hub(store, config(session_ttl=0.04))
        client, nameless = Sdk(hub, token()), Sdk(hub)
        await turns(store)
        assert not store.touched, "nobody has a session"
        store.sessions_used = True
        while store.touched.count("42") < 2:
            store.answer()
            await asyncio.sleep(0)
        client.connection.broken()
        store.touched.clear()
        await turns(store)
        assert set(store.touched) <= {"42"} and not nameless.connection.closed
        await finish(hub)

    run(test)
