"""What a broker must know of its store, and where the store's URL leads."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from redis.asyncio.connection import SSLConnection, parse_url

DEFAULT_PORT = 6379
"""Port of a URL that names none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreSettings:
    """The store of one tenant. Durations are seconds.

    ``url`` is ``redis://``, ``rediss://`` (TLS) or ``unix://``, with user, password and database number if need be.
    ``lineage`` is ``auto`` (ask the server who it is), ``none`` (no fence: the store never loses an acknowledged
    write), or the text itself, where somebody else knows it: see :meth:`rt.broker.Broker.set_lineage`. ``timeout``
    bounds every call, ``connect_timeout`` every attempt to connect. ``presence_ttl`` is how long somebody is there
    after the last word of it.
    """

    url: str = field(repr=False)
    prefix: str = "rt"
    lineage: str = "auto"
    timeout: float = 1.0
    connect_timeout: float = 1.0
    probe_interval: float = 5.0
    presence_ttl: float = 60.0
    password: str = field(default="", repr=False)
    ca_file: str | None = None
    verify: bool = True


class Address(NamedTuple):
    """Where the store is and how to log in. ``path`` is a Unix socket and wins over ``host`` and ``port``."""

    host: str
    port: int
    path: str
    tls: ssl.SSLContext | None
    username: str
    password: str
    db: int

    @classmethod
    def of(cls, settings: StoreSettings) -> Address:
        """The address of ``settings``.

        ValueError, without the URL in it (it may hold a password), when the URL is none or asks for what is not
        supported; OSError when the CA file cannot be read.
        """
        values: dict[str, Any] = dict(parse_url(settings.url))
        secure = values.pop("connection_class", None) is SSLConnection
        address = cls(
            host=str(values.pop("host", "localhost")),
            port=int(values.pop("port", DEFAULT_PORT)),
            path=str(values.pop("path", "")),
            tls=_tls(settings) if secure else None,
            username=str(values.pop("username", "")),
            password=str(values.pop("password", settings.password)),
            db=int(values.pop("db", 0)),
        )
        if values:
            raise ValueError(f"the store's URL has options that are not supported: {', '.join(sorted(values))}")
        return address


def _tls(settings: StoreSettings) -> ssl.SSLContext:
    made = ssl.create_default_context(cafile=settings.ca_file)
    if not settings.verify:
        made.check_hostname = False
        made.verify_mode = ssl.CERT_NONE
    return made
