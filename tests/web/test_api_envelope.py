"""The old form of the server API: one address, with the methods in the body."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rt.web import methods
from rt.web.envelope import METHODS
from tests.callers import DOWN, Caller, FakeRequest, with_api

UNKNOWN_CHANNEL = {"code": 102, "message": "unknown channel"}


@pytest.fixture
def caller() -> Caller:
    """A caller with a store of its own."""
    return Caller()


def old(caller: Caller, body: bytes, **options: Any) -> FakeRequest:
    """A request to ``/api`` itself."""
    return caller.request("", body, path="/api", **options)


def lines(caller: Caller, body: bytes) -> list[Any]:
    """The answers, decoded."""
    request = old(caller, body)
    assert request.answers[0][0] == 200 and request.sent["Content-Type"] == "application/json"
    return [json.loads(line) for line in request.answers[0][1].split(b"\n")]


@pytest.mark.parametrize("between", [b"", b"\n", b" ", b"\r\n", b"\n\n  \t"])
def test_commands_behind_one_another_are_answered_line_by_line(caller: Caller, between: bytes) -> None:
    """In their order, each under its id; what has none is answered without one."""
    body = between.join(
        [
            b'{"id":1,"method":"publish","params":{"channel":"a","data":{"a":"}"}}}',
            b'{"id":2,\n"method":"publish","params":{"channel":"no:a","data":1}}',
            b'{"method":"presence","params":{"channel":"room:a"}}',
            b'{"id":4294967295,"method":"publish","params":{"channel":"a","data":2}}',
        ]
    )
    assert lines(caller, body + between) == [
        {"id": 1, "result": {"offset": 1, "epoch": "x"}},
        {"id": 2, "error": UNKNOWN_CHANNEL},
        {"result": {"presence": {key: json.loads(info) for key, info in caller.broker.members.items()}}},
        {"id": 4294967295, "result": {"offset": 2, "epoch": "x"}},
    ]
    assert caller.broker.published[0][1] == b'{"data":{"a":"}"}}'
    assert caller.broker.most_open == 1


@pytest.mark.parametrize(("number", "name"), list(enumerate(METHODS)))
def test_a_number_stands_for_a_method(caller: Caller, number: int, name: str) -> None:
    """The answer is the same as under its name, in whatever case, and the same as at its own address."""
    params = {"channel": "room:a", "channels": ["room:a"], "data": 1, "user": "42", "method": "x"}
    for method in (number, name, name.upper()):
        caller = Caller()
        (answer,) = lines(caller, json.dumps({"method": method, "params": params}).encode())
        assert answer == Caller().call(name, params)
        assert len(answer) == 1


def test_a_command_may_leave_out_almost_everything(caller: Caller) -> None:
    """Without a method it is a publish, without params there are none."""
    assert lines(caller, b'{"params":{"channel":"a","data":1}}') == [{"result": {"offset": 1, "epoch": "x"}}]
    assert lines(caller, b'{"method":"info"}{"method":"info","params":null}')[0]["result"]["nodes"]
    assert [answer["error"]["code"] for answer in lines(caller, b'{}{"method":6}')] == [107, 107]


@pytest.mark.parametrize("method", [13, 99, -1])
def test_a_number_that_stands_for_nothing(caller: Caller, method: int) -> None:
    """Error 104, and the others are carried out."""
    answers = lines(caller, b'{"id":1,"method":%d}{"id":2,"method":9}' % method)
    assert answers[0] == {"id": 1, "error": {"code": 104, "message": "method not found"}}
    assert answers[1]["result"]["nodes"]


def test_params_of_a_wrong_type_are_an_error_of_their_command(caller: Caller) -> None:
    """107, as in a batch."""
    for params in (b"5", b"[]", b'"a"', b'{"channel":5}', b'{"channel":"a","data":1,"tags":[]}'):
        (answer,) = lines(caller, b'{"id":7,"method":"publish","params":%b}' % params)
        assert answer == {"id": 7, "error": {"code": 107, "message": "bad request"}}


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b" \r\n",
        b"null",
        b"5",
        b"[]",
        b'[{"method":"info"}]',
        b"{",
        b'{"id":1,"method":"info"}x',
        b'{"method":"info"},{"method":"info"}',
        b'{"method":"info","params":{}}}',
        b'{"method":"info","params":{"a":"\xff"}}',
        b'{"method":"nothing"}',
        b'{"method":"batch","params":{"commands":[]}}',
        b'{"method":""}',
        b'{"method":"0"}',
        b'{"method":1.5}',
        b'{"method":null}',
        b'{"method":4294967296}',
        b'{"id":-1,"method":"info"}',
        b'{"id":4294967296,"method":"info"}',
        b'{"id":"1","method":"info"}',
        b'{"method":"info","params":' + b"[" * 90_000,
    ],
)
def test_a_body_that_is_not_the_old_form_is_400(caller: Caller, bad: bytes) -> None:
    """In plain text, and nothing of it is carried out, also not what stands before the mistake."""
    for body in (bad, b'{"method":"publish","params":{"channel":"a","data":1}}\n' + bad if bad.strip() else bad):
        request = old(caller, body)
        assert request.answers == [(400, b"Bad Request")]
        assert request.sent["Content-Type"] == "text/plain"
    assert not caller.broker.published


def test_as_many_commands_as_in_a_batch(caller: Caller) -> None:
    """More are refused as a whole."""
    assert len(lines(caller, b'{"method":"rpc"}' * methods.BATCH_COMMANDS)) == methods.BATCH_COMMANDS
    assert old(caller, b'{"method":"rpc"}' * (methods.BATCH_COMMANDS + 1)).answers == [(400, b"Bad Request")]


def test_a_store_that_is_away_is_not_tried_for_each_command(caller: Caller) -> None:
    """All are answered, with error 100."""
    caller.broker.error = DOWN
    answers = lines(caller, b'{"params":{"channel":"a","data":1}}' * 50)
    assert [answer["error"]["code"] for answer in answers] == [100] * 50
    assert len(caller.broker.published) == 1


def test_the_old_address_asks_for_verb_and_key_too(caller: Caller) -> None:
    """405, 401 with an empty body, and the mode of errors leaves its lines alone; it is counted as one request."""
    assert old(caller, b'{"method":"info"}', method="GET").answers == [(405, b"Method Not Allowed")]
    assert old(caller, b'{"method":"info"}', key="wrong").answers == [(401, b"")]
    transport = Caller(with_api(error_mode="transport"))
    assert lines(transport, b'{"params":{"channel":"no:a","data":1}}') == [{"error": UNKNOWN_CHANNEL}]
    counted = 'rt_api_requests_total{code="0",method="legacy",tenant="default"} 1.0\n'
    assert counted in transport.metrics.render().decode()
