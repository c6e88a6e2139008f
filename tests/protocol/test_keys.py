"""Keys: which key may verify what, and what of a published set is taken."""

from __future__ import annotations

import base64
import itertools
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given
from hypothesis import strategies as st

from rt.config.pem import public_key
from rt.protocol import keys
from rt.protocol.keys import KeySet
from tests.certificates import write_certificate
from tests.jwks import ALGORITHMS, jwks, number, signer
from tests.tokens import KEY

EVERY = ("HS256", "HS384", "HS512", *ALGORITHMS, "PS256", "PS384", "PS512", "ES256K", "none", "None", "nOnE", "")
OWN = {
    **{f"RS{bits}": {"RS256", "RS384", "RS512"} for bits in (256, 384, 512)},
    **{name: {name} for name in ("ES256", "ES384", "ES512", "EdDSA")},
}
DATA = b"what is signed"


def key_set(*entries: Any) -> KeySet:
    """A set that has taken these entries."""
    found = KeySet()
    found.take(jwks(*entries))
    return found


def public_pem(key: Any) -> str:
    """The PEM of the public half of a private key."""
    text: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return text.decode()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_published_key_verifies_what_it_signed(algorithm: str) -> None:
    """Each kind of key, and nothing but its own signature over the very same bytes."""
    made_by = signer(algorithm)
    (key,) = key_set(made_by).find(algorithm, algorithm)
    signature = made_by.signature(DATA)
    assert key.verifies(algorithm, DATA, signature)
    assert not key.verifies(algorithm, DATA + b"!", signature)
    for bad in (b"", b"\0" * len(signature), signature[:-1], signature + b"\0", signature[::-1]):
        assert not key.verifies(algorithm, DATA, bad)
    other = signer(algorithm, "other") if algorithm[:2] != "RS" else signer("RS256", "other")
    assert not key.verifies(algorithm, DATA, other.signature(DATA, algorithm))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_key_has_the_algorithms_of_its_kind(algorithm: str) -> None:
    """Whatever a token calls itself, a key does nothing but what its kind does, also without a word about it."""
    found = key_set(signer(algorithm).jwk(alg=None))
    for name in EVERY:
        able = found.find(algorithm, name)
        assert bool(able) == (name in OWN[algorithm])
        for key in able:
            assert key.verifies(name, DATA, signer(algorithm).signature(DATA, name))
    (key,) = found.find(algorithm, algorithm)
    for name in EVERY:
        if name not in OWN[algorithm]:
            assert not key.verifies(name, DATA, signer(algorithm).signature(DATA, name))


def test_a_set_may_narrow_a_key_and_never_widen_it() -> None:
    """An entry that names its algorithm is for that one; one that names another kind's is for none."""
    found = key_set(signer("RS256").jwk(alg="RS384"), signer("ES256"))
    assert [name for name in EVERY if found.find("RS256", name)] == ["RS384"]
    for alg in ("HS256", "none", "ES256", "PS256", "RSA-OAEP", "nonsense"):
        assert not key_set(signer("RS256").jwk(alg=alg), signer("ES256")).knows("RS256")


@pytest.mark.parametrize("algorithm", [name for name in ALGORITHMS if name != "EdDSA"])
def test_keys_from_a_pem(algorithm: str) -> None:
    """The two settings take the two kinds of key."""
    made_by = signer(algorithm)
    make, other = (keys.rsa, keys.ecdsa) if algorithm.startswith("RS") else (keys.ecdsa, keys.rsa)
    key = make(made_by.pem)
    assert key.algorithms == OWN[algorithm]
    assert key.verifies(algorithm, DATA, made_by.signature(DATA))
    with pytest.raises(ValueError, match="not the public key"):
        other(made_by.pem)


@pytest.mark.parametrize("bits", [2048, 3072, 4096, 16384])
def test_what_the_config_takes_is_a_key(bits: int) -> None:
    """A PEM that the config let through never stops a worker, however large the key."""
    wide = rsa.RSAPublicNumbers(65537, 2 ** (bits - 1) + 1).public_key()
    text = wide.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    taken = public_key(text, "RSA")
    assert taken and not keys.rsa(taken).verifies("RS256", DATA, b"\1" * (bits // 8))
    for name in ("ES256", "ES384", "ES512"):
        taken = public_key(f" {signer(name).pem}", "EC")
        assert taken and keys.ecdsa(taken).algorithms == {name}
    assert public_key(signer("RS256", "weak", 1024).pem, "RSA") is None


def unusable_pems() -> list[str]:
    """What may stand in a setting for a public key and is none that can be used."""
    strong, curve = signer("RS256").key, signer("ES256").key
    private = [key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode() for key in (strong, curve)]
    locked = strong.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x")).decode()
    other_kinds = [
        public_pem(key)
        for key in (
            ed25519.Ed25519PrivateKey.generate(),
            dsa.generate_private_key(1024),
            ec.generate_private_key(ec.SECP256K1()),
            ec.generate_private_key(ec.SECP224R1()),
            rsa.generate_private_key(65537, 1024),
        )
    ]
    body = signer("RS256").pem.splitlines()
    cut = "\n".join([*body[:2], body[-1]])
    return [
        "x",
        "",
        "-----BEGIN PUBLIC KEY-----",
        cut,
        *private,
        locked,
        *other_kinds,
        json.dumps(signer("RS256").jwk()),
    ]


@pytest.mark.parametrize("pem", unusable_pems(), ids=itertools.count())
def test_unusable_pems(pem: str) -> None:
    """No key, a private one, a weak one or one of another kind is a ValueError that repeats nothing of it."""
    for make in (keys.rsa, keys.ecdsa):
        with pytest.raises(ValueError) as refused:
            make(pem)
        assert len(str(refused.value)) < 100
        assert len(pem) < 2 or pem not in str(refused.value)


def wrappings(pem: str) -> list[str]:
    """The same public key in other clothes."""
    lines = pem.splitlines()
    body = base64.b64encode(b"".join(base64.b64decode(line) for line in lines[1:-1])).decode()
    return [
        pem,
        pem.strip(),
        "\n\n " + pem,
        pem.replace("\n", "\r\n"),
        pem.replace("\n", " \n"),
        pem.replace("\n", ""),
        pem.replace("-----BEGIN PUBLIC KEY-----\n", "-----BEGIN  PUBLIC\tKEY-----\n"),
        "x" + pem,
        body,
        "\n".join(body[i : i + 40] for i in range(0, len(body), 40)),
    ]


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
def test_public_keys_are_no_secrets_in_any_wrapping(algorithm: str) -> None:
    """A public key that somebody took for a secret is refused: as PEM with altered white space, as DER, as JWK."""
    made_by = signer(algorithm)
    entry = made_by.jwk()
    for text in [*wrappings(made_by.pem), json.dumps(entry), json.dumps(entry, indent=2), " " + json.dumps(entry)]:
        with pytest.raises(ValueError, match="HMAC secret"):
            keys.secret(text)
        with pytest.raises(ValueError, match="HMAC secret"):
            keys.signature("HS256", DATA, text)


def test_certificates_are_no_secrets(tmp_path: Any) -> None:
    """Nor is a certificate, or an empty text."""
    certificate, _ = write_certificate(tmp_path)
    with open(certificate) as file:
        text = file.read()
    for wrong in (text, text.replace("\n", " "), ""):
        with pytest.raises(ValueError, match="HMAC secret"):
            keys.secret(wrong)


def test_a_secret_is_a_key_of_hmac() -> None:
    """A text of any other kind is a secret."""
    key = keys.secret(KEY)
    assert key.algorithms == keys.SECRET_ALGORITHMS == {"HS256", "HS384", "HS512"}
    for algorithm in key.algorithms:
        assert key.verifies(algorithm, DATA, keys.signature(algorithm, DATA, KEY))
        assert not key.verifies("RS256", DATA, keys.signature(algorithm, DATA, KEY))
    with pytest.raises(ValueError, match="secret"):
        keys.signature("RS256", DATA, KEY)


GOOD = signer("ES256", "good")
RSA = signer("RS256")
EC = signer("ES256")
ED = signer("EdDSA")
UNUSABLE: list[Any] = [
    {},
    [],
    None,
    5,
    "RSA",
    {"kty": None},
    {"kty": "oct", "k": "c2VjcmV0", "alg": "HS256"},
    {"kty": "oct", "k": "c2VjcmV0"},
    {"kty": "RSA"},
    RSA.jwk(kty="EC"),
    RSA.jwk(kty="oct"),
    RSA.jwk(n=""),
    RSA.jwk(n="AQAB"),
    RSA.jwk(n="!" * 340),
    RSA.jwk(n=5),
    RSA.jwk(n=number(2**2047)),
    RSA.jwk(n="_" * 400_000),
    RSA.jwk(n=number(2**8193 + 1)),
    RSA.jwk(e=""),
    RSA.jwk(e="AQ"),
    RSA.jwk(e="Ag"),
    RSA.jwk(e=number(2**65 + 1)),
    RSA.jwk(use="enc"),
    RSA.jwk(key_ops=["sign"]),
    RSA.jwk(key_ops=[]),
    RSA.jwk(d="AQAB"),
    RSA.jwk(kid=5),
    signer("RS256", "weak", 1024).jwk(),
    EC.jwk(crv="P-384"),
    EC.jwk(crv="secp256k1"),
    EC.jwk(crv="Ed25519"),
    EC.jwk(x="AQAB"),
    EC.jwk(x=""),
    EC.jwk(y="_" * 400_000),
    EC.jwk(x=number(2**255), y=number(2**255)),
    EC.jwk(d="AQAB"),
    ED.jwk(crv="Ed448"),
    ED.jwk(crv="X25519"),
    ED.jwk(x="AQAB"),
    ED.jwk(x=None),
    ED.jwk(kty="EC"),
]


@pytest.mark.parametrize("entry", UNUSABLE, ids=itertools.count())
def test_unusable_entries_are_left_out(entry: Any) -> None:
    """A malformed, weak, secret or foreign entry costs nothing but itself."""
    assert len(key_set(entry, GOOD, entry)) == 1
    alone = KeySet()
    with pytest.raises(ValueError, match="without a key|Key Set"):
        alone.take(json.dumps({"keys": [entry]}).encode())
    assert len(alone) == 0


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"<!doctype html><html></html>",
        b'{"keys":{}}',
        b'{"keys":null}',
        b'{"keys":[]}',
        b'{"keys":[{}]}',
        b'{"keys":[' + b"[" * 100_000,
        b"[" * 100_000,
        b"\xff",
        b'{"keys":["\\ud800"]}',
        jwks(GOOD)[:-1],
        jwks(GOOD) + b"x",
        jwks(GOOD).ljust(keys.SET_SIZE_MAX + 1),
    ],
    ids=itertools.count(),
)
def test_what_is_no_key_set_changes_nothing(text: bytes) -> None:
    """An answer that is not good leaves the keys as they are."""
    found = key_set(EC)
    with pytest.raises(ValueError) as refused:
        found.take(text)
    assert len(str(refused.value)) < 60
    assert found.find("ES256", "ES256") and len(found) == 1


def test_a_set_is_bounded() -> None:
    """A MiB and 64 keys are enough for everybody."""
    assert len(key_set(*(ED.jwk(kid=f"k{i}") for i in range(100)))) == keys.SET_KEYS_MAX
    found = KeySet()
    found.take(jwks(GOOD).ljust(keys.SET_SIZE_MAX))
    assert len(found) == 1


def test_a_set_is_replaced_as_a_whole() -> None:
    """A key that is published no longer is believed no longer."""
    found = key_set(EC, RSA)
    found.take(jwks(RSA, ED))
    assert [found.knows(kid) for kid in ("ES256", "RS256", "EdDSA", "", "x")] == [False, True, True, False, False]


def test_names_and_algorithms_choose() -> None:
    """A name chooses its keys, all of them; without one the algorithm does, four keys at most."""
    found = key_set(EC.jwk(kid="a"), RSA.jwk(kid="a"), ED.jwk(kid=None), *(GOOD.jwk(kid=f"k{i}") for i in range(9)))
    assert [len(found.find("a", name)) for name in ("ES256", "RS256", "EdDSA", "HS256")] == [1, 1, 0, 0]
    assert [len(found.find("", name)) for name in ("ES256", "RS256", "EdDSA", "HS256")] == [4, 1, 1, 0]
    assert not found.find("b", "ES256")


def test_a_use_is_told() -> None:
    """Whoever fills the set learns that it is used."""
    found, uses = key_set(EC), list[str]()
    found.on_use = lambda: uses.append("used")
    found.knows("x")
    assert not uses
    found.find("x", "ES256")
    assert uses == ["used"]


@given(st.binary(max_size=200) | st.recursive(st.none() | st.text(max_size=5), st.lists).map(lambda v: jwks(GOOD, v)))
def test_any_text_is_a_set_or_a_value_error(text: bytes) -> None:
    """Nothing that an endpoint sends raises anything else."""
    found = KeySet()
    try:
        found.take(text)
        assert len(found) >= 1
    except ValueError:
        assert len(found) == 0


@given(
    st.fixed_dictionaries(
        {"kty": st.sampled_from(["RSA", "EC", "OKP", "oct"])},
        optional={
            "crv": st.sampled_from(["P-256", "P-521", "Ed25519", "x"]),
            **{name: st.text("AQ_-=!", max_size=90) for name in ("n", "e", "x", "y")},
            "alg": st.sampled_from(EVERY),
        },
    )
)
def test_any_entry_is_a_key_or_left_out(entry: dict[str, str]) -> None:
    """Whatever numbers an entry has, the others are taken."""
    assert key_set(entry, GOOD).knows("good")
