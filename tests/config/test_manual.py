"""The list of keys, and the file of defaults."""

from __future__ import annotations

from rt.config import defaults, describe


def test_every_key_is_described() -> None:
    """Paths are unique and in the order of the file; secrets have their twin, namespaces their keys."""
    entries = describe()
    paths = [entry.path for entry in entries]
    assert len(set(paths)) == len(paths)
    assert paths[:2] == ["server", "server.mode"]
    assert paths.index("http_api.key_file") == paths.index("http_api.key") + 1
    assert "channel.namespaces[].history_size" in paths
    assert "channel.without_namespace.name" not in paths
    assert all(entry.sentence and entry.kind for entry in entries)


def test_defaults_have_every_key_once_with_a_sentence() -> None:
    """The file has a line for each key outside lists, set or in a comment, below its sentence."""
    text = defaults()
    named = [entry for entry in describe() if "[]" not in entry.path]
    lines = [line.strip().removeprefix("# ") for line in text.splitlines()]
    for entry in named:
        name = entry.path.rpartition(".")[2]
        assert any(line.startswith(f"{name}:") for line in lines), entry.path
    assert "  workers: auto\n" in text
    assert all(len(line) <= 120 and line == line.rstrip() for line in text.splitlines())
