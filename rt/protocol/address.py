"""Who a request comes from: the address of the peer, or the one that a trusted proxy names.

A proxy writes the address of *its* peer behind whatever stood in the header before. So the list is read from its end:
as long as who wrote an entry is trusted, the entry is believed; the first address that is not a trusted proxy's is the
client. Everything to the left of it may be the client's own invention, and is not looked at. What makes no sense ends
the walk at the proxy that wrote it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Sequence
from functools import lru_cache

HOPS = 32
"""Entries that are looked at; proxies that stand in a longer row than this are one client."""

LONGEST = 64
"""Characters of an entry that may be an address: what is longer is none, and not remembered."""

# RFC 7239 section 6: an address, the brackets and the port of which belong to the quoted form.
_NODE = re.compile(r"(?:\[([0-9A-Fa-f:.]{2,45})\]|([0-9.]{7,15}))(?::[0-9]{1,5})?", re.ASCII)

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Proxies:
    """Whom to believe: the ``networks`` (CIDR) of trusted proxies, and the ``header`` in which they write for whom they
    speak, ``X-Forwarded-For`` or ``Forwarded``. ValueError for what is no network."""

    __slots__ = ("_entries", "_networks", "header")

    def __init__(self, networks: Sequence[str], header: str) -> None:
        self._networks = tuple(ipaddress.ip_network(network) for network in networks)
        self._entries = _forwarded if header == "Forwarded" else _listed
        self.header = header

    @property
    def any(self) -> bool:
        """Whether there is a proxy to believe."""
        return bool(self._networks)

    def client(self, peer: str, header: str | None) -> str:
        """The address that a request comes from, in its usual form. ``peer`` is the other end of its connection,
        ``header`` what stands in the header, several fields joined by commas."""
        if not self._networks:
            return _usual(peer)
        here = _parsed(peer)
        if here is None:
            return peer
        if header and self._trusted(here):
            for entry in reversed(header.split(",")[-HOPS:]):
                found = self._entries(entry)
                if found is None:
                    break
                here = found
                if not self._trusted(here):
                    break
        return _text(here)

    def _trusted(self, address: _Address) -> bool:
        return any(address in network for network in self._networks)


@lru_cache(maxsize=4096)
def subject(address: str, ipv6_prefix: int) -> str:
    """What counts as one address: an IPv4 address, or the network of ``ipv6_prefix`` bits that an IPv6 address is in:
    whoever has one of these has all of them.

    >>> subject("2001:db8:1:2:3::4", 64), subject("::ffff:192.0.2.1", 64)
    ('2001:db8:1:2::/64', '192.0.2.1')
    """
    found = _parsed(address)
    if not isinstance(found, ipaddress.IPv6Address):
        return address if found is None else str(found)
    return str(ipaddress.ip_network((int(found) >> (128 - ipv6_prefix) << (128 - ipv6_prefix), ipv6_prefix)))


def within(range: str) -> Callable[[str], bool]:
    """What says whether an address in its usual form is the address ``range``, or in that range (CIDR). ValueError for
    what is neither.

    >>> within("10.0.0.0/8")("10.1.2.3"), within("::ffff:192.0.2.1")("192.0.2.1"), within("10.0.0.0/8")("")
    (True, True, False)
    """
    if (one := _parsed(range)) is not None:
        return _text(one).__eq__
    network = ipaddress.ip_network(range, strict=False)

    def fits(text: str) -> bool:
        address = _parsed(text)
        return address is not None and address in network

    return fits


@lru_cache(maxsize=4096)
def _parsed(text: str) -> _Address | None:
    """An address without its zone; an IPv4 address that was written as an IPv6 one is what it is."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


@lru_cache(maxsize=4096)
def _usual(peer: str) -> str:
    """The usual form of an address; what is none stays as it is."""
    here = _parsed(peer)
    return peer if here is None else _text(here)


@lru_cache(maxsize=4096)
def _text(address: _Address) -> str:
    """Its usual form; one text for all who come from there."""
    return str(address)


def _listed(entry: str) -> _Address | None:
    """An entry of ``X-Forwarded-For``: an address, with a port here and there."""
    text = entry.strip(" \t")
    return None if len(text) > LONGEST else _parsed(text) or _node(text)


def _forwarded(entry: str) -> _Address | None:
    """An entry of ``Forwarded`` (RFC 7239): pairs joined by semicolons, of which ``for`` counts.

    A comma within quotes would end the entry too early, but no address has one; what is cut in two makes no sense.
    """
    values = [value for name, _, value in (pair.partition("=") for pair in entry.split(";")) if _is_for(name)]
    if len(values) != 1:
        return None
    value = values[0].strip(" \t")
    if value.startswith('"') and value.endswith('"') and len(value) > 1:
        value = value[1:-1]
    return _node(value)


def _is_for(name: str) -> bool:
    return name.strip(" \t").lower() == "for"


def _node(text: str) -> _Address | None:
    match = _NODE.fullmatch(text)
    return None if match is None else _parsed(match[1] or match[2])
