"""rt.broker.settings."""

from __future__ import annotations

import ssl

import pytest

from rt.broker import StoreSettings
from rt.broker.settings import Address


def test_a_tcp_url_has_defaults() -> None:
    """Port 6379, database 0, nobody logs in."""
    assert Address.of(StoreSettings(url="redis://example.org")) == ("example.org", 6379, "", None, "", "", 0)


def test_everything_a_url_can_say_is_taken() -> None:
    """User, password (percent-decoded), port and database."""
    address = Address.of(StoreSettings(url="redis://me:p%40ss@example.org:7000/3"))
    assert address == ("example.org", 7000, "", None, "me", "p@ss", 3)


def test_a_unix_socket() -> None:
    """With a database in the query."""
    address = Address.of(StoreSettings(url="unix:///run/store.sock?db=2"))
    assert (address.path, address.db) == ("/run/store.sock", 2)


def test_the_password_of_the_settings_is_used_where_the_url_has_none() -> None:
    """So that it can come from a file."""
    assert Address.of(StoreSettings(url="redis://h", password="secret")).password == "secret"
    assert Address.of(StoreSettings(url="redis://:mine@h", password="secret")).password == "mine"


def test_tls_verifies_unless_told_not_to() -> None:
    """rediss:// checks certificate and name."""
    strict = Address.of(StoreSettings(url="rediss://h")).tls
    lax = Address.of(StoreSettings(url="rediss://h", verify=False)).tls
    assert strict is not None and strict.verify_mode is ssl.CERT_REQUIRED and strict.check_hostname
    assert lax is not None and lax.verify_mode is ssl.CERT_NONE


@pytest.mark.parametrize("url", ["http://:secret@h", "redis://:secret@h?socket_timeout=5", "redis://:secret@h?foo=1"])
def test_what_is_not_supported_is_refused_without_the_url(url: str) -> None:
    """The message must not hold the password."""
    with pytest.raises(ValueError) as caught:
        Address.of(StoreSettings(url=url))
    assert "secret" not in str(caught.value)


def test_secrets_are_not_in_the_representation() -> None:
    """Neither the URL nor the password."""
    assert "secret" not in repr(StoreSettings(url="redis://:secret@h", password="secret"))
