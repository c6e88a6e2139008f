"""What this worker counts, and how it gets to Prometheus.

The hot side knows plain integers only: an attribute of a slotted object or a number in a dict goes up, and one call per
flush notes a latency with the number of receivers as its weight. Once a second, and before each scrape,
:meth:`Metrics.collect` copies what has changed into prometheus-client, which in its multi-process mode keeps the values
of each worker in mapped files; :meth:`Metrics.render` sums the files of all workers.

Labels are bounded by construction: tenants and namespaces come from the config; transports, reasons and codes from
closed tables.
A channel, a user, an address or a code that a client sent is never a label. docs/metrics.md explains every metric.
"""

from rt.metrics.counts import Latency, Tally
from rt.metrics.metrics import Metrics
from rt.metrics.tenant import TenantMetrics
from rt.metrics.workers import DIRECTORY, WorkerState

__all__ = ["DIRECTORY", "Latency", "Metrics", "Tally", "TenantMetrics", "WorkerState"]
