"""The outbox over a sink that takes as many bytes as a test says: everything comes out whole, once and in order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from rt.config import Config
from rt.delivery.connection import Connection
from rt.delivery.hub import Hub
from rt.delivery.subscription import Subscription
from rt.metrics import Metrics
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


@settings(deadline=None, max_examples=100)
@given(st.lists(frames | st.integers(0, 12), max_size=30), st.booleans(), frames)
def test_what_is_written_comes_out_in_order(steps: list[bytes | int], ends: bool, last: bytes) -> None:
    """An end keeps what is half sent, drops the rest, and sends the last words; a number of room drains."""

    async def run() -> None:
        hub = Hub(Config(), FakeBroker(), Metrics(), node="n")  # type: ignore[arg-type]
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
        before = len(sink.taken)
        if ends:
            outbox.end(last)
        sink.room = 10_000
        outbox.drain()
        assert (outbox.size, outbox.count, outbox.queue, sink.watched) == (0, 0, None, False)
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
