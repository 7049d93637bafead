"""Imports and includes point downward only, kernel headers are leaves, and every public name is documented."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import pkgutil
import re
from pathlib import Path

import pytest

import popgrad
from popgrad import optim, search

PACKAGE = Path(popgrad.__file__).parent
SOURCE = Path(__file__).parent.parent / "csrc"

# From the bottom up; a module may import what is in a line above its own, or its own folder.
LAYERS = [
    {"_core", "checks"},
    {"arrays", "backends", "budget", "columns", "layout", "settings", "system"},
    {"checkpoint", "data", "labels", "losses", "metrics", "schedules", "state"},
    {"objective", "perturbations"},
    {"method", "models"},
    {"optim", "pipeline", "racing"},
    {"search", "torch"},
    {"train"},
    {"bench", "compare"},
    {"cli"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts != ("__init__",):
            yield pytest.param(path, parts[0], id=".".join(parts))


@pytest.mark.parametrize(("path", "top"), list(modules()))
def test_imports_point_downward(path, top):
    assert top in LEVEL, f"{top} has no layer: put it into LAYERS"
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] != "popgrad" or parts[1:] == ["__version__"]:
                continue
            # The package itself stands above all but the command line.
            below = LEVEL[parts[1]] if len(parts) > 1 else LEVEL["cli"] - 1
            if parts[1:2] != [top]:
                assert below < LEVEL[top], f"{top} imports {name}, which is not below it"


@pytest.mark.skipif(not SOURCE.exists(), reason="the sources are not beside the tests")
def test_includes_point_downward():
    below = {
        "kernels": {"kernels"},
        "cuda": {"kernels", "", "cuda"},
        "cpu": {"kernels", "", "cpu"},
        "cpu/avx512": {"kernels", "cpu", "cpu/avx512"},
        "": {"", "cpu", "cuda"},
        "bindings": {"", "cpu", "cuda", "bindings"},
    }
    for path in [*SOURCE.rglob("*.h"), *SOURCE.rglob("*.cpp"), *SOURCE.rglob("*.cu")]:
        folder = path.parent.relative_to(SOURCE).as_posix().replace(".", "")
        for include in re.findall(r'#include "(.+)"', path.read_text()):
            target = (path.parent / include).resolve()
            if include == "targets.h":
                continue  # generated
            assert target.exists(), f"{path}: {include}"
            there = target.parent.relative_to(SOURCE.resolve()).as_posix().replace(".", "")
            allowed = below[folder]
            assert there in allowed, f"{path} includes {include}"
            if there == "" and folder in ("cpu", "cuda"):
                assert target.name in ("table.h", "streams.h"), f"{path} includes {include}"


@pytest.mark.skipif(not SOURCE.exists(), reason="the sources are not beside the tests")
def test_kernel_headers_include_no_standard_header_with_bodies():
    above = ("detect.cpp", "detect.h", "threads.cpp", "threads.h")
    per_target = [*(SOURCE / "kernels").glob("*.h"), *(SOURCE / "cpu").rglob("*.cpp"), *(SOURCE / "cpu").rglob("*.h")]
    for path in [p for p in per_target if p.name not in above]:
        # Intel's functions are never compiled out of line; the test of symbols would show it.
        allowed = ("stddef.h", "stdint.h", *(["immintrin.h"] if path.parent.name == "avx512" else []))
        for include in re.findall(r"#include <(.+)>", path.read_text()):
            assert include in allowed, f"{path} includes <{include}>"


# --- Private names and sizes ----------------------------------------------------------------------------------------


def is_private(name):
    return name.startswith("_") and not name.startswith("__") and name != "_"


def foreign_private_names(path):
    """Yield (line, text) for each use of a private name that another file of the package defines."""
    tree, defined, others = ast.parse(path.read_text()), set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            defined.add(node.name)
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            defined.add(node.id if isinstance(node, ast.Name) else node.attr)
        elif isinstance(node, ast.Import | ast.ImportFrom) and not is_of_package(node):
            others |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and is_of_package(node):
            yield from foreign_private_imports(path, node)
        elif isinstance(node, ast.Attribute) and is_private(node.attr) and node.attr not in defined:
            root = ast.unparse(node).partition(".")[0]
            if root not in others | {"self", "cls", "super()"}:
                yield node.lineno, ast.unparse(node)


def is_of_package(node):
    return isinstance(node, ast.ImportFrom) and node.module.partition(".")[0] == "popgrad"


def foreign_private_imports(path, node):
    """The same for ``from a import _b`` and ``from a._b import c``; a private module is for its own folder."""
    for alias in node.names:
        parent, _, last = f"{node.module}.{alias.name}".rpartition(".")
        folder = PACKAGE.parent / parent.replace(".", "/")
        module = any((folder / last).with_suffix(suffix).exists() for suffix in (".py", ".pyi"))
        if is_private(last) and not (module and path.is_relative_to(folder)):
            yield node.lineno, f"from {node.module} import {alias.name}"
    parent, _, last = node.module.rpartition(".")
    if is_private(last) and not path.is_relative_to(PACKAGE.parent / parent.replace(".", "/")):
        yield node.lineno, f"from {node.module} import ..."


@pytest.mark.parametrize(("path", "top"), list(modules()))
def test_private_names_stay_in_their_file(path, top):
    assert [f"{path.name}:{line}: {name}" for line, name in foreign_private_names(path)] == []


def statement_lines(function):
    """The number of lines with statements: without the signature, the docstring, comments and blank lines."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    lines = set()
    for statement in body:
        for node in ast.walk(statement):
            if hasattr(node, "lineno"):
                lines |= {node.lineno, node.end_lineno}
    return len(lines)


@pytest.mark.parametrize(("path", "top"), list(modules()))
def test_functions_are_short(path, top):
    functions = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.FunctionDef)]
    assert {f.name: lines for f in functions if (lines := statement_lines(f)) > 60} == {}


@pytest.mark.skipif(not SOURCE.exists(), reason="the sources are not beside the tests")
def test_files_are_short():
    root = SOURCE.parent
    paths = [p for f in ("python/popgrad", "csrc", "tests", "bench") for p in (root / f).rglob("*") if p.is_file()]
    code = [p for p in paths if p.suffix in (".py", ".pyi", ".h", ".cpp", ".cu", ".jinja")]
    lengths = {str(p.relative_to(root)): len(p.read_text().splitlines()) for p in code}
    assert {name: length for name, length in lengths.items() if length > 550} == {}


def public():
    for info in pkgutil.walk_packages(popgrad.__path__, "popgrad."):
        if info.name.rpartition(".")[2].startswith("_"):
            continue
        if info.name.startswith("popgrad.torch") and importlib.util.find_spec("torch") is None:
            continue  # an extra
        module = importlib.import_module(info.name)
        yield pytest.param(module, id=info.name)


@pytest.mark.parametrize("module", [pytest.param(popgrad, id="popgrad"), *public()])
def test_public_names_exist_and_are_documented(module):
    assert inspect.getdoc(module)
    for name in getattr(module, "__all__", ()):
        value = getattr(module, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert inspect.getdoc(value), f"{module.__name__}.{name}"


def test_import_is_light():
    import subprocess
    import sys

    code = (
        "import popgrad, sys; print([m for m in ('pandas', 'sklearn', 'torch', 'plotly', 'jax') if m in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "[]"


def test_no_kind_of_model_or_method_is_singled_out():
    """Above the models, optimizers and searches, `Model` and `Method` are all that there is."""
    kinds = {name for module in (optim, search) for name, value in vars(module).items() if inspect.isclass(value)}
    kinds = (kinds | {kind.__name__ for kind in subclasses(popgrad.Model)}) - {"Method"}
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.relative_to(PACKAGE).parts[0] in ("models", "optim", "search", "torch"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in CHECKS:
                names = {part.id for part in ast.walk(node.args[1]) if isinstance(part, ast.Name)}
                names |= {part.attr for part in ast.walk(node.args[1]) if isinstance(part, ast.Attribute)}
                found += [f"{path.name}:{node.lineno} {name}" for name in names & kinds]
    assert not found


CHECKS = ("isinstance", "issubclass")


def subclasses(kind):
    return {below for child in kind.__subclasses__() for below in (child, *subclasses(child))}
