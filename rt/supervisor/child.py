"""One worker process, as its supervisor sees it: started by exec, heard over the socket pair, ended by signals."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

from rt import logs
from rt.supervisor.control import Control, Message

log = logging.getLogger(__name__)

DUMP_TIME = 2.0
"""Seconds between SIGABRT, on which a worker writes where it hangs, and SIGKILL."""


def ending(code: int | None) -> str:
    """The return code of a process in words: "exit 1", or the signal that ended it, "SIGKILL"."""
    if code is None or code >= 0:
        return f"exit {code}"
    with contextlib.suppress(ValueError):
        return signal.Signals(-code).name
    return f"signal {-code}"


class Child:
    """A worker process. ``ready`` and ``gone`` are events; all times are the loop's, in seconds."""

    __slots__ = (
        "_answers", "_control", "_ended", "_loop", "_process", "_watch",
        "born", "doomed", "failure", "gone", "heard", "index", "on_leaving", "on_ready", "ready", "ready_at",
    )  # fmt: skip

    def __init__(self, process: asyncio.subprocess.Process, sock: socket.socket, index: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._process = process
        self._ended = asyncio.Event()
        self._answers: dict[str, asyncio.Future[str]] = {}
        self.index = index
        self.born = self.heard = self._loop.time()
        self.ready_at = 0.0
        self.on_ready: Callable[[Child], None] = lambda child: None
        """Called when it accepts."""
        self.on_leaving: Callable[[], None] = lambda: None
        """Called when somebody else told it to stop."""
        self.ready = asyncio.Event()
        self.gone = asyncio.Event()
        self.doomed = False
        """Whether it is being killed."""
        self.failure = ""
        """What it said before it gave up."""
        self._control = Control(sock, self._on_message, self._ended.set)
        self._watch = asyncio.create_task(self._await_end(), name=f"worker {index} pid {process.pid}")

    @classmethod
    async def spawn(
        cls,
        program: Path,
        index: int,
        public: Sequence[socket.socket],
        internal: Sequence[socket.socket],
        environ: Mapping[str, str],
    ) -> Self:
        """Start worker ``index`` on copies of these listeners; it waits to be told ``start``. OSError when there can be
        no process.
        """
        ours, theirs = socket.socketpair()
        try:
            fds = [theirs.fileno(), *(sock.fileno() for sock in (*public, *internal))]
            process = await asyncio.create_subprocess_exec(
                *[sys.executable, str(program), "worker", "--control", str(theirs.fileno())],
                *["--public", _joined(public), "--internal", _joined(internal)],
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=fds,
                env=environ,
                # Ctrl-C in a terminal is for the supervisor, which tells the workers in its own way.
                start_new_session=True,
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        return cls(process, ours, index)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def code(self) -> int | None:
        """The return code, negative for a signal; None while it lives."""
        return self._process.returncode

    @property
    def served(self) -> float:
        """For how many seconds it has been ready."""
        return self._loop.time() - self.ready_at if self.ready.is_set() else 0.0

    async def order(self, word: str, body: bytes, timeout: float) -> str:
        """Have the worker carry out ``word``; "" when it did within ``timeout`` seconds, else why not."""
        answer = self._answers[word] = self._loop.create_future()
        self._control.send(word, body)
        try:
            return await asyncio.wait_for(answer, timeout)
        except TimeoutError:
            return "no answer"
        finally:
            if self._answers.get(word) is answer:
                del self._answers[word]

    def tell(self, word: str, body: bytes = b"") -> None:
        """Send the worker something that it does not answer."""
        self._control.send(word, body)

    def abort(self, why: str) -> None:
        """Have a hung worker say where it hangs, then kill it."""
        if not self.doomed and not self.gone.is_set():
            self.doomed = True
            log.error("worker hangs and is killed: %s", why, extra=logs.fields(worker=self.index, pid=self.pid))
            self.signal(signal.SIGABRT)
            self._loop.call_later(DUMP_TIME, self.signal, signal.SIGKILL)

    def signal(self, number: signal.Signals) -> None:
        """Send the process a signal, if it still is."""
        if self.code is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def end_within(self, seconds: float) -> bool:
        """Wait for the end at most ``seconds``, then kill; whether it ended by itself."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.gone.wait(), seconds)
        willing = self.gone.is_set()
        self.signal(signal.SIGKILL)
        await self.gone.wait()
        return willing

    def _on_message(self, message: Message) -> None:
        self.heard = self._loop.time()
        match message.word:
            case "ready":
                self.ready_at = self._loop.time()
                self.ready.set()
                self.on_ready(self)
            case "leaving":
                self.on_leaving()
            case "done" | "failed":
                word, _, why = message.body.decode("utf-8", "replace").partition("\n")
                if word == "start":
                    self.failure = why
                answer = self._answers.get(word)
                if answer is not None and not answer.done():
                    answer.set_result("" if message.word == "done" else why or "it failed")
            case _:
                pass  # "beat", and words of other versions: the hearing is all that counts

    async def _await_end(self) -> None:
        await self._process.wait()
        # Its last words may still wait in the socket.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._ended.wait(), 0.5)
        self._control.close()
        for answer in self._answers.values():
            if not answer.done():
                answer.set_result("it is gone")
        self.gone.set()


def _joined(sockets: Sequence[socket.socket]) -> str:
    return ",".join(str(sock.fileno()) for sock in sockets)


def environment(metrics_dir: Path) -> dict[str, str]:
    """The environment of a worker: ours, and the directory that all of them keep their metrics in."""
    return {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(metrics_dir)}
