"""The metrics of one worker: where events are counted, numbers are read, and both are copied to prometheus-client."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence

import prometheus_client as prometheus

from rt import __version__, errors
from rt.metrics import workers
from rt.metrics.counts import Latency, Tally
from rt.metrics.definitions import BUCKETS, DEFINITIONS, OUTCOMES, TRANSPORTS, Definition
from rt.metrics.workers import WorkerState

# A series with the time of creation beside every counter: twice the output, and nobody asks for it.
prometheus.disable_created_metrics()  # type: ignore[no-untyped-call]

_CLOSES = frozenset(value for value in vars(errors).values() if isinstance(value, errors.Close))

Number = int | float
Counts = dict[tuple[str, ...], int]
Values = Mapping[tuple[str, ...], Number]
Read = Callable[[], Values]


class Metrics:
    """The metrics of one worker. In multi-process mode there is one per process: all of them write the same files."""

    def __init__(self) -> None:
        self.tally = Tally()
        self.loop_lag = Latency()
        self._registry = prometheus.CollectorRegistry()
        self._families = {definition.name: _family(definition, self._registry) for definition in DEFINITIONS}
        self._sources: dict[str, list[Read]] = {}
        self._copied: dict[tuple[str, tuple[str, ...]], Number] = {}
        self._connections: Counts = {(transport,): 0 for transport in TRANSPORTS}
        self._connects: Counts = {(transport,): 0 for transport in TRANSPORTS}
        self._disconnects: Counts = {}
        self._recoveries: Counts = {(transport, outcome): 0 for transport in TRANSPORTS for outcome in OUTCOMES}
        self._api: Counts = {}
        self._latencies: dict[tuple[str, str], Latency] = {}
        self._histograms: list[tuple[prometheus.Histogram, Latency, Latency]] = []
        self._wire_own()

    def _wire_own(self) -> None:
        self._sources["rt_connections"] = [lambda: self._connections]
        self._sources["rt_connects_total"] = [lambda: self._connects]
        self._sources["rt_disconnects_total"] = [lambda: self._disconnects]
        self._sources["rt_recoveries_total"] = [lambda: self._recoveries]
        self._sources["rt_api_requests_total"] = [lambda: self._api]
        self.follow(self.tally)
        self.gauge("rt_worker_seen_timestamp_seconds", time.time)
        self._sources["rt_cpu_seconds_total"] = [lambda: {(): time.process_time()}]
        self.gauge("rt_resident_memory_bytes", _resident_memory)
        self._sources["rt_build_info"] = [lambda: {(__version__,): 1}]
        self._add_histogram("rt_loop_lag_seconds", (), self.loop_lag)

    # What happens, called by the doors.

    def connected(self, transport: str) -> None:
        """A connection was accepted; ``transport`` is one of :data:`TRANSPORTS`."""
        self._connects[(transport,)] += 1
        self._connections[(transport,)] += 1

    def disconnected(self, transport: str, close: errors.Close) -> None:
        """A connection that :meth:`connected` counted has ended."""
        self._connections[(transport,)] -= 1
        # A code that a client chose must not become a label, so only the closes of the table have a line of their own.
        code, reason = (str(close.code), close.label) if close in _CLOSES else ("other", "other")
        key = (transport, code, reason)
        self._disconnects[key] = self._disconnects.get(key, 0) + 1

    def recovered(self, transport: str, outcome: str) -> None:
        """A subscription began: ``fresh`` asked for no recovery, ``resumed`` got all it missed, ``gap`` did not."""
        self._recoveries[(transport, outcome)] += 1

    def api(self, method: str, code: int) -> None:
        """A request to the server API was answered, with ``code`` 0, the number of an error, or a refusal's status."""
        key = (method, str(code))
        self._api[key] = self._api.get(key, 0) + 1

    def latency(self, namespace: str, transport: str) -> Latency:
        """The delivery latency of one namespace (of the config, ``""`` for none) over one transport. Always the same
        object for the same two, to be kept by who flushes."""
        key = (namespace or "-", transport)
        found = self._latencies.get(key)
        if found is None:
            found = self._latencies[key] = Latency()
            self._add_histogram("rt_delivery_latency_seconds", key, found)
        return found

    # Where numbers are read, wired once at start.

    def gauge(self, name: str, read: Callable[[], Number]) -> None:
        """Take the gauge ``name`` (it has no labels) from ``read`` at every collection. ``KeyError`` if unknown."""
        if not isinstance(self._families[name], prometheus.Gauge):
            raise KeyError(name)
        self._sources[name] = [lambda: {(): read()}]

    def follow(self, counters: object) -> None:
        """Take every counter whose source is an attribute of ``counters``: an int, or a dict of ints by label.

        Several objects may have the same attribute, and are summed. Raises ``AttributeError`` if there is none to take.
        """
        known = [row for row in DEFINITIONS if row.source and hasattr(counters, row.source)]
        if not known:
            raise AttributeError(f"{type(counters).__name__} has no counter that is in the table")
        for row in known:
            self._sources.setdefault(row.name, []).append(_attribute(counters, row.source))

    # To Prometheus.

    def collect(self) -> None:
        """Copy what has changed. To be called each second, so that a scrape answered by another worker is as fresh."""
        for name, sources in self._sources.items():
            family = self._families[name]
            for labels, value in _summed(sources).items():
                last = self._copied.get((name, labels))
                if value == last:
                    continue
                self._copied[name, labels] = value
                child = family.labels(*labels) if labels else family
                if isinstance(child, prometheus.Gauge):
                    child.set(value)
                elif isinstance(child, prometheus.Counter):
                    child.inc(value - (last or 0))
        for child, latency, copied in self._histograms:
            _copy_histogram(child, latency, copied)

    def render(self) -> bytes:
        """The text that Prometheus scrapes, over all workers that share the directory of :data:`workers.DIRECTORY`."""
        self.collect()
        return prometheus.generate_latest(workers.together() or self._registry)

    def workers(self) -> list[WorkerState]:
        """The state of every live worker that shares the directory; of this one alone when there is none."""
        self.collect()
        found = workers.states()
        return found if found is not None else [self._own_state()]

    def _own_state(self) -> WorkerState:
        return workers.state(os.getpid(), {name: value for (name, _), value in self._copied.items()})

    def _add_histogram(self, name: str, labels: tuple[str, ...], latency: Latency) -> None:
        family = self._families[name]
        assert isinstance(family, prometheus.Histogram)
        self._histograms.append((family.labels(*labels) if labels else family, latency, Latency()))


Family = prometheus.Counter | prometheus.Gauge | prometheus.Histogram


def _family(row: Definition, registry: prometheus.CollectorRegistry) -> Family:
    if row.kind == "counter":
        return prometheus.Counter(row.name, row.help, row.labels, registry=registry)
    if row.kind == "gauge":
        return prometheus.Gauge(row.name, row.help, row.labels, registry=registry, multiprocess_mode=row.mode)
    return prometheus.Histogram(row.name, row.help, row.labels, registry=registry, buckets=BUCKETS)


def _attribute(counters: object, name: str) -> Read:
    if isinstance(getattr(counters, name), dict):
        return lambda: {(label,): value for label, value in getattr(counters, name).items()}
    return lambda: {(): getattr(counters, name)}


def _summed(sources: Sequence[Read]) -> Values:
    if len(sources) == 1:
        return sources[0]()
    total: dict[tuple[str, ...], Number] = {}
    for read in sources:
        for labels, value in read().items():
            total[labels] = total.get(labels, 0) + value
    return total


def _copy_histogram(child: prometheus.Histogram, latency: Latency, copied: Latency) -> None:
    """Add what ``latency`` has more than ``copied``, bucket by bucket.

    prometheus-client can only observe one value at a time; a flush to five thousand receivers would be five thousand
    calls. So the values behind its buckets, which are not cumulative either, are moved directly; ``_sum`` and
    ``_buckets`` have been there since its multi-process mode exists, and a test reads the result back through its text.
    """
    for index, count in enumerate(latency.counts):
        if count != copied.counts[index]:
            child._buckets[index].inc(count - copied.counts[index])
            copied.counts[index] = count
    if latency.sum != copied.sum:
        child._sum.inc(latency.sum - copied.sum)
        copied.sum = latency.sum


def _resident_memory() -> int:
    """Bytes, from the kernel's own count."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
