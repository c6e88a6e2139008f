"""What is measured: a process of its own on one core, and what /proc says about it."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

ROOT = Path(__file__).resolve().parent.parent
TICK = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
SERVER_CORE, LOAD_CORE = 0, 1
KEY = "bench"
SECRET = "the-secret-of-the-tokens-of-the-bench-0123"
START = 30.0

OPEN = {"allow_subscribe_for_client": True, "allow_subscribe_for_anonymous": True}
CONFIG: dict[str, Any] = {
    "server": {"mode": "development", "address": "127.0.0.1", "workers": 1},
    "client": {
        "allowed_origins": [],
        "allow_anonymous_connect_without_token": True,
        "token": {"hmac_secret_key": SECRET},
    },
    "http_api": {"key": KEY},
    "channel": {
        "namespaces": [
            {"name": "bench", **OPEN, "history_size": 300, "history_ttl": "120s", "force_recovery": True},
            {"name": "volatile", **OPEN, "history_size": 0},
            {
                "name": "inbox",
                "history_size": 0,
                "allow_publish_for_client": True,
                "allow_publish_for_anonymous": True,
            },
        ]
    },
}


class Unavailable(Exception):
    """A target did not start."""


def free_port() -> int:
    """A port that nothing listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def pin(pid: int, core: int) -> None:
    """Keep every thread of ``pid`` on ``core``."""
    for task in os.listdir(f"/proc/{pid}/task"):
        os.sched_setaffinity(int(task), {core})


def children(pid: int) -> list[int]:
    """The direct children of ``pid``."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def idle_seconds(core: int) -> float:
    """How long ``core`` has been idle since boot."""
    line = next(line for line in Path("/proc/stat").read_text().splitlines() if line.startswith(f"cpu{core} "))
    return sum(map(int, line.split()[4:6])) / TICK


class Target(ABC):
    """A process under measurement; ``pids`` are those that do the work."""

    name = ""
    key = ""

    def __init__(self) -> None:
        self.port = free_port()
        self.publish_port = self.port
        self.pids: list[int] = []
        self.process: subprocess.Popen[bytes] | None = None
        self.folder = tempfile.TemporaryDirectory(prefix="rt-bench-")
        self.log = Path(self.folder.name) / "log"

    @abstractmethod
    def command(self) -> list[str]:
        """The command line that starts it."""

    def settle(self) -> None:
        """Find the working process, once the port answers."""
        assert self.process is not None
        self.pids = [self.process.pid]
        pin(self.process.pid, SERVER_CORE)

    def __enter__(self) -> Self:
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder.name,
                start_new_session=True,
            )
        try:
            self._wait(self.ready)
            self.settle()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self.process is not None
        with suppress(subprocess.TimeoutExpired):
            self.process.terminate()
            self.process.wait(10)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.folder.cleanup()

    def ready(self) -> bool:
        """Whether it takes connections."""
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False

    def _wait(self, condition: Any) -> None:
        deadline = time.monotonic() + START
        while not condition():
            assert self.process is not None
            if self.process.poll() is not None or time.monotonic() > deadline:
                lines = self.log.read_text(errors="replace").splitlines() or ["it said nothing"]
                raise Unavailable(f"{self.name} did not start: {lines[-1]}")
            time.sleep(0.05)

    def cpu(self) -> float:
        """Seconds of CPU that the working processes have used, user and system."""
        stats = (Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in self.pids)
        return sum(int(fields[11]) + int(fields[12]) for fields in stats) / TICK

    def rss(self) -> int:
        """Bytes of resident memory of the working processes."""
        return sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in self.pids) * PAGE


class Rt(Target):
    """This server: its workers on the server's core, supervisor and store on the load's."""

    name = "rt"
    key = KEY

    def __init__(self, workers: int = 1) -> None:
        super().__init__()
        self.internal = free_port()
        self.workers = workers

    def command(self) -> list[str]:
        folder = Path(self.folder.name)
        config = {**CONFIG, "redis": {"url": "embedded", "state_dir": str(folder / "var")}}
        internal = {"address": "127.0.0.1", "port": self.internal}
        config["server"] = {**CONFIG["server"], "port": self.port, "workers": self.workers, "internal": internal}
        (folder / "rt.yaml").write_text(yaml.safe_dump(config))
        return [sys.executable, str(ROOT / "server.py"), "run", str(folder / "rt.yaml")]

    def ready(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.internal, timeout=2)
        with suppress(OSError, http.client.HTTPException):
            connection.request("GET", "/ready")
            return connection.getresponse().status == 200
        return False

    def api(self, method: str, body: dict[str, Any]) -> dict[str, Any]:
        """The result of a call of the server API."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.request("POST", f"/api/{method}", json.dumps(body, separators=(",", ":")), {"X-API-Key": KEY})
        answer: dict[str, Any] = json.loads(connection.getresponse().read())
        if "result" not in answer:
            raise Unavailable(f"{method} was answered {answer}")
        result: dict[str, Any] = answer["result"]
        return result

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels and all workers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.internal, timeout=10)
        connection.request("GET", "/metrics")
        lines = connection.getresponse().read().decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))

    def settle(self) -> None:
        assert self.process is not None
        pin(self.process.pid, LOAD_CORE)
        workers = []
        for child in children(self.process.pid):
            store = Path(f"/proc/{child}/comm").read_text().startswith(("valkey", "redis"))
            pin(child, LOAD_CORE if store else SERVER_CORE)
            if not store:
                workers.append(child)
        if len(workers) != self.workers:
            raise Unavailable(f"expected {self.workers} workers, found the processes {workers}")
        self.pids = workers


class Floor(Target):
    """floor.c, one send() per delivery."""

    name = "floor"

    def __init__(self, binary: Path, frame_bytes: int) -> None:
        super().__init__()
        self.binary = binary
        self.frame_bytes = frame_bytes

    def command(self) -> list[str]:
        return [str(self.binary), str(self.port), str(self.frame_bytes)]


class Stock(Target):
    """stock.py, Tornado as its documentation shows it."""

    name = "stock"

    def command(self) -> list[str]:
        return [sys.executable, str(ROOT / "bench" / "stock.py"), str(self.port)]
