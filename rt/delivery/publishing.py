"""What a publish becomes on its way to the store: shared by the clients' command and the server API."""

from __future__ import annotations

import msgspec

from rt import errors
from rt.broker import PublishOptions
from rt.config import Namespace
from rt.protocol import payload

KEY_LENGTH = 255
"""Longest idempotency key, in bytes of UTF-8: each is kept in the store for minutes."""


def options(namespace: Namespace, key: str = "", *, skip_history: bool = False) -> PublishOptions:
    """How the store should treat a publication of ``namespace``; ``key`` makes a repeat harmless.

    With ``skip_history`` it is delivered to who is there and not kept. Raises :class:`errors.Refused` (107) for a key
    that is too long.
    """
    if key and (len(key) > KEY_LENGTH or len(key.encode()) > KEY_LENGTH):
        raise errors.Refused(errors.BAD_REQUEST, "the idempotency key is too long")
    size = namespace.history_size if namespace.history and not skip_history else 0
    return PublishOptions(size, namespace.history_ttl, namespace.history_meta_ttl, key)


def checked(data: bytes | msgspec.Raw, namespace: Namespace) -> bytes:
    """The payload ``data`` (JSON text) as it is spliced into frames, without line breaks.

    Raises :class:`errors.Refused` (107) when there is none, when it is not JSON that every client can read, or when
    it is not what the namespace's ``publication_data_format`` asks for.
    """
    return payload.checked(data, namespace.publication_data_format)
