"""Whole files: every mistake gives its exact line, nothing but ConfigError ever comes out, and good files load."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rt.config import Config, ConfigError, Server, decode, defaults, encode, load, parse
from tests.config.broken import BROKEN

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("text", "line"), BROKEN, ids=[str(number) for number in range(len(BROKEN))])
def test_mistake_gives_exactly_its_line(text: str, line: str) -> None:
    """One mistake is one line with its place, key, what was found and what is allowed."""
    with pytest.raises(ConfigError) as caught:
        parse(text.encode(), "f", {"EMPTY": ""})
    lines = str(caught.value).splitlines()
    assert lines == [line]


def test_all_mistakes_are_told_at_once_in_order() -> None:
    """A file with several mistakes gives all of them by line, those of the environment last."""
    text = "limits: {connections: {total: -1}}\nserver:\n  port: x\n  demo: yes\nredis:\n  url: nope\n"
    with pytest.raises(ConfigError) as caught:
        parse(text.encode(), "f", {"RT_CLIENT_CHANNEL_LIMIT": "0"})
    assert [(problem.file, problem.line) for problem in caught.value.problems] == [
        ("f", 1),
        ("f", 3),
        ("f", 4),
        ("f", 6),
        ("$RT_CLIENT_CHANNEL_LIMIT", 0),
    ]


def test_mistake_is_told_once() -> None:
    """A rule between two keys is silent where one of the two was refused already."""
    with pytest.raises(ConfigError) as caught:
        parse(b"client:\n  ping_interval: 8\n  pong_timeout: 30s\n", "f", {})
    assert [problem.path for problem in caught.value.problems] == ["client.ping_interval"]


def test_alias_bomb_is_refused_at_once() -> None:
    """Nested aliases cannot grow: not one of them is expanded."""
    levels = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30))
    with pytest.raises(ConfigError, match="anchor"):
        parse(f"a0: &a0 [x]\n{levels}".encode(), "f", {})


def test_large_files_are_refused() -> None:
    """More than a MiB is not even parsed."""
    with pytest.raises(ConfigError, match="at most 1048576 bytes"):
        parse(b"#" * (1 << 20) + b"\n", "f", {})


def test_text_that_is_not_utf8_has_its_line() -> None:
    """Bytes that are no UTF-8 are told with their line."""
    with pytest.raises(ConfigError, match="^f:2: found bytes that are not UTF-8, expected a text file in UTF-8$"):
        parse(b"server:\n  mode: \xff\n", "f", {})


@pytest.mark.parametrize("path", ["/nowhere/rt.yaml", "/", "/dev/zero", "a\0b"])
def test_unreadable_file_is_a_mistake(path: str) -> None:
    """A file that is missing, a directory or a device is refused like any other mistake."""
    with pytest.raises(ConfigError, match="found a file that cannot be read"):
        load(path, {})


def test_no_file_means_safe_defaults() -> None:
    """With no file nobody can connect, publish or call the API."""
    config = load(None, {})
    assert config == Config()
    assert not config.client.insecure
    assert not config.client.allow_anonymous_connect_without_token
    assert config.client.allowed_origins == ()
    assert config.client.token.hmac_secret_key == ""
    assert config.http_api.key == ""
    assert not config.http_api.insecure
    granted = [name for name in dir(config.channel.without_namespace) if name.startswith("allow_")]
    assert granted
    assert not any(getattr(config.channel.without_namespace, name) for name in granted)


def test_empty_file_and_empty_sections_are_defaults() -> None:
    """A file of comments and a section whose keys are all in comments change nothing."""
    for text in (
        "",
        "# nothing\n",
        "---\n",
        "server:\n  # port: 1\nchannel:\n  namespaces:\nclient:\n  allowed_origins:\n",
    ):
        assert parse(text.encode(), "f", {}) == Config()


def test_defaults_text_loads_to_the_defaults() -> None:
    """The printed list of all keys is a config, and it is the default one."""
    assert parse(defaults().encode(), "f", {}) == Config()


def test_defaults_text_loads_without_its_comment_signs() -> None:
    """Keys that stand in comments are spelled and indented right: with a value they load."""
    text = defaults().replace("    # cert_file:", "    cert_file: c").replace("    # key_file:\n", "    key_file: k\n")
    text = text.replace("  # tls:", "  tls:")
    with pytest.raises(ConfigError) as caught:
        parse(text.encode(), "f", {})
    assert [problem.path for problem in caught.value.problems] == ["server.tls.cert_file", "server.tls.key_file"]


def test_dev_config_loads() -> None:
    """The file of make run is good, and reachable from this machine only."""
    config = load(ROOT / "config/dev.yaml", {})
    assert (config.server.address, config.server.workers, config.server.demo) == ("localhost", 2, True)
    assert [namespace.name for namespace in config.channel.namespaces] == ["chat", "prices"]


@pytest.fixture
def secrets(tmp_path: Path) -> dict[str, str]:
    """The environment that config/production.yaml wants, with strong keys."""
    (tmp_path / "token_key").write_text("k" * 64 + "\n")
    (tmp_path / "api_key").write_text("a" * 32)
    return {"CREDENTIALS_DIRECTORY": str(tmp_path), "RT_STORE_URL": "redis://127.0.0.1:6379/0"}


def test_production_config_loads(secrets: dict[str, str]) -> None:
    """The production file is good as soon as its secrets are there, and takes them without their line end."""
    config = load(ROOT / "config/production.yaml", secrets)
    assert config.server.mode == "production"
    assert config.client.token.hmac_secret_key == "k" * 64
    assert config.http_api.key == "a" * 32


def test_production_example_of_tenants_loads(secrets: dict[str, str]) -> None:
    """The tenants that stand in comments are good as soon as their secrets are there."""
    directory = Path(secrets["CREDENTIALS_DIRECTORY"])
    for name in ("acme_token_key", "acme_api_key", "globex_api_key"):
        (directory / name).write_text(name * 4)
    text = (ROOT / "config/production.yaml").read_text()
    head, _, example = text.partition("# tenants:\n")
    example = "tenants:\n" + "".join(f"{line.removeprefix('# ')}\n" for line in example.splitlines())
    config = parse((head + example).encode(), "f", secrets)
    acme, globex = config.tenants
    assert acme.client.token.hmac_secret_key == "acme_token_key" * 4
    assert globex.client.token.issuer == globex.issuers[0]
    assert globex.redis == config.redis
    assert acme.channel == config.channel


def test_production_config_needs_its_environment() -> None:
    """Without the variables each key that wants one is told, and nothing follows from it."""
    with pytest.raises(ConfigError) as caught:
        load(ROOT / "config/production.yaml", {})
    paths = [problem.path for problem in caught.value.problems]
    assert paths == ["redis.url", "client.token.hmac_secret_key_file", "http_api.key_file"]


def test_config_survives_the_way_to_a_worker(secrets: dict[str, str]) -> None:
    """Encoding and decoding gives an equal config, secrets and namespaces included."""
    for config in (Config(), load(ROOT / "config/dev.yaml", {}), load(ROOT / "config/production.yaml", secrets)):
        again = decode(encode(config))
        assert again == config
        assert again.channel.namespace("") == config.channel.without_namespace


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x80x", encode(Config())[:-1]])
def test_other_bytes_do_not_decode(data: bytes) -> None:
    """What encode() did not make is refused."""
    with pytest.raises((msgspec.DecodeError, msgspec.ValidationError)):
        decode(data)


def test_environment_is_the_own_one_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an environment given, the process's own counts."""
    monkeypatch.setenv("RT_SERVER_PORT", "8001")
    assert load(None).server == Server(port=8001)
    assert os.environ["RT_SERVER_PORT"] == "8001"


_names = st.sampled_from(
    [
        "server",
        "redis",
        "client",
        "channel",
        "namespaces",
        "name",
        "port",
        "mode",
        "token",
        "hmac_secret_key",
        "tls",
        "on",
        "url",
        "slow",
        "<<",
        "hmac_secret_key_file",
        "allowed_origins",
        "history_size",
        "without_namespace",
        "limits",
        "tenants",
        "hosts",
        "redis",
        "a~b",
    ]
)
_scalars = st.one_of(
    st.sampled_from(
        ["1", "true", "on", "~", "", "300s", "64KiB", "production", "*a", "&a b", "!x y", "${A}", "${", "$${", "'"]
    ),
    st.text(max_size=12),
    st.integers().map(str),
    st.floats().map(str),
)
_values = st.recursive(
    _scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]"),
        st.dictionaries(_names, inner, max_size=4).map(
            lambda items: "{" + ", ".join(f"{key}: {value}" for key, value in items.items()) + "}"
        ),
    ),
    max_leaves=12,
)
_documents = st.dictionaries(_names, _values, max_size=4).map(
    lambda items: "".join(f"{key}: {value}\n" for key, value in items.items())
)


@settings(deadline=None)
@given(st.one_of(_documents.map(lambda text: text.encode("utf-8", "surrogatepass")), st.binary(max_size=60)))
def test_any_document_gives_a_config_or_config_error(data: bytes) -> None:
    """Whatever the bytes, the answer is a config or a list of one-line mistakes."""
    try:
        assert isinstance(parse(data, "f", {"A": "x"}), Config)
    except ConfigError as error:
        assert error.problems
        assert all("\n" not in str(problem) and str(problem).isprintable() for problem in error.problems)


SECRET = "Tr0ub4dor&3"


@pytest.mark.parametrize(
    "text",
    [
        "http_api: {key: [%s]}",
        "http_api: {key: {%s: 1}}",
        "http_api: {%s}",
        "http_api: {key:%s}",
        "http_api:\n  key:%s\n",
        "http_api: {key: !%s x}",
        "http_api: {key: *%s}",
        "http_api: {key: &%s x}",
        "http_api: {key: '%s'",
        "http_api: {key: ' %s '}",
        "http_api: {key: !e!%s }",
        "http_api: {key: '%s', key_file: x}",
        "redis: {url: 'redis://:%s@host:port'}",
        "redis: {url: 'redis://:%s@host', password: x}",
        "server: {mode: production}\nclient: {token: {hmac_secret_key: '%s'}}",
        "client: {token: {hmac_previous_secret_key: '%s'}}",
        "http_api: {key: '%s\n\n'}",
        "http_api:\n  key: %s\n bad: x\n",
    ],
)
def test_secrets_are_never_printed(text: str) -> None:
    """However a secret is mistyped, no mistake repeats it."""
    with pytest.raises(ConfigError) as caught:
        parse((text % SECRET).encode(), "f", {})
    assert "Tr0ub4dor" not in str(caught.value)


def test_loaded_secrets_do_not_show() -> None:
    """Printing a config, or an object in it, hides its secrets."""
    config = parse(f"http_api: {{key: '{SECRET}'}}\nredis: {{url: 'redis://u:{SECRET}@h/0'}}\n".encode(), "f", {})
    assert config.http_api.key == SECRET
    assert SECRET not in repr(config)
    assert SECRET not in repr(config.redis)
