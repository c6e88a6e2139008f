"""What /proc says about processes and connections: nothing here asks the server."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

ESTABLISHED = "01"
"""How /proc/net/tcp writes that state."""


def children(pid: int) -> list[int]:
    """The direct children of ``pid``; none when it is gone."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def descendants(pid: int) -> list[int]:
    """Every process below ``pid``."""
    found = []
    for child in children(pid):
        found += [child, *descendants(child)]
    return found


def command(pid: int) -> str:
    """The command line of ``pid``, empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def alive(pid: int) -> bool:
    """Whether ``pid`` runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def kill(pid: int, number: signal.Signals) -> None:
    """Send a signal to one process, which may be gone already."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def resident_bytes(pid: int) -> int:
    """Resident memory of ``pid``."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def connections() -> Iterator[tuple[int, int, int]]:
    """(local port, remote port, inode) of every established TCP socket of this machine that a process holds."""
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        for line in table.read_text().splitlines()[1:] if table.exists() else ():
            fields = line.split()
            if fields[3] == ESTABLISHED and int(fields[9]):
                yield int(fields[1].rpartition(":")[2], 16), int(fields[2].rpartition(":")[2], 16), int(fields[9])


def sockets(pid: int) -> set[int]:
    """The inodes of the sockets that ``pid`` has open."""
    found = set()
    with suppress(FileNotFoundError, ProcessLookupError):
        for name in os.listdir(f"/proc/{pid}/fd"):
            with suppress(FileNotFoundError, ProcessLookupError):
                target = os.readlink(f"/proc/{pid}/fd/{name}")
                if target.startswith("socket:["):
                    found.add(int(target[len("socket:[") : -1]))
    return found


def ports_to(pid: int, port: int) -> set[int]:
    """The local ports of the connections that ``pid`` has to ``port``."""
    mine = sockets(pid)
    return {local for local, remote, inode in connections() if remote == port and inode in mine}
