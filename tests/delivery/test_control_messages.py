"""What the backend says is carried out for the connections that are meant, at the right moment and once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from rt.errors import CONNECTION_LIMIT
from rt.protocol import control, options
from rt.protocol.control import DisconnectUser, ListChannels, RefreshUser, SubscribeUser, UnsubscribeUser
from rt.protocol.options import Options, Override, Terms
from rt.protocol.publication import Position
from tests.delivery.hubs import (
    MemoryStore,
    Sdk,
    Uni,
    config,
    finish,
    later,
    make_hub,
    nothing_left,
    run,
    single,
    token,
    turns,
)

KINDS = [Sdk, Uni]


def say(store: MemoryStore, message: control.Message) -> list[Any]:
    """Say it to all workers; their answers."""
    return [hub.obey(control.encode(message)) for hub in store.hubs]


@pytest.mark.parametrize("kind", KINDS)
def test_a_subscription_by_the_backend(kind: type[Sdk]) -> None:
    """It is told with its data, then what was missed, and answered when all have it. Once more changes nothing."""

    async def test() -> None:
        store = MemoryStore()
        hub = make_hub(store)
        client, stranger = kind(hub, token()), kind(hub, token("43"))
        await turns(store)
        for _ in range(3):
            store.streams["room:1"].append(1)
        terms = options.terms(Options(data=b'{"x":1}', override=Override(force_recovery=options.Flag(True))))  # type: ignore[arg-type]
        message = SubscribeUser("42", channel="room:1", terms=terms, since=Position("e0", 1))
        (answer,) = say(store, message)
        assert isinstance(answer, asyncio.Future)
        await turns(store)
        assert answer.result() == b""
        assert say(store, message) == [b""]
        await turns(store)
        client.read(), stranger.read()
        pushes = [message.get("push", message) for message in client.heard if "id" not in message]
        pushes = [push for push in pushes if push.get("channel") == "room:1"]
        assert pushes[0]["subscribe"] == {
            "recoverable": True, "positioned": True, "epoch": "e0", "offset": 1, "data": {"x": 1}
        }  # fmt: skip
        assert [push["pub"]["offset"] for push in pushes[1:3]] == [2, 3]
        assert not stranger.connection.subscriptions
        assert list(store.present["room:1"]) == [client.connection.id]
        await finish(hub)

    run(test)


def test_only_those_who_are_meant() -> None:
    """By the id of a connection, or by its session, which an SDK's has none of."""

    async def test() -> None:
        store = MemoryStore()
        hub = make_hub(store)
        clients = [Sdk(hub, token()), Uni(hub, token()), Uni(hub, token())]
        await turns(store)
        first, second, third = [client.connection for client in clients]
        say(store, SubscribeUser("42", client=first.id, channel="a"))
        say(store, SubscribeUser("42", session=second.session, channel="b"))
        say(store, SubscribeUser("42", client=first.id, session=second.session, channel="c"))
        say(store, SubscribeUser("42", session="no", channel="d"))
        await turns(store)
        assert [list(one.subscriptions) for one in (first, second, third)] == [["a"], ["b"], []]
        await finish(hub)

    run(test)


@pytest.mark.parametrize("kind", KINDS)
def test_what_comes_before_the_connection_is_live_is_done_then(kind: type[Sdk]) -> None:
    """In its order, and after the first message."""

    async def test() -> None:
        store = MemoryStore()
        store.sessions_used = True
        hub = make_hub(store)
        client = kind(hub, token(subs={"a": {}}))
        await asyncio.sleep(0)
        say(store, SubscribeUser("42", channel="room:1"))
        say(store, UnsubscribeUser("42", channel="a"))
        say(store, RefreshUser("42", info=b'{"n":1}'))
        assert not client.read()
        await turns(store)
        assert "connect" in str(client.read()[0])
        assert list(client.connection.subscriptions) == ["room:1"] and client.connection.info == b'{"n":1}'
        assert client.connection._deferred is None
        await finish(hub)

    run(test)


def test_one_that_ends_by_what_was_put_off_hears_no_more() -> None:
    """Neither is anything left of it."""

    async def test() -> None:
        store = MemoryStore()
        store.sessions_used = True
        hub = make_hub(store, config(channel_limit=1))
        client = Sdk(hub, token(subs={"a": {}}))
        say(store, SubscribeUser("42", channel="b"))
        say(store, RefreshUser("42", expire_at=hub.wall() + 900))
        await turns(store)
        assert client.code == 3505 and not client.pushes("refresh")
        nothing_left(hub)
        await finish(hub)

    run(test)


@pytest.mark.parametrize("answers", range(4))
def test_an_unsubscribe_overtakes_a_subscribe(answers: int) -> None:
    """Whether the channel was open already or not: in the end nothing is followed, and nobody is present."""

    async def test() -> None:
        store = MemoryStore()
        hub = make_hub(store)
        client = Sdk(hub, token())
        say(store, SubscribeUser("42", channel="room:1"))
        for _ in range(answers):
            store.answer()
            await asyncio.sleep(0)
        say(store, UnsubscribeUser("42"))
        await turns(store)
        assert not client.connection.subscriptions and not store.present["room:1"]
        assert len(client.pushes("subscribe")) == len(client.pushes("unsubscribe"))
        await finish(hub)

    run(test)


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (DisconnectUser("42", code=3503, reason="force disconnect"), 3503),
        (DisconnectUser("42", code=4321, reason="bye"), 4321),
        (DisconnectUser("42", code=3504, reason="connection limit"), 3504),
        (RefreshUser("42", expired=True), 3005),
        (RefreshUser("42", expire_at=1.0), 3005),
    ],
)
def test_the_end_by_the_backend(message: control.Message, code: int) -> None:
    """For all of the user, by the code that was said; others stay."""

    async def test() -> None:
        store = MemoryStore()
        hub = make_hub(store)
        clients = [Sdk(hub, token()), Uni(hub, token())]
        other = Sdk(hub, token("43"))
        await turns(store)
        say(store, message)
        assert [client.code for client in clients] == [code, code]
        assert hub.connections == {other.connection} and set(hub.users) == {"43"}
        await finish(hub)

    run(test)


def test_those_on_the_white_list_stay() -> None:
    """By their ids."""

    async def test() -> None:
        store = MemoryStore()
        hub = make_hub(store)
        stays, goes = Sdk(hub, token()), Sdk(hub, token())
        say(store, DisconnectUser("42", whitelist=(stays.connection.id,), code=4000, reason=""))
        assert goes.code == 4000 and not stays.connection.closed
        await finish(hub)

    run(test)


@pytest.mark.parametrize("kind", KINDS)
def test_another_end_by_the_backend(kind: type[Sdk]) -> None:
    """It is told, and counts from then on; None is for ever."""

    async def test() -> None:
        store = MemoryStore()
        hub = make_hub(store)
        client = kind(hub, token(exp=hub.wall() + 30))
        await turns(store)
        say(store, RefreshUser("42", expire_at=hub.wall() + 400))
        later(hub, 60)
        assert not client.connection.closed
        say(store, RefreshUser("42"))
        later(hub, 900)
        assert not client.connection.closed
        told = [message.get("push", message)["refresh"] for message in client.read() if "refresh" in str(message)]
        assert told == [{"expires": True, "ttl": 374}, {}] or told == [{"expires": True, "ttl": 375}, {}]
        say(store, RefreshUser("42", expire_at=hub.wall() + 1))
        later(hub, 2)
        assert client.code == 3005
        await finish(hub)

    run(test)


def test_a_right_that_is_over_is_given_to_nobody() -> None:
    """The connection would be cut off for it at once."""

    async def test() -> None:
        store = MemoryStore()
        hub = make_hub(store)
        client = Sdk(hub, token())
        say(store, SubscribeUser("42", channel="a", terms=Terms(expire_at=hub.wall() - 1)))
        await turns(store)
        assert not client.connection.subscriptions and not client.connection.closed
        await finish(hub)

    run(test)


def test_a_channel_that_cannot_be_opened_is_tried_by_coming_back() -> None:
    """It would be missing for ever otherwise; the command is answered all the same."""

    async def test() -> None:
        store = MemoryStore()
        hub = make_hub(store)
        client = Sdk(hub, token())
        (answer,) = say(store, SubscribeUser("42", channel="a"))
        store.away = True
        await turns(store)
        assert answer.result() == b"" and client.code == 3010
        nothing_left(hub)
        await finish(hub)

    run(test)


@pytest.mark.parametrize(
    "body",
    [
        b"", b"junk", b'{"kind":"other"}', b'{"kind":"disconnect","user":"42","code":1,"reason":""}',
        b'{"kind":"disconnect","v":2,"user":"42"}', b'{"kind":"channels","pattern":"[z"}',
        control.encode(SubscribeUser("42", channel="nowhere:1")), control.encode(SubscribeUser("42", channel="{")),
    ],
)  # fmt: skip
def test_what_is_not_understood_is_nobodys(body: bytes) -> None:
    """Another version may have said it, or one that has another config."""

    async def test() -> None:
        store = MemoryStore()
        hub = make_hub(store)
        client = Sdk(hub, token())
        assert hub.obey(body) == b""
        await turns(store)
        assert not client.connection.closed and not client.connection.subscriptions
        await finish(hub)

    run(test)


def test_which_channels_have_subscribers() -> None:
    """By a pattern, and how many there are here, live or on their way."""

    async def test() -> None:
        store = MemoryStore()
        hub = make_hub(store)
        clients = [Sdk(hub, token()) for _ in range(3)]
        for client in clients:
            client.ask(2, "subscribe", channel="room:1")
        clients[0].ask(3, "subscribe", channel="a")
        await turns(store)
        answers = [bytes(say(store, ListChannels(pattern))[0]) for pattern in ("", "room:*", "x*")]
        assert [control.total([answer]) for answer in answers] == [{"room:1": 3, "a": 1}, {"room:1": 3}, {}]
        await finish(hub)

    run(test)


# The only connection of a user


async def only(store: MemoryStore, *clients: Sdk) -> Sdk:
    """The one that is left, of which there must be one; it is known by no one else."""
    await turns(store, 200)
    (left,) = [client for client in clients if not client.connection.closed]
    assert all(client.code == 3504 for client in clients if client is not left)
    assert [list(hub.users.get("42", ())) for hub in store.hubs if hub.users] == [[left.connection]]
    assert not any(hub.claiming for hub in store.hubs)
    return left


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_connection_ends_the_older_one_wherever_it_is(kind: type[Sdk]) -> None:
    """The same worker or another one; the first of all says nothing."""

    async def test() -> None:
        store = MemoryStore()
        hubs = [make_hub(store, config(subscribe_to_user_personal_channel=single())) for _ in range(2)]
        first = kind(hubs[0], token())
        await turns(store)
        assert not store.said
        second = kind(hubs[1], token())
        assert await only(store, first, second) is second
        third = kind(hubs[1], token())
        assert await only(store, second, third) is third
        await finish(*hubs)

    run(test)


@pytest.mark.parametrize("places", [(0, 0), (0, 1), (1, 0, 1), (0, 1, 0, 1)])
@pytest.mark.parametrize("between", range(9))
def test_of_several_who_come_together_one_stays(places: tuple[int, ...], between: int) -> None:
    """Whatever has been answered when the next one comes: never two, and never none."""

    async def test() -> None:
        store = MemoryStore()
        store.sessions_used = True
        hubs = [make_hub(store, config(subscribe_to_user_personal_channel=single())) for _ in range(2)]
        clients = []
        for place in places:
            clients.append(Sdk(hubs[place], token()))
            for _ in range(between):
                store.answer()
                await asyncio.sleep(0)
        await only(store, *clients)
        await finish(*hubs)

    run(test)


def test_one_that_is_on_its_way_is_not_turned_away_by_an_older_one() -> None:
    """It is newer, and claims when it is there, even if it then finds nobody."""

    async def test() -> None:
        store = MemoryStore()
        store.sessions_used = True
        hub = make_hub(store, config(subscribe_to_user_personal_channel=single()))
        coming, elsewhere = Sdk(hub, token()), "another"
        message = DisconnectUser(
            "42", whitelist=(elsewhere,), code=CONNECTION_LIMIT.code, reason=CONNECTION_LIMIT.reason
        )
        hub.obey(control.encode(message))
        await turns(store)
        assert not coming.connection.closed
        assert store.said == [
            DisconnectUser("42", whitelist=(coming.connection.id,), code=3504, reason="connection limit")
        ]
        assert not hub.claiming
        await finish(hub)

    run(test)


def test_a_claim_that_does_not_get_through_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until it does; one who has left meanwhile claims nothing."""
    monkeypatch.setattr("rt.delivery.control.CLAIM_AGAIN", 0.01)

    async def test() -> None:
        store = MemoryStore()
        hub = make_hub(store, config(subscribe_to_user_personal_channel=single()))
        first = Sdk(hub, token())
        await turns(store)
        second = Sdk(hub, token())
        while len(store.present["own:#42"]) < 2:
            store.answer()
            await asyncio.sleep(0)
        store.away = True
        await turns(store)
        assert not first.connection.closed and not second.connection.closed and not hub.claiming
        store.away = False
        while not store.said:
            store.answer()
            await asyncio.sleep(0)
        assert await only(store, first, second) is second
        await finish(hub)

    run(test)


@pytest.mark.parametrize("answers", range(12))
def test_one_who_leaves_while_it_claims_leaves_nothing_behind(answers: int) -> None:
    """Whether its claim is heard or not."""

    async def test() -> None:
        store = MemoryStore()
        hub = make_hub(store, config(subscribe_to_user_personal_channel=single()))
        first = Sdk(hub, token())
        await turns(store)
        second = Sdk(hub, token())
        for _ in range(answers):
            store.answer()
            await asyncio.sleep(0)
        second.connection.broken()
        first.connection.broken()
        await turns(store)
        nothing_left(hub)
        await finish(hub)

    run(test)
