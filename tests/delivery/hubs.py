"""A hub on a store in memory that knows presence, sessions and commands, and clients that speak to it by hand."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec

from rt.broker import Member, Stats
from rt.config import Channel as ChannelSettings
from rt.config import Config, Namespace
from rt.config.client import PersonalChannel
from rt.delivery.connection import Connection
from rt.delivery.hub import Choose, Hub
from rt.delivery.sdk import SdkConnection
from rt.delivery.uni import UniConnection
from rt.delivery.wheel import Wheel
from rt.metrics import Metrics
from rt.protocol import control, tokens
from rt.protocol.control import Message
from rt.protocol.keys import KeySet
from rt.protocol.publication import Change
from tests.delivery.test_walks import FakeSink, FakeStore, Stream

KEY = "k" * 40
ROOM = Namespace(
    name="room",
    history_size=60,
    presence=True,
    join_leave=True,
    allow_subscribe_for_client=True,
    allow_presence_for_subscriber=True,
)
NAMESPACES = (
    ROOM,
    Namespace(
        name="told", history_size=0, join_leave=True, force_push_join_leave=True, allow_subscribe_for_client=True
    ),
    Namespace(name="live", history_size=0, allow_subscribe_for_client=True),
    Namespace(name="own", history_size=0, presence=True),
)


class Calm(random.Random):
    """A chance that never strikes: sinks take everything."""

    def random(self) -> float:
        return 0.99


class MemoryStore(FakeStore):
    """What a store does for connections. ``calls`` are the names of what was asked, ``said`` the commands that were
    carried out, by all ``hubs``."""

    def __init__(self) -> None:
        super().__init__(Calm())
        self.streams: dict[str, Stream] = defaultdict(Stream)
        self.present: dict[str, dict[str, bytes]] = defaultdict(dict)
        self.changes: list[tuple[str, Change]] = []
        self.sessions: dict[str, dict[str, bytes]] = {}
        self.touched: list[str] = []
        self.calls: list[tuple[Any, ...]] = []
        self.said: list[Message | None] = []
        self.hubs: list[Hub] = []

    def enter(
        self, channel: str, members: Sequence[Member], *, announce: bool, refresh: bool = False
    ) -> asyncio.Future[int]:
        self.calls.append(("enter", channel, [member.client for member in members], announce, refresh))

        def do() -> int:
            for client, _, info in members:
                if client not in self.present[channel] and announce and not refresh:
                    self.tell(channel, Change("join", info))
                self.present[channel][client] = info
            return len(self.present[channel])

        return self._later(do)

    def leave(self, channel: str, client: str, *, announce: bool) -> asyncio.Future[None]:
        self.calls.append(("leave", channel, client, announce))

        def do() -> None:
            info = self.present[channel].pop(client, None)
            if info is not None and announce:
                self.tell(channel, Change("leave", info))

        return self._later(do)

    def announce(self, channel: str, change: Change) -> asyncio.Future[None]:
        return self._later(lambda: self.tell(channel, change))

    def tell(self, channel: str, change: Change) -> None:
        """All workers hear it."""
        self.changes.append((channel, change))
        for hub in self.hubs:
            hub.changed(channel, change)

    def presence(self, channel: str) -> asyncio.Future[dict[str, bytes]]:
        return self._later(lambda: dict(self.present[channel]))

    def presence_stats(self, channel: str) -> asyncio.Future[Stats]:
        return self._later(lambda: Stats(len(self.present[channel]), 1))

    def session(self, user: str) -> asyncio.Future[dict[str, bytes]]:
        self.calls.append(("session", user))
        found = dict(self.sessions.get(user, {}))  # as it is now, whenever the answer comes
        return self._later(lambda: found)

    def touch_sessions(self, users: Sequence[str], ttl: float) -> asyncio.Future[None]:
        self.touched += users
        return self._later(lambda: None)

    def command(self, body: bytes) -> asyncio.Future[None]:
        def do() -> None:
            self.said.append(control.decode(body))
            for hub in self.hubs:
                hub.obey(body)

        return self._later(do)


class FakeKeys:
    """A source of public keys that has none, and answers when it is told to."""

    def __init__(self) -> None:
        self.key_set = KeySet()
        self.asked: list[asyncio.Future[None]] = []

    async def fetch(self) -> None:
        """Bounded by the test."""
        self.asked.append(asyncio.get_running_loop().create_future())
        await self.asked[-1]


def config(*, token: Mapping[str, Any] | None = None, force_recovery: bool = False, **client: Any) -> Config:
    """A config whose tokens are signed with :data:`KEY`; anonymous connections are let in."""
    plain = Namespace(
        history_size=60, history_ttl=1000.0, allow_subscribe_for_client=True, force_recovery=force_recovery
    )
    whole = Config(channel=ChannelSettings(without_namespace=plain, namespaces=NAMESPACES))
    own = msgspec.structs.replace(whole.client.token, hmac_secret_key=KEY, leeway=0.0, **(token or {}))
    settings = {"allow_anonymous_connect_without_token": True, "expired_close_delay": 0.0, "token": own, **client}
    return msgspec.structs.replace(whole, client=msgspec.structs.replace(whole.client, **settings))


def single() -> PersonalChannel:
    """Every user has one connection."""
    return PersonalChannel(enabled=True, personal_channel_namespace="own", single_connection=True)


def make_hub(store: MemoryStore, settings: Config | None = None, *, keys: FakeKeys | None = None) -> Hub:
    """A worker's hub on the store, keeping time and hearing what workers say."""
    wheel = Wheel(0.005)
    wheel.start()
    metrics = Metrics().of("default")
    hub = Hub(settings or config(), store, metrics, node="n", wheel=wheel, keys=keys)  # type: ignore[arg-type]
    hub.start()
    store.hubs.append(hub)
    return hub


async def turns(store: MemoryStore, count: int = 60) -> None:
    """Let everything under way come to its end."""
    for _ in range(count):
        store.answer()
        await asyncio.sleep(0)


def token(user: str = "42", **claims: Any) -> str:
    """A connection token."""
    return tokens.connection_token(user, KEY, now=time.time(), claims=claims)


def ticket(channel: str, user: str = "42", **claims: Any) -> str:
    """A subscription token."""
    return tokens.subscription_token(user, channel, KEY, now=time.time(), claims=claims)


class Sink(FakeSink):
    """A socket that takes everything; ``raw`` is all of it."""

    def __init__(self) -> None:
        self.raw = bytearray()
        super().__init__(Calm())

    def _send(self, data: bytes) -> int:
        self.raw += data
        return super()._send(data)


class Sdk:
    """A client of the SDKs' protocol. ``heard`` is all that it was told."""

    def __init__(self, hub: Hub, token: str = "", *, connect: bool = True, **options: Any) -> None:
        self.sink = Sink()
        self.connection: Connection = self.make(hub, **options)
        self.heard: list[dict[str, Any]] = []
        if connect:
            self.connect(token)

    def make(self, hub: Hub, **options: Any) -> Connection:
        """Its end here."""
        return SdkConnection(hub, self.sink, **options)

    def connect(self, token: str, *more: dict[str, Any], **fields: Any) -> None:
        """The connect, and what is sent along with it."""
        self.send({"id": 1, "connect": {"token": token, **fields}}, *more)

    def send(self, *commands: dict[str, Any]) -> None:
        """One frame."""
        self.connection.message(b"\n".join(json.dumps(command).encode() for command in commands))

    def ask(self, id: int, kind: str, **fields: Any) -> None:
        """One command."""
        self.send({"id": id, kind: fields})

    def read(self) -> list[dict[str, Any]]:
        """What is new."""
        new = self.sink.messages()
        self.heard += new
        return new

    def reply(self, id: int) -> dict[str, Any]:
        """The reply with this id, of which there is one."""
        self.read()
        (found,) = [message for message in self.heard if message.get("id") == id]
        return found

    def pushes(self, kind: str) -> list[dict[str, Any]]:
        """The pushes of a kind."""
        self.read()
        return [message["push"] for message in self.heard if kind in message.get("push", {})]

    @property
    def code(self) -> int:
        """Of the close frame that came last."""
        at = self.sink.raw.rindex(b"\x88")
        return int.from_bytes(self.sink.raw[at + 2 : at + 4])


class Uni(Sdk):
    """A client of the one-way WebSocket."""

    def make(self, hub: Hub, *, choose: Choose | None = None, **options: Any) -> Connection:
        return UniConnection(hub, self.sink, choose=choose, **options)

    def connect(self, token: str, *more: dict[str, Any], **fields: Any) -> None:
        self.send({"token": token, **fields})


def run(test: Callable[[], Awaitable[None]]) -> None:
    """Run an asynchronous test; every wait in it ends."""

    async def bounded() -> None:
        async with asyncio.timeout(20):
            await test()

    asyncio.run(bounded())


def later(hub: Hub, seconds: float) -> None:
    """The wall clock goes on, and what is over by then ends."""
    moment = hub.wall() + seconds
    hub.wall = hub.expiry._wall = lambda: moment
    hub.expiry._look(hub.now())


async def finish(*hubs: Hub) -> None:
    """Stop, and look whether anything was left behind."""
    for hub in hubs:
        stopping = asyncio.ensure_future(hub.stop())
        while not stopping.done():
            hub.broker.answer()  # type: ignore[attr-defined]
            await asyncio.sleep(0)
        hub.wheel.stop()
        nothing_left(hub)


def nothing_left(hub: Hub) -> None:
    """Nobody is connected, and nothing speaks of somebody who was."""
    assert not hub.connections and not hub.users and not hub.claiming and not hub.readings and not hub.feeds
    assert not hub.presence.count()
    assert all(end.callback is None for _, _, end in hub.expiry._heap)
