"""F72, F73, F74: clocks that step, logs that cannot be written, and clients that would fill them."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import processes
from tests.clients import Api, SdkClient, plug
from tests.faults.clock import Clock
from tests.promises.brisk import BRISK
from tests.promises.leaks import leakless
from tests.raw import upgrade
from tests.roles.cast import cast
from tests.servers import ROOT, STOP, Server
from tests.waiting import eventually_now

HOUR, MONTH = 3600.0, 30 * 86400.0
QUICK = {"delivery": {"linger": "300ms"}}


@pytest.mark.timeout(90)
def test_f72_the_clock_jumps_while_readers_come_and_go() -> None:
    """An hour and thirty days, both ways, and NTP's slew, of all workers or of one: nobody loses anything, is cut, or
    gets a position twice."""
    with Clock() as clock, Server(QUICK) as server:
        with leakless(server), cast(server, readers=6, publishers=2, rate=40, reconnect_every=1.0, seed=72) as run:
            for seconds in (-HOUR, MONTH, HOUR):
                with run.fault(f"the clock steps by {seconds:g} s"), clock.stepped(seconds):
                    run.wait(receives=60)
            with clock.stepped(-MONTH, server.worker_pids()[0]):
                run.wait(receives=60)
            clock.slew(0.0005)
            run.wait(receives=60)
            run.assert_clean(at_least=300)
        assert server.metric("rt_recoveries_total", outcome="gap") == 0
        eventually_now(lambda: server.internal("/ready")[0] == 200)


def test_f73_a_log_that_cannot_be_written(channel: str) -> None:
    """Standard error is a full disk: every write fails. The server serves, brings back a killed worker, and stops."""

    async def run() -> None:
        async with Api(server) as api, SdkClient(server) as client:
            await client.subscribe(channel)
            for number in range(20):
                await api.publish(channel, number)
            assert await client.until(channel, 20) == list(range(20))

    server = Server(QUICK, await_ready=False)
    server.write_config()
    with Path("/dev/full").open("wb") as full:
        server.process = subprocess.Popen(
            [sys.executable, str(ROOT / "server.py"), "run", str(server.config_file)],
            cwd=server.folder, stdin=subprocess.DEVNULL, stdout=full, stderr=full, start_new_session=True,
        )  # fmt: skip
    try:
        server.wait_ready()
        asyncio.run(run())
        bad_handshakes(server, 200)
        server.kill_worker(server.worker_pids()[0])
        server.wait_workers()
        asyncio.run(run())
        assert server.stop() == 0
    finally:
        server.end_group()


def bad_handshakes(server: Server, count: int) -> None:
    """So many requests that make no sense, of several kinds, and one that is refused late."""

    async def run() -> None:
        loop = asyncio.get_running_loop()
        requests = (
            upgrade("/connection/websocket", Sec_WebSocket_Key="x"),
            b"GET / HTTP/1.1\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 100,
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"GET /sse?channel=%ff HTTP/1.1\r\nHost: localhost\r\n\r\n",
            upgrade("/connection/websocket", Origin="https://evil.example"),
            b"POST /api/publish HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nX-API-Key: no\r\n\r\nhello",
            upgrade("/connection/websocket") + b"\xff" * 20,
        )

        async def one(number: int) -> None:
            sock = plug(server.port)
            try:
                await loop.sock_sendall(sock, requests[number % len(requests)])
                if number % 3:
                    await asyncio.wait_for(loop.sock_recv(sock, 1024), 0.1)
            except (ConnectionError, TimeoutError):
                pass
            finally:
                sock.close()

        for first in range(0, count, 50):
            await asyncio.gather(*(one(number) for number in range(first, min(first + 50, count))))

    asyncio.run(run())


def test_f74_bad_handshakes_do_not_fill_the_log(brisk: Server) -> None:
    """Two thousand of eight kinds: at most a line per class and worker in ten seconds, and no traceback."""
    with leakless(brisk):
        mark, began = len(brisk.log()), time.monotonic()
        bad_handshakes(brisk, 2000)
        seconds = time.monotonic() - began
        lines = brisk.log()[mark:].splitlines()
    classes: dict[str, int] = {}
    for line in lines:
        kind = re.sub(r"\d+", "#", line.partition(" ")[2])[:80]
        classes[kind] = classes.get(kind, 0) + 1
    print(f"{len(lines)} lines in {seconds:.1f} s: {classes}")
    assert all(count <= 2 * (1 + seconds // 10) for count in classes.values()), classes
    assert len(lines) <= 20
    assert not any("Traceback" in line for line in lines)


def test_f70_a_stop_in_the_middle_of_a_respawn() -> None:
    """A worker has just been killed when SIGTERM comes: the server ends in time, with status 0, and leaves nobody."""
    with Server(BRISK) as server:
        assert server.process is not None
        below = set(processes.descendants(server.pid))
        server.kill_worker(server.worker_pids()[0])
        began = time.monotonic()
        processes.kill(server.pid, signal.SIGTERM)
        while server.process.poll() is None and time.monotonic() < began + STOP:
            below |= set(processes.descendants(server.pid))
        assert server.process.wait(0.1) == 0
        assert not {pid for pid in below if processes.alive(pid)}
