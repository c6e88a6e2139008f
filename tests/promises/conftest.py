"""One stage for most of the tests here: each leaves it as it found it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.promises.brisk import BRISK
from tests.promises.leaks import leakless
from tests.promises.stages import Stage, staged
from tests.servers import Server


@pytest.fixture(scope="session")
def shared_stage() -> Iterator[Stage]:
    """For :func:`stage`."""
    with staged() as built, leakless(built.server, grown=64 << 20):
        yield built


@pytest.fixture(scope="session")
def brisk() -> Iterator[Server]:
    """Two workers with short intervals, for tests that leave them alive."""
    with Server(BRISK) as running:
        yield running


@pytest.fixture
def stage(shared_stage: Stage) -> Iterator[Stage]:
    """Two workers and their store, all well, and left with nothing that was not there before."""
    shared_stage.server.wait_ready()
    with leakless(shared_stage.server, grown=64 << 20, lingering=True):
        yield shared_stage
