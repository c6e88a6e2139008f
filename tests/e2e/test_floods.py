"""Floods: whatever one client sends, memory stays flat, a healthy connection does not notice, and the log is quiet."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from typing import Any

import pytest

from tests import processes
from tests.clients import Api, Reply, SdkClient
from tests.hurry import Hurried
from tests.raw import CLOSE, CONTINUATION, PING, PONG, TEXT, RawSocket, Shut, frame, text, upgrade
from tests.servers import OPEN, SEEN, STREAM, Server
from tests.tokens import connection_token
from tests.waiting import eventually

pytestmark = pytest.mark.alone

SECONDS = 2.0
GROWTH = 10 << 20
"""Bytes by which a worker may grow under one flood."""
LATE = 0.1
"""Seconds for which the healthy one's slowest answer but one in a hundred may take, on a machine that also floods."""

GUARDED: dict[str, Any] = {
    "server": {"workers": 1, "header_timeout": "2s", "trusted_proxies": ["127.0.0.0/8"]},
    "channel": {
        "namespaces": [
            {"name": "live", **OPEN, "history_size": 0, "force_recovery": False},
            {"name": "room", **STREAM, **OPEN, **SEEN},
        ]
    },
    "client": {"channel_limit": 128, "stale_close_delay": "2s"},
    "limits": {
        "connections": {"per_ip": 150, "per_user": 50},
        "rates": [
            {"on": "message", "per": "connection", "rate": "500/s", "burst": 1000},
            {"on": "bytes", "per": "connection", "rate": "256KiB/s", "burst": "512KiB"},
            {"on": "subscribe", "per": "connection", "rate": "50/s", "burst": 200},
            {"on": "presence", "per": "user", "rate": "20/s", "burst": 40},
            {"on": "publish", "per": "user", "rate": "30/s", "burst": 60},
            {"on": "connect", "per": "ip", "rate": "100/s", "burst": 200},
        ],
    },
}


@pytest.fixture(scope="module")
def guarded() -> Any:
    """One worker with limits as a site would have them."""
    with Server(GUARDED) as server:
        yield server


class Pulse:
    """A healthy connection: it publishes, is told of it, and asks, again and again; ``times`` is how long each took."""

    def __init__(self, client: SdkClient) -> None:
        self.client = client
        self.times: list[float] = []
        self.over = False

    async def beat(self) -> None:
        """Until it is over."""
        while not self.over:
            began = time.monotonic()
            await self.client.history("healthy")
            self.times.append(time.monotonic() - began)
            await asyncio.sleep(0.01)

    @property
    def p99(self) -> float:
        """The slowest but one in a hundred."""
        ordered = sorted(self.times)
        return ordered[int(len(ordered) * 0.99) - 1]


@contextlib.asynccontextmanager
async def undisturbed(server: Server) -> AsyncIterator[Pulse]:
    """What happens within leaves a healthy connection, the worker's memory and the log as they were."""
    (pid,) = server.worker_pids()
    async with SdkClient(server, token=connection_token("healthy")) as client:
        await client.subscribe("healthy")
        pulse = Pulse(client)
        beating = asyncio.create_task(pulse.beat())
        await asyncio.sleep(0.5)
        lines, before = server.log().count("\n"), processes.resident_bytes(pid)
        pulse.times.clear()
        try:
            yield pulse
        finally:
            await asyncio.sleep(0.1)
            pulse.over = True
            await beating
        assert len(pulse.times) > 10 and pulse.p99 < LATE, f"p99 {pulse.p99 * 1000:.0f} ms"
        sent = len(client.data("healthy"))
        async with Api(server) as api:
            await api.publish("healthy", {"n": 1})
        await client.until("healthy", sent + 1)
        assert not client.gone
        grown = processes.resident_bytes(pid) - before
        assert grown < GROWTH, f"grew by {grown >> 10} KiB"
        assert server.log().count("\n") - lines <= 3, server.log_tail()


async def pour(raw: RawSocket, data: bytes, seconds: float = SECONDS) -> None:
    """Send it again and again, never reading, until the time is over or the server hangs up; then vanish."""
    until = time.monotonic() + seconds
    with suppress(ConnectionError, TimeoutError):
        while (left := until - time.monotonic()) > 0:
            raw.writer.write(data)
            await asyncio.wait_for(raw.writer.drain(), left)
            await asyncio.sleep(0)
    raw.writer.transport.abort()  # what is not read yet would keep it from closing


def many(message: Callable[[int], dict[str, Any]], count: int = 500) -> bytes:
    """So many commands, in frames of their own."""
    return b"".join([text({"id": n + 2, **message(n)}) for n in range(count)])


def fragments(between: bytes, count: int, last: bytes) -> bytes:
    """One text message in so many pieces; without ``last`` it never ends."""
    whole = frame(TEXT, b"x", final=False) + frame(CONTINUATION, between, final=False) * count
    return whole + frame(CONTINUATION, last) if last else whole


COMING_AND_GOING = many(lambda n: {("subscribe", "unsubscribe")[n % 2]: {"channel": "a"}})
FLOODS: list[tuple[str, bytes]] = [
    ("F42 pings", frame(PING, b"x" * 100) * 200),
    ("F42 pongs", frame(PONG, b"x") * 2000),
    ("F42 closes", frame(CLOSE, b"\x03\xe8") * 2000),
    ("empty frames", frame(TEXT) * 2000),
    ("empty objects", frame(TEXT, b"{}") * 2000),
    ("F41 one-byte fragments", fragments(b"x", 60, b"x")),
    ("F41 a message that never ends", fragments(b"", 2000, b"")),
    ("F40 a frame of 2^63 bytes", frame(TEXT, b"", length=(1 << 63) - 1) + b"x" * 60000),
    ("F40 64 KiB and one byte", frame(TEXT, b"x" * ((64 << 10) + 1))),
    ("messages for nobody", frame(TEXT, b'{"send":{}}') * 1000),
    ("unsubscribes of nothing", many(lambda n: {"unsubscribe": {"channel": f"a{n}"}})),
    ("presence", many(lambda n: {"presence": {"channel": "room:a"}})),
    ("presence of everything", many(lambda n: {"presence_stats": {"channel": f"room:a{n}"}})),
    ("publications", many(lambda n: {"publish": {"channel": "live:a", "data": "x" * 200}})),
    ("publications where it may not", many(lambda n: {"publish": {"channel": f"$a{n}", "data": "x" * 200}})),
    ("F36 subscribing and leaving", COMING_AND_GOING),
    ("names of 60 KB", many(lambda n: {"subscribe": {"channel": str(n) + "x" * 60000}}, 4)),
    ("tokens of nobody", many(lambda n: {"subscribe": {"channel": f"t{n}", "token": "a.b." + "c" * 2000}}, 100)),
    ("rubbish", frame(TEXT, b"\x00" * 1000) * 50),
]


@pytest.mark.parametrize(("what", "data"), FLOODS, ids=[what for what, _ in FLOODS])
@pytest.mark.parametrize("door", ["/connection/websocket", "/ws?channel=a"])
def test_p15_a_flood_from_one_client(guarded: Server, what: str, data: bytes, door: str) -> None:
    """P15: of any kind, to either WebSocket: it is slowed down, refused or cut, and that is all."""

    async def run() -> None:
        async with undisturbed(guarded), RawSocket(guarded) as raw:
            await raw.send(upgrade(door, X_Forwarded_For="192.0.2.1"))
            await raw.head()
            if door.startswith("/connection"):
                await raw.send(text({"id": 1, "connect": {"token": connection_token("bad")}}))
                await raw.frame()
            await pour(raw, data, 1.5)

    asyncio.run(run())


def test_p15_a_flood_into_an_event_stream(guarded: Server) -> None:
    """Whoever is to receive and sends instead is not read."""

    async def run() -> None:
        async with undisturbed(guarded), RawSocket(guarded) as raw:
            await raw.send(b"GET /sse?channel=a HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n")
            await raw.head()
            await pour(raw, b"x" * 65536, 1.5)

    asyncio.run(run())


def test_f36_a_hundred_thousand_names(guarded: Server) -> None:
    """From one connection: 111 by rate, 106 beyond the limit of channels, and nothing of it is left behind."""

    async def run() -> None:
        async with undisturbed(guarded), Hurried(guarded, "greedy", address="192.0.2.1") as greedy:
            until = time.monotonic() + SECONDS
            for first in range(0, 100_000, 100):
                if time.monotonic() > until or greedy.shut_by is not None:
                    break
                for n in range(first, first + 100):
                    await greedy.ask(1, "subscribe", channel=f"live:n{n}")
                await asyncio.sleep(0)
            await asyncio.sleep(0.5)
            assert greedy.codes[0] <= 128
            assert greedy.codes[111] or greedy.shut_by is not None
        await eventually(lambda: guarded.metric("rt_channels") <= 3, 15)

    asyncio.run(run())


SLOW = {"head": b"GET /conn", "body": b"POST /api HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n"}


@pytest.mark.timeout(90)
@pytest.mark.parametrize("part", SLOW)
def test_f22_two_thousand_slow_requests(guarded: Server, part: str) -> None:
    """Sockets that send a byte now and then are cut at ``header_timeout``, in the head and in the body; the healthy
    one does not notice."""

    async def run() -> None:
        async with undisturbed(guarded), AsyncExitStack() as stack:
            slow = []
            for _ in range(2000):
                raw = await stack.enter_async_context(RawSocket(guarded))
                raw.writer.write(SLOW[part])
                slow.append(raw)
            began = time.monotonic()
            assert not any(raw.reader.at_eof() for raw in slow[-1000:])
            for _ in range(3):
                await asyncio.sleep(0.5)
                for raw in slow:
                    with suppress(ConnectionError):
                        raw.writer.write(b"e")
            ended = await asyncio.gather(*(raw.hung_up() for raw in slow))
            assert all(ended) and time.monotonic() - began < 8

    asyncio.run(run())


@pytest.mark.timeout(60)
def test_f23_sockets_that_never_say_who_they_are(guarded: Server) -> None:
    """Closed (3502) at ``client.stale_close_delay``, all hundred of them."""

    async def run() -> None:
        async with undisturbed(guarded), AsyncExitStack() as stack:
            silent = [await stack.enter_async_context(RawSocket(guarded)) for _ in range(100)]
            for number, raw in enumerate(silent):
                await raw.send(upgrade("/connection/websocket", X_Forwarded_For=f"203.0.113.{number}"))
                await raw.head()
            shuts = await asyncio.gather(*(raw.shut() for raw in silent))
            assert {shut.code for shut in shuts} == {3502}

    asyncio.run(run())


async def crowded(server: Server, count: int, join: Callable[[int], Awaitable[int]]) -> list[int]:
    """What becomes of ``count`` attempts to come in, some at once."""
    got: list[int] = []
    for first in range(0, count, 50):
        got += await asyncio.gather(*(join(n) for n in range(first, min(first + 50, count))))
    return got


@pytest.mark.timeout(90)
def test_one_user_from_a_thousand_addresses(guarded: Server) -> None:
    """``per_user`` holds whatever the address: fifty are in, the rest is told 3504."""

    async def run() -> None:
        async with undisturbed(guarded), AsyncExitStack() as stack:
            token = connection_token("everywhere")

            async def join(n: int) -> int:
                raw = await stack.enter_async_context(RawSocket(guarded))
                await raw.send(upgrade("/connection/websocket", X_Forwarded_For=f"10.{n // 250}.{n % 250}.7"))
                await raw.head()
                await raw.send(text({"id": 1, "connect": {"token": token}}))
                try:
                    return 0 if b"connect" in (await raw.frame()).payload else 1
                except Shut as shut:
                    return shut.code or 1

            got = await crowded(guarded, 1000, join)
            await eventually(lambda: guarded.metric("rt_refusals_total", reason="per_user") >= 900)
            assert got.count(3504) >= 900 and got.count(0) <= 60

    asyncio.run(run())


@pytest.mark.timeout(90)
def test_a_thousand_users_from_one_address(guarded: Server) -> None:
    """``connect`` per ip and ``per_ip`` hold whatever the user: 429; the healthy one comes from elsewhere."""

    async def run() -> None:
        async with undisturbed(guarded), AsyncExitStack() as stack:

            async def join(n: int) -> int:
                raw = await stack.enter_async_context(RawSocket(guarded))
                await raw.send(upgrade("/connection/websocket", X_Forwarded_For="198.51.100.1"))
                try:
                    return (await raw.head()).status
                except Shut:
                    return 0

            got = await crowded(guarded, 1000, join)
            assert got.count(101) == 150 and got.count(429) == 850

    asyncio.run(run())


@pytest.mark.timeout(90)
def test_f37_a_crowd_that_comes_and_goes(guarded: Server) -> None:
    """Sixty members enter and leave one channel as fast as they are let: its watchers are told of so many a second as
    ``delivery.join_leave_rate`` says, and whoever asks is told the truth."""
    channel = "room:busy"

    async def churn(member: Hurried, until: float) -> None:
        while time.monotonic() < until:
            await member.ask(1, "subscribe", channel=channel)
            await member.ask(1, "unsubscribe", channel=channel)
            await eventually(lambda: member.answered == member.sent)

    async def run() -> None:
        async with undisturbed(guarded), AsyncExitStack() as stack:
            watchers = [await stack.enter_async_context(SdkClient(guarded)) for _ in range(10)]
            for watcher in watchers:
                await watcher.subscribe(channel)
            crowd = []
            for n in range(60):
                member = Hurried(guarded, f"m{n}", address=f"192.0.2.{n + 1}")
                crowd.append(await stack.enter_async_context(member))
            began = time.monotonic()
            await asyncio.gather(*(churn(member, began + SECONDS) for member in crowd))
            took = time.monotonic() - began
            told = [len(watcher.changes(channel)) for watcher in watchers]
            entered = sum(member.codes[0] for member in crowd)
            assert entered > 2 * max(told) and max(told) <= 100 + 100 * took + 10 + len(watchers), (entered, told)
            assert guarded.metric("rt_drops_total", reason="join_leave") > 0
            assert await watchers[0].presence_stats(channel) == (10, 1)

    asyncio.run(run())


@pytest.mark.timeout(90)
def test_f38_a_hot_channel(guarded: Server) -> None:
    """Publications as fast as the API takes them to a hundred subscribers, half of whom do not read: those are cut or
    fall behind, the others get everything, and another channel does not notice."""

    async def publish(until: float) -> int:
        sent = 0
        async with Api(guarded) as api:
            while time.monotonic() < until:
                for _ in range(5):
                    sent += 1
                    await api.publish("live:hot", {"n": sent, "data": "x" * 500})
                await asyncio.sleep(0.005)
        return sent

    async def subscriber(number: int, stack: AsyncExitStack) -> RawSocket:
        raw = await stack.enter_async_context(RawSocket(guarded, 4096))
        await raw.send(upgrade("/ws?channel=live:hot", X_Forwarded_For=f"198.18.0.{number}"))
        await raw.head()
        return raw

    async def drain(raw: RawSocket, got: list[int], until: float) -> None:
        while time.monotonic() < until:
            with suppress(TimeoutError):
                got[0] += (await asyncio.wait_for(raw.reader.read(65536), 0.2)).count(b'"pub"')

    async def run() -> None:
        async with undisturbed(guarded), AsyncExitStack() as stack:
            readers = [await subscriber(n, stack) for n in range(1, 51)]
            stalled = [await subscriber(n, stack) for n in range(51, 101)]
            got = [[0] for _ in readers]
            until = time.monotonic() + SECONDS
            results = await asyncio.gather(
                publish(until), *(drain(raw, count, until + 2.0) for raw, count in zip(readers, got, strict=True))
            )
            sent = results[0] or 0
            assert sent > 100 and {count[0] for count in got} == {sent}
            for raw in stalled:
                raw.writer.transport.abort()

    asyncio.run(run())


def test_f57_a_repeated_publish_is_published_once(guarded: Server, channel: str) -> None:
    """The same key gives the first result, whatever the body, also over another connection; it costs tokens as any."""

    async def run() -> None:
        async with SdkClient(guarded, token=connection_token("7")) as reader:
            await reader.subscribe(channel)
            for _ in range(2):
                async with SdkClient(guarded, token=connection_token("7")) as writer:
                    await writer.publish(channel, {"n": 1}, idempotency_key="k")
                    await writer.publish(channel, {"n": 2}, idempotency_key="k")
            await reader.publish(channel, {"n": 3}, idempotency_key="another")
            assert await reader.until(channel, 2) == [{"n": 1}, {"n": 3}]
            with pytest.raises(Reply, match="111"):
                for _ in range(100):
                    await reader.publish(channel, {"n": 1}, idempotency_key="k")
            assert reader.data(channel) == [{"n": 1}, {"n": 3}]

    asyncio.run(run())


@pytest.mark.timeout(60)
def test_a_flood_costs_the_others_little(guarded: Server) -> None:
    """A client at full speed against an exhausted ``message`` bucket: the others' p99 stays below twice what it was,
    or what a machine of two cores makes of it."""

    async def run() -> None:
        async with undisturbed(guarded) as pulse:
            await asyncio.sleep(2.0)
            calm = pulse.p99
            pulse.times.clear()
            async with RawSocket(guarded) as raw:
                await raw.send(upgrade("/connection/websocket", X_Forwarded_For="192.0.2.1"))
                await raw.head()
                await raw.send(text({"id": 1, "connect": {"token": connection_token("bad")}}))
                await raw.frame()
                await pour(raw, many(lambda n: {"unsubscribe": {"channel": "a"}}), SECONDS)
            assert pulse.p99 < max(2 * calm, 0.02), f"{pulse.p99 * 1000:.1f} ms, calm {calm * 1000:.1f} ms"

    asyncio.run(run())
    assert processes.alive(guarded.pid)
