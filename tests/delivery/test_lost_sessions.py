"""rt.delivery.sessions: what a worker remembers of sessions, for a store that lost them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from rt.broker.sessions import MAX_FIELDS
from rt.errors import StoreError
from rt.protocol import session
from rt.protocol.control import RefreshUser, SubscribeUser, UnsubscribeUser
from rt.protocol.options import Terms
from tests.delivery.hubs import MemoryStore, Sdk, finish, make_hub, run, token, turns
from tests.delivery.test_server_side import connect_subs, fields

PLAIN = Terms()


class Forgetful(MemoryStore):
    """Has sessions given back, but not those of the users in ``refused``."""

    def __init__(self) -> None:
        super().__init__()
        self.sessions_used = True
        self.refused: set[str] = set()

    def restore_session(
        self, user: str, fields: Sequence[tuple[str, bytes, Sequence[str]]], ttl: float
    ) -> asyncio.Future[None]:
        def do() -> None:
            there = self.sessions.setdefault(user, {})
            there.update({field: value for field, value, rivals in fields if there.keys().isdisjoint((field, *rivals))})

        future: asyncio.Future[Any] = self._later(do)
        if user in self.refused:
            future.set_exception(StoreError("not now", definite=True))
        return future


def test_who_comes_before_a_session_is_given_back_is_no_reason_to_forget_it() -> None:
    """The store is empty, or has only what was said since; the other connection gets the whole."""

    async def test() -> None:
        for since in ({}, fields(session.subscribed("new", PLAIN)), fields(session.unsubscribed("a", 1.0))):
            store = Forgetful()
            hub = make_hub(store)
            whole = fields(session.subscribed("a", PLAIN), session.unsubscribed("b", 1.0))
            store.sessions["42"] = whole
            Sdk(hub, token())
            await turns(store)
            store.sessions["42"] = dict(since)
            second = Sdk(hub, token())
            await turns(store)
            expected = {field: value for field, value in whole.items() if "off:a" not in since or field != "sub:a"}
            assert store.sessions["42"] == expected | since
            assert set(connect_subs(second)) == {"a", "new"} & {field[4:] for field in store.sessions["42"]} - (
                {"a"} if "off:a" in since else set()
            )
            await finish(hub)

    run(test)


def test_one_that_cannot_be_given_back_is_not_in_the_way_of_others() -> None:
    """And is tried again."""

    async def test() -> None:
        store = Forgetful()
        hub = make_hub(store)
        users = [str(n) for n in range(250)]
        for user in users:
            store.sessions[user] = fields(session.subscribed("a", PLAIN))
            Sdk(hub, token(user))
        await turns(store, 2000)
        store.sessions.clear()
        store.refused = {"0"}
        hub.check_all()
        await turns(store, 1000)
        assert store.sessions.keys() == set(users[1:])
        store.refused.clear()
        hub._touch_sessions(hub.now())
        await turns(store, 1000)
        assert store.sessions.keys() == set(users)
        await finish(hub)

    run(test)


def test_what_is_remembered_of_who_has_left_is_not_given_back() -> None:
    """What was said to the user since was not noted."""

    async def test() -> None:
        store = Forgetful()
        hub = make_hub(store)
        store.sessions["42"] = fields(session.subscribed("a", PLAIN))
        client = Sdk(hub, token())
        await turns(store)
        client.connection.broken()
        store.sessions.clear()
        second = Sdk(hub, token())
        await turns(store)
        assert connect_subs(second) == {} and not store.sessions.get("42")
        await finish(hub)

    run(test)


def test_what_is_remembered_is_bounded_as_a_session_is() -> None:
    """Who joins and leaves channels for days fills it with ends; the newest subscription is not what falls out."""

    async def test() -> None:
        store = Forgetful()
        hub = make_hub(store)
        Sdk(hub, token())
        await turns(store)
        for n in range(3 * MAX_FIELDS):
            hub.sessions.heard(UnsubscribeUser("42", channel=f"c{n}"))
        hub.sessions.heard(SubscribeUser("42", channel="new"))
        hub.check_all()
        await turns(store)
        kept = store.sessions["42"]
        assert len(kept) <= MAX_FIELDS and {"sub:new", "off:"} <= kept.keys()
        await finish(hub)

    run(test)


def test_a_store_that_was_emptied_without_a_word_has_them_again_with_the_next_touch() -> None:
    """No connection was lost over it."""

    async def test() -> None:
        store = Forgetful()
        hub = make_hub(store)
        whole = store.sessions["42"] = fields(session.subscribed("a", PLAIN))
        Sdk(hub, token())
        await turns(store)
        store.sessions = {}
        hub._touch_sessions(hub.now())
        await turns(store)
        assert store.sessions == {"42": whole}
        await finish(hub)

    run(test)


def test_what_is_heard_late_counts_from_when_it_was_said() -> None:
    """A token made between is newer, also after the session was given back."""

    async def test() -> None:
        store = Forgetful()
        hub = make_hub(store)
        Sdk(hub, token())
        await turns(store)
        hub.sessions.heard(UnsubscribeUser("42", channel="a", at=7.0))
        hub.sessions.heard(RefreshUser("42", info=b"1", at=8.0))
        hub.check_all()
        await turns(store)
        assert store.sessions["42"] == fields(session.unsubscribed("a", 7.0), session.informed(b"1", 8.0))
        await finish(hub)

    run(test)
