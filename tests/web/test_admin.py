"""The console's doors on a real server: who gets in, what is refused, and that none of it is on the public port."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection, HTTPMessage, HTTPResponse
from typing import Any, NamedTuple

import pytest

from rt.web.admin import STREAMS
from tests.servers import API_KEY, OVER_BOTH, Server, merged, speaking
from tests.tokens import KEY
from tests.waiting import eventually_now

pytestmark = pytest.mark.timeout(90)

PASSWORD = "a-password-of-the-tests"
CONSOLE = {"server": {"internal": {"admin": {"password": PASSWORD}}}}
BEARER = {"Authorization": f"Bearer {PASSWORD}"}


class Answer(NamedTuple):
    status: int
    headers: HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Page:
    """What a browser on the console's page would send: its cookie, its origin, its proof."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.origin = f"http://127.0.0.1:{server.internal_port}"
        self.cookie = self.proof = ""

    def sign_in(self, password: str = PASSWORD, **headers: str) -> Answer:
        answer = ask(self.server, "/admin/login", {"password": password}, {"Origin": self.origin} | headers)
        if answer.status == 200:
            self.cookie = answer.headers["Set-Cookie"].partition(";")[0]
            self.proof = answer.json["proof"]
        return answer

    def headers(self) -> dict[str, str]:
        return {"Cookie": self.cookie, "Origin": self.origin, "X-Console-Proof": self.proof}

    def call(self, method: str, parameters: object, query: str = "", **headers: str) -> Answer:
        return ask(self.server, f"/admin/api/{method}{query}", parameters, self.headers() | headers)


def ask(server: Server, path: str, body: object = None, headers: dict[str, str] | None = None, port: int = 0) -> Answer:
    """One request to the internal port (or another): POST with a body as JSON, GET without."""
    connection = HTTPConnection("127.0.0.1", port or server.internal_port, timeout=10)
    try:
        text = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        connection.request("GET" if text is None else "POST", path, text, headers or {})
        response = connection.getresponse()
        return Answer(response.status, response.headers, response.read())
    finally:
        connection.close()


@pytest.fixture(scope="module")
def http(request: pytest.FixtureRequest) -> str:
    """The HTTP connection of the server below."""
    return str(getattr(request, "param", "fast"))


@pytest.fixture(scope="module")
def console(http: str) -> Iterator[Server]:
    """A server of two workers with a console."""
    with Server(merged(CONSOLE, speaking(http))) as running:
        yield running


@pytest.fixture
def page(console: Server) -> Page:
    """A page that is signed in."""
    found = Page(console)
    assert found.sign_in().status == 200
    return found


PATHS = ("/admin", "/admin/", "/admin/session", "/admin/events", "/admin/console.js", "/admin/api/info", "/admin/login")


def test_f81_without_a_password_there_is_no_console() -> None:
    """It is off by default: 404 on the internal port, and on the public one anyway."""
    with Server({"server": {"workers": 1}}) as server:
        for path in PATHS:
            assert ask(server, path, headers=BEARER).status == 404
            assert ask(server, path, {}, BEARER).status in (404, 405)


def test_f81_the_public_port_has_no_door_for_operators(console: Server) -> None:
    """Neither the console nor metrics, readiness and health, with the password or without, whatever host is named."""
    for path in (*PATHS, "/metrics", "/ready", "/health", "/t/default/admin/", "//admin/", "/%61dmin/"):
        for headers in ({}, BEARER, {"Host": f"127.0.0.1:{console.internal_port}"}):
            assert ask(console, path, headers=headers, port=console.port).status == 404


@OVER_BOTH
def test_console_wants_a_sign_in(console: Server) -> None:
    """The page itself says nothing and is for everybody; all else is 401 without a cookie of ours."""
    assert ask(console, "/admin").headers["Location"] == "admin/"
    assert b"rt \xc2\xb7 console" in ask(console, "/admin/").body
    for cookie in (
        "",
        f"rt_console_{console.internal_port}=9999999999.x.y",
        "=;;;",
        "rt_console_1=a; $b=[",
        "a" * 4000,
    ):
        for path in ("/admin/session", "/admin/events", "/admin/events?tenant=default"):
            assert ask(console, path, headers={"Cookie": cookie}).status == 401
        for path in ("/admin/api/info", "/admin/api/publish", "/admin/logout"):
            assert ask(console, path, {}, {"Cookie": cookie}).status == 401


@OVER_BOTH
def test_console_stays_signed_in_on_all_workers(console: Server, page: Page) -> None:
    """The cookie of one worker opens the others: many connections meet both of them."""
    for _ in range(12):
        answer = page.call("info", {})
        assert answer.status == 200 and len(answer.json["result"]["nodes"]) == 2
    assert ask(console, "/admin/session", headers={"Cookie": page.cookie}).json["proof"] == page.proof


def test_console_cookie_is_kept_from_scripts_and_other_sites(console: Server) -> None:
    """HttpOnly, SameSite=Strict, with an end, and Secure where the page came over TLS through a proxy."""
    page = Page(console)
    plain = page.sign_in().headers["Set-Cookie"].split("; ")
    assert {"HttpOnly", "SameSite=Strict", "Max-Age=43200"} == set(plain[1:])
    host = "ops.example.com"
    answer = page.sign_in(Origin=f"https://{host}", Host=host)
    assert "Secure" in answer.headers["Set-Cookie"].split("; ")


def test_console_signs_out(console: Server, page: Page) -> None:
    """The browser is told to forget the cookie."""
    answer = ask(console, "/admin/logout", {}, page.headers())
    assert answer.status == 200 and f"rt_console_{console.internal_port}=; Max-Age=0" in answer.headers["Set-Cookie"]


def test_console_refuses_what_other_sites_send(console: Server, page: Page) -> None:
    """CSRF: a cookie alone does nothing. The origin must be the page's own, and its proof must come along."""
    forged: list[dict[str, str]] = [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Origin": f"http://localhost:{console.internal_port}"},
        {"Origin": f"http://127.0.0.1:{console.internal_port}.evil.example"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"X-Console-Proof": ""},
        {"X-Console-Proof": page.proof[:-1]},
        {"X-Console-Proof": "\xe9"},
    ]
    before = console.metric("rt_store_published_total")
    for headers in forged:
        assert page.call("publish", {"channel": "forged", "data": 1}, **headers).status == 403
        assert ask(console, "/admin/logout", {}, page.headers() | headers).status == 403
    without = {name: value for name, value in page.headers().items() if name == "Cookie"}
    assert ask(console, "/admin/api/publish", {"channel": "forged", "data": 1}, without).status == 403
    assert page.call("publish", {"channel": "genuine", "data": 1}).status == 200
    eventually_now(
        lambda: console.metric("rt_store_published_total") == before + 1, what="one was published, and no more"
    )


def test_console_sign_in_from_another_site_is_refused(console: Server) -> None:
    """Nobody can be signed in, or have a password tried, by a page that they happen to look at."""
    page = Page(console)
    assert page.sign_in(Origin="https://evil.example").status == 403
    assert page.sign_in(**{"Sec-Fetch-Site": "cross-site"}).status == 403


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[]", b'{"password":1}', b"\xff", b"[" * 9000, b'{"password":"' + b"x" * 9000 + b'"}']
)
def test_console_sign_in_that_is_none(console: Server, body: bytes) -> None:
    """What is no sign-in is 400, costs no attempt, and nobody is signed in."""
    answer = ask(console, "/admin/login", body, {"Origin": f"http://127.0.0.1:{console.internal_port}"})
    assert answer.status == 400 and "Set-Cookie" not in answer.headers


def test_console_password_is_limited_and_never_logged() -> None:
    """Wrong passwords: 401 a few times, then 429 with a time to wait; one line of log each, and no password in any."""
    with Server(merged(CONSOLE, {"server": {"workers": 1}})) as server:
        page, wrong = Page(server), "a-wrong-password-that-is-secret"
        statuses = [page.sign_in(wrong).status for _ in range(12)]
        assert statuses == [401] * 5 + [429] * 7
        right = page.sign_in()
        assert right.status == 429 and 0 < int(right.headers["Retry-After"]) <= 16
        assert ask(server, "/admin/session", headers=BEARER).status == 429
        eventually_now(lambda: "too many wrong passwords" in server.log(), what="it is logged")
        log = server.log()
        assert log.count("a wrong password for the console") == 1 and log.count("too many wrong passwords") == 1
        assert wrong not in log and PASSWORD not in log


def test_console_takes_the_password_as_a_token(console: Server) -> None:
    """For scripts: without a cookie, an origin or a proof."""
    assert ask(console, "/admin/session", headers=BEARER).status == 200
    answer = ask(console, "/admin/api/publish", {"channel": "by-script", "data": 1}, BEARER)
    assert answer.json["result"]["offset"] == 1
    assert ask(console, "/admin/session", headers={"Authorization": f"Bearer {API_KEY}"}).status == 401
    assert ask(console, "/admin/session", headers={"Authorization": f"Bearer {KEY}"}).status == 401


@OVER_BOTH
def test_console_streams_a_snapshot_each_second(console: Server) -> None:
    """All workers, the figures of all of them, and nothing that a metric would not say."""
    with stream(console, "/admin/events?tenant=default") as response:
        first, second = next(snapshots(response)), next(snapshots(response))
    assert 0.5 < second["at"] - first["at"] < 5
    assert {worker["pid"] for worker in second["workers"]} == set(console.worker_pids())
    assert second["reasons"] == [] and second["figures"]["store_connected"]
    assert second["figures"]["lag"]["p99"] > 0


def test_console_streams_are_bounded(console: Server) -> None:
    """So many are open on a worker, the next is 503; one that was closed makes room."""
    with ExitStack() as opened:
        statuses = [opened.enter_context(stream(console, "/admin/events")).status for _ in range(70)]
    assert statuses.count(200) <= 2 * STREAMS and set(statuses) == {200, 503}

    def room() -> bool:
        with stream(console, "/admin/events") as response:
            return response.status == 200

    eventually_now(room, what="there is room again")


@pytest.mark.parametrize("method", ["subscribe", "unsubscribe", "refresh", "batch", "rpc", "history_remove", "nothing"])
def test_console_has_no_other_methods(page: Page, method: str) -> None:
    """What the page does not use is not there."""
    assert page.call(method, {}).status == 404


def test_console_calls_the_server_api(page: Page) -> None:
    """The answers are those of the API, errors too; what is no JSON is error 107 like any wrong parameters."""
    published = page.call("publish", {"channel": "news-of-console", "data": {"a": 1}})
    assert published.json["result"]["offset"] == 1
    history = page.call("history", {"channel": "news-of-console", "limit": 5}).json["result"]
    assert history["publications"][0]["data"] == {"a": 1}
    assert page.call("publish", {"channel": "nowhere:a", "data": 1}).json["error"]["code"] == 102
    assert page.call("publish", b"{").json["error"]["code"] == 107
    assert page.call("publish", b"\xff").json["error"]["code"] == 107
    assert page.call("info", {}, "?tenant=nobody").status == 404


@OVER_BOTH
def test_console_answers_keep_browsers_strict(console: Server) -> None:
    """The policy is on every answer, errors too: no script of anybody else, no frames, no guessing."""
    for path in ("/admin/", "/admin/console.js", "/admin/session", "/admin/nothing.js"):
        headers = ask(console, path).headers
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
        assert headers["X-Content-Type-Options"] == "nosniff" and "Server" not in headers


@pytest.mark.parametrize(
    "path",
    ["/admin/../admin.py", "/admin/..%2fadmin.py", "/admin/%2e%2e/api.py", "/admin/console.js/", "/admin/index.html~"],
)
def test_console_files_are_its_own(console: Server, path: str) -> None:
    """No path leads out of the folder."""
    assert ask(console, path).status in (400, 403, 404)


@contextmanager
def stream(server: Server, path: str) -> Iterator[HTTPResponse]:
    """An answer of which the head has come; the connection is closed at the end."""
    connection = HTTPConnection("127.0.0.1", server.internal_port, timeout=10)
    try:
        connection.request("GET", path, headers=BEARER)
        with connection.getresponse() as response:
            yield response
    finally:
        connection.close()


def snapshots(response: HTTPResponse) -> Iterator[Any]:
    """The events of the stream."""
    while line := response.readline():
        if line.startswith(b"data: "):
            yield json.loads(line.removeprefix(b"data: "))


def test_console_serves_every_tenant_by_name() -> None:
    """The page is told the tenants, and each method is that of the one that is named; the figures are too."""
    tenants = [
        {
            "name": name,
            "hosts": [f"{name}.example.com"],
            "http_api": {"key": f"key-of-{name}-0123456"},
            "client": {"token": {"hmac_secret_key": name * 10, "hmac_previous_secret_key": ""}},
        }
        for name in ("acme", "beta")
    ]
    changes = merged(CONSOLE, {"server": {"workers": 1}, "tenants": tenants})
    with Server(changes) as server:
        assert ask(server, "/admin/session", headers=BEARER).json["tenants"] == ["acme", "beta"]
        published = ask(server, "/admin/api/publish?tenant=beta", {"channel": "a", "data": 1}, BEARER)
        assert published.json["result"]["offset"] == 1
        for tenant, count in (("acme", 0), ("beta", 1)):
            history = ask(server, f"/admin/api/history?tenant={tenant}", {"channel": "a", "limit": 5}, BEARER)
            assert len(history.json["result"]["publications"]) == count


def test_console_stream_ends_when_the_server_stops() -> None:
    """An open console does not hold up the stop, and is ended properly: the page knows that it may come back."""
    with Server(merged(CONSOLE, {"server": {"workers": 1}})) as server, stream(server, "/admin/events") as response:
        events = snapshots(response)
        next(events)
        assert server.stop() == 0
        assert all("figures" in event for event in events)  # to the last chunk, which http.client insists on
