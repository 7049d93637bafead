"""Every class of popgrad.torch against torch.optim or popgrad.optim, and what users of PyTorch do with an optimizer."""

from __future__ import annotations

import copy
import gc
import inspect
import io
import pickle
import subprocess
import sys
import weakref

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from torch.optim.optimizer import register_optimizer_step_post_hook  # noqa: E402

import popgrad as pg  # noqa: E402
import popgrad.torch as pt  # noqa: E402
from popgrad import optim  # noqa: E402
from popgrad.torch import _tensors, additional  # noqa: E402

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
    state, optimizer = same.init(flat, [p.shape for p in params]), getattr(pt, name)(params, **arguments)
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


# --- Layouts ---------------------------------------------------------------------------------------------------------


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


# --- Errors ----------------------------------------------------------------------------------------------------------


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
    with pytest.raises(pg.InputError, match=r"\[Adam\] the state exp_avg of a parameter of shape \(5, 7\) is \(3,\)"):
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
        ("SGD", {"nesterov": True}, "nesterov needs a momentum"),
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


# --- What PyTorch does around a step ---------------------------------------------------------------------------------


def test_hooks():
    seen = []
    optimizer = pt.Adam(parameters())
    handles = [
        optimizer.register_step_pre_hook(lambda o, args, kwargs: seen.append("before")),
        optimizer.register_step_post_hook(lambda o, args, kwargs: seen.append(o.state[o.param_groups[0]["params"][0]])),
        optimizer.register_state_dict_post_hook(lambda o, state: state | {"more": 1}),
    ]
    drive(1, optimizer)
    assert seen[0] == "before"
    assert seen[1]["step"] == 1
    assert optimizer.state_dict()["more"] == 1
    for handle in handles:
        handle.remove()
    drive(1, optimizer)
    assert len(seen) == 2
    handle = register_optimizer_step_post_hook(lambda o, args, kwargs: seen.append(args))
    drive(1, optimizer)
    handle.remove()
    assert seen[2] == (optimizer,)


def test_profiler_shows_the_step():
    optimizer = pt.Adam(parameters())
    with torch.profiler.profile() as profile:
        drive(1, optimizer)
    assert "Optimizer.step#Adam.step" in {event.key for event in profile.key_averages()}


@pytest.mark.filterwarnings("ignore")
def test_inside_a_compiled_function():
    models = [torch.nn.Linear(3, 2)]
    models.append(copy.deepcopy(models[0]))
    optimizers = [
        module.Adam(model.parameters(), lr=0.1) for module, model in zip((pt, torch.optim), models, strict=True)
    ]

    def train(x):
        optimizers[0].zero_grad()
        loss = (models[0](x) ** 2).mean()
        loss.backward()
        optimizers[0].step()
        return loss

    compiled, x = torch.compile(train, backend="eager"), torch.ones(4, 3)
    for _ in range(3):
        compiled(x)
        optimizers[1].zero_grad()
        (models[1](x) ** 2).mean().backward()
        optimizers[1].step()
    assert_equal(models[0].parameters(), list(models[1].parameters()))
    assert_same_state(*optimizers)


def test_autograd_notices():
    w = torch.nn.Parameter(torch.ones(3))
    optimizer = pt.SGD([w])
    loss = (w**2).sum()
    loss.backward(retain_graph=True)
    optimizer.step()
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_zero_grad_to_none_and_to_zero():
    optimizer = pt.SGD(params := parameters(), lr=0.1)
    for set_to_none in (True, False, True):
        optimizer.zero_grad(set_to_none=set_to_none)
        sum((p**2).sum() for p in params).backward()
        optimizer.step()
    for p, first in zip(params, parameters(), strict=True):
        torch.testing.assert_close(p.detach(), first.detach() * 0.8**3)


def test_subclass():
    class Noisy(pt.Adam):
        def step(self, closure=None):
            self.calls = getattr(self, "calls", 0) + 1
            return super().step(closure)

    optimizer = Noisy(parameters())
    drive(2, optimizer)
    assert optimizer.calls == 2
    assert "lr: 0.001" in repr(optimizer)


def test_averaged_models_and_clipping():
    model = torch.nn.Linear(3, 1)
    averaged = pt.swa_utils.AveragedModel(model)
    optimizer = pt.AdamW(model.named_parameters())
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.ones(4, 3)).sum().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        averaged.update_parameters(model)
    assert optimizer.state_dict()["param_groups"][0]["param_names"] == ["weight", "bias"]


def test_no_gradient_is_kept_alive():
    optimizer = pt.Adam(params := [torch.nn.Parameter(torch.randn(4, 4).t()), torch.nn.Parameter(torch.randn(4))])
    for p in params:
        p.grad = torch.ones(p.shape)  # the first lies in another way than its parameter
    gradients = [weakref.ref(p.grad) for p in params]
    optimizer.step()
    optimizer.zero_grad()
    assert [g() for g in gradients] == [None, None]
    gc.disable()  # freed as soon as nobody holds it, as PyTorch's: its state is large
    try:
        gone = weakref.ref(optimizer)
        del optimizer
        assert gone() is None
    finally:
        gc.enable()


def test_import_without_torch():
    code = "import sys; sys.modules['torch'] = None; import popgrad; import popgrad.torch"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert 'ImportError: popgrad.torch needs PyTorch: pip install "popgrad[torch]"' in done.stderr
