"""The metrics of one tenant: what its connections and calls count."""

from __future__ import annotations

from rt import errors
from rt.metrics.counts import Latency, Tally
from rt.metrics.definitions import OUTCOMES, TRANSPORTS
from rt.metrics.series import Families, Series

_CLOSES = frozenset(value for value in vars(errors).values() if isinstance(value, errors.Close))

Counts = dict[tuple[str, ...], int]


class TenantMetrics(Series):
    """What one worker counts for one tenant, under its name; made by :meth:`rt.metrics.Metrics.of`."""

    def __init__(self, families: Families, name: str) -> None:
        super().__init__(families, (name,))
        self.name = name
        self.tally = Tally()
        self._connections: Counts = {(transport,): 0 for transport in TRANSPORTS}
        self._connects: Counts = {(transport,): 0 for transport in TRANSPORTS}
        self._disconnects: Counts = {}
        self._recoveries: Counts = {(transport, outcome): 0 for transport in TRANSPORTS for outcome in OUTCOMES}
        self._api: Counts = {}
        self._limited: Counts = {}
        self._latencies: dict[tuple[str, str], Latency] = {}
        self.store_lag = Latency()
        self._regions: dict[tuple[str, ...], int] = {}
        self._sources["rt_connects_total"] = [lambda: self._connects]
        self._sources["rt_disconnects_total"] = [lambda: self._disconnects]
        self._sources["rt_recoveries_total"] = [lambda: self._recoveries]
        self._sources["rt_api_requests_total"] = [lambda: self._api]
        self._sources["rt_limit_hits_total"] = [lambda: self._limited]
        self._add_histogram("rt_store_lag_seconds", (), self.store_lag)
        self.follow(self.tally)
        self.begin()

    def begin(self) -> None:
        """The tenant is served from now on, perhaps again: the gauges that are counted here have a value."""
        self._sources["rt_connections"] = [lambda: self._connections]
        self._sources["rt_tenant_info"] = [lambda: self._regions]

    def connected(self, transport: str) -> None:
        """A connection was accepted; ``transport`` is one of :data:`TRANSPORTS`."""
        self._connects[(transport,)] += 1
        self._connections[(transport,)] += 1

    def disconnected(self, transport: str, close: errors.Close) -> None:
        """A connection that :meth:`connected` counted has ended."""
        self._connections[(transport,)] -= 1
        # A code that a client or a backend chose must not become a label, so only the closes of the table have a line
        # of their own.
        code, reason = (str(close.code), close.label) if close in _CLOSES else ("other", "other")
        key = (transport, code, reason)
        self._disconnects[key] = self._disconnects.get(key, 0) + 1

    def moved(self, transport: str) -> None:
        """A connection that :meth:`connected` counted goes on as another tenant's, who counts it from now on."""
        self._connections[(transport,)] -= 1

    def recovered(self, transport: str, outcome: str) -> None:
        """A subscription began: ``fresh`` asked for no recovery, ``resumed`` got all it missed, ``gap`` did not."""
        self._recoveries[(transport, outcome)] += 1

    def api(self, method: str, code: int) -> None:
        """A request to the server API was answered, with ``code`` 0, the number of an error, or a refusal's status."""
        key = (method, str(code))
        self._api[key] = self._api.get(key, 0) + 1

    def limited(self, on: str, per: str, namespace: str) -> None:
        """A rate limit had no token: the rule's action, scope and namespace (of the config, ``""`` for all)."""
        key = (on, per, namespace or "-")
        self._limited[key] = self._limited.get(key, 0) + 1

    def latency(self, namespace: str, transport: str) -> Latency:
        """The delivery latency of one namespace (of the config, ``""`` for none) over one transport. Always the same
        object for the same two, to be kept by who flushes."""
        key = (namespace or "-", transport)
        found = self._latencies.get(key)
        if found is None:
            found = self._latencies[key] = Latency()
            self._add_histogram("rt_delivery_latency_seconds", key, found)
        return found

    def region(self, label: str) -> None:
        """The tenant lives in this region from now on (``""``: everywhere)."""
        for known in self._regions:
            self._regions[known] = 0
        self._regions[(label or "-",)] = 1
