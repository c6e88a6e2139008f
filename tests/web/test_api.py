"""The door of the server API: address, verb, key, form, and the two ways to tell an error."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, cast

import pytest

from rt.config import Channel, Config, HttpApi, Namespace
from tests.callers import CONFIG, DOWN, Caller, FakeRequest, make_api, with_api

if TYPE_CHECKING:
    from rt.web.request import Request


@pytest.fixture
def caller() -> Caller:
    """A caller with a store of its own."""
    return Caller()


@pytest.mark.parametrize(
    ("key", "headers", "query", "status"),
    [
        ("kéy", [], "", 200),
        (None, [("Authorization", "apikey k\xc3\xa9y")], "", 200),
        (None, [("Authorization", "APIKEY  k\xc3\xa9y")], "", 200),
        (None, [], "api_key=k%C3%A9y", 200),
        (None, [], "", 401),
        ("", [], "", 401),
        ("key", [], "", 401),
        ("kéyx", [], "", 401),
        (None, [("Authorization", "Bearer k\xc3\xa9y")], "", 401),
        (None, [("Authorization", "apikey")], "", 401),
        (None, [("Authorization", "apikeyk\xc3\xa9y")], "", 401),
        (None, [], "api_key=", 401),
        (None, [], "api_key=k%E9y", 401),
        (None, [], "api_key=wrong&api_key=k%C3%A9y", 401),
        ("kéy", [("X-API-Key", "k\xc3\xa9y")], "", 401),
        ("wrong", [], "api_key=k%C3%A9y", 401),
    ],
)
def test_the_key_in_three_places(
    caller: Caller, key: str | None, headers: list[tuple[str, str]], query: str, status: int
) -> None:
    """Header, Authorization or query; anything else is 401 with an empty body."""
    request = caller.request("info", key=key, headers=headers, query=query)
    assert request.answers[0][0] == status
    if status == 401:
        assert request.answers == [(401, b"")]


@pytest.mark.parametrize("key", [None, "", "anything"])
def test_without_a_configured_key_nobody_may_call(key: str | None) -> None:
    """The default config refuses all, also an empty key; insecure lets everybody in."""
    assert Caller(Config()).request("info", key=key).answers == [(401, b"")]
    assert Caller(Config(http_api=HttpApi(insecure=True))).request("info", key=key).answers[0][0] == 200


@pytest.mark.parametrize(
    "name",
    [
        "",
        "nothing",
        "publish/",
        "publish/x",
        "Publish",
        "legacy",
        "envelope",
        "map_publish",
        "map_connections",
        "../health",
        "__proto__",
    ],
)
def test_unknown_addresses_are_404(caller: Caller, name: str) -> None:
    """Also without a key: which methods there are is no secret."""
    assert caller.request(name, key=None).answers == [(404, b"Not Found")]
    assert caller.request(name, method="GET").answers == [(404, b"Not Found")]


@pytest.mark.parametrize("verb", ["GET", "HEAD", "PUT", "OPTIONS", "post"])
def test_only_post_may_call(caller: Caller, verb: str) -> None:
    """405 says what is allowed."""
    request = caller.request("publish", method=verb)
    assert request.answers == [(405, b"Method Not Allowed")]
    assert request.sent["Allow"] == "POST"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"5",
        b'{"channel":"a","data":{}}x',
        b'\xef\xbb\xbf{"channel":"a","data":1}',
        b'{"channel":"a","data":"\xff"}',
        b'{"channel":"\xff","data":1}',
        b'{"channel":"a","data":1,"unknown":"\xff"}',
        b'{"channel":"\\ud800","data":1}',
        b'{"channel":5,"data":1}',
        b'{"channel":"a","data":01}',
        b'{"channel":"a","data":NaN}',
        b'{"channel":"a","data":1,"tags":{"a":1}}',
        b'{"channel":"a","data":' + b"[" * 90_000 + b"}",
    ],
)
def test_what_is_no_request_is_400(caller: Caller, body: bytes) -> None:
    """Malformed JSON, bytes that are no UTF-8, and fields of a wrong type: in plain text, and nothing is published."""
    request = caller.request("publish", body)
    assert request.answers == [(400, b"Bad Request")]
    assert request.sent["Content-Type"] == "text/plain"
    assert not caller.broker.published


@pytest.mark.parametrize("by_header", [True, False])
@pytest.mark.parametrize(
    ("name", "params", "error", "status", "code"),
    [
        ("publish", {"channel": "a", "data": 1}, DOWN, 500, 100),
        ("publish", {"channel": "no:a", "data": 1}, None, 404, 102),
        ("rpc", {"method": "anything"}, None, 404, 104),
        ("presence", {"channel": "a"}, None, 400, 108),
        ("subscribe", {"user": "42", "channel": "no:a"}, None, 404, 102),
        ("refresh", {"user": "42"}, DOWN, 500, 100),
        ("publish", {"channel": "", "data": 1}, None, 400, 107),
        ("history", {"channel": "live:a"}, None, 400, 108),
        ("history", {"channel": "a", "since": {"offset": 1, "epoch": "other"}}, None, 416, 112),
    ],
)
def test_in_transport_mode_the_status_tells_the_error(
    by_header: bool, name: str, params: Any, error: Exception | None, status: int, code: int
) -> None:
    """The error object stands alone, and a temporary error says when to come back."""
    caller = Caller(CONFIG if by_header else with_api(error_mode="transport"))
    caller.broker.error = error
    headers = [("X-Centrifugo-Error-Mode", "transport")] if by_header else []
    request = caller.request(name, params, headers=headers)
    assert request.answers[0][0] == status
    assert json.loads(request.answers[0][1])["code"] == code
    assert request.sent.get("Retry-After") == ("1" if code == 100 else None)


def test_transport_mode_leaves_the_items_of_batch_and_broadcast_alone() -> None:
    """Their own status is that they were carried out."""
    caller = Caller(with_api(error_mode="transport"))
    bad = {"error": {"code": 102, "message": "unknown channel"}}
    assert caller.call("broadcast", {"channels": ["no:a"], "data": 1})["result"]["responses"] == [bad]
    assert caller.call("batch", {"commands": [{"publish": {"channel": "no:a", "data": 1}}]}) == {"replies": [bad]}


@pytest.mark.parametrize("error", [DOWN, asyncio.CancelledError(), RuntimeError("a bug")])
def test_a_store_that_fails_is_error_100_with_the_time_to_retry(caller: Caller, error: BaseException) -> None:
    """Whatever the reason, the call is answered, with status 200 and a header."""
    caller.broker.error = error
    request = caller.request("publish", {"channel": "a", "data": 1})
    assert json.loads(request.answers[0][1]) == {"error": {"code": 100, "message": "internal server error"}}
    assert request.answers[0][0] == 200 and request.sent["Retry-After"] == "1"


def test_every_answer_is_counted(caller: Caller) -> None:
    """By method and code; an address that does not exist is not a label."""
    caller.call("publish", {"channel": "a", "data": 1})
    caller.call("publish", {"channel": "no:a", "data": 1})
    caller.request("publish", b"{")
    caller.request("anything")
    text = caller.metrics.render().decode()
    for line in (
        'rt_api_requests_total{code="0",method="publish",tenant="default"} 1.0',
        'rt_api_requests_total{code="102",method="publish",tenant="default"} 1.0',
        'rt_api_requests_total{code="400",method="publish",tenant="default"} 1.0',
        'rt_api_requests_total{code="404",method="unknown",tenant="default"} 1.0',
    ):
        assert line + "\n" in text


def test_a_new_config_holds_from_the_next_request_on(caller: Caller) -> None:
    """Key, mode and namespaces are exchanged in place."""

    async def run() -> list[FakeRequest]:
        api = make_api(CONFIG, caller.broker, caller.metrics)
        api.reload(Config(http_api=HttpApi(key="new"), channel=Channel(namespaces=(Namespace(name="no"),))))
        requests = [
            FakeRequest("/api/publish", b'{"channel":"no:a","data":1}', headers=[("X-API-Key", key)])
            for key in ("k\xc3\xa9y", "new")
        ]
        for request in requests:
            api.door(cast("Request", request))
        while not requests[1].answers:
            await asyncio.sleep(0)
        return requests

    old, new = asyncio.run(run())
    assert old.answers == [(401, b"")] and new.answers[0][0] == 200


def test_stopping_answers_who_still_waits(caller: Caller) -> None:
    """A call that asks all workers is ended with error 100, and no task is left behind."""

    async def run() -> FakeRequest:
        api = make_api(CONFIG, caller.broker, caller.metrics)
        request = FakeRequest("/api/info", b"{}", headers=[("X-API-Key", "k\xc3\xa9y")])
        api.door(cast("Request", request))
        await api.stop()
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return request

    assert json.loads(asyncio.run(run()).answers[0][1])["error"]["code"] == 100
