"""The tables of errors and closes, and the closes that backends ask for."""

from __future__ import annotations

import pytest

from rt import errors
from rt.errors import Close, Error, Unsubscribe

CLOSES = [value for value in vars(errors).values() if isinstance(value, Close)]


def test_each_number_has_one_meaning() -> None:
    """Within a table no code and no label stands for two things, and every reason fits a close frame."""
    for kind in (Error, Close, Unsubscribe):
        entries = [value for value in vars(errors).values() if isinstance(value, kind)]
        assert len({entry.code for entry in entries}) == len(entries)
    assert len({close.label for close in CLOSES}) == len(CLOSES)
    assert all(len(close.reason.encode()) <= errors.REASON_MAX for close in CLOSES)


@pytest.mark.parametrize(
    ("close", "code", "reason"),
    [
        (errors.SUBSCRIPTION_EXPIRED, 3006, "subscription expired"),
        (errors.FORCE_DISCONNECT, 3503, "force disconnect"),
        (errors.CHANNEL_LIMIT, 3505, "channel limit"),
        (errors.UNSUBSCRIBE_EXPIRED, 2501, "subscription expired"),
        (errors.SERVER_UNSUBSCRIBE, 2000, "server unsubscribe"),
    ],
)
def test_numbers_of_the_protocol(close: Close | Unsubscribe, code: int, reason: str) -> None:
    """Clients decide by these numbers whether to come back."""
    assert (close.code, close.reason) == (code, reason)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.TOKEN_EXPIRED, 3005),
        (errors.EXPIRED, 3005),
        (errors.TOO_MANY_REQUESTS, 3013),
        (errors.PERMISSION_DENIED, 3507),
        (errors.INTERNAL, 3004),
        (errors.UNKNOWN_CHANNEL, 3004),
        (errors.BAD_REQUEST, 3004),
    ],
)
def test_errors_as_closes(error: Error, code: int) -> None:
    """Where there is no reply to carry it, an error of a connect becomes a close."""
    assert errors.closing(error).code == code


@pytest.mark.parametrize(
    ("code", "reason"), [(3000, ""), (3999, "r"), (4999, "x" * 123), (4000, "\u00e9" * 61), (3503, "force disconnect")]
)
def test_custom_closes(code: int, reason: str) -> None:
    """A backend may close with any code that is not the WebSocket protocol's own; metrics do not tell them apart."""
    assert errors.custom(code, reason) == Close(code, reason, "custom")


@pytest.mark.parametrize(
    ("code", "reason"),
    [(2999, ""), (5000, ""), (0, ""), (-1, ""), (1000, "r"), (4000, "x" * 124), (4000, "\u00e9" * 62)],
)
def test_custom_closes_that_are_none(code: int, reason: str) -> None:
    """A code from elsewhere, or a reason that does not fit into a close frame, is a bad request."""
    with pytest.raises(errors.Refused) as refused:
        errors.custom(code, reason)
    assert refused.value.error == errors.BAD_REQUEST
