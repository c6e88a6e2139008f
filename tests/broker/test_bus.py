"""rt.broker.bus."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rt.broker import bus
from rt.protocol.publication import Change


def test_a_stored_publication_is_read() -> None:
    """Epoch, offset, time and body come out as the script wrote them, colons in the body too."""
    read = bus.publication(b'1p:abcDEF12:17:1700000000000000:{"data":"a:b"}')
    assert read is not None
    assert (read.epoch, read.offset, read.time, read.body) == ("abcDEF12", 17, 1_700_000_000_000_000, b'{"data":"a:b"}')


def test_a_publication_without_history_is_read() -> None:
    """It has no position."""
    read = bus.publication(b'1p::0:5:{"data":1}')
    assert read is not None
    assert (read.epoch, read.offset, read.time, read.body) == ("", 0, 5, b'{"data":1}')


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"1",
        b"hello",
        b"\x80\x04\x95pickle",
        b"2p:e:1:1:{}",  # another version
        b"1x:e:1:1:{}",  # another kind
        b"1r:e:1:1:",  # no publication
        b"1p:e:1:{}",
        b"1p:e:0:1:{}",  # a stored one counts from 1
        b"1p::1:1:{}",
        b"1p:e:01:1:{}",
        b"1p:e:-1:1:{}",
        b"1p:e:+1:1:{}",
        b"1p:e:1_0:1:{}",
        "1p:e:\u0661:1:{}".encode(),
        b"1p:e:99999999999999999999:1:{}",
        b"1p:e e:1:1:{}",
        b"1p:" + b"e" * 33 + b":1:1:{}",
        b"1p:e:1:1:",
        b"1p:e:1:1:[]",
        b"1p:e:1:1:{",
        b'1p:e:1:1:{"a":\n1}',  # would cut a newline-joined frame
        b"1p:e:1:1:{" + b" " * bus.MAX_BODY + b"}",
    ],
)
def test_what_the_scripts_do_not_write_is_nothing(payload: bytes) -> None:
    """Neither an error nor a publication."""
    assert bus.publication(payload) is None


@given(st.binary(max_size=80))
def test_no_bytes_raise(payload: bytes) -> None:
    """Whatever somebody puts on the bus."""
    bus.publication(payload)
    bus.publication(b"1p:" + payload)
    bus.is_removal(payload)
    bus.change(payload)
    bus.change(b"1j:" + payload)


@pytest.mark.parametrize(("payload", "expected"), [(b"1r:abc:4:99:", True), (b"1r:::", False), (b"1p:abc:4:9:", False)])
def test_a_removal_is_told_from_a_publication(payload: bytes, expected: bool) -> None:
    """By its kind and shape."""
    assert bus.is_removal(payload) is expected


@pytest.mark.parametrize("change", [Change("join", b'{"client":"a:b"}'), Change("leave", b"{}")])
def test_a_change_is_read_as_it_was_written(change: Change) -> None:
    """By workers and scripts alike."""
    assert bus.change(bus.encoded(change, 1_700_000_000_000_000)) == change
    assert bus.publication(bus.encoded(change, 5)) is None


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"1p::0:5:{}",
        b"1j::0:5:",
        b"1j::0:5:[]",
        b"1j::0:5:{",
        b"1j:e:0:5:{}",
        b"1j::1:5:{}",
        b"1j::0:x:{}",
        b"1k::0:5:{}",
        b"2j::0:5:{}",
        b'1j::0:5:{"a":\n1}',
        b"1l::0:5:{" + b" " * bus.MAX_INFO + b"}",
    ],
)
def test_what_says_of_nobody_that_they_came_or_left_is_nothing(payload: bytes) -> None:
    """Neither an error nor a change."""
    assert bus.change(payload) is None


def test_the_first_session_is_told() -> None:
    """By exactly one message."""
    assert bus.is_first_session(b"1s::0:0:")
    assert not bus.is_first_session(b"1s::0:0:x") and not bus.is_first_session(b"")
