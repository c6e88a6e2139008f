"""Quotas: buckets that all workers share, drawn from in the store and remembered here for as long as that helps.

Whoever wants a token of a subject asks at the end of the turn of the loop, together with all others that want one then;
while that question is under way, the next ones gather for the next. What was given and not used is kept for a second.
When the store has said that nothing is left, nobody is asked again until a token can be there: an exhausted quota costs
no call, however many commands come.

While the store is away the rule's ``redis_down`` decides. One question a second finds out whether it is back.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Protocol

from rt.broker import Drawn
from rt.config import RateLimit
from rt.delivery.buckets import Buckets
from rt.errors import StoreError
from rt.logs import fields

log = logging.getLogger("rt.delivery")

AGAIN = 1.0
"""Seconds between two looks whether the store is back, and what a client is told to wait under ``redis_down: deny``."""

KEPT = 1.0
"""Seconds for which tokens that were given and not used are kept."""

PAUSE = 0.02
"""Seconds between two questions about an exhausted subject at least, as far as its bucket can save what comes
meanwhile."""


class Store(Protocol):
    """Where the buckets are."""

    def draw(
        self, rule: str, subject: str, *, rate: float, capacity: float, count: int, debt: bool = False
    ) -> asyncio.Future[Drawn]:
        """See :meth:`rt.broker.Broker.draw`."""


class Outage:
    """Whether one tenant's store can be asked. Said once when it begins and once when it ends."""

    __slots__ = ("_fields", "_now", "_retry_at", "quota_asked", "quota_unanswered")

    def __init__(self, now: Callable[[], float], tenant: str) -> None:
        self._now = now
        self._fields = fields(tenant=tenant)
        self._retry_at: float | None = None
        self.quota_asked = 0
        self.quota_unanswered = 0

    @property
    def lasts(self) -> bool:
        """Whether it is away, as far as is known."""
        return self._retry_at is not None

    def may_ask(self) -> bool:
        """Whether to ask; while it is away once in a while only."""
        if self._retry_at is not None:
            now = self._now()
            if now < self._retry_at:
                return False
            self._retry_at = now + AGAIN
        self.quota_asked += 1
        return True

    def failed(self, error: StoreError) -> None:
        """It did not answer."""
        self.quota_unanswered += 1
        if self._retry_at is None:
            log.warning("quotas cannot be counted, redis_down decides: %s", error, extra=self._fields)
        self._retry_at = self._now() + AGAIN

    def over(self) -> None:
        """It answered."""
        if self._retry_at is not None:
            self._retry_at = None
            log.warning("quotas are counted again", extra=self._fields)


class _Account:
    """What is known of one subject, and who waits to know more: how many tokens each wants, and its future."""

    __slots__ = ("asking", "credit", "credit_until", "empty_until", "waiting")

    def __init__(self) -> None:
        self.credit = 0
        self.credit_until = 0.0
        self.empty_until = 0.0
        self.asking = False
        self.waiting: list[tuple[int, asyncio.Future[float]]] = []


class Quota:
    """The shared buckets of one rule; ``name`` is its name in the store. At most ``most`` subjects are remembered; one
    that is forgotten costs a question."""

    __slots__ = ("_accounts", "_alone", "_loop", "_name", "_now", "_outage", "_rule", "_store", "most")

    def __init__(
        self, rule: RateLimit, name: str, store: Store, outage: Outage, loop: asyncio.AbstractEventLoop, most: int
    ) -> None:
        self._rule = rule
        self._name = name
        self._store = store
        self._outage = outage
        self._loop = loop
        self._now = loop.time
        self._accounts: OrderedDict[str, _Account] = OrderedDict()
        self._alone = Buckets(rule.rate.per_second, rule.capacity, most)  # for redis_down: local
        self.most = most

    def __len__(self) -> int:
        return len(self._accounts) + len(self._alone)

    @property
    def forgotten(self) -> int:
        """Buckets of ``redis_down: local`` that were forgotten because there were too many."""
        return self._alone.forgotten

    def change(self, rule: RateLimit, most: int, now: float) -> None:
        """Go on with another rate and capacity; what was drawn stays drawn."""
        self._rule = rule
        self.most = most
        self._alone.change(rule.rate.per_second, rule.capacity, most, now)
        for account in self._accounts.values():
            account.empty_until = min(account.empty_until, now + PAUSE)

    def take(self, subject: str, count: int = 1) -> float | asyncio.Future[float]:
        """Take ``count`` tokens (at most all that it holds): 0 when they were there, else the seconds until one is; a
        future of that where it must be asked for."""
        count = min(count, int(self._rule.capacity))
        now, account = self._now(), self._accounts.get(subject)
        if account is not None:
            self._accounts.move_to_end(subject)
            if account.credit >= count and now < account.credit_until:
                account.credit -= count
                return 0.0
            if now < account.empty_until and not account.waiting:
                return account.empty_until - now
        if self._outage.lasts and not self._outage.may_ask():
            return self._without(subject, now, count)
        answer: asyncio.Future[float] = self._loop.create_future()
        account = account or self._open(subject)
        account.waiting.append((count, answer))
        if not account.asking:
            account.asking = True
            self._loop.call_soon(self._ask, subject, account)
        return answer

    def charge(self, subject: str, count: int) -> None:
        """Take ``count`` tokens, whether they are there or not: for what turned out to cost more when it was done."""
        if not self._outage.may_ask():
            self._alone.draw(subject, self._now(), count)
            return
        rule = self._rule
        drawn = self._store.draw(
            self._name, subject, rate=rule.rate.per_second, capacity=rule.capacity, count=count, debt=True
        )
        drawn.add_done_callback(self._charged)

    def give(self, subject: str, count: int = 1) -> None:
        """Put back what was taken for nothing: the next one here has it."""
        account = self._accounts.get(subject) or self._open(subject)
        now = self._now()
        account.credit = count + (account.credit if now < account.credit_until else 0)
        account.credit_until = now + KEPT

    def sweep(self, now: float) -> None:
        """Forget what is of no use any more. To be called now and then."""
        self._alone.sweep(now)
        for subject, account in list(self._accounts.items()):
            if not account.asking and now >= account.empty_until and now >= account.credit_until:
                del self._accounts[subject]

    def _open(self, subject: str) -> _Account:
        account = self._accounts[subject] = _Account()
        if len(self._accounts) > self.most:
            # One that waits for an answer gets it all the same.
            self._accounts.popitem(last=False)
        return account

    # Asking

    def _ask(self, subject: str, account: _Account) -> None:
        asked, account.waiting = account.waiting, []
        rule, wanted = self._rule, sum(count for count, _ in asked)
        if not self._outage.lasts:
            self._outage.quota_asked += 1
        drawn = self._store.draw(self._name, subject, rate=rule.rate.per_second, capacity=rule.capacity, count=wanted)
        drawn.add_done_callback(partial(self._answered, subject, account, asked))

    def _answered(
        self,
        subject: str,
        account: _Account,
        asked: list[tuple[int, asyncio.Future[float]]],
        drawn: asyncio.Future[Drawn],
    ) -> None:
        now = self._now()
        error = drawn.exception()
        if isinstance(error, StoreError):
            self._outage.failed(error)
        elif error is not None:
            raise error
        else:
            self._outage.over()
            self._note(account, drawn.result(), sum(count for count, _ in asked), now)
        for count, answer in asked:
            if answer.done():
                continue  # whoever asked has left; what was drawn for it is for the next one
            if error is not None:
                answer.set_result(self._without(subject, now, count))
            elif account.credit >= count:
                account.credit -= count
                answer.set_result(0.0)
            else:
                answer.set_result(max(account.empty_until - now, 0.001))
        if account.waiting:
            self._loop.call_soon(self._ask, subject, account)
            return
        account.asking = False
        if not account.credit and now >= account.empty_until and self._accounts.get(subject) is account:
            del self._accounts[subject]

    def _note(self, account: _Account, drawn: Drawn, wanted: int, now: float) -> None:
        account.credit = drawn.taken + (account.credit if now < account.credit_until else 0)
        account.credit_until = now + KEPT
        if drawn.taken < wanted:
            # What comes meanwhile is saved by the bucket, if that is large enough: then one question serves several.
            rule = self._rule
            pause = min(PAUSE, rule.capacity / rule.rate.per_second / 2)
            account.empty_until = now + max(drawn.wait, pause)

    def _charged(self, drawn: asyncio.Future[Drawn]) -> None:
        error = drawn.exception()
        if isinstance(error, StoreError):
            self._outage.failed(error)

    def _without(self, subject: str, now: float, count: int) -> float:
        """What the rule says while the store is away."""
        if self._rule.redis_down == "allow":
            return 0.0
        if self._rule.redis_down == "deny":
            return AGAIN
        return self._alone.take(subject, now, count)
