"""What a backend says about one server-side subscription, and what becomes of it here.

Tokens (claim ``subs``), the server API (``subscribe``) and the store (sessions) all say the same: what others and the
subscriber itself are told, which settings of the namespace are overridden, and when the right ends.
"""

from __future__ import annotations

import base64
from typing import NamedTuple, cast

import msgspec

from rt import errors
from rt.protocol import payload
from rt.protocol.channels import N
from rt.protocol.commands import Since

_ABSENT = msgspec.Raw()
# Beyond this every integer is a float too; as a time it is far behind or ahead of every clock.
_TIME_MAX = 2**53


class Flag(msgspec.Struct, frozen=True, gc=False):
    """A setting that is said, true or false, as ``{"value":true}``; one that is not said is no Flag at all."""

    value: bool


class Override(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """Settings of a namespace that are otherwise for one subscription; None leaves a setting as it is."""

    presence: Flag | None = None
    join_leave: Flag | None = None
    force_push_join_leave: Flag | None = None
    force_recovery: Flag | None = None
    force_positioning: Flag | None = None

    def over(self, namespace: N) -> N:
        """The namespace with these settings in place; the same object when that changes nothing.

        Without history nothing can be recovered, so forced recovery and positions are left out there.
        """
        changes: dict[str, bool] = {}
        for name in _OVERRIDDEN if namespace.history else _OVERRIDDEN_WITHOUT_HISTORY:
            flag: Flag | None = getattr(self, name)
            if flag is not None and flag.value != getattr(namespace, name):
                changes[name] = flag.value
        if not changes:
            return namespace
        # Every namespace of a configuration is a struct; the Protocol that N is bound to cannot say so.
        return cast(N, msgspec.structs.replace(cast(msgspec.Struct, namespace), **changes))


_OVERRIDDEN = Override.__struct_fields__
_OVERRIDDEN_WITHOUT_HISTORY = tuple(name for name in _OVERRIDDEN if name not in ("force_recovery", "force_positioning"))


class Options(msgspec.Struct, frozen=True, gc=False):
    """The options of one subscription as a backend sends them; unknown fields are ignored.

    ``info`` (for others, in presence) and ``data`` (for the subscriber) are raw JSON, or base64 of JSON in ``b64info``
    and ``b64data``, which win. ``expire_at`` is in seconds since 1970, 0 or absent is never. ``recover_since`` is where
    the subscription begins, for the server API alone: it is no part of the :class:`Terms`.
    """

    info: msgspec.Raw = _ABSENT
    b64info: str = ""
    data: msgspec.Raw = _ABSENT
    b64data: str = ""
    override: Override | None = None
    expire_at: int | float | None = None
    recover_since: Since | None = None


class Terms(NamedTuple):
    """The checked options of one server-side subscription.

    ``info`` and ``data`` are compact JSON, empty for none. ``expire_at`` is in seconds since 1970, None is never.
    """

    info: bytes = b""
    data: bytes = b""
    override: Override | None = None
    expire_at: float | None = None


class _Stored(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """Terms as JSON: what is not said is left out."""

    info: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    override: Override | None = None
    expire_at: float | None = None


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Stored).decode


def terms(options: Options) -> Terms:
    """The options, checked; :class:`errors.Refused` (107) for bad base64, or for JSON not fit to be handed on."""
    return Terms(
        _json(options.info, options.b64info),
        _json(options.data, options.b64data),
        options.override,
        seconds(options.expire_at) if options.expire_at else None,
    )


def encode(terms: Terms) -> bytes:
    """The terms as a JSON object, for the store and for other workers."""
    return _encode(_Stored(_raw(terms.info), _raw(terms.data), terms.override, terms.expire_at))


def decode(data: bytes) -> Terms:
    """What :func:`encode` made; ``ValueError`` for anything else. Unknown fields are ignored."""
    try:
        stored = _decode(data)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return Terms(_bytes(stored.info), _bytes(stored.data), stored.override, stored.expire_at)


def seconds(moment: int | float) -> float:
    """A time that a stranger gave, as a float: no integer is too large for it."""
    return float(max(-_TIME_MAX, min(moment, _TIME_MAX)))


def _json(raw: msgspec.Raw, packed: str) -> bytes:
    """Compact JSON from either form; nothing at all, or a null, is no value."""
    if packed:
        try:
            return payload.compact(base64.b64decode(packed, validate=True))
        except ValueError:
            raise errors.Refused(errors.BAD_REQUEST, "a value is not base64") from None
    return payload.compact(raw) if bytes(raw) not in (b"", b"null") else b""


def _raw(json: bytes) -> msgspec.Raw | msgspec.UnsetType:
    return msgspec.Raw(json) if json else msgspec.UNSET


def _bytes(raw: msgspec.Raw | msgspec.UnsetType) -> bytes:
    return b"" if raw is msgspec.UNSET else bytes(raw)
