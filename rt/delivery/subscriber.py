"""A connection with one subscription per channel, made by its own commands or by the server: the SDKs' protocol, and
the unidirectional WebSocket.

Each subscription is a feed of one channel, so its frames are shared by all who follow that channel over the same wire.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from rt import errors
from rt.delivery import control, expiry, server_side
from rt.delivery.behind import catch_up
from rt.delivery.catchup import Leg, at_once, join
from rt.delivery.connection import Connection
from rt.delivery.subscription import Right, State, Subscription
from rt.errors import Refused, StoreError
from rt.protocol import channels, replies
from rt.protocol.commands import Subscribe
from rt.protocol.publication import Position

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rt.config import Namespace
    from rt.delivery.hub import Choose, Hub
    from rt.delivery.outbox import Sink
    from rt.protocol.channels import Granted
    from rt.protocol.options import Terms
    from rt.protocol.replies import SubscribeResult
    from rt.protocol.tokens import Identity
    from rt.protocol.wires import Wire


_NOTHING_ASKED = Subscribe()


class Coming(NamedTuple):
    """A subscription on its way: how it was granted, and from where it goes on (None: from now). ``entered``, if it is
    present in the channel already, says how many are."""

    name: str
    namespace: Namespace
    granted: Granted
    subscription: Subscription
    since: Position | None
    entered: asyncio.Future[int] | None = None


class Subscriber(Connection):
    """``subscriptions`` by channel. ``native_ping``: the heartbeat is WebSocket's own. ``choose`` finds the hub by the
    token, where the door could not know it."""

    __slots__ = ("_choose", "native_ping")

    def __init__(self, hub: Hub, sink: Sink, wire: Wire, *, native_ping: bool, choose: Choose | None) -> None:
        super().__init__(hub, sink, wire)
        self.native_ping = native_ping
        self._choose = choose
        self.wake_at(hub.now() + hub.config.client.stale_close_delay)

    def choose(self, token: str) -> None:
        """Go to the hub that the token belongs to, if this is not it. Raises Closing where there is none."""
        if self._choose is not None:
            self.move(self._choose(token))
            self._choose = None

    @property
    def who(self) -> channels.Who:
        """Who asks, when it asks for something."""
        return channels.Who(self.user, self.hub.config.client.insecure)

    @abstractmethod
    def push(self, body: bytes) -> None:
        """Send a push that is for this connection alone; ``body`` is its JSON object without a wrapper."""

    # Coming

    def coming(
        self, name: str, namespace: Namespace, granted: Granted, since: Position | None, right: Right | None
    ) -> Coming:
        """A subscription, joining; the caller brings it to :meth:`here`, or lets it :meth:`end`."""
        feed = self.hub.feed((name,), (namespace,))
        wire = self.wire.joined(granted.joins)
        subscription = feed.subscribe(self.outbox, wire, positioned=granted.positioned)
        subscription.right = right
        self.subscriptions[name] = subscription
        return Coming(name, namespace, granted, subscription, since)

    def by_server(self, name: str, terms: Terms, since: Position | None) -> Coming:
        """The same, made by the server. Raises Refused (102, 107) for a channel that cannot be."""
        namespace = self.hub.namespaces.find(name)
        if terms.override is not None:
            namespace = terms.override.over(namespace)
        right = Right(terms.info, by_server=True)
        self.until(name, right, terms.expire_at)
        request = _NOTHING_ASKED if since is None else Subscribe(recover=True, epoch=since.epoch, offset=since.offset)
        granted = channels.granted(request, namespace, channels.Who(self.user))
        return self.coming(name, namespace, granted, channels.recovery(request, namespace, granted), right)

    async def seated(self, coming: Coming) -> Coming:
        """With presence on, others must see it there before it is told so itself. (Where the store cannot be told, it
        is told later.)"""
        if not coming.namespace.presence or coming.subscription.state is State.GONE:
            return coming
        info = coming.subscription.right.info if coming.subscription.right is not None else b""
        entered = self.hub.presence.enter(coming.name, coming.namespace, self, info, tell=False)
        if entered is not None:
            await asyncio.wait([entered])
        return coming._replace(entered=entered)

    def here(self, coming: Coming, leg: Leg) -> asyncio.Future[int] | None:
        """It stands at the leg's end, and what led there is written: live, or nearly so. The future, if any, says how
        many are present in the channel."""
        subscription = coming.subscription
        if subscription.state is State.GONE:
            return None
        subscription.feed.settle(subscription, [leg.position])
        if coming.entered is not None:
            self.hub.presence.tell(coming.name, self)
            return coming.entered
        info = subscription.right.info if subscription.right is not None else b""
        return self.hub.presence.enter(coming.name, coming.namespace, self, info)

    def result(self, coming: Coming, leg: Leg) -> SubscribeResult:
        """What is said of it, in the reply to a subscribe or a connect."""
        granted, since, recovered = coming.granted, coming.since, coming.since is not None and not leg.gap
        outcome = "fresh" if since is None else "resumed" if recovered else "gap"
        self.hub.metrics.recovered(self.wire.name, outcome)
        result = replies.SubscribeResult(
            recoverable=granted.recoverable,
            positioned=granted.positioned,
            was_recovering=since is not None,
            recovered=recovered,
        )
        if granted.positioned:
            # Before the publications: the client counts on from here, one by one.
            result.epoch, result.offset = leg.start
        result.publications = replies.publications(leg.publications)
        return result

    # Server-side subscriptions

    async def gather(self, identity: Identity, asked: Mapping[str, Subscribe]) -> list[tuple[Coming, Leg]]:
        """Join all server-side subscriptions of ``identity``, from the positions ``asked`` for.

        Raises Refused (100, 102, 107) and StoreError; then they are left to the connection's end. The caller writes
        what they say and calls :meth:`arrive`, unless the connection has been closed by then.
        """
        if self.closed:
            return []
        arriving = []
        for name, terms in identity.subs.items():
            request = asked.get(name)
            since = Position(request.epoch, request.offset) if request is not None and request.recover else None
            arriving.append(self.by_server(name, terms, since))
        return await asyncio.gather(*(self.joined(coming) for coming in arriving))

    async def joined(self, coming: Coming) -> tuple[Coming, Leg]:
        """Wait until it is seen where it should be, and can begin. Raises Refused (100) and StoreError."""
        coming = await self.seated(coming)
        legs = await join(coming.subscription.feed, [coming.since], self.hub.limit)
        return coming, legs[0]

    def arrive(self, arrived: list[tuple[Coming, Leg]]) -> None:
        """They are told of, and go on from where each of them stood when it was found. Time has passed since."""
        alone = server_side.only_channel(self.hub, self.user)
        for coming, leg in arrived:
            entered = self.here(coming, leg)
            if coming.subscription.state is State.BEHIND:
                self.hub.loop.call_soon(catch_up, coming.subscription)
            if coming.name == alone:
                control.claim(self, entered)

    def results(self, arrived: list[tuple[Coming, Leg]], identity: Identity) -> dict[str, SubscribeResult]:
        """What the connect result says of them."""
        results = {}
        for coming, leg in arrived:
            result = results[coming.name] = self.result(coming, leg)
            data = identity.subs[coming.name].data
            if data:
                result.data = msgspec.Raw(data)
        return results

    def subscribe_by_server(self, name: str, terms: Terms, since: Position | None) -> asyncio.Future[None] | None:
        if name in self.subscriptions or self.closed or self.hub.verifier.over(terms.expire_at, self.hub.wall()):
            return None
        if len(self.subscriptions) >= self.hub.config.client.channel_limit:
            self.close(errors.CHANNEL_LIMIT)
            return None
        try:
            coming = self.by_server(name, terms, since)
        except Refused:
            return None  # this worker's config has no such channel; the API has answered by its own
        legs = at_once(coming.subscription.feed, [coming.since], self.hub.limit)
        if legs is None or coming.namespace.presence:
            return self.hub.spawn(self._join_by_server(coming, terms))
        self._subscribed(coming, terms, legs[0])
        return None

    async def _join_by_server(self, coming: Coming, terms: Terms) -> None:
        try:
            coming, leg = await self.joined(coming)
        except (StoreError, Refused):
            # It would be missing for ever: the client comes back, and finds it in its session or its token.
            if coming.subscription.state is not State.GONE:
                self.close(errors.INSUFFICIENT_STATE)
            return
        if coming.subscription.state is not State.GONE:
            self._subscribed(coming, terms, leg)

    def _subscribed(self, coming: Coming, terms: Terms, leg: Leg) -> None:
        """The push has no room for publications, so what was recovered follows it."""
        result = self.result(coming, leg)
        pushed = replies.SubscribeResult(
            recoverable=result.recoverable, positioned=result.positioned, epoch=result.epoch, offset=result.offset
        )
        if terms.data:
            pushed.data = msgspec.Raw(terms.data)
        self.push(replies.subscribe_body(coming.name, pushed))
        feed = coming.subscription.feed
        if leg.publications:
            self.outbox.write(coming.subscription.members.wire.encode(feed.names, leg.items(0), [leg.start]))
        self.here(coming, leg)

    # Leaving

    def end(self, name: str, subscription: Subscription) -> asyncio.Future[None] | None:
        """The subscription is over. The future, if any, is done when nobody sees the connection there any more."""
        right = subscription.right
        if right is not None and right.end is not None:
            right.end.cancel()
        subscription.feed.leave(subscription)
        if self.subscriptions.get(name) is not subscription:
            return None
        del self.subscriptions[name]
        return self.hub.presence.leave(name, self)

    def unsubscribe_by_server(self, name: str, reason: errors.Unsubscribe) -> None:
        for found in [name] if name else list(self.subscriptions):
            subscription = self.subscriptions.get(found)
            if subscription is not None:
                self._dismiss(found, subscription, reason)

    def _dismiss(self, name: str, subscription: Subscription, reason: errors.Unsubscribe) -> None:
        joining = subscription.state is State.JOINING
        self.end(name, subscription)
        if joining:  # its reply says it
            subscription.right = subscription.right or Right()
            subscription.right.ended = reason
        else:
            self.push(replies.unsubscribe_body(name, reason))

    def lost(self, subscription: Subscription) -> None:
        """The client subscribes again, from its own position; where it cannot, it connects again."""
        if subscription.state is State.GONE:
            return
        if subscription.right is not None and subscription.right.by_server:
            self.close(errors.INSUFFICIENT_STATE)
        else:
            self._dismiss(subscription.feed.key[0], subscription, errors.UNSUBSCRIBE_INSUFFICIENT)

    # The end of a right

    def until(self, name: str, right: Right, expire_at: float | None) -> None:
        """The right ends at ``expire_at`` (seconds since 1970; None: never), whatever was said before."""
        if right.end is not None:
            right.end.cancel()
            right.end = None
        if expire_at is not None:
            client = self.hub.config.client
            moment = expire_at + client.token.leeway + client.expired_sub_close_delay
            right.end = self.hub.expiry.at(moment, partial(self._right_over, name, right))

    def _right_over(self, name: str, right: Right, now: float) -> None:
        subscription = self.subscriptions.get(name)
        if subscription is None or subscription.right is not right:
            return
        if right.by_server:
            self.close(errors.SUBSCRIPTION_EXPIRED)
        else:
            self._dismiss(name, subscription, errors.UNSUBSCRIBE_EXPIRED)

    def expiry(self, expire_at: float | None) -> tuple[bool, int]:
        """What is told of the end of a right: whether there is one, and in how many seconds to come for another."""
        return (False, 0) if expire_at is None else (True, expiry.told(expire_at, self.hub.wall()))

    def refreshed(self, expire_at: float | None, info: bytes | None) -> None:
        super().refreshed(expire_at, info)
        expires, ttl = self.expiry(expire_at)
        self.push(replies.refresh_body(expires=expires, ttl=ttl))
