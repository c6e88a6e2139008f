"""All the workers: each seat kept occupied, hung ones killed, orders given to all, and replaced one after the other."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Coroutine
from pathlib import Path

from prometheus_client.multiprocess import mark_process_dead

from rt import logs
from rt.config import Config, ConfigError, encode
from rt.supervisor.child import Child, ending, environment
from rt.supervisor.control import Start
from rt.supervisor.seat import Seat

log = logging.getLogger(__name__)

EX_BOOT = 69
"""Exit status when a worker does not start at all (sysexits: unavailable)."""

EX_LOOP = 70
"""Exit status when a worker, after a good start, does nothing but die (sysexits: internal error)."""

EX_CONFIG = 78
"""Exit status for a config that cannot be carried out (sysexits: configuration error)."""

BOOT_DEATHS = 3
"""So many deaths before ready, of one worker at the very start, end the supervisor."""

BOOT_TIME = 30.0
"""Seconds a worker may take to become ready."""

SILENCE = 10.0
"""Seconds without a heartbeat after which a worker counts as hung."""

DOWN = 2.0
"""Seconds a worker may be down before its listeners are closed."""

ANSWER_TIME = 5.0
"""Seconds a worker may take to carry out a reload or to take a new lineage."""

OVERTIME = 1.2
"""A worker that drains for this many times what it was given is killed."""


class Crew:
    """The workers and their seats. ``program`` is what they are started from, ``metrics_dir`` where they keep metrics.

    ``config``, ``lineage`` and ``store`` are what a worker gets that starts now. ``on_change`` is called when a worker
    became ready or died, ``on_failure`` with an exit status when all must end.
    """

    def __init__(
        self,
        config: Config,
        file: Path | None,
        program: Path,
        metrics_dir: Path,
        on_change: Callable[[], None],
        on_failure: Callable[[int], None],
    ) -> None:
        self.config = config
        self.lineage: str | None = None
        self.store = ""
        self._file = file
        self._program = program
        self._metrics_dir = metrics_dir
        self._environ = environment(metrics_dir)
        self._on_change = on_change
        self._on_failure = on_failure
        self._seats = [Seat(index, config.server.port) for index in range(config.server.workers)]
        self._children: set[Child] = set()  # all that live: on seats, being replaced, about to replace
        self._all_ready = asyncio.Event()
        self._replacing = asyncio.Event()
        self._outdated: set[Child] = set()  # those that are to be replaced
        self._tasks: set[asyncio.Task[None]] = set()

    def bind(self) -> None:
        """Bind the sockets of all seats; ConfigError when that cannot be."""
        for seat in self._seats:
            seat.bind(self.config, self._file)

    async def start(self) -> None:
        """Start all workers and wait until every one accepts."""
        for seat in self._seats:
            self._occupy(seat)
        self._own(self._watch())
        await self._all_ready.wait()
        self._own(self._replace_for_ever())

    async def stop(self, seconds: float, hurry: asyncio.Event) -> None:
        """Close the sockets, have all workers drain for ``seconds``, and wait until they are gone; kill them on
        ``hurry``.
        """
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for seat in self._seats:
            seat.release()
        leaving = [asyncio.create_task(self._see_off(child, seconds)) for child in self._children]
        if leaving:
            log.info("draining", extra=logs.fields(workers=len(leaving), seconds=seconds))
            killer = asyncio.create_task(self._kill_on(hurry))
            await asyncio.wait(leaving)
            killer.cancel()

    async def _kill_on(self, hurry: asyncio.Event) -> None:
        await hurry.wait()
        for child in tuple(self._children):
            child.signal(signal.SIGKILL)

    def status(self) -> str:
        """How many workers are ready, in words."""
        return f"{self._ready_count()} of {len(self._seats)} workers ready"

    def none_forgotten(self) -> bool:
        """Whether no hung worker has been left standing, which is what the watchdog wants to know."""
        now = asyncio.get_running_loop().time()
        return all(now - child.heard < BOOT_TIME + SILENCE for child in self._children)

    async def order(self, word: str, body: bytes) -> list[Child]:
        """Have all workers carry out ``word``; those that did not, though they live."""
        children = tuple(self._children)
        answers = await asyncio.gather(*(child.order(word, body, ANSWER_TIME) for child in children))
        failed = [(child, why) for child, why in zip(children, answers, strict=True) if why and child.code is None]
        for child, why in failed:
            log.error("%s failed: %s", word, why, extra=logs.fields(worker=child.index, pid=child.pid))
        return [child for child, _ in failed]

    def replace_all(self) -> None:
        """Replace the workers by new ones, one after the other."""
        self._outdate(*self._children)

    def _outdate(self, *children: Child) -> None:
        """Have these workers replaced, where one is on a seat: by an upgrade, or one that was told by somebody else to
        stop."""
        self._outdated.update(children)
        self._replacing.set()

    async def _replace_for_ever(self) -> None:
        while True:
            await self._replacing.wait()
            self._replacing.clear()
            await self._replace_outdated()

    async def _replace_outdated(self) -> None:
        """Replace workers one after the other; stop at the first replacement that does not start."""
        while seats := [seat for seat in self._seats if seat.child in self._outdated]:
            seat = seats[0]
            if not await self._replace(seat):
                log.error("replacing stopped, the other workers stay", extra=logs.fields(worker=seat.index))
                self._outdated.clear()
                break
        else:
            log.info("workers replaced")

    async def _replace(self, seat: Seat) -> bool:
        """Start a second worker on the sockets of ``seat``, and end the first one once the second accepts."""
        try:
            seat.bind(self.config, self._file)
            fresh = await self._spawn(seat)
        except (OSError, ConfigError) as error:
            log.error("no new worker: %s", error)
            return False
        came = [asyncio.create_task(event.wait()) for event in (fresh.ready, fresh.gone)]
        # Bounded: the watch kills what does not get ready.
        await asyncio.wait(came, return_when=asyncio.FIRST_COMPLETED)
        for task in came:
            task.cancel()
        if fresh.gone.is_set():
            self._bury(fresh)
            log.error("the new worker does not start: %s", fresh.failure or ending(fresh.code))
            return False
        if seat.task is not None:
            seat.task.cancel()
            await asyncio.wait([seat.task])
        old, seat.child = seat.child, fresh
        self._occupy(seat)
        self._on_change()
        if old is not None:
            old.tell("part")
            await self._see_off(old, self.config.server.shutdown_timeout)
        return True

    async def _see_off(self, child: Child, seconds: float) -> None:
        """Have a worker drain for ``seconds``; kill it when it takes longer."""
        child.tell("drain", f"{seconds:g}".encode())
        if not await child.end_within(seconds * OVERTIME):
            log.error(
                "worker did not stop in time and was killed", extra=logs.fields(worker=child.index, pid=child.pid)
            )
        self._bury(child)

    def _occupy(self, seat: Seat) -> None:
        seat.task = self._own(self._keep_occupied(seat))

    async def _keep_occupied(self, seat: Seat) -> None:
        """Have a living worker on ``seat``, whatever happens to it."""
        while True:
            child = seat.child
            if child is None:
                try:
                    seat.bind(self.config, self._file)
                    child = seat.child = await self._spawn(seat)
                except (OSError, ConfigError) as error:
                    log.error("a worker cannot be started: %s", error, extra=logs.fields(worker=seat.index))
            if child is not None:
                await child.gone.wait()
                seat.child = None
                self._bury(child)
            if not await self._mourn(seat, child):
                return

    async def _spawn(self, seat: Seat) -> Child:
        child = await Child.spawn(self._program, seat.index, seat.public, seat.internal, self._environ)
        # Only now, when orders reach it: one that was given meanwhile is in here.
        start = Start(seat.name, seat.index, self.lineage, self.store, encode(self.config))
        child.tell("start", start.encode())
        child.on_ready = self._on_ready
        child.on_leaving = lambda: self._outdate(child)
        self._children.add(child)
        log.info("worker started", extra=logs.fields(worker=seat.index, pid=child.pid))
        return child

    def _bury(self, child: Child) -> None:
        self._children.discard(child)
        self._outdated.discard(child)
        mark_process_dead(child.pid, str(self._metrics_dir))  # type: ignore[no-untyped-call]
        log.info("worker ended", extra=logs.fields(worker=child.index, pid=child.pid, ending=ending(child.code)))

    async def _mourn(self, seat: Seat, child: Child | None) -> bool:
        """Wait as long as is due after the death of ``child`` (None: it did not start); False when all must end."""
        self._on_change()
        loop = asyncio.get_running_loop()
        delay = seat.backoff.died(loop.time(), child.served if child else 0.0)
        if not self._all_ready.is_set() and child is not None and self._boot_failed(seat, child):
            return False
        if delay is None:
            log.critical("a worker does nothing but die; giving up", extra=logs.fields(worker=seat.index))
            self._on_failure(EX_LOOP)
            return False
        if delay:
            log.warning("worker starts again later", extra=logs.fields(worker=seat.index, seconds=delay))
        await asyncio.sleep(min(delay, DOWN))
        if delay > DOWN:
            seat.release()
            await asyncio.sleep(delay - DOWN)
        return True

    def _boot_failed(self, seat: Seat, child: Child) -> bool:
        hopeless = child.code == EX_CONFIG or seat.backoff.unsettled >= BOOT_DEATHS
        if hopeless and not child.ready.is_set():
            why = child.failure or ending(child.code)
            log.critical("worker does not start: %s", why, extra=logs.fields(worker=seat.index))
            self._on_failure(EX_CONFIG if child.code == EX_CONFIG else EX_BOOT)
            return True
        return False

    async def _watch(self) -> None:
        """Look once a second for workers that hang."""
        loop = asyncio.get_running_loop()
        looked = loop.time()
        while True:
            await asyncio.sleep(1.0)
            now = loop.time()
            late, looked = now - looked > 3.0, now
            if late:
                continue  # we were stopped ourselves; the heartbeats of that time are only now being read
            for child in tuple(self._children):
                if not child.ready.is_set():
                    if now - child.born > BOOT_TIME:
                        child.abort(f"not ready after {BOOT_TIME:g} s")
                elif now - child.heard > SILENCE:
                    child.abort(f"no heartbeat for {SILENCE:g} s")

    def _own(self, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        """Run ``work`` as a task of ours, cancelled when we stop. When it fails, the mistake is ours, and we stop."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._disown)
        return task

    def _disown(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.critical("the supervisor failed", exc_info=error)
            self._on_failure(EX_LOOP)

    def _on_ready(self, child: Child) -> None:
        log.info("worker ready", extra=logs.fields(worker=child.index, pid=child.pid))
        self._on_change()
        if self._ready_count() == len(self._seats):
            self._all_ready.set()

    def _ready_count(self) -> int:
        return sum(seat.child is not None and seat.child.ready.is_set() for seat in self._seats)
