"""What a broker counts."""

from __future__ import annotations


class Counters:
    """Plain integers, read at scrape.

    ``published``, ``duplicates`` and ``suppressed`` are publishes that the store accepted, found done before, and
    found to be of an old version; ``unknown`` are calls
    whose outcome was never learned; ``repeated`` calls were sent again after a connection was lost; ``refused`` counts
    error replies by class. ``bus_dropped`` messages made no sense, ``bus_strays`` came for a channel that nobody wants
    any more. ``control_gaps`` is how often commands to the workers may have been missed, ``unanswered`` how many
    workers did not answer one, or a question, in time.
    """

    __slots__ = (
        "bus_dropped", "bus_strays", "control_gaps", "duplicates", "lineage_renewals", "probe_failures", "published",
        "reads", "reconnects", "refused", "repeated", "script_reloads", "suppressed", "unanswered", "unknown",
    )  # fmt: skip

    def __init__(self) -> None:
        self.published = 0
        self.duplicates = 0
        self.suppressed = 0
        self.reads = 0
        self.unknown = 0
        self.repeated = 0
        self.refused: dict[str, int] = {}
        self.script_reloads = 0
        self.lineage_renewals = 0
        self.reconnects = 0
        self.bus_dropped = 0
        self.bus_strays = 0
        self.control_gaps = 0
        self.unanswered = 0
        self.probe_failures = 0
