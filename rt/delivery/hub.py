"""The hub: the registry of this worker. Channels by name, feeds by their list of channels, connections; and the loop
turns.

It is told of publications by the broker (:meth:`Hub.broadcast`) and never asks for them. All of it runs in one event
loop; nothing on the way of a publication awaits.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from rt.delivery import control
from rt.delivery.batches import Batches
from rt.delivery.behind import adapt, catch_up
from rt.delivery.catchup import Limit
from rt.delivery.channel import Channel
from rt.delivery.crowd import Crowd
from rt.delivery.expiry import Expiry
from rt.delivery.feed import Feed
from rt.delivery.flush import attempt
from rt.delivery.limits import SWEEP, Limits
from rt.delivery.outbox import Nobody, Outbox
from rt.delivery.policy import Manner, manner
from rt.delivery.presence import Presence
from rt.delivery.sessions import Sessions
from rt.delivery.subscription import State
from rt.delivery.turnstile import Turnstile
from rt.errors import SHUTDOWN, Close, Refused, StoreError
from rt.protocol.channels import Namespaces
from rt.protocol.publication import Change, Publication
from rt.protocol.tokens import Verifier

if TYPE_CHECKING:
    from rt.broker import Broker
    from rt.config import Config, Namespace
    from rt.delivery.connection import Connection
    from rt.delivery.pacing import Pace
    from rt.delivery.server_side import Reading
    from rt.delivery.subscription import Subscription
    from rt.delivery.wheel import Wheel
    from rt.metrics import Latency, TenantMetrics
    from rt.protocol.keys import KeySet

log = logging.getLogger("rt.delivery")

T = TypeVar("T")

CHECKS_AT_ONCE = 500  # positions read from the store in one go when all are checked
TOUCH = 5.0  # seconds between two looks whether there are sessions to renew, while they are switched off
TOUCHES_AT_ONCE = 500  # sessions renewed by one call
MANNERS = 1024  # lists of namespaces whose manner is remembered
CALM = 2.0  # seconds at most in which turns go out to all at shutdown, before anybody is closed
CLOSES_AT_ONCE = 200  # connections told to leave between two turns of the loop at shutdown


Choose = Callable[[str], "Hub"]
"""Finds the hub of a connection by its token, where the door could not know it. Raises Closing (3500)."""


class KeySource(Protocol):
    """Where public keys come from that are not in the config."""

    @property
    def key_set(self) -> KeySet:
        """What is known of them."""

    async def fetch(self) -> None:
        """Ask again, bounded in time and rate; whether it helped shows in ``key_set``."""


class Hub:
    """One per worker and tenant. ``node`` is the worker's name, as clients see it; ``wheel`` and ``keys`` belong to the
    caller."""

    def __init__(
        self,
        config: Config,
        broker: Broker,
        metrics: TenantMetrics,
        *,
        node: str,
        wheel: Wheel,
        keys: KeySource | None = None,
        tenant: str = "default",
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.now = self.loop.time
        self.wall = time.time
        self.broker = broker
        self.metrics = metrics
        self.tally = metrics.tally
        self.node = node
        self.tenant = tenant
        self.wheel = wheel
        self.keys = keys
        self.channels: dict[str, Channel] = {}
        self.feeds: dict[tuple[bool, tuple[str, ...]], Feed] = {}
        self.connections: set[Connection] = set()
        self.queues: set[Outbox] = set()  # in which something waits, of connections that have not ended
        self.users: dict[str, set[Connection]] = {}
        # Connections (ids) that are to be their user's only one and have not heard their own claim yet; and whether
        # they have heard that of another one.
        self.claiming: dict[str, bool] = {}
        self.readings: dict[str, list[Reading]] = {}  # sessions being read, by user
        self.presence = Presence(self)
        self.sessions = Sessions(self)
        self.expiry = Expiry(wheel)
        self.nobody = Nobody(self)
        self.leaving = False  # nobody is taken in any more; who is here is served until told to go
        self.stopped = False
        self.paces: dict[Subscription, Pace] = {}  # of those who are behind and have one
        self.waiting: set[Subscription] = set()  # those who are behind and are looked at again when it is time
        self.turnstile = Turnstile(self.loop, catch_up)
        self.batches = Batches(self.loop, self._batched)
        self._dirty: list[Feed] = []
        self._manners: dict[tuple[str, ...], Manner] = {}
        self._latencies: dict[tuple[str, str], Latency] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._checking: asyncio.Task[None] | None = None
        self.limits = Limits(config.limits, store=broker, metrics=metrics, loop=self.loop, tenant=tenant)
        self._configure(config)
        self.crowd = Crowd(self)

    def _configure(self, config: Config) -> None:
        self.config = config
        self.delivery = config.delivery
        self._manners = {}
        named = (config.channel.without_namespace, *config.channel.namespaces)
        self.ranked = len({namespace.priority for namespace in named}) > 1
        self.page = max(config.client.recovery_max_publication_limit, 1)
        self.namespaces = Namespaces(config.channel)
        self.verifier = Verifier(
            config.client.token, None if self.keys is None else self.keys.key_set, self.tally.token_failures
        )
        self.keeps_sessions = config.client.session_ttl > 0
        self.limit = Limit(config.client.recovery_max_publication_limit, config.client.recovery_max_size)

    def start(self) -> None:
        """Begin to look after what is due."""
        self.expiry.start(self.now())
        self.wheel.at(self.now() + self.delivery.position_check_interval / 4, self._check_silent)
        self._touch_sessions(self.now())
        self._sweep(self.now())

    async def stop(self, close: Close = SHUTDOWN) -> None:
        """Close every connection for this reason, a batch per turn of the loop, and end all that is under way."""
        self.leaving = self.stopped = True
        self.batches.flush()
        await asyncio.sleep(0)  # in which they go out, or begin to
        await self._calm()
        while self.connections:
            for connection in list(self.connections)[:CLOSES_AT_ONCE]:
                connection.close(close)
            await asyncio.sleep(0)
        self.expiry.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _calm(self) -> None:
        """Wait, with a bound, until what is going out now is out to all."""
        out = []
        for feed in self.feeds.values():
            out.append(self.loop.create_future())
            feed.calm(partial(out[-1].set_result, None))
        if out:
            await asyncio.wait(out, timeout=CALM)

    def reload(self, config: Config) -> None:
        """Take a new config. A channel whose history was switched on or off starts anew: its subscribers come back."""
        self._configure(config)
        self.limits.reload(config.limits)
        self.crowd.reload()
        abandoned: set[Feed] = set()
        for channel in list(self.channels.values()):
            namespace = config.channel.namespace(channel.namespace.name)
            if namespace is None or namespace.history != channel.stored:
                abandoned |= channel.claims
                self.forget(channel)
            else:
                channel.adopt(namespace)
        for feed in self.feeds.values():
            self._suit(feed)
        if abandoned:
            self._abandon(abandoned)
        adapt(self)

    def _abandon(self, feeds: set[Feed]) -> None:
        for connection in list(self.connections):
            # In whatever state: one that is behind or joining would wait for ever on a channel that takes nothing more.
            for subscription in list(connection.subscriptions.values()):
                if subscription.feed in feeds:
                    connection.lost(subscription)

    # Publications

    def broadcast(self, name: str, publication: Publication) -> None:
        """A publication came from the store."""
        channel = self.channels.get(name)
        if channel is not None:
            channel.receive(publication)

    def changed(self, name: str, change: Change) -> None:
        """Somebody came to a channel or left it."""
        channel = self.channels.get(name)
        if channel is not None:
            channel.changed(change)

    def obey(self, body: bytes) -> bytes | asyncio.Future[bytes]:
        """The backend says something to connections (see :mod:`rt.delivery.control`)."""
        return control.obey(self, body)

    def emptied(self, name: str) -> None:
        """A channel's history was removed."""
        channel = self.channels.get(name)
        if channel is not None:
            channel.emptied()

    def mark(self, feed: Feed) -> None:
        """The feed has something to flush at the end of this turn of the loop."""
        if not self._dirty:
            self.loop.call_soon(self._flush)
        self._dirty.append(feed)

    def _flush(self) -> None:
        dirty, self._dirty = self._dirty, []
        if self.ranked:
            dirty.sort(key=lambda feed: -feed.manner.rank)
        for feed in dirty:
            attempt(feed, feed.flush)

    def _batched(self, feed: Feed, interval: float) -> None:
        """The turn of the feed has waited long enough."""
        if feed.turn and not feed.dirty:
            for place in {place for place, _ in feed.turn}:
                if feed.channels[place].namespace.batch == interval:
                    self.tally.batched(feed.channels[place].namespace)
        feed.release()

    def behind(self) -> int:
        """How many subscriptions are behind."""
        return sum(one.state is State.BEHIND for c in self.connections for one in c.subscriptions.values())

    def delivered(self, transport: str, namespace: str, publication: Publication, receivers: int) -> None:
        """A publication was written to ``receivers`` sockets (or their outboxes): one observation for all of them."""
        self.tally.deliveries += receivers
        key = (namespace, transport)
        latency = self._latencies.get(key)
        if latency is None:
            latency = self._latencies[key] = self.metrics.latency(namespace, transport)
        latency.observe((time.time_ns() // 1000 - publication.time) / 1e6, receivers)

    # Users

    def leave(self, connection: Connection) -> None:
        """The connection is no longer one of its user's."""
        mine = self.users.get(connection.user)
        if mine is not None:
            mine.discard(connection)
            if not mine:
                del self.users[connection.user]
                self.sessions.forget(connection.user)

    def _touch_sessions(self, now: float) -> None:
        """While somebody is connected, what the backend said to them is not forgotten."""
        if self.stopped:
            return
        self.sessions.sweep()
        ttl = self.config.client.session_ttl
        self.wheel.at(now + (ttl / 4 or TOUCH), self._touch_sessions)
        if self.users and self.keeps_sessions and self.broker.sessions_used:
            self.spawn(self._touch([user for user in self.users if user], ttl))

    async def _touch(self, users: list[str], ttl: float) -> None:
        for first in range(0, len(users), TOUCHES_AT_ONCE):
            await self.broker.touch_sessions(users[first : first + TOUCHES_AT_ONCE], ttl)
        # A store that was emptied while we were connected, or that evicts, tells nobody.
        await self.sessions.restore()

    def _sweep(self, now: float) -> None:
        if not self.stopped:
            self.limits.sweep(now)
            self.wheel.at(now + SWEEP, self._sweep)

    # Channels and feeds

    def feed(self, names: tuple[str, ...], namespaces: tuple[Namespace, ...], *, named: bool = False) -> Feed:
        """The feed of exactly these channels, in this order; made when nobody here follows it yet. ``named``: its
        cursors name their channels."""
        feed = self.feeds.get((named, names))
        if feed is None:
            channels = [self.channel(name, namespace) for name, namespace in zip(names, namespaces, strict=True)]
            feed = self.feeds[named, names] = Feed(self, names, channels, named=named)
            self._suit(feed)
            for channel in channels:
                channel.claims.add(feed)
            if all(channel.opened for channel in channels):
                feed.attach()
        return feed

    def _suit(self, feed: Feed) -> None:
        """Have the feed treat its members by the settings of its channels, as they are now."""
        key = tuple(channel.namespace.name for channel in feed.channels)
        found = self._manners.get(key)
        if found is None:
            if len(self._manners) >= MANNERS:
                self._manners.clear()
            found = self._manners[key] = manner([channel.namespace for channel in feed.channels])
        feed.manner = found
        if found.lags:
            for channel in feed.channels:
                if not channel.stored and channel.spare is None:
                    channel.adopt(channel.namespace, whole=True)

    def channel(self, name: str, namespace: Namespace) -> Channel:
        """The channel, made when nobody here follows it yet. Who asks for it claims it, in the same step."""
        channel = self.channels.get(name)
        if channel is None:
            channel = self.channels[name] = Channel(self, name, namespace)
        return channel

    def drop(self, feed: Feed) -> None:
        """The last subscription of the feed has left."""
        if self.feeds.get((feed.named, feed.key)) is feed:
            del self.feeds[feed.named, feed.key]
        for channel in feed.channels:
            channel.feeds.pop(feed, None)
            channel.claims.discard(feed)
            self.release(channel)

    def release(self, channel: Channel) -> None:
        """Close the channel after the linger time, if nobody wants it by then."""
        if not channel.claims:
            self.wheel.at(self.now() + self.delivery.linger, partial(self._retire, channel))

    def _retire(self, channel: Channel, now: float) -> None:
        """Close a channel that nobody has wanted for the linger time."""
        if not channel.claims and not channel.closed and channel.opened:
            self.forget(channel)

    def forget(self, channel: Channel) -> None:
        """The channel is no longer followed here; who wants it next opens it anew."""
        if channel.closed:
            return
        channel.closed = True
        if self.channels.get(channel.name.text) is channel:
            del self.channels[channel.name.text]
        for feed in channel.claims:
            if self.feeds.get((feed.named, feed.key)) is feed:
                del self.feeds[feed.named, feed.key]
        self.broker.unsubscribe(channel.name.text)

    # Positions

    def check_all(self) -> None:
        """The store was away: every position must be compared with its stream, and what it lost be made good."""
        self.spawn(self.sessions.restore())
        if self._checking is not None:
            self._checking.cancel()
        self._checking = self.spawn(self._check([c for c in self.channels.values() if c.opened and c.stored]))

    def _check_silent(self, now: float) -> None:
        """Now and then: a lost message of a silent channel shows in nothing else."""
        if self.stopped:
            return
        interval = self.delivery.position_check_interval
        silent = [c for c in self.channels.values() if c.opened and c.stored and now - c.checked_at > interval]
        if silent and (self._checking is None or self._checking.done()):
            self._checking = self.spawn(self._check(silent))
        self.wheel.at(now + interval / 4, self._check_silent)

    async def _check(self, channels: list[Channel]) -> None:
        for first in range(0, len(channels), CHECKS_AT_ONCE):
            await asyncio.gather(*(channel.check() for channel in channels[first : first + CHECKS_AT_ONCE]))

    # Tasks

    def spawn(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run a coroutine that the hub owns: it is cancelled at the stop, and its failure does not go unseen."""
        task = self.loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        failure = None if task.cancelled() else task.exception()
        if failure is not None and not isinstance(failure, StoreError | Refused):
            log.error("a task failed", exc_info=failure)
