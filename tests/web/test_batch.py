"""Batches: the answers of many commands in one."""

from __future__ import annotations

import pytest

from rt.web import methods
from tests.callers import DOWN, Caller


@pytest.fixture
def caller() -> Caller:
    """A caller with a store of its own."""
    return Caller()


def test_batch_answers_under_the_name_of_the_method(caller: Caller) -> None:
    """Without a wrapper; what is wrong with one command is its own answer."""
    commands = [
        {"publish": {"channel": "a", "data": 1}},
        {"history_remove": {"channel": "a"}},
        {"publish": {"channel": "no:a", "data": 1}},
        {"publish": {"channel": 5}},
        {"nothing": {}},
        {"rpc": {"method": "anything"}},
        {"batch": {"commands": []}},
        {},
        None,
        {"publish": {}, "info": {}},
        {"history": {"channel": "a"}},
        {"broadcast": {"channels": ["a"], "data": 2}},
        {"presence": {"channel": "room:a"}},
        {"presence_stats": {"channel": "room:a"}},
        {"channels": {}},
        {"info": {}},
        {"subscribe": {"user": "42", "channel": "a"}},
        {"unsubscribe": {"user": "42"}},
        {"disconnect": {"user": "42"}},
        {"refresh": {"user": "42"}},
        {"presence": {"channel": "a"}},
        {"disconnect": {"user": "42", "disconnect": {"code": 1}}},
    ]
    replies = caller.call("batch", {"commands": commands})["replies"]
    assert replies[0] == {"publish": {"offset": 1, "epoch": "x"}}
    assert replies[1] == {"history_remove": {}}
    assert [reply["error"]["code"] for reply in replies[2:10]] == [102, 107, 104, 104, 104, 107, 107, 107]
    assert replies[10]["history"]["offset"] == 7
    assert replies[11] == {"broadcast": {"responses": [{"result": {"offset": 2, "epoch": "x"}}]}}
    assert replies[12]["presence"]["presence"].keys() == {"c1", "c2"}
    assert replies[13] == {"presence_stats": {"num_clients": 2, "num_users": 2}}
    assert replies[14] == {"channels": {"channels": {"a": {"num_clients": 4}, "room:b": {"num_clients": 2}}}}
    assert len(replies[15]["info"]["nodes"]) == 1
    assert replies[16:20] == [{name: {}} for name in ("subscribe", "unsubscribe", "disconnect", "refresh")]
    assert [reply["error"]["code"] for reply in replies[20:]] == [108, 107]


@pytest.mark.parametrize(("parallel", "open_at_once"), [(False, 1), (True, methods.BATCH_WINDOW)])
def test_how_many_commands_are_under_way(caller: Caller, parallel: bool, open_at_once: int) -> None:
    """One after the other unless parallel, and then a bounded number; order of answers is that of the commands."""
    commands = [{"publish": {"channel": "a", "data": n}} for n in range(100)]
    replies = caller.call("batch", {"commands": commands, "parallel": parallel})["replies"]
    assert [reply["publish"]["offset"] for reply in replies] == list(range(1, 101))
    assert caller.broker.most_open == open_at_once


def test_a_thousand_refusals_are_not_a_thousand_calls_deep(caller: Caller) -> None:
    """Commands that are answered at once do not pile up on the stack."""
    replies = caller.call("batch", {"commands": [{}] * 1000})["replies"]
    assert len(replies) == 1000
    assert caller.call("batch", {"commands": [{}] * 1001})["error"]["code"] == 107
    assert caller.call("batch") == {"replies": []}


def test_after_error_100_a_batch_tries_no_more(caller: Caller) -> None:
    """A store that hangs must not hold the batch for a thousand timeouts."""
    caller.broker.error = DOWN
    commands = [{"publish": {"channel": "a", "data": n}} for n in range(50)]
    replies = caller.call("batch", {"commands": commands})["replies"]
    assert {reply["error"]["code"] for reply in replies} == {100}
    assert len(caller.broker.published) == 1


def test_a_batch_stops_when_its_answers_are_too_large(caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading a thousand long histories at once would be an answer of gigabytes."""
    monkeypatch.setattr("rt.web.batch.REPLY_BYTES", 200)
    replies = caller.call("batch", {"commands": [{"history": {"channel": "a", "limit": -1}}] * 10})["replies"]
    assert [("error" in reply) for reply in replies] == [False] * 3 + [True] * 7
    assert replies[-1]["error"]["code"] == 106
