"""What must hold between tenants, so that none of them ever gets what is another's."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rt.config.client import Token
from rt.config.finding import Draft, Finding, Rule
from rt.config.problem import shown
from rt.config.schema import Tenant


def _named(draft: Draft) -> Iterator[tuple[str, Tenant]]:
    return ((f"tenants[{index}]", tenant) for index, tenant in enumerate(draft.config.tenants))


def tenants_told_apart(draft: Draft) -> Iterator[Finding]:
    """No two tenants have the same name, host or issuer."""
    seen: set[tuple[str, str]] = set()
    for path, tenant in _named(draft):
        told = [(f"{path}.name", "name", tenant.name)] if tenant.name else []
        told += [(f"{path}.hosts[{index}]", "host", host) for index, host in enumerate(tenant.hosts)]
        told += [(f"{path}.issuers[{index}]", "issuer", issuer) for index, issuer in enumerate(tenant.issuers)]
        for where, what, text in told:
            if (what, text) in seen:
                yield Finding(where, f"{shown(text)} again", "what no other tenant has")
            seen.add((what, text))


def token_keys_own(draft: Draft) -> Iterator[Finding]:
    """No two tenants accept the same token key; a JWKS endpoint may be shared if each names an `issuer` of its own."""
    seen: dict[str, list[Tenant]] = {}
    for path, tenant in _named(draft):
        for name, key in _token_keys(tenant.client.token):
            fetched = name == "jwks_public_endpoint"
            others = [other for other in seen.get(key, ()) if not (fetched and _issuers_differ(tenant, other))]
            if others:
                allowed = "another endpoint, or an issuer of its own beside it" if fetched else "a key of its own"
                top = f"client.token.{name}"
                yield Finding(f"{path}.{top}", f"what {others[0].name} accepts too", allowed, (top,))
        for key in {key for _, key in _token_keys(tenant.client.token)}:
            seen.setdefault(key, []).append(tenant)


def _token_keys(token: Token) -> Iterator[tuple[str, str]]:
    names = (
        "hmac_secret_key",
        "hmac_previous_secret_key",
        "rsa_public_key",
        "ecdsa_public_key",
        "jwks_public_endpoint",
    )
    return ((name, getattr(token, name)) for name in names if getattr(token, name))


def _issuers_differ(one: Tenant, other: Tenant) -> bool:
    issuers = {one.client.token.issuer, other.client.token.issuer}
    return len(issuers) == 2 and "" not in issuers


def api_keys_own(draft: Draft) -> Iterator[Finding]:
    """No two tenants have the same `http_api.key`, so none is inherited by two."""
    seen: dict[str, str] = {}
    for path, tenant in _named(draft):
        key = tenant.http_api.key
        if key and key in seen:
            yield Finding(
                f"{path}.http_api.key", f"what {seen[key]} accepts too", "a key of its own", ("http_api.key",)
            )
        seen.setdefault(key, tenant.name)


def issuers_accepted(draft: Draft) -> Iterator[Finding]:
    """A tenant's `issuers` are among those that its `client.token.issuer` or `issuer_regex` lets in."""
    for path, tenant in _named(draft):
        token = tenant.client.token
        name = "issuer" if token.issuer else "issuer_regex"
        top = f"client.token.{name}"
        for index, issuer in enumerate(tenant.issuers):
            fits = issuer == token.issuer if token.issuer else re.fullmatch(token.issuer_regex or ".*", issuer)
            if not fits:
                allowed = f"one that the tenant's {top} lets in"
                yield Finding(f"{path}.issuers[{index}]", shown(issuer), allowed, (f"{path}.{top}", top))


def embedded_store_is_one(draft: Draft) -> Iterator[Finding]:
    """There is one embedded store, the top level's: a tenant inherits it, and names no `redis.state_dir` of its own."""
    for path, tenant in _named(draft):
        if f"{path}.redis.state_dir" in draft.places:
            yield Finding(f"{path}.redis.state_dir", "a directory for one tenant", "redis.state_dir at the top level")
        if tenant.redis.url == "embedded" and draft.config.redis.url != "embedded":
            allowed = "embedded at the top level too, or another url"
            yield Finding(f"{path}.redis.url", "embedded for one tenant", allowed, ("redis.url",))


def somebody_served(draft: Draft) -> Iterator[Finding]:
    """Where there are tenants, at least one is served in this server's region."""
    config = draft.config
    if config.tenants and not config.served():
        needs = tuple(f"{path}.region" for path, _ in _named(draft))
        allowed = "the region of one of the tenants"
        yield Finding("server.region", f"{shown(config.server.region)}, where no tenant lives", allowed, needs)


def no_demo(draft: Draft) -> Iterator[Finding]:
    """The demo page (`server.demo`) is for a server without tenants."""
    if draft.config.tenants and draft.config.server.demo:
        yield Finding("server.demo", "true beside tenants", "false, or no tenants", ("tenants",))


RULES: tuple[Rule, ...] = (
    tenants_told_apart,
    token_keys_own,
    api_keys_own,
    issuers_accepted,
    embedded_store_is_one,
    somebody_served,
    no_demo,
)
