"""Random schedules of the whole delivery room: nobody misses a publication without being told."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from rt.config import Channel as ChannelSettings
from rt.config import Config, Delivery, Namespace, Pacing
from rt.delivery.hub import Hub
from rt.delivery.sdk import SdkConnection
from rt.metrics import Metrics
from rt.protocol.publication import Page, Position, Publication

CHANNEL = "c"
HISTORY = 60
ROUNDS = 2000  # turns of the loop in which everything must have healed


class FakeStore:
    """A stream and a bus in memory. The bus loses, repeats and reorders; answers come when the schedule says."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.epoch, self.top = "e0", 0
        self.stream: list[Publication] = []
        self.bus: list[Publication] = []
        self.answers: list[Callable[[], None]] = []

    def publish(self, *, lossy: bool) -> None:
        self.top += 1
        body = b'{"data":{"n":%d,"x":"%s"}}' % (self.top, b"x" * self.rng.randrange(200))
        publication = Publication(body, self.epoch, self.top, 1)
        self.stream = [*self.stream, publication][-HISTORY:]
        copies = self.rng.choice([0, 1, 1, 1, 1, 1, 2]) if lossy else 1
        for _ in range(copies):
            place = len(self.bus) if not lossy or self.rng.random() < 0.8 else self.rng.randrange(len(self.bus) + 1)
            self.bus.insert(place, publication)

    def renew(self) -> None:
        """The stream is lost: another epoch begins."""
        self.epoch, self.top, self.stream = f"e{int(self.epoch[1:]) + 1}", 0, []

    def _later(self, make: Callable[[], Any]) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.answers.append(lambda: None if future.cancelled() else future.set_result(make()))
        return future

    def answer(self) -> None:
        """Let the oldest call that is under way be answered, as the store is now."""
        if self.answers:
            self.answers.pop(0)()

    def _page(self, since: Position, limit: int) -> Page:
        top = Position(self.epoch, self.top)
        found = [p for p in self.stream if p.offset > since.offset] if since.epoch == self.epoch else []
        return Page(top, found[:limit])

    def history(self, channel: str, *, since: Position, limit: int, meta_ttl: float) -> asyncio.Future[Page]:
        return self._later(lambda: self._page(since, limit))

    def position(self, channel: str, meta_ttl: float) -> asyncio.Future[Position]:
        return self._later(lambda: Position(self.epoch, self.top))

    def subscribe(self, channel: str) -> asyncio.Future[None]:
        return self._later(lambda: None)

    def unsubscribe(self, channel: str) -> None:
        pass


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
        """The JSON objects of all whole frames taken so far."""
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


class Reader:
    """A client that counts offsets as an SDK does, comes back after a 2500, and fails on a hole or a repeat."""

    def __init__(self, hub: Hub, rng: random.Random, position: Position | None = None) -> None:
        self.sink = FakeSink(rng)
        self.connection = SdkConnection(hub, self.sink)
        self.position = position
        self.asked = False
        self.connection.message(b'{"id":1,"connect":{}}')
        self.subscribe()

    def subscribe(self) -> None:
        self.asked = True
        request: dict[str, Any] = {"channel": CHANNEL}
        if self.position is not None:
            request |= {"recover": True, "epoch": self.position.epoch, "offset": self.position.offset}
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
            assert start == self.position, "a recovery that begins elsewhere"
        else:
            assert not result.get("publications"), "a part of what was missed"
        self.position = start
        for publication in result.get("publications", []):
            self._take(publication)

    def _pushed(self, push: dict[str, Any]) -> None:
        if "unsubscribe" in push:
            assert push["unsubscribe"]["code"] == 2500
            self.subscribe()
        elif "pub" in push:
            assert not self.asked, "a push before the reply"
            self._take(push["pub"])

    def _take(self, publication: dict[str, Any]) -> None:
        assert self.position is not None
        assert publication["offset"] == self.position.offset + 1, (self.position, publication["offset"])
        assert publication["data"]["n"] == publication["offset"]
        self.position = self.position._replace(offset=publication["offset"])


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


async def schedule(seed: int) -> None:
    rng = random.Random(seed)
    store = FakeStore(rng)
    hub = Hub(settings(), store, Metrics(), node="n")  # type: ignore[arg-type]
    hub.wheel.tick = 0.005
    hub.start()
    readers: list[Reader] = []
    rare = rng.random() < 0.3
    for _ in range(250):
        await step(rng, store, hub, readers, rare=rare)
    await heal(store, hub, readers)
    await hub.stop()
    hub.halt()
    assert not hub.connections
    assert all(not channel.claims for channel in hub.channels.values())
    assert not hub.feeds


async def step(rng: random.Random, store: FakeStore, hub: Hub, readers: list[Reader], *, rare: bool) -> None:
    """One thing that happens."""
    match rng.choices(
        ["publish", "hear", "answer", "join", "leave", "open", "turn", "check", "renew"],
        [30, 30, 20, 5, 3, 8, 25, 2, 1 if rare else 0],
    )[0]:
        case "publish":
            for _ in range(rng.choice([1, 1, 3, 20])):
                store.publish(lossy=True)
        case "hear":
            for _ in range(min(len(store.bus), rng.choice([1, 2, 10]))):
                hub.broadcast(CHANNEL, store.bus.pop(0))
        case "answer":
            store.answer()
        case "join":
            old = rng.choice(readers).position if readers and rng.random() < 0.6 else None
            readers.append(Reader(hub, rng, old))
        case "leave" if readers:
            readers.pop(rng.randrange(len(readers))).connection.broken()
        case "open" if readers:
            rng.choice(readers).sink.open()
        case "turn":
            await asyncio.sleep(0.006 if rng.random() < 0.1 else 0)
        case "check":
            hub.check_all()
        case "renew":
            store.renew()
    for reader in readers:
        reader.read()


async def heal(store: FakeStore, hub: Hub, readers: list[Reader]) -> None:
    """From now on nothing goes wrong: everybody must arrive at the top."""
    for publication in store.bus:
        hub.broadcast(CHANNEL, publication)
    store.bus.clear()
    for turn in range(ROUNDS):
        if turn % 100 == 0:
            hub.check_all()
        store.answer()
        await asyncio.sleep(0 if turn % 20 else 0.006)
        for reader in readers:
            reader.sink.open()
            reader.read()
        if turn > 200 and all(reader.position == (store.epoch, store.top) and not reader.asked for reader in readers):
            return
    raise AssertionError(
        [(r.position, r.asked, [s.state for s in r.connection.subscriptions.values()]) for r in readers]
    )


@pytest.mark.parametrize("seed", range(60))
def test_no_silent_gap(seed: int) -> None:
    """Through losses, repeats, stalls and reconnects every reader gets the next offset or is told, and all arrive."""
    asyncio.run(schedule(seed))
