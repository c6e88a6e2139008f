"""Public keys in PEM, made once per run."""

from __future__ import annotations

import functools

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

SPKI = PublicFormat.SubjectPublicKeyInfo


@functools.cache
def rsa_private(bits: int = 2048) -> rsa.RSAPrivateKey:
    """An RSA key."""
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


def rsa_key(bits: int = 2048, form: PublicFormat = SPKI) -> str:
    """The public half of :func:`rsa_private`; ``PublicFormat.PKCS1`` is the older way to write it."""
    return rsa_private(bits).public_key().public_bytes(Encoding.PEM, form).decode()


@functools.cache
def ec_key(curve: ec.EllipticCurve | None = None) -> str:
    """A public key of a curve, P-256 if none is given."""
    private = ec.generate_private_key(curve or ec.SECP256R1())
    return private.public_key().public_bytes(Encoding.PEM, SPKI).decode()
