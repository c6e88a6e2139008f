"""The public keys of tokens, fetched from the one address that the config names.

Nothing a token says has any part in where or how often is asked: the address is fixed, redirects are not followed, and
however many tokens name keys that nobody knows, one fetch is made per 30 seconds and everybody waits for that one. An
answer is bounded in time and size. Keys that were once fetched stay good while the address is down; when they are used
and older than an hour, they are fetched again behind the scenes.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from tornado.httpclient import HTTPRequest
from tornado.iostream import IOStream
from tornado.simple_httpclient import HTTPTimeoutError, SimpleAsyncHTTPClient
from tornado.tcpclient import TCPClient

from rt.logs import Limited, fields
from rt.protocol.keys import SET_SIZE_MAX, KeySet

log = logging.getLogger("rt.web")
limited = Limited(log)

INTERVAL = 30.0
"""Seconds from one fetch to the next, whatever comes."""

TIMEOUT = 5.0
"""Seconds for one fetch, from the look-up of the name to the last byte."""

MAX_AGE = 3600.0
"""Seconds after which keys that are in use are fetched again."""

_HEADER_SIZE = 16 * 1024


class Keys:
    """Fills ``key_set`` from ``url`` (http or https, from the config). ``clock`` gives seconds, ``timeout`` is that of
    one fetch.

    Must be made in an event loop. :meth:`close` ends it.
    """

    def __init__(
        self, url: str, key_set: KeySet, *, timeout: float = TIMEOUT, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.key_set = key_set
        self._loop = asyncio.get_running_loop()
        self._clock = clock
        # Compressed answers are not asked for: they could be larger than they look.
        self._request = HTTPRequest(
            url,
            connect_timeout=timeout,
            request_timeout=timeout,
            follow_redirects=False,
            decompress_response=False,
            headers={"Accept": "application/jwk-set+json, application/json", "User-Agent": "rt"},
        )
        self._client = SimpleAsyncHTTPClient(
            force_instance=True,
            max_clients=1,
            max_buffer_size=SET_SIZE_MAX + _HEADER_SIZE,
            max_header_size=_HEADER_SIZE,
            max_body_size=SET_SIZE_MAX,
        )
        self._dialer = self._client.tcp_client = _Dialer()
        # What lines name it by: a user, a password or a query of the address stay out of them.
        self._host = urlsplit(url).hostname or ""
        self._closed = False
        self._fetching: asyncio.Task[None] | None = None
        self._next_at = self._taken_at = float("-inf")
        key_set.on_use = self._used

    async def fetch(self) -> None:
        """Ask the endpoint, or wait for the answer that is under way; return at once within 30 s of the last fetch.

        It raises nothing: what it brought is in the key set, and ``key_set.reached`` says whether it went well.
        """
        fetching = self._begun()
        if fetching is not None:
            # One who waits may be cancelled; the others still want the keys.
            await asyncio.wait([fetching])

    def close(self) -> None:
        """Fetch nothing more; whoever waits goes on without. The keys stay as they are."""
        self._closed = True
        # Hanging up ends the fetch by itself; while there is no connection yet, only cancelling does.
        if self._fetching is not None and not self._dialer.hang_up():
            self._fetching.cancel()
        self._client.close()

    def _used(self) -> None:
        """A token is about to be compared with the set."""
        if len(self.key_set) and self._clock() - self._taken_at > MAX_AGE:
            self._begun()

    def _begun(self) -> asyncio.Task[None] | None:
        """The fetch that is under way, begun now if one is due."""
        if self._fetching is None and not self._closed and self._clock() >= self._next_at:
            self._next_at = self._clock() + INTERVAL
            self._dialer.stream = None
            self._fetching = self._loop.create_task(self._fetch())
            self._fetching.add_done_callback(self._ended)
        return self._fetching

    def _ended(self, fetching: asyncio.Task[None]) -> None:
        self._fetching = None

    async def _fetch(self) -> None:
        trouble = await self._trouble()
        if self._closed:
            return
        if trouble:
            self.key_set.reached = False
            # A class per host: one that is down must not hide another.
            limited.warning(
                f"keys {self._host}", "the keys of tokens cannot be fetched", host=self._host, reason=trouble
            )
            return
        self._taken_at = self._clock()
        if not self.key_set.reached:
            log.info("the keys of tokens are here", extra=fields(host=self._host, keys=len(self.key_set)))
        self.key_set.reached = True

    async def _trouble(self) -> str:
        """Fetch once and take the keys; why that did not work, or an empty text. It may fail in any way there is."""
        try:
            response = await self._client.fetch(self._request, raise_error=False)
        except HTTPTimeoutError:
            return "no answer in time"
        except OSError as error:
            return error.strerror or type(error).__name__
        except Exception as error:
            # The text could be anything that the other side sent.
            return f"no answer that can be read ({type(error).__name__})"
        if response.code != 200:
            return f"status {response.code}"
        try:
            self.key_set.take(response.body)
        except ValueError as error:
            return str(error)
        return ""


class _Dialer(TCPClient):
    """Connects, and can hang up: the HTTP client itself has no way to end what is under way."""

    stream: IOStream | None = None

    async def connect(self, *args: Any, **options: Any) -> IOStream:
        self.stream = await super().connect(*args, **options)
        return self.stream

    def hang_up(self) -> bool:
        """Close the connection of the fetch that is under way; False when it has none yet."""
        if self.stream is None:
            return False
        self.stream.close()
        return True
