"""Where numbers are read, and how they get from there to prometheus-client."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import nan

import prometheus_client as prometheus

from rt.metrics.counts import Latency
from rt.metrics.definitions import BUCKETS, DEFINITIONS, Definition

Number = int | float
Labels = tuple[str, ...]
Values = Mapping[Labels, Number]
Read = Callable[[], Values]
Family = prometheus.Counter | prometheus.Gauge | prometheus.Histogram
Families = Mapping[str, Family]


def families(registry: prometheus.CollectorRegistry) -> Families:
    """All metrics of the table, registered."""
    return {definition.name: _family(definition, registry) for definition in DEFINITIONS}


def _family(row: Definition, registry: prometheus.CollectorRegistry) -> Family:
    if row.kind == "counter":
        return prometheus.Counter(row.name, row.help, row.labels, registry=registry)
    if row.kind == "gauge":
        return prometheus.Gauge(row.name, row.help, row.labels, registry=registry, multiprocess_mode=row.mode)
    return prometheus.Histogram(row.name, row.help, row.labels, registry=registry, buckets=BUCKETS)


class Series:
    """Metrics whose first labels always have the same values, ``labels`` (none: those of the process).

    What is read has the other labels only: the side that counts knows nothing of those that never change.
    """

    def __init__(self, families: Families, labels: Labels = ()) -> None:
        self._families = families
        self._labels = labels
        self._sources: dict[str, list[Read]] = {}
        self._copied: dict[tuple[str, Labels], Number] = {}
        self._histograms: list[tuple[prometheus.Histogram, Latency, Latency]] = []

    def gauge(self, name: str, read: Callable[[], Number]) -> None:
        """Take the gauge ``name``, which has no labels but the fixed ones, from ``read`` at every collection, instead
        of from where it was taken before. ``KeyError`` if unknown."""
        if not isinstance(self._families[name], prometheus.Gauge):
            raise KeyError(name)
        self._sources[name] = [lambda: {(): read()}]

    def follow(self, counters: object) -> None:
        """Take every counter whose source is an attribute of ``counters``: an int, or a dict of ints by label (or by a
        tuple of labels).

        Several objects may have the same attribute, and are summed. Raises ``AttributeError`` if there is none to take.
        """
        known = [row for row in DEFINITIONS if row.source and hasattr(counters, row.source)]
        if not known:
            raise AttributeError(f"{type(counters).__name__} has no counter that is in the table")
        for row in known:
            self._sources.setdefault(row.name, []).append(_attribute(counters, row.source))

    def collect(self) -> None:
        """Copy what has changed since the last time."""
        for name, sources in self._sources.items():
            for labels, value in _summed(sources).items():
                if value != self._copied.get((name, labels)):
                    self._copy(name, labels, value)
        for child, latency, copied in self._histograms:
            _copy_histogram(child, latency, copied)

    def value(self, name: str) -> Number:
        """What a gauge or counter without further labels was at the last collection; 0 before the first."""
        return self._copied.get((name, ()), 0)

    def retire(self) -> None:
        """Collect once more, and read gauges no more: what they measured is not there any longer, so they are left out
        (NaN, since a mapped file forgets nothing). Counters keep their values."""
        self.collect()
        for name, labels in list(self._copied):
            if isinstance(self._families[name], prometheus.Gauge):
                self._copy(name, labels, nan)
                self._sources.pop(name, None)

    def _copy(self, name: str, labels: Labels, value: Number) -> None:
        last = self._copied.get((name, labels), 0)
        self._copied[name, labels] = value
        family, labels = self._families[name], (*self._labels, *labels)
        child = family.labels(*labels) if labels else family
        if isinstance(child, prometheus.Gauge):
            child.set(value)
        elif isinstance(child, prometheus.Counter):
            child.inc(value - last)

    def _add_histogram(self, name: str, labels: Labels, latency: Latency) -> None:
        family, labels = self._families[name], (*self._labels, *labels)
        assert isinstance(family, prometheus.Histogram)
        self._histograms.append((family.labels(*labels) if labels else family, latency, Latency()))


def _attribute(counters: object, name: str) -> Read:
    if isinstance(getattr(counters, name), dict):
        return lambda: {_labels(label): value for label, value in getattr(counters, name).items()}
    return lambda: {(): getattr(counters, name)}


def _labels(label: str | Labels) -> Labels:
    return label if isinstance(label, tuple) else (label,)


def _summed(sources: Sequence[Read]) -> Values:
    if len(sources) == 1:
        return sources[0]()
    total: dict[Labels, Number] = {}
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
