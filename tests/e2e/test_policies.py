"""Slow readers over real sockets and every door: each policy gives what it owes, and the healthy notice nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from tests import processes
from tests.clients import Api, Reader, UniSocket, plug
from tests.doors import DOORS, enter
from tests.eventsource import Parser, UniStream
from tests.servers import OPEN, STREAM, Server
from tests.waiting import eventually

SMALL = 4096
TEXT = "x" * 2000
COUNT = 250
"""Publications per channel while a reader stands still: half a megabyte, far beyond every buffer on the way."""

VOLATILE = {**OPEN, "history_size": 0, "force_recovery": False}
NAMESPACES = [
    {"name": "whole", **STREAM, **OPEN, "history_size": 20000},
    {"name": "oldest", **VOLATILE, "slow": "drop_oldest"},
    {"name": "newest", **VOLATILE, "slow": "drop_newest"},
    {"name": "price", **VOLATILE, "slow": "conflate", "conflate_key": "symbol"},
    {"name": "state", **STREAM, **OPEN, "force_recovery_mode": "cache", "slow": "conflate"},
    {"name": "logs", **VOLATILE, "slow": "drop_oldest", "priority": "low", "batch": "100ms"},
    {"name": "alert", **STREAM, **OPEN, "history_size": 20000, "priority": "high"},
    {"name": "batched", **STREAM, **OPEN, "batch": "300ms"},
    {"name": "latest", **VOLATILE, "slow": "conflate", "conflate_key": "symbol", "batch": "300ms"},
]
DELIVERY = {
    "low_watermark": "16KiB",
    "high_watermark": "256KiB",
    "send_buffer": "8KiB",
    "stall_timeout": "60s",
    "subscription": {"max_bytes": "32KiB", "max_messages": 100},
    "pacing": {"first": "50ms", "max": "1s"},
}
SYMBOLS = [f"s{number}" for number in range(8)]


@pytest.fixture(scope="module")
def guarded() -> Iterator[Server]:
    """A server with a namespace per policy, whose outboxes are small."""
    with Server({"server": {"workers": 1}, "delivery": DELIVERY, "channel": {"namespaces": NAMESPACES}}) as running:
        yield running


async def flood(api: Api, names: list[str], count: int, start: int = 0, text: str = TEXT) -> None:
    """Publish on all of these channels, in turn; a publication has its number, its symbol and its time."""
    for number in range(start, start + count):
        symbol = SYMBOLS[number % len(SYMBOLS)]
        for name in names:
            data = {"n": number, "at": time.time(), "text": text}
            await api.publish(name, data, tags={"symbol": symbol})


def numbers(reader: Reader, name: str) -> list[int]:
    """The numbers that came, which ascend."""
    found = [data["n"] for data in reader.data(name)]
    assert found == sorted(set(found)), f"{name}: not in order, or twice"
    return found


def is_ordered(got: list[int]) -> bool:
    """Without a hole."""
    return got == list(range(got[0], got[-1] + 1))


@pytest.mark.parametrize("door", DOORS)
def test_what_a_reader_that_stood_still_is_given(guarded: Server, channel: str, door: str) -> None:
    """On one connection with all of them: each by its policy; and who reads all the time gets everything."""
    names = [f"{kind}:{channel}" for kind in ("oldest", "newest", "price", "state", "whole")]
    oldest, newest, price, state, whole = names

    async def run() -> None:
        async with Api(guarded) as api:
            slow = await enter(door, guarded, names, receive_buffer=SMALL)
            healthy = await enter(door, guarded, names)
            slow.pause()
            await flood(api, names, COUNT)
            for name in names:
                await eventually(lambda name=name: len(healthy.data(name)) == COUNT)  # type: ignore[misc]
                assert numbers(healthy, name) == list(range(COUNT))
            slow.resume()
            await eventually(lambda: guarded.metric("rt_behind") == 0, 30)
            await flood(api, names, 1, COUNT)
            for name in names:
                await eventually(lambda name=name: slow.data(name) and slow.data(name)[-1]["n"] == COUNT, 30)  # type: ignore[misc]
            assert numbers(slow, whole) == list(range(COUNT + 1))
            assert numbers(slow, state)[-2:] == [COUNT - 1, COUNT] and len(slow.data(state)) < COUNT
            assert set(numbers(slow, price)) >= set(range(COUNT - len(SYMBOLS), COUNT + 1))
            assert len(slow.data(price)) < COUNT
            kept = numbers(slow, oldest)
            assert is_ordered(kept[-12:]) and len(kept) < COUNT
            first = numbers(slow, newest)[:-1]
            assert is_ordered(first) and first[-1] < COUNT - 1, "what was queued, and then nothing"
            assert not slow.gone and not slow.gaps
            await slow.close()
            await healthy.close()

    asyncio.run(run())


@pytest.mark.parametrize("kind", ["uni_websocket", "uni_sse"])
def test_who_only_listens_is_given_the_same(guarded: Server, channel: str, kind: str) -> None:
    """Over the protocol's own one-way doors."""
    names = [f"{one}:{channel}" for one in ("oldest", "price")]

    async def run() -> None:
        async with Api(guarded) as api:
            request: dict[str, Any] = {"subs": {name: {} for name in names}}
            make: Callable[..., Any] = UniSocket if kind == "uni_websocket" else UniStream
            async with make(guarded, request, receive_buffer=SMALL) as slow:
                slow.pause()
                await flood(api, names, COUNT)
                slow.resume()
                await eventually(lambda: guarded.metric("rt_behind") == 0, 30)
                for name in names:
                    await eventually(lambda name=name: slow.data(name)[-1]["n"] == COUNT - 1, 30)  # type: ignore[misc]
                    assert len(numbers(slow, name)) < COUNT
                assert set(numbers(slow, names[1])) >= set(range(COUNT - len(SYMBOLS), COUNT))

    asyncio.run(run())


class Sipper:
    """A reader of ``/ws`` or ``/sse`` that takes a few bytes at a time. ``got`` holds each channel's publications, with
    the moment at which each was read."""

    def __init__(self, door: str, server: Server, names: list[str], rate: int) -> None:
        self.door, self.names, self.rate = door, names, rate
        self.sock = plug(server.port, SMALL)
        self.got: dict[str, list[tuple[float, dict[str, Any]]]] = defaultdict(list)
        self.buffer = bytearray()
        self.parser = Parser()
        query = "&".join(f"channel={name}" for name in names)
        lines = [f"GET /{door}?{query} HTTP/1.1", "Host: localhost"]
        if door == "ws":
            lines += ["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"]
            lines += ["Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="]
        self.sock.sendall("\r\n".join([*lines, "", ""]).encode())
        self.sock.setblocking(False)
        self.headed = False
        self.fast = False

    async def sip(self) -> None:
        """Read on, at the rate (bytes per second), or as fast as can be; until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            step = 0.0 if self.fast else 0.05
            await asyncio.sleep(step)
            size = 65536 if self.fast else int(self.rate * step)
            with contextlib.suppress(TimeoutError):
                data = await asyncio.wait_for(loop.sock_recv(self.sock, size), 0.5)
                assert data, "closed"
                self.take(data)

    def take(self, data: bytes) -> None:
        """What has come, as far as it is whole."""
        self.buffer += data
        if not self.headed:
            head, end, rest = self.buffer.partition(b"\r\n\r\n")
            if not end:
                return
            assert b" 101 " in head or b" 200 " in head, head
            self.headed, self.buffer = True, bytearray(rest)
        bodies = self.events() if self.door == "sse" else self.frames()
        for body in bodies:
            if "pub" in body:
                self.got[body["channel"]].append((time.time(), body["pub"]["data"]))

    def events(self) -> list[dict[str, Any]]:
        """Of an event stream."""
        events = self.parser.feed(bytes(self.buffer))
        self.buffer.clear()
        return [json.loads(event.data) for event in events if event.kind == "message"]

    def frames(self) -> list[dict[str, Any]]:
        """Of a WebSocket."""
        found = []
        while len(self.buffer) >= 2:
            size, at = self.buffer[1], 2
            if size >= 126:
                width = 2 if size == 126 else 8
                size, at = int.from_bytes(self.buffer[2 : 2 + width]), 2 + width
            if len(self.buffer) < at + size:
                break
            if self.buffer[0] & 0xF == 1:
                found.append(json.loads(self.buffer[at : at + size]))
            del self.buffer[: at + size]
        return found

    def numbers(self, name: str) -> list[int]:
        """What came of a channel, in order."""
        found = [data["n"] for _, data in self.got[name]]
        assert found == sorted(set(found))
        return found


def sip(server: Server, door: str, names: list[str], test: Callable[[Sipper, Api], Awaitable[None]]) -> None:
    """Run a test with a reader that reads 10 KiB/s."""

    async def run() -> None:
        async with Api(server) as api:
            sipper = Sipper(door, server, names, 10 << 10)
            reading = asyncio.create_task(sipper.sip())
            await eventually(lambda: sipper.headed)
            await test(sipper, api)
            reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reading
            sipper.sock.shutdown(socket.SHUT_RDWR)
            sipper.sock.close()

    asyncio.run(run())


async def at_rate(seconds: float, rate: float, publish: Callable[[int], Awaitable[None]]) -> int:
    """Call ``publish`` so often a second; how often it was."""
    loop = asyncio.get_running_loop()
    begun, number = loop.time(), 0
    while loop.time() - begun < seconds:
        await publish(number)
        number += 1
        await asyncio.sleep(max(0.0, begun + number / rate - loop.time()))
    return number


@pytest.mark.alone
@pytest.mark.parametrize("door", ["ws", "sse"])
def test_a_narrow_line_has_the_newest_values(guarded: Server, channel: str, door: str) -> None:
    """100 KiB/s of prices over 10 KiB/s: what is read is never older than the buffers on the way and one interval."""
    name = f"price:{channel}"

    async def test(sipper: Sipper, api: Api) -> None:
        async def publish(number: int) -> None:
            await flood(api, [name], 1, number, "x" * 1000)

        count = await at_rate(6.0, 100.0, publish)
        ages = [read - data["at"] for read, data in sipper.got[name]]
        later = ages[len(ages) // 2 :]
        assert len(later) > 10 and max(later) < 4.0, "kernel's buffers (2 x 16 KiB at most), and an interval of 1 s"
        sipper.fast = True
        newest = set(range(count - len(SYMBOLS), count))
        await eventually(lambda: newest <= set(sipper.numbers(name)), what="the newest of each key, in the end")
        assert len(sipper.numbers(name)) < count / 2

    sip(guarded, door, [name], test)


@pytest.mark.alone
@pytest.mark.parametrize("door", ["ws", "sse"])
def test_a_narrow_line_keeps_what_is_worth_most(guarded: Server, channel: str, door: str) -> None:
    """100 KiB/s of logs beside chat and alerts over 10 KiB/s: logs come in batches and with holes, the others whole."""
    logs, chat, alert = f"logs:{channel}", f"whole:{channel}", f"alert:{channel}"

    async def test(sipper: Sipper, api: Api) -> None:
        async def publish(number: int) -> None:
            await flood(api, [logs], 1, number, "x" * 1000)
            if number % 50 == 0:
                await flood(api, [chat, alert], 1, number // 50, "x" * 100)

        count = await at_rate(6.0, 100.0, publish)
        sipper.fast = True
        small = (count - 1) // 50 + 1
        await eventually(lambda: len(sipper.got[chat]) == len(sipper.got[alert]) == small)
        assert sipper.numbers(chat) == sipper.numbers(alert) == list(range(small))
        await eventually(lambda: sipper.numbers(logs)[-1] == count - 1)
        assert len(sipper.numbers(logs)) < count

    left = guarded.metric("rt_left_out_total", namespace="logs", priority="low", reason="oldest")
    sip(guarded, door, [logs, chat, alert], test)
    assert guarded.metric("rt_left_out_total", namespace="logs", priority="low", reason="oldest") > left


@pytest.mark.alone
@pytest.mark.parametrize("door", ["ws", "sse"])
def test_batches_grow_on_a_narrow_line(guarded: Server, channel: str, door: str) -> None:
    """100 KiB/s of logs over 10 KiB/s: the interval becomes longer, and the oldest are left out; the last one comes."""
    logs = f"logs:{channel}"
    of_logs = {"namespace": "logs", "priority": "low"}

    async def test(sipper: Sipper, api: Api) -> None:
        async def publish(number: int) -> None:
            await flood(api, [logs], 1, number, "x" * 1000)

        count = await at_rate(4.0, 100.0, publish)
        assert guarded.metric("rt_pace_steps_total", **of_logs, direction="up") > longer
        sipper.fast = True
        await eventually(lambda: sipper.numbers(logs)[-1] == count - 1)
        assert len(sipper.numbers(logs)) < count

    longer = guarded.metric("rt_pace_steps_total", **of_logs, direction="up")
    left = guarded.metric("rt_left_out_total", **of_logs, reason="oldest")
    sip(guarded, door, [logs], test)
    assert guarded.metric("rt_left_out_total", **of_logs, reason="oldest") > left


HALF = 30
"""Readers that stop, and as many that do not."""

STALL = 2.0
POLICIES: dict[str, dict[str, Any]] = {
    "catch_up": {**STREAM, **OPEN, "history_size": 20000},
    "disconnect": VOLATILE,
    "drop_oldest": {**VOLATILE, "slow": "drop_oldest"},
    "drop_newest": {**VOLATILE, "slow": "drop_newest"},
    "conflate": {**VOLATILE, "slow": "conflate"},
}


@pytest.fixture(scope="module")
def strict() -> Iterator[Server]:
    """A server that closes whoever takes nothing for two seconds."""
    namespaces = [{"name": name, **settings} for name, settings in POLICIES.items()]
    config = {"server": {"workers": 1}, "delivery": {"stall_timeout": f"{STALL:g}s", "send_buffer": "64KiB"}}
    with Server({**config, "channel": {"namespaces": namespaces}}) as running:
        yield running


@pytest.mark.alone
@pytest.mark.parametrize("policy", POLICIES)
def test_p7_half_of_the_readers_stop(strict: Server, channel: str, policy: str) -> None:
    """P7: 4 KiB a hundred times a second. The others lose nothing and are as quick as before, memory stays within the
    bounds, and who took nothing is closed in time."""
    name = f"{policy}:{channel}"
    (pid,) = strict.worker_pids()

    async def run() -> None:
        async with Api(strict) as api:
            healthy = [Sipper("ws", strict, [name], 0) for _ in range(HALF)]
            for one in healthy:
                one.fast = True
            reading = [asyncio.create_task(one.sip()) for one in healthy]
            await eventually(lambda: all(one.headed for one in healthy))

            async def publish(number: int) -> None:
                await api.publish(name, {"n": number + first, "at": time.time(), "text": "x" * 4000})

            first = 0
            first = await at_rate(1.5, 100.0, publish)
            before, base = p99(healthy, name), processes.resident_bytes(pid)
            stalled = [Sipper("ws", strict, [name], 0) for _ in range(HALF)]
            closed = strict.metric("rt_disconnects_total", code="3008")
            first += await at_rate(STALL + 0.5, 100.0, publish)
            during = p99(healthy, name)
            assert processes.resident_bytes(pid) - base < HALF * (128 << 10) + (16 << 20)
            assert during < max(2 * before, 0.05)
            await eventually(lambda: strict.metric("rt_disconnects_total", code="3008") == closed + HALF, STALL + 2)
            await eventually(lambda: all(len(one.got[name]) == first for one in healthy))
            for one in healthy:
                assert one.numbers(name) == list(range(first))
            for task in reading:
                task.cancel()
            await asyncio.gather(*reading, return_exceptions=True)
            for one in [*healthy, *stalled]:
                one.sock.close()

    asyncio.run(run())


def p99(readers: list[Sipper], name: str) -> float:
    """Seconds from publish to receipt, of the slowest but one in a hundred of the last hundred of each."""
    ages: list[float] = sorted(read - data["at"] for one in readers for read, data in one.got[name][-100:])
    return ages[int(len(ages) * 0.99) - 1]


@pytest.mark.parametrize("door", DOORS)
def test_batches(guarded: Server, channel: str, door: str) -> None:
    """What is published within an interval comes together; of what is conflated only the newest of each key."""
    batched, latest = f"batched:{channel}", f"latest:{channel}"

    async def run() -> None:
        async with Api(guarded) as api:
            one = await enter(door, guarded, [batched])
            other = await enter(door, guarded, [latest])
            before = guarded.metric("rt_batches_total", namespace="batched", priority="normal")
            await flood(api, [batched, latest], 40, text="")
            assert len(await one.until(batched, 40)) == 40
            await eventually(lambda: other.data(latest) and other.data(latest)[-1]["n"] == 39)
            newest = {data["n"] for data in other.data(latest)}
            assert newest >= set(range(40 - len(SYMBOLS), 40)) and len(newest) < 40
            assert guarded.metric("rt_batches_total", namespace="batched", priority="normal") > before
            await one.close()
            await other.close()

    asyncio.run(run())
