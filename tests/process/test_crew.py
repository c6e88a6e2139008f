"""What is hard to hit from outside: orders that come while a worker is being started."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from rt.config import Config, decode, load
from rt.supervisor.child import Child
from rt.supervisor.control import Start
from rt.supervisor.crew import Crew


class Spawned:
    """A worker that has heard nothing yet."""

    def __init__(self) -> None:
        self.pid = 1
        self.told: list[tuple[str, bytes]] = []

    def tell(self, word: str, body: bytes = b"") -> None:
        """Note it."""
        self.told.append((word, body))


def test_a_worker_that_is_being_started_misses_no_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A reload, or a new lineage, that comes while the system makes its process: orders go to those that are there, so
    it must begin with what is so by then."""
    config: Config = load(None)
    fresh = msgspec.structs.replace(config, http_api=msgspec.structs.replace(config.http_api, key="another"))
    child = Spawned()

    async def run() -> None:
        crew = Crew(config, None, tmp_path, tmp_path, lambda: None, lambda code: None)
        crew.lineage = "old"

        async def spawn(*arguments: Any) -> Spawned:
            crew.config, crew.lineage = fresh, "new"
            return child

        monkeypatch.setattr(Child, "spawn", spawn)
        await crew._spawn(crew._seats[0])

    asyncio.run(run())
    ((word, body),) = child.told
    start = Start.decode(body)
    assert (word, start.lineage, decode(start.config).http_api.key) == ("start", "new", "another")
