"""What each method of the server API asks of the store, and what it answers."""

from __future__ import annotations

import inspect
import json
import types
from base64 import b64encode
from typing import Any

import pytest

from rt.broker import PublishOptions
from rt.protocol.publication import Page, Position
from rt.web import audiences, methods, publications, users
from tests.callers import DOWN, Caller


@pytest.fixture
def caller() -> Caller:
    """A caller with a store of its own."""
    return Caller()


# publish


def test_publish_hands_the_payload_on_as_it_is(caller: Caller) -> None:
    """Numbers, key order and escapes of the payload are those of the caller; the answer is the position."""
    body = b'{"channel":"a","data":{"b": 1.10, "a":"\\u00e9/\\/", "n":12345678901234567890},"tags":{"k":"v"}}'
    assert caller.call("publish", body) == {"result": {"offset": 1, "epoch": "x"}}
    channel, published, options = caller.broker.published[0]
    assert channel == "a"
    assert published == b'{"data":{"b": 1.10, "a":"\\u00e9/\\/", "n":12345678901234567890},"tags":{"k":"v"}}'
    assert options == PublishOptions(history_size=300, history_ttl=120.0, meta_ttl=2592000.0)


@pytest.mark.parametrize("data", [b"null", b"0", b'""', b"[]", b"{}", b"false", '"é"'.encode()])
def test_any_json_value_is_a_payload(caller: Caller, data: bytes) -> None:
    """Empty is only what is not there."""
    caller.call("publish", b'{"channel":"a","data":%b}' % data)
    assert caller.broker.published[0][1] == b'{"data":%b}' % data


def test_line_breaks_between_tokens_are_taken_out(caller: Caller) -> None:
    """A line break would end a message on the wire."""
    caller.call("publish", b'{"channel":"a",\r\n"data":{\r\n"a":\n"x\\ny"}}')
    assert caller.broker.published[0][1] == b'{"data":{"a":"x\\ny"}}'


def test_base64_carries_json_too(caller: Caller) -> None:
    """It may hold what data may hold, and nothing else."""
    caller.call("publish", {"channel": "a", "b64data": b64encode(b'{"n":1}').decode()})
    assert caller.broker.published[0][1] == b'{"data":{"n":1}}'
    for bad in ("?", "e30", b64encode(b"{").decode(), b64encode(b'"\xff"').decode(), b64encode(b"1,2").decode()):
        assert caller.call("publish", {"channel": "a", "b64data": bad})["error"]["code"] == 107
    assert len(caller.broker.published) == 1


def test_options_of_a_publish(caller: Caller) -> None:
    """A key is handed on; skip_history publishes without an offset, and so does a namespace without history."""
    caller.call("publish", {"channel": "a", "data": 1, "idempotency_key": "k", "delta": True})
    assert caller.call("publish", {"channel": "a", "data": 1, "skip_history": True}) == {"result": {}}
    assert caller.call("publish", {"channel": "live:a", "data": 1}) == {"result": {}}
    assert [(o.history_size, o.idempotency_key) for _, _, o in caller.broker.published] == [
        (300, "k"),
        (0, ""),
        (0, ""),
    ]


@pytest.mark.parametrize("name", ["publish", "broadcast"])
@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"version": 3, "version_epoch": "e"}, (3, "e")),
        ({"version": 2**64 - 1}, (2**64 - 1, "")),
        ({"version": 3, "version_epoch": None}, (3, "")),
        ({"version": 0, "version_epoch": "e"}, (0, "")),
        ({"version_epoch": "e"}, (0, "")),
    ],
)
def test_a_version_is_handed_on_with_its_epoch(caller: Caller, name: str, params: Any, expected: Any) -> None:
    """0 is none, and without a version the epoch says nothing."""
    caller.call(name, {"channel": "a", "channels": ["a"], "data": 1} | params)
    assert [(options.version, options.version_epoch) for _, _, options in caller.broker.published] == [expected]


@pytest.mark.parametrize("version", [-1, 2**64, "3", 1.5, True])
def test_what_is_no_version_is_400(caller: Caller, version: Any) -> None:
    """It is a whole number of 64 bits without a sign."""
    assert caller.request("publish", {"channel": "a", "data": 1, "version": version}).answers[0][0] == 400


def test_null_is_as_good_as_absent(caller: Caller) -> None:
    """Libraries of other languages send the fields that they do not set."""
    fields = ("b64data", "tags", "idempotency_key", "skip_history", "version", "version_epoch")
    caller.call("publish", {"channel": "a", "data": 1} | dict.fromkeys(fields))
    assert caller.broker.published[0][1] == b'{"data":1}'


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({"channel": "a"}, 107),
        ({"data": 1}, 107),
        ({"channel": "", "data": 1}, 107),
        ({"channel": "a b", "data": 1}, 107),
        ({"channel": "a\r\nb", "data": 1}, 107),
        ({"channel": "{a}", "data": 1}, 107),
        ({"channel": "a" * 256, "data": 1}, 107),
        ({"channel": "é", "data": 1}, 107),
        ({"channel": "no:a", "data": 1}, 102),
        ({"channel": "objects:a", "data": [1]}, 107),
        ({"channel": "a", "data": 1, "idempotency_key": "k" * 256}, 107),
        ({"channel": "a", "data": 1, "version": 3, "version_epoch": "é" * 128}, 107),
        ({"channel": "a", "data": json.loads("[" * 200 + "]" * 200)}, 107),
    ],
)
def test_what_cannot_be_published(caller: Caller, params: Any, code: int) -> None:
    """The error says why, and the store is not asked."""
    assert caller.call("publish", params)["error"]["code"] == code
    assert not caller.broker.published


# broadcast


def test_broadcast_answers_for_each_channel_in_order(caller: Caller) -> None:
    """One bad channel stops no other; what a namespace does not take is its own error."""
    channels = ["a", "no:b", "live:c", "objects:d", "", "e"]
    result = caller.call("broadcast", {"channels": channels, "data": [1], "idempotency_key": "k"})["result"]
    codes = [entry.get("error", {}).get("code", entry.get("result")) for entry in result["responses"]]
    assert codes == [{"offset": 1, "epoch": "x"}, 102, {}, 107, 107, {"offset": 3, "epoch": "x"}]
    assert [channel for channel, _, _ in caller.broker.published] == ["a", "live:c", "e"]
    assert {options.idempotency_key for _, _, options in caller.broker.published} == {"k"}
    assert caller.broker.most_open == 3


def test_a_broadcast_of_refusals_alone_is_answered(caller: Caller) -> None:
    """Nothing is waited for when nothing was published."""
    result = caller.call("broadcast", {"channels": ["no:a", ""], "data": 1})["result"]
    assert [entry["error"]["code"] for entry in result["responses"]] == [102, 107]


@pytest.mark.parametrize(
    "params",
    [
        {"data": 1},
        {"channels": [], "data": 1},
        {"channels": ["a"] * 1001, "data": 1},
        {"channels": ["a"]},
        {"channels": ["a"] * 900, "data": "x" * 80_000},
    ],
)
def test_a_broadcast_that_is_refused_as_a_whole(caller: Caller, params: Any) -> None:
    """No channels, too many, no payload, or more bytes than may be on their way at once."""
    assert caller.call("broadcast", params)["error"]["code"] == 107
    assert not caller.broker.published


# history, history_remove, info


def test_history_always_has_its_three_fields(caller: Caller) -> None:
    """Publications carry their offsets; an empty stream has an empty list and still a position."""
    assert caller.call("history", {"channel": "a", "limit": -1}) == {
        "result": {"publications": [{"data": {"n": 7}, "offset": 7}], "offset": 7, "epoch": "x"}
    }
    caller.broker.page = Page(Position("x", 0), [])
    assert caller.call("history", {"channel": "a"}) == {"result": {"publications": [], "offset": 0, "epoch": "x"}}


@pytest.mark.parametrize(
    ("params", "read"),
    [
        ({}, (None, 0, False)),
        ({"limit": 5}, (None, 5, False)),
        ({"limit": -1}, (None, -1, False)),
        ({"limit": -7}, (None, -1, False)),
        ({"limit": 2, "since": {"offset": 3, "epoch": "x"}}, (Position("x", 3), 2, False)),
        ({"limit": 2, "since": {"offset": 3, "epoch": "x"}, "reverse": True}, (Position("x", 3), 2, True)),
        ({"limit": 2, "since": {"offset": 3}}, (Position("x", 3), 2, False)),
        ({"limit": 2, "since": None, "reverse": None}, (None, 2, False)),
    ],
)
def test_what_a_history_asks_of_the_store(caller: Caller, params: Any, read: tuple[Any, ...]) -> None:
    """Every negative limit is all; an offset without an epoch is meant in the epoch of now."""
    caller.call("history", {"channel": "a"} | params)
    since, limit, reverse = read
    expected = {"since": since, "limit": limit, "reverse": reverse, "meta_ttl": 2592000.0}
    assert caller.broker.reads == [("a", expected)]


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({"channel": "live:a"}, 108),
        ({"channel": "no:a"}, 102),
        ({}, 107),
        ({"channel": "a", "since": {"offset": 0, "epoch": "x"}, "reverse": True}, 107),
        ({"channel": "a", "since": {"offset": 3, "epoch": "old"}}, 112),
    ],
)
def test_a_history_that_is_refused(caller: Caller, params: Any, code: int) -> None:
    """Off, unknown, nothing before the beginning, or a position of another epoch."""
    assert caller.call("history", params)["error"]["code"] == code


@pytest.mark.parametrize("since", [{"offset": 3}, {"offset": 3, "epoch": "x"}])
def test_a_history_the_store_does_not_answer(caller: Caller, since: Any) -> None:
    """Error 100 in each of its steps."""
    caller.broker.error = DOWN
    assert caller.call("history", {"channel": "a", "since": since})["error"]["code"] == 100


def test_history_remove_empties_only_what_has_a_history(caller: Caller) -> None:
    """An empty result, or 108 where there is nothing that could be removed."""
    assert caller.call("history_remove", {"channel": "a"}) == {"result": {}}
    assert caller.call("history_remove", {"channel": "live:a"})["error"]["code"] == 108
    assert caller.broker.removed == ["a"]


def test_info_lists_the_workers_that_make_sense(caller: Caller) -> None:
    """Callers rely on uid and name, so an entry without them is left out."""
    assert caller.call("info") == {"result": {"nodes": [{"uid": "1", "name": "a", "num_clients": 3}]}}


@pytest.mark.parametrize(
    ("params", "code"), [({"method": "anything", "params": {"a": 1}}, 104), ({"method": ""}, 107), ({}, 107)]
)
def test_there_are_no_extensions_to_call(caller: Caller, params: Any, code: int) -> None:
    """A method that is not there, or none at all."""
    assert caller.call("rpc", params)["error"]["code"] == code


@pytest.mark.parametrize(
    "nouns", [methods.Methods, publications.Publications, audiences.Audiences, users.Users], ids=lambda n: n.__name__
)
def test_no_call_of_the_api_is_a_coroutine(nouns: type) -> None:
    """The publish path makes no task: the answer is given in the callback of the store's future."""
    functions = {name: f for name, f in vars(nouns).items() if isinstance(f, types.FunctionType)}
    coroutines = [name for name, function in functions.items() if inspect.iscoroutinefunction(function)]
    assert coroutines == (["stop"] if nouns is methods.Methods else [])
