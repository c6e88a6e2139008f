"""A connection that speaks the SDKs' protocol: commands in, replies and pushes out.

Commands are carried out strictly in order. What needs no waiting is answered at once; a command that must wait for the
store, or for the key of a token, stops the reading of this connection until it is answered, which keeps the order and
is the flow control. The replies of all commands that came together leave as one frame, before the next turn of any
channel.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine
from functools import partial
from math import ceil
from random import random
from typing import TYPE_CHECKING, Any, Protocol

from rt import __version__, errors
from rt.delivery import asking, server_side
from rt.delivery.catchup import Leg, at_once
from rt.delivery.subscriber import Coming, Subscriber
from rt.delivery.subscription import Right, State
from rt.errors import Closing, Refused, StoreError
from rt.protocol import channels, commands, frames, replies, tokens
from rt.protocol.commands import BadCommand, Command
from rt.protocol.dialog import Dialog, Heartbeat
from rt.protocol.dialog import State as Stage
from rt.protocol.frames import text_frame
from rt.protocol.wires import SDK

if TYPE_CHECKING:
    import asyncio

    from rt.delivery.asking import Answer
    from rt.delivery.hub import Choose, Hub
    from rt.delivery.outbox import Sink
    from rt.protocol.tokens import Grant, Identity

REFUSED_LINGER = 5.0  # seconds until a connection whose connect was refused is closed


class Work(Protocol):
    """A command that needs a token judged: done, or a rest that waits. ``fetched``: its key has been asked for."""

    def __call__(self, *, fetched: bool) -> Coroutine[object, object, None] | None: ...


class SdkConnection(Subscriber):
    """``waiting`` while a command waits; what came in behind it is in the inbox, at most one read's worth."""

    __slots__ = ("_dialog", "_granted", "_inbox", "_replies", "waiting")

    def __init__(self, hub: Hub, sink: Sink, *, native_ping: bool = False, choose: Choose | None = None) -> None:
        super().__init__(hub, sink, SDK, native_ping=native_ping, choose=choose)
        self.waiting = False
        self._dialog = Dialog()
        self._granted: frozenset[str] | None = None  # channels that the token subscribes to, if any
        self._inbox: deque[bytes] | None = None
        self._replies: list[bytes] = []

    # In and out

    @property
    def busy(self) -> bool:
        return self.waiting or super().busy

    @property
    def ping(self) -> bytes:
        return frames.PING if self.native_ping else self.wire.ping

    def message(self, payload: bytes) -> None:
        """One text message: commands joined by newlines."""
        try:
            lines = commands.split(payload)
        except Closing as closing:
            self.close(closing.close)
            return
        self.hub.tally.received_messages += len(lines)
        if self._inbox is None:
            self._inbox = deque(lines)
        else:
            self._inbox.extend(lines)
        self._work()

    def push(self, body: bytes) -> None:
        self._send()
        self.outbox.write(text_frame(replies.push(body)))

    def _work(self) -> None:
        """Carry out what is in the inbox, up to one that must wait; then send the replies."""
        inbox = self._inbox
        while inbox and not self.waiting and not self.closed:
            try:
                self._take(inbox.popleft())
            except Closing as closing:
                self._send()
                self.close(closing.close)
        if not inbox:
            self._inbox = None  # an empty one would be the largest part of an idle connection
        self._send()

    def _send(self) -> None:
        if self._replies and not self.closed:
            pending, self._replies = self._replies, []
            self.outbox.write(text_frame(b"\n".join(pending)))

    def _take(self, line: bytes) -> None:
        if self._dialog.state is Stage.REFUSED:
            return  # what was sent along with a connect that failed, good or bad
        try:
            command = commands.decode(line)
        except BadCommand as bad:
            if self._dialog.accept(bad.kind):
                self._refuse(bad.id, bad.kind, bad.error)
            return
        if not self._dialog.accept(command.kind):
            return
        try:
            self._carry_out(command)
        except Refused as refused:
            self._refuse(command.id, command.kind, refused.error)

    def _refuse(self, id: int, kind: str, error: errors.Error) -> None:
        self._replies.append(replies.error(id, error))
        if kind == "connect":
            self._dialog.refused()
            self.wake_at(self.hub.now() + REFUSED_LINGER)

    def _carry_out(self, command: Command) -> None:
        match command.request:
            case commands.Connect() as request:
                self._with_token(command, partial(self._connect, command, request))
            case commands.Subscribe() as request:
                self._with_token(command, partial(self._subscribe, command, request))
            case commands.Unsubscribe() as request:
                self._unsubscribe(command.id, request)
            case commands.Publish() as request:
                self._answer(command.id, asking.publish(self, command.id, request))
            case commands.Presence() as request:
                self._answer(command.id, asking.presence(self, command.id, request))
            case commands.PresenceStats() as request:
                self._answer(command.id, asking.presence_stats(self, command.id, request))
            case commands.History() as request:
                self._answer(command.id, asking.history(self, command.id, request))
            case commands.Refresh() as request:
                self._with_token(command, partial(self._refresh, command.id, request))
            case commands.SubRefresh() as request:
                self._with_token(command, partial(self._sub_refresh, command.id, request))
            case commands.Send():
                self.hub.tally.drops["inbound"] += 1
            case _:
                raise Refused(errors.NOT_AVAILABLE)

    # Waiting

    def _wait(self) -> None:
        self.waiting = True
        if self.heartbeat is not None:
            self.heartbeat.rest()

    def _go_on(self) -> None:
        """The command that waited has been answered: the next ones are due."""
        if self.closed:
            return
        self.waiting = False
        if self.heartbeat is not None:
            self.heartbeat.resume(self.hub.now())
        self._work()
        if not self.busy:
            self.outbox.sink.resume()

    def _answer(self, id: int, answer: Answer) -> None:
        """Answer command ``id`` when the store has, without a task."""
        self._wait()
        answer.future.add_done_callback(partial(self._answered, id, answer.reply))

    def _answered(self, id: int, reply: Callable[[Any], bytes], future: asyncio.Future[Any]) -> None:
        try:
            self._replies.append(reply(future.result()))
        except StoreError:
            self._replies.append(replies.error(id, errors.INTERNAL))
        except Refused as refused:
            self._replies.append(replies.error(id, refused.error))
        self._go_on()

    def _later(self, command: Command, work: Coroutine[object, object, None]) -> None:
        """Carry out a command that must wait in more than one place: ``work`` ends with its reply, or raises."""
        self._wait()
        self.hub.spawn(self._worked(command, work))

    async def _worked(self, command: Command, work: Coroutine[object, object, None]) -> None:
        try:
            await work
        except Closing as closing:
            self._send()
            self.close(closing.close)
        except Refused as refused:
            self._refuse(command.id, command.kind, refused.error)
        except StoreError:
            self._refuse(command.id, command.kind, errors.INTERNAL)
        except Exception:
            self.close(errors.SERVER_ERROR)  # it would wait for ever; the hub says what it was
            raise
        self._go_on()

    def _with_token(self, command: Command, work: Work) -> None:
        """Do ``work``, and the rest of it that must wait; where a token's key is not known here, after asking for it
        once."""
        try:
            rest = work(fetched=False)
        except tokens.KeysWanted:
            rest = self._asked(work)
        if rest is not None:
            self._later(command, rest)

    async def _asked(self, work: Work) -> None:
        assert self.hub.keys is not None
        await self.hub.keys.fetch()
        if not self.closed:
            rest = work(fetched=True)
            if rest is not None:
                await rest

    # Connecting

    def _connect(
        self, command: Command, request: commands.Connect, *, fetched: bool
    ) -> Coroutine[object, object, None] | None:
        self.choose(request.token)
        hub = self.hub
        identity = tokens.identify(request.token, hub.verifier, hub.config.client, hub.wall(), fetched=fetched)
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
        self._send()
        self.arrive(arrived)
        self.begun()

    def _connected(self, command: Command, identity: Identity, subs: dict[str, replies.SubscribeResult]) -> None:
        settings = self.hub.config.client
        heartbeat = Heartbeat(settings.ping_interval, settings.pong_timeout, now=self.hub.now(), share=random())
        self._dialog.connected(None if self.native_ping else heartbeat)
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
        self._replies.append(replies.connect(command.id, result))

    def _refresh(self, id: int, request: commands.Refresh, *, fetched: bool) -> None:
        hub = self.hub
        if not request.token:
            raise Closing(errors.BAD_COMMAND, "a refresh without a token")
        try:
            identity = tokens.identify(request.token, hub.verifier, hub.config.client, hub.wall(), fetched=fetched)
        except Refused as refused:
            raise refused if refused.error.temporary else Closing(errors.CONNECTION_EXPIRED) from None
        if identity.user != self.user:
            raise Closing(errors.INVALID_TOKEN, "a token of another user")
        if frozenset(identity.subs) != (self._granted or frozenset()):
            raise Closing(errors.INSUFFICIENT_STATE, "another token, other server-side subscriptions")
        self.renewed(identity.expire_at, identity.info or None)
        expires, ttl = self.expiry(identity.expire_at)
        self._replies.append(replies.refresh(id, expires=expires, ttl=ttl))

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
        self._replies.append(replies.done(id, "subscribe"))
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
        self._replies.append(replies.subscribe(command.id, result))
        self.here(coming, leg)

    def _unsubscribe(self, id: int, request: commands.Unsubscribe) -> None:
        subscription = self.subscriptions.get(request.channel)
        left = None if subscription is None else self.end(request.channel, subscription)
        done = replies.done(id, request.kind)
        if left is None:
            self._replies.append(done)
        else:
            # Whoever has the reply and asks who is there must not find this connection. Where the store cannot be
            # told, presence ends by itself.
            self._wait()
            left.add_done_callback(lambda _: self._replied(done))

    def _replied(self, reply: bytes) -> None:
        self._replies.append(reply)
        self._go_on()

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
        self._replies.append(replies.sub_refresh(id, expires=expires, ttl=ttl))

    # Time

    def tick(self, now: float) -> None:
        """Close one that has not connected in time, or was refused; else look after the heartbeat."""
        if self.heartbeat is None:
            self.close(errors.CLOSED if self._dialog.state is Stage.REFUSED else errors.STALE)
        else:
            super().tick(now)
