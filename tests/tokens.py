"""Tokens for tests, signed without the library that the server verifies them with."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from dataclasses import dataclass
from typing import Any

KEY = "an-hmac-secret-of-the-tests-0123456789abcdef"
PREVIOUS_KEY = "the-hmac-secret-before-it-0123456789abcdef0"

HASHES = {"HS256": "sha256", "HS384": "sha384", "HS512": "sha512"}


@dataclass(frozen=True)
class Settings:
    """The ``client.token`` part of a configuration."""

    hmac_secret_key: str = ""
    hmac_previous_secret_key: str = ""
    rsa_public_key: str = ""
    ecdsa_public_key: str = ""
    jwks_public_endpoint: str = ""
    audience: str = ""
    audience_regex: str = ""
    issuer: str = ""
    issuer_regex: str = ""
    user_id_claim: str = ""
    leeway: float = 0.0


def encode(part: bytes) -> str:
    """base64url without padding (RFC 7515 section 2)."""
    return base64.urlsafe_b64encode(part).rstrip(b"=").decode()


def sign(claims: dict[str, Any], key: str = KEY, alg: str = "HS256", **header: Any) -> str:
    """A compact JWS of ``claims``. An ``alg`` without a hash of ours gets an empty signature."""
    head = encode(json.dumps({"alg": alg, "typ": "JWT", **header}).encode())
    signed = f"{head}.{encode(json.dumps(claims).encode())}"
    if alg not in HASHES:
        return f"{signed}."
    return f"{signed}.{encode(hmac.new(key.encode(), signed.encode(), getattr(hashlib, HASHES[alg])).digest())}"


def connection_token(user: str = "42", *, key: str = KEY, **claims: Any) -> str:
    """A connection token for ``user`` that is good for an hour; ``claims`` add to it or change it."""
    return sign({"sub": user, "exp": int(time.time()) + 3600, **claims}, key)


def subscription_token(channel: str, user: str = "42", *, key: str = KEY, **claims: Any) -> str:
    """A subscription token for ``channel`` that is good for an hour."""
    return sign({"sub": user, "channel": channel, "exp": int(time.time()) + 3600, **claims}, key)
