"""Who may use the console: a password, a cookie that stands for it, and how often one may guess.

Nothing is kept of who has signed in. A cookie carries its end and is signed with a key that is made of the password, so
that every worker and every successor of one knows it, and another password ends it.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
import secrets
import time

from rt.delivery.buckets import Buckets
from rt.logs import Limited
from rt.protocol.address import subject

log = Limited(logging.getLogger("rt.web.console"))

LIFE = 12 * 3600
"""Seconds that a cookie is good."""

GUESSES = 5
"""Wrong passwords that an address may send one after the other, to each worker."""

PAUSE = 15.0
"""Seconds after which it may send another one."""

ADDRESSES = 1024
"""Addresses of which it is remembered."""

LONGEST = 4096
"""Bytes of a password that are looked at; the config takes no longer one."""

_IPV6_PREFIX = 64


class Login:
    """The password of the console, and what was signed with it. ``name`` is that of the cookie.

    Cookies do not keep ports apart, so that the port is part of the name.
    """

    __slots__ = ("_digest", "_guesses", "_key", "name")

    def __init__(self, password: str, port: int) -> None:
        self.name = f"rt_console_{port}"
        self._digest = _digest(password)
        # Slow to make, so that nobody who gets hold of a cookie can try passwords on it by the million.
        self._key = hashlib.scrypt(password.encode(), salt=b"rt console", n=1 << 14, r=8, p=1, dklen=32)
        self._guesses = Buckets(1.0 / PAUSE, GUESSES, ADDRESSES)

    def admit(self, password: str, address: str) -> float | None:
        """Seconds to wait before the next attempt from this address; 0 for the right password, None for a wrong one.

        Who has guessed too often is not told whether this one was right.
        """
        address, now = subject(address, _IPV6_PREFIX), time.monotonic()
        left = self._guesses.left(address, now)
        if left < 1.0:
            log.warning("limited", "too many wrong passwords for the console", address=address)
            return (1.0 - left) * PAUSE
        if len(password) <= LONGEST and hmac.compare_digest(_digest(password), self._digest):
            return 0.0
        self._guesses.draw(address, now, 1.0)
        log.warning("refused", "a wrong password for the console", address=address)
        return None

    def cookie(self) -> str:
        """A new cookie: when it ends, something random, and the signature of both."""
        text = f"{int(time.time()) + LIFE}.{secrets.token_urlsafe(12)}"
        return f"{text}.{self._sign('cookie', text)}"

    def ends(self, cookie: str) -> float:
        """The moment (of the wall clock) until which a cookie is good; 0 when it is not."""
        text, _, signature = cookie.rpartition(".")
        if not _same(signature, self._sign("cookie", text)):
            return 0.0
        end = float(text.partition(".")[0])  # we have written it
        return end if end > time.time() else 0.0

    def proof(self, cookie: str) -> str:
        """What a page must send along with this cookie where it changes something: a page of another site, whose
        requests a browser may send the cookie with, cannot read it."""
        return self._sign("proof", cookie)

    def proves(self, proof: str, cookie: str) -> bool:
        """Whether ``proof`` is that of the cookie."""
        return _same(proof, self.proof(cookie))

    def _sign(self, what: str, text: str) -> str:
        signature = hmac.digest(self._key, _bytes(f"{what}:{text}"), "sha256")
        return base64.urlsafe_b64encode(signature).decode().rstrip("=")


def _digest(password: str) -> bytes:
    """All of one length, so that the time of a comparison says nothing about the password's."""
    return hashlib.sha256(_bytes(password)).digest()


def _same(one: str, other: str) -> bool:
    """Whether they are equal, in a time that does not say where they differ."""
    return hmac.compare_digest(_bytes(one), _bytes(other))


def _bytes(text: str) -> bytes:
    """Of any text, also of what is none."""
    return text.encode("utf-8", "surrogatepass")
