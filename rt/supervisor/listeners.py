"""Listening sockets: where they are bound, and the ones that one worker gets.

Every worker has sockets of its own on the same port (SO_REUSEPORT), and the supervisor keeps a copy of each: a socket
that only its worker holds would reset whoever waits in its queue when the worker dies. A socket is bound here and
begins to listen in the worker (:func:`listen`), so the kernel sends nobody to a worker that has not started yet.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import time
from collections.abc import Iterable
from typing import NamedTuple

PROBE_TIME = 3.0
"""Seconds for which a taken port is tried again: the workers of a supervisor killed a moment ago are just closing
theirs.
"""

_NO_IPV6 = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)


class BindError(Exception):
    """A socket cannot be bound. ``key`` is "port" or "address", whichever is to blame; ``found`` and ``allowed`` say
    why.
    """

    def __init__(self, key: str, found: str, allowed: str) -> None:
        super().__init__(f"found {found}, expected {allowed}")
        self.key = key
        self.found = found
        self.allowed = allowed


class Place(NamedTuple):
    """An address to bind. An ``optional`` one is left out where the machine has no IPv6."""

    family: socket.AddressFamily
    host: str
    optional: bool = False


def places(address: str) -> list[Place]:
    """Where ``address`` is bound: "localhost", "" and "::" mean IPv4 and IPv6, a name all that it resolves to."""
    if address == "localhost":
        return [Place(socket.AF_INET, "127.0.0.1"), Place(socket.AF_INET6, "::1", optional=True)]
    if address in ("", "::"):
        return [Place(socket.AF_INET, "0.0.0.0"), Place(socket.AF_INET6, "::", optional=True)]
    try:
        version = ipaddress.ip_address(address).version
        return [Place(socket.AF_INET6 if version == 6 else socket.AF_INET, address)]
    except ValueError:
        return _resolved(address)


def _resolved(name: str) -> list[Place]:
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise BindError("address", f"{name} ({error})", "an address of this machine") from error
    return list(dict.fromkeys(Place(family, str(sockaddr[0])) for family, _, _, _, sockaddr in found))


def bind(address: str, port: int) -> list[socket.socket]:
    """Sockets bound to ``port`` at all places of ``address``, not listening yet; BindError when that cannot be."""
    sockets: list[socket.socket] = []
    try:
        for place in places(address):
            sock = _bound(place, port, shared=True)
            if sock is not None:
                sockets.append(sock)
    except BindError:
        close(sockets)
        raise
    if not sockets:
        raise BindError("address", address, "an address of this machine")
    return sockets


def require_free(address: str, port: int, patience: float = PROBE_TIME) -> None:
    """Raise BindError when somebody listens on ``port``, trying again for ``patience`` seconds.

    Without this, another process that also uses SO_REUSEPORT would silently get a part of our connections.
    """
    deadline = time.monotonic() + patience
    for place in places(address):
        while True:
            try:
                close(filter(None, [_bound(place, port, shared=False)]))
                break
            except BindError as error:
                if error.key != "port" or time.monotonic() > deadline:
                    raise
                time.sleep(0.05)


def listen(sockets: Iterable[socket.socket], backlog: int) -> None:
    """Begin to listen; harmless on a socket that already does. OSError when somebody else took the port meanwhile."""
    for sock in sockets:
        sock.listen(backlog)


def close(sockets: Iterable[socket.socket]) -> None:
    """Close all of ``sockets``."""
    for sock in sockets:
        sock.close()


def _bound(place: Place, port: int, *, shared: bool) -> socket.socket | None:
    try:
        sock = socket.socket(place.family, socket.SOCK_STREAM)
    except OSError as error:
        if place.optional and error.errno in _NO_IPV6:
            return None
        raise _blame(place.host, port, error) from error
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if place.family == socket.AF_INET6:
            # IPv4 has a socket of its own; one that takes both shows IPv4 peers as ::ffff:a.b.c.d.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((place.host, port))
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        if place.optional and error.errno in _NO_IPV6:
            return None
        raise _blame(place.host, port, error) from error
    return sock


def _blame(host: str, port: int, error: OSError) -> BindError:
    """The key at fault and what would be right, for an error of bind()."""
    if error.errno == errno.EADDRINUSE:
        return BindError("port", f"{port} (in use)", "a free port")
    if error.errno in (errno.EACCES, errno.EPERM):
        return BindError("port", f"{port} ({error.strerror})", "a port that this user may bind")
    return BindError("address", f"{host} ({error.strerror})", "an address of this machine")
