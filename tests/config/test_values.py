"""Kinds of value: what each reads, what it refuses, and that it reads what it writes."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from rt.config.values import (
    Address,
    Duration,
    File,
    Flag,
    HostName,
    HttpUrl,
    Kind,
    Number,
    Origin,
    Pattern,
    PublicKey,
    Secret,
    Size,
    StoreUrl,
    Unfit,
    Whole,
)
from rt.web.origin import Origins
from tests.config.publics import ec_key, rsa_key, rsa_private

DURATION = Duration("0s", "365d")
SIZE = Size("0", "1GiB")


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (DURATION, "0", 0.0),
        (DURATION, "250ms", 0.25),
        (DURATION, "1.5s", 1.5),
        (DURATION, "300s", 300.0),
        (DURATION, "5m", 300.0),
        (DURATION, "1h30m", 5400.0),
        (DURATION, "720h0m0s", 2592000.0),
        (DURATION, "30d", 2592000.0),
        (SIZE, "0", 0),
        (SIZE, "65536", 65536),
        (SIZE, "10B", 10),
        (SIZE, "64KiB", 65536),
        (SIZE, "1MiB", 1048576),
        (Whole(1, 4, lambda: 3), "auto", 3),
        (Number(0, 10), "2.5", 2.5),
        (Flag(), "true", True),
        (Address(), "", ""),
        (Address(), "::1", "::1"),
        (HostName(), "Api.Example.com", "api.example.com"),
        (HostName(), "localhost", "localhost"),
        (HostName(), "127.0.0.1", "127.0.0.1"),
        (HostName(), "[::1]", "[::1]"),
        (HttpUrl(), "", ""),
        (HttpUrl(), "http://[::1]:8080/keys?p=a", "http://[::1]:8080/keys?p=a"),
        (HttpUrl(), "https://id.example.com", "https://id.example.com"),
        (Pattern(), "", ""),
        (Pattern(), "^[a-z]+$", "^[a-z]+$"),
        (PublicKey("RSA"), "", ""),
        (StoreUrl(), "embedded", "embedded"),
        (StoreUrl(), "redis://user:p%40ss@host:6379/1", "redis://user:p%40ss@host:6379/1"),
        (StoreUrl(), "redis://[::1]:6379", "redis://[::1]:6379"),
        (StoreUrl(), "unix:///run/redis.sock?db=2", "unix:///run/redis.sock?db=2"),
    ],
)
def test_text_is_read(kind: Kind, text: str, value: Any) -> None:
    """Each kind reads the spellings that the manual promises."""
    assert kind.read(text) == value


@pytest.mark.parametrize(
    ("kind", "texts"),
    [
        (
            DURATION,
            [
                "",
                "1",
                "s",
                "-1s",
                "+1s",
                "1 s",
                "1S",
                "1w",
                "1e3s",
                ".5s",
                "1.s",
                "nan",
                "inf",
                "٣s",
                "9" * 30 + "s",
                "366d",
            ],
        ),
        (SIZE, ["", "-1", "1.5MiB", "1KB", "1k", "1 KiB", "010", "0x10", "2GiB", "9" * 30, "٣"]),
        (Whole(0, 9), ["", "-0", "+1", "1.0", "01", "1_0", "10", "1e0", "true", "auto", "٣", "9" * 5000]),
        (Number(0, 9), ["", "-1", "1.", ".5", "1e0", ".nan", ".inf", "nan", "inf", "9" * 5000]),
        (Flag(), ["", "True", "TRUE", "yes", "on", "1", "y", "no", "off", "0"]),
        (Address(), ["*", "1.2.3", "1.2.3.4:80", "[::1]", "host", "0177.0.0.1"]),
        (
            StoreUrl(),
            [
                "",
                "redis://",
                "redis://h:x",
                "redis://h:99999",
                "redis://h/a",
                "redis://h/1/2",
                "redis://h?db=1",
                "unix://",
                "unix://h/p",
                "unix:///p?db=x",
                "unix:///p?a=1",
                "http://h",
                "redis://[::1",
                "//h",
                "redis:///0",
            ],
        ),
        (
            HostName(),
            ["", "a:80", "a..b", "-a", "a-", "*.a.com", "::1", "[::1", "a/b", "a.", "é.com", "a" * 64, "1.a." * 70],
        ),
        (
            HttpUrl(),
            [
                "a",
                "//a",
                "http://",
                "http:///a",
                "https://u@a",
                "https://u:p@a",
                "https://a#b",
                "https://a b",
                "https://a:0",
            ]
            + ["https://a:x", "http://[::1", "https://é", "file:///a", "https://a/" + "a" * 2048],
        ),
        (Pattern(), ["(", "[[a]", "a**", "(?P<a", "a" * 1025, "(?<=a+)b"]),
        (Secret(), ["a\n", " a", "a" * 4097]),
        (File(), ["", "a" * 4097]),
    ],
)
def test_other_text_is_refused(kind: Kind, texts: list[str]) -> None:
    """Whatever looks like a value and is not one is refused, other digits than 0 to 9 too."""
    for text in texts:
        with pytest.raises(Unfit):
            kind.read(text)


def test_public_keys_have_one_form() -> None:
    """The two ways to write an RSA key, with white space around them, are read to the same text."""
    kind = PublicKey("RSA")
    key = kind.read(rsa_key())
    assert key == kind.read(f"\n{rsa_key(form=PublicFormat.PKCS1)}\n") == rsa_key().strip()
    assert PublicKey("EC").read(ec_key()) == ec_key().strip()
    assert PublicKey("EC").read(ec_key(ec.SECP521R1()))


def test_other_keys_are_refused() -> None:
    """A key of another family, a short one, an unusual curve, a private one and none at all are no public key."""
    form = Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    private = rsa_private().private_bytes(*form).decode()
    for family, text in [
        ("RSA", ec_key()),
        ("RSA", rsa_key(1024)),
        ("RSA", private),
        ("RSA", rsa_key()[:-40]),
        ("RSA", "x" * 10000),
        ("EC", rsa_key()),
        ("EC", ec_key(ec.SECP256K1())),
        ("EC", "é"),
    ]:
        with pytest.raises(Unfit):
            PublicKey("RSA" if family == "RSA" else "EC").read(text)
    assert PublicKey("RSA").show(private) == "a private key"


@given(st.integers(0, 365 * 86400 * 1000))
def test_durations_are_read_as_written(milliseconds: int) -> None:
    """A duration in whole milliseconds survives being written and read."""
    assert DURATION.read(DURATION.write(milliseconds / 1000)) == milliseconds / 1000


@given(st.integers(0, 1 << 30))
def test_sizes_are_read_as_written(size: int) -> None:
    """A size survives being written and read."""
    assert SIZE.read(SIZE.write(size)) == size


@given(st.from_regex(r"(https?|app|file)://[a-z0-9.*\[\]:_-]{0,12}(:[0-9*]{1,6})?/?", fullmatch=True))
def test_origins_are_those_that_the_doors_understand(text: str) -> None:
    """An origin that the config accepts is one that the check at the doors can be made of."""
    try:
        Origin().read(text)
    except Unfit:
        return
    Origins([text])


@pytest.mark.parametrize(
    "text", ["*", "null", "https://A.example.com", "http://[::1]:8000", "https://*.a.com", "http://localhost:*"]
)
def test_good_origins(text: str) -> None:
    """Origins as browsers write them, and patterns of them."""
    assert Origin().read(text) == text
    Origins([text])


@pytest.mark.parametrize(
    "text",
    ["", "a.com", "https://a.com/", "https://a.com/x", "https://", "https://a.*", "https://a:b@c", "https://a:99999"],
)
def test_bad_origins(text: str) -> None:
    """Hosts without a scheme, paths and user names are refused."""
    with pytest.raises(Unfit):
        Origin().read(text)
