"""The streams: ``/sse``, ``/ws`` and ``uni_sse``, from their beginning.

A stream asks for nothing after it has begun. Its place is the cursor, which every message carries; with it the client
comes back.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from math import ceil, inf
from random import randint, random
from typing import TYPE_CHECKING, Final

from rt import __version__, errors
from rt.delivery import expiry
from rt.delivery.catchup import Leg, at_once, join
from rt.delivery.stream import NOW, Stream, described, items_of, unknowing
from rt.delivery.subscription import State, Subscription
from rt.errors import Close, Refused, StoreError
from rt.protocol import replies, sse
from rt.protocol.dialog import Heartbeat
from rt.protocol.frames import text_frame
from rt.protocol.publication import Position
from rt.protocol.replies import SubscribeResult
from rt.protocol.wires import SOCKET, SSE, UNI_SSE, EventWire, StreamWire, standing

if TYPE_CHECKING:
    from rt.delivery.admission import Admission, Following
    from rt.delivery.hub import Hub
    from rt.delivery.outbox import Sink

RETRY: Final = 1000  # milliseconds after which a browser's EventSource comes back


class PlainConnection(Stream):
    """``preface`` is sent before the first message, ``refusal`` instead of all when the store cannot be asked."""

    __slots__ = ("_admission", "_begun", "_preface", "_refusal", "_session")

    def __init__(
        self, hub: Hub, sink: Sink, wire: StreamWire, admission: Admission, *, preface: bytes, refusal: bytes
    ) -> None:
        super().__init__(hub, sink, wire)
        self._session = str(uuid.uuid4()) if wire is UNI_SSE else ""
        self._admission = admission
        self._preface = preface
        self._refusal = refusal
        self._begun = False
        self.identified(admission.identity.user, admission.identity.info)

    @property
    def session(self) -> str:
        return self._session

    # The beginning

    def begin(self) -> None:
        """Subscribe; at once where the channels are open here and what was missed is known, else after the store."""
        following = self._admission.following
        subscription = self.subscribe(following, named=self._admission.named)
        self.subscriptions[NOW] = subscription
        since = [one.since for one in following]
        legs = at_once(subscription.feed, since, self.hub.limit)
        if legs is None:
            self.hub.spawn(self._join(subscription, since))
        else:
            self._began(subscription, legs)

    async def _join(self, subscription: Subscription, since: Sequence[Position | None]) -> None:
        try:
            legs = await join(subscription.feed, since, self.hub.limit)
        except (StoreError, Refused):
            self.close(errors.SERVER_ERROR)
            return
        if subscription.state is State.GONE:
            self.close(errors.SERVER_ERROR)
        else:
            self._began(subscription, legs)

    def _began(self, subscription: Subscription, legs: list[Leg]) -> None:
        following, feed, expire_at = self._admission.following, subscription.feed, self._admission.identity.expire_at
        settings = self.hub.config.client
        self.count(following, legs)
        self._begun = True
        if self.wire.tells:
            start = [leg.start for leg in legs]
            first = self._hello(following, legs, standing(feed.names, start))
            first += subscription.members.wire.encode(feed.names, items_of(following, legs), start)
        else:
            first = self._hello(following, legs, standing(feed.names, [leg.position for leg in legs]))
        # Streams over HTTP have no pongs: what the kernel takes is the only sign of life.
        timeout = settings.pong_timeout if self.wire is SOCKET else inf
        self.live(Heartbeat(settings.ping_interval, timeout, now=self.hub.now(), share=random()), expire_at)
        feed.settle(subscription, [leg.position for leg in legs])
        self.outbox.write(self._preface + first)
        self._preface = b""
        for one in following:
            self.enter(one)
        self.begun()

    def _hello(self, following: Sequence[Following], legs: list[Leg], text: str) -> bytes:
        """The first message: who and where one is, and what became of the recovery."""
        expire_at = self._admission.identity.expire_at
        subs = {one.name: self._result(one, leg) for one, leg in zip(following, legs, strict=True)}
        result = replies.ConnectResult(
            client=self.id,
            version=__version__,
            expires=expire_at is not None,
            ttl=expiry.told(expire_at, self.hub.wall()) if expire_at is not None else 0,
            ping=ceil(self.hub.config.client.ping_interval),
            session=self._session,
            node=self.hub.node,
            subs=subs,
        )
        if self.wire is SOCKET:
            return text_frame(replies.connect_message(result, text))
        if self.wire is SSE:
            return sse.retry(RETRY) + sse.event(replies.connect_object(result), id=text, event="connect")
        return sse.retry(RETRY) + sse.event(replies.connect_body(result), id=text)

    def _result(self, one: Following, leg: Leg) -> SubscribeResult:
        """What the first message says of one channel. For those of the protocol that holds what was recovered."""
        was = one.recovering and not (self.wire.tells and leg.gap and unknowing(one))
        result = described(one, leg.start)
        result.was_recovering, result.recovered = was, was and not leg.gap
        if not self.wire.tells:
            result.positioned = result.recoverable = one.namespace.history
            result.publications = replies.publications(leg.publications)
        return result

    # The end

    def refreshed(self, expire_at: float | None, info: bytes | None) -> None:
        self.renewed(expire_at, info)
        if self.wire is UNI_SSE:
            ttl = expiry.told(expire_at, self.hub.wall()) if expire_at is not None else 0
            self.outbox.write(self.wire.push(replies.refresh_body(expires=expire_at is not None, ttl=ttl)))

    def close(self, close: Close, *, last: bytes | None = None, heard: bool = True) -> None:
        """The last bytes say where it stood, so they are made before it leaves its feed."""
        if heard and last is None and not self.closed:
            last = self.farewell(close)
        super().close(close, last=last, heard=heard)

    def farewell(self, close: Close) -> bytes:
        """The last bytes; before the stream has begun there is no stream to say them in. A browser that is told to
        come back does so at a moment of its own."""
        if not self._begun:
            return self._refusal
        if close is errors.SHUTDOWN and isinstance(self.wire, EventWire):
            return self.wire.end(close, self._cursor(), randint(RETRY // 2, 2 * RETRY))
        return super().farewell(close)

    def _cursor(self) -> str | None:
        """With which it comes back. None where something still waits for it, which it will not get any more."""
        subscription = self.subscriptions.get(NOW)
        if subscription is None or self.outbox.queue is not None:
            return None
        place = subscription.feed.place(subscription)
        return None if place is None else standing(subscription.feed.names, place)
