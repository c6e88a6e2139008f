"""How often something may happen, and how much of it at once: the kinds of value that rate limits are made of."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

import msgspec

from rt.config.values import Kind, Unfit

_SIZES = {"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_TIMES = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_AMOUNT = re.compile(r"((?:0|[1-9][0-9]{0,9})(?:\.[0-9]{1,6})?)(B|KiB|MiB|GiB)?")
_MOST = 10**12


class Rate(msgspec.Struct, frozen=True):
    """``amount`` of something in so many ``seconds``."""

    amount: float
    seconds: float

    @property
    def per_second(self) -> float:
        """The same by the second."""
        return self.amount / self.seconds


class Frequency(Kind):
    """A rate: a number or size, and the unit of time."""

    words = "a rate above zero, such as 30/s, 100/m or 64KiB/s"

    def read(self, text: str) -> Rate:
        amount, slash, unit = text.partition("/")
        if not slash or unit not in _TIMES:
            raise Unfit
        number = _amount(amount)
        if number <= 0:
            raise Unfit
        return Rate(float(number), _TIMES[unit])

    def write(self, value: Any) -> str:
        unit = next(unit for unit, seconds in _TIMES.items() if seconds == value.seconds)
        return f"{value.amount:.15g}/{unit}"


class Amount(Kind):
    """How much at once: a whole number or a size."""

    words = "a whole number or a size, such as 60 or 256KiB"

    def read(self, text: str) -> int:
        number = _amount(text)
        if number != int(number) or number < 1:
            raise Unfit
        return int(number)


def _amount(text: str) -> Decimal:
    match = _AMOUNT.fullmatch(text)
    if match is None:
        raise Unfit
    number = Decimal(match[1]) * _SIZES[match[2] or ""]
    if number > _MOST:
        raise Unfit
    return number
