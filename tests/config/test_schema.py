"""The objects: what the rest of the server may rely on."""

from __future__ import annotations

import msgspec
import pytest

from rt.config import Channel, Config, Namespace, Redis, Token
from rt.config.section import Group, Groups, Section, keys
from rt.config.values import Kind


def sections() -> list[type[Section]]:
    """All sections, from the top."""
    found: list[type[Section]] = [Config]
    for section in found:
        kinds = [key.kind for key in keys(section).values()]
        found += [kind.section for kind in kinds if isinstance(kind, (Group, Groups)) and kind.section not in found]
    return found


@pytest.mark.parametrize("section", sections(), ids=lambda section: section.__name__)
def test_every_key_has_a_sentence_and_a_default_that_fits(section: type[Section]) -> None:
    """A key's default is a value that its own kind reads back, and its sentence is one sentence."""
    default = section()
    for name, key in keys(section).items():
        assert key.sentence.endswith("."), name
        value = getattr(default, name)
        if isinstance(key.kind, Kind) and value is not None and not key.required:
            assert key.kind.read(str(value) if isinstance(value, str) else key.kind.write(value)) == value


def test_config_cannot_be_changed() -> None:
    """Nobody can change a config that others hold."""
    with pytest.raises(AttributeError):
        Config().server.port = 1  # type: ignore[misc]


def test_namespace_without_history_recovers_nothing() -> None:
    """Without history a namespace is not recoverable, and slow readers are disconnected."""
    for namespace in (Namespace(name="aa", history_size=0), Namespace(name="aa", history_ttl=0.0)):
        assert not namespace.history
        assert not namespace.force_recovery
        assert namespace.slow == "disconnect"
    assert Namespace(name="aa").history
    assert Namespace(name="aa").slow == "catch_up"
    assert Namespace(name="aa", slow="disconnect").slow == "disconnect"


def test_namespaces_are_found_by_name() -> None:
    """The empty name is that of channels without a namespace; another name than those of the config gives None."""
    chat = Namespace(name="chat")
    channel = Channel(namespaces=(chat,))
    assert channel.namespace("chat") is chat
    assert channel.namespace("") is channel.without_namespace
    assert channel.namespace("news") is None


def test_secrets_do_not_show() -> None:
    """A printed object has *** where a secret is, and tells an absent one."""
    shown = repr(Token(hmac_secret_key="abc")) + repr(Redis(url="redis://u:abc@h", password="abc"))
    assert "abc" not in shown
    assert "hmac_previous_secret_key=''" in shown
    assert "url='embedded'" in repr(Config())


def test_a_changed_copy_is_possible() -> None:
    """Tests and reloads make variants with msgspec.structs.replace."""
    namespace = msgspec.structs.replace(Namespace(name="aa"), history_size=5)
    assert namespace.history_size == 5
