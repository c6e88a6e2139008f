"""Methods of the server API about what is going on: limits, connection."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from rt import errors
from rt.broker import Broker
from rt.protocol import control, inspection
from rt.web.answers import Done, answer


class _Nothing(msgspec.Struct, frozen=True, gc=False):
    pass


class _Client(msgspec.Struct, frozen=True, gc=False):
    client: str | None = None


_NOTHING = msgspec.json.Decoder(_Nothing)
_CLIENT = msgspec.json.Decoder(_Client)

CLIENT_LENGTH = 64
"""Longest id of a connection that is asked for."""


class Inspection:
    """Asks all workers how things stand."""

    __slots__ = ("_broker",)

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    def limits(self, params: bytes | msgspec.Raw, done: Done) -> None:
        """The rate limits, and who is refused most: ``{"rules":[...],"connections":{...},"counts":true}``."""
        _NOTHING.decode(params)
        answer(self._broker.survey(control.encode(control.ShowLimits())), done, _limits)

    def connection(self, params: bytes | msgspec.Raw, done: Done) -> None:
        """How one connection stands: ``{"client":"...","queued_bytes":0,...}``. Error 107 without an id, and an empty
        object where no worker has it."""
        client = _CLIENT.decode(params).client or ""
        if not 0 < len(client) <= CLIENT_LENGTH:
            raise errors.Refused(errors.BAD_REQUEST, "the id of a connection")
        answer(self._broker.survey(control.encode(control.ShowConnection(client=client))), done, _connection)


def _limits(answers: Sequence[bytes]) -> bytes:
    return inspection.encode(inspection.together(answers))


def _connection(answers: Sequence[bytes]) -> bytes:
    return answers[0] if answers else b"{}"
