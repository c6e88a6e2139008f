"""The connection that carries the commands: kept alive, pipelined, and true about what happened to each call.

A call is answered once, within the timeout, in one of three ways: with its result; with a *definite* StoreError, when
it certainly had no effect; or with one that is not, when nobody can know. Nothing is sent twice unless that is
harmless: a call the store answered with NOSCRIPT or LINEAGE was not executed; a *repeatable* one (a read, a publish
with an idempotency key) may be executed again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any, TypeVar

import hiredis

from rt.broker.backoff import Backoff, supervise
from rt.broker.counters import Counters
from rt.broker.link import MAX_PENDING, Link
from rt.broker.refusal import LINEAGE, NOSCRIPT, READONLY, REPLICA, Refusal, refusal
from rt.broker.scripts import Scripts, read_lineage
from rt.broker.settings import Address, StoreSettings
from rt.broker.trouble import Trouble
from rt.broker.versions import outdated
from rt.errors import StoreError

T = TypeVar("T")

log = logging.getLogger("rt.broker")

MAX_ATTEMPTS = 4
"""How often one call is sent at most: it may meet a server without the script, then a channel of another lineage."""

PART = "commands"


class ScriptCall:
    """One call of a script, until its future is done."""

    __slots__ = (
        "_parse", "_pipeline", "args", "attempts", "fresh", "future", "keys", "repeatable", "script", "started",
        "unknown",
    )  # fmt: skip

    def __init__(
        self,
        pipeline: Pipeline,
        script: str,
        keys: tuple[str, ...],
        args: tuple[str | bytes | int, ...],
        parse: Callable[[Any], Any],
        repeatable: bool,
        future: asyncio.Future[Any],
        started: float,
    ) -> None:
        self._pipeline = pipeline
        self._parse = parse
        self.script = script
        self.keys = keys
        self.args = args
        self.repeatable = repeatable
        self.future = future
        self.started = started
        self.attempts = 0
        self.fresh = False  # whether the lineage was read again because this call was refused
        self.unknown = False  # whether an attempt may have been executed

    def reply(self, value: Any) -> None:
        """Resolve the future, or let the pipeline decide what an error reply asks for."""
        if isinstance(value, hiredis.ReplyError):
            self._pipeline.refused(self, refusal(value))
            return
        try:
            result = self._parse(value)
        except (TypeError, ValueError, AttributeError, IndexError):
            self.fail(StoreError("the store sent a reply of another shape than asked for", definite=False))
        else:
            if not self.future.done():
                self.future.set_result(result)

    def lost(self, error: StoreError) -> None:
        """The link ended before a reply came, or would not take the call."""
        self._pipeline.lost(self, error)

    def fail(self, error: StoreError) -> None:
        """Fail the future; what an earlier attempt may have done keeps the outcome unknown."""
        if self.unknown and error.definite:
            error = StoreError(str(error), definite=False)
        if not self.future.done():
            self.future.set_exception(error)


class Pipeline:
    """Calls of scripts and commands over one link. ``on_up`` is called whenever a link is ready for calls, with whether
    the lineage is another one than before."""

    __slots__ = (
        "_address", "_counters", "_held", "_link", "_loop", "_name", "_on_up", "_reading", "_scripts", "_setting",
        "_settings", "_stopping", "_sweeper", "_task", "_trouble", "_warned_of",
    )  # fmt: skip

    def __init__(
        self,
        settings: StoreSettings,
        *,
        name: str,
        counters: Counters,
        trouble: Trouble,
        on_up: Callable[[bool], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._settings = settings
        self._setting = settings.lineage
        self._address = Address.of(settings)
        self._name = name
        self._counters = counters
        self._trouble = trouble
        self._on_up = on_up
        self._link: Link | None = None
        self._scripts: Scripts | None = None
        self._held: list[ScriptCall] = []  # calls that wait for the scripts, or for the next link
        self._reading: asyncio.Task[None] | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._stopping = False
        self._warned_of = ""

    # Life

    def start(self) -> None:
        """Begin to connect, and never give up."""
        self._task = self._loop.create_task(supervise(PART, self._keep, self._trouble))

    async def stop(self) -> None:
        """Wait for the calls under way, at most for the timeout; fail the rest; close."""
        self._stopping = True
        if self._link is not None:
            with contextlib.suppress(StoreError):
                await self._link.call("PING")
        for task in (self._task, self._reading):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        self._give_up(lambda call: True, "the server is stopping")
        if self._sweeper is not None:
            self._sweeper.cancel()

    @property
    def connected(self) -> bool:
        """Whether calls can be made."""
        return self._link is not None and not self._link.gone.is_set()

    def set_lineage(self, text: str) -> None:
        """The lineage as somebody else knows it; read from now on."""
        self._setting = text
        self._reread()

    async def _keep(self, backoff: Backoff) -> None:
        """One link, from connecting to its end, which is raised."""
        settings = self._settings
        link = await Link.connect(
            self._address, name=self._name, timeout=settings.timeout, connect_timeout=settings.connect_timeout
        )
        try:
            again = self._scripts is not None
            renewed = await self._read(link)
            link.call("INFO", "server").add_done_callback(self._look_at_version)
            since = self._loop.time()
            self._counters.reconnects += again
            self._link = link
            self._trouble.ends(PART)
            self._release()
            self._on_up(renewed)
            await link.gone.wait()
            backoff.lasted(self._loop.time() - since)
            raise link.reason
        finally:
            self._link = None
            link.close(link.reason)

    def _look_at_version(self, told: asyncio.Future[Any]) -> None:
        """Warn of an old store, once. One that does not let us ask is left in peace."""
        old = "" if told.cancelled() or told.exception() else outdated(told.result())
        if old and old != self._warned_of:
            self._warned_of = old
            log.warning("the store is %s, which has known holes (unless your distribution mended it): update it", old)

    # Lineage and scripts

    async def _read(self, link: Link) -> bool:
        """Read the lineage and load its scripts. Gives whether there was another one before."""
        before = self._scripts
        while True:
            setting = self._setting
            scripts = Scripts(await read_lineage(link, setting))
            await scripts.load(link)
            if setting == self._setting:  # else told of another one meanwhile
                break
        self._scripts = scripts
        self._counters.script_reloads += before is not None
        renewed = before is not None and before.lineage != scripts.lineage
        self._counters.lineage_renewals += renewed
        return renewed

    def _reread(self) -> None:
        """Read it again, unless that is under way. Calls made meanwhile wait, so everything refused until then was sent
        before the reading: for all of it the reading is fresh."""
        if self._reading is None and self._link is not None:
            self._reading = self._loop.create_task(self._read_again(self._link))

    async def _read_again(self, link: Link) -> None:
        renewed = False
        try:
            renewed = await self._read(link)
        except StoreError as error:
            link.close(error)
        finally:
            self._reading = None
        if self._link is link and not link.gone.is_set():
            self._release()
            if renewed:
                self._on_up(renewed)

    async def check_lineage(self) -> None:
        """Ask the server who it is, and act when it is another, or no primary any more. Raises StoreError."""
        link, scripts = self._link, self._scripts
        if link is None or scripts is None:
            return
        try:
            lineage = await read_lineage(link, self._setting)
        except Refusal as error:
            if error.kind == REPLICA:
                self._leave(link, error)
            raise
        if lineage != scripts.lineage:
            self._reread()

    def _leave(self, link: Link, reason: StoreError) -> None:
        """Make no more calls on ``link``; close it when the calls under way are answered, and connect anew."""
        if self._link is link:
            self._link = None

            def answered(last: asyncio.Future[Any]) -> None:
                last.exception()
                link.close(reason)

            link.call("PING").add_done_callback(answered)

    # Calls

    def call(self, *args: str | bytes | int) -> asyncio.Future[Any]:
        """A command of the store itself. The future fails with a StoreError, at once when the store is away."""
        if self._link is not None:
            return self._link.call(*args)
        future: asyncio.Future[Any] = self._loop.create_future()
        future.set_exception(_away())
        return future

    def run(
        self,
        script: str,
        keys: tuple[str, ...],
        args: tuple[str | bytes | int, ...],
        parse: Callable[[Any], T],
        *,
        repeatable: bool,
    ) -> asyncio.Future[T]:
        """Run a script. The future has what ``parse`` makes of the reply, or fails with a StoreError, at once when the
        store is away."""
        future: asyncio.Future[T] = self._loop.create_future()
        call = ScriptCall(self, script, keys, args, parse, repeatable, future, self._loop.time())
        if not self.connected or self._stopping:
            call.fail(_away())
        elif self._reading is not None:
            self._hold(call)
        else:
            self._send(call)
        return future

    def _send(self, call: ScriptCall) -> None:
        link, scripts = self._link, self._scripts
        if link is None or scripts is None:
            self.lost(call, _away())
            return
        call.attempts += 1
        fresh = b"1" if call.fresh else b"0"
        link.send(call, ("EVALSHA", scripts.digests[call.script], len(call.keys), *call.keys, fresh, *call.args))

    def refused(self, call: ScriptCall, error: Refusal) -> None:
        """The store answered ``call`` with an error."""
        if error.kind in (NOSCRIPT, LINEAGE) and call.attempts < MAX_ATTEMPTS and not self._stopping:
            # Certainly not executed. Only after a fresh reading may it begin a new epoch.
            call.fresh = error.kind == LINEAGE
            self._hold(call)
            self._reread()
            return
        self._counters.refused[error.kind] = self._counters.refused.get(error.kind, 0) + 1
        self._trouble.meets(error)
        if error.kind == READONLY and self._link is not None:
            self._leave(self._link, error)
        call.unknown |= not error.definite
        self._counters.unknown += call.unknown
        call.fail(error)

    def lost(self, call: ScriptCall, error: StoreError) -> None:
        """The link of ``call`` ended, or would not take it."""
        call.unknown |= not error.definite
        call.fresh = False
        in_time = self._loop.time() - call.started < self._settings.timeout
        may_go_again = call.repeatable and call.attempts < MAX_ATTEMPTS and not isinstance(error, Refusal)
        if in_time and may_go_again and not self._stopping:
            self._counters.repeated += 1
            self._hold(call)
            return
        self._counters.unknown += call.unknown
        call.fail(error)

    # Calls that wait

    def _hold(self, call: ScriptCall) -> None:
        if len(self._held) >= MAX_PENDING:
            call.fail(Refusal("full", "too many calls to the store are under way", definite=True))
            return
        self._held.append(call)
        if self._sweeper is None:
            self._sweeper = self._loop.call_later(self._settings.timeout / 10, self._sweep)

    def _release(self) -> None:
        """Send what waits, in the order in which it was made."""
        calls, self._held = sorted(self._held, key=lambda call: call.started), []
        for call in calls:
            if not call.future.done():
                self._send(call)

    def _sweep(self) -> None:
        self._sweeper = None
        limit = self._loop.time() - self._settings.timeout
        self._give_up(lambda call: call.started <= limit, "the store was not back within the timeout")
        if self._held:
            self._sweeper = self._loop.call_later(self._settings.timeout / 10, self._sweep)

    def _give_up(self, which: Callable[[ScriptCall], bool], reason: str) -> None:
        held, self._held = self._held, []
        for call in held:
            if which(call):
                self._counters.unknown += call.unknown
                call.fail(StoreError(reason, definite=True))
            else:
                self._held.append(call)


def _away() -> StoreError:
    return StoreError("the store is away", definite=True)
