"""The command line before something that is no good server: one line, in a bounded time, without the key in it."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from threading import Thread

import pytest

from rt.config import load
from rt.operator import door as doors
from rt.operator import status
from rt.operator.door import Door, Unanswered

HEAD = b"HTTP/1.1 200 OK\r\n"
STREAM = HEAD + b"Content-Type: text/event-stream\r\nConnection: close\r\n\r\n"


@pytest.fixture
def answering(tmp_path: Path) -> Iterator[Callable[..., Door]]:
    """A door to something that says the given bytes to whoever asks, and hangs up."""
    with ExitStack() as stack, socket.create_server(("127.0.0.1", 0)) as listener:

        def serve(answer: bytes) -> None:
            with suppress(OSError):  # nobody came, or who came has left
                connection, _ = listener.accept()
                connection.settimeout(5)
                with connection:
                    connection.recv(65536)
                    connection.sendall(answer)
                    connection.shutdown(socket.SHUT_WR)
                    while connection.recv(65536):
                        pass

        def opened(answer: bytes, key: str = "a-key-of-the-tests") -> Door:
            thread = Thread(target=serve, args=(answer,))
            thread.start()
            stack.callback(thread.join)
            file = tmp_path / "rt.yaml"
            internal = f"{{address: 127.0.0.1, port: {listener.getsockname()[1]}}}"
            file.write_text(f'server: {{mode: development, internal: {internal}}}\nhttp_api: {{key: "{key}"}}\n')
            return Door(load(file), "")

        yield opened
        listener.shutdown(socket.SHUT_RDWR)


@contextmanager
def unanswered(*words: str) -> Iterator[None]:
    """The block ends with a line for the operator that has these words."""
    with pytest.raises(Unanswered) as caught:
        yield
    assert str(caught.value).isprintable()
    for word in words:
        assert word in str(caught.value)


def test_answer_is_printable(answering: Callable[..., Door]) -> None:
    """What an error says does not reach the terminal as it is."""
    body = b'{"error":{"code":1,"message":"\\u001b[2J"}}'
    with unanswered("error 1", "\\x1b"):
        answering(HEAD + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)).call("info")


def test_answer_that_ends_too_soon(answering: Callable[..., Door]) -> None:
    """Is none."""
    with unanswered("no running server"):
        answering(HEAD + b"Content-Length: 100\r\n\r\n{}").get("/ready")


def test_answer_that_is_too_large(answering: Callable[..., Door], monkeypatch: pytest.MonkeyPatch) -> None:
    """Is given up."""
    monkeypatch.setattr(doors, "LARGEST", 1 << 20)
    with unanswered("larger than 1 MiB"):
        answering(HEAD + b"Connection: close\r\n\r\n" + b"x" * (1 << 21)).get("/metrics")


def test_answer_that_is_too_slow(answering: Callable[..., Door], monkeypatch: pytest.MonkeyPatch) -> None:
    """Is given up though something comes all the time."""
    monkeypatch.setattr("rt.operator.door.time.monotonic", iter(range(0, 1000, 20)).__next__)
    with unanswered("no answer within"):
        answering(HEAD + b"Content-Length: 2\r\n\r\n{}").get("/metrics")


@pytest.mark.parametrize("event", [b"data: {\n\n", b"data: []\n\n", b"data: \xff\n\n", b'data: {"publica'])
def test_stream_that_makes_no_sense(answering: Callable[..., Door], event: bytes) -> None:
    """Is given up, as is one that is cut off within an event."""
    with unanswered("makes no sense"):
        list(answering(STREAM + event).stream("tail", channel="a"))


def test_metrics_of_something_else(answering: Callable[..., Door]) -> None:
    """A page is no metrics."""
    with unanswered("/metrics"):
        status.status(answering(HEAD + b"Content-Length: 7\r\n\r\n<html>\n"), "", 0.0)


def test_key_that_no_header_carries(answering: Callable[..., Door]) -> None:
    """It is said, without the key."""
    with pytest.raises(Unanswered) as caught:
        answering(b"", key="first-part-of-it\\nsecond-part").call("info")
    assert "part" not in str(caught.value)
