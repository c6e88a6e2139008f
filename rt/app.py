"""One worker, wired: its tenants (see rt/tenant.py), the listening sockets, the doors, those for operators.

    protocol  <-  broker  <-  delivery  <-  web

Publications flow up through a callable that is handed over in each tenant; everything else calls to the left.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Coroutine, Mapping
from functools import partial
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPServerConnectionDelegate
from tornado.iostream import IOStream
from tornado.web import Application, RequestHandler

from rt.broker import PublishOptions
from rt.config import Config
from rt.delivery import drain, publishing
from rt.delivery.wheel import Wheel
from rt.errors import SHUTDOWN, UNAVAILABLE, Close
from rt.metrics import Metrics
from rt.protocol.address import Proxies
from rt.protocol.replies import publication_body
from rt.tenant import NOBODY, Embedded, Lobby, Seat, Tenant
from rt.web import admin, demo, internal, sse, tls, websocket
from rt.web.admin_live import Live
from rt.web.admin_login import Login
from rt.web.answers import Method
from rt.web.entrance import StreamDoor
from rt.web.heads import MAX_HEAD
from rt.web.http1 import Http1
from rt.web.listener import Accept, Listener
from rt.web.router import Router
from rt.web.strict import StrictSSLStream, StrictStream
from rt.web.tenants import Tenants

log = logging.getLogger("rt.app")

USER_TIMEOUT = 30.0  # seconds a peer may acknowledge nothing
DRAIN = 0.6  # the part of the time for the stop in which clients are told to leave
GRACE = 0.5  # seconds left at the stop for calls of the API that are being answered
OTHERS = 0.25  # seconds left at the start for the stores of other tenants when the first is there

STREAMS: dict[str, StreamDoor] = {
    "/connection/websocket": websocket.sdk,
    "/connection/uni_websocket": websocket.uni,
    "/connection/uni_sse": sse.uni,
    "/ws": websocket.plain,
    "/sse": sse.plain,
}


class App:
    """A worker's life: ``start``, ``reload`` any number of times, ``stop``.

    ``name`` is the worker's name for clients and other workers, ``index`` its number here; ``store`` and ``lineage``
    are those of the embedded store, where one runs.
    """

    def __init__(self, config: Config, *, index: int, name: str, lineage: str | None, store: str = "") -> None:
        self._config = config
        self._index = index
        self._name = name
        self._embedded = None if lineage is None else Embedded(store or config.redis.url, lineage)
        self._listeners: list[Listener] = []
        self._internal: list[Listener] = []
        self._own_http: list[Http1] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._served: dict[str, Tenant] = {}
        self._lobby: Lobby | None = None
        self._ticker: demo.Ticker | None = None
        self._certificate: tls.Certificate | None = None
        self._console: admin.Console | None = None
        self._leaving = False

    async def start(self, public: list[socket.socket], internal_sockets: list[socket.socket]) -> None:
        """Connect to the stores (which may be down) and accept on the given listening sockets."""
        config = self._config
        metrics = self._metrics = Metrics()
        self._seat = Seat(self._name, Wheel(), metrics, asyncio.get_running_loop().time(), self._crowd)
        self._seat.wheel.on_tick = metrics.loop_lag.observe
        self._seat.wheel.start()
        self._tenants = Tenants(partial(metrics.of, NOBODY))
        metrics.gauge("rt_deadlines", lambda: self._seat.wheel.count)
        metrics.gauge("rt_worker_leaving", lambda: int(self._leaving))
        self._served = self._made(config)
        if config.server.demo and self._index == 0:
            self._ticker = demo.Ticker(partial(self._publish_price, self._served["default"]))
        for tenant in self._served.values():
            await tenant.start()
        self._open_lobby(config)
        self._arrange()
        await self._reached(config.redis.connect_timeout)
        self._counting = asyncio.create_task(self._count())
        self._accept(public, internal_sockets)

    async def _reached(self, seconds: float) -> None:
        """Wait for the stores, but not long: clients that wait in the listener are better served than refused. When one
        is there, those that are not yet get a moment only: a dead store keeps no other tenant waiting."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while (now := loop.time()) < deadline:
            ready = [tenant.broker.ready and tenant.registered for tenant in self._served.values()]
            if all(ready):
                return
            if any(ready):
                deadline = min(deadline, now + OTHERS)
            await asyncio.sleep(0.01)

    def _accept(self, public: list[socket.socket], internal_sockets: list[socket.socket]) -> None:
        server = self._config.server
        handlers = demo.handlers(self._served["default"].broker) if server.demo else []
        application = Application(handlers, default_handler_class=_NotFound, log_function=_log_nothing)
        self._router = Router(application, STREAMS, self._tenants, max_body=server.max_body_size)
        if server.tls is not None:
            tls.quiet()
            self._certificate = tls.Certificate(server.tls)
        accept = self._acceptor(self._router, self._certificate)
        for sock in public:
            listener = Listener(sock, accept)
            listener.prepare(self._config.delivery.send_buffer, USER_TIMEOUT)
            self._listeners.append(listener)
        console = self._console = self._made_console()
        more = [] if console is None else console.handlers()
        inner = internal.application(self._metrics, self._readiness, server.workers, more)
        # The server API is there too, with its keys, for who works on the machine itself.
        accept = self._acceptor(Router(inner, {}, self._tenants, max_body=server.max_body_size), None)
        self._internal = [Listener(sock, accept) for sock in internal_sockets]
        for listener in [*self._listeners, *self._internal]:
            listener.start()

    def _acceptor(self, delegate: HTTPServerConnectionDelegate, certificate: tls.Certificate | None) -> Accept:
        """What a listener does with a connection: give it to our HTTP, or to Tornado's, below TLS where there is a
        ``certificate``."""
        server = self._config.server
        if certificate is None and server.http == "fast":
            # A little more than a door takes, so that it is the door that says what is too much.
            own = Http1(
                delegate, self._seat.wheel, timeout=server.header_timeout, max_body=server.max_body_size + 65536
            )
            self._own_http.append(own)
            return own.accept
        http = HTTPServer(
            delegate,
            idle_connection_timeout=server.header_timeout,
            body_timeout=server.header_timeout,
            max_header_size=4 * MAX_HEAD,
            max_body_size=server.max_body_size + 65536,
            max_buffer_size=server.max_body_size + 262144,
        )
        return partial(_serve, http, certificate)

    def _readiness(self) -> internal.Readiness:
        reasons = {name: tenant.reasons() for name, tenant in self._served.items()}
        return internal.Readiness(reasons, apart=bool(self._config.tenants))

    def _made_console(self) -> admin.Console | None:
        """The console for operators; None where it has no password."""
        server = self._config.server
        password = server.internal.admin.password
        if not password:
            return None
        live = Live(self._metrics, self._readiness, server.workers)
        proxies = Proxies(server.trusted_proxies, server.proxy_header)
        return admin.Console(Login(password, server.internal.port), live, self._methods, proxies)

    def _methods(self) -> dict[str, Mapping[str, Method]]:
        """The methods of the server API of each tenant that is served now."""
        return {name: tenant.api.methods for name, tenant in self._served.items() if tenant.started.is_set()}

    def _crowd(self) -> int:
        """How many connections there are here, over all tenants."""
        strangers = 0 if self._lobby is None else len(self._lobby.hub.connections)
        return strangers + sum(len(tenant.hub.connections) for tenant in self._served.values())

    # Tenants

    def _made(self, config: Config) -> dict[str, Tenant]:
        """The tenants of ``config`` that are not here yet, not started. Raises as Tenant does, with nothing changed."""
        return {
            tenant.name: Tenant(config, tenant, self._seat, self._embedded, self._begin_demo)
            for tenant in config.served()
            if tenant.name not in self._served
        }

    def _open_lobby(self, config: Config) -> None:
        if self._lobby is not None:
            self._lobby.reload(config)
        elif any(tenant.issuers for tenant in config.tenants):
            self._lobby = Lobby(config, self._seat, self._tenants.choice)

    def _arrange(self) -> None:
        """Tell the doors who is served now."""
        tenants = self._config.tenants
        ready = {name: tenant for name, tenant in self._served.items() if tenant.started.is_set()}
        wanted = self._lobby is not None and any(tenant.issuers for tenant in tenants)
        self._tenants.arrange(tenants, ready, self._lobby.entrance if self._lobby is not None and wanted else None)

    def reload(self, config: Config) -> None:
        """Take keys, namespaces and limits of a validated config, and its tenants: new ones are begun, and those that
        it serves no more are ended. Addresses and the stores of tenants that stay need a restart."""
        if self._leaving:
            return
        made = self._made(config)
        if self._certificate is not None and config.server.tls is not None:
            self._certificate.reload(config.server.tls)
        self._config = config
        here = {tenant.name: tenant for tenant in config.served()}
        elsewhere = {tenant.name for tenant in config.tenants}
        for name, tenant in list(self._served.items()):
            if name in here:
                tenant.reload(config, here[name])
            else:
                del self._served[name]
                # Where it only moved, its clients should come back: they may find it in its new region.
                close = SHUTDOWN if name in elsewhere else UNAVAILABLE
                self._own(self._end(tenant, close))
        self._served |= made
        for tenant in made.values():
            self._own(self._begin(tenant))
        self._open_lobby(config)
        self._arrange()

    async def _begin(self, tenant: Tenant) -> None:
        await tenant.start()
        self._arrange()

    async def _end(self, tenant: Tenant, close: Close) -> None:
        await tenant.started.wait()
        await tenant.leave(close)
        await tenant.end()
        if tenant.name not in self._served:
            tenant.metrics.retire()

    def _own(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("a change of tenants failed", exc_info=task.exception())

    def set_lineage(self, text: str) -> None:
        """The embedded store was started anew."""
        if self._embedded is not None:
            self._embedded = self._embedded._replace(lineage=text)
        for tenant in self._served.values():
            tenant.set_lineage(text)

    # The end

    def part(self) -> None:
        """End each connection that speaks HTTP behind its next answer, so that calls of the API go to who accepts them
        from now on, and none is cut off while a call is on its way."""
        self._router.parting = True
        for http in self._own_http:
            http.part()

    async def stop(self, deadline: float) -> None:
        """Accept no more, tell every client to come back elsewhere, and end; within ``deadline`` seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(deadline):
                await self._drain(deadline * DRAIN)
                await self._stop()

    async def _drain(self, longest: float) -> None:
        """Take nobody in any more, and tell who is here to go, at the pace of ``server.drain``. Calls of the API are
        served all the while."""
        self._leaving = True
        for listener in self._listeners:
            listener.close()
        leaving: list[Tenant | Lobby] = [*self._served.values(), *([] if self._lobby is None else [self._lobby])]
        for one in leaving:
            one.shut()
        wanted = self._config.server.drain
        pace = drain.Pace(min(wanted.duration, longest), wanted.batch)
        await drain.drain([one.hub for one in leaving], pace)

    async def _stop(self) -> None:
        served = list(self._served.values())
        lobby = [] if self._lobby is None else [self._lobby.leave()]
        await asyncio.gather(*(tenant.leave() for tenant in served), *lobby)
        await self._router.stop()
        if self._console is not None:
            self._console.stop()
        await self._part()
        if self._ticker is not None:
            await self._ticker.stop()
        self._counting.cancel()
        await asyncio.gather(*(tenant.end() for tenant in served), *self._tasks, return_exceptions=True)
        for http in self._own_http:
            http.close()
        self._seat.wheel.stop()
        for listener in self._internal:
            listener.stop()
        self._metrics.collect()

    async def _part(self) -> None:
        """End the connections that speak HTTP: in the grace each behind its next answer; then all, when what is being
        answered is."""
        self.part()
        await asyncio.sleep(GRACE)
        for http in self._own_http:
            http.leave()
        end = asyncio.get_running_loop().time() + GRACE
        while any(http.open for http in self._own_http) and asyncio.get_running_loop().time() < end:
            await asyncio.sleep(0.01)

    # What goes on beside

    async def _count(self) -> None:
        """Copy what was counted, each second, for whichever worker is asked."""
        while True:
            self._metrics.collect()
            await asyncio.sleep(1.0)

    def _begin_demo(self) -> None:
        if self._ticker is not None:
            self._ticker.start()

    def _publish_price(self, tenant: Tenant, channel: str, data: bytes) -> asyncio.Future[Any]:
        namespace = tenant.hub.namespaces.find(channel)
        options: PublishOptions = publishing.options(namespace)
        return tenant.broker.publish(channel, publication_body(data), options)


class _NotFound(RequestHandler):
    """Every path that has no door."""

    def prepare(self) -> None:
        self.set_status(404)
        self.clear_header("Server")
        self.set_header("Content-Type", "text/plain")
        self.finish("Not Found\n")


def _log_nothing(handler: RequestHandler) -> None:
    """No line per request; and Tornado's own would hold the query."""


def _serve(http: HTTPServer, certificate: tls.Certificate | None, sock: socket.socket, address: Any) -> None:
    """Give a connection to Tornado."""
    size = http.max_buffer_size
    stream: IOStream
    if certificate is None:
        stream = StrictStream(sock, max_buffer_size=size)
    else:
        try:
            wrapped = certificate.context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        except OSError as error:
            log.debug("a connection ended before TLS: %s", error.strerror)
            sock.close()
            return
        stream = StrictSSLStream(wrapped, max_buffer_size=size)
    http.handle_stream(stream, address)
