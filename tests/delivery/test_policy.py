"""Policies, priorities and batches, one thing at a time: a hub in memory, and sockets that take what a test says."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import Any
from unittest.mock import patch

import msgspec
import pytest

from rt.config import Channel as ChannelSettings
from rt.config import Config, Delivery, Namespace, Pacing
from rt.config.schema import PerSubscription
from rt.delivery import flush, spare
from rt.delivery.admission import Admission, Request, admit
from rt.delivery.catchup import Leg, reach
from rt.delivery.hub import Hub
from rt.delivery.pacing import CALM
from rt.delivery.plain import PlainConnection
from rt.delivery.policy import HIGH, LOW, NORMAL, Manner, manner, share, spared
from rt.delivery.sdk import SdkConnection
from rt.delivery.spare import tag_of
from rt.delivery.subscription import State
from rt.delivery.uni import UniConnection
from rt.protocol.commands import Connect, Subscribe
from rt.protocol.options import Terms
from rt.protocol.publication import Position, Publication
from rt.protocol.wires import SOCKET
from tests.delivery.test_policy_walks import Calm
from tests.delivery.test_walks import FakeSink as Socket
from tests.delivery.test_walks import FakeStore, Stream, make_hub

BODY = 100
"""Bytes of a publication here, about."""


def loose(name: str, slow: str, **more: Any) -> Namespace:
    """A namespace without history."""
    return Namespace(name=name, history_size=0, slow=slow, allow_subscribe_for_client=True, **more)  # type: ignore[arg-type]


def stored(name: str, **more: Any) -> Namespace:
    """A namespace with history."""
    return Namespace(name=name, history_size=2000, history_ttl=1000.0, allow_subscribe_for_client=True, **more)


class Room:
    """A hub with these namespaces, and readers by number. Bounds: 4,000 and 20,000 bytes, 400 messages."""

    def __init__(self, *namespaces: Namespace, **delivery: Any) -> None:
        self.namespaces = namespaces
        self.delivery = {
            "low_watermark": 4000,
            "high_watermark": 20000,
            "max_messages": 400,
            "subscription": PerSubscription(max_bytes=2000, max_messages=100, max_age=600.0),
            "pacing": Pacing(first=0.02, factor=2.0, max=0.2),
            "stall_timeout": 600.0,
            "max_age": 600.0,
            **delivery,
        }
        self.store = FakeStore(Calm())
        self.store.streams = defaultdict(Stream)
        self.hub = make_hub(self.config(), self.store)
        self.published: dict[str, int] = defaultdict(int)

    def config(self) -> Config:
        """As it is now."""
        config = Config(delivery=Delivery(**self.delivery), channel=ChannelSettings(namespaces=self.namespaces))
        return msgspec.structs.replace(config, client=msgspec.structs.replace(config.client, insecure=True))

    def reload(self, *namespaces: Namespace, **delivery: Any) -> None:
        """Other settings."""
        self.namespaces, self.delivery = namespaces, {**self.delivery, **delivery}
        self.hub.reload(self.config())

    def publish(self, name: str, count: int = 1, *, size: int = BODY, key: str = "") -> None:
        """Numbered publications, heard at once."""
        for _ in range(count):
            number = self.published[name]
            self.published[name] += 1
            tags = b',"tags":{"k":"%s"}' % key.encode() if key else b""
            body = b'{"data":{"n":%d,"x":"%s"}%s}' % (number, b"x" * (size - 30), tags)
            stream = self.store.streams[name]
            if self.hub.namespaces.find(name).history:
                stream.top += 1
                publication = Publication(body, stream.epoch, stream.top, 1)
                stream.kept = [*stream.kept, publication]
            else:
                publication = Publication(body, time=1)
            self.hub.broadcast(name, publication)

    async def turns(self, count: int = 30) -> None:
        """Let everything under way come to its end."""
        for _ in range(count):
            self.store.answer()
            await asyncio.sleep(0)

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait, with a bound."""
        async with asyncio.timeout(10):
            while not condition():
                self.store.answer()
                await asyncio.sleep(0.002)

    def left_out(self) -> dict[str, int]:
        """By namespace, whatever the reason."""
        found: dict[str, int] = defaultdict(int)
        for (namespace, _, _), count in self.hub.tally.sheds.items():
            found[namespace] += count
        return dict(found)


class Sticky(Socket):
    """A socket that takes no more than one write at a time, while it is ``sticky``."""

    sticky = False

    def _send(self, data: bytes) -> int:
        taken = super()._send(data)
        self.full = self.sticky
        return taken


class Reader:
    """A client whose socket is ``full`` or not. ``got`` holds the numbers, by channel; ``order`` the channels as they
    came."""

    def __init__(self, room: Room, *names: str, stream: bool = False) -> None:
        self.room = room
        self.sink = Sticky(Calm())
        self.got: dict[str, list[int]] = defaultdict(list)
        self.order: list[str] = []
        self.connection: SdkConnection | PlainConnection
        if stream:
            admission = admit(room.hub, Request(names))
            assert isinstance(admission, Admission)
            self.connection = PlainConnection(room.hub, self.sink, SOCKET, admission, preface=b"", refusal=b"")
            self.connection.begin()
        else:
            self.connection = SdkConnection(room.hub, self.sink)
            commands = [{"id": 1, "connect": {}}]
            commands += [{"id": at, "subscribe": {"channel": name}} for at, name in enumerate(names, 2)]
            self.connection.message(b"\n".join(json.dumps(command).encode() for command in commands))

    def stall(self) -> None:
        """The socket takes nothing from now on; something waits already, so that it shows."""
        self.sink.full = True
        self.connection.outbox.write(self.connection.wire.ping)

    def read(self) -> Reader:
        """Take what has come."""
        for message in self.sink.messages():
            push = message.get("push", message)
            if "pub" in push:
                self.got[push["channel"]].append(push["pub"]["data"]["n"])
                self.order.append(push["channel"])
        return self

    def behind(self) -> set[str]:
        """The channels on which it is behind."""
        subscriptions = self.connection.subscriptions.values()
        return {name for one in subscriptions if one.state is State.BEHIND for name in one.feed.key}

    @property
    def live(self) -> bool:
        """Whether it gets the turns, on all channels."""
        return all(one.state is State.LIVE for one in self.connection.subscriptions.values())


async def stalled(room: Room, *names: str, stream: bool = False) -> Reader:
    """A reader of these channels that has come in, and takes nothing from now on."""
    reader = Reader(room, *names, stream=stream)
    await room.turns()
    reader.stall()
    return reader


def run(test: Callable[[Room], Awaitable[None]], *namespaces: Namespace, **delivery: Any) -> None:
    """Run a test in a room, and see that nothing is left of it."""

    async def bounded() -> None:
        async with asyncio.timeout(20):
            room = Room(*namespaces, **delivery)
            await test(room)
            await room.hub.stop()
            room.hub.wheel.stop()
            assert not room.hub.paces and not room.hub.feeds

    asyncio.run(bounded())


# What a feed makes of its channels


@pytest.mark.parametrize(
    ("namespaces", "expected"),
    [
        ([stored("aa")], {"lags": True, "conflates": False, "paced": False}),
        ([stored("aa", slow="disconnect")], {"lags": False}),
        ([stored("aa"), loose("bb", "disconnect")], {"lags": False}),
        ([loose("aa", "disconnect")], {"lags": False}),
        ([loose("aa", "drop_oldest")], {"lags": True, "conflates": False, "paced": True}),
        ([loose("aa", "conflate")], {"lags": True, "conflates": True, "paced": True}),
        (
            [stored("aa", slow="conflate", force_recovery_mode="cache")],
            {"lags": True, "conflates": True, "paced": True},
        ),
        ([loose("aa", "conflate"), stored("bb")], {"lags": True, "conflates": False, "paced": False}),
        ([loose("aa", "disconnect"), loose("bb", "drop_newest")], {"lags": True, "paced": True}),
        ([stored("aa", priority="low"), stored("bb", priority="high")], {"rank": HIGH, "order": (1, 0)}),
        ([stored("aa", priority="low"), stored("bb"), stored("cc", priority="low")], {"order": (1, 0, 2)}),
        ([stored("aa")], {"batches": None, "condenses": False}),
        ([stored("aa", batch=0.2), stored("bb")], {"batches": (0.2, 0.0), "condenses": False}),
        ([loose("aa", "conflate", batch=0.2)], {"batches": (0.2,), "condenses": True}),
        ([loose("aa", "conflate"), stored("bb", batch=0.2)], {"condenses": False}),
        ([], {"lags": True, "conflates": False, "paced": False, "rank": NORMAL}),
    ],
)
def test_the_manner_of_a_feed(namespaces: list[Namespace], expected: dict[str, Any]) -> None:
    """It lags when any channel leaves things out, or all can catch up."""
    found: Manner = manner(namespaces)
    assert {name: getattr(found, name) for name in expected} == expected


def test_shares_go_by_priority() -> None:
    """A quarter, the whole and four times the low watermark, never more than the high one."""
    delivery = Delivery(low_watermark=8000, high_watermark=20000, max_messages=400)
    assert [share(delivery, rank) for rank in (LOW, NORMAL, HIGH)] == [(2000, 100), (8000, 200), (20000, 400)]


def test_what_is_kept_goes_by_priority_and_is_no_more_than_may_wait() -> None:
    """A quarter, the whole and four times, within the bounds of an outbox."""
    own = PerSubscription(max_bytes=8000, max_messages=200)
    delivery = Delivery(high_watermark=20000, max_messages=400, subscription=own)
    assert [spared(delivery, rank) for rank in (LOW, NORMAL, HIGH)] == [(2000, 50), (8000, 200), (20000, 400)]


# What a slow reader is given


def test_drop_oldest_gives_the_newest_that_fit() -> None:
    """What was queued when it fell behind, then the newest within the bounds; between them is what was left out."""

    async def test(room: Room) -> None:
        reader, healthy = Reader(room, "oldest:a"), Reader(room, "oldest:a")
        await room.turns()
        reader.stall()
        for _ in range(200):
            room.publish("oldest:a")
            await room.turns(2)
        assert reader.behind() == {"oldest:a"} and not reader.read().got
        assert healthy.read().got["oldest:a"] == list(range(200)), "nobody else is concerned"
        reader.sink.open()
        await room.until(lambda: reader.live)
        got = reader.read().got["oldest:a"]
        queued = next(at for at, number in enumerate(got) if number != at)
        assert 25 <= queued < 40, "a low watermark of frames"
        assert got[queued:] == list(range(200 - len(got[queued:]), 200))
        assert 15 <= len(got[queued:]) <= 22, "the bytes that are kept"
        assert room.left_out() == {"oldest": 200 - len(got)}
        assert room.hub.tally.falls["oldest", "normal"] == 1

    run(test, loose("oldest", "drop_oldest"))


def test_drop_newest_gives_what_was_queued() -> None:
    """And from when it is out whatever comes."""

    async def test(room: Room) -> None:
        reader = await stalled(room, "newest:a")
        for _ in range(100):
            room.publish("newest:a")
            await room.turns(2)
        reader.sink.open()
        await room.until(lambda: reader.live)
        queued = len(reader.read().got["newest:a"])
        assert reader.got["newest:a"] == list(range(queued)) and 25 <= queued < 40
        room.publish("newest:a")
        await room.turns()
        assert reader.read().got["newest:a"][-1] == 100
        assert dict(room.hub.tally.sheds) == {("newest", "normal", "newest"): 100 - queued}

    run(test, loose("newest", "drop_newest"))


@pytest.mark.parametrize("stream", [False, True])
def test_conflate_gives_the_newest_of_every_key(stream: bool) -> None:
    """Nothing old is queued at all."""

    async def test(room: Room) -> None:
        reader = await stalled(room, "price:a", stream=stream)
        for _ in range(10):
            for key in "abc":
                room.publish("price:a", key=key)
            await room.turns(2)
        reader.sink.open()
        await room.until(lambda: reader.live)
        assert reader.read().got["price:a"] == [27, 28, 29]
        assert room.hub.tally.conflations == {("price", "normal"): 27} and not room.left_out()

    run(test, loose("price", "conflate", conflate_key="k"))


def test_what_lacks_the_tag_is_one_of_the_channel() -> None:
    """Only the newest of them, and that there were such is counted."""

    async def test(room: Room) -> None:
        reader = await stalled(room, "price:a")
        room.publish("price:a", 5)
        room.publish("price:a", key="a")
        await room.turns()
        reader.sink.open()
        await room.until(lambda: reader.live)
        assert reader.read().got["price:a"] == [4, 5]
        assert room.hub.tally.keyless == {("price",): 5}

    run(test, loose("price", "conflate", conflate_key="k"))


@pytest.mark.parametrize("stream", [False, True])
def test_conflate_with_history_gives_the_newest(stream: bool) -> None:
    """Recovery of that namespace gives no more, so there is no hole; the cursor goes on from there."""

    async def test(room: Room) -> None:
        reader = await stalled(room, "cache:a", stream=stream)
        for _ in range(20):
            room.publish("cache:a")
            await room.turns(2)
        reader.sink.open()
        await room.until(lambda: reader.live)
        room.publish("cache:a")
        await room.turns()
        assert reader.read().got["cache:a"] == [19, 20]
        assert room.hub.tally.conflations == {("cache", "normal"): 19}

    run(test, stored("cache", slow="conflate", force_recovery_mode="cache"))


def test_a_stream_is_behind_on_all_its_channels_and_comes_back_by_each_policy() -> None:
    """From history all of it, of the others what they keep, and of a strict one everything or the end."""

    async def test(room: Room) -> None:
        names = ("whole:a", "oldest:a", "price:a", "strict:a")
        reader = await stalled(room, *names, stream=True)
        for _ in range(60):
            for name in names:
                room.publish(name, key="a")
            await room.turns(2)
        assert reader.behind() == set(names)
        reader.sink.open()
        await room.until(lambda: reader.live)
        got = reader.read().got
        assert got["whole:a"] == got["strict:a"] == list(range(60))
        assert got["oldest:a"][-10:] == list(range(50, 60)) and len(got["oldest:a"]) < 60
        assert got["price:a"][-1] == 59 and len(got["price:a"]) < 20
        room.publish("oldest:a")
        await room.turns()
        assert reader.read().got["oldest:a"][-1] == 60

    run(
        test, stored("whole"), loose("oldest", "drop_oldest"), loose("price", "conflate"), loose("strict", "disconnect")
    )


def test_a_stream_that_needs_what_a_strict_channel_keeps_no_more_is_closed() -> None:
    """It would have a hole that nobody allowed."""

    async def test(room: Room) -> None:
        reader = await stalled(room, "oldest:a", "strict:a", stream=True)
        for _ in range(300):
            room.publish("strict:a")
            await room.turns(2)
        reader.sink.open()
        await room.until(lambda: reader.connection.closed)
        assert room.hub.tally.slow["queue"] == 1

    run(test, loose("oldest", "drop_oldest"), loose("strict", "disconnect"))


# Priorities


def sacrificed(room: Room, reader: Reader, names: tuple[str, ...]) -> list[set[str]]:
    """Publish on all channels alike: the sets of those behind, as they grow."""
    seen: list[set[str]] = [set()]
    for _ in range(400):
        for name in names:
            room.publish(name)
            room.hub._flush()
            if reader.behind() != seen[-1]:
                seen.append(reader.behind())
    return seen[1:]


ORDERS = [("low:a", "normal:a", "high:a"), ("high:a", "normal:a", "low:a"), ("normal:a", "high:a", "low:a")]


@pytest.mark.parametrize("names", ORDERS)
@pytest.mark.parametrize("slow", ["catch_up", "drop_oldest", "drop_newest"])
def test_low_is_given_up_first_and_high_last(names: tuple[str, ...], slow: str) -> None:
    """In whatever order they were subscribed and are published, and whatever it is that is given up."""
    make = stored if slow == "catch_up" else lambda name, **more: loose(name, slow, **more)

    async def test(room: Room) -> None:
        reader = await stalled(room, *names)
        steps = sacrificed(room, reader, names)
        assert steps == [{"low:a"}, {"low:a", "normal:a"}, {"low:a", "normal:a", "high:a"}]
        reader.sink.open()
        await room.until(lambda: reader.live)
        got = {name.split(":")[0]: len(numbers) for name, numbers in reader.read().got.items()}
        if slow == "catch_up":
            assert got == {"low": 400, "normal": 400, "high": 400}
        else:
            assert got["low"] < got["normal"] < got["high"] < 400

    run(test, *[make(name, priority=name) for name in ("high", "low", "normal")])


def test_they_are_served_from_high_to_low() -> None:
    """Each only when nothing waits, and none below one that is still owed something."""

    async def test(room: Room) -> None:
        names = ("low:a", "normal:a", "high:a")
        reader = await stalled(room, *names)
        sacrificed(room, reader, names)
        assert not reader.read().got
        queued = reader.connection.outbox.count - 1
        reader.sink.open()
        await room.until(lambda: reader.live)
        later = reader.read().order[queued:]
        assert [name for at, name in enumerate(later) if at == 0 or later[at - 1] != name] == [*reversed(names)]

    run(
        test,
        *[stored(name, priority=name) for name in ("high", "low", "normal")],
        recent_size=1000,
        recent_bytes=1 << 20,
    )


def test_of_the_channels_of_a_stream_low_loses_most_and_comes_last() -> None:
    """It is behind on all together, but of the higher more is kept; and they come first."""

    async def test(room: Room) -> None:
        names = ("low:a", "normal:a", "high:a")
        reader = await stalled(room, *names, stream=True)
        for _ in range(300):
            for name in names:
                room.publish(name)
            await room.turns(2)
        queued = sum(one[1] for one in reader.connection.outbox.queue or ())
        reader.sink.open()
        await room.until(lambda: reader.live)
        left, order = room.left_out(), reader.read().order[3 * queued :]
        assert left["low"] > left["normal"] > left["high"]
        assert order.index("high:a") < order.index("normal:a") < order.index("low:a")

    run(test, *[loose(name, "drop_oldest", priority=name) for name in ("high", "low", "normal")])


def test_in_one_turn_the_higher_are_sent_first() -> None:
    """Whatever was published first: what the socket has room for is theirs."""

    async def test(room: Room) -> None:
        reader = Reader(room, "low:a", "high:a")
        await room.turns()
        room.publish("low:a")
        room.publish("high:a")
        await room.turns()
        assert reader.read().order == ["high:a", "low:a"]

    run(test, stored("high", priority="high"), stored("low", priority="low"))


def test_a_page_that_is_full_leaves_what_is_worth_less_for_the_next() -> None:
    """Of a stream: so that a page is bounded, whatever its channels keep."""

    async def test(room: Room) -> None:
        reader = await stalled(room, "high:a", "low:a", stream=True)
        for _ in range(300):
            room.publish("high:a")
            room.publish("low:a")
            await room.turns(1)
        assert reader.behind()
        reader.read()
        reader.sink.sticky = True
        pages: list[set[str]] = []
        while not reader.live or reader.connection.outbox.queue:
            reader.order = []
            reader.sink.open()
            await room.turns(3)
            pages.append(set(reader.read().order))
        assert [page for page in pages if "low:a" in page] == [pages[0], pages[-1]], "what was queued, and at the end"
        assert len(pages) > 3

    run(test, stored("high", priority="high"), loose("low", "drop_oldest", priority="low"))


def test_nothing_is_queued_below_one_that_is_behind() -> None:
    """Even where there would be room: it would stand in the way of what is worth more."""

    async def test(room: Room) -> None:
        reader = await stalled(room, "low:a", "price:a")
        room.publish("price:a")
        await room.turns()
        waiting = reader.connection.outbox.size
        room.publish("low:a")
        await room.turns()
        assert (reader.behind(), reader.connection.outbox.size) == ({"price:a", "low:a"}, waiting)
        reader.sink.open()
        await room.until(lambda: reader.live)
        assert reader.read().order == ["price:a", "low:a"]

    run(test, stored("low", priority="low"), loose("price", "conflate"))


# Pacing


def test_a_slow_reader_is_flushed_at_growing_intervals_and_then_as_things_come() -> None:
    """Each flush is what is newest then; when the reader is well again, it is given everything as it comes."""

    async def test(room: Room) -> None:
        reader = Reader(room, "price:a")
        await room.turns()
        (subscription,) = reader.connection.subscriptions.values()
        reader.stall()
        reader.sink.sticky = True
        for step in range(1, 4):
            room.publish("price:a", 10)
            await room.turns()
            await asyncio.sleep(0.25)  # longer than every interval: it is time that is judged here
            reader.sink.open()
            while room.hub.paces[subscription].step != step or reader.connection.outbox.queue is None:
                await asyncio.sleep(0.002)
        assert room.hub.tally.paces == {("price", "normal", "up"): 3}
        reader.sink.sticky = False
        reader.sink.open()
        await room.until(lambda: reader.live)
        assert room.hub.tally.paces["price", "normal", "down"] == 3 and not room.hub.paces
        assert reader.read().got["price:a"][-1] == 29
        room.publish("price:a", 3)
        await room.turns()
        assert reader.read().got["price:a"][-3:] == [30, 31, 32]

    run(test, loose("price", "conflate"))


def test_a_block_that_is_over_at_once_is_no_reason_for_a_pace() -> None:
    """As those of TLS, whose sink takes nothing while a write is under way."""

    async def test(room: Room) -> None:
        reader = Reader(room, "price:a")
        await room.turns()
        for number in range(50):
            reader.sink.full = True
            room.publish("price:a")
            await room.turns(2)
            reader.sink.open()
            await room.turns(3)
            assert reader.live and reader.read().got["price:a"][-1] == number
        assert room.hub.tally.paces == {}

    run(test, loose("price", "conflate"), pacing=Pacing(first=5.0, factor=2.0, max=5.0))


def test_whoever_leaves_while_behind_leaves_nothing() -> None:
    """By an unsubscribe, or with its connection; what it lacks was not left out by any policy."""

    async def test(room: Room) -> None:
        one, other = Reader(room, "price:a"), Reader(room, "price:a")
        await room.turns()
        for reader in (one, other):
            reader.stall()
        room.publish("price:a", 9)
        await room.turns()
        assert len(room.hub.paces) == room.hub.behind() == 2
        one.connection.message(b'{"id":9,"unsubscribe":{"channel":"price:a"}}')
        other.connection.broken()
        assert not room.hub.paces and not room.hub.behind()
        assert not room.hub.tally.conflations

    run(test, loose("price", "conflate"))


# Where positions and turns meet


def test_who_joins_is_owed_nothing_from_before() -> None:
    """Not even what came while another of its channels was being opened."""

    async def test(room: Room) -> None:
        Reader(room, "oldest:a")
        await room.turns()
        sink = Sticky(Calm())
        late = UniConnection(room.hub, sink)
        late.begin(Connect(subs={"oldest:a": Subscribe(), "oldest:b": Subscribe()}))
        for _ in range(3):
            await asyncio.sleep(0)  # its second channel waits for the store
        room.publish("oldest:a", 50)
        await room.turns()
        room.publish("oldest:a")
        await room.turns()
        numbers = [message["pub"]["data"]["n"] for message in sink.messages() if "pub" in message]
        assert numbers == [50] and not room.left_out()

    run(test, loose("oldest", "drop_oldest"))


def test_what_a_slice_has_not_reached_is_kept() -> None:
    """A member that falls behind at the end of a long flush begins before the turn that is going out."""

    async def test(room: Room) -> None:
        healthy = [Reader(room, "price:a") for _ in range(3)]
        slow = Reader(room, "price:a")
        await room.turns()
        slow.stall()
        room.publish("price:a", key="first")
        room.hub._flush()
        await asyncio.sleep(0)
        assert healthy[0].read().got and not healthy[2].read().got, "it goes out in slices"
        room.publish("price:a", 70, key="other")
        await room.turns()
        slow.sink.open()
        await room.until(lambda: slow.live)
        assert slow.read().got["price:a"] == [0, 70]

    with patch.multiple(flush, CHUNK=1, SLICE=-1.0):
        run(test, loose("price", "conflate", conflate_key="k"))


def test_one_that_stands_inside_a_turn_stays_where_it_is() -> None:
    """It has come from another feed, whose turns were ahead: it is neither moved back nor counted."""

    async def test(room: Room) -> None:
        Reader(room, "oldest:a")
        await room.turns()
        (feed,) = room.hub.feeds.values()
        room.publish("oldest:a", 5)
        assert (feed.base, feed.standing()) == ([("", 0)], [("", 5)])
        assert reach(feed, [Position("", 3)], {}, None) == [Leg(Position("", 3))]
        await room.turns()
        legs = reach(feed, [Position("", 3)], {}, None)
        assert isinstance(legs, list)
        (leg,) = legs
        assert (leg.position, len(leg.publications), leg.dropped) == (("", 5), 2, 0)

    run(test, loose("oldest", "drop_oldest"))


def test_what_is_kept_nowhere_is_missed_by_who_is_behind() -> None:
    """A publication without history on a channel with it. What a spare keeps is not missed."""

    async def test(room: Room) -> None:
        reader = await stalled(room, "whole:a", "oldest:a", stream=True)
        for _ in range(60):
            room.publish("whole:a")
            await room.turns(2)
        assert reader.behind()
        room.hub.broadcast("whole:a", Publication(b'{"data":{"n":-1}}', time=1))
        room.publish("oldest:a", 3)
        await room.turns()
        assert room.hub.tally.drops["volatile"] == 1
        reader.sink.open()
        await room.until(lambda: reader.live)
        assert reader.read().got == {"whole:a": list(range(60)), "oldest:a": [0, 1, 2]}

    run(test, stored("whole"), loose("oldest", "drop_oldest"))


def test_a_pace_goes_along_to_another_feed() -> None:
    """Whoever is slow is slow with one channel more."""

    async def test(room: Room) -> None:
        reader = await stalled(room, "price:a", stream=True)
        room.publish("price:a", 3)
        await room.turns()
        (pace,) = room.hub.paces.values()
        assert reader.connection.subscribe_by_server("price:b", Terms(), None) is not None
        await room.turns()
        (subscription,) = reader.connection.subscriptions.values()
        assert subscription.feed.key == ("price:a", "price:b") and room.hub.paces == {subscription: pace}
        reader.sink.open()
        await room.until(lambda: reader.live)
        assert reader.read().got == {"price:a": [2]}

    run(test, loose("price", "conflate"))


def test_who_enters_while_a_conflated_batch_waits_lacks_nothing_of_it() -> None:
    """Where somebody has had a part of the turn already, it is not made smaller."""

    async def test(room: Room) -> None:
        first = Reader(room, "price:a", "price:b", stream=True)
        second = Reader(room, "price:a", stream=True)
        for reader, other in ((first, "price:c"), (second, "price:b")):
            await room.turns()
            reader.connection.subscribe_by_server(other, Terms(), None)
        await room.turns()
        room.publish("price:a", 5)
        second.connection.subscribe_by_server("price:c", Terms(), None)
        await room.turns()
        room.publish("price:a", 196, size=30)  # the last of which makes the turn half full
        await room.turns()
        await room.until(lambda: all(200 in reader.read().got["price:a"] for reader in (first, second)))

    run(test, loose("price", "conflate", batch=0.05))


# Reloads and turns that are too large


def test_after_a_reload_the_new_policy_is_what_counts() -> None:
    """Who was behind is given what the new one keeps; what the old one kept is counted."""

    async def test(room: Room) -> None:
        reader = await stalled(room, "any:a")
        room.publish("any:a", 10)
        await room.turns()
        room.reload(loose("any", "drop_oldest"))
        room.publish("any:a", 3)
        await room.turns()
        reader.sink.open()
        await room.until(lambda: reader.live)
        assert reader.read().got["any:a"] == [10, 11, 12]
        assert room.left_out() == {"any": 10}

    run(test, loose("any", "conflate"))


def test_a_reload_of_bounds_keeps_what_is_kept() -> None:
    """As far as it fits from then on."""

    async def test(room: Room) -> None:
        reader = await stalled(room, "any:a")
        for key in "abcd":
            room.publish("any:a", key=key)
        await room.turns()
        room.reload(
            loose("any", "conflate", conflate_key="k"), subscription=PerSubscription(max_bytes=2000, max_messages=2)
        )
        room.publish("any:a", key="e")
        await room.turns()
        reader.sink.open()
        await room.until(lambda: reader.live)
        assert reader.read().got["any:a"] == [3, 4]
        assert dict(room.hub.tally.sheds) == {("any", "normal", "keys"): 2}, "no more than keys are remembered"
        assert room.hub.tally.conflations == {("any", "normal"): 1}

    run(test, loose("any", "conflate", conflate_key="k"))


def test_a_policy_that_is_no_more_leaves_what_it_left() -> None:
    """With disconnect nobody is behind; who was is live again, and what it lacks is counted as the reload's."""

    async def test(room: Room) -> None:
        reader = await stalled(room, "any:a")
        room.publish("any:a", 5)
        await room.turns()
        room.reload(loose("any", "disconnect"))
        reader.sink.open()
        await room.until(lambda: reader.live)
        room.publish("any:a")
        await room.turns()
        assert reader.read().got["any:a"] == [5]
        assert dict(room.hub.tally.sheds) == {("any", "normal", "reload"): 5}

    run(test, loose("any", "conflate"))


@pytest.mark.parametrize(("before", "after"), [("drop_oldest", "conflate"), ("conflate", "drop_newest")])
def test_what_the_old_policy_kept_is_counted_as_the_reloads(before: str, after: str) -> None:
    """Not as if there had been something newer, or no room for it."""

    async def test(room: Room) -> None:
        reader = await stalled(room, "any:a")
        for _ in range(60):
            room.publish("any:a")
            await room.turns(1)
        room.reload(loose("any", after))
        room.publish("any:a", 3)
        await room.turns()
        reader.sink.open()
        await room.until(lambda: reader.live)
        lost = 60 - sum(number < 60 for number in reader.read().got["any:a"])
        assert lost and room.hub.tally.sheds["any", "normal", "reload"] == lost
        assert room.hub.tally.conflations["any", "normal"] == (2 if after == "conflate" else 0)

    run(test, loose("any", before))


@pytest.mark.parametrize(("slow", "least"), [("drop_oldest", 15), ("conflate", 1), ("drop_newest", 150)])
def test_a_turn_that_is_too_large_is_given_by_the_policy(slow: str, least: int) -> None:
    """Also to those who are well: more in one turn of the loop than an outbox may hold."""

    async def test(room: Room) -> None:
        reader = Reader(room, "any:a")
        await room.turns()
        room.publish("any:a", 250)
        await room.until(lambda: reader.read().got and reader.live)
        got = reader.got["any:a"]
        first = 0 if slow == "drop_newest" else 250 - len(got)
        assert got == list(range(first, first + len(got))) and len(got) >= least
        left = sum(room.left_out().values()) + sum(room.hub.tally.conflations.values())
        assert left == 250 - len(got)

    run(test, loose("any", slow))


@pytest.mark.parametrize("slow", ["disconnect", "drop_newest", "drop_oldest", "conflate"])
def test_one_publication_that_is_too_large_does_not_end_the_channel(slow: str) -> None:
    """Larger than an outbox may be; those after it come as ever."""

    async def test(room: Room) -> None:
        reader = Reader(room, "any:a")
        await room.turns()
        room.publish("any:a", size=25000)
        await room.turns()
        room.publish("any:a", 1)
        await room.turns()
        room.publish("any:a", 1)
        await room.turns()
        assert reader.live and reader.read().got["any:a"][-2:] == [1, 2]

    run(test, loose("any", slow))


@pytest.mark.parametrize("counts", [[25000], [100] * 250])
def test_history_gives_what_does_not_fit_into_a_turn(counts: list[int]) -> None:
    """Also with ``disconnect``: who recovers may not have a hole."""

    async def test(room: Room) -> None:
        reader = Reader(room, "chat:a")
        await room.turns()
        for size in counts:
            room.publish("chat:a", size=size)
        await room.turns()
        room.publish("chat:a")
        await room.until(lambda: reader.read().got["chat:a"][-1:] == [len(counts)])
        assert reader.got["chat:a"] == list(range(len(counts) + 1))

    run(test, stored("chat", slow="disconnect", force_recovery=True))


def test_a_stream_with_a_strict_channel_comes_back_when_a_turn_is_too_large() -> None:
    """It can neither catch up nor be told of a hole: it is closed, and its cursor is where it stood."""

    async def test(room: Room) -> None:
        reader = Reader(room, "chat:a", "strict:a", stream=True)
        await room.turns()
        room.publish("chat:a", 250)
        await room.turns()
        assert not reader.read().got and reader.connection.closed

    run(test, stored("chat"), loose("strict", "disconnect"))


def test_what_is_conflated_is_looked_at_a_few_times_at_most() -> None:
    """With so many keys that a batch stays nearly half full, it is not gone through again for each publication."""

    async def test(room: Room) -> None:
        reader = Reader(room, "price:a")
        await room.turns()
        looked: list[bytes] = []

        def counted(body: bytes, tag: str) -> str:
            looked.append(body)
            return tag_of(body, tag)

        with patch.object(spare, "tag_of", counted):
            for _ in range(10):
                for key in range(190):
                    room.publish("price:a", key=f"k{key}", size=30)
        assert len(looked) < 10 * 190 * 4
        await room.until(lambda: reader.read().got["price:a"][-1:] == [1899])
        assert set(range(1900 - 190, 1900)) <= set(reader.got["price:a"])

    run(test, loose("price", "conflate", conflate_key="k", batch=0.05))


def test_a_policy_without_a_pace_waits_for_none() -> None:
    """Who was flushed at intervals is live at once when nothing is kept for it any more."""

    async def test(room: Room) -> None:
        reader = await stalled(room, "any:a")
        for _ in range(60):
            room.publish("any:a")
            await room.turns(1)
        await asyncio.sleep(0.1)  # longer than the first interval
        reader.sink.open()
        await room.turns()
        assert not reader.live and [pace.step for pace in room.hub.paces.values()] == [1]
        room.reload(loose("any", "disconnect"))
        await room.turns()
        room.publish("any:a", 3)
        await room.turns()
        assert reader.live and not room.hub.paces
        assert reader.read().got["any:a"][-3:] == [60, 61, 62]

    run(test, loose("any", "drop_oldest"), pacing=Pacing(first=0.05, factor=10.0, max=60.0))


def test_without_priorities_nobody_waits_for_another() -> None:
    """A reload that takes away the priorities lets those go on who waited for a higher one."""

    async def test(room: Room) -> None:
        reader = await stalled(room, "high:a", "low:a")
        for _ in range(200):
            room.publish("high:a")
            room.publish("low:a")
            await room.turns(1)
        assert reader.behind() == {"high:a", "low:a"}
        for channel in room.hub.channels.values():
            channel.recent.clear()  # so that it has to be read
        reader.sink.open()
        await asyncio.sleep(0)
        states = [one.fetching for one in reader.connection.subscriptions.values()]
        assert states == [True, False]
        room.reload(stored("high"), stored("low"))
        await room.until(lambda: reader.live)

    run(test, stored("high", priority="high"), stored("low", priority="low"))


def test_one_alarm_is_enough_for_one_who_waits() -> None:
    """However often its connection is blocked and free again meanwhile, as over TLS."""

    async def test(room: Room) -> None:
        reader = Reader(room, "chat:a")
        await room.turns()
        for _ in range(2):
            reader.stall()
            for _ in range(60):
                room.publish("chat:a")
                await room.turns(1)
            assert reader.behind()
            reader.sink.open()
            await room.turns()
        assert reader.behind(), "it fell twice, and is paced"
        before = room.hub.wheel.count
        for _ in range(50):
            reader.stall()
            reader.sink.open()
        await room.turns()
        assert room.hub.wheel.count - before <= 51, "one for each block, which is cancelled"

    run(test, stored("chat"), pacing=Pacing(first=5.0, factor=2.0, max=60.0))


# Batches


def frames(reader: Reader) -> int:
    """How many text frames have come."""
    return reader.sink.taken.count(b"\x81")


def test_a_batch_goes_out_as_one_frame_at_the_end_of_its_interval() -> None:
    """The same bytes for all, and nothing before."""

    async def test(room: Room) -> None:
        readers = [Reader(room, "log:a") for _ in range(2)]
        await room.turns()
        for reader in readers:
            reader.read()
        for _ in range(5):
            room.publish("log:a")
            await room.turns(3)
        assert not readers[0].sink.taken
        await room.until(lambda: readers[0].sink.taken)
        assert frames(readers[0]) == 1 and readers[0].sink.taken == readers[1].sink.taken
        assert readers[0].read().got["log:a"] == [0, 1, 2, 3, 4]
        assert room.hub.tally.batches == {("log", "normal"): 1}

    run(test, stored("log", batch=0.05))


def test_what_does_not_wait_takes_the_batch_along() -> None:
    """The order of a stream stays that of taking."""

    async def test(room: Room) -> None:
        reader = Reader(room, "log:a", "chat:a", stream=True)
        await room.turns()
        room.publish("log:a")
        await room.turns()
        assert not reader.read().order
        room.publish("chat:a")
        await room.turns()
        assert reader.read().order == ["log:a", "chat:a"]

    run(test, stored("log", batch=5.0), stored("chat"))


def test_a_batch_that_is_half_full_goes_out_early() -> None:
    """It does not wait until it is too large."""

    async def test(room: Room) -> None:
        reader = Reader(room, "log:a")
        await room.turns()
        room.publish("log:a", 120)
        await room.turns()
        assert reader.read().got["log:a"] == list(range(120))
        assert reader.live and not room.hub.tally.falls

    run(test, stored("log", batch=5.0))


def test_of_a_batch_that_is_conflated_only_the_newest_of_each_key_go_out() -> None:
    """However many came: they make it no larger."""

    async def test(room: Room) -> None:
        reader = Reader(room, "price:a")
        await room.turns()
        for _ in range(500):
            for key in "ab":
                room.publish("price:a", key=key)
        await room.turns()
        assert not reader.read().got
        await room.until(lambda: reader.read().got)
        assert reader.got["price:a"] == [998, 999]
        assert room.hub.tally.conflations == {("price", "normal"): 998}

    run(test, loose("price", "conflate", conflate_key="k", batch=0.05))


def test_who_comes_while_a_batch_waits_gets_it_or_begins_behind_it() -> None:
    """Never a part of it, never twice; with positions and without."""

    async def test(room: Room) -> None:
        first = Reader(room, "log:a", "any:a")
        await room.turns()
        room.publish("log:a", 3)
        room.publish("any:a", 3)
        await room.turns()
        second = Reader(room, "log:a", "any:a")
        await room.turns()
        room.publish("log:a")
        room.publish("any:a")
        await room.until(lambda: len(first.read().got["log:a"]) == 4 and len(first.got["any:a"]) == 4)
        await room.turns()
        for name in ("log:a", "any:a"):
            assert second.read().got[name] in ([0, 1, 2, 3], [3])

    run(test, stored("log", batch=0.05), loose("any", "drop_oldest", batch=0.05))


def test_a_batch_goes_out_for_one_who_has_seen_more_of_it() -> None:
    """It has read elsewhere what waits here, and would be behind, so long; it is given none of it again."""

    async def test(room: Room) -> None:
        first = Reader(room, "log:a")
        await room.turns()
        room.publish("log:a", 3)
        ahead = Reader(room)
        place = {"recover": True, "epoch": room.store.streams["log:a"].epoch, "offset": 2}
        command = {"id": 2, "subscribe": {"channel": "log:a", **place}}
        ahead.connection.message(json.dumps(command).encode())
        (subscription,) = ahead.connection.subscriptions.values()
        assert ahead.behind() and room.hub.now() - subscription.fell_at < 5, "since it came"
        await room.turns()
        assert ahead.live and ahead.read().got["log:a"] == [2] and first.read().got["log:a"] == [0, 1, 2]
        room.publish("log:a")
        await room.turns()
        assert not room.hub.tally.batches and len(ahead.read().got["log:a"]) == 1, "the next one waits"

    run(test, stored("log", batch=5.0, allow_recovery=True))


def test_at_the_stop_a_batch_still_goes_out() -> None:
    """What was accepted is not dropped for having waited."""

    async def test(room: Room) -> None:
        reader = Reader(room, "log:a")
        await room.turns()
        room.publish("log:a", 3)
        await room.hub.stop()
        assert reader.read().got["log:a"] == [0, 1, 2]

    run(test, loose("log", "disconnect", batch=5.0))


def test_at_the_stop_all_are_given_a_batch_before_any_is_closed() -> None:
    """Also where so many are on a channel that it goes out in slices."""

    async def test(room: Room) -> None:
        readers = [Reader(room, "log:a") for _ in range(20)]
        await room.turns()
        room.publish("log:a", 3)
        with patch.multiple(flush, CHUNK=1, SLICE=-1.0):
            await room.hub.stop()
        assert all(reader.read().got["log:a"] == [0, 1, 2] for reader in readers)

    run(test, loose("log", "disconnect", batch=5.0))


@pytest.mark.parametrize("stalled", [False, True])
def test_what_a_batch_leaves_out_is_counted_once_per_reader(stalled: bool) -> None:
    """Also for one that cannot be given the batch, and gets the newest when it reads again."""

    async def test(room: Room) -> None:
        readers = [Reader(room, "price:a") for _ in range(2)]
        await room.turns()
        if stalled:
            readers[0].stall()
        room.publish("price:a", 250)
        await room.until(lambda: readers[1].read().got)
        readers[0].sink.open()
        await room.until(lambda: readers[0].live)
        assert [reader.read().got["price:a"] for reader in readers] == [[249], [249]]
        assert room.hub.tally.conflations == {("price", "normal"): 2 * 249}

    run(test, loose("price", "conflate", batch=0.05))


def test_ordinary_subscriptions_have_nothing_of_all_this() -> None:
    """Neither a spare, nor a pace, nor an interval, nor a look at priorities."""

    async def test(room: Room) -> None:
        reader = await stalled(room, "chat:a", "strict:a")
        room.publish("chat:a", 60)
        await room.turns()
        assert reader.behind() == {"chat:a"}
        hub: Hub = room.hub
        assert not hub.paces and not hub.ranked
        assert all(channel.spare is None for channel in hub.channels.values())
        assert all(feed.manner.batches is None for feed in hub.feeds.values())
        assert hub.channels["strict:a"].position == ("", 0)

    run(test, stored("chat"), loose("strict", "disconnect"))


def test_a_calm_reader_is_let_go_after_some_flushes() -> None:
    """The number is part of the page about guardrails."""
    assert CALM == 4
