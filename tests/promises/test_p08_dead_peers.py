"""P8: a peer that is gone without a word is noticed, and what it held is given back; F21, F24 to F28 and F35."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import Callable
from functools import partial

import pytest

from tests import processes
from tests.clients import Api, SdkClient, stream_path
from tests.eventsource import EventSource
from tests.faults.clock import Clock
from tests.faults.link import Link
from tests.faults.network import Network
from tests.faults.store import Store
from tests.promises import grasp
from tests.promises.beside import beside
from tests.promises.brisk import BRISK, GRACE, PING, PONG, STALL, TTL
from tests.promises.crowd import Crowd
from tests.promises.leaks import leakless
from tests.raw import TEXT, RawSocket, frame, text, upgrade
from tests.servers import Server, merged
from tests.waiting import eventually, eventually_now

GONE = PING + PONG + GRACE
"""Seconds within which a silent peer is gone."""

USER_TIMEOUT = 30.0
"""Seconds that a peer may acknowledge nothing."""


def open_in(network: Network, server: Server, request: bytes) -> socket.socket:
    """A socket of the clients' network that has sent a request, and was answered."""
    made = network.socket()
    made.settimeout(10)
    made.connect((network.address, server.port))
    made.sendall(request)
    assert made.recv(65536).startswith((b"HTTP/1.1 101 ", b"HTTP/1.1 200 "))
    return made


def open_all(network: Network, server: Server, channel: str) -> list[socket.socket]:
    """One client of each kind: two by the SDKs' protocol, a plain WebSocket, an event stream."""
    sdk = [open_in(network, server, upgrade("/connection/websocket")) for _ in range(2)]
    for made in sdk:
        made.sendall(text({"id": 1, "connect": {}}) + text({"id": 2, "subscribe": {"channel": f"room:{channel}"}}))
        eventually_now(lambda made=made: b"subscribe" in made.recv(65536))  # type: ignore[misc]
    plain = open_in(network, server, upgrade(stream_path("/ws", [channel])))
    stream = open_in(
        network, server, f"GET {stream_path('/sse', [channel])} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    )
    return [*sdk, plain, stream]


def inside(server: Server, transport: str, count: int) -> bool:
    """Whether so many are connected."""
    return server.metric("rt_connections", transport=transport) >= count


def shorten(server: Server, seconds: float) -> int:
    """Let the kernel give up sooner on what is not acknowledged, where it was told to give up; of how many."""
    count = 0
    for pid in server.worker_pids():
        for held in grasp.connections(pid, server.port):
            if held.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == USER_TIMEOUT * 1000:
                held.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(seconds * 1000))
                count += 1
    return count


@pytest.mark.needs("network namespaces", "sockets of other processes")
def test_p08_f24_a_cable_is_cut(start_server: Callable[..., Server], channel: str) -> None:
    """A black hole swallows the clients' network: whoever must answer pings is gone in time, a stream when the kernel
    gives up on it, nobody is present any more, and clients of other networks notice nothing."""
    server = start_server(merged(BRISK, {"server": {"address": "0.0.0.0"}}))
    with leakless(server), Network() as network:
        made = open_all(network, server, channel)

        async def watch() -> None:
            async with Api(server) as api:
                presence = (await api.call("presence", channel=f"room:{channel}"))["presence"]
                assert len(presence) == 2
                for transport, count in (("sse", 1), ("ws", 1), ("websocket", 3)):
                    await eventually(partial(inside, server, transport, count), what=f"{count} {transport}")
                assert shorten(server, 3.0) >= 4
                with network.black_hole():
                    cut = time.monotonic()
                    await eventually(lambda: server.metric("rt_connections", transport="sse") == 0, GONE + 3.0)
                    streams = time.monotonic() - cut
                    left = max(0.0, GONE - streams)
                    await eventually(lambda: server.metric("rt_connections", transport="websocket") <= 1, left + 0.01)
                    await eventually(lambda: server.metric("rt_connections", transport="ws") == 0, left + 0.01)
                    presence = (await api.call("presence", channel=f"room:{channel}"))["presence"]
                    gone = time.monotonic() - cut
                    print(f"streams are gone after {streams:.1f} s, all are after {gone:.1f} s")
                    assert presence == {}, f"still there after {gone:.1f} s"

        with beside(server):
            asyncio.run(watch())
        assert server.metric("rt_disconnects_total", code="3012") >= 3
        for one in made:
            one.close()


def test_p08_f25_stopped_clients_are_gone(brisk: Server, channel: str) -> None:
    """The kernel of a stopped process acknowledges everything; its clients answer no ping, and are gone in time."""
    with leakless(brisk), beside(brisk), Crowd(brisk.port) as crowd:
        before = brisk.metric("rt_disconnects_total", code="3012")
        crowd.gather(40, [f"room:{channel}"])
        eventually_now(lambda: brisk.metric("rt_seats") >= 40, what="they are present")
        crowd.process.send_signal(signal.SIGSTOP)
        stopped = time.monotonic()
        try:
            eventually_now(lambda: brisk.metric("rt_seats") == 0, GONE, "they are gone")
            print(f"after {time.monotonic() - stopped:.1f} s")
            eventually_now(lambda: brisk.metric("rt_disconnects_total", code="3012") - before >= 40)
        finally:
            crowd.process.send_signal(signal.SIGCONT)


def test_p08_f35_an_event_stream_that_said_one_byte_too_many(brisk: Server, channel: str) -> None:
    """Bytes behind its request are nobody's; that it leaves is noticed at once."""

    async def run() -> None:
        request = f"GET {stream_path('/sse', [channel])} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        raws = [RawSocket(brisk) for _ in range(10)]
        for raw in raws:
            await raw.__aenter__()
            await raw.send(request + b"x")
            await raw.head()
        await eventually(lambda: brisk.metric("rt_connections", transport="sse") >= 10, what="they are inside")
        for raw in raws:
            await raw.__aexit__()
        await eventually(lambda: brisk.metric("rt_connections", transport="sse") == 0, PING, "they are gone")

    with leakless(brisk):
        asyncio.run(run())


def test_p08_f21_a_trickle_is_too_slow(brisk: Server, channel: str) -> None:
    """A reader of a KiB per second takes something all the time, so it is not dead; it is closed because too much waits
    for it."""
    strict = f"strict:{channel}"

    async def run() -> None:
        async with Api(brisk) as api, RawSocket(brisk, 4096) as raw:
            await raw.connect()
            await raw.send(text({"id": 2, "subscribe": {"channel": strict}}))
            await raw.frame()
            slow, silent = (counted(brisk, reason) for reason in ("queue", "3012"))
            trickling = asyncio.ensure_future(trickle(raw))
            for _ in range(40):  # faster than the stall timeout, also where the machine is busy
                await api.publish(strict, "x" * 8000)
                if counted(brisk, "queue") > slow:
                    break
            await eventually(lambda: counted(brisk, "queue") == slow + 1)
            trickling.cancel()
            assert counted(brisk, "3012") == silent

    with leakless(brisk), beside(brisk):
        asyncio.run(run())


def counted(server: Server, why: str) -> float:
    """Connections that ended, or were found slow, for a reason."""
    if why.isdigit():
        return server.metric("rt_disconnects_total", code=why)
    return server.metric("rt_slow_total", reason=why)


async def trickle(raw: RawSocket) -> None:
    """Read a KiB per second until there is no more; asyncio's own buffer must not read ahead."""
    raw.reader._limit = 64  # type: ignore[attr-defined]
    while not raw.reader.at_eof():
        try:
            await raw.reader.read(64)
        except ConnectionError:
            return
        await asyncio.sleep(1 / 16)


@pytest.mark.parametrize("step", [-3600.0, 3600.0])
def test_p08_f26_f72_pings_go_on_when_the_clock_steps(channel: str, step: float) -> None:
    """Whoever lives stays connected and is pinged; whoever is silent is gone in time."""

    async def run(server: Server, clock: Clock) -> None:
        async with SdkClient(server) as lively, SdkClient(server) as silent, Api(server) as api:
            await lively.subscribe(channel)
            clock.step(step)
            silent.answer_pings = False
            seen, began = lively.pings, time.monotonic()
            assert (await silent.wait_ended(GONE)).code == 3012
            await eventually(lambda: lively.pings >= seen + 3, 3 * PING + GRACE, "three more pings")
            assert time.monotonic() - began > 1.5 * PING
            assert not lively.gone
            await api.publish(channel, "still here")
            assert await lively.until(channel, 1) == ["still here"]

    with Clock() as clock, Server(BRISK) as server, leakless(server):
        asyncio.run(run(server, clock))


@pytest.mark.parametrize("door", ["sdk", "sse"])
def test_p08_f27_who_takes_no_ping_is_slow(brisk: Server, channel: str, door: str) -> None:
    """Its buffers are full when a ping is due: it is closed in time, and nothing goes wrong. An event stream is never
    asked for a pong, so it is closed as slow."""
    long = f"long:{channel}"
    codes = ("3008", "3012") if door == "sdk" else ("3008",)

    async def run() -> None:
        async with Api(brisk) as api, RawSocket(brisk, 4096) as raw:
            if door == "sdk":
                await raw.connect()
                await raw.send(text({"id": 2, "subscribe": {"channel": long}}))
                await raw.frame()
            else:
                await raw.send(f"GET {stream_path('/sse', [long])} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
                await raw.reader.readuntil(b"event: connect")
            raw.reader._transport.pause_reading()  # type: ignore[attr-defined]
            before = sum(counted(brisk, code) for code in codes)
            for _ in range(60):
                await api.publish(long, "x" * 2000)
            ended = PING + PONG + STALL + GRACE
            await eventually(lambda: sum(counted(brisk, code) for code in codes) > before, ended, "it is closed")

    with leakless(brisk):
        asyncio.run(run())
    assert "Traceback" not in brisk.log()


def test_p08_f28_who_waits_for_the_store_is_not_dead(channel: str) -> None:
    """A command takes the store longer than a ping and a pong; the client answers all the while, and stays."""
    slow = 3 * (PING + PONG) / 2
    settings = merged(BRISK, {"redis": {"timeout": "10s", "probe_interval": "10s"}, "server": {"workers": 1}})

    async def run(server: Server, link: Link) -> None:
        async with SdkClient(server) as client:
            await client.subscribe(channel)
            with link.slow(slow, to="-commands"):
                began = time.monotonic()
                # Pongs are read behind the command, since nothing else is while it is served.
                await client.history(channel, limit=10)
                assert time.monotonic() - began > PING + PONG
            seen = client.pings
            await eventually(lambda: client.pings >= seen + 2, 2 * PING + GRACE)
            assert not client.gone

    with (
        Store() as store,
        Link(store) as link,
        Server(merged(settings, {"redis": {"url": link.url}})) as server,
        leakless(server),
    ):
        asyncio.run(run(server, link))


def test_p08_descriptors_come_back(brisk: Server, channel: str) -> None:
    """Half of a crowd is killed with its process: every descriptor and seat of it is given back."""

    async def streams() -> None:
        async with EventSource(brisk, [channel]), EventSource(brisk, [channel]) as second:
            second.writer.transport.abort()

    with leakless(brisk) as base, Crowd(brisk.port) as crowd:
        crowd.gather(60, [f"room:{channel}"])
        asyncio.run(streams())
        held = sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in brisk.worker_pids())
        assert held >= sum(base.descriptors) + 50
        eventually_now(lambda: brisk.metric("rt_seats") >= 60, what="they are present")
        processes.kill(crowd.process.pid, signal.SIGKILL)
        eventually_now(lambda: brisk.metric("rt_seats") == 0, TTL, "nobody is present")


def test_p08_frames_of_the_dead_are_not_waited_for(brisk: Server) -> None:
    """Half a frame and silence: the peer is as dead as any other."""

    async def run() -> None:
        async with RawSocket(brisk) as raw:
            await raw.connect()
            await raw.send(frame(TEXT, b"x" * 100, length=200))
            began = time.monotonic()
            assert (await raw.shut()).code == 3012
            assert time.monotonic() - began < GONE

    with leakless(brisk):
        asyncio.run(run())
