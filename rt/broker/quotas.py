"""Buckets that all workers share: kept in the store, by the store's clock."""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

from rt.broker.keys import Keys
from rt.broker.pipeline import Pipeline
from rt.broker.scripts import QUOTA


class Drawn(NamedTuple):
    """How many tokens were taken, and in how many seconds the next one will be there (0: it is)."""

    taken: int
    wait: float


class Quotas:
    """The calls about shared buckets; :class:`rt.broker.Broker` says what each promises."""

    __slots__ = ("_keys", "_pipeline")

    def __init__(self, pipeline: Pipeline, keys: Keys) -> None:
        self._pipeline = pipeline
        self._keys = keys

    def draw(
        self, rule: str, subject: str, *, rate: float, capacity: float, count: int, debt: bool
    ) -> asyncio.Future[Drawn]:
        """See :meth:`rt.broker.Broker.draw`."""
        args = (f"{rate:.12g}", f"{capacity:.15g}", count, int(debt))
        # A repeat may take twice what was asked for once. Better that than an answer that nobody knows.
        return self._pipeline.run(QUOTA, (self._keys.quota(rule, subject),), args, _drawn, repeatable=True)


def _drawn(reply: Any) -> Drawn:
    taken, wait = reply
    return Drawn(int(taken), int(wait) / 1e6)
