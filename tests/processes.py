"""What /proc says about processes and connections: nothing here asks the server."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path


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


def connection_inode(port: int, peer_port: int) -> int | None:
    """The inode of the established TCP socket on local ``port`` whose peer has ``peer_port``."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        if not os.path.exists(table):
            continue
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            local, remote, inode = fields[1].rpartition(":")[2], fields[2].rpartition(":")[2], int(fields[9])
            if int(local, 16) == port and int(remote, 16) == peer_port and inode:
                return inode
    return None


def holds_socket(pid: int, inode: int) -> bool:
    """Whether ``pid`` has the socket with ``inode`` open."""
    wanted = f"socket:[{inode}]"
    with suppress(FileNotFoundError, ProcessLookupError):
        for name in os.listdir(f"/proc/{pid}/fd"):
            with suppress(FileNotFoundError, ProcessLookupError):
                if os.readlink(f"/proc/{pid}/fd/{name}") == wanted:
                    return True
    return False
