"""Every error and every close, in closed tables with the protocol's own numbers.

An :class:`Error` answers one command; the connection lives on. A :class:`Close` ends the connection; its code tells the
client whether to come back (3000-3499 and 4000-4499 yes, 3500-3999 and 4500-4999 no). An :class:`Unsubscribe` ends one
subscription; from 2500 on the client subscribes again by itself. The reasons are short enough for a WebSocket close
frame (RFC 6455 section 5.5: 125 bytes, two of them the code).
"""

from typing import NamedTuple


class Error(NamedTuple):
    """The answer to a command or API call that was not carried out; ``temporary`` invites a retry."""

    code: int
    message: str
    temporary: bool = False


INTERNAL = Error(100, "internal server error", temporary=True)
UNAUTHORIZED = Error(101, "unauthorized")
UNKNOWN_CHANNEL = Error(102, "unknown channel")
PERMISSION_DENIED = Error(103, "permission denied")
METHOD_NOT_FOUND = Error(104, "method not found")
ALREADY_SUBSCRIBED = Error(105, "already subscribed")
LIMIT_EXCEEDED = Error(106, "limit exceeded")
BAD_REQUEST = Error(107, "bad request")
NOT_AVAILABLE = Error(108, "not available")
TOKEN_EXPIRED = Error(109, "token expired")
EXPIRED = Error(110, "expired")
TOO_MANY_REQUESTS = Error(111, "too many requests", temporary=True)
UNRECOVERABLE_POSITION = Error(112, "unrecoverable position")


class Unsubscribe(NamedTuple):
    """Why the server ended a subscription; from 2500 on the client subscribes again."""

    code: int
    reason: str


SERVER_UNSUBSCRIBE = Unsubscribe(2000, "server unsubscribe")
UNSUBSCRIBE_INSUFFICIENT = Unsubscribe(2500, "insufficient state")
UNSUBSCRIBE_EXPIRED = Unsubscribe(2501, "subscription expired")


class Close(NamedTuple):
    """Why a connection ends. ``label`` is the metric's label: fixed words, nothing a client sends."""

    code: int
    reason: str
    label: str


# The client went away, or spoke WebSocket against the rules (RFC 6455 section 7.4.1).
GONE = Close(1001, "", "gone")
NORMAL = Close(1000, "", "client")
PROTOCOL_ERROR = Close(1002, "protocol error", "protocol_error")
INVALID_UTF8 = Close(1007, "invalid utf-8", "invalid_utf8")
POLICY = Close(1008, "policy violation", "policy")
TOO_LARGE = Close(1009, "message too large", "too_large")

# The client should come back.
CLOSED = Close(3000, "connection closed", "closed")
SHUTDOWN = Close(3001, "shutdown", "shutdown")
SERVER_ERROR = Close(3004, "internal server error", "internal")
CONNECTION_EXPIRED = Close(3005, "connection expired", "expired")
SUBSCRIPTION_EXPIRED = Close(3006, "subscription expired", "subscription_expired")
SLOW = Close(3008, "slow", "slow")
WRITE_ERROR = Close(3009, "write error", "write_error")
INSUFFICIENT_STATE = Close(3010, "insufficient state", "insufficient_state")
NO_PONG = Close(3012, "no pong", "no_pong")
TOO_MANY = Close(3013, "too many requests", "too_many_requests")

# The client should not come back.
INVALID_TOKEN = Close(3500, "invalid token", "invalid_token")
BAD_COMMAND = Close(3501, "bad request", "bad_request")
STALE = Close(3502, "stale", "stale")
FORCE_DISCONNECT = Close(3503, "force disconnect", "force_disconnect")
CONNECTION_LIMIT = Close(3504, "connection limit", "connection_limit")
CHANNEL_LIMIT = Close(3505, "channel limit", "channel_limit")
INAPPROPRIATE_PROTOCOL = Close(3506, "inappropriate protocol", "inappropriate_protocol")
FORBIDDEN = Close(3507, "permission denied", "permission_denied")
UNAVAILABLE = Close(3508, "not available", "not_available")
TOO_MANY_ERRORS = Close(3509, "too many errors", "too_many_errors")


class Refused(Exception):
    """A command or call is answered with ``error``; nothing was done. ``retry_after`` is in how many seconds it can be
    otherwise, where that is known, else 0."""

    retry_after = 0.0

    def __init__(self, error: Error, detail: str = "") -> None:
        super().__init__(detail or error.message)
        self.error = error


class Closing(Exception):
    """The connection must end with ``close``."""

    def __init__(self, close: Close, detail: str = "") -> None:
        super().__init__(detail or close.reason)
        self.close = close


REASON_MAX = 123  # bytes of a reason that fit into a close frame
_CLOSES = {
    PERMISSION_DENIED: FORBIDDEN,
    TOKEN_EXPIRED: CONNECTION_EXPIRED,
    EXPIRED: CONNECTION_EXPIRED,
    TOO_MANY_REQUESTS: TOO_MANY,
}


def closing(error: Error) -> Close:
    """How a connection ends whose connect is refused with ``error``, where there is no reply to carry the error."""
    return _CLOSES.get(error, SERVER_ERROR)


def custom(code: int, reason: str) -> Close:
    """A close that a backend asks for; :class:`Refused` (107) for a code outside of 3000-4999 or too long a reason."""
    if not 3000 <= code <= 4999 or len(reason.encode()) > REASON_MAX:
        raise Refused(BAD_REQUEST, "a close needs a code from 3000 to 4999 and a reason of at most 123 bytes")
    return Close(code, reason, "custom")


class StoreError(Exception):
    """The store did not answer, or answered that it cannot.

    ``definite`` is true when the call certainly had no effect; otherwise its outcome is unknown and only a retry with
    the same idempotency key is safe.
    """

    def __init__(self, message: str, *, definite: bool) -> None:
        super().__init__(message)
        self.definite = definite
