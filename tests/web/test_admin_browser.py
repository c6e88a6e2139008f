"""The console in a real browser: signing in, figures that move, hostile names as text, a worker that dies."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection
from urllib.parse import quote

import pytest
from websockets.sync.client import connect
from websockets.typing import Origin

from tests import processes
from tests.browser import Browser, Tab, flawless
from tests.servers import API_KEY, ORIGIN, Server
from tests.tokens import connection_token
from tests.waiting import eventually_now

pytestmark = [pytest.mark.needs("chromium"), pytest.mark.timeout(120)]

PASSWORD = "a-password-of-the-tests"
CHANGES = {
    "server": {"internal": {"admin": {"password": PASSWORD}}},
    "limits": {"rates": [{"on": "publish", "per": "user", "rate": "5/s", "burst": 5}]},
}
MARKUP = "<img/src=x/onerror=document.title='owned'>"
HOSTILE = "<img src=x onerror=document.title='owned'><script>document.title='owned'</script>\"'&\u202eedoc"


@pytest.fixture(scope="module")
def operated() -> Iterator[Server]:
    """Two workers with a console."""
    with Server(CHANGES) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser, whose pages threw nothing and kept to their content policy."""
    with flawless() as running:
        yield running


@pytest.fixture
def open_console(browser: Browser, operated: Server) -> Iterator[Callable[[], Tab]]:
    """Open a tab on the console, signed in; it is closed at the end of the test."""
    with browser.tabs(f"http://127.0.0.1:{operated.internal_port}/admin") as opened:

        def signed_in() -> Tab:
            tab = opened()
            sign_in(tab, PASSWORD)
            tab.wait(f"{text('state')} === 'live'")
            return tab

        yield signed_in


def text(name: str) -> str:
    """JavaScript for the text of an element."""
    return f"document.getElementById('{name}').textContent"


def sign_in(tab: Tab, password: str) -> None:
    """Type a password, unless the browser is signed in already."""
    tab.wait("document.getElementById('login').hidden !== document.getElementById('main').hidden")
    if tab.value("document.getElementById('main').hidden"):
        tab.value(f"document.getElementById('password').value = {json.dumps(password)}")
        tab.value("document.getElementById('login').requestSubmit()")


def amount(chart: str) -> str:
    """JavaScript for the number that a chart writes large."""
    return f"parseFloat(document.querySelector('#chart-{chart} .amount').textContent)"


def choose(tab: Tab, name: str) -> None:
    """Open one of the tabs below the figures."""
    tab.value(f"document.getElementById('tab-{name}').click()")


def submit(tab: Tab, form: str, **values: str) -> None:
    """Fill in a form and send it."""
    for name, value in values.items():
        tab.value(f"document.getElementById('{form}').elements[{json.dumps(name)}].value = {json.dumps(value)}")
    tab.value(f"document.getElementById('{form}').requestSubmit()")


def notice(panel: str) -> str:
    """JavaScript for what a panel says."""
    return f"document.querySelector('#panel-{panel} [data-notice]').textContent"


def detail(panel: str) -> str:
    """JavaScript for what a panel tells of one thing; empty while it tells nothing."""
    found = f"document.querySelector('#panel-{panel} [data-detail]')"
    return f"({found}.hidden ? '' : {found}.textContent)"


def publish(server: Server, channel: str, data: object) -> None:
    """Publish through the server API."""
    connection = HTTPConnection("127.0.0.1", server.port, timeout=5)
    try:
        connection.request(
            "POST", "/api/publish", json.dumps({"channel": channel, "data": data}), {"X-API-Key": API_KEY}
        )
        assert "result" in json.loads(connection.getresponse().read())
    finally:
        connection.close()


@contextmanager
def follower(server: Server, channel: str, user: str) -> Iterator[None]:
    """Somebody who follows a channel by an event stream, until the end of the block."""
    connection = HTTPConnection("127.0.0.1", server.port, timeout=10)
    try:
        connection.request("GET", f"/sse?channel={quote(channel)}&token={quote(connection_token(user))}")
        with connection.getresponse() as response:
            assert response.status == 200, response.read()
            yield
    finally:
        connection.close()


def test_console_refuses_a_wrong_password_and_takes_the_right_one(browser: Browser, operated: Server) -> None:
    """What was wrong is said; after the right one the figures come, also after a reload; signing out ends it."""
    tab = browser.tab(f"http://127.0.0.1:{operated.internal_port}/admin")
    sign_in(tab, "wrong")
    tab.wait(f"{text('login-notice')} === 'wrong password'")
    sign_in(tab, PASSWORD)
    tab.wait(f"{text('state')} === 'live'")
    assert tab.value("document.cookie") == ""
    tab.go(f"http://127.0.0.1:{operated.internal_port}/admin/#limits")
    tab.wait(f"{text('state')} === 'live'")
    tab.value("document.getElementById('sign-out').click()")
    tab.wait("!document.getElementById('login').hidden && document.getElementById('main').hidden")
    tab.go(f"http://127.0.0.1:{operated.internal_port}/admin/")
    tab.wait("!document.getElementById('login').hidden")
    tab.close()


def test_console_takes_no_other_word_for_a_tab(open_console: Callable[[], Tab], operated: Server) -> None:
    """A fragment that names something which every object has opens the first tab, as any unknown one."""
    tab = open_console()
    tab.go("about:blank")
    tab.go(f"http://127.0.0.1:{operated.internal_port}/admin/#constructor")
    tab.wait(f"{text('state')} === 'live' && !document.getElementById('panel-channels').hidden")


def test_console_figures_move(open_console: Callable[[], Tab], operated: Server) -> None:
    """Connections, deliveries and latency are those of all workers; both of them are listed as ready."""
    tab = open_console()
    with ExitStack() as opened:
        for _ in range(6):
            opened.enter_context(follower(operated, "long:moving", "42"))
        tab.wait(f"{amount('connections')} === 6")

        def delivered() -> bool:
            publish(operated, "long:moving", 1)
            return bool(tab.value(f"{amount('deliveries')} > 0 && {amount('latency')} > 0"))

        eventually_now(delivered, what="deliveries and their latency are drawn")
    tab.wait(f"{amount('connections')} === 0")
    pids = sorted(operated.worker_pids())
    tab.wait(f"{json.dumps(pids)}.every((pid) => {text('workers')}.includes(pid))")
    assert tab.value(f"{text('workers')}.split('ready').length") == 3


def row(panel: str, word: str) -> str:
    """JavaScript for the button of the line of a list whose text has ``word``; undefined where there is none."""
    lines = f"[...document.querySelectorAll('#panel-{panel} tbody tr')]"
    return f"{lines}.find((line) => line.textContent.includes({json.dumps(word)}))?.querySelector('.open')"


def wait_listed(tab: Tab, panel: str, word: str, **filters: str) -> None:
    """Ask again until a line of a list has ``word``."""

    def listed() -> bool:
        submit(tab, f"{panel}-form", **filters)
        return bool(tab.value(f"Boolean({row(panel, word)})"))

    eventually_now(listed, what=f"{word} is listed")


def test_console_shows_hostile_names_as_text(open_console: Callable[[], Tab], operated: Server) -> None:
    """XSS: channel, user and payload may be markup or turn text around; they are letters, and the latter is visible."""
    channel, turned = f"long:{MARKUP}", HOSTILE.replace("\u202e", "\\u{202e}")
    tab = open_console()
    publish(operated, channel, {"text": HOSTILE, HOSTILE: [HOSTILE]})
    with follower(operated, channel, HOSTILE):
        choose(tab, "channels")
        wait_listed(tab, "channels", channel)
        tab.value(f"{row('channels', channel)}.click()")
        tab.wait(f"{detail('channels')}.includes('</script>')")
        choose(tab, "connections")
        wait_listed(tab, "connections", turned, user=HOSTILE)
        tab.value(f"{row('connections', turned)}.click()")
        tab.wait(f"{detail('connections')}.includes('</script>')")
        submit(tab, "connection-form", client=MARKUP)
        tab.wait(f"{notice('connections')}.includes('onerror')")
        assert "\u202e" not in tab.value("document.body.textContent")
    choose(tab, "publish")
    submit(tab, "publish-form", channel=f"nowhere:{MARKUP}", data=json.dumps(HOSTILE))
    tab.wait(f"{notice('publish')}.startsWith('102 ')")
    assert "owned" not in tab.value("document.title")
    assert tab.value("document.querySelectorAll('main img, main script, main a, main iframe').length") == 0


def test_console_ends_a_connection(open_console: Callable[[], Tab], operated: Server) -> None:
    """Found by its user, told with what it follows, and ended at the second click; nobody else is."""
    tab = open_console()
    choose(tab, "connections")
    with follower(operated, "long:one", "leaves"), follower(operated, "long:one", "stays"):
        wait_listed(tab, "connections", "leaves", user="leaves", channel="long:one")
        tab.value(f"{row('connections', 'leaves')}.click()")
        tab.wait(f"{detail('connections')}.includes('long:one')")
        for _ in range(2):
            tab.value("document.querySelector('#panel-connections .danger').click()")
        tab.wait(f"{notice('connections')}.endsWith(' was disconnected.')")
        eventually_now(lambda: operated.metric("rt_connections") == 1, what="one is left")
        wait_listed(tab, "connections", "stays", user="", channel="long:one")


def test_console_publishes(open_console: Callable[[], Tab], operated: Server) -> None:
    """The box says where it went; what is no JSON does not leave the page."""
    tab = open_console()
    choose(tab, "publish")
    submit(tab, "publish-form", channel="long:from-the-console", data="{no json")
    tab.wait(f"{notice('publish')} === 'The data is not JSON.'")
    submit(tab, "publish-form", channel="long:from-the-console", data='{"a": [1, null, "\u20ac"]}')
    tab.wait(f"{notice('publish')}.startsWith('Published at offset 1 of epoch ')")


def exceed(server: Server, user: str) -> None:
    """Publish more often than the config lets a user."""
    url = f"ws://127.0.0.1:{server.port}/connection/websocket"
    with connect(url, origin=Origin(ORIGIN), proxy=None) as socket:
        socket.send(json.dumps({"id": 1, "connect": {"token": connection_token(user)}}))
        for number in range(2, 22):
            socket.send(json.dumps({"id": number, "publish": {"channel": "long:much", "data": 1}}))
        while "error" not in str(socket.recv(10)):
            pass


def test_console_lists_limits_and_offenders(open_console: Callable[[], Tab], operated: Server) -> None:
    """The rules of the config, with their rates, and who is refused by them: as text, whoever that is."""
    tab = open_console()
    exceed(operated, HOSTILE)
    choose(tab, "limits")
    tab.wait("document.querySelectorAll('#panel-limits tbody tr').length === 1")
    line = tab.value("document.querySelector('#panel-limits tbody tr').textContent")
    assert line.startswith("publishuserall5/s") and HOSTILE.replace("\u202e", "\\u{202e}") in line
    assert tab.value("document.querySelectorAll('main img, main script').length") == 0


def test_console_outlives_the_worker_it_is_on(open_console: Callable[[], Tab], operated: Server) -> None:
    """All workers are killed one after the other: the page comes back by itself, still signed in, and lists the new."""
    tab = open_console()
    for pid in operated.worker_pids():
        operated.kill_worker(pid)
        operated.wait_workers()
    pids = operated.worker_pids()
    tab.wait(f"{text('state')} === 'live' && {json.dumps(pids)}.every((pid) => {text('workers')}.includes(pid))")


def test_console_says_that_a_worker_hangs(open_console: Callable[[], Tab], operated: Server) -> None:
    """A stopped worker is named with the reason why the server is not ready, until it is replaced; which the page shows
    too, if it was on that one itself."""
    tab = open_console()
    (hung, *_) = operated.worker_pids()
    processes.kill(hung, signal.SIGSTOP)
    try:
        tab.wait(f"{text('reasons')}.includes('worker {hung} has not') || !{text('workers')}.includes('{hung}')", 40)
    finally:
        if processes.alive(hung):
            processes.kill(hung, signal.SIGCONT)
    operated.wait_workers()
    tab.wait(f"{text('state')} === 'live' && document.getElementById('reasons').hidden")


@pytest.mark.parametrize("width", [320, 390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_console_fits_a_phone_and_follows_the_scheme(
    open_console: Callable[[], Tab], browser: Browser, width: int, scheme: str
) -> None:
    """Nothing makes the page scroll sideways, whatever tab is open; its ground is as light as the reader has it."""
    tab = open_console()
    browser.command(
        "Emulation.setDeviceMetricsOverride",
        tab.session,
        width=width,
        height=800,
        deviceScaleFactor=1,
        mobile=width < 500,
    )
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.command("Emulation.setEmulatedMedia", tab.session, features=features)
    for name in ("channels", "connections", "limits", "publish"):
        choose(tab, name)
        assert tab.value("document.documentElement.scrollWidth") <= width
    ground = tab.value("getComputedStyle(document.body).backgroundColor")
    assert (int(ground.removeprefix("rgb(").partition(",")[0]) > 128) == (scheme == "light")
