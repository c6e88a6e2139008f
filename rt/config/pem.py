"""Public keys as text: from the PEM that an operator has to the one form that equal keys share."""

from __future__ import annotations

from typing import Literal

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

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
