"""What a reload may change in a running server, and what has to wait for a restart."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from rt.config import Config

_RESTART_ONLY = ("address", "port", "workers", "tls", "internal", "backlog")
"""Keys of ``server`` that belong to sockets and processes; of ``redis`` it is all of them."""


def merge(running: Config, loaded: Config, fresh: Config) -> tuple[Config, list[str]]:
    """The config to run from now on, and the keys of ``fresh`` that need a restart and keep their value until then.

    ``loaded`` is what the file said at start; ``running`` differs from it in what the supervisor filled in itself.
    """
    kept = {name: getattr(running.server, name) for name in _RESTART_ONLY}
    server = msgspec.structs.replace(fresh.server, **kept)
    return msgspec.structs.replace(fresh, server=server, redis=running.redis), list(_waiting(loaded, fresh))


def _waiting(loaded: Config, fresh: Config) -> Iterator[str]:
    for name in _RESTART_ONLY:
        if getattr(loaded.server, name) != getattr(fresh.server, name):
            yield f"server.{name}"
    for name in fresh.redis.__struct_fields__:
        if getattr(loaded.redis, name) != getattr(fresh.redis, name):
            yield f"redis.{name}"
