"""The tasks inside of a server's processes, asked from outside; see ``inside/sitecustomize.py``."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.servers import Server
from tests.waiting import PATIENCE

FOLDER = Path(__file__).with_name("inside")

_NAME = re.compile(r"<\w+ object ([\w.<>]+) at ")


class Insides:
    """What can be asked, of the processes that answer in ``folder``."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def tasks(self, pid: int) -> list[tuple[str, float]]:
        """Name and age in seconds of every task in ``pid``; none when it does not answer (it may be gone)."""
        answer = b""
        with socket.socket(socket.AF_UNIX) as asking, contextlib.suppress(OSError):
            asking.settimeout(PATIENCE)
            asking.connect(f"{self._folder}/{pid}")
            while data := asking.recv(65536):
                answer += data
        found = json.loads(answer or b"[]")
        return [(name[1] if (name := _NAME.match(task)) else task, age) for task, age in found]


@contextlib.contextmanager
def looked_into(server: Server) -> Iterator[Insides]:
    """Run the server so that it can be asked."""
    with tempfile.TemporaryDirectory(prefix="rt-in-") as folder, contextlib.ExitStack() as stack:
        before = {name: os.environ.get(name) for name in ("PYTHONPATH", "INSIDE")}
        os.environ.update(PYTHONPATH=str(FOLDER), INSIDE=folder)
        try:
            stack.enter_context(server)
        finally:
            for name, value in before.items():
                os.environ.pop(name)
                if value is not None:
                    os.environ[name] = value
        yield Insides(folder)
