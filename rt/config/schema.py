"""Every key of the config file: its type, its default, the values it allows, and one sentence that says what it does.

The objects are frozen. Durations are seconds as float, sizes bytes as int, rates events per second as float. What the
loader accepts, what ``server.py defaults`` prints and what docs/config.md says all come from the annotations below.
"""

from __future__ import annotations

import functools
from typing import Annotated, Any, Literal, get_type_hints

import msgspec

from rt.config.values import (
    Address,
    Choice,
    Duration,
    File,
    Flag,
    Group,
    Groups,
    Key,
    ListOf,
    Number,
    Origin,
    Secret,
    Size,
    StoreUrl,
    Text,
    Whole,
    cores,
)

NAMESPACE_NAME = Text("2 to 64 letters, digits, - or _", r"[-a-zA-Z0-9_]{2,64}")


class Section(msgspec.Struct, frozen=True, kw_only=True):
    """A section of the config. Its ``repr`` names secrets but does not show them."""

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        parts = []
        for name, key in keys(type(self)).items():
            value = getattr(self, name)
            hidden = isinstance(key.kind, (Secret, StoreUrl)) and value not in ("", "embedded")
            parts.append((name, "***" if hidden else value))
        return parts

    def __repr__(self) -> str:
        inner = ", ".join(f"{name}={value!r}" for name, value in self.__rich_repr__())
        return f"{type(self).__name__}({inner})"


@functools.cache
def keys(section: type[Section]) -> dict[str, Key]:
    """The keys of a section in the order of the file."""
    hints = get_type_hints(section, include_extras=True)
    return {name: hints[name].__metadata__[0] for name in section.__struct_fields__}


class Tls(Section, frozen=True, kw_only=True):
    """The certificate of the public doors."""

    cert_file: Annotated[str, Key("Certificate chain in PEM.", File(), required=True)] = ""
    key_file: Annotated[str, Key("Private key in PEM, without a passphrase.", File(), required=True)] = ""


class Internal(Section, frozen=True, kw_only=True):
    """The doors for operators."""

    address: Annotated[str, Key("Address of `/health`, `/ready` and `/metrics`.", Address())] = "127.0.0.1"
    port: Annotated[int, Key("TCP port of the same.", Whole(1, 65535))] = 9000


class Server(Section, frozen=True, kw_only=True):
    """Processes and listeners."""

    mode: Annotated[
        Literal["development", "production"],
        Key("Production refuses to start with an insecure setting.", Choice("development", "production")),
    ] = "development"
    address: Annotated[str, Key("Address of the public doors; localhost is IPv4 and IPv6.", Address())] = "0.0.0.0"
    port: Annotated[int, Key("TCP port of the public doors.", Whole(1, 65535))] = 8000
    workers: Annotated[
        int,
        Key("Worker processes; auto is one per core this process may use.", Whole(1, 1024, cores), default="auto"),
    ] = msgspec.field(default_factory=cores)
    tls: Annotated[
        Tls | None, Key("TLS on the public doors; without it they speak plain HTTP.", Group(Tls, optional=True))
    ] = None
    internal: Annotated[Internal, Key("The doors for operators.", Group(Internal))] = Internal()
    shutdown_timeout: Annotated[
        float, Key("A stopping worker has closed all its connections after this time.", Duration("1s", "10m"))
    ] = 25.0
    backlog: Annotated[
        int, Key("Connections the kernel may queue per worker before they are accepted.", Whole(16, 65535))
    ] = 4096
    header_timeout: Annotated[
        float, Key("A request's head must be complete after this time.", Duration("100ms", "5m"))
    ] = 10.0
    max_body_size: Annotated[int, Key("Largest body of an HTTP API call.", Size("1KiB", "64MiB"))] = 1 << 20
    demo: Annotated[bool, Key("Serve the demo page at `/`; for development only.", Flag())] = False


class RedisTls(Section, frozen=True, kw_only=True):
    """How the certificate of a rediss:// store is checked."""

    ca_file: Annotated[
        str | None, Key("Certificates that may sign the store's, in PEM; without it the system's.", File())
    ] = None
    verify: Annotated[bool, Key("Whether the store's certificate and host name are checked.", Flag())] = True


class Redis(Section, frozen=True, kw_only=True):
    """The store."""

    url: Annotated[
        str,
        Key("Redis 7 or Valkey, or the embedded Valkey for development and a single small machine.", StoreUrl()),
    ] = "embedded"
    password: Annotated[str, Key("Password of the store, where the URL has none.", Secret())] = ""
    state_dir: Annotated[str, Key("Directory of the embedded store.", File())] = "var/"
    prefix: Annotated[
        str,
        Key(
            "First part of every name in the store; two servers that share a store need two.",
            Text("1 to 32 letters, digits, dots, - or _", r"[-a-zA-Z0-9_.]{1,32}"),
        ),
    ] = "rt"
    lineage: Annotated[
        Literal["auto", "none"],
        Key(
            "`auto` begins new epochs when the store may have lost acknowledged writes; `none` never does.",
            Choice("auto", "none"),
        ),
    ] = "auto"
    timeout: Annotated[float, Key("Bound of every call.", Duration("10ms", "1m"))] = 1.0
    connect_timeout: Annotated[float, Key("Bound of every attempt to connect.", Duration("10ms", "1m"))] = 1.0
    probe_interval: Annotated[
        float,
        Key(
            "Each worker publishes a probe to itself this often; `/ready` is red after two lost ones.",
            Duration("100ms", "5m"),
        ),
    ] = 5.0
    tls: Annotated[RedisTls, Key("TLS to the store (rediss://).", Group(RedisTls))] = RedisTls()


class Token(Section, frozen=True, kw_only=True):
    """How connection and subscription tokens (JWT) are verified."""

    hmac_secret_key: Annotated[
        str, Key('Key of HS256, HS384 and HS512 tokens; with "" no token is valid.', Secret())
    ] = ""
    hmac_previous_secret_key: Annotated[
        str, Key("The key before; its tokens stay valid while keys are exchanged.", Secret())
    ] = ""
    leeway: Annotated[
        float, Key("How far clocks of hosts may differ when a token's times are checked.", Duration("0s", "5s"))
    ] = 0.0


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
    ping_interval: Annotated[float, Key("How often a connection is pinged.", Duration("100ms", "1h"))] = 25.0
    pong_timeout: Annotated[
        float, Key("A connection that says nothing for this time after a ping is closed.", Duration("50ms", "5m"))
    ] = 8.0
    stale_close_delay: Annotated[
        float, Key("A connection that has not authenticated after this time is closed.", Duration("100ms", "5m"))
    ] = 10.0
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


class Pacing(Section, frozen=True, kw_only=True):
    """How long a connection that fell behind waits for its next catch-up."""

    first: Annotated[float, Key("Wait after falling behind once.", Duration("10ms", "1m"))] = 0.5
    factor: Annotated[float, Key("Each further time the wait is longer by this factor.", Number(1, 10))] = 2.0
    max: Annotated[float, Key("Longest wait.", Duration("10ms", "10m"))] = 30.0


class Delivery(Section, frozen=True, kw_only=True):
    """What may wait for whom, and what happens when it is too much."""

    low_watermark: Annotated[
        int,
        Key(
            "Bytes that may wait for a connection before recoverable subscriptions fall behind.", Size("1KiB", "64MiB")
        ),
    ] = 64 << 10
    high_watermark: Annotated[int, Key("Bytes that may wait for a connection at all.", Size("2KiB", "256MiB"))] = (
        1 << 20
    )
    max_messages: Annotated[int, Key("Messages that may wait for a connection.", Whole(1, 100000))] = 512
    max_age: Annotated[float, Key("How long a message may wait.", Duration("100ms", "10m"))] = 30.0
    stall_timeout: Annotated[
        float,
        Key(
            "A connection that takes no byte for this time, though something waits, is closed.", Duration("100ms", "5m")
        ),
    ] = 10.0
    send_buffer: Annotated[int, Key("The kernel's send buffer of a connection (SO_SNDBUF).", Size("4KiB", "16MiB"))] = (
        64 << 10
    )
    pacing: Annotated[Pacing, Key("How a connection that keeps falling behind is slowed.", Group(Pacing))] = Pacing()
    recent_size: Annotated[
        int, Key("Publications of a channel that each worker keeps, to answer without the store.", Whole(0, 10000))
    ] = 256
    recent_bytes: Annotated[int, Key("Bytes of the same.", Size("0", "64MiB"))] = 256 << 10
    linger: Annotated[
        float, Key("A worker keeps a channel this long after its last subscriber left.", Duration("0s", "5m"))
    ] = 5.0
    position_check_interval: Annotated[
        float, Key("How often a silent channel's position is compared with the store.", Duration("1s", "1h"))
    ] = 40.0


class Namespace(Section, frozen=True, kw_only=True):
    """Settings of the channels whose name begins with ``name:``.

    Where history is off, ``force_recovery`` is false and ``slow`` is ``disconnect``, whatever the defaults say.
    """

    name: Annotated[str, Key("The part of a channel's name before the first `:`.", NAMESPACE_NAME, required=True)] = ""
    history_size: Annotated[
        int, Key("Publications kept per channel; 0 switches history off, and recovery with it.", Whole(0, 1000000))
    ] = 300
    history_ttl: Annotated[
        float, Key("They are kept this long after the newest; 0 switches history off.", Duration("0s", "365d"))
    ] = 120.0
    history_meta_ttl: Annotated[
        float, Key("A channel's epoch and offset are kept this long.", Duration("1s", "3650d"))
    ] = 2592000.0
    force_positioning: Annotated[bool, Key("Every subscription has a position, so that a gap is noticed.", Flag())] = (
        False
    )
    allow_positioning: Annotated[bool, Key("Clients may ask for a position.", Flag())] = False
    force_recovery: Annotated[
        bool,
        Key("Every subscription can be recovered.", Flag(), default="true with history, else false"),
    ] = True
    allow_recovery: Annotated[bool, Key("Clients may ask for recovery.", Flag())] = False
    force_recovery_mode: Annotated[
        Literal["stream", "cache"],
        Key("`stream` recovers all that was missed, `cache` only the newest publication.", Choice("stream", "cache")),
    ] = "stream"
    allow_subscribe_for_client: Annotated[bool, Key("Users may subscribe without a token.", Flag())] = False
    allow_subscribe_for_anonymous: Annotated[bool, Key("So may the anonymous user.", Flag())] = False
    allow_publish_for_subscriber: Annotated[bool, Key("Subscribers may publish.", Flag())] = False
    allow_publish_for_client: Annotated[bool, Key("Users may publish without a subscription.", Flag())] = False
    allow_publish_for_anonymous: Annotated[bool, Key("So may the anonymous user.", Flag())] = False
    allow_history_for_subscriber: Annotated[bool, Key("Subscribers may read the history.", Flag())] = False
    allow_history_for_client: Annotated[bool, Key("Users may read the history without a subscription.", Flag())] = False
    allow_history_for_anonymous: Annotated[bool, Key("So may the anonymous user.", Flag())] = False
    publication_data_format: Annotated[
        Literal["", "json", "json_object"],
        Key(
            "What clients may publish: any JSON, or objects only.",
            Choice("", "json", "json_object", note=" (binary needs a protocol this server does not speak)"),
        ),
    ] = ""
    slow: Annotated[
        Literal["", "catch_up", "disconnect"],
        Key(
            "What becomes of a subscriber that reads too slowly: it catches up from history, or is closed (3008).",
            Choice("catch_up", "disconnect"),
            default="catch_up with history, else disconnect",
        ),
    ] = ""

    def __post_init__(self) -> None:
        if not self.slow:
            msgspec.structs.force_setattr(self, "slow", "catch_up" if self.history else "disconnect")
        if not self.history:
            msgspec.structs.force_setattr(self, "force_recovery", False)

    @property
    def history(self) -> bool:
        """Whether publications are kept at all."""
        return self.history_size > 0 and self.history_ttl > 0


class Channel(Section, frozen=True, kw_only=True, dict=True):
    """Channels and their namespaces."""

    max_length: Annotated[int, Key("Longest channel name, in bytes.", Whole(1, 255))] = 255
    without_namespace: Annotated[
        Namespace,
        Key("Settings of channels without a namespace.", Group(Namespace, omit=frozenset({"name"}))),
    ] = Namespace()
    namespaces: Annotated[tuple[Namespace, ...], Key("Settings by namespace.", Groups(Namespace))] = ()

    @functools.cached_property
    def _by_name(self) -> dict[str, Namespace]:
        return {"": self.without_namespace} | {namespace.name: namespace for namespace in self.namespaces}

    def namespace(self, name: str) -> Namespace | None:
        """The settings of a namespace, those without one for ``""``; ``None`` for a name the config does not have."""
        return self._by_name.get(name)


class Connections(Section, frozen=True, kw_only=True):
    """Limits of connections."""

    total: Annotated[int, Key("Connections per worker.", Whole(1, 10000000))] = 50000
    new_per_second: Annotated[
        float, Key("New connections per second and worker; 0 is no limit.", Number(0, 1000000))
    ] = 0.0


class Limits(Section, frozen=True, kw_only=True):
    """What a worker takes on."""

    connections: Annotated[Connections, Key("Limits of connections.", Group(Connections))] = Connections()


class Config(Section, frozen=True, kw_only=True):
    """The whole config. With all defaults nothing can connect and nothing can be published."""

    server: Annotated[Server, Key("Processes and listeners.", Group(Server))] = msgspec.field(default_factory=Server)
    redis: Annotated[Redis, Key("The store.", Group(Redis))] = Redis()
    client: Annotated[Client, Key("What connections may do, whatever their door.", Group(Client))] = Client()
    http_api: Annotated[HttpApi, Key("The API that backends publish with.", Group(HttpApi))] = HttpApi()
    delivery: Annotated[Delivery, Key("What may wait for whom.", Group(Delivery))] = Delivery()
    channel: Annotated[Channel, Key("Channels and their namespaces.", Group(Channel))] = Channel()
    limits: Annotated[Limits, Key("What a worker takes on.", Group(Limits))] = Limits()
