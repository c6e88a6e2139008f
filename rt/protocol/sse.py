"""Server-Sent Events: the text of an event stream (WHATWG HTML, section 9.2).

Everything returned is a whole block that ends with a blank line, so blocks can be joined, shared and sent in any order.
"""

from __future__ import annotations

from typing import Final

HEARTBEAT: Final = b":\n\n"
"""A comment without text: keeps the stream alive, and no listener sees it."""


def event(data: bytes, *, id: str | None = None, event: str | None = None) -> bytes:
    """One event with ``data`` (UTF-8; not looked at but for line ends), and where given its ``id`` and ``event`` name.

    A reader gets ``data`` back with every line end as LF: the format knows no other. An empty ``id`` makes the reader
    forget the one it had. Raises ValueError where ``id`` or ``event`` has CR, LF or NUL: they could forge fields, or
    make the reader ignore the id.
    """
    head = b""
    if id is not None:
        head = b"id: %b\n" % _line(id)
    if event is not None:
        head += b"event: %b\n" % _line(event)
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    if b"\n" in data:
        data = data.replace(b"\n", b"\ndata: ")
    return b"%bdata: %b\n\n" % (head, data)


def retry(milliseconds: int) -> bytes:
    """How long the reader waits before it connects again. Raises ValueError for a negative number."""
    if milliseconds < 0:
        raise ValueError("a reconnect delay is not negative")
    return b"retry: %d\n\n" % milliseconds


def comment(text: str) -> bytes:
    """A line that readers ignore. Raises ValueError where ``text`` has CR, LF or NUL."""
    return b": %b\n\n" % _line(text)


def _line(text: str) -> bytes:
    """Text that stays on its line. U+0085 and U+2028 do: only CR and LF end a line of an event stream."""
    if "\n" in text or "\r" in text or "\0" in text:
        raise ValueError("CR, LF and NUL are not allowed in this field of an event")
    return text.encode()
