"""What a broker counts."""

from __future__ import annotations


class Counters:
    """Plain integers, read at scrape.

    ``published`` and ``duplicates`` are publishes that the store accepted and found done before; ``unknown`` are calls
    whose outcome was never learned; ``repeated`` calls were sent again after a connection was lost; ``refused`` counts
    error replies by class. ``bus_dropped`` messages made no sense, ``bus_strays`` came for a channel that nobody wants
    any more.
    """

    __slots__ = (
        "bus_dropped", "bus_strays", "duplicates", "lineage_renewals", "probe_failures", "published", "reads",
        "reconnects", "refused", "repeated", "script_reloads", "unknown",
    )  # fmt: skip

    def __init__(self) -> None:
        self.published = 0
        self.duplicates = 0
        self.reads = 0
        self.unknown = 0
        self.repeated = 0
        self.refused: dict[str, int] = {}
        self.script_reloads = 0
        self.lineage_renewals = 0
        self.reconnects = 0
        self.bus_dropped = 0
        self.bus_strays = 0
        self.probe_failures = 0
