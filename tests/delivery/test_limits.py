"""Rate limits on commands: which bucket, when, what a refusal costs whom, and what a reload leaves."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from rt.broker import Drawn
from rt.config import Config, Limits, Namespace, Rate, RateLimit
from rt.delivery.hub import Hub
from rt.delivery.rules import OFFENDERS, Rule, TooMany, Visitor
from rt.errors import StoreError
from rt.protocol.publication import Page, Position
from tests.delivery.hubs import MemoryStore, Sdk, Uni, config, finish, make_hub, run, token, turns

SLOW = Rate(1.0, 3600.0)
"""Nothing comes back while a test runs."""


class Shared(MemoryStore):
    """A store that takes and gives anything, and has buckets: ``tokens`` of each subject, five at first."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens: dict[str, int] = {}
        self.asked: list[str] = []
        self.published: list[str] = []
        self.down = False

    def publish(self, name: str, *_: Any) -> Any:
        """It is there."""
        return self._later(lambda: self.published.append(name))

    def history(self, channel: str, **_: Any) -> asyncio.Future[Page]:
        """Nothing."""
        return self._later(lambda: Page(Position("x", 0), []))

    def draw(self, rule: str, subject: str, **how: Any) -> asyncio.Future[Any]:
        """Five, and never more."""
        count = how["count"]
        self.asked.append(f"{rule}{subject}")
        if self.down:
            failed: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            failed.set_exception(StoreError("away", definite=True))
            return failed

        def do() -> Drawn:
            left = self.tokens.get(subject, 5)
            taken = count if how.get("debt") else min(count, left)
            self.tokens[subject] = left - taken
            return Drawn(taken, 0.0 if taken == count else 60.0)

        return self._later(do)


def rule(on: str, per: str, burst: int, rate: Rate = SLOW, **more: Any) -> RateLimit:
    """A rule."""
    return RateLimit(on=on, per=per, rate=rate, burst=burst, **more)


def with_rules(*rules: RateLimit, **limits: Any) -> Config:
    """A config with them, where clients may do anything in ``open``, and subscribers publish in ``club``."""
    whole = config()
    named = (
        Namespace(
            name="open",
            allow_subscribe_for_client=True,
            allow_publish_for_client=True,
            allow_history_for_client=True,
            allow_publish_for_anonymous=True,
            allow_history_for_anonymous=True,
        ),
        Namespace(name="club", allow_subscribe_for_client=True, allow_publish_for_subscriber=True),
        *whole.channel.namespaces,
    )
    channel = msgspec.structs.replace(whole.channel, namespaces=named)
    return msgspec.structs.replace(whole, channel=channel, limits=Limits(rates=rules, **limits))


def hub_of(store: MemoryStore, *rules: RateLimit, **limits: Any) -> Hub:
    """A worker's hub."""
    return make_hub(store, with_rules(*rules, **limits))


async def ask(store: MemoryStore, client: Sdk, id: int, kind: str, **fields: Any) -> int:
    """The code of the reply; 0 for a good one."""
    client.ask(id, kind, **fields)
    await turns(store, 20)
    return int(client.reply(id).get("error", {}).get("code", 0))


async def codes(store: MemoryStore, client: Sdk, count: int, kind: str, **fields: Any) -> list[int]:
    """Those of so many, one after the other."""
    start = 100 * (len(client.heard) + 1)
    return [await ask(store, client, start + number, kind, **fields) for number in range(count)]


PUBLISH = {"channel": "open:a", "data": {}}

COMMANDS: list[tuple[str, str, dict[str, Any]]] = [
    ("publish", "publish", PUBLISH),
    ("history", "history", {"channel": "open:a"}),
    ("presence", "presence", {"channel": "room:a"}),
    ("presence", "presence_stats", {"channel": "room:a"}),
    ("subscribe", "subscribe", {"channel": "live:a"}),
    ("rpc", "rpc", {"method": "a"}),
]


@pytest.mark.parametrize(("on", "kind", "fields"), COMMANDS)
@pytest.mark.parametrize("per", ["connection", "user", "ip", "channel", "tenant"])
def test_a_bucket_of_every_scope_for_every_action(on: str, per: str, kind: str, fields: dict[str, Any]) -> None:
    """What is in it passes; one more is 111 with the time to wait. A command that can never be carried out, as an rpc,
    takes nothing of what is everybody's."""

    async def test() -> None:
        store = Shared()
        hub = hub_of(store, rule(on, per, 2, Rate(1.0, 100.0)))
        client = Sdk(hub, connect=False)
        client.connection.came_from("192.0.2.1")
        client.connect(token())
        if on == "presence":
            assert await ask(store, client, 2, "subscribe", channel="room:a") == 0
        got = []
        for number in range(10, 18, 2):
            got.append(await ask(store, client, number, kind, **fields))
            if on == "subscribe":
                await ask(store, client, number + 1, "unsubscribe", channel="live:a")
        good = 108 if on == "rpc" else 0
        never = on == "rpc" and per in ("channel", "tenant")
        assert got == [good] * 4 if never else [good, good, 111, 111]
        if not never:
            error = client.reply(16)["error"]
            assert error["temporary"] and error["message"] == "too many requests"
            assert 99_000 < error["retry_after"] <= 100_000
            assert hub.metrics._limited[(on, per, "-")] == 2
        await finish(hub)

    run(test)


def test_who_has_a_bucket_of_its_own() -> None:
    """Connections, users, networks and channels each; anonymous connections are users of their own."""

    async def test() -> None:
        store = Shared()
        for per, different in (("connection", 4), ("user", 3), ("ip", 2), ("tenant", 1)):
            hub = hub_of(store, rule("publish", per, 1))
            got = []
            for address, user in (
                ("2001:db8::1", token("1")),
                ("2001:db8::2", token("1")),
                ("192.0.2.1", ""),
                ("2001:db8::3", ""),
            ):
                client = Sdk(hub, connect=False)
                client.connection.came_from(address)
                client.connect(user)
                got += await codes(store, client, 2, "publish", **PUBLISH)
            assert got.count(0) == different, per
            assert hub.limits.subjects == different
            await finish(hub)
        hub = hub_of(store, rule("publish", "channel", 1))
        client = Sdk(hub, token())
        names = ["open:a", "open:b", "open:a"]
        assert [(await codes(store, client, 1, "publish", channel=name, data=1))[0] for name in names] == [0, 0, 111]
        await finish(hub)

    run(test)


def test_the_first_rule_that_fits_counts_and_all_scopes() -> None:
    """A namespace before the rest; of several scopes the tightest decides."""

    async def test() -> None:
        store = Shared()
        hub = hub_of(
            store,
            rule("history", "user", 1, namespace="open"),
            rule("history", "user", 3),
            rule("history", "connection", 2, namespace="live"),
        )
        client = Sdk(hub, token())
        assert await codes(store, client, 2, "history", channel="open:a") == [0, 111]
        assert await codes(store, client, 1, "history", channel="$open:a") == [111]
        assert await codes(store, client, 3, "history", channel="live:a") == [108, 108, 111]
        assert await codes(store, client, 2, "history", channel="a") == [103, 111]
        assert hub.metrics._limited == {
            ("history", "user", "open"): 2,
            ("history", "connection", "live"): 1,
            ("history", "user", "-"): 1,
        }
        await finish(hub)

    run(test)


def test_a_refused_command_costs_no_bucket_anything() -> None:
    """All have a token, or none is taken."""

    async def test() -> None:
        store = Shared()
        hub = hub_of(store, rule("publish", "user", 10), rule("publish", "tenant", 1))
        client = Sdk(hub, token())
        assert await codes(store, client, 5, "publish", **PUBLISH) == [0, 111, 111, 111, 111]
        user, tenant = hub.limits.rules
        assert user.buckets is not None and tenant.buckets is not None
        assert round(user.buckets.left("42", hub.now())) == 9
        await finish(hub)

    run(test)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("per", ["channel", "tenant"])
def test_who_may_not_cannot_use_up_what_is_everybodys(per: str, shared: bool) -> None:
    """F58: a flood without permission leaves the channel and the tenant as they are, and empties the sender's own."""

    async def test() -> None:
        store = Shared()
        hub = hub_of(store, rule("publish", per, 5, shared=shared), rule("publish", "connection", 50), tolerance=0)
        hostile, good = Sdk(hub, token("666")), Sdk(hub, token())
        post = {"channel": "club:a", "data": 1}
        assert await ask(store, good, 2, "subscribe", channel="club:a") == 0
        got = await codes(store, hostile, 60, "publish", **post)
        assert got == [103] * 50 + [111] * 10
        assert await codes(store, good, 6, "publish", **post) == [0] * 5 + [111]
        await finish(hub)

    run(test)


def test_a_bad_command_gives_nothing_back() -> None:
    """What the one before it has used is used: whoever sends rubbish in between gets no more than others."""

    async def test() -> None:
        store = Shared()
        hub = hub_of(store, rule("publish", "channel", 2), rule("publish", "tenant", 2))
        client = Sdk(hub, token())
        got = []
        for id in range(10, 20, 2):
            got.append(await ask(store, client, id, "publish", **PUBLISH))
            assert await ask(store, client, id + 1, "publish", channel=5) == 107
        assert got == [0, 0, 111, 111, 111]
        await finish(hub)

    run(test)


@pytest.mark.parametrize("names", ["x" * 60_000, "{}", "a b"])
def test_a_name_that_is_none_is_no_subject(names: str) -> None:
    """What a client invents takes no room: it is given back, or never kept."""

    async def test() -> None:
        store = Shared()
        hub = hub_of(store, rule("subscribe", "channel", 5), rule("publish", "channel", 5))
        client = Sdk(hub, token())
        for kind, more in (("subscribe", {}), ("publish", {"data": 1})):
            assert set(await codes(store, client, 10, kind, channel=names, **more)) == {107}
        assert hub.limits.subjects == 0
        await finish(hub)

    run(test)


def test_repeated_violation_ends_the_connection() -> None:
    """3013, after the replies; another connection of the same user is refused but lives."""

    async def test() -> None:
        store = Shared()
        hub = hub_of(store, rule("history", "user", 1), tolerance=5)
        one, two = Sdk(hub, token()), Sdk(hub, token())
        assert await codes(store, one, 6, "history", channel="open:a") == [0] + [111] * 5
        assert await codes(store, two, 2, "history", channel="open:a") == [111] * 2
        one.ask(99, "history", channel="open:a")
        assert one.reply(99)["error"]["code"] == 111
        assert one.code == 3013 and one.connection.closed and not two.connection.closed
        await finish(hub)

    run(test)


def test_what_comes_back_comes_in_time() -> None:
    """A client that waits as long as it is told to is let pass."""

    async def test() -> None:
        store = Shared()
        hub = hub_of(store, rule("history", "connection", 1, Rate(20.0, 1.0)))
        client = Sdk(hub, token())
        assert await codes(store, client, 2, "history", channel="open:a") == [0, 111]
        await asyncio.sleep(client.heard[-1]["error"]["retry_after"] / 1000)
        assert await codes(store, client, 1, "history", channel="open:a") == [0]
        await finish(hub)

    run(test)


def test_a_shared_rule_asks_and_keeps_the_order() -> None:
    """The command waits, and those behind it; what is left is counted over both workers."""

    async def test() -> None:
        store = Shared()
        hubs = [hub_of(store, rule("history", "user", 5, shared=True)) for _ in range(2)]
        clients = [Sdk(hub, token()) for hub in hubs]
        for client in clients:
            client.send(*({"id": id, "history": {"channel": "open:a"}} for id in range(10, 15)), {"id": 15, "rpc": {}})
        await turns(store, 100)
        got = []
        for client in clients:
            client.read()
            ids = [message["id"] for message in client.heard if message.get("id", 0) >= 10]
            assert ids == list(range(10, 16))
            got += [client.reply(id).get("error", {}).get("code", 0) for id in range(10, 15)]
        assert sorted(got) == [0] * 5 + [111] * 5
        assert set(store.asked) == {"history:user:42"}
        asked = len(store.asked)
        assert await codes(store, clients[0], 20, "history", channel="open:a") == [111] * 20
        assert len(store.asked) == asked  # an exhausted one costs no call
        await finish(*hubs)

    run(test)


def test_while_the_store_is_away_nobody_is_blamed() -> None:
    """``deny`` refuses with 111, and closes nobody for it."""

    async def test() -> None:
        store = Shared()
        hub = hub_of(store, rule("history", "user", 5, shared=True, redis_down="deny"), tolerance=3)
        client = Sdk(hub, token())
        store.down = True
        assert await codes(store, client, 20, "history", channel="open:a") == [111] * 20
        assert client.heard[-1]["error"]["retry_after"] == 1000
        assert not client.connection.closed and hub.metrics._limited == {}
        await finish(hub)

    run(test)


def test_one_that_ends_while_the_store_is_asked() -> None:
    """Its command is not carried out."""

    async def test() -> None:
        store = Shared()
        hub = hub_of(store, rule("publish", "user", 5, shared=True))
        client = Sdk(hub, token())
        client.ask(2, "publish", **PUBLISH)
        await asyncio.sleep(0)
        client.connection.broken()
        await turns(store)
        assert store.published == []
        await finish(hub)

    run(test)


@pytest.mark.parametrize("shared", [False, True])
def test_connects_of_a_user(shared: bool) -> None:
    """Who connects too often is told so, and closed as after any refused connect; a one-way socket is closed (3013)."""

    async def test() -> None:
        store = Shared()
        hub = hub_of(store, rule("connect", "user", 5, shared=shared))
        for _ in range(5):
            client = Sdk(hub, token())
            await turns(store)
            assert "connect" in client.reply(1)
        late, one_way, other = Sdk(hub, token()), Uni(hub, token()), Sdk(hub, token("43"))
        await turns(store)
        assert late.reply(1)["error"]["code"] == 111 and late.reply(1)["error"]["retry_after"] > 0
        assert one_way.code == 3013
        assert "connect" in other.reply(1)
        assert len(hub.users["42"]) == 5
        await finish(hub)

    run(test)


def test_a_reload_changes_rules_and_fills_no_bucket() -> None:
    """Connections stay; a rule that is there before and after goes on where it was; a new one begins full."""

    async def test() -> None:
        store = Shared()
        hub = hub_of(store, rule("history", "user", 3), rule("publish", "user", 1))
        client = Sdk(hub, token())
        assert await codes(store, client, 3, "history", channel="open:a") == [0, 0, 0]
        hub.reload(with_rules(rule("history", "user", 10, Rate(1.0, 60.0)), rule("rpc", "user", 1)))
        assert await codes(store, client, 1, "history", channel="open:a") == [111]
        assert 59_000 < client.heard[-1]["error"]["retry_after"] <= 60_000  # at the new rate
        assert await codes(store, client, 2, "publish", **PUBLISH) == [0, 0]
        assert 111 not in await codes(store, client, 1, "rpc", method="a")
        assert await codes(store, client, 1, "rpc", method="a") == [111]
        hub.reload(with_rules())
        assert hub.limits.commands == {} and not hub.limits.measured
        assert await codes(store, client, 20, "history", channel="open:a") == [0] * 20
        assert not client.connection.closed
        await finish(hub)

    run(test)


def test_tenants_have_each_their_own() -> None:
    """One that is flooded leaves the other as it is."""

    async def test() -> None:
        store = Shared()
        red, blue = (hub_of(store, rule("history", "tenant", 2)) for _ in range(2))
        assert await codes(store, Sdk(red, token()), 4, "history", channel="open:a") == [0, 0, 111, 111]
        assert await codes(store, Sdk(blue, token()), 2, "history", channel="open:a") == [0, 0]
        await finish(red, blue)

    run(test)


def test_the_worst_are_known_whatever_the_crowd() -> None:
    """Who is refused often stays in the table; it never has more than so many entries, and is new each minute."""
    found = Rule(rule("publish", "user", 1), None, None)
    for number in range(10_000):
        found.hit("worst", 10.0)
        found.hit(f"one of many {number}", 10.0)
    worst = found.worst(10.0)
    assert len(worst) <= OFFENDERS and max(worst, key=worst.__getitem__) == "worst" and found.hits == 20_000
    found.hit("later", 75.0)
    assert {"worst", "later"} <= found.worst(75.0).keys()
    assert found.worst(140.0) == {"later": 1} and found.worst(300.0) == {}


def test_streams_count_the_channels_that_they_ask_for() -> None:
    """Those of a URL are subscribes of its user and address, one each."""

    async def test() -> None:
        store = Shared()
        hub = hub_of(store, rule("subscribe", "ip", 5), rule("subscribe", "channel", 3))
        visitor = Visitor(user="42", address="192.0.2.1")
        assert hub.limits.subscribes(visitor, ["a", "b", "c"]) is None
        with pytest.raises(TooMany):
            hub.limits.subscribes(visitor, ["a", "b", "c"])
        ip, channel = hub.limits.rules
        assert channel.buckets is not None
        assert [round(channel.buckets.left(name, hub.now())) for name in "abc"] == [2, 2, 2]
        await finish(hub)

    run(test)


@pytest.mark.parametrize("late", [False, True])
def test_a_list_of_channels_is_given_back_once(late: bool) -> None:
    """One of them has no token, here or in the store: the buckets of the others are as they were before."""

    async def test() -> None:
        store = Shared()
        hub = hub_of(store, rule("subscribe", "channel", 5), rule("subscribe", "user", 5, shared=True))
        visitor = Visitor(user="42")
        channel = next(hub.limits.rules)
        assert channel.buckets is not None
        for name in ("a", "a", *("b" * (0 if late else 5))):
            channel.buckets.take(name, hub.now())
        if late:
            store.tokens["42"] = 1
            asked = hub.limits.subscribes(visitor, ["a", "b"])
            assert asked is not None
            await turns(store, 20)
            with pytest.raises(TooMany):
                await asked
        else:
            with pytest.raises(TooMany):
                hub.limits.subscribes(visitor, ["a", "b"])
        await turns(store, 20)
        left = [round(channel.buckets.left(name, hub.now())) for name in "ab"]
        assert left == [3, 5 if late else 0]
        await finish(hub)

    run(test)


def test_more_channels_than_there_may_be_cost_none_of_them_anything() -> None:
    """A connect that asks for too many is closed, and the channels' own buckets are as they were."""

    async def test() -> None:
        store = Shared()
        hub = hub_of(store, rule("subscribe", "channel", 1))
        names: dict[str, dict[str, str]] = {
            f"live:{number}": {} for number in range(hub.config.client.channel_limit + 1)
        }
        client = Uni(hub, connect=False)
        client.connect(token(), subs=names)
        await turns(store, 20)
        assert client.code == 3505 and hub.limits.subjects == 0
        await finish(hub)

    run(test)
