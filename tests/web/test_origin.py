"""The allow-list of origins, row by row: what browsers send, what attackers send, what operators write."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rt.web.origin import Origins, parse, pattern

GOOD = ["https://good.com", "https://*.example.com", "http://dev.test:8080", "http://localhost:*", "capacitor://app"]


@pytest.mark.parametrize(
    "origin",
    [
        None,
        "https://good.com",
        "https://good.com:443",
        "HTTPS://GOOD.COM",
        "https://a.example.com",
        "https://a.b.example.com",
        "http://dev.test:8080",
        "http://localhost:3000",
        "http://localhost",
        "capacitor://app",
    ],
)
def test_listed_origins_pass(origin: str | None) -> None:
    """A request without an Origin passes, and so does every spelling of a listed one."""
    assert Origins(GOOD).allowed(origin, "rt.example.com")


@pytest.mark.parametrize(
    "origin",
    [
        "",
        "null",
        "https://good.com.evil",
        "https://good.com.evil.com",
        "https://evil-good.com",
        "https://evilgood.com",
        "https://good.com@evil.com",
        "https://user@good.com",
        "https://good.com:8443",
        "http://good.com",
        "http://good.com:443",
        "good.com",
        "//good.com",
        "https://good.com/",
        "https://good.com/path",
        "https://good.com?x",
        "https://good.com#",
        "https://good.com.",
        "https://good.com\r\nX: y",
        "https://good.com\n",
        " https://good.com",
        "https://good.com, https://evil.com",
        "https://good.com,https://good.com",
        "https://g\u043eod.com",
        "https://g\u212aood.com",
        "https://good.com:",
        "https://good.com:0443x",
        "https://example.com",
        "https://.example.com",
        "https://evilexample.com",
        "https://evil.com?.example.com",
        "https://evil.com/.example.com",
        "https://evil.com\\.example.com",
        "http://dev.test",
        "http://dev.test:80800",
        "http://localhost.evil.com:3000",
        "capacitor://other",
        "capacitor://app:1",
        "https://",
        "file://",
        "*",
    ],
)
def test_other_origins_are_refused(origin: str) -> None:
    """Nothing that only resembles a listed origin passes; being sent to a host of that name does not help."""
    origins = Origins(GOOD)
    assert not origins.allowed(origin, "good.com")
    assert origins.cors_headers(origin) == [("Vary", "Origin")]


@pytest.mark.parametrize("origin", ["https://good.com", "http://127.0.0.1:8000", "null", "https://rt.example.com"])
def test_an_empty_list_refuses_every_page(origin: str) -> None:
    """The default lets no page in, not even one from the same host; only clients without an Origin pass."""
    origins = Origins([])
    assert not origins.allowed(origin, origin.partition("://")[2])
    assert origins.allowed(None, "rt.example.com")


def test_star_allows_everything_but_gives_no_credentials() -> None:
    """With ``*`` every page may read, but none with the visitor's cookies."""
    origins = Origins(["*"])
    assert origins.allowed("null") and origins.allowed("https://evil.com") and origins.allowed("nonsense")
    assert origins.cors_headers("https://evil.com") == [("Access-Control-Allow-Origin", "*")]


def test_null_passes_only_when_listed() -> None:
    """A page without an origin is let in by the entry ``null`` and by nothing else."""
    assert Origins(["null"]).allowed("null")
    assert not Origins(["https://*"]).allowed("null")


def test_a_listed_page_may_read_with_credentials() -> None:
    """CORS headers repeat the origin that asked, and tell caches that the answer depends on it."""
    assert Origins(GOOD).cors_headers("https://a.example.com") == [
        ("Access-Control-Allow-Origin", "https://a.example.com"),
        ("Access-Control-Allow-Credentials", "true"),
        ("Vary", "Origin"),
    ]
    assert Origins(GOOD).cors_headers(None) == [("Vary", "Origin")]


@pytest.mark.parametrize(
    ("origin", "host", "passes"),
    [
        ("http://localhost:8000", "localhost:8000", True),
        ("http://demo.localhost:8000", "demo.localhost:8000", True),
        ("http://127.0.0.1:8000", "127.0.0.1:8000", True),
        ("http://[::1]:8000", "[::1]:8000", True),
        ("https://192.0.2.7", "192.0.2.7", True),
        ("http://localhost:8000", "localhost:9000", False),
        ("http://localhost:8000", "127.0.0.1:8000", False),
        ("http://evil.com:8000", "evil.com:8000", False),
        ("http://127.0.0.1.evil.com", "127.0.0.1.evil.com", False),
        ("http://localhost:8000", None, False),
        ("capacitor://localhost", "localhost", False),
    ],
)
def test_same_origin_is_for_names_nobody_else_can_point_here(origin: str, host: str | None, passes: bool) -> None:
    """In development the server's own page passes by address or as localhost, but not under a rebindable name."""
    assert Origins([], same_origin=True).allowed(origin, host) is passes
    assert not Origins([]).allowed(origin, host)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "example.com",
        "https://",
        "https://example.*",
        "https://ex*",
        "https://a.com/",
        "https://a.com:x",
        "https://a b",
        "http*://a.com",
    ],
)
def test_bad_entries_are_refused(text: str) -> None:
    """An entry that could not match what its author meant, or would match far more, is an error at start."""
    with pytest.raises(ValueError, match="host|origin"):
        pattern(text)


@pytest.mark.parametrize(
    ("text", "origin", "passes"),
    [
        ("https://*", "https://a.com:8443", True),
        ("https://*", "http://a.com", False),
        ("https://*:443", "https://a.com:8443", False),
        ("https://app-*.example.com", "https://app-17.example.com", True),
        ("https://app-*.example.com", "https://app.example.com", False),
        ("http://*", "http://[::1]", True),
        ("file://", "file://", True),
        ("http://[::1]:8000", "http://[::1]:8000", True),
    ],
)
def test_wildcards(text: str, origin: str, passes: bool) -> None:
    """A star stands for at least one character of a host, or for any port."""
    assert Origins([text]).allowed(origin) is passes


@given(st.text(max_size=60))
def test_any_text_is_judged_without_an_error(text: str) -> None:
    """Whatever stands in the header, the answer is yes or no; a parsed origin is in lower case and has no delimiter."""
    Origins(GOOD, same_origin=True).allowed(text, text)
    parts = parse(text)
    assert parts is None or not set(parts.host) & set("/@?#\\ \r\n*")
