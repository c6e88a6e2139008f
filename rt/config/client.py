"""The sections about who may connect: clients and their tokens, and the backends that call the API."""

from __future__ import annotations

from typing import Annotated, Literal

from rt.config.section import Group, Key, ListOf, Section
from rt.config.values import Choice, Duration, Flag, HttpUrl, Origin, Pattern, PublicKey, Secret, Size, Text, Whole

_CLAIM = Text("a text of at most 255 characters", r".{0,255}")


class Token(Section, frozen=True, kw_only=True):
    """How connection and subscription tokens (JWT) are verified. Without any key no token is valid."""

    hmac_secret_key: Annotated[
        str, Key('Key of HS256, HS384 and HS512 tokens; with "" none of them is valid.', Secret())
    ] = ""
    hmac_previous_secret_key: Annotated[
        str, Key("The key before; its tokens stay valid while keys are exchanged.", Secret())
    ] = ""
    rsa_public_key: Annotated[
        str, Key('Key of RS256, RS384 and RS512 tokens; with "" none of them is valid.', PublicKey("RSA"))
    ] = ""
    ecdsa_public_key: Annotated[
        str, Key('Key of ES256, ES384 and ES512 tokens, each with its curve; with "" none is valid.', PublicKey("EC"))
    ] = ""
    jwks_public_endpoint: Annotated[
        str, Key("Where the public keys of tokens that name one (`kid`) are fetched from.", HttpUrl())
    ] = ""
    audience: Annotated[str, Key('Tokens must be meant (`aud`) for this audience; "" is any.', _CLAIM)] = ""
    audience_regex: Annotated[str, Key("Instead: one audience of a token must match this as a whole.", Pattern())] = ""
    issuer: Annotated[str, Key('Tokens must be made (`iss`) by this issuer; "" is any.', _CLAIM)] = ""
    issuer_regex: Annotated[str, Key("Instead: a token's issuer must match this as a whole.", Pattern())] = ""
    user_id_claim: Annotated[
        str,
        Key('The claim that names the user; "" is `sub`.', Text("at most 64 letters and _", r"[a-zA-Z_]{0,64}")),
    ] = ""
    leeway: Annotated[
        float, Key("How far clocks of hosts may differ when a token's times are checked.", Duration("0s", "5s"))
    ] = 0.0


class PersonalChannel(Section, frozen=True, kw_only=True):
    """The channel that every user has: ``#<user>``, or ``<namespace>:#<user>``."""

    enabled: Annotated[bool, Key("Users are subscribed to their own channel when they connect.", Flag())] = False
    personal_channel_namespace: Annotated[
        str,
        Key(
            'Namespace of these channels; "" is none.',
            Text('the name of a namespace, or ""', r"(?:[-a-zA-Z0-9_]{2,64})?"),
        ),
    ] = ""
    single_connection: Annotated[
        bool, Key("A new connection of a user ends the older ones (3504); the channel needs `presence`.", Flag())
    ] = False


class Client(Section, frozen=True, kw_only=True):
    """What connections may do, whatever their door."""

    allowed_origins: Annotated[
        tuple[str, ...],
        Key(
            "Web pages that may connect; requests without an Origin header (not from a browser) always may.",
            ListOf(Origin(), "https://app.example.com"),
        ),
    ] = ()
    insecure: Annotated[bool, Key("Connect without a token, and allow everything; for development only.", Flag())] = (
        False
    )
    allow_anonymous_connect_without_token: Annotated[
        bool, Key("A connection without a token is one of the anonymous user.", Flag())
    ] = False
    disallow_anonymous_connection_tokens: Annotated[bool, Key("Refuse tokens that name no user.", Flag())] = False
    token: Annotated[Token, Key("Connection and subscription tokens (JWT).", Group(Token))] = Token()
    subscribe_to_user_personal_channel: Annotated[
        PersonalChannel, Key("The channel that every user has.", Group(PersonalChannel))
    ] = PersonalChannel()
    ping_interval: Annotated[float, Key("How often a connection is pinged.", Duration("100ms", "1h"))] = 25.0
    pong_timeout: Annotated[
        float, Key("A connection that says nothing for this time after a ping is closed.", Duration("50ms", "5m"))
    ] = 8.0
    stale_close_delay: Annotated[
        float, Key("A connection that has not authenticated after this time is closed.", Duration("100ms", "5m"))
    ] = 10.0
    expired_close_delay: Annotated[
        float,
        Key("How long a connection lives on after its token's end, to bring a new one.", Duration("0s", "5m")),
    ] = 0.0
    expired_sub_close_delay: Annotated[
        float, Key("How long a subscription lives on after its token's end, likewise.", Duration("0s", "5m"))
    ] = 0.0
    session_ttl: Annotated[
        float,
        Key(
            "What the API did to a user (subscriptions, other info) outlives the user's last connection by this time; "
            "0 switches that off.",
            Duration("0s", "30d"),
        ),
    ] = 3600.0
    presence_update_interval: Annotated[
        float,
        Key("How often presence is renewed in the store; `redis.presence_ttl` ends it.", Duration("50ms", "30m")),
    ] = 25.0
    channel_limit: Annotated[int, Key("Subscriptions per connection.", Whole(1, 10000))] = 128
    message_size_limit: Annotated[int, Key("Largest message a connection may send.", Size("1KiB", "16MiB"))] = 64 << 10
    history_max_publication_limit: Annotated[
        int, Key("Most publications in one answer to a history command.", Whole(1, 100000))
    ] = 300
    recovery_max_publication_limit: Annotated[
        int, Key("Most publications recovered by one subscribe; who missed more is told so.", Whole(1, 100000))
    ] = 300
    recovery_max_size: Annotated[int, Key("Most bytes recovered by one subscribe.", Size("1KiB", "64MiB"))] = 512 << 10


class HttpApi(Section, frozen=True, kw_only=True):
    """The API that backends publish with."""

    key: Annotated[str, Key('Key that callers must send; with "" every call is refused.', Secret())] = ""
    insecure: Annotated[bool, Key("Accept calls without a key; for development only.", Flag())] = False
    error_mode: Annotated[
        Literal["", "transport"],
        Key(
            "With `transport` an error is also told by the HTTP status, else by the body alone.",
            Choice("", "transport"),
        ),
    ] = ""
