"""Another process's sockets, to be looked at and changed from here (pidfd_getfd(2))."""

from __future__ import annotations

import ctypes
import functools
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

PIDFD_GETFD = 438
"""The system call's number, the same on all machines that have it."""


@functools.cache
def permitted() -> bool:
    """Whether the kernel and our rights allow it."""
    with socket.socket() as ours:
        try:
            with grasped(os.getpid(), ours.fileno()):
                return True
        except OSError:
            return False


@contextmanager
def grasped(pid: int, descriptor: int) -> Iterator[socket.socket]:
    """The socket behind a descriptor of ``pid``; it is the same one, not a copy. OSError when it cannot be had."""
    handle = os.pidfd_open(pid)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        found = libc.syscall(PIDFD_GETFD, handle, descriptor, 0)
        if found < 0:
            raise OSError(ctypes.get_errno(), "pidfd_getfd")
        with socket.socket(fileno=found) as held:
            yield held
    finally:
        os.close(handle)


def connections(pid: int, port: int) -> Iterator[socket.socket]:
    """Every connection that a worker has accepted on ``port``."""
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            with grasped(pid, int(name)) as held:
                if held.family == socket.AF_INET and held.getsockname()[1] == port and held.getpeername():
                    yield held
        except OSError:
            continue  # no socket, or not connected
