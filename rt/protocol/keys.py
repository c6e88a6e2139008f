"""Keys: what the signature of a token is verified with.

A key carries the algorithms that it may be used with, by its own kind: a secret has the HMAC ones, an RSA key RS256 to
RS512, an elliptic curve the one that belongs to the curve, Ed25519 has EdDSA. A token only says which of them it was
signed with; with a key of another kind that name finds nothing. A key set that came over the network holds public keys
and nothing else: a secret in it, or the private half of a key, is not taken.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    SECP384R1,
    SECP521R1,
    EllipticCurve,
    EllipticCurvePublicKey,
    EllipticCurvePublicNumbers,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey, RSAPublicNumbers
from cryptography.hazmat.primitives.serialization import load_der_public_key, load_pem_public_key
from jwt.algorithms import Algorithm, ECAlgorithm, HMACAlgorithm, OKPAlgorithm, RSAAlgorithm
from jwt.exceptions import InvalidKeyError

SET_SIZE_MAX = 1024 * 1024
"""Bytes of a key set's text."""

SET_KEYS_MAX = 64
"""Keys of one set; what comes after them is not looked at."""

RSA_BITS_MIN = 2048
"""A shorter RSA key can be broken (NIST SP 800-131A, RFC 7518 section 3.3)."""

RSA_BITS_MAX = 8192
"""The most for a published key: beyond it one signature costs milliseconds, and anybody may send a token."""

# How many keys of a set one token may be tried with, when it does not name one key alone.
_TRIES = 4
_COORDINATE_MAX = 66  # bytes, of P-521

_HMAC: dict[str, HMACAlgorithm] = {
    "HS256": HMACAlgorithm(HMACAlgorithm.SHA256),
    "HS384": HMACAlgorithm(HMACAlgorithm.SHA384),
    "HS512": HMACAlgorithm(HMACAlgorithm.SHA512),
}
_RSA: dict[str, Algorithm] = {
    "RS256": RSAAlgorithm(RSAAlgorithm.SHA256),
    "RS384": RSAAlgorithm(RSAAlgorithm.SHA384),
    "RS512": RSAAlgorithm(RSAAlgorithm.SHA512),
}
# RFC 7518 section 3.4: each of these algorithms has its one curve.
_CURVES: dict[str, tuple[EllipticCurve, dict[str, Algorithm]]] = {
    "P-256": (SECP256R1(), {"ES256": ECAlgorithm(ECAlgorithm.SHA256)}),
    "P-384": (SECP384R1(), {"ES384": ECAlgorithm(ECAlgorithm.SHA384)}),
    "P-521": (SECP521R1(), {"ES512": ECAlgorithm(ECAlgorithm.SHA512)}),
}
_CURVE_NAMES = {curve.name: name for name, (curve, _) in _CURVES.items()}
_EDDSA: dict[str, Algorithm] = {"EdDSA": OKPAlgorithm()}

SECRET_ALGORITHMS = frozenset(_HMAC)
"""Signed and verified with the same secret."""

PUBLIC_ALGORITHMS = frozenset(_RSA) | {"ES256", "ES384", "ES512"} | frozenset(_EDDSA)
"""Verified with a public key."""


class Key:
    """One key, with the algorithms it may be used with: ``algorithms`` are their names, as a token's header gives
    them."""

    __slots__ = ("_algorithms", "_material", "algorithms")

    def __init__(self, material: Any, algorithms: Mapping[str, Algorithm]) -> None:
        self._material = material
        self._algorithms = dict(algorithms)
        self.algorithms = frozenset(algorithms)

    def verifies(self, algorithm: str, signed: bytes, signature: bytes) -> bool:
        """Whether ``signature`` is this key's over ``signed``; False for an algorithm that is not the key's."""
        found = self._algorithms.get(algorithm)
        return found is not None and bool(found.verify(signed, self._material, signature))

    def only(self, algorithm: str) -> Key:
        """The same key for one algorithm, or for none where that is not the key's."""
        return Key(self._material, {name: how for name, how in self._algorithms.items() if name == algorithm})


def secret(text: str) -> Key:
    """The key of HS256, HS384 and HS512.

    ``ValueError`` for what is empty, or is a public key, a certificate or a JWK in whatever wrapping: everybody has
    those.
    """
    return Key(_secret(text), _HMAC)


def rsa(pem: str) -> Key:
    """The key of RS256, RS384 and RS512 from the PEM of a public key; ``ValueError`` for another PEM and for a key of
    fewer than 2048 bits."""
    key = _public(pem)
    if not isinstance(key, RSAPublicKey):
        raise ValueError("not the public key of RSA")
    return _rsa_key(key)


def ecdsa(pem: str) -> Key:
    """The key of ES256, ES384 or ES512, whichever belongs to its curve, from the PEM of a public key.

    ``ValueError`` for another PEM and for other curves than P-256, P-384 and P-521.
    """
    key = _public(pem)
    if not isinstance(key, EllipticCurvePublicKey):
        raise ValueError("not the public key of an elliptic curve")
    name = _CURVE_NAMES.get(key.curve.name)
    if name is None:
        raise ValueError("a curve that is none of P-256, P-384 and P-521")
    return Key(key, _CURVES[name][1])


def signature(algorithm: str, signed: bytes, secret_text: str) -> bytes:
    """Sign with a secret; ``ValueError`` for another kind of algorithm, or what :func:`secret` would not take."""
    found = _HMAC.get(algorithm)
    if found is None:
        raise ValueError("tokens are signed by a secret, with HS256, HS384 or HS512")
    return found.sign(signed, _secret(secret_text))


class _Jwk(msgspec.Struct, frozen=True, gc=False):
    """An entry of a key set (RFC 7517 section 4, RFC 7518 section 6, RFC 8037 section 2)."""

    kty: str
    kid: str = ""
    alg: str = ""
    use: str = "sig"
    key_ops: tuple[str, ...] = ("verify",)
    crv: str = ""
    n: str = ""
    e: str = ""
    x: str = ""
    y: str = ""
    d: msgspec.Raw = msgspec.Raw()


class _Set(msgspec.Struct, frozen=True, gc=False):
    keys: list[msgspec.Raw]


_jwk = msgspec.json.Decoder(_Jwk).decode
_set = msgspec.json.Decoder(_Set).decode


class KeySet:
    """The public keys that one JWKS endpoint published last. Whoever fetches them fills it; it knows no network.

    ``reached`` says whether the endpoint gave a good answer when it was last asked; False until it was. ``on_use`` is
    called whenever a token is about to be compared with the set.
    """

    __slots__ = ("_keys", "on_use", "reached")

    def __init__(self) -> None:
        self._keys: list[tuple[str, Key]] = []
        self.reached = False
        self.on_use: Callable[[], None] = _nothing

    def __len__(self) -> int:
        return len(self._keys)

    def take(self, text: bytes) -> None:
        """Hold the keys of this JWKS from now on, and no others. Entries that make no usable public key are left out.

        ``ValueError``, and nothing is changed, for what is no JWKS, more than 1 MiB, or without a usable key.
        """
        if len(text) > SET_SIZE_MAX:
            raise ValueError("larger than 1 MiB")
        try:
            entries = _set(text).keys
        except (ValueError, RecursionError):
            raise ValueError("not a JSON Web Key Set") from None
        keys = [found for entry in entries[:SET_KEYS_MAX] if (found := _entry(entry)) is not None]
        if not keys:
            raise ValueError("without a key that could verify a token")
        self._keys = keys

    def knows(self, kid: str) -> bool:
        """Whether the set has a key of this name."""
        return any(name == kid for name, _ in self._keys)

    def find(self, kid: str, algorithm: str) -> list[Key]:
        """The keys that a token may have been signed with: at most four of that name (all names where it is empty) and
        for that algorithm."""
        self.on_use()
        named = (key for name, key in self._keys if not kid or name == kid)
        return [key for key in named if algorithm in key.algorithms][:_TRIES]


def _nothing() -> None:
    return None


def _entry(entry: msgspec.Raw) -> tuple[str, Key] | None:
    """Name and key of one entry of a set; None when it is malformed, too weak, secret or not for signatures."""
    try:
        jwk = _jwk(entry)
        if jwk.use != "sig" or "verify" not in jwk.key_ops or bytes(jwk.d):
            return None
        key = _made(jwk)
    except (ValueError, RecursionError, UnsupportedAlgorithm):
        return None
    if jwk.alg:
        key = key.only(jwk.alg)
    return (jwk.kid, key) if key.algorithms else None


def _made(jwk: _Jwk) -> Key:
    """The public key that an entry describes; ``ValueError`` when it describes none that we use."""
    match jwk.kty:
        case "RSA":
            n, e = _number(jwk.n), _number(jwk.e)
            if n.bit_length() > RSA_BITS_MAX or n % 2 == 0 or e.bit_length() > 64:
                raise ValueError("numbers that no RSA key has")
            return _rsa_key(RSAPublicNumbers(e, n).public_key())
        case "EC" if jwk.crv in _CURVES:
            curve, algorithms = _CURVES[jwk.crv]
            x, y = _unpacked(jwk.x), _unpacked(jwk.y)
            if max(len(x), len(y)) > _COORDINATE_MAX:
                raise ValueError("a coordinate is too long")
            numbers = EllipticCurvePublicNumbers(int.from_bytes(x, "big"), int.from_bytes(y, "big"), curve)
            return Key(numbers.public_key(), algorithms)
        case "OKP" if jwk.crv == "Ed25519":
            return Key(Ed25519PublicKey.from_public_bytes(_unpacked(jwk.x)), _EDDSA)
    # Symmetric keys ("oct") end here too: a secret that an endpoint shows to everybody is none.
    raise ValueError("no public key of a kind that is used here")


def _rsa_key(key: RSAPublicKey) -> Key:
    if key.key_size < RSA_BITS_MIN:
        raise ValueError(f"an RSA key of {key.key_size} bits; it must have {RSA_BITS_MIN}")
    return Key(key, _RSA)


def _public(pem: str) -> object:
    try:
        return load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("not a public key in PEM") from None


def _secret(text: str) -> bytes:
    refused = ValueError("an HMAC secret must not be empty, a public key, a certificate or a JWK")
    # A PEM reader ignores white space that a comparison of texts does not.
    if not text or "-----BEGIN" in "".join(text.split()) or _is_der(text):
        raise refused
    try:
        return _HMAC["HS256"].prepare_key(text)
    except InvalidKeyError:
        raise refused from None


def _is_der(text: str) -> bool:
    """Whether it is the body of a PEM: a public key in base64."""
    try:
        load_der_public_key(base64.b64decode("".join(text.split()), validate=True))
    except (ValueError, UnsupportedAlgorithm):
        return False
    return True


def _number(text: str) -> int:
    data = _unpacked(text)
    if len(data) * 8 > RSA_BITS_MAX + 64:
        raise ValueError("a number is too long")
    return int.from_bytes(data, "big")


def _unpacked(text: str) -> bytes:
    """base64url without padding (RFC 7515 section 2), and nothing that is not of its alphabet."""
    try:
        return base64.b64decode(text.rstrip("=") + "=" * (-len(text.rstrip("=")) % 4), b"-_", validate=True)
    except binascii.Error:
        raise ValueError("not base64url") from None
