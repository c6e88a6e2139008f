"""Every link between the documents leads somewhere, down to the heading."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

FENCE = re.compile(r"^(```|~~~).*?^\1[^\n]*$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`[^`\n]*`")
INLINE = re.compile(r"!?\[[^\]]*\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)")
REFERENCE = re.compile(r"^\s{0,3}\[[^\]]+\]:\s+<?(\S+?)>?(?:\s+\"[^\"]*\")?\s*$", re.MULTILINE)
HEADING = re.compile(r"^#{1,6}\s+(.+?)\s*#*\s*$", re.MULTILINE)
ANCHOR = re.compile(r"<a\s+(?:id|name)=\"([^\"]+)\"")
SCHEME = re.compile(r"^[a-z][a-z0-9+.-]*:", re.IGNORECASE)


def documents() -> list[Path]:
    """The Markdown files of this project."""
    folders = (ROOT / name for name in ("docs", "rt", "bench", "config", "systemd", "tests"))
    found = [*ROOT.glob("*.md"), *(path for folder in folders for path in folder.rglob("*.md"))]
    return sorted(path for path in found if "node_modules" not in path.parts)


def without_code(text: str) -> str:
    """The text with fenced blocks and code spans blanked, line numbers kept."""
    text = FENCE.sub(lambda match: "\n" * match.group().count("\n"), text)
    return CODE.sub(lambda match: " " * len(match.group()), text)


def slug(heading: str) -> str:
    """The anchor that a heading gets where the documents are shown: lower case, punctuation gone, spaces to hyphens."""
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    text = re.sub(r"[^\w\- ]", "", text.replace("`", "").lower())
    return text.replace(" ", "-")


def anchors(text: str) -> set[str]:
    """Every anchor of a document; a repeated heading gets -1, -2, ... behind it."""
    plain = FENCE.sub("", text)
    found = set(ANCHOR.findall(plain))
    seen: dict[str, int] = {}
    for heading in HEADING.findall(plain):
        name = slug(heading)
        count = seen.get(name, 0)
        seen[name] = count + 1
        found.add(f"{name}-{count}" if count else name)
    return found


def links(text: str) -> Iterator[tuple[int, str]]:
    """(line, target) of every link of a document."""
    plain = without_code(text)
    for pattern in (INLINE, REFERENCE):
        for match in pattern.finditer(plain):
            yield plain.count("\n", 0, match.start(1)) + 1, match.group(1)


def dead_links(path: Path, root: Path = ROOT) -> list[str]:
    """The links of the document at ``path`` that lead nowhere. Links to other hosts are not followed."""
    found = []
    for line, link in links(path.read_text()):
        if SCHEME.match(link) or link.startswith("//"):
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        place = f"{path.relative_to(root)}:{line}"
        if not target.is_relative_to(root) or not target.exists():
            found.append(f"{place}: {link}: no such file")
        elif anchor and target.suffix == ".md" and anchor not in anchors(target.read_text()):
            found.append(f"{place}: {link}: no such heading")
    return found


def test_no_dead_links() -> None:
    """Every relative link in the documents has a file and, where it names one, a heading."""
    assert documents()
    found = [problem for path in documents() for problem in dead_links(path)]
    assert not found, "\n" + "\n".join(found)


SAMPLE = """# A title: with `code`, and more

See [below](#second-part), [again](#second-part-1), [the other](other.md#über-uns), [file](sub/x.py), [out](https://example.org/x)
and [by reference][ref]. `[not a link](nowhere.md)`

```
[nor this](nowhere.md)
```

## Second part
## Second part

[ref]: other.md
"""


def test_live_links_are_let_through(tmp_path: Path) -> None:
    """Links to headings, files and other hosts pass; what stands in code is no link."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/x.py").touch()
    (tmp_path / "other.md").write_text("# Über uns\n")
    (tmp_path / "a.md").write_text(SAMPLE)
    assert dead_links(tmp_path / "a.md", tmp_path) == []
    assert slug("A title: with `code`, and more") in anchors(SAMPLE)


@pytest.mark.parametrize(
    "link", ["nowhere.md", "other.md#no-such", "#no-such", "../outside.md", "other.md#Title", "sub/"], ids=str
)
def test_a_dead_link_is_found(link: str, tmp_path: Path) -> None:
    """A missing file, a missing heading and a link out of the project are reported, with their line."""
    (tmp_path / "other.md").write_text("# Title\n")
    (tmp_path / "a.md").write_text(f"# A\n\nSee [this]({link}).\n")
    assert [problem.split(":")[:2] for problem in dead_links(tmp_path / "a.md", tmp_path)] == [["a.md", "3"]]
