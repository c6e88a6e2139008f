"""Tokens: JWTs that an application signs to say who connects and what they may subscribe to.

What a token may be signed with is decided by the keys of the configuration, never by the token
(:mod:`rt.protocol.keys`). Size and form are checked before any cryptography, the signature before any claim is
believed. Claims are judged here, at a time that the caller gives. Nothing of a token appears in the text of an
exception.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections import Counter
from collections.abc import Callable, Mapping, MutableMapping
from functools import lru_cache
from types import MappingProxyType
from typing import NamedTuple, Protocol, TypeVar

import msgspec

from rt import errors
from rt.protocol import claims as claimed
from rt.protocol import keys
from rt.protocol.claims import NO_SUBS, Claims
from rt.protocol.keys import Key, KeySet
from rt.protocol.options import Override, Terms, seconds

T = TypeVar("T")

SIZE_MAX = 8 * 1024
_FORM = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)")
_ABSENT = msgspec.Raw()
_ALPHABET = bytes.maketrans(b"-_", b"+/")


class TokenSettings(Protocol):
    """The ``client.token`` part of the configuration; an empty text is no key, no rule, no endpoint.

    ``leeway`` is how far, in seconds, the clocks of hosts may be apart. Of audience and issuer at most one form each is
    set; the regular expressions must match the whole claim. ``user_id_claim`` names the claim that says who the user
    is, instead of ``sub``.
    """

    @property
    def hmac_secret_key(self) -> str: ...
    @property
    def hmac_previous_secret_key(self) -> str: ...
    @property
    def rsa_public_key(self) -> str: ...
    @property
    def ecdsa_public_key(self) -> str: ...
    @property
    def jwks_public_endpoint(self) -> str: ...
    @property
    def audience(self) -> str: ...
    @property
    def audience_regex(self) -> str: ...
    @property
    def issuer(self) -> str: ...
    @property
    def issuer_regex(self) -> str: ...
    @property
    def user_id_claim(self) -> str: ...
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


class KeysWanted(Exception):
    """The key that the token names is not in the key set: fetch the set, then ask again with ``fetched=True``."""


class Identity(NamedTuple):
    """Who connects. ``user`` is empty for the anonymous; ``info`` is compact JSON, empty for none.

    ``expire_at`` is when the right to be connected ends, in seconds since 1970; None is never. ``subs`` are the
    server-side subscriptions that the token asks for, by channel; the names are as they came, not checked.
    ``issued_at`` is when the token was made, in seconds since 1970; 0 when it does not say.
    """

    user: str
    info: bytes = b""
    expire_at: float | None = None
    subs: Mapping[str, Terms] = NO_SUBS
    issued_at: float = 0.0


class Grant(NamedTuple):
    """What a subscription token grants to ``user``. ``info`` and ``expire_at`` as in :class:`Identity`.

    ``client`` is the one connection it is meant for, empty for any. ``override`` are the settings of the namespace that
    are otherwise for this subscription.
    """

    user: str
    channel: str
    info: bytes = b""
    expire_at: float | None = None
    client: str = ""
    override: Override | None = None


class _Header(msgspec.Struct, frozen=True, gc=False):
    alg: str
    kid: str = ""
    crit: msgspec.Raw = _ABSENT


_header = msgspec.json.Decoder(_Header).decode


class Verifier:
    """Judges tokens by the keys of one configuration: its own, and those of the key set where it names an endpoint.

    ``ValueError`` for a key that is none, too weak, or of another kind than its setting says. Regular expressions must
    be valid. ``failures`` are counted by the words of the exceptions: ``unreachable`` where keys cannot be had,
    ``other`` for a good token of somebody or something else.
    """

    __slots__ = ("_audience", "_issuer", "_key_set", "_keys", "_leeway", "_user_claim", "failures")

    def __init__(
        self, settings: TokenSettings, key_set: KeySet | None = None, failures: MutableMapping[str, int] | None = None
    ) -> None:
        self.failures: MutableMapping[str, int] = Counter() if failures is None else failures
        self._leeway = settings.leeway
        self._keys = _own_keys(settings)
        self._key_set = key_set if settings.jwks_public_endpoint else None
        self._audience = _rule(settings.audience, settings.audience_regex)
        self._issuer = _rule(settings.issuer, settings.issuer_regex)
        self._user_claim = settings.user_id_claim or "sub"

    def connection(self, token: str, now: float, *, fetched: bool = False) -> Identity:
        """Whom a connection token names. ``now`` is in seconds since 1970.

        :class:`TokenInvalid`, :class:`TokenExpired` or :class:`KeysWanted`. With ``fetched`` there are no further keys
        to wait for: then one that is unknown makes the token invalid, or is :class:`errors.Refused` (100, temporary)
        while the keys cannot be had.
        """
        return self._counted(self._connection, token, now, fetched)

    def _connection(self, token: str, now: float, fetched: bool) -> Identity:
        claims, user = self._judged(token, now, fetched)
        if claims.channel is not None:
            raise TokenInvalid("purpose")
        try:
            subs = claims.subscriptions()
        except errors.Refused:
            raise TokenInvalid("subs") from None
        return Identity(user, _info(claims), claims.ends_at(), subs, claims.issued_at())

    def subscription(self, token: str, now: float, *, fetched: bool = False) -> Grant:
        """What a subscription token grants; the exceptions are those of :meth:`connection`.

        The caller compares user, channel and client with the subscription at hand.
        """
        return self._counted(self._subscription, token, now, fetched)

    def _subscription(self, token: str, now: float, fetched: bool) -> Grant:
        claims, user = self._judged(token, now, fetched)
        if not claims.channel:
            raise TokenInvalid("purpose")
        return Grant(user, claims.channel, _info(claims), claims.ends_at(), claims.client or "", claims.override)

    def _counted(self, judge: Callable[[str, float, bool], T], token: str, now: float, fetched: bool) -> T:
        try:
            return judge(token, now, fetched)
        except (TokenInvalid, TokenExpired) as failed:
            self.failures[str(failed)] += 1
            raise

    def over(self, expire_at: float | None, now: float) -> bool:
        """Whether a right that ends at ``expire_at`` has ended."""
        return expire_at is not None and expire_at + self._leeway <= now

    def _judged(self, token: str, now: float, fetched: bool) -> tuple[Claims, str]:
        """The claims of a token that is ours and for us, and its user."""
        body = self._signed(token, fetched)
        try:
            claims, user = claimed.decode(body, self._user_claim)
        except ValueError:
            raise TokenInvalid("claims") from None
        if claims.exp is not None and self.over(seconds(claims.exp), now):
            raise TokenExpired("expired")
        if claims.nbf is not None and seconds(claims.nbf) - self._leeway > now:
            raise TokenExpired("early")
        if self._audience is not None and not any(map(self._audience, claims.audiences())):
            raise TokenInvalid("audience")
        if self._issuer is not None and not self._issuer(claims.iss or ""):
            raise TokenInvalid("issuer")
        return claims, user

    def _signed(self, token: str, fetched: bool) -> bytes:
        """The claims, undecoded, of a token with a good signature."""
        form = _parts(token)
        try:
            header = _head(form[1])
            body, signature = _unpacked(form[2]), _unpacked(form[3])
        except (ValueError, RecursionError):
            raise TokenInvalid("form") from None
        # A token that needs us to understand more than we do is refused (RFC 7515 section 4.1.11).
        if bytes(header.crit):
            raise TokenInvalid("algorithm")
        if not self._vouched(header, token[: form.end(2)].encode(), signature, fetched):
            raise TokenInvalid("signature")
        return body

    def _vouched(self, header: _Header, signed: bytes, signature: bytes, fetched: bool) -> bool:
        """Whether one of our keys made the signature, with an algorithm that is the key's own."""
        able = [key for key in self._keys if header.alg in key.algorithms]
        for key in able:
            if key.verifies(header.alg, signed, signature):
                return True
        if self._key_set is None or header.alg not in keys.PUBLIC_ALGORITHMS:
            if not able:
                raise TokenInvalid("algorithm")
            return False
        found = self._key_set.find(header.kid, header.alg)
        if any(key.verifies(header.alg, signed, signature) for key in found):
            return True
        if not header.kid or not self._key_set.knows(header.kid):
            raise self._missing(self._key_set, fetched)
        return False

    def _missing(self, key_set: KeySet, fetched: bool) -> Exception:
        """What a token whose key is not here means: one that names none may be of a key that is new."""
        if not fetched:
            return KeysWanted()
        if not key_set.reached:
            self.failures["unreachable"] += 1
            return errors.Refused(errors.INTERNAL, "the keys of tokens cannot be fetched")
        return TokenInvalid("key")


def identify(token: str, verifier: Verifier, policy: Policy, now: float, *, fetched: bool = False) -> Identity:
    """Who connects, by token or without one.

    :class:`errors.Refused`: 109 for a token that is expired or not valid yet, 110 where its ``expire_at`` has passed,
    100 (with ``fetched``) where its key cannot be had now.
    :class:`errors.Closing`: 3500 for an invalid token, 3507 for one without a user where that is not wanted, 3501 for
    none where one is needed.
    :class:`KeysWanted`: fetch, then ask again with ``fetched``, which never raises it.
    """
    if not token:
        if policy.allow_anonymous_connect_without_token or policy.insecure:
            return Identity("")
        raise errors.Closing(errors.BAD_COMMAND, "a token is needed to connect")
    try:
        identity = verifier.connection(token, now, fetched=fetched)
    except TokenExpired:
        raise errors.Refused(errors.TOKEN_EXPIRED) from None
    except TokenInvalid as invalid:
        raise errors.Closing(errors.INVALID_TOKEN, f"connection token: {invalid}") from None
    if not identity.user and policy.disallow_anonymous_connection_tokens:
        raise errors.Closing(errors.FORBIDDEN, "a connection token must name a user")
    if verifier.over(identity.expire_at, now):
        verifier.failures["expired"] += 1
        raise errors.Refused(errors.EXPIRED)
    return identity


def permit(
    token: str, verifier: Verifier, *, channel: str, user: str, client: str, now: float, fetched: bool = False
) -> Grant:
    """The right to subscribe that a token gives, if it was made for this channel, user and connection.

    :class:`errors.Refused`: 109 expired or not valid yet, 103 invalid, 110 where its ``expire_at`` has passed, 100
    (with ``fetched``) where its key cannot be had now.
    :class:`errors.Closing` (3500): a good token, but of another channel, user or connection.
    :class:`KeysWanted`: fetch, then ask again with ``fetched``, which never raises it.
    """
    try:
        grant = verifier.subscription(token, now, fetched=fetched)
    except TokenExpired:
        raise errors.Refused(errors.TOKEN_EXPIRED) from None
    except TokenInvalid as invalid:
        raise errors.Refused(errors.PERMISSION_DENIED, f"subscription token: {invalid}") from None
    if grant.channel != channel or grant.user != user or grant.client not in ("", client):
        verifier.failures["other"] += 1
        raise errors.Closing(errors.INVALID_TOKEN, "subscription token: of another channel, user or client")
    if verifier.over(grant.expire_at, now):
        verifier.failures["expired"] += 1
        raise errors.Refused(errors.EXPIRED)
    return grant


def issuer(token: str) -> str:
    """Who a token says it is from; empty when it does not say so, or is no token.

    Nothing of it is verified: good for choosing who shall verify it, and for nothing else.
    """
    try:
        return claimed.issuer(_unpacked(_parts(token)[2]))
    except (TokenInvalid, ValueError):
        return ""


def sign(claims: Mapping[str, object], key: str, algorithm: str = "HS256") -> str:
    """A token with these claims. ``ValueError`` for a key or an algorithm that :class:`Verifier` would not take for a
    secret."""
    head = msgspec.json.encode({"alg": algorithm, "typ": "JWT"})
    signed = b"%b.%b" % (_packed(head), _packed(msgspec.json.encode(claims)))
    return (signed + b"." + _packed(keys.signature(algorithm, signed, key))).decode()


def connection_token(
    user: str, key: str, *, now: float, ttl: float | None = None, claims: Mapping[str, object] = MappingProxyType({})
) -> str:
    """A token to connect as ``user``, good for ``ttl`` seconds from ``now``, or for ever; ``claims`` are added, or said
    instead."""
    return sign({"sub": user, **_times(now, ttl), **claims}, key)


def subscription_token(
    user: str,
    channel: str,
    key: str,
    *,
    now: float,
    ttl: float | None = None,
    claims: Mapping[str, object] = MappingProxyType({}),
) -> str:
    """A token for ``user`` to subscribe to ``channel``; the rest as in :func:`connection_token`."""
    return sign({"sub": user, "channel": channel, **_times(now, ttl), **claims}, key)


def _times(now: float, ttl: float | None) -> dict[str, int]:
    return {"iat": int(now)} if ttl is None else {"iat": int(now), "exp": int(now + ttl)}


def _own_keys(settings: TokenSettings) -> list[Key]:
    found = [keys.secret(key) for key in (settings.hmac_secret_key, settings.hmac_previous_secret_key) if key]
    if settings.rsa_public_key:
        found.append(keys.rsa(settings.rsa_public_key))
    if settings.ecdsa_public_key:
        found.append(keys.ecdsa(settings.ecdsa_public_key))
    return found


def _rule(exact: str, pattern: str) -> Callable[[str], bool] | None:
    """Whether a claim is what the configuration asks for; None where it asks for nothing."""
    if exact:
        return lambda text: text == exact
    if pattern:
        whole = re.compile(pattern).fullmatch
        return lambda text: whole(text) is not None
    return None


def _parts(token: str) -> re.Match[str]:
    """The three parts of a token, still packed."""
    if len(token) > SIZE_MAX:
        raise TokenInvalid("size")
    form = _FORM.fullmatch(token)
    if form is None:
        raise TokenInvalid("form")
    return form


@lru_cache(maxsize=64)
def _head(part: str) -> _Header:
    """The header of a token; those of one issuer are all the same. ValueError, RecursionError for what is none."""
    return _header(_unpacked(part))


def _packed(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def _unpacked(part: str) -> bytes:
    """What one part of a token holds, all letters of which are of base64url; ValueError when they are one too many."""
    return binascii.a2b_base64(part.encode().translate(_ALPHABET) + b"==")  # more padding than is needed does no harm


def _info(claims: Claims) -> bytes:
    try:
        return claims.information()
    except errors.Refused:
        raise TokenInvalid("info") from None
