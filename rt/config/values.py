"""The kinds of value a key may hold: how each is read from text, written back, and described.

A kind raises :class:`Unfit` for text that is not one. Ranges are part of the kind, so that the loader, the list of
defaults and the manual tell the same. What plain YAML 1.1 would make of a text (``on``, ``010``, ``1:30``, ``1e3``)
plays no part.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
import urllib.parse
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, Literal

from rt.config.pem import public_key
from rt.config.problem import shown

_WHOLE = re.compile(r"0|[1-9][0-9]{0,18}")
_NUMBER = re.compile(r"(?:0|[1-9][0-9]{0,9})(?:\.[0-9]{1,6})?")
_SIMPLE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_./-]*")
_TIME_UNITS = {"d": Decimal(86400), "h": Decimal(3600), "m": Decimal(60), "s": Decimal(1), "ms": Decimal("0.001")}
_SIZE_UNITS = {"GiB": 1 << 30, "MiB": 1 << 20, "KiB": 1 << 10, "B": 1}
_DURATION = re.compile(r"(?:[0-9]{1,12}(?:\.[0-9]{1,6})?(?:ms|s|m|h|d)){1,5}")
_TIME = re.compile(r"([0-9.]+)(ms|s|m|h|d)")
_SIZE = re.compile(r"(0|[1-9][0-9]{0,12})(B|KiB|MiB|GiB)?")
# The grammar of rt.web.origin, which takes these texts apart again.
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(\[[0-9a-f:.]+\]|[a-z0-9._*-]+)(?::([0-9]{1,5}|\*))?", re.ASCII)

_HOST = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)(?:\.(?!-)[a-z0-9-]{1,63}(?<!-))*", re.ASCII)


class Unfit(Exception):
    """The text is not a value of this kind."""


class Kind(ABC):
    """A kind of value. ``words`` says what is allowed; a ``bare`` kind must not stand in quotes, and
    one of ``several_lines`` may have line ends in it."""

    words: str
    bare = False
    several_lines = False

    @abstractmethod
    def read(self, text: str) -> Any:
        """The value that ``text`` means; raises :class:`Unfit`."""

    def write(self, value: Any) -> str:
        """``value`` as YAML text that :meth:`read` understands."""
        return str(value) if _SIMPLE.fullmatch(str(value)) else json.dumps(value)

    def show(self, text: str) -> str:
        """How a mistake may name a text that did not fit."""
        return shown(text)


class Flag(Kind):
    """true or false, and none of YAML's other spellings."""

    words = "true or false"
    bare = True

    def read(self, text: str) -> bool:
        if text not in ("true", "false"):
            raise Unfit
        return text == "true"

    def write(self, value: Any) -> str:
        return "true" if value else "false"


class Whole(Kind):
    """A whole number in decimal digits; ``auto`` adds that word, which stands for what it returns."""

    bare = True

    def __init__(self, low: int, high: int, auto: Callable[[], int] | None = None) -> None:
        self._low, self._high, self._auto = low, high, auto
        self.words = f"a whole number from {low} to {high}" + (", or auto" if auto else "")

    def read(self, text: str) -> int:
        if self._auto and text == "auto":
            return self._auto()
        if not _WHOLE.fullmatch(text) or not self._low <= int(text) <= self._high:
            raise Unfit
        return int(text)

    def write(self, value: Any) -> str:
        return "auto" if self._auto and value == self._auto() else str(value)


class Number(Kind):
    """A number, with decimals or without."""

    bare = True

    def __init__(self, low: float, high: float) -> None:
        self._low, self._high = low, high
        self.words = f"a number from {low:g} to {high:.10g}"

    def read(self, text: str) -> float:
        if not _NUMBER.fullmatch(text) or not self._low <= float(text) <= self._high:
            raise Unfit
        return float(text)

    def write(self, value: Any) -> str:
        return f"{value:.10g}"


class Duration(Kind):
    """A time span with its unit, in seconds; ``0`` alone where zero is allowed. Go's ``1h30m`` is understood."""

    def __init__(self, low: str, high: str) -> None:
        self._low, self._high = _seconds(low), _seconds(high)
        self.words = f"a duration from {low} to {high}, such as 300s, 5m or 250ms"

    def read(self, text: str) -> float:
        if text != "0" and not _DURATION.fullmatch(text):
            raise Unfit
        seconds = _seconds(text)
        if not self._low <= seconds <= self._high:
            raise Unfit
        return float(seconds)

    def write(self, value: Any) -> str:
        if value != int(value):
            return f"{round(value * 1000)}ms"
        whole = int(value)
        for unit in ("d", "h"):
            if whole and whole % int(_TIME_UNITS[unit]) == 0:
                return f"{whole // int(_TIME_UNITS[unit])}{unit}"
        return f"{whole}s"


class Size(Kind):
    """A number of bytes, with a binary unit or without."""

    def __init__(self, low: str, high: str) -> None:
        self._low, self._high = _bytes(low), _bytes(high)
        self.words = f"a size from {low} to {high}, such as 64KiB, 1MiB or a number of bytes"

    def read(self, text: str) -> int:
        if not _SIZE.fullmatch(text) or not self._low <= _bytes(text) <= self._high:
            raise Unfit
        return _bytes(text)

    def write(self, value: Any) -> str:
        unit = next(unit for unit, factor in _SIZE_UNITS.items() if value % factor == 0)
        return f"{value // _SIZE_UNITS[unit]}{unit}"


class Choice(Kind):
    """One of a few words."""

    def __init__(self, *options: str, note: str = "") -> None:
        self._options = options
        named = [option or '""' for option in options]
        self.words = f"{', '.join(named[:-1])} or {named[-1]}" + note

    def read(self, text: str) -> str:
        if text not in self._options:
            raise Unfit
        return text


class Text(Kind):
    """Text that matches a pattern as a whole; ``words`` describes it."""

    def __init__(self, words: str, pattern: str) -> None:
        self.words = words
        self._pattern = re.compile(pattern, re.ASCII)

    def read(self, text: str) -> str:
        if not self._pattern.fullmatch(text):
            raise Unfit
        return text


class File(Kind):
    """The path of a file or a directory, from the working directory. Whether it is there is checked by its user."""

    words = "a path"

    def read(self, text: str) -> str:
        if not text or len(text) > 4096:
            raise Unfit
        return text


class Filed(Kind):
    """A kind beside whose every ``key`` there is a ``key_file``, the path of a file that holds the value."""

    several_lines = True
    content: str
    """What the file holds, in words."""


class Secret(Filed):
    """A password or key. It is never printed."""

    words = "a secret of at most 4096 bytes, without white space around it"
    content = "a secret"

    def read(self, text: str) -> str:
        if len(text.encode()) > 4096 or text != text.strip():
            raise Unfit
        return text

    def show(self, text: str) -> str:
        spaced = " with white space around it" if text != text.strip() else ""
        return f"a secret of {len(text.encode())} bytes{spaced}"


class PublicKey(Filed):
    """A public key in PEM, of RSA (``RSA``) or of an elliptic curve (``EC``). It is read to the one form that all
    equal keys have."""

    content = "a public key"

    def __init__(self, family: Literal["RSA", "EC"]) -> None:
        self._family = family
        what = "an RSA public key of at least 2048 bits" if family == "RSA" else "a P-256, P-384 or P-521 public key"
        self.words = f'{what} in PEM, or ""'

    def read(self, text: str) -> str:
        key = public_key(text, self._family) if text else ""
        if key is None:
            raise Unfit
        return key

    def show(self, text: str) -> str:
        return "a private key" if "PRIVATE KEY" in text else "another text"


class Address(Kind):
    """An address to listen on."""

    words = 'an IPv4 or IPv6 address (IPv6 in quotes), localhost, or "" for all addresses'

    def read(self, text: str) -> str:
        if text in ("", "localhost"):
            return text
        try:
            ipaddress.ip_address(text)
        except ValueError:
            raise Unfit from None
        return text


class Origin(Kind):
    """A pattern of web origins, or ``*`` for all, or ``null`` for pages without one."""

    words = 'scheme://host or scheme://host:port without a path ("*" may stand in the host), "*" or "null"'

    def read(self, text: str) -> str:
        if text in ("*", "null"):
            return text
        match = _ORIGIN.fullmatch(text.lower())
        if match is None or (match[2] or "*") != "*" and int(match[2]) > 65535:
            raise Unfit
        if match[1] != "*" and "*" in match[1].rpartition(".")[2]:
            raise Unfit
        return text

    def write(self, value: Any) -> str:
        return json.dumps(value)


class StoreUrl(Kind):
    """Where the store is. A URL may hold a password, so one that does not fit is not printed."""

    words = "embedded, redis://host:port/db, rediss://host:port/db or unix:///path?db=0"

    def read(self, text: str) -> str:
        if text != "embedded" and not _is_store_url(text):
            raise Unfit
        return text

    def show(self, text: str) -> str:
        return "another text"


class HttpUrl(Kind):
    """A URL to fetch something from; it may hold a secret, so one that does not fit is not printed."""

    words = 'an http:// or https:// URL of printable ASCII, without a user or a fragment, or ""'

    def read(self, text: str) -> str:
        if text and not _is_http_url(text):
            raise Unfit
        return text

    def show(self, text: str) -> str:
        return "another text"


class Pattern(Kind):
    """A regular expression as Python's ``re`` has them; ``""`` is none."""

    words = 'a regular expression of at most 1024 characters, or ""'

    def read(self, text: str) -> str:
        if len(text) > 1024:
            raise Unfit
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # what it only warns of will mean something else one day
                re.compile(text)
        except (re.error, Warning, OverflowError, RecursionError):
            raise Unfit from None
        return text


class HostName(Kind):
    """The name of a host, or its IP address; lower-case once read."""

    words = "a host name or IP address without a port"

    def read(self, text: str) -> str:
        name = text.lower()
        if len(name) > 253 or not (_HOST.fullmatch(name) or _is_ip(name)):
            raise Unfit
        return name


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0))


def _seconds(text: str) -> Decimal:
    parts = _TIME.findall(text)
    return sum((Decimal(number) * _TIME_UNITS[unit] for number, unit in parts), Decimal(0))


def _bytes(text: str) -> int:
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(text)
    return int(match[1]) * _SIZE_UNITS[match[2] or "B"]


def _is_store_url(text: str) -> bool:
    try:
        url = urllib.parse.urlsplit(text)
        port = url.port
        query = urllib.parse.parse_qs(url.query, strict_parsing=bool(url.query), max_num_fields=1)
    except ValueError:
        return False
    if url.scheme == "unix":
        return not url.hostname and len(url.path) > 1 and port is None and _is_database(query) and not url.fragment
    database = re.fullmatch(r"/?|/[0-9]{1,4}", url.path, re.ASCII)
    known = url.scheme in ("redis", "rediss")
    return known and bool(url.hostname) and port != 0 and database is not None and not url.query and not url.fragment


def _is_database(query: Mapping[str, list[str]]) -> bool:
    return not query or re.fullmatch(r"[0-9]{1,4}", query.get("db", [""])[0], re.ASCII) is not None


def _is_http_url(text: str) -> bool:
    try:
        url = urllib.parse.urlsplit(text)
        port = url.port
    except ValueError:
        return False
    plain = re.fullmatch(r"[!-~]{1,2048}", text) is not None and "#" not in text and "@" not in url.netloc
    return plain and url.scheme in ("http", "https") and bool(url.hostname) and port != 0


def _is_ip(text: str) -> bool:
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        version = ipaddress.ip_address(bare).version
    except ValueError:
        return False
    return (version == 6) == (bare is not text)
