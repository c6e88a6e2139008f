"""What a reload may change in a running server, and what has to wait for a restart."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from rt.config import Config, Redis, Tenant

_RESTART_ONLY = ("address", "port", "workers", "tls", "internal", "backlog")
"""Keys of ``server`` that belong to sockets and processes (of ``tls``, whether there is any); of ``redis``, a tenant's
too, it is all of them.
"""


def merge(running: Config, loaded: Config, fresh: Config, store: str = "") -> tuple[Config, list[str]]:
    """The config to run from now on, and the keys of ``fresh`` that need a restart and keep their value until then.

    ``loaded`` is what the file said at start; ``running`` differs from it in what the supervisor filled in itself.
    ``store`` is where the embedded store runs; empty when it does not.
    """
    kept = {name: getattr(running.server, name) for name in _RESTART_ONLY}
    if running.server.tls is not None and fresh.server.tls is not None:
        kept["tls"] = fresh.server.tls  # other files, or the same ones with something else in them
    server = msgspec.structs.replace(fresh.server, **kept)
    waiting = list(_waiting(loaded, fresh))
    if store:
        fresh = fresh.with_store(store)
    tenants, late = _tenants(running, fresh)
    config = msgspec.structs.replace(fresh, server=server, redis=running.redis, tenants=tuple(tenants))
    return config, [*waiting, *late]


def _waiting(loaded: Config, fresh: Config) -> Iterator[str]:
    for name in _RESTART_ONLY:
        old, new = getattr(loaded.server, name), getattr(fresh.server, name)
        if old != new and not (name == "tls" and old is not None and new is not None):
            yield f"server.{name}"
    yield from _changed("redis", loaded.redis, fresh.redis)


def _changed(path: str, old: Redis, new: Redis) -> Iterator[str]:
    for name in new.__struct_fields__:
        if getattr(old, name) != getattr(new, name):
            yield f"{path}.{name}"


def _tenants(running: Config, fresh: Config) -> tuple[list[Tenant], list[str]]:
    """The tenants of ``fresh``, those that run already with the store that they are on, and the keys that wait."""
    here = {tenant.name: tenant.redis for tenant in running.served()}
    tenants: list[Tenant] = []
    waiting: list[str] = []
    for index, tenant in enumerate(fresh.tenants):
        redis = here.get(tenant.name, tenant.redis)
        waiting += _changed(f"tenants[{index}].redis", redis, tenant.redis)
        if redis.url == "embedded":
            waiting.append(f"tenants[{index}] (the embedded store does not run yet)")
        else:
            tenants.append(msgspec.structs.replace(tenant, redis=redis))
    return tenants, waiting
