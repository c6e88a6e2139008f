"""The three doors behind one way in, for tests of what all of them promise."""

from __future__ import annotations

import asyncio
import ssl
import time
from typing import Any

from tests.checker import Record
from tests.clients import TRIES, Ended, PlainSocket, Reader, Refusal, Reply, SdkClient
from tests.eventsource import EventSource
from tests.servers import Server
from tests.waiting import PATIENCE, POLL


async def enter(
    door: str,
    server: Server,
    channels: list[str],
    *,
    previous: Reader | None = None,
    records: list[Record] | None = None,
    trust: ssl.SSLContext | None = None,
    receive_buffer: int | None = None,
) -> Reader:
    """A reader of ``channels`` through ``door``. It goes on where ``previous`` was, under the same name.

    Told to come back later, it does, as every client of that door would: a worker that has just been started may not
    have reached the store yet.
    """
    options: dict[str, Any] = {
        "name": previous.name if previous else "",
        "records": previous.records if previous else records,
        "trust": trust,
        "receive_buffer": receive_buffer,
    }
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return await OPENERS[door](server, channels, previous, options)
        except Refusal as refusal:
            if not may_come_back(refusal) or time.monotonic() > deadline:
                raise
            await asyncio.sleep(POLL)


def may_come_back(refusal: Refusal) -> bool:
    """Whether a client tries again: after a temporary error, a close below 3500, and a stream that ends."""
    if isinstance(refusal, Reply):
        return refusal.temporary
    return refusal.code is None or 3000 <= refusal.code < 3500


async def enter_sdk(server: Server, channels: list[str], previous: Reader | None, options: dict[str, Any]) -> Reader:
    """Connect and subscribe, as an SDK does."""
    client = SdkClient(server, **options)
    await client.__aenter__()
    try:
        for channel in channels:
            await client.subscribe(channel, since=previous.places[channel] if previous else None)
    except Refusal:
        await client.close()
        raise
    return client


async def enter_ws(server: Server, channels: list[str], previous: Reader | None, options: dict[str, Any]) -> Reader:
    """Open a plain WebSocket, with the cursor of ``previous`` in the URL."""
    return await PlainSocket(server, channels, since=cursor_of(previous), **options).__aenter__()


async def enter_sse(server: Server, channels: list[str], previous: Reader | None, options: dict[str, Any]) -> Reader:
    """Open an event stream, with the cursor of ``previous`` as Last-Event-ID."""
    stream = await EventSource(server, channels, last_event_id=cursor_of(previous), **options).__aenter__()
    if not stream.connected:
        await stream.close()
        raise Ended(None)
    return stream


def cursor_of(reader: Reader | None) -> str:
    """Where a reader without an SDK was."""
    if reader is None:
        return ""
    assert isinstance(reader, PlainSocket | EventSource)
    return reader.cursor


OPENERS = {"sdk": enter_sdk, "ws": enter_ws, "sse": enter_sse}
DOORS = tuple(OPENERS)


async def enter_elsewhere(door: str, server: Server, channels: list[str], *, previous: Reader, node: str) -> Reader:
    """The same on any worker but ``node``; the kernel chooses by hash, so we knock until it chose another one."""
    for _ in range(TRIES):
        mark = len(previous.records)
        reader = await enter(door, server, channels, previous=previous)
        if reader.node != node:
            return reader
        await reader.close()
        del previous.records[mark:]
    raise AssertionError(f"no connection to another worker in {TRIES} tries")


def everything(readers: list[Reader], channel: str) -> list[Any]:
    """What one client received on ``channel`` over all its connections, in order."""
    return [payload for reader in readers for payload in reader.data(channel)]
