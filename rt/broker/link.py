"""One connection to the store: bytes in, replies out, nothing lost in silence.

redis-py's own connection costs five to ten times as much per message, so this is an asyncio Protocol that feeds
hiredis. It speaks RESP2. Calls of one loop turn leave in one write, replies are matched in order, and everything is
bounded: the calls under way, the bytes that wait, and the age of the oldest call. A link that is late or confused is
closed, never mended; whoever owns it makes a new one.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol, cast

import hiredis

from rt.broker.refusal import Refusal, refusal
from rt.broker.settings import Address
from rt.errors import StoreError

MAX_PENDING = 16384
"""Calls under way on one link; more are refused."""

MAX_WAITING = 16 * 1024 * 1024
"""Bytes that may wait for the kernel; above it calls are refused until three quarters have left."""

TURN = 0.002
"""Seconds of parsing before the loop gets its turn."""

STRIDE = 32
"""Replies parsed between two looks at the clock."""

GRACE = 0.01
"""Seconds between finding a call late and believing it: a loop that was busy itself first gets to read what has
come."""

_INCOMPLETE = object()


class Call(Protocol):
    """Somebody who waits for one reply. Exactly one of the two methods is called, once."""

    started: float
    """When it was made, on the loop's clock; the link's timeout counts from here."""

    def reply(self, value: Any) -> None:
        """The reply; an error reply is a ``hiredis.ReplyError``."""

    def lost(self, error: StoreError) -> None:
        """There will be none. ``error.definite`` is true when the call never left."""


class PlainCall:
    """A call whose reply resolves a future. A cancelled future has its reply discarded; the call itself goes on."""

    __slots__ = ("future", "started")

    def __init__(self, future: asyncio.Future[Any], started: float) -> None:
        self.future = future
        self.started = started

    def reply(self, value: Any) -> None:
        """Resolve the future, with a :class:`Refusal` when the store refused."""
        if isinstance(value, hiredis.ReplyError):
            self.lost(refusal(value))
        elif not self.future.done():
            self.future.set_result(value)

    def lost(self, error: StoreError) -> None:
        """Fail the future."""
        if not self.future.done():
            self.future.set_exception(error)


class Link(asyncio.Protocol):
    """A connection to the store that is logged in. Made by :meth:`connect`; over when :attr:`gone` is set."""

    __slots__ = (
        "_flushing", "_loop", "_on_gone", "_out", "_out_size", "_parsing", "_paused", "_pending", "_reader", "_suspect",
        "_sweeper", "_take", "_timeout", "_transport", "_unwritten", "gone", "heard", "reason",
    )  # fmt: skip

    def __init__(self, loop: asyncio.AbstractEventLoop, timeout: float) -> None:
        self._loop = loop
        self._timeout = timeout
        self._reader = hiredis.Reader(notEnoughData=_INCOMPLETE)
        self._transport: asyncio.Transport | None = None
        self._take: Callable[[Any], None] = self._answer
        self._on_gone: Callable[[], None] | None = None
        self._pending: deque[Call] = deque()
        self._out: list[bytes] = []
        self._out_size = 0
        self._unwritten = 0  # how many of the pending calls, counted from the youngest, are still in _out
        self._flushing = False
        self._paused = False
        self._parsing = False
        self._suspect = False
        self._sweeper: asyncio.TimerHandle | None = None
        self.gone = asyncio.Event()
        self.heard = loop.time()
        self.reason = StoreError("the connection to the store was closed", definite=False)

    # Making and ending

    @classmethod
    async def connect(cls, address: Address, *, name: str, timeout: float, connect_timeout: float) -> Link:
        """A link that is connected and logged in, under the client name ``name``. StoreError when that fails or takes
        too long."""
        loop = asyncio.get_running_loop()
        link = cls(loop, timeout)
        try:
            async with asyncio.timeout(connect_timeout):
                if address.path:
                    await loop.create_unix_connection(lambda: link, address.path)
                else:
                    await loop.create_connection(lambda: link, address.host, address.port, ssl=address.tls)
                await link._log_in(address, name)
        except BaseException as error:
            link.close(link.reason)
            if isinstance(error, TimeoutError):
                raise StoreError("the store did not let us in within the timeout", definite=True) from None
            if isinstance(error, OSError | UnicodeError):
                raise StoreError(f"cannot connect to the store: {error}", definite=True) from error
            raise
        return link

    async def _log_in(self, address: Address, name: str) -> None:
        steps: list[asyncio.Future[Any]] = []
        if address.password:
            login = (address.username, address.password) if address.username else (address.password,)
            steps.append(self.call("AUTH", *login))
        if address.db:
            steps.append(self.call("SELECT", address.db))
        naming = self.call("CLIENT", "SETNAME", name)
        try:
            for step in steps:
                await step
            await naming
        except Refusal as error:
            # The name is a courtesy to whoever reads CLIENT LIST; not every user or proxy allows it.
            if not naming.done() or error is not naming.exception() or "NOAUTH" in str(error):
                raise
        finally:
            for step in (*steps, naming):
                step.add_done_callback(_retrieve)

    def close(self, reason: StoreError) -> None:
        """End the link now. What was pending is lost: definite for what never left, unknown for the rest."""
        if self.gone.is_set():
            return
        self.reason = reason
        self.gone.set()
        if self._sweeper is not None:
            self._sweeper.cancel()
        if self._transport is not None:
            self._transport.abort()
        self._out.clear()
        written = len(self._pending) - self._unwritten
        unknown = StoreError(str(reason), definite=False)
        unsent = StoreError(str(reason), definite=True)
        for index, call in enumerate(self._drained()):
            call.lost(unknown if index < written else unsent)
        if self._on_gone is not None:
            self._on_gone()

    def _drained(self) -> list[Call]:
        calls = list(self._pending)
        self._pending.clear()
        self._unwritten = 0
        return calls

    # Out

    def call(self, *args: str | bytes | int) -> asyncio.Future[Any]:
        """Send one command; the future has its reply, or a StoreError within the timeout."""
        future: asyncio.Future[Any] = self._loop.create_future()
        self.send(PlainCall(future, self._loop.time()), args)
        return future

    def send(self, call: Call, args: tuple[str | bytes | int, ...]) -> None:
        """Send one command for ``call``; it leaves at the end of this loop turn. Refused at once when too much is under
        way."""
        if self.gone.is_set():
            call.lost(StoreError(str(self.reason), definite=True))
        elif self._paused or self._out_size > MAX_WAITING or len(self._pending) >= MAX_PENDING:
            call.lost(Refusal("full", "too many calls to the store are under way", definite=True))
        else:
            self.write(args)
            self._pending.append(call)
            self._unwritten += 1
            if self._sweeper is None:
                self._arm(self._timeout / 10)

    def write(self, args: tuple[str | bytes | int, ...]) -> None:
        """Send one command whose replies go to the listener, see :meth:`listen`. Nothing is sent on a link that is
        over."""
        if self.gone.is_set():
            return
        packed: bytes = hiredis.pack_command(args)  # type: ignore[arg-type]
        self._out.append(packed)
        self._out_size += len(packed)
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    @property
    def congested(self) -> bool:
        """Whether the store reads so slowly that no more should be written."""
        return self._paused or self._out_size > MAX_WAITING

    def _flush(self) -> None:
        self._flushing = False
        if self._out and self._transport is not None and not self.gone.is_set():
            data = self._out[0] if len(self._out) == 1 else b"".join(self._out)
            self._out.clear()
            self._out_size = 0
            self._unwritten = 0
            self._transport.write(data)

    # In

    def listen(self, take: Callable[[Any], None], on_gone: Callable[[], None]) -> None:
        """From now on every value that comes goes to ``take`` (a subscriber gets values that answer no call), and the
        end of the link is told to ``on_gone``, at once."""
        self._take = take
        self._on_gone = on_gone

    @property
    def backlog(self) -> bool:
        """Whether bytes have come that are not yet parsed."""
        return self._parsing

    def _answer(self, value: Any) -> None:
        if self._pending:
            self._pending.popleft().reply(value)
        else:
            self.close(StoreError("the store sent a reply that nobody asked for", definite=False))

    def _parse(self) -> None:
        """Hand out what has come; after a turn's worth let the loop go round and continue, reading nothing
        meanwhile."""
        self._parsing = False
        gets = self._reader.gets
        end = time.monotonic() + TURN
        try:
            while not self.gone.is_set():
                for _ in range(STRIDE):
                    value = gets()
                    if value is _INCOMPLETE:
                        self._read_on()
                        return
                    self._take(value)
                if time.monotonic() > end:
                    self._pause_here()
                    return
        except hiredis.ProtocolError:
            self.close(StoreError("the store sent what is not RESP", definite=False))
        except Exception:
            # A mistake of ours in handing it out. Going on would match replies to the wrong calls.
            self.close(StoreError("a reply of the store could not be handled", definite=False))
            raise

    def _pause_here(self) -> None:
        self._parsing = True
        if self._transport is not None and self._transport.is_reading():
            self._transport.pause_reading()
        self._loop.call_soon(self._parse)

    def _read_on(self) -> None:
        if self._transport is not None and not self._transport.is_reading() and not self.gone.is_set():
            self._transport.resume_reading()

    # Deadlines

    def _arm(self, delay: float) -> None:
        self._sweeper = self._loop.call_later(delay, self._sweep)

    def _sweep(self) -> None:
        self._sweeper = None
        if not self._pending:
            self._suspect = False
            return
        # A call that was sent again keeps its first time, so the oldest is not always the first.
        oldest = min(call.started for call in self._pending)
        late = self._loop.time() - oldest >= self._timeout and not self._parsing
        if late and self._suspect:
            self.close(StoreError("the store did not answer within the timeout", definite=False))
            return
        self._suspect = late
        self._arm(GRACE if late else self._timeout / 10)

    # Called by the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The transport is there."""
        # uvloop's transports are asyncio's in all but the class.
        transport = cast(asyncio.Transport, transport)
        self._transport = transport
        if self.gone.is_set():  # closed while connecting
            transport.abort()
            return
        transport.set_write_buffer_limits(high=MAX_WAITING)
        self._flush()

    def data_received(self, data: bytes) -> None:
        """Bytes from the store."""
        self.heard = self._loop.time()
        self._reader.feed(data)
        if not self._parsing:
            self._parse()

    def eof_received(self) -> None:
        """The store closed; so do we."""
        self.close(StoreError("the store closed the connection", definite=False))

    def connection_lost(self, exc: Exception | None) -> None:
        """The transport is gone."""
        self.close(StoreError(f"the connection to the store was lost: {exc or 'closed'}", definite=False))
        self._transport = None

    def pause_writing(self) -> None:
        """The kernel takes no more."""
        self._paused = True

    def resume_writing(self) -> None:
        """The kernel takes some again."""
        self._paused = False


def _retrieve(future: asyncio.Future[Any]) -> None:
    """Look at the outcome of a step nobody waits for any more, so that asyncio does not report it as forgotten."""
    with contextlib.suppress(asyncio.CancelledError):
        future.exception()
