"""Where sockets are bound, and what is said when they cannot be."""

from __future__ import annotations

import socket

import pytest

from rt.supervisor import listeners
from rt.supervisor.listeners import BindError
from tests.servers import free_port


@pytest.mark.parametrize(
    ("address", "hosts"),
    [
        ("localhost", ["127.0.0.1", "::1"]),
        ("", ["0.0.0.0", "::"]),
        ("::", ["0.0.0.0", "::"]),
        ("0.0.0.0", ["0.0.0.0"]),
        ("127.0.0.1", ["127.0.0.1"]),
        ("::1", ["::1"]),
    ],
)
def test_places(address: str, hosts: list[str]) -> None:
    """localhost and the empty address are both families, everything else is what it says."""
    assert [place.host for place in listeners.places(address)] == hosts


def test_sockets_share_a_port_and_do_not_listen_yet() -> None:
    """Two lots on one port; connections are refused until somebody listens."""
    port = free_port()
    first, second = listeners.bind("127.0.0.1", port), listeners.bind("127.0.0.1", port)
    try:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=5)
        listeners.listen(first, 10)
        listeners.listen(first, 20)
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
        assert second[0].getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 0
    finally:
        listeners.close([*first, *second])


def test_a_port_that_another_shares_is_not_free() -> None:
    """A listener with SO_REUSEPORT is noticed too, although binding beside it would succeed."""
    port = free_port()
    others = listeners.bind("127.0.0.1", port)
    try:
        listeners.listen(others, 10)
        for address in ("127.0.0.1", "0.0.0.0", "localhost", ""):
            with pytest.raises(BindError) as caught:
                listeners.require_free(address, port, patience=0.0)
            assert (caught.value.key, caught.value.found) == ("port", f"{port} (in use)")
    finally:
        listeners.close(others)
    listeners.require_free("127.0.0.1", port, patience=0.0)


def test_connections_of_a_predecessor_do_not_take_the_port() -> None:
    """What is left of a server that has just ended, established or waiting, is no listener."""
    port = free_port()
    old = listeners.bind("127.0.0.1", port)
    listeners.listen(old, 10)
    with socket.create_connection(("127.0.0.1", port), timeout=5):
        old[0].setblocking(True)
        accepted, _ = old[0].accept()
        listeners.close(old)
        with accepted:
            listeners.require_free("127.0.0.1", port, patience=0.0)
            listeners.close(listeners.bind("127.0.0.1", port))


def test_an_address_that_is_not_ours_is_to_blame() -> None:
    """The mistake is at the address, not at the port."""
    for address in ("192.0.2.1", "no-such-host.invalid"):
        with pytest.raises(BindError) as caught:
            listeners.bind(address, free_port())
        assert caught.value.key == "address"
