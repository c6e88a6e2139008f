"""PyPI websockets, as its documentation broadcasts: with_websockets.py PORT PUBLISH_PORT."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from posts import listen
from websockets.asyncio.server import ServerConnection, broadcast, serve

CONNECTIONS: set[ServerConnection] = set()


async def handler(connection: ServerConnection) -> None:
    """Greet, and keep until it leaves."""
    CONNECTIONS.add(connection)
    try:
        await connection.send('{"connect":{}}')
        await connection.wait_closed()
    finally:
        CONNECTIONS.discard(connection)


async def publish(message: dict[str, Any]) -> None:
    """To everybody."""
    broadcast(CONNECTIONS, json.dumps(message, separators=(",", ":")))


async def main() -> None:
    """Serve on 127.0.0.1 until the process is killed."""
    async with serve(handler, "127.0.0.1", int(sys.argv[1]), compression=None, backlog=4096):
        await listen(int(sys.argv[2]), publish)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
