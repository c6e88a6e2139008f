"""Whose a request is: by the path, else by its host, else by its token's issuer or its API key.

A tenant named in one of these ways is the only one that the request is shown to. The issuer is read from a token that
nobody has verified yet; the tenant that it leads to does, with its own keys.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from hashlib import sha256
from typing import TYPE_CHECKING, Protocol

import msgspec

from rt import config, errors
from rt.errors import Closing
from rt.logs import Limited
from rt.protocol import tokens
from rt.web.entrance import Turned

if TYPE_CHECKING:
    from rt.delivery.hub import Choose, Hub
    from rt.metrics import TenantMetrics
    from rt.web.api import Api
    from rt.web.entrance import Entrance
    from rt.web.request import Request

log = Limited(logging.getLogger("rt.web"))

PREFIX = "/t/"

TOKEN_LATER = frozenset({"/connection/websocket", "/connection/uni_websocket"})
"""Streams whose token comes in a message, when the socket has been taken over."""

_UNKNOWN = b'{"code":404,"message":"unknown tenant"}'
_ELSEWHERE = b'{"code":421,"message":"a tenant of another region"}'


class Served(Protocol):
    """A tenant that is served here, as far as the doors see it."""

    @property
    def name(self) -> str:
        """Its name in the config."""

    @property
    def entrance(self) -> Entrance:
        """Where its streams come in."""

    @property
    def api(self) -> Api:
        """What its backends call."""


class _Index:
    """What requests say, and whom that means; None for a tenant that lives elsewhere."""

    __slots__ = ("hosts", "issuers", "keys", "names")

    def __init__(self, tenants: Iterable[config.Tenant], served: Mapping[str, Served]) -> None:
        self.names: dict[str, Served | None] = {}
        self.hosts: dict[str, Served | None] = {}
        self.issuers: dict[str, Served | None] = {}
        self.keys: dict[bytes, Served | None] = {}
        for tenant in tenants:
            found = self.names[tenant.name] = served.get(tenant.name)
            self.hosts.update(dict.fromkeys(tenant.hosts, found))
            self.issuers.update(dict.fromkeys(tenant.issuers, found))
            if tenant.http_api.key:
                # Looked up by its hash, so that the time it takes says nothing about a key.
                self.keys[_digest(tenant.http_api.key.encode())] = found


class Tenants:
    """Who is served here. :attr:`only` is the tenant of a config that has no `tenants:`; all requests are its own.

    ``metrics`` count what belongs to nobody. ``lobby`` is where a WebSocket waits whose token is still to come; there
    is one where any tenant has issuers.
    """

    __slots__ = ("_index", "_metrics", "lobby", "only")

    def __init__(self, metrics: Callable[[], TenantMetrics]) -> None:
        self.only: Served | None = None
        self.lobby: Entrance | None = None
        self._metrics = metrics
        self._index = _Index((), {})

    def arrange(self, tenants: Iterable[config.Tenant], served: Mapping[str, Served], lobby: Entrance | None) -> None:
        """Know these from now on: all ``tenants`` of the config (none where it has no such section), and by name those
        that are ``served`` here."""
        tenants = tuple(tenants)
        self.only = None if tenants else next(iter(served.values()), None)
        self._index = _Index(tenants, served)
        self.lobby = lobby

    @staticmethod
    def address(request: Request) -> None:
        """Take the tenant's name out of the path, if it begins with ``/t/``."""
        if request.path.startswith(PREFIX):
            request.tenant, _, rest = request.path.removeprefix(PREFIX).partition("/")
            request.path = f"/{rest}"

    def entrance(self, request: Request, *, complete: bool) -> Entrance:
        """Where a stream comes in: its tenant's entrance, else the lobby while that can still be found out, else 404;
        421 for a tenant of another region. A request that is ``complete`` has its body."""
        found = self._addressed(request)
        if found is not None:
            return found.entrance
        if self.lobby is None:
            raise self._unknown()
        if request.path in TOKEN_LATER or not complete or request.method == "OPTIONS":
            return self.lobby  # a browser asks with OPTIONS whether it may send the token
        issuer = _issuer(request)
        if not issuer or issuer not in self._index.issuers:
            raise self._unknown()
        return _here(self._index.issuers[issuer]).entrance

    def api(self, request: Request) -> Api:
        """Whose API is called; 401 for a key that nobody has, 404 and 421 as for a stream."""
        found = self._addressed(request)
        if found is None:
            key = request.api_key()
            digest = b"" if key is None else _digest(key)
            if digest not in self._index.keys:
                self._unknown()
                raise Turned(401)
            found = _here(self._index.keys[digest])
        return found.api

    def choice(self, request: Request) -> Choose:
        """What finds the hub of a WebSocket in the lobby when its token is there. Raises Closing for a token that says
        nothing, or where that tenant does not let the page or one more connection in."""

        def choose(token: str) -> Hub:
            issuer = tokens.issuer(token)
            if not issuer or issuer not in self._index.issuers:
                self._unknown()
                raise Closing(errors.INVALID_TOKEN)
            found = self._index.issuers[issuer]
            if found is None:
                raise Closing(errors.UNAVAILABLE)
            try:
                found.entrance.check_origin(request)
                found.entrance.check_turn(request)
            except Turned as turned:
                raise Closing(errors.FORBIDDEN if turned.status == 403 else errors.TOO_MANY) from None
            return found.entrance.hub

        return choose

    def _addressed(self, request: Request) -> Served | None:
        """Whom the path names, else the host; None when neither says anything."""
        index = self._index
        if request.tenant is not None:
            if request.tenant not in index.names:
                raise self._unknown()
            return _here(index.names[request.tenant])
        host = _host_name(request.host)
        return _here(index.hosts[host]) if host in index.hosts else None

    def _unknown(self) -> Turned:
        self._metrics().tally.refusals["tenant"] += 1
        log.info("tenant", "a request that belongs to no tenant")
        return Turned(404, body=_UNKNOWN)


def _here(found: Served | None) -> Served:
    if found is None:
        raise Turned(421, body=_ELSEWHERE)
    return found


def _digest(key: bytes) -> bytes:
    return sha256(key).digest()


def _host_name(host: str | None) -> str:
    """The Host header as the config writes names: lower case, without port and a dot at the end."""
    text = (host or "").lower()
    if text.startswith("["):
        return text[: text.find("]") + 1]
    return text.partition(":")[0].removesuffix(".")


class _Connect(msgspec.Struct):
    """What a one-way stream sends to connect, as far as it matters here."""

    token: str = ""


_connect = msgspec.json.Decoder(_Connect).decode


def _issuer(request: Request) -> str:
    """Who issued the token of the request: in a header, the URL, or the connect request in URL or body."""
    try:
        token = request.token() or _connect(request.parameter("cf_connect") or request.body or b"{}").token
    except (ValueError, RecursionError):
        return ""
    return tokens.issuer(token)
