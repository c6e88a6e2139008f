"""One process without a supervisor: for containers, and for a systemd template unit with a process per core.

Several of these share one port by SO_REUSEPORT. Whoever started it watches and restarts it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from rt import logs
from rt.config import Config, ConfigError, load
from rt.store import Store
from rt.supervisor import listeners, preflight
from rt.supervisor.notify import Notify
from rt.supervisor.reload import merge
from rt.supervisor.runtime import RuntimeDir, make_private
from rt.worker import prepare, run_loop, settle

if TYPE_CHECKING:
    from rt.app import App

log = logging.getLogger(__name__)


def run(config: Config, file: Path | None) -> int:
    """Serve in this process until SIGTERM or SIGINT; the exit status. ConfigError or StoreBootError when that cannot
    be.
    """
    prepare()
    runtime = RuntimeDir()
    metrics_dir = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    try:
        # Read when prometheus_client is imported, which the app does. Given from outside, several processes add up.
        if metrics_dir is None:
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(runtime.directory("metrics"))
        else:
            make_private(Path(metrics_dir))
        return run_loop(Single(config, file, runtime.path).run())
    finally:
        runtime.close()


class Single:
    """The app, its sockets, its signals and perhaps its store."""

    def __init__(self, config: Config, file: Path | None, runtime_dir: Path) -> None:
        self._loaded = config
        # Readiness counts workers, and there is one.
        self._config = msgspec.structs.replace(config, server=msgspec.structs.replace(config.server, workers=1))
        self._file = file
        self._runtime_dir = runtime_dir
        self._notify = Notify()
        self._stop = asyncio.Event()
        self._now = asyncio.Event()
        self._store: Store | None = None
        self._app: App | None = None

    async def run(self) -> int:
        """Serve until told to stop; the exit status."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_stop)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        loop.add_signal_handler(signal.SIGUSR2, self._on_upgrade)
        public, internal = preflight.bind(self._config, self._file)
        try:
            await self._start_store()
            await self._serve(public, internal)
        finally:
            listeners.close([*public, *internal])
            if self._store is not None:
                await self._store.stop()
        log.info("stopped")
        return 0

    async def _start_store(self) -> None:
        if not self._config.embedded:
            return
        store = await preflight.start_store(self._config, self._file, self._runtime_dir, self._set_lineage)
        self._store = store
        self._config = self._config.with_store(store.url)

    async def _serve(self, public: list[socket.socket], internal: list[socket.socket]) -> None:
        from rt.app import App  # only now: PROMETHEUS_MULTIPROC_DIR is set

        server = self._config.server
        name = f"{socket.gethostname()}-{server.port}-{os.getpid()}"
        store = self._store
        app = self._app = App(
            self._config,
            index=0,
            name=name,
            lineage=store.lineage if store else None,
            store=store.url if store else "",
        )
        listeners.listen([*public, *internal], server.backlog)
        await app.start(public, internal)
        settle()
        log.info("ready", extra=logs.fields(address=server.address, port=server.port))
        preflight.tell_certificate(self._config)
        self._notify.ready("ready")
        alive = asyncio.create_task(self._keep_alive(), name="watchdog")
        await self._stop.wait()
        self._notify.stopping()
        alive.cancel()
        leaving = asyncio.create_task(app.stop(server.shutdown_timeout * 0.8), name="drain")
        hurry = asyncio.create_task(self._now.wait(), name="hurry")
        await asyncio.wait({leaving, hurry}, timeout=server.shutdown_timeout * 0.9, return_when=asyncio.FIRST_COMPLETED)
        for task in (leaving, hurry):
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await leaving

    async def _keep_alive(self) -> None:
        while self._notify.watchdog:
            self._notify.alive()
            await asyncio.sleep(self._notify.watchdog)

    async def _set_lineage(self, text: str) -> None:
        if self._app is not None:
            self._app.set_lineage(text)

    def _on_stop(self) -> None:
        if self._stop.is_set():
            self._now.set()
        self._stop.set()

    def _on_upgrade(self) -> None:
        log.warning("a process without a supervisor is upgraded by restarting it")

    def _reload(self) -> None:
        if self._app is None:
            return
        self._notify.reloading()
        try:
            store = self._store.url if self._store else ""
            config, waiting = merge(self._config, self._loaded, load(self._file), store)
            self._app.reload(config)
        except ConfigError as error:
            for problem in error.problems:
                log.error("config: %s", problem)
            log.error("config not reloaded, the old one stays", extra=logs.fields(mistakes=len(error.problems)))
        else:
            self._config = config
            log.info("config reloaded")
            preflight.tell_certificate(config)
            if waiting:
                log.warning("these take effect at the next restart: %s", ", ".join(waiting))
        self._notify.ready("ready")
