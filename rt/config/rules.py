"""What must hold between keys. Each rule is a function whose docstring is the sentence of the manual.

A rule yields :class:`Finding` objects. One is dropped when a key it needs was already reported, so that a
mistake is told once.
"""

from __future__ import annotations

import ssl
from collections import Counter
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

from rt.config import pem
from rt.config.finding import Draft, Finding, Rule
from rt.config.problem import shown
from rt.config.reader import read_small

HMAC_KEY_SIZE = 32
API_KEY_SIZE = 16
PASSWORD_SIZE = 16


def ports_differ(draft: Draft) -> Iterator[Finding]:
    """`server.port` and `server.internal.port` differ."""
    server = draft.config.server
    if server.port == server.internal.port:
        yield Finding("server.internal.port", str(server.port), "another port than server.port", ("server.port",))


def pong_before_ping(draft: Draft) -> Iterator[Finding]:
    """`client.pong_timeout` is shorter than `client.ping_interval`."""
    client = draft.config.client
    if client.pong_timeout >= client.ping_interval:
        found, allowed = f"{client.pong_timeout:g}s", f"less than ping_interval ({client.ping_interval:g}s)"
        yield Finding("client.pong_timeout", found, allowed, ("client.ping_interval",))


def low_below_high(draft: Draft) -> Iterator[Finding]:
    """`delivery.low_watermark` is below `delivery.high_watermark`."""
    delivery = draft.config.delivery
    if delivery.low_watermark >= delivery.high_watermark:
        found, allowed = (
            f"{delivery.low_watermark} bytes",
            f"less than high_watermark ({delivery.high_watermark} bytes)",
        )
        yield Finding("delivery.low_watermark", found, allowed, ("delivery.high_watermark",))


def pacing_grows(draft: Draft) -> Iterator[Finding]:
    """`delivery.pacing.first` is not longer than `delivery.pacing.max`."""
    pacing = draft.config.delivery.pacing
    if pacing.first > pacing.max:
        found, allowed = f"{pacing.first:g}s", f"at most max ({pacing.max:g}s)"
        yield Finding("delivery.pacing.first", found, allowed, ("delivery.pacing.max",))


def names_unique(draft: Draft) -> Iterator[Finding]:
    """No two namespaces have the same name."""
    seen: Counter[str] = Counter()
    for index, namespace in enumerate(draft.config.channel.namespaces):
        seen[namespace.name] += 1
        if namespace.name and seen[namespace.name] > 1:
            yield Finding(f"channel.namespaces[{index}].name", f"{namespace.name} again", "a name of its own")


def history_whole(draft: Draft) -> Iterator[Finding]:
    """`history_size` and `history_ttl`, where both are written, are both zero or both not."""
    for path, namespace in draft.namespaces():
        both = {f"{path}.history_size", f"{path}.history_ttl"} <= draft.places.keys()
        if both and (namespace.history_size > 0) != (namespace.history_ttl > 0):
            found = f"{namespace.history_ttl:g}s with history_size {namespace.history_size}"
            yield Finding(f"{path}.history_ttl", found, "both zero or both not", (f"{path}.history_size",))


def meta_outlives(draft: Draft) -> Iterator[Finding]:
    """`history_meta_ttl` is not shorter than `history_ttl`."""
    for path, namespace in draft.namespaces():
        if namespace.history_meta_ttl < namespace.history_ttl:
            found, allowed = f"{namespace.history_meta_ttl:g}s", f"at least history_ttl ({namespace.history_ttl:g}s)"
            yield Finding(f"{path}.history_meta_ttl", found, allowed, (f"{path}.history_ttl",))


_NEED_HISTORY = (
    "force_positioning",
    "allow_positioning",
    "force_recovery",
    "allow_recovery",
)


def history_needed(draft: Draft) -> Iterator[Finding]:
    """Positioning, recovery (`cache` too) and `slow: catch_up` need history."""
    for path, namespace in draft.namespaces():
        if namespace.history:
            continue
        needs = (f"{path}.history_size", f"{path}.history_ttl")
        allowed = "false, or history_size and history_ttl above zero"
        for name in _NEED_HISTORY:
            # What was written counts: the object itself has force_recovery off already.
            if draft.written.get(f"{path}.{name}"):
                yield Finding(f"{path}.{name}", "true without history", allowed, needs)
        if namespace.force_recovery_mode == "cache":
            yield Finding(f"{path}.force_recovery_mode", "cache without history", "stream, or history", needs)
        if namespace.slow == "catch_up":
            allowed = "disconnect, drop_oldest, drop_newest or conflate, or history"
            yield Finding(f"{path}.slow", "catch_up without history", allowed, needs)


def no_silent_hole(draft: Draft) -> Iterator[Finding]:
    """With history `slow` leaves nothing out, but with `force_recovery_mode: cache` it may `conflate` by channel."""
    for path, namespace in draft.namespaces():
        if not namespace.history or namespace.slow not in ("drop_oldest", "drop_newest", "conflate"):
            continue
        needs = tuple(f"{path}.{name}" for name in ("history_size", "history_ttl", "force_recovery_mode"))
        found = f"{namespace.slow} with history"
        if namespace.slow != "conflate":
            allowed = "catch_up (the history is the queue), disconnect, or history_size: 0"
            yield Finding(f"{path}.slow", found, allowed, needs)
        elif namespace.force_recovery_mode != "cache":
            allowed = "catch_up (the history is the queue), history_size: 0, or force_recovery_mode: cache beside it"
            yield Finding(f"{path}.slow", found, allowed, needs)
        elif namespace.conflate_key:
            allowed = '"" (the newest of the channel is what is recovered), or history_size: 0'
            yield Finding(f"{path}.conflate_key", "a tag with history", allowed, (f"{path}.slow", *needs))


def key_of_conflate(draft: Draft) -> Iterator[Finding]:
    """`conflate_key` goes with `slow: conflate`."""
    for path, namespace in draft.namespaces():
        if namespace.conflate_key and namespace.slow != "conflate":
            yield Finding(f"{path}.conflate_key", f"slow: {namespace.slow}", "slow: conflate", (f"{path}.slow",))


def low_can_go_first(draft: Draft) -> Iterator[Finding]:
    """`priority: low` goes with a `slow` that can do with less, not with `disconnect`."""
    for path, namespace in draft.namespaces():
        if namespace.priority == "low" and namespace.slow == "disconnect":
            allowed = "slow: catch_up beside it" if namespace.history else "slow: drop_oldest, drop_newest or conflate"
            needs = tuple(f"{path}.{name}" for name in ("slow", "history_size", "history_ttl"))
            yield Finding(f"{path}.priority", "low with slow: disconnect", allowed, needs)


def bounds_can_be_met(draft: Draft) -> Iterator[Finding]:
    """What is kept for one subscription (`delivery.subscription`) is not more than may wait for a connection."""
    delivery = draft.config.delivery
    own = delivery.subscription
    pairs = (
        ("max_bytes", own.max_bytes, "high_watermark", delivery.high_watermark, " bytes"),
        ("max_messages", own.max_messages, "max_messages", delivery.max_messages, ""),
        ("max_age", own.max_age, "max_age", delivery.max_age, "s"),
    )
    for name, value, other, most, unit in pairs:
        path = f"delivery.subscription.{name}"
        if value > most and path in draft.places:  # a default gives way
            found, allowed = f"{value:.10g}{unit}", f"at most delivery.{other} ({most:.10g}{unit})"
            yield Finding(path, found, allowed, (f"delivery.{other}",))


def anonymous_too(draft: Draft) -> Iterator[Finding]:
    """A permission `..._for_anonymous` goes with the same one `..._for_client` or `..._for_subscriber`."""
    for path, namespace in draft.namespaces():
        for verb, others in _ANONYMOUS_TOO.items():
            if getattr(namespace, f"allow_{verb}_for_anonymous") and not any(getattr(namespace, o) for o in others):
                found, allowed = f"true without {others[0]}", f"{' or '.join(others)}: true beside it"
                needs = tuple(f"{path}.{other}" for other in others)
                yield Finding(f"{path}.allow_{verb}_for_anonymous", found, allowed, needs)


_ANONYMOUS_TOO = {"subscribe": ("allow_subscribe_for_client",)} | {
    verb: (f"allow_{verb}_for_client", f"allow_{verb}_for_subscriber") for verb in ("publish", "history", "presence")
}


def cache_begins_with_newest(draft: Draft) -> Iterator[Finding]:
    """`auto_cache_recover` goes with `force_recovery` and `force_recovery_mode: cache`."""
    for path, namespace in draft.namespaces():
        if namespace.auto_cache_recover and not (namespace.force_recovery and namespace.force_recovery_mode == "cache"):
            needs = tuple(f"{path}.{name}" for name in ("force_recovery", "force_recovery_mode", "history_size"))
            allowed = "force_recovery: true and force_recovery_mode: cache beside it"
            yield Finding(f"{path}.auto_cache_recover", "true without them", allowed, needs)


def presence_renewed_in_time(draft: Draft) -> Iterator[Finding]:
    """`client.presence_update_interval` is at most half of `redis.presence_ttl`."""
    interval, ttl = draft.config.client.presence_update_interval, draft.config.redis.presence_ttl
    if interval > ttl / 2:
        found, allowed = f"{interval:g}s", f"at most half of redis.presence_ttl ({ttl:g}s)"
        yield Finding("client.presence_update_interval", found, allowed, ("redis.presence_ttl",))


def personal_channel_exists(draft: Draft) -> Iterator[Finding]:
    """Personal channels are in a namespace of the config; `single_connection` needs `presence` there."""
    path, personal = "client.subscribe_to_user_personal_channel", draft.config.client.subscribe_to_user_personal_channel
    name = personal.personal_channel_namespace
    namespace = draft.config.channel.namespace(name)
    needs = (f"{path}.personal_channel_namespace", f"{path}.enabled", "channel.namespaces")
    if personal.enabled and namespace is None:
        yield Finding(needs[0], name, "the name of one of channel.namespaces", needs[1:])
    if personal.enabled and namespace is not None and personal.single_connection and not namespace.presence:
        where = next(key for key, its in draft.namespaces() if its is namespace)
        allowed = f"presence: true in {where}"
        yield Finding(f"{path}.single_connection", "true without presence", allowed, (f"{where}.presence", *needs))


def exact_or_regex(draft: Draft) -> Iterator[Finding]:
    """A token's audience and issuer are given exactly or by a regular expression, not both."""
    token = draft.config.client.token
    for name in ("audience", "issuer"):
        if getattr(token, name) and getattr(token, f"{name}_regex"):
            path = f"client.token.{name}"
            yield Finding(f"{path}_regex", f"{name} beside it", "one of them", (path,))


def hmac_keys_are_secrets(draft: Draft) -> Iterator[Finding]:
    """An HMAC key is no public key, certificate or JWK: everybody has those."""
    token = draft.config.client.token
    for name in ("hmac_secret_key", "hmac_previous_secret_key"):
        key = getattr(token, name)
        if key and pem.is_public(key):
            path = f"client.token.{name}"
            yield Finding(path, "a public key, certificate or JWK", "a secret that only your backend knows", ())


def previous_key_has_successor(draft: Draft) -> Iterator[Finding]:
    """`hmac_previous_secret_key` stands beside a `hmac_secret_key`."""
    token = draft.config.client.token
    if token.hmac_previous_secret_key and not token.hmac_secret_key:
        path = "client.token.hmac_previous_secret_key"
        yield Finding(path, "no hmac_secret_key beside it", "both keys", ("client.token.hmac_secret_key",))


def store_settings_apply(draft: Draft) -> Iterator[Finding]:
    """`redis.password` stands beside a URL without one that is not `embedded`; `redis.tls` beside a `rediss://` URL."""
    redis = draft.config.redis
    if redis.password and redis.url == "embedded":
        yield Finding("redis.password", "a password for the embedded store", "a url beside it", ("redis.url",))
    elif redis.password and urlsplit(redis.url).password:
        yield Finding("redis.password", "a second password (the url has one)", "one of them", ("redis.url",))
    if not redis.url.startswith("rediss:"):
        set_for_tls = {"ca_file": redis.tls.ca_file is not None, "verify": not redis.tls.verify}
        for name in (name for name, is_set in set_for_tls.items() if is_set):
            if f"redis.tls.{name}" in draft.inherited:
                continue  # meant for the store of the top level
            yield Finding(f"redis.tls.{name}", "a store without TLS", "a rediss:// url beside it", ("redis.url",))


def certificates_load(draft: Draft) -> Iterator[Finding]:
    """Certificates and keys can be read, and belong together."""
    tls, ca_file = draft.config.server.tls, draft.config.redis.tls.ca_file
    if tls is not None and tls.cert_file and tls.key_file:
        needs = ("server.tls.cert_file", "server.tls.key_file")
        unreadable = [path for path, file in zip(needs, (tls.cert_file, tls.key_file), strict=True) if _reason(file)]
        for path in unreadable:
            yield Finding(path, _reason(getattr(tls, path.rpartition(".")[2])), "a readable file in PEM")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        if not unreadable and not _loads(lambda: context.load_cert_chain(tls.cert_file, tls.key_file, lambda: "")):
            allowed = "a certificate and its own key without a passphrase, in PEM"
            yield Finding("server.tls", "files that TLS cannot use", allowed, needs)
    if ca_file is not None:
        trust = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        reason = _reason(ca_file)
        if reason or not _loads(lambda: trust.load_verify_locations(ca_file)):
            yield Finding("redis.tls.ca_file", reason or "a file without certificates", "certificates in PEM")


def _reason(file: str) -> str:
    """Why a file cannot be read; empty when it can."""
    try:
        read_small(file, 1)
    except OSError as error:
        return f"a file that cannot be read ({error.strerror})"
    return ""


def _loads(load: Callable[[], None]) -> bool:
    try:
        load()
    except (OSError, ValueError):  # ssl.SSLError is an OSError; an endless passphrase a ValueError
        return False
    return True


def password_of_its_own(draft: Draft) -> Iterator[Finding]:
    """`server.internal.admin.password` is no key that tokens are signed with or the API is called with."""
    config, path = draft.config, "server.internal.admin.password"
    password = config.server.internal.admin.password
    keys = {
        "client.token.hmac_secret_key": config.client.token.hmac_secret_key,
        "http_api.key": config.http_api.key,
    }
    for key, secret in keys.items():
        if password and password == secret:
            yield Finding(path, f"the same as {key}", "a secret of its own", (key,))


def not_insecure(draft: Draft) -> Iterator[Finding]:
    """`client.insecure`, `http_api.insecure` and `server.demo` are off."""
    config = draft.config
    allowed = "false in production"
    if config.client.insecure:
        yield Finding("client.insecure", "true", allowed)
    if config.http_api.insecure:
        yield Finding("http_api.insecure", "true", allowed)
    if config.server.demo:
        yield Finding("server.demo", "true", allowed)


def origins_named(draft: Draft) -> Iterator[Finding]:
    """`client.allowed_origins` lets in no page of any host: neither `*` nor `https://*`."""
    for index, origin in enumerate(draft.config.client.allowed_origins):
        if origin == "*" or origin.partition("://")[2].partition(":")[0] == "*":
            yield Finding(f"client.allowed_origins[{index}]", shown(origin), "named hosts in production")


def keys_strong(draft: Draft) -> Iterator[Finding]:
    """HMAC keys have at least 32 bytes, the API key 16; only a server for anonymous users may lack a token key."""
    client, api = draft.config.client, draft.config.http_api
    token = client.token
    public = token.rsa_public_key or token.ecdsa_public_key or token.jwks_public_endpoint
    keyless = client.allow_anonymous_connect_without_token or bool(public)
    secrets = [
        ("client.token.hmac_secret_key", token.hmac_secret_key, HMAC_KEY_SIZE, keyless),
        ("client.token.hmac_previous_secret_key", token.hmac_previous_secret_key, HMAC_KEY_SIZE, True),
        ("http_api.key", api.key, API_KEY_SIZE, False),
    ]
    for path, secret, size, may_lack in secrets:
        length = len(secret.encode())
        if length < size and not (may_lack and not secret):
            found = f"a secret of {length} bytes" if secret else "no secret"
            yield Finding(path, found, f"at least {size} bytes in production")


def password_long(draft: Draft) -> Iterator[Finding]:
    """`server.internal.admin.password`, where there is one, has at least 16 bytes."""
    length = len(draft.config.server.internal.admin.password.encode())
    if 0 < length < PASSWORD_SIZE:
        found, allowed = f"a secret of {length} bytes", f"at least {PASSWORD_SIZE} bytes in production"
        yield Finding("server.internal.admin.password", found, allowed)


def store_checked(draft: Draft) -> Iterator[Finding]:
    """The certificate of a `rediss://` store is verified."""
    redis = draft.config.redis
    if redis.url.startswith("rediss:") and not redis.tls.verify:
        yield Finding("redis.tls.verify", "false", "true in production")


RULES: tuple[Rule, ...] = (
    ports_differ,
    pong_before_ping,
    low_below_high,
    pacing_grows,
    names_unique,
    history_whole,
    meta_outlives,
    history_needed,
    no_silent_hole,
    key_of_conflate,
    low_can_go_first,
    bounds_can_be_met,
    cache_begins_with_newest,
    anonymous_too,
    presence_renewed_in_time,
    personal_channel_exists,
    exact_or_regex,
    hmac_keys_are_secrets,
    previous_key_has_successor,
    store_settings_apply,
    certificates_load,
    password_of_its_own,
)
PRODUCTION: tuple[Rule, ...] = (not_insecure, origins_named, keys_strong, password_long, store_checked)
