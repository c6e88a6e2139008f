"""Drives the published JavaScript SDK, unchanged, in a Node process."""

from __future__ import annotations

import asyncio
import itertools
import json
from typing import Any, Self

from tests import processes
from tests.clients import Reply
from tests.servers import Server
from tests.tools import SDK_FOLDER
from tests.waiting import PATIENCE, eventually


class JavaScript:
    """One SDK client in a Node process of its own; ``events`` is what it reported."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.events: list[dict[str, Any]] = []
        self.waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self.ids = itertools.count(1)

    async def __aenter__(self) -> Self:
        pipe = asyncio.subprocess.PIPE
        self.process = await asyncio.create_subprocess_exec(
            "node", "runner.mjs", cwd=SDK_FOLDER, stdin=pipe, stdout=pipe
        )
        self.task = asyncio.create_task(self.read())
        await self.wait("up")
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            await asyncio.wait_for(self.process.wait(), PATIENCE)
        except TimeoutError:
            self.process.kill()
            raise
        await self.task

    async def read(self) -> None:
        """Sort answers from events."""
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            message = json.loads(line)
            if "id" in message:
                self.waiting.pop(message["id"]).set_result(message)
            else:
                self.events.append(message)

    async def call(self, call: str, **fields: Any) -> Any:
        """Make one call of the runner; Reply when the SDK reports an error."""
        assert self.process.stdin is not None
        number = next(self.ids)
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self.waiting[number] = future
        self.process.stdin.write(json.dumps({"id": number, "call": call, **fields}).encode() + b"\n")
        answer = await asyncio.wait_for(future, PATIENCE)
        if "error" in answer:
            raise Reply(answer["error"]["code"], answer["error"]["message"])
        return answer["result"]

    def named(self, event: str) -> list[dict[str, Any]]:
        """The events of one name."""
        return [one for one in self.events if one["event"] == event]

    async def wait(self, event: str, count: int = 1) -> dict[str, Any]:
        """Wait until ``event`` has been reported ``count`` times; the last of these."""
        await eventually(lambda: len(self.named(event)) >= count, what=f"{count} x {event} in {self.events}")
        return self.named(event)[count - 1]

    async def start(self, tokens: list[str] | None = None, **options: Any) -> None:
        """Begin to connect. ``tokens`` are what ``getToken`` gives, one after the other, the last again and again."""
        url = f"ws://127.0.0.1:{self.server.port}/connection/websocket"
        await self.call("connect", url=url, options=options, tokens=tokens)

    async def connect(self, **options: Any) -> dict[str, Any]:
        """Connect and wait until it is; the event."""
        count = len(self.named("connected")) + 1
        await self.start(**options)
        return await self.wait("connected", count)

    async def subscribe(self, channel: str, **options: Any) -> dict[str, Any]:
        """Subscribe and wait until it is; the event. The options ``tokens`` and ``states`` are given by call-backs."""
        count = len(self.named("subscribed")) + 1
        await self.call("subscribe", channel=channel, **split(options))
        return await self.wait("subscribed", count)

    async def begin(self, channel: str, **options: Any) -> None:
        """Subscribe and do not wait."""
        await self.call("subscribe", channel=channel, **split(options))

    def worker(self) -> int:
        """The pid of the worker that serves the SDK's connection."""
        (port,) = processes.ports_to(self.process.pid, self.server.port)
        return self.server.worker_of(port)


def split(options: dict[str, Any]) -> dict[str, Any]:
    """Options of the SDK apart from what the runner gives by call-backs."""
    given: dict[str, Any] = {name: options.pop(name) for name in ("tokens", "states") if name in options}
    return {"options": options, **given}
