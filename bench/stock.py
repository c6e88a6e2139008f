"""The yardstick: stock Tornado as its documentation shows it, for the cost of a handshake and of a POST.

``stock.py PORT`` serves ``/ws``, a WebSocketHandler that writes one message when it opens, and ``POST /api/publish``, a
RequestHandler that decodes its JSON body and does nothing else. The garbage collector keeps its defaults.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys

import uvloop
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler
from tornado.websocket import WebSocketHandler


class Socket(WebSocketHandler):
    """A connection that is greeted and then left alone."""

    def check_origin(self, origin: str) -> bool:
        return True

    async def open(self) -> None:
        await self.write_message('{"connect":{}}')


class Publish(RequestHandler):
    """A call of the API that does nothing."""

    def post(self) -> None:
        json.loads(self.request.body)
        self.write({"result": {}})


async def serve(port: int) -> None:
    """Serve on 127.0.0.1 until the process is killed."""
    logging.getLogger("tornado.access").setLevel(logging.ERROR)
    server = HTTPServer(Application([("/ws", Socket), ("/api/publish", Publish)]))
    server.add_sockets(bind_sockets(port, "127.0.0.1", backlog=4096))
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
