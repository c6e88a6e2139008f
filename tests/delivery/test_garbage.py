"""A connection that has ended goes at once: what garbage collection would have to find can wait for hours."""

from __future__ import annotations

import asyncio
import gc
import random
from collections.abc import Callable

import pytest

from rt.delivery.connection import Connection
from rt.delivery.hub import Hub
from rt.delivery.outbox import Outbox
from rt.web.websocket import Reader as Frames
from tests.delivery.test_channel import Calm, finish, make_hub, turns
from tests.delivery.test_walks import EventReader, FakeStore, Reader, SdkReader, StreamReader

COUNT = 10


def enter(make: Callable[[Hub, random.Random], Reader], hub: Hub) -> Reader:
    """A client behind a door that reads frames, as WebSockets have."""
    reader = make(hub, Calm())
    Frames(reader.connection, 1000, text_only=True)
    return reader


def left(make: Callable[[Hub, random.Random], Reader], leave: Callable[[Connection], None]) -> list[object]:
    """What of many connections only the garbage collector finds after they have lived and ended."""

    async def run() -> list[object]:
        store = FakeStore(Calm())
        hub = make_hub(store)
        readers = [enter(make, hub) for _ in range(COUNT)]
        for _ in range(100):
            await turns(store)
            if all(reader.connection.is_live for reader in readers):
                break
        assert all(reader.connection.is_live for reader in readers)
        gc.collect()
        gc.disable()
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            for reader in readers:
                leave(reader.connection)
            readers.clear()
            del reader
            await turns(store)
            gc.collect()
            return [one for one in gc.garbage if isinstance(one, Connection | Outbox | Frames)]
        finally:
            gc.set_debug(0)
            gc.enable()
            gc.garbage.clear()
            await finish(hub)

    return asyncio.run(run())


@pytest.mark.parametrize("leave", [lambda one: one.broken(), lambda one: one.leave(b"")], ids=["broken", "leaves"])
@pytest.mark.parametrize("make", [SdkReader, StreamReader, EventReader])
def test_who_has_ended_is_no_garbage(
    make: Callable[[Hub, random.Random, dict[str, object]], Reader], leave: Callable[[Connection], None]
) -> None:
    """Whatever the door, and whoever ended it."""
    assert left(lambda hub, rng: make(hub, rng, {}), leave) == []
