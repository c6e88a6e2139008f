"""Random schedules of slow readers: each policy owes something, and all of it is checked.

* Whatever the policy, a reader gets a channel's publications in order, and none twice.
* ``catch_up``: every one, or it is told of a gap. ``disconnect``: every one, or it is closed with 3008.
* ``drop_oldest``: the newest; what it lacks lies before something that it got.
* ``drop_newest``: from when nothing waits for it any more, every one.
* ``conflate``: the newest of every key; with history the newest of the channel.
* What a reader lacks is counted, once, by the namespace and the priority that it was left out for.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from typing import Any, NamedTuple
from unittest.mock import patch

import msgspec
import pytest

from rt.config import Channel as ChannelSettings
from rt.config import Config, Delivery, Namespace, Pacing
from rt.config.schema import PerSubscription
from rt.delivery import flush
from rt.delivery.admission import Admission, Request, admit
from rt.delivery.connection import Connection
from rt.delivery.hub import Hub
from rt.delivery.plain import PlainConnection
from rt.delivery.sdk import SdkConnection
from rt.delivery.subscription import State
from rt.errors import SERVER_UNSUBSCRIBE
from rt.protocol.options import Terms
from rt.protocol.publication import Position, Publication
from rt.protocol.wires import SOCKET, SSE, StreamWire
from tests.delivery.test_walks import ROUNDS, FakeSink, FakeStore, Stream, make_hub
from tests.eventsource import Parser

LOOSE = ("oldest", "newest", "keyed", "plain")
"""Namespaces without history that leave things out."""

KINDS = (*LOOSE, "whole", "cache", "strict")
HISTORY = 200
KEYS = "abcde"
PRIORITIES = ("high", "normal", "low")


class Calm(random.Random):
    """A chance that never strikes: sinks take everything."""

    def random(self) -> float:
        return 0.99


class Settings(NamedTuple):
    """What a walk is like: the priority and the batch of each namespace, and whether readers come, go and change."""

    priorities: dict[str, str]
    batches: dict[str, float]
    restless: bool


def chosen(rng: random.Random, *, restless: bool) -> Settings:
    """Anything goes; but walks without restless readers have no batches either, and are counted to the last one."""
    priorities = {kind: rng.choice(PRIORITIES) for kind in KINDS}
    if priorities["strict"] == "low":
        priorities["strict"] = "normal"
    batches = {kind: rng.choice([0.0, 0.0, 0.01, 0.02]) if restless else 0.0 for kind in KINDS}
    return Settings(priorities, batches, restless)


def config(chosen: Settings) -> Config:
    """Small bounds, so that every one of them is met."""
    slow = {"oldest": "drop_oldest", "newest": "drop_newest", "keyed": "conflate", "plain": "conflate"}
    namespaces = tuple(
        Namespace(
            name=kind,
            history_size=HISTORY if kind in ("whole", "cache") else 0,
            history_ttl=1000.0,
            force_recovery=kind in ("whole", "cache"),
            force_recovery_mode="cache" if kind == "cache" else "stream",
            slow=slow.get(kind, {"whole": "catch_up", "cache": "conflate", "strict": "disconnect"}.get(kind, "")),  # type: ignore[arg-type]
            conflate_key="k" if kind == "keyed" else "",
            priority=chosen.priorities[kind],  # type: ignore[arg-type]
            batch=chosen.batches[kind],
            allow_subscribe_for_client=True,
        )
        for kind in KINDS
    )
    delivery = Delivery(
        low_watermark=1000, high_watermark=6000, max_messages=60, recent_size=12, recent_bytes=3000, linger=0.02,
        subscription=PerSubscription(max_bytes=4000, max_messages=24, max_age=600.0),
        pacing=Pacing(first=0.01, factor=1.5, max=0.03), max_age=600.0, stall_timeout=600.0,
    )  # fmt: skip
    whole = Config(delivery=delivery, channel=ChannelSettings(namespaces=namespaces))
    return msgspec.structs.replace(whole, client=msgspec.structs.replace(whole.client, insecure=True))


class Source:
    """What was published: per channel the keys, in order; the number of a publication is its place."""

    def __init__(self, hub: Hub, store: FakeStore, rng: random.Random) -> None:
        self.hub, self.store, self.rng = hub, store, rng
        self.keys: dict[str, list[str]] = defaultdict(list)

    def publish(self, name: str) -> None:
        """One more, heard at once."""
        number, key = len(self.keys[name]), self.rng.choice(KEYS)
        self.keys[name].append(key)
        body = b'{"data":{"n":%d,"x":"%s"},"tags":{"k":"%s"}}' % (number, b"x" * self.rng.randrange(90), key.encode())
        stream = self.store.streams[name]
        if name.startswith(("whole", "cache")):
            stream.top += 1
            publication = Publication(body, stream.epoch, stream.top, int(time.time() * 1e6))
            stream.kept = [*stream.kept, publication][-HISTORY:]
        else:
            publication = Publication(body, time=int(time.time() * 1e6))
        self.hub.broadcast(name, publication)

    def newest(self, name: str, key: str, first: int) -> int:
        """The number of the newest of a key; -1 where there is none from ``first`` on."""
        return max((at for at, found in enumerate(self.keys[name]) if found == key and at >= first), default=-1)


class Taker(ABC):
    """One reader of channels: what it ``got``, by channel, since ``start``; which may be later than its coming."""

    connection: Connection

    def __init__(self, hub: Hub, rng: random.Random, names: list[str]) -> None:
        self.hub, self.rng, self.names = hub, rng, names
        self.sink = FakeSink(rng)
        self.got: dict[str, list[int]] = {}
        self.told: set[str] = set()  # channels with a gap that it was told of
        self.dismissed = False  # the backend took something away from it, perhaps the last that it followed

    @abstractmethod
    def read(self) -> None:
        """Take what has come."""

    def take(self, name: str, publication: dict[str, Any]) -> None:
        """In order, and none twice; without a hole where the policy has none."""
        number, got = publication["data"]["n"], self.got[name]
        assert not got or number > got[-1], (name, got[-1], number)
        if got and name.split(":")[0] in ("whole", "strict") and name not in self.told:
            assert number == got[-1] + 1, (name, got[-1], number)
        self.told.discard(name)
        got.append(number)

    @property
    def states(self) -> list[State]:
        """Of all its subscriptions."""
        return [one.state for one in self.connection.subscriptions.values()]

    @property
    def changes(self) -> bool:
        """Whether it is about to follow something else."""
        return False


class SdkTaker(Taker):
    """Each channel has a subscription of its own."""

    def __init__(self, hub: Hub, rng: random.Random, names: list[str]) -> None:
        super().__init__(hub, rng, names)
        self.connection = SdkConnection(hub, self.sink)
        self.connection.message(b'{"id":1,"connect":{}}')
        self.places: dict[str, Position] = {}
        for name in names:
            self.subscribe(name)

    def subscribe(self, name: str) -> None:
        """From where it was, if it was."""
        request: dict[str, Any] = {"channel": name}
        if place := self.places.get(name):
            request |= {"recover": True, "epoch": place.epoch, "offset": place.offset}
        self.connection.message(json.dumps({"id": 2 + self.names.index(name), "subscribe": request}).encode())

    def read(self) -> None:
        for message in self.sink.messages():
            if "subscribe" in message:
                self.subscribed(self.names[message["id"] - 2], message["subscribe"])
            elif "error" in message:
                assert message["error"]["code"] in (100, 105), message
            elif "push" in message and "unsubscribe" in message["push"]:
                assert message["push"]["unsubscribe"]["code"] in (2500, 2000)
                if message["push"]["unsubscribe"]["code"] == 2500:
                    self.subscribe(message["push"]["channel"])
            elif "push" in message:
                name, publication = message["push"]["channel"], message["push"]["pub"]
                if "offset" in publication:
                    self.places[name] = self.places[name]._replace(offset=publication["offset"])
                self.take(name, publication)

    def subscribed(self, name: str, result: dict[str, Any]) -> None:
        """The reply, with what was recovered."""
        self.got.setdefault(name, [])
        if not result.get("recovered"):
            self.told.add(name)
        if "epoch" in result:
            self.places[name] = Position(result["epoch"], result.get("offset", 0))
        for publication in result.get("publications", []):
            self.places[name] = self.places[name]._replace(offset=publication["offset"])
            self.take(name, publication)


class StreamTaker(Taker):
    """All channels have one subscription, and the backend may change which they are."""

    wire: StreamWire = SOCKET

    def __init__(self, hub: Hub, rng: random.Random, names: list[str]) -> None:
        super().__init__(hub, rng, names)
        admission = admit(hub, Request(names))
        assert isinstance(admission, Admission)
        self.connection: PlainConnection = PlainConnection(
            hub, self.sink, self.wire, admission, preface=b"", refusal=b""
        )
        self.connection.begin()

    @property
    def changes(self) -> bool:
        return not self.connection.closed and set(self.connection.following) | set(self.connection._coming) != set(
            self.got
        )

    def received(self) -> Iterator[dict[str, Any]]:
        """Messages as they are over WebSocket."""
        for message in self.sink.messages():
            assert "disconnect" not in message
            yield message

    def read(self) -> None:
        for message in self.received():
            if "connect" in message:
                self.got |= {name: [] for name in message["connect"]["subs"]}
                assert not any("offset" in s for n, s in message["connect"]["subs"].items() if n.startswith(LOOSE))
                continue
            name = message["channel"]
            if "subscribe" in message:
                assert "offset" not in message["subscribe"] or not name.startswith(LOOSE)
                self.got[name] = []
            elif "unsubscribe" in message:
                del self.got[name]
            elif "gap" in message:
                self.told.add(name)
            else:
                self.take(name, message["pub"])


class EventTaker(StreamTaker):
    """The same over server-sent events."""

    wire: StreamWire = SSE

    def __init__(self, hub: Hub, rng: random.Random, names: list[str]) -> None:
        self.parser = Parser()
        super().__init__(hub, rng, names)

    def received(self) -> Iterator[dict[str, Any]]:
        events = self.parser.feed(bytes(self.sink.taken))
        self.sink.taken.clear()
        for event in events:
            body = json.loads(event.data)
            if event.kind == "message":
                yield body
            elif event.kind == "connect":
                yield {"connect": body}
            elif event.kind != "disconnect":
                yield {"channel": body["channel"], event.kind: body}


class Walk:
    """A hub, what is published on it, and who reads."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.settings = chosen(self.rng, restless=self.rng.random() < 0.5)
        self.store = FakeStore(self.rng)
        self.store.streams = defaultdict(Stream)
        self.hub = make_hub(config(self.settings), self.store)
        self.source = Source(self.hub, self.store, self.rng)
        self.names = [f"{kind}:{letter}" for kind in KINDS for letter in "xy"]
        self.takers: list[Taker] = []

    def join(self) -> None:
        """One more reader; of a channel whose readers are closed for being slow only some are."""
        names = [name for name in self.names if not name.startswith("strict") or self.rng.random() < 0.2]
        kinds: list[Callable[[Hub, random.Random, list[str]], Taker]] = [SdkTaker, SdkTaker, StreamTaker, EventTaker]
        self.takers.append(
            self.rng.choice(kinds)(self.hub, self.rng, self.rng.sample(names, self.rng.randint(1, min(6, len(names)))))
        )

    async def turn(self, *, slowly: bool) -> None:
        """A turn of the loop, or a little more time, in which the store answers, too."""
        self.store.answer()
        await asyncio.sleep(0.006 if slowly else 0)
        for taker in self.takers:
            taker.read()

    async def settle(self) -> None:
        """Nobody is blocked any more, until all are live."""
        for turn in range(ROUNDS):
            for taker in self.takers:
                taker.sink.open()
            await self.turn(slowly=turn % 5 == 4)
            states = {state for taker in self.takers for state in taker.states}
            waits = any(taker.sink.full or taker.connection.outbox.queue or taker.changes for taker in self.takers)
            busy = any(feed.turn or feed._unfinished for feed in self.hub.feeds.values())
            if states <= {State.LIVE} and not waits and not busy:
                return
        raise AssertionError([taker.states for taker in self.takers])

    async def step(self) -> None:
        """One thing that happens."""
        restless = [3, 2, 6, 2] if self.settings.restless else [0, 0, 0, 0]
        kinds = ["publish", "open", "turn", "join", "leave", "list", "reload"]
        what = self.rng.choices(kinds, [40, 12, 30, *restless])[0]
        match what:
            case "publish":
                name = self.rng.choice(self.names)
                # Eighty are more than a turn may hold; of a strict channel's the rest would be dropped.
                for _ in range(self.rng.choice([1, 1, 2, 8, 30, 30 if name.startswith("strict") else 80])):
                    self.source.publish(name)
            case "open" if self.takers:
                self.rng.choice(self.takers).sink.open()
            case "join":
                self.join()
            case "leave" if self.takers:
                self.takers.pop(self.rng.randrange(len(self.takers))).connection.broken()
            case "list" if self.takers:
                self.change_list(self.rng.choice(self.takers))
            case "reload":
                self.settings = chosen(self.rng, restless=True)
                self.hub.reload(config(self.settings))
        await self.turn(slowly=self.rng.random() < 0.05)

    def change_list(self, taker: Taker) -> None:
        """The backend wants a stream to follow a channel more, or less."""
        if isinstance(taker, StreamTaker) and not taker.connection.closed:
            connection, name = taker.connection, self.rng.choice(self.names)
            subscribe = partial(connection.subscribe_by_server, name, Terms(), None)
            unsubscribe = partial(connection.unsubscribe_by_server, name, SERVER_UNSUBSCRIBE)
            more = self.rng.random() < 0.6
            taker.dismissed |= not more
            connection.when_live(subscribe if more else unsubscribe)

    async def run(self) -> None:
        """Readers come and the walk is walked; then everything heals, and what is owed is there."""
        for _ in range(4 if self.settings.restless else 8):
            self.join()
        if not self.settings.restless:
            await self.settle()  # all see the first publication
        for _ in range(200):
            await self.step()
        await self.settle()
        self.check()
        if not self.settings.restless:
            self.check_counts()
        for taker in self.takers:
            taker.sink.rng = Calm()
        for name in self.names:
            self.source.publish(name)
        await self.settle()
        self.check()
        for taker in self.takers:
            for name, got in taker.got.items():
                if not taker.connection.closed:
                    assert got[-1] == len(self.source.keys[name]) - 1, "who is live gets what comes"
        await self.end()

    def check(self) -> None:
        """What each policy owes to those who were not closed."""
        for taker in self.takers:
            for name, got in taker.got.items():
                kind = name.partition(":")[0]
                if taker.connection.closed:
                    following = taker.connection.following if isinstance(taker, StreamTaker) else ()
                    strict = any(one.startswith("strict") for one in (*taker.names, *taker.got, *following))
                    assert strict or taker.dismissed, "closed for another one's fault"
                elif got and kind != "newest" and name not in taker.told:
                    assert got[-1] == len(self.source.keys[name]) - 1, (name, "not the newest")
                if kind == "keyed" and got and not taker.connection.closed:
                    self.check_keys(name, got)

    def check_keys(self, name: str, got: list[int]) -> None:
        keys = self.source.keys[name]
        last = {keys[number]: number for number in got}
        expected = {key: self.source.newest(name, key, got[0]) for key in KEYS}
        assert last == {key: number for key, number in expected.items() if number >= 0}, name

    def check_counts(self) -> None:
        """All came before the first publication and stayed: what they lack was counted."""
        lacking: Counter[str] = Counter()
        for taker in self.takers:
            if taker.connection.closed:
                return  # what it lacks it is not owed
            for name, got in taker.got.items():
                if not name.startswith("whole"):  # it lacks nothing that it was not told of
                    lacking[name.partition(":")[0]] += len(self.source.keys[name]) - len(got)
        tally = self.hub.tally
        counted: Counter[str] = Counter()
        for (namespace, priority, reason), count in tally.sheds.items():
            assert priority == self.settings.priorities[namespace] and reason == namespace
            counted[namespace] += count
        for (namespace, _), count in tally.conflations.items():
            counted[namespace] += count
        assert +lacking == +counted, "what is lacking is what was counted"

    async def end(self) -> None:
        """Nothing is left behind."""
        await self.hub.stop()
        self.hub.wheel.stop()
        assert not self.hub.connections and not self.hub.feeds and not self.hub.paces


@pytest.mark.parametrize("seed", range(60))
def test_what_each_policy_owes(seed: int) -> None:
    """Through stalls, bursts, changes of lists, batches and every order of priorities; with odd seeds in slices."""
    with patch.multiple(flush, CHUNK=1, SLICE=-1.0) if seed % 2 else nullcontext():

        async def run() -> None:
            await Walk(seed).run()

        asyncio.run(run())
