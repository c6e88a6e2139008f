"""A headless Chromium, driven over its DevTools protocol: one WebSocket, commands with ids, sessions per tab."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from websockets.sync.client import ClientConnection, connect

from tests.tools import chromium
from tests.waiting import eventually_now

START = 30.0
"""Seconds a browser may take until it can be driven."""

ANSWER = 20.0
"""Seconds it may take for one command."""

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # A tab in the background should run its timers like the one in front.
    "--disable-background-timer-throttling",
    "--disable-renderer-backgrounding",
    "--remote-debugging-port=0",
)


class Browser:
    """A Chromium in a process group of its own, until the end of the ``with`` block.

    ``faults`` collects what no page of ours may cause: uncaught exceptions, and violations of the content policy.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.faults: list[str] = []
        self._ids = itertools.count(1)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self.folder = tempfile.TemporaryDirectory(prefix="rt-browser-", ignore_cleanup_errors=True)
        self.process = subprocess.Popen(
            [self.path, *FLAGS, f"--user-data-dir={self.folder.name}", "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            self.connection = self._stack.enter_context(self._connect())
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()
        self._stack.close()

    def _end(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.folder.cleanup()

    def _connect(self) -> AbstractContextManager[ClientConnection]:
        address = Path(self.folder.name) / "DevToolsActivePort"

        def written() -> bool:
            assert self.process.poll() is None, f"the browser ended with status {self.process.returncode}"
            return address.exists() and len(address.read_text().split()) == 2

        eventually_now(written, START, "the browser can be driven")
        port, path = address.read_text().split()
        return connect(f"ws://127.0.0.1:{port}{path}", max_size=None, compression=None, proxy=None, ping_interval=None)

    def command(self, method: str, session: str = "", **params: Any) -> dict[str, Any]:
        """The result of one command; AssertionError when the browser refuses it or takes too long."""
        number = next(self._ids)
        command = {"id": number, "method": method, "params": params}
        self.connection.send(json.dumps({**command, "sessionId": session} if session else command))
        while True:
            message = json.loads(self.connection.recv(ANSWER))
            if message.get("id") == number:
                assert "error" not in message, f"{method}: {message['error']}"
                result: dict[str, Any] = message["result"]
                return result
            self._notice(message)

    def _notice(self, message: dict[str, Any]) -> None:
        if message.get("method") == "Runtime.exceptionThrown":
            details = message["params"]["exceptionDetails"]
            self.faults.append(details.get("exception", {}).get("description", details["text"]))
        elif message.get("method") == "Log.entryAdded" and message["params"]["entry"]["source"] == "security":
            self.faults.append(message["params"]["entry"]["text"])

    def tab(self, url: str) -> Tab:
        """A new tab that shows ``url``."""
        target = self.command("Target.createTarget", url="about:blank")["targetId"]
        session = self.command("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Runtime", "Log", "Page"):
            self.command(f"{domain}.enable", session)
        tab = Tab(self, target, session)
        tab.go(url)
        return tab

    @contextmanager
    def tabs(self, url: str) -> Iterator[Callable[[], Tab]]:
        """Something that opens a new tab on ``url``; all of them are closed at the end of the block."""
        found: list[Tab] = []

        def opened() -> Tab:
            found.append(self.tab(url))
            return found[-1]

        yield opened
        for tab in found:
            tab.close()


@contextmanager
def flawless() -> Iterator[Browser]:
    """The browser of this machine, whose pages threw nothing and kept to their content policy."""
    path = chromium()
    assert path is not None
    with Browser(path) as running:
        yield running
        assert not running.faults


class Tab:
    """One tab of a browser."""

    def __init__(self, browser: Browser, target: str, session: str) -> None:
        self.browser = browser
        self.target = target
        self.session = session

    def go(self, url: str) -> None:
        """Load ``url`` and wait until its document is there."""
        answer = self.browser.command("Page.navigate", self.session, url=url)
        assert "errorText" not in answer, answer["errorText"]
        self.wait("document.readyState === 'complete'")

    def close(self) -> None:
        """Close the tab, and with it its connections: a browser has no more than six to one host over HTTP/1.1."""
        self.browser.command("Target.closeTarget", targetId=self.target)

    def value(self, expression: str) -> Any:
        """What a JavaScript expression is; AssertionError when it throws."""
        answer = self.browser.command("Runtime.evaluate", self.session, expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, expression: str, timeout: float = ANSWER) -> None:
        """Wait until a JavaScript expression is true; a page that is just being replaced counts as not yet."""

        def holds() -> bool:
            with suppress(AssertionError):
                return bool(self.value(expression))
            return False

        eventually_now(holds, timeout, expression)
