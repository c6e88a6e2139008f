"""The door through which the load publishes: its data goes to ``publish`` and is answered when that returned."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

ANSWER = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 13\r\n\r\n{"result":{}}'


async def listen(port: int, publish: Callable[[dict[str, Any]], Awaitable[None]]) -> None:
    """Take keep-alive connections. As little of HTTP as the load needs, so that it is not what is measured."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except asyncio.IncompleteReadError:
                return writer.close()
            length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
            data = json.loads(await reader.readexactly(length))["data"]
            await publish({"pub": {"data": data}})
            writer.write(ANSWER)

    await asyncio.start_server(serve, "127.0.0.1", port)
