"""Messages between workers."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rt.protocol import control
from rt.protocol.control import (
    DisconnectUser,
    ListChannels,
    Message,
    RefreshUser,
    ShowChannel,
    ShowConnections,
    SubscribeUser,
    Target,
    UnsubscribeUser,
)
from rt.protocol.options import Flag, Override, Terms
from rt.protocol.publication import Position

MESSAGES = [
    SubscribeUser("42", channel="a"),
    SubscribeUser("", "c", "s", "a", Terms(b'{"n":1}', b"[]", Override(presence=Flag(True)), 5.0), Position("x", 3)),
    UnsubscribeUser("42"),
    UnsubscribeUser("42", "c", "s", "a"),
    DisconnectUser("42", whitelist=("c1", "c2"), code=3503, reason="force disconnect"),
    DisconnectUser("\n\u2028", code=4000, reason="\r\n"),
    RefreshUser("42"),
    RefreshUser("42", expired=True),
    RefreshUser("42", expire_at=1700000000.5, info=b""),
    RefreshUser("42", "c", "s", info=b'{"n":1}'),
    ListChannels(),
    ListChannels("chat:*"),
    ShowConnections(),
    ShowConnections("", "a", "10.0.0.0/8", True, 7),
    ShowChannel("a"),
]


@pytest.mark.parametrize("message", MESSAGES)
def test_messages_arrive(message: Message) -> None:
    """Each message arrives as it was sent, in one line, with its version."""
    body = control.encode(message)
    assert control.decode(body) == message
    assert b"\n" not in body
    assert json.loads(body)["v"] == 1


@pytest.mark.parametrize("message", MESSAGES)
def test_fields_of_a_later_release(message: Message) -> None:
    """Fields that are unknown here are ignored, inside of terms too."""
    fields = json.loads(control.encode(message)) | {"later": {"a": 1}}
    if "terms" in fields:
        fields["terms"]["later"] = 1
    assert control.decode(msgspec.json.encode(fields)) == message


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"kind":"dance","user":"42","v":1}',
        b'{"kind":"unsubscribe","v":1}',
        b'{"kind":"unsubscribe","user":"42","v":2}',
        b'{"kind":"unsubscribe","user":42}',
        b'{"kind":"disconnect","user":"42","code":"x"}',
        b'{"kind":"subscribe","user":"42","channel":"a","terms":[]}',
        b'{"kind":"subscribe","user":"42","channel":"a","since":["x"]}',
        b'{"kind":"refresh","user":"42","info":"!"}',
        b"[" * 100_000,
    ],
    ids=range(13),
)
def test_what_is_nobodys(body: bytes) -> None:
    """Unknown kinds, other versions and nonsense are no message at all."""
    assert control.decode(body) is None


@given(st.binary(max_size=80))
def test_any_bytes_are_a_message_or_none(body: bytes) -> None:
    """Nothing that arrives raises."""
    control.decode(body)


@pytest.mark.parametrize(
    ("target", "reached"),
    [
        (Target("42"), True),
        (Target("42", "c"), True),
        (Target("42", "", "s"), True),
        (Target("42", "c", "s"), True),
        (Target("42", "d"), False),
        (Target("42", "", "t"), False),
        (Target("42", "c", "t"), False),
    ],
)
def test_reaches(target: Target, reached: bool) -> None:
    """Client and session only narrow; a connection without a session is never named by one."""
    assert target.reaches("c", "s") == reached
    assert target.reaches("c", "") == (reached and not target.session)


def test_answers_add_up() -> None:
    """Subscriptions of all workers count together; a worker that says nonsense counts for nothing."""
    answers = [control.answer({"a": 1, "b": 2}), b"", b"[1]", b'{"a":"x"}', control.answer({"b": 3}), b"{}"]
    assert control.total(answers) == {"a": 1, "b": 5}
    assert control.total([]) == {}
