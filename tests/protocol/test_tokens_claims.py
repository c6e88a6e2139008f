"""What the claims of a good token come to: for whom it is, who the user is, which subscriptions come with it."""

from __future__ import annotations

import base64
import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rt import errors
from rt.errors import Close, Error
from rt.protocol import tokens
from rt.protocol.options import Flag, Override, Terms
from rt.protocol.tokens import SIZE_MAX, Grant, Identity, TokenExpired, TokenInvalid, Verifier
from tests.tokens import KEY, Settings, encode, sign

NOW = 1_700_000_000.0
VERIFIER = Verifier(Settings(KEY))


class Policy:
    """Nobody comes in without a token."""

    insecure = allow_anonymous_connect_without_token = disallow_anonymous_connection_tokens = False


def packed(value: object) -> str:
    """JSON in base64."""
    return base64.b64encode(json.dumps(value).encode()).decode()


def answer(claims: dict[str, Any], settings: Settings) -> str | Error | Close:
    """The user whom a connection token names, or what is answered to it."""
    try:
        return tokens.identify(sign(claims), Verifier(settings), Policy(), NOW).user
    except errors.Refused as refused:
        return refused.error
    except errors.Closing as closing:
        return closing.close


def granted(claims: dict[str, Any], settings: Settings) -> str | Error | Close:
    """The same for a subscription token."""
    token = sign({"channel": "a", **claims})
    try:
        return tokens.permit(token, Verifier(settings), channel="a", user="42", client="c", now=NOW).user
    except errors.Refused as refused:
        return refused.error
    except errors.Closing as closing:
        return closing.close


EXACT, REGEX = (
    {"audience": "rt", "issuer": "https://id.example/"},
    {"audience_regex": "rt|r.t", "issuer_regex": "a[12]"},
)


@pytest.mark.parametrize(
    ("claims", "settings", "good"),
    [
        ({}, {}, True),
        ({"aud": "x", "iss": "y"}, {}, True),
        ({"aud": None, "iss": None}, {}, True),
        ({"aud": "rt"}, {"audience": "rt"}, True),
        ({"aud": ["x", "rt"]}, {"audience": "rt"}, True),
        ({"aud": []}, {"audience": "rt"}, False),
        ({"aud": ["x"]}, {"audience": "rt"}, False),
        ({"aud": ""}, {"audience": "rt"}, False),
        ({"aud": "r"}, {"audience": "rt"}, False),
        ({"aud": "rt2"}, {"audience": "rt"}, False),
        ({"aud": "RT"}, {"audience": "rt"}, False),
        ({"aud": " rt"}, {"audience": "rt"}, False),
        ({"aud": "rt\n"}, {"audience": "rt"}, False),
        ({"aud": ["r", "t"]}, {"audience": "rt"}, False),
        ({"aud": None}, {"audience": "rt"}, False),
        ({}, {"audience": "rt"}, False),
        ({"aud": 5}, {}, False),
        ({"aud": ["rt", 5]}, {"audience": "rt"}, False),
        ({"aud": {"rt": 1}}, {"audience": "rt"}, False),
        ({"aud": ["x", "rxt"]}, {"audience_regex": "r.t"}, True),
        ({"aud": "rxt2"}, {"audience_regex": "r.t"}, False),
        ({"aud": "2rxt"}, {"audience_regex": "r.t"}, False),
        ({"aud": "rxt\n"}, {"audience_regex": "r.t"}, False),
        ({"aud": "b2"}, {"audience_regex": "a|b"}, False),
        ({"aud": "b"}, {"audience_regex": "^a|b$"}, True),
        ({}, {"audience_regex": "r.t"}, False),
        ({"iss": "https://id.example"}, {"issuer": "https://id.example"}, True),
        ({"iss": "https://id.example/"}, {"issuer": "https://id.example"}, False),
        ({"iss": "https://id.example.evil"}, {"issuer": "https://id.example"}, False),
        ({"iss": "https://id"}, {"issuer": "https://id.example"}, False),
        ({"iss": ""}, {"issuer": "https://id.example"}, False),
        ({"iss": None}, {"issuer": "https://id.example"}, False),
        ({}, {"issuer": "https://id.example"}, False),
        ({"iss": ["https://id.example"]}, {"issuer": "https://id.example"}, False),
        ({"iss": ["x"]}, {}, False),
        ({"iss": "https://b.id.example"}, {"issuer_regex": r"https://[a-z]\.id\.example"}, True),
        ({"iss": "https://b.id.example.evil"}, {"issuer_regex": r"https://[a-z]\.id\.example"}, False),
        ({"iss": "x"}, {"issuer_regex": "|y"}, False),
        ({}, {"issuer_regex": "y"}, False),
        ({"iss": "https://id.example/", "aud": "rt"}, EXACT, True),
        ({"iss": "https://id.example/", "aud": "x"}, EXACT, False),
        ({"iss": "a2", "aud": ["rat"]}, REGEX, True),
        ({"iss": "a3", "aud": ["rat"]}, REGEX, False),
    ],
    ids=itertools.count(),
)
def test_audience_and_issuer(claims: dict[str, Any], settings: dict[str, str], good: bool) -> None:
    """A token must be for us and from whom we expect, as a whole; what is not is invalid, for either purpose."""
    pinned = Settings(KEY, **settings)  # type: ignore[arg-type]
    assert answer({"sub": "42", **claims}, pinned) == ("42" if good else errors.INVALID_TOKEN)
    assert granted({"sub": "42", **claims}, pinned) == ("42" if good else errors.PERMISSION_DENIED)


@pytest.mark.parametrize("claims", [{"exp": NOW}, {"nbf": NOW + 1}])
def test_a_token_that_is_over_and_for_others(claims: dict[str, Any]) -> None:
    """Time is judged first: the client asks for a new token, which is then judged anew."""
    assert answer(claims, Settings(KEY, audience="rt")) == errors.TOKEN_EXPIRED


@pytest.mark.parametrize(
    ("claims", "user"),
    [
        ({"user_id": "42"}, "42"),
        ({"user_id": "42", "sub": "7"}, "42"),
        ({"user_id": "42", "sub": 7}, "42"),
        ({"sub": "7"}, ""),
        ({}, ""),
        ({"user_id": ""}, ""),
        ({"user_id": 42}, errors.INVALID_TOKEN),
        ({"user_id": None}, errors.INVALID_TOKEN),
        ({"user_id": ["42"]}, errors.INVALID_TOKEN),
        ({"user_id": "\ud800"}, errors.INVALID_TOKEN),
    ],
    ids=itertools.count(),
)
def test_another_claim_names_the_user(claims: dict[str, Any], user: str | Close) -> None:
    """Where the config says so that claim alone counts; ``sub`` is nothing then."""
    assert answer(claims, Settings(KEY, user_id_claim="user_id")) == user


def test_another_claim_names_the_user_of_a_subscription() -> None:
    """The same for subscription tokens."""
    settings = Settings(KEY, user_id_claim="user_id")
    assert granted({"user_id": "42", "sub": "7"}, settings) == "42"
    assert granted({"sub": "42"}, settings) == errors.INVALID_TOKEN
    assert granted({"user_id": 42}, settings) == errors.PERMISSION_DENIED
    assert granted({"iss": "42"}, Settings(KEY, user_id_claim="iss")) == "42"


@pytest.mark.parametrize(
    ("claims", "info"),
    [
        ({"info": {"a": 1}}, b'{"a": 1}'),
        ({"info": None}, b""),
        ({"info": 0}, b"0"),
        ({"info": ""}, b'""'),
        ({"b64info": packed({"a": 1})}, b'{"a": 1}'),
        ({"b64info": packed([1]), "info": 2}, b"[1]"),
        ({"b64info": base64.b64encode(b"{\n}").decode()}, b"{}"),
        ({"b64info": "", "info": 2}, b"2"),
        ({"b64info": None}, b""),
    ],
    ids=itertools.count(),
)
def test_information(claims: dict[str, Any], info: bytes) -> None:
    """What others are told about the connection or the subscription; base64 wins."""
    assert VERIFIER.connection(sign(claims), NOW).info == info
    assert VERIFIER.subscription(sign({"channel": "a", **claims}), NOW).info == info


BAD_TERMS: list[tuple[dict[str, Any], str]] = [
    ({"b64info": "!"}, "info"),
    ({"b64info": "e30"}, "info"),
    ({"b64info": base64.b64encode(b"{").decode()}, "info"),
    ({"b64info": base64.b64encode(b"\xff").decode()}, "info"),
    ({"b64info": 5}, "claims"),
]


@pytest.mark.parametrize(("claims", "word"), BAD_TERMS, ids=itertools.count())
def test_information_that_is_none(claims: dict[str, Any], word: str) -> None:
    """What no client could read makes the token invalid."""
    for purpose in ({}, {"channel": "a"}):
        with pytest.raises(TokenInvalid, match=word):
            judge = VERIFIER.subscription if purpose else VERIFIER.connection
            judge(sign({**claims, **purpose}), NOW)


ALL = {name: {"value": True} for name in Override.__struct_fields__}


@pytest.mark.parametrize(
    ("claims", "subs"),
    [
        ({}, {}),
        ({"subs": None, "channels": None}, {}),
        ({"subs": {}, "channels": []}, {}),
        ({"channels": ["a", "chat:b", "a"]}, {"a": Terms(), "chat:b": Terms()}),
        ({"subs": {"a": {}}}, {"a": Terms()}),
        ({"subs": {"a": {}}, "channels": ["b"]}, {"a": Terms()}),
        ({"subs": {}, "channels": ["b"]}, {"b": Terms()}),
        ({"subs": {"a": {"info": [1], "data": {"x": 2}}}}, {"a": Terms(b"[1]", b'{"x": 2}')}),
        ({"subs": {"a": {"b64info": packed(1), "b64data": packed(2), "info": 3}}}, {"a": Terms(b"1", b"2")}),
        ({"subs": {"a": {"expire_at": NOW + 9}}}, {"a": Terms(expire_at=NOW + 9)}),
        ({"subs": {"a": {"future": 1, "override": None}}}, {"a": Terms()}),
        (
            {"subs": {"a": {"override": {"presence": {"value": False}, "future": 1}}}},
            {"a": Terms(override=Override(presence=Flag(False)))},
        ),
        ({"subs": {"a": {"override": ALL}}}, {"a": Terms(override=Override(*[Flag(True)] * len(ALL)))}),
        ({"subs": {"": {}, "no such namespace:x": {}}}, {"": Terms(), "no such namespace:x": Terms()}),
        ({"exp": NOW + 9, "expire_at": 0, "channels": ["a"]}, {"a": Terms()}),
    ],
    ids=itertools.count(),
)
def test_server_side_subscriptions(claims: dict[str, Any], subs: dict[str, Terms]) -> None:
    """``subs`` wins over ``channels``; unknown options are ignored, names are for others to judge."""
    assert VERIFIER.connection(sign({"sub": "42", **claims}), NOW) == Identity("42", subs=subs)


@pytest.mark.parametrize(
    ("claims", "word"),
    [
        *(({"subs": {"a": claims}}, "subs" if word == "info" else word) for claims, word in BAD_TERMS),
        ({"subs": {"a": {"b64data": "!"}}}, "subs"),
        ({"subs": {"a": {"data": json.loads("[" * 150 + "]" * 150)}}}, "subs"),
        ({"subs": {"a": None}}, "claims"),
        ({"subs": {"a": []}}, "claims"),
        ({"subs": ["a"]}, "claims"),
        ({"subs": "a"}, "claims"),
        ({"subs": {"a": {"override": {"presence": True}}}}, "claims"),
        ({"subs": {"a": {"override": {"presence": {"value": 1}}}}}, "claims"),
        ({"subs": {"a": {"expire_at": "soon"}}}, "claims"),
        ({"channels": "a"}, "claims"),
        ({"channels": {"a": {}}}, "claims"),
        ({"channels": [5]}, "claims"),
        ({"channels": [None]}, "claims"),
        ({"override": {"presence": 5}}, "claims"),
    ],
    ids=itertools.count(),
)
def test_server_side_subscriptions_that_are_none(claims: dict[str, Any], word: str) -> None:
    """One bad option and the whole token is invalid: nobody gets half of what was meant."""
    with pytest.raises(TokenInvalid, match=f"^{word}$"):
        VERIFIER.connection(sign({"sub": "42", **claims}), NOW)


@pytest.mark.parametrize(
    ("claims", "grant"),
    [
        ({}, Grant("42", "a")),
        ({"override": {"join_leave": {"value": True}}}, Grant("42", "a", override=Override(join_leave=Flag(True)))),
        ({"override": None}, Grant("42", "a")),
        ({"client": "c"}, Grant("42", "a", client="c")),
        ({"client": None}, Grant("42", "a")),
        ({"info": 1, "exp": NOW + 5, "expire_at": NOW + 9}, Grant("42", "a", b"1", NOW + 9)),
        ({"exp": NOW + 5, "expire_at": 0}, Grant("42", "a")),
        ({"subs": {"b": {}}, "channels": ["b"]}, Grant("42", "a")),
    ],
    ids=itertools.count(),
)
def test_subscription_claims(claims: dict[str, Any], grant: Grant) -> None:
    """All that a subscription token can say."""
    token = sign({"sub": "42", "channel": "a", **claims})
    assert tokens.permit(token, VERIFIER, channel="a", user="42", client="c", now=NOW) == grant


@pytest.mark.parametrize(
    ("iat", "issued_at"),
    [(NOW, NOW), (int(NOW), NOW), (NOW + 1e6, NOW + 1e6), (0, 0.0), (None, 0.0), (10**300, 2.0**53), (-5, -5.0)],
)
def test_when_a_token_was_made(iat: float | None, issued_at: float) -> None:
    """``iat`` is told on, and decides nothing here."""
    assert VERIFIER.connection(sign({"iat": iat}), NOW).issued_at == issued_at


@pytest.mark.parametrize(("ago", "over"), [(0, False), (4.9, False), (5, True), (600, True), (-600, False)])
def test_the_end_of_a_right(ago: float, over: bool) -> None:
    """A right ends with its time and the leeway, whatever the clock did since it was granted."""
    verifier = Verifier(Settings(KEY, leeway=5))
    assert verifier.over(NOW - ago, NOW) is over
    assert not verifier.over(None, NOW)
    token = sign({"sub": "42", "exp": NOW + 60})
    expire_at = verifier.connection(token, NOW).expire_at
    assert [verifier.over(expire_at, NOW + passed) for passed in (0, 64.9, 65, 600)] == [False, False, True, True]
    with pytest.raises(TokenExpired):
        verifier.connection(token, NOW + 65)


@pytest.mark.parametrize(
    ("token", "issuer"),
    [
        (sign({"iss": "https://id.example"}), "https://id.example"),
        (sign({"iss": "https://id.example", "sub": 5, "exp": "x", "aud": {}}, "any key at all"), "https://id.example"),
        (sign({"iss": "x"}, alg="none") + "x", "x"),
        (sign({}), ""),
        (sign({"iss": ""}), ""),
        (sign({"iss": None}), ""),
        (sign({"iss": 5}), ""),
        (sign({"iss": ["x"]}), ""),
        (sign({"iss": "x", "pad": "x" * SIZE_MAX}), ""),
        (f"x.{encode(b'[]')}.x", ""),
        (f"x.{encode(b'{')}.x", ""),
        (f"x.{encode(b'[' * 5000)}.x", ""),
        ("x." + encode(b'{"iss":"x"') + ".x", ""),
        ("", ""),
        ("x", ""),
        ("a.b.c.d.e", ""),
        ("x" * 2**20, ""),
        ("\u00e9.\u00e9.\u00e9", ""),
    ],
    ids=itertools.count(),
)
def test_who_a_token_says_it_is_from(token: str, issuer: str) -> None:
    """It is read without being believed, from anything."""
    assert tokens.issuer(token) == issuer


@given(st.text(max_size=60) | st.binary(max_size=60).map(lambda body: f"x.{encode(body) or 'x'}.x"))
def test_any_text_has_an_issuer_or_none(token: str) -> None:
    """No text raises anything."""
    assert isinstance(tokens.issuer(token), str)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
NAMES = (
    "sub",
    "exp",
    "nbf",
    "iat",
    "iss",
    "aud",
    "expire_at",
    "client",
    "info",
    "b64info",
    "override",
    "channels",
    "subs",
)


@given(st.dictionaries(st.sampled_from(NAMES), JSON, max_size=4))
def test_any_claims_are_judged(claims: dict[str, Any]) -> None:
    """Whatever a backend signs is an identity, expired or invalid."""
    try:
        identity = VERIFIER.connection(sign(claims), NOW)
    except (TokenExpired, TokenInvalid):
        return
    assert isinstance(identity.user, str) and isinstance(identity.info, bytes)
    assert all(isinstance(terms, Terms) for terms in identity.subs.values())


def test_tokens_to_try_out_with_further_claims() -> None:
    """What a tool signs may have any claims, and they win."""
    claims = {"channels": ["a"], "info": 1, "exp": NOW + 5}
    token = tokens.connection_token("42", KEY, now=NOW, ttl=60, claims=claims)
    assert VERIFIER.connection(token, NOW) == Identity("42", b"1", NOW + 5, {"a": Terms()}, NOW)
    token = tokens.subscription_token("42", "a", KEY, now=NOW, claims={"client": "c"})
    assert VERIFIER.subscription(token, NOW) == Grant("42", "a", client="c")
