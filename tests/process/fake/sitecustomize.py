"""Puts fake_app.py in the place of rt.app in processes that have this folder on PYTHONPATH."""

from __future__ import annotations

import importlib.abc
import importlib.util
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any


class Fake(importlib.abc.MetaPathFinder):
    """Finds rt.app here."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        """The fake for rt.app; nothing else."""
        if fullname != "rt.app":
            return None
        return importlib.util.spec_from_file_location(fullname, Path(__file__).with_name("fake_app.py"))


sys.meta_path.insert(0, Fake())
