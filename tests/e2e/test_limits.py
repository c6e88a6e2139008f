"""Limits of real servers, from outside: commands, connects, calls, what is read, over one worker and several."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from tests import processes
from tests.clients import Api, Ended, Http, PlainSocket, Reader, Reply, Response, SdkClient, UniSocket
from tests.eventsource import EventSource
from tests.hurry import Hurried
from tests.raw import RawSocket, Shut, upgrade
from tests.servers import API_KEY, Server
from tests.stores import Store
from tests.tokens import connection_token
from tests.waiting import eventually

SDK = "/connection/websocket"
ONE: dict[str, Any] = {"server": {"workers": 1}}
BEHIND_A_PROXY: dict[str, Any] = {"server": {"workers": 1, "trusted_proxies": ["127.0.0.0/8"]}}
Start = Callable[..., Server]
SECONDS = float(os.environ.get("LIMIT_SECONDS", "10"))
"""For which a shared rule is measured."""


def limits(*rates: dict[str, Any], **more: Any) -> dict[str, Any]:
    """The section of a config."""
    return {"limits": {"rates": list(rates), **more}}


async def knock(server: Server, path: str = SDK, **headers: str | None) -> Response:
    """The answer to a handshake; the socket is closed then."""
    async with RawSocket(server) as raw:
        await raw.send(upgrade(path, **headers))
        return await raw.head()


async def get(server: Server, path: str, **headers: str) -> Response:
    """The answer to a GET without keeping a stream open."""
    async with RawSocket(server) as raw:
        lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
        await raw.send(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n".encode())
        return await raw.head()


# Commands


@pytest.mark.alone
def test_a_local_bucket_is_exact(start_server: Start) -> None:
    """P16: what passes is burst and rate times time, give or take one, and who waits as it is told is let pass."""
    rule = {"on": "publish", "per": "connection", "rate": "50/s", "burst": 20}
    server = start_server({**ONE, **limits(rule, tolerance=0)})

    async def run() -> None:
        async with Hurried(server) as hurried:
            began = time.monotonic()
            while time.monotonic() - began < 3.0:
                await hurried.ask(25, "publish", channel="live:a", data=1)
                await asyncio.sleep(0.05)
            await eventually(lambda: hurried.answered == hurried.sent)
            took = time.monotonic() - began
            assert hurried.codes[0] + hurried.codes[111] == hurried.sent
            assert 20 + 50 * (took - 0.1) - 1 <= hurried.codes[0] <= 20 + 50 * took + 1
            assert 0 < max(hurried.waits) <= 0.021
            await asyncio.sleep(1.0)
            good = hurried.codes[0]
            await hurried.ask(20, "publish", channel="live:a", data=1)
            await eventually(lambda: hurried.answered == hurried.sent)
            assert hurried.codes[0] == good + 20
        metrics = server.metric("rt_limit_hits_total", on="publish", per="connection", namespace="-")
        await eventually(lambda: server.metric("rt_limit_hits_total", on="publish") == hurried.codes[111])
        assert metrics <= hurried.codes[111]

    asyncio.run(run())


@pytest.mark.timeout(90 + 2 * SECONDS)
@pytest.mark.alone
def test_a_shared_rule_over_four_workers(start_server: Start) -> None:
    """P16, F58: one budget whichever worker: a thousand a second are asked for, a hundred pass, within a tenth."""
    rule = {"on": "publish", "per": "user", "rate": "100/s", "burst": 10, "shared": True}
    server = start_server({"server": {"workers": 4}, **limits(rule, tolerance=0)})

    async def run() -> None:
        async with AsyncExitStack() as stack:
            crowd = [await stack.enter_async_context(Hurried(server, "42")) for _ in range(16)]
            assert len({one.node for one in crowd}) >= 3
            await asyncio.sleep(1.0)
            began = time.monotonic()
            while time.monotonic() - began < SECONDS:
                for one in crowd:
                    await one.ask(6, "publish", channel="live:a", data=1)
                await asyncio.sleep(0.1)
            await eventually(lambda: all(one.answered == one.sent for one in crowd), 30)
            took = time.monotonic() - began
            passed, asked = sum(one.codes[0] for one in crowd), sum(one.sent for one in crowd)
            print(f"passed {passed} of {asked} in {took:.1f} s")
            assert asked > 5 * passed
            assert 0.9 * (100 * SECONDS + 10) <= passed <= 1.1 * (100 * took + 10), (passed, took)
            await eventually(lambda: server.metric("rt_quota_asked_total") > 0)
            # An exhausted bucket costs no call: far fewer questions than commands.
            assert server.metric("rt_quota_asked_total") < asked / 3

    asyncio.run(run())


@pytest.mark.parametrize(("redis_down", "codes"), [("allow", {100}), ("deny", {111}), ("local", {100, 111})])
def test_a_shared_rule_without_its_store(start_server: Start, redis_down: str, codes: set[int]) -> None:
    """P16: what holds is each rule's choice (100 is the publish itself, which needs the store), and said once."""
    rule = {"on": "publish", "per": "user", "rate": "1/h", "burst": 5, "shared": True, "redis_down": redis_down}

    async def run(store: Store) -> None:
        server = start_server({**ONE, "redis": {"url": store.url}, **limits(rule, tolerance=3)})
        async with Hurried(server, "42") as hurried:
            await hurried.ask(5, "publish", channel="live:a", data=1)
            await eventually(lambda: hurried.codes[0] == 5)
            store.kill()
            await eventually(lambda: server.metric("rt_store_connected") == 0)
            for _ in range(10):
                await hurried.ask(2, "publish", channel="live:a", data=1)
                await eventually(lambda: hurried.answered == hurried.sent or hurried.shut_by)
            assert hurried.codes.keys() - {0} == codes
            # With `local` it is the client that is over its limit; with `deny` nobody is to blame.
            assert (hurried.shut_by is not None) is (redis_down == "local")
            assert server.log().count("quotas cannot be counted") == 1
            store.start()
            await eventually(lambda: server.internal("/ready")[0] == 200, 30)
            await asyncio.sleep(1.1)  # the next look whether it is back
            async with Hurried(server, "43") as other:
                await other.ask(1, "publish", channel="live:a", data=1)
                await eventually(lambda: other.codes[0] == 1)
            assert server.log().count("quotas are counted again") == 1

    with Store() as store:
        asyncio.run(run(store))


def test_repeated_violation_is_cut(start_server: Start) -> None:
    """3013, and the log says so in one line, without what was asked."""
    rule = {"on": "history", "per": "user", "rate": "1/m", "burst": 1}
    server = start_server({**ONE, **limits(rule, tolerance=50)})

    async def run() -> None:
        async with Hurried(server, "42") as hurried:
            before = len(server.log())
            await hurried.ask(1000, "history", channel="a")
            await eventually(lambda: hurried.shut_by is not None)
            assert hurried.shut_by is not None and hurried.shut_by.code == 3013
            assert hurried.codes == {0: 1, 111: 51}
            await eventually(lambda: "reason=too_many_requests" in server.log()[before:])
            # The supervisor may say only now that all workers are ready.
            (line,) = [line for line in server.log()[before:].splitlines() if " rt.supervisor" not in line]
            assert " code=3013 connection=" in line and "history" not in line
            await eventually(lambda: server.metric("rt_disconnects_total", reason="too_many_requests") == 1)

    asyncio.run(run())


def test_a_reload_changes_limits_under_connections(start_server: Start) -> None:
    """Nobody is disconnected, and no bucket filled: what was used up stays used up."""
    rule = {"on": "history", "per": "user", "rate": "1/h", "burst": 3}
    server = start_server({**ONE, **limits(rule)})

    async def run() -> None:
        async with SdkClient(server, token=connection_token()) as client:
            for _ in range(3):
                await client.history("a")
            with pytest.raises(Reply, match="111"):
                await client.history("a")
            server.write_config(
                limits({**rule, "burst": 100, "rate": "2/h"}, {"on": "publish", "per": "user", "rate": "1/h"})
            )
            processes.kill(server.pid, signal.SIGHUP)
            await eventually(lambda: published(client), what="the new rule holds")
            with pytest.raises(Reply, match="111"):
                await client.history("a")
            server.write_config({"limits": {"rates": []}})
            processes.kill(server.pid, signal.SIGHUP)
            await asyncio.sleep(1.0)
            for _ in range(20):
                await client.history("a")
            assert not client.gone

    tasks: list[asyncio.Task[Any]] = []

    def published(client: SdkClient) -> bool:
        if tasks and tasks[-1].done() and tasks[-1].exception() is not None:
            return True
        if not tasks or tasks[-1].done():
            tasks.append(asyncio.create_task(client.publish("live:a", 1)))
        return False

    asyncio.run(run())


# What is read


@pytest.mark.alone
def test_an_exhausted_message_bucket_stops_the_reading(start_server: Start) -> None:
    """Nothing is refused: a flood is carried out at its rate, in order; the sender is stopped by its own buffers."""
    rule = {"on": "message", "per": "connection", "rate": "200/s", "burst": 50}
    server = start_server({**ONE, **limits(rule), "client": {"ping_interval": "1s", "pong_timeout": "900ms"}})

    async def run() -> None:
        async with Hurried(server) as flood, SdkClient(server) as calm:
            began = time.monotonic()
            await flood.ask(650, "unsubscribe", channel="a")
            slowest = 0.0
            while flood.answered < 650:
                asked = time.monotonic()
                await calm.history("a")
                slowest = max(slowest, time.monotonic() - asked)
                assert flood.answered <= 50 + 200 * (time.monotonic() - began) + 1
                await asyncio.sleep(0.02)
                assert time.monotonic() - began < 10
            assert time.monotonic() - began >= (650 - 50) / 200 - 0.1
            assert slowest < 0.25
            assert flood.codes == {0: 650} and flood.shut_by is None
        await eventually(lambda: server.metric("rt_limit_hits_total", on="message", per="connection") > 0)

    asyncio.run(run())


@pytest.mark.parametrize("door", [SDK, "/ws?channel=a", "/sse?channel=a"])
def test_an_exhausted_bucket_of_bytes_stops_the_reading(start_server: Start, door: str) -> None:
    """Over every door: the kernel's buffers take some, the worker no more than the rate says."""
    server = start_server({**ONE, **limits({"on": "bytes", "per": "ip", "rate": "64KiB/s", "burst": "64KiB"})})

    async def run() -> None:
        async with RawSocket(server) as raw:
            if door.startswith("/sse"):
                await raw.send(f"GET {door} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            else:
                await raw.send(upgrade(door))
            await raw.head()
            ping = b"\x82\xfe\x10\x00" + b"\0" * (4096 + 4)  # binary, 4 KiB, masked with zeros
            junk = ping if not door.startswith(SDK) else b"\x81\xfe\x10\x00" + b"\0" * 4 + b'{"send":{}}' + b" " * 4085
            if door == SDK:
                await raw.send(b"\x81\x98\0\0\0\0" + b'{"id":1,"connect":{}}   ')

            async def flood() -> None:
                while True:
                    raw.writer.write(junk)
                    await raw.writer.drain()

            flooding = asyncio.create_task(flood())
            await asyncio.sleep(2.0)
            flooding.cancel()
            await asyncio.sleep(1.1)
            got = server.metric("rt_received_bytes_total") if not door.startswith("/sse") else 0
            assert got <= 64 * 1024 * 6, got
            assert server.metric("rt_limit_hits_total", on="bytes", per="ip") > 0
            async with SdkClient(server) as client:
                assert client.connected["client"]

    asyncio.run(run())


# Coming in


@pytest.mark.parametrize("shared", [False, True])
def test_connects_of_an_address(start_server: Start, shared: bool) -> None:
    """Over the limit a handshake is 429 with the draft's fields, a stream too, and an EventSource is told to wait."""
    rule = {"on": "connect", "per": "ip", "rate": "6/m", "burst": 3, "shared": shared}
    server = start_server({**BEHIND_A_PROXY, **limits(rule)})

    async def run() -> None:
        for path in (SDK, "/ws?channel=a"):
            assert (await knock(server, path, X_Forwarded_For="192.0.2.1")).status == 101
        assert (await get(server, "/sse?channel=a", X_Forwarded_For="192.0.2.1")).status == 200
        for path in (SDK, "/ws?channel=a", "/connection/uni_websocket"):
            answer = await knock(server, path, X_Forwarded_For="192.0.2.1")
            assert answer.status == 429 and answer.headers["retry-after"] in ("9", "10")
            assert answer.headers["ratelimit-policy"] == '"connect-ip";q=3;w=30'
            assert answer.headers["ratelimit"] == '"connect-ip";r=0;t=30'
        for path in ("/sse?channel=a", "/connection/uni_sse?cf_connect=%7B%7D"):
            assert (await get(server, path, X_Forwarded_For="192.0.2.1")).status == 429
            told = await get(server, path, X_Forwarded_For="192.0.2.1", Accept="text/event-stream")
            assert told.status == 200
        assert (await knock(server, X_Forwarded_For="192.0.2.2")).status == 101
        assert (await knock(server, X_Forwarded_For="2001:db8::1")).status == 101

    asyncio.run(run())


def test_f59_forged_headers_change_nothing(start_server: Start) -> None:
    """Without a trusted proxy all of these are the one address that they come from; with one, its own word counts."""
    rule = {"on": "connect", "per": "ip", "rate": "1/h", "burst": 5}
    direct = start_server({**ONE, **limits(rule)})
    behind = start_server({**BEHIND_A_PROXY, **limits(rule)})
    headers = ["X_Forwarded_For", "X_Real_Ip", "Forwarded", "X_Client_Ip", "True_Client_Ip", "Cf_Connecting_Ip"]

    async def run() -> None:
        forged = [
            {name: f"for=192.0.2.{n}" if name == "Forwarded" else f"192.0.2.{n}"} for n, name in enumerate(headers)
        ]
        assert [(await knock(direct, **one)).status for one in forged] == [101] * 5 + [429]
        got = [(await knock(behind, X_Forwarded_For=f"192.0.2.{n}, 192.0.2.99")).status for n in range(6)]
        assert got == [101] * 5 + [429]  # what the client wrote itself stands to the left of its address
        got = [(await knock(behind, X_Real_Ip=f"192.0.2.{n}")).status for n in range(6)]
        assert got == [101] * 5 + [429]  # nobody's header: all of them are the proxy's own

    asyncio.run(run())


def test_f58_a_network_is_one_address(start_server: Start) -> None:
    """A flood from one IPv6 /64 is one sender's, a flood of one user from a thousand addresses is one user's."""
    rules = [
        {"on": "connect", "per": "ip", "rate": "1/h", "burst": 5},
        {"on": "publish", "per": "user", "rate": "1/h", "burst": 50},
    ]
    server = start_server({**BEHIND_A_PROXY, **limits(*rules, tolerance=0)})

    async def run() -> None:
        got = [(await knock(server, X_Forwarded_For=f"2001:db8::{n:x}:1")).status for n in range(1, 11)]
        assert got == [101] * 5 + [429] * 5
        async with AsyncExitStack() as stack:
            crowd = [
                await stack.enter_async_context(Hurried(server, "42", address=f"198.51.{n // 200}.{n % 200 + 1}"))
                for n in range(200)
            ]
            for one in crowd:
                await one.ask(2, "publish", channel="live:a", data=1)
            await eventually(lambda: all(one.answered == 2 for one in crowd))
            assert sum(one.codes[0] for one in crowd) == 50

    asyncio.run(run())


def test_connections_of_an_address(start_server: Start) -> None:
    """``per_ip``: 429 while there are so many, over any door; who leaves makes room."""
    server = start_server({**BEHIND_A_PROXY, "limits": {"connections": {"per_ip": 3}}})

    async def run() -> None:
        mine: dict[str, Any] = {"additional_headers": {"X-Forwarded-For": "192.0.2.1"}}
        async with SdkClient(server, **mine), PlainSocket(server, ["a"], **mine):
            async with UniSocket(server, **mine):
                for path in (SDK, "/ws?channel=a"):
                    answer = await knock(server, path, X_Forwarded_For="192.0.2.1")
                    assert (answer.status, answer.headers["retry-after"]) == (429, "1")
                assert (await get(server, "/sse?channel=a", X_Forwarded_For="192.0.2.1")).status == 429
                assert (await knock(server, X_Forwarded_For="192.0.2.2")).status == 101

            async def fits() -> bool:
                return (await knock(server, X_Forwarded_For="192.0.2.1")).status == 101

            while not await fits():
                await asyncio.sleep(0.05)
        await eventually(lambda: server.metric("rt_refusals_total", reason="per_ip") >= 3)

    asyncio.run(run())


@pytest.mark.timeout(60)
def test_an_address_does_not_fill_the_waiting_room(start_server: Start) -> None:
    """Who waits for its turn counts for ``per_ip`` as if it were in; so there is room for others."""
    connections = {"per_ip": 2, "new_per_second": 1, "wait": "8s"}
    server = start_server({**BEHIND_A_PROXY, "limits": {"connections": connections}})

    async def run() -> None:
        greedy = [asyncio.create_task(knock(server, X_Forwarded_For="192.0.2.1")) for _ in range(12)]
        await eventually(lambda: server.metric("rt_refusals_total", reason="per_ip") >= 8)
        other = await knock(server, X_Forwarded_For="192.0.2.2")
        assert other.status == 101
        got = sorted([(await one).status for one in greedy])
        assert got[:2] == [101, 101] and got.count(429) >= 8 and 503 not in got, got
        assert (await knock(server, X_Forwarded_For="192.0.2.1")).status == 101

    asyncio.run(run())


@pytest.mark.parametrize("kick", ["newest", "oldest"])
def test_connections_of_a_user(start_server: Start, kick: str) -> None:
    """``per_user`` over both workers and all doors: one too many, and the newest or the oldest has to go (3504)."""
    connections = {"per_user": 3, **({"kick": kick} if kick == "oldest" else {})}
    server = start_server({"limits": {"connections": connections}})
    mine = connection_token("42")

    async def run() -> None:
        async with AsyncExitStack() as stack:
            first = await stack.enter_async_context(SdkClient(server, token=mine))
            await asyncio.sleep(0.1)
            second = await stack.enter_async_context(PlainSocket(server, ["a"], query=f"token={mine}"))
            third = await stack.enter_async_context(SdkClient(server, token=mine))
            await asyncio.sleep(0.3)
            others = [
                await stack.enter_async_context(SdkClient(server, token=connection_token(f"u{n}"))) for n in range(8)
            ]
            anonymous = [await stack.enter_async_context(SdkClient(server)) for _ in range(8)]
            if kick == "oldest":
                fourth = await stack.enter_async_context(SdkClient(server, token=mine))
                assert (await first.wait_ended()).code == 3504
                fifth = await stack.enter_async_context(SdkClient(server, token=mine))
                assert (await second.wait_ended()).code == 3504
                left: list[Reader] = [third, fourth, fifth]
            else:
                for _ in range(6):
                    await too_many(server, mine)
                left = [first, second, third]
            await asyncio.sleep(0.3)
            assert not any(one.gone for one in (*left, *others, *anonymous))
        async with SdkClient(server, token=mine):  # who left makes room
            pass

    async def too_many(server: Server, mine: str) -> None:
        try:
            async with SdkClient(server, token=mine) as client:
                assert (await client.wait_ended()).code == 3504
        except Exception as refused:
            assert "3504" in str(refused)

    asyncio.run(run())


@pytest.mark.parametrize("kick", ["newest", "oldest"])
def test_seats_of_a_killed_worker_end(start_server: Start, kick: str) -> None:
    """What it had counts for ``redis.presence_ttl`` at most; with ``kick: oldest`` nobody has to wait for that."""
    server = start_server(
        {
            **ONE,
            "redis": {"presence_ttl": "3s"},
            "client": {"presence_update_interval": "1s"},
            "limits": {"connections": {"per_user": 1, **({"kick": kick} if kick == "oldest" else {})}},
        }
    )
    mine = connection_token("42")

    async def stays() -> bool:
        try:
            async with SdkClient(server, token=mine) as client:
                await asyncio.sleep(0.3)
                return not client.gone
        except Exception as refused:
            assert "3504" in str(refused)
            return False

    async def run() -> None:
        async with SdkClient(server, token=mine) as first:
            (pid,) = server.worker_pids()
            server.kill_worker(pid)
            await first.wait_ended()
            await asyncio.to_thread(server.wait_workers, 1)
            began = time.monotonic()
            while kick == "newest" and not await stays():
                assert time.monotonic() - began < 6.0
                await asyncio.sleep(0.2)
            assert await stays()

    asyncio.run(run())


def test_connections_in_all(start_server: Start) -> None:
    """``total`` is over all workers, as far as they have told one another; ``per_worker`` is exact."""
    server = start_server({"limits": {"connections": {"total": 10, "per_worker": 8}}})

    async def run() -> None:
        async with AsyncExitStack() as stack:
            for _ in range(60):
                try:
                    raw = await stack.enter_async_context(RawSocket(server))
                    await raw.send(upgrade(SDK))
                    status = (await raw.head()).status
                except Shut:
                    continue
                assert status in (101, 503)
            await asyncio.sleep(7.0)
            here = server.metric("rt_connections")
            assert 10 <= here <= 16
            for _ in range(10):
                assert (await knock(server)).status == 503

    asyncio.run(run())


# The server API


def test_calls_of_the_api(start_server: Start) -> None:
    """429 in either mode with the fields of the draft; every answer says what is left; a batch is as many calls."""
    rule = {"on": "api", "per": "ip", "rate": "1/m", "burst": 10}
    server = start_server({**ONE, **limits(rule)})

    async def run() -> None:
        async with Http(server) as http:

            async def call(method: str, **fields: Any) -> Response:
                return await http.request("POST", f"/api/{method}", json.dumps(fields).encode(), {"X-API-Key": API_KEY})

            first = await call("publish", channel="live:a", data=1)
            assert first.status == 200 and first.headers["ratelimit"] == '"api-ip";r=9;t=60'
            assert first.headers["ratelimit-policy"] == '"api-ip";q=10;w=600'
            commands = [{"publish": {"channel": "live:a", "data": n}} for n in range(12)]
            batch = await call("batch", commands=commands)
            assert batch.status == 200 and all("publish" in reply for reply in batch.json()["replies"])
            refused = await call("publish", channel="live:a", data=1)
            assert refused.status == 429 and refused.json()["error"]["code"] == 111
            assert 200 <= int(refused.headers["retry-after"]) <= 240  # three beyond, and one for itself
            assert refused.json()["error"]["retry_after"] <= 240_000
            assert (await http.request("POST", "/api/publish", b"{}", {"X-API-Key": "wrong"})).status == 401

    asyncio.run(run())


@pytest.mark.timeout(60)
def test_shared_calls_over_two_workers(start_server: Start) -> None:
    """One budget for the tenant's backends, whichever worker they call."""
    rule = {"on": "api", "per": "tenant", "rate": "1/m", "burst": 40, "shared": True, "redis_down": "deny"}
    server = start_server(limits(rule))

    async def run() -> None:
        got = []
        for _ in range(10):
            async with Http(server) as http:
                headers = {"X-API-Key": API_KEY}
                for _ in range(6):
                    got.append(
                        (await http.request("POST", "/api/publish", b'{"channel":"live:a","data":1}', headers)).status
                    )
        assert (got.count(200), got.count(429)) == (40, 20)

    asyncio.run(run())


def test_limits_and_connections_can_be_looked_at(start_server: Start) -> None:
    """The rules of all workers with their worst offenders, and how one connection stands, from any worker."""
    rule = {"on": "publish", "per": "user", "rate": "1/h", "burst": 5}
    server = start_server(limits(rule, tolerance=0))

    async def run() -> None:
        async with AsyncExitStack() as stack:
            api = await stack.enter_async_context(Api(server))
            crowd = [await stack.enter_async_context(Hurried(server, user)) for user in ("bad", "bad", "bad", "good")]
            for one in crowd:
                await one.ask(6 if one.user == "good" else 100, "publish", channel="live:a", data=1)
            await eventually(lambda: all(one.answered == one.sent for one in crowd))
            found = await api.call("limits")
            (publish,) = found["rules"]
            refused = sum(one.codes[111] for one in crowd)
            assert (publish["on"], publish["per"], publish["burst"], publish["hits"]) == ("publish", "user", 5, refused)
            assert publish["worst"]["bad"] > publish["worst"]["good"] == 1
            assert found["connections"]["here"] == 4 and found["counts"] is True
            client = await stack.enter_async_context(SdkClient(server, token=connection_token("43")))
            await client.subscribe("long:a")
            for _ in range(4):
                async with Api(server) as other:
                    state = await other.call("connection", client=client.connected["client"])
                assert (state["user"], state["transport"], state["live"]) == ("43", "websocket", True)
                assert state["address"] == "127.0.0.1" and state["node"] == client.node
                assert state["subscriptions"] == [{"channels": ["long:a"], "state": "live"}]
                assert (state["queued_bytes"], state["busy"], state["left"]) == (0, False, {"publish per user": 5.0})
            assert await api.call("connection", client="nobody") == {}
            with pytest.raises(Reply, match="107"):
                await api.call("connection")

    asyncio.run(run())


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("door", ["ws", "sse"])
def test_streams_count_their_channels(start_server: Start, door: str, shared: bool) -> None:
    """``subscribe`` holds for the channels of a URL: 429, or a wait for an EventSource."""
    rules = [
        {"on": "subscribe", "per": "user", "rate": "6/m", "burst": 4, "shared": shared},
        {"on": "connect", "per": "user", "rate": "1/m", "burst": 100, "shared": shared},
    ]
    server = start_server({**ONE, **limits(*rules)})
    mine = f"token={connection_token('42')}"

    async def run() -> None:
        async with EventSource(server, ["a", "b", "c"], query=mine) as stream:
            assert stream.connected
        query = f"channel=a&channel=b&{mine}"
        if door == "ws":
            answer = await knock(server, f"/ws?{query}")
        else:
            answer = await get(server, f"/sse?{query}")
        assert answer.status == 429 and 1 <= int(answer.headers["retry-after"]) <= 10
        async with PlainSocket(server, ["a"], query=f"token={connection_token('43')}") as other:
            assert other.connected
        request = {"token": connection_token("44"), "subs": {name: {} for name in "abcde"}}
        with pytest.raises(Ended) as caught:
            async with UniSocket(server, request):
                pass
        assert caught.value.code == 3013

    asyncio.run(run())
