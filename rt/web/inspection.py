"""Methods of the server API about what is going on: limits, connection, connections, channel."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import msgspec

from rt import errors
from rt.broker import Broker
from rt.config import Namespace
from rt.protocol import address, control, inspection
from rt.protocol.channels import Namespaces
from rt.protocol.publication import Position
from rt.web.answers import Done, answer, proceed


class _Nothing(msgspec.Struct, frozen=True, gc=False):
    pass


class _Client(msgspec.Struct, frozen=True, gc=False):
    client: str | None = None


class _Connections(msgspec.Struct, frozen=True, gc=False):
    user: str | None = None
    channel: str | None = None
    ip: str | None = None
    slow: bool | None = None
    limit: int | None = None


class _Channel(msgspec.Struct, frozen=True, gc=False):
    channel: str | None = None


_NOTHING = msgspec.json.Decoder(_Nothing)
_CLIENT = msgspec.json.Decoder(_Client)
_CONNECTIONS = msgspec.json.Decoder(_Connections)
_CHANNEL = msgspec.json.Decoder(_Channel)

CLIENT_LENGTH = 64
"""Longest id of a connection that is asked for."""

LISTED = 100
"""Connections in one answer, where the caller names no other number ..."""

LISTED_MAX = 1000
"""... and those that it may name at most."""

FILTER_LENGTH = 255
"""Characters of what connections are looked for by."""


class Inspection:
    """Asks all workers how things stand. ``namespaces`` may be exchanged at any time."""

    __slots__ = ("_broker", "namespaces")

    def __init__(self, broker: Broker, namespaces: Namespaces[Namespace]) -> None:
        self._broker = broker
        self.namespaces = namespaces

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

    def connections(self, params: bytes | msgspec.Raw, done: Done) -> None:
        """The connections of a user, a channel, an address or those that are slow, or all:
        ``{"connections":[{"client":"...",...}],"total":3,"more":false}``. Error 107 for a filter that is none."""
        request = _CONNECTIONS.decode(params)
        limit = LISTED if request.limit is None else request.limit
        if not 0 < limit <= LISTED_MAX:
            raise errors.Refused(errors.BAD_REQUEST, f"a limit of 1 to {LISTED_MAX}")
        filters = (request.user, request.channel, request.ip)
        if any(text and len(text) > FILTER_LENGTH for text in filters):
            raise errors.Refused(errors.BAD_REQUEST, f"a filter has at most {FILTER_LENGTH} characters")
        try:
            address.within(request.ip or "::")
        except ValueError:
            raise errors.Refused(errors.BAD_REQUEST, "an address or a range of them") from None
        question = control.ShowConnections(
            request.user, request.channel or "", request.ip or "", bool(request.slow), limit
        )
        answer(self._broker.survey(control.encode(question)), done, partial(_connections, limit))

    def channel(self, params: bytes | msgspec.Raw, done: Done) -> None:
        """How one channel stands: ``{"channel":"news","namespace":"","policy":{...},"position":{...},"num_clients":3,
        "workers":[...]}``. ``position`` is what the store says; absent without history."""
        name = _CHANNEL.decode(params).channel or ""
        namespace = self.namespaces.find(name)
        if namespace.history:
            top = self._broker.position(name, namespace.history_meta_ttl)
            proceed(top, done, lambda top: self._ask(name, namespace, top, done))
        else:
            self._ask(name, namespace, None, done)

    def _ask(self, name: str, namespace: Namespace, top: Position | None, done: Done) -> None:
        question = control.encode(control.ShowChannel(channel=name))
        answer(self._broker.survey(question), done, partial(_channel, name, namespace, top))


def _limits(answers: Sequence[bytes]) -> bytes:
    return inspection.encode(inspection.together(answers))


def _connection(answers: Sequence[bytes]) -> bytes:
    return answers[0] if answers else b"{}"


def _connections(limit: int, answers: Sequence[bytes]) -> bytes:
    return inspection.encode(inspection.slowest(answers, limit))


def _channel(name: str, namespace: Namespace, top: Position | None, answers: Sequence[bytes]) -> bytes:
    workers = inspection.by_worker(answers)
    policy = msgspec.to_builtins(msgspec.structs.asdict(namespace))
    found: dict[str, Any] = {"channel": name, "namespace": policy.pop("name"), "policy": policy}
    if top is not None:
        found["position"] = {"epoch": top.epoch, "offset": top.offset}
    found |= {"num_clients": sum(worker.subscribers for worker in workers), "workers": workers}
    return inspection.encode(found)
