"""What an installed server consists of: all that the source tree has below ``rt``."""

from __future__ import annotations

from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_package_has_every_file() -> None:
    """Scripts of the store, pages and their styles: what is no Python must be named to be installed."""
    config = ConfigParser()
    config.read(ROOT / "setup.cfg")
    installed = {
        path
        for package, globs in config["options.package_data"].items()
        for glob in globs.split()
        for path in ROOT.joinpath(*package.split(".")).glob(glob)
    }
    files = {
        path
        for path in (ROOT / "rt").rglob("*")
        # Tools put their own into folders with a dot.
        if path.is_file()
        and path.suffix not in (".py", ".pyc")
        and not any(part[0] == "." for part in path.relative_to(ROOT).parts)
    }
    assert files and sorted(files - installed) == []
