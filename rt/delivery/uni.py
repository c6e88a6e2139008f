"""The unidirectional WebSocket: a connect request, and from then on pushes only, bare.

What it follows is decided at the connect and by the server. It has no replies, so a connect that cannot be is a close.
"""

from __future__ import annotations

import uuid
from functools import partial
from math import ceil
from random import random
from typing import TYPE_CHECKING

from rt import __version__, errors
from rt.delivery import server_side
from rt.delivery.rules import Visitor
from rt.delivery.subscriber import Subscriber
from rt.errors import Closing, Refused, StoreError
from rt.protocol import channels, commands, frames, replies, tokens
from rt.protocol.dialog import Heartbeat
from rt.protocol.frames import close_frame, text_frame
from rt.protocol.options import Terms
from rt.protocol.wires import UNI

if TYPE_CHECKING:
    from rt.delivery.hub import Choose, Hub
    from rt.delivery.outbox import Sink
    from rt.errors import Close
    from rt.protocol.commands import Connect
    from rt.protocol.tokens import Identity


class UniConnection(Subscriber):
    """:meth:`begin` once, or let the first message do it. ``session`` is how the backend may name the connection."""

    __slots__ = ("_begun", "_session")

    def __init__(self, hub: Hub, sink: Sink, *, native_ping: bool = False, choose: Choose | None = None) -> None:
        super().__init__(hub, sink, UNI, native_ping=native_ping, choose=choose)
        self._session = str(uuid.uuid4())
        self._begun = False

    @property
    def session(self) -> str:
        return self._session

    @property
    def ping(self) -> bytes:
        """Who only listens answers no ping of the protocol, but its end of the socket answers the socket's own."""
        return frames.PING if self.native_ping else self.wire.ping + frames.PING

    def message(self, payload: bytes) -> None:
        """The first message is the connect request; whatever follows is dropped, and counted."""
        if self._begun:
            super().message(payload)
            return
        self.hub.tally.received_messages += 1
        try:
            request = commands.decode_connect(payload)
        except Closing as closing:
            self.close(closing.close)
        else:
            self.begin(request)

    def begin(self, request: Connect) -> None:
        """Connect, now or when the store has answered. The stream begins with what became of it, or ends."""
        self._begun = True
        if self.closed:
            return  # it left before it was let in
        try:
            self.choose(request.token)
        except Closing as closing:
            self.close(closing.close)
        else:
            self.hub.spawn(self._connect(request))

    async def _connect(self, request: Connect) -> None:
        try:
            identity = await self._identified(request.token)
            whole = await server_side.wanted(self.hub, identity)
            self.info = whole.info
            asked = self._asked(request)
            chosen = [name for name in asked if name not in whole.subs]
            whole = whole._replace(subs={**asked, **whole.subs})
            if len(whole.subs) > self.hub.config.client.channel_limit:
                raise Closing(errors.CHANNEL_LIMIT)
            counted = self.hub.limits.subscribes(self, chosen)
            if counted is not None:
                await counted
            arrived = await self.gather(whole, request.subs)
            if self.closed:
                return
            self._connected(whole, self.results(arrived, whole))
            self.arrive(arrived)
            self.begun()
        except Closing as closing:
            self.close(closing.close)
        except Refused as refused:
            self.close(errors.closing(refused.error))
        except StoreError:
            self.close(errors.SERVER_ERROR)

    async def _identified(self, token: str) -> Identity:
        hub = self.hub
        identify = partial(tokens.identify, token, hub.verifier, hub.config.client)
        try:
            identity = identify(hub.wall())
        except tokens.KeysWanted:
            assert hub.keys is not None
            await hub.keys.fetch()
            identity = identify(hub.wall(), fetched=True)
        hub.crowd.admit(identity.user)
        asked = hub.limits.log_in(Visitor(self.id, identity.user, self.address))
        if asked is not None:
            await asked
        self.identified(identity.user, identity.info)
        return identity

    def _asked(self, request: Connect) -> dict[str, Terms]:
        """The channels of the request that the user may follow without a token; others are skipped, by the protocol's
        rule."""
        asked = {}
        for name in request.subs:
            try:
                self.hub.namespaces.find(name)
            except Refused:
                raise Closing(errors.BAD_COMMAND, "a channel that cannot be") from None
            try:
                channels.may_subscribe(name, self.hub.namespaces.named(name), self.who)
            except Refused:
                continue
            asked[name] = Terms()
        return asked

    def _connected(self, identity: Identity, subs: dict[str, replies.SubscribeResult]) -> None:
        settings = self.hub.config.client
        self.live(
            Heartbeat(settings.ping_interval, settings.pong_timeout, now=self.hub.now(), share=random()),
            identity.expire_at,
        )
        expires, ttl = self.expiry(identity.expire_at)
        result = replies.ConnectResult(
            client=self.id,
            version=__version__,
            expires=expires,
            ttl=ttl,
            subs=subs,
            ping=0 if self.native_ping else ceil(settings.ping_interval),
            session=self._session,
            node=self.hub.node,
        )
        self.push(replies.connect_body(result))

    def push(self, body: bytes) -> None:
        self.outbox.write(text_frame(body))

    def tick(self, now: float) -> None:
        """Close one that has not connected in time; else look after the heartbeat."""
        if self.heartbeat is None:
            self.close(errors.STALE)
        else:
            super().tick(now)

    def farewell(self, close: Close) -> bytes:
        """The reason as a push, for who reads no close frames."""
        if close.code < 3000:
            return close_frame(close.code, close.reason)
        return text_frame(replies.disconnect_body(close)) + close_frame(close.code, close.reason)
