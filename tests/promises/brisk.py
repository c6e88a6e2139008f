"""A server with short intervals, for what happens to its clients: one for all tests that leave its workers alive."""

from __future__ import annotations

from typing import Any

from tests.servers import WHOLE, merged

PING, PONG, STALL, STALE, TTL = 1.0, 0.5, 1.5, 1.0, 3.0
"""Seconds: between pings, until a pong, without a byte taken, until a connect, of presence."""

GRACE = 5.0
"""Seconds that a dead peer may stay beyond ping and pong, as promised."""

BRISK: dict[str, Any] = merged(
    WHOLE,
    {
        "client": {
            "ping_interval": f"{PING:g}s",
            "pong_timeout": f"{PONG * 1000:g}ms",
            "stale_close_delay": f"{STALE:g}s",
            "presence_update_interval": "1s",
        },
        "redis": {"presence_ttl": f"{TTL:g}s"},
        "delivery": {
            "linger": "300ms",
            "stall_timeout": f"{STALL * 1000:g}ms",
            "low_watermark": "8KiB",
            "high_watermark": "64KiB",
            "send_buffer": "8KiB",
            "pacing": {"first": "50ms", "max": "200ms"},
        },
    },
)
