"""What popgrad.torch refuses, and that nothing is changed then."""

from __future__ import annotations

import copy

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")


import popgrad as pg  # noqa: E402
import popgrad.torch as pt  # noqa: E402
from torch_cases import (  # noqa: E402
    _scalars_are_double,  # noqa: F401
    assert_equal,
    drive,
    parameters,
)


def sparse(p):
    p.grad = torch.eye(5, 7).to_sparse()


def complex_(p):
    p.data = torch.ones(5, 7, dtype=torch.complex128)
    p.grad = torch.ones_like(p)


def half(p):
    p.data = p.data.half()
    p.grad = torch.ones_like(p)


def expanded(p):
    p.data = torch.ones(1, 7).expand(5, 7)
    p.grad = torch.ones(5, 7)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (sparse, r"gradients must be dense, got torch.sparse_coo"),
        (complex_, "must be float32 or float64, got torch.complex128"),
        (half, "must be float32 or float64, got torch.float16"),
        (expanded, "must not share memory"),
    ],
)
@pytest.mark.parametrize("begun", [False, True])
def test_refused_before_anything_changed(change, message, begun):
    params = parameters()
    optimizer = pt.AdamW([{"params": params[1:]}, {"params": params[:1], "lr": 0.1}])
    drive(2 * begun, optimizer)
    for p in params:
        p.grad = torch.ones_like(p)
    params[0].grad = None
    change(params[0])
    before = [p.detach().clone() for p in params[1:]]
    states = copy.deepcopy(optimizer.state_dict()["state"])
    with pytest.raises(pg.InputError, match=r"\[AdamW\] .*" + message):
        optimizer.step()
    for p, q in zip(params[1:], before, strict=True):
        assert torch.equal(p, q)
    assert str(states) == str(optimizer.state_dict()["state"])


def test_refuses_other_devices():
    optimizer = pt.Adam(
        [here := torch.nn.Parameter(torch.ones(3)), there := torch.nn.Parameter(torch.ones(3, device="meta"))]
    )
    here.grad, there.grad = torch.ones(3), torch.ones(3, device="meta")
    with pytest.raises(pg.InputError, match=r"\[Adam\] parameters must be on the CPU, got meta: move them"):
        optimizer.step()
    assert torch.equal(here, torch.ones(3))


def test_refuses_states_that_do_not_fit():
    optimizer = pt.Adam(params := parameters())
    drive(1, optimizer)
    optimizer.state[params[0]]["exp_avg"] = torch.zeros(3)
    with pytest.raises(pg.InputError, match=r"\[Adam\] the state exp_avg must have shape \(5, 7\), got \(3,\)"):
        drive(1, optimizer)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("Adam", {"lr": float("nan")}, "lr must be"),
        ("Adam", {"betas": (0.9, 1.0)}, "betas: beta2 must be in"),
        ("Adam", {"betas": (0.9,)}, "betas must be 2 numbers"),
        ("Adagrad", {"eps": -1}, "eps must be"),
        ("AdamW", {"weight_decay": -1.0}, "weight_decay must be a finite number >= 0"),
        ("AdamW", {"capturable": True}, "capturable must be False"),
        ("SGD", {"differentiable": True}, "differentiable must be False"),
        ("SGD", {"momentum": 1.5}, "momentum must be in"),
        ("SGD", {"nesterov": True}, "nesterov requires momentum > 0"),
        ("RMSprop", {"alpha": 1.5}, "alpha must be in"),
        ("Rprop", {"etas": (0.5, 0.9)}, "etas: grow must be"),
        ("ASGD", {"lambd": -1}, "lambd must be a finite number >= 0"),
        ("AdEMAMix", {"alpha": 0.0}, "alpha must be"),
    ],
)
def test_refuses(name, arguments, message):
    with pytest.raises(pg.InputError, match=rf"\[{name}\] {message}"):
        getattr(pt, name)(parameters(), **arguments)
    optimizer = getattr(pt, name)(parameters()[:1])
    with pytest.raises(pg.InputError, match=rf"\[{name}\] {message}"):
        optimizer.add_param_group({"params": parameters()[1:], **arguments})
    assert len(optimizer.param_groups) == 1
    optimizer.param_groups[0].update(arguments)
    if "capturable" not in arguments and "differentiable" not in arguments:
        with pytest.raises(pg.InputError, match=rf"\[{name}\] {message}"):
            drive(1, optimizer)


def test_choices_of_pytorchs_implementation_have_no_effect():
    results = []
    for choice in ({}, {"foreach": True}, {"fused": True}):
        optimizer = pt.Adam(params := parameters(), **choice)
        drive(3, optimizer)
        results.append(params)
    for params in results[1:]:
        assert_equal(params, results[0], 0)
