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


def test_no_channel_has_the_name_of_a_probe_or_worker() -> None:
    """Whatever a client subscribes to."""
    keys = Keys("rt", "default")
    mine = {keys.probe("w1"), keys.worker("w1"), keys.workers}
    assert not mine & {keys.channel(name) for name in ("probe:w1", "w1", "worker:w1", "workers", "~probe:w1")}
