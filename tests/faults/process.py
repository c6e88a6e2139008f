"""What can happen to a process: ``with stopped(pid): ...``."""

from __future__ import annotations

import contextlib
import itertools
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests import processes
from tests.waiting import eventually_now


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """SIGSTOP for the block: it keeps everything and does nothing. It may be gone at the end."""
    os.kill(pid, signal.SIGSTOP)
    try:
        # The signal takes effect a moment later, and a process that dies before could not have been called stopped.
        eventually_now(lambda: _state(pid) in "TZ", what=f"process {pid} stands still")
        yield
    finally:
        processes.kill(pid, signal.SIGCONT)


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "Z"


def kill(pid: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Kill it and wait until it is dead; one that is stopped too. Whose child it is may still have to take note."""
    processes.kill(pid, number)
    if number != signal.SIGKILL:
        processes.kill(pid, signal.SIGCONT)
    eventually_now(lambda: not processes.alive(pid), what=f"process {pid} dies")


@contextlib.contextmanager
def killed(pid: int) -> Iterator[None]:
    """SIGKILL; the block begins when it is dead. Nothing brings it back but whoever looks after it."""
    kill(pid)
    yield


@contextlib.contextmanager
def descriptors(pid: int, spare: int = 0) -> Iterator[int]:
    """It can open ``spare`` more descriptors than it has now and then gets EMFILE. The block has the limit."""
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    # The limit is one on numbers, and a new descriptor gets the lowest number that is free.
    used = {int(name) for name in os.listdir(f"/proc/{pid}/fd")}
    limit = next(itertools.islice((number for number in itertools.count() if number not in used), spare, None))
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, before[1]))
    try:
        yield limit
    finally:
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


@contextlib.contextmanager
def busy_neighbour(count: int | None = None, nice: int = 0) -> Iterator[None]:
    """So many processes (default: as there are processors) that do nothing but use them."""
    spin = f"import os, signal\nos.nice({nice})\nsignal.alarm(600)\nwhile True: pass"
    with contextlib.ExitStack() as stack:
        for _ in range(count or os.cpu_count() or 1):
            made = subprocess.Popen([sys.executable, "-I", "-S", "-c", spin], process_group=0)
            stack.callback(made.wait)
            stack.callback(made.kill)
        yield
