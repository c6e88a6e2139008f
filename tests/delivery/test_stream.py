"""Streams whose list of channels changes while they live: exactly what was published meanwhile, and told where."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from typing import Any
from unittest.mock import patch

import msgspec
import pytest

from rt.config import Channel as ChannelSettings
from rt.config import Namespace
from rt.delivery import flush
from rt.delivery.admission import Admission, Following, Request, admit
from rt.delivery.hub import Hub
from rt.delivery.plain import PlainConnection
from rt.errors import SERVER_UNSUBSCRIBE, Closing, Refused
from rt.protocol import cursor
from rt.protocol.commands import Connect, Subscribe
from rt.protocol.options import Flag, Override, Terms
from rt.protocol.publication import Change, Position, Publication
from rt.protocol.tokens import Identity
from rt.protocol.wires import SOCKET, SSE, UNI_SSE, StreamWire
from tests.delivery.test_walks import ALL, FakeSink, FakeStore, make_hub, settings
from tests.eventsource import Event, Parser


class Calm(random.Random):
    """A chance that never strikes: sinks take everything."""

    def random(self) -> float:
        return 0.99


def namespace(**options: Any) -> Namespace:
    """Channels that everybody may follow."""
    return Namespace(**{"history_size": 60, "history_ttl": 1000.0, "allow_subscribe_for_client": True, **options})


def walk(test: Callable[[Hub, FakeStore], Awaitable[None]], **options: Any) -> None:
    """Run ``test`` on a hub whose channels have these options."""

    async def run() -> None:
        store = FakeStore(Calm())
        config = msgspec.structs.replace(settings(), channel=ChannelSettings(without_namespace=namespace(**options)))
        hub = make_hub(config, store)
        try:
            await test(hub, store)
        finally:
            await hub.stop()
            hub.wheel.stop()

    asyncio.run(run())


async def turns(store: FakeStore) -> None:
    """Let everything under way come to its end."""
    for _ in range(50):
        store.answer()
        await asyncio.sleep(0)


def opened(hub: Hub, wire: StreamWire, request: Request) -> PlainConnection:
    """A stream that is on its way."""
    admission = admit(hub, request)
    assert isinstance(admission, Admission)
    connection = PlainConnection(hub, FakeSink(Calm()), wire, admission, preface=b"", refusal=b"")
    connection.begin()
    return connection


def sink(connection: PlainConnection) -> FakeSink:
    """Where it writes."""
    found = connection.outbox.sink
    assert isinstance(found, FakeSink)
    return found


def events(connection: PlainConnection) -> list[Event]:
    """The events it has sent so far, once."""
    found = Parser().feed(bytes(sink(connection).taken))
    sink(connection).taken.clear()
    return found


def messages(connection: PlainConnection) -> list[dict[str, Any]]:
    """The same over WebSocket."""
    return sink(connection).messages()


class Volatile:
    """A reader of channels without history on a bus that loses nothing: it must see each publication once."""

    def __init__(self, hub: Hub, wire: StreamWire) -> None:
        self.connection = opened(hub, wire, Request(ALL[:1]) if wire.tells else Request((), connect=Connect()))
        self.wire = wire
        self.since: dict[str, int] = {}  # the next number due, by channel that it follows
        self.parser = Parser()

    def read(self, published: dict[str, int]) -> None:
        """Take what has come; ``published`` is how much there is, by channel."""
        taken = self.parser.feed(bytes(sink(self.connection).taken)) if self.wire is not SOCKET else None
        if taken is None:
            bodies = messages(self.connection)
        else:
            bodies = [{"channel": "", event.kind: json.loads(event.data), **json.loads(event.data)} for event in taken]
            sink(self.connection).taken.clear()
        for body in bodies:
            self._take(body, published)

    def _take(self, body: dict[str, Any], published: dict[str, int]) -> None:
        if "connect" in body:
            self.since = dict.fromkeys(body["connect"].get("subs", {}), -1)
        elif "subscribe" in body:
            self.since[body["channel"]] = -1
        elif "unsubscribe" in body:
            del self.since[body["channel"]]
        elif "pub" in body:
            number, due = body["pub"]["data"]["n"], self.since[body["channel"]]
            assert due in (-1, number), "lost or doubled"
            self.since[body["channel"]] = number + 1


@pytest.mark.parametrize("seed", range(30))
def test_channels_without_history_lose_nothing_when_lists_change(seed: int) -> None:
    """They have no position to come back to, so going from feed to feed must itself be exact; in slices, too."""
    rng = random.Random(seed)

    async def test(hub: Hub, store: FakeStore) -> None:
        readers = [Volatile(hub, rng.choice([SOCKET, SSE, UNI_SSE])) for _ in range(6)]
        published = dict.fromkeys(ALL, 0)
        for _ in range(400):
            match rng.choice(["publish", "publish", "turn", "list", "answer"]):
                case "publish":
                    name = rng.choice(ALL)
                    hub.broadcast(name, Publication(b'{"data":{"n":%d}}' % published[name], time=1))
                    published[name] += 1
                case "turn":
                    await asyncio.sleep(0)
                case "answer":
                    store.answer()
                case "list":
                    change(rng, rng.choice(readers).connection)
            for reader in readers:
                reader.read(published)
        await turns(store)
        for reader in readers:
            reader.read(published)
            if not reader.connection.closed:
                assert set(reader.since) == set(reader.connection.following)
                assert all(due in (-1, published[name]) for name, due in reader.since.items())

    with patch.multiple(flush, CHUNK=1, SLICE=-1.0) if seed % 2 else nullcontext():
        walk(test, history_size=0, slow="disconnect")


def change(rng: random.Random, connection: PlainConnection) -> None:
    """The backend wants it to follow a channel more, or less."""
    name = rng.choice(ALL)
    if rng.random() < 0.6:
        connection.when_live(lambda: connection.subscribe_by_server(name, Terms(), None))
    else:
        connection.when_live(lambda: connection.unsubscribe_by_server(name, SERVER_UNSUBSCRIBE))


def test_a_stream_is_told_of_a_new_channel_before_anything_of_it() -> None:
    """The notice has the place where the channel begins, and cursors name their channels from then on."""

    async def test(hub: Hub, store: FakeStore) -> None:
        socket, source = opened(hub, SOCKET, Request(["a"])), opened(hub, SSE, Request(["a"]))
        await turns(store)
        assert messages(socket)[0]["cursor"] == "e0.0"
        assert events(source)[0].id == "e0.0"
        for stream in (socket, source):
            stream.subscribe_by_server("b", Terms(data=b'{"x":1}'), None)
        await turns(store)
        hub.broadcast("b", store.streams["b"].append(0))
        await turns(store)
        notice, pub = messages(socket)
        told = {"recoverable": True, "positioned": True, "epoch": "e0", "data": {"x": 1}}
        assert notice == {"channel": "b", "subscribe": told, "cursor": "a=e0.0,b=e0.0"}
        assert (pub["channel"], pub["cursor"]) == ("b", "a=e0.0,b=e0.1")
        subscribed, event = events(source)
        assert (subscribed.kind, subscribed.id) == ("subscribe", "a=e0.0,b=e0.0")
        assert json.loads(subscribed.data) == {"channel": "b", **told}
        assert (event.kind, event.id) == ("message", "a=e0.0,b=e0.1")

    walk(test)


def test_a_new_channel_brings_what_was_missed_in_it() -> None:
    """With a position the backend says from where; a stream that cannot be continued is told of the gap."""

    async def test(hub: Hub, store: FakeStore) -> None:
        for _ in range(5):
            store.streams["b"].append(0)
        stream = opened(hub, SOCKET, Request(["a"]))
        await turns(store)
        stream.subscribe_by_server("b", Terms(), Position("e0", 3))
        stream.subscribe_by_server("c", Terms(), Position("other", 3))
        await turns(store)
        hello, *others = messages(stream)
        assert [message["channel"] for message in others] == ["b", "c", "b", "b", "c"]
        assert [message["pub"]["offset"] for message in others if "pub" in message] == [4, 5]
        assert others[-1]["gap"] == {"epoch": "e0", "offset": 0}
        assert others[-1]["cursor"] == "a=e0.0,b=e0.5,c=e0.0"

    walk(test)


def test_the_last_channel_takes_the_stream_with_it() -> None:
    """The stream says what ended, and why it ends; one of the protocol's own stays, for the next subscription."""

    async def test(hub: Hub, store: FakeStore) -> None:
        source = opened(hub, SSE, Request(["a"]))
        uni = opened(hub, UNI_SSE, Request((), connect=Connect(subs={"a": Subscribe()})))
        await turns(store)
        for stream in (source, uni):
            events(stream)
            stream.unsubscribe_by_server("", SERVER_UNSUBSCRIBE)
        assert [event.kind for event in events(source)] == ["unsubscribe", "disconnect"]
        (told,) = events(uni)
        assert json.loads(told.data) == {"channel": "a", "unsubscribe": {"code": 2000, "reason": "server unsubscribe"}}
        assert source.closed and not uni.closed
        uni.subscribe_by_server("b", Terms(), None)
        await turns(store)
        assert [json.loads(event.data)["channel"] for event in events(uni)] == ["b"]

    walk(test)


def test_what_is_taken_back_while_it_comes_is_never_told() -> None:
    """A channel that was to be followed and then not: nobody hears of it, and it is not kept open."""

    async def test(hub: Hub, store: FakeStore) -> None:
        stream = opened(hub, SOCKET, Request(["a"]))
        await turns(store)
        messages(stream)
        done = stream.subscribe_by_server("b", Terms(), None)
        await asyncio.sleep(0)
        assert hub.channels["b"].claims
        stream.unsubscribe_by_server("b", SERVER_UNSUBSCRIBE)
        await turns(store)
        assert done is not None and done.done()
        assert not messages(stream) and list(stream.following) == ["a"]
        assert not hub.channels["b"].claims

    walk(test)


def test_a_store_that_is_away_ends_a_stream_that_was_to_grow() -> None:
    """It would lack the channel for ever; when it comes back its session has it."""

    async def test(hub: Hub, store: FakeStore) -> None:
        stream = opened(hub, SSE, Request(["a"]))
        await turns(store)
        events(stream)
        store.away = True
        stream.subscribe_by_server("b", Terms(), None)
        await turns(store)
        (told,) = events(stream)
        assert stream.closed and json.loads(told.data)["code"] == 3010

    walk(test)


def test_joins_go_to_those_who_are_to_be_told() -> None:
    """By the namespace, and by what the backend says otherwise for one; they move no cursor."""

    async def test(hub: Hub, store: FakeStore) -> None:
        told = opened(hub, SOCKET, Request(["a", "b"]))
        off = Override(force_push_join_leave=Flag(False))
        following = tuple(
            Following(name, off.over(hub.namespaces.find(name)) if name == "a" else hub.namespaces.find(name))
            for name in ("a", "b")
        )
        spared = PlainConnection(
            hub, FakeSink(Calm()), SOCKET, Admission(following, False, Identity("")), preface=b"", refusal=b""
        )
        spared.begin()
        await turns(store)
        messages(told), messages(spared)
        for name in ("a", "b"):
            hub.changed(name, Change("join", b'{"user":"1","client":"c"}'))
        await turns(store)
        info = {"info": {"user": "1", "client": "c"}}
        assert messages(told) == [{"channel": name, "join": info, "cursor": "e0.0,e0.0"} for name in ("a", "b")]
        assert [message["channel"] for message in messages(spared)] == ["b"]

    with patch("rt.delivery.presence.Presence.enter"), patch("rt.delivery.presence.Presence.leave"):
        walk(test, join_leave=True, force_push_join_leave=True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", [(False, None), (False, None)]),
        ("e0.3,e0.4", [(True, Position("e0", 3)), (True, Position("e0", 4))]),
        ("b=e0.4", [(False, None), (True, Position("e0", 4))]),
        ("z=e0.9,b=e0.4,a=-", [(True, None), (True, Position("e0", 4))]),
        ("nonsense", [(True, Position("-", 0)), (True, Position("-", 0))]),
        ("e0.3", [(True, Position("-", 0)), (True, Position("-", 0))]),
    ],
)
def test_where_a_list_begins(text: str, expected: list[tuple[bool, Position | None]]) -> None:
    """By place or by name; what a cursor does not name begins now, and nonsense ends in a gap that is told."""

    async def test(hub: Hub, store: FakeStore) -> None:
        admission = admit(hub, Request(["a", "b"], text))
        assert isinstance(admission, Admission)
        assert [(one.recovering, one.since) for one in admission.following] == expected

    walk(test)


def test_a_connect_request_asks_and_does_not_insist() -> None:
    """What needs a token is left out; a channel that cannot be is a mistake that ends the stream (3501)."""

    async def test(hub: Hub, store: FakeStore) -> None:
        asked = {"a": Subscribe(recover=True, epoch="e0", offset=2), "$b": Subscribe()}
        admission = admit(hub, Request((), connect=Connect(subs=asked)))
        assert isinstance(admission, Admission) and admission.named
        assert [(one.name, one.since) for one in admission.following] == [("a", Position("e0", 2))]
        for wrong in ("no:such", "a b", ""):
            with pytest.raises(Closing) as caught:
                admit(hub, Request((), connect=Connect(subs={wrong: Subscribe()})))
            assert caught.value.close.code == 3501

    walk(test)


def test_more_channels_than_a_cursor_can_name_are_refused() -> None:
    """Also when the backend adds them one by one: a stream that could not come back must not go on."""

    async def test(hub: Hub, store: FakeStore) -> None:
        names = [f"{place}{'x' * 200}" for place in range(40)]
        assert not cursor.fits(names)
        with pytest.raises(Closing) as caught:
            admit(hub, Request((), connect=Connect(subs={name: Subscribe() for name in names})))
        assert caught.value.close.code == 3505
        stream = opened(hub, SSE, Request(["a"]))
        await turns(store)
        for name in names:
            stream.subscribe_by_server(name, Terms(), None)
        assert stream.closed
        with pytest.raises(Refused):
            admit(hub, Request(()))

    walk(test)
