"""Secrets from files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rt.config import ConfigError, parse
from rt.config.reader import read_small


def key_from(content: bytes, directory: Path) -> str:
    """The API key of a config whose key_file has ``content``."""
    file = directory / "key"
    file.write_bytes(content)
    return parse(f"http_api: {{key_file: {file}}}".encode(), "f", {}).http_api.key


@pytest.mark.parametrize("content", [b"abc", b"abc\n", b"abc\r\n"])
def test_one_line_end_is_dropped(content: bytes, tmp_path: Path) -> None:
    """An editor's line end is not part of the secret."""
    assert key_from(content, tmp_path) == "abc"


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "an empty file"),
        (b"\n", "an empty file"),
        (b"abc\n\n", "a secret of 4 bytes with white space around it"),
        (b"\xff\xfe", "a file that is not UTF-8"),
        (b"x" * 5000, "a secret of 5000 bytes"),
    ],
)
def test_other_files_are_refused(content: bytes, found: str, tmp_path: Path) -> None:
    """A file without a secret in it is a mistake at the key that names it."""
    with pytest.raises(ConfigError, match=f"^f:1: http_api.key_file: found {found}, expected a "):
        key_from(content, tmp_path)


def test_pipe_is_not_waited_for(tmp_path: Path) -> None:
    """A named pipe without a writer is refused instead of waited for."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="not a regular file"):
        read_small(str(tmp_path / "pipe"), 10)


def test_variable_may_name_the_file(tmp_path: Path) -> None:
    """A path may hold variables, and a variable may take the place of key_file."""
    (tmp_path / "key").write_text("abc")
    assert parse(b"http_api: {key_file: '${D}/key'}", "f", {"D": str(tmp_path)}).http_api.key == "abc"
    assert parse(b"", "f", {"RT_HTTP_API_KEY_FILE": str(tmp_path / "key")}).http_api.key == "abc"
