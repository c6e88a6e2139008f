"""Frames: tables of the RFC's rules for the reader, and a client that reads back what the encoders write."""

from __future__ import annotations

import gc
import struct
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wsproto.frame_protocol import CloseReason, FrameProtocol, Opcode

from rt import errors
from rt.protocol import frames
from rt.protocol.frames import Binary, Control, FrameError, FrameReader
from tests.protocol.client_frames import LIMIT, close, error_of, frame, masked, plain, read


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 5, 124, 125, 126, 127, 128, 4095, 4096, 4097, 8195, 65535, 65536])
def test_a_message_of_every_size_class_is_read(size: int) -> None:
    """Text and binary come out whole and unmasked at each border of the length forms and of the unmasking chunks."""
    payload = bytes(at % 127 for at in range(size))
    assert read(frame(payload)) == [payload]
    assert read(frame(payload, opcode=2)) == [Binary(payload)]


def test_a_zero_mask_is_a_mask() -> None:
    """A client that tests itself with the zero key is understood."""
    assert read(frame(b"hello", mask=b"\0\0\0\0")) == [b"hello"]


def test_several_frames_in_one_read_come_in_order() -> None:
    """Pipelined frames of all kinds come out one after the other."""
    data = (
        frame(b"one")
        + frame(b"p", opcode=9)
        + frame(b"two", opcode=2)
        + frame(b"", opcode=10)
        + frame("drei ß".encode())
    )
    assert read(data) == [b"one", Control(9, b"p"), Binary(b"two"), Control(10, b""), "drei ß".encode()]


def test_fragments_are_joined_around_control_frames() -> None:
    """Control frames between the fragments of a message are given at once, the message when its last fragment came."""
    reader = FrameReader(LIMIT)
    assert reader.feed(frame(b"a", fin=False)) == []
    assert reader.pending
    assert reader.feed(frame(b"x", opcode=9)) == [Control(9, b"x")]
    assert reader.feed(frame(b"", opcode=0, fin=False)) == []
    assert reader.feed(frame(b"b", opcode=0)) == [b"ab"]
    assert not reader.pending
    assert reader.feed(frame(b"c", opcode=2, fin=False) + frame(b"d", opcode=0)) == [Binary(b"cd")]


def test_a_character_may_be_cut_between_fragments() -> None:
    """UTF-8 is judged over the whole message, not fragment by fragment."""
    euro = "€".encode()
    assert read(frame(euro[:1], fin=False) + frame(euro[1:], opcode=0)) == [euro]


@pytest.mark.parametrize(
    "first", [byte for byte in range(256) if byte & 0x70 or byte & 0xF in {3, 4, 5, 6, 7} or byte & 0xF > 10]
)
def test_reserved_bits_and_opcodes_are_refused(first: int) -> None:
    """Every reserved bit and every unknown opcode is a protocol error, decided by the first two bytes."""
    assert error_of(read(bytes((first, 0x80)))) == 1002


@pytest.mark.parametrize(
    ("data", "code"),
    [
        pytest.param(b"\x81\x05hello", 1002, id="text without mask"),
        pytest.param(b"\x89\x00", 1002, id="ping without mask"),
        pytest.param(b"\x08\x80", 1002, id="close in fragments"),
        pytest.param(b"\x09\x80", 1002, id="ping in fragments"),
        pytest.param(b"\x0a\x80", 1002, id="pong in fragments"),
        pytest.param(b"\x89\xfe", 1002, id="ping with 16-bit length"),
        pytest.param(b"\x88\xff", 1002, id="close with 64-bit length"),
        pytest.param(b"\x80\x80", 1002, id="continuation of nothing"),
        pytest.param(b"\x00\x80", 1002, id="continuation of nothing, more to come"),
        pytest.param(b"\x81\xfe\x00\x7d", 1002, id="125 in 16 bits"),
        pytest.param(b"\x81\xfe\x00\x00", 1002, id="0 in 16 bits"),
        pytest.param(b"\x81\xff" + struct.pack("!Q", 125), 1002, id="125 in 64 bits"),
        pytest.param(b"\x81\xff" + struct.pack("!Q", 0xFFFF), 1002, id="65535 in 64 bits"),
        pytest.param(b"\x81\xff" + struct.pack("!Q", 1 << 63), 1002, id="top bit of the length"),
        pytest.param(b"\x81\xff" + struct.pack("!Q", (1 << 63) - 1), 1009, id="2^63-1 bytes"),
        pytest.param(b"\x81\xff" + struct.pack("!Q", LIMIT + 1), 1009, id="one byte too many"),
        pytest.param(b"\x82\xff" + struct.pack("!Q", 10 << 20), 1009, id="10 MiB binary"),
        pytest.param(b"\x01\xff" + struct.pack("!Q", LIMIT + 1), 1009, id="first fragment too large"),
        pytest.param(frame(b"\xff"), 1007, id="no UTF-8 at all"),
        pytest.param(frame(b"\xc0\x80"), 1007, id="overlong NUL"),
        pytest.param(frame(b"\xed\xa0\x80"), 1007, id="surrogate"),
        pytest.param(frame(b"\xf4\x90\x80\x80"), 1007, id="beyond U+10FFFF"),
        pytest.param(frame(b"abc\xe2\x82"), 1007, id="cut character"),
        pytest.param(frame(b"x" * 300 + b"\x80"), 1007, id="bad byte in a longer text"),
        pytest.param(frame(b"a\xe2", fin=False) + frame(b"b", opcode=0), 1007, id="bad character over fragments"),
        pytest.param(frame(b"a", fin=False) + frame(b"b"), 1002, id="text inside a message"),
        pytest.param(frame(b"a", fin=False) + b"\x82\x80", 1002, id="binary inside a message"),
        pytest.param(frame(b"a" * 40000, fin=False) + b"\x80\xfe" + struct.pack("!H", 30000), 1009, id="sum too large"),
        pytest.param(frame(b"\x03", opcode=8), 1002, id="half a close code"),
        pytest.param(close(1000, b"\xff"), 1007, id="close reason not UTF-8"),
        pytest.param(close(1000, b"ok \xe2\x82"), 1007, id="close reason with a cut character"),
    ],
)
def test_what_the_rfc_forbids_is_refused(data: bytes, code: int) -> None:
    """Each violation gives its code and nothing else, and what can be judged from a header needs no payload."""
    reader = FrameReader(LIMIT)
    assert error_of(reader.feed(data)) == code
    assert reader.ended
    assert not reader.pending


@pytest.mark.parametrize("code", [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 9999, 65535])
def test_illegal_close_codes_are_refused(code: int) -> None:
    """A code that may not be on the wire is a protocol error."""
    assert error_of(read(close(code))) == 1002


@pytest.mark.parametrize("code", [*range(1000, 1004), *range(1007, 1015), 3000, 3501, 3999, 4000, 4999])
def test_legal_close_codes_are_given(code: int) -> None:
    """A legal close frame comes out with code and reason, and ends the reader."""
    reader = FrameReader(LIMIT)
    (item,) = reader.feed(close(code, "tschüß".encode()))
    assert isinstance(item, Control)
    assert item.opcode == frames.OPCODE_CLOSE
    assert frames.close_status(item.payload) == (code, "tschüß")
    assert reader.ended


def test_an_empty_close_frame_means_no_status() -> None:
    """Without code and reason a close frame is legal."""
    assert read(frame(opcode=8)) == [Control(8, b"")]
    assert frames.close_status(b"") == (frames.NO_STATUS, "")


def test_nothing_is_read_after_a_close_frame() -> None:
    """Bytes behind a close frame are discarded, in the same read and in later ones."""
    reader = FrameReader(LIMIT)
    assert plain(reader.feed(frame(b"a") + close(1000) + frame(b"b"))) == [b"a", Control(8, b"\x03\xe8")]
    assert reader.feed(frame(b"c")) == []
    assert reader.feed(b"\x81\x05hello") == []
    assert not reader.pending


def test_nothing_is_read_after_an_error() -> None:
    """What was complete before an error is given first; what comes after it is discarded."""
    reader = FrameReader(LIMIT)
    assert plain(reader.feed(frame(b"a") + frame(b"b", opcode=9) + b"\xff\xff" + frame(b"c"))) == [
        b"a",
        Control(9, b"b"),
        1002,
    ]
    assert reader.feed(frame(b"d")) == []


def test_the_limit_is_exact() -> None:
    """A message of exactly the limit passes, whole or in fragments; one more byte does not, even a small limit."""
    for limit in (0, 1, 100, 125, 126, 70000):
        fits, beyond = b"x" * limit, b"x" * (limit + 1)
        assert read(frame(fits), limit) == [fits]
        assert read(frame(fits, fin=False) + frame(opcode=0), limit) == [fits]
        assert error_of(read(frame(beyond), limit)) == 1009
        assert error_of(read(frame(fits, fin=False) + frame(b"y", opcode=0), limit)) == 1009


def test_a_read_that_looks_like_a_whole_message_is_not_always_one() -> None:
    """The short cut for one small frame is not taken inside a frame, and not inside a message."""
    lookalike = frame(b"trap")
    outer = frame(masked(lookalike), opcode=2)  # so that the lookalike itself is on the wire
    reader = FrameReader(LIMIT)
    assert reader.feed(outer[:6]) == []
    assert reader.feed(outer[6:]) == [Binary(masked(lookalike))]
    assert reader.feed(frame(b"a", fin=False)) == []
    assert error_of(reader.feed(lookalike)) == 1002


def test_control_frames_are_outside_the_message_limit() -> None:
    """A ping of 125 bytes passes where messages may have ten."""
    assert read(frame(b"x" * 125, opcode=9), 10) == [Control(9, b"x" * 125)]


def test_too_many_fragments_are_refused() -> None:
    """64 fragments are a message; the 65th is refused from its header, be they empty or not."""
    many = frame(b"x", fin=False) + frame(b"", opcode=0, fin=False) * (frames.MAX_FRAGMENTS - 2)
    assert read(many + frame(b"y", opcode=0)) == [b"xy"]
    assert error_of(read(many + frame(opcode=0, fin=False) + b"\x80\x80")) == 1008


def test_a_flood_of_control_frames_is_refused() -> None:
    """Control frames beyond the count end the connection, unless the owner has begun another period."""
    reader = FrameReader(LIMIT)
    ping = frame(b"", opcode=9)
    assert len(reader.feed(ping * frames.MAX_CONTROLS)) == frames.MAX_CONTROLS
    assert reader.controls == frames.MAX_CONTROLS
    assert reader.feed(frame(b"data")) == [b"data"]
    reader.controls = 0
    assert plain(reader.feed(ping)) == [Control(9, b"")]
    items = reader.feed(ping * 100_000)
    assert len(items) == frames.MAX_CONTROLS
    assert error_of(items[-1:]) == errors.TOO_MANY.code


def test_memory_is_bounded_by_one_message() -> None:
    """However a client dawdles, the reader holds no more than a message and a frame's head, and nothing when idle."""
    reader = FrameReader(1000)
    reader.feed(frame(b"x" * 600, fin=False))
    reader.feed(frame(b"y" * 400, opcode=0, fin=False)[:-1])
    assert reader._buffer is not None
    assert reader._message is not None
    assert len(reader._buffer) + len(reader._message.data) <= 1000 + 14
    reader.feed(masked(b"y" * 400)[-1:])
    assert len(reader.feed(frame(b"", opcode=0))) == 1
    assert reader._buffer is None
    assert reader._message is None
    assert sys.getsizeof(reader) <= 96


def test_an_error_leaves_no_cycle() -> None:
    """A refused connection is freed at once, without the collector: its error keeps no call and no bytes alive."""
    gc.collect()
    gc.disable()
    try:
        items = read(frame(b"\xff" * 1000))
        assert isinstance(items[0], FrameError)
        assert items[0].__traceback__ is None
        assert items[0].__context__ is None
        del items
        assert gc.collect() == 0
    finally:
        gc.enable()


def test_a_frame_cut_into_single_bytes_is_looked_at_twice_at_most() -> None:
    """The bytes of an unfinished frame are not parsed again with each that arrives: the cost stays linear."""
    looks = 0

    class Counting(FrameReader):
        __slots__ = ()

        def _measure(self, data: bytes | bytearray, start: int) -> tuple[int, int]:
            nonlocal looks
            looks += 1
            return super()._measure(data, start)

    reader = Counting(LIMIT)
    items: list[frames.Item] = []
    for byte in frame(b"x" * 60000):
        items += reader.feed(bytes((byte,)))
    assert items == [b"x" * 60000]
    assert looks <= 6


# Encoders.


def received(data: bytes) -> list[tuple[Opcode, object]]:
    """What wsproto's client reads."""
    peer = FrameProtocol(client=True, extensions=[])
    peer.receive_bytes(data)
    out: list[tuple[Opcode, object]] = []
    parts = ""
    for got in peer.received_frames():
        if got.opcode is Opcode.TEXT:
            assert isinstance(got.payload, str)
            parts += got.payload
            if got.message_finished:
                out.append((got.opcode, parts))
                parts = ""
        else:
            out.append((got.opcode, got.payload))
    return out


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536, 100_000])
def test_text_frames_have_the_shortest_length(size: int) -> None:
    """A client reads back every size, and the head is as short as the RFC demands."""
    payload = b"x" * size
    data = frames.text_frame(payload)
    assert received(data) == [(Opcode.TEXT, payload.decode())]
    assert len(data) - size == (2 if size < 126 else 4 if size < 65536 else 10)


@settings(deadline=None)
@given(st.text(max_size=200), st.binary(max_size=125))
def test_a_client_reads_what_we_send(text: str, payload: bytes) -> None:
    """Text, ping and pong frames, joined into one write, are read by wsproto's client."""
    data = frames.text_frame(text.encode()) + frames.PING + frames.pong_frame(payload)
    assert received(data) == [(Opcode.TEXT, text), (Opcode.PING, b""), (Opcode.PONG, payload)]


@settings(deadline=None)
@given(st.sampled_from([1000, 1002, 1009, 3000, 4999]), st.text())
def test_a_close_reason_is_cut_between_characters(code: int, reason: str) -> None:
    """A reason of any length gives a legal close frame whose text is a beginning of it."""
    ((opcode, status),) = received(frames.close_frame(code, reason))
    assert opcode is Opcode.CLOSE
    assert isinstance(status, tuple)
    assert status[0] == code
    assert reason.startswith(status[1])
    assert len(reason.encode()) > 120 or status[1] == reason


def test_a_long_reason_keeps_as_much_as_fits() -> None:
    """123 bytes is what a close frame holds beside its code; a character of three bytes is kept or dropped whole."""
    assert frames.close_frame(3000, "€" * 50) == b"\x88\x7d" + struct.pack("!H", 3000) + "€".encode() * 41
    assert frames.close_frame(3000, "a" + "€" * 50)[4:] == b"a" + "€".encode() * 40
    assert frames.close_frame(3000, "\ud800") == b"\x88\x03" + struct.pack("!H", 3000) + b"?"


@pytest.mark.parametrize("code", [0, 999, 1004, 1006, 1015, 1016, 2999, 5000, 70000])
def test_codes_that_may_not_be_sent_are_not(code: int) -> None:
    """No reserved code leaves the server."""
    with pytest.raises(ValueError, match="may not be sent"):
        frames.close_frame(code, "x")


def test_no_status_is_sent_as_an_empty_close() -> None:
    """1005 is never on the wire; the close frame that means it is."""
    assert frames.close_frame(frames.NO_STATUS, "ignored") == b"\x88\x00"
    assert received(b"\x88\x00") == [(Opcode.CLOSE, (CloseReason.NO_STATUS_RCVD, ""))]


def test_every_close_of_the_table_can_be_sent_whole() -> None:
    """Each close the server may end with has a legal code and a reason that fits."""
    closes = [value for value in vars(errors).values() if isinstance(value, errors.Close)]
    assert closes
    for one in closes:
        assert received(frames.close_frame(one.code, one.reason)) == [(Opcode.CLOSE, (one.code, one.reason))]


def test_a_pong_is_never_too_long() -> None:
    """More than 125 bytes cannot be a control frame."""
    with pytest.raises(ValueError, match="125"):
        frames.pong_frame(b"x" * 126)
