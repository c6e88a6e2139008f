"""What is done to a user's connections: what is written into the session, what all workers are told, in this order."""

from __future__ import annotations

import json
from base64 import b64encode
from typing import Any

import pytest

from rt.config import Client, Config
from rt.protocol import control, session
from rt.protocol.control import DisconnectUser, RefreshUser, SubscribeUser, UnsubscribeUser
from rt.protocol.options import Flag, Override, Terms
from rt.protocol.publication import Position
from tests.callers import CONFIG, DOWN, Caller

METHODS = ("subscribe", "unsubscribe", "disconnect", "refresh")
NOW = 1_700_000_000.5


@pytest.fixture
def caller(monkeypatch: pytest.MonkeyPatch) -> Caller:
    """A caller with a store of its own, at a fixed time."""
    monkeypatch.setattr("rt.web.users.time.time", lambda: NOW)
    return Caller()


def told(caller: Caller) -> list[control.Message | None]:
    """What the workers heard."""
    return [control.decode(body) for body in caller.broker.commands]


def written(changes: session.Changes, user: str = "42") -> list[tuple[Any, ...]]:
    """What the store is to have written for these changes."""
    return [(user, changes.set, sorted(changes.remove), 3600.0)]


@pytest.mark.parametrize(
    ("params", "terms", "since"),
    [
        ({}, Terms(), None),
        ({"info": {"a": 1}, "data": [1]}, Terms(b'{"a": 1}', b"[1]"), None),
        (
            {"b64info": b64encode(b'"i"').decode(), "b64data": b64encode(b"2").decode(), "data": 1},
            Terms(b'"i"', b"2"),
            None,
        ),
        (
            {"override": {"presence": {"value": True}, "force_recovery": {"value": False}, "join_leave": None}},
            Terms(override=Override(presence=Flag(True), force_recovery=Flag(False))),
            None,
        ),
        ({"expire_at": 1900000000}, Terms(expire_at=1900000000.0), None),
        ({"expire_at": 0}, Terms(), None),
        ({"recover_since": {"offset": 7, "epoch": "x"}}, Terms(), Position("x", 7)),
        ({"recover_since": {}}, Terms(), Position("", 0)),
        (
            dict.fromkeys(("info", "b64info", "data", "b64data", "override", "expire_at", "recover_since")),
            Terms(),
            None,
        ),
    ],
)
def test_subscribe_keeps_the_terms_and_tells_them(
    caller: Caller, params: Any, terms: Terms, since: Position | None
) -> None:
    """Where to recover from is for those who are there; all else is for those who come later too."""
    assert caller.call("subscribe", {"user": "42", "channel": "room:a"} | params) == {"result": {}}
    assert told(caller) == [SubscribeUser(user="42", channel="room:a", terms=terms, since=since)]
    assert caller.broker.written == written(session.subscribed("room:a", terms))
    assert caller.broker.order == ["write", "command"]


def test_unsubscribe_from_one_channel(caller: Caller) -> None:
    """The session remembers when, so that older tokens do not bring it back."""
    assert caller.call("unsubscribe", {"user": "42", "channel": "room:a"}) == {"result": {}}
    assert told(caller) == [UnsubscribeUser(user="42", channel="room:a", at=NOW)]
    assert caller.broker.written == written(session.unsubscribed("room:a", NOW))
    assert caller.broker.order == ["write", "command"]


@pytest.mark.parametrize("params", [{}, {"channel": ""}, {"channel": None}])
def test_unsubscribe_from_all_channels(caller: Caller, params: Any) -> None:
    """What the session names is removed from it; a namespace is not looked for."""
    caller.broker.sessions["42"] = session.subscribed("a", Terms()).set | session.unsubscribed("gone:b", NOW - 1).set
    assert caller.call("unsubscribe", {"user": "42"} | params) == {"result": {}}
    assert told(caller) == [UnsubscribeUser(user="42", channel="", at=NOW)]
    assert caller.broker.written == written(session.unsubscribed_all(["a", "gone:b"], NOW))
    assert caller.broker.order == ["read", "write", "command"]


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({}, DisconnectUser(user="42", code=3503, reason="force disconnect")),
        ({"disconnect": None, "whitelist": None}, DisconnectUser(user="42", code=3503, reason="force disconnect")),
        (
            {"disconnect": {"code": 4100, "reason": "é"}, "whitelist": ["c1", "c2"]},
            DisconnectUser(user="42", code=4100, reason="é", whitelist=("c1", "c2")),
        ),
        ({"disconnect": {"code": 3000}}, DisconnectUser(user="42", code=3000)),
        ({"disconnect": {"code": 4999, "reason": "r" * 123}}, DisconnectUser(user="42", code=4999, reason="r" * 123)),
    ],
)
def test_disconnect_tells_the_code_and_who_may_stay(caller: Caller, params: Any, expected: DisconnectUser) -> None:
    """It is no part of the session: who was disconnected may come back as the code allows."""
    assert caller.call("disconnect", {"user": "42"} | params) == {"result": {}}
    assert told(caller) == [expected]
    assert caller.broker.order == ["command"]


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({}, RefreshUser(user="42", at=NOW)),
        ({"expire_at": 1900000000}, RefreshUser(user="42", expire_at=1900000000.0, at=NOW)),
        ({"expired": True}, RefreshUser(user="42", expired=True, at=NOW)),
        ({"expired": True, "info": 1}, RefreshUser(user="42", expired=True, info=b"1", at=NOW)),
        ({"expired": None, "expire_at": None, "info": None}, RefreshUser(user="42", at=NOW)),
    ],
)
def test_refresh_tells_the_new_end(caller: Caller, params: Any, expected: RefreshUser) -> None:
    """Absent is for ever; nothing of it is kept for who comes later."""
    assert caller.call("refresh", {"user": "42"} | params) == {"result": {}}
    assert told(caller) == [expected]
    assert caller.broker.order == ["command"]


def test_refresh_with_an_info_replaces_it_for_later_too(caller: Caller) -> None:
    """It is written first."""
    assert caller.call("refresh", b'{"user":"42","info":{"n":\n1.0}}') == {"result": {}}
    assert told(caller) == [RefreshUser(user="42", info=b'{"n":1.0}', at=NOW)]
    assert caller.broker.written == written(session.informed(b'{"n":1.0}', NOW))
    assert caller.broker.order == ["write", "command"]


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ({}, ("", "", "")),
        ({"user": ""}, ("", "", "")),
        ({"user": None, "client": None, "session": None}, ("", "", "")),
        ({"client": "c1"}, ("", "c1", "")),
        ({"user": "42", "client": "c1"}, ("42", "c1", "")),
        ({"user": "42", "session": "s1"}, ("42", "", "s1")),
        ({"user": "42", "client": "c1", "session": "s1"}, ("42", "c1", "s1")),
    ],
)
def test_some_connections_alone_and_the_anonymous_have_no_session(
    caller: Caller, name: str, target: Any, expected: tuple[str, str, str]
) -> None:
    """No user means the anonymous, never everybody; the workers are told who is meant, and nothing is kept."""
    assert caller.call(name, {"channel": "a", "info": 1} | target) == {"result": {}}
    (message,) = told(caller)
    assert isinstance(message, SubscribeUser | UnsubscribeUser | DisconnectUser | RefreshUser)
    assert (message.user, message.client, message.session) == expected
    assert caller.broker.order == ["command"]


@pytest.mark.parametrize("params", [{"channel": "a", "info": 1}, {}])
def test_without_sessions_nothing_is_kept(params: Any) -> None:
    """With a life of 0 only those who are connected hear of it."""
    caller = Caller(Config(http_api=CONFIG.http_api, channel=CONFIG.channel, client=Client(session_ttl=0.0)))
    for name in METHODS:
        caller.call(name, {"user": "42"} | params)
    assert set(caller.broker.order) == {"command"}


@pytest.mark.parametrize(
    ("name", "params", "code"),
    [
        ("subscribe", {}, 107),
        ("subscribe", {"channel": ""}, 107),
        ("subscribe", {"channel": "a b"}, 107),
        ("subscribe", {"channel": "no:a"}, 102),
        ("subscribe", {"channel": "a", "b64info": "?"}, 107),
        ("subscribe", {"channel": "a", "b64data": b64encode(b"{").decode()}, 107),
        ("subscribe", {"channel": "a", "data": json.loads("[" * 200 + "]" * 200)}, 107),
        ("subscribe", {"channel": "a", "data": "x" * 65536}, 107),
        ("unsubscribe", {"channel": "a b"}, 107),
        ("unsubscribe", {"channel": "no:a"}, 102),
        ("disconnect", {"disconnect": {}}, 107),
        ("disconnect", {"disconnect": {"code": 2999, "reason": ""}}, 107),
        ("disconnect", {"disconnect": {"code": 5000, "reason": ""}}, 107),
        ("disconnect", {"disconnect": {"code": -1}}, 107),
        ("disconnect", {"disconnect": {"code": 4000, "reason": "é" * 62}}, 107),
        ("disconnect", {"whitelist": ["c" * 36] * 2000}, 107),
        ("refresh", {"info": json.loads("[" * 200 + "]" * 200)}, 107),
        ("refresh", {"info": "x" * 65536}, 107),
    ],
)
def test_what_cannot_be_done_to_a_user(caller: Caller, name: str, params: Any, code: int) -> None:
    """The error says why; nothing is kept, and nobody is told."""
    assert caller.call(name, {"user": "42"} | params)["error"]["code"] == code
    assert not caller.broker.order


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("subscribe", {"user": 42}),
        ("subscribe", {"override": {"presence": True}}),
        ("subscribe", {"override": {"presence": {"value": 1}}}),
        ("subscribe", {"recover_since": {"offset": -1}}),
        ("subscribe", {"recover_since": 7}),
        ("subscribe", {"expire_at": "soon"}),
        ("unsubscribe", {"channel": ["a"]}),
        ("disconnect", {"whitelist": "c1"}),
        ("disconnect", {"whitelist": [1]}),
        ("disconnect", {"disconnect": {"code": "4000"}}),
        ("disconnect", {"disconnect": 4000}),
        ("refresh", {"expired": 1}),
        ("refresh", {"expire_at": True}),
        ("refresh", {"client": {}}),
    ],
)
def test_fields_of_a_wrong_type_are_400(caller: Caller, name: str, params: Any) -> None:
    """In plain text, as for every method."""
    request = caller.request(name, {"user": "42", "channel": "a"} | params)
    assert request.answers == [(400, b"Bad Request")]
    assert not caller.broker.order


@pytest.mark.parametrize("params", [{"channel": "a", "info": 1}, {}])
@pytest.mark.parametrize("name", METHODS)
def test_a_store_that_is_away_is_asked_once(caller: Caller, name: str, params: Any) -> None:
    """Error 100 with the time to come back; where the session could not be written, nobody is told either."""
    caller.broker.error = DOWN
    request = caller.request(name, {"user": "42", "channel": "a"} | params)
    assert json.loads(request.answers[0][1])["error"]["code"] == 100
    assert request.sent["Retry-After"] == "1" and len(caller.broker.order) == 1


def test_a_full_session_forgets_the_oldest_ends_together(caller: Caller) -> None:
    """Half of them become one end of all channels, not earlier than the newest of them: nothing comes back by that."""
    for name in "abcde":
        changes = session.unsubscribed(name, NOW - 100 + ord(name))
        caller.broker.sessions.setdefault("42", {}).update(changes.set)
    caller.broker.sessions["42"] |= session.subscribed("kept", Terms()).set
    caller.broker.full = 1
    assert caller.call("unsubscribe", {"user": "42", "channel": "a"}) == {"result": {}}
    assert caller.broker.order == ["write", "read", "write", "command"]
    user, fields, removed, _ = caller.broker.written[-1]
    assert (user, removed) == ("42", ["off:b", "off:c", "sub:a", "sub:a", "sub:b", "sub:c"])
    assert session.decode(fields, NOW).off == {"": NOW - 100 + ord("c"), "a": NOW}


def test_a_full_session_without_an_end_to_forget_is_106(caller: Caller) -> None:
    """Nobody is told what could not be kept."""
    caller.broker.full = 2
    assert caller.call("subscribe", {"user": "42", "channel": "a"})["error"]["code"] == 106
    assert caller.broker.order == ["write", "read", "write"] and not caller.broker.commands
