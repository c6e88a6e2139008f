"""What a reload may change."""

from __future__ import annotations

from rt.config import Config, parse
from rt.supervisor.reload import merge


def config(text: str) -> Config:
    """The config in ``text``."""
    return parse(text.encode(), "rt.yaml", {})


def test_sockets_processes_and_store_stay() -> None:
    """Keys that need a restart keep their running value and are named; all others are taken."""
    loaded = config("server: {port: 8001}\nredis: {prefix: a}\nhttp_api: {key: old}")
    fresh = config("server: {port: 8002, workers: 7, shutdown_timeout: 7s}\nredis: {prefix: b}\nhttp_api: {key: new}")
    merged, waiting = merge(loaded, loaded, fresh)
    assert merged.server.port == 8001 and merged.server.workers == loaded.server.workers
    assert merged.redis.prefix == "a"
    assert merged.server.shutdown_timeout == 7.0 and merged.http_api.key == "new"
    assert waiting == ["server.port", "server.workers", "redis.prefix"]


def test_what_the_supervisor_filled_in_stays_and_is_no_change() -> None:
    """The embedded store's address, which is in no file, survives a reload of the same file."""
    loaded = config("redis: {url: embedded}")
    running = config("redis: {url: 'unix:///run/store.sock'}")
    merged, waiting = merge(running, loaded, config("redis: {url: embedded}"))
    assert merged.redis.url == "unix:///run/store.sock" and waiting == []
