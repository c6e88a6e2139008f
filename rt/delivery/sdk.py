"""A connection that speaks the SDKs' protocol: what each of its commands does."""

from __future__ import annotations

from collections.abc import Coroutine
from functools import partial
from math import ceil
from random import random
from typing import TYPE_CHECKING

from rt import __version__, errors
from rt.delivery import asking, server_side
from rt.delivery.catchup import Leg, at_once
from rt.delivery.conversation import Conversation
from rt.delivery.rules import Visitor
from rt.delivery.subscriber import Coming
from rt.delivery.subscription import Right, State
from rt.errors import Closing, Refused, StoreError
from rt.protocol import channels, commands, replies, tokens
from rt.protocol.commands import Command
from rt.protocol.dialog import Heartbeat
from rt.protocol.dialog import State as Stage
from rt.protocol.wires import SDK

if TYPE_CHECKING:
    import asyncio

    from rt.delivery.hub import Choose, Hub
    from rt.delivery.outbox import Sink
    from rt.protocol.tokens import Grant, Identity


class SdkConnection(Conversation):
    """Its end is here: connecting, subscribing, asking."""

    __slots__ = ("_granted",)

    def __init__(self, hub: Hub, sink: Sink, *, native_ping: bool = False, choose: Choose | None = None) -> None:
        super().__init__(hub, sink, native_ping=native_ping, choose=choose)
        self._granted: frozenset[str] | None = None  # channels that the token subscribes to, if any

    def carry_out(self, command: Command) -> None:
        match command.request:
            case commands.Connect() as request:
                self.with_token(command, partial(self._connect, command, request))
            case commands.Subscribe() as request:
                self.with_token(command, partial(self._subscribe, command, request))
            case commands.Unsubscribe() as request:
                self._unsubscribe(command.id, request)
            case commands.Publish() as request:
                self.answer(command.id, asking.publish(self, command.id, request))
            case commands.Presence() as request:
                self.answer(command.id, asking.presence(self, command.id, request))
            case commands.PresenceStats() as request:
                self.answer(command.id, asking.presence_stats(self, command.id, request))
            case commands.History() as request:
                self.answer(command.id, asking.history(self, command.id, request))
            case commands.Refresh() as request:
                self.with_token(command, partial(self._refresh, command.id, request))
            case commands.SubRefresh() as request:
                self.with_token(command, partial(self._sub_refresh, command.id, request))
            case commands.Send():
                self.hub.tally.drops["inbound"] += 1
            case _:
                raise Refused(errors.NOT_AVAILABLE)

    # Connecting

    def _connect(
        self, command: Command, request: commands.Connect, *, fetched: bool
    ) -> Coroutine[object, object, None] | None:
        self.choose(request.token)
        hub = self.hub
        identity = tokens.identify(request.token, hub.verifier, hub.config.client, hub.wall(), fetched=fetched)
        hub.crowd.admit(identity.user)
        asked = hub.limits.log_in(Visitor(self.id, identity.user, self.address))
        if asked is not None:
            return self._connect_counted(command, request, identity, asked)
        return self._identified(command, request, identity)

    async def _connect_counted(
        self, command: Command, request: commands.Connect, identity: Identity, asked: asyncio.Future[None]
    ) -> None:
        await asked
        rest = None if self.closed else self._identified(command, request, identity)
        if rest is not None:
            await rest

    def _identified(
        self, command: Command, request: commands.Connect, identity: Identity
    ) -> Coroutine[object, object, None] | None:
        hub = self.hub
        self.identified(identity.user, identity.info)
        if identity.subs:
            self._granted = frozenset(identity.subs)
        whole = server_side.known(hub, identity)
        if whole is None or whole.subs:
            return self._connect_with_subs(command, request, identity)
        self._connected(command, identity, {})
        self.begun()
        return None

    async def _connect_with_subs(self, command: Command, request: commands.Connect, identity: Identity) -> None:
        whole = await server_side.wanted(self.hub, identity)
        self.info = whole.info
        arrived = await self.gather(whole, request.subs)
        if self.closed:
            return
        self._connected(command, whole, self.results(arrived, whole))
        self.flush()
        self.arrive(arrived)
        self.begun()

    def _connected(self, command: Command, identity: Identity, subs: dict[str, replies.SubscribeResult]) -> None:
        settings = self.hub.config.client
        heartbeat = Heartbeat(settings.ping_interval, settings.pong_timeout, now=self.hub.now(), share=random())
        self.dialog.connected(None if self.native_ping else heartbeat)
        self.live(heartbeat, identity.expire_at)
        expires, ttl = self.expiry(identity.expire_at)
        result = replies.ConnectResult(
            client=self.id,
            version=__version__,
            expires=expires,
            ttl=ttl,
            subs=subs,
            ping=0 if self.native_ping else ceil(settings.ping_interval),
            pong=not self.native_ping,
            node=self.hub.node,
        )
        self.replies.append(replies.connect(command.id, result))

    def _refresh(self, id: int, request: commands.Refresh, *, fetched: bool) -> None:
        hub = self.hub
        if not request.token:
            raise Closing(errors.BAD_COMMAND, "a refresh without a token")
        try:
            identity = tokens.identify(request.token, hub.verifier, hub.config.client, hub.wall(), fetched=fetched)
        except Refused as refused:
            raise refused if refused.error.temporary else Closing(errors.CONNECTION_EXPIRED) from None
        if identity.user != self.user:
            hub.verifier.failures["other"] += 1
            raise Closing(errors.INVALID_TOKEN, "a token of another user")
        if frozenset(identity.subs) != (self._granted or frozenset()):
            raise Closing(errors.INSUFFICIENT_STATE, "another token, other server-side subscriptions")
        self.renewed(identity.expire_at, identity.info or None)
        expires, ttl = self.expiry(identity.expire_at)
        self.replies.append(replies.refresh(id, expires=expires, ttl=ttl))

    # Subscribing

    def _subscribe(
        self, command: Command, request: commands.Subscribe, *, fetched: bool
    ) -> Coroutine[object, object, None] | None:
        hub, name = self.hub, request.channel
        namespace = hub.namespaces.named(name)
        limit = hub.config.client.channel_limit
        channels.admit(request, subscribed=name in self.subscriptions, count=len(self.subscriptions), limit=limit)
        right, expire_at = None, None
        if request.token:
            grant = self._grant(request.token, name, fetched)
            right, expire_at = Right(grant.info), grant.expire_at
            if grant.override is not None:
                namespace = grant.override.over(namespace)
            if expire_at is not None:
                self.until(name, right, expire_at)
        else:
            channels.may_subscribe(name, namespace, self.who)
        granted = channels.granted(request, namespace, self.who)
        coming = self.coming(name, namespace, granted, channels.recovery(request, namespace, granted), right)
        legs = at_once(coming.subscription.feed, [coming.since], hub.limit)
        if legs is None or namespace.presence:
            return self._join(command, request, coming, expire_at)
        self._begin(command, request, coming, expire_at, legs[0])
        return None

    def _grant(self, token: str, name: str, fetched: bool) -> Grant:
        hub = self.hub
        return tokens.permit(
            token, hub.verifier, channel=name, user=self.user, client=self.id, now=hub.wall(), fetched=fetched
        )

    async def _join(
        self, command: Command, request: commands.Subscribe, coming: Coming, expire_at: float | None
    ) -> None:
        """The part of a subscribe that waits. It may have been closed or ended meanwhile: then it is not begun."""
        subscription = coming.subscription
        try:
            coming, leg = await self.joined(coming)
            if subscription.state is State.GONE:
                self._missed(command.id, coming)
                return
        except (StoreError, Refused):
            self.end(coming.name, subscription)
            raise
        self._begin(command, request, coming, expire_at, leg)

    def _missed(self, id: int, coming: Coming) -> None:
        """It was ended while it was on its way. What the backend wants is done to the end: it was, and is no more."""
        right = coming.subscription.right
        if right is None or right.ended is not errors.SERVER_UNSUBSCRIBE or self.closed:
            raise Refused(errors.INTERNAL)
        self.replies.append(replies.done(id, "subscribe"))
        self.push(replies.unsubscribe_body(coming.name, right.ended))

    def _begin(
        self, command: Command, request: commands.Subscribe, coming: Coming, expire_at: float | None, leg: Leg
    ) -> None:
        """Reply, and be live or nearly so."""
        if coming.since is not None and leg.gap and request.flag & 2:
            self.hub.metrics.recovered(SDK.name, "gap")
            self.end(coming.name, coming.subscription)
            raise Refused(errors.UNRECOVERABLE_POSITION)
        result = self.result(coming, leg)
        result.expires, result.ttl = self.expiry(expire_at)
        self.replies.append(replies.subscribe(command.id, result))
        self.here(coming, leg)

    def _unsubscribe(self, id: int, request: commands.Unsubscribe) -> None:
        subscription = self.subscriptions.get(request.channel)
        left = None if subscription is None else self.end(request.channel, subscription)
        done = replies.done(id, request.kind)
        if left is None:
            self.replies.append(done)
        else:
            # Whoever has the reply and asks who is there must not find this connection. Where the store cannot be
            # told, presence ends by itself.
            self.wait()
            left.add_done_callback(lambda _: self._replied(done))

    def _replied(self, reply: bytes) -> None:
        self.replies.append(reply)
        self.go_on()

    def _sub_refresh(self, id: int, request: commands.SubRefresh, *, fetched: bool) -> None:
        name = request.channel
        subscription = self.subscriptions.get(name)
        if request.type:
            raise Refused(errors.NOT_AVAILABLE)
        if subscription is None:
            raise Refused(errors.PERMISSION_DENIED)
        if not request.token:
            raise Refused(errors.BAD_REQUEST)
        try:
            grant = self._grant(request.token, name, fetched)
        except Refused as refused:
            invalid = refused.error is errors.PERMISSION_DENIED
            raise Closing(errors.INVALID_TOKEN, "subscription token") if invalid else refused from None
        right = subscription.right = subscription.right or Right()
        self.until(name, right, grant.expire_at)
        expires, ttl = self.expiry(grant.expire_at)
        self.replies.append(replies.sub_refresh(id, expires=expires, ttl=ttl))

    # Time

    def tick(self, now: float) -> None:
        """Close one that has not connected in time, or was refused; else look after the heartbeat."""
        if self.heartbeat is None:
            self.close(errors.CLOSED if self.dialog.state is Stage.REFUSED else errors.STALE)
        else:
            super().tick(now)
