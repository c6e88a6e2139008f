"""Rate limits in the config: what is read, and what can never match or says two things at once."""

from __future__ import annotations

import pytest

from rt.config import Config, ConfigError, Rate, parse
from rt.config.limit_rules import RULES
from rt.config.networks import Network
from rt.config.rates import Amount, Frequency
from rt.config.values import Unfit

GOOD = [
    ("30/s", Rate(30, 1)),
    ("100/m", Rate(100, 60)),
    ("0.5/s", Rate(0.5, 1)),
    ("1/d", Rate(1, 86400)),
    ("64KiB/s", Rate(65536, 1)),
    ("1.5MiB/h", Rate(1.5 * 2**20, 3600)),
]


@pytest.mark.parametrize(("text", "rate"), GOOD)
def test_a_rate_is_an_amount_in_a_time(text: str, rate: Rate) -> None:
    """And is written so that it reads back the same."""
    kind = Frequency()
    assert kind.read(text) == rate == kind.read(kind.write(rate))
    assert rate.per_second == rate.amount / rate.seconds


NO_RATES = [
    "0/s",
    "-1/s",
    "30",
    "30/",
    "/s",
    "nan/s",
    "inf/s",
    "1e3/s",
    "30/y",
    "30/ms",
    "+1/s",
    "1,5/s",
    "٣/s",
    "1_0/s",
    "0x1/s",
    "99999999999/s",
    "9999999999GiB/s",
    "30s",
]


@pytest.mark.parametrize("text", NO_RATES)
def test_what_is_no_rate(text: str) -> None:
    """Nothing, less than nothing, more than there is, and what is no number."""
    with pytest.raises(Unfit):
        Frequency().read(text)


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "nan", "inf", "", "1e3", "99999999999999"])
def test_what_is_no_burst(text: str) -> None:
    """A bucket that holds nothing lets nothing pass."""
    with pytest.raises(Unfit):
        Amount().read(text)
    assert Amount().read("256KiB") == 256 << 10


def test_a_bucket_holds_what_its_rate_says_where_nothing_else_is_said() -> None:
    """As much as comes in the unit of its rate, and at least one."""
    text = "limits: {rates: [{on: publish, per: user, rate: 100/m}, {on: rpc, per: user, rate: 0.1/s}]}"
    minute, slow = parse(text.encode(), "f", {}).limits.rates
    assert (minute.capacity, slow.capacity) == (100.0, 1.0)
    assert minute.redis_down == "local" and not minute.shared


@pytest.mark.parametrize(
    "text", ["10.0.0.1/8", "0.0.0.0/0", "::/0", "10.0.0.0/33", "example.com", "", "*", "10.0.0", "::ffff:10.0.0.0/104"]
)
def test_what_is_no_network_of_proxies(text: str) -> None:
    """One with bits behind its prefix is a mistake, and one of all addresses trusts everybody;
    IPv4 addresses are never met as IPv6 ones."""
    with pytest.raises(Unfit):
        Network().read(text)
    assert Network().read("10.0.0.1") == "10.0.0.1/32" and Network().read("2001:DB8::/32") == "2001:db8::/32"


P = "limits.rates[0]"
TWICE = "a rule that is never reached: limits.rates[0] takes"
FIRST = "one of them, or the one with a namespace first"
BROKEN = [
    ("{on: rpc, per: channel, rate: 1/s}", f"{P}.per: found channel, which rpc is not counted by"),
    ("{on: message, per: channel, rate: 1/s}", f"{P}.per: found channel, which message is not counted by"),
    ("{on: connect, per: connection, rate: 1/s}", f"{P}.per: found connection, which connect is not counted by"),
    ("{on: connect, per: channel, rate: 1/s}", f"{P}.per: found channel, which connect is not counted by"),
    ("{on: api, per: user, rate: 1/s}", f"{P}.per: found user, which api is not counted by"),
    ("{on: rpc, per: user, rate: 1/s, namespace: chat}", f"{P}.namespace: found a namespace, which rpc has not"),
    ("{on: publish, per: user, rate: 1/s, namespace: nope}", f"{P}.namespace: found nope, expected the name of one"),
    (
        "{on: presence, per: user, rate: 1/s, namespace: live}",
        f"{P}.namespace: found live, which has no presence, expected one that has it",
    ),
    (
        "{on: history, per: user, rate: 1/s, namespace: live}",
        f"{P}.namespace: found live, which has no history, expected one that has it",
    ),
    (
        "{on: publish, per: user, rate: 1/s}, {on: publish, per: user, rate: 2/s}",
        f"limits.rates[1]: found {TWICE} the same before, expected {FIRST}",
    ),
    (
        "{on: publish, per: user, rate: 1/s}, {on: publish, per: user, rate: 2/s, namespace: chat}",
        f"limits.rates[1]: found {TWICE} all of it before, expected {FIRST}",
    ),
    (
        "{on: publish, per: connection, rate: 2/s}, {on: publish, per: user, rate: 1/s}",
        f"{P}.rate: found no less than limits.rates[1] allows a whole user",
    ),
    (
        "{on: publish, per: channel, rate: 2/s, namespace: chat}, {on: publish, per: tenant, rate: 1/s}",
        f"{P}.rate: found no less than limits.rates[1] allows a whole tenant",
    ),
    ("{on: message, per: user, rate: 1/s, shared: true}", f"{P}.shared: found true with message, expected false"),
    (
        "{on: publish, per: connection, rate: 1/s, shared: true}",
        f"{P}.shared: found true with per: connection, expected false",
    ),
    (
        "{on: publish, per: user, rate: 1/s, redis_down: allow}",
        f"{P}.redis_down: found a rule that is not shared, expected shared: true beside it",
    ),
    ("{on: publishes, per: user, rate: 1/s}", f"{P}.on: found publishes, expected connect, subscribe,"),
    ("{on: publish, per: session, rate: 1/s}", f"{P}.per: found session, expected connection, user,"),
    ("{on: publish, per: user}", f"{P}.rate: found nothing, expected a rate above zero"),
    ("{on: publish, per: user, rate: 0/s}", f"{P}.rate: found 0/s, expected a rate above zero"),
    ("{on: publish, per: user, rate: .nan}", f"{P}.rate: found .nan, expected a rate above zero"),
    ("{on: publish, per: user, rate: 1/s, burst: 0}", f"{P}.burst: found 0, expected a whole number or a size"),
    ("{on: publish, per: user, rate: 1/s, burst: -5}", f"{P}.burst: found -5, expected a whole number or a size"),
    ("{}", f"{P}.on: found nothing, expected connect, subscribe,"),
]
NAMESPACES = "channel: {namespaces: [{name: chat, presence: true}, {name: live, history_size: 0}]}\n"


@pytest.mark.parametrize(("rates", "expected"), BROKEN)
def test_a_mistake_is_told_at_its_key(rates: str, expected: str) -> None:
    """What can never match, contradicts another, or makes no sense."""
    with pytest.raises(ConfigError) as caught:
        parse(f"{NAMESPACES}limits: {{rates: [{rates}]}}".encode(), "f", {})
    assert any(str(problem).startswith(f"f:2: {expected}") for problem in caught.value.problems), str(caught.value)


@pytest.mark.parametrize(
    ("connections", "expected"),
    [
        ("per_ip: 11, total: 10", "per_ip: found 11, which is never reached, expected at most 10"),
        ("per_ip: 11, per_worker: 10", "per_ip: found 11, which is never reached, expected at most 10"),
        ("per_user: 11, total: 10", "per_user: found 11, which is never reached, expected at most total (10)"),
        ("kick: oldest", "kick: found oldest without per_user, expected a per_user above zero"),
        ("total: -1", "total: found -1, expected a whole number from 0 to 10000000"),
    ],
)
def test_limits_of_connections_add_up(connections: str, expected: str) -> None:
    """None of them hides another."""
    with pytest.raises(ConfigError) as caught:
        parse(f"limits: {{connections: {{{connections}}}}}".encode(), "f", {})
    assert [str(problem) for problem in caught.value.problems] == [f"f:1: limits.connections.{expected}"]


ALL = """
channel: {namespaces: [{name: chat, presence: true}]}
limits:
  connections: {total: 50000, per_worker: 30000, per_ip: 200, per_user: 20, kick: oldest, new_per_second: 500}
  rates:
    - {on: connect, per: ip, rate: 20/s, burst: 100}
    - {on: connect, per: user, rate: 10/m, shared: true, redis_down: allow}
    - {on: subscribe, per: connection, rate: 50/s, burst: 200}
    - {on: publish, per: connection, rate: 30/s, burst: 60}
    - {on: publish, per: user, rate: 10/s, burst: 20, namespace: chat, shared: true, redis_down: deny}
    - {on: publish, per: user, rate: 60/s, burst: 120, shared: true}
    - {on: publish, per: channel, rate: 200/s, namespace: chat}
    - {on: presence, per: user, rate: 5/s, namespace: chat}
    - {on: history, per: ip, rate: 50/s}
    - {on: rpc, per: tenant, rate: 1000/s}
    - {on: api, per: tenant, rate: 5000/s, shared: true, redis_down: deny}
    - {on: message, per: connection, rate: 100/s, burst: 500}
    - {on: bytes, per: ip, rate: 1MiB/s, burst: 4MiB}
server: {trusted_proxies: [10.0.0.0/8, "2001:db8::/32"], proxy_header: Forwarded}
tenants:
  - {name: aa, http_api: {key: one}}
  - {name: bb, http_api: {key: two}, limits: {rates: [{on: rpc, per: user, rate: 1/s}], connections: {per_user: 3}}}
"""


def test_what_a_site_may_write() -> None:
    """Every action and scope; a tenant has them all, or a list of its own."""
    config = parse(ALL.encode(), "f", {})
    assert {rule.on for rule in config.limits.rates} == {
        "connect", "subscribe", "publish", "presence", "history", "rpc", "api", "message", "bytes",
    }  # fmt: skip
    aa, bb = config.tenants
    assert aa.limits == config.limits
    assert [rule.on for rule in bb.limits.rates] == ["rpc"]
    assert (bb.limits.connections.per_user, bb.limits.connections.per_ip) == (3, 200)
    assert config.server.trusted_proxies == ("10.0.0.0/8", "2001:db8::/32")


def test_a_mistake_of_a_tenant_is_told_in_its_lines() -> None:
    """A namespace that the tenant has not, in a list of its own."""
    rates = "rates:\n    - {on: publish, per: user, rate: 1/s, namespace: chat}\n"
    text = f"tenants:\n- name: aa\n  http_api: {{key: one}}\n  limits:\n    {rates}"
    with pytest.raises(ConfigError, match=r"f:6: tenants\[0\]\.limits\.rates\[0\]\.namespace: found chat"):
        parse(text.encode(), "f", {})


def test_every_rule_is_a_sentence_of_the_manual() -> None:
    """And none is broken by a config with nothing in it."""
    assert all((rule.__doc__ or "").strip().endswith(".") for rule in RULES)
    assert Config() == parse(b"", "f", {})
