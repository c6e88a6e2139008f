"""Stores for the broker's tests: the embedded Valkey, and redis-server where it is installed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.stores import Store

PROGRAMS = ["valkey-server", pytest.param("redis-server", marks=pytest.mark.needs("redis-server"))]


@pytest.fixture(scope="session", params=PROGRAMS)
def shared_store(request: pytest.FixtureRequest) -> Iterator[Store]:
    """A server for the tests that leave it as it is; channels are the test's own."""
    with Store(request.param) as store:
        yield store


@pytest.fixture(params=PROGRAMS)
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    """A server of the test's own, empty."""
    with Store(request.param) as store:
        yield store
