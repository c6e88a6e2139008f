"""Every key of the config file: its type, its default, the values it allows, and one sentence that says what it does.

The objects are frozen. Durations are seconds as float, sizes bytes as int, rates events per second as float. What the
loader accepts, what ``server.py defaults`` prints and what docs/config.md says all come from the annotations below.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from rt.config.channel import Channel
from rt.config.client import Client, HttpApi
from rt.config.limits import Limits
from rt.config.networks import Network
from rt.config.section import Group, Groups, Key, ListOf, Section
from rt.config.values import (
    Address,
    Choice,
    Duration,
    File,
    Flag,
    HostName,
    Number,
    Secret,
    Size,
    StoreUrl,
    Text,
    Whole,
    cores,
)

_REGION = Text('up to 32 letters, digits, dots, - or _, or ""', r"[-a-zA-Z0-9_.]{0,32}")


class Tls(Section, frozen=True, kw_only=True):
    """The certificate of the public doors."""

    cert_file: Annotated[str, Key("Certificate chain in PEM.", File(), required=True)] = ""
    key_file: Annotated[str, Key("Private key in PEM, without a passphrase.", File(), required=True)] = ""


class Drain(Section, frozen=True, kw_only=True):
    """How a worker that stops or is replaced gives up its connections."""

    duration: Annotated[
        float,
        Key(
            "It tells its clients to come back elsewhere over this time, at most three fifths of what it has to stop.",
            Duration("0s", "5m"),
        ),
    ] = 10.0
    batch: Annotated[
        int,
        Key("In batches of at most so many, evenly; who are no more than one batch go at once.", Whole(1, 100000)),
    ] = 100


class Admin(Section, frozen=True, kw_only=True):
    """The console for operators."""

    password: Annotated[
        str,
        Key(
            "Who knows it may use the console at `/admin`, typed there or sent as a bearer token; without one there is "
            "no console.",
            Secret(),
        ),
    ] = ""


class Internal(Section, frozen=True, kw_only=True):
    """The doors for operators."""

    address: Annotated[str, Key("Address of `/health`, `/ready` and `/metrics`.", Address())] = "127.0.0.1"
    port: Annotated[int, Key("TCP port of the same.", Whole(1, 65535))] = 9000
    admin: Annotated[Admin, Key("The console for operators.", Group(Admin))] = Admin()


class Server(Section, frozen=True, kw_only=True):
    """Processes and listeners."""

    mode: Annotated[
        Literal["development", "production"],
        Key("Production refuses to start with an insecure setting.", Choice("development", "production")),
    ] = "development"
    region: Annotated[
        str, Key('Where this server is: it serves the tenants of this region; "" serves all.', _REGION)
    ] = ""
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
    drain: Annotated[Drain, Key("How a worker that stops gives up its connections.", Group(Drain))] = Drain()
    backlog: Annotated[
        int, Key("Connections the kernel may queue per worker before they are accepted.", Whole(16, 65535))
    ] = 4096
    trusted_proxies: Annotated[
        tuple[str, ...],
        Key(
            "Addresses of proxies before this server; only of these it is believed for whom they speak.",
            ListOf(Network(), "10.0.0.0/8"),
        ),
    ] = ()
    proxy_header: Annotated[
        Literal["X-Forwarded-For", "Forwarded"],
        Key(
            "The header in which they say it, and which they all write; another one could be the client's own.",
            Choice("X-Forwarded-For", "Forwarded"),
        ),
    ] = "X-Forwarded-For"
    header_timeout: Annotated[
        float, Key("A request's head must be complete after this time.", Duration("100ms", "5m"))
    ] = 10.0
    max_body_size: Annotated[int, Key("Largest body of an HTTP API call.", Size("1KiB", "64MiB"))] = 1 << 20
    http: Annotated[
        Literal["fast", "tornado"],
        Key(
            "Whose HTTP is spoken on sockets without TLS: our own, or Tornado's, which is always below TLS.",
            Choice("fast", "tornado"),
        ),
    ] = "fast"
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
    presence_ttl: Annotated[
        float, Key("Who is present and was not renewed for this time is gone.", Duration("100ms", "1h"))
    ] = 60.0
    tls: Annotated[RedisTls, Key("TLS to the store (rediss://).", Group(RedisTls))] = RedisTls()


class Pacing(Section, frozen=True, kw_only=True):
    """At what intervals a slow subscription is given what it is owed."""

    first: Annotated[
        float, Key("First interval, of one that falls behind again or takes longer than this.", Duration("10ms", "1m"))
    ] = 0.5
    factor: Annotated[float, Key("Each further time the interval is longer by this factor.", Number(1, 10))] = 2.0
    max: Annotated[float, Key("Longest interval.", Duration("10ms", "10m"))] = 30.0


class PerSubscription(Section, frozen=True, kw_only=True):
    """What is kept for slow subscribers of a channel without history, once for all of them."""

    max_bytes: Annotated[int, Key("Bytes of it.", Size("1KiB", "64MiB"))] = 64 << 10
    max_messages: Annotated[int, Key("Publications; with `slow: conflate` keys.", Whole(1, 100000))] = 256
    max_age: Annotated[
        float, Key("With `slow: drop_oldest`: what is older is not worth giving.", Duration("100ms", "10m"))
    ] = 10.0


class Delivery(Section, frozen=True, kw_only=True):
    """What may wait for whom, and what happens when it is too much."""

    low_watermark: Annotated[
        int,
        Key(
            "Bytes that may wait for a connection before its subscriptions fall behind: those of `priority: low` at a "
            "quarter of it, those of `high` at four times as much.",
            Size("1KiB", "64MiB"),
        ),
    ] = 64 << 10
    high_watermark: Annotated[int, Key("Bytes that may wait for a connection at all.", Size("2KiB", "256MiB"))] = (
        1 << 20
    )
    max_messages: Annotated[
        int,
        Key(
            "Messages that may wait for a connection; subscriptions of `priority: normal` fall behind at half of it, "
            "those of `low` at a quarter.",
            Whole(1, 100000),
        ),
    ] = 512
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
    subscription: Annotated[
        PerSubscription,
        Key(
            "What a slow subscriber may still be given where its namespace leaves things out; a quarter of it with "
            "`priority: low`, four times as much with `high`, at most what may wait for a connection.",
            Group(PerSubscription),
        ),
    ] = PerSubscription()
    pacing: Annotated[
        Pacing, Key("At what intervals slow subscriptions are given what they are owed.", Group(Pacing))
    ] = Pacing()
    recent_size: Annotated[
        int, Key("Publications of a channel that each worker keeps, to answer without the store.", Whole(0, 10000))
    ] = 256
    recent_bytes: Annotated[int, Key("Bytes of the same.", Size("0", "64MiB"))] = 256 << 10
    join_leave_rate: Annotated[
        float,
        Key(
            "Most announcements of who comes and leaves, per second, channel and worker; others are left out.",
            Number(0, 1000000),
        ),
    ] = 100.0
    linger: Annotated[
        float, Key("A worker keeps a channel this long after its last subscriber left.", Duration("0s", "5m"))
    ] = 5.0
    position_check_interval: Annotated[
        float, Key("How often a silent channel's position is compared with the store.", Duration("1s", "1h"))
    ] = 40.0


class Tenant(Section, frozen=True, kw_only=True):
    """One of several applications that a server serves, each with settings, keys and names of its own.

    Its sections are complete: what it does not set itself is what the top level says, key by key; lists are taken
    whole.
    """

    name: Annotated[
        str,
        Key(
            "Its name in metrics and in the store; the path `/t/<name>` before every door is its own.",
            Text("1 to 32 lower-case letters, digits, - or _, a letter or digit first", r"[a-z0-9][-a-z0-9_]{0,31}"),
            required=True,
        ),
    ] = ""
    hosts: Annotated[
        tuple[str, ...], Key("Requests to these hosts are its own.", ListOf(HostName(), "acme.example.com"))
    ] = ()
    issuers: Annotated[
        tuple[str, ...],
        Key(
            "So are connections with tokens of these issuers (`iss`).",
            ListOf(Text("a text of 1 to 255 characters", r".{1,255}"), "https://login.acme.example.com"),
        ),
    ] = ()
    region: Annotated[str, Key('Where it lives: only servers of this region serve it; "" is everywhere.', _REGION)] = ""
    redis: Annotated[Redis, Key("Its store.", Group(Redis, inherits=True))] = Redis()
    client: Annotated[Client, Key("What its connections may do.", Group(Client, inherits=True))] = Client()
    http_api: Annotated[HttpApi, Key("The API for its backends.", Group(HttpApi, inherits=True))] = HttpApi()
    channel: Annotated[Channel, Key("Its channels and their namespaces.", Group(Channel, inherits=True))] = Channel()
    limits: Annotated[Limits, Key("What a worker takes on for it.", Group(Limits, inherits=True))] = Limits()


_TENANTS = Groups(
    Tenant,
    "a name, how requests find it, and redis, client, http_api, channel and limits, which have every setting of the "
    "top level that the tenant does not set itself",
    "[{name: acme, hosts: [acme.example.com], http_api: {key_file: /run/secrets/acme}}]",
)


class Config(Section, frozen=True, kw_only=True):
    """The whole config. With all defaults nothing can connect and nothing can be published."""

    server: Annotated[Server, Key("Processes and listeners.", Group(Server))] = msgspec.field(default_factory=Server)
    redis: Annotated[Redis, Key("The store.", Group(Redis))] = Redis()
    client: Annotated[Client, Key("What connections may do, whatever their door.", Group(Client))] = Client()
    http_api: Annotated[HttpApi, Key("The API that backends publish with.", Group(HttpApi))] = HttpApi()
    delivery: Annotated[Delivery, Key("What may wait for whom.", Group(Delivery))] = Delivery()
    channel: Annotated[Channel, Key("Channels and their namespaces.", Group(Channel))] = Channel()
    limits: Annotated[Limits, Key("What a worker takes on.", Group(Limits))] = Limits()
    tenants: Annotated[
        tuple[Tenant, ...],
        Key("Applications that this server serves side by side; without any the top level is the only one.", _TENANTS),
    ] = ()

    def served(self) -> tuple[Tenant, ...]:
        """The tenants of this server's region, complete. Without any in the config: one, ``default``, which is the top
        level."""
        if not self.tenants:
            shared = {name: getattr(self, name) for name in INHERITED}
            return (Tenant(name="default", region=self.server.region, **shared),)
        here = self.server.region
        return tuple(tenant for tenant in self.tenants if not here or tenant.region in ("", here))

    def of(self, tenant: Tenant) -> Config:
        """This config as one tenant sees it: its sections in place of the top level's, and no other tenants."""
        own = {name: getattr(tenant, name) for name in INHERITED}
        return msgspec.structs.replace(self, **own, tenants=())

    @property
    def embedded(self) -> bool:
        """Whether anybody served here is on the embedded store."""
        return any(tenant.redis.url == "embedded" for tenant in self.served())

    def with_store(self, url: str) -> Config:
        """This config with ``url``, where the embedded store was started, in place of every ``embedded``."""
        tenants = tuple(msgspec.structs.replace(tenant, redis=_at(tenant.redis, url)) for tenant in self.tenants)
        return msgspec.structs.replace(self, redis=_at(self.redis, url), tenants=tenants)


INHERITED = ("redis", "client", "http_api", "channel", "limits")
"""The sections that a tenant has too."""


def _at(redis: Redis, url: str) -> Redis:
    return msgspec.structs.replace(redis, url=url) if redis.url == "embedded" else redis
