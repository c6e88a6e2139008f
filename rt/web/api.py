"""The door of the server API: ``POST /api/<method>`` for backends, with a key.

Here is what all methods have in common: the URL, the verb, the key, the two ways to tell an error. An error
of the application is an answer like any other, with status 200, unless the caller or the config asks for the mode
``transport``, where it decides the status.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

import msgspec
from tornado.iostream import StreamClosedError

from rt import errors
from rt.broker import Broker
from rt.config import Config
from rt.delivery.limits import Limits
from rt.delivery.rules import Scopes, TooMany, Visitor
from rt.metrics import TenantMetrics
from rt.protocol import replies
from rt.protocol.address import Proxies
from rt.web import allowance
from rt.web.answers import WRONG_SHAPE, Done, Method, Outcome, error_object
from rt.web.methods import Methods

if TYPE_CHECKING:
    from rt.web.request import Request
    from rt.web.tail import Tails

PREFIX = "/api/"

ENVELOPE = "/api"
"""The address of the old form, where the method stands in the body."""

TAIL = "tail"
"""The one method that answers with a stream, and so stands in no batch and no body."""

STATUS = {100: 500, 102: 404, 104: 404, 107: 400, 108: 400, 111: 429, 112: 416, 113: 409}
"""Error code -> HTTP status in the mode ``transport``; 400 for others."""

RETRY = (("Retry-After", "1"),)
"""Sent with an error that is temporary, in either mode: try again in a second."""

# What stands for the method in the metrics, where there is none by that name.
_UNKNOWN = "unknown"
_LEGACY = "legacy"

# Their answers stand without the wrapper that all others have.
_BARE = frozenset({"batch", _LEGACY})


class Api:
    """The server API of one worker. :meth:`door` is called with every request under ``/api``, its body complete."""

    def __init__(
        self,
        config: Config,
        broker: Broker,
        metrics: TenantMetrics,
        limits: Limits,
        tails: Tails | None = None,
    ) -> None:
        """Without ``tails`` there is no method ``tail``."""
        self._methods = Methods(config, broker)
        self._tails = tails
        self._count = metrics.api
        self._limits = limits
        self.reload(config)

    def reload(self, config: Config) -> None:
        """Use the keys, mode and namespaces of another config from the next request on."""
        self._methods.reload(config)
        self._key = config.http_api.key.encode()
        self._open = config.http_api.insecure
        self._transport = config.http_api.error_mode == "transport"
        self._proxies = Proxies(config.server.trusted_proxies, config.server.proxy_header)

    @property
    def methods(self) -> Mapping[str, Method]:
        """The methods by name, for another door that has a key of its own."""
        return self._methods.by_name

    async def stop(self) -> None:
        """End what is under way; to be called when no more requests come and before the broker stops."""
        if self._tails is not None:
            self._tails.stop()
        await self._methods.stop()

    def door(self, request: Request) -> None:
        """Answer one request, now or when the store has answered."""
        old = request.path == ENVELOPE
        name = _LEGACY if old else request.path.removeprefix(PREFIX)
        if not old and name not in self._methods.by_name and (name != TAIL or self._tails is None):
            self._refuse(request, _UNKNOWN, 404, b"Not Found")
        elif request.method != "POST":
            self._refuse(request, name, 405, b"Method Not Allowed", ("Allow", "POST"))
        elif not self._may_call(request):
            self._refuse(request, name, 401, b"")
        elif self._limits.api is None:
            self._call(request, name)
        else:
            self._within(request, name, self._limits.api)

    def _within(self, request: Request, name: str, rules: Scopes) -> None:
        """Make a call when the rules let it pass; what it turns out to be beside one call is taken from the next."""
        caller = Visitor(address=request.address(self._proxies))
        try:
            taken = rules.take(caller)
        except TooMany as refused:
            self._limited(request, name, refused)
            return
        if taken is None or taken.asked is None:
            self._counted(request, name, rules, caller)
        else:
            taken.asked.add_done_callback(partial(self._asked, request, name, rules, caller))

    def _asked(self, request: Request, name: str, rules: Scopes, caller: Visitor, asked: asyncio.Future[None]) -> None:
        refused = asked.exception()
        if isinstance(refused, TooMany):
            self._limited(request, name, refused)
        else:
            self._counted(request, name, rules, caller)

    def _counted(self, request: Request, name: str, rules: Scopes, caller: Visitor) -> None:
        request.fields = allowance.standing(rules, caller)
        self._call(request, name)
        more = self._methods.commands - 1
        if more > 0:
            rules.draw(caller, more)

    def _limited(self, request: Request, name: str, refused: TooMany) -> None:
        """A status whatever the mode, as for a key that is wrong: nothing was looked at."""
        body = b'{"error":%b}' % replies.error_object(refused.error, refused.retry_after)
        request.reply(allowance.status(refused), body, headers=allowance.refusal(refused))
        self._count(name, refused.error.code)

    def _call(self, request: Request, name: str) -> None:
        transport = self._transport or request.headers.get("X-Centrifugo-Error-Mode") == "transport"
        done = partial(self._answer, request, name, transport)
        method = self._methods.by_name.get(name, self._methods.envelope)
        if name == TAIL:
            method = partial(self._tail, request)
        self._methods.commands = 1
        try:
            # The decoder looks at the text it converts, but not at what it only passes on.
            if not request.body.isascii():
                request.body.decode()
            method(request.body, done)
        except errors.Refused as refused:
            done(refused.error)
        except WRONG_SHAPE:
            self._refuse(request, name, 400, b"Bad Request")

    def _tail(self, request: Request, body: bytes | msgspec.Raw, done: Done) -> None:
        """What passes through a channel, as a stream: it takes the place of an answer."""
        assert self._tails is not None
        try:
            self._tails.begin(request)
        except StreamClosedError:
            return  # the peer left meanwhile: there is nobody to answer
        self._count(TAIL, 0)

    def _may_call(self, request: Request) -> bool:
        if self._open:
            return True
        presented = request.api_key()
        return bool(self._key) and presented is not None and hmac.compare_digest(presented, self._key)

    def _answer(self, request: Request, name: str, transport: bool, outcome: Outcome) -> None:
        if not isinstance(outcome, errors.Error):
            request.reply(200, outcome if name in _BARE else b'{"result":%b}' % outcome, headers=request.fields)
            self._count(name, 0)
            return
        headers = [*request.fields, *RETRY] if outcome.temporary else request.fields
        if transport:
            request.reply(STATUS.get(outcome.code, 400), error_object(outcome), headers=headers)
        else:
            request.reply(200, b'{"error":%b}' % error_object(outcome), headers=headers)
        self._count(name, outcome.code)

    def _refuse(self, request: Request, name: str, status: int, words: bytes, *headers: tuple[str, str]) -> None:
        request.reply(status, words, content_type="text/plain" if words else None, headers=headers)
        self._count(name, status)
