"""The outbox over a sink that takes as many bytes as a test says: everything comes out whole, once and in order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rt.config import Config, Delivery, Namespace
from rt.delivery.connection import Connection
from rt.delivery.hub import Hub
from rt.delivery.subscription import State, Subscription
from rt.delivery.wheel import Wheel
from rt.errors import SHUTDOWN, Unsubscribe
from rt.metrics import Metrics
from rt.protocol.options import Terms
from rt.protocol.publication import Position
from rt.protocol.wires import SOCKET
from tests.callers import FakeBroker

frames = st.binary(min_size=1, max_size=9)


class FakeSink:
    """Takes ``room`` bytes, then blocks."""

    def __init__(self) -> None:
        self.send: Callable[[bytes], int] = self.take
        self.taken = bytearray()
        self.room = 0
        self.watched = self.ended = self.closed = False

    def take(self, data: bytes) -> int:
        """As ``socket.send``."""
        assert not self.ended and not self.closed
        if not self.room:
            raise BlockingIOError
        sent = min(self.room, len(data))
        self.taken += data[:sent]
        self.room -= sent
        return sent

    def watch(self, drain: Callable[[], None]) -> None:
        """Begin to watch."""
        assert not self.watched
        self.watched = True

    def unwatch(self) -> None:
        """Watch no more."""
        self.watched = False

    def pause(self) -> None:
        """Nothing is read here."""

    def resume(self) -> None:
        """Nothing is read here."""

    def end(self) -> None:
        """Once."""
        assert not self.ended
        self.ended = True

    def close(self) -> None:
        """At once."""
        self.closed = True


class Owner(Connection):
    """A connection without subscriptions."""

    def lost(self, subscription: Subscription) -> None:
        """There are none."""

    def subscribe_by_server(self, name: str, terms: Terms, since: Position | None) -> None:
        """Nobody does."""

    def unsubscribe_by_server(self, name: str, reason: Unsubscribe) -> None:
        """Nobody does."""


def a_hub(config: Config) -> Hub:
    """A hub without a store."""
    return Hub(config, FakeBroker(), Metrics().of("default"), node="n", wheel=Wheel(0.005))  # type: ignore[arg-type]


@settings(deadline=None, max_examples=100)
@given(st.lists(frames | st.integers(0, 12), max_size=30), st.booleans(), frames)
def test_what_is_written_comes_out_in_order(steps: list[bytes | int], ends: bool, last: bytes) -> None:
    """An end keeps what is half sent, drops the rest, and sends the last words; a number of room drains."""

    async def run() -> None:
        hub = a_hub(Config())
        sink, written = FakeSink(), list[bytes]()
        outbox = Owner(hub, sink, SOCKET).outbox
        for step in steps:
            if isinstance(step, bytes):
                outbox.write(step)
                written.append(step)
            else:
                sink.room = step
                outbox.drain()
            whole = b"".join(written)
            assert whole.startswith(sink.taken)
            assert outbox.size == len(whole) - len(sink.taken)
            assert sink.watched == (outbox.queue is not None) == bool(outbox.size) == bool(outbox.count)
            assert hub.queues == ({outbox} if sink.watched else set())
        before = len(sink.taken)
        if ends:
            outbox.end(last)
            assert not hub.queues  # it may linger, but it is no connection any more
        sink.room = 10_000
        outbox.drain()
        assert (outbox.size, outbox.count, outbox.queue, sink.watched) == (0, 0, None, False)
        assert not hub.queues
        assert sink.ended == ends
        whole = b"".join(written)
        if not ends:
            assert sink.taken == whole
        else:
            rest = sink.taken[before:].removesuffix(last)
            assert sink.taken.endswith(last) and (whole[before:]).startswith(rest)
            edges = {sum(map(len, written[:at])) for at in range(len(written) + 1)}
            assert before + len(rest) in edges

    asyncio.run(run())


def policy(namespace: Namespace, sizes: list[int], after: float = 0.0) -> tuple[State, dict[str, int], bool]:
    """Offer frames of these sizes to a subscription whose socket is full, and wait ``after`` seconds: its state, why it
    was found slow, and whether it was closed. The watermarks are 100 and 300 bytes; nothing may wait 50 ms."""

    async def run() -> tuple[State, dict[str, int], bool]:
        delivery = Delivery(low_watermark=100, high_watermark=300, stall_timeout=0.05, max_age=10.0)
        hub = a_hub(Config(delivery=delivery))
        hub.wheel.start()
        hub.start()
        owner = Owner(hub, FakeSink(), SOCKET)
        feed = hub.feed(("c",), (namespace,))
        feed.attach()
        subscription = feed.subscribe(owner.outbox, SOCKET, positioned=True)
        owner.subscriptions["c"] = subscription
        owner.outbox.write(b"x")
        feed.settle(subscription, list(feed.base))
        for size in sizes:
            if subscription.state is State.LIVE:
                owner.outbox.offer(b"y" * size, subscription, list(feed.base))
        state = subscription.state
        async with asyncio.timeout(5):
            while after and not owner.closed:
                await asyncio.sleep(0.005)
        hub.wheel.stop()
        return state, {why: count for why, count in hub.tally.slow.items() if count}, owner.closed

    return asyncio.run(run())


STREAM = Namespace(name="s")
STRICT = Namespace(name="d", slow="disconnect")
VOLATILE = Namespace(name="v", history_size=0)


@pytest.mark.parametrize(
    ("namespace", "sizes", "expected"),
    [
        (STREAM, [99], (State.LIVE, {}, False)),
        (STREAM, [99, 1], (State.BEHIND, {"behind": 1}, False)),
        (STRICT, [99, 200], (State.LIVE, {}, False)),
        (STRICT, [99, 201], (State.GONE, {"queue": 1}, True)),
        (VOLATILE, [299], (State.LIVE, {}, False)),
        (VOLATILE, [300], (State.GONE, {"queue": 1}, True)),
    ],
)
def test_what_is_too_much(namespace: Namespace, sizes: list[int], expected: object) -> None:
    """Beyond the low watermark history is the queue; without it, or by policy, the high watermark is the end."""
    assert policy(namespace, sizes) == expected


def test_a_socket_that_takes_nothing_is_closed() -> None:
    """At the stall timeout, for the reason that the metric has."""
    assert policy(STREAM, [10], after=1.0) == (State.LIVE, {"stalled": 1}, True)


def test_a_socket_that_breaks_during_the_last_words_is_let_go() -> None:
    """Its connection is closed already and would not hear of it; the writer must not be called for ever."""

    async def run() -> None:
        hub = a_hub(Config())
        sink = FakeSink()
        owner = Owner(hub, sink, SOCKET)
        sink.room = 1
        owner.outbox.write(b"abc")
        owner.close(SHUTDOWN)

        def broken(data: bytes) -> int:
            raise BrokenPipeError

        owner.outbox.send = broken
        owner.outbox.drain()
        assert sink.closed and owner.outbox.queue is None and owner.outbox.size == 0

    asyncio.run(run())
