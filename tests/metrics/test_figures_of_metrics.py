"""What operators are shown: rates and quantiles between readings of the metrics."""

from __future__ import annotations

import math

import pytest

from rt.metrics import Metrics
from rt.metrics import figures as module
from rt.metrics.definitions import DEFINITIONS
from rt.metrics.figures import Reading, figures, quantile, read


def reading(metrics: Metrics, at: float) -> Reading:
    return read(metrics.gathered(), at)


def test_the_console_draws_only_metrics_and_labels_that_exist() -> None:
    """A metric or a label that is renamed would leave a chart empty for ever."""
    known = {row.name: row.labels for row in DEFINITIONS}
    plain = {*module.GAUGES.values(), *module.RATES.values(), *module._HISTOGRAMS}
    assert plain | {module.CONNECTED, module.PROBE_AGE} <= known.keys()
    assert not [name for name, label in module.PARTED.values() if label not in known[name]]


def test_figures_are_what_was_counted_between_two_readings() -> None:
    """Counters become rates, gauges stay, and what has labels is told apart."""
    metrics = Metrics()
    tenant = metrics.of("default")
    tenant.connected("sse")
    first = reading(metrics, 100.0)
    tenant.connected("sse")
    tenant.recovered("sse", "gap")
    tenant.tally.deliveries += 30
    tenant.tally.drops["turn"] += 4
    found = figures([first, reading(metrics, 102.0)])
    assert found.gauges["connections"] == 2 and found.parts["transports"]["sse"] == 2
    assert found.rates["deliveries"] == 15 and found.rates["connects"] == 0.5
    assert found.parts["drops"]["turn"] == 2 and found.parts["recoveries"] == {"fresh": 0, "gap": 0.5, "resumed": 0}


def test_figures_of_one_tenant_are_its_own() -> None:
    """Another tenant's connections are not among them; the loop is shared by all."""
    metrics = Metrics()
    metrics.of("one").connected("ws")
    metrics.of("two").connected("sse")
    metrics.loop_lag.observe(0.0001)
    first = reading(metrics, 0.0)
    metrics.loop_lag.observe(0.0001)
    both, one = (figures([first, reading(metrics, 1.0)], tenant) for tenant in ("", "one"))
    assert (both.gauges["connections"], one.gauges["connections"]) == (2, 1)
    assert one.parts["transports"]["sse"] == 0 and one.lag.p50 == both.lag.p50 is not None


def test_a_store_of_which_nothing_is_known_is_not_connected() -> None:
    """As that of a tenant that is served elsewhere."""
    assert not figures([reading(Metrics(), 0.0)], "elsewhere").store_connected


def test_quantiles_look_back_over_all_readings() -> None:
    """A quiet second does not take the latency away; nothing observed is nothing, not zero."""
    metrics = Metrics()
    latency = metrics.of("default").latency("", "sse")
    start = reading(metrics, 0.0)
    latency.observe(0.0015, 100)
    busy = reading(metrics, 1.0)
    quiet = reading(metrics, 2.0)
    found = figures([start, busy, quiet]).latency
    assert found.p50 == pytest.approx(0.0015) and found.p99 == pytest.approx(0.00199)
    assert figures([busy, quiet]).latency.p50 is None


def test_one_reading_has_no_rates() -> None:
    """The first snapshot of a stream: gauges, and rates of zero."""
    metrics = Metrics()
    metrics.of("default").connected("sse")
    found = figures([reading(metrics, 5.0)])
    assert found.gauges["connections"] == 1 and set(found.rates.values()) == {0.0}


def test_a_tenant_that_left_counts_for_nothing() -> None:
    """Its gauges are not numbers any more; nobody else's sum may become so."""
    metrics = Metrics()
    metrics.of("one").connected("ws")
    metrics.of("two").connected("ws")
    metrics.of("two").retire()
    assert figures([reading(metrics, 0.0)]).gauges["connections"] == 1


def test_nothing_falls_when_all_is_counted_anew() -> None:
    """After a restart of the server the counters begin at zero; a rate is never below it."""
    old = Reading(0.0, {("rt_deliveries_total", "default", ""): 1000.0})
    new = Reading(1.0, {("rt_deliveries_total", "default", ""): 10.0})
    assert figures([old, new]).rates["deliveries"] == 0


@pytest.mark.parametrize(
    ("buckets", "part", "value"),
    [
        ([], 0.5, None),
        ([(1.0, 0.0), (math.inf, 0.0)], 0.5, None),
        ([(1.0, 10.0), (2.0, 10.0), (math.inf, 10.0)], 0.5, 0.5),
        ([(1.0, 0.0), (2.0, 10.0), (math.inf, 10.0)], 0.5, 1.5),
        ([(1.0, 0.0), (2.0, 0.0), (math.inf, 10.0)], 0.99, 2.0),
    ],
)
def test_quantile_of_buckets(buckets: list[tuple[float, float]], part: float, value: float | None) -> None:
    """Even within a bucket; what is beyond the last bound is that bound."""
    assert quantile(buckets, part) == value
