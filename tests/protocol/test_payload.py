"""Payloads: what is handed on, and what is refused at the entrance."""

from __future__ import annotations

import itertools
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rt import errors
from rt.protocol import payload

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


def nested(levels: int, inside: bytes = b"") -> bytes:
    """Arrays and objects in turns, ``levels`` deep."""
    data = inside
    for level in range(levels):
        data = b"[%b]" % data if level % 2 == 0 else b'{"k":%b}' % data
    return data


@pytest.mark.parametrize(
    ("raw", "compacted"),
    [
        (b'{"a":1}', b'{"a":1}'),
        (b'{"a": 1}', b'{"a": 1}'),
        (b'{\r\n  "a":\n1\r}', b'{  "a":1}'),
        (b'"a\\nb\\r"', b'"a\\nb\\r"'),
        (b"null", b"null"),
        (b"0", b"0"),
        (b'""', b'""'),
        (b'"[[[[{{{{"', b'"[[[[{{{{"'),
        ('"\u2028\u00e4\U0001f600"'.encode(), '"\u2028\u00e4\U0001f600"'.encode()),
        (b'"\\ud83d\\ude00"', b'"\\ud83d\\ude00"'),
        (b"9" * 300, b"9" * 300),
        (b'{"a":1,"a":2}', b'{"a":1,"a":2}'),
    ],
    ids=itertools.count(),
)
def test_what_passes(raw: bytes, compacted: bytes) -> None:
    """JSON passes as it is, but for line breaks between its tokens."""
    assert payload.compact(raw) == compacted
    assert payload.compact(msgspec.Raw(raw)) == compacted


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b" ",
        b"nul",
        b"NaN",
        b"Infinity",
        b"01",
        b"1e400",
        b"-1e400",
        b"9" * 5000,
        b'"a\nb"',
        b'"\xff"',
        b'"\xed\xa0\x80"',
        b'"\\ud800"',
        b'"\\udc00\\ud800"',
        b"\xef\xbb\xbf{}",
        b"{}{}",
        b"[1,]",
        b"'a'",
        b"[" * 100_000 + b"]" * 100_000,
        nested(payload.DEPTH + 1),
        nested(payload.DEPTH + 1, b'"]]]]"'),
    ],
    ids=itertools.count(),
)
def test_what_is_refused(raw: bytes) -> None:
    """What some client could not parse is answered with 107."""
    with pytest.raises(errors.Refused) as refused:
        payload.compact(raw)
    assert refused.value.error == errors.BAD_REQUEST


def test_the_deepest_payload() -> None:
    """The limit counts levels that are open at once, not brackets, and not those in strings."""
    deepest = nested(payload.DEPTH, b'"[[[[\\"[[[["')
    wide = b"[" + b",".join([b"[{}]"] * 1000) + b"]"
    assert payload.compact(deepest) == deepest
    assert payload.compact(wide) == wide


@given(JSON, st.sampled_from([None, 1, "\t"]))
def test_compacting_changes_no_value(value: Any, indent: int | str | None) -> None:
    """The result has no raw line break, and means the same."""
    compacted = payload.compact(json.dumps(value, indent=indent, ensure_ascii=False).encode())
    assert b"\n" not in compacted
    assert b"\r" not in compacted
    assert json.loads(compacted) == value


@given(st.binary(max_size=60))
def test_any_bytes(raw: bytes) -> None:
    """Whatever comes is either refused or JSON."""
    try:
        compacted = payload.compact(raw)
    except errors.Refused:
        return
    json.loads(compacted)


@pytest.mark.parametrize(
    ("raw", "data_format", "accepted"),
    [
        (b"", "", False),
        (b"", "json", False),
        (b"", "json_object", False),
        (b"[1]", "", True),
        (b"[1]", "json", True),
        (b"[1]", "json_object", False),
        (b'"{"', "json_object", False),
        (b"null", "", True),
        (b"null", "json_object", False),
        (b"{}", "json_object", True),
        (b" \n{} ", "json_object", True),
    ],
)
def test_publication_data_format(raw: bytes, data_format: str, accepted: bool) -> None:
    """A namespace may insist on objects; nothing at all is refused everywhere."""
    if accepted:
        assert payload.checked(raw, data_format) == raw.replace(b"\n", b"")
    else:
        with pytest.raises(errors.Refused) as refused:
            payload.checked(raw, data_format)
        assert refused.value.error == errors.BAD_REQUEST
