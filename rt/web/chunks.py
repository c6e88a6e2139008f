"""A body that comes in chunks (RFC 9112 section 7.1), without what nobody needs and readers disagree about: extensions
of a chunk, and trailers, are refused."""

from __future__ import annotations

import re

from rt.web.heads import Malformed

_SIZE = re.compile(rb"([0-9a-fA-F]{1,8})\r\n")
_LONGEST = 10  # bytes of a line with a size

_LINE, _DATA, _AFTER, _LAST = range(4)  # what comes next: a size, data, the line end behind it, the one at the end


class Chunks:
    """Takes a body out of its chunks; ``done`` when it has ended."""

    __slots__ = ("_expected", "_left", "_pending", "done")

    def __init__(self) -> None:
        self._expected = _LINE
        self._left = 0
        self._pending = b""
        self.done = False

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """The part of the body that is in ``data``, and what stands behind the body's end. Raises Malformed."""
        data, self._pending = self._pending + data, b""
        at, parts = 0, []
        while not self.done and at < len(data):
            if self._expected == _DATA:
                part = data[at : at + self._left]
                parts.append(part)
                at += len(part)
                self._left -= len(part)
                if not self._left:
                    self._expected = _AFTER
                continue
            after = self._line(data, at)
            if not after:
                self._pending = data[at:]
                break
            at = after
        return b"".join(parts), data[at:] if self.done else b""

    def _line(self, data: bytes, at: int) -> int:
        """Where the line at ``at`` ends; 0 when it is not all there."""
        if self._expected == _LINE:
            found = _SIZE.match(data, at)
            if found is None:
                return self._incomplete(data[at:], _LONGEST)
            self._left = int(found[1], 16)
            self._expected = _DATA if self._left else _LAST
            return found.end()
        if not data.startswith(b"\r\n", at):
            return self._incomplete(data[at:], 2)
        self.done = self._expected == _LAST
        self._expected = _LINE
        return at + 2

    @staticmethod
    def _incomplete(text: bytes, limit: int) -> int:
        """A line that has come so far; Malformed when it cannot become one."""
        digits = text.removesuffix(b"\r")
        if len(text) >= limit or (digits and (limit == 2 or not re.fullmatch(rb"[0-9a-fA-F]+", digits))):
            raise Malformed
        if text == b"\r" and limit == _LONGEST:
            raise Malformed
        return 0
