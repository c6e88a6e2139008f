"""Who comes back from another worker may have seen more than this one: only the store can say who is right."""

from __future__ import annotations

import asyncio

import pytest

from rt.protocol.publication import Page, Position
from tests.delivery.test_channel import CHANNEL, Calm, finish, make_hub, turns
from tests.delivery.test_walks import FakeStore, SdkReader


class SlowStore(FakeStore):
    """It reads at once, but what it read takes its time on the way."""

    def history(self, channel: str, *, since: Position, limit: int, meta_ttl: float) -> asyncio.Future[Page]:
        page = self.streams[channel].page(since, limit)
        return self._later(lambda: page)


def comes_back(offset: int, *, reading: bool) -> tuple[Position, Position]:
    """Where a reader who comes with ``offset`` ends, and where the channel does. The stream has four, of which the
    worker has heard three; ``reading``: a read that was begun before the fourth is still under way."""

    async def run() -> tuple[Position, Position]:
        store = SlowStore(Calm())
        hub = make_hub(store)
        for _ in range(3):
            store.streams[CHANNEL].append(10)
        await turns(store, SdkReader(hub, Calm(), {}))
        channel = hub.channels[CHANNEL]
        if reading:
            channel.read(channel.position.offset)
        store.streams[CHANNEL].append(10)
        reader = SdkReader(hub, Calm(), {CHANNEL: Position("e0", offset)})
        await turns(store, reader)
        await finish(hub)
        return reader.places[CHANNEL], channel.position

    return asyncio.run(run())


@pytest.mark.parametrize("reading", [False, True], ids=["nothing under way", "an older read under way"])
@pytest.mark.parametrize("offset", [4, 9], ids=["true", "invented"])
def test_who_has_seen_more_than_its_worker(offset: int, reading: bool) -> None:
    """A true position is recovered, and the worker learns what it had not heard; an invented one is a gap to the top.

    A read that others had begun may be older than what this reader has seen, and decides nothing.
    """
    top = Position("e0", 4)
    assert comes_back(offset, reading=reading) == (top, top)
