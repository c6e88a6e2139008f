"""One tenant on one worker, wired: its store, its channels and connections, its doors, its metrics.

What tenants share is the process: the event loop, the timing wheel, the listening sockets. Nothing of one waits for
another: each has connections to the store, queues, keys and limits of its own, also where two are on the same store.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from rt import __version__, config
from rt.broker import Broker, StoreSettings
from rt.delivery.hub import Hub
from rt.errors import SHUTDOWN, Close, StoreError
from rt.metrics import Metrics
from rt.protocol.keys import KeySet
from rt.web.api import Api
from rt.web.entrance import Entrance
from rt.web.keys import Keys
from rt.web.tail import Tails

if TYPE_CHECKING:
    from rt.config import Config, Redis
    from rt.delivery.hub import Choose
    from rt.delivery.wheel import Wheel
    from rt.web.request import Request

REGISTER = 3.0  # seconds between two signs of life in the registry of workers
REGISTER_AGAIN = (0.02, 0.5)  # and after one that did not get through: twice as long each time
REGISTER_TTL = 10.0

NOBODY = "-"
"""The tenant of connections and requests that belong to none, or to one that is not known yet, in metrics."""


class Embedded(NamedTuple):
    """The embedded store that the supervisor runs: where it is, and its lineage."""

    url: str
    lineage: str


class Seat(NamedTuple):
    """What a worker is to its tenants: its name for clients and other workers, and what all of them share."""

    name: str
    wheel: Wheel
    metrics: Metrics
    started_at: float
    crowd: Callable[[], int]
    """How many connections there are here, over all tenants."""


class Tenant:
    """A tenant's life on this worker: ``start``, ``reload`` any number of times, ``leave``, ``end``.

    ``whole`` is the config of the server. Making one connects to nothing. ValueError when its store's address makes no
    sense, OSError when a certificate cannot be read. ``on_registered`` is called each time the store knows of us,
    ``registered`` says that it did once; ``started`` is set when requests may come.
    """

    def __init__(
        self,
        whole: Config,
        tenant: config.Tenant,
        seat: Seat,
        embedded: Embedded | None,
        on_registered: Callable[[], None],
    ) -> None:
        self.name = tenant.name
        self._seat = seat
        self._region = tenant.region
        self._on_registered = on_registered
        self._register: asyncio.Task[None] | None = None
        self.started = asyncio.Event()
        self.registered = False
        own = whole.of(tenant)
        self.embedded = embedded is not None and tenant.redis.url == embedded.url
        lineage = embedded.lineage if embedded is not None and self.embedded else None
        self.broker = Broker(_settings(tenant.redis, lineage), tenant=tenant.name, worker=seat.name)
        self._keys = _keys(own)
        self.metrics = seat.metrics.of(tenant.name)
        self.hub = Hub(
            own,
            self.broker,
            self.metrics,
            node=seat.name,
            wheel=seat.wheel,
            keys=self._keys,
            tenant=tenant.name,
        )
        self.hub.crowd.all_here, self.hub.crowd.most = seat.crowd, whole.limits.connections.per_worker
        self.api = Api(own, self.broker, self.metrics, self.hub.limits, Tails(self.hub))
        self.entrance = Entrance(self.hub, own)

    async def start(self) -> None:
        """Begin to connect to the store, which may be down."""
        self._wire_metrics()
        hub = self.hub
        await self.broker.start(
            on_publication=hub.broadcast,
            on_change=hub.changed,
            on_removed=hub.emptied,
            on_resumed=hub.check_all,
            on_control=hub.obey,
        )
        hub.start()
        self._register = asyncio.create_task(self._say_again(), name=f"registry of {self.name}")
        self.started.set()

    @property
    def ready(self) -> bool:
        """Whether its clients should come here: its store was reached and heard within the probe's time."""
        return not self.reasons()

    def reasons(self) -> list[str]:
        """Why not, in sentences."""
        return ["this worker is leaving"] if self.hub.leaving else self.broker.status().reasons

    def reload(self, whole: Config, tenant: config.Tenant) -> None:
        """Take keys, namespaces and limits; its store stays as it is."""
        own = whole.of(tenant)
        if own.client.token.jwks_public_endpoint != self.hub.config.client.token.jwks_public_endpoint:
            if self._keys is not None:
                self._keys.close()
            self._keys = self.hub.keys = _keys(own)
        self._region = tenant.region
        self.metrics.region(tenant.region)
        self.hub.reload(own)
        self.hub.crowd.most = whole.limits.connections.per_worker
        self.api.reload(own)
        self.entrance.reload(own)

    def set_lineage(self, text: str) -> None:
        """The embedded store was started anew."""
        if self.embedded:
            self.broker.set_lineage(text)

    def shut(self) -> None:
        """Take nobody in any more. Who is here is served as ever."""
        self.hub.leaving = True
        self.entrance.let_go()

    async def leave(self, close: Close = SHUTDOWN) -> None:
        """Close all its connections for this reason; it takes no more."""
        self.shut()
        await self.hub.stop(close)

    async def end(self) -> None:
        """End what is under way with its store and its keys."""
        await self.api.stop()
        if self._register is not None:
            self._register.cancel()
            await asyncio.wait([self._register])
        if self._keys is not None:
            self._keys.close()
        await self.broker.stop()

    async def _say_again(self) -> None:
        """Say now and then that this worker lives."""
        first, longest = REGISTER_AGAIN
        again = first
        while True:
            try:
                await self.broker.register(self._node(), REGISTER_TTL)
            except StoreError:
                await asyncio.sleep(again)  # the broker itself says what is wrong
                again = min(2 * again, longest)
                continue
            again = first
            self.registered = True
            self._on_registered()
            await self._count_others()
            await asyncio.sleep(REGISTER)

    async def _count_others(self) -> None:
        """Learn how many connections other workers have, where it matters."""
        if not self.hub.config.limits.connections.total:
            return
        with contextlib.suppress(StoreError):
            workers = await self.broker.workers()
            self.hub.crowd.elsewhere = elsewhere(workers, self._seat.name)

    def _wire_metrics(self) -> None:
        metrics, hub, broker = self.metrics, self.hub, self.broker
        metrics.begin()
        metrics.region(self._region)
        metrics.follow(broker.counters)
        metrics.follow(hub.limits)
        metrics.follow(hub.limits.outage)
        broker.watch_lag(metrics.store_lag.observe)
        metrics.gauge("rt_limit_subjects", lambda: hub.limits.subjects)
        metrics.gauge("rt_subscriptions", lambda: sum(len(c.subscriptions) for c in hub.connections))
        metrics.gauge("rt_queues", lambda: len(hub.queues))
        metrics.gauge("rt_queued_bytes", lambda: sum(outbox.size for outbox in hub.queues))
        metrics.gauge("rt_behind", hub.behind)
        metrics.gauge("rt_paced", lambda: len(hub.paces))
        metrics.gauge("rt_channels", lambda: len(hub.channels))
        metrics.gauge("rt_feeds", lambda: len(hub.feeds))
        metrics.gauge("rt_users", lambda: len(hub.users))
        metrics.gauge("rt_seats", hub.presence.count)
        metrics.gauge("rt_waiting", lambda: self.entrance.waiting)
        metrics.gauge("rt_store_connected", lambda: int(broker.status().connected))
        metrics.gauge("rt_store_probe_age_seconds", lambda: broker.status().probe_age or 0.0)
        metrics.gauge("rt_worker_ready", lambda: int(self.ready))

    def _node(self) -> bytes:
        """What the API method ``info`` says of this worker to this tenant."""
        hub, seat = self.hub, self._seat
        node: dict[str, object] = {
            "uid": f"{seat.name}-{os.getpid()}",
            "name": seat.name,
            "version": __version__,
            "pid": os.getpid(),
            "tenant": self.name,
            "num_clients": len(hub.connections),
            "num_users": len({connection.user for connection in hub.connections}),
            "num_subs": sum(len(connection.subscriptions) for connection in hub.connections),
            "num_channels": len(hub.channels),
            "uptime": int(hub.now() - seat.started_at),
        }
        if self._region:
            node["region"] = self._region
        return msgspec.json.encode(node)


class _Node(msgspec.Struct, frozen=True, gc=False):
    """What a worker says of itself, as far as it counts here."""

    name: str = ""
    num_clients: int = 0


_worker = msgspec.json.Decoder(_Node).decode


def elsewhere(workers: Sequence[bytes], name: str) -> int:
    """The connections of all workers in the registry but the one of this ``name``."""
    count = 0
    for body in workers:
        with contextlib.suppress(ValueError, RecursionError):
            worker = _worker(body)
            count += worker.num_clients if worker.name != name else 0
    return count


class Lobby:
    """Where a WebSocket waits whose tenant shows only in its token: no store, no keys, nothing to subscribe to.

    Pages of any tenant that is found by issuer may come; the tenant that ``choice`` finds judges them again.
    """

    def __init__(self, whole: Config, seat: Seat, choice: Callable[[Request], Choose]) -> None:
        own = _open(whole)
        # Never started: nobody gets here from it to a channel.
        broker = Broker(StoreSettings(url="redis://"), tenant=NOBODY, worker=seat.name)
        self.hub = Hub(own, broker, seat.metrics.of(NOBODY), node=seat.name, wheel=seat.wheel, tenant=NOBODY)
        self.hub.crowd.all_here = seat.crowd
        self.entrance = Entrance(self.hub, own)
        self.entrance.choose = choice

    def reload(self, whole: Config) -> None:
        """Take a new config."""
        own = _open(whole)
        self.hub.reload(own)
        self.entrance.reload(own)

    def shut(self) -> None:
        """Take nobody in any more."""
        self.hub.leaving = True
        self.entrance.let_go()

    async def leave(self) -> None:
        """Close all connections that are still without a tenant."""
        self.shut()
        await self.hub.stop()


def _open(whole: Config) -> Config:
    """The top level's config, with the pages of every tenant that is found by issuer."""
    own = dict.fromkeys(whole.client.allowed_origins)
    for tenant in whole.served():
        if tenant.issuers:
            own.update(dict.fromkeys(tenant.client.allowed_origins))
    client = msgspec.structs.replace(whole.client, allowed_origins=tuple(own))
    return msgspec.structs.replace(whole, client=client, tenants=())


def _keys(own: Config) -> Keys | None:
    url = own.client.token.jwks_public_endpoint
    return Keys(url, KeySet()) if url else None


def _settings(redis: Redis, lineage: str | None) -> StoreSettings:
    return StoreSettings(
        url=redis.url,
        prefix=redis.prefix,
        lineage=lineage if lineage is not None and redis.lineage == "auto" else redis.lineage,
        timeout=redis.timeout,
        connect_timeout=redis.connect_timeout,
        probe_interval=redis.probe_interval,
        presence_ttl=redis.presence_ttl,
        password=redis.password,
        ca_file=redis.tls.ca_file,
        verify=redis.tls.verify,
    )
