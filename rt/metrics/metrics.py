"""The metrics of one worker: those of its process here, those of each tenant beside."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterable

import prometheus_client as prometheus

from rt import __version__, logs
from rt.metrics import workers
from rt.metrics.counts import Latency
from rt.metrics.series import Series, families
from rt.metrics.tenant import TenantMetrics
from rt.metrics.workers import WorkerState

# A series with the time of creation beside every counter: twice the output, and nobody asks for it.
prometheus.disable_created_metrics()  # type: ignore[no-untyped-call]


class Metrics(Series):
    """The metrics of one worker. In multi-process mode there is one per process: all of them write the same files."""

    def __init__(self) -> None:
        workers.reserve()
        self._registry = prometheus.CollectorRegistry()
        super().__init__(families(self._registry))
        self.loop_lag = Latency()
        self._tenants: dict[str, TenantMetrics] = {}
        self.gauge("rt_worker_seen_timestamp_seconds", time.time)
        self._sources["rt_cpu_seconds_total"] = [lambda: {(): time.process_time()}]
        self.gauge("rt_resident_memory_bytes", _resident_memory)
        self.gauge("rt_tasks", _tasks)
        self._sources["rt_log_lines_dropped_total"] = [lambda: {(): logs.dropped()}]
        self._sources["rt_build_info"] = [lambda: {(__version__,): 1}]
        self._add_histogram("rt_loop_lag_seconds", (), self.loop_lag)

    def of(self, tenant: str) -> TenantMetrics:
        """What is counted for the tenant of this name. Always the same object for the same name, so that counters only
        go up, also when a tenant goes and comes back."""
        found = self._tenants.get(tenant)
        if found is None:
            found = self._tenants[tenant] = TenantMetrics(self._families, tenant)
        return found

    def collect(self) -> None:
        """Copy what has changed. To be called each second, so that a scrape answered by another worker is as fresh."""
        super().collect()
        for tenant in self._tenants.values():
            tenant.collect()
        # Last, since others may read in between: a worker that has been seen has said what it is ready for.
        self._copy("rt_worker_seen_uptime_seconds", (), time.monotonic())

    def render(self) -> bytes:
        """The text that Prometheus scrapes, over all workers that share the directory of :data:`workers.DIRECTORY`."""
        return prometheus.generate_latest(self._present())

    def gathered(self) -> Iterable[prometheus.Metric]:
        """The same as values, for who makes something else of them."""
        return self._present().collect()

    def _present(self) -> prometheus.CollectorRegistry:
        self.collect()
        registry = prometheus.CollectorRegistry()
        registry.register(workers.Present(workers.together() or self._registry))
        return registry

    def workers(self) -> list[WorkerState]:
        """The state of every live worker that shares the directory; of this one alone when there is none."""
        self.collect()
        found = workers.states()
        return found if found is not None else [self._own_state()]

    def _own_state(self) -> WorkerState:
        values = {name: value for (name, _), value in self._copied.items()}
        return workers.state(os.getpid(), values, self._ready())

    def _ready(self) -> dict[str, float]:
        return {name: tenant.value("rt_worker_ready") for name, tenant in self._tenants.items()}


def _tasks() -> int:
    """Of the running loop; without one, in a test, there are none."""
    try:
        return len(asyncio.all_tasks())
    except RuntimeError:
        return 0


def _resident_memory() -> int:
    """Bytes, from the kernel's own count."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
