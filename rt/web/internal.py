"""The doors for operators, on an address of their own: ``/health``, ``/ready`` and ``/metrics``.

They are plain Tornado handlers; nothing here is hot. None of them needs a key, so the address should be one that only
the operator's tools can reach (by default it is 127.0.0.1). The server API stands beside them (:mod:`rt.web.router`),
with its keys.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple

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
        waiting = self.get()
        if waiting is not None:
            await waiting

    def get(self) -> Awaitable[None] | None:
        """Answered by the doors below; there is no other."""
        raise HTTPError(404)


class Health(Internal):
    """``/health``: 200 as long as this worker's loop runs, whatever the store does. For restarting what hangs."""

    def get(self) -> None:
        """An empty object."""
        self.set_header("Content-Type", "application/json")
        self.finish(b"{}")


class Readiness(NamedTuple):
    """How this worker stands: why it is not ready, in words that operators may read, by tenant (no words: it is).
    ``apart``: the config names tenants, so they are told apart."""

    reasons: Mapping[str, Sequence[str]]
    apart: bool = False


class Ready(Internal):
    """``/ready``: 200 when every worker of this server is ready, for one of the tenants at least, else 503 and why not.
    For balancing load. ``?tenant=`` judges by that one alone; 404 when it is not served here."""

    def initialize(self, metrics: Metrics, readiness: Callable[[], Readiness], workers: int) -> None:
        """``readiness`` is this worker's; ``workers`` is how many there should be."""
        self._metrics, self._readiness, self._workers = metrics, readiness, workers

    def get(self) -> None:
        """``{"ready":false,"reasons":["..."]}``, with ``tenants`` the same for each where the config names them."""
        own = self._readiness()
        found = judged(own, self._metrics.workers(), self._workers, time.monotonic())
        asked = self.get_query_argument("tenant", None)
        if asked is None:
            self._answer(together(found), found if own.apart else None)
        elif asked in found:
            self._answer(found[asked])
        else:
            self._answer(["no such tenant is served here"], status=404)

    def _answer(self, reasons: list[str], tenants: Mapping[str, list[str]] | None = None, status: int = 503) -> None:
        self.set_status(status if reasons else 200)
        self.set_header("Content-Type", "application/json")
        answer: dict[str, object] = {"ready": not reasons, "reasons": reasons}
        if tenants is not None:
            answer["tenants"] = {name: {"ready": not why, "reasons": why} for name, why in tenants.items()}
        self.finish(msgspec.json.encode(answer))


class Scrape(Internal):
    """``/metrics``: what all workers count, in the text format of Prometheus."""

    def initialize(self, metrics: Metrics) -> None:
        """``metrics`` are this worker's; it sums those of the others itself."""
        self._metrics = metrics

    def get(self) -> None:
        """All metrics of docs/metrics.md that have a value."""
        self.set_header("Content-Type", CONTENT_TYPE_PLAIN_0_0_4)
        self.finish(self._metrics.render())


def application(
    metrics: Metrics, readiness: Callable[[], Readiness], workers: int = 1, more: Sequence[Any] = ()
) -> Application:
    """The application of the internal port.

    ``readiness`` is asked for every ``/ready`` how this worker stands; the other workers' state comes from the shared
    metrics. ``workers`` is how many this server should have. ``more`` are routes beside these.
    """
    return Application(
        [
            ("/health", Health),
            ("/ready", Ready, {"metrics": metrics, "readiness": readiness, "workers": workers}),
            ("/metrics", Scrape, {"metrics": metrics}),
            *more,
        ],
        default_handler_class=Internal,
        log_function=_log_nothing,
    )


def judged(own: Readiness, states: Sequence[WorkerState], expected: int, now: float) -> dict[str, list[str]]:
    """Why the server is not ready, by tenant, as this worker and the ``states`` of all say; ``now`` is monotonic."""
    return {
        name: why_not_ready(name, reasons, states, expected, os.getpid(), now) for name, reasons in own.reasons.items()
    }


def why_not_ready(
    tenant: str, own: Sequence[str], states: Sequence[WorkerState], expected: int, pid: int, now: float
) -> list[str]:
    """Why the server is not ready for a tenant; empty when it is.

    ``own`` are the reasons of the worker ``pid``, which answers; the others are judged by their state. Workers that are
    leaving count neither for nor against, also where one of them answers: they have stopped accepting, and their
    successors do it. Nor do those that are just beginning, and have copied nothing yet.
    """
    serving = [state for state in states if state.seen and not state.leaving]
    reasons = [] if any(state.pid == pid and state.leaving for state in states) else list(own)
    for state in serving:
        if state.pid == pid:
            continue
        if now - state.seen > STALE:
            reasons.append(f"worker {state.pid} has not been heard of for {now - state.seen:.0f} s")
        elif tenant not in state.ready:
            reasons.append(f"worker {state.pid} is not ready")
    if len(serving) < expected:
        reasons.append(f"{len(serving)} of {expected} workers are serving")
    return reasons


def together(tenants: Mapping[str, Sequence[str]]) -> list[str]:
    """Why the server is not ready for anybody, by what is wrong for each tenant; empty when it is for one of them."""
    if not tenants:
        return ["no tenant lives in this region"]
    if not all(tenants.values()):
        return []
    if len(tenants) == 1:
        return list(*tenants.values())
    return [f"tenant {name}: {why}" for name, reasons in tenants.items() for why in reasons]


def _log_nothing(handler: RequestHandler) -> None:
    """Scrapes and checks come every few seconds and are no news; what fails is logged where it fails."""
