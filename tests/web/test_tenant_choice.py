"""Whose a request is, and that nothing of one tenant is asked about another."""

from __future__ import annotations

from typing import Any, cast

import pytest
from tornado.httputil import HTTPHeaders, RequestStartLine

from rt import errors
from rt.config import Config, parse
from rt.errors import Closing
from rt.metrics import Metrics
from rt.web.entrance import Turned
from rt.web.request import Request
from rt.web.tenants import Tenants
from tests.tokens import connection_token

TEXT = b"""\
server: {region: eu}
tenants:
  - name: acme
    hosts: [acme.example.com, "[::1]"]
    issuers: [https://login.acme.example.com]
    http_api: {key: the-key-of-acme-itself}
  - name: umbrella
    hosts: [umbrella.example.com]
    issuers: [https://umbrella.example.com]
    http_api: {key: the-key-of-umbrella-itself}
  - name: far
    region: us
    hosts: [far.example.com]
    issuers: [https://far.example.com]
    http_api: {key: the-key-of-far-away-itself}
"""
CONFIG = parse(TEXT, "rt.yaml", {})
ACME, UMBRELLA, FAR = (tenant.issuers[0] for tenant in CONFIG.tenants)
UNKNOWN = b'{"code":404,"message":"unknown tenant"}'


class FakeEntrance:
    """An entrance that lets in whom it is told to; ``hub`` is its name."""

    def __init__(self, name: str) -> None:
        self.hub = f"hub of {name}"
        self.turned: Turned | None = None
        self.checked = 0

    def check_origin(self, request: Request) -> None:
        """Turn away as told."""
        self.checked += 1
        if self.turned is not None:
            raise self.turned

    def check_turn(self, request: Request) -> None:
        """It is its turn."""


class FakeTenant:
    """A tenant that is served, by name."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.entrance = FakeEntrance(name)
        self.api = f"api of {name}"


class Table:
    """The tenants of ``config``, as far as it serves them, and where requests go."""

    def __init__(self, config: Config = CONFIG, *, lobby: bool = True) -> None:
        self.metrics = Metrics()
        self.tenants = Tenants(lambda: self.metrics.of("-"))
        self.served = {tenant.name: FakeTenant(tenant.name) for tenant in config.served()}
        self.lobby = FakeEntrance("lobby")
        self.tenants.arrange(config.tenants, cast("Any", self.served), cast("Any", self.lobby if lobby else None))

    def stream(self, request: Request, *, complete: bool = True) -> str:
        """The hub at whose entrance a stream comes in, or the status that turns it away."""
        try:
            self.tenants.address(request)
            return cast("str", self.tenants.entrance(request, complete=complete).hub)
        except Turned as turned:
            return str(turned.status)

    def api(self, request: Request) -> str:
        """The API that is called, or the status that turns it away."""
        try:
            self.tenants.address(request)
            return cast("str", self.tenants.api(request))
        except Turned as turned:
            return str(turned.status)


def request(target: str = "/sse", method: str = "GET", body: bytes = b"", **headers: str) -> Request:
    """A request as the router makes it; an underscore in a header's name is a hyphen."""
    fields = HTTPHeaders({name.replace("_", "-"): value for name, value in headers.items()})
    connection = cast("Any", type("Connection", (), {"context": None}))
    made = Request(connection, RequestStartLine(method, target, "HTTP/1.1"), fields)
    made.body = body
    return made


def issued(issuer: str) -> str:
    """A token that says it is from ``issuer``."""
    return connection_token("ann", iss=issuer)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("acme.example.com", "hub of acme"),
        ("ACME.example.com:8000", "hub of acme"),
        ("acme.example.com.:8000", "hub of acme"),
        ("[::1]:8000", "hub of acme"),
        ("[::1", "404"),
        ("umbrella.example.com", "hub of umbrella"),
        ("far.example.com", "421"),
        ("xacme.example.com", "404"),
        ("acme.example.com.evil.example", "404"),
        ("", "404"),
    ],
)
def test_the_host_says_whose_a_stream_is(host: str, expected: str) -> None:
    """Whole names, whatever their case and port; of another region it is misdirected."""
    assert Table().stream(request(Host=host)) == expected


@pytest.mark.parametrize(
    ("path", "expected", "rest"),
    [
        ("/t/acme/sse", "hub of acme", "/sse"),
        ("/t/acme/connection/websocket", "hub of acme", "/connection/websocket"),
        ("/t/far/sse", "421", "/sse"),
        ("/t/nobody/sse", "404", "/sse"),
        ("/t//sse", "404", "/sse"),
        ("/t/ACME/sse", "404", "/sse"),
        ("/t/acme/t/umbrella/sse", "hub of acme", "/t/umbrella/sse"),
    ],
)
def test_the_path_says_whose_a_stream_is(path: str, expected: str, rest: str) -> None:
    """It is stronger than the host, and taken away before a door is looked for, once."""
    asked = request(path, Host="umbrella.example.com")
    assert Table().stream(asked) == expected
    assert asked.path == rest


@pytest.mark.parametrize(
    ("issuer", "expected"),
    [(ACME, "hub of acme"), (UMBRELLA, "hub of umbrella"), (FAR, "421"), ("https://nobody.example.com", "404")],
)
@pytest.mark.parametrize("where", ["header", "query", "connect", "body"])
def test_the_issuer_says_whose_a_stream_is(issuer: str, expected: str, where: str) -> None:
    """Wherever the request carries its token."""
    text = issued(issuer)
    made = {
        "header": lambda: request(Authorization=f"Bearer {text}"),
        "query": lambda: request(f"/sse?token={text}"),
        "connect": lambda: request(f'/connection/uni_sse?cf_connect={{"token":"{text}"}}'),
        "body": lambda: request("/connection/uni_sse", "POST", b'{"token":"%b"}' % text.encode()),
    }[where]()
    assert Table().stream(made) == expected


@pytest.mark.parametrize(
    "target",
    ["/sse", "/sse?token=", "/sse?token=a.b.c", "/sse?token=%ff", "/sse?cf_connect=nonsense", "/sse?cf_connect={}"],
)
def test_a_stream_that_says_nothing_belongs_to_nobody(target: str) -> None:
    """404, counted, and told in JSON."""
    table = Table()
    with pytest.raises(Turned) as turned:
        table.tenants.entrance(request(target), complete=True)
    assert (turned.value.status, turned.value.body) == (404, UNKNOWN)
    assert table.metrics.of("-").tally.refusals["tenant"] == 1


def test_a_token_of_the_size_of_a_book_is_not_read() -> None:
    """What is larger than any token says nothing."""
    assert Table().stream(request(f"/sse?token={issued(ACME)}{'x' * 20000}")) == "404"


def test_a_websocket_whose_token_is_still_to_come_waits_in_the_lobby() -> None:
    """Also a POST until its body is here, and a browser's question whether it may send a token."""
    table = Table()
    assert table.stream(request("/connection/websocket")) == "hub of lobby"
    assert table.stream(request("/connection/uni_websocket", Host="other.example.com")) == "hub of lobby"
    assert table.stream(request("/connection/uni_sse", "POST"), complete=False) == "hub of lobby"
    assert table.stream(request("/connection/uni_sse", "OPTIONS")) == "hub of lobby"
    assert table.stream(request("/connection/websocket", Host="acme.example.com")) == "hub of acme"


def test_without_issuers_there_is_no_lobby() -> None:
    """A request that host and path do not explain is refused at once."""
    table = Table(lobby=False)
    for target in ("/connection/websocket", f"/sse?token={issued(ACME)}"):
        assert table.stream(request(target)) == "404"
    assert table.stream(request("/connection/uni_sse", "POST"), complete=False) == "404"


@pytest.mark.parametrize(
    ("target", "headers", "expected"),
    [
        ("/api/info", {"X_API_Key": "the-key-of-acme-itself"}, "api of acme"),
        ("/api/info", {"Authorization": "apikey the-key-of-umbrella-itself"}, "api of umbrella"),
        ("/api/info?api_key=the-key-of-acme-itself", {}, "api of acme"),
        ("/api/info", {"X_API_Key": "the-key-of-far-away-itself"}, "421"),
        ("/api/info", {"X_API_Key": "the-key-of-nobody"}, "401"),
        ("/api/info", {"X_API_Key": ""}, "401"),
        ("/api/info", {}, "401"),
        ("/api/info", {"Host": "acme.example.com", "X_API_Key": "the-key-of-umbrella-itself"}, "api of acme"),
        ("/t/acme/api/info", {"X_API_Key": "the-key-of-umbrella-itself"}, "api of acme"),
        ("/t/nobody/api/info", {"X_API_Key": "the-key-of-acme-itself"}, "404"),
        ("/api/info", {"Authorization": f"Bearer {'x' * 100}"}, "401"),
    ],
)
def test_the_key_says_whose_api_is_called(target: str, headers: dict[str, str], expected: str) -> None:
    """Where path and host do not: these are stronger, and that tenant then looks at the key."""
    assert Table().api(request(target, "POST", b"", **headers)) == expected


def test_the_lobby_finds_the_hub_by_the_token() -> None:
    """And that tenant's own entrance decides whether the page may come."""
    table = Table()
    choose = table.tenants.choice(request("/connection/websocket"))
    assert choose(issued(ACME)) == cast("Any", "hub of acme")
    assert table.served["acme"].entrance.checked == 1
    assert table.served["umbrella"].entrance.checked == 0


@pytest.mark.parametrize(
    ("text", "close"),
    [
        (issued(FAR), errors.UNAVAILABLE),
        (issued("https://nobody.example.com"), errors.INVALID_TOKEN),
        ("", errors.INVALID_TOKEN),
        ("nonsense", errors.INVALID_TOKEN),
    ],
    ids=["elsewhere", "unknown", "none", "nonsense"],
)
def test_a_token_that_leads_nowhere_ends_the_connection(text: str, close: errors.Close) -> None:
    """With a code that the client does not come back from, and no tenant is asked."""
    table = Table()
    with pytest.raises(Closing) as closing:
        table.tenants.choice(request("/connection/websocket"))(text)
    assert closing.value.close is close
    assert not any(tenant.entrance.checked for tenant in table.served.values())


@pytest.mark.parametrize(("status", "close"), [(403, errors.FORBIDDEN), (503, errors.TOO_MANY)])
def test_the_tenant_may_turn_a_websocket_of_the_lobby_away(status: int, close: errors.Close) -> None:
    """A foreign page for good; one connection too many for now."""
    table = Table()
    table.served["acme"].entrance.turned = Turned(status)
    with pytest.raises(Closing) as closing:
        table.tenants.choice(request("/connection/websocket"))(issued(ACME))
    assert closing.value.close is close


def test_without_tenants_everything_is_the_only_ones() -> None:
    """The prefix is no prefix then."""
    table = Table(Config())
    only = table.tenants.only
    assert only is not None and only.name == "default"
