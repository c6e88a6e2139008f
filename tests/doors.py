"""The three doors behind one way in, for tests of what all of them promise."""

from __future__ import annotations

import ssl
from typing import Any

from tests.checker import Record
from tests.clients import TRIES, PlainSocket, Reader, SdkClient
from tests.eventsource import EventSource
from tests.servers import Server

DOORS = ("sdk", "ws", "sse")


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
    """A reader of ``channels`` through ``door``. It goes on where ``previous`` was, under the same name."""
    options: dict[str, Any] = {
        "name": previous.name if previous else "",
        "records": previous.records if previous else records,
        "trust": trust,
        "receive_buffer": receive_buffer,
    }
    if door == "sdk":
        return await enter_sdk(SdkClient(server, **options), channels, previous)
    if door == "ws":
        assert previous is None or isinstance(previous, PlainSocket | EventSource)
        return await PlainSocket(server, channels, since=previous.cursor if previous else "", **options).__aenter__()
    assert previous is None or isinstance(previous, PlainSocket | EventSource)
    cursor = previous.cursor if previous else ""
    return await EventSource(server, channels, last_event_id=cursor, **options).__aenter__()


async def enter_sdk(client: SdkClient, channels: list[str], previous: Reader | None) -> Reader:
    """Connect and subscribe, as an SDK does."""
    await client.__aenter__()
    for channel in channels:
        await client.subscribe(channel, since=previous.places[channel] if previous else None)
    return client


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
