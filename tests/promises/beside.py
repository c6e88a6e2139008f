"""A healthy connection beside every fault: it must see no error, no gap and no delay."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import secrets
import threading
import time
from collections.abc import Iterator

from tests.clients import Api, SdkClient
from tests.servers import Server
from tests.waiting import PATIENCE, eventually

PAUSE = 0.02
"""Seconds between two publications."""

LATE = 1.0
"""Seconds after which one of a hundred publications may come: on a machine that others use too."""


class Beside:
    """``delays`` are those of the publications so far, in seconds."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.delays: list[float] = []
        self.failure: BaseException | None = None
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            asyncio.run(self._live())
        except BaseException as error:
            self.failure = error

    async def _live(self) -> None:
        channel = f"beside-{secrets.token_hex(4)}"
        async with Api(self.server) as api, SdkClient(self.server) as client:
            await client.subscribe(channel)
            for number in itertools.count(1):
                if self.over.is_set():
                    break
                sent = time.monotonic()
                await api.publish(channel, number)
                await eventually(lambda number=number: len(client.data(channel)) >= number, PATIENCE)  # type: ignore[misc]
                self.delays.append(time.monotonic() - sent)
                await asyncio.sleep(PAUSE)
            assert client.data(channel) == list(range(1, len(client.data(channel)) + 1))
            assert not client.gone and not client.pushes[len(client.data(channel)) :]

    @property
    def late(self) -> float:
        """The delay that 99 of 100 are below."""
        return sorted(self.delays)[int(0.99 * (len(self.delays) - 1))]


@contextlib.contextmanager
def beside(server: Server) -> Iterator[Beside]:
    """A connection that is served like any other during the block."""
    made = Beside(server)
    made.thread.start()
    try:
        yield made
    finally:
        made.over.set()
        made.thread.join(2 * PATIENCE)
    if made.failure is not None:
        raise AssertionError(f"the connection beside: {made.failure!r}") from made.failure
    assert len(made.delays) >= 3 and made.late < LATE, f"{len(made.delays)} publications, 99 % within {made.late:.2f} s"
