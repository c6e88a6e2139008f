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


TWO = """
redis: {url: embedded}
tenants:
  - {name: a, hosts: [a.example.com], http_api: {key: key-of-a}}
  - {name: b, hosts: [b.example.com], http_api: {key: key-of-b}, redis: {url: "redis://b"}}
"""


def test_tenants_come_and_go_with_their_stores() -> None:
    """A new tenant is on the embedded store that runs, one that stays keeps its store, and what waits is named."""
    loaded = config(TWO)
    running = loaded.with_store("unix:///run/store.sock")
    text = TWO.replace("redis://b", "redis://elsewhere").replace("name: a,", "name: c,")
    merged, waiting = merge(running, loaded, config(text), "unix:///run/store.sock")
    assert {tenant.name: tenant.redis.url for tenant in merged.tenants} == {
        "c": "unix:///run/store.sock",
        "b": "redis://b",
    }
    assert waiting == ["tenants[1].redis.url"]


def test_the_same_tenants_again_are_no_change() -> None:
    """The address of the embedded store, filled in for each of them, is nothing that waits."""
    loaded = config(TWO)
    running = loaded.with_store("unix:///run/store.sock")
    merged, waiting = merge(running, loaded, config(TWO), "unix:///run/store.sock")
    assert merged == running and waiting == []


def test_a_tenant_on_an_embedded_store_that_does_not_run_waits() -> None:
    """The store is started with the server and not by a reload."""
    loaded = config(TWO.replace("embedded", "redis://a"))
    merged, waiting = merge(loaded, loaded, config(TWO.replace("name: a,", "name: c,")))
    assert [tenant.name for tenant in merged.tenants] == ["b"]
    assert waiting == ["redis.url", "tenants[0] (the embedded store does not run yet)"]


def test_the_top_level_may_become_one_of_several() -> None:
    """The only tenant so far goes on under its name, with the store it is on."""
    loaded = config("redis: {url: redis://one}")
    fresh = config(TWO.replace("name: a,", "name: default,"))
    merged, waiting = merge(loaded, loaded, fresh)
    assert [tenant.redis.url for tenant in merged.tenants] == ["redis://one", "redis://b"]
    assert waiting == ["redis.url", "tenants[0].redis.url"]
