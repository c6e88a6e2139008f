"""The demo page of a development server: its files, the button that kills a worker, and the price that ticks.

The page is at ``/``, what it loads under ``/demo/``. Nothing of this exists in production: :func:`handlers` is called
only where ``server.demo`` is set, and the config refuses that setting in production mode.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol

import msgspec
from tornado.web import RequestHandler, StaticFileHandler

from rt.errors import StoreError

log = logging.getLogger(__name__)

STATIC = Path(__file__).parent / "static" / "demo"
SHARED = STATIC.parent / "shared"
"""What the page has in common with the console (:mod:`rt.web.admin`)."""

PRICES = "prices:demo"
MAX_BODY = 1024

# Nothing but our own files and our own doors; nobody may frame the page.
SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


class Registry(Protocol):
    """Who knows the workers: the broker. Each entry is the JSON of one worker, with ``name`` and ``pid``."""

    def workers(self) -> Awaitable[list[bytes]]: ...


class Node(msgspec.Struct):
    """What the registry says of a worker, as far as it matters here."""

    name: str
    pid: int


class Victim(msgspec.Struct):
    """The body of ``POST /demo/kill``."""

    node: str


def handlers(registry: Registry) -> list[tuple[str, type[RequestHandler], dict[str, Any]]]:
    """The routes of the demo, for a Tornado ``Application``."""
    files = {"path": str(STATIC), "default_filename": "index.html"}
    return [
        (r"/()", Files, files),
        (r"/demo/kill", Kill, {"registry": registry}),
        (r"/demo/(base\.css|icon\.svg|surface\.js)", Files, {"path": str(SHARED)}),
        (r"/demo/(.+)", Files, files),
    ]


def secure(handler: RequestHandler) -> None:
    """Set the headers that every answer of the demo carries, errors too."""
    for name, value in SECURITY_HEADERS.items():
        handler.set_header(name, value)


class Files(StaticFileHandler):
    """The page and what it loads."""

    def set_default_headers(self) -> None:
        secure(self)

    def set_extra_headers(self, path: str) -> None:
        self.set_header("Cache-Control", SECURITY_HEADERS["Cache-Control"])


class Kill(RequestHandler):
    """``POST /demo/kill`` with ``{"node": "<worker name>"}``: SIGKILL that worker, to see its connections recover.

    202 when the signal is on its way; 400 for a body that is not as above, 403 for a call from another site, 404 when
    no worker of this server has the name, 503 when the store that knows the workers does not answer.
    """

    registry: Registry

    def initialize(self, registry: Registry) -> None:
        self.registry = registry

    def set_default_headers(self) -> None:
        secure(self)

    async def post(self) -> None:
        if self.request.headers.get("Origin") != f"{self.request.protocol}://{self.request.host}":
            return self._answer(403, "only this server's own page may do this")
        name = self._name()
        if name is None:
            return self._answer(400, 'expected {"node": "<worker name>"}')
        try:
            pids = [node.pid for node in await self._nodes() if node.name == name]
        except StoreError:
            return self._answer(503, "the store does not answer")
        pid = next((pid for pid in pids if is_sibling(pid)), None)
        if pid is None:
            return self._answer(404, "no worker of this server has that name")
        self._answer(202, "killed")
        await self.finish()  # before the signal: the worker that answers may be the one that goes
        log.warning("demo: killing worker pid %d as the page asked", pid)
        os.kill(pid, signal.SIGKILL)

    def _name(self) -> str | None:
        if len(self.request.body) > MAX_BODY:
            return None
        try:
            return msgspec.json.decode(self.request.body, type=Victim).node
        except msgspec.DecodeError:
            return None

    async def _nodes(self) -> list[Node]:
        nodes = []
        for text in await self.registry.workers():
            try:
                nodes.append(msgspec.json.decode(text, type=Node))
            except msgspec.DecodeError:
                log.info("demo: skipped a worker without name and pid in the registry")
        return nodes

    def _answer(self, status: int, text: str) -> None:
        self.set_status(status)
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.write(text)


def is_sibling(pid: int) -> bool:
    """Whether ``pid`` is this process or another child of its supervisor.

    The registry is shared by all servers on one store: a pid found there may be another machine's, and by chance belong
    to anything here. Where there is no ``/proc`` only this process itself is known for sure, and a parent of 1 proves
    nothing: everything that was orphaned has it.
    """
    if pid == os.getpid():
        return True
    try:
        stat = Path(f"/proc/{pid:d}/stat").read_bytes()
    except OSError:
        return False
    parent = int(stat.rpartition(b")")[2].split()[1])
    return parent == os.getppid() != 1


class Ticker:
    """A price that walks at random, published to ``prices:demo`` every ``interval`` seconds.

    ``publish(channel, data)`` gets the JSON of ``data`` and returns something to wait for; when it raises
    :class:`StoreError` the tick is left out, and said once until ticks go through again.
    """

    __slots__ = ("_interval", "_price", "_publish", "_random", "_silent", "_task")

    def __init__(
        self, publish: Callable[[str, bytes], Awaitable[object]], *, interval: float = 0.5, seed: int | None = None
    ) -> None:
        self._publish = publish
        self._interval = interval
        self._random = random.Random(seed)
        self._price = 100.0
        self._silent = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to tick, on the running loop."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="demo ticker")

    async def stop(self) -> None:
        """End the ticks; returns when the last one is through or given up."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def _run(self) -> None:
        while True:
            try:
                await self._publish(PRICES, self.tick())
                self._silent = False
            except StoreError as error:
                if not self._silent:
                    log.info("demo: no prices while the store is away (%s)", error)
                self._silent = True
            await asyncio.sleep(self._interval)

    def tick(self) -> bytes:
        """The next price as JSON: ``symbol``, ``price``, and ``t``, this host's clock in milliseconds."""
        step = self._random.gauss(0.0, 0.0018) + (100.0 - self._price) * 0.0002
        self._price = max(1.0, self._price * (1.0 + step))
        return msgspec.json.encode({"symbol": "DEMO", "price": round(self._price, 2), "t": int(time.time() * 1000)})
