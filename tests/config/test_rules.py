"""Rules between keys: each broken one is told at the key to change, and only there."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from rt.config import Config, ConfigError, parse
from rt.config.rules import PRODUCTION, RULES
from tests.config.publics import ec_key, rsa_key

OFF = "f:1: channel.without_namespace."
PERSONAL = "client.subscribe_to_user_personal_channel"
NO_HISTORY = "true without history, expected false, or history_size and history_ttl above zero"

BROKEN = [
    ("server: {port: 9000}", "f:1: server.internal.port: found 9000, expected another port than server.port"),
    ("client: {pong_timeout: 25s}", "f:1: client.pong_timeout: found 25s, expected less than ping_interval (25s)"),
    ("client:\n  ping_interval: 8s", "f:2: client.pong_timeout: found 8s, expected less than ping_interval (8s)"),
    (
        "delivery: {low_watermark: 1MiB}",
        "f:1: delivery.low_watermark: found 1048576 bytes, expected less than high_watermark (1048576 bytes)",
    ),
    ("delivery: {pacing: {max: 100ms}}", "f:1: delivery.pacing.first: found 0.5s, expected at most max (0.1s)"),
    (
        "channel:\n  namespaces:\n  - name: aa\n  - name: aa",
        "f:4: channel.namespaces[1].name: found aa again, expected a name of its own",
    ),
    (
        "channel: {without_namespace: {history_size: 0, history_ttl: 5s}}",
        f"{OFF}history_ttl: found 5s with history_size 0, expected both zero or both not",
    ),
    (
        "channel: {without_namespace: {history_size: 1, history_ttl: 0}}",
        f"{OFF}history_ttl: found 0s with history_size 1, expected both zero or both not",
    ),
    (
        "channel: {without_namespace: {history_meta_ttl: 60s}}",
        f"{OFF}history_meta_ttl: found 60s, expected at least history_ttl (120s)",
    ),
    (
        "channel: {without_namespace: {history_size: 0, force_recovery: true}}",
        f"{OFF}force_recovery: found {NO_HISTORY}",
    ),
    (
        "channel: {without_namespace: {history_size: 0, allow_recovery: true}}",
        f"{OFF}allow_recovery: found {NO_HISTORY}",
    ),
    (
        "channel: {without_namespace: {history_ttl: 0s, force_positioning: true}}",
        f"{OFF}force_positioning: found {NO_HISTORY}",
    ),
    (
        "channel: {without_namespace: {history_size: 0, force_recovery_mode: cache}}",
        f"{OFF}force_recovery_mode: found cache without history, expected stream, or history",
    ),
    (
        "channel: {without_namespace: {history_size: 0, slow: catch_up}}",
        f"{OFF}slow: found catch_up without history, "
        "expected disconnect, drop_oldest, drop_newest or conflate, or history",
    ),
    (
        "channel: {without_namespace: {slow: drop_oldest}}",
        f"{OFF}slow: found drop_oldest with history, "
        "expected catch_up (the history is the queue), disconnect, or history_size: 0",
    ),
    (
        "channel: {without_namespace: {slow: drop_newest, force_recovery: false}}",
        f"{OFF}slow: found drop_newest with history, "
        "expected catch_up (the history is the queue), disconnect, or history_size: 0",
    ),
    (
        "channel: {without_namespace: {slow: conflate}}",
        f"{OFF}slow: found conflate with history, "
        "expected catch_up (the history is the queue), history_size: 0, or force_recovery_mode: cache beside it",
    ),
    (
        "channel: {without_namespace: {slow: conflate, force_recovery_mode: cache, conflate_key: symbol}}",
        f"{OFF}conflate_key: found a tag with history, "
        'expected "" (the newest of the channel is what is recovered), or history_size: 0',
    ),
    (
        "channel: {without_namespace: {conflate_key: symbol}}",
        f"{OFF}conflate_key: found slow: catch_up, expected slow: conflate",
    ),
    (
        "channel: {without_namespace: {history_size: 0, slow: drop_oldest, conflate_key: symbol}}",
        f"{OFF}conflate_key: found slow: drop_oldest, expected slow: conflate",
    ),
    (
        "channel: {without_namespace: {history_size: 0, priority: low}}",
        f"{OFF}priority: found low with slow: disconnect, expected slow: drop_oldest, drop_newest or conflate",
    ),
    (
        "channel: {without_namespace: {slow: disconnect, priority: low}}",
        f"{OFF}priority: found low with slow: disconnect, expected slow: catch_up beside it",
    ),
    (
        "delivery: {subscription: {max_bytes: 2MiB}}",
        "f:1: delivery.subscription.max_bytes: found 2097152 bytes, "
        "expected at most delivery.high_watermark (1048576 bytes)",
    ),
    (
        "delivery: {max_messages: 100, subscription: {max_messages: 101}}",
        "f:1: delivery.subscription.max_messages: found 101, expected at most delivery.max_messages (100)",
    ),
    (
        "delivery: {subscription: {max_age: 31s}}",
        "f:1: delivery.subscription.max_age: found 31s, expected at most delivery.max_age (30s)",
    ),
    (
        "channel: {without_namespace: {allow_publish_for_anonymous: true}}",
        f"{OFF}allow_publish_for_anonymous: found true without allow_publish_for_client, "
        "expected allow_publish_for_client or allow_publish_for_subscriber: true beside it",
    ),
    (
        'client: {token: {hmac_secret_key: "-----BEGIN PUBLIC KEY-----\\nMFkw\\n-----END PUBLIC KEY-----"}}',
        "f:1: client.token.hmac_secret_key: found a public key, certificate or JWK, "
        "expected a secret that only your backend knows",
    ),
    (
        'client: {token: {hmac_secret_key: "-----BEGIN  PUBLIC\\tKEY-----\\nMFkw\\n-----END PUBLIC KEY-----"}}',
        "f:1: client.token.hmac_secret_key: found a public key, certificate or JWK, "
        "expected a secret that only your backend knows",
    ),
    (
        f"client: {{token: {{hmac_secret_key: {''.join(ec_key().splitlines()[1:-1])}}}}}",
        "f:1: client.token.hmac_secret_key: found a public key, certificate or JWK, "
        "expected a secret that only your backend knows",
    ),
    (
        "client: {token: {hmac_previous_secret_key: a}}",
        "f:1: client.token.hmac_previous_secret_key: found no hmac_secret_key beside it, expected both keys",
    ),
    (
        "channel: {without_namespace: {allow_presence_for_anonymous: true}}",
        f"{OFF}allow_presence_for_anonymous: found true without allow_presence_for_client, "
        "expected allow_presence_for_client or allow_presence_for_subscriber: true beside it",
    ),
    (
        "channel: {without_namespace: {auto_cache_recover: true}}",
        f"{OFF}auto_cache_recover: found true without them, "
        "expected force_recovery: true and force_recovery_mode: cache beside it",
    ),
    (
        "channel: {without_namespace: {auto_cache_recover: true, force_recovery_mode: cache, force_recovery: false}}",
        f"{OFF}auto_cache_recover: found true without them, "
        "expected force_recovery: true and force_recovery_mode: cache beside it",
    ),
    (
        "client: {presence_update_interval: 31s}",
        "f:1: client.presence_update_interval: found 31s, expected at most half of redis.presence_ttl (60s)",
    ),
    (
        "redis: {presence_ttl: 40s}",
        "f:1: client.presence_update_interval: found 25s, expected at most half of redis.presence_ttl (40s)",
    ),
    (
        "client:\n  subscribe_to_user_personal_channel: {enabled: true, personal_channel_namespace: user}",
        f"f:2: {PERSONAL}.personal_channel_namespace: found user, expected the name of one of channel.namespaces",
    ),
    (
        "client:\n  subscribe_to_user_personal_channel: {enabled: true, single_connection: true}",
        f"f:2: {PERSONAL}.single_connection: found true without presence, "
        "expected presence: true in channel.without_namespace",
    ),
    (
        "client: {subscribe_to_user_personal_channel: {enabled: true, personal_channel_namespace: user, "
        "single_connection: true}}\nchannel: {namespaces: [{name: news, presence: true}, {name: user}]}",
        f"f:1: {PERSONAL}.single_connection: found true without presence, "
        "expected presence: true in channel.namespaces[1]",
    ),
    (
        "client: {token: {audience: a, audience_regex: a}}",
        "f:1: client.token.audience_regex: found audience beside it, expected one of them",
    ),
    (
        "client: {token: {issuer: a, issuer_regex: a}}",
        "f:1: client.token.issuer_regex: found issuer beside it, expected one of them",
    ),
    ("redis: {password: a}", "f:1: redis.password: found a password for the embedded store, expected a url beside it"),
    (
        "redis: {url: 'redis://u:p@h', password: a}",
        "f:1: redis.password: found a second password (the url has one), expected one of them",
    ),
    (
        "redis: {url: 'redis://h', tls: {verify: false}}",
        "f:1: redis.tls.verify: found a store without TLS, expected a rediss:// url beside it",
    ),
    (
        "redis: {url: 'rediss://h', tls: {ca_file: /nowhere}}",
        "f:1: redis.tls.ca_file: found a file that cannot be read (No such file or directory), "
        "expected certificates in PEM",
    ),
    (
        "server: {internal: {admin: {password: same}}}\nhttp_api: {key: same}",
        "f:1: server.internal.admin.password: found the same as http_api.key, expected a secret of its own",
    ),
]

SAFE = {"RT_CLIENT_TOKEN_HMAC_SECRET_KEY": "k" * 32, "RT_HTTP_API_KEY": "a" * 16, "RT_SERVER_MODE": "production"}
INSECURE = [
    ("client: {insecure: true}", "f:1: client.insecure: found true, expected false in production"),
    ("http_api: {insecure: true}", "f:1: http_api.insecure: found true, expected false in production"),
    ("server: {demo: true}", "f:1: server.demo: found true, expected false in production"),
    ("client: {allowed_origins: ['*']}", "f:1: client.allowed_origins[0]: found *, expected named hosts in production"),
    (
        "client: {allowed_origins: ['https://a.com', 'https://*:8443']}",
        "f:1: client.allowed_origins[1]: found https://*:8443, expected named hosts in production",
    ),
    (
        "client: {token: {hmac_previous_secret_key: short}}",
        "f:1: client.token.hmac_previous_secret_key: found a secret of 5 bytes, "
        "expected at least 32 bytes in production",
    ),
    (
        "redis: {url: 'rediss://h', tls: {verify: false}}",
        "f:1: redis.tls.verify: found false, expected true in production",
    ),
    (
        "server: {internal: {admin: {password: fifteen-bytes..}}}",
        "f:1: server.internal.admin.password: found a secret of 15 bytes, expected at least 16 bytes in production",
    ),
]


def mistakes(text: str, env: dict[str, str]) -> list[str]:
    """The lines that a file gives."""
    with pytest.raises(ConfigError) as caught:
        parse(text.encode(), "f", env)
    return str(caught.value).splitlines()


@pytest.mark.parametrize(("text", "line"), BROKEN, ids=[str(number) for number in range(len(BROKEN))])
def test_broken_rule_gives_its_line(text: str, line: str) -> None:
    """Values that are good alone and bad together are told in one line."""
    assert mistakes(text, {}) == [line]


@pytest.mark.parametrize(("text", "line"), INSECURE, ids=[str(number) for number in range(len(INSECURE))])
def test_production_refuses_what_is_insecure(text: str, line: str) -> None:
    """What development allows is a mistake in production, and nothing else is."""
    assert mistakes(text, SAFE) == [line]


@pytest.mark.parametrize(("text", "_"), [*INSECURE[:5], INSECURE[6]])
def test_development_allows_what_is_insecure(text: str, _: str) -> None:
    """The same files are good in development."""
    assert isinstance(parse(text.encode(), "f", {}), Config)


def test_production_wants_keys() -> None:
    """Without or with short keys production does not start; the line points at the mode if nothing else is written."""
    assert mistakes("server:\n  mode: production\n", {}) == [
        "f:1: client.token.hmac_secret_key: found no secret, expected at least 32 bytes in production",
        "f:1: http_api.key: found no secret, expected at least 16 bytes in production",
    ]
    short = mistakes("", SAFE | {"RT_CLIENT_TOKEN_HMAC_SECRET_KEY": "k" * 31, "RT_HTTP_API_KEY": "a" * 15})
    assert short == [
        "$RT_CLIENT_TOKEN_HMAC_SECRET_KEY: client.token.hmac_secret_key: "
        "found a secret of 31 bytes, expected at least 32 bytes in production",
        "$RT_HTTP_API_KEY: http_api.key: found a secret of 15 bytes, expected at least 16 bytes in production",
    ]


def test_production_for_anonymous_users_needs_no_token_key() -> None:
    """Where everybody is anonymous there are no tokens to verify."""
    text = b"client: {allow_anonymous_connect_without_token: true}"
    env = {name: value for name, value in SAFE.items() if "HMAC" not in name}
    assert parse(text, "f", env).client.token.hmac_secret_key == ""


@pytest.mark.parametrize(
    "key",
    [
        f"rsa_public_key: {json.dumps(rsa_key())}",
        f"ecdsa_public_key: {json.dumps(ec_key())}",
        "jwks_public_endpoint: 'https://id.example.com/keys'",
    ],
)
def test_production_with_public_keys_needs_no_secret_one(key: str) -> None:
    """Where tokens are signed with another kind of key there is no HMAC key to be strong."""
    env = {name: value for name, value in SAFE.items() if "HMAC" not in name}
    assert parse(f"client: {{token: {{{key}}}}}".encode(), "f", env).server.mode == "production"


def test_personal_channels_in_their_namespace_are_good() -> None:
    """A namespace with presence serves personal channels of one connection; what is off need not fit."""
    text = "{enabled: %s, personal_channel_namespace: %s, single_connection: true}"
    channel = "channel: {namespaces: [{name: user, presence: true}]}"
    for personal in (text % ("true", "user"), text % ("false", "nobody")):
        whole = f"client: {{subscribe_to_user_personal_channel: {personal}}}\n{channel}"
        assert parse(whole.encode(), "f", {}).channel.namespace("user")


def test_cache_may_begin_with_the_newest() -> None:
    """auto_cache_recover is good where every subscription recovers by cache."""
    text = b"channel: {without_namespace: {auto_cache_recover: true, force_recovery_mode: cache}}"
    assert parse(text, "f", {}).channel.without_namespace.auto_cache_recover


@pytest.mark.parametrize(
    "text",
    [
        "history_size: 0, slow: conflate, conflate_key: symbol, priority: low",
        "history_size: 0, slow: drop_oldest, priority: high, batch: 200ms",
        "history_size: 0, slow: drop_newest",
        "slow: conflate, force_recovery_mode: cache",
        "slow: catch_up, priority: low",
        "slow: disconnect, priority: high",
    ],
)
def test_policies_that_make_no_silent_hole_are_good(text: str) -> None:
    """Whatever is left out is of no history, or not what is recovered from it."""
    assert parse(f"channel: {{without_namespace: {{{text}}}}}".encode(), "f", {}).channel.without_namespace.slow


def test_a_default_gives_way_to_a_smaller_bound() -> None:
    """Only what was written can be a contradiction."""
    assert parse(b"delivery: {max_messages: 10, max_age: 1s}", "f", {}).delivery.subscription.max_messages == 256


def test_what_is_off_may_be_written() -> None:
    """Without history recovery may be said to be off, and a permission to read history is no promise."""
    text = b"channel: {without_namespace: {history_size: 0, force_recovery: false, allow_history_for_client: true}}"
    assert not parse(text, "f", {}).channel.without_namespace.force_recovery


def test_every_rule_has_its_sentence() -> None:
    """The manual takes each rule's docstring, so each has one of one line."""
    for rule in (*RULES, *PRODUCTION):
        assert rule.__doc__
        assert "\n" not in rule.__doc__.strip()


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A directory with cert.pem, its key.pem, another.pem (somebody else's key) and locked.pem (a passphrase on it)."""
    key, another = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
    pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    plain, locked = serialization.NoEncryption(), serialization.BestAvailableEncryption(b"secret")
    (tmp_path / "cert.pem").write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(pem))
    (tmp_path / "key.pem").write_bytes(key.private_bytes(pem, form, plain))
    (tmp_path / "another.pem").write_bytes(another.private_bytes(pem, form, plain))
    (tmp_path / "locked.pem").write_bytes(key.private_bytes(pem, form, locked))
    return tmp_path


def tls(directory: Path, cert: str, key: str) -> str:
    """A file whose server section names two files of ``directory``."""
    return f"server:\n  tls:\n    cert_file: {directory / cert}\n    key_file: {directory / key}\n"


def test_certificate_with_its_key_is_good(certificate: Path) -> None:
    """A certificate and its own key load; the same certificate may be the store's authority."""
    text = tls(certificate, "cert.pem", "key.pem")
    text += f"redis: {{url: 'rediss://h', tls: {{ca_file: {certificate / 'cert.pem'}}}}}\n"
    config = parse(text.encode(), "f", {})
    assert config.server.tls is not None
    assert config.server.tls.key_file == str(certificate / "key.pem")


@pytest.mark.parametrize("key", ["another.pem", "locked.pem", "cert.pem"])
def test_certificate_with_another_key_is_refused(certificate: Path, key: str) -> None:
    """Somebody else's key, a locked one (nobody is asked for the passphrase) or none at all is a mistake."""
    expected = "expected a certificate and its own key without a passphrase, in PEM"
    assert mistakes(tls(certificate, "cert.pem", key), {}) == [
        f"f:2: server.tls: found files that TLS cannot use, {expected}"
    ]


def test_unreadable_certificate_is_told_at_its_key(certificate: Path) -> None:
    """A file that is not there is told at the key that names it."""
    assert mistakes(tls(certificate, "cert.pem", "missing.pem"), {}) == [
        "f:4: server.tls.key_file: found a file that cannot be read (No such file or directory), "
        "expected a readable file in PEM"
    ]


def test_authority_without_certificates_is_refused(certificate: Path) -> None:
    """A key in place of the authority's certificates is a mistake."""
    text = f"redis: {{url: 'rediss://h', tls: {{ca_file: {certificate / 'key.pem'}}}}}"
    assert mistakes(text, {}) == [
        "f:1: redis.tls.ca_file: found a file without certificates, expected certificates in PEM"
    ]
