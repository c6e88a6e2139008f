"""The doors for operators, on an address of their own: ``/health``, ``/ready`` and ``/metrics``.

They are plain Tornado handlers; nothing here is hot. None of them needs a key, so the address should be one that only
the operator's tools can reach (by default it is 127.0.0.1).
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import msgspec
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4
from tornado.web import Application, HTTPError, RequestHandler

from rt.metrics import Metrics, WorkerState

logger = logging.getLogger(__name__)

STALE = 5.0
"""Seconds after which a worker that copied no metrics is taken for stuck; it does so every second."""


class Internal(RequestHandler):
    """Base of the handlers: says nothing of itself, and logs no query and no header."""

    def set_default_headers(self) -> None:
        """No name and version of the server; answers must not be kept."""
        self.clear_header("Server")
        self.set_header("Cache-Control", "no-store")

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """The standard words for the status, as plain text."""
        self.set_header("Content-Type", "text/plain")
        self.finish(self._reason + "\n")

    def log_exception(
        self,
        typ: type[BaseException] | None,
        value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        """Only what is a fault of ours, under the handler's name: Tornado would log the address with its query."""
        if not isinstance(value, HTTPError):
            logger.error("the internal door %s failed", type(self).__name__, exc_info=value)

    async def head(self) -> None:
        """As GET; Tornado keeps the body back."""
        self.get()

    def get(self) -> None:
        """Answered by the doors below; there is no other."""
        raise HTTPError(404)


class Health(Internal):
    """``/health``: 200 as long as this worker's loop runs, whatever the store does. For restarting what hangs."""

    def get(self) -> None:
        """An empty object."""
        self.set_header("Content-Type", "application/json")
        self.finish(b"{}")


class Ready(Internal):
    """``/ready``: 200 when every worker of this server is ready, else 503 and why not. For balancing load."""

    def initialize(self, metrics: Metrics, reasons: Callable[[], Sequence[str]], workers: int) -> None:
        """``reasons`` says why this worker is not ready (empty: it is); ``workers`` is how many there should be."""
        self._metrics, self._reasons, self._workers = metrics, reasons, workers

    def get(self) -> None:
        """``{"ready":false,"reasons":["..."]}``"""
        reasons = why_not_ready(self._reasons(), self._metrics.workers(), self._workers, os.getpid(), time.time())
        self.set_status(503 if reasons else 200)
        self.set_header("Content-Type", "application/json")
        self.finish(msgspec.json.encode({"ready": not reasons, "reasons": reasons}))


class Scrape(Internal):
    """``/metrics``: what all workers count, in the text format of Prometheus."""

    def initialize(self, metrics: Metrics) -> None:
        """``metrics`` are this worker's; it sums those of the others itself."""
        self._metrics = metrics

    def get(self) -> None:
        """All metrics of docs/metrics.md that have a value."""
        self.set_header("Content-Type", CONTENT_TYPE_PLAIN_0_0_4)
        self.finish(self._metrics.render())


def application(metrics: Metrics, reasons: Callable[[], Sequence[str]], workers: int = 1) -> Application:
    """The application of the internal port.

    ``reasons`` is called for every ``/ready`` and says why this worker is not ready, in words that operators may read;
    the other workers' state comes from the shared metrics. ``workers`` is how many this server should have.
    """
    return Application(
        [
            ("/health", Health),
            ("/ready", Ready, {"metrics": metrics, "reasons": reasons, "workers": workers}),
            ("/metrics", Scrape, {"metrics": metrics}),
        ],
        default_handler_class=Internal,
        log_function=_log_nothing,
    )


def why_not_ready(own: Sequence[str], states: Sequence[WorkerState], expected: int, pid: int, now: float) -> list[str]:
    """Why the server is not ready; empty when it is.

    ``own`` are the reasons of the worker ``pid``, which answers; the others are judged by their state. Workers that are
    leaving count neither for nor against: they have stopped accepting, and their successors do it.
    """
    reasons = list(own)
    serving = [state for state in states if not state.leaving]
    for state in serving:
        if state.pid == pid:
            continue
        if now - state.seen > STALE:
            reasons.append(f"worker {state.pid} has not been heard of for {now - state.seen:.0f} s")
        elif not state.ready:
            reasons.append(f"worker {state.pid} is not ready")
    if len(serving) < expected:
        reasons.append(f"{len(serving)} of {expected} workers are serving")
    return reasons


def _log_nothing(handler: RequestHandler) -> None:
    """Scrapes and checks come every few seconds and are no news; what fails is logged where it fails."""
