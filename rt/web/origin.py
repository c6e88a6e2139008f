"""Which web pages may talk to this server: the check of the Origin header, on every upgrade, stream and call.

A browser names the page's origin in this header and the page cannot change it; that is all that keeps a foreign page
from using the visitor's cookies and network place. So the list is an allow-list, compared as scheme, host and port;
nothing else a request says (``Sec-Fetch-Site``, ``Referer``) opens the door. Clients that are not browsers send no
Origin and pass: they could write any, and prove themselves by token.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from typing import NamedTuple

_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://(\[[0-9a-f:.]+\]|[a-z0-9._-]*)(?::([0-9]{1,5}))?")
_PATTERN = re.compile(r"([a-z][a-z0-9+.-]*)://(\[[0-9a-f:.]+\]|[a-z0-9._*-]*)(?::([0-9]{1,5}|\*))?")
_DEFAULT_PORTS = {"http": 80, "https": 443}

ANY_PORT = -1


class Parts(NamedTuple):
    """An origin taken apart. ``port`` is the scheme's default where none is written, 0 where the scheme has none."""

    scheme: str
    host: str
    port: int


def parse(origin: str) -> Parts | None:
    """Take an Origin header apart; ``None`` for anything but ``scheme://host[:port]`` (RFC 6454 section 6.2).

    >>> parse("HTTPS://App.example.com:443")
    Parts(scheme='https', host='app.example.com', port=443)
    """
    # A line break or a list of two origins cannot match; ASCII only, because a browser sends names in their xn-- form.
    match = _ORIGIN.fullmatch(origin.lower()) if origin.isascii() else None
    if match is None:
        return None
    scheme, host, port = match.groups()
    if not host and scheme != "file":
        return None
    return Parts(scheme, host, int(port) if port else _DEFAULT_PORTS.get(scheme, 0))


class Pattern(NamedTuple):
    """One entry of the allow-list; ``host`` is matched whole, ``port`` may be :data:`ANY_PORT`."""

    scheme: str
    host: re.Pattern[str]
    port: int

    def matches(self, origin: Parts) -> bool:
        """Whether ``origin`` is one of those this entry allows."""
        return (
            origin.scheme == self.scheme
            and self.port in (origin.port, ANY_PORT)
            and self.host.fullmatch(origin.host) is not None
        )


def pattern(text: str) -> Pattern:
    """Read an entry of the allow-list: ``https://app.example.com``, ``https://*.example.com``, ``http://localhost:*``.

    ``*`` in the host stands for one or more letters, digits, dots and hyphens; the last label must be spelled out,
    since ``https://example.*`` would let in hosts that anybody can register. A host that is ``*`` alone is any host,
    on any port unless one is named. Raises ``ValueError`` for what is none of these.
    """
    match = _PATTERN.fullmatch(text.lower())
    if match is None:
        raise ValueError(f"not an origin: {text!r} (expected scheme://host or scheme://host:port)")
    scheme, host, port = match.groups()
    if not host and scheme != "file":
        raise ValueError(f"an origin without a host: {text!r}")
    if host != "*" and "*" in host.rpartition(".")[2]:
        raise ValueError(f"the last part of the host must be spelled out: {text!r}")
    if port == "*" or (host == "*" and port is None):
        number = ANY_PORT
    else:
        number = int(port) if port else _DEFAULT_PORTS.get(scheme, 0)
    return Pattern(scheme, re.compile(re.escape(host).replace(r"\*", r"(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])")), number)


class Origins:
    """The allow-list of one configuration.

    ``patterns`` are entries as :func:`pattern` reads them, ``*`` for every origin, or ``null`` for pages without one (a
    sandboxed frame, a file); an empty list lets in only requests without an Origin header. With ``same_origin`` a
    page that this server delivered itself may come in too, if it was asked for by address or as localhost: a name
    could have been pointed here by somebody else (DNS rebinding). That is meant for development. Raises
    ``ValueError`` for a bad entry.
    """

    __slots__ = ("_any", "_null", "_patterns", "_same")

    def __init__(self, patterns: Sequence[str], *, same_origin: bool = False) -> None:
        self._any = "*" in patterns
        self._null = "null" in patterns
        self._patterns = [pattern(text) for text in patterns if text not in ("*", "null")]
        self._same = same_origin

    def allowed(self, origin: str | None, host: str | None = None) -> bool:
        """Whether a request with these Origin and Host headers may be served; ``None``: it has no such header."""
        if origin is None or self._any:
            return True
        if origin == "null":
            return self._null
        parts = parse(origin)
        if parts is None:
            return False
        return any(entry.matches(parts) for entry in self._patterns) or (self._same and _is_here(parts, host))

    def cors_headers(self, origin: str | None, host: str | None = None) -> list[tuple[str, str]]:
        """The headers that let the page at ``origin`` read the answer; only ``Vary`` when it may not.

        Credentials are allowed to listed origins alone: with ``*`` every page on the web would get them.
        """
        if self._any:
            return [("Access-Control-Allow-Origin", "*")]
        vary = ("Vary", "Origin")
        if origin is None or not self.allowed(origin, host):
            return [vary]
        return [("Access-Control-Allow-Origin", origin), ("Access-Control-Allow-Credentials", "true"), vary]


def _is_here(origin: Parts, host: str | None) -> bool:
    """Whether ``origin`` is the very host the request was sent to, and one that no foreign name server can forge."""
    if host is None or origin.scheme not in _DEFAULT_PORTS:
        return False
    # The request does not say over which scheme it came; the origin's own is taken, so that default ports agree.
    return parse(f"{origin.scheme}://{host}") == origin and _cannot_be_rebound(origin.host)


def _cannot_be_rebound(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True
