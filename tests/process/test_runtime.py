"""Locks, pid files, and the directory that goes with its process."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from rt.supervisor.runtime import Held, Lock, RuntimeDir, holder, make_private


def test_a_lock_has_one_holder(tmp_path: Path) -> None:
    """The second one is told who has it; released, it is free again."""
    path = tmp_path / "lock"
    assert holder(path) is None
    lock = Lock(path)
    with pytest.raises(Held) as caught:
        Lock(path, patience=0.0)
    assert caught.value.pid == os.getpid() == holder(path)
    lock.release()
    lock.release()
    assert holder(path) is None


def test_a_lock_is_held_until_the_last_child_with_it_is_gone(tmp_path: Path) -> None:
    """Whoever finds the store's lock free knows that no store writes there any more."""
    lock = Lock(tmp_path / "lock")
    child = subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE, pass_fds=[lock.fd]
    )
    lock.release()
    with pytest.raises(Held):
        Lock(tmp_path / "lock", patience=0.0)
    child.communicate()
    Lock(tmp_path / "lock", patience=0.0).release()


def test_asking_who_holds_a_lock_makes_no_file(tmp_path: Path) -> None:
    """``upgrade`` leaves nothing behind where no server has ever run."""
    assert holder(tmp_path / "none") is None
    assert os.listdir(tmp_path) == []


def test_abandoned_directories_are_swept_away(tmp_path: Path) -> None:
    """What a killed process left goes at the next start; what a living one uses stays."""
    living = RuntimeDir(tmp_path)
    dead = tmp_path / "rt-dead"
    dead.mkdir()
    (dead / "lock").write_text("1\n")
    (dead / "metrics").mkdir()
    being_made = tmp_path / "rt-new"
    being_made.mkdir()
    other = RuntimeDir(tmp_path)
    assert living.path.exists() and other.path.exists() and being_made.exists() and not dead.exists()
    assert stat.S_IMODE(other.directory("metrics").stat().st_mode) == 0o700
    living.close()
    other.close()
    assert not living.path.exists() and not other.path.exists()


def test_directories_are_private(tmp_path: Path) -> None:
    """Also one that was there before and open to all."""
    path = tmp_path / "a" / "b"
    path.mkdir(parents=True)
    path.chmod(0o755)
    assert stat.S_IMODE(make_private(path).stat().st_mode) == 0o700
