"""Leaving in batches: when who is told to go, what the others get meanwhile, and the last words of an event stream."""

from __future__ import annotations

import asyncio
import json
from unittest.mock import patch

import pytest

from rt.delivery import flush
from rt.delivery.admission import Request
from rt.delivery.drain import Pace, drain
from rt.delivery.hub import Hub
from rt.delivery.plain import RETRY
from rt.protocol.commands import Connect, Subscribe
from rt.protocol.wires import SSE, UNI_SSE, EventWire
from tests.delivery.test_stream import events, opened, sink, turns, walk
from tests.delivery.test_walks import ALL, FakeStore
from tests.eventsource import Parser

NAME = ALL[0]
ASKED = {SSE: Request((NAME,)), UNI_SSE: Request((), connect=Connect(subs={NAME: Subscribe(channel=NAME)}))}
ALL_AT_ONCE = Pace(0.0, 1000)


def publish(hub: Hub, store: FakeStore) -> None:
    """One more publication, on a bus that loses nothing."""
    hub.broadcast(NAME, store.streams[NAME].append(1))


@pytest.mark.parametrize(
    ("count", "interval"), [(0, 0.0), (1, 0.0), (100, 0.0), (101, 10.0), (500, 2.5), (100_100, 0.01)]
)
def test_batches_are_spread_evenly(count: int, interval: float) -> None:
    """Who is one batch goes at once; of more, the last goes when the time is over."""
    assert Pace(10.0, 100).interval(count) == pytest.approx(interval)


def test_who_is_not_told_yet_is_served() -> None:
    """Six streams in batches of two: those whose turn it is not get what is published, in order, and then go."""

    async def test(hub: Hub, store: FakeStore) -> None:
        streams = [opened(hub, SSE, ASKED[SSE]) for _ in range(6)]
        await turns(store)
        began = hub.now()
        task = asyncio.create_task(drain([hub], Pace(0.2, 2)))
        await turns(store)
        assert [stream.closed for stream in streams].count(True) == 2
        publish(hub, store)
        await turns(store)
        got = [sum(event.kind == "message" for event in events(stream)) for stream in streams]
        assert sorted(got) == [0, 0, 1, 1, 1, 1]
        await task
        assert all(stream.closed for stream in streams)
        assert hub.now() - began >= 0.2

    walk(test)


def test_who_leaves_by_itself_takes_no_place() -> None:
    """Nobody waits for the turns of those who have gone meanwhile."""

    async def test(hub: Hub, store: FakeStore) -> None:
        streams = [opened(hub, SSE, ASKED[SSE]) for _ in range(8)]
        await turns(store)
        task = asyncio.create_task(drain([hub], Pace(0.1, 2)))
        await turns(store)
        for stream in streams:
            stream.broken()
        await task
        assert not hub.connections

    walk(test)


@pytest.mark.parametrize("wire", [SSE, UNI_SSE], ids=["sse", "uni_sse"])
def test_the_last_event_has_the_cursor(wire: EventWire) -> None:
    """With the delay after which to come back, which differs from stream to stream."""

    async def test(hub: Hub, store: FakeStore) -> None:
        streams = [opened(hub, wire, ASKED[wire]) for _ in range(20)]
        await turns(store)
        publish(hub, store)
        await turns(store)
        await drain([hub], ALL_AT_ONCE)
        delays = set()
        for stream in streams:
            parser = Parser()
            *_, before, last = parser.feed(bytes(sink(stream).taken))
            said = json.loads(last.data)
            assert said.get("disconnect", said) == {"code": 3001, "reason": "shutdown"}
            assert last.id == before.id != ""
            assert parser.retry is not None and RETRY // 2 <= parser.retry <= 2 * RETRY
            delays.add(parser.retry)
        assert len(delays) > 5

    walk(test)


def test_no_cursor_beyond_what_was_taken() -> None:
    """One whose socket is full keeps the cursor of what it got: what waits for it is thrown away, and comes again."""

    async def test(hub: Hub, store: FakeStore) -> None:
        stream = opened(hub, SSE, ASKED[SSE])
        await turns(store)
        publish(hub, store)
        await turns(store)
        (first,) = [event.id for event in events(stream) if event.kind == "message"]
        sink(stream).full = True
        publish(hub, store)
        await turns(store)
        assert stream.outbox.queue
        await drain([hub], ALL_AT_ONCE)
        sink(stream).open()
        (last,) = Parser().feed(b"id: %s\n" % first.encode() + bytes(sink(stream).taken))
        assert (last.kind, last.id) == ("disconnect", first)

    walk(test)


def test_no_cursor_in_the_middle_of_a_flush() -> None:
    """While a turn goes out in slices, nobody can say who has had it."""

    async def test(hub: Hub, store: FakeStore) -> None:
        streams = [opened(hub, SSE, ASKED[SSE]) for _ in range(4)]
        await turns(store)
        with patch.object(flush, "CHUNK", 1), patch.object(flush, "SLICE", -1.0):
            publish(hub, store)
            feed = next(iter(hub.feeds.values()))
            feed.flush()
            places = [feed.place(stream.subscriptions[""]) for stream in streams]
            assert places == [None] * 4
            await turns(store)
            assert all(feed.place(stream.subscriptions[""]) == feed.standing() for stream in streams)

    walk(test)
