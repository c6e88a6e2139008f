"""Shared buckets as a worker sees them: few questions, no waiting where nothing is left, what holds in an outage."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from rt.broker import Drawn
from rt.config import Rate, RateLimit
from rt.delivery import quota as quotas
from rt.delivery.quota import Outage, Quota
from rt.errors import StoreError
from tests.delivery.hubs import run

DOWN = StoreError("away", definite=True)


class Shelf:
    """A store with one bucket for all; answers when told to, or fails."""

    def __init__(self, tokens: int = 0, wait: float = 5.0) -> None:
        self.tokens = tokens
        self.wait = wait
        self.down = False
        self.asked: list[tuple[str, str, int, bool]] = []

    def draw(
        self, rule: str, subject: str, *, rate: float, capacity: float, count: int, debt: bool = False
    ) -> asyncio.Future[Drawn]:
        """In a later turn of the loop."""
        self.asked.append((rule, subject, count, debt))
        future: asyncio.Future[Drawn] = asyncio.get_running_loop().create_future()

        def answer() -> None:
            if self.down:
                future.set_exception(DOWN)
                return
            taken = count if debt else min(count, self.tokens)
            self.tokens -= taken
            future.set_result(Drawn(taken, 0.0 if taken == count else self.wait))

        asyncio.get_running_loop().call_soon(answer)
        return future


class Clock:
    """A loop whose time a test sets."""

    def __init__(self) -> None:
        self.now = 100.0
        self.call_soon = asyncio.get_running_loop().call_soon
        self.create_future = asyncio.get_running_loop().create_future

    def time(self) -> float:
        """As told."""
        return self.now


def made(shelf: Shelf, most: int = 1000, **rule: Any) -> tuple[Quota, Clock, Outage]:
    """A quota of ten, one a second, over the shelf."""
    clock = Clock()
    outage = Outage(clock.time, "default")
    fields: dict[str, Any] = {"on": "publish", "per": "user", "rate": Rate(1.0, 1.0), "burst": 10, "shared": True}
    settings = RateLimit(**(fields | rule))
    return Quota(settings, "publish:user:", shelf, outage, clock, most), clock, outage  # type: ignore[arg-type]


async def wait(found: float | asyncio.Future[float]) -> float:
    """The answer, now or later."""
    return found if isinstance(found, float) else await found


def test_all_who_ask_in_one_turn_ask_once() -> None:
    """And whoever comes while the question is under way is in the next one."""

    async def test() -> None:
        shelf = Shelf(tokens=5)
        quota, _, _ = made(shelf)
        first = [quota.take("u") for _ in range(3)]
        await asyncio.sleep(0)
        second = [quota.take("u") for _ in range(4)]
        got = [await wait(found) for found in (*first, *second)]
        assert got[:5] == [0.0] * 5 and min(got[5:]) > 0.0
        assert [count for _, _, count, _ in shelf.asked] == [3, 4]

    run(test)


def test_an_exhausted_quota_costs_no_call() -> None:
    """Until a token can be there again; then one question."""

    async def test() -> None:
        shelf = Shelf(tokens=1, wait=2.0)
        quota, clock, _ = made(shelf)
        assert [await wait(quota.take("u")), await wait(quota.take("u"))] == [0.0, 2.0]
        clock.now += 1.5
        assert [quota.take("u") for _ in range(1000)] == [0.5] * 1000
        assert len(shelf.asked) == 2
        clock.now, shelf.tokens = clock.now + 0.5, 1
        assert await wait(quota.take("u")) == 0.0
        assert len(shelf.asked) == 3
        assert await wait(quota.take("other")) > 0.0

    run(test)


def test_a_fast_quota_is_not_asked_for_each_token() -> None:
    """What comes within a pause is saved by the bucket, if it can hold it."""

    async def test() -> None:
        shelf = Shelf(tokens=0, wait=0.001)
        quota, clock, _ = made(shelf, rate=Rate(1000.0, 1.0), burst=100)
        assert await wait(quota.take("u")) == pytest.approx(quotas.PAUSE)
        small, _, _ = made(shelf, rate=Rate(1000.0, 1.0), burst=2)
        assert await wait(small.take("u")) == pytest.approx(0.001)

    run(test)


def test_what_was_put_back_is_for_the_next() -> None:
    """Without a question, for a second; it is not two for one."""

    async def test() -> None:
        shelf = Shelf(tokens=1)
        quota, clock, _ = made(shelf)
        assert await wait(quota.take("u")) == 0.0
        quota.give("u")
        assert quota.take("u") == 0.0
        quota.give("u")
        clock.now += quotas.KEPT
        assert await wait(quota.take("u")) > 0.0
        assert len(shelf.asked) == 2

    run(test)


def test_who_left_before_the_answer_leaves_its_token() -> None:
    """The next one here has it."""

    async def test() -> None:
        shelf = Shelf(tokens=1)
        quota, _, _ = made(shelf)
        asked = quota.take("u")
        assert isinstance(asked, asyncio.Future)
        asked.cancel()
        await asyncio.sleep(0.001)
        assert quota.take("u") == 0.0 and len(shelf.asked) == 1

    run(test)


def test_what_cost_more_is_charged() -> None:
    """As a debt, and nobody waits for it."""

    async def test() -> None:
        shelf = Shelf(tokens=3)
        quota, _, _ = made(shelf)
        quota.charge("u", 7)
        await asyncio.sleep(0.001)
        assert shelf.asked == [("publish:user:", "u", 7, True)] and shelf.tokens == -4
        assert await wait(quota.take("u", 50)) > 0.0
        assert shelf.asked[-1][2] == 10  # never more than it holds

    run(test)


@pytest.mark.parametrize(("redis_down", "passed"), [("allow", 100), ("deny", 0), ("local", 10)])
def test_while_the_store_is_away_the_rule_says_what_holds(redis_down: str, passed: int, caplog: Any) -> None:
    """P16: each rule its own way, said once when it begins and once when it ends, with one question a second."""

    async def test() -> None:
        shelf = Shelf(tokens=1000)
        quota, clock, outage = made(shelf, redis_down=redis_down)
        shelf.down = True
        got = [await wait(quota.take("u")) for _ in range(100)]
        assert sum(wait == 0.0 for wait in got) == passed
        assert outage.lasts and len(shelf.asked) == 1
        quota.charge("u", 5)
        clock.now += quotas.AGAIN
        await asyncio.gather(*(asyncio.ensure_future(coming(quota)) for _ in range(50)))
        assert len(shelf.asked) == 2
        shelf.down = False
        clock.now += quotas.AGAIN
        assert await wait(quota.take("u")) == 0.0 and not outage.lasts
        assert (outage.quota_asked, outage.quota_unanswered) == (3, 2)
        assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]

    async def coming(quota: Quota) -> float:
        return await wait(quota.take("u"))

    run(test)


def test_what_is_remembered_is_bounded() -> None:
    """A million users cost what ``subjects`` says; what helps nobody any more is forgotten."""

    async def test() -> None:
        shelf = Shelf(tokens=0, wait=1.0)
        quota, clock, _ = made(shelf, most=100)
        answers = await asyncio.gather(*(asyncio.ensure_future(later(quota, f"u{n}")) for n in range(1000)))
        assert len(quota) <= 100 and min(answers) > 0.0
        clock.now += 2.0
        quota.sweep(clock.now)
        assert len(quota) == 0
        shelf.tokens = 1000
        assert [await wait(quota.take(f"u{n}")) for n in range(50)] == [0.0] * 50
        clock.now += 2.0
        quota.sweep(clock.now)
        assert len(quota) == 0

    async def later(quota: Quota, subject: str) -> float:
        return await wait(quota.take(subject))

    run(test)
