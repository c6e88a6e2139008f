"""tests.faults.network: each fault of the cable does what it says. Skipped where no network can be made."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Literal

import pytest

from tests.faults.network import Network
from tests.waiting import eventually_now

pytestmark = pytest.mark.needs("network namespaces")


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    """One for all tests here."""
    with Network() as made:
        yield made


@contextlib.contextmanager
def connected(network: Network) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of a connection through the cable: a client's, the server's."""
    with socket.create_server((network.address, 0)) as listener, network.socket() as client:
        client.settimeout(10.0)
        client.connect(listener.getsockname())
        there, peer = listener.accept()
        with there:
            there.settimeout(10.0)
            assert peer[0] == network.client_address
            yield client, there


def nothing_comes(end: socket.socket) -> None:
    """For a moment."""
    end.settimeout(0.2)
    with pytest.raises(TimeoutError):
        end.recv(1)
    end.settimeout(10.0)


def pings(network: Network, count: int) -> int:
    """Of so many datagrams that a client sends, how many come."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as there, network.entered():
        there.bind((network.address, 0))
        there.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        there.setblocking(False)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            for _ in range(count):
                client.sendto(b"x", there.getsockname())
        heard = 0
        with contextlib.suppress(BlockingIOError):
            while there.recv(10):
                heard += 1
        return heard


def test_a_network(network: Network) -> None:
    """Sockets made in it, and processes; this thread comes back."""
    ours = os.readlink("/proc/self/ns/net")
    with connected(network) as (client, there):
        client.sendall(b"hello")
        assert there.recv(10) == b"hello"
    with network.entered():
        assert os.readlink("/proc/thread-self/ns/net") != ours
    assert os.readlink("/proc/thread-self/ns/net") == ours
    words = network.command(sys.executable, "-c", "import os; print(os.readlink('/proc/self/ns/net'))")
    assert subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip() not in ("", ours)


@pytest.mark.parametrize("way", ["up", "down", "both"])
def test_black_hole(network: Network, way: Literal["up", "down", "both"]) -> None:
    """Nothing comes that way, nobody is told, and afterwards the kernel tries again."""
    with connected(network) as (client, there):
        with network.black_hole(way):
            there.sendall(b"down")
            client.sendall(b"up")
            if way in ("up", "both"):
                nothing_comes(there)
            if way in ("down", "both"):
                nothing_comes(client)
        assert (there.recv(10), client.recv(10)) == (b"up", b"down")


def test_a_connection_that_ends_in_a_black_hole(network: Network) -> None:
    """The other side does not hear of it."""
    with connected(network) as (client, there), network.black_hole("up"):
        client.close()
        nothing_comes(there)


def test_loss(network: Network) -> None:
    """Of many packets about that part, both ways or one; TCP gets all through."""
    with network.loss(0.3, "up"):
        assert 500 <= pings(network, 1000) <= 900
    with network.loss(0.3, "down"):
        assert pings(network, 1000) == 1000
    with connected(network) as (client, there), network.loss(0.05):
        data = os.urandom(200_000)
        client.sendall(data)
        got = b""
        while len(got) < len(data):
            got += there.recv(65536)
        assert got == data
    assert pings(network, 1000) == 1000


def test_narrow(network: Network) -> None:
    """So many bytes per second."""
    with connected(network) as (client, there), network.narrow(400_000, "up"):
        began = time.monotonic()
        client.sendall(b"x" * 100_000)  # less than the kernel takes for a peer who does not read yet
        got = 0
        while got < 100_000:
            got += len(there.recv(65536))
        assert time.monotonic() - began >= 0.15


def test_unplugged(network: Network) -> None:
    """A client that wants to connect is told at once; the server hears nothing."""
    with connected(network) as (client, there):
        with network.unplugged():
            with network.socket() as late, pytest.raises(OSError) as told:
                late.connect((network.address, 1))
            assert told.value.errno == errno.ENETUNREACH
            nothing_comes(there)
        client.sendall(b"x")
        assert there.recv(1) == b"x"


PARENT = """
import sys
from tests.faults.network import Network
with Network() as network:
    print(network._near, flush=True)
    sys.stdin.read()
"""


def test_it_is_gone_with_its_parent() -> None:
    """Even when that is killed."""
    words = [sys.executable, "-c", PARENT]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        name = parent.stdout.readline().strip()
        assert name in [each[1] for each in socket.if_nameindex()]
        parent.kill()
        eventually_now(lambda: name not in [each[1] for each in socket.if_nameindex()])
