"""Tokens: what is believed, what is expired, what is invalid, and that nothing of them is repeated."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
from dataclasses import dataclass
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rt import errors
from rt.errors import Close, Error
from rt.protocol import tokens
from rt.protocol.tokens import Grant, Identity, TokenExpired, TokenInvalid, Verifier
from tests.tokens import KEY, PREVIOUS_KEY, Settings, encode, sign

NOW = 1_700_000_000.0


@dataclass(frozen=True)
class Policy:
    """The part of the ``client`` configuration that decides over connects."""

    insecure: bool = False
    allow_anonymous_connect_without_token: bool = False
    disallow_anonymous_connection_tokens: bool = False


VERIFIER = Verifier(Settings(KEY, PREVIOUS_KEY))
PEM = "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE\n-----END PUBLIC KEY-----\n"


def forged(header: object, claims: object, signature: bytes = b"x") -> str:
    """A token in form only."""
    parts = (json.dumps(header).encode(), json.dumps(claims).encode(), signature)
    return ".".join(encode(part) for part in parts)


def signed(body: bytes) -> str:
    """A token with a good signature over any bytes."""
    text = ".".join(encode(part) for part in (b'{"alg":"HS256"}', body))
    signature = jwt.get_algorithm_by_name("HS256").sign(text.encode(), KEY.encode())
    return f"{text}.{encode(signature)}"


@pytest.mark.parametrize(
    ("claims", "identity"),
    [
        ({"sub": "42"}, Identity("42")),
        ({}, Identity("")),
        ({"sub": ""}, Identity("")),
        ({"sub": "42", "exp": NOW + 1}, Identity("42", b"", NOW + 1)),
        ({"sub": "42", "exp": int(NOW) + 1}, Identity("42", b"", NOW + 1)),
        ({"sub": "42", "exp": NOW + 0.5}, Identity("42", b"", NOW + 0.5)),
        ({"sub": "42", "exp": None}, Identity("42")),
        ({"sub": "42", "exp": 2**63}, Identity("42", b"", 2.0**53)),
        ({"sub": "42", "exp": 1e300}, Identity("42", b"", 2.0**53)),
        ({"sub": "42", "exp": 10**300}, Identity("42", b"", 2.0**53)),
        ({"sub": "42", "nbf": NOW}, Identity("42")),
        ({"sub": "42", "nbf": -(2**70)}, Identity("42")),
        ({"sub": "42", "iat": NOW + 9999}, Identity("42", issued_at=NOW + 9999)),
        ({"sub": "42", "aud": ["a"], "iss": "b", "jti": 1, "future": {}}, Identity("42")),
        ({"sub": "42", "exp": NOW + 9, "expire_at": NOW + 99}, Identity("42", b"", NOW + 99)),
        ({"sub": "42", "exp": NOW + 9, "expire_at": 0}, Identity("42")),
        ({"sub": "42", "info": {"name": "A\n"}}, Identity("42", b'{"name": "A\\n"}')),
        ({"sub": "\n'\x00\u2028"}, Identity("\n'\x00\u2028")),
        ({"sub": "42", "channel": None}, Identity("42")),
    ],
)
def test_connection_claims(claims: dict[str, Any], identity: Identity) -> None:
    """A good token names a user, what is known about it, and when its right ends."""
    assert VERIFIER.connection(sign(claims), NOW) == identity


@pytest.mark.parametrize("alg", ["HS256", "HS384", "HS512"])
@pytest.mark.parametrize("key", [KEY, PREVIOUS_KEY])
def test_keys_and_algorithms(alg: str, key: str) -> None:
    """An HMAC secret verifies the three HMAC algorithms; the previous secret still counts. Other libraries agree."""
    assert VERIFIER.connection(sign({"sub": "42"}, key, alg), NOW).user == "42"
    # PyJWT warns of secrets shorter than the digest.
    long = key * 2
    ours, theirs = tokens.sign({"sub": "42"}, long, alg), jwt.encode({"sub": "42"}, long, alg)
    assert jwt.decode(ours, long, algorithms=[alg]) == {"sub": "42"}
    assert Verifier(Settings(long)).connection(theirs, NOW).user == "42"


@pytest.mark.parametrize(
    "claims",
    [
        {"exp": NOW},
        {"exp": NOW - 1},
        {"exp": 0},
        {"exp": -1e300},
        {"exp": -(10**300)},
        {"nbf": NOW + 1},
        {"nbf": 2**63},
        {"exp": NOW + 9, "nbf": NOW + 1},
    ],
)
def test_expired(claims: dict[str, Any]) -> None:
    """Past exp and before nbf a token is expired, for either purpose."""
    with pytest.raises(TokenExpired):
        VERIFIER.connection(sign({"sub": "42", **claims}), NOW)
    with pytest.raises(TokenExpired):
        VERIFIER.subscription(sign({"sub": "42", "channel": "a", **claims}), NOW)


@pytest.mark.parametrize(
    ("claims", "good"),
    [({"exp": NOW - 4.9}, True), ({"exp": NOW - 5}, False), ({"nbf": NOW + 5}, True), ({"nbf": NOW + 5.1}, False)],
)
def test_leeway(claims: dict[str, Any], good: bool) -> None:
    """Clocks may be apart by the leeway, both ways."""
    verifier = Verifier(Settings(KEY, leeway=5))
    if good:
        assert tokens.identify(sign(claims), verifier, Policy(), NOW).user == ""
    else:
        with pytest.raises(TokenExpired):
            verifier.connection(sign(claims), NOW)


GOOD = sign({"sub": "42"})
HEAD, BODY, SIGNATURE = GOOD.split(".")


@pytest.mark.parametrize(
    "token",
    [
        "",
        ".",
        "..",
        "a.b",
        "a.b.c.d",
        "\u00e9.\u00e9.\u00e9",
        f"{HEAD}.{BODY}.",
        f"{HEAD}.{BODY}",
        f".{BODY}.{SIGNATURE}",
        GOOD + "\n",
        " " + GOOD,
        GOOD + "=",
        f"{HEAD}.{BODY}.{SIGNATURE[:-2]}",
        f"{HEAD}.{BODY}.{SIGNATURE[::-1]}",
        f"{HEAD}.{BODY}x.{SIGNATURE}",
        f"{HEAD}.{encode(b'{}')}.{SIGNATURE}",
        sign({"sub": "42"}, "another secret"),
        sign({"sub": "42"}, ""),
        *(
            sign({"sub": "42"}, alg=alg)
            for alg in ("none", "None", "nOnE", "hs256", "RS256", "ES256", "PS256", "EdDSA", "")
        ),
        *(forged({"alg": alg}, {"sub": "42"}) for alg in ("none", "HS256", "RS256")),
        forged({}, {}),
        forged([], {}),
        forged({"alg": None}, {}),
        forged({"alg": ["HS256"]}, {}),
        sign({"sub": "42"}, crit=["b64"], b64=False),
        sign({"sub": "42"}, crit=[]),
        sign({"sub": "42"}, crit=None),
        sign({"sub": "42", "pad": "x" * 8192}),
        "x" * 2**20,
        ".".join(["x" * 2**18] * 3),
        forged({"alg": "dir", "enc": "A256GCM", "zip": "DEF"}, {}) + ".a.b",
        sign({"sub": 42}),
        sign({"sub": None}),
        sign({"sub": ["42"]}),
        sign({"sub": True}),
        sign({"exp": "1800000000"}),
        sign({"exp": True}),
        sign({"exp": []}),
        sign({"nbf": "0"}),
        sign({"iat": "0"}),
        sign({"expire_at": "0"}),
        sign({"info": json.loads("[" * 200 + "]" * 200)}),
        sign({"channel": "a"}),
        sign({"channel": ""}),
        sign({"channel": 5}),
        signed(b"[]"),
        signed(b"{"),
        signed(b""),
        signed(b"\xff"),
        signed(b"[" * 5000),
        signed(b'{"sub":"\\ud800"}'),
    ],
    ids=itertools.count(),
)
def test_invalid_connection_tokens(token: str) -> None:
    """What is not a signed connection token of ours is invalid, and never repeated in the exception."""
    with pytest.raises(TokenInvalid) as invalid:
        VERIFIER.connection(token, NOW)
    assert str(invalid.value) in {"size", "form", "algorithm", "signature", "claims", "purpose", "info"}
    assert invalid.value.__cause__ is None


@pytest.mark.parametrize(
    "header", [{"kid": "../../etc/passwd"}, {"jku": "http://x/"}, {"jwk": {"kty": "oct"}}, {"x5u": "x"}]
)
def test_headers_that_name_keys(header: dict[str, Any]) -> None:
    """A token cannot name its key: such headers change nothing."""
    assert VERIFIER.connection(sign({"sub": "42"}, **header), NOW).user == "42"
    with pytest.raises(TokenInvalid):
        VERIFIER.connection(sign({"sub": "42"}, "another secret", **header), NOW)


def test_numbers_beyond_all_types() -> None:
    """A time that no type can hold makes a token invalid."""
    for number in (b"1e400", b"9" * 5000):
        with pytest.raises(TokenInvalid):
            VERIFIER.connection(signed(b'{"exp":%b}' % number), NOW)


def test_without_keys_nothing_is_valid() -> None:
    """No secret, or an empty one, verifies nothing."""
    verifier = Verifier(Settings("", ""))
    for key in (KEY, ""):
        with pytest.raises(TokenInvalid):
            verifier.connection(sign({"sub": "42"}, key), NOW)


@pytest.mark.parametrize(
    "key", [PEM, PEM.replace("\n", "\r\n"), " \n" + PEM, '{"kty":"oct","k":"AAAA"}', "ssh-rsa AAAAB3NzaC1yc2E x"]
)
def test_public_keys_are_no_secrets(key: str) -> None:
    """What looks like a public key or a JWK is refused as an HMAC secret, without being repeated."""
    with pytest.raises(ValueError, match="HMAC secret") as refused:
        Verifier(Settings(key, ""))
    assert key not in str(refused.value)
    with pytest.raises(ValueError, match="HMAC secret"):
        tokens.sign({}, key)


@given(st.text(st.characters(codec="utf-8"), max_size=60) | st.lists(st.binary(max_size=20), min_size=3, max_size=3))
def test_any_text(token: str | list[bytes]) -> None:
    """No text raises anything but TokenInvalid."""
    text = token if isinstance(token, str) else ".".join(encode(part) for part in token)
    with pytest.raises(TokenInvalid):
        VERIFIER.connection(text, NOW)


@given(st.binary(max_size=60) | st.text(max_size=30).map(lambda text: json.dumps({"sub": text}).encode()))
def test_any_signed_bytes(body: bytes) -> None:
    """Even what a holder of the key signs raises nothing else."""
    with contextlib.suppress(TokenInvalid, TokenExpired):
        VERIFIER.connection(signed(body), NOW)


@pytest.mark.parametrize(
    ("token", "policy", "outcome"),
    [
        (GOOD, Policy(), "42"),
        (GOOD, Policy(insecure=True), "42"),
        (sign({}), Policy(), ""),
        (sign({}), Policy(disallow_anonymous_connection_tokens=True), errors.FORBIDDEN),
        (GOOD, Policy(disallow_anonymous_connection_tokens=True), "42"),
        (sign({"exp": NOW}), Policy(insecure=True), errors.TOKEN_EXPIRED),
        (sign({"nbf": NOW + 1}), Policy(), errors.TOKEN_EXPIRED),
        (sign({"exp": NOW + 9, "expire_at": NOW - 1}), Policy(), errors.EXPIRED),
        ("x.y.z", Policy(), errors.INVALID_TOKEN),
        ("x.y.z", Policy(insecure=True, allow_anonymous_connect_without_token=True), errors.INVALID_TOKEN),
        (sign({"channel": "a"}), Policy(), errors.INVALID_TOKEN),
        ("", Policy(), errors.BAD_COMMAND),
        ("", Policy(allow_anonymous_connect_without_token=True), ""),
        ("", Policy(insecure=True), ""),
        ("", Policy(disallow_anonymous_connection_tokens=True), errors.BAD_COMMAND),
    ],
)
def test_identify(token: str, policy: Policy, outcome: str | Error | Close) -> None:
    """Who connects, or what is answered."""
    if isinstance(outcome, str):
        assert tokens.identify(token, VERIFIER, policy, NOW).user == outcome
    else:
        with pytest.raises((errors.Refused, errors.Closing)) as refused:
            tokens.identify(token, VERIFIER, policy, NOW)
        assert answer(refused.value) == outcome


def answer(refusal: Exception) -> Error | Close | None:
    """The entry of the tables that an exception carries."""
    match refusal:
        case errors.Refused():
            return refusal.error
        case errors.Closing():
            return refusal.close
    return None


@pytest.mark.parametrize(
    ("claims", "outcome"),
    [
        ({}, Grant("42", "a")),
        ({"exp": NOW + 9, "info": [1]}, Grant("42", "a", b"[1]", NOW + 9)),
        ({"expire_at": NOW + 99}, Grant("42", "a", b"", NOW + 99)),
        ({"client": "c1"}, Grant("42", "a", client="c1")),
        ({"client": "c2"}, errors.INVALID_TOKEN),
        ({"channel": "b"}, errors.INVALID_TOKEN),
        ({"sub": "7"}, errors.INVALID_TOKEN),
        ({"sub": ""}, errors.INVALID_TOKEN),
        ({"exp": NOW}, errors.TOKEN_EXPIRED),
        ({"exp": NOW, "channel": "b"}, errors.TOKEN_EXPIRED),
        ({"nbf": NOW + 1}, errors.TOKEN_EXPIRED),
        ({"exp": NOW + 9, "expire_at": NOW}, errors.EXPIRED),
        ({"channel": None}, errors.PERMISSION_DENIED),
        ({"channel": ""}, errors.PERMISSION_DENIED),
        ({"channel": ["a"]}, errors.PERMISSION_DENIED),
        ({"sub": 42}, errors.PERMISSION_DENIED),
    ],
)
def test_permit(claims: dict[str, Any], outcome: Grant | Error | Close) -> None:
    """What a subscription token is worth to one user, channel and connection."""
    token = sign({"sub": "42", "channel": "a", **claims})
    if isinstance(outcome, Grant):
        assert tokens.permit(token, VERIFIER, channel="a", user="42", client="c1", now=NOW) == outcome
    else:
        with pytest.raises((errors.Refused, errors.Closing)) as refused:
            tokens.permit(token, VERIFIER, channel="a", user="42", client="c1", now=NOW)
        assert answer(refused.value) == outcome


@pytest.mark.parametrize("token", ["x", GOOD, sign({"sub": "42", "channel": "a"}, "another secret")])
def test_invalid_subscription_tokens(token: str) -> None:
    """An invalid subscription token is answered with 103; a connection token is one."""
    with pytest.raises(errors.Refused) as refused:
        tokens.permit(token, VERIFIER, channel="a", user="42", client="c1", now=NOW)
    assert refused.value.error == errors.PERMISSION_DENIED
    assert str(refused.value) in {f"subscription token: {word}" for word in ("form", "purpose", "signature")}


def test_an_anonymous_grant() -> None:
    """A subscription token without a user is one for the anonymous user."""
    token = sign({"channel": "a"})
    assert tokens.permit(token, VERIFIER, channel="a", user="", client="c1", now=NOW) == Grant("", "a")


def test_tokens_to_try_out() -> None:
    """What we sign we accept, until it is over; any JWT library reads it."""
    token = tokens.connection_token("42", KEY, now=NOW, ttl=60)
    assert VERIFIER.connection(token, NOW + 59) == Identity("42", b"", NOW + 60, issued_at=NOW)
    with pytest.raises(TokenExpired):
        VERIFIER.connection(token, NOW + 60)
    token = tokens.subscription_token("42", "chat:1", KEY, now=NOW)
    assert VERIFIER.subscription(token, NOW + 1e9) == Grant("42", "chat:1")
    assert json.loads(base64.urlsafe_b64decode(token.split(".")[0] + "==")) == {"alg": "HS256", "typ": "JWT"}


@pytest.mark.parametrize(("key", "algorithm"), [("", "HS256"), (KEY, "none"), (KEY, "RS256")])
def test_signing_needs_a_secret(key: str, algorithm: str) -> None:
    """Nothing is signed that would not be accepted."""
    with pytest.raises(ValueError, match="secret"):
        tokens.sign({}, key, algorithm)
