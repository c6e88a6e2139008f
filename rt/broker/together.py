"""Several calls as one."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def together(calls: Sequence[asyncio.Future[T]]) -> asyncio.Future[T]:
    """Done with the last one's result when all are done; fails with the first failure among them. ``calls`` is not
    empty. May be cancelled; the calls go on."""
    if len(calls) == 1:
        return calls[0]
    whole: asyncio.Future[T] = asyncio.get_running_loop().create_future()
    left = len(calls)

    def done(call: asyncio.Future[T]) -> None:
        nonlocal left
        left -= 1
        error = call.exception()
        if whole.done():
            return
        if error is not None:
            whole.set_exception(error)
        elif left == 0:
            whole.set_result(calls[-1].result())

    for call in calls:
        call.add_done_callback(done)
    return whole
