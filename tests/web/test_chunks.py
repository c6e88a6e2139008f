"""Bodies that come in chunks. (What is refused is in test_smuggling.py.)"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rt.web.chunks import Chunks
from rt.web.heads import Malformed


def encoded(parts: list[bytes]) -> bytes:
    """``parts``, none of them empty, as chunks."""
    return b"".join(b"%X\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def feed(chunks: Chunks, pieces: list[bytes]) -> tuple[bytes, bytes]:
    """What comes out of ``pieces``, and what is left behind the end."""
    got = rest = b""
    for piece in pieces:
        if chunks.done:
            rest += piece
        else:
            part, rest = chunks.feed(piece)
            got += part
    return got, rest


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=5), st.binary(max_size=5), st.lists(st.integers(1, 30)))
def test_however_they_are_cut(parts: list[bytes], behind: bytes, cuts: list[int]) -> None:
    """The body comes out whole, and nothing of what stands behind it is taken."""
    data, pieces = encoded(parts) + behind, []
    for cut in [*cuts, *[1] * 500]:
        pieces.append(data[:cut])
        data = data[cut:]
    chunks = Chunks()
    assert feed(chunks, [piece for piece in pieces if piece]) == (b"".join(parts), behind)
    assert chunks.done


@given(st.lists(st.binary(max_size=20), max_size=10))
def test_any_bytes(pieces: list[bytes]) -> None:
    """They are a body, a part of one, or malformed; nothing else happens, and no more is kept than a line."""
    chunks = Chunks()
    try:
        got, _ = feed(chunks, pieces)
    except Malformed:
        return
    assert len(got) <= sum(map(len, pieces))


def test_a_large_chunk_comes_out_as_it_comes_in() -> None:
    """It is not kept until it is whole."""
    chunks = Chunks()
    assert chunks.feed(b"ffffff\r\n" + b"x" * 1000) == (b"x" * 1000, b"")
    assert chunks.feed(b"y" * 10) == (b"y" * 10, b"")
    assert not chunks.done
