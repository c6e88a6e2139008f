"""rt.broker.together."""

from __future__ import annotations

import asyncio

import pytest

from rt.broker.together import together
from tests.brokers import asynchronous


def futures(count: int) -> list[asyncio.Future[int]]:
    """That are not done."""
    return [asyncio.get_running_loop().create_future() for _ in range(count)]


@asynchronous
async def test_it_is_done_when_all_are() -> None:
    """With the last one's result, in whatever order they come."""
    calls = futures(3)
    whole = together(calls)
    for index in (2, 0):
        calls[index].set_result(index)
    await asyncio.sleep(0)
    assert not whole.done()
    calls[1].set_result(1)
    assert await whole == 2


@asynchronous
async def test_the_first_failure_is_its_failure() -> None:
    """The others are looked at all the same."""
    calls = futures(3)
    whole = together(calls)
    calls[1].set_exception(ValueError("first"))
    calls[0].set_exception(ValueError("second"))
    calls[2].set_result(2)
    with pytest.raises(ValueError, match="first"):
        await whole


@asynchronous
async def test_cancelling_it_cancels_no_call() -> None:
    """They go on."""
    calls = futures(2)
    together(calls).cancel()
    for call in calls:
        call.set_result(1)
    await asyncio.sleep(0)
