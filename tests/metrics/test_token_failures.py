"""Why tokens are not accepted: each of them counts once, under a word of a closed list."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rt import errors
from rt.metrics import Metrics
from rt.metrics.definitions import TOKEN_FAILURES
from rt.protocol import tokens
from rt.protocol.keys import KeySet
from rt.protocol.tokens import Verifier
from tests.tokens import KEY, PREVIOUS_KEY, Settings, sign

SOURCE = Path(__file__).parents[2] / "rt" / "protocol" / "tokens.py"
NOW = 1_700_000_000.0
GOOD = {"sub": "42", "aud": "us", "iss": "them"}
URL = "https://keys.example.com/jwks.json"

TOKENS = {
    "size": "x" * 9000,
    "form": "no token",
    "algorithm": sign(GOOD, alg="ES256") + "eA",
    "signature": sign(GOOD, PREVIOUS_KEY),
    "claims": sign({**GOOD, "sub": 7}),
    "audience": sign({**GOOD, "aud": "others"}),
    "issuer": sign({**GOOD, "iss": "others"}),
    "purpose": sign({**GOOD, "channel": "a"}),
    "subs": sign({**GOOD, "subs": {"a": {"b64info": "%"}}}),
    "info": sign({**GOOD, "b64info": "%"}),
    "expired": sign({**GOOD, "exp": NOW - 1}),
    "early": sign({**GOOD, "nbf": NOW + 1}),
}


class Policy:
    """A server that wants tokens."""

    insecure = allow_anonymous_connect_without_token = disallow_anonymous_connection_tokens = False


def counted(verifier: Verifier) -> dict[str, int]:
    """What was counted so far."""
    return {reason: count for reason, count in verifier.failures.items() if count}


def a_verifier() -> Verifier:
    """One that counts where a worker's does."""
    tally = Metrics().of("default").tally
    return Verifier(Settings(KEY, audience="us", issuer="them"), None, tally.token_failures)


@pytest.mark.parametrize("reason", TOKENS)
def test_a_token_that_is_not_accepted_counts_once_under_its_reason(reason: str) -> None:
    """And is refused, as ever."""
    verifier = a_verifier()
    with pytest.raises((errors.Closing, errors.Refused)):
        tokens.identify(TOKENS[reason], verifier, Policy(), NOW)
    assert counted(verifier) == {reason: 1}


def test_a_good_token_counts_nowhere() -> None:
    """Neither does none."""
    verifier = a_verifier()
    assert tokens.identify(sign(GOOD), verifier, Policy(), NOW).user == "42"
    with pytest.raises(errors.Closing):
        tokens.identify("", verifier, Policy(), NOW)
    assert counted(verifier) == {}


def test_a_token_of_somebody_else_is_other() -> None:
    """It is good, but not for this subscription; and one whose right has ended is expired."""
    verifier = a_verifier()
    ended = sign({**GOOD, "channel": "a", "expire_at": NOW - 1})
    for token, channel in ((sign({**GOOD, "channel": "a"}), "b"), (ended, "a")):
        with pytest.raises((errors.Closing, errors.Refused)):
            tokens.permit(token, verifier, channel=channel, user="42", client="c", now=NOW)
    assert counted(verifier) == {"other": 1, "expired": 1}


def test_keys_that_cannot_be_fetched_are_no_fault_of_the_token() -> None:
    """Asking for them counts nothing; that they cannot be had does."""
    failures = Metrics().of("default").tally.token_failures
    verifier = Verifier(Settings(jwks_public_endpoint=URL), KeySet(), failures)
    token = sign(GOOD, alg="RS256", kid="a") + "eA"
    with pytest.raises(tokens.KeysWanted):
        tokens.identify(token, verifier, Policy(), NOW)
    assert counted(verifier) == {}
    with pytest.raises(errors.Refused):
        tokens.identify(token, verifier, Policy(), NOW, fetched=True)
    assert counted(verifier) == {"unreachable": 1}


def test_every_word_of_the_code_is_in_the_table() -> None:
    """A reason without a place there would be a KeyError for who connects."""
    source = SOURCE.read_text()
    raised = re.findall(r'Token(?:Invalid|Expired)\("(\w+)"\)', source)
    added = re.findall(r'failures\["(\w+)"\]', source)
    assert set(raised) | set(added) == set(TOKEN_FAILURES)
