"""The console for operators, at ``/admin`` of the internal port: its pages, who may see them, and what they ask.

There is none without ``server.internal.admin.password``. The page and what it loads is for everybody who reaches the
port, and says nothing; all else wants the cookie that the password is exchanged for, or the password as a bearer token.
What is listed and done comes from the methods of the server API themselves.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
from tornado.iostream import StreamClosedError
from tornado.web import HTTPError, RequestHandler, StaticFileHandler

from rt import errors
from rt.logs import Limited
from rt.protocol import sse
from rt.protocol.address import Proxies
from rt.web.admin_live import Live
from rt.web.admin_login import LIFE, Login
from rt.web.answers import Method, Outcome, attempt, entry
from rt.web.internal import Internal

log = Limited(logging.getLogger("rt.web.console"))

STATIC = Path(__file__).parent / "static" / "admin"
SHARED = STATIC.parent / "shared"
"""What the page has in common with the demo (:mod:`rt.web.demo`)."""

READS = frozenset({"info", "channels", "channel", "connections", "connection", "limits", "history"})
"""Methods that look."""

WRITES = frozenset({"publish", "disconnect"})
"""Methods that do something; they are logged."""

STREAMS = 32
"""Consoles that are open on one worker."""

STALLED = 30.0
"""Seconds in which an open page must take what it is sent."""

RETRY = 1000
"""Milliseconds after which a page comes back whose stream has ended."""

MAX_LOGIN = 8192
"""Bytes of a login."""

# Nothing but our own files and doors; no markup may be made of text, and nobody may frame the page.
SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; "
        "trusted-types 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
}

MethodsOf = Callable[[], Mapping[str, Mapping[str, Method]]]
"""The methods of the server API by name, of each tenant that is served now."""


class Console:
    """What the doors of the console share on one worker."""

    def __init__(self, login: Login, live: Live, methods: MethodsOf, proxies: Proxies) -> None:
        self.login = login
        self.live = live
        self.methods = methods
        self.proxies = proxies

    def handlers(self) -> list[tuple[str, type[RequestHandler], dict[str, Any]]]:
        """The routes, for a Tornado ``Application``."""
        shared = {"console": self}
        files = {"path": str(STATIC), "default_filename": "index.html"}
        return [
            (r"/admin", Front, shared),
            (r"/admin/login", SignIn, shared),
            (r"/admin/logout", SignOut, shared),
            (r"/admin/session", Session, shared),
            (r"/admin/events", Events, shared),
            (r"/admin/api/([a-z_]{1,32})", Call, shared),
            (r"/admin/()", Files, files),
            (r"/admin/(base\.css|icon\.svg|surface\.js)", Files, {"path": str(SHARED)}),
            (r"/admin/([a-z_]{1,32}\.(?:js|css|svg))", Files, files),
        ]

    def stop(self) -> None:
        """End the streams; pages come back to another worker."""
        self.live.stop()


def secure(handler: RequestHandler) -> None:
    """Set the headers that every answer of the console carries, errors too."""
    for name, value in SECURITY_HEADERS.items():
        handler.set_header(name, value)


class Files(StaticFileHandler):
    """The page and what it loads."""

    def set_default_headers(self) -> None:
        self.clear_header("Server")
        secure(self)

    def set_extra_headers(self, path: str) -> None:
        self.set_header("Cache-Control", "no-cache")

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        self.set_header("Content-Type", "text/plain")
        self.finish(self._reason + "\n")


class Door(Internal):
    """Base of all that is no file. ``cookie`` is the one that was found good, and ends at ``until``; both are empty for
    who sends the password along."""

    def initialize(self, console: Console) -> None:
        self._console = console
        self._cookie = ""
        self._until = 0.0

    def set_default_headers(self) -> None:
        super().set_default_headers()
        secure(self)

    async def head(self) -> None:
        raise HTTPError(405)

    def _address(self) -> str:
        """Whom an attempt is counted for."""
        proxies = self._console.proxies
        return proxies.client(self.request.remote_ip or "", self.request.headers.get(proxies.header))

    def _admit(self) -> bool:
        """Whether the caller may go on; what it gets where not is written."""
        kind, _, word = self.request.headers.get("Authorization", "").partition(" ")
        if kind.lower() == "bearer":
            return self._try(word.strip())
        login = self._console.login
        cookie = _cookie(self.request.headers.get("Cookie", ""), login.name)
        self._until = login.ends(cookie)
        if not self._until:
            return self._refuse(401, "sign in first")
        if self.request.method != "GET" and not (
            self._from_here() and login.proves(self.request.headers.get("X-Console-Proof", ""), cookie)
        ):
            return self._refuse(403, "only this server's own page may do this")
        self._cookie = cookie
        return True

    def _try(self, password: str) -> bool:
        wait = self._console.login.admit(password, self._address())
        if wait is None:
            return self._refuse(401, "wrong password")
        if wait:
            self.set_header("Retry-After", str(int(wait) + 1))
            return self._refuse(429, "too many wrong passwords")
        return True

    def _from_here(self) -> bool:
        """Whether a page of this very host sends it. The scheme may be another one behind a proxy."""
        site = self.request.headers.get("Sec-Fetch-Site", "same-origin")
        origin = self.request.headers.get("Origin", "")
        return site == "same-origin" and bool(origin) and urlsplit(origin).netloc == self.request.host

    def _refuse(self, status: int, words: str) -> bool:
        self.set_status(status)
        self._answer({"error": words})
        return False

    def _answer(self, value: object) -> None:
        self.set_header("Content-Type", "application/json")
        self.finish(msgspec.json.encode(value))


class Front(Door):
    """``/admin``: the page is at ``/admin/``, so that what it loads stands beside it, whatever a proxy calls it."""

    def get(self) -> None:
        self.redirect("admin/")


class SignIn(Door):
    """``POST /admin/login`` with ``{"password":"..."}``: 200 and the cookie; 401 for a wrong password, 429 after too
    many, 403 for a call from another site, 400 for a body that is not as above."""

    def post(self) -> None:
        login = self._console.login
        if not self._from_here():
            self._refuse(403, "only this server's own page may do this")
            return
        try:
            if len(self.request.body) > MAX_LOGIN:
                raise ValueError
            password = msgspec.json.decode(self.request.body, type=_Password).password
        except ValueError:
            self._refuse(400, 'expected {"password": "..."}')
            return
        if self._try(password):
            cookie = login.cookie()
            self._set(f"{login.name}={cookie}; Max-Age={LIFE}")
            log.info("in", "somebody has signed in to the console", address=self._address())
            self._answer(_session(self._console, cookie))

    def _set(self, cookie: str) -> None:
        sealed = "; Secure" if self.request.headers.get("Origin", "").startswith("https:") else ""
        # Without a path it is for where the page stands, behind whatever prefix of a proxy.
        self.set_header("Set-Cookie", f"{cookie}; HttpOnly; SameSite=Strict{sealed}")


class SignOut(SignIn):
    """``POST /admin/logout``: the browser forgets its cookie."""

    def post(self) -> None:
        if self._admit():
            self._set(f"{self._console.login.name}=; Max-Age=0")
            self._answer({})


class Session(Door):
    """``/admin/session``: for who is signed in, what the page needs to know; else 401."""

    def get(self) -> None:
        if self._admit():
            self._answer(_session(self._console, self._cookie))


class Events(Door):
    """``/admin/events``: a snapshot each second, as an event stream. ``?tenant=`` narrows it to one. 503 where there
    are :data:`STREAMS` already."""

    async def get(self) -> None:
        if not self._admit():
            return
        live, tenant = self._console.live, self.get_query_argument("tenant", "")
        if live.watching >= STREAMS:
            self._refuse(503, "too many consoles are open")
            return
        self.set_header("Content-Type", "text/event-stream")
        self.set_header("X-Accel-Buffering", "no")
        try:
            with live.watch():
                await self._send(sse.retry(RETRY))
                while await live.tick() and not 0.0 < self._until < time.time():
                    await self._send(sse.event(msgspec.json.encode(live.snapshot(tenant))))
            self.finish()
        except (StreamClosedError, TimeoutError):
            pass  # the page was closed, or is not read: either way its place is free

    async def _send(self, data: bytes) -> None:
        self.write(data)
        async with asyncio.timeout(STALLED):
            await self.flush()


class Call(Door):
    """``POST /admin/api/<method>``: one of the server API's methods for ``?tenant=`` (the first where none is named),
    with the parameters and the answer that it has there: ``{"result":...}`` or ``{"error":{...}}``."""

    async def post(self, name: str) -> None:
        if not self._admit():
            return
        served = self._console.methods()
        tenant = self.get_query_argument("tenant", "") or next(iter(served), "")
        method = served.get(tenant, {}).get(name)
        if method is None or name not in READS | WRITES:
            self._refuse(404, "no such method or tenant")
            return
        if name in WRITES:
            log.info(name, f"the console calls {name}", tenant=tenant, address=self._address())
        outcome = await _call(method, self.request.body)
        self.set_header("Content-Type", "application/json")
        self.finish(entry(b"result", outcome))


async def _call(method: Method, body: bytes) -> Outcome:
    """What a method answers; it does so in a bounded time."""
    answer: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

    def done(outcome: Outcome) -> None:
        if not answer.done():
            answer.set_result(outcome)

    try:
        body.decode()
    except UnicodeDecodeError:
        return errors.BAD_REQUEST
    attempt(method, msgspec.Raw(body), done)
    return await answer


class _Password(msgspec.Struct, frozen=True, gc=False):
    password: str


def _session(console: Console, cookie: str) -> dict[str, object]:
    return {"proof": console.login.proof(cookie), "tenants": list(console.methods())}


def _cookie(header: str, name: str) -> str:
    try:
        found = SimpleCookie(header).get(name)
    except CookieError:
        return ""
    return found.value if found is not None else ""
