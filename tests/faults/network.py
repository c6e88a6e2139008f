"""Real loss between clients and a server: a network of its own for clients, joined to ours by a cable.

``with Network() as network:`` makes a network namespace with one cable (a veth pair). The server must listen on
``network.address`` (or on all addresses: ``{"server": {"address": "0.0.0.0"}}``); a client is in that network when its
socket was made there (:meth:`Network.socket`, :meth:`Network.entered`) or its process was started there
(:meth:`Network.command`). Everything is gone with the test's process, whatever ends it. It takes root's rights:
:func:`permitted`.

Packets are dropped, not held back: what TCP does then is the kernel's own. After a black hole it tries again after up
to as long as the hole lasted.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import random
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from tests.waiting import eventually_now

Way = Literal["up", "down", "both"]
"""``up`` from clients to the server, ``down`` to them."""

NEW_NETWORK = 0x40000000
"""CLONE_NEWNET of setns(2)."""

LOSS = "4,32 0 0 4294963256,53 0 1 {threshold},6 0 0 0,6 0 0 2"
"""A packet filter: load a random number; at or above the threshold pass (TC_ACT_OK), else drop (TC_ACT_SHOT)."""


class Network:
    """See the head of this module."""

    def __init__(self) -> None:
        number = random.SystemRandom().randrange(1 << 14)
        self._net = f"10.213.{number >> 6}.{(number & 63) * 4}"
        self._near = f"rtf{number:x}n"
        self._far = f"rtf{number:x}f"
        self._holder: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        # The namespace lives as long as somebody is in it, and the cable as long as the namespace.
        self._holder = subprocess.Popen(["unshare", "--net", "cat"], stdin=subprocess.PIPE)
        try:
            ours = os.readlink("/proc/self/ns/net")
            eventually_now(lambda: os.readlink(f"/proc/{self._pid}/ns/net") != ours, what="a network namespace")
            _run("ip", "link", "add", self._near, "type", "veth", "peer", self._far, "netns", str(self._pid))
            _run("ip", "address", "add", f"{self.address}/30", "dev", self._near)
            _run("ip", "link", "set", self._near, "up")
            for words in (
                ("address", "add", f"{self.client_address}/30", "dev", self._far),
                ("link", "set", self._far, "up"),
                ("link", "set", "lo", "up"),
            ):
                _run(*self.command("ip", *words))
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._holder is not None and self._holder.stdin is not None
        subprocess.run(["ip", "link", "delete", self._near], check=False, stderr=subprocess.DEVNULL)
        self._holder.stdin.close()
        self._holder.kill()
        self._holder.wait()

    @property
    def _pid(self) -> int:
        assert self._holder is not None
        return self._holder.pid

    # Where is what

    @property
    def address(self) -> str:
        """Of the server."""
        return f"{self._net[: self._net.rindex('.')]}.{int(self._net.rpartition('.')[2]) + 1}"

    @property
    def client_address(self) -> str:
        """Of the clients."""
        return f"{self._net[: self._net.rindex('.')]}.{int(self._net.rpartition('.')[2]) + 2}"

    def command(self, *words: str) -> list[str]:
        """A command that runs in the clients' network."""
        return ["nsenter", f"--net=/proc/{self._pid}/ns/net", "--", *words]

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Sockets that this thread makes are in the clients' network, and stay there. Nothing may be awaited within."""
        libc = ctypes.CDLL(None, use_errno=True)
        with Path("/proc/thread-self/ns/net").open() as ours, Path(f"/proc/{self._pid}/ns/net").open() as theirs:
            _enter(libc, theirs.fileno())
            try:
                yield
            finally:
                _enter(libc, ours.fileno())

    def socket(self) -> socket.socket:
        """A TCP socket of the clients' network, not yet connected."""
        with self.entered():
            return socket.socket(socket.AF_INET, socket.SOCK_STREAM)

    # Faults

    @contextlib.contextmanager
    def black_hole(self, way: Way = "both") -> Iterator[None]:
        """Every packet vanishes, and nobody is told."""
        with self._queue(way, "pfifo", "limit", "0"):
            yield

    @contextlib.contextmanager
    def narrow(self, rate: int, way: Way = "both") -> Iterator[None]:
        """At most ``rate`` bytes per second. Half a second's worth, or 64 KiB, waits in a queue; the rest vanishes."""
        burst, limit = str(max(rate // 20, 2000)), str(max(rate // 2, 65536))
        with self._queue(way, "tbf", "rate", f"{rate}bps", "burst", burst, "limit", limit):
            yield

    @contextlib.contextmanager
    def loss(self, part: float, way: Way = "both") -> Iterator[None]:
        """Each packet vanishes with this probability."""
        threshold = min(int(part * (1 << 32)), (1 << 32) - 1)
        _run("tc", "qdisc", "add", "dev", self._near, "clsact")
        try:
            for side in {"up": ["ingress"], "down": ["egress"], "both": ["ingress", "egress"]}[way]:
                program = LOSS.format(threshold=threshold)
                _run("tc", "filter", "add", "dev", self._near, side, "bpf", "direct-action", "bytecode", program)
            yield
        finally:
            _run("tc", "qdisc", "delete", "dev", self._near, "clsact")

    @contextlib.contextmanager
    def unplugged(self) -> Iterator[None]:
        """The clients' end of the cable is out: they are told at once, the server is not."""
        _run(*self.command("ip", "link", "set", self._far, "down"))
        try:
            yield
        finally:
            _run(*self.command("ip", "link", "set", self._far, "up"))

    @contextlib.contextmanager
    def _queue(self, way: Way, *queue: str) -> Iterator[None]:
        ends = [["tc"], self.command("tc")]
        meant = [
            (end, device)
            for end, device, name in zip(ends, (self._near, self._far), ("down", "up"), strict=True)
            if way in (name, "both")
        ]
        with contextlib.ExitStack() as stack:
            for end, device in meant:
                _run(*end, "qdisc", "add", "dev", device, "root", *queue)
                stack.callback(_run, *end, "qdisc", "delete", "dev", device, "root")
            yield


@functools.cache
def permitted() -> bool:
    """Whether a network can be made here, with all its faults."""
    if not all(map(shutil.which, ("ip", "tc", "unshare", "nsenter"))):
        return False
    try:
        with Network() as network, network.black_hole(), network.loss(0.5):
            pass
        with Network() as network, network.narrow(1_000_000):
            return True
    except (subprocess.CalledProcessError, AssertionError, OSError):
        return False


def _enter(libc: ctypes.CDLL, descriptor: int) -> None:
    if libc.setns(descriptor, NEW_NETWORK):
        raise OSError(ctypes.get_errno(), "setns")


def _run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)
