"""The head of a request, read as strictly as a front line must: what two readers might take for two different requests
is no request at all.

llhttp (by way of httptools) checks the grammar of RFC 9112. Here is what it would let through: a request that has not
exactly one Host, or that says in more than one way how long its body is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from tornado.httputil import HTTPHeaders, RequestStartLine

MAX_HEAD = 16 << 10  # bytes of a request's line and headers; more is answered 431
KNOWN = 256  # heads that are remembered by one listener
KNOWN_SIZE = 1024  # bytes of a head that is
CHUNKED = -1
"""The length of a body that comes in chunks."""

_END = b"\r\n\r\n"
_UNEVEN = re.compile(rb"(?<!\r)\n|\r(?!\n|\Z)|\0")


class Malformed(Exception):
    """This is no request that everybody reads in the same way. It is answered 400, and nothing behind it is read."""


class Headers(HTTPHeaders):
    """The headers of a request, for those that read Tornado's; made for being written once by the parser.

    Tornado's own check each name and value again and keep two tables, which costs more than all the rest of a request.
    """

    def __init__(self) -> None:
        self._fields: dict[str, list[str]] = {}  # what was sent, by name in lower case

    def add(self, name: str, value: str, *, _chars_are_bytes: bool = True) -> None:
        """One more value of a header."""
        self._fields.setdefault(name.lower(), []).append(value)

    def get_list(self, name: str) -> list[str]:
        """The values of a header, one for each line that it had."""
        return self._fields.get(name.lower(), [])

    def get_all(self) -> Iterator[tuple[str, str]]:
        """Name and value of each line."""
        for name, values in self._fields.items():
            title = _title(name)
            for value in values:
                yield title, value

    # The type of a default is the one of Mapping.get, which has several overloads.
    def get(self, name: str, default: str | None = None) -> str | None:  # type: ignore[override]
        """The value of a header; those of several lines are joined by a comma."""
        values = self._fields.get(name.lower())
        if values is None:
            return default
        return values[0] if len(values) == 1 else ",".join(values)

    def __getitem__(self, name: str) -> str:
        return ",".join(self._fields[name.lower()])

    def __setitem__(self, name: str, value: str) -> None:
        self._fields[name.lower()] = [value]

    def __delitem__(self, name: str) -> None:
        del self._fields[name.lower()]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._fields

    def __len__(self) -> int:
        return len(self._fields)

    def __iter__(self) -> Iterator[str]:
        return map(_title, self._fields)


def _title(name: str) -> str:
    return "-".join(word.capitalize() for word in name.split("-"))


class Heads:
    """Reads heads, and remembers what it has read: who keeps a connection says nearly the same with each request, and
    the same bytes are the same head. What it gives is shared, and not to be changed."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[bytes, Head] = {}

    def read(self, data: bytes) -> Head:
        """The head ``data``, which may come again. Raises Malformed."""
        head = self._known.get(data)
        if head is None:
            head = Head(data)
            if len(data) <= KNOWN_SIZE:
                if len(self._known) >= KNOWN:
                    self._known.clear()
                self._known[data] = head
        return head


class Head:
    """``start``, ``headers``; ``length`` of the body in bytes or CHUNKED; ``keeps``: the peer wants to send another
    request after this one; ``asks``: it sends the body when it is told to."""

    __slots__ = ("_complete", "_fields", "_url", "asks", "headers", "keeps", "length", "start")

    def __init__(self, data: bytes) -> None:
        """Read ``data``, which ends with the first empty line in it. Raises Malformed."""
        self.headers = Headers()
        fields = self._fields = self.headers._fields
        self._complete = False
        self._url = b""
        # One for each request: nothing of the one before can play a part.
        parser = HttpRequestParser(self)
        try:
            parser.feed_data(data)
        except HttpParserUpgrade:
            pass  # it is for the doors to take that up or not
        except HttpParserError:
            raise Malformed from None
        if not self._complete:
            raise Malformed
        method = parser.get_method()
        version = _version(data, method, self._url)
        self.start = RequestStartLine(method.decode("ascii"), self._url.decode("ascii"), version)
        self.length = framing(
            version, fields.get("host", ()), fields.get("content-length", ()), fields.get("transfer-encoding", ())
        )
        self.keeps = _keeps(self.headers.get("connection"), version)
        self.asks = bool(self.length) and version == "HTTP/1.1" and _asks(fields)

    # Called by the parser

    def on_url(self, url: bytes) -> None:
        """The target, or a part of it."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """One line."""
        key, text = _key(name), value.decode("latin-1").strip(" \t")
        if key in self._fields:
            self._fields[key].append(text)
        else:
            self._fields[key] = [text]

    def on_headers_complete(self) -> None:
        """The empty line."""
        self._complete = True


@lru_cache(maxsize=128)
def _key(name: bytes) -> str:
    """The name of a header in lower case; most send the same few."""
    return name.decode("latin-1").lower()


def end_of(data: bytes) -> int:
    """Where the head that ``data`` begins with ends; 0 when more must come. Malformed when none can become of it."""
    at = data.find(_END)
    if at > 0:
        return at + len(_END)
    text = data.removeprefix(b"\r\n")
    if at == 0 or _UNEVEN.search(data) or not (text in {b"", b"\r"} or b"A" <= text[:1] <= b"Z"):
        raise Malformed
    return 0


def framing(version: str, hosts: Sequence[str], lengths: Sequence[str], codings: Sequence[str]) -> int:
    """How long the body of a request is, in bytes, or CHUNKED; 0 without one. The arguments are its version, and the
    values of Host, Content-Length and Transfer-Encoding.

    Raises Malformed where that is said twice, or unclearly, or where it is not clear which host is meant: RFC 9112
    sections 3.2 and 6.3, without what they leave to a recipient's good will.
    """
    if len(hosts) != 1 and (hosts or version != "HTTP/1.0"):
        raise Malformed
    if codings:
        if lengths or version != "HTTP/1.1" or len(codings) > 1 or codings[0].lower() != "chunked":
            raise Malformed
        return CHUNKED
    if not lengths:
        return 0
    if len(lengths) > 1 or not (lengths[0].isascii() and lengths[0].isdigit() and len(lengths[0]) < 19):
        raise Malformed
    return int(lengths[0])


def check(start: RequestStartLine, headers: HTTPHeaders) -> int:
    """Judge the head of a request that somebody else has read: 0, or the status that it is refused with."""
    if len(start.path) + sum(len(name) + len(value) + 4 for name, value in headers.get_all()) > MAX_HEAD:
        return 431
    if not start.path.isascii():
        return 400
    host, length, coding = map(headers.get_list, ("Host", "Content-Length", "Transfer-Encoding"))
    try:
        framing(start.version, host, length, coding)
    except Malformed:
        return 400
    return 0


def _version(data: bytes, method: bytes, target: bytes) -> str:
    """That of the request line, which is written exactly so: llhttp also takes other protocols, two blanks for one, and
    other line ends in front."""
    line = b"%b %b HTTP/1." % (method, target)
    text = data if data.startswith(line) else data.removeprefix(b"\r\n")
    if text.startswith(line):
        end = text[len(line) : len(line) + 3]
        if end == b"1\r\n":
            return "HTTP/1.1"
        if end == b"0\r\n":
            return "HTTP/1.0"
    raise Malformed


def _keeps(connection: str | None, version: str) -> bool:
    """Whether the connection goes on after the answer (RFC 9112 section 9.3)."""
    if connection is None:
        return version == "HTTP/1.1"
    options = {option.strip().lower() for option in connection.split(",")}
    return "close" not in options and (version == "HTTP/1.1" or "keep-alive" in options)


def _asks(fields: Mapping[str, list[str]]) -> bool:
    """Whether the peer waits for 100 before it sends the body (RFC 9110 section 10.1.1)."""
    return [value.lower() for value in fields.get("expect", ())] == ["100-continue"]
