"""The classes of popgrad.torch with arguments, and what their tests share."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")


import popgrad.torch as pt  # noqa: E402
from popgrad import optim  # noqa: E402
from popgrad.torch import additional  # noqa: E402

# Name in torch.optim and popgrad.torch, arguments.
THEIRS = [
    ("SGD", {"lr": 0.1, "weight_decay": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.8, "weight_decay": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.8, "dampening": 0.3, "weight_decay": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.8, "nesterov": True, "weight_decay": 0.1}),
    ("Adam", {"lr": 0.01, "weight_decay": 0.1}),
    ("Adam", {"lr": 0.01, "weight_decay": 0.1, "amsgrad": True, "betas": (0.8, 0.9)}),
    ("Adam", {"lr": 0.01, "weight_decay": 0.1, "decoupled_weight_decay": True}),
    ("AdamW", {"lr": 0.01, "weight_decay": 0.3, "eps": 1e-4}),
    ("AdamW", {"lr": 0.01, "weight_decay": 0.3, "amsgrad": True}),
    ("Adamax", {"lr": 0.01, "weight_decay": 0.1}),
    ("NAdam", {"lr": 0.01, "weight_decay": 0.1}),
    ("NAdam", {"lr": 0.01, "weight_decay": 0.1, "decoupled_weight_decay": True, "momentum_decay": 0.1}),
    ("RAdam", {"lr": 0.01, "weight_decay": 0.1, "betas": (0.9, 0.99)}),
    ("RAdam", {"lr": 0.01, "weight_decay": 0.1, "decoupled_weight_decay": True}),
    ("Adagrad", {"lr": 0.1, "weight_decay": 0.1}),
    ("Adagrad", {"lr": 0.1, "weight_decay": 0.1, "lr_decay": 0.1, "initial_accumulator_value": 0.5}),
    ("Adadelta", {"lr": 0.5, "weight_decay": 0.1}),
    ("RMSprop", {"lr": 0.01, "weight_decay": 0.1}),
    ("RMSprop", {"lr": 0.01, "weight_decay": 0.1, "momentum": 0.8}),
    ("RMSprop", {"lr": 0.01, "weight_decay": 0.1, "momentum": 0.8, "centered": True, "alpha": 0.9}),
    ("Rprop", {"lr": 0.01, "etas": (0.4, 1.3)}),
    ("ASGD", {"lr": 0.1, "weight_decay": 0.1, "lambd": 0.01, "t0": 3}),
]
# Name in popgrad.torch, arguments, the same in popgrad.optim.
OURS = [
    ("Lion", {"lr": 0.01, "betas": (0.8, 0.9), "weight_decay": 0.3}, optim.Lion(0.01, 0.8, 0.9, weight_decay=0.3)),
    (
        "AdaBelief",
        {"lr": 0.01, "eps": 1e-8, "weight_decay": 0.1},
        optim.AdaBelief(0.01, epsilon=1e-8, weight_decay=0.1),
    ),
    ("Yogi", {"lr": 0.01, "weight_decay": 0.1}, optim.Yogi(0.01, weight_decay=0.1)),
    (
        "Adan",
        {"lr": 0.01, "betas": (0.9, 0.8, 0.7), "weight_decay": 0.3},
        optim.Adan(0.01, 0.9, 0.8, 0.7, weight_decay=0.3),
    ),
    (
        "AdEMAMix",
        {"lr": 0.01, "betas": (0.9, 0.99, 0.95), "alpha": 3.0, "weight_decay": 0.3},
        optim.AdEMAMix(0.01, 0.9, 0.99, 0.95, 3.0, weight_decay=0.3),
    ),
    ("ADOPT", {"lr": 0.01, "betas": (0.8, 0.9), "weight_decay": 0.3}, optim.ADOPT(0.01, 0.8, 0.9, weight_decay=0.3)),
    ("LARS", {"lr": 10.0, "weight_decay": 0.1}, optim.LARS(10.0, weight_decay=0.1)),
    ("LAMB", {"lr": 0.01, "weight_decay": 0.1}, optim.LAMB(0.01, weight_decay=0.1)),
    ("NovoGrad", {"lr": 0.01, "weight_decay": 0.1}, optim.NovoGrad(0.01, weight_decay=0.1)),
    ("Prodigy", {"d0": 1e-3, "weight_decay": 0.1}, optim.Prodigy(start=1e-3, bias_correction=False, weight_decay=0.1)),
    ("SophiaG", {"lr": 0.01, "weight_decay": 0.1}, optim.SophiaG(0.01, weight_decay=0.1)),
    ("ScheduleFreeSGD", {"lr": 0.1, "weight_decay": 0.1}, optim.ScheduleFreeSGD(0.1, weight_decay=0.1)),
    ("ScheduleFreeAdamW", {"lr": 0.01, "weight_decay": 0.1}, optim.ScheduleFreeAdamW(0.01, weight_decay=0.1)),
    ("SignSGD", {"lr": 0.01, "weight_decay": 0.1}, optim.SignSGD(0.01, weight_decay=0.1)),
    ("Signum", {"lr": 0.01, "momentum": 0.8, "weight_decay": 0.1}, optim.Signum(0.01, 0.8, weight_decay=0.1)),
]
# Those that are made from their class in popgrad.optim need no row of their own.
OURS += [
    (name, {"lr": 0.01, "weight_decay": 0.1}, getattr(optim, name)(0.01, weight_decay=0.1))
    for name in additional.__all__
    if name not in {name for name, *_ in OURS}
]
IN_TORCH = pytest.mark.parametrize(
    ("name", "arguments"), THEIRS, ids=lambda v: v if isinstance(v, str) else "-".join(v) if len(v) > 2 else "plain"
)
EVERY = pytest.mark.parametrize(
    ("name", "arguments"),
    [(name, arguments) for name, arguments, *_ in (*THEIRS, *OURS)],
    ids=lambda v: v if isinstance(v, str) else "-".join(v),
)
DTYPES = pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 1e-6)])
SHAPES = [(5, 7), (40,), (), (0,), (3, 2, 2, 2), (1, 1), (2000,)]


@pytest.fixture(autouse=True)
def _scalars_are_double():
    torch.set_num_threads(1)  # the tests share their processors
    # NAdam and ASGD of PyTorch carry numbers of the default type: in float32 they would lose nine digits.
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def parameters(dtype="float64", shapes=SHAPES, seed=0):
    rng = np.random.default_rng(seed)
    return [torch.nn.Parameter(torch.tensor(rng.normal(size=shape), dtype=getattr(torch, dtype))) for shape in shapes]


def drive(steps, *optimizers, seed=1, without=lambda t, k: False):
    """The same gradients for the parameters of all optimizers."""
    rng = np.random.default_rng(seed)
    for t in range(steps):
        lists = [[p for group in optimizer.param_groups for p in group["params"]] for optimizer in optimizers]
        for k, alike in enumerate(zip(*lists, strict=True)):
            gradient = torch.tensor(rng.normal(size=alike[0].shape))
            for p in alike:
                p.grad = None if without(t, k) else gradient.to(p.dtype).clone()
        for optimizer in optimizers:
            optimizer.step()


def assert_equal(ours, theirs, tolerance=1e-12):
    scale = max([p.abs().max().item() for p in theirs if p.numel()])
    for p, q in zip(ours, theirs, strict=True):
        assert p.dtype == q.dtype
        assert p.numel() == 0 or (p - q).abs().max() <= tolerance * scale


def assert_same_state(ours, theirs):
    a, b = ours.state_dict(), theirs.state_dict()
    assert a["state"].keys() == b["state"].keys()
    for k, state in b["state"].items():
        assert a["state"][k].keys() == state.keys()
        for name, value in state.items():
            assert a["state"][k][name].dtype == value.dtype
            torch.testing.assert_close(a["state"][k][name], value, rtol=1e-10, atol=1e-13)


def pair(name, arguments, dtype="float64", shapes=SHAPES):
    """Ours and PyTorch's, and their parameters."""
    a, b = parameters(dtype, shapes), parameters(dtype, shapes)
    return getattr(pt, name)(a, **arguments), getattr(torch.optim, name)(b, **arguments), a, b
