"""Who is there, as the server API tells it: presence, presence_stats, channels."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rt.protocol import control
from rt.protocol.control import ListChannels
from tests.callers import DOWN, Caller


@pytest.fixture
def caller() -> Caller:
    """A caller with a store of its own."""
    return Caller()


def test_presence_lists_clients_by_their_id(caller: Caller) -> None:
    """What the store says of each is pasted in as it is; nobody is an empty object."""
    assert caller.call("presence", {"channel": "room:a"}) == {
        "result": {
            "presence": {
                "c1": {"user": "42", "client": "c1", "conn_info": {"n": 1}},
                "c2": {"user": "", "client": "c2"},
            }
        }
    }
    caller.broker.members = {}
    assert caller.call("presence", {"channel": "room:a"}) == {"result": {"presence": {}}}


def test_presence_stats_always_has_both_numbers(caller: Caller) -> None:
    """Also when they are zero."""
    assert caller.call("presence_stats", {"channel": "room:a"}) == {"result": {"num_clients": 2, "num_users": 2}}
    caller.broker.members = {}
    assert caller.call("presence_stats", {"channel": "room:a"}) == {"result": {"num_clients": 0, "num_users": 0}}


@pytest.mark.parametrize("name", ["presence", "presence_stats"])
@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({}, 107),
        ({"channel": ""}, 107),
        ({"channel": None}, 107),
        ({"channel": "room:*"}, 107),
        ({"channel": "no:a"}, 102),
        ({"channel": "a"}, 108),
        ({"channel": "live:a"}, 108),
    ],
)
def test_presence_that_cannot_be_asked_for(caller: Caller, name: str, params: Any, code: int) -> None:
    """No channel, an unknown namespace, or one without presence."""
    assert caller.call(name, params)["error"]["code"] == code


@pytest.mark.parametrize("name", ["presence", "presence_stats", "channels"])
def test_a_store_that_does_not_say_who_is_there(caller: Caller, name: str) -> None:
    """Error 100, and the time to come back."""
    caller.broker.error = DOWN
    request = caller.request(name, {"channel": "room:a"})
    assert json.loads(request.answers[0][1])["error"]["code"] == 100 and request.sent["Retry-After"] == "1"


def test_channels_sums_what_the_workers_say(caller: Caller) -> None:
    """Subscribers of one channel on two workers are added; a worker that says nothing, or nonsense, adds nothing."""
    expected = {"result": {"channels": {"a": {"num_clients": 4}, "room:b": {"num_clients": 2}}}}
    assert caller.call("channels") == expected
    caller.broker.counts += [b"", b"junk", b'{"a":"x"}']
    assert caller.call("channels") == expected
    caller.broker.counts = []
    assert caller.call("channels") == {"result": {"channels": {}}}


@pytest.mark.parametrize(
    ("params", "pattern"),
    [({}, ""), ({"pattern": ""}, ""), ({"pattern": None}, ""), ({"pattern": "room:{a,b}*"}, "room:{a,b}*")],
)
def test_the_pattern_is_for_the_workers_to_match(caller: Caller, params: Any, pattern: str) -> None:
    """It goes to them as it is; none is all channels."""
    caller.call("channels", params)
    assert [control.decode(body) for body in caller.broker.commands] == [ListChannels(pattern=pattern)]


@pytest.mark.parametrize("pattern", ["[a", "{a", "a" * 256, "\\"])
def test_a_pattern_that_is_none_asks_nobody(caller: Caller, pattern: str) -> None:
    """Error 107."""
    assert caller.call("channels", {"pattern": pattern})["error"]["code"] == 107
    assert not caller.broker.commands


def test_more_channels_than_an_answer_holds(caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    """Error 106: the caller is to ask for fewer."""
    monkeypatch.setattr("rt.web.audiences.CHANNELS", 1)
    assert caller.call("channels")["error"]["code"] == 106
    caller.broker.counts = [b'{"a":1}', b'{"a":3}']
    assert caller.call("channels")["result"] == {"channels": {"a": {"num_clients": 4}}}
