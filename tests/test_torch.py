"""Every class of popgrad.torch against torch.optim or popgrad.optim, and what users of PyTorch do with an optimizer."""

from __future__ import annotations

import copy
import inspect
import io
import pickle

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")


import popgrad as pg  # noqa: E402
import popgrad.torch as pt  # noqa: E402
from popgrad import optim  # noqa: E402
from torch_cases import (  # noqa: E402
    DTYPES,
    EVERY,
    IN_TORCH,
    OURS,
    THEIRS,
    _scalars_are_double,  # noqa: F401
    assert_equal,
    assert_same_state,
    drive,
    pair,
    parameters,
)


def test_every_class_is_tested():
    classes = {n for n in pt.__all__ if inspect.isclass(getattr(pt, n))} - {"Optimizer"}
    assert classes == {name for name, *_ in (*THEIRS, *OURS)}
    assert issubclass(pt.Adam, torch.optim.Optimizer)


@pytest.mark.parametrize("name", sorted({name for name, _ in THEIRS}))
def test_signature_is_pytorchs(name):
    ours, theirs = (inspect.signature(getattr(module, name)) for module in (pt, torch.optim))
    assert [(p.name, p.kind, p.default) for p in ours.parameters.values()] == [
        (p.name, p.kind, p.default) for p in theirs.parameters.values()
    ]
    a, b = (getattr(module, name)(parameters()) for module in (pt, torch.optim))
    assert a.defaults == b.defaults
    assert a.param_groups[0].keys() == b.param_groups[0].keys()
    for argument in ours.parameters:
        assert argument in inspect.getdoc(getattr(pt, name))


@IN_TORCH
@DTYPES
def test_equals_torch(name, arguments, dtype, tolerance):
    ours, theirs, a, b = pair(name, arguments, dtype)
    drive(20, ours, theirs)
    assert_equal(a, b, tolerance)
    if dtype == "float64":
        assert_same_state(ours, theirs)


@pytest.mark.parametrize(("name", "arguments", "same"), OURS, ids=[name for name, *_ in OURS])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_equals_popgrad(name, arguments, same, dtype):
    params = parameters(dtype)
    flat = torch.cat([p.detach().flatten() for p in params]).numpy().copy()
    layout = pg.Layout({str(k): tuple(p.shape) for k, p in enumerate(params)})
    state, optimizer = same.init(flat, layout), getattr(pt, name)(params, **arguments)
    rng = np.random.default_rng(2)
    for _ in range(20):
        gradient = rng.normal(size=len(flat)).astype(dtype)
        same.step(flat, gradient, state)
        parts = torch.from_numpy(gradient).split([p.numel() for p in params])
        for p, part in zip(params, parts, strict=True):
            p.grad = part.reshape(p.shape)
        optimizer.step()
    np.testing.assert_array_equal(torch.cat([p.detach().flatten() for p in params]).numpy(), flat)
    for argument in inspect.signature(getattr(pt, name)).parameters:
        assert argument in inspect.getdoc(getattr(pt, name))


@pytest.mark.parametrize("name", ["ScheduleFreeSGD", "ScheduleFreeAdamW"])
def test_schedule_free_shows_the_average_where_it_is_asked_for(name):
    params = parameters()
    optimizer = getattr(pt, name)(params, lr=0.01)
    optimizer.eval()  # nothing has been averaged yet
    optimizer.train()
    points = []
    for t in range(5):
        drive(1, optimizer, seed=t)
        points.append(optimizer.state[params[0]]["z"].clone())
    y = [p.detach().clone() for p in params]
    optimizer.eval()
    optimizer.eval()
    torch.testing.assert_close(params[0].detach(), torch.stack(points).mean(0))
    with pytest.raises(pg.InputError, match=r"call optimizer.train\(\)"):
        drive(1, optimizer)
    optimizer.train()
    assert_equal(params, y)
    drive(1, optimizer)


def test_sophia_observes():
    params = parameters(shapes=[(3,), (5, 7)])
    optimizer = pt.SophiaG(params, lr=0.01)
    same, flat = optim.SophiaG(0.01), torch.cat([p.detach().flatten() for p in params]).numpy().copy()
    state = same.init(flat)
    rng = np.random.default_rng(0)
    for t in range(6):
        gradient = rng.normal(size=38)
        for p, part in zip(params, torch.from_numpy(gradient).split([3, 35]), strict=True):
            p.grad = part.reshape(p.shape)
        if t % 2 == 0:
            optimizer.observe(16)
            same.observe(flat, gradient, state, 16)
        else:
            optimizer.step()
            same.step(flat, gradient, state)
    np.testing.assert_array_equal(torch.cat([p.detach().flatten() for p in params]).numpy(), flat)
    with pytest.raises(pg.InputError, match="samples"):
        optimizer.observe(0)


@IN_TORCH
def test_maximize(name, arguments):
    ours, theirs, a, b = pair(name, {**arguments, "maximize": True})
    drive(10, ours, theirs)
    assert_equal(a, b)


@IN_TORCH
def test_groups_and_gradients_that_are_missing(name, arguments):
    results = []
    for module in (pt, torch.optim):
        params = parameters()
        groups = [{"params": params[:2], "lr": 0.03}, {"params": params[2:4]}]
        if name != "Rprop":
            groups[1]["weight_decay"] = 0.01
        optimizer = getattr(module, name)(groups, **arguments)
        drive(4, optimizer, without=lambda t, k: (t + k) % 3 == 0)
        if name != "Adagrad":  # PyTorch's makes no state for groups that come later
            optimizer.add_param_group({"params": params[4:], "lr": 0.02})
        drive(8, optimizer, without=lambda t, k: (t * k) % 4 == 1)
        results.append((optimizer, params))
    assert_equal(results[0][1], results[1][1])
    assert_same_state(results[0][0], results[1][0])


def test_a_parameter_without_gradient_stays():
    params = parameters()
    optimizer = pt.AdamW(params, lr=0.1)
    before = params[1].detach().clone()
    drive(3, optimizer, without=lambda t, k: k == 1)
    assert torch.equal(params[1], before)
    assert params[1] not in optimizer.state
    assert optimizer.state[params[0]]["step"] == 3
    drive(2, optimizer)
    assert optimizer.state[params[1]]["step"] == 2
    assert optimizer.state[params[0]]["step"] == 5
    for p in params:
        p.grad = None
    optimizer.step()
    assert optimizer.state[params[0]]["step"] == 5


@IN_TORCH
def test_checkpoints_go_both_ways(name, arguments):
    ours, theirs, a, b = pair(name, arguments)
    drive(5, ours, theirs, without=lambda t, k: t == 2 and k == 1)
    changed, back = getattr(pt, name)(b2 := [torch.nn.Parameter(p.detach().clone()) for p in b]), None
    file = io.BytesIO()
    torch.save(theirs.state_dict(), file)
    changed.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    back = getattr(torch.optim, name)(a2 := [torch.nn.Parameter(p.detach().clone()) for p in a])
    file = io.BytesIO()
    torch.save(ours.state_dict(), file)
    back.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    drive(20, ours, theirs, changed, back, seed=5)
    assert_equal(a, b)
    assert_equal(b2, b)
    assert_equal(a2, b)
    assert_same_state(changed, theirs)
    assert_same_state(ours, back)


@EVERY
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_resumed_equals_uninterrupted(name, arguments, dtype):
    torch.set_default_dtype(torch.float32)
    whole, optimizer = (getattr(pt, name)(parameters(dtype), **arguments) for _ in range(2))
    drive(4, whole, optimizer)
    loaded = getattr(pt, name)(copy.deepcopy(optimizer.param_groups[0]["params"]))
    loaded.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    others = (optimizer, loaded, pickle.loads(pickle.dumps(optimizer)), copy.deepcopy(optimizer))
    drive(20, whole, *others, seed=2)

    def states(optimizer):
        found = optimizer.state_dict()["state"].values()
        return [{k: v.tolist() if torch.is_tensor(v) else v for k, v in state.items()} for state in found]

    for other in others:
        for p, q in zip(whole.param_groups[0]["params"], other.param_groups[0]["params"], strict=True):
            assert torch.equal(p, q)
        assert states(other) == states(whole)


def test_states_belong_to_one_parameter_each():
    optimizer = pt.NAdam(parameters())
    drive(2, optimizer)
    values = [v for state in optimizer.state_dict()["state"].values() for v in state.values() if v.numel()]
    assert len({v.data_ptr() for v in values}) == len(values)


SCHEDULERS = {
    "step": lambda s, o: s.StepLR(o, 2, 0.5),
    "exponential": lambda s, o: s.ExponentialLR(o, 0.9),
    "cosine, to zero": lambda s, o: s.CosineAnnealingLR(o, 10),
    "warm up, from zero": lambda s, o: s.LambdaLR(o, lambda t: min(1.0, t / 5)),
    "one cycle, with momentum": lambda s, o: s.OneCycleLR(o, 0.1, total_steps=20),
    "cyclic": lambda s, o: s.CyclicLR(o, 0.01, 0.1, step_size_up=3),
    "sequence": lambda s, o: s.SequentialLR(o, [s.ConstantLR(o, 0.1), s.PolynomialLR(o, 8)], [4]),
}


@pytest.mark.parametrize("make", SCHEDULERS.values(), ids=SCHEDULERS)
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("Adam", {"weight_decay": 0.1}),
        ("AdamW", {"weight_decay": 0.1}),
        ("SGD", {"momentum": 0.9, "lr": 0.1}),
        ("ASGD", {"lambd": 0.1, "t0": 2}),
        ("RMSprop", {"momentum": 0.9}),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
@pytest.mark.filterwarnings("ignore:The epoch parameter")
def test_schedulers(name, arguments, make, request):
    if name == "ASGD" and "cycl" in request.node.name:
        pytest.skip("needs momentum")
    ours, theirs, a, b = pair(name, arguments)
    schedules = [make(torch.optim.lr_scheduler, optimizer) for optimizer in (ours, theirs)]
    for t in range(15):
        drive(1, ours, theirs, seed=t)
        for schedule in schedules:
            schedule.step()
        assert ours.param_groups[0]["lr"] == theirs.param_groups[0]["lr"]
    assert_equal(a, b)


def test_reduce_on_plateau():
    optimizer = pt.Adam(parameters(), lr=0.1)
    schedule = pt.lr_scheduler.ReduceLROnPlateau(optimizer, patience=1)
    for _ in range(4):
        drive(1, optimizer)
        schedule.step(1.0)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.01)


def test_options_that_change_between_steps():
    ours, theirs, a, b = pair("Adam", {"lr": torch.tensor(0.01), "betas": (0.9, 0.99)})
    drive(3, ours, theirs)
    for optimizer in (ours, theirs):
        group = optimizer.param_groups[0]
        group["lr"].fill_(0.05)
        group["betas"] = (0.5, 0.99)
        group["weight_decay"] = 0.2
        group["maximize"] = True
    drive(3, ours, theirs)
    ours.param_groups[0]["betas"] = [0.7, 0.99]
    theirs.param_groups[0]["betas"] = (0.7, 0.99)
    drive(1, ours, theirs)
    ours.param_groups[0]["betas"][0] = 0.6  # in place
    theirs.param_groups[0]["betas"] = (0.6, 0.99)
    drive(3, ours, theirs)
    ours.param_groups[0]["lr"] = theirs.param_groups[0]["lr"] = 0.0
    ours.param_groups[0]["eps"] = theirs.param_groups[0]["eps"] = 0.0
    drive(3, ours, theirs)
    assert_equal(a, b)


def test_a_method_may_change_between_steps():
    optimizer = pt.RMSprop(params := parameters())
    drive(2, optimizer)
    optimizer.param_groups[0]["momentum"] = 0.9
    drive(2, optimizer)
    assert optimizer.state[params[0]]["momentum_buffer"].abs().max() > 0


def test_closure():
    ours, theirs, a, b = pair("Adam", {"lr": 0.1})

    def closure(optimizer, params):
        def run():
            optimizer.zero_grad()
            loss = sum((p**2).sum() for p in params)
            loss.backward()
            return loss

        return run

    for _ in range(3):
        with torch.no_grad():
            losses = [optimizer.step(closure(optimizer, params)) for optimizer, params in ((ours, a), (theirs, b))]
        assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-12)
    assert_equal(a, b)


def test_a_model_is_trained_alike():
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, 3)
    )
    X, y = torch.randn(30, 1, 8, 8), torch.randint(3, (30,))
    for name in ("Adam", "SGD", "RMSprop"):
        models = [copy.deepcopy(model), copy.deepcopy(model)]
        optimizers = [
            getattr(m, name)(net.parameters(), lr=0.01) for m, net in zip((pt, torch.optim), models, strict=True)
        ]
        losses = []
        for net, optimizer in zip(models, optimizers, strict=True):
            for _ in range(20):
                optimizer.zero_grad()
                loss = torch.nn.functional.cross_entropy(net(X), y)
                loss.backward()
                optimizer.step()
            losses.append(loss.item())
        assert losses[0] == pytest.approx(losses[1], rel=1e-9)
        assert losses[0] < 1.0
