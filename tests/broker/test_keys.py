"""rt.broker.keys."""

from __future__ import annotations

import pytest

from rt.broker.keys import Keys


def test_everything_of_a_channel_shares_its_hash_tag() -> None:
    """So that it stays on one shard."""
    assert Keys("rt", "default").channel("chat:1") == "rt:default:{chat:1}"


@pytest.mark.parametrize("name", ["a{b", "a}b", "}{"])
def test_a_channel_with_a_brace_is_refused(name: str) -> None:
    """It would move the hash tag."""
    with pytest.raises(ValueError, match="brace"):
        Keys("rt", "default").channel(name)


def test_a_tenant_with_a_brace_is_refused() -> None:
    """For the same reason."""
    with pytest.raises(ValueError, match="brace"):
        Keys("rt", "a{b}")


def test_no_channel_has_the_name_of_what_is_not_a_channel() -> None:
    """Whatever somebody subscribes to."""
    keys = Keys("rt", "default")
    mine = {
        keys.probe("w1"), keys.worker("w1"), keys.workers, keys.control, keys.answers("w1"), keys.session("u"),
        keys.session("u}:meta"), keys.sessions,
    }  # fmt: skip
    names = (
        "probe:w1", "w1", "worker:w1", "workers", "~probe:w1", "all", "control:all", "answers:w1", "session:u",
        "sessions",
    )  # fmt: skip
    assert len(mine) == 8
    assert not mine & {keys.channel(name) for name in names}
    assert all(not each.startswith("rt:default:{") for each in mine)


def test_no_user_has_the_session_of_another() -> None:
    """Braces in the name move the hash tag and no more."""
    keys = Keys("rt", "default")
    users = ("", "a", "{a}", "a}", "{a", "a}{a", "}")
    assert len({keys.session(user) for user in users}) == len(users)
