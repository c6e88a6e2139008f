"""What a refused command costs a worker, beside a frame that is for nobody and a command that does nothing.

``python -m bench.refusals [scope ...]``, with a rule on ``history`` for each scope (default: connection). Commands come
one to a frame, in writes of one and of fifty frames, over one WebSocket; a figure is CPU time of the worker per
command, the median of five rounds.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
from collections.abc import Callable

from tests.hurry import Hurried
from tests.servers import Server

COMMANDS = 10_000
ROUNDS = 5
CASES: dict[str, tuple[Callable[[int], bytes], bool]] = {
    "for nobody, no reply": (lambda n: b'{"send":{}}', False),
    "unsubscribe of nothing": (lambda n: b'{"id":%d,"unsubscribe":{"channel":"a"}}' % n, True),
    "refused": (lambda n: b'{"id":%d,"history":{"channel":"a"}}' % n, True),
}


def cpu(pid: int) -> float:
    """Seconds of CPU that a process has used."""
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def masked(payload: bytes) -> bytes:
    """A text frame of a client whose mask is zero."""
    return b"\x81%c\0\0\0\0%b" % (0x80 | len(payload), payload)


async def measured(server: Server, command: Callable[[int], bytes], *, replies: bool, at_once: int) -> float:
    """CPU time of the worker per command, in microseconds."""
    (pid,) = server.worker_pids()
    async with Hurried(server, "42") as client:
        await client.ask(5, "history", channel="a")
        while client.answered < 5:
            await asyncio.sleep(0.01)
        used = cpu(pid)
        for first in range(0, COMMANDS, at_once):
            client.writer.write(b"".join([masked(command(10 + first + n)) for n in range(at_once)]))
            await client.writer.drain()
            if at_once == 1 and first % 4 == 3:
                await asyncio.sleep(0.0005)  # so that the worker reads them one by one
        while replies and client.answered < COMMANDS + 5:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.3)
        return (cpu(pid) - used) / COMMANDS * 1e6


def main() -> None:
    """Print a table."""
    scopes = sys.argv[1:] or ["connection"]
    rates = [{"on": "history", "per": scope, "rate": "1/h", "burst": n + 1} for n, scope in enumerate(scopes)]
    with Server({"server": {"workers": 1}, "limits": {"tolerance": 0, "rates": rates}}) as server:
        for at_once in (1, 50):
            print(f"{at_once} in a write, a rule per {', '.join(scopes)}")
            for name, (command, replies) in CASES.items():
                run = [asyncio.run(measured(server, command, replies=replies, at_once=at_once)) for _ in range(ROUNDS)]
                print(f"  {name:24} {statistics.median(run):5.1f} µs")


if __name__ == "__main__":
    main()
