"""The sink over TLS: who is busy is not read, whoever has room to write meanwhile."""

from __future__ import annotations

import asyncio
from typing import Any

from rt.web.sink import Stream
from tests.delivery.hubs import run


class Peer:
    """A stream of Tornado's, of whose reads the test decides when they end."""

    def __init__(self) -> None:
        self.reads: list[asyncio.Future[bytes]] = []

    def closed(self) -> bool:
        """It is not."""
        return False

    def read_bytes(self, size: int, *, partial: bool) -> asyncio.Future[bytes]:
        """Ends when the test says so."""
        self.reads.append(asyncio.get_running_loop().create_future())
        return self.reads[-1]


class Holder:
    """Takes one read, and is busy with it."""

    def __init__(self) -> None:
        self.got: list[bytes] = []
        self.busy = False

    def received(self, data: bytes) -> None:
        """One more."""
        self.got.append(data)
        self.busy = True

    def lost(self) -> None:
        """Nothing."""


def test_who_is_busy_is_not_read_when_the_outbox_drains() -> None:
    """Each drain would bring it one more read to hold: with a busy channel as much as the peer likes to send."""

    async def test() -> None:
        peer, holder = Peer(), Holder()
        fake: Any = peer
        stream = Stream(fake)
        stream.start(holder)
        peer.reads[0].set_result(b"first")
        await asyncio.sleep(0)
        for _ in range(3):
            stream.resume()  # as when everything that waited is out
        assert len(peer.reads) == 1 and holder.got == [b"first"]
        holder.busy = False
        stream.resume()
        assert len(peer.reads) == 2
        peer.reads[1].set_result(b"second")
        await asyncio.sleep(0)
        assert holder.got == [b"first", b"second"] and len(peer.reads) == 2

    run(test)


def test_a_read_that_is_under_way_is_not_followed_by_another() -> None:
    """It cannot be taken back; what it brings is the last for one who became busy meanwhile."""

    async def test() -> None:
        peer, holder = Peer(), Holder()
        fake: Any = peer
        stream = Stream(fake)
        stream.start(holder)
        holder.busy = True
        stream.pause()
        stream.resume()
        peer.reads[0].set_result(b"first")
        await asyncio.sleep(0)
        assert holder.got == [b"first"] and len(peer.reads) == 1

    run(test)
