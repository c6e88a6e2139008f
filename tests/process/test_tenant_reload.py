"""Tenants of a running server: begun and ended by a reload, and started with a store that is dead."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Callable
from typing import Any

from tests.clients import Api, Http, SdkClient
from tests.servers import OPEN, STREAM, Server, free_port
from tests.waiting import eventually, eventually_now

BASE: dict[str, Any] = {
    "server": {"region": "eu"},
    "client": {"token": {"hmac_secret_key": "", "hmac_previous_secret_key": ""}},
    "http_api": {"key": ""},
    "channel": {"without_namespace": {**STREAM, **OPEN}, "namespaces": []},
}


def tenant(name: str, **changes: Any) -> dict[str, Any]:
    """A tenant in the file, found by its path."""
    return {"name": name, "http_api": {"key": api_key(name)}, **changes}


def api_key(name: str) -> str:
    """The key of a tenant's API."""
    return f"the-api-key-of-{name}"


def api(server: Server, name: str) -> Api:
    """A tenant's API."""
    return Api(server, key=api_key(name), prefix=f"/t/{name}")


def sdk(server: Server, name: str) -> SdkClient:
    """A client of a tenant."""
    return SdkClient(server, path=f"/t/{name}/connection/websocket")


async def reload(server: Server, tenants: list[dict[str, Any]]) -> None:
    """Have the server take a file with these tenants, and wait until all workers have."""
    mark = len(server.log())
    server.write_config({"tenants": tenants})
    os.kill(server.pid, signal.SIGHUP)
    await eventually(lambda: "config reloaded" in server.log()[mark:], what="the reload")


def told(server: Server) -> dict[str, bool]:
    """What /ready says of each tenant."""
    tenants = json.loads(server.internal("/ready")[1])["tenants"]
    return {name: found["ready"] for name, found in tenants.items()}


def test_tenants_come_and_go_in_place(start_server: Callable[..., Server], channel: str) -> None:
    """A new one is served without a restart; one that is gone loses its connections for good, and nobody else any."""
    server = start_server({**BASE, "tenants": [tenant("stays"), tenant("goes")]})

    async def run() -> None:
        async with sdk(server, "stays") as staying, sdk(server, "goes") as going, api(server, "stays") as calls:
            await staying.subscribe(channel)
            await going.subscribe(channel)
            workers = sorted(server.worker_pids())
            await reload(server, [tenant("stays"), tenant("comes")])
            assert (await going.wait_ended()).code == 3508
            await eventually(lambda: told(server) == {"stays": True, "comes": True})
            async with sdk(server, "comes") as coming, api(server, "comes") as new_calls:
                await coming.subscribe(channel)
                await new_calls.publish(channel, "new")
                assert await coming.until(channel, 1) == ["new"]
            await calls.publish(channel, "old")
            assert await staying.until(channel, 1) == ["old"]
            async with Http(server) as http:
                assert (await http.request("POST", "/t/goes/api/info", b"{}")).status == 404
            assert sorted(server.worker_pids()) == workers
            assert server.internal("/ready?tenant=goes")[0] == 404
            lines = server.internal("/metrics")[1].splitlines()
            assert not any(line.startswith("rt_tenant_info") and 'tenant="goes"' in line for line in lines)

    asyncio.run(run())


def test_a_tenant_that_comes_back_has_its_history(start_server: Callable[..., Server], channel: str) -> None:
    """What it had in the store is still its own."""
    server = start_server({**BASE, "tenants": [tenant("stays"), tenant("returns")]})

    async def run() -> None:
        async with api(server, "returns") as calls:
            place = await calls.publish(channel, "before")
        await reload(server, [tenant("stays")])
        await eventually(lambda: server.internal("/ready?tenant=returns")[0] == 404)
        await reload(server, [tenant("stays"), tenant("returns")])
        await eventually(lambda: server.internal("/ready?tenant=returns")[0] == 200)
        async with api(server, "returns") as calls:
            found = await calls.call("history", channel=channel)
            assert (found["epoch"], found["offset"]) == place
        assert server.metric("rt_worker_ready", tenant="returns") == 2

    asyncio.run(run())


def test_a_tenant_that_moves_sends_its_clients_after_it(start_server: Callable[..., Server], channel: str) -> None:
    """They are told to come back, and whoever comes back here is told that this is the wrong place."""
    server = start_server({**BASE, "tenants": [tenant("stays"), tenant("moves")]})

    async def run() -> None:
        async with sdk(server, "moves") as moving:
            await moving.subscribe(channel)
            await reload(server, [tenant("stays"), tenant("moves", region="us")])
            assert (await moving.wait_ended()).code == 3001
        async with Http(server) as http:
            assert (await http.request("POST", "/t/moves/api/info", b"{}")).status == 421

    asyncio.run(run())


def test_settings_of_one_tenant_change_in_place(start_server: Callable[..., Server], channel: str) -> None:
    """A new key is taken, nobody is disconnected, and a new store waits for the restart and is named."""
    server = start_server({**BASE, "tenants": [tenant("one"), tenant("two")]})

    async def run() -> None:
        async with sdk(server, "one") as client, sdk(server, "two") as other:
            await client.subscribe(channel)
            changed = tenant("one", redis={"prefix": "other"})
            changed["http_api"]["key"] = "another-api-key-of-one"
            await reload(server, [changed, tenant("two")])
            await eventually(lambda: "at the next restart: tenants[0].redis.prefix" in server.log())
            async with Http(server) as http:
                path, body = "/t/one/api/publish", json.dumps({"channel": channel, "data": 1}).encode()
                old = await http.request("POST", path, body, {"X-API-Key": api_key("one")})
                new = await http.request("POST", path, body, {"X-API-Key": "another-api-key-of-one"})
            assert (old.status, new.status) == (401, 200)
            assert await client.until(channel, 1) == [1]
            assert not other.gone

    asyncio.run(run())


def test_a_server_gets_its_first_tenants(start_server: Callable[..., Server], channel: str) -> None:
    """The only tenant so far goes on under its name `default`, at its path now."""
    server = start_server(BASE)

    async def run() -> None:
        async with SdkClient(server) as client:
            await client.subscribe(channel)
            await reload(server, [tenant("default"), tenant("new")])
            async with api(server, "default") as calls:
                await calls.publish(channel, "still")
            assert await client.until(channel, 1) == ["still"]
            async with Http(server) as http:
                assert (await http.request("POST", "/api/info", b"{}")).status == 401

    asyncio.run(run())


def test_a_dead_store_at_the_start_keeps_nobody_waiting(start_server: Callable[..., Server], channel: str) -> None:
    """The others are served at once, the dead one is told with a line per worker and class, and its own calls fail
    fast."""
    dead = {"redis": {"url": f"redis://127.0.0.1:{free_port()}", "connect_timeout": "5s"}}
    began = time.monotonic()
    server = start_server({**BASE, "tenants": [tenant("well"), tenant("dead", **dead)]})
    assert time.monotonic() - began < 5

    async def run() -> None:
        async with sdk(server, "well") as client, api(server, "well") as calls:
            await client.subscribe(channel)
            await calls.publish(channel, 1)
            assert await client.until(channel, 1) == [1]
        async with Http(server) as http:
            asked = time.monotonic()
            body = json.dumps({"channel": channel, "data": 1}).encode()
            answer = await http.request("POST", "/t/dead/api/publish", body, {"X-API-Key": api_key("dead")})
            assert answer.json()["error"]["code"] == 100
            assert time.monotonic() - asked < 1.5

    asyncio.run(run())
    eventually_now(lambda: told(server) == {"well": True, "dead": False})
    warnings = [line for line in server.log().splitlines() if " warn" in line or " error" in line]
    assert 2 <= len(warnings) <= 8, warnings
    assert all("dead" in line for line in warnings if "trouble with the store" in line), warnings
