"""One worker, wired: the store on one side, the doors on the other, delivery between them.

    protocol  <-  broker  <-  delivery  <-  web

Publications flow up through a callable that is handed over here; everything else calls to the left.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import ssl
from typing import Any

import msgspec
from tornado.httpserver import HTTPServer
from tornado.iostream import IOStream, SSLIOStream
from tornado.web import Application, RequestHandler

from rt import __version__
from rt.broker import Broker, PublishOptions, StoreSettings
from rt.config import Config, Redis
from rt.delivery import publishing
from rt.delivery.hub import Hub
from rt.errors import StoreError
from rt.metrics import Metrics
from rt.protocol.replies import publication_body
from rt.web import demo, internal, sse, websocket
from rt.web.api import Api
from rt.web.entrance import Entrance
from rt.web.listener import Accept, Listener
from rt.web.router import MAX_HEADERS, Router

log = logging.getLogger("rt.app")

REGISTER = 3.0  # seconds between two signs of life in the registry of workers
REGISTER_AGAIN = 0.25  # and after one that did not get through
REGISTER_TTL = 10.0
USER_TIMEOUT = 30.0  # seconds a peer may acknowledge nothing
GRACE = 0.5  # seconds left at the stop for calls of the API that are being answered


class App:
    """A worker's life: ``start``, ``reload`` any number of times, ``stop``.

    ``name`` is the worker's name for clients and other workers, ``index`` its number here, ``lineage`` the embedded
    store's.
    """

    def __init__(self, config: Config, *, index: int, name: str, lineage: str | None) -> None:
        self._config = config
        self._index = index
        self._name = name
        self._lineage = lineage
        self._listeners: list[Listener] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._ticker: demo.Ticker | None = None

    async def start(self, public: list[socket.socket], internal_sockets: list[socket.socket]) -> None:
        """Connect to the store (which may be down) and accept on the given listening sockets."""
        config = self._config
        self._started_at = asyncio.get_running_loop().time()
        self._metrics = Metrics()
        self._broker = Broker(_settings(config.redis, self._lineage), worker=self._name)
        self._hub = Hub(config, self._broker, self._metrics, node=self._name)
        self._api = Api(config, self._broker, self._metrics)
        self._entrance = Entrance(self._hub, config)
        self._wire_metrics()
        await self._broker.start(
            on_publication=self._hub.broadcast, on_removed=self._hub.emptied, on_resumed=self._hub.check_all
        )
        self._hub.start()
        if config.server.demo and self._index == 0:
            self._ticker = demo.Ticker(self._publish_price)
        await self._reached(config.redis.connect_timeout)
        self._tasks = [asyncio.create_task(self._count()), asyncio.create_task(self._register())]
        self._accept(public, internal_sockets)

    async def _reached(self, seconds: float) -> None:
        """Wait for the store, but not long: clients that wait in the listener are better served than refused."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not self._broker.ready:
                    await asyncio.sleep(0.01)

    def _accept(self, public: list[socket.socket], internal_sockets: list[socket.socket]) -> None:
        server = self._config.server
        streams = {
            "/connection/websocket": websocket.sdk(self._entrance),
            "/ws": websocket.plain(self._entrance),
            "/sse": sse.door(self._entrance),
        }
        handlers = demo.handlers(self._broker) if server.demo else []
        application = Application(handlers, default_handler_class=_NotFound, log_function=_log_nothing)
        router = Router(application, streams, self._api.door, max_body=server.max_body_size)
        context = _tls(self._config)
        http = HTTPServer(
            router,
            idle_connection_timeout=server.header_timeout,
            body_timeout=server.header_timeout,
            max_header_size=4 * MAX_HEADERS,
            max_body_size=server.max_body_size + 65536,
            max_buffer_size=server.max_body_size + 262144,
        )
        for sock in public:
            listener = Listener(sock, _acceptor(http, context))
            listener.prepare(self._config.delivery.send_buffer, USER_TIMEOUT)
            self._listeners.append(listener)
        doors = HTTPServer(
            internal.application(self._metrics, self._reasons, server.workers), idle_connection_timeout=60
        )
        self._internal = [Listener(sock, _acceptor(doors, None)) for sock in internal_sockets]
        for listener in [*self._listeners, *self._internal]:
            listener.start()

    @property
    def ready(self) -> bool:
        """Whether clients should come here: the store was reached and heard within the probe's time."""
        return not self._reasons()

    def _reasons(self) -> list[str]:
        if self._hub.leaving:
            return ["this worker is leaving"]
        return self._broker.status().reasons

    def reload(self, config: Config) -> None:
        """Take keys, namespaces and limits of a validated config; addresses and the store need a restart."""
        self._config = config
        self._hub.reload(config)
        self._api.reload(config)
        self._entrance.reload(config)

    def set_lineage(self, text: str) -> None:
        """The embedded store was started anew."""
        self._broker.set_lineage(text)

    async def stop(self, deadline: float) -> None:
        """Accept no more, tell every client to come back elsewhere, and end; within ``deadline`` seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(deadline):
                await self._stop()

    async def _stop(self) -> None:
        for listener in self._listeners:
            listener.stop()
        await self._hub.stop()
        await asyncio.sleep(GRACE)
        await self._api.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._ticker is not None:
            await self._ticker.stop()
        await self._broker.stop()
        self._hub.halt()
        for listener in self._internal:
            listener.stop()
        self._metrics.collect()

    # What goes on beside

    def _wire_metrics(self) -> None:
        metrics, hub, broker = self._metrics, self._hub, self._broker
        metrics.follow(broker.counters)
        metrics.gauge("rt_subscriptions", lambda: sum(len(c.subscriptions) for c in hub.connections))
        metrics.gauge("rt_channels", lambda: len(hub.channels))
        metrics.gauge("rt_store_connected", lambda: int(broker.status().connected))
        metrics.gauge("rt_store_probe_age_seconds", lambda: broker.status().probe_age or 0.0)
        metrics.gauge("rt_worker_ready", lambda: int(self.ready))
        metrics.gauge("rt_worker_leaving", lambda: int(hub.leaving))

    async def _count(self) -> None:
        """Copy what was counted, each second, for whichever worker is asked."""
        while True:
            self._metrics.loop_lag.observe(self._hub.wheel.lag)
            self._metrics.collect()
            await asyncio.sleep(1.0)

    async def _register(self) -> None:
        """Say now and then that this worker lives; the first time it could be said, the demo may begin."""
        while True:
            try:
                await self._broker.register(self._node(), REGISTER_TTL)
            except StoreError:
                await asyncio.sleep(REGISTER_AGAIN)  # the broker itself says what is wrong
                continue
            if self._ticker is not None:
                self._ticker.start()
            await asyncio.sleep(REGISTER)

    def _node(self) -> bytes:
        """What the API method ``info`` says of this worker."""
        hub = self._hub
        node = {
            "uid": f"{self._name}-{os.getpid()}",
            "name": self._name,
            "version": __version__,
            "pid": os.getpid(),
            "num_clients": len(hub.connections),
            "num_users": len({connection.user for connection in hub.connections}),
            "num_subs": sum(len(connection.subscriptions) for connection in hub.connections),
            "num_channels": len(hub.channels),
            "uptime": int(hub.now() - self._started_at),
        }
        return msgspec.json.encode(node)

    def _publish_price(self, channel: str, data: bytes) -> asyncio.Future[Any]:
        namespace = self._hub.namespaces.find(channel)
        options: PublishOptions = publishing.options(namespace)
        return self._broker.publish(channel, publication_body(data), options)


class _NotFound(RequestHandler):
    """Every path that has no door."""

    def prepare(self) -> None:
        self.set_status(404)
        self.clear_header("Server")
        self.set_header("Content-Type", "text/plain")
        self.finish("Not Found\n")


def _log_nothing(handler: RequestHandler) -> None:
    """No line per request; and Tornado's own would hold the query."""


def _settings(redis: Redis, lineage: str | None) -> StoreSettings:
    return StoreSettings(
        url=redis.url,
        prefix=redis.prefix,
        lineage=lineage if lineage is not None and redis.lineage == "auto" else redis.lineage,
        timeout=redis.timeout,
        connect_timeout=redis.connect_timeout,
        probe_interval=redis.probe_interval,
        password=redis.password,
        ca_file=redis.tls.ca_file,
        verify=redis.tls.verify,
    )


def _tls(config: Config) -> ssl.SSLContext | None:
    tls = config.server.tls
    if tls is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(tls.cert_file, tls.key_file)
    return context


def _acceptor(http: HTTPServer, context: ssl.SSLContext | None) -> Accept:
    """What a listener does with a connection: hand it to Tornado's HTTP, below TLS where there is a ``context``."""
    size = http.max_buffer_size

    def accept(sock: socket.socket, address: Any) -> None:
        stream: IOStream
        if context is None:
            stream = IOStream(sock, max_buffer_size=size)
        else:
            wrapped = context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
            stream = SSLIOStream(wrapped, max_buffer_size=size)
        http.handle_stream(stream, address)

    return accept
