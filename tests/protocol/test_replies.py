"""Replies and pushes, byte by byte."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rt import errors
from rt.protocol import replies
from rt.protocol.publication import Position, Publication
from rt.protocol.replies import ConnectResult, SubscribeResult

FIRST = Publication(b'{"data":{"a":1}}', "x", 11)
SECOND = Publication(b'{"data":2}', "x", 12)


@pytest.mark.parametrize(
    ("error", "data"),
    [
        (errors.PERMISSION_DENIED, b'{"id":3,"error":{"code":103,"message":"permission denied"}}'),
        (errors.INTERNAL, b'{"id":3,"error":{"code":100,"message":"internal server error","temporary":true}}'),
        (errors.TOO_MANY_REQUESTS, b'{"id":3,"error":{"code":111,"message":"too many requests","temporary":true}}'),
    ],
)
def test_error(error: errors.Error, data: bytes) -> None:
    """Code and message are always there, temporary only when it is so."""
    assert replies.error(3, error) == data
    assert replies.error_object(error) in data


def test_every_error_of_the_table() -> None:
    """Every error can be told, and no message breaks its line."""
    for error in vars(errors).values():
        if isinstance(error, errors.Error):
            told = json.loads(replies.error(2**32 - 1, error))["error"]
            assert told["code"] == error.code
            assert told.get("temporary", False) == error.temporary


@pytest.mark.parametrize(
    ("result", "body"),
    [
        (ConnectResult(client="c", version="0.1.0"), {"client": "c", "version": "0.1.0"}),
        (
            ConnectResult(client="c", version="v", ping=25, pong=True, node="w0"),
            {"client": "c", "version": "v", "ping": 25, "pong": True, "node": "w0"},
        ),
        (
            ConnectResult(client="c", version="v", expires=True, ttl=60, data=msgspec.Raw(b'{"a":1}')),
            {"client": "c", "version": "v", "expires": True, "ttl": 60, "data": {"a": 1}},
        ),
        (
            ConnectResult(
                client="c", version="v", subs={"a": SubscribeResult(epoch="x", offset=3), "b": SubscribeResult()}
            ),
            {"client": "c", "version": "v", "subs": {"a": {"epoch": "x", "offset": 3}, "b": {}}},
        ),
    ],
)
def test_connect(result: ConnectResult, body: object) -> None:
    """A connect result names client and version, and leaves out what is zero."""
    assert json.loads(replies.connect(1, result)) == {"id": 1, "connect": body}
    assert json.loads(replies.connect_object(result)) == body
    assert json.loads(replies.connect_message(result, "x.3,-")) == {"connect": body, "cursor": "x.3,-"}


@pytest.mark.parametrize(
    ("result", "data"),
    [
        (SubscribeResult(), b"{}"),
        (
            SubscribeResult(recoverable=True, positioned=True, epoch="x", offset=10),
            b'{"recoverable":true,"positioned":true,"epoch":"x","offset":10}',
        ),
        (
            SubscribeResult(
                epoch="x",
                offset=10,
                publications=replies.publications([FIRST, SECOND]),
                recovered=True,
                was_recovering=True,
            ),
            b'{"epoch":"x","offset":10,"publications":[{"data":{"a":1},"offset":11},{"data":2,"offset":12}],'
            b'"recovered":true,"was_recovering":true}',
        ),
        (
            SubscribeResult(epoch="x", offset=12, publications=[], was_recovering=True, recovered=len("x") > 1),
            b'{"epoch":"x","offset":12,"was_recovering":true}',
        ),
        (SubscribeResult(expires=True, ttl=60, data=msgspec.Raw(b"[1]")), b'{"expires":true,"ttl":60,"data":[1]}'),
        (SubscribeResult(epoch="xyz"[3:], offset=int("0")), b"{}"),
    ],
)
def test_subscribe(result: SubscribeResult, data: bytes) -> None:
    """A subscribe result leaves out what is zero, and is never absent."""
    assert replies.subscribe(2, result) == b'{"id":2,"subscribe":' + data + b"}"


def test_history() -> None:
    """A history always says all three: publications, offset and epoch."""
    assert (
        replies.history(3, Position("x", 13), []) == b'{"id":3,"history":{"publications":[],"offset":13,"epoch":"x"}}'
    )
    assert replies.history(3, Position("", 0), []) == b'{"id":3,"history":{"publications":[],"offset":0,"epoch":""}}'
    assert json.loads(replies.history(3, Position("x", 12), [SECOND, FIRST]))["history"]["publications"] == [
        {"data": 2, "offset": 12},
        {"data": {"a": 1}, "offset": 11},
    ]


@pytest.mark.parametrize("kind", ["publish", "unsubscribe"])
def test_results_without_fields(kind: str) -> None:
    """An empty result is an object all the same."""
    assert json.loads(replies.done(4, kind)) == {"id": 4, kind: {}}


@pytest.mark.parametrize(
    ("reply", "data"),
    [
        (replies.refresh(5, expires=True, ttl=60), b'{"id":5,"refresh":{"expires":true,"ttl":60}}'),
        (replies.refresh(5, expires=False, ttl=0), b'{"id":5,"refresh":{}}'),
        (replies.sub_refresh(5, expires=True, ttl=60), b'{"id":5,"sub_refresh":{"expires":true,"ttl":60}}'),
        (replies.sub_refresh(5, expires=False, ttl=0), b'{"id":5,"sub_refresh":{}}'),
        (replies.presence(5, {}), b'{"id":5,"presence":{"presence":{}}}'),
        (
            replies.presence(5, {"c": replies.client_info("42", "c"), "d": replies.client_info("", "d", b"[1]")}),
            b'{"id":5,"presence":{"presence":{"c":{"user":"42","client":"c"},'
            b'"d":{"user":"","client":"d","conn_info":[1]}}}}',
        ),
        (replies.presence_stats(5, 0, 0), b'{"id":5,"presence_stats":{"num_clients":0,"num_users":0}}'),
        (replies.presence_stats(5, 3, 2), b'{"id":5,"presence_stats":{"num_clients":3,"num_users":2}}'),
    ],
)
def test_rights_and_presence(reply: bytes, data: bytes) -> None:
    """A right that does not end says nothing; presence and its counts are always said."""
    assert reply == data


RESULT = SubscribeResult(recoverable=True, positioned=True, epoch="x", offset=3, data=msgspec.Raw(b"[1]"))


@pytest.mark.parametrize(
    ("body", "data"),
    [
        (
            replies.unsubscribe_body("chat:1", errors.UNSUBSCRIBE_EXPIRED),
            b'{"channel":"chat:1","unsubscribe":{"code":2501,"reason":"subscription expired"}}',
        ),
        (
            replies.subscribe_body("a", RESULT),
            b'{"channel":"a","subscribe":{"recoverable":true,"positioned":true,"epoch":"x","offset":3,"data":[1]}}',
        ),
        (replies.subscribe_body("a", SubscribeResult()), b'{"channel":"a","subscribe":{}}'),
        (replies.refresh_body(expires=True, ttl=60), b'{"refresh":{"expires":true,"ttl":60}}'),
        (replies.refresh_body(expires=False, ttl=0), b'{"refresh":{}}'),
        (
            replies.connect_body(ConnectResult(client="c", version="v", session="s", ping=25)),
            b'{"connect":{"client":"c","version":"v","ping":25,"session":"s"}}',
        ),
        (
            replies.disconnect_body(errors.custom(4000, 'a "b"\n')),
            b'{"disconnect":{"code":4000,"reason":"a \\"b\\"\\n"}}',
        ),
    ],
)
def test_bodies_of_pushes(body: bytes, data: bytes) -> None:
    """A body is a whole message where there is no SDK, and stands in a push where there is one."""
    assert body == data
    assert json.loads(replies.push(body)) == {"push": json.loads(data)}


def test_reasons_alone() -> None:
    """Why a stream ends can be said without anything around it."""
    assert replies.disconnect_object(errors.GONE) == b'{"code":1001,"reason":""}'
    assert replies.PING == b"{}"


@pytest.mark.parametrize(
    ("info", "data"),
    [
        (replies.client_info("", ""), b'{"user":"","client":""}'),
        (replies.client_info("42", "c", b'{"n":1}'), b'{"user":"42","client":"c","conn_info":{"n":1}}'),
        (replies.client_info("42", "c", b"", b"[2]"), b'{"user":"42","client":"c","chan_info":[2]}'),
    ],
)
def test_client_info(info: bytes, data: bytes) -> None:
    """User and client are always there, what is known about them only when something is."""
    assert info == data


@given(st.text(), st.text(), st.dictionaries(st.text(), st.text()))
def test_strangers_in_bodies(user: str, client: str, tags: dict[str, str]) -> None:
    """No user and no tag can break out of the JSON or out of its line."""
    body = replies.publication_body(b'"x"', replies.client_info(user, client), tags)
    assert b"\n" not in body
    assert b"\r" not in body
    expected: dict[str, object] = {"data": "x", "info": {"user": user, "client": client}}
    assert json.loads(body) == (expected | {"tags": tags} if tags else expected)


def test_publication_body() -> None:
    """A body holds the data, and takes an offset at its end."""
    assert replies.publication_body(b'{"a":1}') == b'{"data":{"a":1}}'
    assert replies.publication_body(b"1", tags={"k": "v"}) == b'{"data":1,"tags":{"k":"v"}}'
    body = replies.publication_body(b"1", b'{"user":"","client":""}', {})
    assert Publication(body, "x", 5).encoded() == b'{"data":1,"info":{"user":"","client":""},"offset":5}'


def test_the_same_publications_are_encoded_once() -> None:
    """Thousands come back from one position: for all of them it is one list, and for others another."""
    same = replies.publications([FIRST, SECOND])
    assert replies.publications([FIRST, SECOND]) is same
    assert [bytes(one) for one in replies.publications([SECOND])] == [bytes(same[1])]
