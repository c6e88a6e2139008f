"""Random schedules of the whole delivery room: nobody misses a publication without being told."""

from __future__ import annotations

import asyncio
import json
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any
from unittest.mock import patch

import msgspec
import pytest

from rt.config import Channel as ChannelSettings
from rt.config import Config, Delivery, Namespace, Pacing
from rt.delivery import flush
from rt.delivery.admission import Admission, Request, admit
from rt.delivery.connection import Connection
from rt.delivery.hub import Hub
from rt.delivery.plain import PlainConnection
from rt.delivery.sdk import SdkConnection
from rt.delivery.wheel import Wheel
from rt.errors import SERVER_UNSUBSCRIBE, StoreError
from rt.metrics import Metrics
from rt.protocol import cursor
from rt.protocol.commands import Connect, Subscribe
from rt.protocol.options import Terms
from rt.protocol.publication import Page, Position, Publication
from rt.protocol.wires import SOCKET, SSE, UNI_SSE, StreamWire
from tests.eventsource import Event, Parser

CHANNELS = ("a", "b")
"""What a stream asks for; the backend may add another one, and take any away."""
ALL = (*CHANNELS, "c")
HISTORY = 60
ROUNDS = 2000  # turns of the loop in which everything must have healed


class Stream:
    """What the store has of one channel."""

    def __init__(self) -> None:
        self.epoch, self.top = "e0", 0
        self.kept: list[Publication] = []

    @property
    def position(self) -> Position:
        return Position(self.epoch, self.top)

    def append(self, size: int) -> Publication:
        self.top += 1
        body = b'{"data":{"n":%d,"x":"%s"}}' % (self.top, b"x" * size)
        publication = Publication(body, self.epoch, self.top, int(time.time() * 1e6))
        self.kept = [*self.kept, publication][-HISTORY:]
        return publication

    def renew(self) -> None:
        """The stream is lost: another epoch begins."""
        self.epoch, self.top, self.kept = f"e{int(self.epoch[1:]) + 1}", 0, []

    def page(self, since: Position, limit: int) -> Page:
        found = [p for p in self.kept if p.offset > since.offset] if since.epoch == self.epoch else []
        return Page(self.position, found[:limit])


class FakeStore:
    """Streams and a bus in memory. The bus loses, repeats and reorders; answers come when the schedule says."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.streams = {name: Stream() for name in ALL}
        self.bus: list[tuple[str, Publication]] = []
        self.answers: list[Callable[[], None]] = []
        self.away = False
        self.sessions_used = False

    def publish(self, name: str) -> None:
        """One more publication; how often it reaches us, and when, is a matter of chance."""
        publication = self.streams[name].append(self.rng.randrange(200))
        for _ in range(self.rng.choice([0, 1, 1, 1, 1, 1, 2])):
            place = len(self.bus) if self.rng.random() < 0.8 else self.rng.randrange(len(self.bus) + 1)
            self.bus.insert(place, (name, publication))

    def _later(self, make: Callable[[], Any]) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def answer() -> None:
            if future.done():
                return
            if self.away:
                future.set_exception(StoreError("away", definite=True))
            else:
                future.set_result(make())

        self.answers.append(answer)
        return future

    def answer(self) -> None:
        """Let the oldest call that is under way be answered, as the store is now."""
        if self.answers:
            self.answers.pop(0)()

    def history(self, channel: str, *, since: Position, limit: int, meta_ttl: float) -> asyncio.Future[Page]:
        return self._later(lambda: self.streams[channel].page(since, limit))

    def position(self, channel: str, meta_ttl: float) -> asyncio.Future[Position]:
        return self._later(lambda: self.streams[channel].position)

    def subscribe(self, channel: str) -> asyncio.Future[None]:
        return self._later(lambda: None)

    def unsubscribe(self, channel: str) -> None:
        pass

    def draw(self, rule: str, subject: str, **how: Any) -> asyncio.Future[Any]:
        raise AssertionError("no limit is shared here")


class FakeSink:
    """A socket that takes what it likes, until it is told to be full."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.taken = bytearray()
        self.full = False
        self.drain: Callable[[], None] | None = None
        self.send: Callable[[bytes], int] = self._send

    def _send(self, data: bytes) -> int:
        if self.full:
            raise BlockingIOError
        if self.rng.random() < 0.1:
            self.full = True
            size = self.rng.randrange(len(data) + 1)
            if not size:
                raise BlockingIOError
            data = data[:size]
        self.taken += data
        return len(data)

    def open(self) -> None:
        self.full = False
        if self.drain is not None:
            self.drain()

    def watch(self, drain: Callable[[], None]) -> None:
        self.drain = drain

    def unwatch(self) -> None:
        self.drain = None

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def end(self) -> None: ...

    def close(self) -> None: ...

    def messages(self) -> list[dict[str, Any]]:
        """The JSON objects of all whole WebSocket frames taken so far."""
        found: list[dict[str, Any]] = []
        while len(self.taken) >= 2:
            size, at = self.taken[1], 2
            if size >= 126:
                width = 2 if size == 126 else 8
                size, at = int.from_bytes(self.taken[2 : 2 + width]), 2 + width
            if len(self.taken) < at + size:
                break
            payload, opcode = bytes(self.taken[at : at + size]), self.taken[0] & 0xF
            del self.taken[: at + size]
            if opcode == 1:
                found += [json.loads(line) for line in payload.split(b"\n")]
        return found


class Reader(ABC):
    """A client that counts offsets, comes back when it must, and fails on a hole, a repeat or a lie."""

    connection: Connection

    def __init__(self, hub: Hub, rng: random.Random, places: dict[str, Position]) -> None:
        self.hub = hub
        self.rng = rng
        self.places = dict(places)
        self.sink = FakeSink(rng)

    @abstractmethod
    def read(self) -> None:
        """Take what has come."""

    @property
    @abstractmethod
    def waits(self) -> bool:
        """Whether an answer is due."""

    def take(self, name: str, publication: dict[str, Any]) -> None:
        """The next offset and nothing else."""
        place = self.places[name]
        assert publication["offset"] == place.offset + 1, (self, place, publication["offset"])
        assert publication["data"]["n"] == publication["offset"]
        self.places[name] = place._replace(offset=publication["offset"])


class SdkReader(Reader):
    """As an SDK: one channel, recovered from its own position after a 2500."""

    def __init__(self, hub: Hub, rng: random.Random, places: dict[str, Position]) -> None:
        super().__init__(hub, rng, places)
        self.connection: SdkConnection = SdkConnection(hub, self.sink)
        self.asked = False
        self.connection.message(b'{"id":1,"connect":{}}')
        self.subscribe()

    @property
    def waits(self) -> bool:
        return self.asked

    def subscribe(self) -> None:
        self.asked = True
        request: dict[str, Any] = {"channel": CHANNELS[0]}
        if place := self.places.get(CHANNELS[0]):
            request |= {"recover": True, "epoch": place.epoch, "offset": place.offset}
        self.connection.message(json.dumps({"id": 2, "subscribe": request}).encode())

    def read(self) -> None:
        for message in self.sink.messages():
            if "subscribe" in message:
                self._subscribed(message["subscribe"])
            elif "error" in message:
                assert message["error"]["code"] == 100, message
                self.subscribe()
            elif "push" in message:
                self._pushed(message["push"])

    def _subscribed(self, result: dict[str, Any]) -> None:
        self.asked = False
        start = Position(result["epoch"], result.get("offset", 0))
        if result.get("recovered"):
            assert start == self.places[CHANNELS[0]], "a recovery that begins elsewhere"
        else:
            assert not result.get("publications"), "a part of what was missed"
        self.places[CHANNELS[0]] = start
        for publication in result.get("publications", []):
            self.take(CHANNELS[0], publication)

    def _pushed(self, push: dict[str, Any]) -> None:
        if "unsubscribe" in push:
            assert push["unsubscribe"]["code"] == 2500
            self.subscribe()
        elif "pub" in push:
            assert not self.asked, "a push before the reply"
            self.take(CHANNELS[0], push["pub"])


class StreamReader(Reader):
    """As a stream: the cursor is its only memory, and must say what the publications said. Its list may change."""

    wire: StreamWire = SOCKET

    def __init__(self, hub: Hub, rng: random.Random, places: dict[str, Position]) -> None:
        super().__init__(hub, rng, places)
        self.names = rng.choice([CHANNELS, CHANNELS, CHANNELS[:1]])
        self.text = ",".join([cursor.mark(name) + cursor.entry(place) for name, place in places.items()])
        self.open()

    @property
    def waits(self) -> bool:
        return not self.begun or self.following != set(self.connection.following) or bool(self.connection._coming)

    def request(self) -> Request:
        """What it asks for, each time that it comes."""
        return Request(self.names, self.text)

    def open(self) -> None:
        self.begun = False
        self.untold: set[str] = set()
        self.following: set[str] = set()
        self.sink = FakeSink(self.rng)
        admission = admit(self.hub, self.request())
        assert isinstance(admission, Admission)
        connection = PlainConnection(self.hub, self.sink, self.wire, admission, preface=b"", refusal=b"")
        self.connection: PlainConnection = connection
        connection.begin()

    def received(self) -> list[tuple[dict[str, Any], str]]:
        """Messages, each with its cursor."""
        return [(message, message["cursor"]) for message in self.sink.messages()]

    def read(self) -> None:
        for message, text in self.received():
            self.text = text
            if "channel" in message:
                self._told(message["channel"], message)
            else:
                self._began(message["connect"])
            said = cursor.decode(text, self.names) if text else {}
            if not {"subscribe", "unsubscribe"} & message.keys():  # of which several may say one change
                standing = {name: self.places[name] for name in self.following}
                assert said == standing, "a cursor that is not where the reader is"
        if self.connection.closed:
            self.open()

    def _told(self, name: str, message: dict[str, Any]) -> None:
        if "subscribe" in message:
            assert name not in self.following, "subscribed twice"
            self.following.add(name)
            self.places[name] = _place(message["subscribe"])
            return
        assert name in self.following, "of a channel that it does not follow"
        if "pub" in message:
            assert name not in self.untold, "a publication before its gap"
            self.take(name, message["pub"])
        elif "gap" in message:
            self.untold.discard(name)
            self.places[name] = _place(message["gap"])
        else:
            assert message["unsubscribe"]["code"] == 2000
            self.following.remove(name)

    def _began(self, body: dict[str, Any]) -> None:
        self.begun = True
        for name, result in body.get("subs", {}).items():
            self.following.add(name)
            start = _place(result)
            if result.get("recovered"):
                assert start == self.places[name], "a recovery that begins elsewhere"
            elif result.get("was_recovering") and self.wire.tells:
                self.untold.add(name)
            self.places[name] = start
            for publication in result.get("publications", []):
                self.take(name, publication)


def _place(body: dict[str, Any]) -> Position:
    return Position(body["epoch"], body.get("offset", 0))


class EventReader(StreamReader):
    """The same over server-sent events, where the cursor is the event's id."""

    wire: StreamWire = SSE

    def open(self) -> None:
        self.parser = Parser()
        super().open()

    def received(self) -> list[tuple[dict[str, Any], str]]:
        events = self.parser.feed(bytes(self.sink.taken))
        self.sink.taken.clear()
        return [(self.message(event.kind, json.loads(event.data)), event.id) for event in events if self.is_ours(event)]

    def is_ours(self, event: Event) -> bool:
        """Whether it says anything about a place."""
        return event.kind != "disconnect"

    def message(self, kind: str, body: dict[str, Any]) -> dict[str, Any]:
        """The event as the message that it would be over WebSocket."""
        if kind == "message":
            return body
        return {"connect": body} if kind == "connect" else {"channel": body["channel"], kind: body}


class UniReader(EventReader):
    """The same over the protocol's own stream, which ends where there is a gap."""

    wire = UNI_SSE

    def request(self) -> Request:
        return Request((), self.text, connect=Connect(subs={name: Subscribe() for name in self.names}))

    def is_ours(self, event: Event) -> bool:
        return not event.data.startswith('{"disconnect"')

    def message(self, kind: str, body: dict[str, Any]) -> dict[str, Any]:
        return body


KINDS: list[type[Reader]] = [SdkReader, SdkReader, StreamReader, EventReader, UniReader]


def settings() -> Config:
    """Small bounds, so that every one of them is met."""
    namespace = Namespace(history_size=HISTORY, history_ttl=1000.0, allow_subscribe_for_client=True)
    delivery = Delivery(
        low_watermark=600, high_watermark=4000, recent_size=12, recent_bytes=3000, linger=0.02,
        pacing=Pacing(first=0.01, factor=1.5, max=0.03), max_age=600.0, stall_timeout=600.0,
    )  # fmt: skip
    config = Config(delivery=delivery, channel=ChannelSettings(without_namespace=namespace))
    client = msgspec.structs.replace(config.client, insecure=True)
    return msgspec.structs.replace(config, client=client)


def make_hub(config: Config, store: FakeStore) -> Hub:
    """A hub on a store in memory, keeping time."""
    wheel = Wheel(0.005)
    wheel.start()
    hub = Hub(config, store, Metrics().of("default"), node="n", wheel=wheel)  # type: ignore[arg-type]
    hub.start()
    return hub


async def schedule(seed: int) -> None:
    """One walk; with an odd seed every flush goes out in slices, one member at a time."""
    with patch.multiple(flush, CHUNK=1, SLICE=-1.0) if seed % 2 else nullcontext():
        await walk(random.Random(seed))


async def walk(rng: random.Random) -> None:
    store = FakeStore(rng)
    hub = make_hub(settings(), store)
    readers: list[Reader] = []
    rare = rng.random() < 0.3
    for _ in range(250):
        await step(rng, store, hub, readers, rare=rare)
    await heal(store, hub, readers)
    await hub.stop()
    hub.wheel.stop()
    assert not hub.connections
    assert all(not channel.claims and not channel.feeds for channel in hub.channels.values())
    assert not hub.feeds


async def step(rng: random.Random, store: FakeStore, hub: Hub, readers: list[Reader], *, rare: bool) -> None:
    """One thing that happens."""
    match rng.choices(
        ["publish", "hear", "answer", "join", "leave", "open", "turn", "list", "check", "renew", "away"],
        [30, 30, 25, 5, 3, 8, 25, 8, 2, 1 if rare else 0, 1 if rare else 0],
    )[0]:
        case "publish":
            for _ in range(rng.choice([1, 1, 3, 20])):
                store.publish(rng.choice(ALL))
        case "hear":
            for _ in range(min(len(store.bus), rng.choice([1, 2, 10]))):
                hub.broadcast(*store.bus.pop(0))
        case "answer":
            store.answer()
        case "join":
            old = rng.choice(readers).places if readers and rng.random() < 0.6 else {}
            readers.append(rng.choice(KINDS)(hub, rng, old))
        case "leave" if readers:
            readers.pop(rng.randrange(len(readers))).connection.broken()
        case "open" if readers:
            rng.choice(readers).sink.open()
        case "turn":
            await asyncio.sleep(0.006 if rng.random() < 0.1 else 0)
        case "list" if readers:
            change_list(rng, rng.choice(readers))
        case "check":
            hub.check_all()
        case "renew":
            store.streams[rng.choice(ALL)].renew()
        case "away":
            store.away = not store.away
    for reader in readers:
        reader.read()


def change_list(rng: random.Random, reader: Reader) -> None:
    """The backend wants a stream to follow a channel more, or less."""
    if isinstance(reader, StreamReader):
        connection, name = reader.connection, rng.choice(ALL)
        since = reader.places.get(name) if rng.random() < 0.3 else None
        subscribe = partial(connection.subscribe_by_server, name, Terms(), since)
        unsubscribe = partial(connection.unsubscribe_by_server, name, SERVER_UNSUBSCRIBE)
        connection.when_live(subscribe if rng.random() < 0.6 else unsubscribe)


def arrived(store: FakeStore, reader: Reader) -> bool:
    """Whether the reader is at the top of every channel it follows."""
    names = reader.following if isinstance(reader, StreamReader) else CHANNELS[:1]
    return not reader.waits and all(reader.places[name] == store.streams[name].position for name in names)


async def heal(store: FakeStore, hub: Hub, readers: list[Reader]) -> None:
    """From now on nothing goes wrong: everybody must arrive at the top."""
    store.away = False
    for name, publication in store.bus:
        hub.broadcast(name, publication)
    store.bus.clear()
    for turn in range(ROUNDS):
        if turn % 100 == 0:
            hub.check_all()
        store.answer()
        await asyncio.sleep(0 if turn % 20 else 0.006)
        for reader in readers:
            reader.sink.open()
            reader.read()
        if turn > 200 and all(arrived(store, reader) for reader in readers):
            return
    raise AssertionError([(type(reader).__name__, reader.places, reader.waits) for reader in readers])


@pytest.mark.parametrize("seed", [*range(60), 184, 4012, 4068])
def test_no_silent_gap(seed: int) -> None:
    """Through losses, repeats, stalls and reconnects every reader gets the next offset or is told, and all arrive."""
    asyncio.run(schedule(seed))
