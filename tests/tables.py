"""A table of mixed types, and ways to write it to a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd


def table(rows: int = 60, seed: int = 0) -> pd.DataFrame:
    """Numbers, booleans, text, a constant, missing values, three classes."""
    rng = np.random.default_rng(seed)
    age = rng.normal(50, 9, rows)
    age[::7] = np.nan
    color = rng.choice(["red", "green", "blue"], rows).astype(object)
    color[::9] = np.nan
    return pd.DataFrame(
        {
            "age": age,
            "member": rng.random(rows) < 0.5,
            "color": color,
            "constant": np.full(rows, 0.1),
            "class": np.resize(["b", "a", "c"], rows),
        }
    )


def write(folder: Path, text: str, name: str = "t.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path
