"""Brokers in tests: what one heard, and running a test's coroutine so that nothing it leaves behind goes unseen."""

from __future__ import annotations

import asyncio
import functools
import gc
import itertools
import os
from collections.abc import Awaitable, Callable, Coroutine
from types import TracebackType
from typing import Any, ParamSpec, Self

import pytest
import uvloop

from rt.broker import Broker, PublishOptions, StoreSettings
from rt.errors import StoreError
from rt.protocol.publication import Change, Publication
from tests.stores import Store
from tests.waiting import eventually

P = ParamSpec("P")

STORED = PublishOptions(history_size=100, history_ttl=60.0, meta_ttl=600.0)
VOLATILE = PublishOptions(history_size=0, history_ttl=0.0, meta_ttl=0.0)
META_TTL = 600.0

LIMIT = 40.0
"""Seconds that a test may take. The runner's own limit sets a signal, which a waiting uvloop does not notice."""

_NUMBERS = itertools.count(1)


def asynchronous(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run an async test on uvloop, as the server does (``RT_TEST_LOOP=asyncio``: on asyncio's own loop).

    Whatever asyncio would only log (an exception nobody looked at, a task that was destroyed) fails the test, and so
    does a task that is left.
    """

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        complaints: list[dict[str, Any]] = []
        factory = None if os.environ.get("RT_TEST_LOOP") == "asyncio" else uvloop.new_event_loop

        async def main() -> None:
            asyncio.get_running_loop().set_exception_handler(lambda loop, what: complaints.append(what))
            async with asyncio.timeout(LIMIT):
                await test(*args, **kwargs)
            left = asyncio.all_tasks() - {asyncio.current_task()}
            assert not left, f"tasks are left: {left}"

        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(main())
            gc.collect()
        assert not complaints, complaints

    return run


class Worker:
    """A broker with its callbacks: ``async with Worker(store) as worker``. It waits until ready unless told not to."""

    def __init__(self, url: Store | str, *, wait: bool = True, name: str = "", **settings: Any) -> None:
        values = {"timeout": 1.0, "probe_interval": 1.0} | settings
        self.settings = StoreSettings(url=url.url if isinstance(url, Store) else url, **values)
        self.name = name or f"w{next(_NUMBERS)}"
        self.heard: dict[str, list[Publication]] = {}
        self.changes: dict[str, list[Change]] = {}
        self.removed: list[str] = []
        self.said: list[bytes] = []
        self.answer: Callable[[bytes], bytes | asyncio.Future[bytes]] = lambda body: b""
        self.resumed = 0
        self._wait = wait
        self.broker: Broker

    async def __aenter__(self) -> Self:
        self.broker = Broker(self.settings, worker=self.name)
        await self.broker.start(
            on_publication=self._on_publication,
            on_change=self._on_change,
            on_removed=self.removed.append,
            on_resumed=self._on_resumed,
            on_control=self._on_control,
        )
        if self._wait:
            await self.ready()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.broker.stop()

    def _on_publication(self, channel: str, publication: Publication) -> None:
        self.heard.setdefault(channel, []).append(publication)

    def _on_change(self, channel: str, change: Change) -> None:
        self.changes.setdefault(channel, []).append(change)

    def _on_control(self, body: bytes) -> bytes | asyncio.Future[bytes]:
        self.said.append(body)
        return self.answer(body)

    def _on_resumed(self) -> None:
        self.resumed += 1

    async def ready(self) -> None:
        """Wait until it is connected both ways and its probe has come back."""
        await eventually(
            lambda: self.broker.ready and self.broker.status().connected and self.broker.status().subscribed,
            what=f"ready: {self.broker.status()}",
        )

    def bodies(self, channel: str) -> list[bytes]:
        """What was heard on ``channel``."""
        return [publication.body for publication in self.heard.get(channel, [])]


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was logged, without a word on the age of the store that is installed where the tests run."""
    return [line for line in caplog.messages if "known holes" not in line]


def body(number: int) -> bytes:
    """A body that can be told from others."""
    return b'{"data":%d}' % number


async def outcome(call: Awaitable[Any]) -> Any:
    """The result, or the StoreError."""
    try:
        return await call
    except StoreError as error:
        return error
