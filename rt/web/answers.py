"""What a call of the server API is answered with, whatever the method: a result, or an error.

A method is called with its parameters and a ``done``, and calls that exactly once, now or later, with the finished JSON
of its result or with an error. Nothing is awaited and no task is made: the store answers through futures, and a publish
costs one callback.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import lru_cache, partial
from typing import TypeVar

import msgspec

from rt import errors

logger = logging.getLogger(__name__)

Outcome = bytes | errors.Error
Done = Callable[[Outcome], None]
Method = Callable[[bytes | msgspec.Raw, Done], None]
T = TypeVar("T")

WRONG_SHAPE = (msgspec.MsgspecError, UnicodeError, RecursionError)
"""What a decoder raises at parameters that are not what the method reads."""

EMPTY = b"{}"
"""The result of a method that has nothing to say but that it was done."""


@lru_cache(maxsize=64)
def error_object(error: errors.Error) -> bytes:
    """An error as the API writes it: ``{"code":102,"message":"unknown channel"}``."""
    return msgspec.json.encode({"code": error.code, "message": error.message})


def entry(key: bytes, outcome: Outcome) -> bytes:
    """An outcome under its name: ``{"publish":{}}``, or ``{"error":{...}}`` whatever the name."""
    if isinstance(outcome, errors.Error):
        return b'{"error":%b}' % error_object(outcome)
    return b'{"%b":%b}' % (key, outcome)


def attempt(method: Method, params: msgspec.Raw, done: Done) -> None:
    """Start a command that stands among others; what is wrong with it is its own answer, not that of all."""
    try:
        method(params, done)
    except errors.Refused as refused:
        done(refused.error)
    except WRONG_SHAPE:
        done(errors.BAD_REQUEST)


def answer(future: asyncio.Future[T], done: Done, render: Callable[[T], bytes]) -> None:
    """When the store has answered: ``done`` with what ``render`` makes of it, or with the error that stands for why
    there is nothing."""
    future.add_done_callback(partial(_settle, done, render))


def proceed(future: asyncio.Future[T], done: Done, then: Callable[[T], None]) -> None:
    """When the store has answered: go on with ``then``; where it said nothing, that is the answer."""
    future.add_done_callback(partial(_continue, done, then))


def _settle(done: Done, render: Callable[[T], bytes], future: asyncio.Future[T]) -> None:
    try:
        outcome: Outcome = render(future.result())
    except errors.Refused as refused:
        outcome = refused.error
    except (errors.StoreError, asyncio.CancelledError):
        outcome = errors.INTERNAL
    except Exception:
        logger.exception("a call of the server API failed")
        outcome = errors.INTERNAL
    done(outcome)


def _continue(done: Done, then: Callable[[T], None], future: asyncio.Future[T]) -> None:
    if not future.cancelled() and future.exception() is None:
        then(future.result())
    else:
        _settle(done, lambda _: b"", future)
