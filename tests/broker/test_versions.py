"""Which stores are too old."""

from __future__ import annotations

import pytest

from rt.broker.versions import outdated


@pytest.mark.parametrize(
    ("info", "old"),
    [
        (b"redis_version:7.0.15\r\n", "redis 7.0.15"),
        (b"redis_version:7.2.10\r\n", "redis 7.2.10"),
        (b"redis_version:7.2.11\r\n", ""),
        (b"redis_version:8.2.1\r\n", "redis 8.2.1"),
        (b"redis_version:8.4.0\r\n", ""),
        (b"# Server\r\nredis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:8.1.3\r\n", "valkey 8.1.3"),
        (b"redis_version:7.2.4\r\nvalkey_version:9.1.2\r\n", ""),
        (b"redis_version:255.255.255\r\n", ""),
        (b"something else", ""),
        (b"redis_version:new\r\n", ""),
    ],
)
def test_what_is_old(info: bytes, old: str) -> None:
    """By the series: a fix came to each at a version of its own."""
    assert outdated(info) == old
