"""A real server of several processes, started from a config file and looked at from outside."""

from __future__ import annotations

import copy
import http.client
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest
import yaml

from tests import processes
from tests.tokens import KEY, PREVIOUS_KEY
from tests.waiting import eventually_now

ROOT = Path(__file__).resolve().parent.parent
API_KEY = "an-api-key-of-the-tests"
ORIGIN = "https://app.example.com"

START = 30.0
"""Seconds a server may take until it is ready."""

STOP = 15.0
"""Seconds a server may take to end after SIGTERM."""

OPEN = {
    "allow_subscribe_for_client": True,
    "allow_subscribe_for_anonymous": True,
    "allow_publish_for_client": True,
    "allow_publish_for_anonymous": True,
    "allow_history_for_client": True,
    "allow_history_for_anonymous": True,
}
"""Everything allowed to everybody."""

STREAM = {"history_size": 300, "history_ttl": "120s", "force_recovery": True}

CONFIG: dict[str, Any] = {
    "server": {"mode": "development", "address": "127.0.0.1", "workers": 2, "shutdown_timeout": "5s"},
    "redis": {"url": "embedded"},
    "client": {
        "allowed_origins": [ORIGIN],
        "allow_anonymous_connect_without_token": True,
        "token": {"hmac_secret_key": KEY, "hmac_previous_secret_key": PREVIOUS_KEY},
    },
    "http_api": {"key": API_KEY},
    "channel": {
        "without_namespace": {**STREAM, **OPEN},
        "namespaces": [
            {"name": "long", **STREAM, **OPEN, "history_size": 20000},
            {"name": "short", **STREAM, **OPEN, "history_size": 5},
            {"name": "live", **OPEN, "history_size": 0, "force_recovery": False},
            {"name": "cache", **STREAM, **OPEN, "force_recovery_mode": "cache"},
            {"name": "strict", **STREAM, **OPEN, "slow": "disconnect"},
            {"name": "object", **STREAM, **OPEN, "publication_data_format": "json_object"},
            {"name": "users", **STREAM, "allow_subscribe_for_client": True, "allow_publish_for_subscriber": True},
            {"name": "closed", **STREAM},
        ],
    },
}
"""What most tests run on. Channels without a namespace are open to everybody and recoverable."""


SEEN = {
    "presence": True,
    "join_leave": True,
    "force_push_join_leave": True,
    "allow_presence_for_client": True,
    "allow_presence_for_anonymous": True,
}
"""Everybody sees who is there, who comes and who goes."""

WHOLE: dict[str, Any] = {
    "client": {"presence_update_interval": "2s", "session_ttl": "5m"},
    "redis": {"presence_ttl": "6s"},
    "channel": {
        "namespaces": [
            *CONFIG["channel"]["namespaces"],
            {"name": "room", **STREAM, **OPEN, **SEEN},
            {"name": "hall", **STREAM, **OPEN, **SEEN, "force_push_join_leave": False},
            {"name": "counted", **STREAM, **OPEN, **SEEN, "join_leave": False, "force_push_join_leave": False},
            {"name": "bare", **OPEN, **SEEN, "history_size": 0, "force_recovery": False},
            {"name": "newest", **STREAM, **OPEN, "force_recovery_mode": "cache", "auto_cache_recover": True},
        ],
    },
}
"""Laid over CONFIG: presence, sessions and what belongs to them, with short times."""


DEFAULT = "fast"
"""The HTTP connection of a server whose config names none."""

OVER_BOTH = pytest.mark.parametrize("http", [DEFAULT, "tornado"], indirect=True)
"""Marks tests that run with each HTTP connection: what they promise must not depend on it."""


def speaking(http: str) -> dict[str, Any]:
    """The config of a server with this HTTP connection, as far as it must be said."""
    return {} if http == DEFAULT else {"server": {"http": http}}


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """``base`` with ``changes`` laid over it, mapping by mapping; neither is changed."""
    result = copy.deepcopy(base)
    for key, value in changes.items():
        old = result.get(key)
        result[key] = merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else copy.deepcopy(value)
    return result


CHANCE = random.SystemRandom()
"""Not the module's own, which hypothesis sets to the same place again and again."""

GIVEN: set[int] = set()
"""Ports that were handed out: who has got one may not listen yet."""


def free_port() -> int:
    """A port that nothing listens on, below the range that outgoing connections take theirs from."""
    while True:
        port = CHANCE.randint(15000, 30000)
        if port in GIVEN:
            continue
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            GIVEN.add(port)
            return port


STORE = os.environ.get("TEST_STORE", "")
"""URL of a store for all servers that would run their own: ``TEST_STORE=redis://127.0.0.1:6379 make test``."""


class Server:
    """``server.py run FILE`` in a process group of its own, until the end of the ``with`` block.

    ``changes`` are laid over CONFIG. Entering the block waits until all workers are ready, unless told not to; leaving
    it stops the server with SIGTERM and demands that it ends in time with status 0, that no process of it is left, and
    that its log holds no traceback.
    """

    def __init__(
        self, changes: dict[str, Any] | None = None, *, arguments: tuple[str, ...] = (), await_ready: bool = True
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="rt-test-"))  # short: a Unix socket's path has at most 107 bytes
        self.port = free_port()
        self.internal_port = free_port()
        self.arguments = arguments
        self.await_ready = await_ready
        ports = {"server": {"port": self.port, "internal": {"address": "127.0.0.1", "port": self.internal_port}}}
        state: dict[str, Any] = {"redis": {"state_dir": str(self.folder / "var")}}
        if STORE:
            state["redis"] |= {"url": STORE, "prefix": self.folder.name}
        self.config = merged(merged(merged(CONFIG, ports), state), changes or {})
        self.config_file = self.folder / "rt.yaml"
        self.log_file = self.folder / "log"
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        RUNNING.append(self)
        try:
            self.start()
            if self.await_ready:
                self.wait_ready()
        except BaseException:
            self.end_group()
            RUNNING.remove(self)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            below = processes.descendants(self.pid)
            code = self.stop()
            if error is None:
                assert code == 0, f"exit status {code}\n{self.log_tail()}"
                left = {pid: processes.command(pid) for pid in below if processes.alive(pid)}
                assert not left, f"left behind: {left}"
                assert "Traceback" not in self.log(), self.log_tail()
        finally:
            self.end_group()
            RUNNING.remove(self)
        shutil.rmtree(self.folder, ignore_errors=True)

    # Life

    def write_config(self, changes: dict[str, Any] | None = None) -> None:
        """Write the config file, with ``changes`` laid over what it says now."""
        self.config = merged(self.config, changes or {})
        self.config_file.write_text(yaml.safe_dump(self.config, sort_keys=False))

    def start(self) -> None:
        """Start the process without waiting for it."""
        self.write_config()
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(ROOT / "server.py"), "run", *self.arguments, str(self.config_file)],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={key: value for key, value in os.environ.items() if not key.startswith("RT_")},
            )

    def wait_ready(self, timeout: float = START) -> None:
        """Wait until every worker says that it is ready."""

        def ready() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, f"ended with status {self.process.returncode}\n{self.log_tail()}"
            return self.internal("/ready")[0] == 200

        try:
            eventually_now(ready, timeout, "/ready answers 200")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log_tail()}") from None

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ask the supervisor to end and return its exit status; AssertionError when it takes too long."""
        assert self.process is not None
        if self.process.poll() is None:
            processes.kill(self.process.pid, number)
        try:
            return self.process.wait(STOP)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running {STOP:g} s after {number.name}\n{self.log_tail()}") from None

    def end_group(self) -> None:
        """Kill whatever is left of this server's own process group."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(STOP)

    # Looking in

    @property
    def pid(self) -> int:
        """The supervisor."""
        assert self.process is not None
        return self.process.pid

    def worker_pids(self) -> list[int]:
        """The living workers: what runs server code below the supervisor and is not the store."""
        return [pid for pid in processes.descendants(self.pid) if processes.alive(pid) and not is_store(pid)]

    def store_pids(self) -> list[int]:
        """The embedded store's processes."""
        return [pid for pid in processes.descendants(self.pid) if processes.alive(pid) and is_store(pid)]

    def worker_of(self, peer_port: int) -> int:
        """The pid of the worker that holds the connection which comes from local port ``peer_port``.

        The kernel answers a connect before a worker accepts it, so this may have to wait a moment.
        """
        holders: list[int] = []

        def held() -> bool:
            ends = processes.connections()
            ours = {inode for local, remote, inode in ends if (local, remote) == (self.port, peer_port)}
            holders[:] = [pid for pid in self.worker_pids() if processes.sockets(pid) & ours]
            return len(holders) == 1

        eventually_now(held, what=f"one worker holds the connection from port {peer_port}")
        return holders[0]

    def kill_worker(self, pid: int) -> None:
        """SIGKILL one of this server's workers."""
        assert pid in self.worker_pids(), f"{pid} is no worker of this server"
        processes.kill(pid, signal.SIGKILL)

    def wait_workers(self, count: int | None = None, timeout: float = START) -> None:
        """Wait until ``count`` workers run (default: as configured) and all are ready."""
        wanted = self.config["server"]["workers"] if count is None else count
        eventually_now(lambda: len(self.worker_pids()) == wanted, timeout, f"{wanted} workers run")
        self.wait_ready(timeout)

    def internal(self, path: str) -> tuple[int, str]:
        """(status, body) of a GET on the internal port; status 0 when nobody answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.internal_port, timeout=5)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        except (OSError, http.client.HTTPException):
            return 0, ""
        finally:
            connection.close()

    def metric(self, name: str, **labels: str) -> float:
        """The sum of all samples of ``name`` whose labels include ``labels``; 0 when there are none."""
        total = 0.0
        for line in self.internal("/metrics")[1].splitlines():
            sample, _, value = line.rpartition(" ")
            found, _, rest = sample.partition("{")
            if found == name and all(f'{key}="{wanted}"' in rest for key, wanted in labels.items()):
                total += float(value)
        return total

    def log(self) -> str:
        """Everything that the server's processes have written so far."""
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def log_tail(self, start: int = 0, lines: int = 60) -> str:
        """The last lines of the log behind byte ``start``."""
        return "\n".join(self.log()[start:].splitlines()[-lines:])


def is_store(pid: int) -> bool:
    """Whether ``pid`` is the embedded store."""
    words = processes.command(pid).split()
    return bool(words) and Path(words[0]).name.startswith(("valkey", "redis"))


RUNNING: list[Server] = []
"""Servers of this test run that are up; the report of a failed test shows their logs."""
