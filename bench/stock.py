"""The yardstick: stock Tornado as its documentation shows it, for a handshake, a POST, a delivery and a frame.

``stock.py PORT`` serves ``/ws``, a WebSocketHandler that writes one message when it opens and answers a message that
has an id, and ``POST /api/publish``, a RequestHandler that decodes its JSON body and writes it to who is connected. The
garbage collector keeps its defaults.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from typing import ClassVar

import uvloop
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler
from tornado.websocket import WebSocketHandler


class Socket(WebSocketHandler):
    """A connection that is greeted, and hears everything that is published."""

    everybody: ClassVar[set[Socket]] = set()

    def check_origin(self, origin: str) -> bool:
        return True

    async def open(self) -> None:
        self.everybody.add(self)
        await self.write_message('{"connect":{}}')

    async def on_message(self, message: str | bytes) -> None:
        if message.startswith('{"id"' if isinstance(message, str) else b'{"id"'):
            await self.write_message('{"id":7}')

    def on_close(self) -> None:
        self.everybody.discard(self)


class Publish(RequestHandler):
    """A call of the API: with nobody connected it does nothing."""

    def post(self) -> None:
        data = json.loads(self.request.body)["data"]
        message = json.dumps({"pub": {"data": data}}, separators=(",", ":")) if Socket.everybody else ""
        for socket in Socket.everybody:
            socket.write_message(message)
        self.write({"result": {}})


async def serve(port: int) -> None:
    """Serve on 127.0.0.1 until the process is killed."""
    logging.getLogger("tornado.access").setLevel(logging.ERROR)
    server = HTTPServer(Application([("/ws", Socket), ("/api/publish", Publish)]))
    server.add_sockets(bind_sockets(port, "127.0.0.1", backlog=4096))
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
