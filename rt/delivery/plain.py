"""A connection without an SDK: a list of channels, named in the URL, to be followed over ``/sse`` or ``/ws``.

It asks for nothing after it has begun. Its place is the cursor, which every message carries; with it the client comes
back.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from math import ceil, inf
from random import random
from typing import TYPE_CHECKING, NamedTuple

from rt import __version__, errors
from rt.delivery.catchup import Leg, at_once, join
from rt.delivery.connection import Connection
from rt.delivery.subscription import State, Subscription
from rt.errors import Close, Refused, StoreError
from rt.protocol import channels, cursor, replies, sse, tokens
from rt.protocol.dialog import Heartbeat
from rt.protocol.frames import text_frame
from rt.protocol.publication import Position
from rt.protocol.wires import SSE, Wire

if TYPE_CHECKING:
    from rt.config import Namespace
    from rt.delivery.hub import Hub
    from rt.delivery.outbox import Sink

RETRY = 1000  # milliseconds after which a browser's EventSource comes back
NOT_A_POSITION = Position("-", 0)
"""Where a cursor that makes no sense points to: no stream has this epoch, so it ends in a gap, which is told."""


class Request(NamedTuple):
    """What the URL and the headers ask for, not yet checked. ``since`` is the cursor; empty to begin now."""

    names: Sequence[str]
    since: str = ""
    token: str = ""
    subscription_tokens: Sequence[str] = ()


class Admission(NamedTuple):
    """A request that was found good."""

    names: tuple[str, ...]
    namespaces: tuple[Namespace, ...]
    since: list[Position | None]
    recovering: bool
    user: str
    expire_at: float | None


def admit(hub: Hub, request: Request) -> Admission:
    """Check names, token and permissions, each time anew: a cursor grants nothing. Raises Refused or Closing."""
    names = tuple(request.names)
    if not 1 <= len(names) <= cursor.MAX_CHANNELS or len(set(names)) != len(names):
        raise Refused(errors.BAD_REQUEST, f"1 to {cursor.MAX_CHANNELS} different channels")
    now = time.time()
    identity = tokens.identify(request.token, hub.verifier, hub.config.client, now)
    who = channels.Who(identity.user, hub.config.client.insecure)
    granted = _granted(hub, request.subscription_tokens, names, identity.user, now)
    namespaces = tuple(hub.namespaces.find(name) for name in names)
    for name, namespace in zip(names, namespaces, strict=True):
        if name not in granted:
            channels.may_subscribe(name, namespace, who)
    since, recovering = _since(request.since, names)
    return Admission(names, namespaces, since, recovering, identity.user, identity.expire_at)


def _granted(hub: Hub, given: Sequence[str], names: tuple[str, ...], user: str, now: float) -> set[str]:
    """The channels of the list that subscription tokens open; each token says itself which one it is for."""
    found = set()
    for token in given:
        try:
            channel = hub.verifier.subscription(token, now).channel
        except tokens.TokenExpired:
            raise Refused(errors.TOKEN_EXPIRED) from None
        except tokens.TokenInvalid:
            raise Refused(errors.PERMISSION_DENIED) from None
        if channel in names:
            tokens.permit(token, hub.verifier, channel=channel, user=user, client="", now=now)
            found.add(channel)
    return found


def _since(text: str, names: tuple[str, ...]) -> tuple[list[Position | None], bool]:
    """Where to begin in each channel. A cursor that is none must not be taken for a wish to begin now."""
    if not text:
        return [None] * len(names), False
    try:
        found = cursor.decode(text, names)
        return [found.get(name) for name in names], True
    except cursor.CursorError:
        return [NOT_A_POSITION] * len(names), True


class PlainConnection(Connection):
    """``preface`` is sent before the first message, ``refusal`` instead of all when the store cannot be asked."""

    __slots__ = ("_admission", "_begun", "_preface", "_refusal")

    def __init__(
        self, hub: Hub, sink: Sink, wire: Wire, admission: Admission, *, preface: bytes, refusal: bytes
    ) -> None:
        super().__init__(hub, sink, wire)
        self.user = admission.user
        self._admission = admission
        self._preface = preface
        self._refusal = refusal
        self._begun = False

    def begin(self) -> None:
        """Subscribe; at once where the channels are open here and what was missed is known, else after the store."""
        admission = self._admission
        feed = self.hub.feed(admission.names, admission.namespaces)
        subscription = feed.subscribe(self.outbox, self.wire, positioned=True)
        self.subscriptions[""] = subscription
        legs = at_once(feed, admission.since, self.hub.limit)
        if legs is None:
            self.hub.spawn(self._join(subscription))
        else:
            self._began(subscription, legs)

    async def _join(self, subscription: Subscription) -> None:
        try:
            legs = await join(subscription.feed, self._admission.since, self.hub.limit)
        except (StoreError, Refused):
            self.close(errors.SERVER_ERROR)
            return
        if subscription.state is State.GONE:
            self.close(errors.SERVER_ERROR)
        else:
            self._began(subscription, legs)

    def _began(self, subscription: Subscription, legs: list[Leg]) -> None:
        settings, feed = self.hub.config.client, subscription.feed
        gap = any(leg.gap for leg in legs)
        outcome = "gap" if gap else "resumed" if self._admission.recovering else "fresh"
        self.hub.metrics.recovered(self.wire.name, outcome)
        self._begun = True
        start = [leg.start for leg in legs]
        items = [item for index, leg in enumerate(legs) for item in leg.items(index)]
        first = self._hello(start, legs) + self.wire.encode(feed.names, items, start)
        # Streams over HTTP have no pongs: what the kernel takes is the only sign of life.
        timeout = inf if self.wire is SSE else settings.pong_timeout
        heartbeat = Heartbeat(settings.ping_interval, timeout, now=self.hub.now(), share=random())
        self.live(heartbeat, self._admission.expire_at)
        feed.settle(subscription, [leg.position for leg in legs])
        self.outbox.write(self._preface + first)

    def _hello(self, start: list[Position], legs: list[Leg]) -> bytes:
        """The first message: who and where one is, and what became of the recovery."""
        was = self._admission.recovering
        subs = {
            name: replies.SubscribeResult(
                epoch=at.epoch, offset=at.offset, recovered=was and not leg.gap, was_recovering=was
            )
            for name, at, leg in zip(self._admission.names, start, legs, strict=True)
        }
        result = replies.ConnectResult(
            client=self.id,
            version=__version__,
            ping=ceil(self.hub.config.client.ping_interval),
            node=self.hub.node,
            subs=subs,
        )
        text = cursor.encode(start)
        if self.wire is SSE:
            return sse.retry(RETRY) + sse.event(replies.connect_object(result), id=text, event="connect")
        return text_frame(replies.connect_message(result, text))

    def lost(self, subscription: Subscription) -> None:
        """A channel's settings changed under it: the client comes back with its cursor."""
        self.close(errors.INSUFFICIENT_STATE)

    def farewell(self, close: Close) -> bytes:
        """The last bytes; before the stream has begun there is no stream to say them in."""
        return super().farewell(close) if self._begun else self._refusal
