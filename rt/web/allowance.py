"""How a rate limit is told over HTTP: a status, ``Retry-After``, and the fields of the IETF's draft.

``RateLimit-Policy`` names each rule that counts with what it holds (``q``) and in how many seconds that comes back
(``w``); ``RateLimit`` says what is left (``r``) and in how many seconds the bucket is full again (``t``), where this
worker knows it (draft-ietf-httpapi-ratelimit-headers).
"""

from __future__ import annotations

from math import ceil, floor
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rt.delivery.rules import Asker, Rule, Scopes, TooMany

Header = tuple[str, str]


def refusal(refused: TooMany) -> list[Header]:
    """The fields of the answer 429; 503 has the first of them only."""
    rule = refused.rule
    after = ("Retry-After", str(max(ceil(refused.retry_after), 1)))
    return [after, ("RateLimit-Policy", _policy(rule)), ("RateLimit", _state(rule, 0.0))] if refused.meant else [after]


def status(refused: TooMany) -> int:
    """429, or 503 where it is the store's fault."""
    return 429 if refused.meant else 503


def standing(scopes: Scopes, asker: Asker) -> list[Header]:
    """The fields of an answer to somebody who was let pass."""
    found = list(scopes.standing(asker))
    known = [_state(rule, left) for rule, left in found if left is not None]
    fields = [("RateLimit-Policy", ", ".join([_policy(rule) for rule, _ in found]))]
    return [*fields, ("RateLimit", ", ".join(known))] if known else fields


def _name(rule: Rule) -> str:
    return f'"{rule.on}-{rule.per}-{rule.namespace}"' if rule.namespace else f'"{rule.on}-{rule.per}"'


def _policy(rule: Rule) -> str:
    settings = rule.settings
    window = max(ceil(settings.capacity / settings.rate.per_second), 1)
    return f"{_name(rule)};q={floor(settings.capacity)};w={window}"


def _state(rule: Rule, left: float) -> str:
    settings = rule.settings
    full_in = ceil((settings.capacity - left) / settings.rate.per_second)
    return f"{_name(rule)};r={max(floor(left), 0)};t={full_in}"
