"""rt.broker.message."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rt.broker import message
from rt.broker.message import Answer

KEY = b"0123456789abcdef"


@pytest.mark.parametrize("body", [b"{}", b"1", b'"a:b"', b'{"a":{"b":[1,null]}}'])
def test_a_message_comes_out_as_it_went_in(body: bytes) -> None:
    """Byte for byte; the sender's name may hold anything."""
    said = message.decode(message.encode(KEY, 'w:"0{}\n', body))
    assert said is not None
    assert (said.id, said.sender, bytes(said.body)) == (KEY.decode(), 'w:"0{}\n', body)


def test_it_is_one_object_on_one_line() -> None:
    """As the bus wants it."""
    encoded = message.encode(KEY, "a\nb", b"{}")
    assert encoded[:1] == b"{" and encoded[-1:] == b"}" and b"\n" not in encoded


def test_unknown_fields_are_ignored() -> None:
    """A later release may send more."""
    said = message.decode(b'{"v":1,"id":"%s","from":"w","new":[1],"body":{}}' % KEY)
    assert said is not None and bytes(said.body) == b"{}"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[]",
        b'{"v":2,"id":"0123456789abcdef","from":"w","body":{}}',
        b'{"v":1,"id":"0123456789abcde","from":"w","body":{}}',
        b'{"v":1,"id":"0123456789ABCDEF","from":"w","body":{}}',
        b'{"v":1,"id":"0123456789abcdef\\n","from":"w","body":{}}',
        b'{"v":1,"id":"0123456789abcdef","from":"","body":{}}',
        b'{"v":1,"id":"0123456789abcdef","from":"w"}',
        b'{"v":1,"id":"0123456789abcdef","from":"w","body":}',
        b'{"v":1,"id":"0123456789abcdef","from":"w","body":{"a":tru}}',
        b"[" * 100_000,
        message.encode(KEY, "w", b'"' + b"x" * (message.MAX_BODY + 5000) + b'"'),
    ],
)
def test_what_is_no_message_is_nothing(body: bytes) -> None:
    """And no error."""
    assert message.decode(body) is None


def test_an_answer_is_read() -> None:
    """Its body may be anything, empty, or none at all."""
    for body in (b"a:\n\x00", b"", None):
        said = Answer(KEY, b"fedcba9876543210", body)
        assert message.decode_answer(message.encode_answer(said)) == said


@pytest.mark.parametrize(
    "payload", [b"", b"1a:", b"2a:0123456789abcdef:fedcba9876543210:", b"1a:0123456789abcdeg:fedcba9876543210:"]
)
def test_what_is_no_answer_is_nothing(payload: bytes) -> None:
    """Other versions included."""
    assert message.decode_answer(payload) is None


def test_an_answer_has_a_bound() -> None:
    """The same for who sends and who reads."""
    said = Answer(KEY, b"fedcba9876543210", b"x" * message.MAX_ANSWER)
    encoded = message.encode_answer(said)
    assert message.decode_answer(encoded) == said
    assert message.decode_answer(encoded + b"x") is None
    too_large = said._replace(body=b"x" * (message.MAX_ANSWER + 1))
    assert message.decode_answer(message.encode_answer(too_large)) == said._replace(body=None)


@given(st.binary(max_size=80))
def test_no_bytes_raise_in_a_message(payload: bytes) -> None:
    """Whatever somebody puts on the bus."""
    message.decode(payload)
    message.decode(b'{"v":1,"id":"0123456789abcdef","from":"w","body":' + payload + b"}")
    message.decode_answer(payload)
    message.decode_answer(b"1a:0123456789abcdef:" + payload)
