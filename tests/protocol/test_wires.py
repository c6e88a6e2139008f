"""Wires: the bytes of one turn in every format, and the twins that carry who comes and leaves."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rt.errors import SHUTDOWN
from rt.protocol.publication import NOWHERE, Change, Position, Publication
from rt.protocol.wires import SDK, SOCKET, SSE, UNI, UNI_SSE, Item, Name, StreamWire, Told, Wire, standing

NAMES = [Name("a"), Name("b,1")]
MARKED = [Name("a", named=True), Name("b,1", named=True)]
START = [Position("x", 6), NOWHERE]
PUB = Item(0, Publication(b'{"data":{"n":1}}', "x", 7))
PLAIN = Item(1, Publication(b'{"data":2}'))
JOIN = Item(1, Change("join", b'{"user":"u","client":"c"}'))
GAP = Item(0, Told(Position("y", 41)))
TURN = [PUB, JOIN, PLAIN, GAP]


def frames(data: bytes) -> list[str]:
    """The payloads of short text frames."""
    found = []
    while data:
        assert data[0] == 0x81 and data[1] < 126
        found.append(data[2 : 2 + data[1]].decode())
        data = data[2 + data[1] :]
    return found


def lines(data: bytes) -> list[dict[str, str]]:
    """The fields of events."""
    return [dict(line.split(": ", 1) for line in block.split("\n")) for block in data.decode().split("\n\n")[:-1]]


def test_an_sdk_gets_one_frame_per_turn() -> None:
    """Its pushes stand on lines of their own; gaps are told elsewhere."""
    (frame,) = frames(SDK.encode(NAMES, TURN, START))
    assert [json.loads(line)["push"] for line in frame.split("\n")] == [
        {"channel": "a", "pub": {"data": {"n": 1}, "offset": 7}},
        {"channel": "b,1", "pub": {"data": 2}},
    ]


def test_who_only_listens_gets_one_bare_push_per_frame() -> None:
    """Without a wrapper, and with who comes and leaves where that is wanted."""
    assert [json.loads(frame) for frame in frames(UNI.joined(True).encode(NAMES, TURN, START))] == [
        {"channel": "a", "pub": {"data": {"n": 1}, "offset": 7}},
        {"channel": "b,1", "join": {"info": {"user": "u", "client": "c"}}},
        {"channel": "b,1", "pub": {"data": 2}},
    ]


@pytest.mark.parametrize(("names", "text"), [(NAMES, "{},-"), (MARKED, "a={},b%2C1=-")])
def test_a_plain_websocket_has_the_cursor_in_each_message(names: list[Name], text: str) -> None:
    """By place or by name; it moves over what has an offset, and over a gap."""
    messages = [json.loads(frame) for frame in frames(SOCKET.joined(True).encode(names, TURN, START))]
    assert [message.pop("cursor") for message in messages] == [text.format(at) for at in ("x.7", "x.7", "x.7", "y.41")]
    assert messages == [
        {"channel": "a", "pub": {"data": {"n": 1}, "offset": 7}},
        {"channel": "b,1", "join": {"info": {"user": "u", "client": "c"}}},
        {"channel": "b,1", "pub": {"data": 2}},
        {"channel": "a", "gap": {"epoch": "y", "offset": 41}},
    ]
    assert standing(names, START) == text.format("x.6")


def test_events_have_names_and_the_cursor_as_id() -> None:
    """A publication is a plain message, everything else says what it is."""
    assert lines(SSE.joined(True).encode(MARKED, TURN, START)) == [
        {"id": "a=x.7,b%2C1=-", "data": '{"channel":"a","pub":{"data":{"n":1},"offset":7}}'},
        {"id": "a=x.7,b%2C1=-", "event": "join", "data": '{"channel":"b,1","info":{"user":"u","client":"c"}}'},
        {"id": "a=x.7,b%2C1=-", "data": '{"channel":"b,1","pub":{"data":2}}'},
        {"id": "a=y.41,b%2C1=-", "event": "gap", "data": '{"channel":"a","epoch":"y","offset":41}'},
    ]


def test_events_of_the_protocol_are_bare_pushes() -> None:
    """Its gaps end the stream, so none is written; a heartbeat is an empty push, the end a disconnect."""
    assert lines(UNI_SSE.joined(True).encode(MARKED, TURN, START)) == [
        {"id": "a=x.7,b%2C1=-", "data": '{"channel":"a","pub":{"data":{"n":1},"offset":7}}'},
        {"id": "a=x.7,b%2C1=-", "data": '{"channel":"b,1","join":{"info":{"user":"u","client":"c"}}}'},
        {"id": "a=x.7,b%2C1=-", "data": '{"channel":"b,1","pub":{"data":2}}'},
    ]
    assert lines(UNI_SSE.ping + UNI_SSE.farewell(SHUTDOWN)) == [
        {"data": "{}"},
        {"data": '{"disconnect":{"code":3001,"reason":"shutdown"}}'},
    ]


@pytest.mark.parametrize("wire", [SDK, UNI, SOCKET, SSE, UNI_SSE])
def test_twins_differ_in_who_comes_and_leaves_only(wire: Wire) -> None:
    """They are the same object for the same question, have one name, and write nothing where nothing is for them."""
    told = wire.joined(True)
    assert told.joins and not wire.joins and told.name == wire.name
    assert told is wire.joined(True) and told.joined(False) is wire
    assert wire.joining([]) is wire and wire.joining([1]) is wire.joining([1])
    assert wire.encode(NAMES, [JOIN], START) == wire.joining([0]).encode(NAMES, [JOIN], START) == b""
    assert wire.joining([1]).encode(NAMES, [JOIN], START) == told.encode(NAMES, [JOIN], START) != b""


@pytest.mark.parametrize(
    ("wire", "expected"),
    [
        (SOCKET, {"channel": "a", "subscribe": {"offset": 1}, "cursor": "a=x.1"}),
        (SSE, {"channel": "a", "offset": 1}),
        (UNI_SSE, {"channel": "a", "subscribe": {"offset": 1}}),
    ],
)
def test_a_stream_is_told_that_its_list_changed(wire: StreamWire, expected: dict[str, Any]) -> None:
    """With the cursor of the new list; also where there is nothing more to say than the channel."""
    data = wire.notice(MARKED[0], "subscribe", b'{"offset":1}', "a=x.1")
    empty = wire.notice(MARKED[0], "subscribe", b"{}", "a=x.1")
    if wire is SOCKET:
        assert json.loads(frames(data)[0]) == expected
        assert json.loads(frames(empty)[0])["subscribe"] == {}
        return
    (event,), (bare,) = lines(data), lines(empty)
    assert json.loads(event["data"]) == expected and json.loads(bare["data"])["channel"] == "a"
    assert event["id"] == "a=x.1" and event.get("event") == ("subscribe" if wire is SSE else None)


def test_a_push_of_its_own_is_wrapped_for_sdks_only() -> None:
    """What is said to one connection alone."""
    assert frames(SDK.push(b"{}")) == ['{"push":{}}']
    assert frames(UNI.push(b"{}")) == ["{}"]
    assert lines(UNI_SSE.push(b"{}")) == [{"data": "{}"}]
