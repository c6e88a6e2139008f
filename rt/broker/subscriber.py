"""The connection that listens: which channels are wanted, which the store has confirmed, and what to do when it falls
silent.

Pub/Sub is at most once: whatever is published while this connection is down is gone. So every loss ends in
``on_resumed``, after everything wanted is confirmed again, and whoever holds positions must then check them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import hiredis

from rt.broker.backoff import Backoff, supervise
from rt.broker.counters import Counters
from rt.broker.link import GRACE, Link
from rt.broker.refusal import Refusal, refusal
from rt.broker.settings import Address, StoreSettings
from rt.broker.trouble import Trouble
from rt.errors import StoreError

BATCH = 500
"""Channels in one SUBSCRIBE after a reconnect; the next goes out when all of them are confirmed."""

MAX_EXPECTED = 65536
"""Confirmations that may be outstanding; more subscribes are refused."""

PART = "the subscriber"


class Want:
    """A channel that somebody wants, and who takes its messages. ``settled`` once its subscriber was told that it is
    there: from then on it is kept over reconnects, before that a loss ends it."""

    __slots__ = ("channel", "settled", "take")

    def __init__(self, channel: str, take: Callable[[str, bytes], None], settled: bool = False) -> None:
        self.channel = channel
        self.take = take
        self.settled = settled


class Expected:
    """A confirmation that is due. ``want`` is None for an unsubscribe."""

    __slots__ = ("future", "name", "since", "want")

    def __init__(self, name: bytes, since: float, want: Want | None, future: asyncio.Future[None] | None) -> None:
        self.name = name
        self.since = since
        self.want = want
        self.future = future


class Subscriber:
    """The desired set against the confirmed set, over one link. ``on_message`` gets the channel and the raw payload of
    each message of a wanted channel; ``on_up`` whether this is a resumption."""

    __slots__ = (
        "_address", "_counters", "_expected", "_greeted", "_link", "_loop", "_name", "_on_message", "_on_up", "_pinged",
        "_settings", "_suspect", "_task", "_trouble", "_watcher", "confirmed", "connected", "desired",
    )  # fmt: skip

    def __init__(
        self,
        settings: StoreSettings,
        *,
        name: str,
        counters: Counters,
        trouble: Trouble,
        on_message: Callable[[str, bytes], None],
        on_up: Callable[[bool], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._settings = settings
        self._address = Address.of(settings)
        self._name = name
        self._counters = counters
        self._trouble = trouble
        self._on_message = on_message
        self._on_up = on_up
        self._link: Link | None = None
        self._task: asyncio.Task[None] | None = None
        self._watcher: asyncio.TimerHandle | None = None
        self._expected: deque[Expected] = deque()
        self._greeted = False  # whether there was a link before
        self._pinged = 0.0  # when the PING under way was sent, or 0
        self._suspect = False
        self.desired: dict[bytes, Want] = {}
        self.confirmed: set[bytes] = set()
        self.connected = False
        """Whether everything wanted is confirmed on a link that is alive."""

    # Life

    def start(self, permanent: Mapping[str, Callable[[bytes], None]]) -> None:
        """Begin to connect, and never give up. The names of ``permanent`` are wanted from the start and for ever, and
        each has somebody of its own who gets its messages."""
        for name, hear in permanent.items():
            self.desired[name.encode()] = Want("", _without_channel(hear), settled=True)
        self._task = self._loop.create_task(supervise(PART, self._keep, self._trouble))

    async def stop(self) -> None:
        """Close; subscribes under way fail."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def replace(self, reason: str) -> None:
        """Do not trust this connection any more: make a new one and subscribe anew."""
        if self._link is not None:
            self._link.close(StoreError(reason, definite=False))

    async def _keep(self, backoff: Backoff) -> None:
        """One link, from connecting to its end, which is raised."""
        settings = self._settings
        link = await Link.connect(
            self._address, name=self._name, timeout=settings.timeout, connect_timeout=settings.connect_timeout
        )
        since = self._loop.time()
        try:
            if link.gone.is_set():
                raise link.reason
            self._link = link
            self._pinged = 0.0
            self._suspect = False
            # Whoever subscribed on an earlier link has missed something, even if that link was never complete.
            resumed, self._greeted = self._greeted, True
            link.listen(self._take, self._forget)
            self._watch()
            await self._subscribe_all(link)
            if link.gone.is_set():
                raise link.reason
            self.connected = True
            self._trouble.ends(PART)
            self._counters.reconnects += resumed
            self._on_up(resumed)
            await link.gone.wait()
            raise link.reason
        finally:
            link.close(StoreError("the subscriber was stopped", definite=True))
            backoff.lasted(self._loop.time() - since)

    def _forget(self) -> None:
        """The link is over: nothing is confirmed any more, and who waits for a confirmation is told."""
        link, self._link = self._link, None
        self.connected = False
        self.confirmed.clear()
        if self._watcher is not None:
            self._watcher.cancel()
        expected, self._expected = self._expected, deque()
        reason = link.reason if link is not None else StoreError("the store is away", definite=True)
        for due in expected:
            self._fail(due, reason)

    def _fail(self, due: Expected, reason: StoreError) -> None:
        want = due.want
        if want is not None and not want.settled and self.desired.get(due.name) is want:
            del self.desired[due.name]
        if due.future is not None and not due.future.done():
            due.future.set_exception(StoreError(str(reason), definite=True))

    async def _subscribe_all(self, link: Link) -> None:
        names = list(self.desired)
        for start in range(0, len(names), BATCH):
            # Nobody would answer what is expected of a link that ended meanwhile.
            if link.gone.is_set():
                raise link.reason
            batch = [
                name for name in names[start : start + BATCH] if name in self.desired and name not in self.confirmed
            ]
            if batch:
                last: asyncio.Future[None] = self._loop.create_future()
                for name in batch:
                    self._expect(name, self.desired[name], last if name is batch[-1] else None)
                link.write(("SUBSCRIBE", *batch))
                await last

    # Wanting

    def subscribe(self, name: str, channel: str) -> asyncio.Future[None]:
        """Want ``channel``, whose pub/sub is ``name``. Done when the store confirmed; StoreError (definite) when it is
        away, is lost before, or does not confirm within the timeout: then it is not wanted any more, unless it was
        before."""
        future: asyncio.Future[None] = self._loop.create_future()
        link = self._link
        if link is None or link.gone.is_set():
            future.set_exception(StoreError("the store is away", definite=True))
        elif link.congested or len(self._expected) >= MAX_EXPECTED:
            future.set_exception(Refusal("full", "too many subscribes are under way", definite=True))
        else:
            key = name.encode()
            want = self.desired.get(key)
            if want is None:
                want = self.desired[key] = Want(channel, self._on_message)
            self._expect(key, want, future)
            link.write(("SUBSCRIBE", key))
        return future

    def unsubscribe(self, name: str) -> None:
        """Want it no more. Written in order: a later subscribe goes after it."""
        key = name.encode()
        if self.desired.pop(key, None) is None:
            return
        link = self._link
        if link is None or link.gone.is_set():
            return
        if link.congested or len(self._expected) >= MAX_EXPECTED:
            # The next connection subscribes to what is wanted then, so nothing is left over.
            link.close(StoreError("the store does not keep up with subscribes", definite=False))
            return
        self._expect(key, None, None)
        link.write(("UNSUBSCRIBE", key))

    def _expect(self, name: bytes, want: Want | None, future: asyncio.Future[None] | None) -> None:
        self._expected.append(Expected(name, self._loop.time(), want, future))

    # Hearing

    def _take(self, value: Any) -> None:
        if type(value) is list and len(value) == 3:
            kind, name, payload = value
            if kind == b"message":
                want = self.desired.get(name)
                if want is None:
                    self._counters.bus_strays += 1
                else:
                    want.take(want.channel, payload)
                return
            if kind in (b"subscribe", b"unsubscribe"):
                self._confirm(kind == b"subscribe", name)
                return
        self._take_other(value)

    def _take_other(self, value: Any) -> None:
        if value == [b"pong", b""] or value == b"PONG":
            self._pinged = 0.0
            return
        reason = StoreError("the store sent what a subscriber does not expect", definite=False)
        self._drop(refusal(value) if isinstance(value, hiredis.ReplyError) else reason)

    def _confirm(self, subscribed: bool, name: bytes) -> None:
        """Confirmations come in the order of the commands; one that does not fit means that we no longer know where we
        are."""
        due = self._expected.popleft() if self._expected else None
        if due is None or due.name != name or (due.want is not None) != subscribed:
            self._drop(StoreError("a confirmation came out of order", definite=False))
            if due is not None:
                self._fail(due, StoreError("a confirmation came out of order", definite=True))
            return
        if due.want is None:
            self.confirmed.discard(name)
            return
        self.confirmed.add(name)
        due.want.settled = True
        if due.future is not None and not due.future.done():
            due.future.set_result(None)

    def _drop(self, reason: StoreError) -> None:
        if self._link is not None:
            self._link.close(reason)

    # Watching

    def _watch(self) -> None:
        """Close a link that is silent, or that owes a confirmation for too long.

        A stopped server shows no error at all, so silence is broken by a PING of ours, and that one has a deadline.
        """
        link = self._link
        if link is None or link.gone.is_set():
            return
        now = self._loop.time()
        timeout = self._settings.timeout
        silent = bool(self._pinged) and now - max(self._pinged, link.heard) >= timeout
        owing = bool(self._expected) and now - self._expected[0].since >= timeout
        late = (silent or owing) and not link.backlog
        if late and self._suspect:
            link.close(StoreError("the store did not answer the subscriber within the timeout", definite=False))
            return
        self._suspect = late
        if not self._pinged and now - link.heard >= timeout:
            self._pinged = now
            link.write(("PING",))
        self._watcher = self._loop.call_later(GRACE if late else timeout / 10, self._watch)


def _without_channel(hear: Callable[[bytes], None]) -> Callable[[str, bytes], None]:
    return lambda channel, payload: hear(payload)
