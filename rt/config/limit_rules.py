"""What must hold of rate limits: each can be reached, and says something that no other says differently."""

from __future__ import annotations

from collections.abc import Iterator

from rt.config.finding import Draft, Finding, Rule
from rt.config.limits import RateLimit

ON_CHANNELS = ("subscribe", "publish", "presence", "history")
"""Actions that are about a channel."""

COUNTED_HERE = ("message", "bytes")
"""Actions that only the worker which has the socket can count."""

_WIDER = {"connection": ("user", "ip", "tenant"), "user": ("tenant",), "ip": ("tenant",), "channel": ("tenant",)}
"""Whoever draws from a bucket of the scope draws from one of these, too."""


def _rates(draft: Draft) -> Iterator[tuple[str, RateLimit]]:
    listed = enumerate(draft.config.limits.rates)
    return ((f"limits.rates[{index}]", rule) for index, rule in listed if rule.on and rule.per)


def scope_fits(draft: Draft) -> Iterator[Finding]:
    """`per: channel` and `namespace` are for `subscribe`, `publish`, `presence` and `history`; a connection connects
    once, so `connect` has no `per: connection`; `api` is counted per `ip` and `tenant`."""
    for path, rule in _rates(draft):
        scopes = {"connect": ("user", "ip", "tenant"), "api": ("ip", "tenant")}.get(
            rule.on, ("connection", "user", "ip", "tenant")
        )
        if rule.on in ON_CHANNELS:
            scopes += ("channel",)
        elif rule.namespace:
            yield Finding(f"{path}.namespace", f"a namespace, which {rule.on} has not", "no namespace", (f"{path}.on",))
        if rule.per not in scopes:
            found = f"{rule.per}, which {rule.on} is not counted by"
            yield Finding(f"{path}.per", found, " or ".join(scopes), (f"{path}.on",))


def namespace_there(draft: Draft) -> Iterator[Finding]:
    """The `namespace` of a rate limit exists, and has what is counted: `presence`, or a history."""
    for path, rule in _rates(draft):
        if not rule.namespace or rule.on not in ON_CHANNELS:
            continue
        namespace = draft.config.channel.namespace(rule.namespace)
        needs = ("channel.namespaces",)
        if namespace is None:
            yield Finding(f"{path}.namespace", rule.namespace, "the name of one of channel.namespaces", needs)
        elif rule.on == "presence" and not namespace.presence:
            yield Finding(f"{path}.namespace", f"{rule.namespace}, which has no presence", "one that has it", needs)
        elif rule.on == "history" and not namespace.history:
            yield Finding(f"{path}.namespace", f"{rule.namespace}, which has no history", "one that has it", needs)


def each_has_its_turn(draft: Draft) -> Iterator[Finding]:
    """A rate limit stands before those that would take everything from it: the first with the same `on` and `per` that
    fits a channel's namespace counts."""
    before: dict[tuple[str, str], list[tuple[str, RateLimit]]] = {}
    for path, rule in _rates(draft):
        seen = before.setdefault((rule.on, rule.per), [])
        for other_path, other in seen:
            if other.namespace in ("", rule.namespace):
                same = "the same" if other.namespace == rule.namespace else "all of it"
                found = f"a rule that is never reached: {other_path} takes {same} before"
                yield Finding(path, found, "one of them, or the one with a namespace first", (other_path,))
                break
        seen.append((path, rule))


def narrow_is_tighter(draft: Draft) -> Iterator[Finding]:
    """Of two rate limits that count the same, that of the narrower scope (connection, user or ip, tenant) allows less:
    what is behind the other would never be reached."""
    rates = list(_rates(draft))
    for path, rule in rates:
        for scope in _WIDER.get(rule.per, ()):
            same = ((at, o) for at, o in rates if (o.on, o.per) == (rule.on, scope))
            above = next(((at, o) for at, o in same if o.namespace in ("", rule.namespace)), None)
            if above is None or not rule.rate.amount or not above[1].rate.amount:
                continue
            at, other = above
            slower = other.rate.per_second <= rule.rate.per_second
            if slower and other.capacity <= rule.capacity:
                found = f"no less than {at} allows a whole {scope}"
                needs = (f"{path}.burst", f"{at}.rate", f"{at}.burst")
                yield Finding(f"{path}.rate", found, "a lower rate or burst, or only one of the rules", needs)


def sharing_makes_sense(draft: Draft) -> Iterator[Finding]:
    """`shared` is for what several workers can count: not for `message` and `bytes`, nor `per: connection`.
    `redis_down` is for a rule that is shared."""
    for path, rule in _rates(draft):
        if rule.shared and (rule.on in COUNTED_HERE or rule.per == "connection"):
            what = rule.on if rule.on in COUNTED_HERE else "per: connection"
            yield Finding(f"{path}.shared", f"true with {what}", "false", (f"{path}.on", f"{path}.per"))
        if f"{path}.redis_down" in draft.places and not rule.shared:
            yield Finding(f"{path}.redis_down", "a rule that is not shared", "shared: true beside it", ())


def connections_add_up(draft: Draft) -> Iterator[Finding]:
    """`limits.connections.per_user` and `per_ip` are not above `total` and `per_worker`; `kick: oldest` stands
    beside a `per_user`."""
    path, limits = "limits.connections", draft.config.limits.connections
    least = min(limits.total or limits.per_worker, limits.per_worker)
    if limits.per_ip > least:
        found = f"{limits.per_ip}, which is never reached"
        yield Finding(f"{path}.per_ip", found, f"at most {least}", (f"{path}.total", f"{path}.per_worker"))
    if limits.total and limits.per_user > limits.total:
        found = f"{limits.per_user}, which is never reached"
        yield Finding(f"{path}.per_user", found, f"at most total ({limits.total})", (f"{path}.total",))
    if limits.kick == "oldest" and not limits.per_user:
        yield Finding(f"{path}.kick", "oldest without per_user", "a per_user above zero", (f"{path}.per_user",))


RULES: tuple[Rule, ...] = (
    scope_fits,
    namespace_there,
    each_has_its_turn,
    narrow_is_tighter,
    sharing_makes_sense,
    connections_add_up,
)
