"""What clients and backends share when they publish."""

from __future__ import annotations

import pytest

from rt import errors
from rt.broker import PublishOptions
from rt.config import Namespace
from rt.delivery import publishing

WITH = Namespace(name="with", history_size=5, history_ttl=60.0, history_meta_ttl=600.0)
WITHOUT = Namespace(name="without", history_size=5, history_ttl=0.0)


def test_options_are_those_of_the_namespace() -> None:
    """History is kept where size and ttl are both there, and the caller does not want to skip it."""
    assert publishing.options(WITH, "k") == PublishOptions(5, 60.0, 600.0, "k")
    assert publishing.options(WITH, skip_history=True).history_size == 0
    assert publishing.options(WITHOUT).history_size == 0


@pytest.mark.parametrize(
    ("key", "fits"), [("k" * 255, True), ("k" * 256, False), ("é" * 127, True), ("é" * 128, False)]
)
def test_a_key_is_bounded_in_bytes(key: str, fits: bool) -> None:
    """A key takes room in the store for minutes, so it is short."""
    if fits:
        assert publishing.options(WITH, key).idempotency_key == key
    else:
        with pytest.raises(errors.Refused) as refused:
            publishing.options(WITH, key)
        assert refused.value.error == errors.BAD_REQUEST


def test_payloads_are_checked_by_the_format_of_the_namespace() -> None:
    """What is nothing, no JSON, or not the kind that the namespace wants is refused."""
    objects = Namespace(name="objects", publication_data_format="json_object")
    assert publishing.checked(b'{"a":\n1}', objects) == b'{"a":1}'
    for data, namespace in ((b"", WITH), (b"{", WITH), (b"[1]", objects)):
        with pytest.raises(errors.Refused) as refused:
            publishing.checked(data, namespace)
        assert refused.value.error == errors.BAD_REQUEST
