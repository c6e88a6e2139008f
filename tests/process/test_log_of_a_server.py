"""The log of a whole server: one line per record, nothing secret in it, and nobody waits for it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.clients import Api, Ended, Http, SdkClient, plug
from tests.raw import text, upgrade
from tests.servers import API_KEY, ORIGIN, ROOT, Server
from tests.tokens import KEY, connection_token, sign, subscription_token
from tests.tools import small_disk
from tests.waiting import eventually_now

LINE = re.compile(
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (debug|info|warning|error|critical) +[\w.]+(\[[\w. -]+\])? \S.*"
)
SECRET = "s3cr3t"
NASTY = f"{SECRET}\r\n2026-01-01T00:00:00.000Z error   rt forged\x1b[31m\x00\u2028\u202e"


def started_on(server: Server, descriptor: int, **environment: str) -> None:
    """Start the server with this as its standard error."""
    server.write_config()
    server.process = subprocess.Popen(
        [sys.executable, str(ROOT / "server.py"), "run", str(server.config_file)],
        cwd=server.folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=descriptor,
        start_new_session=True, env={**os.environ, **environment},
    )  # fmt: skip


def closings(log: str) -> list[str]:
    """The lines about closed connections."""
    return [line for line in log.splitlines() if "a connection was closed" in line]


async def publish_some(server: Server, channel: str) -> None:
    """Twenty publications reach a client."""
    async with Api(server) as api, SdkClient(server) as client:
        await client.subscribe(channel)
        for number in range(20):
            await api.publish(channel, number)
        assert await client.until(channel, 20) == list(range(20))


@pytest.mark.parametrize("reader", ["asleep", "gone"])
def test_f73_a_log_that_nobody_reads(reader: str, channel: str) -> None:
    """Standard error is a full pipe, or one whose reader has gone: the server starts, serves, says that lines are lost,
    brings back a killed worker, and stops in time."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    if reader == "gone":
        os.close(read)
    else:
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(write, b"x" * 4096)
    os.set_blocking(write, True)
    server = Server({"delivery": {"linger": "300ms"}}, await_ready=False)
    try:
        started_on(server, write)
        os.close(write)
        server.wait_ready()
        asyncio.run(publish_some(server, channel))
        asyncio.run(invalid_tokens(server, 20))
        server.kill_worker(server.worker_pids()[0])
        server.wait_workers()
        asyncio.run(publish_some(server, f"{channel}-2"))
        if reader == "gone":
            eventually_now(lambda: server.metric("rt_log_lines_dropped_total") > 0)
        assert server.stop() == 0
    finally:
        server.end_group()
        if reader == "asleep":
            os.close(read)


@pytest.mark.needs("file systems")
def test_f73_a_disk_that_is_full(monkeypatch: pytest.MonkeyPatch, channel: str) -> None:
    """The log and the metrics are on it: nobody is killed for writing there, a killed worker comes back and serves, and
    the server stops in time."""
    with small_disk("4m") as disk:
        monkeypatch.setenv("RUNTIME_DIRECTORY", str(disk))
        server = Server({"delivery": {"linger": "300ms"}}, await_ready=False)
        server.log_file = disk / "log"
        try:
            server.start()
            server.wait_ready()
            with contextlib.suppress(OSError), (disk / "rest").open("wb", buffering=0) as rest:
                while True:
                    rest.write(b"x" * 1024)
            asyncio.run(publish_some(server, channel))
            workers = server.worker_pids()
            server.kill_worker(workers[0])
            eventually_now(lambda: len(set(server.worker_pids()) - set(workers)) == 1, 30)
            asyncio.run(publish_by(server, set(server.worker_pids()) - set(workers), f"{channel}-2"))
            assert server.stop() == 0
        finally:
            server.end_group()


async def publish_by(server: Server, pids: set[int], channel: str) -> None:
    """A client of one of these workers gets what is published."""

    async with Api(server) as api:
        client = await SdkClient(server).__aenter__()
        while client.worker() not in pids:
            await client.close()
            client = await SdkClient(server).__aenter__()
        await client.subscribe(channel)
        await api.publish(channel, 1)
        assert await client.until(channel, 1) == [1]
        await client.close()


async def invalid_tokens(server: Server, count: int) -> None:
    """So many who connect with a token that somebody else has signed."""
    forged = sign({"sub": SECRET}, "a-key-of-somebody-else-0123456789abcdef")
    for _ in range(count):
        with contextlib.suppress(Ended):
            async with SdkClient(server, token=forged):
                raise AssertionError("it was let in")


def test_a_closed_connection_is_told_once_with_its_id_and_why(start_server: Callable[..., Server]) -> None:
    """One line per reason and worker in ten seconds; of a close that a backend chose, the code without the words."""
    server = start_server()

    async def run() -> str:
        await invalid_tokens(server, 12)
        async with SdkClient(server, token=connection_token("7")) as client, Api(server) as api:
            await api.call("disconnect", user="7", disconnect={"code": 4321, "reason": NASTY[:40]})
            with contextlib.suppress(Ended):
                await client.ended
            return str(client.connected["client"])

    client = asyncio.run(run())
    eventually_now(lambda: "reason=custom" in server.log())
    lines = closings(server.log())
    refused = [line for line in lines if " reason=invalid_token code=3500 connection=" in line]
    assert 1 <= len(refused) <= 2 and all(" transport=websocket tenant=default" in line for line in refused)
    (custom,) = [line for line in lines if "reason=custom" in line]
    assert f"connection={client}" in custom and "code=4321" in custom and SECRET not in custom
    assert len(lines) == len(refused) + 1


def test_the_ends_that_nobody_asks_about_are_not_told(start_server: Callable[..., Server], channel: str) -> None:
    """A client that leaves, a socket that breaks, and a stop; and no request at all is: there is no access log."""
    server = start_server()

    async def run() -> None:
        await publish_some(server, channel)
        async with Http(server) as http:
            assert (await http.request("GET", "/nothing/here")).status == 404
        async with SdkClient(server) as client:
            await client.subscribe(channel)
            client.socket.transport.abort()

    asyncio.run(run())
    eventually_now(lambda: server.metric("rt_connections") == 0)
    assert not closings(server.log())
    assert "/nothing" not in server.log() and "publish" not in server.log()


def test_nothing_of_what_clients_send_gets_into_the_log(start_server: Callable[..., Server], channel: str) -> None:
    """Tokens, keys, payloads, queries, headers and names with line ends and escapes, at every door: each line of the
    log is one of ours, printable, and without any of it."""
    server = start_server()
    token = connection_token("8", info={"name": NASTY})
    forged = sign({"sub": SECRET, "iss": NASTY}, KEY[::-1])
    ticket = subscription_token(f"closed:{SECRET}", "8")

    async def raw(*requests: bytes) -> None:
        with plug(server.port) as sock:
            for request in requests:
                await asyncio.get_running_loop().sock_sendall(sock, request)
            with contextlib.suppress(OSError, TimeoutError):
                await asyncio.wait_for(asyncio.get_running_loop().sock_recv(sock, 4096), 2)

    async def run() -> None:
        async with SdkClient(server, token=token) as client, Api(server) as api:
            await client.subscribe(channel)
            await api.publish(channel, {NASTY: NASTY}, tags={"t": NASTY})
            await client.until(channel, 1)
            for name in (NASTY, f"{SECRET}:x"):
                with contextlib.suppress(Exception):
                    await api.call("publish", channel=name, data=NASTY)
                with contextlib.suppress(Exception):
                    await client.call("subscribe", {"channel": name, "token": ticket})
        for path in (f"/sse?channel=a&token={forged}", f"/ws?{SECRET}", f"/api/{SECRET}?api_key={SECRET}",
                     f"/{SECRET}?a={SECRET}", f"/t/{SECRET}/sse?channel={SECRET}"):  # fmt: skip
            await raw(f"GET {path} HTTP/1.1\r\nHost: {SECRET}\r\nAuthorization: Bearer {forged}\r\n\r\n".encode())
            await raw(upgrade(path, Origin=ORIGIN), text({"id": 1, "connect": {"token": forged, "name": NASTY}}))
        for head in (f"X-API-Key: {SECRET}", f"Content-Length: {SECRET}", f"{SECRET}: \x1b[31m", f"Cookie: {SECRET}"):
            await raw(f"POST /api/publish HTTP/1.1\r\nHost: a\r\n{head}\r\n\r\n".encode())
        for message in ({"id": 1, "connect": {"token": forged}}, {"id": 1, "connect": {"data": NASTY}, SECRET: 1}):
            await raw(upgrade("/connection/websocket"), text(message), text({"id": 2, "rpc": {"method": SECRET}}))
        await raw(f"{NASTY}\r\n\r\n".encode())

    asyncio.run(run())
    log = server.log()
    for secret in (SECRET, token, forged, ticket, API_KEY, KEY, "forged", "eyJ"):
        assert secret not in log
    assert re.fullmatch(r"[ -~\n]*", log), "only what can be printed"
    for line in log.splitlines():
        assert LINE.fullmatch(line), line


def test_under_systemd_lines_have_the_journals_priorities(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Standard error is the journal's stream, as JOURNAL_STREAM says: every line of every process begins with its
    level, and leaves the time to the journal."""
    server = Server(await_ready=False)
    with server.log_file.open("ab") as log:
        stat = os.fstat(log.fileno())
        started_on(server, log.fileno(), JOURNAL_STREAM=f"{stat.st_dev}:{stat.st_ino}")
    try:
        server.wait_ready()
        asyncio.run(invalid_tokens(server, 1))
        server.kill_worker(server.worker_pids()[0])
        server.wait_workers()
        assert server.stop() == 0
    finally:
        server.end_group()
    lines = server.log().splitlines()
    assert lines and all(re.match(r"<[2-7]>rt[\w.]*(\[worker \d+\])? ", line) for line in lines), lines
    assert any(line.startswith("<6>") for line in lines)
