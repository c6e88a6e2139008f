"""Run by every Python that :class:`tests.faults.clock.Clock` has in its environment, before anything else: the wall
clock is the machine's plus what the clock's files say. Monotonic time is as it is.
"""

from __future__ import annotations

import mmap
import os
import struct
import time

FOLDER = "FAULTS_CLOCK"
"""The variable that names the folder with the files: ``all``, and one per process, each of three numbers."""

OFFSET = struct.Struct("ddd")
"""Seconds ahead, seconds that are won per second, and since when on the machine's clock."""


def _mapped(path: str) -> mmap.mmap:
    with open(path, "a+b") as file:
        file.truncate(OFFSET.size)
        return mmap.mmap(file.fileno(), OFFSET.size)


def shift(folder: str) -> None:
    """Put the clock of the folder in place of the machine's, in this process."""
    files = [_mapped(os.path.join(folder, name)) for name in ("all", str(os.getpid()))]
    real, real_ns, real_clock, read = time.time, time.time_ns, time.clock_gettime, OFFSET.unpack_from

    def ahead(now: float) -> float:
        total = 0.0
        for step, rate, since in map(read, files):
            total += step + rate * (now - since)
        return total

    def clock_gettime(clock: int, /) -> float:
        return now() if clock == time.CLOCK_REALTIME else real_clock(clock)

    def now() -> float:
        machine = real()
        return machine + ahead(machine)

    def now_ns() -> int:
        machine = real_ns()
        return machine + int(ahead(machine / 1e9) * 1e9)

    time.time, time.time_ns, time.clock_gettime = now, now_ns, clock_gettime


if __name__ == "sitecustomize" and os.environ.get(FOLDER):  # not when it is imported for its names
    shift(os.environ[FOLDER])
