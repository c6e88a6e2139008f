"""A worker's process: it takes its sockets and its config from the supervisor, runs the app, and says that it lives.

Standard error is shared by all; everything else comes over the socket pair (``rt.supervisor.control``). When that ends,
the supervisor is gone: a worker without one stops.
"""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import logging
import os
import resource
import select
import signal
import socket
import threading
import time
from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, Any

import uvloop

from rt import logs
from rt.config import Config, ConfigError, decode
from rt.supervisor import listeners
from rt.supervisor.control import Control, ControlError, Message, Start, receive

if TYPE_CHECKING:
    from rt.app import App

log = logging.getLogger(__name__)

EX_FAILED = 70
"""Exit status of a worker whose app cannot be started."""

EX_CONFIG = 78
"""Exit status of a worker that cannot carry out its config: starting again will not help."""

START_TIME = 10.0
"""Seconds to wait for the supervisor's first message."""

BEAT = 1.0
"""Seconds between two heartbeats."""

ORPHAN_DRAIN = 2.0
"""Seconds that a worker without a supervisor takes to say goodbye."""

ORPHAN_TIME = 5.0
"""Seconds after which it is gone in any case, also when its loop hangs."""


def main(control_fd: int, public_fds: Sequence[int], internal_fds: Sequence[int]) -> int:
    """Be a worker until the end; the exit status. The descriptors are inherited from the supervisor."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)  # these are for the supervisor
    public, internal = (_inherited(fds) for fds in (public_fds, internal_fds))
    (control,) = _inherited([control_fd])
    try:
        message = receive(control, START_TIME)
        start = Start.decode(message.body)
        config = decode(start.config)
    except (ControlError, ValueError) as error:
        logs.setup(f"worker {os.getpid()}")
        log.error("no start: %s", error)
        return EX_FAILED
    writer = logs.setup(f"worker {start.number}")
    prepare()
    threading.Thread(target=_end_with_supervisor, args=(os.dup(control.fileno()),), name="guard", daemon=True).start()
    try:
        return run_loop(Worker(start, config, public, internal).run(control))
    finally:
        writer.close()


def prepare() -> None:
    """What every process that serves does first: stacks on a crash, and no core file, which would hold secrets."""
    faulthandler.enable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


def run_loop(work: Coroutine[object, object, int]) -> int:
    """Run ``work`` on a uvloop loop; its result."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


def settle() -> None:
    """Take what the start has made out of the garbage collector's sight, and let it look less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def _inherited(fds: Sequence[int]) -> list[socket.socket]:
    sockets = [socket.socket(fileno=fd) for fd in fds]
    for sock in sockets:
        sock.set_inheritable(False)
        sock.setblocking(False)
    return sockets


def _end_with_supervisor(fd: int) -> None:
    """Kill this process some time after the supervisor is gone. A thread, because the loop may be what hangs."""
    poll = select.poll()
    poll.register(fd, select.POLLRDHUP)
    poll.poll()
    time.sleep(ORPHAN_TIME)
    os.kill(os.getpid(), signal.SIGKILL)


class Worker:
    """The app below a supervisor."""

    def __init__(
        self, start: Start, config: Config, public: list[socket.socket], internal: list[socket.socket]
    ) -> None:
        self._start = start
        self._config = config
        self._public = public
        self._internal = internal
        self._app: App | None = None
        self._stopping: asyncio.Future[float] | None = None
        self._control: Control | None = None
        self._serving = False

    async def run(self, sock: socket.socket) -> int:
        """Serve until told to drain; the exit status."""
        loop = asyncio.get_running_loop()
        self._stopping = loop.create_future()
        loop.add_signal_handler(signal.SIGTERM, self._on_sigterm)
        config = self._config
        control = self._control = Control(sock, self._on_message, self._on_end)
        try:
            app = await self._begin()
        except ConfigError as error:
            return self._give_up(str(error), EX_CONFIG)
        except Exception as error:
            log.exception("the worker does not start")
            return self._give_up(f"{type(error).__name__}: {error}", EX_FAILED)
        if app is not None:
            self._serving = True
            if self._config is not config:
                app.reload(self._config)
            settle()
            control.send("ready")
            beat = asyncio.create_task(self._beat(control), name="heartbeat")
            await self._leave(app)
            beat.cancel()
        control.close()
        return 0

    async def _begin(self) -> App | None:
        """Start the app; None when we are told to stop meanwhile."""
        from rt.app import App  # here, because it takes a while, and the supervisor's words are read already

        assert self._stopping is not None
        start = self._start
        app = self._app = App(
            self._config, index=start.number, name=start.name, lineage=start.lineage, store=start.store
        )
        listeners.listen([*self._public, *self._internal], self._config.server.backlog)
        starting = asyncio.create_task(app.start(self._public, self._internal), name="start")
        ends: list[asyncio.Future[Any]] = [starting, self._stopping]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            return app
        starting.cancel()
        await asyncio.wait([starting])
        return None

    async def _leave(self, app: App) -> None:
        """Wait for the word to drain, and do so."""
        assert self._stopping is not None
        deadline = await self._stopping
        log.info("draining", extra=logs.fields(seconds=deadline))
        await app.stop(deadline)

    def _give_up(self, why: str, code: int) -> int:
        if self._control is not None:
            self._control.send("failed", f"start\n{why}".encode())
            self._control.close()
        return code

    async def _beat(self, control: Control) -> None:
        while True:
            control.send("beat")
            await asyncio.sleep(BEAT)

    def _on_sigterm(self) -> None:
        """Told by somebody else than the supervisor, which should send a successor."""
        self._answer("leaving")
        self._drain(self._config.server.shutdown_timeout)

    def _drain(self, seconds: float) -> None:
        if self._stopping is not None and not self._stopping.done():
            self._stopping.set_result(seconds)

    def _on_end(self) -> None:
        log.error("the supervisor is gone")
        self._drain(ORPHAN_DRAIN)

    def _on_message(self, message: Message) -> None:
        try:
            match message.word:
                case "drain":
                    self._drain(float(message.body))
                case "part":
                    if self._app is not None and self._serving:
                        self._app.part()
                case "reload":
                    self._reload(decode(message.body))
                    self._answer("done", "reload")
                case "lineage":
                    self._set_lineage(message.body.decode())
                    self._answer("done", "lineage")
                case _:
                    pass  # a word of a newer supervisor
        except Exception as error:
            log.exception("%s failed", message.word)
            self._answer("failed", f"{message.word}\n{type(error).__name__}: {error}")

    def _answer(self, word: str, body: str = "") -> None:
        if self._control is not None:
            self._control.send(word, body.encode())

    def _reload(self, config: Config) -> None:
        if self._app is not None and self._serving:
            self._app.reload(config)
        self._config = config  # an app that is just starting gets it right after

    def _set_lineage(self, text: str) -> None:
        if self._app is not None:
            self._app.set_lineage(text)
        self._start = self._start._replace(lineage=text)
