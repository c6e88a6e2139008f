"""Tornado's streams, for its HTTP: what it would take for a line end is refused where our own HTTP refuses it.

Tornado reads a bare LF as the end of a line; a proxy in front that does not would see another request than we do.
"""

from __future__ import annotations

from collections.abc import Awaitable

from tornado.httputil import HTTPInputError
from tornado.iostream import IOStream, SSLIOStream


class _Strict(IOStream):
    def read_until_regex(self, regex: bytes, max_bytes: int | None = None) -> Awaitable[bytes]:
        """The head of a request, whatever ``regex`` says; HTTPInputError when it has uneven line ends."""
        return _even(super().read_until_regex(rb"\r\n\r\n|(?<!\r)\n", max_bytes), b"\r\n\r\n")

    def read_until(self, delimiter: bytes, max_bytes: int | None = None) -> Awaitable[bytes]:
        """The size of a chunk; HTTPInputError as above."""
        return _even(super().read_until(b"\n", max_bytes), delimiter)


async def _even(text: Awaitable[bytes], end: bytes) -> bytes:
    data = await text
    if not data.endswith(end):
        raise HTTPInputError("uneven line ends")
    return data


class StrictStream(_Strict):
    """A plain socket."""


class StrictSSLStream(_Strict, SSLIOStream):
    """A socket with TLS."""
