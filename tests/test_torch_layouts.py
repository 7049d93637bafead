"""Tensors of popgrad.torch that lie in memory in other ways than their gradients and states."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")


import popgrad.torch as pt  # noqa: E402
from popgrad.torch import _tensors  # noqa: E402
from torch_cases import (  # noqa: E402
    SHAPES,
    _scalars_are_double,  # noqa: F401
    assert_equal,
    assert_same_state,
    drive,
    pair,
    parameters,
)


def laid_out():
    """Parameters that lie in memory in all sorts of ways, and a gradient for each that lies in another one."""
    rng = np.random.default_rng(3)

    def normal(*shape):
        return torch.tensor(rng.normal(size=shape))

    image = torch.channels_last
    tensors = [
        (normal(6, 4).t(), normal(4, 6)),
        (normal(6, 4).t(), normal(6, 4).t()),
        (normal(6, 8)[:, ::2], normal(6, 4)),
        (
            normal(4, 6, 8)[1:3, ::2, ::4],
            normal(3, 2, 2).transpose(0, 2).transpose(1, 2),
        ),
        (normal(5, 3), normal(3, 5).t()),
        (normal(5, 3), normal(1, 3).expand(5, 3)),
        (normal(7), normal(1).expand(7)),
        (normal(7), normal(14)[::2]),
        (normal(2, 3, 4, 4).to(memory_format=image), normal(2, 3, 4, 4).to(memory_format=image)),
        (normal(2, 3, 4, 4).to(memory_format=image), normal(2, 3, 4, 4)),
        (normal(2, 3, 4, 4), normal(2, 3, 4, 4).to(memory_format=image)),
        (normal(3, 1, 2), normal(3, 1, 2)),
        (normal(9), torch.complex(normal(9), normal(9)).conj().imag),
        (normal(1), torch.complex(normal(1), normal(1)).conj().imag),
        (torch.complex(normal(1), normal(1)).conj().imag, normal(1)),
    ]
    return [torch.nn.Parameter(w) for w, _ in tensors], [g for _, g in tensors]


@pytest.mark.parametrize("name", ["Adam", "SGD", "Rprop"])
@pytest.mark.parametrize("natively", [True, False])
def test_layouts(name, natively, monkeypatch):
    if not natively:
        monkeypatch.setattr(_tensors, "gather", _tensors.gather_slowly)
    ours, gradients = laid_out()
    theirs, _ = laid_out()
    strides = [p.stride() for p in ours]
    arguments = {"momentum": 0.9} if name == "SGD" else {}
    for k in (*range(len(ours)), slice(None)):  # each alone, then all at once
        a, b = (params[k] if isinstance(k, slice) else [params[k]] for params in (ours, theirs))
        optimizers = [getattr(module, name)(params, **arguments) for module, params in ((pt, a), (torch.optim, b))]
        for t in range(4):
            for p, q, gradient in zip(ours, theirs, gradients, strict=True):
                p.grad = q.grad = gradient if t != 2 else (gradient * 0.5).contiguous()
            for optimizer in optimizers:
                optimizer.step()
        assert_equal(a, b)
    assert strides == [p.stride() for p in ours]


@pytest.mark.parametrize("natively", [True, False])
def test_dense_parameters_are_not_copied(natively, monkeypatch):
    if not natively:
        monkeypatch.setattr(_tensors, "gather", _tensors.gather_slowly)
    for params in (parameters(), [torch.nn.Parameter(torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last))]):
        optimizer = pt.Adam(params)
        for p in params:
            p.grad = torch.ones_like(p)
        optimizer.step()
        with monkeypatch.context() as patch:
            patch.setattr(_tensors.Copies, "param", None)
            optimizer.step()
        assert optimizer.state[params[0]]["step"] == 2


@pytest.mark.parametrize("natively", [True, False])
def test_tensors_that_are_replaced(natively, monkeypatch):
    if not natively:
        monkeypatch.setattr(_tensors, "gather", _tensors.gather_slowly)
    ours, theirs, a, b = pair("Adam", {"lr": 0.1})
    drive(3, ours, theirs)
    for params in (a, b):
        params[1].data = params[1].data * 2  # elsewhere
        params[4].data = params[4].data.to(memory_format=torch.channels_last)
    drive(3, ours, theirs)
    for optimizer, params in ((ours, a), (theirs, b)):
        optimizer.state[params[0]]["exp_avg"] = torch.ones_like(params[0])
        optimizer.state[params[1]]["exp_avg_sq"].mul_(3)
        optimizer.state[params[2]]["step"].zero_()
        optimizer.state.pop(params[6])
    drive(3, ours, theirs)
    assert_equal(a, b)
    assert_same_state(ours, theirs)
    for params in (a, b):  # the same place, other layout: (5, 7) becomes (7, 5)
        params[0].data = params[0].data.t()
    for optimizer, params in ((ours, a), (theirs, b)):
        params[0].grad = None
        for p in params:
            p.grad = torch.ones_like(p)
        optimizer.state.clear()
        optimizer.step()
    assert_equal(a, b)


def test_a_model_that_changes_its_type():
    params = parameters("float32")
    optimizer = pt.Adam(params, lr=0.1)
    drive(2, optimizer)
    for p in params:
        p.data = p.data.double()
    drive(2, optimizer)
    assert optimizer.state[params[0]]["exp_avg"].dtype == torch.float64
    assert optimizer.state[params[0]]["step"] == 4


def test_types_may_be_mixed():
    both = [[*parameters("float32"), *parameters("float64")] for _ in range(2)]
    optimizers = [module.Adam(params, lr=0.01) for module, params in zip((pt, torch.optim), both, strict=True)]
    drive(10, *optimizers)
    single = len(SHAPES)
    assert_equal(both[0][:single], both[1][:single], 1e-6)
    assert_equal(both[0][single:], both[1][single:], 1e-12)


def test_a_minus_sign_that_a_backward_pass_leaves():
    results = []
    for module in (pt, torch.optim):
        w = torch.nn.Parameter(torch.ones(1))
        optimizer = module.SGD([w], lr=0.1)
        for factor in (1 + 2j, 3 - 1j, 2 + 2j):
            optimizer.zero_grad()
            (torch.complex(torch.ones(1), w).conj() * factor).abs().sum().backward()
            assert w.grad.is_neg()
            optimizer.step()
            w.grad = torch.ones(1)
            optimizer.step()
        results.append(w.item())
    assert results[0] == pytest.approx(results[1], rel=1e-15)
