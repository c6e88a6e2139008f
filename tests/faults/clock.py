"""A wall clock that steps: ``with Clock() as clock, Server() as server: ... clock.step(3600)``.

Every Python process that is started within the block, with what it starts in turn, takes its wall clock from a file
that the test writes: ``time.time``, ``time.time_ns`` and ``time.clock_gettime`` are replaced before anything is
imported (see :mod:`tests.faults.startup.sitecustomize`). That is all that the server reads; ``datetime.now`` would not
follow. A library under the C library (libfaketime) would have to be there, and would also change the store below the
server, whose clock is meant to be right, and the waits of the event loop, which a step of the wall clock leaves alone.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.faults.startup.sitecustomize import FOLDER, OFFSET

STARTUP = Path(__file__).resolve().parent / "startup"


class Clock:
    """The clock of all processes that begin within the block. It begins right."""

    def __init__(self) -> None:
        self._made = tempfile.TemporaryDirectory(prefix="rt-clock-")
        self._folder = Path(self._made.name)
        self._before: dict[str, str | None] = {}

    def __enter__(self) -> Self:
        path = os.environ.get("PYTHONPATH", "")
        changes = {FOLDER: self._made.name, "PYTHONPATH": f"{STARTUP}{os.pathsep}{path}" if path else str(STARTUP)}
        self._before = {name: os.environ.get(name) for name in changes}
        os.environ.update(changes)
        self._write(None, 0.0, 0.0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name, value_before in self._before.items():
            if value_before is None:
                del os.environ[name]
            else:
                os.environ[name] = value_before
        self._made.cleanup()

    def ahead(self, pid: int | None = None) -> float:
        """By how many seconds it is ahead of the machine's now: all clocks, or what comes on top for one process."""
        offset, rate, since = OFFSET.unpack(self._file(pid).read_bytes())
        return float(offset + rate * (time.time() - since))

    def step(self, seconds: float, pid: int | None = None) -> None:
        """Set it forward, or back, at once: for all, or for one process alone."""
        rate = OFFSET.unpack(self._file(pid).read_bytes())[1]
        self._write(pid, self.ahead(pid) + seconds, rate)

    def slew(self, rate: float, pid: int | None = None) -> None:
        """From now on win ``rate`` seconds per second, as NTP does when it corrects: 0.0005 is its most."""
        self._write(pid, self.ahead(pid), rate)

    @contextlib.contextmanager
    def stepped(self, seconds: float, pid: int | None = None) -> Iterator[None]:
        """Wrong for the block, and stepped back after it."""
        self.step(seconds, pid)
        try:
            yield
        finally:
            self.step(-seconds, pid)

    def _file(self, pid: int | None) -> Path:
        file = self._folder / ("all" if pid is None else str(pid))
        assert file.exists(), f"process {pid} does not follow this clock"
        return file

    def _write(self, pid: int | None, offset: float, rate: float) -> None:
        name = "all" if pid is None else str(pid)
        descriptor = os.open(self._folder / name, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.pwrite(descriptor, OFFSET.pack(offset, rate, time.time()), 0)
        finally:
            os.close(descriptor)
