"""What all tests share: servers, channel names, and a summary that says what could not be tested here."""

from __future__ import annotations

import functools
import itertools
import secrets
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, cast

import pytest

from tests import tools
from tests.servers import DEFAULT, RUNNING, WHOLE, Server, merged, speaking

UNTESTED = "untested"
LOG_STARTS = pytest.StashKey[dict[Server, int]]()


@pytest.fixture
def http(request: pytest.FixtureRequest) -> str:
    """Which HTTP connection the server of a test has; a module that is marked with OVER_BOTH runs with each."""
    return cast("str", getattr(request, "param", DEFAULT))


@pytest.fixture(scope="session")
def common() -> Iterator[Callable[..., Server]]:
    """The servers that tests share, by their HTTP connection and ``whole``, each begun when it is first asked for."""
    with ExitStack() as stack:

        def running(http: str, *, whole: bool = False) -> Server:
            return stack.enter_context(Server(merged(speaking(http), WHOLE if whole else {})))

        yield functools.cache(running)


@pytest.fixture
def server(common: Callable[..., Server], http: str) -> Server:
    """Two workers on the embedded store, shared by every test that leaves them alive."""
    return common(http)


@pytest.fixture
def whole(common: Callable[..., Server], http: str) -> Server:
    """The same with presence, sessions and short times."""
    return common(http, whole=True)


@pytest.fixture
def start_server(http: str) -> Iterator[Callable[..., Server]]:
    """Start a server of the test's own: ``start_server({"client": {...}})``. It is stopped at the end of the test."""
    with ExitStack() as stack:
        yield lambda changes=None, **options: stack.enter_context(
            Server(merged(speaking(http), changes or {}), **options)
        )


@pytest.fixture
def own_server(start_server: Callable[..., Server]) -> Server:
    """Two workers for a test that kills one, or changes what others would notice."""
    return start_server()


@pytest.fixture
def channel() -> str:
    """A channel name, without namespace, that no other test uses."""
    return f"t{next(COUNTER)}-{secrets.token_hex(4)}"


COUNTER = itertools.count(1)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test whose tools are not here, and put down which."""
    needed = [tool for mark in item.iter_markers("needs") for tool in mark.args]
    missing = [tool for tool in needed if not tools.present(tool)]
    if missing:
        item.user_properties += [(UNTESTED, tool) for tool in missing]
        pytest.skip(f"needs {', '.join(missing)}")
    item.stash[LOG_STARTS] = {running: len(running.log()) for running in RUNNING}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[Any]) -> Any:
    """Show what the servers logged during a test that failed."""
    report = yield
    if report.failed:
        starts = item.stash.get(LOG_STARTS, {})
        for running in RUNNING:
            tail = running.log_tail(starts.get(running, 0))
            report.sections.append((f"log of the server on port {running.port}", tail))
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which tools were missing and how many tests that left out, also when it is none."""
    skipped = terminalreporter.stats.get("skipped", [])
    untested = Counter(tool for report in skipped for name, tool in report.user_properties if name == UNTESTED)
    if untested:
        found = ", ".join(f"{tool} ({count} tests)" for tool, count in sorted(untested.items()))
        terminalreporter.write_line(f"Not tested for lack of a tool: {found}")
    else:
        terminalreporter.write_line("No test was left out for lack of a tool.")
