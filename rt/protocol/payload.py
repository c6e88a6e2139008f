"""The payload of a publication: JSON that a stranger wrote and every subscriber will parse.

It is checked once, where it comes in, so that it can be copied into frames ever after without a look inside. What
passes is JSON that every client library reads: UTF-8, no lone surrogate, no number that fits no type, at most
:data:`DEPTH` levels deep, and no raw line break, because a line break ends a message (on the sockets) or a line (in
an event stream).
"""

from __future__ import annotations

import re
from array import array
from itertools import accumulate

import msgspec

from rt import errors

DEPTH = 128
"""Levels of arrays and objects in one payload. The deepest message around it adds four; parsers that recurse, as
Python's does, give up near 1,000, and no document people write comes near either."""

_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+"')
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
# An opening bracket is one level up, a closing one is one level down (-1 as a signed byte).
_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
_LINE_BREAKS = b"\r\n"
_DECODER = msgspec.json.Decoder()


def compact(raw: bytes | msgspec.Raw) -> bytes:
    """The same JSON value without ``\\r`` and ``\\n``; :class:`errors.Refused` (107) when it is not fit to be handed
    on.

    Between tokens a line break is white space and can go; inside a string JSON does not allow a raw one.
    """
    data = bytes(raw)
    try:
        _DECODER.decode(data)
    except (ValueError, RecursionError):
        raise errors.Refused(errors.BAD_REQUEST, "the payload is not JSON that every client can read") from None
    # Most payloads have fewer brackets than the limit has levels; only the others need a closer look.
    if data.count(b"[") + data.count(b"{") > DEPTH and _depth(data) > DEPTH:
        raise errors.Refused(errors.BAD_REQUEST, "the payload is nested too deeply")
    if b"\n" in data or b"\r" in data:
        return data.translate(None, _LINE_BREAKS)
    return data


def checked(raw: bytes | msgspec.Raw, data_format: str) -> bytes:
    """The compacted payload of a publish, if it is what the namespace's ``publication_data_format`` asks for.

    Nothing at all is refused under every format, and anything but an object under ``json_object``: both with 107.
    """
    data = compact(raw)
    if data_format == "json_object" and not data.lstrip().startswith(b"{"):
        raise errors.Refused(errors.BAD_REQUEST, "the payload must be an object")
    return data


def _depth(data: bytes) -> int:
    """How many levels of valid JSON are open at once, in one pass over its brackets."""
    steps = _STRING.sub(b"", data).translate(_STEPS, _NOT_BRACKETS)
    return max(accumulate(array("b", steps)), default=0)
