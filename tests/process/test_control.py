"""What supervisor and worker say to each other."""

from __future__ import annotations

import asyncio
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rt.supervisor.control import MAX_MESSAGE, Control, ControlError, Inbox, Message, Start, pack, receive
from tests.waiting import eventually

words = st.text("abcdefgh", min_size=1, max_size=10)
messages = st.lists(st.builds(Message, words, st.binary(max_size=60)), max_size=6)


@given(messages, st.lists(st.integers(0, 400), max_size=8))
def test_messages_survive_any_way_of_cutting(sent: list[Message], cuts: list[int]) -> None:
    """However the bytes arrive, the messages are the same, in order."""
    data = b"".join(pack(*message) for message in sent)
    inbox = Inbox()
    received = []
    edges = [0, *sorted(cuts), len(data)]
    for begin, end in zip(edges, edges[1:], strict=False):
        received += inbox.feed(data[begin:end])
    assert received == sent


def test_an_impossible_length_ends_it() -> None:
    """A stream that is no stream of messages is not read into memory."""
    with pytest.raises(ControlError):
        Inbox().feed((MAX_MESSAGE + 1).to_bytes(4, "big"))


@given(st.text(), st.integers(0, 999), st.none() | st.text(), st.text(), st.binary())
def test_a_start_is_read_as_it_was_written(
    name: str, number: int, lineage: str | None, store: str, config: bytes
) -> None:
    """Whatever is in the config, which is bytes with line feeds in them."""
    start = Start(name, number, lineage, store, config)
    assert Start.decode(start.encode()) == start


def test_a_start_by_an_older_supervisor_is_read() -> None:
    """An upgrade keeps the supervisor: what it does not say yet has a default."""
    assert Start.decode(b'{"name":"a","number":1,"lineage":"x"}\nc') == Start("a", 1, "x", "", b"c")


@pytest.mark.parametrize("body", [b"", b"{}", b"[1]\n", b'{"name": 1', b'{"name":"a","number":"x","lineage":null}\n'])
def test_what_is_no_start_is_refused(body: bytes) -> None:
    """A worker started by hand says so instead of crashing."""
    with pytest.raises(ControlError):
        Start.decode(body)


def test_receive_is_bounded() -> None:
    """Before there is a loop, one message is waited for, but not for ever."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(pack("start", b"x\ny"))
        assert receive(theirs, 1.0) == Message("start", b"x\ny")
        with pytest.raises(ControlError):
            receive(theirs, 0.01)
        ours.close()
        with pytest.raises(ControlError):
            receive(theirs, 1.0)


def test_a_large_message_needs_no_waiting_sender() -> None:
    """More than the socket takes at once is kept and sent when there is room; the end is noticed once."""

    async def run() -> None:
        got: list[Message] = []
        ends: list[str] = []
        ours, theirs = socket.socketpair()
        sender = Control(ours, got.append, lambda: ends.append("sender"))
        receiver = Control(theirs, got.append, lambda: ends.append("receiver"))
        body = bytes(range(256)) * 8000
        for word in ("a", "b", "c"):
            sender.send(word, body)
        await eventually(lambda: len(got) == 3)
        assert got == [Message(word, body) for word in "abc"]
        sender.close()
        await eventually(lambda: ends == ["receiver"])
        receiver.send("late")
        receiver.close()

    asyncio.run(run())


def test_a_peer_that_never_reads_is_taken_for_gone() -> None:
    """What waits to be sent is bounded."""

    async def run() -> None:
        ends: list[str] = []
        ours, theirs = socket.socketpair()
        with theirs:
            sender = Control(ours, lambda message: None, lambda: ends.append("end"))
            for _ in range(5):
                sender.send("a", bytes(MAX_MESSAGE // 2))
            assert ends == ["end"]

    asyncio.run(run())
