"""Write what follows from the registered classes: the README's table of methods, and stubs for type checkers.

python docs/methods.py [--check]

README.md has the table between two comments. ``popgrad.search`` finds its classes when it is imported, and
``popgrad.torch`` makes the classes of methods that PyTorch does not have. The stubs search/__init__.pyi and
torch/additional.pyi tell type checkers and editors their names and signatures. With --check nothing is written, and the
exit status is 1 if a file is not current; tests/test_methods.py does the same.
"""

from __future__ import annotations

import argparse
import inspect
import re
import sys
from pathlib import Path

import popgrad.torch
from popgrad import optim, search
from popgrad.compare.entrants import ENTRANTS
from popgrad.torch import additional

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- methods: python docs/methods.py writes this table -->", "<!-- end of methods -->"


def main() -> int:
    """Write or check the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing, and fail if a file is not current")
    check = parser.parse_args().check
    stale = [path for path, text in files().items() if not path.exists() or path.read_text() != text]
    for path in stale:
        print(f"{path.relative_to(ROOT)} is not current" if check else f"wrote {path.relative_to(ROOT)}")
        if not check:
            path.write_text(files()[path])
    return int(check and bool(stale))


def files() -> dict[Path, str]:
    """What each file should hold."""
    readme = ROOT / "README.md"
    package = ROOT / "python/popgrad"
    stubs = {package / "torch/additional.pyi": torch_stub(), package / "search/__init__.pyi": search_stub()}
    return {readme: with_table(readme.read_text()), **stubs}


def with_table(text: str) -> str:
    """The README with the current table and count."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    assert after, "README.md has no place for the table of methods"
    text = f"{before}{BEGIN}\n{table()}\n{END}{after}"
    return re.sub(r"races \d+ optimizers", f"races {len(ENTRANTS)} optimizers", text)


def table() -> str:
    """All methods, counted."""
    wrappers = optim.wrappers.__all__ + optim.rates.__all__
    in_torch = [name for name in popgrad.torch.__all__ if inspect.isclass(getattr(popgrad.torch, name))]
    in_torch.remove("Optimizer")
    rows = [
        ("gradient methods", "`pg.optim`", [kind.label for kind in optim.REGISTRY.values()]),
        ("around any of them", "`pg.optim`", sorted(wrappers)),
        ("searches", "`pg.search`", [ENTRANTS[name].label for name in search.REGISTRY]),
        ("optimizers for PyTorch", "`popgrad.torch`", sorted(in_torch, key=str.lower)),
    ]
    lines = ["| | | | |", "|---|---|---|---|"]
    lines += [f"| {len(names)} | {what} | {where} | {', '.join(names)} |" for what, where, names in rows]
    return "\n".join(lines)


def search_stub() -> str:
    """The names that `popgrad.search` exports."""
    kinds = [*search.REGISTRY.values(), search.Run, search.Search, search.Result, search.minimize]
    lines = {f"from {kind.__module__} import {kind.__name__} as {kind.__name__}" for kind in kinds}
    return "\n".join(["# Written by docs/methods.py.", *sorted(lines), "", "REGISTRY: dict[str, type[Search]]"]) + "\n"


def torch_stub() -> str:
    """Signatures of the classes that `popgrad.torch` makes."""
    kinds = {name: getattr(additional, name) for name in additional.__all__}
    signatures = {name: inspect.signature(kind) for name, kind in kinds.items()}
    names = ["Number", "Pair", "Triple"]
    used = [name for name in names if any(f"'{name}'" in str(s) for s in signatures.values())]
    special = sorted({kind.__base__.__name__ for kind in kinds.values()} - {"Optimizer"})
    lines = [
        "# Written by docs/methods.py.",
        "from typing import Any",
        "",
        f"from popgrad.torch._base import {', '.join(sorted([*used, 'Optimizer']))}",
        f"from popgrad.torch._special import {', '.join(special)}",
        "",
        "__all__ = [",
        *[f'    "{name}",' for name in sorted(kinds, key=lambda name: (not name.isupper(), name))],
        "]",
    ]
    for name, kind in kinds.items():
        lines += ["", f"class {name}({kind.__base__.__name__}):", "    def __init__(", "        self,"]
        for p in signatures[name].parameters.values():
            lines += ["        *,"] if p.kind is p.KEYWORD_ONLY else []
            default = "" if p.default is p.empty else f" = {p.default!r}"
            lines += [f"        {p.name}: {p.annotation}{default},"]
        lines += ["    ) -> None: ..."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
