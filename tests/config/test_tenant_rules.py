"""Rules of tenants: those between them, and every other rule for what each of them comes to."""

from __future__ import annotations

import json

import pytest
from cryptography.hazmat.primitives.serialization import PublicFormat

from rt.config import ConfigError, parse
from rt.config.tenant_rules import RULES
from tests.config.publics import ec_key, rsa_key

JWKS = "jwks_public_endpoint: 'https://id.example.com/keys'"
OWN_KEY = "expected a key of its own"
OWN_ENDPOINT = "expected another endpoint, or an issuer of its own beside it"
UNIQUE = "expected what no other tenant has"
PRODUCTION = {"RT_SERVER_MODE": "production"}

BETWEEN = [
    ("tenants:\n- name: aa\n- name: aa", f"f:3: tenants[1].name: found aa again, {UNIQUE}"),
    (
        "tenants:\n- {name: aa, hosts: [a.com]}\n- {name: bb, hosts: [b.com, A.com]}",
        f"f:3: tenants[1].hosts[1]: found a.com again, {UNIQUE}",
    ),
    (
        "tenants:\n- {name: aa, issuers: [x]}\n- {name: bb, issuers: [x]}",
        f"f:3: tenants[1].issuers[0]: found x again, {UNIQUE}",
    ),
    (
        "client:\n  token: {hmac_secret_key: k}\ntenants: [{name: aa}, {name: bb}]",
        f"f:2: tenants[1].client.token.hmac_secret_key: found what aa accepts too, {OWN_KEY}",
    ),
    (
        "client: {token: {hmac_secret_key: k}}\ntenants:\n- name: aa\n- name: bb\n"
        "  client: {token: {hmac_secret_key: l, hmac_previous_secret_key: k}}",
        f"f:5: tenants[1].client.token.hmac_previous_secret_key: found what aa accepts too, {OWN_KEY}",
    ),
    (
        f"tenants:\n- {{name: aa, client: {{token: {{ecdsa_public_key: {json.dumps(ec_key())}}}}}}}\n"
        f"- {{name: bb, client: {{token: {{ecdsa_public_key: {json.dumps(ec_key())}}}}}}}",
        f"f:3: tenants[1].client.token.ecdsa_public_key: found what aa accepts too, {OWN_KEY}",
    ),
    (
        f"tenants:\n- {{name: aa, client: {{token: {{rsa_public_key: {json.dumps(rsa_key())}}}}}}}\n"
        f"- {{name: bb, client: {{token: {{rsa_public_key: {json.dumps(rsa_key(form=PublicFormat.PKCS1))}}}}}}}",
        f"f:3: tenants[1].client.token.rsa_public_key: found what aa accepts too, {OWN_KEY}",
    ),
    (
        f"client: {{token: {{{JWKS}}}}}\ntenants: [{{name: aa}}, {{name: bb}}]",
        f"f:1: tenants[1].client.token.jwks_public_endpoint: found what aa accepts too, {OWN_ENDPOINT}",
    ),
    (
        f"client: {{token: {{{JWKS}}}}}\ntenants:\n- {{name: aa, client: {{token: {{issuer: x}}}}}}\n- {{name: bb}}",
        f"f:1: tenants[1].client.token.jwks_public_endpoint: found what aa accepts too, {OWN_ENDPOINT}",
    ),
    (
        f"client: {{token: {{{JWKS}, issuer: x}}}}\ntenants: [{{name: aa}}, {{name: bb}}]",
        f"f:1: tenants[1].client.token.jwks_public_endpoint: found what aa accepts too, {OWN_ENDPOINT}",
    ),
    (
        "http_api: {key: k}\ntenants: [{name: aa}, {name: bb}]",
        f"f:1: tenants[1].http_api.key: found what aa accepts too, {OWN_KEY}",
    ),
    (
        "tenants:\n- {name: aa, http_api: {key: k}}\n- {name: bb, http_api: {key: l}}\n"
        "- {name: cc, http_api: {key: k}}",
        f"f:4: tenants[2].http_api.key: found what aa accepts too, {OWN_KEY}",
    ),
    (
        "tenants:\n- name: aa\n  issuers: [x]\n  client: {token: {issuer: y}}",
        "f:3: tenants[0].issuers[0]: found x, expected one that the tenant's client.token.issuer lets in",
    ),
    (
        "client: {token: {issuer_regex: 'https://.*'}}\ntenants:\n- name: aa\n  issuers: ['https://x', 'http://x']",
        "f:4: tenants[0].issuers[1]: found http://x, expected one that the tenant's client.token.issuer_regex lets in",
    ),
    (
        "tenants: [{name: aa, redis: {state_dir: var/aa}}]",
        "f:1: tenants[0].redis.state_dir: found a directory for one tenant, expected redis.state_dir at the top level",
    ),
    (
        "redis: {url: 'redis://h'}\ntenants: [{name: aa, redis: {url: embedded}}]",
        "f:2: tenants[0].redis.url: found embedded for one tenant, "
        "expected embedded at the top level too, or another url",
    ),
    (
        "server: {region: eu}\ntenants: [{name: aa, region: us}]",
        "f:1: server.region: found eu, where no tenant lives, expected the region of one of the tenants",
    ),
    (
        "server: {demo: true}\ntenants: [{name: aa}]",
        "f:1: server.demo: found true beside tenants, expected false, or no tenants",
    ),
]

EACH = [
    # What a tenant writes is told there, also when the other key is inherited.
    (
        "tenants:\n- name: aa\n- name: bb\n  client: {pong_timeout: 25s}",
        "f:4: tenants[1].client.pong_timeout: found 25s, expected less than ping_interval (25s)",
    ),
    (
        "client: {pong_timeout: 20s}\ntenants:\n- name: aa\n  client: {ping_interval: 15s}",
        "f:4: tenants[0].client.pong_timeout: found 20s, expected less than ping_interval (15s)",
    ),
    # What all of it is inherited is told once, at the top level.
    (
        "client: {pong_timeout: 25s}\ntenants: [{name: aa}, {name: bb}]",
        "f:1: client.pong_timeout: found 25s, expected less than ping_interval (25s)",
    ),
    (
        "server: {port: 9000}\ntenants: [{name: aa}]",
        "f:1: server.internal.port: found 9000, expected another port than server.port",
    ),
    (
        "channel: {without_namespace: {force_recovery: true}}\n"
        "tenants:\n- name: aa\n  channel: {without_namespace: {history_size: 0}}",
        "f:4: tenants[0].channel.without_namespace.force_recovery: found true without history, "
        "expected false, or history_size and history_ttl above zero",
    ),
    # A list of a tenant's own has nothing of the top level's in it.
    (
        "channel: {namespaces: [{name: aa}, {name: bb, history_ttl: 5s}]}\n"
        "tenants:\n- name: tt\n  channel:\n    namespaces:\n    - name: aa\n    - name: aa\n      history_size: 0",
        "f:7: tenants[0].channel.namespaces[1].name: found aa again, expected a name of its own",
    ),
    (
        "channel: {namespaces: [{name: aa}, {name: aa}]}\n"
        "tenants:\n- name: tt\n- name: uu\n  channel: {namespaces: []}",
        "f:1: channel.namespaces[1].name: found aa again, expected a name of its own",
    ),
    (
        "client: {subscribe_to_user_personal_channel: {enabled: true, personal_channel_namespace: user}}\n"
        "channel: {namespaces: [{name: user}]}\n"
        "tenants:\n- name: aa\n- name: bb\n  channel: {namespaces: [{name: news}]}",
        "f:6: tenants[1].client.subscribe_to_user_personal_channel.personal_channel_namespace: found user, "
        "expected the name of one of channel.namespaces",
    ),
    (
        "redis: {password: a, url: 'redis://h'}\ntenants:\n- name: aa\n  redis: {url: 'redis://u:p@i'}",
        "f:4: tenants[0].redis.password: found a second password (the url has one), expected one of them",
    ),
]


def mistakes(text: str, env: dict[str, str]) -> list[str]:
    """The lines that a file gives."""
    with pytest.raises(ConfigError) as caught:
        parse(text.encode(), "f", env)
    return str(caught.value).splitlines()


@pytest.mark.parametrize(("text", "line"), BETWEEN, ids=[str(number) for number in range(len(BETWEEN))])
def test_tenants_that_could_meet_are_refused(text: str, line: str) -> None:
    """Whatever would let one tenant have what is another's is told in one line."""
    assert mistakes(text, {}) == [line]


@pytest.mark.parametrize(("text", "line"), EACH, ids=[str(number) for number in range(len(EACH))])
def test_rules_hold_for_each_tenant(text: str, line: str) -> None:
    """A rule is judged on a tenant's complete settings, and told where the mistake was written."""
    assert mistakes(text, {}) == [line]


GOOD = [
    # The top level may be incomplete where each tenant completes it.
    "client: {subscribe_to_user_personal_channel: {enabled: true, personal_channel_namespace: user}}\n"
    "tenants:\n- name: aa\n  channel: {namespaces: [{name: user}]}",
    # Two tenants may share a store, and one endpoint of keys if each has its own issuer.
    f"redis: {{url: 'redis://h'}}\nclient: {{token: {{{JWKS}}}}}\ntenants:\n"
    "- {name: aa, client: {token: {issuer: x}}}\n- {name: bb, client: {token: {issuer: y}}}",
    # One tenant may inherit what another has in its own way.
    "http_api: {key: k}\nclient: {token: {hmac_secret_key: t}}\ntenants:\n- name: aa\n"
    "- {name: bb, http_api: {key: l}, client: {token: {hmac_secret_key: u}}}",
    # Certificates are for the store of the top level, and a tenant's store may have none.
    "redis: {url: 'rediss://h', tls: {verify: false}}\ntenants: [{name: aa, redis: {url: 'redis://i'}}]",
    "tenants: [{name: aa, issuers: [x, y]}, {name: bb, issuers: [z], client: {token: {issuer: z}}}]",
    "server: {region: eu}\ntenants: [{name: aa, region: us}, {name: bb}]",
    "channel: {namespaces: [{name: aa, history_ttl: 5s}]}\n"
    "tenants: [{name: tt, channel: {namespaces: [{name: aa, history_size: 0}]}}]",
]


@pytest.mark.parametrize("text", GOOD, ids=[str(number) for number in range(len(GOOD))])
def test_tenants_that_never_meet_are_good(text: str) -> None:
    """What only looks alike is no mistake."""
    assert parse(text.encode(), "f", {}).tenants


def test_production_judges_tenants_not_the_top_level() -> None:
    """The top level needs no keys where each tenant has its own, and a tenant without is told."""
    good = {"token": "k" * 32, "key": "a" * 16}
    text = (
        "tenants:\n"
        f"- {{name: aa, client: {{token: {{hmac_secret_key: {good['token']}}}}}, http_api: {{key: {good['key']}}}}}\n"
    )
    assert parse(text.encode(), "f", PRODUCTION).tenants[0].name == "aa"
    assert mistakes(text + "- name: bb\n", PRODUCTION) == [
        "f:3: tenants[1].client.token.hmac_secret_key: found no secret, expected at least 32 bytes in production",
        "f:3: tenants[1].http_api.key: found no secret, expected at least 16 bytes in production",
    ]
    open_to_all = text + "- {name: bb, client: {insecure: true}, http_api: {insecure: true}}\n"
    assert [line.split(": ")[1] for line in mistakes(open_to_all, PRODUCTION)][:2] == [
        "tenants[1].client.insecure",
        "tenants[1].http_api.insecure",
    ]


def test_production_lets_nobody_in_before_the_tenant_is_known() -> None:
    """An insecure top level is refused though each tenant is secure itself."""
    tenant = f"{{insecure: false, token: {{hmac_secret_key: {'k' * 32}}}}}"
    text = f"client: {{insecure: true}}\ntenants: [{{name: aa, client: {tenant}, http_api: {{key: {'a' * 16}}}}}]\n"
    assert mistakes(text, PRODUCTION) == ["f:1: client.insecure: found true, expected false in production"]


def test_no_mistake_of_tenants_shows_a_secret() -> None:
    """Keys that two tenants share are not repeated."""
    text = (
        "http_api: {key: Tr0ub4dor}\nclient: {token: {hmac_secret_key: Tr0ub4dor}}\ntenants: [{name: aa}, {name: bb}]"
    )
    assert not any("Tr0ub4dor" in line for line in mistakes(text, {}))


def test_every_tenant_rule_has_its_sentence() -> None:
    """The manual takes each rule's docstring, so each has one of one line."""
    for rule in RULES:
        assert rule.__doc__
        assert "\n" not in rule.__doc__.strip()
