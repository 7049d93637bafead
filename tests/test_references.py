"""Every optimizer against those of PyTorch, optax and Keras: the same numbers from the same gradients."""

from __future__ import annotations

import pytest

from cases import OPTIMIZERS, VARIANTS
from references import INSTALLED, gap

TOLERANCES = {"float64": 1e-12, "float32": 1e-6}
PAIRS = [
    pytest.param(case.optimizer, library, reference, id=f"{library}-{case.label}")
    for library in INSTALLED
    for case in OPTIMIZERS + VARIANTS
    if (reference := getattr(case, library))
]


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize(("optimizer", "library", "reference"), PAIRS)
def test_same_as(optimizer, library, reference, dtype):
    if not INSTALLED[library]:
        pytest.skip(f"{library} is not installed")
    assert gap(optimizer, library, reference, dtype) <= TOLERANCES[dtype]
