"""Lets a test see the tasks of every process that has this folder on PYTHONPATH, and is told in INSIDE where to answer.

A thread answers each connection to ``<INSIDE>/<pid>`` with one JSON list: the name and age in seconds of each task. It
learns of a task when it looks, ten times a second, so an age is up to a tenth too small.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import threading
import time
import weakref
from typing import Any

TICK = 0.1


def look(seen: weakref.WeakKeyDictionary[asyncio.Task[Any], float]) -> list[tuple[str, float]]:
    """The tasks there are, with their ages."""
    now = time.monotonic()
    known: Any = asyncio.tasks
    tasks: list[asyncio.Task[Any]] = []
    with contextlib.suppress(RuntimeError):  # the set changed while it was read: next time
        tasks = [task for task in list(known._all_tasks) if not task.done()]
    return [(str(task.get_coro()), now - seen.setdefault(task, now)) for task in tasks]


def answer(folder: str) -> None:
    """For ever."""
    seen: weakref.WeakKeyDictionary[asyncio.Task[Any], float] = weakref.WeakKeyDictionary()
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(f"{folder}/{os.getpid()}")
    listening.listen()
    listening.settimeout(TICK)
    while True:
        look(seen)
        with contextlib.suppress(OSError):
            there, _ = listening.accept()
            with there:
                there.sendall(json.dumps(look(seen)).encode())


if "INSIDE" in os.environ:
    threading.Thread(target=answer, args=(os.environ["INSIDE"],), daemon=True).start()
