"""tests.faults.process: each fault of a process does what it says, and is over after its block."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import processes
from tests.faults import process
from tests.waiting import eventually_now

CHILD = """
import os, sys
held = []
for line in sys.stdin:
    try:
        for _ in range(int(line)):
            held.append(os.open(os.devnull, os.O_RDONLY))
        print("opened", flush=True)
    except OSError as error:
        print(os.strerror(error.errno), flush=True)
"""


class Child:
    """A process that opens as many descriptors as it is told."""

    def __init__(self) -> None:
        words = [sys.executable, "-I", "-S", "-c", CHILD]
        self.made = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    @property
    def pid(self) -> int:
        """Of it."""
        return self.made.pid

    def open(self, count: int) -> None:
        """Tell it."""
        assert self.made.stdin is not None
        print(count, file=self.made.stdin, flush=True)

    def said(self) -> str:
        """What it answered."""
        assert self.made.stdout is not None
        return self.made.stdout.readline().strip()


@pytest.fixture
def child() -> Iterator[Child]:
    """One that is ready."""
    made = Child()
    with made.made:
        made.open(1)
        assert made.said() == "opened"
        yield made
        made.made.kill()


def state(pid: int) -> str:
    """A letter."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_stopped(child: Child) -> None:
    """It stands still when the block begins, and goes on after it."""
    with process.stopped(child.pid):
        assert state(child.pid) == "T"
        child.open(1)
    assert child.said() == "opened"


def test_stopped_and_killed(child: Child) -> None:
    """One that dies meanwhile is no trouble."""
    with process.stopped(child.pid), process.killed(child.pid):
        assert not processes.alive(child.pid)
    assert child.made.wait() == -signal.SIGKILL


def test_kill_politely(child: Child) -> None:
    """Also one that is stopped."""
    with process.stopped(child.pid):
        process.kill(child.pid, signal.SIGTERM)
    assert child.made.wait() == -signal.SIGTERM


def test_descriptors(child: Child) -> None:
    """So many and no more, in whatever holes there are; afterwards as many as before."""
    for spare in (0, 3):
        with process.descriptors(child.pid, spare):
            child.open(spare)
            assert child.said() == "opened"
            child.open(1)
            assert child.said() == "Too many open files"
    child.open(10)
    assert child.said() == "opened"


def test_busy_neighbour() -> None:
    """They take what time there is, and are gone afterwards."""
    before = set(processes.children(os.getpid()))
    with process.busy_neighbour(2, nice=5):
        busy = set(processes.children(os.getpid())) - before
        assert len(busy) == 2
        for pid in busy:
            eventually_now(lambda pid=pid: used(pid) > 0.05)  # type: ignore[misc]
    assert not any(map(processes.alive, busy))


def used(pid: int) -> float:
    """Seconds of processor time."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
