"""Public keys as text: from the PEM that an operator has to the one form that equal keys share."""

from __future__ import annotations

import base64
from typing import Literal

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
    load_pem_public_key,
)
from jwt.algorithms import HMACAlgorithm
from jwt.exceptions import InvalidKeyError

RSA_BITS = 2048
_MAX_SIZE = 8192
_CURVES = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)


def public_key(text: str, family: Literal["RSA", "EC"]) -> str | None:
    """The key in ``text`` as SubjectPublicKeyInfo in PEM; ``None`` for anything but a public key of this family.

    An RSA key has at least ``RSA_BITS`` bits, a curve is one of those of ES256, ES384 and ES512.
    """
    if len(text) > _MAX_SIZE:
        return None
    try:
        key = load_pem_public_key(text.strip().encode())
    except (ValueError, UnsupportedAlgorithm):
        return None
    if family == "RSA":
        fits = isinstance(key, rsa.RSAPublicKey) and key.key_size >= RSA_BITS
    else:
        fits = isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, _CURVES)
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode().strip() if fits else None


def is_public(secret: str) -> bool:
    """Whether what is meant as a secret is a public key, a certificate or a JWK, in whatever wrapping. A worker would
    refuse it, and rightly."""
    bare = "".join(secret.split())
    if "-----BEGIN" in bare:
        return True
    try:
        HMACAlgorithm(HMACAlgorithm.SHA256).prepare_key(secret)
    except InvalidKeyError:
        return True
    try:
        load_der_public_key(base64.b64decode(bare, validate=True))
    except (ValueError, UnsupportedAlgorithm):
        return False
    return True
