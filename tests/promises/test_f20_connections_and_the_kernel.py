"""F20, F22, F23, F29, F34: many connections that do nothing good cost little, end in time, and hurt nobody beside."""

from __future__ import annotations

import asyncio
import re
import socket
import struct
import time
from collections.abc import Callable

import pytest

from tests import processes
from tests.clients import Api, SdkClient, plug, stream_path
from tests.faults.process import descriptors
from tests.promises.beside import beside
from tests.promises.brisk import BRISK, PING, PONG, STALE, STALL
from tests.promises.leaks import leakless
from tests.promises.storms import cpu_seconds
from tests.raw import RawSocket, text, upgrade
from tests.servers import Server, merged
from tests.waiting import eventually

SMALL = 4096
READERS = 200
BOUND = 64 << 10
"""``delivery.high_watermark`` of these servers."""

SLACK = 2.0
"""Seconds by which a stalled connection may be closed later than promised."""


def hard_close(sock: socket.socket) -> None:
    """Reset the connection instead of closing it."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


async def subscribed(server: Server, channel: str, receive_buffer: int | None = None) -> socket.socket:
    """A socket that has subscribed by the SDKs' protocol, and reads nothing more."""
    loop = asyncio.get_running_loop()
    made = plug(server.port, receive_buffer)
    await loop.sock_sendall(made, upgrade("/connection/websocket"))
    assert (await loop.sock_recv(made, 1024)).startswith(b"HTTP/1.1 101 ")
    await loop.sock_sendall(made, text({"id": 1, "connect": {}}) + text({"id": 2, "subscribe": {"channel": channel}}))
    got = b""
    while b'"subscribe"' not in got:
        got += await loop.sock_recv(made, 4096)
    return made


async def streaming(server: Server, channel: str, receive_buffer: int | None = None) -> socket.socket:
    """The same for an event stream."""
    loop = asyncio.get_running_loop()
    made = plug(server.port, receive_buffer)
    await loop.sock_sendall(made, f"GET {stream_path('/sse', [channel])} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    got = b""
    while b"event: connect" not in got:
        got += await loop.sock_recv(made, 4096)
    return made


@pytest.mark.parametrize("door", ["sdk", "sse"])
def test_f20_readers_that_take_nothing(brisk: Server, channel: str, door: str) -> None:
    """Two hundred sockets with tiny buffers, never read: each is closed in time, what
    waits for them is bounded, and whoever reads gets everything without delay."""
    long = f"long:{channel}"
    # An SDK's silence may be noticed first: its pong waits behind what it does not read.
    codes = ("3008", "3012") if door == "sdk" else ("3008",)

    async def run() -> None:
        opening = subscribed if door == "sdk" else streaming
        made = [await opening(brisk, long, SMALL) for _ in range(READERS)]
        before = sum(map(processes.resident_bytes, brisk.worker_pids()))
        closed = sum(brisk.metric("rt_disconnects_total", code=code) for code in codes)
        most = 0
        async with Api(brisk) as api, SdkClient(brisk) as healthy:
            await healthy.subscribe(long)
            for _ in range(60):
                await api.publish(long, "x" * 2000)
                most = max(most, sum(map(processes.resident_bytes, brisk.worker_pids())))
            published = time.monotonic()

            def ended() -> float:
                return sum(brisk.metric("rt_disconnects_total", code=code) for code in codes) - closed

            await eventually(lambda: ended() >= READERS, max(STALL, PING + PONG) + SLACK + 1.0, "all are closed")
            print(f"closed after {time.monotonic() - published:.1f} s, {(most - before) >> 20} MiB more")
            assert len(await healthy.until(long, 60)) == 60
            assert not healthy.gone
        assert most - before <= READERS * BOUND + (16 << 20)
        for sock in made:
            sock.close()

    with leakless(brisk, grown=READERS * BOUND + (24 << 20)), beside(brisk):
        asyncio.run(run())


def test_f22_f23_heads_that_never_end(start_server: Callable[..., Server]) -> None:
    """Three hundred sockets: some send a header's byte now and then, some nothing, some shake hands and never say who
    they are. All are dropped in time, and nobody else waits for them."""
    server = start_server(merged(BRISK, {"server": {"header_timeout": "1s"}}))

    async def run() -> None:
        loop = asyncio.get_running_loop()
        dripping = [plug(server.port) for _ in range(100)]
        mute = [plug(server.port) for _ in range(100)]
        nameless = [plug(server.port) for _ in range(100)]
        for sock in nameless:
            await loop.sock_sendall(sock, upgrade("/connection/websocket"))
        began = time.monotonic()
        head = b"GET /ws HTTP/1.1\r\nHost: " + b"x" * 100
        for index in range(10):
            for sock in dripping:
                try:
                    sock.send(head[index : index + 1])
                except (ConnectionError, BlockingIOError):
                    continue
            await asyncio.sleep(0.1)

        async def gone(sock: socket.socket) -> bytes:
            data = b""
            try:
                while piece := await loop.sock_recv(sock, 4096):
                    data += piece
            except ConnectionError:
                pass
            return data

        async with asyncio.timeout(max(1.0, STALE) + 3.0):
            answers = await asyncio.gather(*map(gone, [*dripping, *mute, *nameless]))
        print(f"all are gone after {time.monotonic() - began:.1f} s")
        assert all(struct.pack("!H", 3502) in answer for answer in answers[200:])
        for sock in [*dripping, *mute, *nameless]:
            sock.close()

    with leakless(server), beside(server):
        asyncio.run(run())


def test_f29_no_descriptor_is_left(start_server: Callable[..., Server], channel: str) -> None:
    """Both workers are at their limit and fifty more connect: accepting rests, one line says so, whoever is inside
    notices nothing, and when there is room again all fifty are served."""
    server = start_server(BRISK)

    async def run() -> None:
        loop = asyncio.get_running_loop()
        mark = len(server.log())
        first, second = server.worker_pids()
        async with SdkClient(server) as client, Api(server) as api:
            await client.subscribe(channel)
            with descriptors(first, 1), descriptors(second, 1):
                socks = [plug(server.port) for _ in range(50)]
                for sock in socks:
                    await loop.sock_sendall(sock, b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n")
                await eventually(lambda: "accepting nothing" in server.log()[mark:], what="the log says so")
                began, spent = time.monotonic(), cpu_seconds(first) + cpu_seconds(second)
                for number in range(20):
                    await api.publish(channel, number)
                    await asyncio.sleep(0.05)
                spent = cpu_seconds(first) + cpu_seconds(second) - spent
                assert spent < 0.3 * (time.monotonic() - began), "nobody spins"
                assert await client.until(channel, 20) == list(range(20))
                assert not client.gone
            answers = await asyncio.wait_for(asyncio.gather(*(loop.sock_recv(sock, 4096) for sock in socks)), 10.0)
            assert all(answer.startswith(b"HTTP/1.1 404 ") for answer in answers)
            for sock in socks:
                sock.close()
        lines = re.findall(r"accepting nothing", server.log()[mark:])
        assert len(lines) <= 2, "one line per worker"
        assert "Traceback" not in server.log()

    with leakless(server):
        asyncio.run(run())


@pytest.mark.parametrize("door", ["sdk", "sse"])
def test_f34_resets_during_fan_out(brisk: Server, channel: str, door: str) -> None:
    """A hundred and fifty clients reset their connections while they are being written to: none of them costs a
    traceback or a line of its own, and whoever stays gets everything."""
    long = f"long:{channel}"

    async def run() -> None:
        mark = len(brisk.log())
        opening = subscribed if door == "sdk" else streaming
        made = [await opening(brisk, long) for _ in range(150)]
        async with Api(brisk) as api, SdkClient(brisk) as staying:
            await staying.subscribe(long)
            for number in range(50):
                await api.publish(long, number)
                for sock in made[3 * number : 3 * number + 3]:
                    hard_close(sock)
            assert await staying.until(long, 50) == list(range(50))
        assert "Traceback" not in brisk.log() and "never retrieved" not in brisk.log()
        assert len(brisk.log()[mark:].splitlines()) <= 2

    with leakless(brisk), beside(brisk):
        asyncio.run(run())


def test_f30_calls_of_the_api_do_not_wait_with_the_clients(start_server: Callable[..., Server], channel: str) -> None:
    """While the waiting room is full, backends are answered at once; whoever finds it full is told to come back."""
    limits = {"connections": {"new_per_second": 2, "wait": "3s"}}
    server = start_server({"server": {"workers": 1}, "limits": limits})

    async def run() -> None:
        async with Api(server) as api:
            raws = [await RawSocket(server).__aenter__() for _ in range(12)]
            for raw in raws:
                await raw.send(upgrade("/connection/websocket"))
            await eventually(lambda: server.metric("rt_waiting") >= 6, what="the room is full")
            began = time.monotonic()
            await api.publish(channel, 1)
            assert time.monotonic() - began < 0.5
            heads = await asyncio.wait_for(asyncio.gather(*(raw.head() for raw in raws)), 5.0)
            statuses = sorted(head.status for head in heads)
            assert statuses[:8] == [101] * 8 and statuses[-1] == 503, statuses
            for raw in raws:
                await raw.__aexit__()

    asyncio.run(run())
    assert server.metric("rt_waits_total") >= 6
    assert server.metric("rt_refusals_total", reason="rate") == 12 - 2 - 6


def test_f30_who_waits_when_the_worker_stops_is_told(start_server: Callable[..., Server], channel: str) -> None:
    """Nobody is kept waiting by a worker that leaves: WebSockets get 503, an EventSource is told to come back."""
    limits = {"connections": {"new_per_second": 1, "wait": "20s"}}
    server = start_server({"server": {"workers": 1}, "limits": limits})

    async def run() -> None:
        raws = [await RawSocket(server).__aenter__() for _ in range(4)]
        requests = [upgrade("/connection/websocket")] * 2
        stream = (
            f"GET {stream_path('/sse', [channel])} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n"
        )
        for raw, request in zip(raws, [*requests, *[stream.encode()] * 2], strict=True):
            await raw.send(request)
            await asyncio.sleep(0.02)
        await eventually(lambda: server.metric("rt_waiting") >= 2, what="they wait")
        stopping = asyncio.ensure_future(asyncio.to_thread(server.stop))
        answers = [await asyncio.wait_for(raw.reader.read(), 5.0) for raw in raws[2:]]
        assert all(answer.startswith(b"HTTP/1.1 200 ") and b"retry: " in answer for answer in answers), answers
        assert await stopping == 0
        for raw in raws:
            await raw.__aexit__()

    asyncio.run(run())
