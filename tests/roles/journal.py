"""What the roles share: records in a file, the payload of a publication, and the way they are spoken to."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import uvloop

FLUSH = 0.1
"""Seconds that records stay in memory at most, and that a command may wait to be seen in the file."""

SHORT = 16
"""Hex digits of a hash that a record keeps."""

COMMANDS = open(0, "rb", buffering=0, closefd=False)  # noqa: SIM115
"""Standard input without a buffer: what is not read yet still makes the descriptor readable."""

Command = dict[str, Any]
_ENCODER = msgspec.json.Encoder()


class Journal:
    """Records of one process, appended to ``path`` as JSON lines in the order in which they were noted.

    ``t`` of a record is the machine's monotonic clock, which all processes share. ``counts`` tells how many there are.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)
        self._waiting: list[dict[str, Any]] = []
        self.counts: dict[str, int] = {}

    def note(self, do: str, **fields: Any) -> None:
        """Add a record; it is in the file after the next flush."""
        self._waiting.append({"do": do, "t": round(time.monotonic(), 4), **fields})
        self.counts[do] = self.counts.get(do, 0) + 1

    def flush(self) -> None:
        """Write everything that waits."""
        if self._waiting:
            self._file.write(b"".join(_ENCODER.encode(record) + b"\n" for record in self._waiting))
            self._waiting.clear()

    async def flushing(self) -> None:
        """Flush for ever."""
        while True:
            await asyncio.sleep(FLUSH)
            self.flush()

    def close(self) -> None:
        """Write the rest."""
        self.flush()
        self._file.close()


def digest(body: str) -> str:
    """The hash by which a body is recognized."""
    return hashlib.sha256(body.encode()).hexdigest()[:SHORT]


def tag(secret: str, tenant: str, channel: str) -> str:
    """What only a publication of this tenant's channel carries in this run."""
    return hmac.new(secret.encode(), f"{tenant}\0{channel}".encode(), "sha256").hexdigest()[:SHORT]


def payload(one: str, channel_tag: str, body: str) -> dict[str, Any]:
    """The data of a publication."""
    return {"id": one, "sha": digest(body), "tag": channel_tag, "body": body}


def seen(data: Any) -> dict[str, Any]:
    """What a reader notes of the data that came: the id and tag as they are, and the hash of the body itself."""
    if not isinstance(data, dict) or not isinstance(data.get("body"), str):
        return {"id": None}
    return {"id": data.get("id"), "sha": digest(data["body"]), "tag": data.get("tag")}


def perform(role: Callable[[dict[str, Any], Journal], Awaitable[Callable[[Command], Awaitable[Any]]]]) -> None:
    """Run a role in this process: settings as JSON in the first argument, one command per line on standard input.

    ``role(settings, journal)`` begins it and returns what answers commands. Each answer is one line on standard
    output, written after all records that came before it are in the file. ``stop`` is answered, and ends the process.
    """
    settings = msgspec.json.decode(sys.argv[1])

    async def run() -> None:
        journal = Journal(Path(settings["journal"]))
        flushing = asyncio.create_task(journal.flushing())
        lines: asyncio.Queue[bytes] = asyncio.Queue()
        asyncio.get_running_loop().add_reader(COMMANDS.fileno(), _read, lines)
        answer = await role(settings, journal)
        while line := await lines.get():
            command = msgspec.json.decode(line)
            result = await answer(command)
            journal.flush()
            sys.stdout.buffer.write(_ENCODER.encode(result) + b"\n")
            sys.stdout.buffer.flush()
            if command["do"] == "stop":
                break
        flushing.cancel()
        journal.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


def _read(lines: asyncio.Queue[bytes]) -> None:
    """One command, or an empty line at the end of input: then nobody is left to answer to."""
    line = COMMANDS.readline()
    lines.put_nowait(line)
    if not line:
        asyncio.get_running_loop().remove_reader(COMMANDS.fileno())
