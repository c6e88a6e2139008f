"""The head of a request: what becomes of one that is good. (What is refused is in test_smuggling.py.)"""

from __future__ import annotations

from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tornado.httputil import HTTPHeaders

from rt.web.heads import CHUNKED, KNOWN, KNOWN_SIZE, Head, Headers, Heads, Malformed, end_of

HOST = b"Host: a\r\n"


def head(line: bytes = b"GET / HTTP/1.1", fields: bytes = HOST) -> Head:
    """A head with these lines."""
    return Head(line + b"\r\n" + fields + b"\r\n")


def test_a_request_line() -> None:
    """Method, target and version, as they were sent."""
    assert head(b"GET /a?b=%20 HTTP/1.1").start == ("GET", "/a?b=%20", "HTTP/1.1")
    assert head(b"OPTIONS * HTTP/1.0", b"").start == ("OPTIONS", "*", "HTTP/1.0")


def test_headers_are_those_that_tornado_reads() -> None:
    """The same names, values and order, by the same methods."""
    sent = "Host: a\r\nx-api-KEY: \tk\xe9y \r\nAccept: b\r\nAccept:c\r\nX-Empty:\r\n"
    ours, theirs = head(fields=sent.encode("latin-1")).headers, HTTPHeaders.parse(sent)
    assert list(ours.get_all()) == list(theirs.get_all())
    assert dict(ours) == dict(theirs) and str(ours) == str(theirs) and len(ours) == len(theirs)
    assert ours == theirs and ours.copy() == theirs
    for name in ("HOST", "accept", "X-Empty", "x-api-key", "nothing"):
        assert ours.get_list(name) == theirs.get_list(name)
        assert ours.get(name) == theirs.get(name) and ours.get(name, "z") == theirs.get(name, "z")
        assert (name in ours) is (name in theirs)


def test_headers_can_be_changed() -> None:
    """As Tornado's own code does it."""
    headers = Headers()
    headers.add("A-B", "1")
    headers.add("a-b", "2")
    assert headers["A-b"] == "1,2"
    headers["a-B"] = "3"
    assert headers.get_list("A-B") == ["3"]
    del headers["A-B"]
    assert not headers and cast("Any", 1) not in headers
    with pytest.raises(KeyError):
        headers["a-b"]


@pytest.mark.parametrize(
    ("fields", "length"),
    [
        (HOST, 0),
        (HOST + b"Content-Length: 0\r\n", 0),
        (HOST + b"Content-Length: 007\r\n", 7),
        (HOST + b"Transfer-Encoding: CHUNKED\r\n", CHUNKED),
    ],
)
def test_how_long_the_body_is(fields: bytes, length: int) -> None:
    """As one header says, or none."""
    assert head(b"POST / HTTP/1.1", fields).length == length


@pytest.mark.parametrize(
    ("version", "connection", "keeps"),
    [
        (b"1.1", b"", True),
        (b"1.1", b"Connection: close\r\n", False),
        (b"1.1", b"Connection: x, Close\r\n", False),
        (b"1.1", b"Connection: x\r\nConnection: close\r\n", False),
        (b"1.0", b"", False),
        (b"1.0", b"Connection: Keep-Alive\r\n", True),
        (b"1.0", b"Connection: keep-alive, close\r\n", False),
    ],
)
def test_whether_the_connection_goes_on(version: bytes, connection: bytes, keeps: bool) -> None:
    """What the peer says, and what its version means where it says nothing."""
    assert head(b"GET / HTTP/" + version, HOST + connection).keeps is keeps


@pytest.mark.parametrize(
    ("version", "fields", "asks"),
    [
        (b"1.1", b"Expect: 100-Continue\r\nContent-Length: 2\r\n", True),
        (b"1.1", b"Expect: 100-continue\r\n", False),
        (b"1.0", b"Expect: 100-continue\r\nContent-Length: 2\r\n", False),
        (b"1.1", b"Expect: wonders\r\nContent-Length: 2\r\n", False),
    ],
)
def test_whether_it_waits_to_be_asked_for_the_body(version: bytes, fields: bytes, asks: bool) -> None:
    """Only where there is a body to come."""
    assert head(b"POST / HTTP/" + version, HOST + fields).asks is asks


@given(st.binary(max_size=80))
def test_any_bytes(data: bytes) -> None:
    """They are a head, or no whole one yet, or malformed; nothing else happens."""
    try:
        end = end_of(data)
        if end:
            Head(data[:end])
    except Malformed:
        pass


@given(st.integers(0, 60))
def test_a_part_of_a_good_head_is_waited_for(cut: int) -> None:
    """Wherever it was cut."""
    data = b"\r\nPOST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"
    assert end_of(data[:cut]) == (len(data) if cut >= len(data) else 0)


def test_a_head_that_comes_again_is_known() -> None:
    """The same bytes are the same head, any other are not."""
    heads = Heads()
    first = heads.read(b"POST /api/publish HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n")
    assert heads.read(b"POST /api/publish HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n") is first
    other = heads.read(b"POST /api/publish HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n")
    assert (first.length, other.length) == (3, 4)
    for _ in range(2):
        with pytest.raises(Malformed):
            heads.read(b"POST /api/publish HTTP/1.1\r\nContent-Length: 3\r\n\r\n")


def test_few_heads_are_known_and_small_ones() -> None:
    """Whoever sends many different ones, or large ones, takes no memory by it."""
    heads = Heads()
    large = b"GET / HTTP/1.1\r\nHost: a\r\nA: %b\r\n\r\n" % (b"x" * KNOWN_SIZE)
    assert heads.read(large) is not heads.read(large)
    for number in range(3 * KNOWN):
        heads.read(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % number)
    assert len(heads._known) <= KNOWN
