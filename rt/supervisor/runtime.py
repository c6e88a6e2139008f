"""Files that belong to a running process: locks, the pid file, and a directory that goes when the process goes."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from pathlib import Path

LOCK_PATIENCE = 2.0
"""Seconds to wait for a lock: a predecessor killed a moment ago, or its store, may be about to let go."""

_PREFIX = "rt-"


class Held(Exception):
    """Another living process holds the lock; ``pid`` is what it wrote there (0 when unknown)."""

    def __init__(self, path: Path, pid: int) -> None:
        super().__init__(f"{path} is held by " + (f"process {pid}" if pid else "another process"))
        self.path = path
        self.pid = pid


class Lock:
    """A file that this process, and children given its :attr:`fd`, hold by flock(2) until all of them are gone.

    The file holds the pid and stays when the lock is released: removing it would let two processes lock two files.
    """

    __slots__ = ("fd",)

    def __init__(self, path: Path, patience: float = LOCK_PATIENCE) -> None:
        """Take the lock within ``patience`` seconds; Held when another keeps it, OSError when there can be no such
        file.
        """
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    self.release()
                    raise Held(path, _pid_in(path)) from None
                time.sleep(0.05)
        os.ftruncate(self.fd, 0)
        os.pwrite(self.fd, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let go; children that were given the descriptor hold on."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def holder(path: Path) -> int | None:
    """The pid of the process that holds the lock at ``path``; None when nobody does."""
    if not path.exists():
        return None
    try:
        Lock(path, patience=0.0).release()
    except Held as held:
        return held.pid or None
    except OSError:
        return None
    return None


def _pid_in(path: Path) -> int:
    with contextlib.suppress(OSError, ValueError):
        return int(path.read_text())
    return 0


def pid_file(state_dir: Path, port: int) -> Path:
    """Where the supervisor that serves ``port`` out of ``state_dir`` writes, and locks, its pid."""
    return state_dir / f"supervisor-{port}.pid"


def make_private(path: Path) -> Path:
    """``path`` as a directory that only this user may enter, made when it is missing; absolute. OSError when it cannot
    be.
    """
    path = path.absolute()
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.chmod(0o700)
    return path


class RuntimeDir:
    """A short-named private directory for sockets and metrics files, removed at :meth:`close`.

    It stands in RUNTIME_DIRECTORY (systemd), else XDG_RUNTIME_DIR, else the temporary directory. What a killed process
    left there is swept away by the next one: a directory whose lock nobody holds is abandoned.
    """

    __slots__ = ("_lock", "path")

    def __init__(self, base: Path | None = None) -> None:
        base = base or _base()
        _sweep(base)
        self.path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=base))
        self._lock = Lock(self.path / "lock")

    def directory(self, name: str) -> Path:
        """A fresh directory in here."""
        path = self.path / name
        path.mkdir(mode=0o700)
        return path

    def close(self) -> None:
        """Remove it all."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.release()


def _base() -> Path:
    for name in ("RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR"):
        path = os.environ.get(name, "").split(":")[0]
        if path and os.access(path, os.W_OK | os.X_OK):
            return Path(path)
    return Path(tempfile.gettempdir())


def _sweep(base: Path) -> None:
    """Remove the directories of processes that are gone. One without a lock file is being made just now, and stays."""
    for path in base.glob(f"{_PREFIX}*/lock"):
        with contextlib.suppress(OSError, Held):
            if path.stat().st_uid == os.getuid():
                lock = Lock(path, patience=0.0)
                shutil.rmtree(path.parent, ignore_errors=True)
                lock.release()
