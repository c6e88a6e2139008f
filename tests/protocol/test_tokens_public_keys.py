"""Tokens of public keys: from the config and from a key set, and every way to pass for one of them."""

from __future__ import annotations

import base64
import hashlib
import hmac
import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest

from rt import errors
from rt.errors import Close, Error
from rt.protocol import tokens
from rt.protocol.keys import KeySet
from rt.protocol.tokens import KeysWanted, TokenInvalid, Verifier
from tests.jwks import ALGORITHMS, Signer, der, jwks, signer
from tests.tokens import KEY, Settings, encode, sign

NOW = 1_700_000_000.0
URL = "https://keys.example/jwks.json"
RSA, EC, ED = signer("RS256"), signer("ES256"), signer("EdDSA")
CLAIMS = {"sub": "42"}
ENCRYPTED = encode(b'{"alg":"dir","enc":"A256GCM","zip":"DEF"}')


class Policy:
    """Nobody comes in without a token."""

    insecure = allow_anonymous_connect_without_token = disallow_anonymous_connection_tokens = False


def holding(*entries: Any) -> KeySet:
    """A key set that was fetched and has these entries."""
    key_set = KeySet()
    key_set.take(jwks(*entries))
    key_set.reached = True
    return key_set


def published(*entries: Any, **settings: Any) -> Verifier:
    """A verifier that knows these published keys."""
    return Verifier(Settings(jwks_public_endpoint=URL, **settings), holding(*entries))


CONFIGURED = Verifier(Settings(KEY, "", RSA.pem, EC.pem))
PUBLISHED = published(RSA.jwk(alg=None), EC, ED)
BOTH = published(RSA.jwk(alg=None), EC, ED, hmac_secret_key=KEY, rsa_public_key=RSA.pem, ecdsa_public_key=EC.pem)


@pytest.mark.parametrize("algorithm", [name for name in ALGORITHMS if name != "EdDSA"])
def test_a_token_of_a_configured_key(algorithm: str) -> None:
    """Signed with RSA or on an elliptic curve, with each of the hashes, whatever key it names."""
    made_by = signer(algorithm)
    rsa = algorithm.startswith("RS")
    verifier = Verifier(Settings(rsa_public_key=made_by.pem) if rsa else Settings(ecdsa_public_key=made_by.pem))
    for kid in (None, made_by.kid, "../../etc/passwd"):
        assert verifier.connection(made_by.sign(CLAIMS, kid=kid), NOW).user == "42"
    with pytest.raises(TokenInvalid, match="signature|algorithm"):
        verifier.connection(signer(algorithm, f"stranger {algorithm}").sign(CLAIMS), NOW)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_token_of_a_published_key(algorithm: str) -> None:
    """The same, and EdDSA, with the key that the token names among those of the set, or without a name."""
    verifier = published(*(signer(name) for name in ALGORITHMS))
    for kid in (algorithm, None):
        assert verifier.connection(signer(algorithm).sign(CLAIMS, kid=kid), NOW).user == "42"


def test_all_kinds_of_keys_beside_each_other() -> None:
    """Secrets, the keys of the config and the published ones each count for their own tokens."""
    for token in (sign(CLAIMS), RSA.sign(CLAIMS), EC.sign(CLAIMS), ED.sign(CLAIMS)):
        assert BOTH.connection(token, NOW).user == "42"
    stranger = signer("RS256", "published alone")
    verifier = published(stranger, rsa_public_key=RSA.pem)
    assert verifier.connection(stranger.sign(CLAIMS), NOW).user == "42"
    assert verifier.connection(RSA.sign(CLAIMS, kid=None), NOW).user == "42"


def secrets_everybody_has() -> Iterator[bytes]:
    """What an attacker may take for a secret: the public keys in all their forms, and nothing."""
    yield b""
    for made_by in (RSA, EC, ED):
        pem = made_by.pem
        body = "".join(pem.splitlines()[1:-1])
        yield from (
            text.encode()
            for text in (
                pem,
                pem.strip(),
                pem.replace("\n", "\r\n"),
                pem.replace("\n", ""),
                f" {pem}",
                f"{pem}\n",
                body,
            )
        )
        yield der(pem)
        entry = made_by.jwk()
        yield from (json.dumps(value).encode() for value in (entry, [entry], {"keys": [entry]}))
        yield from (value.encode() for value in entry.values())
        yield from (base64.urlsafe_b64decode(entry[name] + "==") for name in ("n", "x") if name in entry)


@pytest.mark.parametrize("secret", list(secrets_everybody_has()), ids=itertools.count())
@pytest.mark.parametrize("alg", ["HS256", "HS384", "HS512"])
def test_a_public_key_is_no_secret(secret: bytes, alg: str) -> None:
    """A token that was signed with something public, as if it were a secret, is invalid everywhere."""
    for kid in ("RS256", "ES256", "EdDSA", None):
        header = {"alg": alg} if kid is None else {"alg": alg, "kid": kid}
        signed = f"{encode(json.dumps(header).encode())}.{encode(json.dumps(CLAIMS).encode())}"
        digest = hmac.new(secret, signed.encode(), getattr(hashlib, f"sha{alg[2:]}")).digest()
        for verifier in (CONFIGURED, PUBLISHED, BOTH):
            with pytest.raises(TokenInvalid, match="algorithm|signature"):
                verifier.connection(f"{signed}.{encode(digest)}", NOW, fetched=True)


NAMES = ["none", "None", "nOnE", "NONE", "", "HS256", "rs256", "PS256", "PS384", "ES256K", "RS1", *ALGORITHMS]


@pytest.mark.parametrize("made_by", [RSA, EC, ED], ids=lambda made_by: made_by.kid)
@pytest.mark.parametrize("alg", NAMES)
def test_a_token_that_calls_itself_something_else(made_by: Signer, alg: str) -> None:
    """A good signature under the name of another algorithm, or none at all, is worth nothing."""
    head = encode(json.dumps({"alg": alg, "kid": made_by.kid}).encode())
    signed = f"{head}.{encode(json.dumps(CLAIMS).encode())}"
    good = made_by.signature(signed.encode())
    for verifier in (CONFIGURED, PUBLISHED, BOTH):
        for signature in (good, b"", b"\0", bytes(len(good))):
            if signature == good and alg == made_by.algorithm and (verifier is not CONFIGURED or made_by is not ED):
                continue
            with pytest.raises(TokenInvalid, match="algorithm|signature|form|key"):
                verifier.connection(f"{signed}.{encode(signature)}", NOW, fetched=True)


@pytest.mark.parametrize("kid", [RSA.kid, EC.kid, ED.kid, None, "unknown"])
@pytest.mark.parametrize("made_by", [RSA, EC, ED], ids=lambda made_by: made_by.kid)
def test_the_name_of_another_key(made_by: Signer, kid: str | None) -> None:
    """A key that the set has under another name is not tried."""
    token = made_by.sign(CLAIMS, kid=kid)
    if kid in (made_by.kid, None):
        assert PUBLISHED.connection(token, NOW).user == "42"
    else:
        with pytest.raises(TokenInvalid, match="signature" if kid != "unknown" else "key"):
            PUBLISHED.connection(token, NOW, fetched=True)


@pytest.mark.parametrize(
    "header",
    [
        {"jwk": signer("RS256", "attacker").jwk()},
        {"jku": "http://127.0.0.1:1/keys"},
        {"x5u": "http://127.0.0.1:1/cert"},
        {"x5c": ["AAAA"]},
        {"kid": "' OR 1=1 --"},
        {"kid": "../../../../dev/null"},
        {"kid": "http://127.0.0.1:1/"},
        {"kid": "x" * 5000},
    ],
    ids=itertools.count(),
)
def test_a_token_brings_no_key(header: dict[str, Any]) -> None:
    """Whatever a header carries or points at, the attacker's signature stays one of an unknown key."""
    attacker = signer("RS256", "attacker")
    for verifier in (PUBLISHED, BOTH):
        with pytest.raises(TokenInvalid, match="key"):
            verifier.connection(attacker.sign(CLAIMS, **header), NOW, fetched=True)
        if "kid" not in header:
            assert verifier.connection(RSA.sign(CLAIMS, **header), NOW).user == "42"


@pytest.mark.parametrize(
    ("token", "word"),
    [
        (RSA.sign(CLAIMS, crit=["b64"], b64=False, kid="new"), "algorithm"),
        (RSA.sign(CLAIMS, crit=[], kid="new"), "algorithm"),
        (RSA.sign({"sub": "x" * 8192}, kid="new"), "size"),
        (RSA.sign({f"c{i}": i for i in range(10_000)}, kid="new"), "size"),
        (RSA.sign(CLAIMS, kid="x" * 2**20), "size"),
        (RSA.sign(CLAIMS, kid=5), "form"),
        (RSA.sign(CLAIMS, kid=["new"]), "form"),
        (RSA.sign(CLAIMS, alg="none", kid="new"), "algorithm"),
        (RSA.sign(CLAIMS, alg="PS256", kid="new"), "algorithm"),
        (sign(CLAIMS, kid="new"), "algorithm"),
        (f"{ENCRYPTED}..{encode(b'iv')}.{encode(b'x')}.x", "form"),
        (RSA.sign(CLAIMS, kid="new").rpartition(".")[0] + ".", "form"),
        ("new", "form"),
    ],
    ids=itertools.count(),
)
def test_what_is_refused_before_keys_are_wanted(token: str, word: str) -> None:
    """Nobody makes us fetch with something that could never be a token of a published key."""
    key_set = holding(RSA)
    key_set.on_use = lambda: pytest.fail("the set was asked")
    with pytest.raises(TokenInvalid, match=f"^{word}$"):
        Verifier(Settings(jwks_public_endpoint=URL), key_set).connection(token, NOW)


def answer(token: str, verifier: Verifier, *, fetched: bool) -> str | Error | Close:
    """The user whom a token names, or what is answered to it."""
    try:
        return tokens.identify(token, verifier, Policy(), NOW, fetched=fetched).user
    except errors.Refused as refused:
        return refused.error
    except errors.Closing as closing:
        return closing.close


@pytest.mark.parametrize("kid", ["new", None])
def test_a_key_that_is_new(kid: str | None) -> None:
    """A token of a key that is not here wants the keys; after the fetch it is decided."""
    new = signer("RS256", "new")
    key_set = holding(RSA)
    verifier = Verifier(Settings(jwks_public_endpoint=URL), key_set)
    token, forged = new.sign(CLAIMS, kid=kid), signer("RS256", "attacker").sign(CLAIMS, kid=kid)
    for wanted in (token, forged):
        with pytest.raises(KeysWanted):
            tokens.identify(wanted, verifier, Policy(), NOW)
        with pytest.raises(KeysWanted):
            tokens.permit(wanted, verifier, channel="a", user="42", client="c", now=NOW)
        assert answer(wanted, verifier, fetched=True) == errors.INVALID_TOKEN
    key_set.reached = False
    assert answer(token, verifier, fetched=True) == errors.INTERNAL
    key_set.take(jwks(new))
    key_set.reached = True
    assert answer(token, verifier, fetched=True) == "42"
    assert answer(token, verifier, fetched=False) == "42"
    assert answer(forged, verifier, fetched=True) == errors.INVALID_TOKEN


def test_subscription_tokens_of_a_key_that_is_new() -> None:
    """They are answered with their own codes: 100 while the keys cannot be had, 103 when they are here."""
    verifier = Verifier(Settings(jwks_public_endpoint=URL), key_set := KeySet())
    token = RSA.sign({"sub": "42", "channel": "a"})

    def permit() -> str:
        return tokens.permit(token, verifier, channel="a", user="42", client="c", now=NOW, fetched=True).channel

    with pytest.raises(errors.Refused) as refused:
        permit()
    assert refused.value.error == errors.INTERNAL and refused.value.error.temporary
    key_set.take(jwks(EC))
    key_set.reached = True
    with pytest.raises(errors.Refused) as refused:
        permit()
    assert refused.value.error == errors.PERMISSION_DENIED
    key_set.take(jwks(RSA))
    assert permit() == "a"


def test_a_bad_signature_of_a_known_key_wants_nothing() -> None:
    """Only an unknown name is worth a fetch."""
    stranger = signer("RS256", "attacker")
    assert answer(stranger.sign(CLAIMS, kid=RSA.kid), PUBLISHED, fetched=False) == errors.INVALID_TOKEN


def test_keys_are_exchanged() -> None:
    """While both are published both count; a key that is gone counts no more. Of two without a name either may sign."""
    first, second = signer("ES256", "first"), signer("ES256", "second")
    key_set = holding(first)
    verifier = Verifier(Settings(jwks_public_endpoint=URL), key_set)
    assert answer(first.sign(CLAIMS), verifier, fetched=True) == "42"
    key_set.take(jwks(first, second))
    assert [answer(s.sign(CLAIMS), verifier, fetched=True) for s in (first, second)] == ["42", "42"]
    key_set.take(jwks(second))
    assert answer(first.sign(CLAIMS), verifier, fetched=True) == errors.INVALID_TOKEN
    key_set.take(jwks(first.jwk(kid=None), second.jwk(kid=None)))
    assert [answer(s.sign(CLAIMS, kid=None), verifier, fetched=True) for s in (first, second)] == ["42", "42"]


def test_a_key_set_without_an_endpoint_is_not_used() -> None:
    """Keys count only where the config says where they come from."""
    verifier = Verifier(Settings(KEY), holding(RSA))
    assert answer(RSA.sign(CLAIMS), verifier, fetched=False) == errors.INVALID_TOKEN
    assert answer(RSA.sign(CLAIMS), Verifier(Settings(jwks_public_endpoint=URL)), fetched=False) == errors.INVALID_TOKEN


@pytest.mark.parametrize(
    "settings",
    [
        Settings(rsa_public_key=EC.pem),
        Settings(ecdsa_public_key=RSA.pem),
        Settings(rsa_public_key=KEY),
        Settings(rsa_public_key=signer("RS256", "weak", 1024).pem),
        Settings(hmac_secret_key=RSA.pem),
        Settings(hmac_secret_key=KEY, hmac_previous_secret_key=RSA.pem.replace("\n", "")),
    ],
    ids=itertools.count(),
)
def test_keys_of_the_wrong_kind(settings: Settings) -> None:
    """A key in the wrong place is a ValueError when the verifier is made, not when the first token comes."""
    with pytest.raises(ValueError):
        Verifier(settings)
