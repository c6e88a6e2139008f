"""The checks that every stream passes before its socket is taken over, whatever its door."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from math import ceil
from random import randint
from typing import TYPE_CHECKING

from tornado.iostream import StreamClosedError

from rt import errors
from rt.delivery import admission
from rt.delivery.gate import Gate
from rt.delivery.rules import TooMany, Visitor
from rt.errors import Closing, Refused, StoreError
from rt.protocol import replies, sse
from rt.protocol.address import Proxies
from rt.web import allowance
from rt.web.narrow import Narrow
from rt.web.origin import Origins

if TYPE_CHECKING:
    from rt.config import Config
    from rt.delivery.hub import Choose, Hub
    from rt.web.request import Request
    from rt.web.sink import Socket, Stream

Header = tuple[str, str]

RETRY_AFTER = ("Retry-After", "1")
_STATUS = {
    errors.UNKNOWN_CHANNEL: 404,
    errors.BAD_REQUEST: 400,
    errors.PERMISSION_DENIED: 403,
    errors.TOKEN_EXPIRED: 401,
    errors.EXPIRED: 401,
}
_CLOSED = {errors.FORBIDDEN: 403, errors.CHANNEL_LIMIT: 403, errors.CONNECTION_LIMIT: 429}


_RATE = re.compile(r"[1-9][0-9]{2,6}", re.ASCII)


class Turned(Exception):
    """The request is answered by HTTP and not taken over."""

    def __init__(self, status: int, headers: Sequence[Header] = (), body: bytes = b"") -> None:
        super().__init__(status)
        self.status = status
        self.headers = headers
        self.body = body


class Entrance:
    """What the stream doors of one tenant share; ``reload`` takes a new config.

    ``choose`` gives a WebSocket whose tenant shows only in its token what finds that tenant's hub; None elsewhere.
    """

    def __init__(self, hub: Hub, config: Config) -> None:
        self.hub = hub
        self.choose: Callable[[Request], Choose | None] = _chosen
        self._gate = Gate(hub)
        self.reload(config)

    def reload(self, config: Config) -> None:
        """Take the origins and the trusted proxies of a new config."""
        self._origins = Origins(config.client.allowed_origins, same_origin=config.server.mode == "development")
        self._proxies = Proxies(config.server.trusted_proxies, config.server.proxy_header)
        self._demo = config.server.demo

    def check_origin(self, request: Request) -> list[Header]:
        """403 for a page that is not on the list; else the headers that let it read the answer."""
        if not self._origins.allowed(request.origin, request.host):
            self.hub.tally.refusals["origin"] += 1
            raise Turned(403)
        return self._origins.cors_headers(request.origin, request.host)

    def address(self, request: Request) -> str:
        """Where a request comes from."""
        return request.address(self._proxies)

    def line(self, request: Request, sink: Socket | Stream) -> Socket | Stream | Narrow:
        """What the connection writes to. The demo page may ask for a slow network (``?demo_line=`` bytes a second)."""
        rate = request.parameter("demo_line") if self._demo else ""
        return Narrow(sink, int(rate)) if _RATE.fullmatch(rate) else sink

    @property
    def waiting(self) -> int:
        """How many wait for their turn."""
        return self._gate.waiting

    def check_room(self, request: Request) -> None:
        """503 when there are all the connections there may be, or the worker is leaving; 429 when there are all that
        the request's address may have."""
        refusal = self._gate.refusal(self.address(request))
        if refusal is not None:
            raise Turned(429 if refusal == "per_ip" else 503, [RETRY_AFTER])

    def check_turn(self, request: Request) -> None:
        """Nor may it come too often; 503 too when the worker may take no new one in this very moment. It cannot be
        asked to wait, also where a shared limit would have to be asked for: that counts for the next one."""
        self.check_room(request)
        asked = self._knock(request)
        if asked is not None:
            asked.add_done_callback(_seen)
        if self._gate.turn(patient=False) is not None:
            raise Turned(503, [RETRY_AFTER])

    def _knock(self, request: Request) -> asyncio.Future[None] | None:
        """Count the attempt. What is returned, if anything, is to be awaited."""
        rules = self.hub.limits.door
        try:
            taken = None if rules is None else rules.take(Visitor(address=self.address(request)))
        except TooMany as refused:
            raise limited(refused) from None
        return None if taken is None else taken.asked

    def in_turn(
        self,
        request: Request,
        enter: Callable[[], Awaitable[None] | None],
        told: Callable[[Turned], Turned] | None = None,
    ) -> Awaitable[None] | None:
        """Have ``enter`` called when it is this request's turn, now or in bounded time. Where there is no room, also
        for waiting, or it comes too often: 503 or 429, as ``told`` puts it."""
        try:
            self.check_room(request)
            asked = self._knock(request)
            turn = self._turn(request) if asked is None else None
        except Turned as turned:
            raise turned if told is None else told(turned) from None
        return enter() if turn is None and asked is None else self._entered(request, asked, turn, enter, told)

    def _turn(self, request: Request) -> asyncio.Future[None] | None:
        turn = self._gate.turn()
        if isinstance(turn, str):
            raise Turned(503, [RETRY_AFTER])
        if turn is not None:
            # It counts for its address while it waits: else one alone could fill the room.
            crowd, address = self.hub.crowd, self.address(request)
            crowd.waits(address, 1)
            turn.add_done_callback(lambda _: crowd.waits(address, -1))
        return turn

    async def _entered(
        self,
        request: Request,
        asked: asyncio.Future[None] | None,
        turn: asyncio.Future[None] | None,
        enter: Callable[[], Awaitable[None] | None],
        told: Callable[[Turned], Turned] | None,
    ) -> None:
        try:
            if asked is not None:
                await _let_pass(asked)
                turn = self._turn(request)
            if turn is not None:
                await turn
            self.check_room(request)  # which may have changed meanwhile
        except Turned as turned:
            raise turned if told is None else told(turned) from None
        later = enter()
        if later is not None:
            await later

    def let_go(self) -> None:
        """Let nobody wait any longer: the worker is leaving."""
        self._gate.let_go()


StreamDoor = Callable[[Entrance, "Request"], Awaitable[None] | None]
"""Takes a stream in, or answers by HTTP. What it returns, if anything, is to be awaited: it asks for keys or for a
session first, in bounded time."""


def door(enter: StreamDoor) -> StreamDoor:
    """A door that answers by HTTP what ``enter`` turns away."""

    def entered(entrance: Entrance, request: Request) -> Awaitable[None] | None:
        try:
            later = enter(entrance, request)
        except Turned as turned:
            _answer(request, turned)
            return None
        return None if later is None else _wait(later, request)

    return entered


async def _wait(later: Awaitable[None], request: Request) -> None:
    try:
        await later
    except Turned as turned:
        _answer(request, turned)
    except StreamClosedError:
        pass  # the peer left meanwhile: there is nobody to answer


def _answer(request: Request, turned: Turned) -> None:
    request.reply(turned.status, turned.body, headers=turned.headers)


def _chosen(request: Request) -> None:
    """The tenant is known already."""


def admit(
    entrance: Entrance,
    wish: admission.Request,
    use: Callable[[admission.Admission], None],
    refuse: Callable[[Exception], Turned],
) -> Awaitable[None] | None:
    """Give the admission of ``wish`` to ``use``, now or when what must be asked for first has come.

    What is refused (Refused, Closing, StoreError) becomes what ``refuse`` makes of it.
    """
    try:
        found = admission.admit(entrance.hub, wish)
    except (Refused, Closing) as refused:
        raise refuse(refused) from None
    if not isinstance(found, admission.Admission):
        return _admitted(found, use, refuse)
    use(found)
    return None


async def _admitted(
    finding: Awaitable[admission.Admission],
    use: Callable[[admission.Admission], None],
    refuse: Callable[[Exception], Turned],
) -> None:
    try:
        found = await finding
    except (Refused, Closing, StoreError) as refused:
        raise refuse(refused) from None
    use(found)


async def _let_pass(asked: asyncio.Future[None]) -> None:
    try:
        await asked
    except TooMany as refused:
        raise limited(refused) from None


def _seen(asked: asyncio.Future[None]) -> None:
    if not asked.cancelled():
        asked.exception()


def limited(refused: TooMany) -> Turned:
    """The answer by HTTP to somebody who may do it again, but not now."""
    body = replies.error_object(refused.error, refused.retry_after)
    return Turned(allowance.status(refused), allowance.refusal(refused), body)


def refusal(refused: Exception) -> Turned:
    """The answer by HTTP to a stream that may not be: 400, 401, 403, 404, 429; 503 where that could not be found
    out."""
    if isinstance(refused, TooMany):
        return limited(refused)
    if isinstance(refused, Refused) and refused.error in _STATUS:
        return Turned(_STATUS[refused.error], body=replies.error_object(refused.error))
    if isinstance(refused, Closing):
        status = _CLOSED.get(refused.close, 401)
        return Turned(status, body=replies.disconnect_object(refused.close))
    return Turned(503, [RETRY_AFTER])


def wished(entrance: Entrance, request: Request) -> admission.Request:
    """What a URL with a list of channels asks for."""
    try:
        query = request.query
        return admission.Request(
            query.get("channel", []),
            since(request),
            request.token(),
            query.get("subscription_token", []),
            address=entrance.address(request),
        )
    except ValueError:
        raise Turned(400) from None


def since(request: Request) -> str:
    """The cursor. The header is newer than the URL: a browser's EventSource sends it when it comes back to the same
    URL. ValueError as for ``query``."""
    names = ("last_event_id", "lastEventId", "since")
    return request.headers.get("Last-Event-ID") or next(filter(None, map(request.parameter, names)), "")


def later(seconds: float = 1.0) -> bytes:
    """An event stream that says only: come back after so many seconds, and up to four more. (An error status would end
    an EventSource.)"""
    least = ceil(seconds * 1000)
    return sse.retry(randint(least, least + 4000))
