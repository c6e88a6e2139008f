"""rt.broker.refusal."""

from __future__ import annotations

import hiredis
import pytest

from rt.broker.refusal import kind_of, refusal
from rt.errors import StoreError

# What Redis 7.0 and Valkey 9 really say.
REPLIES = [
    ("NOSCRIPT No matching script. Please use EVAL.", "noscript", True),
    ("NOSCRIPT No matching script.", "noscript", True),
    ("LINEAGE the stream was written under another lineage", "lineage", True),
    ("OOM command not allowed when used memory > 'maxmemory'. script: 42d9, on @user_script:1.", "oom", True),
    ("OOM command not allowed when used memory > 'maxmemory'.", "oom", True),
    ("READONLY You can't write against a read only replica. script: on @user_script:1.", "readonly", True),
    ("LOADING Redis is loading the dataset in memory", "loading", True),
    ("BUSY Redis is busy running a script.", "busy", True),
    ("MISCONF Redis is configured to save RDB snapshots, but it's unable to persist to disk.", "misconf", True),
    ("NOAUTH Authentication required.", "auth", True),
    ("WRONGPASS invalid username-password pair or user is disabled.", "auth", True),
    ("NOPERM this user has no permissions to run the 'evalsha' command", "auth", True),
    ("ERR unknown command", "other", True),
    # Half-way through a script: what was written before stays.
    ("ERR The user executing the script can't publish to the channel script: d868, on @user_script:1.", "other", False),
    ("NOPERM ACL failure in script: No permissions to access a channel script: on @user_script:1.", "auth", False),
    ("WRONGTYPE Operation against a key script: on @user_script:1.", "other", False),
]


@pytest.mark.parametrize(("text", "kind", "definite"), REPLIES)
def test_each_reply_has_a_class_and_a_certainty(text: str, kind: str, definite: bool) -> None:
    """A definite one certainly had no effect."""
    error = refusal(hiredis.ReplyError(text))
    assert (error.kind, error.definite) == (kind, definite)
    assert kind_of(error) == kind


def test_trouble_without_a_reply_is_being_away() -> None:
    """Whatever the reason."""
    assert kind_of(StoreError("connection reset", definite=False)) == "away"
