"""The supervisor: a crew of workers and perhaps a store, kept running until a signal says otherwise.

SIGTERM and SIGINT drain and stop; the second one stops at once. SIGHUP reloads the config in place. SIGUSR2 replaces
the workers one after the other by processes that run the code now on disk.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from pathlib import Path
from typing import Any

from rt import logs
from rt.config import Config, ConfigError, encode, load
from rt.store import Store
from rt.supervisor import preflight
from rt.supervisor.crew import Crew
from rt.supervisor.notify import Notify
from rt.supervisor.reload import merge
from rt.supervisor.runtime import Held, Lock, RuntimeDir, make_private, pid_file

log = logging.getLogger(__name__)

DRAIN_SHARE = 0.7
"""The part of ``server.shutdown_timeout`` that workers get to drain. They are killed a little later; the store needs
the rest.
"""


class Supervisor:
    """One run of the server. ``file`` is read again at each reload; ``program`` is what workers are started from.

    Make it inside the loop that runs it.
    """

    def __init__(self, config: Config, file: Path | None, program: Path) -> None:
        self._loaded = self._config = config
        self._file = file
        self._notify = Notify()
        self._runtime = RuntimeDir()
        metrics_dir = self._runtime.directory("metrics")
        self._crew = Crew(config, file, program, metrics_dir, self._tell_status, self._finish)
        self._pid_lock: Lock | None = None
        self._store: Store | None = None
        self._end: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._hurry = asyncio.Event()
        self._reload = asyncio.Event()

    async def run(self) -> int:
        """Serve until told to stop; the exit status. ConfigError or StoreBootError when a start is impossible."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        loop.add_signal_handler(signal.SIGHUP, self._reload.set)
        loop.add_signal_handler(signal.SIGUSR2, self._crew.replace_all)
        tasks = [asyncio.create_task(self._live(), name="supervisor")]
        if self._notify.watchdog:
            tasks.append(asyncio.create_task(self._keep_alive(), name="watchdog"))
        try:
            ends: list[asyncio.Future[Any]] = [self._end, *tasks]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    task.result()  # they end only by raising
            return self._end.result()
        finally:
            await self._wind_up(tasks)

    def _stop(self) -> None:
        if self._end.done():
            log.warning("told again to stop: now")
            self._hurry.set()
        self._finish(0)

    def _finish(self, code: int) -> None:
        if not self._end.done():
            self._end.set_result(code)

    async def _live(self) -> None:
        """Start everything, then reload whenever told to. Never returns."""
        preflight.require_free_ports(self._config, self._file)
        self._crew.bind()
        self._write_pid()
        if self._config.embedded:
            await self._start_store()
        await self._crew.start()
        server = self._config.server
        log.info("ready", extra=logs.fields(workers=server.workers, address=server.address, port=server.port))
        preflight.tell_certificate(self._config)
        if server.demo:
            scheme = "https" if server.tls else "http"
            log.info("the demo page is at %s://localhost:%d/", scheme, server.port)
        self._notify.ready(self._crew.status())
        while True:
            await self._reload.wait()
            self._reload.clear()  # signals that come during a reload are one more, however many
            await self._reload_config()

    async def _keep_alive(self) -> None:
        """Tell systemd's watchdog that all is well, as long as it is."""
        while True:
            if self._crew.none_forgotten():
                self._notify.alive()
            await asyncio.sleep(self._notify.watchdog)

    def _tell_status(self) -> None:
        self._notify.status(self._crew.status())

    def _write_pid(self) -> None:
        """Leave our pid where ``upgrade`` finds it. A convenience: a read-only directory is no reason not to serve."""
        try:
            path = make_private(Path(self._config.redis.state_dir))
            self._pid_lock = Lock(pid_file(path, self._config.server.port))
        except (OSError, Held) as error:
            log.warning("no pid file, upgrade needs --pid: %s", error, extra=logs.fields(pid=os.getpid()))

    async def _start_store(self) -> None:
        self._store = await preflight.start_store(self._config, self._file, self._runtime.path, self._tell_lineage)
        self._crew.lineage, self._crew.store = self._store.lineage, self._store.url
        self._config = self._crew.config = self._config.with_store(self._store.url)

    async def _tell_lineage(self, text: str) -> None:
        """Have every worker use a new lineage before the store starts. Who does not answer must not publish."""
        self._crew.lineage = text
        for child in await self._crew.order("lineage", text.encode()):
            child.signal(signal.SIGKILL)

    async def _reload_config(self) -> None:
        self._notify.reloading()
        try:
            fresh, waiting = merge(self._config, self._loaded, load(self._file), self._crew.store)
        except ConfigError as error:
            for problem in error.problems:
                log.error("config: %s", problem)
            log.error("config not reloaded, the old one stays", extra=logs.fields(mistakes=len(error.problems)))
        else:
            await self._use(fresh)
            if waiting:
                log.warning("these take effect at the next restart: %s", ", ".join(waiting))
        self._notify.ready(self._crew.status())

    async def _use(self, fresh: Config) -> None:
        """Have all workers use ``fresh``; when one cannot, all go back to the old config."""
        self._crew.config = fresh
        if await self._crew.order("reload", encode(fresh)):
            self._crew.config = self._config
            await self._crew.order("reload", encode(self._config))
            log.error("config not reloaded, the old one stays")
        else:
            self._config = fresh
            log.info("config reloaded")
            preflight.tell_certificate(fresh)

    async def _wind_up(self, tasks: list[asyncio.Task[None]]) -> None:
        """Stop everything, the store last, within ``server.shutdown_timeout``."""
        self._notify.stopping()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        total = self._config.server.shutdown_timeout
        await self._crew.stop(total * DRAIN_SHARE, self._hurry)
        if self._store is not None:
            await self._store.stop(max(1.0, total * 0.15))
        if self._pid_lock is not None:
            self._pid_lock.release()
        self._runtime.close()
        log.info("stopped")
