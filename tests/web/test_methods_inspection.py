"""What is going on, as the server API tells it: connections, channel."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rt.protocol import control
from rt.protocol.control import ShowChannel, ShowConnections
from rt.web.inspection import FILTER_LENGTH, LISTED, LISTED_MAX
from tests.callers import DOWN, Caller


@pytest.fixture
def caller() -> Caller:
    """A caller with a store of its own."""
    return Caller()


@pytest.mark.parametrize(
    ("params", "asked"),
    [
        ({}, ShowConnections(limit=LISTED)),
        ({"user": ""}, ShowConnections(user="", limit=LISTED)),
        (
            {"user": "42", "channel": "a", "ip": "10.0.0.0/8", "slow": True, "limit": LISTED_MAX},
            ShowConnections("42", "a", "10.0.0.0/8", True, LISTED_MAX),
        ),
        ({"user": None, "channel": None, "ip": None, "slow": None, "limit": None}, ShowConnections(limit=LISTED)),
    ],
)
def test_what_is_asked_for_connections(caller: Caller, params: Any, asked: ShowConnections) -> None:
    """The filters go to the workers as they are; null is as good as absent."""
    caller.broker.counts = []
    assert caller.call("connections", params) == {"result": {"connections": [], "total": 0, "more": False}}
    assert [control.decode(body) for body in caller.broker.commands] == [asked]


@pytest.mark.parametrize(
    "params",
    [
        {"limit": 0},
        {"limit": -1},
        {"limit": LISTED_MAX + 1},
        {"ip": "nowhere"},
        {"ip": "10.0.0.0/33"},
        {"ip": "10.0.0.1\r\n"},
        {"user": "x" * (FILTER_LENGTH + 1)},
        {"channel": "x" * (FILTER_LENGTH + 1)},
    ],
)
def test_filters_that_are_none(caller: Caller, params: Any) -> None:
    """Error 107, and no worker is asked."""
    assert caller.call("connections", params)["error"]["code"] == 107
    assert not caller.broker.commands


def test_connections_of_several_workers_are_put_in_one_order(caller: Caller) -> None:
    """Who has waited longest comes first, over all; what is left out is said, and nonsense counts for nothing."""
    caller.broker.counts = [
        b'{"connections":[{"client":"a","queued_for":1.0},{"client":"b"}],"total":9,"later":1}',
        b'{"connections":[{"client":"c","behind_for":2.0},{"client":"d","queued_bytes":5}],"total":2}',
        b"nonsense",
    ]
    found = caller.call("connections", {"limit": 3})["result"]
    assert [one["client"] for one in found["connections"]] == ["c", "a", "d"]
    assert (found["total"], found["more"]) == (11, True)


def test_a_channel_is_told_with_its_policy_and_its_workers(caller: Caller) -> None:
    """Settings, the store's position, and the workers by their names."""
    caller.broker.counts = [
        b'{"node":"b","subscribers":2,"offset":7}',
        b'{"node":"a","subscribers":1,"later":{}}',
        b'{"subscribers":4}',
    ]
    found = caller.call("channel", {"channel": "room:a"})["result"]
    assert (found["channel"], found["namespace"], found["num_clients"]) == ("room:a", "room", 3)
    assert found["position"] == {"epoch": "x", "offset": 7}
    assert found["policy"]["presence"] is True and found["policy"]["slow"] == "catch_up"
    assert [one["node"] for one in found["workers"]] == ["a", "b"]
    assert [control.decode(body) for body in caller.broker.commands] == [ShowChannel("room:a")]


def test_a_channel_without_history_has_no_position_in_the_store(caller: Caller) -> None:
    """And the store is not asked for one."""
    caller.broker.counts = []
    found = caller.call("channel", {"channel": "live:a"})["result"]
    assert "position" not in found and (found["num_clients"], found["workers"]) == (0, [])


@pytest.mark.parametrize(("channel", "code"), [(None, 107), ("", 107), ("a*", 107), ("no:a", 102)])
def test_a_channel_that_cannot_be(caller: Caller, channel: Any, code: int) -> None:
    """A bad name, and a namespace that is not there."""
    assert caller.call("channel", {"channel": channel})["error"]["code"] == code


@pytest.mark.parametrize(
    ("name", "params"), [("connections", {}), ("channel", {"channel": "a"}), ("channel", {"channel": "live:a"})]
)
def test_inspection_while_the_store_is_away(caller: Caller, name: str, params: Any) -> None:
    """A part of the truth would look like all of it: error 100."""
    caller.broker.error = DOWN
    assert caller.call(name, params)["error"]["code"] == 100


@pytest.mark.parametrize(
    ("name", "body"), [("connections", {"user": 42}), ("connections", {"slow": 1}), ("channel", {"channel": []})]
)
def test_fields_of_a_wrong_type(caller: Caller, name: str, body: Any) -> None:
    """The request itself is bad."""
    assert caller.request(name, json.dumps(body).encode()).answers[0][0] == 400
