"""PyPI python-socketio on aiohttp, as its documentation broadcasts: with_socketio.py PORT PUBLISH_PORT."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import socketio
from aiohttp import web
from posts import listen

sio = socketio.AsyncServer(async_mode="aiohttp", transports=["websocket"])


@sio.event
async def connect(sid: str, environ: dict[str, Any]) -> None:
    """Everybody may come."""


async def publish(message: dict[str, Any]) -> None:
    """To everybody."""
    await sio.emit("message", message)


async def main() -> None:
    """Serve on 127.0.0.1 until the process is killed."""
    app = web.Application()
    sio.attach(app)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", int(sys.argv[1]), backlog=4096).start()
    await listen(int(sys.argv[2]), publish)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
