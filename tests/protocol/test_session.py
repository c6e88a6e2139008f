"""The session: what the server API said outlives the connection, but not a newer token."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rt.protocol import session
from rt.protocol.options import Terms
from rt.protocol.session import Changes, Session

NOW = 1_700_000_000.5
A, B = Terms(b'"a"'), Terms(b'"b"')


class Store:
    """The hash of one user, as the store keeps it."""

    def __init__(self) -> None:
        self.fields: dict[str, bytes] = {}

    def apply(self, changes: Changes) -> None:
        """Write and remove, all at once."""
        assert not set(changes.set) & set(changes.remove)
        self.fields.update(changes.set)
        for field in changes.remove:
            self.fields.pop(field, None)

    def read(self, now: float = NOW) -> Session:
        """The session as it stands."""
        return session.decode(self.fields, now)


def test_subscribed_until_unsubscribed() -> None:
    """A subscription stays until it is taken away, and can be given again."""
    store = Store()
    store.apply(session.subscribed("a", A))
    assert store.read().merged({}, 0) == {"a": A}
    store.apply(session.unsubscribed("a", NOW))
    assert store.read().merged({}, 0) == {}
    assert store.fields == {"off:a": b"1700000000.5"}
    store.apply(session.subscribed("a", B))
    assert store.read().merged({}, 0) == {"a": B}
    assert list(store.fields) == ["sub:a"]


def test_unsubscribed_from_all() -> None:
    """All subscriptions go, and no token of before brings any."""
    store = Store()
    store.apply(session.subscribed("a", A))
    store.apply(session.unsubscribed("b", NOW))
    known = store.read().channels
    assert known == {"a", "b"}
    store.apply(session.unsubscribed_all(known, NOW + 1))
    assert list(store.fields) == ["off:"]
    assert store.read().channels == set()
    assert store.read().merged({"c": A}, NOW) == {}
    store.apply(session.subscribed("a", B))
    assert store.read().merged({"c": A}, NOW) == {"a": B}


@pytest.mark.parametrize(
    ("off", "issued_at", "kept"),
    [
        ({}, 0.0, True),
        ({}, NOW, True),
        ({"a": NOW}, 0.0, False),
        ({"a": NOW}, NOW - 0.5, False),
        ({"a": NOW}, NOW, True),
        ({"a": NOW}, NOW + 1, True),
        ({"": NOW}, 0.0, False),
        ({"": NOW}, NOW - 1, False),
        ({"": NOW}, NOW + 1, True),
        ({"": NOW + 2, "a": NOW}, NOW + 1, False),
        ({"": NOW, "a": NOW + 2}, NOW + 1, False),
        ({"b": NOW}, 0.0, True),
    ],
)
def test_token_and_unsubscribe(off: dict[str, float], issued_at: float, kept: bool) -> None:
    """The later of the two counts; a token that does not say when it was issued is older than any call."""
    read = Session()
    read.off = off
    assert read.merged({"a": A}, issued_at) == ({"a": A} if kept else {})


def test_session_over_token() -> None:
    """Where both name a channel, the terms of the API count."""
    read = Session()
    read.subs = {"a": B}
    assert read.merged({"a": A, "c": A}, NOW) == {"a": B, "c": A}


def test_expired_subscriptions_are_over() -> None:
    """A subscription whose time is over is not read any more."""
    store = Store()
    store.apply(session.subscribed("a", Terms(expire_at=NOW)))
    store.apply(session.subscribed("b", Terms(expire_at=NOW + 1)))
    assert set(store.read(NOW).subs) == {"b"}
    assert set(store.read(NOW + 1).subs) == set()


@pytest.mark.parametrize(
    ("info", "issued_at", "expected"),
    [
        (b'{"n":2}', 0.0, b'{"n":2}'),
        (b'{"n":2}', NOW - 1, b'{"n":2}'),
        (b'{"n":2}', NOW + 1, b'{"n":1}'),
        (b"", 0.0, b""),
        (b"", NOW + 1, b'{"n":1}'),
    ],
)
def test_conn_info(info: bytes, issued_at: float, expected: bytes) -> None:
    """What was replaced stays replaced, by nothing too, until a token is issued anew."""
    store = Store()
    assert store.read().conn_info(b'{"n":1}', issued_at) == b'{"n":1}'
    store.apply(session.informed(info, NOW))
    assert store.read().conn_info(b'{"n":1}', issued_at) == expected


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("sub:b", b"{"),
        ("sub:b", b'{"expire_at":"soon"}'),
        ("off:b", b"soon"),
        ("off:b", b"[" * 100_000),
        ("info", b"{}"),
        ("info", b'{"at":1'),
        ("later", b"1"),
        ("", b""),
    ],
    ids=range(8),
)
def test_nonsense_is_skipped(field: str, value: bytes) -> None:
    """A field that cannot be read does not spoil the others."""
    store = Store()
    store.fields[field] = value
    store.apply(session.subscribed("a", A))
    read = store.read()
    assert (read.subs, read.off, read.info) == ({"a": A}, {}, None)


@given(st.dictionaries(st.sampled_from(["sub:a", "off:a", "off:", "info"]), st.binary(max_size=20)))
def test_any_fields_are_a_session(fields: dict[str, bytes]) -> None:
    """Whatever stands in the store, a session is read and can be used."""
    read = session.decode(fields, NOW)
    read.merged({"a": A}, NOW)
    read.conn_info(b"1", NOW)


STEPS = st.lists(
    st.tuples(st.sampled_from(["subscribe", "unsubscribe", "all", "token"]), st.sampled_from("abc")), max_size=12
)


@given(STEPS)
def test_the_last_word_counts(steps: list[tuple[str, str]]) -> None:
    """For each channel the last of token and calls decides, whatever came before."""
    store, model = Store(), set[str]()
    token, issued_at = dict[str, Terms](), 0.0
    for at, (step, channel) in enumerate(steps, start=1):
        match step:
            case "subscribe":
                store.apply(session.subscribed(channel, B))
                model.add(channel)
            case "unsubscribe":
                store.apply(session.unsubscribed(channel, at))
                model.discard(channel)
            case "all":
                store.apply(session.unsubscribed_all(store.read().channels, at))
                model.clear()
            case "token":
                # A new token forgets what the one before gave.
                model = {name for name in model if name in store.read().subs}
                token, issued_at = {channel: A}, float(at)
                model.add(channel)
        assert set(store.read().merged(token, issued_at)) == model
