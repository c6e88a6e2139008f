"""What the store's error replies mean: which class of trouble, and whether the call certainly had no effect."""

from __future__ import annotations

import hiredis

from rt.errors import StoreError

NOSCRIPT = "noscript"
LINEAGE = "lineage"
READONLY = "readonly"
AWAY = "away"
REPLICA = "replica"

_KINDS = {
    "NOSCRIPT": NOSCRIPT,
    "LINEAGE": LINEAGE,
    "READONLY": READONLY,
    "OOM": "oom",
    "LOADING": "loading",
    "MASTERDOWN": "loading",
    "BUSY": "busy",
    "MISCONF": "misconf",
    "NOREPLICAS": "misconf",
    "NOAUTH": "auth",
    "WRONGPASS": "auth",
    "NOPERM": "auth",
}

# Refusals that a script can meet only before its first write: the server checks them on that write and on none after
# it.
_BEFORE_THE_FIRST_WRITE = frozenset({LINEAGE, READONLY, "oom", "misconf"})


class Refusal(StoreError):
    """The store said no. ``kind`` is one word of a closed list, good for a metric's label."""

    def __init__(self, kind: str, message: str, *, definite: bool) -> None:
        super().__init__(message, definite=definite)
        self.kind = kind


def refusal(reply: hiredis.ReplyError) -> Refusal:
    """The meaning of an error reply.

    An error that a script met half-way (say, a user who may write but not publish) leaves what was written before it:
    the outcome counts as unknown.
    """
    text = str(reply)
    kind = _KINDS.get(text.split(" ", 1)[0], "other")
    inside = "@user_script" in text or "user_script:" in text
    definite = not inside or kind in _BEFORE_THE_FIRST_WRITE
    return Refusal(kind, f"the store refused: {text[:200]}", definite=definite)


def kind_of(error: StoreError) -> str:
    """The class of ``error``, for logs and metrics."""
    return error.kind if isinstance(error, Refusal) else AWAY
