"""A supervisor in a process of its own, with the fake app or the real one in its workers."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from tests import processes
from tests.servers import ROOT, free_port, is_store, merged
from tests.waiting import eventually_now

FAKE = Path(__file__).parent / "fake"


class Supervised:
    """``server.py run`` with a config of its own, in a ``with`` block. Afterwards every process of it must be gone."""

    def __init__(
        self,
        folder: Path,
        changes: dict[str, Any] | None = None,
        *,
        fake: bool = True,
        arguments: tuple[str, ...] = (),
        environ: Mapping[str, str] | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.port = free_port()
        self.internal_port = free_port()
        self.fault_file = folder / "fault"
        self.file = folder / "rt.yaml"
        self.log_file = folder / "log"
        own = {
            "server": {
                "address": "127.0.0.1",
                "port": self.port,
                "workers": 2,
                "internal": {"port": self.internal_port},
                "shutdown_timeout": "5s",
            },
            "redis": {"url": "redis://127.0.0.1:1/0", "state_dir": str(folder / "var")},
        }
        self.config = merged(own, changes or {})
        if self.config["redis"]["url"] != "embedded":
            self.config["redis"].pop("state_dir", None)
        self.arguments = arguments
        self.environ = {**os.environ, "FAKE_FAULT": str(self.fault_file), **(environ or {})}
        if fake:
            self.environ["PYTHONPATH"] = str(FAKE)
        self.seen: set[int] = set()
        self.process: subprocess.Popen[bytes] | None = None

    def write(self, changes: dict[str, Any] | None = None) -> None:
        """Write the config file, with ``changes`` laid over it."""
        self.config = merged(self.config, changes or {})
        self.file.write_text(yaml.safe_dump(self.config, sort_keys=False))

    def start(self) -> None:
        """Start the process."""
        if not self.file.exists():
            self.write()
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(ROOT / "server.py"), "run", *self.arguments, str(self.file)],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environ,
            )

    def wait_ready(self, timeout: float = 15.0) -> None:
        """Wait until the supervisor, or the single process, says that it is ready."""

        def ready() -> bool:
            assert self.running, f"ended with {self.code}\n{self.log()}"
            return " ready address=" in self.log() or " ready workers=" in self.log()

        eventually_now(ready, timeout, "the log says ready")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self.process is not None
        below = set(self.below()) | self.seen
        if self.running:
            self.process.kill()
        self.process.wait(10)
        try:
            eventually_now(lambda: not any(map(processes.alive, below)), 10, "nothing is left behind")
        finally:
            for pid in filter(processes.alive, below):
                processes.kill(pid, signal.SIGKILL)
            if error is not None:
                print(self.log())

    @property
    def pid(self) -> int:
        """The supervisor's."""
        assert self.process is not None
        return self.process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self.process is not None and self.process.poll() is None

    @property
    def code(self) -> int | None:
        """The exit status."""
        assert self.process is not None
        return self.process.poll()

    def below(self) -> list[int]:
        """All processes below it."""
        found = processes.descendants(self.pid)
        self.seen.update(found)
        return found

    def workers(self) -> list[int]:
        """The workers' pids."""
        return [pid for pid in self.below() if " worker " in processes.command(pid) and processes.alive(pid)]

    def store(self) -> int:
        """The store's pid; 0 while there is none."""
        return next((pid for pid in self.below() if is_store(pid)), 0)

    def signal(self, number: signal.Signals) -> None:
        """Send the supervisor a signal."""
        processes.kill(self.pid, number)

    def wait(self, timeout: float = 10.0) -> int:
        """Wait for its end; the exit status."""
        assert self.process is not None
        return self.process.wait(timeout)

    def stop(self) -> int:
        """SIGTERM, and the exit status."""
        self.below()
        self.signal(signal.SIGTERM)
        return self.wait()

    def log(self) -> str:
        """What all its processes have written."""
        return self.log_file.read_text() if self.log_file.exists() else ""

    def wait_log(self, text: str, timeout: float = 15.0) -> None:
        """Wait until the log holds ``text``."""
        eventually_now(lambda: text in self.log(), timeout, f"the log says {text!r}")

    def ask(self, path: str = "/", *, host: str = "127.0.0.1", timeout: float = 10.0) -> bytes:
        """The whole answer to a GET on the public port; OSError when it is refused or reset."""
        with socket.create_connection((host, self.port), timeout=timeout) as sock:
            sock.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
            answer = b""
            while data := sock.recv(65536):
                answer += data
            return answer

    def facts(self) -> dict[str, Any]:
        """What the fake app of some worker was given."""
        result: dict[str, Any] = json.loads(self.ask().partition(b"\r\n\r\n")[2])
        return result

    def all_facts(self, count: int = 2) -> dict[int, dict[str, Any]]:
        """The facts of ``count`` workers by pid; each connection goes to a random one."""
        found: dict[int, dict[str, Any]] = {}

        def complete() -> bool:
            facts = self.facts()
            found[facts["pid"]] = facts
            return len(found) >= count

        eventually_now(complete, 10, f"{count} workers answer")
        return found
