"""What is wrong with a tenant's store now, said once."""

from __future__ import annotations

import logging
from collections.abc import Callable

from rt.broker.refusal import kind_of
from rt.errors import StoreError
from rt.logs import fields

log = logging.getLogger("rt.broker")

QUIET = 10.0
"""Seconds in which one class of trouble is logged once."""


class Trouble:
    """The state of one store as the parts that use it see it. Logs when it changes, not as often as it is met.

    ``tenant`` is whose store it is, for the log.
    """

    __slots__ = ("_fields", "_now", "_parts", "_said", "_told")

    def __init__(self, now: Callable[[], float], tenant: str) -> None:
        self._now = now
        self._fields = fields(tenant=tenant)
        self._parts: dict[str, str] = {}
        self._said: dict[str, float] = {}  # by class of trouble, when it was last logged
        self._told: set[str] = set()  # classes logged since all was well

    @property
    def reasons(self) -> list[str]:
        """One sentence for each part that is in trouble."""
        return [f"{part}: {reason}" for part, reason in self._parts.items()]

    def meets(self, error: StoreError) -> None:
        """A call was refused; the part that made it goes on."""
        kind = kind_of(error)
        if self._is_news(kind):
            log.warning("a call to the store failed (%s): %s", kind, error, extra=self._fields)

    def begins(self, part: str, error: StoreError) -> None:
        """``part`` met ``error``; to be called again as long as it lasts."""
        self._parts[part] = str(error)
        kind = kind_of(error)
        if kind not in self._told and self._is_news(kind):
            self._told.add(kind)
            log.warning("trouble with the store (%s), seen by %s: %s", kind, part, error, extra=self._fields)

    def ends(self, part: str) -> None:
        """``part`` is well again."""
        if self._parts.pop(part, None) is not None and not self._parts and self._told:
            self._told.clear()
            log.warning("the store is well again", extra=self._fields)

    def _is_news(self, kind: str) -> bool:
        now = self._now()
        if now - self._said.get(kind, now - QUIET) < QUIET:
            return False
        self._said[kind] = now
        return True
