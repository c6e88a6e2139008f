"""Several answers become one: for the channels of a broadcast, and for commands that came in one body."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from rt import errors
from rt.web.answers import Done, Outcome, entry

Command = tuple[Callable[[Outcome], bytes], Callable[[Done], None]]

REPLY_BYTES = 64 << 20
"""Bytes of replies after which a batch begins no more commands."""


class Gather:
    """``count`` answers in their order; ``done`` is called with all of them when the last has come."""

    __slots__ = ("_done", "_entries", "_missing")

    def __init__(self, count: int, done: Callable[[list[bytes]], None]) -> None:
        self._entries = [b""] * count
        self._missing = count
        self._done = done

    def fill(self, index: int, key: bytes, outcome: Outcome) -> None:
        """The answer at ``index`` is here. To be called once for each."""
        self._entries[index] = entry(key, outcome)
        self._missing -= 1
        if not self._missing:
            self._done(self._entries)


class Batch:
    """Commands of which at most ``window`` are under way; with a window of 1, each starts when the last is answered.

    A command is what writes its outcome down, and a callable that starts it; ``done`` gets what was written, in the
    order of the commands. After an error 100 the commands not begun yet get the same without being tried: each could
    wait for the store as long as the last one did. When the replies have become larger than :data:`REPLY_BYTES`, the
    rest get error 106.
    """

    __slots__ = (
        "_commands",
        "_done",
        "_entries",
        "_filling",
        "_flying",
        "_missing",
        "_next",
        "_refusal",
        "_size",
        "_window",
    )

    def __init__(self, commands: Sequence[Command], window: int, done: Callable[[list[bytes]], None]) -> None:
        self._commands = commands
        self._window = window
        self._done = done
        self._entries = [b""] * len(commands)
        self._missing = len(commands)
        self._next = self._flying = self._size = 0
        self._filling = False
        self._refusal: errors.Error | None = None

    def run(self) -> None:
        """Begin what may begin now; the rest follows as answers come."""
        if not self._commands:
            self._done([])
        # A command that is answered at once comes back here from inside the loop, which goes on by itself: a thousand
        # of them must not be a thousand calls deep.
        if self._filling:
            return
        self._filling = True
        while self._next < len(self._commands) and self._flying < self._window:
            self._start()
        self._filling = False

    def _start(self) -> None:
        index = self._next
        self._next += 1
        self._flying += 1
        write, start = self._commands[index]
        done = partial(self._answered, index, write)
        if self._refusal is None:
            start(done)
        else:
            done(self._refusal)

    def _answered(self, index: int, write: Callable[[Outcome], bytes], outcome: Outcome) -> None:
        self._entries[index] = write(outcome)
        self._size += len(self._entries[index])
        self._flying -= 1
        self._missing -= 1
        if outcome == errors.INTERNAL:
            self._refusal = errors.INTERNAL
        elif self._size > REPLY_BYTES and self._refusal is None:
            self._refusal = errors.LIMIT_EXCEEDED
        if self._missing:
            self.run()
        else:
            self._done(self._entries)
