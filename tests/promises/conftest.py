"""One stage for most of the tests here: each leaves it as it found it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.promises.brisk import BRISK
from tests.promises.stages import Stage, staged
from tests.servers import Server


@pytest.fixture(scope="session")
def shared_stage() -> Iterator[Stage]:
    """For :func:`stage`."""
    with staged() as built:
        yield built


@pytest.fixture(scope="session")
def brisk() -> Iterator[Server]:
    """Two workers with short intervals, for tests that leave them alive."""
    with Server(BRISK) as running:
        yield running


@pytest.fixture
def stage(shared_stage: Stage) -> Stage:
    """Two workers and their store, all well."""
    shared_stage.server.wait_ready()
    return shared_stage
