"""A connection that speaks the SDKs' protocol: commands in, replies and pushes out.

Commands are carried out strictly in order. What needs no waiting is answered at once; a command that must wait for the
store stops the reading of this connection until it is answered, which keeps the order and is the flow control. The
replies of all commands that came together leave as one frame, before the next turn of any channel.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from functools import partial
from math import ceil
from random import random
from typing import TYPE_CHECKING, TypeVar

from rt import __version__, errors
from rt.delivery import publishing
from rt.delivery.catchup import Leg, at_once, join
from rt.delivery.connection import Connection
from rt.delivery.subscription import State, Subscription
from rt.errors import Closing, Refused, StoreError
from rt.protocol import channels, commands, replies, tokens
from rt.protocol.commands import BadCommand, Command
from rt.protocol.dialog import Dialog, Heartbeat
from rt.protocol.dialog import State as Stage
from rt.protocol.frames import text_frame
from rt.protocol.publication import Position
from rt.protocol.wires import SDK

if TYPE_CHECKING:
    import asyncio

    from rt.broker import Published
    from rt.delivery.hub import Hub
    from rt.delivery.outbox import Sink
    from rt.protocol.publication import Page

T = TypeVar("T")

REFUSED_LINGER = 5.0  # seconds until a connection whose connect was refused is closed


class SdkConnection(Connection):
    """``waiting`` while a command waits for the store; what came in behind it is in the inbox, at most one read's
    worth."""

    __slots__ = ("_channel_infos", "_dialog", "_inbox", "_info", "_replies", "waiting")

    def __init__(self, hub: Hub, sink: Sink) -> None:
        super().__init__(hub, sink, SDK)
        self.waiting = False
        self._dialog = Dialog()
        self._inbox: deque[bytes] = deque()
        self._replies: list[bytes] = []
        self._info = b""
        self._channel_infos: dict[str, bytes] = {}  # of the few subscriptions whose token has one
        self.wake_at(hub.now() + hub.config.client.stale_close_delay)

    # In and out

    @property
    def busy(self) -> bool:
        return self.waiting or super().busy

    def message(self, payload: bytes) -> None:
        """One text message: commands joined by newlines."""
        try:
            lines = commands.split(payload)
            self.hub.tally.received_messages += len(lines)
            self._inbox.extend(lines)
        except Closing as closing:
            self.close(closing.close)
            return
        self._work()

    def _work(self) -> None:
        """Carry out what is in the inbox, up to one that must wait; then send the replies."""
        while self._inbox and not self.waiting and not self.closed:
            try:
                self._take(self._inbox.popleft())
            except Closing as closing:
                self._send()
                self.close(closing.close)
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
                self._connect(command.id, request)
            case commands.Subscribe() as request:
                self._subscribe(command.id, request)
            case commands.Unsubscribe() as request:
                self._unsubscribe(command.id, request)
            case commands.Publish() as request:
                self._publish(command.id, request)
            case commands.History() as request:
                self._history(command.id, request)
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

    def _answer(self, id: int, future: asyncio.Future[T], reply: Callable[[T], bytes]) -> None:
        """Answer command ``id`` with ``reply`` of what the store says, without a task."""
        self._wait()
        future.add_done_callback(partial(self._answered, id, reply))

    def _answered(self, id: int, reply: Callable[[T], bytes], future: asyncio.Future[T]) -> None:
        try:
            self._replies.append(reply(future.result()))
        except StoreError:
            self._replies.append(replies.error(id, errors.INTERNAL))
        except Refused as refused:
            self._replies.append(replies.error(id, refused.error))
        self._go_on()

    # Commands

    @property
    def _who(self) -> channels.Who:
        return channels.Who(self.user, self.hub.config.client.insecure)

    def _connect(self, id: int, request: commands.Connect) -> None:
        hub, settings = self.hub, self.hub.config.client
        identity = tokens.identify(request.token, hub.verifier, settings, time.time())
        self.user = identity.user
        self._info = identity.info
        heartbeat = Heartbeat(settings.ping_interval, settings.pong_timeout, now=hub.now(), share=random())
        self._dialog.connected(heartbeat)
        self.live(heartbeat, identity.expire_at)
        result = replies.ConnectResult(
            client=self.id, version=__version__, ping=ceil(settings.ping_interval), pong=True, node=hub.node
        )
        self._replies.append(replies.connect(id, result))

    def _subscribe(self, id: int, request: commands.Subscribe) -> None:
        hub, name = self.hub, request.channel
        namespace = hub.namespaces.find(name)
        limit = hub.config.client.channel_limit
        channels.admit(request, subscribed=name in self.subscriptions, count=len(self.subscriptions), limit=limit)
        if request.token:
            now = time.time()
            info = tokens.permit(
                request.token, hub.verifier, channel=name, user=self.user, client=self.id, now=now
            ).info
        else:
            info = b""
            channels.may_subscribe(name, namespace, self._who)
        granted = channels.granted(request, namespace, self._who)
        feed = hub.feed((name,), (namespace,))
        subscription = feed.subscribe(self.outbox, SDK, positioned=granted.positioned)
        self.subscriptions[name] = subscription
        if info:
            self._channel_infos[name] = info
        since = Position(request.epoch, request.offset) if request.recover and granted.recoverable else None
        begin = partial(self._begin, id, request, granted, subscription, since)
        legs = at_once(feed, [since], hub.limit)
        if legs is None:
            self._wait()
            hub.spawn(self._join(id, name, subscription, since, begin))
        else:
            begin(legs[0])

    async def _join(
        self,
        id: int,
        name: str,
        subscription: Subscription,
        since: Position | None,
        begin: Callable[[Leg], None],
    ) -> None:
        """The part of a subscribe that waits. It may have been closed or ended meanwhile: then it is not begun."""
        error = errors.INTERNAL
        try:
            legs = await join(subscription.feed, [since], self.hub.limit)
            if subscription.state is not State.GONE:
                begin(legs[0])
                self._go_on()
                return
        except StoreError:
            pass
        except Refused as refused:
            error = refused.error
        self._end(name, subscription)
        self._replies.append(replies.error(id, error))
        self._go_on()

    def _begin(
        self,
        id: int,
        request: commands.Subscribe,
        granted: channels.Granted,
        subscription: Subscription,
        since: Position | None,
        leg: Leg,
    ) -> None:
        """Reply, and be live or nearly so."""
        recovered = since is not None and not leg.gap
        outcome = "fresh" if since is None else "resumed" if recovered else "gap"
        if outcome == "gap" and request.flag & 2:
            self._end(request.channel, subscription)
            raise Refused(errors.UNRECOVERABLE_POSITION)
        self.hub.metrics.recovered(SDK.name, outcome)
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
        self._replies.append(replies.subscribe(id, result))
        subscription.feed.settle(subscription, [leg.position])

    def _end(self, name: str, subscription: Subscription) -> None:
        if self.subscriptions.get(name) is subscription:
            del self.subscriptions[name]
            self._channel_infos.pop(name, None)
        subscription.feed.leave(subscription)

    def _unsubscribe(self, id: int, request: commands.Unsubscribe) -> None:
        subscription = self.subscriptions.get(request.channel)
        if subscription is not None:
            self._end(request.channel, subscription)
        self._replies.append(replies.done(id, request.kind))

    def _publish(self, id: int, request: commands.Publish) -> None:
        namespace = self.hub.namespaces.find(request.channel)
        if request.type:
            raise Refused(errors.NOT_AVAILABLE)
        channels.may_publish(namespace, self._who, subscribed=request.channel in self.subscriptions)
        info = replies.client_info(self.user, self.id, self._info, self._channel_infos.get(request.channel, b""))
        body = replies.publication_body(publishing.checked(request.data, namespace), info)
        future = self.hub.broker.publish(request.channel, body, publishing.options(namespace))

        def reply(published: Published) -> bytes:
            return replies.done(id, "publish")

        self._answer(id, future, reply)

    def _history(self, id: int, request: commands.History) -> None:
        namespace = self.hub.namespaces.find(request.channel)
        channels.may_read_history(namespace, self._who, subscribed=request.channel in self.subscriptions)
        limit = channels.history_limit(request, self.hub.config.client.history_max_publication_limit)
        since = Position(request.since.epoch, request.since.offset) if request.since is not None else None
        future = self.hub.broker.history(
            request.channel, since=since, limit=limit, reverse=request.reverse, meta_ttl=namespace.history_meta_ttl
        )

        def reply(page: Page) -> bytes:
            if since is not None and since.epoch and since.epoch != page.top.epoch:
                raise Refused(errors.UNRECOVERABLE_POSITION)
            return replies.history(id, page.top, page.publications)

        self._answer(id, future, reply)

    # Time and loss

    def tick(self, now: float) -> None:
        """Close one that has not connected in time, or was refused; else look after the heartbeat."""
        if self.heartbeat is None:
            self.close(errors.CLOSED if self._dialog.state is Stage.REFUSED else errors.STALE)
        else:
            super().tick(now)

    def lost(self, subscription: Subscription) -> None:
        """Unsubscribe with 2500: the client subscribes again, from its own position."""
        name = subscription.feed.key[0]
        joining = subscription.state is State.JOINING
        self._end(name, subscription)
        if not joining:
            body = replies.unsubscribe_body(name, errors.UNSUBSCRIBE_INSUFFICIENT)
            self.outbox.write(text_frame(replies.push(body)))
