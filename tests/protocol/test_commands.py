"""Commands: every line becomes a command, an answer 107, or a close 3501."""

from __future__ import annotations

import contextlib
import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rt import errors
from rt.protocol import commands
from rt.protocol.commands import BadCommand, decode, split

KINDS = [
    "connect",
    "ping",
    "subscribe",
    "unsubscribe",
    "publish",
    "presence",
    "presence_stats",
    "history",
    "rpc",
    "send",
    "refresh",
    "sub_refresh",
]


def line(**fields: Any) -> bytes:
    """A command as JSON."""
    return json.dumps(fields).encode()


def closes(data: bytes) -> bool:
    """Whether the line ends the connection with 3501."""
    try:
        decode(data)
    except errors.Closing as closing:
        return closing.close == errors.BAD_COMMAND
    except BadCommand:
        return False
    return False


@pytest.mark.parametrize(
    ("data", "request_"),
    [
        (line(id=1, connect={}), commands.Connect()),
        (
            line(id=1, publish={"channel": "a", "idempotency_key": "k"}),
            commands.Publish(channel="a", idempotency_key="k"),
        ),
        (
            line(
                id=1,
                connect={"token": "t", "name": "js", "version": "1", "subs": {"a": {"recover": True, "offset": 3}}},
            ),
            commands.Connect(token="t", name="js", version="1", subs={"a": commands.Subscribe(recover=True, offset=3)}),
        ),
        (line(id=1, subscribe={"channel": "a", "flag": 1}), commands.Subscribe(channel="a", flag=1)),
        (
            line(id=1, subscribe={"channel": "a", "recover": True, "epoch": "x", "offset": 2**64 - 1}),
            commands.Subscribe(channel="a", recover=True, epoch="x", offset=2**64 - 1),
        ),
        (line(id=1, subscribe={"channel": "a", "type": 1}), commands.Subscribe(channel="a", type=1)),
        (line(id=1, unsubscribe={"channel": "a"}), commands.Unsubscribe("a")),
        (line(id=1, publish={"channel": "a"}), commands.Publish("a")),
        (line(id=1, presence={"channel": "a"}), commands.Presence("a")),
        (line(id=1, presence_stats={"channel": "a"}), commands.PresenceStats("a")),
        (line(id=1, history={"channel": "a"}), commands.History("a")),
        (
            line(id=1, history={"channel": "a", "limit": -1, "since": {"offset": 7, "epoch": "x"}, "reverse": True}),
            commands.History("a", -1, commands.Since(7, "x"), True),
        ),
        (line(id=1, rpc={"method": "m"}), commands.Rpc("m")),
        (line(id=1, send={}), commands.Send()),
        (line(id=1, refresh={"token": "t"}), commands.Refresh("t")),
        (line(id=1, sub_refresh={"channel": "a", "token": "t"}), commands.SubRefresh("a", "t")),
        (line(id=2**32 - 1, connect={}, future={"deep": [1]}), commands.Connect()),
        (line(id=1, connect={"future": 1, "headers": {"a": "b"}}), commands.Connect()),
        (b' {"id" : 1 , "connect" : { } } \r', commands.Connect()),
    ],
)
def test_commands(data: bytes, request_: commands.Request) -> None:
    """A command carries its id and its method; fields nobody knows are ignored."""
    command = decode(data)
    assert command.id == json.loads(data)["id"]
    assert command.request == request_
    assert command.kind == request_.kind


def test_payloads_stay_bytes() -> None:
    """The payload is kept as it was written, null included; an absent one is empty."""
    request = decode(b'{"id":1,"publish":{"channel":"a","data": {"x" : 1.0} }}').request
    assert isinstance(request, commands.Publish)
    assert bytes(request.data) == b'{"x" : 1.0}'
    request = decode(b'{"id":1,"publish":{"channel":"a","data":null}}').request
    assert isinstance(request, commands.Publish)
    assert bytes(request.data) == b"null"
    assert bytes(commands.Publish("a").data) == b""


@pytest.mark.parametrize("position", range(len(KINDS) - 1))
def test_the_first_method_wins(position: int) -> None:
    """Of several methods the first one in the protocol's order counts, wherever it stands in the line."""
    body = {"channel": "a"}
    later = dict.fromkeys(reversed(KINDS[position:]), body)
    earlier = dict.fromkeys(KINDS[:position])
    data = line(**later, **earlier, id=1)
    if KINDS[position] == "ping":
        assert closes(data)
    else:
        assert decode(data).kind == KINDS[position]


@pytest.mark.parametrize(
    "data",
    [
        b"{}",
        line(id=0),
        line(ping={}),
        line(connect={}),
        line(id=0, publish={"channel": "a"}),
        line(send=None),
        line(future=1),
    ],
)
def test_pongs(data: bytes) -> None:
    """Whatever has no id is a pong, unless it is a send."""
    assert decode(data) == commands.PONG
    assert decode(data).kind == ""


def test_send_needs_no_id() -> None:
    """A send comes without an id, because nothing answers it."""
    command = decode(line(send={"data": {"a": 1}}))
    assert command.id == 0
    assert isinstance(command.request, commands.Send)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b" ",
        b"\r",
        b"nonsense",
        b"[]",
        b"1",
        b"null",
        b'"x"',
        b"[{}]",
        b"{",
        b'{"id":1,',
        b"{}{}",
        b"{'id':1}",
        b"\xef\xbb\xbf{}",
        b"\xff\xfe{\x00}\x00",
        b'{"id":1,"connect":{"name":"\xff"}}',
        b'{"id":1,"connect":{"name":"\\ud800"}}',
        b'{"id":1,"publish":{"channel":"a","data":NaN}}',
        b'{"id":1,"publish":{"channel":"a","data":"a\nb"}}',
        b'{"id":1,"publish":{"channel":"a","data":' + b"[" * 100_000 + b"]" * 100_000 + b"}}",
        b'{"id":1,"future":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"}",
        line(id=1),
        line(id=1, future={}),
        line(id=1, connect=None),
        line(id=1, ping={}),
        line(id=-1, connect={}),
        line(id=2**32, connect={}),
        line(id="1", connect={}),
        line(id=True, connect={}),
        line(id=None, connect={}),
        line(id=[], connect={}),
        b'{"id":1e400,"connect":{}}',
        b'{"id":' + b"9" * 5000 + b',"connect":{}}',
        line(id=0, connect=5),
        line(connect=5),
        line(id=1, subscribe={}),
        line(id=1, subscribe={"channel": ""}),
        line(id=1, unsubscribe={}),
        line(id=1, publish={"data": 1}),
        line(id=1, presence={}),
        line(id=1, presence_stats={}),
        line(id=1, history={}),
        line(id=1, sub_refresh={"token": "t"}),
    ],
    ids=itertools.count(),
)
def test_what_closes(data: bytes) -> None:
    """What is no command, cannot be answered, or names no channel ends the connection with 3501."""
    assert closes(data)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (line(id=7, connect=5), "connect"),
        (line(id=7, connect={"token": 5}), "connect"),
        (line(id=7, connect={"token": None}), "connect"),
        (line(id=7, connect={"subs": []}), "connect"),
        (line(id=7, connect={"subs": {"a": {"offset": 2**64}}}), "connect"),
        (line(id=7, subscribe=[]), "subscribe"),
        (line(id=7, subscribe={"channel": 1}), "subscribe"),
        (line(id=7, subscribe={"channel": "a", "offset": -1}), "subscribe"),
        (line(id=7, subscribe={"channel": "a", "offset": 1.5}), "subscribe"),
        (line(id=7, subscribe={"channel": "a", "offset": 2**64}), "subscribe"),
        (b'{"id":7,"subscribe":{"channel":"a","offset":' + b"9" * 5000 + b"}}", "subscribe"),
        (b'{"id":7,"subscribe":{"channel":"a","offset":1e400}}', "subscribe"),
        (line(id=7, subscribe={"channel": "a", "recover": 1}), "subscribe"),
        (line(id=7, publish={"channel": ["a"]}), "publish"),
        (line(id=7, history={"channel": "a", "limit": "1"}), "history"),
        (line(id=7, history={"channel": "a", "limit": 2**31}), "history"),
        (line(id=7, history={"channel": "a", "since": {"offset": -1}}), "history"),
        (line(id=7, history={"channel": "a", "since": {"offset": 2**64}}), "history"),
        (line(id=7, connect=None, rpc={"method": {}}), "rpc"),
        (line(id=7, send=1), "send"),
        (b'{"id":5,"id":7,"publish":1}', "publish"),
    ],
    ids=itertools.count(),
)
def test_wrong_types(data: bytes, kind: str) -> None:
    """JSON whose fields have wrong types is answered with 107 under the id it carries."""
    with pytest.raises(BadCommand) as bad:
        decode(data)
    assert (bad.value.id, bad.value.kind, bad.value.error) == (7, kind, errors.BAD_REQUEST)


@pytest.mark.parametrize(
    ("frame", "lines"),
    [
        (b"{}", [b"{}"]),
        (b"{}\n", [b"{}"]),
        (b"a\nb", [b"a", b"b"]),
        (b"a\nb\n", [b"a", b"b"]),
        (b"a\r\nb", [b"a\r", b"b"]),
    ],
)
def test_frames_hold_lines(frame: bytes, lines: list[bytes]) -> None:
    """Commands are joined by a line break; one at the end is tolerated."""
    assert split(frame) == lines


@pytest.mark.parametrize("frame", [b"", b"\n", b"\n\n", b"a\n\n", b"\na", b"a\n\nb"])
def test_empty_lines_close(frame: bytes) -> None:
    """An empty frame or line ends the connection with 3501."""
    with pytest.raises(errors.Closing) as closing:
        split(frame)
    assert closing.value.close == errors.BAD_COMMAND


FIELDS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["channel", "since", "subs", "x"]), inner)
    ),
    max_leaves=8,
)


@given(st.binary(max_size=80) | st.text(max_size=80).map(str.encode))
def test_any_bytes_decode_or_are_refused(data: bytes) -> None:
    """No bytes raise anything but the two exceptions."""
    with contextlib.suppress(BadCommand, errors.Closing):
        decode(data)


@given(st.dictionaries(st.sampled_from(["id", *KINDS]), FIELDS, max_size=4))
def test_any_object_decodes_or_is_refused(fields: dict[str, Any]) -> None:
    """Objects that look like commands are a command, a pong, an answer with a readable id, or a close."""
    try:
        command = decode(json.dumps(fields).encode())
    except BadCommand as bad:
        assert bad.id == fields["id"]
        assert fields[bad.kind] is not None
    except errors.Closing as closing:
        assert closing.close == errors.BAD_COMMAND
    else:
        assert command == commands.PONG or command.kind in KINDS


@pytest.mark.parametrize(
    ("body", "request_"),
    [
        (b"{}", commands.Connect()),
        (b' {"token":"t","later":1}\n', commands.Connect(token="t")),
        (
            b'{"subs":{"a":{"recover":true,"epoch":"x","offset":3}},"name":"n","version":"1","headers":{"a":"b"}}',
            commands.Connect(name="n", version="1", subs={"a": commands.Subscribe(recover=True, epoch="x", offset=3)}),
        ),
    ],
)
def test_bare_connects(body: bytes, request_: commands.Connect) -> None:
    """A unidirectional stream begins with the request alone."""
    assert commands.decode_connect(body) == request_


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b'{"token":1}',
        b'{"subs":["a"]}',
        b'{"subs":{"a":{"offset":-1}}}',
        b'{"subs":{"a":{"offset":18446744073709551616}}}',
        b"{}{}",
        b'{"data":' + b"[" * 100_000,
        b"\xff",
    ],
    ids=range(11),
)
def test_bare_connects_that_are_none(body: bytes) -> None:
    """There is no reply to say it in, so anything else closes (3501)."""
    with pytest.raises(errors.Closing) as closing:
        commands.decode_connect(body)
    assert closing.value.close == errors.BAD_COMMAND


@given(st.binary(max_size=80) | FIELDS.map(json.dumps).map(str.encode))
def test_any_bare_connect_decodes_or_closes(body: bytes) -> None:
    """No bytes raise anything but the close."""
    with contextlib.suppress(errors.Closing):
        assert isinstance(commands.decode_connect(body), commands.Connect)
