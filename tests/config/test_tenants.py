"""Tenants: what each inherits, who is served where, and the config as one of them sees it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rt.config import Client, Config, ConfigError, Limits, Namespace, Tenant, decode, describe, encode, parse, source
from rt.config.reader import Reader
from rt.config.schema import INHERITED
from rt.config.section import Group, Groups, ListOf, Section, keys
from rt.config.values import Kind, Unfit
from tests.config.publics import ec_key, rsa_key

TEXT = b"""\
server: {region: eu}
redis: {url: redis://shared, timeout: 3s, presence_ttl: 90s}
client:
  allowed_origins: [https://a.example.com, https://b.example.com]
  ping_interval: 20s
  token: {hmac_secret_key: top, leeway: 2s}
channel:
  without_namespace: {history_ttl: 60s, presence: true}
  namespaces: [{name: chat, presence: true}, {name: news}]
limits: {connections: {total: 100, new_per_second: 5}}
tenants:
  - name: plain
    hosts: [Plain.Example.com]
    http_api: {key: one}
  - name: own
    region: us
    issuers: [https://login.example.com]
    redis: {url: redis://own}
    client:
      allowed_origins: [https://own.example.com]
      token: {hmac_secret_key: own}
    http_api: {key: two}
    channel:
      without_namespace: {history_size: 5}
      namespaces: []
    limits: {connections: {total: 7}}
"""


def test_a_tenant_has_what_it_does_not_set() -> None:
    """Every setting of the top level reaches a tenant that sets nothing of that section."""
    config = parse(TEXT, "f", {})
    plain = config.tenants[0]
    for name in ("redis", "client", "channel", "limits"):
        assert getattr(plain, name) == getattr(config, name)
    assert plain.hosts == ("plain.example.com",)
    assert plain.http_api.key == "one"
    assert config.http_api.key == ""


def test_a_tenant_sets_key_by_key() -> None:
    """What a tenant sets is its own, at any depth; the key beside it stays inherited; a list is taken whole."""
    own = parse(TEXT, "f", {}).tenants[1]
    assert (own.redis.url, own.redis.timeout, own.redis.presence_ttl) == ("redis://own", 3.0, 90.0)
    assert own.client.allowed_origins == ("https://own.example.com",)
    assert (own.client.ping_interval, own.client.token.leeway) == (20.0, 2.0)
    assert own.client.token.hmac_secret_key == "own"
    without = own.channel.without_namespace
    assert (without.history_size, without.history_ttl, without.presence) == (5, 60.0, True)
    assert own.channel.namespaces == ()
    assert (own.limits.connections.total, own.limits.connections.new_per_second) == (7, 5.0)


def leaves(section: type[Section], path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Kind | ListOf]]:
    """The paths and kinds of all keys below ``section`` but the list of namespaces."""
    for name, key in keys(section).items():
        if isinstance(key.kind, Group):
            omit = key.kind.omit
            yield from (leaf for leaf in leaves(key.kind.section, (*path, name)) if leaf[0][-1] not in omit)
        elif not isinstance(key.kind, Groups):
            yield (*path, name), key.kind


PUBLIC = {"rsa_public_key": rsa_key(), "ecdsa_public_key": ec_key()}
LEAVES = [leaf for name in INHERITED for leaf in leaves(type(getattr(Config(), name)), (name,))]


def value_at(section: object, path: tuple[str, ...]) -> object:
    """What ``section`` holds at ``path``."""
    for name in path:
        section = getattr(section, name)
    return section


def another(kind: Kind | ListOf, default: object) -> str:
    """YAML text that a key takes and that is not its default."""
    if isinstance(kind, ListOf):
        return f"[{another(kind.kind, None)}]"
    for text in (
        "true",
        "false",
        "3",
        "300ms",
        "3s",
        "3m",
        "3h",
        "5KiB",
        "none",
        "disconnect",
        "cache",
        "transport",
        "json",
        "oldest",
        "high",
        "56",
        "2000",
        "aa",
    ):
        try:
            if kind.read(text) != default:
                return text
        except Unfit:
            continue
    return {"StoreUrl": "redis://h", "HttpUrl": "https://h/keys", "Origin": "https://h"}.get(type(kind).__name__, "")


def test_every_key_is_inherited() -> None:
    """Whichever key the top level sets, each tenant has it: one that sets its neighbours, and one that sets nothing."""
    neighbours = "tenants: [{name: aa, redis: {}, client: {token: {}}, channel: {without_namespace: {}}}, {name: bb}]"
    for path, kind in LEAVES:
        default = value_at(Config(), path)
        text = json.dumps(PUBLIC[path[-1]]) if path[-1] in PUBLIC else another(kind, default)
        for name in reversed(path):
            text = f"{{{name}: {text}}}"
        tree, _ = source.parse(f"{text[1:-1]}\n{neighbours}\n".encode(), "f")
        config = Reader({}).section(Group(Config), tree, "")
        assert value_at(config, path) != default, path
        assert [value_at(tenant, path) for tenant in config.tenants] == [value_at(config, path)] * 2, path


def test_what_depends_on_history_is_decided_anew() -> None:
    """Defaults that depend on other keys are those of what a tenant's sections come to."""
    off = b"channel: {without_namespace: {history_size: 0}}\n"
    tenants = b"tenants: [{name: aa, channel: {without_namespace: {history_size: 5}}}, {name: bb}]"
    config = parse(off + tenants, "f", {})
    aa, bb = (tenant.channel.without_namespace for tenant in config.tenants)
    assert (aa.force_recovery, aa.slow) == (True, "catch_up")
    assert (bb.force_recovery, bb.slow) == (False, "disconnect")
    text = b"tenants: [{name: aa, channel: {without_namespace: {history_size: 0}}}]"
    without = parse(text, "f", {}).tenants[0].channel.without_namespace
    assert (without.force_recovery, without.slow) == (False, "disconnect")


def test_variables_reach_tenants_too(tmp_path: Path) -> None:
    """A variable in place of a key of the top level is inherited, and a tenant's secret may be in a file."""
    (tmp_path / "key").write_text("secret\n")
    text = f"http_api: {{key: top}}\ntenants: [{{name: aa}}, {{name: bb, http_api: {{key_file: {tmp_path}/key}}}}]"
    config = parse(text.encode(), "f", {"RT_CLIENT_PING_INTERVAL": "30s", "RT_HTTP_API_KEY": "given"})
    assert [tenant.client.ping_interval for tenant in config.tenants] == [30.0, 30.0]
    assert [tenant.http_api.key for tenant in config.tenants] == ["given", "secret"]


def test_server_serves_its_region() -> None:
    """A server has the tenants of its region and those of none; one without a region has all."""
    names = {"aa": "", "bb": "eu", "cc": "us"}
    tenants = tuple(Tenant(name=name, region=region) for name, region in names.items())
    config = parse(TEXT, "f", {})

    def served(region: str) -> list[str]:
        server = parse(f"server: {{region: '{region}'}}".encode(), "f", {}).server
        return [tenant.name for tenant in Config(server=server, tenants=tenants).served()]

    assert served("") == ["aa", "bb", "cc"]
    assert served("eu") == ["aa", "bb"]
    assert served("asia") == ["aa"]
    assert [tenant.name for tenant in config.served()] == ["plain"]


def test_file_without_tenants_is_one() -> None:
    """The top level is the tenant ``default`` then, and the config as it sees it is the same."""
    config = parse(b"server: {region: eu}\nclient: {ping_interval: 30s}", "f", {})
    (tenant,) = config.served()
    assert (tenant.name, tenant.region) == ("default", "eu")
    assert (tenant.client, tenant.channel) == (config.client, config.channel)
    assert config.of(tenant) == config


def test_config_of_a_tenant_has_its_sections() -> None:
    """What is the server's stays, what is a tenant's is the tenant's, and there are no others in it."""
    config = parse(TEXT, "f", {})
    seen = config.of(config.tenants[1])
    assert seen.server == config.server
    assert seen.delivery == config.delivery
    assert all(getattr(seen, name) == getattr(config.tenants[1], name) for name in INHERITED)
    assert seen.tenants == ()
    assert seen.channel.namespace("chat") is None


def test_embedded_store_is_wanted_by_whom_it_serves() -> None:
    """Only tenants served here count, and each that inherits ``embedded`` is given its address."""
    text = b"tenants: [{name: aa, redis: {url: 'redis://h'}}, {name: bb}]"
    config = parse(text, "f", {})
    assert config.embedded
    urls = [tenant.redis.url for tenant in config.with_store("unix:///s").tenants]
    assert urls == ["redis://h", "unix:///s"]
    assert config.with_store("unix:///s").redis.url == "unix:///s"
    assert not config.with_store("unix:///s").embedded
    assert not parse(b"tenants: [{name: aa, redis: {url: 'redis://h'}}]", "f", {}).embedded
    assert Config().embedded
    elsewhere = b"server: {region: eu}\ntenants: [{name: aa, region: us}, {name: bb, redis: {url: 'redis://h'}}]"
    assert not parse(elsewhere, "f", {}).embedded


def test_tenants_survive_the_way_to_a_worker() -> None:
    """Encoding and decoding keeps every tenant's complete sections."""
    config = parse(TEXT, "f", {})
    again = decode(encode(config))
    assert again == config
    assert again.tenants[0].channel.namespace("chat") == Namespace(name="chat", presence=True)


def test_tenants_hide_their_secrets() -> None:
    """A printed tenant shows no key and no URL of its store."""
    text = b"tenants: [{name: aa, redis: {url: 'redis://:Tr0ub4dor@h'}, http_api: {key: Tr0ub4dor}}]"
    assert "Tr0ub4dor" not in repr(parse(text, "f", {}))


def test_tenant_is_described_without_repeating_the_top() -> None:
    """The manual lists what a tenant has beside the sections of the top level, and names those."""
    paths = [entry.path for entry in describe() if entry.path.startswith("tenants[].")]
    assert paths == [f"tenants[].{name}" for name in ("name", "hosts", "issuers", "region", *INHERITED)]


BROKEN = [
    ("tenants: {name: aa}", "f:1: tenants: found a section, expected a list"),
    (
        "tenants:\n- hosts: [a.com]",
        "f:2: tenants[0].name: found nothing, expected 1 to 32 lower-case letters, digits, - or _, "
        "a letter or digit first",
    ),
    (
        "tenants: [{name: Acme}]",
        "f:1: tenants[0].name: found Acme, expected 1 to 32 lower-case letters, digits, - or _, "
        "a letter or digit first",
    ),
    (
        "tenants: [{name: aa, hosts: ['a.com:80']}]",
        "f:1: tenants[0].hosts[0]: found a.com:80, expected a host name or IP address without a port",
    ),
    (
        "tenants:\n- name: aa\n  client: {pong_timeot: 3s}",
        "f:3: tenants[0].client.pong_timeot: found an unknown key, expected pong_timeout perhaps",
    ),
    (
        "tenants: [{name: aa, server: {port: 1}}]",
        "f:1: tenants[0].server: found an unknown key, expected one of name, hosts, issuers, region, redis, client, "
        "http_api, channel, limits",
    ),
    (
        "client: {ping_interval: 8}\ntenants: [{name: aa}, {name: bb, client: {pong_timeout: 30s}}]",
        "f:1: client.ping_interval: found 8, expected a duration from 100ms to 1h, such as 300s, 5m or 250ms",
    ),
    (
        "client: {pong_timeout: 30}\ntenants: [{name: bb, client: {ping_interval: 1s}}]",
        "f:1: client.pong_timeout: found 30, expected a duration from 50ms to 5m, such as 300s, 5m or 250ms",
    ),
    (
        "server: {region: 'a b'}",
        'f:1: server.region: found "a b", expected up to 32 letters, digits, dots, - or _, or ""',
    ),
]


@pytest.mark.parametrize(("text", "line"), BROKEN, ids=[str(number) for number in range(len(BROKEN))])
def test_mistake_in_a_tenant_gives_its_line(text: str, line: str) -> None:
    """A tenant's mistake is told at its own path, one it inherits where it is written, and once."""
    with pytest.raises(ConfigError) as caught:
        parse(text.encode(), "f", {})
    assert str(caught.value).splitlines() == [line]


@given(st.lists(st.sampled_from(["client:", "client: {}", "limits: ~", "redis: {timeout: 2s}"]), unique=True))
def test_empty_sections_inherit(parts: list[str]) -> None:
    """A tenant's section without keys is one that sets nothing."""
    body = "".join(f"    {part}\n" for part in parts if part != "client: {}" or "client:" not in parts)
    config = parse(f"client: {{ping_interval: 30s}}\ntenants:\n  - name: aa\n{body}".encode(), "f", {})
    assert config.tenants[0].client == Client(ping_interval=30.0)
    assert config.tenants[0].limits == Limits()
