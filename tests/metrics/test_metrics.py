"""What is counted arrives in the text that Prometheus scrapes."""

from __future__ import annotations

import re
import time

import pytest

from rt import __version__, errors
from rt.metrics import Metrics


class StoreCounters:
    """Looks like the broker's counters as far as the table knows them."""

    def __init__(self) -> None:
        self.published = 0
        self.duplicates = 0


def value(metrics: Metrics, series: str) -> float:
    """The number behind one line of the scraped text."""
    for line in metrics.render().decode().splitlines():
        name, _, number = line.rpartition(" ")
        if name == series:
            return float(number)
    raise AssertionError(f"{series} is not there")


def test_connections_go_up_and_down() -> None:
    """Connects, disconnects and open connections agree, per transport."""
    metrics = Metrics()
    tenant = metrics.of("default")
    tenant.connected("websocket")
    tenant.connected("websocket")
    tenant.connected("sse")
    tenant.disconnected("websocket", errors.SLOW)
    assert value(metrics, 'rt_connections{tenant="default",transport="websocket"}') == 1
    assert value(metrics, 'rt_connections{tenant="default",transport="ws"}') == 0
    assert value(metrics, 'rt_connects_total{tenant="default",transport="websocket"}') == 2
    assert value(metrics, 'rt_disconnects_total{code="3008",reason="slow",tenant="default",transport="websocket"}') == 1


def test_codes_of_clients_are_no_labels() -> None:
    """Ten thousand close codes that are not in the table make one series."""
    metrics = Metrics()
    tenant = metrics.of("default")
    for code in range(10_000):
        tenant.connected("ws")
        tenant.disconnected("ws", errors.Close(code, "mine", f"label {code}"))
    text = metrics.render().decode()
    assert len(re.findall(r"^rt_disconnects_total", text, re.M)) == 1
    assert value(metrics, 'rt_disconnects_total{code="other",reason="other",tenant="default",transport="ws"}') == 10_000


def test_recoveries_count_by_outcome() -> None:
    """Every outcome has its line from the start, at zero."""
    metrics = Metrics()
    metrics.of("default").recovered("sse", "resumed")
    assert value(metrics, 'rt_recoveries_total{outcome="resumed",tenant="default",transport="sse"}') == 1
    assert value(metrics, 'rt_recoveries_total{outcome="gap",tenant="default",transport="sse"}') == 0
    with pytest.raises(KeyError):
        metrics.of("default").recovered("sse", "perhaps")


def test_a_weighted_latency_reads_back_as_a_histogram() -> None:
    """Buckets are cumulative in the text, the weight is the count, and a second collection adds only what is new."""
    metrics = Metrics()
    latency = metrics.of("default").latency("chat", "websocket")
    assert metrics.of("default").latency("chat", "websocket") is latency
    latency.observe(0.003, 5000)
    metrics.collect()
    latency.observe(0.3, 2)
    labels = 'namespace="chat",tenant="default",transport="websocket"'
    for bound, count in (("0.002", 0), ("0.005", 5000), ("0.2", 5000), ("0.5", 5002), ("+Inf", 5002)):
        series = f'rt_delivery_latency_seconds_bucket{{le="{bound}",{labels}}}'
        assert value(metrics, series) == count
    assert value(metrics, f"rt_delivery_latency_seconds_count{{{labels}}}") == 5002
    assert value(metrics, f"rt_delivery_latency_seconds_sum{{{labels}}}") == pytest.approx(15.6)


def test_channels_without_a_namespace_have_a_label_of_their_own() -> None:
    """An empty label is no label to Prometheus, so it is a dash, which no namespace can be called."""
    metrics = Metrics()
    metrics.of("default").latency("", "ws").observe(0.1)
    assert value(metrics, 'rt_delivery_latency_seconds_count{namespace="-",tenant="default",transport="ws"}') == 1


def test_tallies_and_counters_of_others_are_copied() -> None:
    """Plain attributes become counters; two objects with the same attribute are summed; labels come from dicts."""
    metrics = Metrics()
    one, two = StoreCounters(), StoreCounters()
    metrics.of("default").follow(one)
    metrics.of("default").follow(two)
    one.published, two.published = 3, 4
    metrics.of("default").tally.deliveries += 5000
    metrics.of("default").tally.drops["volatile"] += 2
    assert value(metrics, 'rt_store_published_total{tenant="default"}') == 7
    assert value(metrics, 'rt_deliveries_total{tenant="default"}') == 5000
    assert value(metrics, 'rt_drops_total{reason="volatile",tenant="default"}') == 2
    one.published += 1
    assert value(metrics, 'rt_store_published_total{tenant="default"}') == 8
    with pytest.raises(AttributeError):
        metrics.of("default").follow(object())


def test_gauges_are_read_when_asked() -> None:
    """A gauge has the value of its callable at the scrape, and only what is defined as one can be wired."""
    metrics = Metrics()
    channels: list[str] = []
    metrics.of("default").gauge("rt_channels", lambda: len(channels))
    assert value(metrics, 'rt_channels{tenant="default"}') == 0
    channels.append("news")
    assert value(metrics, 'rt_channels{tenant="default"}') == 1
    for wrong in ("rt_nothing", "rt_deliveries_total"):
        with pytest.raises(KeyError):
            metrics.of("default").gauge(wrong, lambda: 0)


def test_a_worker_tells_its_version_and_its_state() -> None:
    """Build, readiness and process figures are there without anybody counting them."""
    metrics = Metrics()
    metrics.of("default").gauge("rt_worker_ready", lambda: 1)
    assert value(metrics, f'rt_build_info{{version="{__version__}"}}') == 1
    assert value(metrics, "rt_resident_memory_bytes") > 1 << 20
    assert value(metrics, "rt_cpu_seconds_total") > 0
    (state,) = metrics.workers()
    assert state.ready == {"default"} and not state.leaving and abs(state.seen - time.monotonic()) < 5


def test_a_worker_is_seen_when_all_of_it_is_there() -> None:
    """Others may read between two values: one that begins must not look as if it was there and not ready."""
    metrics, seen = Metrics(), []

    def ready() -> int:
        seen.append(metrics.value("rt_worker_seen_uptime_seconds"))
        return 1

    metrics.of("default").gauge("rt_worker_ready", ready)
    metrics.collect()
    assert seen == [0] and metrics.value("rt_worker_seen_uptime_seconds") > 0


def test_api_calls_count_by_method_and_code() -> None:
    """The code is 0 for success, else the error's number or the HTTP status of the refusal."""
    metrics = Metrics()
    metrics.of("default").api("publish", 0)
    metrics.of("default").api("publish", 102)
    metrics.of("default").api("publish", 0)
    assert value(metrics, 'rt_api_requests_total{code="0",method="publish",tenant="default"}') == 2
    assert value(metrics, 'rt_api_requests_total{code="102",method="publish",tenant="default"}') == 1


def test_each_tenant_counts_for_itself() -> None:
    """The same event of two tenants is two series, and a tenant asked for again is the same one."""
    metrics = Metrics()
    metrics.of("a").tally.deliveries += 2
    metrics.of("b").tally.deliveries += 5
    metrics.of("a").tally.deliveries += 1
    metrics.of("b").latency("", "sse").observe(0.1)
    assert value(metrics, 'rt_deliveries_total{tenant="a"}') == 3
    assert value(metrics, 'rt_deliveries_total{tenant="b"}') == 5
    assert 'rt_delivery_latency_seconds_count{namespace="-",tenant="a"' not in metrics.render().decode()


def test_a_tenant_that_is_gone_has_no_gauges_but_keeps_its_counts() -> None:
    """Its connections are no number any more, its counters stay, and they go on when it comes back."""
    metrics = Metrics()
    tenant = metrics.of("a")
    tenant.gauge("rt_worker_ready", lambda: 1)
    tenant.region("eu")
    tenant.tally.deliveries += 3
    assert metrics.workers()[0].ready == {"a"}
    tenant.retire()
    text = metrics.render().decode()
    assert not re.search(r"^rt_(worker_ready|tenant_info|connections)\{", text, re.M) and "NaN" not in text
    assert value(metrics, 'rt_deliveries_total{tenant="a"}') == 3
    assert metrics.workers()[0].ready == frozenset()
    again = metrics.of("a")
    again.begin()
    again.gauge("rt_worker_ready", lambda: 1)
    again.tally.deliveries += 1
    assert value(metrics, 'rt_worker_ready{tenant="a"}') == 1
    assert value(metrics, 'rt_deliveries_total{tenant="a"}') == 4
    assert value(metrics, 'rt_connections{tenant="a",transport="sse"}') == 0


def test_a_tenant_that_moves_has_one_region() -> None:
    """The region it left is no more its own."""
    metrics = Metrics()
    metrics.of("a").region("")
    assert value(metrics, 'rt_tenant_info{region="-",tenant="a"}') == 1
    metrics.of("a").region("eu")
    assert value(metrics, 'rt_tenant_info{region="eu",tenant="a"}') == 1
    assert value(metrics, 'rt_tenant_info{region="-",tenant="a"}') == 0
