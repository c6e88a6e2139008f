"""The doors for operators, over a real socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
from collections.abc import AsyncIterator, Callable

import pytest
from tornado.httpclient import AsyncHTTPClient, HTTPResponse
from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port

from rt.metrics import Metrics, WorkerState
from rt.web.internal import application, why_not_ready

ME, OTHER = os.getpid(), 7
Fetch = Callable[..., "asyncio.Future[HTTPResponse]"]


@contextlib.asynccontextmanager
async def serving(reasons: list[str], metrics: Metrics | None = None, workers: int = 1) -> AsyncIterator[Fetch]:
    """The internal application on an unused port; what is given fetches a path of it."""
    listener, port = bind_unused_port()
    server = HTTPServer(application(metrics or Metrics(), lambda: reasons, workers))
    server.add_socket(listener)
    client = AsyncHTTPClient(force_instance=True)
    try:
        yield lambda path, **options: client.fetch(f"http://127.0.0.1:{port}{path}", raise_error=False, **options)
    finally:
        client.close()
        server.stop()
        await server.close_all_connections()


def fetched(path: str, reasons: list[str] | None = None, *, workers: int = 1, method: str = "GET") -> HTTPResponse:
    """One answer of a server of its own."""

    async def run() -> HTTPResponse:
        async with serving(reasons or [], workers=workers) as fetch:
            return await fetch(path, method=method)

    return asyncio.run(run())


def test_health_is_green_while_the_loop_runs() -> None:
    """A store that is down is no reason to restart a worker."""
    answer = fetched("/health", ["the store is not connected"])
    assert (answer.code, answer.body, answer.headers["Content-Type"]) == (200, b"{}", "application/json")
    assert "Server" not in answer.headers


def test_ready_says_why_not() -> None:
    """Red comes with the reasons, green without any."""
    green, red = fetched("/ready"), fetched("/ready", ["the store is not connected"])
    assert green.code == 200 and json.loads(green.body) == {"ready": True, "reasons": []}
    assert red.code == 503 and json.loads(red.body) == {"ready": False, "reasons": ["the store is not connected"]}


def test_ready_is_red_while_a_worker_is_missing() -> None:
    """A server that should have two workers and has one is not ready."""
    assert json.loads(fetched("/ready", workers=2).body)["reasons"] == ["1 of 2 workers are serving"]


def test_metrics_are_scraped_as_text() -> None:
    """What was counted a moment ago is in the answer."""

    async def run() -> HTTPResponse:
        metrics = Metrics()
        async with serving([], metrics) as fetch:
            metrics.connected("sse")
            return await fetch("/metrics")

    answer = asyncio.run(run())
    assert answer.code == 200 and answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert b'rt_connects_total{transport="sse"} 1.0\n' in answer.body


@pytest.mark.parametrize("path", ["/health", "/ready", "/metrics"])
def test_head_has_no_body(path: str) -> None:
    """Checks that only want the status may use HEAD."""
    answer = fetched(path, method="HEAD")
    assert (answer.code, answer.body) == (200, b"")


def test_other_paths_and_verbs_are_refused_without_a_log_line(caplog: pytest.LogCaptureFixture) -> None:
    """404 and 405 in plain words, and no address with its query in the log."""
    with caplog.at_level(logging.DEBUG):
        missing, deleting = fetched("/admin?token=secret"), fetched("/metrics?token=secret", method="DELETE")
    assert (missing.code, missing.body) == (404, b"Not Found\n")
    assert deleting.code == 405
    assert "secret" not in caplog.text


def test_a_failing_check_is_500_and_keeps_the_query_out_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """A bug is logged with its traceback, under the name of the door."""

    class Broken(Metrics):
        def render(self) -> bytes:
            raise RuntimeError("no files")

    async def run() -> HTTPResponse:
        async with serving([], Broken()) as fetch:
            return await fetch("/metrics?token=secret")

    assert asyncio.run(run()).code == 500
    assert "the internal door Scrape failed" in caplog.text and "no files" in caplog.text
    assert "secret" not in caplog.text


@pytest.mark.parametrize(
    ("others", "expected", "words"),
    [
        ([WorkerState(OTHER, True, False, 100.0)], 2, []),
        ([WorkerState(OTHER, False, False, 100.0)], 2, ["worker 7 is not ready"]),
        ([WorkerState(OTHER, True, False, 91.0)], 2, ["worker 7 has not been heard of for 10 s"]),
        ([WorkerState(OTHER, False, True, 100.0)], 1, []),
        ([WorkerState(OTHER, True, True, 100.0)], 2, ["1 of 2 workers are serving"]),
        ([], 2, ["1 of 2 workers are serving"]),
    ],
)
def test_readiness_of_the_whole_server(others: list[WorkerState], expected: int, words: list[str]) -> None:
    """One worker that is not ready, silent or missing turns it red; one that is leaving does not count."""
    mine = WorkerState(ME, False, False, 101.0)
    assert why_not_ready([], [mine, *others], expected, ME, 101.0) == words
    assert why_not_ready(["mine"], [mine, *others], expected, ME, 101.0) == ["mine", *words]
