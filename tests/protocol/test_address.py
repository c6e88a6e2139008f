"""Whose address counts: the peer's, or whom a trusted proxy names. Forged headers change nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rt.protocol.address import HOPS, Proxies, _parsed, subject

TRUSTED = ("10.0.0.0/8", "127.0.0.1/32", "2001:db8:ffff::/48")
LISTED, FORWARDED = Proxies(TRUSTED, "X-Forwarded-For"), Proxies(TRUSTED, "Forwarded")

WALKS = [
    ("192.0.2.9", "1.2.3.4", "192.0.2.9"),  # the peer is nobody's proxy: forged
    ("10.0.0.1", None, "10.0.0.1"),
    ("10.0.0.1", "", "10.0.0.1"),
    ("10.0.0.1", "1.2.3.4", "1.2.3.4"),
    ("10.0.0.1", "6.6.6.6, 1.2.3.4", "1.2.3.4"),  # what the client wrote stands to the left
    ("10.0.0.1", "10.9.9.9, 1.2.3.4", "1.2.3.4"),
    ("10.0.0.1", "1.2.3.4, 10.0.0.2", "1.2.3.4"),  # two proxies
    ("10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3"),  # all of them trusted: somebody inside
    ("10.0.0.1", "1.2.3.4,", "10.0.0.1"),
    ("10.0.0.1", "1.2.3.4, unknown", "10.0.0.1"),
    ("10.0.0.1", "1.2.3.4, rubbish, 10.0.0.2", "10.0.0.2"),
    ("10.0.0.1", "1.2.3.4:5678", "1.2.3.4"),
    ("10.0.0.1", "[2001:db8::1]:5678", "2001:db8::1"),
    ("10.0.0.1", "2001:DB8:0::1", "2001:db8::1"),
    ("10.0.0.1", "::ffff:1.2.3.4", "1.2.3.4"),
    ("::ffff:10.0.0.1", "1.2.3.4", "1.2.3.4"),
    ("2001:db8:ffff::5", "1.2.3.4", "1.2.3.4"),
    ("fe80::1%eth0", "1.2.3.4", "fe80::1"),
    ("10.0.0.1", "999.1.1.1", "10.0.0.1"),
    ("10.0.0.1", "1.2.3.4" * 1000, "10.0.0.1"),
    ("", "1.2.3.4", ""),
]


@pytest.mark.parametrize(("peer", "header", "expected"), WALKS)
def test_the_list_is_read_from_its_end(peer: str, header: str | None, expected: str) -> None:
    """As long as who wrote an entry is trusted; what makes no sense ends the walk where it is."""
    assert LISTED.client(peer, header) == expected


ENTRIES = [
    ("for=1.2.3.4", "1.2.3.4"),
    ("for=1.2.3.4;proto=https;by=10.0.0.1", "1.2.3.4"),
    ("For=1.2.3.4, for=10.0.0.2", "1.2.3.4"),
    ('for="1.2.3.4:5678"', "1.2.3.4"),
    ('by=x;for="[2001:db8::1]"', "2001:db8::1"),
    ('for="[2001:db8::1]:5678"', "2001:db8::1"),
    ("for=unknown", "10.0.0.1"),
    ("for=_secret", "10.0.0.1"),
    ("proto=https", "10.0.0.1"),
    ("for=1.2.3.4;for=5.6.7.8", "10.0.0.1"),
    ('for="6.6.6.6, for=1.2.3.4', "1.2.3.4"),  # a quote that the client opened swallows nothing
    ('for="6.6.6.6, for="[2001:db8::1]"', "2001:db8::1"),
    ("1.2.3.4", "10.0.0.1"),
]


@pytest.mark.parametrize(("header", "expected"), ENTRIES)
def test_the_standard_header_is_understood(header: str, expected: str) -> None:
    """RFC 7239, as proxies write it and as clients would forge it."""
    assert FORWARDED.client("10.0.0.1", header) == expected


def test_a_row_of_proxies_has_an_end() -> None:
    """A header of thousands of entries costs no more than a few."""
    header = "1.2.3.4, " + ", ".join(["10.0.0.2"] * (HOPS + 100))
    assert LISTED.client("10.0.0.1", header) == "10.0.0.2"


def test_what_is_too_long_for_an_address_is_not_remembered() -> None:
    """Of four thousand heads full of one entry nothing is kept."""
    before = _parsed.cache_info().currsize
    assert LISTED.client("10.0.0.1", "1" * 15_000) == "10.0.0.1"
    assert LISTED.client("10.0.0.1", "1.2.3.4%" + "1" * 15_000) == "10.0.0.1"
    assert _parsed.cache_info().currsize <= before + 1


def test_without_trusted_proxies_nothing_counts() -> None:
    """Whatever it says."""
    nobody = Proxies((), "X-Forwarded-For")
    assert not nobody.any and nobody.client("10.0.0.1", "1.2.3.4") == "10.0.0.1"


@given(st.ip_addresses().map(str), st.text(max_size=200))
def test_a_peer_that_is_not_trusted_is_the_client(peer: str, header: str) -> None:
    """F59: no header of its own changes that."""
    stranger = Proxies(("192.0.2.0/24",), "X-Forwarded-For")
    for proxies in (stranger, Proxies(("192.0.2.0/24",), "Forwarded")):
        if not peer.startswith("192.0.2."):
            assert proxies.client(peer, header) == proxies.client(peer, None)


@given(st.text(max_size=300), st.text(max_size=300))
def test_the_left_of_the_list_changes_nothing(forged: str, other: str) -> None:
    """What a trusted proxy wrote is behind whatever the client sent."""
    for proxies, entry in ((LISTED, "1.2.3.4"), (FORWARDED, "for=1.2.3.4")):
        assert {proxies.client("10.0.0.1", f"{text}, {entry}") for text in (forged, other)} == {"1.2.3.4"}


def test_who_has_one_address_of_a_network_has_all_of_them() -> None:
    """IPv6 by its prefix, IPv4 one by one; what is no address is itself."""
    assert subject("2001:db8:1:2:aaaa::1", 64) == subject("2001:db8:1:2:bbbb::2", 64) == "2001:db8:1:2::/64"
    assert subject("2001:db8:1:2::1", 48) == "2001:db8:1::/48"
    assert subject("2001:db8::1", 128) == "2001:db8::1/128"
    assert subject("1.2.3.4", 64) == subject("::ffff:1.2.3.4", 64) == "1.2.3.4"
    assert subject("1.2.3.5", 64) != subject("1.2.3.4", 64)
    assert subject("", 64) == "" and subject("unix", 64) == "unix"
