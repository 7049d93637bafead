"""Finds the searches: every concrete subclass of `Search` in a public module of this folder."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable
from inspect import isclass

from popgrad.search._base import Search

__all__ = ["searches"]


def searches(package: str, folders: Iterable[str]) -> dict[str, type[Search]]:
    """Return the searches of a package, by their name on the command line, in alphabetical order."""
    modules = [info.name for info in pkgutil.iter_modules(folders) if not info.name.startswith("_")]
    found = {kind.command: kind for name in modules for kind in _defined(f"{package}.{name}")}
    return dict(sorted(found.items()))


def _defined(module: str) -> list[type[Search]]:
    values = vars(importlib.import_module(module)).values()
    return [kind for kind in values if isclass(kind) and issubclass(kind, Search) and kind.__module__ == module]
