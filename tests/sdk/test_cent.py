"""The published API library of Python, newest and oldest, blocking and not: every method that it has."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sys
import time
from pathlib import Path
from typing import Any, Self

import pytest

from tests.clients import SdkClient
from tests.servers import API_KEY, Server
from tests.tokens import connection_token
from tests.tools import OLD_CENT
from tests.waiting import PATIENCE

CALLER = Path(__file__).with_name("cent_caller.py")
NEWEST, OLDEST = "newest", "5.0.0"
VERSIONS = [NEWEST, pytest.param(OLDEST, marks=pytest.mark.needs("cent 5.0"))]
KINDS = ["sync", "async"]

EVERYWHERE = {
    "publish",
    "broadcast",
    "subscribe",
    "unsubscribe",
    "disconnect",
    "presence",
    "presence_stats",
    "history",
    "history_remove",
    "refresh",
    "channels",
    "info",
    "batch",
}
"""The methods of the open protocol; cent has more, for another product of its makers."""


class CentError(Exception):
    """What cent raised; ``code`` of the server's answer, or the HTTP status."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(str(error))
        self.kind: str = error["kind"]
        self.code: int | None = error.get("code") or error.get("status_code")


class Cent:
    """One cent client in a process of its own, so that two versions have room side by side."""

    def __init__(self, server: Server, version: str = NEWEST, kind: str = "sync", key: str = API_KEY) -> None:
        self.arguments = (str(CALLER), f"http://127.0.0.1:{server.port}/api", key, kind)
        self.version = version
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        if version == OLDEST:
            self.environment["PYTHONPATH"] = str(OLD_CENT)

    async def __aenter__(self) -> Self:
        pipe = asyncio.subprocess.PIPE
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, *self.arguments, stdin=pipe, stdout=pipe, env=self.environment
        )
        hello = await self.line()
        self.methods: list[str] = hello["methods"]
        assert (hello["version"] == OLDEST) == (self.version == OLDEST), hello["version"]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert await asyncio.wait_for(self.process.wait(), PATIENCE) == 0

    async def line(self) -> dict[str, Any]:
        """The next line of the process."""
        assert self.process.stdout is not None
        found: dict[str, Any] = json.loads(await asyncio.wait_for(self.process.stdout.readline(), PATIENCE))
        return found

    async def send(self, method: str, fields: Any) -> Any:
        """Make one call; its result as cent decoded it, or CentError."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"method": method, "fields": fields}).encode() + b"\n")
        answer = await self.line()
        if "error" in answer:
            raise CentError(answer["error"])
        return answer["result"]

    async def call(self, method: str, **fields: Any) -> Any:
        """The same with the fields by name."""
        return await self.send(method, fields)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("version", VERSIONS)
def test_streams(whole: Server, channel: str, version: str, kind: str) -> None:
    """publish with all its fields, broadcast, history both ways, history_remove."""

    async def run() -> None:
        async with Cent(whole, version, kind) as cent, SdkClient(whole) as reader:
            await reader.subscribe(channel)
            first = await cent.call("publish", channel=channel, data={"n": 1}, tags={"a": "b"}, idempotency_key="k")
            assert first["offset"] == 1 and first["epoch"]
            assert await cent.call("publish", channel=channel, data={"n": 1}, idempotency_key="k") == first
            text = base64.b64encode(b'{"n":2}').decode()
            assert (await cent.call("publish", channel=channel, data=None, b64data=text))["offset"] == 2
            passing = await cent.call("publish", channel=channel, data={"n": 3}, skip_history=True)
            assert passing["offset"] == 0
            assert await reader.until(channel, 3) == [{"n": 1}, {"n": 2}, {"n": 3}]
            assert reader.pushes[0]["pub"]["tags"] == {"a": "b"}
            other = f"{channel}-2"
            sent = await cent.call("broadcast", channels=[channel, "nowhere:x", other], data=4, tags={"c": "d"})
            offsets = [one["result"] and one["result"]["offset"] for one in sent["responses"]]
            assert offsets == [3, None, 1] and sent["responses"][1]["error"]["code"] == 102
            page = await cent.call("history", channel=channel, limit=-1)
            assert [one["data"] for one in page["publications"]] == [{"n": 1}, {"n": 2}, 4]
            assert (page["offset"], page["epoch"]) == (3, first["epoch"])
            assert [one["tags"] for one in page["publications"]] == [{"a": "b"}, None, {"c": "d"}]
            since = {"offset": 3, "epoch": first["epoch"]}
            back = await cent.call("history", channel=channel, limit=1, since=since, reverse=True)
            assert [one["offset"] for one in back["publications"]] == [2]
            assert await cent.call("history_remove", channel=channel) == {}
            assert await cent.call("history", channel=channel) == {
                "publications": [],
                "offset": 3,
                "epoch": first["epoch"],
            }

    asyncio.run(run())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("version", VERSIONS)
def test_users(whole: Server, channel: str, version: str, kind: str) -> None:
    """subscribe with all its fields, presence, unsubscribe, refresh, disconnect with a list of who may stay."""

    async def run() -> None:
        user, where = f"u-{channel}", f"room:{channel}"
        token = connection_token(user)
        one, two = await SdkClient(whole, token=token).__aenter__(), await SdkClient(whole, token=token).__aenter__()
        async with Cent(whole, version, kind) as cent:
            place = await cent.call("publish", channel=where, data="before")
            fields: dict[str, Any] = {
                "client": one.connected["client"],
                "info": {"role": "host"},
                "data": {"why": 1},
                "recover_since": {"offset": 0, "epoch": place["epoch"]},
                "override": {"presence": {"value": True}, "force_recovery": {"value": True}},
            }
            assert await cent.call("subscribe", user=user, channel=where, **fields) == {}
            assert (await one.until_push(where, "subscribe"))["data"] == {"why": 1}
            assert await one.until(where, 1) == ["before"]
            deadline = time.monotonic() + PATIENCE
            while not (found := (await cent.call("presence", channel=where))["presence"]):
                assert time.monotonic() < deadline
            assert found.keys() == {one.connected["client"]}
            assert found[one.connected["client"]]["chan_info"] == {"role": "host"}
            assert await cent.call("presence_stats", channel=where) == {"num_clients": 1, "num_users": 1}
            assert await cent.call("unsubscribe", user=user, channel=where) == {}
            assert (await one.until_push(where, "unsubscribe"))["code"] == 2000
            assert await cent.call("presence", channel=where) == {"presence": {}}
            assert await cent.call("presence_stats", channel=where) == {"num_clients": 0, "num_users": 0}
            assert await cent.call("refresh", user=user, expire_at=int(time.time()) + 100) == {}
            assert (await two.until_push("", "refresh"))["expires"] is True
            code = {"code": 4501, "reason": "moved"}
            stay = [two.connected["client"]]
            assert await cent.call("disconnect", user=user, whitelist=stay, disconnect=code) == {}
            ended = await one.wait_ended()
            assert (ended.code, ended.reason) == (4501, "moved")
            await two.subscribe(channel)
            assert await cent.call("refresh", user=user, expired=True) == {}
            assert (await two.wait_ended()).code == 3005
        await one.close()
        await two.close()

    asyncio.run(run())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("version", VERSIONS)
def test_what_there_is(whole: Server, channel: str, version: str, kind: str) -> None:
    """channels with a pattern, and info with every worker."""

    async def run() -> None:
        names = [f"{channel}-a", f"{channel}-b", f"room:{channel}"]
        async with Cent(whole, version, kind) as cent, SdkClient(whole) as one, SdkClient(whole) as two:
            for name in names:
                await one.subscribe(name)
            await two.subscribe(names[0])
            every = (await cent.call("channels"))["channels"]
            assert {name: every[name]["num_clients"] for name in names} == {names[0]: 2, names[1]: 1, names[2]: 1}
            some = (await cent.call("channels", pattern=f"{channel}-[ab]"))["channels"]
            assert some == {names[0]: {"num_clients": 2}, names[1]: {"num_clients": 1}}
            assert (await cent.call("channels", pattern=f"*:{channel}"))["channels"].keys() == {names[2]}
            assert (await cent.call("channels", pattern="nothing-like-it"))["channels"] == {}
            nodes = (await cent.call("info"))["nodes"]
            assert len(nodes) == len({node["uid"] for node in nodes}) == 2
            assert all(node["name"] and node["version"] for node in nodes)

    asyncio.run(run())


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("version", VERSIONS)
def test_batch(whole: Server, channel: str, version: str, parallel: bool) -> None:
    """A batch of everything is answered in its order."""

    async def run() -> None:
        room = f"room:{channel}"
        calls: list[tuple[str, dict[str, Any]]] = [
            ("publish", {"channel": room, "data": 1}),
            ("broadcast", {"channels": [f"{channel}-1", f"{channel}-2"], "data": 2}),
            ("subscribe", {"user": "nobody", "channel": room}),
            ("unsubscribe", {"user": "nobody", "channel": room}),
            ("disconnect", {"user": "nobody"}),
            ("refresh", {"user": "nobody"}),
            ("presence", {"channel": room}),
            ("presence_stats", {"channel": room}),
            ("history", {"channel": f"{channel}-3"}),
            ("history_remove", {"channel": f"{channel}-3"}),
            ("channels", {"pattern": "nothing-like-it"}),
            ("info", {}),
        ]
        requests = [{"method": method, "fields": fields} for method, fields in calls]
        async with Cent(whole, version) as cent:
            replies = (await cent.call("batch", requests=requests, parallel=parallel))["replies"]
        assert len(replies) == len(calls)
        answers = dict(zip([method for method, _ in calls], replies, strict=True))
        assert answers["publish"]["offset"] == 1
        assert len(answers["broadcast"]["responses"]) == 2
        assert answers["presence"] == {"presence": {}}
        assert answers["presence_stats"] == {"num_clients": 0, "num_users": 0}
        assert (answers["history"]["publications"], answers["channels"]) == ([], {"channels": {}})
        assert len(answers["info"]["nodes"]) == 2

    asyncio.run(run())


@pytest.mark.parametrize("version", VERSIONS)
def test_errors(whole: Server, channel: str, version: str) -> None:
    """Errors are told as cent expects them: codes in the body, a wrong key by 401."""
    rows: list[tuple[int, str, dict[str, Any]]] = [
        (102, "publish", {"channel": "nowhere:x", "data": 1}),
        (107, "publish", {"channel": "", "data": 1}),
        (107, "publish", {"channel": channel, "data": None}),
        (107, "broadcast", {"channels": [], "data": 1}),
        (108, "presence", {"channel": channel}),
        (108, "presence_stats", {"channel": channel}),
        (108, "history", {"channel": "live:x"}),
        (108, "history_remove", {"channel": "live:x"}),
        (112, "history", {"channel": channel, "limit": 1, "since": {"offset": 1, "epoch": "other"}}),
        (102, "subscribe", {"user": "42", "channel": "nowhere:x"}),
        (107, "subscribe", {"user": "42", "channel": ""}),
        (102, "unsubscribe", {"user": "42", "channel": "nowhere:x"}),
        (107, "channels", {"pattern": "[a"}),
    ]

    async def run() -> None:
        async with Cent(whole, version) as cent, Cent(whole, version, key="not the key") as stranger:
            for code, method, fields in rows:
                with pytest.raises(CentError) as caught:
                    await cent.send(method, fields)
                assert (caught.value.kind, caught.value.code) == ("CentApiResponseError", code), (method, fields)
            with pytest.raises(CentError, match="CentUnauthorizedError"):
                await stranger.call("info")

    asyncio.run(run())


@pytest.mark.parametrize("version", VERSIONS)
def test_methods_of_another_product(whole: Server, version: str) -> None:
    """What cent can call beyond the open protocol is answered so that cent understands: there is no such method."""

    async def run() -> None:
        async with Cent(whole, version) as cent:
            assert set(cent.methods) > EVERYWHERE
            for method in sorted(set(cent.methods) - EVERYWHERE - {"connections"}):  # which is another one here
                with pytest.raises(CentError) as caught:
                    await cent.send(method, None)
                answer = (caught.value.kind, caught.value.code)
                assert answer in (("CentTransportError", 404), ("CentApiResponseError", 104)), method

    asyncio.run(run())
