"""The table of all metrics, and the closed sets of their labels' values.

What a tenant's connections, calls and store count has the label ``tenant``, which the config bounds.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Upper bounds of the histograms, in seconds."""

TRANSPORTS = ("websocket", "ws", "sse", "uni_websocket", "uni_sse")
OUTCOMES = ("fresh", "resumed", "gap")
DROPS = ("volatile", "inbound", "turn", "bus", "join_leave")
SLOW = ("behind", "queue", "stalled", "age")
SHEDS = ("oldest", "newest", "keys", "reload")
STEPS = ("up", "down")
REPAIRS = ("repaired", "gap")
TOKEN_FAILURES = (
    "size", "form", "algorithm", "key", "signature", "claims", "audience", "issuer", "purpose", "subs", "info",
    "expired", "early", "other", "unreachable",
)  # fmt: skip
REFUSALS = ("origin", "total", "rate", "leaving", "tenant", "per_ip", "per_user")

Mode = Literal["livesum", "livemin", "livemax", "liveall"]


class Definition(NamedTuple):
    """One metric. ``mode`` says what the sum over workers means for a gauge; ``source`` names the attribute to read."""

    kind: Literal["counter", "gauge", "histogram"]
    name: str
    help: str
    labels: tuple[str, ...] = ()
    mode: Mode = "livesum"
    source: str = ""


def _counter(name: str, text: str, *labels: str, source: str = "") -> Definition:
    return Definition("counter", name, text, labels, source=source)


def _gauge(name: str, text: str, *labels: str, mode: Mode = "livesum") -> Definition:
    return Definition("gauge", name, text, labels, mode)


def _histogram(name: str, text: str, *labels: str) -> Definition:
    return Definition("histogram", name, text, labels)


_OF_TENANT = (
    _gauge("rt_connections", "Open connections.", "transport"),
    _gauge("rt_subscriptions", "Subscriptions of open connections."),
    _gauge("rt_channels", "Channels open on a worker; one that is open on two workers counts twice."),
    _gauge("rt_feeds", "Different lists of channels that somebody follows, counted like channels."),
    _gauge("rt_users", "Users with an open connection, counted like channels."),
    _gauge("rt_seats", "Connections present in a channel, or told of in it, counted once per channel."),
    _counter("rt_connects_total", "Connections accepted.", "transport"),
    _counter("rt_refusals_total", "Connections refused before they were accepted.", "reason", source="refusals"),
    _counter(
        "rt_limit_hits_total",
        "Times that a rate limit refused something or stopped the reading of a socket.",
        "on",
        "per",
        "namespace",
    ),
    _gauge("rt_limit_subjects", "Buckets of rate limits that are not full."),
    _counter(
        "rt_limit_forgotten_total",
        "Buckets forgotten because there were more than `limits.subjects`.",
        source="forgotten",
    ),
    _counter("rt_token_failures_total", "Tokens that were not accepted.", "reason", source="token_failures"),
    _counter("rt_quota_asked_total", "Questions to the store about shared rate limits.", source="quota_asked"),
    _counter("rt_quota_unanswered_total", "Those that the store did not answer.", source="quota_unanswered"),
    _gauge("rt_waiting", "New connections that wait for their turn."),
    _counter("rt_waits_total", "New connections that had to wait for their turn.", source="waits"),
    _counter("rt_disconnects_total", "Connections that ended.", "transport", "code", "reason"),
    _counter("rt_recoveries_total", "Subscriptions begun: fresh, resumed or with a gap.", "transport", "outcome"),
    _histogram(
        "rt_delivery_latency_seconds",
        "Time from the publish being accepted to its bytes being handed to the kernel, once per receiver.",
        "namespace",
        "transport",
    ),
    _counter("rt_publications_total", "Publications that channels of a worker took.", source="publications"),
    _counter("rt_deliveries_total", "Publications handed to the kernel, once per receiver.", source="deliveries"),
    _counter("rt_sent_bytes_total", "Bytes handed to the kernel.", source="sent_bytes"),
    _counter("rt_received_messages_total", "Messages received from clients.", source="received_messages"),
    _counter("rt_received_bytes_total", "Bytes received from clients.", source="received_bytes"),
    _gauge("rt_queues", "Connections that have something waiting for their socket."),
    _gauge("rt_queued_bytes", "Bytes that wait for sockets."),
    _counter("rt_drops_total", "Messages dropped.", "reason", source="drops"),
    _counter("rt_slow_total", "Times that a connection was found slow.", "reason", source="slow"),
    _gauge("rt_behind", "Subscriptions that are behind."),
    _gauge("rt_paced", "Subscriptions that are behind and have a pace."),
    _counter("rt_falls_total", "Times that a subscription fell behind.", "namespace", "priority", source="falls"),
    _counter("rt_catch_ups_total", "Slow subscriptions that have come back.", source="catch_ups"),
    _counter("rt_caught_up_total", "Publications that slow subscriptions were given later.", source="caught_up"),
    _counter(
        "rt_left_out_total",
        "Publications that a policy left out, once per receiver.",
        "namespace",
        "priority",
        "reason",
        source="sheds",
    ),
    _counter(
        "rt_conflations_total",
        "Publications left out because there was a newer one of the same key, once per receiver.",
        "namespace",
        "priority",
        source="conflations",
    ),
    _counter("rt_keyless_total", "Publications without the tag of `conflate_key`.", "namespace", source="keyless"),
    _counter(
        "rt_batches_total", "Turns that waited for the interval of `batch`.", "namespace", "priority", source="batches"
    ),
    _counter(
        "rt_pace_steps_total",
        "Changes of the interval of a slow subscription, up or down.",
        "namespace",
        "priority",
        "direction",
        source="paces",
    ),
    _counter("rt_repairs_total", "Gaps of a channel on a worker, by how they ended.", "outcome", source="repairs"),
    _counter(
        "rt_epoch_changes_total",
        "Channels on a worker that went on in another epoch of their stream.",
        source="epoch_changes",
    ),
    _histogram("rt_store_lag_seconds", "Time from a worker's probe being sent to the store to it being heard again."),
    _counter("rt_store_published_total", "Publishes that the store accepted.", source="published"),
    _counter("rt_store_duplicates_total", "Publishes with a key that was seen before.", source="duplicates"),
    _counter("rt_store_suppressed_total", "Publishes of a version that is not newer.", source="suppressed"),
    _counter("rt_store_reads_total", "Reads of history or position.", source="reads"),
    _counter("rt_store_unknown_total", "Calls whose outcome was never learned.", source="unknown"),
    _counter("rt_store_repeated_total", "Calls sent again after a connection was lost.", source="repeated"),
    _counter("rt_store_refused_total", "Calls the store answered with an error.", "kind", source="refused"),
    _counter("rt_store_reconnects_total", "Connections to the store made anew.", source="reconnects"),
    _counter("rt_store_script_reloads_total", "Scripts loaded again.", source="script_reloads"),
    _counter("rt_store_lineage_renewals_total", "Changes of the store's lineage.", source="lineage_renewals"),
    _counter("rt_store_bus_dropped_total", "Bus messages that made no sense.", source="bus_dropped"),
    _counter("rt_store_bus_strays_total", "Bus messages for a channel nobody wants any more.", source="bus_strays"),
    _counter("rt_control_gaps_total", "Times that commands to workers may have been missed.", source="control_gaps"),
    _counter("rt_control_unanswered_total", "Workers that did not answer another in time.", source="unanswered"),
    _counter("rt_store_probe_failures_total", "Probes that did not come back.", source="probe_failures"),
    _gauge("rt_store_connected", "1 where every worker is connected to the store.", mode="livemin"),
    _gauge("rt_store_probe_age_seconds", "Age of the oldest last probe that came back.", mode="livemax"),
    _counter("rt_api_requests_total", "Requests to the server API.", "method", "code"),
    _gauge("rt_worker_ready", "1 where the worker is ready for the tenant's clients.", mode="liveall"),
    _gauge("rt_tenant_info", "Always 1; the region where the tenant lives is the label.", "region", mode="livemax"),
)
_OF_PROCESS = (
    _histogram("rt_loop_lag_seconds", "How much later than planned the event loop ran its tick."),
    _counter("rt_cpu_seconds_total", "CPU time of the workers, user and system."),
    _gauge("rt_resident_memory_bytes", "Resident memory of the workers; shared pages count in each."),
    _gauge("rt_tasks", "Tasks of the workers' event loops."),
    _gauge("rt_deadlines", "Deadlines that the workers keep, with cancelled ones whose time has not come."),
    _counter("rt_log_lines_dropped_total", "Lines of the log that could not be written."),
    _gauge("rt_worker_leaving", "1 where the worker has stopped accepting connections.", mode="liveall"),
    _gauge("rt_worker_seen_timestamp_seconds", "When the worker last copied its metrics.", mode="liveall"),
    _gauge("rt_worker_seen_uptime_seconds", "The same by the clock that nobody sets, since the boot.", mode="liveall"),
    _gauge("rt_build_info", "Always 1; the version that runs is the label.", "version", mode="livemax"),
)

DEFINITIONS: tuple[Definition, ...] = (
    *(row._replace(labels=("tenant", *row.labels)) for row in _OF_TENANT),
    *_OF_PROCESS,
)
