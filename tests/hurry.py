"""A client in a hurry: it sends commands as fast as it is let, and counts what becomes of them."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from contextlib import suppress
from typing import Any, Self

from tests.raw import TEXT, RawSocket, Shut, frame, upgrade
from tests.servers import Server
from tests.tokens import connection_token

SDK = "/connection/websocket"


class Hurried(RawSocket):
    """An SDK's connection as ``user``; ``codes`` counts the replies by error code (0: good), ``waits`` are what it was
    told to wait, in seconds."""

    def __init__(self, server: Server, user: str = "", *, address: str = "") -> None:
        super().__init__(server)
        self.user = user
        self.address = address
        self.codes: Counter[int] = Counter()
        self.waits: list[float] = []
        self.shut_by: Shut | None = None
        self.node = ""
        self.sent = 0
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        try:
            await self._enter()
        except BaseException:
            await super().__aexit__()
            raise
        return self

    async def _enter(self) -> None:
        more = {"X_Forwarded_For": self.address} if self.address else {}
        await self.send(upgrade(SDK, **more))
        head = await self.reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 "), head
        token = {"token": connection_token(self.user)} if self.user else {}
        await self.send(frame(TEXT, json.dumps({"id": 1, "connect": token}).encode()))
        reply = json.loads((await self.frame()).payload)
        assert "connect" in reply, reply
        self.node = reply["connect"]["node"]
        self._task = asyncio.create_task(self._listen())

    async def __aexit__(self, *details: object) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        await super().__aexit__(*details)

    async def _listen(self) -> None:
        try:
            while True:
                for line in (await self._next()).split(b"\n"):
                    self._take(json.loads(line))
        except Shut as shut:
            self.shut_by = shut

    async def _next(self) -> bytes:
        while True:
            with suppress(TimeoutError):
                return (await self.frame()).payload

    def _take(self, message: dict[str, Any]) -> None:
        if "id" in message:
            error = message.get("error", {})
            self.codes[error.get("code", 0)] += 1
            if "retry_after" in error:
                self.waits.append(error["retry_after"] / 1000)
        elif not message:
            self.writer.write(frame(TEXT, b"{}"))

    async def ask(self, count: int, kind: str, **fields: Any) -> None:
        """So many commands at once, in frames of their own."""
        body = json.dumps(fields).encode()
        self.sent += count
        first = 2 + self.sent
        commands = (b'{"id":%d,"%b":%b}' % (first + number, kind.encode(), body) for number in range(count))
        await self.send(b"".join([frame(TEXT, command) for command in commands]))

    @property
    def answered(self) -> int:
        """Replies that came."""
        return self.codes.total()
