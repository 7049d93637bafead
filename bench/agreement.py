"""Difference of every optimizer from its formula and from other libraries after the same steps.

python bench/agreement.py [--csv FILE]

The table has a row for each pair of an optimizer with options and a reference. References are the formula of the paper
in float64, PyTorch, optax and Keras (``pip install torch optax keras jax``). Errors are max |w - w'| / max |w'|.
Gradients have magnitudes from 1e-8 to 1. The cases are those of the tests: tests/cases.py and tests/variants.py.
"""

from __future__ import annotations

import argparse
import csv
import sys
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from cases import OPTIMIZERS
from references import INSTALLED, STEPS, formula_gap, gap
from variants import PRESETS, VARIANTS

COLUMNS = ("optimizer", "reference", "steps", "float64", "float32")


def rows():
    for case in OPTIMIZERS + VARIANTS + PRESETS:
        errors = {"formula": [formula_gap(case, dtype) for dtype in ("float64", "float32")]}
        for library, installed in INSTALLED.items():
            if installed and (reference := getattr(case, library)):
                errors[library] = [gap(case.optimizer, library, reference, dtype) for dtype in ("float64", "float32")]
        for name, (double, single) in errors.items():
            yield case.label, name, STEPS, double, single


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--csv", type=Path, help="also write the table to this file")
    arguments = parser.parse_args()
    table = list(rows())
    width = max(len(label) for label, *_ in table)
    print(f"{COLUMNS[0]:{width}}  {COLUMNS[1]:9}  {COLUMNS[2]:>5}  {COLUMNS[3]:>8}  {COLUMNS[4]:>8}")
    for label, name, steps, double, single in table:
        print(f"{label:{width}}  {name:9}  {steps:5}  {double:8.1e}  {single:8.1e}")
    print()
    for reference in ("formula", *INSTALLED):
        errors = [row[3:] for row in table if row[1] == reference]
        if errors:
            worst = [max(column) for column in zip(*errors, strict=True)]
            name = "formula" if reference == "formula" else f"{reference} {version(reference)}"
            print(f"{name}: {len(errors)} rows, worst {worst[0]:.1e} in float64, {worst[1]:.1e} in float32")
    if missing := [name for name, installed in INSTALLED.items() if not installed]:
        print(f"Not installed, so without rows: {', '.join(missing)}")
    if arguments.csv:
        with arguments.csv.open("w", newline="") as file:
            csv.writer(file).writerows([COLUMNS, *table])


if __name__ == "__main__":
    main()
