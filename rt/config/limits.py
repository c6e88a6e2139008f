"""The sections about what a worker takes on: connections, and how often they may do what."""

from __future__ import annotations

from typing import Annotated, Literal

from rt.config.rates import Amount, Frequency, Rate
from rt.config.section import Group, Groups, Key, Section
from rt.config.values import Choice, Duration, Flag, Number, Text, Whole

ACTIONS = ("connect", "subscribe", "publish", "presence", "history", "rpc", "api", "message", "bytes")
SCOPES = ("connection", "user", "ip", "channel", "tenant")


class RateLimit(Section, frozen=True, kw_only=True):
    """A rule: how often one subject of a scope may do one thing."""

    on: Annotated[str, Key("What is counted.", Choice(*ACTIONS), required=True)] = ""
    per: Annotated[str, Key("Who has a bucket of its own.", Choice(*SCOPES), required=True)] = ""
    rate: Annotated[Rate, Key("How fast the bucket fills.", Frequency(), required=True)] = Rate(0.0, 1.0)
    burst: Annotated[
        int | None,
        Key("How much the bucket holds: what may be done at once after a rest.", Amount(), default="as much as rate"),
    ] = None
    namespace: Annotated[
        str,
        Key('Only for channels of this namespace; "" is all.', Text('a namespace, or ""', r"(?:[-a-zA-Z0-9_]{2,64})?")),
    ] = ""
    shared: Annotated[bool, Key("One bucket for all workers, in the store, instead of one on each.", Flag())] = False
    redis_down: Annotated[
        Literal["local", "allow", "deny"],
        Key(
            "While the store is away: a bucket on each worker, or everything, or nothing.",
            Choice("local", "allow", "deny"),
        ),
    ] = "local"

    @property
    def capacity(self) -> float:
        """What the bucket holds, at least one."""
        return float(self.burst) if self.burst else max(self.rate.amount, 1.0)


class Connections(Section, frozen=True, kw_only=True):
    """Limits of connections."""

    total: Annotated[int, Key("Connections over all workers; 0 is no limit.", Whole(0, 10000000))] = 0
    per_worker: Annotated[
        int,
        Key("Connections on each worker; the top level's is for all tenants together, too.", Whole(1, 10000000)),
    ] = 50000
    per_ip: Annotated[
        int, Key("Connections from one IP address on each worker; 0 is no limit.", Whole(0, 10000000))
    ] = 0
    per_user: Annotated[int, Key("Connections of one user over all workers; 0 is no limit.", Whole(0, 10000))] = 0
    kick: Annotated[
        Literal["newest", "oldest"],
        Key("Which of a user's connections has to go when there is one too many (3504).", Choice("newest", "oldest")),
    ] = "newest"
    new_per_second: Annotated[
        float, Key("New connections per second and worker; 0 is no limit.", Number(0, 1000000))
    ] = 0.0
    wait: Annotated[
        float,
        Key("How long one more may wait for its turn; who would wait longer is refused at once.", Duration("0s", "1m")),
    ] = 5.0


_RATES = Groups(
    RateLimit,
    "what is counted (on), for whom (per), rate, burst, and perhaps namespace, shared and redis_down",
    "[{on: publish, per: user, rate: 30/s, burst: 60, shared: true}]",
)


class Limits(Section, frozen=True, kw_only=True):
    """What a worker takes on."""

    connections: Annotated[Connections, Key("Limits of connections.", Group(Connections))] = Connections()
    rates: Annotated[
        tuple[RateLimit, ...],
        Key("How often things may be done. Of the rules with the same on and per the first that fits counts.", _RATES),
    ] = ()
    tolerance: Annotated[
        int,
        Key(
            "Commands of one connection that may be refused by a rate at once, and again in each 10 s; one more closes "
            "it (3013). 0 is no limit.",
            Whole(0, 1000000),
        ),
    ] = 100
    ipv6_prefix: Annotated[
        int, Key("IPv6 addresses that share so many leading bits count as one address.", Whole(16, 128))
    ] = 64
    subjects: Annotated[
        int,
        Key(
            "Buckets that a worker keeps per rule; beyond, the one that was left alone longest is forgotten.",
            Whole(1000, 10000000),
        ),
    ] = 100000
