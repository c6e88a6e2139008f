"""The demo page in a real browser: tabs talk over both transports; neither a reload nor a dead worker loses a line."""

from __future__ import annotations

import http.client
import json
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from tests.browser import Browser, Tab, flawless
from tests.servers import API_KEY, OPEN, STREAM, Server
from tests.waiting import eventually_now

pytestmark = [pytest.mark.needs("chromium"), pytest.mark.timeout(120)]

PANES = ("ws", "sse")
CHANGES = {
    "server": {"demo": True},
    "client": {"allowed_origins": ["*"]},
    "delivery": {"low_watermark": "2KiB"},
    "channel": {
        "namespaces": [
            {"name": "chat", **STREAM, **OPEN},
            {
                "name": "prices",
                **STREAM,
                **OPEN,
                "force_recovery_mode": "cache",
                "slow": "conflate",
                "priority": "high",
            },
        ]
    },
}


@pytest.fixture(scope="module")
def demo() -> Iterator[Server]:
    """Two workers that serve the demo page."""
    with Server(CHANGES) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser, whose pages threw nothing and kept to their content policy."""
    with flawless() as running:
        yield running


@pytest.fixture
def open_page(browser: Browser, demo: Server) -> Iterator[Callable[[], Tab]]:
    """Open a tab on the demo page with both panes connected; it is closed at the end of the test."""
    with browser.tabs(address(demo)) as opened:

        def connected() -> Tab:
            tab = opened()
            wait_connected(tab)
            return tab

        yield connected


def address(demo: Server) -> str:
    return f"http://127.0.0.1:{demo.port}/"


def field(pane: str, name: str) -> str:
    """JavaScript for the text of a field of a pane."""
    return f"document.querySelector('[data-pane={pane}] [data-field={name}]').textContent"


def wait_connected(tab: Tab) -> None:
    for pane in PANES:
        tab.wait(f"{field(pane, 'state')} === 'connected'")


def write(tab: Tab, text: str) -> None:
    """Type a line into the page and send it."""
    tab.wait("!document.getElementById('send').disabled")
    tab.value(f"document.getElementById('text').value = {json.dumps(text)}")
    tab.value("document.getElementById('composer').requestSubmit()")


def shown_lines(pane: str) -> str:
    """JavaScript for the lines of the chat that a pane shows."""
    return f"[...document.querySelectorAll('[data-pane={pane}] .message .words')].map((words) => words.textContent)"


def wait_lines(tab: Tab, wanted: list[str]) -> None:
    """Wait until both panes show ``wanted``, then check that they do so once each and in order."""
    for pane in PANES:
        tab.wait(f"{json.dumps(wanted)}.every((line) => {shown_lines(pane)}.includes(line))")
        shown = [line for line in tab.value(shown_lines(pane)) if line in wanted]
        assert shown == wanted, f"{pane}: {Counter(shown).most_common(3)}"


def publish(demo: Server, text: str) -> None:
    """Publish a line through the HTTP API; a worker that dies meanwhile makes it ask again, with the same key."""
    body = json.dumps({"channel": "chat:lobby", "data": {"from": "test", "text": text}, "idempotency_key": text})
    headers = {"X-API-Key": API_KEY, "Content-Type": "application/json"}

    def accepted() -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", demo.port, timeout=5)
        try:
            connection.request("POST", "/api/publish", body, headers)
            return "result" in json.loads(connection.getresponse().read())
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    eventually_now(accepted, what=f"{text} is accepted")


def test_two_tabs_exchange_a_line_over_both_transports(open_page: Callable[[], Tab]) -> None:
    """What one tab writes shows in both panes of both tabs, as text whatever it holds; prices tick."""
    first, second = open_page(), open_page()
    hostile = "<img src=x onerror=\"document.title='owned'\"> & \u202eafter"
    write(first, hostile)
    for tab in (first, second):
        wait_lines(tab, [hostile])
        assert tab.value("document.querySelectorAll('#panes img').length") == 0
        assert "owned" not in tab.value("document.title")
        for pane in PANES:
            tab.wait(f"parseFloat({field(pane, 'price')}) > 0")
            assert tab.value(field(pane, "worker")) not in ("", "–", "unknown")
            assert tab.value(field(pane, "latency")).endswith(" ms")


def test_a_burst_arrives_whole_and_in_order(open_page: Callable[[], Tab]) -> None:
    """A hundred lines sent in one frame show once each, in order, in both panes."""
    tab = open_page()
    tab.value("document.getElementById('burst').click()")
    wait_lines(tab, [f"message {number} of 100" for number in range(1, 101)])


def test_a_reload_loses_nothing(open_page: Callable[[], Tab], demo: Server) -> None:
    """What was sent while a tab was away is there when it comes back, once, after what it had already shown."""
    tab = open_page()
    write(tab, "before the reload")
    wait_lines(tab, ["before the reload"])
    tab.go("about:blank")
    away = [f"while away {number}" for number in range(5)]
    for text in away:
        publish(demo, text)
    tab.go(address(demo))
    wait_connected(tab)
    wait_lines(tab, ["before the reload", *away])
    for pane in PANES:
        tab.wait(f"{field(pane, 'recovered')}.startsWith('recovered ')")


def test_a_broken_connection_comes_back(open_page: Callable[[], Tab], demo: Server) -> None:
    """The button that breaks the connection loses nothing either."""
    tab = open_page()
    for pane in PANES:
        tab.value(f"document.querySelector('[data-pane={pane}] [data-action=break]').click()")
        tab.wait(f"{field(pane, 'state')} !== 'connected'")
    missed = [f"while broken {number}" for number in range(3)]
    for text in missed:
        publish(demo, text)
    wait_connected(tab)
    wait_lines(tab, missed)


@pytest.mark.parametrize("pane", PANES)
def test_a_slow_network_shows_the_policies(open_page: Callable[[], Tab], pane: str) -> None:
    """On one pane alone: a burst arrives late and whole, and of the prices meanwhile only the newest."""
    tab = open_page()
    button = f"document.querySelector('[data-pane={pane}] [data-action=slow]')"
    tab.value(f"{button}.click()")
    wait_connected(tab)
    assert tab.value(f"{button}.getAttribute('aria-pressed')") == "true"
    tab.wait("!document.getElementById('burst').disabled")
    tab.value("document.getElementById('burst').click()")
    wait_lines(tab, [f"message {number} of 100" for number in range(1, 101)])
    tab.wait(f"parseInt({field(pane, 'skipped')}) > 0")
    other = PANES[1 - PANES.index(pane)]
    assert tab.value(field(other, "skipped")) == "none"
    tab.value(f"{button}.click()")
    wait_connected(tab)


@pytest.mark.parametrize("pane", PANES)
def test_a_killed_worker_loses_nothing(open_page: Callable[[], Tab], demo: Server, pane: str) -> None:
    """The button kills the worker that the pane is on; the page comes back on a living one with every line."""
    tab = open_page()
    before = set(demo.worker_pids())
    sent = [f"{pane}: around the kill {number}" for number in range(20)]
    for text in sent[:5]:
        publish(demo, text)
    tab.value(f"document.querySelector('[data-pane={pane}] [data-action=kill]').click()")
    eventually_now(lambda: not before <= set(demo.worker_pids()), what="a worker is gone")
    for text in sent[5:]:
        publish(demo, text)
    wait_connected(tab)
    wait_lines(tab, sent)
    demo.wait_workers()
