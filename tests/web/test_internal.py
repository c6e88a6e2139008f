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
from rt.web.internal import Readiness, application, together, why_not_ready

ME, OTHER = os.getpid(), 7
HERE, NOBODY = frozenset({"default"}), frozenset[str]()
Fetch = Callable[..., "asyncio.Future[HTTPResponse]"]


@contextlib.asynccontextmanager
async def serving(
    reasons: list[str] | Readiness, metrics: Metrics | None = None, workers: int = 1
) -> AsyncIterator[Fetch]:
    """The internal application on an unused port; what is given fetches a path of it."""
    readiness = reasons if isinstance(reasons, Readiness) else Readiness({"default": reasons})
    listener, port = bind_unused_port()
    server = HTTPServer(application(metrics or Metrics(), lambda: readiness, workers))
    server.add_socket(listener)
    client = AsyncHTTPClient(force_instance=True)
    try:
        yield lambda path, **options: client.fetch(f"http://127.0.0.1:{port}{path}", raise_error=False, **options)
    finally:
        client.close()
        server.stop()
        await server.close_all_connections()


def fetched(
    path: str, reasons: list[str] | Readiness | None = None, *, workers: int = 1, method: str = "GET"
) -> HTTPResponse:
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
            metrics.of("default").connected("sse")
            return await fetch("/metrics")

    answer = asyncio.run(run())
    assert answer.code == 200 and answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert b'rt_connects_total{tenant="default",transport="sse"} 1.0\n' in answer.body


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
        ([WorkerState(OTHER, HERE, False, 100.0)], 2, []),
        ([WorkerState(OTHER, NOBODY, False, 100.0)], 2, ["worker 7 is not ready"]),
        ([WorkerState(OTHER, HERE, False, 91.0)], 2, ["worker 7 has not been heard of for 10 s"]),
        ([WorkerState(OTHER, NOBODY, True, 100.0)], 1, []),
        ([WorkerState(OTHER, HERE, True, 100.0)], 2, ["1 of 2 workers are serving"]),
        ([], 2, ["1 of 2 workers are serving"]),
    ],
)
def test_readiness_of_the_whole_server(others: list[WorkerState], expected: int, words: list[str]) -> None:
    """One worker that is not ready, silent or missing turns it red; one that is leaving does not count."""
    mine = WorkerState(ME, NOBODY, False, 101.0)
    assert why_not_ready("default", [], [mine, *others], expected, ME, 101.0) == words
    assert why_not_ready("default", ["mine"], [mine, *others], expected, ME, 101.0) == ["mine", *words]


def test_a_worker_that_leaves_answers_for_those_that_stay() -> None:
    """In a rolling upgrade it still is asked, and a balancer must not take the server out for it."""
    mine, other = WorkerState(ME, NOBODY, True, 101.0), WorkerState(OTHER, HERE, False, 100.0)
    assert why_not_ready("default", ["leaving"], [mine, other], 1, ME, 101.0) == []
    assert why_not_ready("default", ["leaving"], [mine], 1, ME, 101.0) == ["0 of 1 workers are serving"]


def test_a_worker_that_begins_does_not_count_yet() -> None:
    """Its files are there before anything is in them."""
    states = [WorkerState(ME, HERE, False, 101.0), WorkerState(OTHER, NOBODY, False, 0.0)]
    assert why_not_ready("default", [], states, 1, ME, 101.0) == []
    assert why_not_ready("default", [], states, 2, ME, 101.0) == ["1 of 2 workers are serving"]


DOWN = "commands: refused"
TWO = Readiness({"a": [], "b": [DOWN]}, apart=True)


def test_one_tenant_with_a_store_is_enough() -> None:
    """Green for the balancer, and each tenant told by its name."""
    answer = fetched("/ready", TWO)
    assert answer.code == 200 and json.loads(answer.body) == {
        "ready": True,
        "reasons": [],
        "tenants": {"a": {"ready": True, "reasons": []}, "b": {"ready": False, "reasons": [DOWN]}},
    }


def test_no_tenant_with_a_store_is_red() -> None:
    """With what is wrong for each."""
    answer = fetched("/ready", Readiness({"a": ["x"], "b": ["y"]}, apart=True))
    assert answer.code == 503
    assert json.loads(answer.body)["reasons"] == ["tenant a: x", "tenant b: y"]


@pytest.mark.parametrize(
    ("asked", "status", "reasons"),
    [("a", 200, []), ("b", 503, [DOWN]), ("c", 404, ["no such tenant is served here"]), ("", 404, None)],
)
def test_ready_for_one_tenant(asked: str, status: int, reasons: list[str] | None) -> None:
    """A balancer of one tenant asks for that one alone."""
    answer = fetched(f"/ready?tenant={asked}", TWO)
    assert answer.code == status
    if reasons is not None:
        assert json.loads(answer.body) == {"ready": not reasons, "reasons": reasons}


def test_another_worker_may_be_ready_for_one_tenant_only() -> None:
    """What a worker says of itself is said per tenant."""
    states = [WorkerState(ME, NOBODY, False, 101.0), WorkerState(OTHER, frozenset({"a"}), False, 101.0)]
    assert why_not_ready("a", [], states, 2, ME, 101.0) == []
    assert why_not_ready("b", [], states, 2, ME, 101.0) == ["worker 7 is not ready"]


def test_a_server_without_tenants_of_its_region_is_not_ready() -> None:
    """Nobody would be served."""
    assert together({}) == ["no tenant lives in this region"]
    assert together({"a": ["x"]}) == ["x"]
