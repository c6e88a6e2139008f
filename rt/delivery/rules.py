"""The rules of rate limits, each with its buckets, and what it takes to pass all that count for one action.

:mod:`rt.delivery.limits` says where this is asked, and what it costs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Protocol

from rt import errors
from rt.config import RateLimit
from rt.delivery.buckets import Buckets
from rt.delivery.quota import Quota
from rt.errors import Refused
from rt.protocol.address import subject as address_subject
from rt.protocol.channels import namespace_part

if TYPE_CHECKING:
    from rt.delivery.limits import Limits

LONGEST = 255
"""Characters of a channel's name: what is longer is none, and no subject."""

COMMON = frozenset({"channel", "tenant"})
"""Scopes whose buckets are not those of who acts."""

MINUTE = 60.0  # seconds after which a table of offenders is renewed
OFFENDERS = 64  # subjects in such a table


class Asker(Protocol):
    """Who does something: ``id`` of the connection, ``user``, ``address``; each empty where there is none."""

    @property
    def id(self) -> str: ...
    @property
    def user(self) -> str: ...
    @property
    def address(self) -> str: ...


class Visitor(NamedTuple):
    """Somebody who is no connection yet, or never will be."""

    id: str = ""
    user: str = ""
    address: str = ""


class TooMany(Refused):
    """A rule has no token left: ``retry_after`` is in how many seconds there is one. ``meant``: it was the asker's
    doing, not the store's being away. ``rule`` is the one that refused."""

    def __init__(self, rule: Rule, retry_after: float, *, meant: bool = True) -> None:
        super().__init__(errors.TOO_MANY_REQUESTS, f"more {rule.on} than a {rule.per} may")
        self.rule = rule
        self.retry_after = retry_after
        self.meant = meant


class Rule:
    """One rule with its buckets; exactly one of ``buckets`` and ``quota`` is there. ``hits`` counts refusals."""

    __slots__ = ("_before", "_renew_at", "_worst", "buckets", "hits", "namespace", "on", "per", "quota", "settings")

    def __init__(self, settings: RateLimit, buckets: Buckets | None, quota: Quota | None) -> None:
        self.on = settings.on
        self.per = settings.per
        self.namespace = settings.namespace
        self.settings = settings
        self.buckets = buckets
        self.quota = quota
        self.hits = 0
        self._worst: dict[str, int] = {}
        self._before: dict[str, int] = {}
        self._renew_at = 0.0

    @property
    def count(self) -> int:
        """Subjects that are remembered."""
        return len(self.buckets if self.buckets is not None else self.quota or ())

    @property
    def forgotten(self) -> int:
        """Subjects that were forgotten because there were too many."""
        found = self.buckets or self.quota
        return found.forgotten if found is not None else 0

    def change(self, settings: RateLimit, most: int, now: float) -> None:
        """Go on with other numbers."""
        self.settings = settings
        if self.buckets is not None:
            self.buckets.change(settings.rate.per_second, settings.capacity, most, now)
        if self.quota is not None:
            self.quota.change(settings, most, now)

    def sweep(self, now: float) -> None:
        """Forget what is of no use any more."""
        if self.buckets is not None:
            self.buckets.sweep(now)
        if self.quota is not None:
            self.quota.sweep(now)

    def hit(self, subject: str, now: float) -> None:
        """``subject`` was refused. In a full table all lose one, so that who is refused often enough stays in it."""
        self.hits += 1
        self._renew(now)
        worst = self._worst
        if subject in worst:
            worst[subject] += 1
        elif len(worst) < OFFENDERS:
            worst[subject] = 1
        else:
            self._worst = {known: count - 1 for known, count in worst.items() if count > 1}

    def worst(self, now: float) -> dict[str, int]:
        """Refusals by subject, of this minute and the one before; those with few may be missing."""
        self._renew(now)
        found = dict(self._before)
        for subject, count in self._worst.items():
            found[subject] = found.get(subject, 0) + count
        return found

    def _renew(self, now: float) -> None:
        if now >= self._renew_at:
            fresh = now < self._renew_at + MINUTE
            self._before, self._worst = self._worst if fresh else {}, {}
            self._renew_at = now + MINUTE


class Taken:
    """What one command took. ``asked``, where the store had to be asked: done when it has answered; fails with
    :class:`TooMany`."""

    __slots__ = ("asked", "common")

    def __init__(self, common: list[tuple[Rule, str]] | None, asked: asyncio.Future[None] | None) -> None:
        self.common = common
        self.asked = asked


Scope = tuple[str, dict[str, Rule], Rule | None]
"""Who has the buckets; the rules for namespaces, before a general one; and that."""


class Scopes:
    """The rules about one action, by scope: those that decide here first, then the shared ones."""

    __slots__ = ("_limits", "_scopes")

    def __init__(self, limits: Limits, rules: list[Rule]) -> None:
        self._limits = limits
        self._scopes: list[Scope] = []
        for rule in sorted(rules, key=lambda rule: rule.quota is not None):
            self._add(rule)

    def _add(self, rule: Rule) -> None:
        for index, (per, named, general) in enumerate(self._scopes):
            if per == rule.per:
                if rule.namespace:
                    named[rule.namespace] = rule
                else:
                    general = rule
                self._scopes[index] = (per, named, general)
                return
        self._scopes.append((rule.per, {rule.namespace: rule}, None) if rule.namespace else (rule.per, {}, rule))

    def _applying(self, asker: Asker, channel: str) -> Iterator[tuple[Rule, str]]:
        """The rules that count, each with its subject."""
        for per, named, general in self._scopes:
            rule = named.get(namespace_part(channel) or "", general) if named else general
            if rule is None:
                continue
            if per == "connection":
                subject = asker.id
            elif per == "user":
                subject = asker.user or asker.id
            elif per == "ip":
                subject = address_subject(asker.address, self._limits.ipv6_prefix) if asker.address else ""
            elif per == "channel":
                subject = channel if len(channel) <= LONGEST else ""
            else:
                subject = "*"
            if subject:
                yield rule, subject

    def take(self, asker: Asker, channel: str = "", count: int = 1) -> Taken | None:
        """Take ``count`` tokens from every bucket that counts, or none. None where nothing of it can be given back.

        Raises TooMany.
        """
        now = self._limits.now()
        drawn: list[tuple[Rule, str]] = []
        asked: list[tuple[Rule, str, asyncio.Future[float]]] = []
        for rule, subject in self._applying(asker, channel):
            if rule.buckets is not None:
                wait = rule.buckets.take(subject, now, count)
            else:
                assert rule.quota is not None
                found = rule.quota.take(subject, count)
                if isinstance(found, asyncio.Future):
                    asked.append((rule, subject, found))
                    continue
                wait = found
            if wait > 0.0:
                self._limits.give(drawn, count)
                for _, _, future in asked:
                    future.cancel()
                raise self._limits.refusal(rule, subject, wait, now)
            drawn.append((rule, subject))
        if asked:
            return self._asking(drawn, asked, count)
        common = [(rule, subject) for rule, subject in drawn if rule.per in COMMON]
        return Taken(common, None) if common else None

    def _asking(
        self, drawn: list[tuple[Rule, str]], asked: list[tuple[Rule, str, asyncio.Future[float]]], count: int
    ) -> Taken:
        whole: asyncio.Future[None] = self._limits.loop.create_future()
        taken = Taken([(rule, subject) for rule, subject in drawn if rule.per in COMMON], whole)
        left = len(asked)

        def answered(rule: Rule, subject: str, future: asyncio.Future[float]) -> None:
            nonlocal left
            left -= 1
            if not future.cancelled() and future.result() == 0.0:
                drawn.append((rule, subject))
            if left:
                return
            refusing = [(r, s, f.result()) for r, s, f in asked if not f.cancelled() and f.result() > 0.0]
            if refusing or whole.cancelled():
                self._limits.give(drawn, count)
            if whole.done():
                return
            if refusing:
                rule, subject, wait = max(refusing, key=lambda refusal: refusal[2])
                taken.common = None
                whole.set_exception(self._limits.refusal(rule, subject, wait, self._limits.now()))
            else:
                taken.common = [(rule, subject) for rule, subject in drawn if rule.per in COMMON]
                whole.set_result(None)

        for rule, subject, future in asked:
            future.add_done_callback(partial(answered, rule, subject))
        return taken

    def wait(self, asker: Asker, count: int, *, again: bool) -> float:
        """Take ``count`` tokens of rules that are not shared: 0, or the seconds until they are there. ``again``: the
        asker has been stopped already."""
        now = self._limits.now()
        drawn: list[tuple[Rule, str]] = []
        for rule, subject in self._applying(asker, ""):
            assert rule.buckets is not None
            wait = rule.buckets.take(subject, now, count)
            if wait > 0.0:
                self._limits.give(drawn, count)
                if not again:
                    self._limits.note(rule, subject, now)
                return wait
            drawn.append((rule, subject))
        return 0.0

    def draw(self, asker: Asker, count: int) -> float:
        """Take ``count`` tokens that are used already: the seconds until all is paid. With 0 it is only looked at."""
        now, longest = self._limits.now(), 0.0
        for rule, subject in self._applying(asker, ""):
            if rule.buckets is not None:
                wait = rule.buckets.draw(subject, now, count)
                if wait > 0.0 and count:
                    self._limits.note(rule, subject, now)
                longest = max(longest, wait)
            elif rule.quota is not None:
                rule.quota.charge(subject, count)
        return longest

    def standing(self, asker: Asker) -> Iterator[tuple[Rule, float | None]]:
        """The rules that count, and what each has left; None where only the store knows."""
        now = self._limits.now()
        for rule, subject in self._applying(asker, ""):
            yield rule, rule.buckets.left(subject, now) if rule.buckets is not None else None
