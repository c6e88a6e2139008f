"""The old form of the server API: ``POST /api`` with commands that carry their method inside.

The body is one or more JSON objects, one behind the other: ``{"id":1,"method":"publish","params":{...}}``. The answer
is one line for each, in their order: ``{"id":1,"result":{...}}`` or ``{"id":1,"error":{...}}``.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from rt import errors
from rt.protocol.commands import Int32, Uint32
from rt.web.answers import Outcome, error_object

METHODS = (
    "publish",
    "broadcast",
    "unsubscribe",
    "disconnect",
    "presence",
    "presence_stats",
    "history",
    "history_remove",
    "channels",
    "info",
    "rpc",
    "subscribe",
    "refresh",
)
"""The methods by the number that may stand for their name."""

_NO_PARAMS = msgspec.Raw(b"{}")


class _Command(msgspec.Struct, frozen=True, gc=False):
    id: Uint32 = 0
    method: str | Int32 = 0
    params: msgspec.Raw = _NO_PARAMS


_COMMAND = msgspec.json.Decoder(_Command)


class Call(NamedTuple):
    """One command: ``method`` is a name of :data:`METHODS`, empty for a number that stands for none of them; ``id`` 0
    is none."""

    id: int
    method: str
    params: msgspec.Raw


def decode(body: bytes) -> list[Call]:
    """The commands in ``body``, at least one.

    Raises what a decoder does when there is none, when something else stands there, or a method by a name that is none.
    """
    # Made for one value a line; it takes values without a line break between them as well.
    calls = [_call(command) for command in _COMMAND.decode_lines(body)]
    if not calls:
        raise msgspec.ValidationError("no command")
    return calls


def reply(id: int, outcome: Outcome) -> bytes:
    """The line that answers the command ``id``."""
    prefix = b'"id":%d,' % id if id else b""
    if isinstance(outcome, errors.Error):
        return b'{%b"error":%b}' % (prefix, error_object(outcome))
    return b'{%b"result":%b}' % (prefix, outcome)


def _call(command: _Command) -> Call:
    method = command.method
    if isinstance(method, str):
        name = method.lower()
        if name not in METHODS:
            raise msgspec.ValidationError("no such method")
    else:
        name = METHODS[method] if 0 <= method < len(METHODS) else ""
    params = command.params if bytes(command.params) != b"null" else _NO_PARAMS
    return Call(command.id, name, params)
