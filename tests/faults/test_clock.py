"""tests.faults.clock: the wall clock of what is started within the block steps; nothing else does."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from tests.faults.clock import Clock
from tests.servers import ROOT, Server
from tests.waiting import eventually_now

CHILD = """
import sys, time
import tests.faults.clock
for line in sys.stdin:
    print(time.time(), time.time_ns() / 1e9, time.clock_gettime(time.CLOCK_REALTIME), time.monotonic(), flush=True)
"""


class Child:
    """A process that says what time it is."""

    def __init__(self) -> None:
        words = [sys.executable, "-c", CHILD]
        self.made = subprocess.Popen(words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.ahead()

    def ahead(self) -> list[float]:
        """By how much its three wall clocks, and its monotonic one, are ahead of ours."""
        assert self.made.stdin is not None and self.made.stdout is not None
        print(file=self.made.stdin, flush=True)
        told = list(map(float, self.made.stdout.readline().split()))
        return [told[0] - time.time(), told[1] - time.time(), told[2] - time.time(), told[3] - time.monotonic()]


@pytest.fixture
def clock() -> Iterator[Clock]:
    """One that is right."""
    with Clock() as made:
        yield made


@pytest.fixture
def children(clock: Clock) -> Iterator[list[Child]]:
    """Two that follow it."""
    made = [Child(), Child()]
    yield made
    for child in made:
        with child.made:
            child.made.kill()


def wall(*seconds: float) -> list[object]:
    """What :meth:`Child.ahead` of children says."""
    return [pytest.approx([each, each, each, 0.0], abs=0.5) for each in seconds]


def test_steps(clock: Clock, children: list[Child]) -> None:
    """Forward, back, for a block, for one alone; monotonic time is as it is, and so is ours."""
    before = time.time()

    def ahead() -> list[list[float]]:
        return [child.ahead() for child in children]

    assert ahead() == wall(0, 0)
    clock.step(3600)
    assert ahead() == wall(3600, 3600)
    clock.step(-7200)
    assert ahead() == wall(-3600, -3600)
    with clock.stepped(30 * 86400, children[0].made.pid):
        assert ahead() == wall(30 * 86400 - 3600, -3600)
    assert ahead() == wall(-3600, -3600)
    assert clock.ahead() == pytest.approx(-3600) and 0 <= time.time() - before < 60


def test_slew(clock: Clock, children: list[Child]) -> None:
    """It runs faster, and stays ahead by what it won."""
    clock.slew(1000.0)
    first, then = children[0].ahead(), children[0].ahead()
    assert 0 < first[0] < then[0]
    clock.slew(0.0)
    first, then = children[0].ahead(), children[0].ahead()
    assert first[0] == pytest.approx(then[0], abs=0.5)
    assert then[3] == pytest.approx(0.0, abs=0.5)


def test_who_began_before_does_not_follow(clock: Clock) -> None:
    """Nor can it be stepped alone; and after the block nobody does."""
    with pytest.raises(AssertionError, match="does not follow"):
        clock.step(1, os.getpid())
    with Clock() as inner:
        inner.step(60)
    child = Child()
    with child.made:
        assert child.ahead() == wall(0)[0]
        child.made.kill()


def test_a_server_follows() -> None:
    """All its processes do, but not its store; and monotonic deadlines do not notice."""
    with Clock() as clock, Server({"server": {"workers": 1}}) as server:
        (worker,) = server.worker_pids()
        clock.step(-3600)
        assert clock.ahead(worker) == 0.0, "it has a file of its own"
        eventually_now(lambda: abs(server.metric("rt_worker_seen_timestamp_seconds") + 3600 - time.time()) < 60)
        assert server.internal("/ready")[0] == 200
        with pytest.raises(AssertionError, match="does not follow"):
            clock.ahead(server.store_pids()[0])
