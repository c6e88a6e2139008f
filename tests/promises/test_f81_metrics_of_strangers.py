"""F81: what strangers make up becomes no label, and what is for operators is not on the public port."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Iterable
from itertools import count

from tests.clients import Api, Http, plug
from tests.promises.leaks import leakless
from tests.raw import close, text, upgrade
from tests.servers import API_KEY, Server
from tests.tokens import connection_token, sign
from tests.waiting import eventually_now

MARK = "evil"
AT_ONCE = 20
GROWN = 60
"""Series that may be new: closed reasons, codes and methods that had not been counted before."""


def names(amount: int) -> Iterable[str]:
    """So many different names that somebody could hope to find again in a label."""
    return (f'{MARK}{number}-"}} 1\\n\u2028{{' for number in range(amount))


def word(name: str) -> str:
    """The part of a name that a channel's name may have."""
    return name.partition("-")[0]


async def each(values: Iterable[str], work: Callable[[str], Awaitable[object]]) -> int:
    """Do ``work`` with all values, some at a time; how many there were."""
    done = count()
    waiting = iter(values)

    async def one() -> None:
        for value in waiting:
            await work(value)
            next(done)

    await asyncio.gather(*(one() for _ in range(AT_ONCE)))
    return next(done)


def series(server: Server) -> set[str]:
    """The names and labels of all samples."""
    lines = server.internal("/metrics")[1].splitlines()
    found = {line.rpartition(" ")[0] for line in lines if not line.startswith("#")}
    return {re.sub(r'pid="\d+"', "", name) for name in found}


def reached(server: Server) -> tuple[float, ...]:
    """How much got as far as it was meant to: unknown methods, publishes, refused namespaces, connects, origins and
    tokens."""
    return (
        server.metric("rt_api_requests_total", method="unknown"),
        server.metric("rt_api_requests_total", method="publish", code="0"),
        server.metric("rt_api_requests_total", method="history", code="102"),
        server.metric("rt_connects_total", transport="websocket"),
        server.metric("rt_refusals_total", reason="origin"),
        server.metric("rt_token_failures_total", reason="signature"),
    )


def test_f81_ten_thousand_hostile_values_make_no_label(brisk: Server) -> None:
    """As method, channel, namespace, event, path, host, origin, user, name, token and close code, over all doors."""

    async def run() -> int:
        loop = asyncio.get_running_loop()
        headers = {"X-API-Key": API_KEY, "Content-Type": "application/json"}
        pool = [await Api(brisk).__aenter__() for _ in range(AT_ONCE)]
        turn = count()
        locks = [asyncio.Lock() for _ in pool]

        async def on_api(path: str, body: dict[str, object]) -> None:
            at = next(turn) % AT_ONCE
            async with locks[at]:
                answer = await pool[at].request("POST", path, json.dumps(body).encode(), headers)
                assert answer.status < 500
                if answer.headers.get("connection", "").lower() == "close":
                    await pool[at].__aexit__()
                    await pool[at].__aenter__()

        async def method(name: str) -> None:
            await on_api(f"/api/{name.encode().hex()}{MARK}", {})

        async def publication(name: str) -> None:
            await on_api("/api/publish", {"channel": word(name), "data": {name: name}, "tags": {"k": name}})

        async def namespace(name: str) -> None:
            await on_api("/api/history", {"channel": f"{word(name)}:x"})

        async def raw(*requests: bytes) -> None:
            sock = plug(brisk.port)
            try:
                for request in requests:
                    await loop.sock_sendall(sock, request)
                await asyncio.wait_for(loop.sock_recv(sock, 4096), 5)
            except OSError:
                pass
            finally:
                sock.close()

        async def door(name: str) -> None:
            number = int(re.findall(r"\d+", name)[0])
            hexed = name.encode().hex()
            token = connection_token(name)
            forged = sign({"sub": name, "iss": name}, name * 9, kid=name)
            connect = {"id": 1, "connect": {"token": token, "name": name, "version": name, "data": {name: 1}}}
            await raw(f"GET /{MARK}{hexed} HTTP/1.1\r\nHost: {MARK}{hexed[:40]}.example\r\n\r\n".encode())
            await raw(upgrade("/connection/websocket", Origin=f"https://{MARK}{number}.example"))
            await raw(f"GET /sse?channel=a&token={forged} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            await raw(upgrade("/connection/websocket"), text(connect), close(3000 + number, name.encode()[:100]))
            await raw(f"{MARK}{number} / HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())

        try:
            made = await each(names(4000), method)
            made += await each(names(2500), publication)
            made += await each(names(1500), namespace)
            made += 5 * await each(names(400), door)
        finally:
            for one in pool:
                await one.__aexit__()
        return made

    with leakless(brisk, grown=96 << 20):
        before, heard = series(brisk), reached(brisk)
        made = asyncio.run(run())
        assert made == 10_000
        eventually_now(lambda: brisk.metric("rt_connections") == 0)
    eventually_now(lambda: all(now - then >= 400 for now, then in zip(reached(brisk), heard, strict=True)))
    after = series(brisk)
    told = brisk.internal("/metrics")[1]
    assert MARK not in told and MARK.encode().hex() not in told
    assert len(after - before) <= GROWN, sorted(after - before)


def test_f81_what_is_for_operators_is_not_on_the_public_port(brisk: Server) -> None:
    """Neither metrics nor health nor console, with the API's key or without, whatever the path is written like."""

    async def run() -> None:
        for path in ("/metrics", "/health", "/ready", "/admin", "/admin/", "//metrics", "/metrics/", "/./metrics",
                     "/%6detrics", "/t/default/metrics", "/api/../metrics"):  # fmt: skip
            for headers in ({}, {"X-API-Key": API_KEY}):
                async with Http(brisk) as http:
                    answer = await http.request("GET", path, b"", headers)
                    assert answer.status in (400, 401, 404, 405), (path, answer.status)
                    assert b"rt_" not in answer.body and b"ready" not in answer.body

    asyncio.run(run())
