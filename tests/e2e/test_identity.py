"""Tokens of public keys, forged, foreign and strange ones, and key sets that cannot be had: the same at every door."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from websockets.exceptions import InvalidMessage, InvalidStatus

from tests.clients import Ended, PlainSocket, Reader, Refusal, Reply, SdkClient, UniSocket
from tests.eventsource import EventSource, UniStream
from tests.jwks import Endpoint, Signer, body, der, drip, flood, jwks, signer
from tests.raw import RawSocket
from tests.servers import Server
from tests.tokens import KEY, PREVIOUS_KEY, connection_token, encode, sign
from tests.waiting import PATIENCE

NOW = int(time.time())
FAR = NOW + 36000
AUDIENCE, ISSUER = "https://rt.example.com", "https://id.example.com"
GOOD: dict[str, Any] = {"sub": "42", "exp": FAR, "aud": AUDIENCE, "iss": ISSUER}

RSA, ECDSA = signer("RS256", "static-rsa"), signer("ES256", "static-ec")
SET = [signer(algorithm, f"set-{algorithm}") for algorithm in ("RS384", "ES384", "ES512", "EdDSA")]
STRANGER = signer("RS256", "of-a-stranger")

DOORS = ("sdk", "ws", "sse", "uni_websocket", "uni_sse")

OK = None, 200, "connected"
EXPIRED = (Reply, 109), 401, "expired"
INVALID = (Ended, 3500), 401, "invalid"
Outcome = tuple[tuple[type[Refusal], int] | None, int, str]
"""What an SDK is answered, the HTTP status of /ws and /sse, and in a word."""

UNI = {"connected": {0}, "expired": {3005, 401}, "invalid": {3500, 401}, "large": {3500, 401, 1009, 413, 431}}


def claims(**changes: Any) -> dict[str, Any]:
    """Good claims with changes; None takes one away."""
    return {name: value for name, value in {**GOOD, **changes}.items() if value is not None}


def swapped(one: Signer, alg: str) -> str:
    """A token that ``one`` signed as it can, whose header names another algorithm."""
    header = encode(json.dumps({"alg": alg, "typ": "JWT", "kid": one.kid}).encode())
    signed = f"{header}.{encode(json.dumps(GOOD).encode())}"
    return f"{signed}.{encode(one.signature(signed.encode()))}"


def secrets_of(one: Signer) -> dict[str, str]:
    """The ways in which the public half of ``one`` could be mistaken for a secret."""
    return {
        "PEM": one.pem,
        "PEM without its last line end": one.pem.rstrip(),
        "PEM with CRLF": one.pem.replace("\n", "\r\n"),
        "PEM with blanks": one.pem.replace("\n", "\n "),
        "DER": der(one.pem).decode("latin-1"),
        "JWK": json.dumps(one.jwk()),
    }


def confused(one: Signer) -> list[tuple[str, str, Outcome]]:
    """F60: the public key of ``one`` as an HMAC secret."""
    return [
        (f"{alg} with the {name} of {one.kid}", sign(GOOD, secret, alg=alg), INVALID)
        for name, secret in secrets_of(one).items()
        for alg in ("HS256", "HS512")
    ]


GOODS: list[tuple[str, str, Outcome]] = [
    ("HMAC", sign(GOOD), OK),
    ("static RS256", RSA.sign(GOOD), OK),
    ("static RS512", RSA.sign(GOOD, "RS512"), OK),
    ("static ES256", ECDSA.sign(GOOD), OK),
    ("without kid", RSA.sign(GOOD, kid=None), OK),
    *((f"of the set: {one.algorithm}", one.sign(GOOD), OK) for one in SET),
    ("audience in a list", sign(claims(aud=["other", AUDIENCE])), OK),
    ("without exp", sign(claims(exp=None)), OK),
    ("exp as a float", sign(claims(exp=FAR + 0.5)), OK),
    ("exp of 2^63", sign(claims(exp=2**63)), OK),
]

FORGED: list[tuple[str, str, Outcome]] = [
    *((f"alg {alg}", sign(GOOD, alg=alg), INVALID) for alg in ("none", "None", "nOnE", "")),
    ("alg none without the last dot", sign(GOOD, alg="none").rstrip("."), INVALID),
    ("an empty signature", sign(GOOD).rpartition(".")[0] + ".", INVALID),
    ("RS256 with an empty signature", RSA.sign(GOOD).rpartition(".")[0] + ".", INVALID),
    *confused(RSA),
    *confused(ECDSA),
    ("RSA named PS256", swapped(RSA, "PS256"), INVALID),
    ("RSA named ES256", swapped(RSA, "ES256"), INVALID),
    ("EC named RS256", swapped(ECDSA, "RS256"), INVALID),
    ("EC named EdDSA", swapped(ECDSA, "EdDSA"), INVALID),
    ("a key of the set under another algorithm", swapped(SET[1], "ES512"), INVALID),
    ("a kid of the set over a stranger's signature", STRANGER.sign(GOOD, kid=SET[0].kid), INVALID),
    ("a stranger's key", STRANGER.sign(GOOD), INVALID),
    ("of another HMAC key", sign(GOOD, "x" * 40), INVALID),
    ("of an empty HMAC key", sign(GOOD, ""), INVALID),
]

STRANGE: list[tuple[str, str, Outcome]] = [
    ("crit", sign(GOOD, crit=["exp"]), INVALID),
    ("crit of something unknown", sign(GOOD, crit=["b64"], b64=False), INVALID),
    ("kid of a path", STRANGER.sign(GOOD, kid="../../../dev/null"), INVALID),
    ("kid in SQL", STRANGER.sign(GOOD, kid="' OR 1=1 --"), INVALID),
    ("kid of a URL", STRANGER.sign(GOOD, kid="http://127.0.0.1:1/keys"), INVALID),
    ("kid of 4 KiB", STRANGER.sign(GOOD, kid="k" * 4096), INVALID),
    ("kid as a number", STRANGER.sign(GOOD, kid=1), INVALID),
    ("jku", STRANGER.sign(GOOD, jku="http://127.0.0.1:1/keys"), INVALID),
    ("x5u", STRANGER.sign(GOOD, x5u="http://127.0.0.1:1/keys"), INVALID),
    ("jwk", STRANGER.sign(GOOD, jwk=STRANGER.jwk()), INVALID),
    ("a JWE", ".".join([encode(b'{"alg":"dir","enc":"A256GCM","zip":"DEF"}'), "", "AAAA", "A" * 200, "AAAA"]), INVALID),
    ("three hundred claims", sign(claims(**{f"c{number}": number for number in range(300)})), OK),
    ("deep claims", sign(claims(info=json.loads("[" * 400 + "]" * 400))), INVALID),
]

TIMES: list[tuple[str, str, Outcome]] = [
    ("exp past", sign(claims(exp=NOW - 10)), EXPIRED),
    ("exp past, of a public key", RSA.sign(claims(exp=NOW - 10)), EXPIRED),
    ("exp past, forged", sign(claims(exp=NOW - 10), "x" * 40), INVALID),
    ("exp as text", sign(claims(exp=str(FAR))), INVALID),
    ("exp as a list", sign(claims(exp=[FAR])), INVALID),
    ("exp true", sign(claims(exp=True)), INVALID),
    ("exp negative", sign(claims(exp=-1)), EXPIRED),
    ("nbf future", sign(claims(nbf=FAR)), EXPIRED),
    ("nbf as text", sign(claims(nbf="soon")), INVALID),
    ("iat as text", sign(claims(iat="now")), INVALID),
    ("no audience", sign(claims(aud=None)), INVALID),
    ("another audience", sign(claims(aud="other")), INVALID),
    ("an audience that only begins right", sign(claims(aud=f"{AUDIENCE}.evil")), INVALID),
    ("a part of the audience", sign(claims(aud=AUDIENCE[:-1])), INVALID),
    ("other audiences", sign(claims(aud=["other", AUDIENCE[:5]])), INVALID),
    ("no issuer", sign(claims(iss=None)), INVALID),
    ("another issuer", sign(claims(iss="https://evil.example.com")), INVALID),
    ("an issuer that only begins right", sign(claims(iss=f"{ISSUER}.evil")), INVALID),
    ("a part of the issuer", sign(claims(iss=ISSUER[:-1])), INVALID),
    ("issuers in a list", sign(claims(iss=[ISSUER])), INVALID),
    ("sub as a number", sign(claims(sub=42)), INVALID),
    ("sub as a list", sign(claims(sub=["42"])), INVALID),
    ("of a subscription", sign(claims(channel="x")), INVALID),
]

ROWS = [*GOODS, *FORGED, *STRANGE, *TIMES]


@pytest.fixture(scope="module")
def endpoint() -> Iterator[Endpoint]:
    """Who publishes the keys."""
    with Endpoint(*SET) as running:
        yield running


@pytest.fixture(scope="module")
def keyed(endpoint: Endpoint) -> Iterator[Server]:
    """One worker that knows keys of every kind, and pins audience and issuer."""
    token = {
        "rsa_public_key": RSA.pem,
        "ecdsa_public_key": ECDSA.pem,
        "jwks_public_endpoint": endpoint.url,
        "audience": AUDIENCE,
        "issuer": ISSUER,
    }
    client = {"allow_anonymous_connect_without_token": False, "token": token}
    with Server({"server": {"workers": 1}, "client": client}) as running:
        yield running


def knock(door: str, server: Server, token: str) -> Reader:
    """A reader at ``door`` with ``token``, in a header where the door reads one."""
    headers = {"Authorization": f"Bearer {token}"}
    match door:
        case "sdk":
            return SdkClient(server, token=token)
        case "ws":
            return PlainSocket(server, ["users:x"], additional_headers=headers)
        case "sse":
            return EventSource(server, ["users:x"], headers=headers)
        case "uni_websocket":
            return UniSocket(server, {"token": token, "subs": {"users:x": {}}}, by_message=True)
        case "uni_sse":
            return UniStream(server, {"token": token, "subs": {"users:x": {}}}, by_post=True)
    raise AssertionError(door)


async def found_at(door: str, server: Server, token: str) -> tuple[type[Refusal], int | None] | int | None:
    """What somebody with ``token`` finds at ``door``: nothing in the way, an HTTP status, or an answer and its code."""
    one = knock(door, server, token)
    try:
        async with one:
            if one.connected:
                return None
            return Ended, (await one.wait_ended()).code
    except InvalidStatus as refused:
        return refused.response.status_code
    except Refusal as refusal:
        status = refusal.code is not None and refusal.code < 600 and isinstance(refusal, Ended)
        return refusal.code if status else (type(refusal), refusal.code)


def number_of(found: tuple[type[Refusal], int | None] | int | None) -> int:
    """Only the number of what was found; 0 for nothing in the way."""
    return (found[1] if isinstance(found, tuple) else found) or 0


@pytest.mark.parametrize(("token", "outcome"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_every_token_at_every_door(keyed: Server, token: str, outcome: Outcome) -> None:
    """Good ones come in, expired ones are told so, all others are closed: with an SDK, without one, by HTTP status."""
    sdk, status, word = outcome

    async def run() -> None:
        answers = await asyncio.gather(*(found_at(door, keyed, token) for door in DOORS))
        found = dict(zip(DOORS, answers, strict=True))
        assert found["sdk"] == sdk
        assert (found["ws"], found["sse"]) == ((None, None) if status == 200 else (status, status))
        assert {number_of(found["uni_websocket"]), number_of(found["uni_sse"])} <= UNI[word], found

    asyncio.run(run())


def test_a_huge_token(keyed: Server) -> None:
    """A mebibyte of token is refused by its size alone, at every door, at once."""
    token = sign(claims(info="x" * (1 << 20)))

    async def run() -> None:
        begun = time.monotonic()
        for door in DOORS:
            try:
                found = number_of(await found_at(door, keyed, token))
            except (InvalidMessage, ConnectionError, asyncio.IncompleteReadError):
                found = 431  # it hung up while the header was still being sent
            assert found in {1009, 413, 431}, (door, found)
        assert time.monotonic() - begun < PATIENCE / 3

    asyncio.run(run())


def test_strange_tokens_cost_no_request(keyed: Server, endpoint: Endpoint) -> None:
    """Whatever the tokens above named, the one address was asked, and not for each of them."""

    async def run() -> None:
        before = len(endpoint.paths)
        for number in range(50):
            found = await found_at("sdk", keyed, STRANGER.sign(GOOD, kid=f"unknown-{number}"))
            assert found == (Ended, 3500)
        assert len(endpoint.paths) <= before + 2
        assert set(endpoint.paths) == {"/keys.json"}

    asyncio.run(run())


# Key sets that cannot be had


def redirect(target: str) -> Callable[[Any], None]:
    """An answer that sends whoever asks to another address."""
    answer: Callable[[Any], None] = body(b"", status=302, Location=target)
    return answer


BAD_SETS: list[tuple[str, Callable[[Endpoint], Any]]] = [
    ("HTML", lambda _: body(b"<html>" + b"x" * 1000, kind="text/html")),
    ("an error", lambda _: body(jwks(SET[0]), status=500)),
    ("10 MiB", lambda _: body(b" " * (10 << 20) + jwks(SET[0]))),
    ("10 MiB without a length", lambda _: flood(10 << 20)),
    ("a redirect to the same keys", lambda endpoint: redirect(endpoint.url + "?again")),
    ("a redirect to a cloud's metadata", lambda _: redirect("http://169.254.169.254/latest/meta-data")),
    ("no JSON", lambda _: body(b'{"keys":[')),
    ("one byte now and then", lambda endpoint: drip(endpoint.ended)),
]


@pytest.mark.parametrize("make", [row[1] for row in BAD_SETS], ids=[row[0] for row in BAD_SETS])
def test_a_key_set_that_cannot_be_had(make: Callable[[Endpoint], Any], channel: str) -> None:
    """Tokens of unknown keys are told to come back, in bounded time and with one line; others are served meanwhile."""

    async def run(server: Server, endpoint: Endpoint) -> None:
        begun = time.monotonic()
        waiting = [asyncio.ensure_future(found_at("sdk", server, SET[0].sign(GOOD))) for _ in range(20)]
        async with SdkClient(server, token=sign(GOOD)) as bystander:
            await bystander.subscribe(channel)
            await bystander.publish(channel, 1)
            await bystander.until(channel, 1)
        assert set(await asyncio.gather(*waiting)) == {(Reply, 100)}
        assert time.monotonic() - begun < 8
        # A browser is asked to come back in the words of a stream; an error status would end its EventSource.
        assert await found_at("sse", server, SET[0].sign(GOOD)) == (Ended, None)
        assert number_of(await found_at("ws", server, SET[0].sign(GOOD))) == 503
        assert endpoint.paths == ["/keys.json"]
        told = [line for line in server.log().splitlines() if "key" in line and ("warning" in line or "error" in line)]
        assert len(told) == 1, told

    with Endpoint(*SET) as endpoint:
        endpoint.answer = make(endpoint)
        client = {"token": {"jwks_public_endpoint": endpoint.url}}
        with Server({"server": {"workers": 1}, "client": client}) as server:
            asyncio.run(run(server, endpoint))


def test_known_keys_stay_good_while_the_address_is_down(channel: str) -> None:
    """Once fetched, keys verify tokens though nobody answers any more; a new key is unknown, not forbidden."""

    async def run(server: Server, endpoint: Endpoint) -> None:
        assert await found_at("sdk", server, SET[0].sign(GOOD)) is None
        endpoint.answer = body(b"", status=503)
        assert await found_at("sdk", server, SET[1].sign(GOOD)) is None
        assert await found_at("sse", server, SET[2].sign(GOOD)) is None
        assert await found_at("sdk", server, STRANGER.sign(GOOD)) in ((Ended, 3500), (Reply, 100))
        assert len(endpoint.paths) <= 2

    with Endpoint(*SET) as endpoint:
        client = {"token": {"jwks_public_endpoint": endpoint.url}}
        with Server({"server": {"workers": 1}, "client": client}) as server:
            asyncio.run(run(server, endpoint))


# Keys that change


def test_a_key_is_exchanged(start_server: Callable[..., Server], channel: str) -> None:
    """After a reload tokens of the new key and the one before come in, older ones do not, and nobody is cut off."""
    server = start_server({"server": {"workers": 1}})
    third = "a-third-hmac-secret-of-the-tests-0123456789"

    async def run() -> None:
        async with SdkClient(server, token=connection_token("42", key=PREVIOUS_KEY)) as old:
            server.write_config({"client": {"token": {"hmac_secret_key": third, "hmac_previous_secret_key": KEY}}})
            assert server.process is not None
            server.process.send_signal(signal.SIGHUP)
            await eventually_welcome(server, connection_token("42", key=third))
            assert await found_at("sdk", server, connection_token("42", key=KEY)) is None
            assert await found_at("sdk", server, connection_token("42", key=PREVIOUS_KEY)) == (Ended, 3500)
            await old.subscribe(channel)

    asyncio.run(run())


async def eventually_welcome(server: Server, token: str) -> None:
    """Wait until ``token`` comes in."""
    deadline = time.monotonic() + PATIENCE
    while await found_at("sdk", server, token) is not None:
        assert time.monotonic() < deadline


@pytest.mark.parametrize("door", DOORS)
def test_a_claim_of_another_name(start_server: Callable[..., Server], door: str) -> None:
    """``user_id_claim`` says which claim names the user; ``sub`` is then one like any other."""
    server = start_server({"server": {"workers": 1}, "client": {"token": {"user_id_claim": "account"}}})

    async def run() -> None:
        assert await found_at(door, server, sign({"sub": 7, "account": "42"})) is None
        assert number_of(await found_at(door, server, sign({"sub": "42", "account": 42}))) in (3500, 401)
        async with SdkClient(server, token=sign({"sub": "7", "account": "42"})) as client:
            await client.subscribe("users:x")
            await client.publish("users:x", 1)
            await client.until("users:x", 1)
            assert client.pushes[-1]["pub"]["info"]["user"] == "42"

    asyncio.run(run())


# What must not be in a log


def test_tokens_are_in_no_log(keyed: Server) -> None:
    """Neither a good token nor a bad one, nor any part of it, whether in a query, a header, a body or a command."""
    good, forged = sign(claims(sub="marker-user-good")), sign(claims(sub="marker-user-bad"), "x" * 40)

    async def run() -> None:
        for token in (good, forged, claims_of_text()):
            for door in DOORS:
                await found_at(door, keyed, token)
            for path in ("/ws", "/sse", "/nowhere", "/connection/websocket", "/connection/uni_sse", "/t/x/sse"):
                async with RawSocket(keyed) as raw:
                    request = (
                        f"GET {path}?channel=users:x&token={token}&api_key={token} HTTP/1.1\r\nHost: localhost\r\n\r\n"
                    )
                    await raw.send(request.encode())
                    await raw.head()

    asyncio.run(run())
    log = keyed.log()
    metrics = keyed.internal("/metrics")[1]
    for token in (good, forged, claims_of_text()):
        for part in (token, *token.split(".")[1:]):
            assert part not in log and part not in metrics
    assert "marker-user" not in log and "marker-user" not in metrics


def claims_of_text() -> str:
    """A token-like text that is none."""
    return "aaaa.not-a-token-at-all.bbbb-not-a-signature"


FORGERIES = [
    "a\r\nFAKE 2026 critical owned",
    "a\x1b[31mred",
    "%0d%0aFAKE",
    "a\u2028FAKE",
    "a\x00b",
    "{0.__class__}",
    "%s%n",
]


def test_nothing_breaks_a_line_of_the_log(keyed: Server) -> None:
    """Line ends, escapes and formats in user ids, names of clients, paths and agents stay inside one line, escaped."""

    async def run() -> None:
        for text in FORGERIES:
            token = sign(claims(sub=text))
            async with SdkClient(keyed, token=token, connect={"name": text, "version": text}) as client:
                with pytest.raises(Refusal):
                    await client.subscribe(f"nowhere:{text}")
            async with SdkClient(keyed, token=token) as client:
                with pytest.raises(Refusal):
                    await client.refresh(sign(claims(sub=f"{text}x")))
            agent = text.encode("unicode_escape").decode() if "\r" in text or "\x00" in text else text
            stream = EventSource(keyed, ["users:x"], headers={"User-Agent": agent.encode().decode("latin-1")})
            with pytest.raises(Ended):
                await stream.__aenter__()

    asyncio.run(run())
    for line in keyed.log().splitlines():
        assert not line.startswith(("FAKE", "red")), line
        assert "\x1b" not in line and "\x00" not in line, line
    assert keyed.internal("/ready")[0] == 200
