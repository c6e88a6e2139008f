"""What workers say to one another, as bytes.

A command or question is the body of a publication: ``{"v":1,"id":…,"from":…,"body":…}``, where ``from`` is the name of
the worker that wants the answer. An answer is ``1a:<id>:<who>:<body>``, and that there is none ``1x:<id>:<who>:``.
Unknown fields are ignored, and what is of another version is nothing, as on the rest of the bus.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal, NamedTuple

import msgspec

MAX_BODY = 128 * 1024
"""Bytes of the largest command or question."""

MAX_ANSWER = 4 * 1024 * 1024
"""Bytes of the largest answer: a store cuts a subscriber off that has 32 MiB waiting, and all workers answer at
once."""

_OVERHEAD = 4096


class Message(msgspec.Struct, frozen=True, rename={"sender": "from"}):
    """A command or question; ``body`` is for whoever carries it out."""

    v: Literal[1]
    id: Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{16}\Z")]
    sender: Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
    body: msgspec.Raw


class Answer(NamedTuple):
    """An answer to the message ``id`` by the process that calls itself ``who``; None when it can give none."""

    id: bytes
    who: bytes
    body: bytes | None


_decode = msgspec.json.Decoder(Message).decode
_string = msgspec.json.Encoder().encode
_ANSWER = re.compile(rb"1([ax]):([0-9a-f]{16}):([0-9a-f]{16}):")


def encode(key: bytes, sender: str, body: bytes) -> bytes:
    """The message with this id; ``body`` is JSON without a line break."""
    return b'{"v":1,"id":"%s","from":%s,"body":%s}' % (key, _string(sender), body)


def decode(body: bytes) -> Message | None:
    """The message in the body of a publication; None when there is none, or a larger one than anybody sends."""
    if len(body) > MAX_BODY + _OVERHEAD:
        return None
    try:
        return _decode(body)
    except (ValueError, RecursionError):
        return None


def decode_answer(payload: bytes) -> Answer | None:
    """The answer in ``payload``; None when there is none, or a larger one than anybody sends."""
    head = _ANSWER.match(payload)
    if head is None or len(payload) > MAX_ANSWER + head.end():
        return None
    kind, key, who = head.groups()
    return Answer(key, who, payload[head.end() :] if kind == b"a" else None)


def encode_answer(answer: Answer) -> bytes:
    """The answer as bytes; that there is none, when it is larger than anybody reads."""
    key, who, body = answer
    if body is None or len(body) > MAX_ANSWER:
        return b"1x:%s:%s:" % (key, who)
    return b"1a:%s:%s:%s" % (key, who, body)
