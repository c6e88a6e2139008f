"""The messages on a channel's pub/sub: ``1p:<epoch>:<offset>:<time>:<body>``, written by the scripts.

``1`` is the version of the format, ``p`` says publication, ``r`` that the history was removed (its body is empty).
Whoever may write to the store may write anything there, so what does not fit is nothing, and never an error. Other
versions and kinds are nothing too: during a rolling upgrade the other side may already speak them.
"""

from __future__ import annotations

import re

from rt.protocol.publication import Publication

MAX_BODY = 16 * 1024 * 1024
"""Bytes of the largest body that is taken from the bus, or given to it."""

_REMOVED = b"1r:"

# A leading zero, a sign or another alphabet is not what our scripts write.
_HEAD = re.compile(rb"1p:([0-9A-Za-z]{1,32}):([1-9][0-9]{0,15}):([0-9]{1,17}):|1p:():(0):([0-9]{1,17}):")


def publication(payload: bytes) -> Publication | None:
    """The publication in ``payload``; None when there is none."""
    head = _HEAD.match(payload)
    if head is None:
        return None
    epoch, offset, time = head.groups()[:3] if head.lastindex == 3 else head.groups()[3:]
    body = payload[head.end() :]
    if body[:1] != b"{" or body[-1:] != b"}" or b"\n" in body or len(body) > MAX_BODY:
        return None
    return Publication(body, epoch.decode("ascii"), int(offset), int(time))


def is_removal(payload: bytes) -> bool:
    """Whether ``payload`` says that the channel's history was removed."""
    return payload.startswith(_REMOVED) and payload.count(b":", 0, 128) == 4 and payload.endswith(b":")
