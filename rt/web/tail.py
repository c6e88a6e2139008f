"""``POST /api/tail``: what passes through a channel, as an event stream, for who traces a complaint.

Each event is one JSON object with one of these: ``tail`` (the first: where it begins, and on which worker),
``publication``, ``join``, ``leave``, ``gap`` (the channel goes on from another position), ``dropped`` (how many are not
shown, because they came faster than they were read) and ``end`` (why there is no more).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from rt import errors
from rt.delivery.outbox import Outbox
from rt.delivery.tap import Tap
from rt.errors import StoreError
from rt.protocol import sse
from rt.protocol.publication import Change, Publication
from rt.protocol.wires import What

if TYPE_CHECKING:
    from rt.config import Namespace
    from rt.delivery.hub import Hub
    from rt.delivery.subscription import Subscription
    from rt.web.request import Request
    from rt.web.sink import Socket, Stream

TAILS = 16
"""Tails of a tenant on one worker; each sees all of its channel."""

WAITING = 256 * 1024
"""Bytes that may wait for one; what comes meanwhile is left out."""

BEAT = 5.0
"""Seconds between two signs of life."""

HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nCache-Control: no-store\r\n"
    b"X-Accel-Buffering: no\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n"
)

_encode = msgspec.json.Encoder().encode


class _Channel(msgspec.Struct, frozen=True, gc=False):
    channel: str | None = None


_CHANNEL = msgspec.json.Decoder(_Channel)


class Tails:
    """The tails of one tenant on this worker."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._open: set[Tail] = set()

    def begin(self, request: Request) -> None:
        """Answer a call that may be made, by a stream. Refused: 107 and 102 for the channel, 106 where there are
        :data:`TAILS` already. Raises as a decoder does for a body that is none, StreamClosedError for a peer that
        left."""
        name = _CHANNEL.decode(request.body).channel or ""
        namespace = self._hub.namespaces.find(name)
        if len(self._open) >= TAILS:
            raise errors.Refused(errors.LIMIT_EXCEEDED, f"at most {TAILS} tails")
        sink, _ = request.take_over()
        tail = Tail(self._hub, sink, name, namespace, self._open.discard)
        self._open.add(tail)
        tail.begin()

    def stop(self) -> None:
        """End all of them."""
        for tail in list(self._open):
            tail.close("this worker is leaving")


class Tail:
    """One stream; it owns its outbox. ``gone`` is told of its end."""

    __slots__ = ("_dropped", "_gone", "_name", "_outbox", "_sink", "_tap", "closed", "hub")

    def __init__(
        self, hub: Hub, sink: Socket | Stream, name: str, namespace: Namespace, gone: Callable[[Tail], None]
    ) -> None:
        self.hub = hub
        self.closed = False
        self._sink = sink
        self._name = name
        self._gone = gone
        self._dropped = 0
        self._outbox = Outbox(sink, self)
        self._tap = Tap(hub, name, namespace, self._take)

    def begin(self) -> None:
        """Answer, and open the channel."""
        self._sink.start(_Ear(self))
        self._outbox.write(HEAD)
        self.hub.spawn(self._begin())

    async def _begin(self) -> None:
        try:
            await self._tap.open()
        except StoreError:
            self.close("the store is away")
            return
        if self.closed:
            self._tap.close()
            return
        epoch, offset = self._tap.position
        self._say({"tail": {"channel": self._name, "node": self.hub.node, "epoch": epoch, "offset": offset}})
        self._beat(self.hub.now())

    def close(self, why: str = "") -> None:
        """End it, with a last word where there is one."""
        if self.closed:
            return
        self.closed = True
        self._tap.close()
        self._gone(self)
        self._outbox.end(_event({"end": why}) if why else b"")

    def _beat(self, now: float) -> None:
        if self.closed:
            return
        if self._tap.over:
            self.close("the channel began anew")
            return
        if self._outbox.queue is None:
            self._outbox.write(sse.HEARTBEAT)
        self.hub.wheel.at(now + BEAT, self._beat)

    def _take(self, told: Sequence[What], dropped: int) -> None:
        """What the channel took in one turn of the loop."""
        if self.closed:
            return
        if self._outbox.size > WAITING:
            self._dropped += len(told) + dropped
            return
        self._outbox.write(b"".join([_shown(what) for what in told]))
        if dropped and not self.closed:
            self._say({"dropped": dropped})

    def _say(self, what: dict[str, Any]) -> None:
        self._outbox.write(_event(what))

    # What the outbox tells

    @property
    def subscriptions(self) -> Mapping[str, Subscription]:
        """It has none: a tap is no subscription."""
        return {}

    def broken(self) -> None:
        """The socket is gone."""
        if not self.closed:
            self.closed = True
            self._tap.close()
            self._gone(self)
        self._outbox.discard()

    def slow(self, reason: str) -> None:
        """It is not read any more."""
        self.close()

    def heard(self) -> None:
        """It is looked at by its outbox alone."""

    def drained(self) -> None:
        """All is out: say what was left out."""
        dropped, self._dropped = self._dropped, 0
        if dropped:
            self._say({"dropped": dropped})

    def lost(self, subscription: Subscription) -> None:
        """There is none that could be."""


class _Ear:
    """What the peer sends is thrown away, whatever it is; only that it leaves is heard."""

    __slots__ = ("_tail",)

    def __init__(self, tail: Tail) -> None:
        self._tail = tail

    @property
    def busy(self) -> bool:
        return False

    def received(self, data: bytes) -> None:
        pass

    def lost(self) -> None:
        self._tail.broken()


def _event(what: dict[str, Any]) -> bytes:
    return sse.event(_encode(what))


def _shown(what: What) -> bytes:
    match what:
        case Publication():
            return sse.event(
                b'{"publication":%b,"epoch":%b,"time":%.6f,"size":%d}'
                % (what.encoded(), _encode(what.epoch), what.time / 1e6, len(what.body))
            )
        case Change():
            return sse.event(b'{"%b":%b}' % (what.kind.encode(), what.info))
        case _:
            epoch, offset = what.position
            return _event({"gap": {"epoch": epoch, "offset": offset}})
