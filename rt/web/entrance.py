"""The checks that every stream passes before its socket is taken over, whatever its door."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import randint
from typing import TYPE_CHECKING

from rt import errors
from rt.delivery import plain
from rt.delivery.limits import Gate
from rt.errors import Closing, Refused
from rt.protocol import replies, sse
from rt.web.origin import Origins

if TYPE_CHECKING:
    from rt.config import Config
    from rt.delivery.hub import Hub
    from rt.web.request import Request

Header = tuple[str, str]

RETRY_AFTER = ("Retry-After", "1")
_STATUS = {
    errors.UNKNOWN_CHANNEL: 404,
    errors.BAD_REQUEST: 400,
    errors.PERMISSION_DENIED: 403,
    errors.TOKEN_EXPIRED: 401,
    errors.EXPIRED: 401,
}


class Turned(Exception):
    """The request is answered by HTTP and not taken over."""

    def __init__(self, status: int, headers: Sequence[Header] = (), body: bytes = b"") -> None:
        super().__init__(status)
        self.status = status
        self.headers = headers
        self.body = body


class Entrance:
    """What the stream doors of one worker share; ``reload`` takes a new config."""

    def __init__(self, hub: Hub, config: Config) -> None:
        self.hub = hub
        self._gate = Gate(hub)
        self.reload(config)

    def reload(self, config: Config) -> None:
        """Take the origins of a new config."""
        self._origins = Origins(config.client.allowed_origins, same_origin=config.server.mode == "development")

    def door(self, enter: Callable[[Request], None]) -> Callable[[Request], None]:
        """A door that answers by HTTP what ``enter`` turns away."""

        def door(request: Request) -> None:
            try:
                enter(request)
            except Turned as turned:
                request.reply(turned.status, turned.body, headers=turned.headers)

        return door

    def check_origin(self, request: Request) -> list[Header]:
        """403 for a page that is not on the list; else the headers that let it read the answer."""
        if not self._origins.allowed(request.origin, request.host):
            self.hub.tally.refusals["origin"] += 1
            raise Turned(403)
        return self._origins.cors_headers(request.origin, request.host)

    def check_room(self) -> None:
        """503 when the worker has all the connections it may have, or is leaving."""
        if self._gate.refusal() is not None:
            raise Turned(503, [RETRY_AFTER])

    def admit(self, request: Request) -> plain.Admission:
        """The list of channels that the URL asks for, checked: 400, 401, 403, 404 when it may not be followed."""
        try:
            return plain.admit(self.hub, _wish(request))
        except Refused as refused:
            raise Turned(_STATUS[refused.error], body=replies.error_object(refused.error)) from None
        except Closing as closing:
            status = 403 if closing.close is errors.FORBIDDEN else 401
            raise Turned(status, body=replies.disconnect_object(closing.close)) from None


def _wish(request: Request) -> plain.Request:
    try:
        query = request.query
        token = request.token()
    except ValueError:
        raise Turned(400) from None
    # The header is newer than the URL: a browser's EventSource sends it when it comes back to the same URL.
    since = request.headers.get("Last-Event-ID") or next(
        (query[name][-1] for name in ("last_event_id", "lastEventId", "since") if query.get(name, [""])[-1]), ""
    )
    return plain.Request(query.get("channel", []), since, token, query.get("subscription_token", []))


def later() -> bytes:
    """An event stream that says only: come back in one to five seconds. (An error status would end an EventSource.)"""
    return sse.retry(randint(1000, 5000))
