"""What follows from the registered optimizers: registry, exports, PyTorch's classes, the README's table."""

from __future__ import annotations

import importlib.util
import inspect
import pickle
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import popgrad.torch as pt  # noqa: E402
from popgrad import optim  # noqa: E402
from popgrad.optim import NativeOptimizer, Schedule  # noqa: E402
from popgrad.settings import hyper  # noqa: E402
from popgrad.torch import additional  # noqa: E402
from popgrad.torch._generate import torch_class  # noqa: E402

SCRIPT = Path(__file__).parents[1] / "docs" / "methods.py"


@pytest.fixture(scope="module")
def script():
    if not SCRIPT.exists():
        pytest.skip("the sources are not beside the tests")
    spec = importlib.util.spec_from_file_location("methods", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_written_files_are_current(script):
    for path, text in script.files().items():
        assert path.read_text() == text, f"{path.name} is not current: run python docs/methods.py"


def test_the_table_follows_the_registry(script, monkeypatch):
    assert f"| {len(optim.REGISTRY)} | gradient methods |" in script.table()
    monkeypatch.delitem(optim.REGISTRY, "adan")
    assert f"| {len(optim.REGISTRY)} | gradient methods |" in script.table()
    assert "Adan," not in script.table().splitlines()[2]


def test_names_on_the_command_line():
    assert all(name == kind.command == name.lower() for name, kind in optim.REGISTRY.items())
    assert [optim.REGISTRY[name].label for name in ("adam", "heavy_ball", "sophia")] == [
        "Adam",
        "Heavy ball",
        "Sophia-G",
    ]
    assert list(optim.REGISTRY)[:3] == ["sgd", "momentum", "heavy_ball"]  # as in the files, simple ones first


@pytest.mark.parametrize("name", additional.__all__)
def test_classes_that_are_made(name):
    kind = getattr(pt, name)
    assert pickle.loads(pickle.dumps(kind)) is kind
    text = inspect.getdoc(kind)
    for argument in inspect.signature(kind).parameters:
        assert f"\n    {argument}: " in text
    for state in kind._state_names():
        assert f"``{state}``" in text
    with pytest.raises(TypeError, match="unexpected keyword argument 'learning_rate'"):
        kind([torch.nn.Parameter(torch.ones(3))], learning_rate=0.1)


@dataclass(frozen=True, repr=False)
class Toy(NativeOptimizer):
    """A method that nobody knows.

    Args:
        learning_rate: alpha.
        beta1, beta2: decays, in [0, 1).
        steepness: of the slope, > 0.
        epsilon: >= 0,
            on two lines.
        centered: whether it is.
        hidden: not for PyTorch.
    """

    learning_rate: float | Schedule = hyper(0.25, above=0, schedule=True)
    beta1: float = hyper(0.5, at_least=0, below=1)
    beta2: float = hyper(0.75, at_least=0, below=1)
    steepness: float = hyper(3.0, above=0)
    epsilon: float = hyper(1e-3, at_least=0)
    centered: bool = False
    _: KW_ONLY
    hidden: float = hyper(0.0, at_least=0)
    rule = "Momentum"
    state_names = ("m",)

    def _fields(self, t: int, now: Mapping[str, float], numbers: dict[str, float]) -> dict[str, float]:
        return {"rate": now["learning_rate"], "beta": self.beta1, "gain": self.steepness}


def test_a_new_class_has_the_usual_names_in_pytorch():
    kind = torch_class(Toy, __name__)
    signature = str(inspect.signature(kind)).replace("'", "")
    assert signature == (
        "(params: Any, lr: Number = 0.25, betas: Pair = (0.5, 0.75), steepness: float = 3.0, eps: float = 0.001, "
        "weight_decay: float = 0, centered: bool = False, *, maximize: bool = False) -> None"
    )
    text = inspect.getdoc(kind)
    assert text.startswith("A method that nobody knows.")
    assert "\n    betas: beta1, beta2: decays, in [0, 1).\n" in text
    assert "\n    eps: >= 0, on two lines.\n" in text
    p = torch.nn.Parameter(torch.ones(2))
    optimizer = kind([p], 0.5, (0.25, 0.5), steepness=2.0)
    for _ in range(2):
        p.grad = torch.ones(2)
        optimizer.step()
    # The velocity is 2, then 0.25 times 2, and 2.
    torch.testing.assert_close(p.detach(), torch.full((2,), 1 - 0.5 * 2 - 0.5 * 2.5))
    assert list(optimizer.state[p]) == ["step", "exp_avg"]
    with pytest.raises(ValueError, match=r"\[Toy\] betas: beta2 must be in \[0, 1\), got 1.0"):
        kind([p], betas=(0.5, 1.0))
