"""The asker's side of what workers say to one another: send it, and collect the answers. :mod:`rt.broker.control` is
the other side."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from typing import Any, TypeVar

from rt import errors
from rt.broker import message
from rt.broker.counters import Counters
from rt.broker.keys import Keys
from rt.broker.pipeline import Pipeline
from rt.broker.refusal import Refusal
from rt.broker.scripts import PUBLISH
from rt.broker.streams import candidate
from rt.broker.trouble import QUIET
from rt.errors import StoreError

T = TypeVar("T")

log = logging.getLogger("rt.broker")

STREAM_SIZE = 1000
"""Commands that the stream keeps for a worker that was away."""

STREAM_TTL_MS = 600_000
"""How long it keeps them after the last one, in milliseconds."""

STREAM_META_TTL = 30 * 86_400.0
"""How long the stream is known to be the same one, in seconds."""

PATIENCE = 1.0
"""Seconds that the workers have to answer."""

MAX_ASKED = 4096
"""Commands and questions that may wait for answers; more are refused."""

MAX_ANSWERS = 64 * 1024 * 1024
"""Bytes of all answers to one question."""

_DEDUP_WINDOW_MS = 10_000


class Asked:
    """A command or question until its future is done. ``expected`` is how many workers heard it, None while that is not
    known; ``without`` how many of them have no answer."""

    __slots__ = ("answers", "expected", "finish", "size", "timer", "without")

    def __init__(self, finish: Callable[[Asked], None]) -> None:
        self.answers: dict[bytes, bytes] = {}  # by who answered
        self.size = 0
        self.without = 0
        self.expected: int | None = None
        self.finish = finish
        self.timer: asyncio.TimerHandle | None = None

    @property
    def complete(self) -> bool:
        """Whether everybody has answered."""
        return self.expected is not None and len(self.answers) >= self.expected


class Asker:
    """Commands and questions of this worker; :class:`rt.broker.Broker` says what each promises."""

    __slots__ = ("_asked", "_counters", "_keys", "_listening", "_loop", "_pipeline", "_said", "_worker")

    def __init__(
        self, pipeline: Pipeline, keys: Keys, counters: Counters, worker: str, *, listening: Callable[[], bool]
    ) -> None:
        """``worker`` is the name under which it hears answers, while ``listening()``."""
        self._loop = asyncio.get_running_loop()
        self._pipeline = pipeline
        self._keys = keys
        self._counters = counters
        self._worker = worker
        self._asked: dict[bytes, Asked] = {}
        self._listening = listening
        self._said = -QUIET

    def stop(self) -> None:
        """Wait for no answer any more. What the store has not acknowledged fails by itself."""
        for key, asked in list(self._asked.items()):
            if asked.timer is not None:
                self._finish(key)

    # Asking

    def command(self, body: bytes) -> asyncio.Future[None]:
        """See :meth:`rt.broker.Broker.command`."""
        done: asyncio.Future[None] = self._loop.create_future()
        key = self._ask(done, body, lambda asked: None)
        if key is None:
            return done
        name = self._keys.control
        keys = (f"{name}:meta", f"{name}:stream", f"{name}:dedup:{key.decode()}")
        args = (
            name, candidate(), STREAM_SIZE, STREAM_TTL_MS, int(STREAM_META_TTL * 1000), _DEDUP_WINDOW_MS,
            time.time_ns() // 1000, message.encode(key, self._worker, body),
        )  # fmt: skip
        sent = self._pipeline.run(PUBLISH, keys, args, _heard, repeatable=True)
        sent.add_done_callback(lambda sent: self._sent(key, done, sent))
        return done

    def survey(self, body: bytes) -> asyncio.Future[list[bytes]]:
        """See :meth:`rt.broker.Broker.survey`."""
        done: asyncio.Future[list[bytes]] = self._loop.create_future()
        if not self._listening():
            done.set_exception(StoreError("the store is away, answers would not be heard", definite=True))
            return done
        key = self._ask(done, body, _all_answers)
        if key is None:
            return done
        payload = b"1p::0:%d:%s" % (time.time_ns() // 1000, message.encode(key, self._worker, body))
        sent: asyncio.Future[int | None] = self._pipeline.call("PUBLISH", self._keys.control, payload)
        sent.add_done_callback(lambda sent: self._sent(key, done, sent))
        return done

    def _ask(self, done: asyncio.Future[T], body: bytes, result: Callable[[Asked], T]) -> bytes | None:
        """Begin to wait for answers. Gives the id to send, or None when ``done`` has failed."""
        if b"\n" in body:
            raise ValueError("what is said to the workers is one line")
        if len(body) > message.MAX_BODY:
            done.set_exception(errors.Refused(errors.LIMIT_EXCEEDED))
            return None
        if len(self._asked) >= MAX_ASKED:
            done.set_exception(Refusal("full", "too many commands to the workers are under way", definite=True))
            return None

        def finish(asked: Asked) -> None:
            if done.done():
                return
            try:
                done.set_result(result(asked))
            except StoreError as error:
                done.set_exception(error)

        key = b"%016x" % random.getrandbits(64)
        self._asked[key] = Asked(finish)
        done.add_done_callback(lambda done: self._forget(key))
        return key

    def _sent(self, key: bytes, done: asyncio.Future[Any], sent: asyncio.Future[int | None]) -> None:
        error = sent.exception()
        asked = self._asked.get(key)
        if asked is None:
            return  # whoever asked does not wait any more
        if done.done():
            return
        if error is not None:
            done.set_exception(error)
            return
        asked.expected = sent.result()
        if asked.complete:
            self._finish(key)
        else:
            asked.timer = self._loop.call_later(PATIENCE, self._late, key)

    def _late(self, key: bytes) -> None:
        asked = self._asked[key]
        if asked.expected is not None:
            missing = asked.expected - len(asked.answers)
            self._counters.unanswered += missing
            if self._loop.time() - self._said >= QUIET:
                self._said = self._loop.time()
                log.warning("%d of %d workers did not answer within %g s", missing, asked.expected, PATIENCE)
        self._finish(key)

    def _finish(self, key: bytes) -> None:
        asked = self._forget(key)
        if asked is not None:
            asked.finish(asked)

    def _forget(self, key: bytes) -> Asked | None:
        asked = self._asked.pop(key, None)
        if asked is not None and asked.timer is not None:
            asked.timer.cancel()
        return asked

    # Being answered

    def hear(self, payload: bytes) -> None:
        """A message on this worker's own pub/sub."""
        answer = message.decode_answer(payload)
        if answer is None:
            self._counters.bus_dropped += 1
            return
        key, who, body = answer
        asked = self._asked.get(key)
        if asked is None:
            self._counters.bus_strays += 1
            return
        if who in asked.answers:
            return
        if body is None or asked.size + len(body) > MAX_ANSWERS:
            asked.without += 1
            body = b""
        asked.answers[who] = body
        asked.size += len(body)
        if asked.complete:
            self._finish(key)


def _all_answers(asked: Asked) -> list[bytes]:
    if not asked.complete or asked.without:
        raise StoreError("not every worker could answer", definite=False)
    return [answer for answer in asked.answers.values() if answer]


def _heard(reply: Any) -> int | None:
    """How many workers heard a command; None when it had been published before, by an attempt whose reply was lost."""
    return int(reply[3]) if len(reply) > 3 else None
