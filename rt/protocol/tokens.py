"""Tokens: JWTs that an application signs to say who connects and what they may subscribe to.

The algorithms come from the kind of key in the configuration, never from the token: with an HMAC secret they are HS256,
HS384 and HS512. Size and form are checked before any cryptography, the signature before any claim is believed. PyJWT
does the signature and nothing else; claims are judged here, at a time that the caller gives. Nothing of a token
appears in the text of an exception.
"""

from __future__ import annotations

import base64
import re
from typing import NamedTuple, Protocol

import msgspec
from jwt.algorithms import HMACAlgorithm
from jwt.exceptions import InvalidKeyError

from rt import errors
from rt.protocol import payload

SIZE_MAX = 8 * 1024
# Beyond this every integer is a float too; as a time it is far behind or ahead of every clock.
_TIME_MAX = 2**53
_FORM = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)")
_ABSENT = msgspec.Raw()
_HMAC = {
    "HS256": HMACAlgorithm(HMACAlgorithm.SHA256),
    "HS384": HMACAlgorithm(HMACAlgorithm.SHA384),
    "HS512": HMACAlgorithm(HMACAlgorithm.SHA512),
}


class TokenSettings(Protocol):
    """The ``client.token`` part of the configuration; an empty key is no key.

    ``leeway`` is how far, in seconds, the clocks of hosts may be apart.
    """

    @property
    def hmac_secret_key(self) -> str: ...
    @property
    def hmac_previous_secret_key(self) -> str: ...
    @property
    def leeway(self) -> float: ...


class Policy(Protocol):
    """What the ``client`` part of the configuration says about who may connect."""

    @property
    def insecure(self) -> bool: ...
    @property
    def allow_anonymous_connect_without_token(self) -> bool: ...
    @property
    def disallow_anonymous_connection_tokens(self) -> bool: ...


class TokenExpired(Exception):
    """The token was good, or will be: ``exp`` or ``nbf`` says not now. A fresh one will do."""


class TokenInvalid(Exception):
    """The token is not one of ours, or not for this. The text is one of a few fixed words."""


class Identity(NamedTuple):
    """Who connects. ``user`` is empty for the anonymous; ``info`` is compact JSON, empty for none.

    ``expire_at`` is when the right to be connected ends, in seconds since 1970; None is never.
    """

    user: str
    info: bytes = b""
    expire_at: float | None = None


class Grant(NamedTuple):
    """What a subscription token grants to ``user``. ``info`` and ``expire_at`` as in :class:`Identity`.

    ``client`` is the one connection it is meant for, empty for any.
    """

    user: str
    channel: str
    info: bytes = b""
    expire_at: float | None = None
    client: str = ""


class _Header(msgspec.Struct, frozen=True, gc=False):
    alg: str
    crit: msgspec.Raw = _ABSENT


class _Claims(msgspec.Struct, frozen=True, gc=False):
    sub: str = ""
    exp: int | float | None = None
    nbf: int | float | None = None
    iat: int | float | None = None
    expire_at: int | float | None = None
    channel: str | None = None
    client: str | None = None
    info: msgspec.Raw = _ABSENT


_header = msgspec.json.Decoder(_Header).decode
_claims = msgspec.json.Decoder(_Claims).decode


class Verifier:
    """Judges tokens by the keys of one configuration: the current one, and the previous one while keys are rotated.

    A key that looks like a public key is refused (``ValueError``): as a secret it would be one that everybody has.
    """

    __slots__ = ("_keys", "_leeway")

    def __init__(self, settings: TokenSettings) -> None:
        self._leeway = settings.leeway
        self._keys = [_key(key) for key in (settings.hmac_secret_key, settings.hmac_previous_secret_key) if key]

    def connection(self, token: str, now: float) -> Identity:
        """Whom a connection token names; :class:`TokenInvalid` or :class:`TokenExpired`. ``now`` is seconds since
        1970."""
        claims = self._judged(token, now)
        if claims.channel is not None:
            raise TokenInvalid("purpose")
        return Identity(claims.sub, _info(claims), _expire_at(claims))

    def subscription(self, token: str, now: float) -> Grant:
        """What a subscription token grants; :class:`TokenInvalid` or :class:`TokenExpired`.

        The caller compares user, channel and client with the subscription at hand.
        """
        claims = self._judged(token, now)
        if not claims.channel:
            raise TokenInvalid("purpose")
        return Grant(claims.sub, claims.channel, _info(claims), _expire_at(claims), claims.client or "")

    def over(self, expire_at: float | None, now: float) -> bool:
        """Whether a right that ends at ``expire_at`` has ended."""
        return expire_at is not None and expire_at + self._leeway <= now

    def _judged(self, token: str, now: float) -> _Claims:
        claims = self._signed(token)
        if claims.exp is not None and self.over(_seconds(claims.exp), now):
            raise TokenExpired("exp")
        if claims.nbf is not None and _seconds(claims.nbf) - self._leeway > now:
            raise TokenExpired("nbf")
        return claims

    def _signed(self, token: str) -> _Claims:
        """The claims of a token with a good signature."""
        if len(token) > SIZE_MAX:
            raise TokenInvalid("size")
        form = _FORM.fullmatch(token)
        if form is None:
            raise TokenInvalid("form")
        try:
            header, body, signature = (_unpacked(part) for part in form.groups())
            algorithm = _algorithm(_header(header))
        except (ValueError, RecursionError):
            raise TokenInvalid("form") from None
        signed = token[: form.end(2)].encode()
        if not any(algorithm.verify(signed, key, signature) for key in self._keys):
            raise TokenInvalid("signature")
        try:
            return _claims(body)
        except (ValueError, RecursionError):
            raise TokenInvalid("claims") from None


def identify(token: str, verifier: Verifier, policy: Policy, now: float) -> Identity:
    """Who connects, by token or without one.

    :class:`errors.Refused`: 109 for a token that is expired or not valid yet, 110 where its ``expire_at`` has passed.
    :class:`errors.Closing`: 3500 for an invalid token, 3507 for one without a user where that is not wanted, 3501 for
    none where one is needed.
    """
    if not token:
        if policy.allow_anonymous_connect_without_token or policy.insecure:
            return Identity("")
        raise errors.Closing(errors.BAD_COMMAND, "a token is needed to connect")
    try:
        identity = verifier.connection(token, now)
    except TokenExpired:
        raise errors.Refused(errors.TOKEN_EXPIRED) from None
    except TokenInvalid as invalid:
        raise errors.Closing(errors.INVALID_TOKEN, f"connection token: {invalid}") from None
    if not identity.user and policy.disallow_anonymous_connection_tokens:
        raise errors.Closing(errors.FORBIDDEN, "a connection token must name a user")
    if verifier.over(identity.expire_at, now):
        raise errors.Refused(errors.EXPIRED)
    return identity


def permit(token: str, verifier: Verifier, *, channel: str, user: str, client: str, now: float) -> Grant:
    """The right to subscribe that a token gives, if it was made for this channel, user and connection.

    :class:`errors.Refused`: 109 expired or not valid yet, 103 invalid, 110 where its ``expire_at`` has passed.
    :class:`errors.Closing` (3500): a good token, but of another channel, user or connection.
    """
    try:
        grant = verifier.subscription(token, now)
    except TokenExpired:
        raise errors.Refused(errors.TOKEN_EXPIRED) from None
    except TokenInvalid as invalid:
        raise errors.Refused(errors.PERMISSION_DENIED, f"subscription token: {invalid}") from None
    if grant.channel != channel or grant.user != user or grant.client not in ("", client):
        raise errors.Closing(errors.INVALID_TOKEN, "subscription token: of another channel, user or client")
    if verifier.over(grant.expire_at, now):
        raise errors.Refused(errors.EXPIRED)
    return grant


def sign(claims: dict[str, object], key: str, algorithm: str = "HS256") -> str:
    """A token with these claims. ``ValueError`` for a key or an algorithm that :class:`Verifier` would not take."""
    if algorithm not in _HMAC or not key:
        raise ValueError("tokens are signed by a secret, with HS256, HS384 or HS512")
    head = msgspec.json.encode({"alg": algorithm, "typ": "JWT"})
    signed = b"%b.%b" % (_packed(head), _packed(msgspec.json.encode(claims)))
    signature = _packed(_HMAC[algorithm].sign(signed, _key(key)))
    return (signed + b"." + signature).decode()


def connection_token(user: str, key: str, *, now: float, ttl: float | None = None) -> str:
    """A token to connect as ``user``, good for ``ttl`` seconds from ``now``, or for ever."""
    return sign({"sub": user, **_times(now, ttl)}, key)


def subscription_token(user: str, channel: str, key: str, *, now: float, ttl: float | None = None) -> str:
    """A token for ``user`` to subscribe to ``channel``, good for ``ttl`` seconds from ``now``, or for ever."""
    return sign({"sub": user, "channel": channel, **_times(now, ttl)}, key)


def _times(now: float, ttl: float | None) -> dict[str, int]:
    return {"iat": int(now)} if ttl is None else {"iat": int(now), "exp": int(now + ttl)}


def _algorithm(header: _Header) -> HMACAlgorithm:
    """The algorithm, if a key of ours can have it; a token that needs us to understand more is refused (RFC 7515,
    4.1.11)."""
    algorithm = _HMAC.get(header.alg)
    if algorithm is None or bytes(header.crit):
        raise TokenInvalid("algorithm")
    return algorithm


def _key(key: str) -> bytes:
    try:
        return _HMAC["HS256"].prepare_key(key)
    except InvalidKeyError:
        raise ValueError("an HMAC secret must not be a public key, a certificate or a JWK") from None


def _packed(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def _unpacked(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def _seconds(moment: int | float) -> float:
    return float(max(-_TIME_MAX, min(moment, _TIME_MAX)))


def _expire_at(claims: _Claims) -> float | None:
    """When the right ends: ``expire_at`` where it is given (0 is never), else with the token."""
    moment = claims.exp if claims.expire_at is None else claims.expire_at or None
    return None if moment is None else _seconds(moment)


def _info(claims: _Claims) -> bytes:
    if not bytes(claims.info):
        return b""
    try:
        return payload.compact(claims.info)
    except errors.Refused:
        raise TokenInvalid("info") from None
