"""Having a running server, or one of its workers, leave; from outside, by the signals that it knows."""

from __future__ import annotations

import os
import select
import signal
from pathlib import Path


class NotOurs(Exception):
    """The process cannot be told, or is not what it was taken for; the text says why."""


def leave(pid: int, worker: int | None = None) -> int:
    """Tell the supervisor ``pid``, or the one of its workers with the pid ``worker``, to drain; a descriptor that is
    readable when that process is gone. NotOurs when there is no such process."""
    whom = pid if worker is None else worker
    try:
        handle = os.pidfd_open(whom)  # first, so that the number cannot become somebody else's behind the question
    except OSError as error:
        raise NotOurs(f"process {whom}: {error.strerror}") from error
    try:
        if worker is not None and parent(worker) != pid:
            raise NotOurs(f"process {worker} is no worker of process {pid}")
        signal.pidfd_send_signal(handle, signal.SIGTERM)
    except OSError as error:
        os.close(handle)
        raise NotOurs(f"process {whom}: {error.strerror}") from error
    except NotOurs:
        os.close(handle)
        raise
    return handle


def gone(handle: int, seconds: float) -> bool:
    """Whether the process is gone, after at most so many seconds; the descriptor is closed."""
    try:
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        return bool(poll.poll(seconds * 1000))
    finally:
        os.close(handle)


def parent(pid: int) -> int:
    """The pid of the process that started it; 0 when there is no such process."""
    try:
        # Behind the name, which is in parentheses and may hold anything: the state, and the parent.
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return 0
