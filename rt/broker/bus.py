"""The messages on a channel's pub/sub: ``1p:<epoch>:<offset>:<time>:<body>``, written by the scripts.

``1`` is the version of the format, ``p`` says publication, ``r`` that the history was removed (its body is empty),
``j`` and ``l`` that somebody came or left (who is the body; there is no epoch, and the offset is 0). Whoever may write
to the store may write anything there, so what does not fit is nothing, and never an error. Other versions and kinds are
nothing too: during a rolling upgrade the other side may already speak them.
"""

from __future__ import annotations

import re

from rt.protocol.publication import Change, Publication

MAX_BODY = 16 * 1024 * 1024
"""Bytes of the largest body that is taken from the bus, or given to it."""

MAX_INFO = 128 * 1024
"""Bytes of the largest ClientInfo that is taken from the bus, or given to it."""

_REMOVED = b"1r:"
_FIRST_SESSION = b"1s::0:0:"

# A leading zero, a sign or another alphabet is not what our scripts write.
_HEAD = re.compile(rb"1p:([0-9A-Za-z]{1,32}):([1-9][0-9]{0,15}):([0-9]{1,17}):|1p:():(0):([0-9]{1,17}):")
_CHANGE = re.compile(rb"1([jl])::0:[0-9]{1,17}:")


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


def change(payload: bytes) -> Change | None:
    """Who came or left, according to ``payload``; None when it does not say so."""
    head = _CHANGE.match(payload)
    if head is None:
        return None
    info = payload[head.end() :]
    if info[:1] != b"{" or info[-1:] != b"}" or b"\n" in info or len(info) > MAX_INFO:
        return None
    return Change("join" if head[1] == b"j" else "leave", info)


def encoded(change: Change, now: int) -> bytes:
    """The message that says ``change``, at ``now`` in microseconds."""
    return b"1%s::0:%d:%s" % (b"j" if change.kind == "join" else b"l", now, change.info)


def is_first_session(payload: bytes) -> bool:
    """Whether ``payload``, on the pub/sub of all workers, says that there was no session and is one now."""
    return payload == _FIRST_SESSION
