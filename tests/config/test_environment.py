"""The environment: variables inside values, and variables in place of keys."""

from __future__ import annotations

from collections import Counter

import pytest

from rt.config import ConfigError, describe, parse
from rt.config.environment import UnsetVariable, expand, variables


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain $A", "plain $A"),
        ("${A}", "x"),
        ("<${A}${B_1}>", "<x${A}>"),
        ("$${A}", "${A}"),
        ("$$${A}", "$${A}"),
        ("$", "$"),
    ],
)
def test_variables_are_replaced_once(text: str, expected: str) -> None:
    """Every ${NAME} is replaced, what comes in is not looked at again, and $${ is a way to write ${."""
    assert expand(text, {"A": "x", "B_1": "${A}"}) == expected


@pytest.mark.parametrize("text", ["${B}", "${EMPTY}", "${", "${}", "${1}", "${A", "${A-x}"])
def test_variable_without_a_value_is_refused(text: str) -> None:
    """Unset, empty and misspelled variables are refused."""
    with pytest.raises(UnsetVariable):
        expand(text, {"A": "x", "EMPTY": ""})


def test_variable_may_be_a_number_in_quotes() -> None:
    """A value from a variable has no type of its own: quotes around it do not matter."""
    assert parse(b'server: {port: "${PORT}", demo: ${DEMO}}', "f", {"PORT": "8001", "DEMO": "true"}).server.port == 8001


def test_variable_takes_the_place_of_a_key() -> None:
    """RT_ and the path of a key win over the file, and make missing sections."""
    env = {
        "RT_SERVER_PORT": "8001",
        "RT_SERVER_INTERNAL_PORT": "9001",
        "RT_CLIENT_ALLOWED_ORIGINS": "https://a.com, https://b.com",
        "RT_CHANNEL_WITHOUT_NAMESPACE_HISTORY_TTL": "5m",
        "RT_HTTP_API_KEY": "${not expanded}",
    }
    config = parse(b"server:\n  port: 80\nclient:\n", "f", env)
    assert config.server.port == 8001
    assert config.server.internal.port == 9001
    assert config.client.allowed_origins == ("https://a.com", "https://b.com")
    assert config.channel.without_namespace.history_ttl == 300.0
    assert config.http_api.key == "${not expanded}"


def test_variable_replaces_the_twin_too() -> None:
    """A key from the environment wins over the file's key_file, whose file need not be there."""
    text = b"http_api: {key_file: /nowhere}\n"
    assert parse(text, "f", {"RT_HTTP_API_KEY": "abc"}).http_api.key == "abc"


def test_mistake_in_a_variable_names_it() -> None:
    """The place of such a mistake is the variable."""
    with pytest.raises(ConfigError) as caught:
        parse(b"", "f", {"RT_SERVER_PORT": "x", "RT_SERVER_MODE": "", "RT_HTTP_API_KEY": " pass word"})
    assert str(caught.value).splitlines() == [
        "$RT_HTTP_API_KEY: http_api.key: found a secret of 10 bytes with white space around it, "
        "expected a secret of at most 4096 bytes, without white space around it",
        "$RT_SERVER_MODE: server.mode: found an empty variable, expected a value, or no variable",
        "$RT_SERVER_PORT: server.port: found x, expected a whole number from 1 to 65535",
    ]


def test_misspelled_variable_is_refused() -> None:
    """A variable that begins like a key's and is none would be ignored in silence otherwise."""
    with pytest.raises(ConfigError, match=r"^\$RT_SERVER_PROT: found a variable that names no key"):
        parse(b"", "f", {"RT_SERVER_PROT": "8001"})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RT_REDIS_SERVICE_HOST", "10.0.0.1"),
        ("RT_REDIS_PORT_6379_TCP_ADDR", "10.0.0.1"),
        ("RT_SERVER_PORT", "tcp://10.0.0.1:80"),
        ("RT_OTHER", "x"),
        ("RT_CLIENT_KEY_FOR_TOKENS", "k"),
    ],
)
def test_other_variables_are_left_alone(name: str, value: str) -> None:
    """What an orchestrator sets for services of the same name, and what the file itself uses, is no mistake."""
    text = b"client: {token: {hmac_secret_key: '${RT_CLIENT_KEY_FOR_TOKENS}'}}" if "KEY" in name else b""
    assert parse(text, "f", {name: value}).server.port == 8000


def test_section_that_is_none_is_told_in_spite_of_a_variable() -> None:
    """A variable does not hide that the file has a value where a section belongs."""
    with pytest.raises(ConfigError, match="^f:1: server: found a single value, expected a section with keys$"):
        parse(b"server: 1\n", "f", {"RT_SERVER_PORT": "8001"})


def test_every_key_outside_lists_has_one_variable() -> None:
    """No two keys share a variable, and none is forgotten."""
    paths = Counter(".".join(key.path) for key in variables().values())
    assert set(paths.values()) == {1}
    keys = {entry.path for entry in describe() if "[]" not in entry.path and "section" not in entry.kind}
    assert keys == paths.keys()
